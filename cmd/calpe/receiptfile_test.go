package main

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/statement"
)

// certified uploads a document with a certification.
func (h *harness) certified(name string) (file, receiptFile string) {
	h.t.Helper()
	key := h.s.register("altea")
	h.write("altea.key", []byte(key.Secret()))
	file = h.write(name, []byte("a birth"))
	h.expect(exitOK, []string{"certify", file, "--agency", "altea", "--key", h.path("altea.key"), "--type", "birth certificate",
		"--subject", "RC/2026/17", "--issued", "2026-11-20"})
	h.expect(exitOK, []string{"upload", file, "--certification", file + ".certification.json"})
	return file, file + ".receipt.json"
}

// The receipt is brought from one state to the next by the public part alone.
func TestReceiptFollowsTheLog(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"plain", "certified"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			path := h.path("a.txt.receipt.json")
			if kind == "plain" {
				h.expect(exitOK, []string{"upload", h.write("a.txt", []byte("hello"))})
			} else {
				h.certified("a.txt")
			}
			delete(h.env, "CALPE_TOKEN")
			// Entries of others come in between, so that the trees grow.
			other := func() { h.s.mu.Lock(); h.s.record(calpe.Commitment{1}, calpe.Commitment{2}); h.s.mu.Unlock() }
			steps := []struct {
				state    string
				evidence int
				do       func()
			}{
				{"received", 0, func() {}}, {"checkpointed", 1, func() { other(); h.s.checkpoint() }},
				{"checkpointed", 1, func() { other(); h.s.checkpoint() }}, {"confirmed", 2, func() { other(); h.s.anchor() }},
				{"final", 2, func() { other(); h.s.anchor(); h.s.mine(5) }},
			}
			for _, step := range steps {
				step.do()
				h.expect(exitOK, []string{"receipt", path}, ", "+step.state)
				if got := evidence(h.receipt("a.txt.receipt.json")); got != step.evidence {
					t.Fatalf("%s: receipt has the evidence %d, want %d", step.state, got, step.evidence)
				}
			}
			h.expect(exitOK, []string{"verify", h.path("a.txt"), path, "--headers", h.headers()})
			for _, req := range h.s.requests {
				if strings.HasPrefix(req.path, "/v1/entries") && (req.header.Get("Authorization") != "" || req.method != http.MethodGet) {
					t.Errorf("%s %s was sent with a token", req.method, req.path)
				}
			}
		})
	}
}

// Without a pinned identity the receipt itself says which one it must be.
func TestReceiptPinsTheIdentityItself(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.expect(exitOK, []string{"upload", h.write("a.txt", []byte("hello"))})
	delete(h.env, "CALPE_IDENTITY")
	h.s.checkpoint()
	h.expect(exitOK, []string{"receipt", h.path("a.txt.receipt.json")}, "checkpointed")

	before := h.read("a.txt.receipt.json")
	h.env["CALPE_SERVER"] = newService(t).url
	h.expect(exitRefuted, []string{"receipt", h.path("a.txt.receipt.json")}, "it is from the log")
	if diff := cmp.Diff(string(before), string(h.read("a.txt.receipt.json"))); diff != "" {
		t.Error(diff)
	}
}

// What the service shows is checked before a byte is written.
func TestReceiptRefusesWrongProofs(t *testing.T) {
	t.Parallel()
	resigned := func(h *harness, size uint64, root calpe.Hash, key statement.Key) string {
		note, err := receipt.SignCheckpoint(key, testOrigin, size, root)
		if err != nil {
			h.t.Fatal(err)
		}
		return string(note)
	}
	for name, tc := range map[string]struct {
		change func(h *harness, m map[string]any)
		code   int
		text   string
	}{
		"another commitment": {func(_ *harness, m map[string]any) { m["commitment"] = strings.Repeat("11", 32) }, exitRefuted, "keep the receipt"},
		"another index":      {func(_ *harness, m map[string]any) { m["index"] = 0 }, exitRefuted, "keep the receipt"},
		"wrong path": {func(_ *harness, m map[string]any) { m["path"] = base64.StdEncoding.EncodeToString(make([]byte, 32)) },
			exitRefuted, "doesn't hold"},
		"long path": {func(_ *harness, m map[string]any) { m["path"] = base64.StdEncoding.EncodeToString(make([]byte, 64)) },
			exitRefuted, "doesn't hold"},
		"checkpoint of another key": {func(h *harness, m map[string]any) {
			_, cp, _ := receipt.ReadCheckpoint([]byte(m["checkpoint"].(string)))
			m["checkpoint"] = resigned(h, cp.Size, cp.Root, newKey(h.t, testOrigin))
		}, exitRefuted, "checkpoint"},
		"checkpoint of another root": {func(h *harness, m map[string]any) {
			_, cp, _ := receipt.ReadCheckpoint([]byte(m["checkpoint"].(string)))
			m["checkpoint"] = resigned(h, cp.Size, calpe.Hash{1}, h.s.checkpointKey)
		}, exitRefuted, "doesn't hold"},
		"checkpoint below it": {func(h *harness, m map[string]any) { m["checkpoint"] = resigned(h, 1, calpe.Hash{1}, h.s.checkpointKey) },
			exitRefuted, "size"},
		"checkpoint that is none": {func(_ *harness, m map[string]any) { m["checkpoint"] = "hello" }, exitRefuted, "checkpoint"},
		"anchor of other network": {func(_ *harness, m map[string]any) { m["anchor"].(map[string]any)["network"] = "mainnet" },
			exitRefuted, "mainnet"},
		"anchor with other transaction": {func(_ *harness, m map[string]any) {
			a := m["anchor"].(map[string]any)
			a["transaction"] = a["coinbase"]
		}, exitRefuted, "doesn't hold"},
		"anchor without header": {func(_ *harness, m map[string]any) { m["anchor"].(map[string]any)["header"] = "" }, exitRefuted, "header"},
		"no path":               {func(_ *harness, m map[string]any) { delete(m, "path") }, exitUsage, "go together"},
		"no checkpoint":         {func(_ *harness, m map[string]any) { delete(m, "checkpoint"); delete(m, "path") }, exitUsage, "go together"},
		"unknown state":         {func(_ *harness, m map[string]any) { m["state"] = "done" }, exitUsage, "can't be read"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			h.expect(exitOK, []string{"upload", h.write("a.txt", []byte("hello"))})
			before := h.read("a.txt.receipt.json")
			h.s.anchor()
			h.s.fail("/v1/entries", alteringJSON(t, func(m map[string]any) { tc.change(h, m) }))
			h.expect(tc.code, []string{"receipt", h.path("a.txt.receipt.json")}, tc.text)
			if diff := cmp.Diff(string(before), string(h.read("a.txt.receipt.json"))); diff != "" {
				t.Errorf("the receipt was changed: %s", diff)
			}
			h.expect(exitOK, []string{"receipt", h.path("a.txt.receipt.json")}, "confirmed")
		})
	}
}

// The same for the entries of a certification, which are asked for after the
// last one.
func TestReceiptRefusesWrongProofsOfCertification(t *testing.T) {
	t.Parallel()
	for _, nth := range []int{0, 1, 2} {
		h := newHarness(t)
		_, path := h.certified("a.txt")
		h.s.anchor()
		good := altering(func(b []byte) []byte { return b })
		for range nth {
			h.s.fail("/v1/entries", good)
		}
		h.s.fail("/v1/entries", alteringJSON(t, func(m map[string]any) {
			m["path"] = base64.StdEncoding.EncodeToString(make([]byte, 64))
		}))
		before := h.read("a.txt.receipt.json")
		h.expect(exitRefuted, []string{"receipt", path}, "doesn't hold")
		if diff := cmp.Diff(string(before), string(h.read("a.txt.receipt.json"))); diff != "" {
			t.Errorf("answer %d: the receipt was changed: %s", nth, diff)
		}
	}
}

// Evidence is never given up.
func TestReceiptNeverGetsWorse(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.expect(exitOK, []string{"upload", h.write("a.txt", []byte("hello"))})
	path := h.path("a.txt.receipt.json")
	h.s.anchor()
	h.expect(exitOK, []string{"receipt", path}, "confirmed")
	anchored := h.read("a.txt.receipt.json")

	// The block is reorganised away: the service shows a checkpoint only.
	h.s.anchors, h.s.chain.raw = map[uint64]*receipt.Anchor{}, h.s.chain.raw[:1]
	h.expect(exitOK, []string{"receipt", path}, "stays as it is", "reorganised")
	if diff := cmp.Diff(string(anchored), string(h.read("a.txt.receipt.json"))); diff != "" {
		t.Error(diff)
	}
	h.expect(exitNotYet, []string{"receipt", path, "--wait", "confirmed", "--timeout", "1ns"}, "not yet")

	// The anchor comes into another block: the receipt follows, and the former one is kept.
	h.s.mine(3)
	h.s.anchor()
	h.expect(exitOK, []string{"receipt", path}, "block 4", "kept")
	if diff := cmp.Diff(string(anchored), string(h.read("a.txt.receipt.json.former"))); diff != "" {
		t.Error(diff)
	}
	h.onWait = h.s.advance
	h.expect(exitOK, []string{"receipt", path, "--wait", "final"}, "final")
	h.expect(exitOK, []string{"verify", h.path("a.txt"), path, "--headers", h.headers()})
	h.expect(exitRefuted, []string{"verify", h.path("a.txt"), path + ".former", "--headers", h.headers()}, "reorganised away")
}

// While waiting, a service that is down for a time is waited for.
func TestReceiptWaitsThroughAnOutage(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.expect(exitOK, []string{"upload", h.write("a.txt", []byte("hello"))})
	for range maxAttempts + 2 {
		h.s.fail("/v1/entries", refusing(503, calpe.CodeUnavailable))
	}
	h.onWait = h.s.advance
	h.expect(exitOK, []string{"receipt", h.path("a.txt.receipt.json"), "--wait", "final"}, "final")

	// What is wrong isn't waited for.
	h.expect(exitOK, []string{"upload", h.write("b.txt", []byte("hello b"))})
	h.s.fail("/v1/entries", refusing(404, calpe.CodeNotFound))
	waits := len(h.waits)
	h.expect(exitUsage, []string{"receipt", h.path("b.txt.receipt.json"), "--wait", "final"}, "not-found")
	if len(h.waits) != waits {
		t.Error("it waited")
	}
}

func TestReceiptUsage(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.expect(exitUsage, []string{"receipt"}, "receipt")
	h.expect(exitUsage, []string{"receipt", h.path("none")}, "none")
	h.expect(exitUsage, []string{"receipt", h.write("bad.json", []byte(`{"type":"x"}`))}, "bad.json")
	h.expect(exitUsage, []string{"receipt", h.write("big.json", make([]byte, receipt.MaxSize+1))}, "more than")
	h.expect(exitUsage, []string{"receipt", h.path("bad.json"), "--wait", "done"}, "--wait")
}
