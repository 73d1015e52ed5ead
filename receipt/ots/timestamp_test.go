package ots

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

func mustMake(tb testing.TB, message string, ops []Op, a Attestation) Timestamp {
	tb.Helper()
	t, err := NewTimestamp([]byte(message), ops, a)
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

func mustMerge(tb testing.TB, all ...Timestamp) Timestamp {
	tb.Helper()
	t := all[0]
	for _, next := range all[1:] {
		var err error
		if t, err = t.Merge(next); err != nil {
			tb.Fatal(err)
		}
	}
	return t
}

func mustPend(tb testing.TB, uri string) Attestation {
	tb.Helper()
	a, err := PendingAt(uri)
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

func mustWrite(tb testing.TB, t Timestamp) []byte {
	tb.Helper()
	data, err := t.Serialize()
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

func TestNewTimestamp(t *testing.T) {
	ops := func(n int) []Op { return slices.Repeat([]Op{{Tag: SHA256}}, n) }
	large := slices.Repeat([]Op{{Append, strings.Repeat("x", 4000)}, {Tag: SHA256}}, 66)
	for name, c := range map[string]struct {
		message string
		ops     []Op
		a       Attestation
		want    string
	}{
		"no message":         {"", nil, BitcoinBlock(0), ""},
		"longest message":    {strings.Repeat("x", MaxMessage), nil, BitcoinBlock(0), ""},
		"too long a message": {strings.Repeat("x", MaxMessage+1), nil, BitcoinBlock(0), "message has 4097 bytes"},
		"no attestation":     {"x", nil, Attestation{}, "there is no attestation"},
		"deepest":            {"x", ops(MaxDepth), BitcoinBlock(1), ""},
		"too deep":           {"x", ops(MaxDepth + 1), BitcoinBlock(1), "more than 255 operations"},
		"bad operation":      {"x", append(ops(3), Op{Tag: 9}), BitcoinBlock(1), "operation 3: unknown operation 0x09"},
		"too long a result":  {"x", []Op{{Append, strings.Repeat("x", MaxMessage)}}, BitcoinBlock(1), "operation 0: append: a message of 4097 bytes"},
		"too large":          {"x", large, BitcoinBlock(1), fmt.Sprintf("more than %d", MaxSize)},
	} {
		t.Run(name, func(t *testing.T) {
			ts, err := NewTimestamp([]byte(c.message), c.ops, c.a)
			if c.want != "" {
				wantError(t, err, "make timestamp", c.want)
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			again, err := ParseTimestamp([]byte(c.message), mustWrite(t, ts))
			if err != nil || !bytes.Equal(mustWrite(t, again), mustWrite(t, ts)) || string(again.Message()) != c.message {
				t.Errorf("read again: %v", err)
			}
		})
	}
}

func TestParseTimestamp(t *testing.T) {
	if _, err := ParseTimestamp(nil, []byte(block(1))); err != nil {
		t.Error(err)
	}
	full := strings.Repeat("\xff"+attested("12345678", strings.Repeat("x", 1000)), 9) + block(1)
	full += strings.Repeat("x", MaxAnswer-len(full))
	for name, c := range map[string]struct{ message, data, want string }{
		"message":  {strings.Repeat("x", MaxMessage+1), block(1), "message has 4097 bytes"},
		"largest":  {"x", full, "bytes follow the end"}, // it is read
		"larger":   {"x", full + "x", "10001 bytes, more than 10000"},
		"empty":    {"x", "", "at byte 0: the data end too early"},
		"trailing": {"x", block(1) + "\n", "at byte 11: 1 bytes follow"},
	} {
		_, err := ParseTimestamp([]byte(c.message), []byte(c.data))
		if err == nil || !strings.Contains(err.Error(), "read timestamp: ") || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func TestAttestation(t *testing.T) {
	if h, ok := BitcoinBlock(1 << 40).Block(); !ok || h != 1<<40 {
		t.Errorf("height %d, %v", h, ok)
	}
	uri := strings.Repeat("Az09-._/:", 111)
	p := mustPend(t, uri)
	if got, ok := p.Calendar(); !ok || got != uri {
		t.Errorf("calendar %q, %v", got, ok)
	}
	if _, ok := p.Block(); ok {
		t.Error("a pending attestation has a block")
	}
	if _, ok := BitcoinBlock(1).Calendar(); ok {
		t.Error("a block has a calendar")
	}
	if x, again := mustPend(t, "x"), mustPend(t, "x"); x != again || mustPend(t, "x") == mustPend(t, "y") || BitcoinBlock(1) == BitcoinBlock(2) {
		t.Error("equal attestations aren't ==")
	}
	if text, err := BitcoinBlock(7).MarshalText(); string(text) != "Bitcoin block 7" || err != nil {
		t.Errorf("text %q, %v", text, err)
	}
	for uri, want := range map[string]string{
		"": "is empty", "https://a b": "has ' ' as character 9", strings.Repeat("x", 1001): "has 1001 characters",
		"https://[::1]": "has '['", "https://a\x00": `has '\x00'`, "https://a%20": "has '%'",
	} {
		_, err := PendingAt(uri)
		wantError(t, err, want)
	}
}

func TestMerge(t *testing.T) {
	a := mustMake(t, "m", []Op{{Tag: SHA256}}, BitcoinBlock(1))
	b := mustMake(t, "m", []Op{{Tag: SHA256}}, mustPend(t, "https://a"))
	c := mustMake(t, "m", []Op{{Append, "x"}, {Tag: SHA256}}, BitcoinBlock(3))
	d := mustMake(t, "m", []Op{{Tag: SHA256}, {Tag: SHA1}}, BitcoinBlock(2))
	before := listing(a) + listing(b) + listing(c) + listing(d)
	all := []Timestamp{a, b, c, d}
	want := mustWrite(t, mustMerge(t, all...))
	for _, order := range [][]int{{1, 0, 2, 3}, {3, 2, 1, 0}, {2, 0, 0, 3, 1, 1}, {0, 3, 2, 1}} {
		var picked []Timestamp
		for _, i := range order {
			picked = append(picked, all[i])
		}
		if got := mustWrite(t, mustMerge(t, picked...)); !bytes.Equal(got, want) {
			t.Errorf("in order %v\n%x\nwant\n%x", order, got, want)
		}
	}
	if mixed := mustMerge(t, mustMerge(t, a, b), mustMerge(t, c, d)); !bytes.Equal(mustWrite(t, mixed), want) {
		t.Error("pairs of pairs give something else")
	}
	// Each of them is in the result, and only that.
	got := listing(mustMerge(t, all...))
	for _, line := range strings.SplitAfter(before, "\n") {
		if !strings.Contains(got, line) {
			t.Errorf("lost %q", line)
		}
	}
	if len(got) != len(before) {
		t.Errorf("merged:\n%s", got)
	}
	if listing(a)+listing(b)+listing(c)+listing(d) != before {
		t.Error("merging changed its arguments")
	}
}

func TestMergeRefuses(t *testing.T) {
	a := mustMake(t, "m", nil, BitcoinBlock(1))
	if _, err := a.Merge(mustMake(t, "n", nil, BitcoinBlock(1))); !errors.Is(err, ErrOtherMessage) {
		t.Errorf("another message: %v", err)
	}
	for _, pair := range [][2]Timestamp{{a, {}}, {{}, a}, {{}, {}}} {
		_, err := pair[0].Merge(pair[1])
		wantError(t, err, "merge timestamps: the timestamp is empty")
	}
	half := func(with string) DetachedFile { // a bit more than half of what may be
		unit := func(i int) string {
			return "\xff\xf0" + string(appendVarbytes(nil, strings.Repeat(with, 4000)+string(rune('0'+i)))) + block(1)
		}
		var body strings.Builder
		for i := range 33 {
			body.WriteString(unit(i))
		}
		return mustParse(t, otsFile(body.String()+block(2)))
	}
	_, err := half("a").Merge(half("b"))
	wantError(t, err, fmt.Sprintf("more than %d", MaxSize))
	if _, err := half("a").Merge(half("a")); err != nil {
		t.Errorf("the same twice: %v", err)
	}
}

func TestMergeFiles(t *testing.T) {
	f, g := mustParse(t, otsFile("\x08"+block(1))), mustParse(t, otsFile("\x08"+pendingAt("https://a")))
	merged, err := f.Merge(g)
	if err != nil {
		t.Fatal(err)
	}
	if want := otsFile("\x08\xff" + block(1) + pendingAt("https://a")); !bytes.Equal(mustSerialize(t, merged), want) {
		t.Errorf("merged: %x", mustSerialize(t, merged))
	}
	keccak := mustParse(t, []byte(magic+"\x01\x67"+zeroDigest+block(1)))
	other := mustParse(t, []byte(magic+"\x01\x08"+strings.Repeat("\x01", 32)+block(1)))
	for _, g := range []DetachedFile{keccak, other, {}} {
		if _, err := f.Merge(g); !errors.Is(err, ErrOtherDocument) {
			t.Errorf("%s: %v", g.Hash(), err)
		}
	}
}

func TestNewDetachedFile(t *testing.T) {
	for hash, size := range map[Tag]int{SHA1: 20, RIPEMD160: 20, SHA256: 32, Keccak256: 32} {
		ts := mustMake(t, strings.Repeat("d", size), nil, BitcoinBlock(1))
		f, err := NewDetachedFile(hash, ts)
		if err != nil {
			t.Fatal(err)
		}
		again := mustParse(t, mustSerialize(t, f))
		if again.Hash() != hash || string(again.Digest()) != strings.Repeat("d", size) || listing(again.Timestamp()) != listing(ts) {
			t.Errorf("%s: %s %x", hash, again.Hash(), again.Digest())
		}
		_, err = NewDetachedFile(hash, mustMake(t, strings.Repeat("d", size+1), nil, BitcoinBlock(1)))
		wantError(t, err, fmt.Sprintf("digest has %d bytes, want the %d of %s", size+1, size, hash))
	}
	_, err := NewDetachedFile(Append, mustMake(t, zeroDigest, nil, BitcoinBlock(1)))
	wantError(t, err, "append is not a hash")
	_, err = NewDetachedFile(SHA256, Timestamp{message: zeroDigest})
	wantError(t, err, "the timestamp is empty")
}

// TestZero: nothing panics on values that nobody made.
func TestZero(t *testing.T) {
	var ts Timestamp
	_, err := ts.Serialize()
	wantError(t, err, "write timestamp: the timestamp is empty")
	_, err = DetachedFile{}.Serialize()
	wantError(t, err, "write OpenTimestamps file: the timestamp is empty")
	for range ts.All() {
		t.Error("an attestation of nothing")
	}
	for range ts.Pending() {
		t.Error("nothing is pending")
	}
	if got := (Attestation{}).String(); got != "unknown notary , 0 bytes" {
		t.Errorf("no attestation: %q", got)
	}
}

// TestStop: who has seen enough of a timestamp isn't shown more.
func TestStop(t *testing.T) {
	ts := mustParse(t, otsFile("\xff"+pendingAt("a")+"\x08\xff"+pendingAt("b")+"\x02"+pendingAt("c"))).Timestamp()
	for stop := 1; stop <= 3; stop++ {
		seen, waiting := 0, 0
		for range ts.All() {
			if seen++; seen == stop {
				break
			}
		}
		for range ts.Pending() {
			if waiting++; waiting == stop {
				break
			}
		}
		if seen != stop || waiting != stop {
			t.Errorf("%d and %d seen, want %d", seen, waiting, stop)
		}
	}
}

func pendingOf(ts Timestamp) (all []string) {
	for message, uri := range ts.Pending() {
		all = append(all, fmt.Sprintf("%s %x", uri, message))
	}
	return all
}

func TestPending(t *testing.T) {
	zero := strings.Repeat("00", 32)
	for name, c := range map[string]struct {
		body string
		want []string
	}{
		"none":                        {block(1), nil},
		"one":                         {pendingAt("a"), []string{"a " + zero}},
		"two at one node":             {"\xff" + pendingAt("b") + pendingAt("a"), []string{"a " + zero, "b " + zero}},
		"answered at the node":        {"\xff" + pendingAt("a") + block(1), nil},
		"answered below":              {"\xff" + pendingAt("a") + "\xf0\x01x\x08" + block(1), nil},
		"answered with another":       {"\xff" + pendingAt("a") + "\xf0\x01\x01" + pendingAt("b"), []string{"a " + zero, "b " + zero + "01"}},
		"answered elsewhere":          {"\xff\xf0\x01\x02" + block(1) + "\xf0\x01\x03" + pendingAt("a"), []string{"a " + zero + "03"}},
		"answered by something else":  {"\xff" + pendingAt("a") + attested(litecoinNotary, "\x01"), []string{"a " + zero}},
		"above the one that is there": {"\xff" + pendingAt("a") + "\xf1\x01\x04\xff" + pendingAt("b") + block(3), nil},
	} {
		if got := pendingOf(mustParse(t, otsFile(c.body)).Timestamp()); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestUpgrade(t *testing.T) {
	f := mustParse(t, otsFile("\x08\xff\xf0\x01a"+pendingAt("https://a")+"\xf0\x01b"+pendingAt("https://b")))
	before := mustSerialize(t, f)
	var messages [][]byte
	for message := range f.Timestamp().Pending() {
		messages = append(messages, message)
	}
	first, err := ParseTimestamp(messages[0], []byte("\xf1\x01x\x08"+block(7)))
	if err != nil {
		t.Fatal(err)
	}
	f1, err := f.Upgrade(first)
	if err != nil {
		t.Fatal(err)
	}
	want := otsFile("\x08\xff\xf0\x01a\xff" + pendingAt("https://a") + "\xf1\x01x\x08" + block(7) + "\xf0\x01b" + pendingAt("https://b"))
	if got := mustSerialize(t, f1); !bytes.Equal(got, want) {
		t.Errorf("upgraded\n%x\nwant\n%x", got, want)
	}
	if got := pendingOf(f1.Timestamp()); len(got) != 1 || !strings.HasPrefix(got[0], "https://b ") {
		t.Errorf("still pending: %q", got)
	}
	if again, err := f1.Upgrade(first); err != nil || !bytes.Equal(mustSerialize(t, again), want) {
		t.Errorf("the same answer again: %v", err)
	}
	if !bytes.Equal(mustSerialize(t, f), before) {
		t.Error("upgrading changed the file")
	}
	f2, err := f1.Upgrade(mustMake(t, string(messages[1]), nil, BitcoinBlock(8)))
	if err != nil || len(pendingOf(f2.Timestamp())) != 0 {
		t.Errorf("both answered: %v, %q", err, pendingOf(f2.Timestamp()))
	}
	mustParse(t, mustSerialize(t, f2))
}

// A message may wait in several places, above one another.
func TestUpgradeEverywhere(t *testing.T) {
	f := mustParse(t, otsFile("\xff"+pendingAt("a")+"\xf2\xf2"+pendingAt("b"))) // twice reversed
	up, err := f.Upgrade(mustMake(t, zeroDigest, []Op{{Append, "x"}}, BitcoinBlock(1)))
	if err != nil {
		t.Fatal(err)
	}
	answer := "\xf0\x01x" + block(1)
	if want := otsFile("\xff" + pendingAt("a") + "\xff" + answer + "\xf2\xf2\xff" + pendingAt("b") + answer); !bytes.Equal(mustSerialize(t, up), want) {
		t.Errorf("%x\nwant\n%x", mustSerialize(t, up), want)
	}
}

func TestUpgradeRefuses(t *testing.T) {
	f := mustParse(t, otsFile("\xff\xf0\x01x"+block(1)+nested(200, pendingAt("a"))))
	var message []byte
	for message = range f.Timestamp().Pending() {
	}
	for name, m := range map[string][]byte{"not in it": []byte("another"), "not pending": f.Digest(), "of another kind": append(f.Digest(), 'x')} {
		if _, err := f.Upgrade(mustMake(t, string(m), nil, BitcoinBlock(1))); !errors.Is(err, ErrNotPending) {
			t.Errorf("message %s: %v", name, err)
		}
	}
	deep := func(n int) Timestamp {
		return mustMake(t, string(message), slices.Repeat([]Op{{Tag: SHA256}}, n), BitcoinBlock(1))
	}
	if _, err := f.Upgrade(deep(55)); err != nil {
		t.Errorf("as deep as may be: %v", err)
	}
	_, err := f.Upgrade(deep(56))
	wantError(t, err, "more than 255 operations")
	_, err = f.Upgrade(Timestamp{})
	wantError(t, err, "upgrade timestamp: the timestamp is empty")
	_, err = DetachedFile{}.Upgrade(deep(1))
	wantError(t, err, "upgrade timestamp: the timestamp is empty")
}

func TestFrom(t *testing.T) {
	pending := mustPend(t, "https://a.example")
	end := applied(t, Op{Tag: SHA256}, applied(t, Op{Append, "nonce"}, []byte(zeroDigest)))
	answer := mustMake(t, string(end), []Op{{Append, "salt"}, {Tag: SHA256}}, pending)
	ops := []Op{{Append, "nonce"}, {Tag: SHA256}}
	got, err := answer.From([]byte(zeroDigest), ops)
	if err != nil {
		t.Fatal(err)
	}
	want := mustMake(t, zeroDigest, append(ops, Op{Append, "salt"}, Op{Tag: SHA256}), pending)
	if a, b := mustWrite(t, got), mustWrite(t, want); !bytes.Equal(a, b) || string(got.Message()) != zeroDigest {
		t.Errorf("%x, want %x", a, b)
	}
	if same, err := answer.From(end, nil); err != nil || !bytes.Equal(mustWrite(t, same), mustWrite(t, answer)) {
		t.Errorf("from the message itself: %v", err)
	}
	if _, err := answer.From([]byte(zeroDigest), ops[:1]); !errors.Is(err, ErrOtherMessage) {
		t.Errorf("to another message: %v", err)
	}
	_, err = answer.From([]byte(zeroDigest), []Op{{Tag: SHA256}, {Tag: 0x99}})
	wantError(t, err, "operation 1", "0x99")
	_, err = answer.From(make([]byte, MaxMessage+1), nil)
	wantError(t, err, "4097 bytes")
	_, err = Timestamp{}.From(nil, nil)
	wantError(t, err, "empty")
	there := slices.Repeat([]Op{{Tag: Reverse}}, MaxDepth-1) // an even number of times
	_, err = answer.From(end, there)
	wantError(t, err, "more than 255")
}
