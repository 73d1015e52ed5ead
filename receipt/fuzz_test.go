package receipt

import (
	"bytes"
	"testing"

	"github.com/calpe/calpe"
	"github.com/google/go-cmp/cmp"
)

// FuzzDecodeReceipt: what is a receipt has one meaning and one text.
func FuzzDecodeReceipt(f *testing.F) {
	for _, v := range newWorld(f, testOrigin).verifications() {
		if len(v.Receipt) <= maxVectorFile {
			f.Add([]byte(v.Receipt))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Decode(data)
		if err != nil {
			return
		}
		text, err := r.Encode()
		if err != nil {
			if len(data) > MaxSize/4 {
				return // indented it may be above the limit
			}
			t.Fatalf("decoded, but not encoded: %v", err)
		}
		again, err := Decode(text)
		if err != nil {
			t.Fatal(err)
		}
		if text2, err := again.Encode(); err != nil || !bytes.Equal(text, text2) {
			t.Fatalf("two texts:\n%s\n%s\n%v", text, text2, err)
		}
	})
}

// FuzzVerify: no bytes make a document exist that the receipt isn't about, and
// none make the verifier panic.
func FuzzVerify(f *testing.F) {
	w := newWorld(f, testOrigin)
	for _, v := range w.verifications() {
		if len(v.Receipt) <= maxVectorFile {
			f.Add([]byte(v.Receipt))
		}
	}
	known := map[calpe.Digest]bool{}
	for _, d := range w.digests {
		known[d] = true
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Decode(data)
		if err != nil {
			return
		}
		report := Verify(w.input(r))
		if holds := report.Existed.Status == Holds || report.InLog.Status == Holds; holds && !known[r.Digest] {
			t.Fatalf("a document that never was in the log: %+v", report)
		}
		Verify(Input{Digest: r.Digest, Receipt: r})
		other := r.Digest
		other[0] ^= 1
		for _, v := range []Verdict{Verify(Input{Digest: other, Receipt: r, Identity: &w.id}).Existed} {
			if v.Status != Refuted || v.Reason != ReasonOtherDocument {
				t.Fatalf("another document: %+v", v)
			}
		}
	})
}

// FuzzParseIdentity: what is an identity has one hash.
func FuzzParseIdentity(f *testing.F) {
	id := newIdentity(f, testOrigin)
	f.Add(id.Canonical())
	id.FirstOutpoint = nil
	f.Add(id.Canonical())
	f.Fuzz(func(t *testing.T, data []byte) {
		id, err := ParseIdentity(data)
		if err != nil {
			return
		}
		again, err := ParseIdentity(id.Canonical())
		if err != nil || again.Hash() != id.Hash() {
			t.Fatalf("read again: %v", err)
		}
		for _, verifiers := range []func() error{
			func() error { _, err := id.CheckpointVerifiers(); return err },
			func() error { _, err := id.AcknowledgementVerifiers(); return err },
		} {
			if err := verifiers(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// FuzzOpenCheckpoint: whatever opens says what the key has signed.
func FuzzOpenCheckpoint(f *testing.F) {
	w := newWorld(f, testOrigin)
	f.Add(w.checkpointNote(anchoredSize))
	for _, e := range noteEdits() {
		f.Add([]byte(w.edited(e)))
	}
	truth, err := OpenCheckpoint(w.checkpointNote(anchoredSize), w.id)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		origin, read, readErr := ReadCheckpoint(data)
		opened, err := OpenCheckpoint(data, w.id)
		if err != nil {
			return
		}
		if readErr != nil || origin != testOrigin || read.Size != opened.Size || read.Root != opened.Root {
			t.Fatalf("opened %+v, read %+v, %v", opened, read, readErr)
		}
		if opened.Size != truth.Size || opened.Root != truth.Root {
			t.Fatalf("the key never signed %+v", opened)
		}
	})
}

// FuzzOpenAcknowledgement: whatever opens says what the key has signed.
func FuzzOpenAcknowledgement(f *testing.F) {
	w := newWorld(f, testOrigin)
	f.Add(w.acknowledgementNote())
	for _, e := range noteEdits() {
		f.Add([]byte(w.edited(e)))
	}
	truth, err := OpenAcknowledgement(w.acknowledgementNote(), w.id)
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		read, readErr := ReadAcknowledgement(data)
		opened, err := OpenAcknowledgement(data, w.id)
		if err == nil && (readErr != nil || read != opened || opened != truth) {
			t.Fatalf("the key never signed %+v; read %+v, %v", opened, read, readErr)
		}
	})
}

// FuzzParseTransaction: what we read, btcd reads in the same way.
func FuzzParseTransaction(f *testing.F) {
	f.Add(mustHex(f, tx170))
	f.Add(mustHex(f, genesisCoinbase))
	for _, tx := range newWorld(f, testOrigin).blockTxs {
		f.Add(tx)
	}
	f.Fuzz(func(t *testing.T, raw []byte) { compareWithBtcd(t, raw) })
}

// FuzzDecodeAnchors: what is a page of anchors has one meaning.
func FuzzDecodeAnchors(f *testing.F) {
	for _, v := range newWorld(f, testOrigin).verifications() {
		if r, err := Decode([]byte(v.Receipt)); err == nil && r.Anchor != nil && len(v.Receipt) <= maxVectorFile {
			if page, err := EncodeAnchors([]Anchor{*r.Anchor}); err == nil {
				f.Add(page)
			}
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		page, err := DecodeAnchors(data)
		if err != nil {
			return
		}
		text, err := EncodeAnchors(page)
		if err != nil {
			t.Fatalf("decoded, but not encoded: %v", err)
		}
		again, err := DecodeAnchors(text)
		if err != nil || !cmp.Equal(page, again) {
			t.Fatalf("two meanings: %v", err)
		}
		for i := range page {
			if l, err := page[i].Link(); err == nil && len(l.Inputs)*len(l.Outputs) == 0 {
				t.Fatal("a link without inputs or outputs")
			}
		}
	})
}
