package ots

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt"
)

// TestReceiptVectors writes every receipt of docs/vectors as a file, and has it verified
// with the headers that belong to it: the file says what the receipt says.
func TestReceiptVectors(t *testing.T) {
	written, refused := 0, 0
	for _, v := range verifications(t) {
		t.Run(v.Name, func(t *testing.T) {
			r, err := receipt.Decode(readFile(t, vectors, v.Receipt))
			if err != nil {
				return // no receipt
			}
			refuted := receipt.Verify(receipt.Input{Digest: r.Digest, Receipt: r}).Existed.Status == receipt.Refuted
			f, err := FromReceipt(r, calendar)
			if refuted {
				refused++
				wantError(t, err, "the receipt is refuted")
				if strings.Contains(err.Error(), r.Digest.String()) {
					t.Error("the error shows the digest")
				}
				return
			}
			if v.Name == "timestamped-most-operations" { // with those from the document they are more than a file may have
				wantError(t, err, errTooDeep.Error())
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			written++
			checkVector(t, v, r, mustParse(t, mustSerialize(t, f)))
		})
	}
	if written < 10 || refused < 10 {
		t.Errorf("%d receipts written, %d refused: the vectors show nothing", written, refused)
	}
}

func checkVector(t *testing.T, v verification, r receipt.Receipt, f DetachedFile) {
	t.Helper()
	digest, err := calpe.ParseDigest(v.Digest)
	if err != nil {
		t.Fatal(err)
	}
	report := Verify(Input{File: f, Digest: digest[:], Headers: chainOf(t, v.Headers, true), Depth: v.Depth})
	got := string(report.Existed.Status)
	if report.Existed.Reason != "" {
		got += " " + string(report.Existed.Reason)
	}
	want := v.Existed
	switch want {
	case "not-yet no-checkpoint", "not-yet no-anchor": // a file doesn't know which
		want = "not-yet pending"
	case "refuted other-network": // nor the network
		want = "not-yet headers-end"
	}
	switch v.Name {
	case "changed-header-time": // the time is that of the chain's header: the file has none
		want = "holds"
	case "timestamped-in-another-network": // which the file doesn't name
		want = "holds"
	}
	if got != want {
		t.Errorf("the file: %s, the receipt: %s", got, v.Existed)
	}
	if report.Existed.Status == receipt.Holds {
		height := heightOf(r)
		h, _ := chainOf(t, v.Headers, true).At(height)
		if b := report.Block; b == nil || b.Height != height || b.Hash != calpe.BlockHash(h.Hash) || !b.Test {
			t.Errorf("block %+v", b)
		}
	}
}

func heightOf(r receipt.Receipt) int {
	if r.Timestamp != nil {
		return int(r.Timestamp.Height)
	}
	return int(r.Anchor.Height)
}

func opCount(f DetachedFile) (ops, forks int) {
	for n := f.timestamp.root; len(n.steps) > 0; n = n.steps[0].next {
		ops++
		forks += len(n.steps) + len(n.attestations) - 1
	}
	return ops, forks
}

// TestLargest: a file stays small, in one line, and within what every reader
// takes, whatever the sizes of log and block.
func TestLargest(t *testing.T) {
	const billion = 1_000_000_000
	for name, c := range map[string]struct {
		index, size uint64
		levels      int
		position    uint32
		most        int // bytes
	}{
		"first of one":        {0, 1, 1, 1, 600},
		"billion, first":      {0, billion, 16, 1, 3000},
		"billion, last":       {billion - 1, billion, 16, 65_535, 3000},
		"billion, middle":     {billion/2 + 1, billion, 16, 40_000, 3000},
		"largest log, first":  {0, calpe.MaxLogSize, 32, 1, 3000},
		"largest log, last":   {calpe.MaxLogSize - 1, calpe.MaxLogSize, 32, 1<<32 - 1, 3000},
		"largest, first half": {1<<39 - 1, calpe.MaxLogSize, 32, 1 << 31, 3000},
	} {
		t.Run(name, func(t *testing.T) {
			m := makeReceipt(t, c.index, c.size, c.levels, c.position, 0)
			f := mustFromReceipt(t, m.Receipt)
			data := mustSerialize(t, f)
			ops, forks := opCount(f)
			if len(data) > c.most || ops > MaxDepth || forks != 0 {
				t.Errorf("%d bytes, %d operations, %d forks", len(data), ops, forks)
			}
			t.Logf("%d bytes, %d operations", len(data), ops)
			r := Verify(Input{File: mustParse(t, data), Digest: m.Digest[:], Headers: m.chain})
			if r.Existed.Status != receipt.Holds || r.Block.Height != 1 {
				t.Errorf("%+v", r.Existed)
			}
			for n := f.timestamp.root; len(n.steps) > 0; n = n.steps[0].next {
				if tag := n.steps[0].op.Tag; tag != SHA256 && tag != Append && tag != Prepend {
					t.Errorf("%s, which not every reader knows", tag)
				}
			}
		})
	}
}

// A transaction must be one message.
func TestLargeTransaction(t *testing.T) {
	small := makeReceipt(t, 3, 7, 4, 5, 0)
	room := MaxMessage - len(small.anchor.Tx) - 2 // the script's length takes two bytes more
	if f := mustFromReceipt(t, makeReceipt(t, 3, 7, 4, 5, room).Receipt); len(mustSerialize(t, f)) < MaxMessage {
		t.Error("the largest transaction isn't in the file")
	}
	_, err := FromReceipt(makeReceipt(t, 3, 7, 4, 5, room+1).Receipt, "")
	wantError(t, err, "write receipt of entry 3", "a message of 4097 bytes, more than 4096")
}

// Before there is an anchor, a file waits at the entry's 40 bytes, and is
// upgraded to just what a receipt with the anchor gives, plus the calendar.
func TestPendingReceipt(t *testing.T) {
	m := makeReceipt(t, 5, 9, 3, 6, 0)
	early := m.Receipt
	early.Anchor = nil
	if _, err := FromReceipt(early, ""); !errors.Is(err, ErrNotAnchored) {
		t.Errorf("nowhere to ask: %v", err)
	}
	_, err := FromReceipt(early, "https://a?b")
	wantError(t, err, "entry 5", "calendar URI")
	f := mustFromReceipt(t, early)
	entry := m.entry.Bytes()
	for message, uri := range f.Timestamp().Pending() {
		if !bytes.Equal(message, entry[:]) || uri != calendar {
			t.Errorf("pending at %s: %x, want %x", uri, message, entry)
		}
	}
	answer, err := Complete(m.entry, m.Path, m.anchor)
	if err != nil {
		t.Fatal(err)
	}
	data := mustWrite(t, answer)
	if answer, err = ParseTimestamp(entry[:], data); err != nil || len(data) > MaxAnswer {
		t.Fatalf("%d bytes: %v", len(data), err)
	}
	up, err := f.Upgrade(answer)
	if err != nil {
		t.Fatal(err)
	}
	final := mustFromReceipt(t, m.Receipt)
	merged, err := f.Merge(final)
	if err != nil || !bytes.Equal(mustSerialize(t, merged), mustSerialize(t, up)) {
		t.Errorf("merged with the final file it is something else than upgraded: %v", err)
	}
	r := Verify(Input{File: up, Digest: m.Digest[:], Headers: m.chain})
	if r.Existed.Status != receipt.Holds || len(r.Results) != 2 {
		t.Errorf("%+v", r)
	}
	// Reference and JavaScript clients look no further than the first attestation.
	if got := pendingOf(up.Timestamp()); len(got) != 0 {
		t.Errorf("still pending: %q", got)
	}
}

// A calendar takes any message of an OpenTimestamps client, not only digests.
func TestStamp(t *testing.T) {
	salt := calpe.Salt{1, 2, 3}
	for _, message := range []string{"", "x", zeroDigest, strings.Repeat("m", 64)} {
		ts, err := Stamp([]byte(message), salt, 1<<33, calendar)
		if err != nil {
			t.Fatal(err)
		}
		back, err := ParseTimestamp([]byte(message), mustWrite(t, ts))
		if err != nil {
			t.Fatal(err)
		}
		commitment := applied(t, Op{Tag: SHA256}, append([]byte(message), salt[:]...))
		want := calpe.Entry{Index: 1 << 33, Commitment: calpe.Commitment(commitment)}.Bytes()
		for got, a := range back.All() {
			if uri, ok := a.Calendar(); !ok || uri != calendar || !bytes.Equal(got, want[:]) {
				t.Errorf("%x %s, want %x", got, a, want)
			}
		}
	}
	_, err := Stamp(nil, salt, 7, "")
	wantError(t, err, "stamp entry 7", "URI is empty")
	_, err = Stamp(make([]byte, MaxMessage), salt, 7, calendar)
	wantError(t, err, "a message of 4112 bytes")
}

func TestCompleteRefuses(t *testing.T) {
	good := makeReceipt(t, 5, 9, 3, 6, 0)
	for name, c := range map[string]struct {
		edit func(m *made)
		want string
	}{
		"another entry":       {func(m *made) { m.entry.Commitment[0] ^= 1 }, "root does not match"},
		"another index":       {func(m *made) { m.entry.Index = 4 }, "root does not match"},
		"index beyond":        {func(m *made) { m.entry.Index = 9 }, "index 9 is not below size 9"},
		"short path":          {func(m *made) { m.Path = m.Path[1:] }, "path has 3 hashes"},
		"too large a log":     {func(m *made) { m.anchor.Size = calpe.MaxLogSize + 1 }, "above"},
		"another transaction": {func(m *made) { m.anchor.Tx = m.anchor.Tx[:50] }, "the transaction doesn't hold the payload"},
		"no transaction":      {func(m *made) { m.anchor.Tx = nil }, "doesn't hold the payload"},
		"longer transaction":  {func(m *made) { m.anchor.Tx = append(bytes.Clone(m.anchor.Tx), 0) }, "the branch leads to the root"},
		"another position":    {func(m *made) { m.anchor.Position ^= 1 }, "the branch leads to the root"},
		"another branch":      {func(m *made) { m.anchor.Branch = m.anchor.Branch[1:] }, "the branch leads to the root"},
		"endless branch":      {func(m *made) { m.anchor.Branch = make([]calpe.BlockHash, 100) }, "the branch leads to the root"},
		"another header":      {func(m *made) { m.anchor.Header[40] ^= 1 }, "the branch leads to the root"},
		"large transaction":   {func(m *made) { m.anchor.Tx = append(bytes.Clone(m.anchor.Tx), make([]byte, MaxMessage)...) }, "want 1 to 4096"},
	} {
		t.Run(name, func(t *testing.T) {
			m := good
			c.edit(&m)
			_, err := Complete(m.entry, m.Path, m.anchor)
			wantError(t, err, "complete entry", c.want)
		})
	}
	if _, err := Complete(good.entry, good.Path, good.anchor); err != nil {
		t.Error(err)
	}
}

// A block with one transaction more than the coinbase, and payloads that stand at
// the very end of what is before the lock time or behind much else.
func TestCompleteShapes(t *testing.T) {
	for _, levels := range []int{1, 2, 7, 20} {
		for position := uint32(1); position < 1<<levels && position < 20; position++ {
			m := makeReceipt(t, uint64(position)%5, 5, levels, position, int(position)*7)
			ts, err := Complete(m.entry, m.Path, m.anchor)
			if err != nil {
				t.Fatal(err)
			}
			if r := Check(ts, m.chain, 0); len(r) != 1 || r[0].Status != receipt.Holds {
				t.Errorf("%d levels, position %d: %+v", levels, position, r)
			}
		}
	}
	// A transaction that ends with the payload, as none does: nothing to append.
	m := makeReceipt(t, 0, 1, 1, 1, 0)
	payload := m.anchor.Payload.Bytes()
	m.anchor.Tx, m.anchor.Branch = append([]byte("prefix"), payload[:]...), nil
	root := doubleHash(m.anchor.Tx)
	copy(m.anchor.Header[36:], root[:])
	if _, err := Complete(m.entry, m.Path, m.anchor); err != nil {
		t.Error(err)
	}
}
