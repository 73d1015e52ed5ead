package calpe_test

import (
	"bytes"
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
)

func seq(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i + 1)
	}
	return b
}

func TestCommitIsDigestThenSalt(t *testing.T) {
	d, s := calpe.Digest(seq(32)), calpe.Salt(seq(16))
	want := sha256.Sum256(append(seq(32), seq(16)...))
	if got := calpe.Commit(d, s); got != calpe.Commitment(want) {
		t.Errorf("Commit = %v, want %x", got, want)
	}
}

func TestEntryBytes(t *testing.T) {
	e := calpe.Entry{Index: 0x0102030405060708, Commitment: calpe.Commitment(seq(32))}
	b := e.Bytes()
	if want := append([]byte{1, 2, 3, 4, 5, 6, 7, 8}, seq(32)...); !bytes.Equal(b[:], want) {
		t.Fatalf("Bytes = %x, want %x", b, want)
	}
	got, err := calpe.ParseEntry(b[:])
	if err != nil || got != e {
		t.Errorf("ParseEntry = %v, %v; want %v", got, err, e)
	}
	for _, n := range []int{0, 39, 41} {
		if _, err := calpe.ParseEntry(make([]byte, n)); err == nil {
			t.Errorf("ParseEntry took %d bytes", n)
		}
	}
}

func TestPayload(t *testing.T) {
	p := calpe.Payload{Size: 0x0102030405, Root: calpe.Hash(seq(32))}
	want := append([]byte("CLP\x01\x02\x03\x04\x05"), seq(32)...)
	if b := p.Bytes(); !bytes.Equal(b[:], want) {
		t.Fatalf("Bytes = %x, want %x", b, want)
	}
	script := p.Script()
	if len(script) != 42 || script[0] != 0x6a || script[1] != 0x28 {
		t.Errorf("Script = %x: not OP_RETURN and a push of 40 bytes", script)
	}
	if got, err := calpe.ParsePayloadScript(script); err != nil || got != p {
		t.Errorf("ParsePayloadScript = %v, %v; want %v", got, err, p)
	}
	for name, bad := range map[string][]byte{
		"empty": {}, "short": script[:41], "long": append(bytes.Clone(script), 0),
		"PUSHDATA1": append([]byte{0x6a, 0x4c, 40}, want...)[:42],
		"tag":       append([]byte{0x6a, 0x28, 'c'}, want[1:]...),
	} {
		if _, err := calpe.ParsePayloadScript(bad); err == nil {
			t.Errorf("%s: ParsePayloadScript took %x", name, bad)
		}
	}
}

func TestPayloadRefusesImpossibleSize(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("Bytes wrote a size that its 5 bytes can't hold")
		}
	}()
	calpe.Payload{Size: calpe.MaxLogSize + 1}.Bytes()
}

// Each text form has one spelling, and reads back as what was written.
func TestTextForms(t *testing.T) {
	type text interface {
		encoding.TextMarshaler
		fmt.Stringer
	}
	hex32 := hex.EncodeToString(seq(32))
	reversed := "201f1e1d1c1b1a191817161514131211100f0e0d0c0b0a090807060504030201"
	for _, c := range []struct {
		value text
		into  encoding.TextUnmarshaler
		want  string
	}{
		{calpe.Hash(seq(32)), new(calpe.Hash), hex32},
		{calpe.Digest(seq(32)), new(calpe.Digest), hex32},
		{calpe.Commitment(seq(32)), new(calpe.Commitment), hex32},
		{calpe.Salt(seq(16)), new(calpe.Salt), hex32[:32]},
		{calpe.BlockHash(seq(32)), new(calpe.BlockHash), reversed},
		{calpe.Outpoint{TxID: calpe.BlockHash(seq(32)), Vout: 7}, new(calpe.Outpoint), reversed + ":7"},
		{calpe.Final, new(calpe.State), "final"},
	} {
		b, err := c.value.MarshalText()
		if err != nil || string(b) != c.want || c.value.String() != c.want {
			t.Errorf("%T: text %q, %v; want %q", c.value, b, err, c.want)
		}
		if err := c.into.UnmarshalText(b); err != nil {
			t.Errorf("%T: %v", c.value, err)
		}
		if diff := cmp.Diff(fmt.Sprint(c.value), fmt.Sprint(c.into)); diff != "" {
			t.Errorf("%T doesn't read back what it writes: %s", c.value, diff)
		}
		for _, bad := range []string{"", c.want + "x", c.want[1:], strings.ToUpper(c.want), " " + c.want[1:]} {
			if err := c.into.UnmarshalText([]byte(bad)); err == nil {
				t.Errorf("%T took %q", c.into, bad)
			}
		}
	}
}

func TestOutpointHasOneSpelling(t *testing.T) {
	h := strings.Repeat("ab", 32)
	for _, bad := range []string{h, h + ":", h + ":+1", h + ":01", h + ":-1", h + ":4294967296", h + ":1:1"} {
		if o, err := calpe.ParseOutpoint(bad); err == nil {
			t.Errorf("ParseOutpoint(%q) = %v", bad, o)
		}
	}
}

func TestStateFollowsFromWatermarks(t *testing.T) {
	w := calpe.Watermarks{Next: 50, Checkpointed: 40, Broadcast: 30, Confirmed: 20, Final: 10}
	for _, c := range []struct {
		index uint64
		want  calpe.State
	}{
		{0, calpe.Final}, {9, calpe.Final}, {10, calpe.Confirmed}, {20, calpe.Broadcast},
		{30, calpe.Checkpointed}, {40, calpe.Received}, {49, calpe.Received},
	} {
		if got, ok := w.State(c.index); !ok || got != c.want {
			t.Errorf("State(%d) = %v, %v; want %v", c.index, got, ok, c.want)
		}
	}
	if got, ok := w.State(50); ok {
		t.Errorf("State(50) = %v for an entry that doesn't exist", got)
	}
}

func TestStateNames(t *testing.T) {
	for s := calpe.Received; s <= calpe.Final; s++ {
		if got, err := calpe.ParseState(s.String()); err != nil || got != s {
			t.Errorf("ParseState(%q) = %v, %v", s, got, err)
		}
	}
	if _, err := calpe.State(0).MarshalText(); err == nil {
		t.Error("the zero State has a text")
	}
	if got := calpe.State(99).String(); got != "State(99)" {
		t.Errorf("State(99).String() = %q", got)
	}
}

func TestParseNetwork(t *testing.T) {
	for name, want := range map[string]calpe.Network{
		"mainnet": calpe.Mainnet, "main": calpe.Mainnet, "test": calpe.Testnet3, "testnet4": calpe.Testnet4,
		"signet": calpe.Signet, "regtest": calpe.Regtest, "simnet": calpe.Simnet,
	} {
		if got, err := calpe.ParseNetwork(name); err != nil || got != want {
			t.Errorf("ParseNetwork(%q) = %q, %v; want %q", name, got, err, want)
		}
	}
	if _, err := calpe.ParseNetwork("Mainnet"); err == nil {
		t.Error("ParseNetwork took another spelling")
	}
	if calpe.Mainnet.IsTest() || !calpe.Testnet4.IsTest() {
		t.Error("IsTest is wrong about mainnet or testnet4")
	}
}

func TestErrorCode(t *testing.T) {
	cause := errors.New("cause")
	err := &calpe.Error{Code: calpe.CodeTooLarge, Message: "too large", Err: cause}
	wrapped := fmt.Errorf("upload: %w", err)
	if got := calpe.ErrorCode(wrapped); got != calpe.CodeTooLarge {
		t.Errorf("ErrorCode = %q", got)
	}
	if got := calpe.ErrorCode(cause); got != calpe.CodeInternal {
		t.Errorf("ErrorCode of a foreign error = %q", got)
	}
	if !errors.Is(wrapped, cause) || err.Error() != "too large: cause" {
		t.Errorf("Error = %q, or it hides its cause", err)
	}
	if got := calpe.Errorf(calpe.CodeNotFound, "no %s", "x").Error(); got != "no x" {
		t.Errorf("Errorf = %q", got)
	}
}

func FuzzParseEntryAndPayload(f *testing.F) {
	f.Add(seq(40))
	f.Add(append([]byte("CLP"), seq(37)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, err := calpe.ParseEntry(b); err == nil {
			if got := e.Bytes(); !bytes.Equal(got[:], b) {
				t.Errorf("entry %x reads back as %x", b, got)
			}
		}
		if p, err := calpe.ParsePayload(b); err == nil {
			if got := p.Bytes(); !bytes.Equal(got[:], b) {
				t.Errorf("payload %x reads back as %x", b, got)
			}
		}
	})
}
