package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/calpe/calpe/receipt/ots"
)

// ots parses a file of the folder.
func (h *harness) ots(name string) ots.DetachedFile {
	h.t.Helper()
	f, err := ots.Parse(h.read(name))
	if err != nil {
		h.t.Fatal(err)
	}
	return f
}

// pending stamps a file with calendars, and gives the names of both.
func (h *harness) pending(name, content string, at ...*fakeCalendar) (file, proof string) {
	h.t.Helper()
	file = h.write(name, []byte(content))
	args := []string{"ots", "stamp", file}
	for _, c := range at {
		args = append(args, "--calendar", c.url)
	}
	h.expect(exitOK, args)
	for _, c := range at {
		c.requests()
	}
	return file, file + ".ots"
}

func newOTSHarness(t testing.TB) (*harness, *fakeCalendar) {
	h := newHarness(t)
	h.env["CALPE_SERVER"] = "" // whose host is the calendar's, which may be asked then
	return h, newCalendar(t, h.s.chain)
}

// From stamp to verify, with the calendar of the test and one block.
func TestOTSWay(t *testing.T) {
	t.Parallel()
	h, c := newOTSHarness(t)
	file := h.write("a.txt", []byte("hello"))
	h.expect(exitOK, []string{"ots", "stamp", file, "--calendar", c.url + "/"}, "a.txt: pending at "+c.url, "proof: "+file+".ots")
	if got := c.requests(); len(got) != 1 || got[0] != "POST /digest" {
		t.Errorf("asked %q", got)
	}
	if info, err := os.Stat(file + ".ots"); err != nil || info.Mode().Perm() != privateFile {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	digest := sha256.Sum256([]byte("hello"))
	if f := h.ots("a.txt.ots"); f.Hash() != ots.SHA256 || !bytes.Equal(f.Digest(), digest[:]) {
		t.Errorf("about %s %x", f.Hash(), f.Digest())
	}
	upgrade := []string{"ots", "upgrade", file + ".ots", "--calendar", c.url}
	verify := []string{"ots", "verify", file, file + ".ots", "--headers", h.headers()}
	h.expect(exitNotYet, verify, "NOT YET", c.url)
	pending := h.read("a.txt.ots")
	h.expect(exitNotYet, upgrade, "not yet: it says: Pending confirmation in Bitcoin blockchain", "a.txt.ots: pending at "+c.url)
	h.expect(exitNotYet, append(upgrade, "--node", "http://127.0.0.1:1"), "Pending confirmation") // there is nothing to ask a node about
	if !bytes.Equal(h.read("a.txt.ots"), pending) || h.exists("a.txt.ots.bak") {
		t.Error("a file was written though nothing is new")
	}
	c.anchor()
	h.expect(exitOK, upgrade, "a.txt.ots: complete: in Bitcoin block 1")
	if !bytes.Equal(h.read("a.txt.ots.bak"), pending) {
		t.Error("the copy isn't the former file")
	}
	h.headers()
	r := h.expect(exitOK, verify, "Existed     HOLDS      before 2026-", "in block 1 of regtest", "TEST NETWORK regtest: no evidential value", "Answer: HOLDS (asked: existence)")
	if len(c.requests()) != 3 || strings.Contains(r.out, "REFUTED") || strings.Contains(r.out, "NOT YET") {
		t.Errorf("verify asked a calendar, or refutes: %s", r.out)
	}
	// Complete: nobody is asked any more.
	h.expect(exitOK, upgrade, "a.txt.ots: complete")
	if got := c.requests(); len(got) != 0 {
		t.Errorf("asked %q", got)
	}
	if got := h.files(); got != "a.txt a.txt.ots a.txt.ots.bak" {
		t.Errorf("left behind: %s", got)
	}
}

// The calendar learns one hash of several files, and no file's way tells another's digest.
func TestOTSStampSeveral(t *testing.T) {
	t.Parallel()
	h, c := newOTSHarness(t)
	other := newCalendar(t, h.s.chain)
	var files []string
	for _, name := range []string{"a", "b", "c", "d", "e"} {
		files = append(files, h.write(name, []byte("file "+name)))
	}
	h.expect(exitOK, append([]string{"ots", "stamp", "--calendar", c.url, "--calendar", other.url}, files...))
	if a, b := c.requests(), other.requests(); len(a) != 1 || len(b) != 1 {
		t.Errorf("asked %q, %q", a, b)
	}
	c.anchor()
	other.anchor()
	h.expect(exitOK, append([]string{"ots", "upgrade", "--calendar", c.url, "--calendar", other.url},
		h.path("a.ots"), h.path("b.ots"), h.path("c.ots"), h.path("d.ots"), h.path("e.ots")), "Bitcoin block 1, 7")
	h.headers()
	for _, file := range files {
		h.expect(exitOK, []string{"ots", "verify", file, file + ".ots", "--headers", h.path("headers.bin")}, "HOLDS")
		text := h.expect(exitOK, []string{"ots", "info", file + ".ots"}).out
		for _, name := range []string{"a", "b", "c", "d", "e"} {
			digest := sha256.Sum256([]byte("file " + name))
			if strings.Contains(text, hex.EncodeToString(digest[:])) != (h.path(name) == file) {
				t.Errorf("%s tells the digest of %s, or not its own", file, name)
			}
		}
	}
	// The same file again has another nonce.
	before := h.read("a.ots")
	if err := os.Rename(h.path("a.ots"), h.path("a.old.ots")); err != nil {
		t.Fatal(err)
	}
	h.expect(exitOK, []string{"ots", "stamp", files[0], "--calendar", c.url})
	nonces := map[string]bool{string(nonce(before)): true}
	for _, file := range files {
		nonces[string(nonce(h.read(filepath.Base(file)+".ots")))] = true
	}
	if len(nonces) != 6 {
		t.Errorf("%d nonces for 6 stamps", len(nonces))
	}
	h.expect(exitOK, []string{"ots", "merge", h.path("a.ots"), h.path("a.old.ots"), "-o", h.path("both.ots")}, "complete: in Bitcoin block 1, 7", "pending at "+c.url)
	h.expect(exitOK, []string{"ots", "verify", files[0], h.path("both.ots"), "--headers", h.path("headers.bin")}, "HOLDS", "block 1 of")
}

// nonce is the argument of a file's first operation.
func nonce(proof []byte) []byte { return proof[67:83] }

func TestOTSStampRefuses(t *testing.T) {
	t.Parallel()
	h, c := newOTSHarness(t)
	file := h.write("a.txt", []byte("hello"))
	stamp := func(args ...string) []string {
		return append([]string{"ots", "stamp", file, "--calendar", c.url}, args...)
	}
	h.expect(exitUsage, []string{"ots", "stamp", file}, "--calendar")
	h.expect(exitUsage, []string{"ots", "stamp", "--calendar", c.url}, "file")
	h.expect(exitUsage, stamp("-m", "2"), "1 calendars are given")
	h.expect(exitUsage, stamp("--at-least=-1"), "-m -1")
	h.expect(exitUsage, stamp("--calendar", c.url+"/"), "given twice")
	h.expect(exitUsage, stamp("--calendar", "ots.example"), "https://host")
	h.expect(exitUsage, stamp("--calendar", "https://x@ots.example"), "user")
	h.write("empty", nil)
	h.write("taken", []byte("x"))
	h.write("taken.ots", []byte("mine"))
	h.expect(exitUsage, []string{"ots", "stamp", "--calendar", c.url, h.path("empty"), h.path("none"), h.path("taken"), h.dir}, "empty: it is empty", "none", "taken.ots exists and isn't overwritten", "not a regular file")
	if got := c.requests(); len(got) != 0 {
		t.Errorf("asked %q", got)
	}
	// One that can't be stamped doesn't keep another back.
	h.expect(exitUsage, []string{"ots", "stamp", "--calendar", c.url, h.path("taken"), file}, "taken.ots exists", "a.txt: pending")
	if string(h.read("taken.ots")) != "mine" || !h.exists("a.txt.ots") || h.exists("empty.ots") {
		t.Errorf("files are %s", h.files())
	}
}

// What a calendar may do instead of an answer.
func hostile(c *fakeCalendar, elsewhere string) map[string]struct {
	fault http.HandlerFunc
	code  int
	text  string
} {
	return map[string]struct {
		fault http.HandlerFunc
		code  int
		text  string
	}{
		"endless":           {endless, exitRefuted, "more than 10000 bytes"},
		"one byte more":     {says(200, strings.Repeat("\xff\x08", 5000)+"\x00"), exitRefuted, "more than 10000 bytes"},
		"slow":              {slow, exitUsage, "no answer within 200ms"},
		"cut off":           {cutOff, exitUsage, c.url},
		"half an answer":    {halfAnswer, exitUsage, "ended before its end"},
		"sends on":          {sendsTo(elsewhere + "/digest"), exitUsage, "isn't followed"},
		"nothing":           {says(200, ""), exitRefuted, "end too early"},
		"words":             {says(200, "<html>"), exitRefuted, "unknown operation"},
		"unknown op":        {says(200, "\x77"), exitRefuted, "unknown operation 0x77"},
		"too deep":          {says(200, strings.Repeat("\x08", 256)+"\x00"), exitRefuted, "more than 255"},
		"a bomb":            {says(200, "\xf0\x80\x20"+strings.Repeat("x", 4096)+"\xf3"), exitRefuted, "4096"},
		"another notary":    {says(200, "\x00unknown!\x02\x1b["), exitRefuted, "refused: its answer"},
		"URI of a command":  {says(200, "\x00\x83\xdf\xe3\x0d\x2e\xf9\x0c\x8e\x05\x04a\x1b[m"), exitRefuted, "may be there"},
		"refuses":           {says(503, "over\x1b[2J quota\nlast line"), exitUsage, "it refused: over__2J quota_last line (HTTP 503)"},
		"refuses at length": {says(500, strings.Repeat("x", 1<<20)), exitUsage, "it refused: " + strings.Repeat("x", 160) + " (HTTP 500)"},
		"no content":        {says(204, ""), exitUsage, "it refused: No Content"},
		"part":              {says(206, "\x08"), exitUsage, "HTTP 206"},
	}
}

func TestOTSStampHostileCalendar(t *testing.T) {
	t.Parallel()
	h, c := newOTSHarness(t)
	elsewhere := newCalendar(t, h.s.chain)
	file := h.write("a.txt", []byte("hello"))
	cases := hostile(c, elsewhere.url)
	add := func(name string, fault http.HandlerFunc, code int, text string) {
		cases[name] = struct {
			fault http.HandlerFunc
			code  int
			text  string
		}{fault, code, text}
	}
	add("recorded, then cut off", c.recordedThenCutOff, exitUsage, c.url)
	add("not there", says(404, "not found"), exitUsage, "it refused: not found (HTTP 404)")
	add("in a block at once, and pending", says(200, "\xff\x00\x05\x88\x96\x0d\x73\xd7\x19\x01\x01\x05\x08\x00\x83\xdf\xe3\x0d\x2e\xf9\x0c\x8e\x06\x05later"), exitRefuted, "no promise")
	add("in a block at once", says(200, "\x00\x05\x88\x96\x0d\x73\xd7\x19\x01\x01\x05"), exitRefuted, "no promise")
	for name, tc := range cases {
		c.fail(tc.fault)
		r := h.expect(tc.code, []string{"ots", "stamp", file, "--calendar", c.url, "--timeout", "200ms"}, tc.text, "0 of 1 calendars promised and 1 must, so nothing is written")
		if h.files() != "a.txt" || strings.ContainsAny(r.out+r.err, "\x1b") || strings.Count(r.err, "\n") > 1 || len(r.err) > 1000 {
			t.Errorf("%s: files are %s; printed %q", name, h.files(), r.err)
		}
	}
	if got := elsewhere.requests(); len(got) != 0 {
		t.Errorf("went on to another host: %q", got)
	}
	// With another one that answers, it is enough, or isn't.
	both := []string{"ots", "stamp", file, "--calendar", c.url, "--calendar", elsewhere.url, "--timeout", "200ms"}
	c.fail(slow)
	h.expect(exitUsage, both, "1 of 2 calendars promised and 2 must")
	c.fail(cutOff)
	h.expect(exitOK, append(both, "-m", "1"), c.url, "a.txt: pending at "+elsewhere.url)
}

func TestOTSUpgradeHostileCalendar(t *testing.T) {
	t.Parallel()
	h, c := newOTSHarness(t)
	elsewhere := newCalendar(t, h.s.chain)
	_, proof := h.pending("a.txt", "hello", c)
	before := h.read("a.txt.ots")
	cases := hostile(c, elsewhere.url)
	add := func(name string, fault http.HandlerFunc, code int, text string) {
		cases[name] = struct {
			fault http.HandlerFunc
			code  int
			text  string
		}{fault, code, text}
	}
	add("not there", says(404, "Not found"), exitNotYet, "not yet: it says: Not found")
	add("control characters", says(404, "\x1b[2J\rFAKE: complete\n\u202e"), exitNotYet, "not yet: it says: __2J_FAKE_ complete__")
	add("no words", says(404, ""), exitNotYet, "not yet: it says: Not Found")
	add("pending elsewhere", says(200, "\x00\x83\xdf\xe3\x0d\x2e\xf9\x0c\x8e\x05\x04evil"), exitRefuted, "leads to no Bitcoin block")
	add("no Merkle root", says(200, "\x00\x05\x88\x96\x0d\x73\xd7\x19\x01\x01\x05"), exitRefuted, "44 bytes, which are no block's Merkle root")
	for name, tc := range cases {
		c.fail(tc.fault)
		r := h.expect(tc.code, []string{"ots", "upgrade", proof, "--calendar", c.url, "--timeout", "200ms"}, tc.text, c.url)
		if !bytes.Equal(h.read("a.txt.ots"), before) || h.files() != "a.txt a.txt.ots" || strings.ContainsAny(r.out+r.err, "\x1b\r") || len(r.err) > 1000 {
			t.Errorf("%s: files are %s; printed %q", name, h.files(), r.err)
		}
	}
	if got := elsewhere.requests(); len(got) != 0 {
		t.Errorf("went on to another host: %q", got)
	}
}

// An answer for another message, or of a block that isn't so, shows with headers
// before it is taken over, and without them when the file is verified.
func TestOTSUpgradeWrongAnswer(t *testing.T) {
	t.Parallel()
	h, c := newOTSHarness(t)
	file, proof := h.pending("a.txt", "hello", c)
	before := h.read("a.txt.ots")
	c.anchor()
	wrong := says(200, string(c.rest(make([]byte, 44), "another", 1)))
	upgrade := []string{"ots", "upgrade", proof, "--calendar", c.url}
	h.headers()
	n := newNode(t, h.s.chain)
	for _, checked := range [][]string{{"--headers", h.path("headers.bin")}, n.flags()} {
		c.fail(wrong)
		h.expect(exitRefuted, append(upgrade, checked...), "never was in this chain")
		if !bytes.Equal(h.read("a.txt.ots"), before) || h.exists("a.txt.ots.bak") {
			t.Fatal("a wrong answer was taken over")
		}
	}
	c.fail(wrong)
	h.expect(exitOK, upgrade, "complete: in Bitcoin block 1 (verify it")
	h.expect(exitRefuted, []string{"ots", "verify", file, proof, "--headers", h.path("headers.bin")}, "REFUTED")
	if err := os.Rename(proof+".bak", proof); err != nil {
		t.Fatal(err)
	}
	h.expect(exitOK, append(upgrade, "--headers", h.path("headers.bin")))
	h.expect(exitOK, []string{"ots", "verify", file, proof, "--headers", h.path("headers.bin")}, "HOLDS")
	h.write("a.txt.ots", before)
	h.expect(exitUsage, append(upgrade, "--headers", h.path("none")), "none")
	h.expect(exitUsage, append(upgrade, "--headers", h.path("headers.bin"), "--pin", "1:"+strings.Repeat("00", 32)), "is pinned there")
	h.expect(exitUsage, append(upgrade, "--pin", "x"), "--pin")
	h.expect(exitUsage, append(upgrade, "--node", "http://127.0.0.1:1"), "not available")
}

// One calendar of two is enough, and one file that waits doesn't keep others back.
func TestOTSUpgradeSeveral(t *testing.T) {
	t.Parallel()
	h, c := newOTSHarness(t)
	late := newCalendar(t, h.s.chain)
	_, both := h.pending("both.txt", "both", c, late)
	_, waits := h.pending("waits.txt", "waits", late)
	_, done := h.pending("done.txt", "done", c)
	foreign := h.write("foreign.ots", bytes.Replace(h.read("waits.txt.ots"), []byte("127.0.0.1"), []byte("127.9.9.9"), 1))
	c.anchor()
	upgrade := []string{"ots", "upgrade", "--calendar", c.url, "--calendar", late.url}
	r := h.expect(exitNotYet, append(upgrade, waits, both, done), "waits.txt.ots: pending at "+late.url, "both.txt.ots: complete: in Bitcoin block 1", "; pending at "+late.url, "done.txt.ots: complete: in Bitcoin block 2")
	if strings.Count(r.out, "\n") != 3 {
		t.Errorf("printed %s", r.out)
	}
	h.expect(exitOK, append(upgrade, both), "Pending confirmation")
	first := h.read("both.txt.ots.bak")
	late.fail(cutOff)
	h.expect(exitOK, append(upgrade, both), late.url)
	late.anchor()
	h.expect(exitOK, append(upgrade, both, waits), "both.txt.ots: complete: in Bitcoin block 1, 8")
	if !bytes.Equal(h.read("both.txt.ots.bak"), first) {
		t.Error("the copy of the file before the first upgrade is lost")
	}
	late.requests()
	h.expect(exitNotYet, append(upgrade, foreign), "which isn't asked: give --calendar http://127.9.9.9")
	h.expect(exitNotYet, []string{"ots", "upgrade", foreign}, "which isn't asked")
	if got := late.requests(); len(got) != 0 {
		t.Errorf("asked %q", got)
	}
	h.expect(exitRefuted, append(upgrade, h.write("broken.ots", []byte("PK")), done), "broken.ots: read OpenTimestamps file", "done.txt.ots: complete")
	h.expect(exitUsage, append(upgrade, h.path("none.ots"), done), "none.ots", "done.txt.ots: complete")
	h.expect(exitUsage, append(upgrade, done, "--calendar", "x"), "--calendar x")
	h.expect(exitUsage, append(upgrade, done, "--server", "x"), "--server")
	litecoin := h.write("litecoin.ots", append(bytes.Clone(h.read("done.txt.ots")[:65]), "\x00\x06\x86\x9a\x0d\x73\xd7\x1b\x45\x01\x05"...))
	h.expect(exitUsage, append(upgrade, litecoin), "no calendar to ask")
}

// The calendar of the service that a user has set may be asked.
func TestOTSUpgradeOfOwnService(t *testing.T) {
	t.Parallel()
	h, c := newOTSHarness(t)
	_, proof := h.pending("a.txt", "hello", c)
	c.anchor()
	h.expect(exitNotYet, []string{"ots", "upgrade", proof})
	h.env["CALPE_SERVER"] = h.s.url // on the same host
	h.expect(exitOK, []string{"ots", "upgrade", proof}, "complete")
}

// A hostile file with thousands of pending attestations doesn't make a flood.
func TestOTSUpgradeAsksAFew(t *testing.T) {
	t.Parallel()
	h, c := newOTSHarness(t)
	a, err := ots.PendingAt(c.url)
	if err != nil {
		t.Fatal(err)
	}
	digest := make([]byte, 32)
	var all ots.Timestamp
	for i := range 100 {
		one, err := ots.NewTimestamp(digest, []ots.Op{{Tag: ots.Append, Arg: strings.Repeat("x", 11) + string(rune('0'+i))}}, a)
		if i == 0 {
			all = one
		} else if err == nil {
			all, err = all.Merge(one)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	f, err := ots.NewDetachedFile(ots.SHA256, all)
	if err != nil {
		t.Fatal(err)
	}
	data, err := f.Serialize()
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		c.fail(says(404, "Not found"))
	}
	h.expect(exitNotYet, []string{"ots", "upgrade", h.write("many.ots", data), "--calendar", c.url})
	if got := len(c.requests()); got != maxQuestions {
		t.Errorf("%d requests", got)
	}
}

func golden(t *testing.T, h *harness) (file, proof string) {
	t.Helper()
	for _, name := range []string{"hello-world.txt", "hello-world.txt.ots"} {
		data, err := os.ReadFile(filepath.Join("testdata", "ots", name))
		if err != nil {
			t.Fatal(err)
		}
		h.write(name, data)
	}
	return h.path("hello-world.txt"), h.path("hello-world.txt.ots")
}

// The reference's oldest example: its root is that of mainnet's block 358391.
func TestOTSInfo(t *testing.T) {
	t.Parallel()
	h, c := newOTSHarness(t)
	_, proof := golden(t, h)
	const root = "8a1b66ecb7cbd07d8139a7e7d7f2c41aab1f5009b8364aaf61d03ad245e47e00"
	h.expect(exitOK, []string{"ots", "info", proof}, "sha256 03ba204e50d126e4674c005e04d82e84c21366780af1f43bd54a37816b6ab340\nripemd160\nprepend 0100000001e482f9d3",
		"\nBitcoin block 358391\n", "  Bitcoin block 358391 has the Merkle root "+root)
	var got otsInfo
	read := func(path string) {
		t.Helper()
		var m struct {
			Hash, Digest string
			Complete     bool
			Attestations []struct {
				Attestation, Message, Calendar string
				Height                         *uint64
				Root                           string `json:"merkle_root"`
			}
			Pending   []string
			Timestamp struct {
				Operations, Attestations []string
				Branches                 []any
			}
		}
		r := h.expect(exitOK, []string{"ots", "info", "--json", path})
		if err := json.Unmarshal([]byte(r.out), &m); err != nil {
			t.Fatal(err)
		}
		got = otsInfo{Hash: m.Hash, Digest: m.Digest, Complete: m.Complete, Pending: m.Pending}
		if m.Complete && (len(m.Attestations) != 1 || *m.Attestations[0].Height != 358391 || m.Attestations[0].Root != root || len(m.Timestamp.Operations) < 20) {
			t.Errorf("%+v", m)
		}
		if !m.Complete && (m.Attestations[0].Calendar != m.Pending[0] || len(m.Attestations[0].Message) != 88 || m.Timestamp.Attestations[0] != "pending at "+m.Pending[0]) {
			t.Errorf("%+v", m)
		}
	}
	read(proof)
	if !got.Complete || got.Hash != "sha256" || !strings.HasPrefix(got.Digest, "03ba204e") || got.Pending != nil {
		t.Errorf("%+v", got)
	}
	_, pending := h.pending("a.txt", "hello", c)
	h.expect(exitOK, []string{"ots", "info", pending}, "the calendar "+c.url+" has taken it", "Incomplete: no Bitcoin block yet.", "Not answered yet: "+c.url)
	read(pending)
	if got.Complete || len(got.Pending) != 1 {
		t.Errorf("%+v", got)
	}
	strange := h.write("strange.ots", append(bytes.Clone(h.read("a.txt.ots")[:65]), "\xff\x00\x1b[2J....\x03\x1b[m\xf0\x01x\x00\x05\x88\x96\x0d\x73\xd7\x19\x01\x01\x05"...))
	r := h.expect(exitOK, []string{"ots", "info", strange}, "unknown notary 1b5b324a2e2e2e2e, 3 bytes: nothing that this program can verify", "Bitcoin block 5, which can't hold: a Merkle root has 32 bytes, not 33")
	if strings.Contains(r.out, "\x1b") {
		t.Errorf("printed %q", r.out)
	}
	h.expect(exitRefuted, []string{"ots", "info", h.write("x", []byte("{}"))}, "not an OpenTimestamps file")
	h.expect(exitUsage, []string{"ots", "info", h.path("none")}, "none")
	h.expect(exitUsage, []string{"ots", "info", h.write("huge", make([]byte, ots.MaxFile+1))}, "more than")
}

func TestOTSMergeRefuses(t *testing.T) {
	t.Parallel()
	h, c := newOTSHarness(t)
	_, a := h.pending("a.txt", "a", c)
	_, b := h.pending("b.txt", "b", c)
	out := h.path("out.ots")
	h.expect(exitUsage, []string{"ots", "merge", a, b, "-o", out}, "different documents")
	h.expect(exitUsage, []string{"ots", "merge", a, "-o", out}, "at least two")
	h.expect(exitUsage, []string{"ots", "merge", a, b}, "--output")
	h.expect(exitUsage, []string{"ots", "merge", a, a, "-o", b}, "exists")
	h.expect(exitRefuted, []string{"ots", "merge", a, h.path("b.txt"), "-o", out}, "not an OpenTimestamps file")
	h.expect(exitRefuted, []string{"ots", "merge", h.path("b.txt"), a, "-o", out}, "not an OpenTimestamps file")
	if h.exists("out.ots") {
		t.Error("something was written")
	}
	h.expect(exitOK, []string{"ots", "merge", a, a, "-o", out})
	if !bytes.Equal(h.read("out.ots"), h.read("a.txt.ots")) {
		t.Error("a file with itself is another")
	}
}

func TestOTSVerify(t *testing.T) {
	t.Parallel()
	type setup = func(h *harness)
	nothing := func(*harness) {}
	digest := sha256.Sum256([]byte("hello"))
	hexDigest := hex.EncodeToString(digest[:])
	for name, tc := range map[string]struct {
		setup setup
		args  []string
		code  int
		text  string
	}{
		"holds":                 {nothing, []string{"a.txt", "a.txt.ots"}, exitOK, "Answer: HOLDS"},
		"deep enough":           {nothing, []string{"a.txt", "a.txt.ots", "--depth", "6"}, exitOK, "HOLDS"},
		"not deep":              {nothing, []string{"a.txt", "a.txt.ots", "--confirmations", "7"}, exitNotYet, "6 of the 7 blocks deep"},
		"digest":                {nothing, []string{"--digest", hexDigest, "a.txt.ots"}, exitOK, hexDigest + " with"},
		"upper-case digest":     {nothing, []string{"--digest", strings.ToUpper(hexDigest), "a.txt.ots"}, exitOK, "HOLDS"},
		"another digest":        {nothing, []string{"--digest", strings.Repeat("0", 64), "a.txt.ots"}, exitRefuted, "another document"},
		"another document":      {func(h *harness) { h.write("a.txt", []byte("hallo")) }, []string{"a.txt", "a.txt.ots"}, exitRefuted, "another document"},
		"short digest":          {nothing, []string{"--digest", "00", "a.txt.ots"}, exitUsage, "sha256 of 64"},
		"no digest":             {nothing, []string{"--digest", strings.Repeat("x", 64), "a.txt.ots"}, exitUsage, "hexadecimal"},
		"digest and document":   {nothing, []string{"--digest", hexDigest, "a.txt", "a.txt.ots"}, exitUsage, "give the document"},
		"no proof":              {nothing, []string{"a.txt"}, exitUsage, "give the document"},
		"nothing":               {nothing, nil, exitUsage, "file"},
		"depth 0":               {nothing, []string{"a.txt", "a.txt.ots", "--depth", "0"}, exitUsage, "--depth"},
		"no headers":            {func(h *harness) { h.env["CALPE_HEADERS"] = "" }, []string{"a.txt", "a.txt.ots"}, exitUsage, "calpe headers --node"},
		"no header file":        {func(h *harness) { h.env["CALPE_HEADERS"] = h.path("none") }, []string{"a.txt", "a.txt.ots"}, exitUsage, "none"},
		"no document":           {nothing, []string{"none", "a.txt.ots"}, exitUsage, "none"},
		"no file":               {nothing, []string{"a.txt", "none.ots"}, exitUsage, "none.ots"},
		"huge":                  {func(h *harness) { h.write("a.txt.ots", make([]byte, ots.MaxFile+1)) }, []string{"a.txt", "a.txt.ots"}, exitUsage, "more than"},
		"not a file of this":    {func(h *harness) { h.write("a.txt.ots", []byte("\x1b")) }, []string{"a.txt", "a.txt.ots"}, exitRefuted, "can be read"},
		"cut":                   {func(h *harness) { h.write("a.txt.ots", h.read("a.txt.ots")[:90]) }, []string{"a.txt", "a.txt.ots"}, exitRefuted, "end too early"},
		"trailing":              {func(h *harness) { h.write("a.txt.ots", append(h.read("a.txt.ots"), 0)) }, []string{"a.txt", "a.txt.ots"}, exitRefuted, "follow the end"},
		"pending":               {func(h *harness) { h.write("a.txt.ots", h.read("a.txt.ots.bak")) }, []string{"a.txt", "a.txt.ots"}, exitNotYet, "NOT YET"},
		"another chain":         {func(h *harness) { c := newChain(h.t); c.mine(10, 9); h.write("headers.bin", c.file()) }, []string{"a.txt", "a.txt.ots"}, exitRefuted, "reorganised away"},
		"headers end before it": {func(h *harness) { h.write("headers.bin", h.s.chain.raw[0]) }, []string{"a.txt", "a.txt.ots"}, exitNotYet, "fetch newer ones"},
		"Litecoin alone": {func(h *harness) {
			h.write("a.txt.ots", append(h.read("a.txt.ots")[:65], "\x00\x06\x86\x9a\x0d\x73\xd7\x1b\x45\x01\x05"...))
		}, []string{"a.txt", "a.txt.ots"}, exitRefuted, "NOT ASKED"},
		"another block pinned":   {nothing, []string{"a.txt", "a.txt.ots", "--pin", "1:" + strings.Repeat("00", 32)}, exitUsage, "is pinned there"},
		"pinned, for verify":     {nothing, []string{"verify", "a.txt", "a.txt.ots", "--pin", "1:" + strings.Repeat("00", 32)}, exitUsage, "is pinned there"},
		"more work, for verify":  {nothing, []string{"verify", "a.txt", "a.txt.ots", "--min-work", "ffff"}, exitUsage, "asked for (--min-work)"},
		"bad pin":                {nothing, []string{"a.txt", "a.txt.ots", "--pin", "x"}, exitUsage, "--pin"},
		"in place of a receipt":  {nothing, []string{"verify", "a.txt", "a.txt.ots"}, exitOK, "Answer: HOLDS (asked: existence)"},
		"for existence":          {nothing, []string{"verify", "a.txt", "a.txt.ots", "--require", "existence", "--depth", "7"}, exitNotYet, "6 of the 7"},
		"for more than it shows": {nothing, []string{"verify", "a.txt", "a.txt.ots", "--require", "log"}, exitUsage, "proves existence alone"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h, c := newOTSHarness(t)
			_, proof := h.pending("a.txt", "hello", c)
			c.anchor()
			h.expect(exitOK, []string{"ots", "upgrade", proof, "--calendar", c.url})
			c.requests()
			h.env["CALPE_HEADERS"] = h.headers()
			tc.setup(h)
			args := []string{"ots", "verify"}
			if len(tc.args) > 0 && tc.args[0] == "verify" {
				args = nil
			}
			for _, arg := range tc.args {
				if strings.HasSuffix(arg, ".txt") || strings.HasSuffix(arg, ".ots") || arg == "none" {
					arg = h.path(arg)
				}
				args = append(args, arg)
			}
			h.expect(tc.code, args, tc.text)
			if len(c.requests()) != 0 || len(h.s.requests) != 0 {
				t.Error("verify asked a calendar or the service")
			}
		})
	}
}

func TestOTSVerifyWithNode(t *testing.T) {
	t.Parallel()
	h, c := newOTSHarness(t)
	file, proof := h.pending("a.txt", "hello", c)
	n := newNode(t, h.s.chain)
	verify := append([]string{"ots", "verify", file, proof}, n.flags()...)
	h.expect(exitNotYet, verify, "NOT YET")
	if calls := n.asked(); calls != 0 {
		t.Errorf("the node was asked %d times of a file that has no block", calls)
	}
	c.anchor()
	h.expect(exitOK, []string{"ots", "upgrade", proof, "--calendar", c.url})
	h.expect(exitOK, verify, "HOLDS")
	h.expect(exitUsage, []string{"ots", "verify", file, proof, "--node", "http://127.0.0.1:1"}, "not available")
	h.stdin = "hello"
	h.expect(exitOK, append([]string{"ots", "verify", "-", proof}, n.flags()...), "HOLDS")

	var got struct {
		Asked  []string
		Answer string
		Report struct {
			Existed      struct{ Status string }
			Block        struct{ Height int }
			Attestations []struct{ Attestation, Status string }
		}
	}
	r := h.expect(exitOK, append(verify, "--json"))
	if err := json.Unmarshal([]byte(r.out), &got); err != nil || got.Answer != "holds" || len(got.Asked) != 1 || got.Asked[0] != "existence" ||
		got.Report.Existed.Status != "holds" || got.Report.Block.Height != 1 || len(got.Report.Attestations) != 2 {
		t.Errorf("%+v, %v in %s", got, err, r.out)
	}
}

// Foreign files: by a hash that is never written here.
func TestOTSVerifyForeignHash(t *testing.T) {
	t.Parallel()
	h, _ := newOTSHarness(t)
	file := h.write("a.txt", []byte("hello"))
	for hash, name := range map[ots.Tag]string{ots.SHA1: "sha1", ots.RIPEMD160: "ripemd160", ots.Keccak256: "keccak256"} {
		sum := hash.NewHash()
		sum.Write([]byte("hello"))
		digest := sum.Sum(nil)
		root := sha256.Sum256(digest)
		h.s.chain.add(root)
		ts, err := ots.NewTimestamp(digest, []ots.Op{{Tag: ots.SHA256}}, ots.BitcoinBlock(uint64(h.s.chain.tip())))
		if err != nil {
			t.Fatal(err)
		}
		f, err := ots.NewDetachedFile(hash, ts)
		if err != nil {
			t.Fatal(err)
		}
		data, err := f.Serialize()
		if err != nil {
			t.Fatal(err)
		}
		proof := h.write(name+".ots", data)
		h.headers()
		h.expect(exitOK, []string{"ots", "verify", file, proof, "--headers", h.path("headers.bin"), "--depth", "1"}, "HOLDS")
		h.expect(exitOK, []string{"ots", "info", proof}, name+" "+hex.EncodeToString(digest))
		h.expect(exitUsage, []string{"ots", "verify", "--digest", strings.Repeat("0", 63), proof, "--headers", h.path("headers.bin")}, name)
	}
}

// A receipt as a .ots file holds as the receipt does, and says less.
func TestOTSExport(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	file := h.write("a.txt", []byte("hello"))
	receiptFile := file + ".receipt.json"
	h.expect(exitOK, []string{"upload", file})
	export := []string{"ots", "export", receiptFile}
	h.expect(exitNotYet, export, "it isn't anchored", "calpe receipt")
	h.expect(exitUsage, append(export, "--calendar", "https://ots.example?x"), "--calendar")
	h.expect(exitUsage, append(export, "--calendar", "ots.example"), "--calendar")
	h.expect(exitOK, append(export, "--calendar", "https://ots.example", "-o", h.path("pending.ots")), "pending at https://ots.example")
	if h.exists("a.txt.ots") || len(h.ots("pending.ots").Digest()) != 32 {
		t.Errorf("files are %s", h.files())
	}
	h.onWait = h.s.advance
	h.expect(exitOK, []string{"receipt", receiptFile, "--wait", "final"})
	n := len(h.s.requests)
	h.expect(exitOK, export, "a.txt.ots: complete: in Bitcoin block 1", "no evidential value")
	h.expect(exitUsage, export, "a.txt.ots exists")
	h.expect(exitOK, []string{"ots", "verify", file, file + ".ots", "--headers", h.headers()}, "HOLDS", "in block 1 of regtest")
	// What was pending and what is complete are one line.
	h.expect(exitOK, []string{"ots", "merge", h.path("pending.ots"), file + ".ots", "-o", h.path("merged.ots")}, "complete: in Bitcoin block 1 (verify it with \"calpe ots verify\")\n")
	h.edit("a.txt.receipt.json", func(m map[string]any) { m["salt"] = flip(m["salt"]) })
	h.expect(exitRefuted, append(export, "-o", h.path("x.ots")), "a.txt.receipt.json: refused: ")
	h.expect(exitUsage, []string{"ots", "export", file, "-o", h.path("x.ots")}, "a.txt can't be read as a receipt")
	h.expect(exitUsage, []string{"ots", "export", h.path("none"), "-o", h.path("x.ots")}, "none")
	if h.exists("x.ots") || len(h.s.requests) != n {
		t.Error("something was written or asked")
	}
}
