package ots

import (
	"bytes"
	"strings"
	"testing"
)

// The hashes of nothing are those of the hashes' own publications.
func TestApply(t *testing.T) {
	for _, c := range []struct {
		op            Op
		message, want string // hexadecimal
		text          string
	}{
		{Op{Tag: SHA1}, "", "da39a3ee5e6b4b0d3255bfef95601890afd80709", "sha1"},
		{Op{Tag: RIPEMD160}, "", "9c1185a5c5e9fc54612808977ee8f548b2258d31", "ripemd160"},
		{Op{Tag: SHA256}, "", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", "sha256"},
		{Op{Tag: Keccak256}, "", "c5d2460186f7233c927e7db2dcc703c0e500b653ca82273b7bfad8045d85a470", "keccak256"},
		{Op{Tag: SHA256}, "616263", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "sha256"},
		{Op{Append, "\x01\x02"}, "ff", "ff0102", "append 0102"},
		{Op{Append, "\x01"}, "", "01", "append 01"},
		{Op{Prepend, "\x01\x02"}, "ff", "0102ff", "prepend 0102"},
		{Op{Tag: Reverse}, "010203", "030201", "reverse"},
		{Op{Tag: Hexlify}, "0aff", "30616666", "hexlify"},
	} {
		message := mustHex(t, c.message)
		got, err := c.op.Apply(message)
		if err != nil || !bytes.Equal(got, mustHex(t, c.want)) {
			t.Errorf("%s of %s: %x, %v, want %s", c.op, c.message, got, err, c.want)
		}
		if !bytes.Equal(message, mustHex(t, c.message)) {
			t.Errorf("%s changed its message", c.op)
		}
		if c.op.String() != c.text {
			t.Errorf("%q, want %q", c.op, c.text)
		}
		if h := c.op.Tag.NewHash(); h != nil {
			h.Write(message)
			if got := h.Sum(nil); !bytes.Equal(got, mustHex(t, c.want)) {
				t.Errorf("%s of a document: %x", c.op, got)
			}
		}
	}
}

func TestApplyRefuses(t *testing.T) {
	long := strings.Repeat("x", MaxMessage)
	for _, c := range []struct {
		op     Op
		length int
		want   string // empty: it is applied
	}{
		{Op{Tag: SHA256}, MaxMessage, ""},
		{Op{Tag: SHA256}, MaxMessage + 1, "sha256: a message of 4097 bytes, more than 4096"},
		{Op{Tag: Reverse}, MaxMessage, ""},
		{Op{Tag: Reverse}, MaxMessage + 1, "4097"},
		{Op{Tag: Reverse}, 0, "reverse: the message is empty"},
		{Op{Tag: Hexlify}, MaxMessage / 2, ""},
		{Op{Tag: Hexlify}, MaxMessage/2 + 1, "4098"},
		{Op{Tag: Hexlify}, 0, "hexlify: the message is empty"},
		{Op{Append, long}, 0, ""},
		{Op{Append, long}, 1, "4097"},
		{Op{Append, "x"}, MaxMessage - 1, ""},
		{Op{Prepend, "x"}, MaxMessage, "4097"},
		{Op{Append, long + "x"}, 0, "append: argument has 4097 bytes, want 1 to 4096"},
		{Op{Tag: Append}, 1, "append: argument has 0 bytes"},
		{Op{Tag: Prepend}, 1, "prepend: argument has 0 bytes"},
		{Op{SHA256, "x"}, 1, "sha256: it has no argument"},
		{Op{Reverse, "x"}, 1, "reverse: it has no argument"},
		{Op{Tag: 0x09}, 1, "unknown operation 0x09"},
		{Op{}, 1, "unknown operation 0x00"},
		{Op{Tag: 0xff}, 1, "unknown operation 0xff"},
	} {
		got, err := c.op.Apply(make([]byte, c.length))
		if c.want != "" {
			wantError(t, err, c.want)
		} else if err != nil || len(got) == 0 {
			t.Errorf("%s of %d bytes: %v", c.op.Tag, c.length, err)
		}
	}
	if (Tag(0x09)).NewHash() != nil || Append.NewHash() != nil {
		t.Error("what isn't a hash has a hash function")
	}
}

// The trees that calendars make of many digests are declared frozen. Leaf i is 32
// bytes of value i; these are roots that the reference gave.
func TestCalendarTrees(t *testing.T) {
	for n, want := range map[int]string{
		2: "5c85955f709283ecce2b74f1b1552918819f390911816e7bb466805a38ab87f3",
		3: "a7f2fad943905535b10ccf63c832802ed84eaffb15e4fb6bee86a817c35eb833",
		5: "243937fe91b8afccf77951af4e946c993e21cfe134644fad15da302ef093ae68",
		7: "eb094e74c37828f22829f4678d5cc66f4f927ea675078ed54c43d5e21ca61f43",
	} {
		var level [][]byte
		for i := range n {
			level = append(level, bytes.Repeat([]byte{byte(i)}, 32))
		}
		for len(level) > 1 {
			var above [][]byte
			for ; len(level) > 1; level = level[2:] {
				left := applied(t, Op{Append, string(level[1])}, level[0])
				right := applied(t, Op{Prepend, string(level[0])}, level[1])
				if !bytes.Equal(left, right) {
					t.Fatalf("from the left %x, from the right %x", left, right)
				}
				above = append(above, applied(t, Op{Tag: SHA256}, left))
			}
			level = append(above, level...) // an odd one is carried up
		}
		if !bytes.Equal(level[0], mustHex(t, want)) {
			t.Errorf("%d leaves: %x, want %s", n, level[0], want)
		}
	}
}

func applied(t *testing.T, op Op, message []byte) []byte {
	t.Helper()
	result, err := op.Apply(message)
	if err != nil {
		t.Fatal(err)
	}
	return result
}
