package ots

import (
	"bytes"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/calpe/calpe/receipt"
)

func addFiles(f *testing.F, skip int) {
	f.Helper()
	names, err := filepath.Glob("testdata/peer/*.ots")
	if err != nil || len(names) == 0 {
		f.Fatalf("%d files, %v", len(names), err)
	}
	for _, name := range names {
		f.Add(readFile(f, name)[skip:])
	}
	for _, s := range samples(f) {
		f.Add(s.data[skip:])
	}
	f.Add(otsFile("\x08\xff" + block(1) + pendingAt("https://a") + "")[skip:])
	f.Add(otsFile("\xff\x08" + block(1) + "\x08\xff" + block(2) + block(1))[skip:])
}

// FuzzParse: what can be read has one text, isn't longer in it, merges with
// itself to itself, and holds for no document that wasn't in the block.
func FuzzParse(f *testing.F) {
	addFiles(f, 0)
	known := samples(f)
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse(data)
		if err != nil {
			return
		}
		text := mustSerialize(t, file)
		if len(text) > len(data) {
			t.Fatalf("%d bytes became %d", len(data), len(text))
		}
		if again := mustSerialize(t, mustParse(t, text)); !bytes.Equal(text, again) {
			t.Fatalf("two texts:\n%x\n%x", text, again)
		}
		merged, err := file.Merge(file)
		if err != nil || !bytes.Equal(mustSerialize(t, merged), text) {
			t.Fatalf("merged with itself it is another: %v", err)
		}
		for _, s := range known {
			s.check(t, file)
		}
		var b strings.Builder
		if err := file.WriteText(&b); err != nil {
			t.Fatal(err)
		}
		if i := strings.IndexFunc(b.String(), func(r rune) bool { return r != '\n' && (r < ' ' || r > '~') }); i >= 0 {
			t.Fatalf("shown to people: %q", b.String()[i:])
		}
	})
}

// FuzzUpgrade: whatever a calendar answers, the file stays one, keeps what was
// in it, and the same answer changes nothing more.
func FuzzUpgrade(f *testing.F) {
	addFiles(f, 65)
	m := makeReceipt(f, 3, 7, 3, 5, 0)
	early := m.Receipt
	early.Anchor = nil
	file, err := FromReceipt(early, calendar)
	if err != nil {
		f.Fatal(err)
	}
	answer, err := Complete(m.entry, m.Path, m.anchor)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(mustWrite(f, answer))
	entry := m.entry.Bytes()
	f.Fuzz(func(t *testing.T, data []byte) {
		answer, err := ParseTimestamp(entry[:], data)
		if err != nil {
			return
		}
		up, err := file.Upgrade(answer)
		if err != nil {
			if answer.root.height()+3 <= MaxDepth {
				t.Fatal(err)
			}
			return
		}
		text := mustSerialize(t, up)
		if !bytes.Equal(mustSerialize(t, mustParse(t, text)), text) {
			t.Fatalf("two texts of %x", text)
		}
		all := listing(up.Timestamp())
		for line := range strings.Lines(listing(file.Timestamp()) + listing(answer)) {
			if !strings.Contains(all, line) {
				t.Fatalf("%q got lost:\n%s", line, all)
			}
		}
		// An answer that waits for itself grows each time.
		if len(slices.Collect(messagesOf(answer))) == 0 {
			if again, err := up.Upgrade(answer); err != nil || !bytes.Equal(mustSerialize(t, again), text) {
				t.Fatalf("the same answer again: %v", err)
			}
		}
		if r := Verify(Input{File: up, Digest: m.Digest[:], Headers: m.chain}); r.Existed.Status == receipt.Holds && r.Block.Height != 1 {
			t.Fatalf("%+v", r)
		}
	})
}

// messagesOf are the messages that wait below the timestamp's own.
func messagesOf(ts Timestamp) func(func(string) bool) {
	return func(yield func(string) bool) {
		for message, a := range ts.All() {
			if _, ok := a.Calendar(); ok && string(message) == ts.message && !yield(string(message)) {
				return
			}
		}
	}
}

// FuzzFromReceipt: what a receipt's file says, the receipt says.
func FuzzFromReceipt(f *testing.F) {
	for _, name := range []string{"anchored", "certified", "checkpointed", "received", "changed-branch", "last-transaction"} {
		f.Add(readFile(f, vectors, "receipts", name+".json"))
	}
	chain := chainOf(f, "headers", false)
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := receipt.Decode(data)
		if err != nil {
			return
		}
		file, err := FromReceipt(r, calendar)
		if err != nil {
			return
		}
		if text := mustSerialize(t, file); !bytes.Equal(text, mustSerialize(t, mustParse(t, text))) {
			t.Fatalf("two texts of %x", text)
		}
		got := Verify(Input{File: file, Digest: r.Digest[:], Headers: chain})
		want := receipt.Verify(receipt.Input{Digest: r.Digest, Receipt: r, Headers: chain})
		if want.Existed.Status == receipt.Holds && got.Existed.Status != receipt.Holds {
			t.Fatalf("the receipt holds, the file: %+v", got.Existed)
		}
		if got.Existed.Status == receipt.Holds && got.Block.Height != int(r.Anchor.Height) {
			t.Fatalf("another block: %+v", got.Block)
		}
	})
}

// FuzzOp: an operation gives what its limits allow, or an error.
func FuzzOp(f *testing.F) {
	f.Add(byte(Append), []byte("x"), []byte("message"))
	f.Add(byte(Hexlify), []byte(nil), []byte("message"))
	f.Add(byte(Keccak256), []byte(nil), []byte(nil))
	f.Fuzz(func(t *testing.T, tag byte, arg, message []byte) {
		op := Op{Tag(tag), string(arg)}
		result, err := op.Apply(message)
		if err != nil {
			return
		}
		if len(result) == 0 || len(result) > MaxMessage {
			t.Fatalf("%s makes %d bytes of %d", op, len(result), len(message))
		}
		ts := mustMake(t, string(message), []Op{op}, BitcoinBlock(1))
		if len(mustWrite(t, ts)) > MaxAnswer {
			return
		}
		again, err := ParseTimestamp(message, mustWrite(t, ts))
		if err != nil || listing(again) != listing(ts) {
			t.Fatalf("read again: %v", err)
		}
		for got := range again.All() {
			if !bytes.Equal(got, result) {
				t.Fatalf("%x, applied %x", got, result)
			}
		}
	})
}
