package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/headers"
)

// edit changes a receipt's file as JSON, with the members as they are named.
func (h *harness) edit(name string, change func(m map[string]any)) {
	h.t.Helper()
	m := map[string]any{}
	if err := json.Unmarshal(h.read(name), &m); err != nil {
		h.t.Fatal(err)
	}
	change(m)
	data, err := json.Marshal(m)
	if err != nil {
		h.t.Fatal(err)
	}
	h.write(name, data)
}

// flip changes the last hexadecimal digit of a text.
func flip(v any) string {
	text := v.(string)
	last := "0"
	if strings.HasSuffix(text, "0") {
		last = "1"
	}
	return text[:len(text)-1] + last
}

// Every exit code, each for every reason that leads to it.
func TestVerifyExitCodes(t *testing.T) {
	t.Parallel()
	type setup = func(h *harness)
	nothing := func(*harness) {}
	anchor := func(m map[string]any) map[string]any { return m["anchor"].(map[string]any) }
	edit := func(change func(m map[string]any)) setup {
		return func(h *harness) { h.edit("a.txt.receipt.json", change) }
	}
	for name, tc := range map[string]struct {
		setup setup
		args  []string
		code  int
		text  string
	}{
		"holds":                    {nothing, nil, exitOK, "Answer: HOLDS (asked: existence, log, certification)"},
		"existence alone":          {nothing, []string{"--require", "existence"}, exitOK, "(asked: existence)"},
		"all required":             {nothing, []string{"--require", "existence,log,certification"}, exitOK, "HOLDS"},
		"required one by one":      {nothing, []string{"--require", "log", "--require", "certification"}, exitOK, "(asked: log, certification)"},
		"deeper than the headers":  {nothing, []string{"--depth", "7"}, exitNotYet, "6 blocks deep, where 7 are asked for"},
		"as deep as the headers":   {nothing, []string{"--depth", "6"}, exitOK, "HOLDS"},
		"depth 1":                  {nothing, []string{"--depth", "1"}, exitOK, "HOLDS"},
		"headers end before it":    {func(h *harness) { h.write("headers.bin", h.s.chain.raw[0]) }, nil, exitNotYet, "fetch newer ones"},
		"log alone, no headers":    {func(h *harness) { h.env["CALPE_HEADERS"] = "" }, []string{"--require", "log"}, exitOK, "HOLDS"},
		"changed document":         {func(h *harness) { h.write("a.txt", []byte("a death")) }, nil, exitRefuted, "another document"},
		"longer document":          {func(h *harness) { h.write("a.txt", []byte("a birth ")) }, nil, exitRefuted, "another document"},
		"changed salt":             {edit(func(m map[string]any) { m["salt"] = flip(m["salt"]) }), nil, exitRefuted, "REFUTED"},
		"changed digest":           {edit(func(m map[string]any) { m["digest"] = flip(m["digest"]) }), nil, exitRefuted, "another document"},
		"changed index":            {edit(func(m map[string]any) { m["index"] = 0 }), nil, exitRefuted, "REFUTED"},
		"changed log":              {edit(func(m map[string]any) { m["log"] = flip(m["log"]) }), nil, exitRefuted, "REFUTED"},
		"changed path":             {edit(func(m map[string]any) { m["path"] = "" }), nil, exitRefuted, "REFUTED"},
		"changed height":           {edit(func(m map[string]any) { anchor(m)["height"] = 2 }), nil, exitRefuted, "REFUTED"},
		"changed header":           {edit(func(m map[string]any) { anchor(m)["header"] = flip(anchor(m)["header"]) }), nil, exitRefuted, "REFUTED"},
		"changed transaction":      {edit(func(m map[string]any) { anchor(m)["transaction"] = flip(anchor(m)["transaction"]) }), nil, exitRefuted, "REFUTED"},
		"changed network":          {edit(func(m map[string]any) { anchor(m)["network"] = "mainnet" }), nil, exitRefuted, "REFUTED"},
		"anchor taken out":         {edit(func(m map[string]any) { delete(m, "anchor") }), nil, exitNotYet, "no Bitcoin block holds it yet"},
		"certification taken out":  {edit(func(m map[string]any) { delete(m, "certification") }), nil, exitOK, "(asked: existence, log)"},
		"certification missed":     {edit(func(m map[string]any) { delete(m, "certification") }), []string{"--require", "certification"}, exitRefuted, "carries no certification"},
		"unknown member":           {edit(func(m map[string]any) { m["note"] = "x" }), nil, exitRefuted, "not a receipt that can be read"},
		"case-folded member":       {edit(func(m map[string]any) { m["Index"] = m["index"]; delete(m, "index") }), nil, exitRefuted, "not a receipt that can be read"},
		"not JSON":                 {func(h *harness) { h.write("a.txt.receipt.json", []byte("PK")) }, nil, exitUsage, "can't be read as a receipt"},
		"empty receipt":            {func(h *harness) { h.write("a.txt.receipt.json", nil) }, nil, exitUsage, "can't be read as a receipt"},
		"truncated receipt":        {func(h *harness) { b := h.read("a.txt.receipt.json"); h.write("a.txt.receipt.json", b[:len(b)/2]) }, nil, exitUsage, "can't be read as a receipt"},
		"an identity for receipt":  {func(h *harness) { h.write("a.txt.receipt.json", h.read("identity.json")) }, nil, exitUsage, "can't be read as a receipt"},
		"another deployment":       {func(h *harness) { h.write("identity.json", newService(h.t).id.Canonical()) }, nil, exitRefuted, "pinned identity"},
		"existence in another log": {func(h *harness) { h.write("identity.json", newService(h.t).id.Canonical()) }, []string{"--require", "existence"}, exitOK, "pinned identity"},
		"another chain": {func(h *harness) {
			c := newChain(h.t)
			c.mine(10, 9)
			h.write("headers.bin", c.file())
		}, nil, exitRefuted, "reorganised away"},
		"no identity": {func(h *harness) { h.env["CALPE_IDENTITY"] = "" }, nil, exitOK, "existence only, issuer unknown"},

		"no headers":             {func(h *harness) { h.env["CALPE_HEADERS"] = "" }, nil, exitUsage, "calpe headers --node"},
		"no header file":         {func(h *harness) { h.env["CALPE_HEADERS"] = h.path("none") }, nil, exitUsage, "none"},
		"empty header file":      {func(h *harness) { h.write("headers.bin", nil) }, nil, exitUsage, "ends within the first one"},
		"truncated header file":  {func(h *harness) { b := h.read("headers.bin"); h.write("headers.bin", b[:len(b)-1]) }, nil, exitUsage, "truncated"},
		"header file of nothing": {func(h *harness) { h.write("headers.bin", make([]byte, 800)) }, nil, exitUsage, "not a file of block headers"},
		"changed header in file": {func(h *harness) { b := h.read("headers.bin"); b[200] ^= 1; h.write("headers.bin", b) }, nil, exitUsage, "height"},
		"incomplete mainnet": {func(h *harness) {
			p, _ := headers.ParamsFor(calpe.Mainnet)
			h.write("headers.bin", p.Genesis[:])
		}, nil, exitUsage, "is incomplete"},
		"no document":        {func(h *harness) { _ = os.Remove(h.path("a.txt")) }, nil, exitUsage, "a.txt"},
		"no receipt":         {func(h *harness) { _ = os.Remove(h.path("a.txt.receipt.json")) }, nil, exitUsage, "a.txt.receipt.json"},
		"huge receipt":       {func(h *harness) { h.write("a.txt.receipt.json", make([]byte, receipt.MaxSize+1)) }, nil, exitUsage, "more than"},
		"bad identity":       {func(h *harness) { h.write("identity.json", []byte("{}")) }, nil, exitUsage, "identity"},
		"depth 0":            {nothing, []string{"--depth", "0"}, exitUsage, "--depth"},
		"unknown verdict":    {nothing, []string{"--require", "truth"}, exitUsage, "truth"},
		"unknown flag":       {nothing, []string{"--trust"}, exitUsage, "--trust"},
		"log, no identity":   {func(h *harness) { h.env["CALPE_IDENTITY"] = "" }, []string{"--require", "log"}, exitUsage, "--identity"},
		"a third argument":   {nothing, []string{"x"}, exitUsage, "unexpected"},
		"certified, unnamed": {func(h *harness) { h.env["CALPE_IDENTITY"] = "" }, []string{"--require", "certification"}, exitUsage, "--identity"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			file, path := h.certified("a.txt")
			h.onWait = h.s.advance
			h.expect(exitOK, []string{"receipt", path, "--wait", "final"})
			h.env["CALPE_HEADERS"] = h.headers()
			n := len(h.s.requests)
			tc.setup(h)
			h.expect(tc.code, append([]string{"verify", file, path}, tc.args...), tc.text)
			if len(h.s.requests) != n {
				t.Error("verify asked the service")
			}
		})
	}
}

// Arguments in the wrong order are a slip, and refute nothing.
func TestVerifySwapped(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	file, receiptFile := h.final("a.txt", "hello")
	h.expect(exitUsage, []string{"verify", receiptFile, file, "--headers", h.headers()}, "the document comes first")
	h.write("a.txt.ots", []byte("\x00OpenTimestamps\x00\x00Proof\x00\xbf\x89\xe2\xe8\x84\xe8\x92\x94\x01"))
	h.expect(exitUsage, []string{"verify", h.path("a.txt.ots"), file, "--headers", h.headers()}, "the document comes first")
	h.write("broken", []byte("{"))
	h.expect(exitUsage, []string{"verify", file, h.path("broken"), "--headers", h.headers()}, "can't be read as a receipt")
}

// The states before the anchor: not yet, and never refuted.
func TestVerifyBeforeTheAnchor(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	file := h.write("a.txt", []byte("hello"))
	h.expect(exitOK, []string{"upload", file})
	verify := []string{"verify", file, file + ".receipt.json", "--headers", h.headers()}
	h.expect(exitNotYet, verify, "promises a checkpoint by", "Answer: NOT YET")
	h.s.checkpoint()
	h.expect(exitOK, []string{"receipt", file + ".receipt.json"})
	h.expect(exitNotYet, verify, "no Bitcoin block holds it yet")
	h.expect(exitOK, append(verify, "--require", "log"), "Answer: HOLDS (asked: log)")
	h.s.anchor()
	h.expect(exitOK, []string{"receipt", file + ".receipt.json"})
	h.headers()
	h.expect(exitNotYet, verify, "1 block deep, where 6 are asked for")
}

func TestVerifyJSON(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	file, path := h.final("a.txt", "hello")
	var got struct {
		Asked  []string `json:"asked"`
		Answer string   `json:"answer"`
		Report struct {
			Existed, Certified struct{ Status, Reason string }
			InLog              struct{ Status string } `json:"in_log"`
			Origin             string
			Block              struct {
				Height int
				Test   bool
			}
		} `json:"report"`
	}
	read := func(r result) {
		t.Helper()
		if err := json.Unmarshal([]byte(r.out), &got); err != nil {
			t.Fatalf("%v in %s", err, r.out)
		}
	}
	read(h.expect(exitOK, []string{"verify", file, path, "--json", "--headers", h.headers()}))
	if got.Answer != "holds" || len(got.Asked) != 2 || got.Report.Existed.Status != "holds" || got.Report.InLog.Status != "holds" ||
		got.Report.Certified.Reason != "no-certification" || got.Report.Origin != testOrigin || got.Report.Block.Height != 1 || !got.Report.Block.Test {
		t.Errorf("report is %+v", got)
	}
	h.write("a.txt", []byte("hallo"))
	read(h.expect(exitRefuted, []string{"verify", file, path, "--json", "--headers", h.headers()}))
	if got.Answer != "refuted" || got.Report.Existed.Reason != "other-document" {
		t.Errorf("report is %+v", got)
	}
	h.edit("a.txt.receipt.json", func(m map[string]any) { m["note"] = "x" })
	read(h.expect(exitRefuted, []string{"verify", file, path, "--json", "--headers", h.headers()}))
	if got.Answer != "refuted" || got.Report.Existed.Reason != "malformed" {
		t.Errorf("report is %+v", got)
	}
	h.write("a.txt.receipt.json", []byte("{"))
	if r := h.expect(exitUsage, []string{"verify", file, path, "--json", "--headers", h.headers()}, "can't be read as a receipt"); r.out != "" {
		t.Errorf("a report on nothing: %s", r.out)
	}
}

func TestVerifyFromStandardInput(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	file, path := h.final("a.txt", "hello")
	h.headers()
	h.stdin = "hello"
	h.expect(exitOK, []string{"verify", "-", path, "--headers", h.path("headers.bin")}, "HOLDS")
	h.stdin = string(h.read("a.txt.receipt.json"))
	h.expect(exitOK, []string{"verify", file, "-", "--headers", h.path("headers.bin")}, "HOLDS")
	h.expect(exitUsage, []string{"verify", "-", "-", "--headers", h.path("headers.bin")}, "only one")
}

// A terminal must not be driven by a receipt's words.
func TestVerifyPrintsNoControlCharacters(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	file, path := h.final("a.txt", "hello")
	for member, code := range map[string]int{"log": exitRefuted, "type": exitUsage} {
		h.edit("a.txt.receipt.json", func(m map[string]any) { m[member] = "\x1b[2J\u202e" })
		r := h.expect(code, []string{"verify", file, path, "--headers", h.headers()})
		if strings.ContainsAny(r.out+r.err, "\x1b\u202e") {
			t.Errorf("%s: printed %q", member, r.out+r.err)
		}
	}
}

// A node instead of a file gives the same answers; its headers are checked.
func TestVerifyWithNode(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	file, path := h.final("a.txt", "hello")
	n := newNode(t, h.s.chain.clone())
	verify := append([]string{"verify", file, path}, n.flags()...)
	h.expect(exitOK, verify, "HOLDS")
	h.expect(exitNotYet, append(verify, "--depth", "7"), "6 blocks deep")

	n.change(func() { n.chain = newChain(t).fork(0, 10, 9) })
	h.expect(exitRefuted, verify, "reorganised away")

	// A header with less work than its network demands.
	easy := h.s.chain.clone()
	easy.raw[2] = bytes.Clone(easy.raw[2])
	for easy.raw[2][76] = 0; ; easy.raw[2][76]++ {
		if parsed, err := headers.Parse(easy.raw[2]); err == nil && parsed.Hash[31] >= 0x80 {
			break
		}
	}
	n.change(func() { n.chain = easy })
	h.expect(exitUsage, verify, "fetch the header at height 2")

	n.change(func() { n.chain = &testChain{t, [][]byte{make([]byte, 80)}} })
	h.expect(exitUsage, verify, "genesis block of no network")
	h.expect(exitUsage, []string{"verify", file, path, "--node", n.url}, "credentials")
	h.expect(exitUsage, []string{"verify", file, path, "--node", "http://127.0.0.1:1"}, "not available")
	h.expect(exitUsage, []string{"verify", file, path, "--node", "127.0.0.1"}, "http://host:port")
	h.expect(exitUsage, append(verify, "--cookie-file", file), "give one of them")

	// A mainnet node that has only begun to sync.
	p, err := headers.ParamsFor(calpe.Mainnet)
	if err != nil {
		t.Fatal(err)
	}
	n.change(func() { n.chain = &testChain{t, [][]byte{p.Genesis[:]}} })
	h.expect(exitUsage, verify, "still syncing")
}

func TestNodeCredentials(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	file, path := h.final("a.txt", "hello")
	n := newNode(t, h.s.chain.clone())
	verify := []string{"verify", file, path, "--node"}
	cookie := h.write("cookie", []byte("rpc:geheim\n"))
	password := h.write("password", []byte("geheim\n"))
	inURL := strings.Replace(n.url, "http://", "http://rpc:geheim@", 1)
	h.expect(exitOK, append(verify, n.url, "--cookie-file", cookie))
	h.expect(exitOK, append(verify, n.url, "--rpc-user", "rpc", "--rpc-password-file", password))
	h.expect(exitOK, append(verify, inURL))
	h.expect(exitUsage, append(verify, inURL+"/%"), "can't be read")
	h.expect(exitUsage, append(verify, n.url, "--rpc-user", "rpc", "--rpc-password", "geheim", "--rpc-password-file", password), "twice")
	h.expect(exitUsage, append(verify, n.url, "--rpc-user", "rpc", "--rpc-password-file", h.path("none")), "none")
	h.env["CALPE_NODE"], h.env["CALPE_NODE_USER"], h.env["CALPE_NODE_PASSWORD"] = n.url, "rpc", "geheim"
	h.expect(exitOK, []string{"verify", file, path})
}

// Nothing is asked of a node for a receipt that has no block yet.
func TestVerifyAsksNoNodeWithoutAnchor(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	file := h.write("a.txt", []byte("hello"))
	h.expect(exitOK, []string{"upload", file})
	n := newNode(t, h.s.chain)
	h.expect(exitNotYet, append([]string{"verify", file, file + ".receipt.json"}, n.flags()...))
	if calls := n.asked(); calls != 0 {
		t.Errorf("the node was asked %d times", calls)
	}
}
