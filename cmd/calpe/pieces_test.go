package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt/statement"
)

// fakePieces is an upload of the fake service; it keeps what comes up to a
// multiple of 64 KiB.
type fakePieces struct {
	doc  fakeDocument
	key  string
	data []byte
	done fakeAnswer
}

const (
	fakeStep  = 64 << 10
	fakeFirst = "11111111-1111-4111-8111-000000000000"
)

func (s *fakeService) upload(w http.ResponseWriter, r *http.Request, path string, body []byte) {
	if r.Method != http.MethodGet && r.Header.Get("Tus-Resumable") != "1.0.0" {
		refuse(w, http.StatusPreconditionFailed, calpe.CodeTusVersion, "")
		return
	}
	if r.Method == http.MethodPost && path == "" {
		s.beginPieces(w, r)
		return
	}
	u := s.pieces[strings.TrimPrefix(path, "/")]
	if u == nil {
		refuse(w, http.StatusNotFound, calpe.CodeNotFound, "")
		return
	}
	if r.Method == http.MethodPatch {
		s.addPiece(w, r, u, body)
		return
	}
	answer := map[string]any{"id": path[1:], "size": u.doc.size, "received": len(u.data), "expires": "2026-11-22T09:30:00Z"}
	if u.done.document != "" {
		answer["document"] = s.describeDocument(u.done)
	}
	answerJSON(w, http.StatusOK, answer)
}

func (s *fakeService) beginPieces(w http.ResponseWriter, r *http.Request) {
	u := &fakePieces{key: r.Header.Get("Idempotency-Key")}
	u.doc.size, _ = strconv.ParseInt(r.Header.Get("Upload-Length"), 10, 64)
	for pair := range strings.SplitSeq(r.Header.Get("Upload-Metadata"), ",") {
		key, encoded, _ := strings.Cut(pair, " ")
		value, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			refuse(w, http.StatusBadRequest, calpe.CodeInvalidRequest, "")
			return
		}
		switch key {
		case "filename":
			u.doc.name = string(value)
		case "filetype":
			u.doc.mediaType = string(value)
		case "sha256":
			u.doc.digest, _ = calpe.ParseDigest(string(value))
		case "certification":
			signed, err := statement.Parse(value)
			if err != nil || !s.certifies(signed, u.doc.digest) {
				refuse(w, http.StatusUnprocessableEntity, calpe.CodeCertification, "")
				return
			}
			u.doc.certification = &signed
		}
	}
	id := fmt.Sprintf("%s%012d", fakeFirst[:24], len(s.pieces))
	if s.pieces == nil {
		s.pieces = map[string]*fakePieces{}
	}
	s.pieces[id] = u
	w.Header().Set("Location", "/v1/uploads/"+id)
	w.WriteHeader(http.StatusCreated)
}

func (s *fakeService) addPiece(w http.ResponseWriter, r *http.Request, u *fakePieces, body []byte) {
	if r.Header.Get("Upload-Offset") != strconv.Itoa(len(u.data)) {
		refuse(w, http.StatusConflict, calpe.CodeOffset, "")
		return
	}
	u.data = append(u.data, body...)
	if int64(len(u.data)) < u.doc.size {
		u.data = u.data[:len(u.data)/fakeStep*fakeStep]
	} else {
		if sha256.Sum256(u.data) != u.doc.digest {
			s.pieces = nil
			refuse(w, http.StatusBadRequest, calpe.CodeDigestMismatch, "")
			return
		}
		doc, fingerprint := u.doc, u.doc.digest.String()
		u.done = s.recordDocument(&doc, s.answers[u.key], u.key, fingerprint)
	}
	w.Header().Set("Upload-Offset", strconv.Itoa(len(u.data)))
	w.WriteHeader(http.StatusNoContent)
}

// cutAt keeps what comes of a piece up to n bytes, and hangs up.
func cutAt(n int64) serveFunc {
	return func(s *fakeService, _ http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPatch {
			body, _ := io.ReadAll(io.LimitReader(r.Body, n))
			s.mu.Lock()
			u := s.pieces[strings.TrimPrefix(r.URL.Path, "/v1/uploads/")]
			u.data = append(u.data, body[:len(body)/fakeStep*fakeStep]...)
			s.mu.Unlock()
		}
		panic(http.ErrAbortHandler)
	}
}

func large() []byte { return bytes.Repeat([]byte("0123456789abcdef"), 40<<10) } // 640 KiB

// Whatever is cut, the document arrives once, and what the service has isn't sent
// again.
func TestUploadInPieces(t *testing.T) {
	t.Parallel()
	const piece = "/v1/uploads/"
	for name, faults := range map[string][]fault{
		"no fault":          nil,
		"cut at creation":   {{"/v1/uploads", cutBefore}},
		"created, cut":      {{"/v1/uploads", cutAfter}},
		"cut at the state":  {{piece, cutBefore}, {piece, cutBefore}},
		"cut in pieces":     {{piece, pass}, {piece, cutAt(100_000)}, {piece, pass}, {piece, cutAt(70_000)}, {piece, pass}, {piece, cutAt(1)}},
		"the end cut":       {{piece, pass}, {piece, cutAfter}},
		"locked":            {{piece, pass}, {piece, refusing(423, calpe.CodeLocked, "Retry-After", "5")}},
		"unavailable":       {{piece, pass}, {piece, refusing(503, calpe.CodeUnavailable)}},
		"given up":          {{piece, pass}, {piece, forgetting}},
		"no pieces, please": {{"/v1/uploads", refusing(404, calpe.CodeNotFound)}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			file := h.write("deed.pdf", large())
			h.s.faults = faults
			h.expect(exitOK, []string{"upload", file, "--resumable", "1000"}, "deed.pdf: entry 1")
			h.s.mu.Lock()
			if len(h.s.entries) != 2 || len(h.s.faults) != 0 {
				t.Errorf("log has %d entries, %d faults were not met", len(h.s.entries), len(h.s.faults))
			}
			h.s.mu.Unlock()
			if r := h.receipt("deed.pdf.receipt.json"); r.Digest != sha256.Sum256(large()) || r.Acknowledgement == nil {
				t.Errorf("receipt of %v", r.Digest)
			}
			if got := h.files(); got != "deed.pdf deed.pdf.receipt.json" {
				t.Errorf("folder holds %q", got)
			}
		})
	}
}

// pass serves as if there were no fault.
func pass(s *fakeService, w http.ResponseWriter, r *http.Request) { s.serve(w, r) }

// forgetting gives up every upload.
func forgetting(s *fakeService, w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.pieces = nil
	s.mu.Unlock()
	s.serve(w, r)
}

// A process that ended in the middle leaves a file, and the next one goes on there.
func TestUploadGoesOnInAnotherProcess(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	file := h.write("deed.pdf", large())
	h.s.faults = []fault{{"/v1/uploads/", pass}, {"/v1/uploads/", cutAt(300_000)}}
	for range maxAttempts {
		h.s.faults = append(h.s.faults, fault{"/v1/uploads/", cutBefore})
	}
	args := []string{"upload", file, "--resumable", "1000"}
	if r := h.run(args...); r.code == exitOK {
		t.Fatalf("an upload that was cut is done: %s", r.out)
	}
	if !strings.Contains(string(h.read("deed.pdf.upload-pending.json")), `"upload": "v1/uploads/`) {
		t.Errorf("pending file: %s", h.read("deed.pdf.upload-pending.json"))
	}
	h.s.mu.Lock()
	h.s.faults = nil
	before := len(h.s.requests)
	h.s.mu.Unlock()
	h.expect(exitOK, args, "deed.pdf: entry 1")
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	sent := 0
	for _, r := range h.s.requests[before:] {
		if r.method == http.MethodPatch {
			sent += len(r.body)
		}
	}
	if want := len(large()) - 300_000/fakeStep*fakeStep; sent != want || len(h.s.pieces) != 1 {
		t.Errorf("%d bytes were sent again in %d uploads, want %d in one", sent, len(h.s.pieces), want)
	}
}

// A small file is sent whole, and so is a large one if that is wanted.
func TestUploadWhole(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{}, {"--resumable", "0"}} {
		h := newHarness(t)
		file := h.write("deed.pdf", large())
		h.expect(exitOK, append([]string{"upload", file}, args...), "deed.pdf: entry 1")
		h.s.mu.Lock()
		if len(h.s.pieces) != 0 {
			t.Errorf("%v: it came in pieces", args)
		}
		h.s.mu.Unlock()
	}
}
