package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/statement"
)

type serveFunc = func(*fakeService, http.ResponseWriter, *http.Request)

func TestUploadWritesReceipt(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	file := h.write("deed.pdf", []byte("%PDF-1.7 a deed"))
	h.expect(exitOK, []string{"upload", file}, "deed.pdf: entry 1, received", "deed.pdf.receipt.json")

	r := h.receipt("deed.pdf.receipt.json")
	if r.Index != 1 || r.Acknowledgement == nil {
		t.Errorf("receipt is not of entry 1 with an acknowledgement: %+v", r)
	}
	if got, want := h.files(), "deed.pdf deed.pdf.receipt.json"; got != want {
		t.Errorf("folder holds %q, want %q", got, want)
	}
	info, err := os.Stat(h.path("deed.pdf.receipt.json"))
	if err != nil || info.Mode().Perm() != privateFile {
		t.Errorf("mode of the receipt is %v, %v", info.Mode(), err)
	}
	for id, d := range h.s.docs {
		if d.name != "deed.pdf" || d.mediaType != "application/pdf" || d.size != 15 {
			t.Errorf("service got document %s as %+v", id, d)
		}
	}
}

// The whole way: every state is written as it comes, and the last one verifies
// without the service.
func TestUploadWaitsForFinal(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	file, receiptPath := h.final("a.txt", "hello")
	h.expect(exitOK, []string{"verify", file, receiptPath, "--headers", h.headers()},
		"HOLDS", "entry 1", "no evidential value", "Answer: HOLDS (asked: existence, log)")
	delete(h.env, "CALPE_IDENTITY")
	h.expect(exitOK, []string{"verify", file, receiptPath, "--headers", h.headers()}, "existence only, issuer unknown", "(asked: existence)")
}

func TestUploadSaysEachState(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	file := h.write("a.txt", []byte("hello"))
	h.onWait = h.s.advance
	r := h.expect(exitOK, []string{"upload", file, "--wait", "final"})
	at := -1
	for _, state := range []string{"checkpointed", "confirmed", "a.txt: entry 1, final, in block 1 of regtest"} {
		i := strings.Index(r.err+r.out, state)
		if i < at || i < 0 {
			t.Errorf("%q is not said in its turn:\n%s%s", state, r.err, r.out)
		}
		at = i
	}
}

// Whatever goes wrong in between, there is one entry and its receipt.
func TestUploadSurvivesFailures(t *testing.T) {
	t.Parallel()
	for name, faults := range map[string][]serveFunc{
		"cut before":      {cutBefore},
		"cut after":       {cutAfter},
		"cut twice":       {cutBefore, cutAfter},
		"500 after":       {failAfter},
		"503":             {refusing(503, calpe.CodeUnavailable)},
		"429 with a time": {refusing(429, calpe.CodeTooManyRequests, "Retry-After", "7")},
		"truncated":       {truncating},
		"five times":      {failAfter, cutAfter, truncating, refusing(503, calpe.CodeIntakeStopped), cutBefore},
		"a proxy's error": {func(_ *fakeService, w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "<html>", http.StatusBadGateway)
		}},
		"a problem truncated": {func(_ *fakeService, w http.ResponseWriter, _ *http.Request) { problemBytes(w, 503, `{"title":"x`) }},
	} {
		for _, path := range []string{"/v1/documents", "/v1/identity", "/v1/documents/"} {
			t.Run(name+" at "+path, func(t *testing.T) {
				t.Parallel()
				h := newHarness(t)
				if path == "/v1/identity" {
					delete(h.env, "CALPE_IDENTITY")
				}
				file := h.write("a.txt", []byte("hello"))
				h.s.fail(path, faults...)
				h.expect(exitOK, []string{"upload", file}, "entry 1")
				if len(h.s.entries) != 2 || len(h.s.faults) != 0 {
					t.Errorf("log has %d entries, %d faults were not met", len(h.s.entries), len(h.s.faults))
				}
				if got := h.files(); got != "a.txt a.txt.receipt.json" {
					t.Errorf("folder holds %q", got)
				}
				// net/http makes a GET again by itself where a kept connection was dropped.
				if len(h.waits) > len(faults) || path == "/v1/documents" && len(h.waits) != len(faults) {
					t.Errorf("waited %v", h.waits)
				}
			})
		}
	}
}

func problemBytes(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_, _ = w.Write([]byte(body))
}

func TestRetryAfterIsHonoured(t *testing.T) {
	t.Parallel()
	date := testNow.Add(50 * time.Second).Format(http.TimeFormat)
	for name, tc := range map[string]struct {
		header  string
		atLeast time.Duration
	}{"seconds": {"7", 7 * time.Second}, "date": {date, 50 * time.Second}, "nonsense": {"soon", firstDelay / 2}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			h.s.fail("/v1/documents", refusing(503, calpe.CodeUnavailable, "Retry-After", tc.header))
			h.expect(exitOK, []string{"upload", h.write("a.txt", []byte("hello"))})
			if len(h.waits) != 1 || h.waits[0] < tc.atLeast || h.waits[0] > time.Minute {
				t.Errorf("waited %v, want at least %v", h.waits, tc.atLeast)
			}
		})
	}
	h := newHarness(t)
	h.s.fail("/v1/documents", refusing(503, calpe.CodeIntakeStopped, "Retry-After", "3600"))
	h.expect(exitUsage, []string{"upload", h.write("a.txt", []byte("hello"))}, "asks to wait 1h0m0s", "again later")
	if len(h.waits) != 0 {
		t.Errorf("waited %v for a service that asked for an hour", h.waits)
	}
}

// A run that gives up, or is killed, is gone on with by the next one: the same
// request, so the same entry.
func TestUploadGoesOnAfterGivingUp(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		path  string
		fault serveFunc
	}{
		"no answer to the upload":  {"/v1/documents", cutAfter},
		"no answer to the receipt": {"/v1/documents/", cutAfter},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			file := h.write("a.txt", []byte("hello"))
			for range 2 * maxAttempts {
				h.s.fail(tc.path, tc.fault)
			}
			h.expect(exitUsage, []string{"upload", file}, "trying again", "EOF")
			h.s.heal()
			if got := h.files(); got != "a.txt a.txt.upload-pending.json" {
				t.Fatalf("folder holds %q", got)
			}
			h.expect(exitOK, []string{"upload", file}, "entry 1")
			if got := h.files(); got != "a.txt a.txt.receipt.json" || len(h.s.entries) != 2 {
				t.Errorf("folder holds %q, log has %d entries", got, len(h.s.entries))
			}
		})
	}
}

// The kill between the receipt and the removal of the pending file.
func TestUploadFinishesWhatACrashLeft(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	file := h.write("a.txt", []byte("hello"))
	h.expect(exitOK, []string{"upload", file})
	h.write("a.txt.upload-pending.json", []byte("{}"))
	h.expect(exitOK, []string{"upload", file}, "entry 1")
	if got := h.files(); got != "a.txt a.txt.receipt.json" || len(h.s.entries) != 2 {
		t.Errorf("folder holds %q, log has %d entries", got, len(h.s.entries))
	}
}

func TestPendingFileOfAnotherRequest(t *testing.T) {
	t.Parallel()
	begun := func(t *testing.T, h *harness) (string, pending) {
		file := h.write("a.txt", []byte("hello"))
		for range maxAttempts {
			h.s.fail("/v1/documents", cutAfter)
		}
		h.expect(exitUsage, []string{"upload", file})
		var p pending
		if err := statement.Decode(h.read("a.txt.upload-pending.json"), &p); err != nil {
			t.Fatal(err)
		}
		return file, p
	}
	for name, tc := range map[string]struct {
		change func(h *harness, p *pending)
		text   string
	}{
		"changed file":        {func(h *harness, _ *pending) { h.write("a.txt", []byte("other")) }, "the file was changed since"},
		"other service":       {func(_ *harness, p *pending) { p.Server = "https://elsewhere.example" }, "with another service, https://elsewhere.example"},
		"stamp's":             {func(_ *harness, p *pending) { p.Salt = newSalt() }, "in another way"},
		"other certification": {func(_ *harness, p *pending) { p.Certification = &calpe.Digest{1} }, "with another certification"},
		"no key":              {func(_ *harness, p *pending) { p.Key = "" }, "not a file of this program"},
		"other type":          {func(_ *harness, p *pending) { p.Type = "calpe/pending/v2" }, "not a file of this program"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			file, p := begun(t, h)
			tc.change(h, &p)
			data, err := json.Marshal(p)
			if err != nil {
				t.Fatal(err)
			}
			h.write("a.txt.upload-pending.json", data)
			h.expect(exitUsage, []string{"upload", file}, tc.text, "a.txt.upload-pending.json")
			if !h.exists("a.txt.upload-pending.json") {
				t.Error("the pending file is gone")
			}
		})
	}
}

// A refusal that leaves nothing behind on the service leaves nothing here.
func TestUploadRefused(t *testing.T) {
	t.Parallel()
	for code, status := range map[calpe.Code]int{
		calpe.CodeUnauthorized: 401, calpe.CodeForbidden: 403, calpe.CodeTooLarge: 413, calpe.CodeCertification: 422, calpe.CodeInvalidRequest: 400,
	} {
		t.Run(string(code), func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			file := h.write("a.txt", []byte("hello"))
			h.s.fail("/v1/documents", refusing(status, code))
			h.expect(exitUsage, []string{"upload", file}, "a.txt: upload: the service refused: Title of "+string(code)+": Detail of "+string(code), advice[code])
			if got := h.files(); got != "a.txt" || len(h.waits) != 0 {
				t.Errorf("folder holds %q, waited %v", got, h.waits)
			}
		})
	}
	// After an attempt without an answer nothing is certain: the pending file stays.
	h := newHarness(t)
	h.s.fail("/v1/documents", cutAfter, refusing(413, calpe.CodeTooLarge))
	h.expect(exitUsage, []string{"upload", h.write("a.txt", []byte("hello"))}, "too-large")
	if !h.exists("a.txt.upload-pending.json") {
		t.Error("the pending file is gone, though the document may be recorded")
	}
}

// A wrong address leaves nothing behind that would bind the document to it.
func TestUploadToNobody(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"upload", "stamp"} {
		t.Run(command, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			file := h.write("a.txt", []byte("hello"))
			h.expect(exitUsage, []string{command, file, "--server", "http://127.0.0.1:1"}, "nothing was sent", "connection refused")
			if got := h.files(); got != "a.txt" || len(h.waits) != maxAttempts-1 {
				t.Errorf("folder holds %q, waited %v", got, h.waits)
			}
			h.expect(exitOK, []string{command, file})
		})
	}
}

// A service that doesn't keep its promises is caught, and no receipt is written.
func TestUploadChecksTheService(t *testing.T) {
	t.Parallel()
	other := newService(t)
	forged := func(t *testing.T, key statement.Key, change func(a *receipt.Acknowledgement)) func(map[string]any) {
		return func(m map[string]any) {
			ack := m["acknowledgement"].(map[string]any)
			a, err := receipt.ReadAcknowledgement([]byte(ack["note"].(string)))
			if err != nil {
				t.Error(err)
			}
			change(&a)
			note, err := receipt.SignAcknowledgement(key, a)
			if err != nil {
				t.Error(err)
			}
			ack["note"] = string(note)
		}
	}
	same := func(*receipt.Acknowledgement) {}
	for name, tc := range map[string]struct {
		path string
		bad  func(t *testing.T, h *harness) serveFunc
		text string
	}{
		"another digest": {"/v1/documents", func(t *testing.T, _ *harness) serveFunc {
			return alteringJSON(t, func(m map[string]any) { m["digest"] = strings.Repeat("00", 32) })
		}, "another document"},
		"another size": {"/v1/documents", func(t *testing.T, _ *harness) serveFunc {
			return alteringJSON(t, func(m map[string]any) { m["size"] = 6 })
		}, "another document"},
		"no acknowledgement": {"/v1/documents", func(t *testing.T, _ *harness) serveFunc {
			return alteringJSON(t, func(m map[string]any) { delete(m, "acknowledgement") })
		}, "without an acknowledgement"},
		"another index": {"/v1/documents", func(t *testing.T, _ *harness) serveFunc {
			return alteringJSON(t, func(m map[string]any) { m["index"] = 0 })
		}, "recorded the document as entry 0"},
		"signed by another log": {"/v1/documents", func(t *testing.T, h *harness) serveFunc {
			return alteringJSON(t, forged(t, other.ackKey, same))
		}, "acknowledgement doesn't hold"},
		"signed for another group": {"/v1/documents", func(t *testing.T, h *harness) serveFunc {
			return alteringJSON(t, forged(t, h.s.ackKey, func(a *receipt.Acknowledgement) { a.Root[0] ^= 1 }))
		}, "acknowledgement doesn't hold"},
		"signed for other indices": {"/v1/documents", func(t *testing.T, h *harness) serveFunc {
			return alteringJSON(t, forged(t, h.s.ackKey, func(a *receipt.Acknowledgement) { a.First = 7 }))
		}, "acknowledgement doesn't hold"},
		"signed in another log's name": {"/v1/documents", func(t *testing.T, h *harness) serveFunc {
			return alteringJSON(t, forged(t, h.s.ackKey, func(a *receipt.Acknowledgement) { a.Log[0] ^= 1 }))
		}, "acknowledgement doesn't hold"},
		"wrong path": {"/v1/documents", func(t *testing.T, _ *harness) serveFunc {
			return alteringJSON(t, func(m map[string]any) {
				m["acknowledgement"].(map[string]any)["path"] = base64.StdEncoding.EncodeToString(make([]byte, 32))
			})
		}, "acknowledgement doesn't hold"},
		"receipt with another salt": {"/v1/documents/", func(t *testing.T, _ *harness) serveFunc {
			return alteringJSON(t, func(m map[string]any) { m["salt"] = strings.Repeat("00", 16) })
		}, "acknowledgement doesn't hold"},
		"receipt of another document": {"/v1/documents/", func(t *testing.T, _ *harness) serveFunc {
			return alteringJSON(t, func(m map[string]any) { m["digest"] = strings.Repeat("00", 32) })
		}, "another document"},
		"receipt of another log": {"/v1/documents/", func(t *testing.T, _ *harness) serveFunc {
			return alteringJSON(t, func(m map[string]any) { m["log"] = strings.Repeat("00", 32) })
		}, "doesn't hold"},
		"no receipt at all": {"/v1/documents/", func(t *testing.T, _ *harness) serveFunc {
			return altering(func([]byte) []byte { return []byte(`{"type":"calpe/receipt/v1"}`) })
		}, "get the receipt: refused"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			file := h.write("a.txt", []byte("hello"))
			h.s.fail(tc.path, tc.bad(t, h))
			h.expect(exitRefuted, []string{"upload", file}, tc.text)
			if got := h.files(); got != "a.txt a.txt.upload-pending.json" {
				t.Errorf("folder holds %q", got)
			}
			// It was the answer that was wrong, and not the log: the request stands.
			h.expect(exitOK, []string{"upload", file}, "entry 1")
		})
	}
}

func TestUploadRefusesAnotherLog(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.write("identity.json", newService(t).id.Canonical())
	h.expect(exitRefuted, []string{"upload", h.write("a.txt", []byte("hello"))}, "acknowledgement doesn't hold")
	delete(h.env, "CALPE_IDENTITY")
	h.expect(exitOK, []string{"upload", h.path("a.txt")}, "not pinned", testOrigin, h.s.id.Hash().String())
}

func TestUploadUnreadableAnswers(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		body string
		text string
	}{
		"not JSON":      {"<html>", "can't be read"},
		"wrong type":    {`{"index":"1"}`, "can't be read"},
		"bad path":      {`{"acknowledgement":{"note":"","path":"!"}}`, "can't be read"},
		"unknown state": {`{"state":"done"}`, "can't be read"},
		"too large":     {`{"name":"` + strings.Repeat("x", maxAnswer) + `"}`, "more than"},
		"empty object":  {`{}`, "another document"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			h.s.fail("/v1/documents", altering(func([]byte) []byte { return []byte(tc.body) }))
			r := h.run("upload", h.write("a.txt", []byte("hello")))
			if r.code == exitOK || !strings.Contains(r.err, tc.text) || len(h.waits) > 0 {
				t.Errorf("exit code %d after waiting %v: %s", r.code, h.waits, r.err)
			}
		})
	}
}

func TestUploadCertified(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	key := h.s.register("altea")
	h.write("altea.key", []byte(key.Secret()+"\n"))
	file := h.write("birth.pdf", []byte("a birth"))
	h.expect(exitOK, []string{"certify", file, "--agency", "altea", "--key", h.path("altea.key"), "--type", "birth certificate",
		"--subject", "RC/2026/17", "--issued", "2026-11-20", "--valid-until", "2027-11-20"})
	h.onWait = h.s.advance
	h.expect(exitOK, []string{"upload", file, "--certification", file + ".certification.json", "--wait", "final"}, "final")
	verify := []string{"verify", file, file + ".receipt.json", "--headers", h.headers()}
	h.expect(exitOK, verify, "Town of altea", "birth certificate", "RC/2026/17", "2026-11-20", "2027-11-20", "asked: existence, log, certification")

	other := h.write("death.pdf", []byte("a death"))
	n := len(h.s.requests)
	h.expect(exitUsage, []string{"upload", other, "--certification", file + ".certification.json"}, "certification is of another document")
	if len(h.s.requests) != n {
		t.Error("it was sent all the same")
	}
	h.expect(exitUsage, []string{"upload", file, other, "--certification", file + ".certification.json"}, "of one document")
	h.expect(exitUsage, []string{"upload", file, "--certification", file + ".receipt.json"}, "receipt.json")

	// A receipt without the certification isn't one with it.
	plain := h.write("plain.pdf", []byte("a birth"))
	h.expect(exitOK, []string{"upload", plain})
	h.expect(exitUsage, []string{"upload", plain, "--certification", file + ".certification.json"}, "without that certification")
}

func TestUploadCertificationDropped(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	key := h.s.register("altea")
	h.write("altea.key", []byte(key.Secret()))
	file := h.write("birth.pdf", []byte("a birth"))
	h.expect(exitOK, []string{"certify", file, "--agency", "altea", "--key", h.path("altea.key"), "--type", "t", "--subject", "s", "--issued", "2026-11-20"})
	h.s.fail("/v1/documents/", alteringJSON(t, func(m map[string]any) { delete(m, "certification") }))
	h.expect(exitRefuted, []string{"upload", file, "--certification", file + ".certification.json"}, "another certification")
}

// All files are tried; the worst decides.
func TestUploadSeveralFiles(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	a, b, c := h.write("a.txt", []byte("a")), h.write("b.txt", nil), h.write("c.txt", []byte("c"))
	r := h.expect(exitUsage, []string{"upload", a, b, h.path("missing"), h.dir, c}, "b.txt: it is empty", "missing", "not a regular file")
	if strings.Count(r.out, "\n") != 2 || !h.exists("a.txt.receipt.json") || !h.exists("c.txt.receipt.json") || len(h.s.entries) != 3 {
		t.Errorf("the good files were not done: %s", r.out)
	}
	// Receipts that are there are brought up to date and not made anew.
	h.onWait = h.s.advance
	h.expect(exitOK, []string{"upload", a, c, "--wait", "checkpointed"}, "a.txt: entry 1, checkpointed", "c.txt: entry 2, checkpointed")
	if len(h.s.entries) != 3 {
		t.Errorf("log has %d entries", len(h.s.entries))
	}
	d := h.write("d.txt", []byte("d"))
	h.s.fail("/v1/documents", alteringJSON(t, func(m map[string]any) { m["size"] = 9 }))
	h.expect(exitRefuted, []string{"upload", d, b}, "b.txt: it is empty", "d.txt: refused")
}

func TestUploadKeepsReceipts(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	file := h.write("a.txt", []byte("hello"))
	h.expect(exitOK, []string{"upload", file})
	before := string(h.read("a.txt.receipt.json"))
	h.write("a.txt", []byte("hello, changed"))
	h.expect(exitUsage, []string{"upload", file}, "receipt of other contents")
	h.write("a.txt", []byte("hello"))
	h.write("identity.json", newService(t).id.Canonical())
	h.expect(exitUsage, []string{"upload", file}, "receipt from another log")
	if diff := cmp.Diff(before, string(h.read("a.txt.receipt.json"))); diff != "" {
		t.Error(diff)
	}
	h.write("a.txt.receipt.json", []byte("{"))
	h.expect(exitUsage, []string{"upload", file}, "can't be read")
}

// A file that changes while it is sent is not recorded as something else.
func TestUploadOfChangingFile(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct{ content, text string }{
		"shorter": {"hell", "became shorter"},
		"other":   {"hullo", "digest-mismatch"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			file := h.write("a.txt", []byte("hello"))
			h.s.fail("/v1/documents", refusing(503, calpe.CodeUnavailable))
			h.onWait = func() { h.write("a.txt", []byte(tc.content)) }
			h.expect(exitUsage, []string{"upload", file}, tc.text)
			if len(h.waits) != 1 || len(h.s.entries) != 1 {
				t.Errorf("waited %v, log has %d entries", h.waits, len(h.s.entries))
			}
		})
	}
	// What is appended meanwhile isn't sent.
	h := newHarness(t)
	file := h.write("a.txt", []byte("hello"))
	h.s.fail("/v1/documents", refusing(503, calpe.CodeUnavailable))
	h.onWait = func() { h.write("a.txt", []byte("hello, world")) }
	h.expect(exitOK, []string{"upload", file}, "entry 1")
}

func TestUploadOddNames(t *testing.T) {
	t.Parallel()
	for name, sent := range map[string]string{
		"año \"q\" 'x'.txt":              "año \"q\" 'x'.txt",
		"line\nbreak.txt":                "line_break.txt",
		"\x1b[31mred.txt":                "_[31mred.txt",
		"bytes\xff\xfe.txt":              "bytes\uFFFD.txt",
		"back\\slash.txt":                "back_slash.txt",
		"semi;colon=%41.txt":             "semi;colon=%41.txt",
		strings.Repeat("ñ", 110) + ".tx": strings.Repeat("ñ", 110) + ".tx",
		"- not a flag":                   "- not a flag",
	} {
		t.Run(sent, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			r := h.expect(exitOK, []string{"upload", h.write(name, []byte("hello"))})
			for _, d := range h.s.docs {
				if d.name != sent {
					t.Errorf("service got the name %q, want %q", d.name, sent)
				}
			}
			if !utf8.ValidString(r.out+r.err) || strings.Contains(r.out+r.err, "\x1b") {
				t.Errorf("raw bytes of a name are printed: %q", r.out)
			}
			if !h.exists(name + ".receipt.json") {
				t.Error("there is no receipt beside the file")
			}
		})
	}
	if got := sentName(strings.Repeat("ñ", 200)); len(got) != 254 {
		t.Errorf("name of 400 bytes is sent with %d", len(got))
	}
}

func TestUploadLargeFileIsStreamed(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	big := make([]byte, 3<<20)
	for i := range big {
		big[i] = byte(i * i >> 7)
	}
	h.s.fail("/v1/documents", cutBefore, refusing(503, calpe.CodeUnavailable))
	h.expect(exitOK, []string{"upload", h.write("big.bin", big)}, "entry 1")
	if r := h.s.requests[0]; len(r.body) < len(big) || r.header.Get("Content-Length") != strconv.Itoa(len(r.body)) {
		t.Errorf("the request has %d bytes, its header says %s", len(r.body), r.header.Get("Content-Length"))
	}
}

// A refusal that comes before the body is taken is shown, and not the broken pipe.
func TestUploadRefusedBeforeBody(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.s.fail("/v1/documents", func(_ *fakeService, w http.ResponseWriter, _ *http.Request) {
		refuse(w, http.StatusUnauthorized, calpe.CodeUnauthorized, "Send a valid token.")
	})
	h.expect(exitUsage, []string{"upload", h.write("big.bin", make([]byte, 8<<20))}, "Send a valid token")
}

func TestUploadInterrupted(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	ctx, cancel := context.WithCancel(t.Context())
	h.s.fail("/v1/documents", cutAfter)
	h.onWait = cancel
	file := h.write("a.txt", []byte("hello"))
	r := h.runContext(ctx, "upload", file)
	if r.code != exitUsage || !strings.Contains(r.err, "interrupted; run the same command again") {
		t.Errorf("exit code %d: %s", r.code, r.err)
	}
	h.onWait = nil
	h.expect(exitOK, []string{"upload", file}, "entry 1")
}

// Time passes, and nothing becomes of it: that isn't a failure.
func TestUploadWaitTimesOut(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	file := h.write("a.txt", []byte("hello"))
	h.expect(exitNotYet, []string{"upload", file, "--wait", "final", "--timeout", "1ns"}, "not yet", "calpe receipt", "entry 1, received")
	if !h.exists("a.txt.receipt.json") {
		t.Error("there is no receipt")
	}
}

func TestStalledServiceIsGivenUp(t *testing.T) {
	t.Parallel()
	stop := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-stop:
		case <-r.Context().Done():
		}
	}))
	defer server.Close()
	defer close(stop)
	wait := func(context.Context, time.Duration) error { return nil }
	s, err := connection{Server: server.URL}.open(&app{System: System{Stderr: io.Discard, Now: time.Now, Wait: wait}}, "")
	if err != nil {
		t.Fatal(err)
	}
	s.idle = 20 * time.Millisecond
	if err := s.getJSON(t.Context(), "ask", "v1/identity", nil, nil); !errors.Is(err, errIdle) {
		t.Errorf("error is %v, want errIdle", err)
	}
}

// A redirect would hand the token to whoever it names.
func TestRedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the redirect was followed") }))
	defer elsewhere.Close()
	h := newHarness(t)
	h.s.fail("/v1/documents", func(_ *fakeService, w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, elsewhere.URL+"/v1/documents", http.StatusTemporaryRedirect)
	})
	h.expect(exitUsage, []string{"upload", h.write("a.txt", []byte("hello"))}, "Temporary Redirect", elsewhere.URL)
}

func TestConnectionFlags(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	file := h.write("a.txt", []byte("hello"))
	for name, tc := range map[string]struct {
		env  map[string]string
		text string
	}{
		"no server":       {map[string]string{"CALPE_SERVER": ""}, "--server URL"},
		"no scheme":       {map[string]string{"CALPE_SERVER": "calpe.example"}, "https://host"},
		"user in it":      {map[string]string{"CALPE_SERVER": "https://me:geheim@calpe.example"}, "user"},
		"other scheme":    {map[string]string{"CALPE_SERVER": "ftp://calpe.example"}, "https://host"},
		"plain http":      {map[string]string{"CALPE_SERVER": "http://calpe.example"}, "without encryption"},
		"no token":        {map[string]string{"CALPE_TOKEN": ""}, "CALPE_TOKEN"},
		"two tokens":      {map[string]string{"CALPE_TOKEN_FILE": file}, "twice"},
		"bad token":       {map[string]string{"CALPE_TOKEN": "geheim\nX: y"}, "character"},
		"no token file":   {map[string]string{"CALPE_TOKEN": "", "CALPE_TOKEN_FILE": h.path("none")}, "none"},
		"no identity":     {map[string]string{"CALPE_IDENTITY": h.path("none")}, "none"},
		"not an identity": {map[string]string{"CALPE_IDENTITY": file}, "a.txt"},
	} {
		t.Run(name, func(t *testing.T) {
			h := &harness{t: t, s: h.s, dir: h.dir, env: map[string]string{"CALPE_SERVER": h.env["CALPE_SERVER"], "CALPE_TOKEN": testToken}}
			for k, v := range tc.env {
				h.env[k] = v
			}
			h.expect(exitUsage, []string{"upload", file}, tc.text)
		})
	}
	delete(h.env, "CALPE_TOKEN")
	h.expect(exitOK, []string{"upload", file, "--token-file", h.write("token", []byte(testToken+"\n"))})
}
