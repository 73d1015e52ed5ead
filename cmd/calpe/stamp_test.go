package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt/statement"
)

// Only the commitment leaves: neither the digest nor the salt is in any byte of
// any request, and both are durable before the first of them.
func TestStampSendsTheCommitmentAlone(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	content := []byte("a secret will")
	digest := calpe.Digest(sha256.Sum256(content))
	var saved pending
	h.s.fail("/v1/commitments", func(s *fakeService, w http.ResponseWriter, r *http.Request) {
		if err := statement.Decode(h.read("will.txt.stamp-pending.json"), &saved); err != nil || saved.Digest != digest {
			t.Errorf("the pending file holds %+v, %v", saved, err)
		}
		cutAfter(s, w, r)
	})
	file := h.write("will.txt", content)
	h.onWait = h.s.advance
	h.expect(exitOK, []string{"stamp", file, "--wait", "final"}, "will.txt: entry 1, final")

	r := h.receipt("will.txt.receipt.json")
	if r.Digest != digest || saved.Salt == nil || r.Salt != *saved.Salt || h.s.entries[1].Commitment != calpe.Commit(digest, r.Salt) {
		t.Errorf("receipt has the salt %s, the file before it had %s", r.Salt, saved.Salt)
	}
	for _, req := range h.s.requests {
		all := fmt.Appendf(nil, "%s %s %v %s", req.method, req.path, req.header, req.body)
		for _, secret := range [][]byte{digest[:], r.Salt[:], []byte(digest.String()), []byte(r.Salt.String()), content, []byte("will.txt")} {
			if bytes.Contains(all, secret) {
				t.Errorf("a request holds what it must not: %q", all)
			}
		}
	}
	if got := h.files(); got != "will.txt will.txt.receipt.json" || len(h.s.entries) != 2 {
		t.Errorf("folder holds %q, log has %d entries", got, len(h.s.entries))
	}
	h.expect(exitOK, []string{"verify", file, file + ".receipt.json", "--headers", h.headers()}, "Answer: HOLDS")
}

func TestStampSurvivesFailures(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]serveFunc{
		"cut before": cutBefore, "cut after": cutAfter, "500 after": failAfter, "truncated": truncating, "503": refusing(503, calpe.CodeUnavailable),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			file := h.write("a.txt", []byte("hello"))
			for range maxAttempts {
				h.s.fail("/v1/commitments", f)
			}
			h.expect(exitUsage, []string{"stamp", file}, "trying again")
			if got := h.files(); got != "a.txt a.txt.stamp-pending.json" {
				t.Fatalf("folder holds %q", got)
			}
			h.expect(exitOK, []string{"stamp", file}, "entry 1, received")
			if got := h.files(); got != "a.txt a.txt.receipt.json" || len(h.s.entries) != 2 {
				t.Errorf("folder holds %q, log has %d entries", got, len(h.s.entries))
			}
		})
	}
}

func TestStampDigest(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	t.Logf("folder %s", h.dir)
	digest := fmt.Sprintf("%x", sha256.Sum256([]byte("hello")))
	h.expect(exitOK, []string{"stamp", "--digest", digest, "--output", h.path("hello.json")}, "entry 1")
	if r := h.receipt("hello.json"); r.Digest.String() != digest {
		t.Errorf("receipt is of %s", r.Digest)
	}
	h.onWait = h.s.advance
	h.expect(exitOK, []string{"receipt", h.path("hello.json"), "--wait", "final"})
	h.stdin = "hello"
	h.expect(exitOK, []string{"verify", "-", h.path("hello.json"), "--headers", h.headers()}, "HOLDS")
	h.stdin = "hallo"
	h.expect(exitRefuted, []string{"verify", "-", h.path("hello.json"), "--headers", h.headers()}, "another document")
}

func TestStampUsage(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	file := h.write("a.txt", []byte("hello"))
	h.expect(exitUsage, []string{"stamp"}, "--digest")
	h.expect(exitUsage, []string{"stamp", file, "--digest", strings.Repeat("00", 32)}, "--digest")
	h.expect(exitUsage, []string{"stamp", "--digest", "00"}, "--digest")
	h.expect(exitUsage, []string{"stamp", "--digest", strings.Repeat("AB", 32)}, "--digest")
	h.expect(exitUsage, []string{"stamp", file, "--output", "x"}, "--output")
	h.expect(exitUsage, []string{"stamp", file, "--token", "calpe_wrong"}, "unauthorized", "CALPE_TOKEN")
	if got := h.files(); got != "a.txt" {
		t.Errorf("folder holds %q", got)
	}
}

func TestStampChecksTheService(t *testing.T) {
	t.Parallel()
	other := newService(t)
	for name, change := range map[string]func(m map[string]any){
		"another commitment": func(m map[string]any) { m["commitment"] = strings.Repeat("11", 32) },
		"no acknowledgement": func(m map[string]any) { delete(m, "acknowledgement") },
		"another index":      func(m map[string]any) { m["index"] = 0 },
		"another's promise":  func(m map[string]any) { m["acknowledgement"] = other.promise(0) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			h.s.fail("/v1/commitments", alteringJSON(t, change))
			h.expect(exitRefuted, []string{"stamp", h.write("a.txt", []byte("hello"))}, "refused")
			if got := h.files(); got != "a.txt a.txt.stamp-pending.json" {
				t.Errorf("folder holds %q", got)
			}
		})
	}
}
