package ots

import (
	"bytes"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestPeerFiles reads files that the reference has written: it sees in them what
// the reference does, and writes them in the same bytes.
func TestPeerFiles(t *testing.T) {
	names, err := filepath.Glob("testdata/peer/*.ots")
	if err != nil || len(names) < 20 {
		t.Fatalf("%d files, %v", len(names), err)
	}
	seen := ""
	for _, name := range names {
		data := readFile(t, name)
		f := mustParse(t, data)
		if again := mustSerialize(t, f); !bytes.Equal(again, data) {
			t.Errorf("%s is written as\n%x, was\n%x", name, again, data)
		}
		got, want := listing(f.Timestamp()), string(readFile(t, strings.TrimSuffix(name, "ots")+"txt"))
		if got != want {
			t.Errorf("%s:\n%s\nthe reference sees:\n%s", name, got, want)
		}
		var text strings.Builder
		if err := f.WriteText(&text); err != nil {
			t.Fatal(err)
		}
		seen += got + text.String()
	}
	for _, want := range []string{"Bitcoin block", "Litecoin block", "pending at", "unknown notary", "-> ",
		"sha1", "ripemd160", "keccak256", "sha256", "append", "prepend", "reverse", "hexlify"} {
		if !strings.Contains(seen, want) {
			t.Errorf("none of the files has %q: they show too little", want)
		}
	}
}

// nested is n operations one behind another.
func nested(n int, end string) string { return strings.Repeat("\x08", n) + end }

// The body follows a digest of 32 zeros; offsets are those of the whole file.
func TestParseRefuses(t *testing.T) {
	const start = 65 // of the body
	long := func(n int) string { return string(appendVarbytes(nil, strings.Repeat("x", n))) }
	for name, c := range map[string]struct {
		data []byte
		want string // empty: it is read
	}{
		"empty file":        {nil, "not an OpenTimestamps file"},
		"magic alone":       {[]byte(magic), "at byte 31: the data end too early"},
		"another magic":     {append([]byte{1}, otsFile(block(1))[1:]...), "not an OpenTimestamps file"},
		"version 0":         {[]byte(magic + "\x00\x08" + zeroDigest + block(1)), "version is 0, want 1"},
		"version 2":         {[]byte(magic + "\x02\x08" + zeroDigest + block(1)), "version is 2, want 1"},
		"long version":      {[]byte(magic + "\x81\x00\x08" + zeroDigest + block(1)), ""},
		"no hash":           {[]byte(magic + "\x01"), "at byte 32: the data end too early"},
		"hash is append":    {[]byte(magic + "\x01\xf0" + zeroDigest + block(1)), "at byte 32: append is not a hash of documents"},
		"hash is reverse":   {[]byte(magic + "\x01\xf2" + zeroDigest + block(1)), "at byte 32: reverse is not a hash"},
		"hash is unknown":   {[]byte(magic + "\x01\x09" + zeroDigest + block(1)), "at byte 32: 0x09 is not a hash"},
		"short digest":      {[]byte(magic + "\x01\x08" + zeroDigest[:31]), "at byte 33: the data end too early"},
		"SHA-1":             {[]byte(magic + "\x01\x02" + zeroDigest[:20] + block(1)), ""},
		"RIPEMD-160":        {[]byte(magic + "\x01\x03" + zeroDigest[:20] + block(1)), ""},
		"Keccak":            {[]byte(magic + "\x01\x67" + zeroDigest + block(1)), ""},
		"no timestamp":      {otsFile(""), "at byte 65: the data end too early"},
		"one attestation":   {otsFile(block(1)), ""},
		"trailing byte":     {otsFile(block(1) + "\x00"), fmt.Sprintf("at byte %d: 1 bytes follow the end", start+len(block(1)))},
		"trailing newline":  {otsFile(block(1) + "\n"), "follow the end"},
		"fork without end":  {otsFile("\xff" + block(1)), "end too early"},
		"fork":              {otsFile("\xff" + block(1) + block(2)), ""},
		"fork of fork":      {otsFile("\xff\xff" + block(1) + block(2)), "at byte 66: unknown operation 0xff"},
		"unknown operation": {otsFile("\x09" + block(1)), "at byte 65: unknown operation 0x09"},
		"operation alone":   {otsFile("\x08"), "at byte 66: the data end too early"},
		"no argument":       {otsFile("\xf0"), "at byte 66: the data end too early"},
		"empty argument":    {otsFile("\xf0\x00" + block(1)), "at byte 66: argument of append has 0 bytes, want 1 to 4096"},
		"short argument":    {otsFile("\xf0\x05abcd"), "at byte 67: the data end too early"},
		"longest argument":  {otsFile("\x02\xf0" + long(MaxMessage-20) + block(1)), ""},
		"too long an argument": {
			otsFile("\xf1" + long(MaxMessage+1) + block(1)), "at byte 66: argument of prepend has 4097 bytes"},
		"argument of 2^63":     {otsFile("\xf0\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01" + block(1)), "argument of append has 9223372036854775808 bytes"},
		"number of 65 bits":    {otsFile("\xf0\x80\x80\x80\x80\x80\x80\x80\x80\x80\x02" + block(1)), "at byte 66: a number has more than 64 bits"},
		"number of 11 bytes":   {otsFile("\xf0" + strings.Repeat("\x80", 10) + "\x01x" + block(1)), "at byte 66: a number has more than 64 bits or 10 bytes"},
		"message too long":     {otsFile("\xf0" + long(MaxMessage) + block(1)), "at byte 65: append: a message of 4128 bytes"},
		"hexlified too long":   {otsFile("\xf0" + long(2017) + "\xf3" + block(1)), "hexlify: a message of 4098 bytes"},
		"hexlified":            {otsFile("\xf0" + long(2016) + "\xf3" + block(1)), ""},
		"as deep as may be":    {otsFile(nested(255, block(1))), ""},
		"too deep":             {otsFile(nested(256, block(1))), "at byte 320: more than 255 operations behind one another"},
		"much too deep":        {otsFile(nested(100_000, block(1))), "more than 255 operations"},
		"attestation alone":    {otsFile("\x00"), "end too early"},
		"short notary":         {otsFile("\x001234567"), "at byte 66: the data end too early"},
		"no payload":           {otsFile("\x00" + bitcoinNotary), "end too early"},
		"short payload":        {otsFile("\x00" + bitcoinNotary + "\x02\x01"), "end too early"},
		"empty payload":        {otsFile(attested(bitcoinNotary, "")), "at byte 66: payload of the attestation, at byte 0: the data end too early"},
		"height and more":      {otsFile(attested(bitcoinNotary, "\x01\x02")), "at byte 66: payload of the attestation, at byte 1: 1 bytes follow the end"},
		"height spelled long":  {otsFile(attested(bitcoinNotary, "\x81\x80\x00")), ""},
		"height of 65 bits":    {otsFile(attested(bitcoinNotary, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02")), "more than 64 bits"},
		"Litecoin and more":    {otsFile(attested(litecoinNotary, "\x01\x02")), "follow the end"},
		"Ethereum and more":    {otsFile(attested(ethereumNotary, "\x01\x02")), "follow the end"},
		"longest payload":      {otsFile(attested("12345678", strings.Repeat("x", MaxPayload))), ""},
		"too long a payload":   {otsFile(attested("12345678", strings.Repeat("x", MaxPayload+1))), "payload has 8193 bytes, want 0 to 8192"},
		"unknown, no payload":  {otsFile(attested("12345678", "")), ""},
		"empty URI":            {otsFile(pendingAt("")), ""},
		"longest URI":          {otsFile(pendingAt(strings.Repeat("x", MaxURI))), ""},
		"too long a URI":       {otsFile(pendingAt(strings.Repeat("x", MaxURI+1))), "URI has 1001 bytes, want 0 to 1000"},
		"URI with a query":     {otsFile(pendingAt("https://x/?a")), `calendar URI has '?' as character 10`},
		"URI with a user":      {otsFile(pendingAt("https://me@x")), `has '@'`},
		"URI with a newline":   {otsFile(pendingAt("https://x\n")), `has '\n'`},
		"URI beyond ASCII":     {otsFile(pendingAt("https://ñ")), `as character 8`},
		"URI and more":         {otsFile(attested(pendingNotary, "\x01xy")), "follow the end"},
		"URI without length":   {otsFile(attested(pendingNotary, "")), "end too early"},
		"larger than any file": {otsFile(strings.Repeat("\xff"+block(1), MaxFile/11)), fmt.Sprintf("more than %d", MaxFile)},
		"larger timestamp": {[]byte(magic + "\x01\x02" + zeroDigest[:20] + strings.Repeat("\xff", MaxSize+1)),
			fmt.Sprintf("at byte 53: the timestamp has %d bytes, more than %d", MaxSize+1, MaxSize)},
	} {
		t.Run(name, func(t *testing.T) {
			f, err := Parse(c.data)
			if c.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				mustParse(t, mustSerialize(t, f))
				return
			}
			wantError(t, err, "read OpenTimestamps file", c.want)
			if f.timestamp.root != nil {
				t.Error("something came back beside the error")
			}
		})
	}
}

// What other writers spell in another way is written as the reference does.
func TestNormalForm(t *testing.T) {
	a, b, p := block(1), block(2), pendingAt("https://a")
	last := func(items ...string) string { // all but the last are marked
		return "\xff" + strings.Join(items[:len(items)-1], "\xff") + items[len(items)-1]
	}
	for name, c := range map[string]struct{ body, want string }{
		"attestations in order":      {last(p, b, a), last(a, b, p)},
		"the same attestation":       {last(a, a, a), a},
		"operations in order":        {last("\xf1\x01x"+a, "\xf0\x01y"+a, "\xf0\x01x"+a, "\x08"+b), last("\x08"+b, "\xf0\x01x"+a, "\xf0\x01y"+a, "\xf1\x01x"+a)},
		"attestations first":         {last("\x08"+b, a), last(a, "\x08"+b)},
		"the same operation":         {last("\x08"+b, "\x08"+a), "\x08" + last(a, b)},
		"the same way":               {last("\x08\x02"+a, "\x08\x02"+a), "\x08\x02" + a},
		"the same way for a time":    {last("\x08\x02"+p, "\x08\x03"+a, "\x08\x02"+b), "\x08" + last("\x02"+last(b, p), "\x03"+a)},
		"URIs before their lengths":  {last(pendingAt("b"), pendingAt("aa")), last(pendingAt("aa"), pendingAt("b"))},
		"heights before their bytes": {last(attested(bitcoinNotary, "\x80\x02"), attested(bitcoinNotary, "\xff\x01")), last(attested(bitcoinNotary, "\xff\x01"), attested(bitcoinNotary, "\x80\x02"))},
		"Litecoin heights":           {last(attested(litecoinNotary, "\x80\x01"), attested(litecoinNotary, "\x05")), last(attested(litecoinNotary, "\x05"), attested(litecoinNotary, "\x80\x01"))},
		"one height in two spellings": {
			last(attested(bitcoinNotary, "\x81\x00"), a), a},
		"a URI's length in two spellings": {attested(pendingNotary, "\x81\x00x"), pendingAt("x")},
		"an argument's length":            {"\xf0\x81\x80\x00x" + a, "\xf0\x01x" + a},
		"unknown ones stay":               {attested("12345678", "\x81\x00"), attested("12345678", "\x81\x00")},
	} {
		t.Run(name, func(t *testing.T) {
			got := mustSerialize(t, mustParse(t, otsFile(c.body)))
			if want := otsFile(c.want); !bytes.Equal(got, want) {
				t.Errorf("%x\nwant\n%x", got[65:], want[65:])
			}
		})
	}
}

// hostile files, each as large as may be.
func hostile() map[string][]byte {
	fill := func(unit, end string) []byte {
		return otsFile(strings.Repeat(unit, (MaxSize-len(end))/len(unit)) + end)
	}
	large := "\xf0" + string(appendVarbytes(nil, strings.Repeat("x", MaxMessage-40)))
	var long strings.Builder // ways from a long message, each another one
	for i := 0; long.Len() < MaxSize-2*MaxMessage; i++ {
		fmt.Fprintf(&long, "\xff\xf0\x04%04x%s%s", i%0x10000, strings.Repeat("\xf2", 1+i%250), block(1))
	}
	return map[string][]byte{
		"attestations":              fill("\xff"+block(1), block(1)),
		"empty attestations":        fill("\xff"+attested("12345678", ""), block(1)),
		"operations":                fill("\xff"+nested(255, block(1)), block(1)),
		"reversed long messages":    otsFile(large + long.String() + block(1)),
		"attested long messages":    otsFile(large + strings.ReplaceAll(long.String(), "\xf2", "") + block(1)),
		"the same operation":        fill("\xff\x08"+block(1), block(1)),
		"the same ways":             fill("\xff"+strings.Repeat("\x08", 200)+block(1), block(1)),
		"two ways, again and again": fill("\xff\x08\xff\x02"+block(1)+"\x03"+block(2), block(1)),
		"refused at the end":        fill("\xff"+nested(100, block(1)), "\x09"),
	}
}

// TestMemory: no file makes reading, verifying and writing it take more than
// 64 MB, all garbage included.
func TestMemory(t *testing.T) {
	chain := chainOf(t, "headers", false)
	for name, data := range hostile() {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			f, err := Parse(data)
			if err == nil {
				Verify(Input{File: f, Digest: []byte(zeroDigest), Headers: chain})
				mustSerialize(t, f)
			} else if name != "refused at the end" {
				t.Error(err)
			}
			runtime.ReadMemStats(&after)
			if mb := (after.TotalAlloc - before.TotalAlloc) >> 20; mb >= 64 {
				t.Errorf("%d MB", mb)
			} else {
				t.Logf("%d MB, %v", mb, err)
			}
		})
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestWriteText(t *testing.T) {
	f := mustParse(t, otsFile("\xff"+block(5)+"\x08\xff\xf0\x01x"+pendingAt("https://a")+"\xf1\x02yz\x02"+attested(ethereumNotary, "\x07")))
	var b strings.Builder
	if err := f.WriteText(&b); err != nil {
		t.Fatal(err)
	}
	want := "sha256 " + strings.Repeat("00", 32) + `
Bitcoin block 5
sha256
-> append 78
   pending at https://a
-> prepend 797a
   sha1
   Ethereum block 7
`
	if b.String() != want {
		t.Errorf("%s\nwant\n%s", b.String(), want)
	}
	wantError(t, f.WriteText(brokenWriter{}), "disk full")
	b.Reset()
	if err := (DetachedFile{}).WriteText(&b); err != nil || b.String() != "0x00 \n" {
		t.Errorf("nothing as text: %q, %v", b.String(), err)
	}
}
