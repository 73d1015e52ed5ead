package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/calpe/calpe"
)

// manyFiles writes n documents in a folder and one below.
func (h *harness) manyFiles(n int) (folder string) {
	h.t.Helper()
	folder = h.path("docs")
	if err := os.MkdirAll(filepath.Join(folder, "sub"), 0o700); err != nil {
		h.t.Fatal(err)
	}
	for i := range n {
		name := fmt.Sprintf("docs/%02d.txt", i)
		if i%3 == 0 {
			name = fmt.Sprintf("docs/sub/%02d.txt", i)
		}
		h.write(name, fmt.Appendf(nil, "document %d", i))
	}
	return folder
}

// wantStamped demands a receipt beside each of the documents, that all hold, that
// each stands at another index, and that the log has nothing else.
func (h *harness) wantStamped(folder string, n int) {
	h.t.Helper()
	at := map[uint64]bool{}
	err := filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || strings.HasSuffix(path, ".receipt.json") {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		r, err := readReceipt(path + ".receipt.json")
		if err != nil {
			return err
		}
		at[r.Index] = true
		if commitment := calpe.Commit(sha256.Sum256(data), r.Salt); r.Index >= uint64(len(h.s.entries)) || h.s.entries[r.Index].Commitment != commitment {
			return fmt.Errorf("%s isn't entry %d", path, r.Index)
		}
		return check(r, sha256.Sum256(data), h.s.id)
	})
	if err != nil {
		h.t.Fatal(err)
	}
	if len(at) != n || len(h.s.entries) != n+1 || isPending(h, folder) {
		h.t.Errorf("%d receipts, %d entries, pending: %v", len(at), len(h.s.entries), isPending(h, folder))
	}
}

func isPending(h *harness, folder string) bool {
	h.t.Helper()
	there, err := exists(filepath.Join(folder, manifestName))
	if err != nil {
		h.t.Fatal(err)
	}
	return there
}

func TestStampFolder(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 4, 5, 11} {
		h := newHarness(t)
		folder := h.manyFiles(n)
		h.expect(exitOK, []string{"stamp", "--dir", folder}, fmt.Sprintf("%d stamped", n))
		h.wantStamped(folder, n)
		h.expect(exitOK, []string{"stamp", "--dir", folder}, "0 stamped") // all have receipts
		h.wantStamped(folder, n)
		path := filepath.Join(folder, "sub", "00.txt.receipt.json")
		h.onWait = h.s.advance
		h.expect(exitOK, []string{"receipt", path, "--wait", "final"}, "final")
		h.expect(exitOK, []string{"verify", filepath.Join(folder, "sub", "00.txt"), path, "--headers", h.headers()}, "HOLDS")
	}
}

// What can't be stamped is named, and the others are.
func TestStampFolderWithOddFiles(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	folder := h.manyFiles(3)
	h.write("docs/empty.txt", nil)
	h.write("docs/begun.txt", []byte("begun"))
	h.write("docs/begun.txt.stamp-pending.json", []byte("{}"))
	h.write("docs/bad\xff.txt", []byte("name"))
	if err := os.Symlink("00.txt", filepath.Join(folder, "link.txt")); err != nil {
		t.Fatal(err)
	}
	h.expect(exitOK, []string{"stamp", filepath.Join(folder, "01.txt")}, "entry 1")
	h.expect(exitUsage, []string{"stamp", "--dir", folder}, "2 stamped", "empty", "begun by itself", "UTF-8", "not a regular file")
	for _, name := range []string{"empty.txt", "begun.txt", "bad\xff.txt", "begun.txt"} {
		if err := os.Remove(filepath.Join(folder, name)); name != "begun.txt" && err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"begun.txt.stamp-pending.json", "link.txt"} {
		if err := os.Remove(filepath.Join(folder, name)); err != nil {
			t.Fatal(err)
		}
	}
	h.wantStamped(folder, 3)
	h.write("docs/01.txt", []byte("changed"))
	h.expect(exitUsage, []string{"stamp", "--dir", folder}, "other contents", "0 stamped")
}

func TestStampList(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	var lines, packed []byte
	var digests []calpe.Digest
	for i := range 9 {
		d := sha256.Sum256(fmt.Append(nil, i))
		digests = append(digests, d)
		lines, packed = fmt.Appendf(lines, "%x\n", d), append(packed, d[:]...)
	}
	h.expect(exitOK, []string{"stamp", "--from-file", h.write("lines", lines)}, "9 stamped", "lines.receipts")
	h.expect(exitOK, []string{"stamp", "--from-file", h.write("packed", packed), "-o", h.path("out")}, "9 stamped", "out")
	for _, d := range digests {
		for _, folder := range []string{"lines.receipts", "out"} {
			r := h.receipt(folder + "/" + d.String() + ".receipt.json")
			if err := check(r, d, h.s.id); err != nil || r.Digest != d {
				t.Errorf("%v: %v", r.Digest, err)
			}
		}
	}
	if len(h.s.entries) != 19 {
		t.Errorf("%d entries", len(h.s.entries))
	}
	h.expect(exitOK, []string{"stamp", "--from-file", h.path("packed"), "-o", h.path("out")}, "0 stamped")
	h.expect(exitUsage, []string{"stamp", "--from-file", h.write("bad", packed[:50])}, "digest 2")
	h.expect(exitUsage, []string{"stamp", "--from-file", h.write("bad", append(lines, "x\n"...))}, "digest 10")
}

func TestStampManyUsage(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	folder := h.manyFiles(1)
	h.expect(exitUsage, []string{"stamp", "--dir", folder, "x"}, "--dir")
	h.expect(exitUsage, []string{"stamp", "--dir", folder, "--from-file", "x"}, "--from-file")
	h.expect(exitUsage, []string{"stamp", "--dir", folder, "--wait", "final"}, "--wait")
	h.expect(exitUsage, []string{"stamp", "--dir", folder, "--output", "x"}, "--output")
	h.expect(exitUsage, []string{"stamp", "--dir", h.path("nowhere")}, "nowhere")
	h.expect(exitUsage, []string{"stamp", "--dir", folder, "--token", "calpe_wrong"}, "unauthorized")
	if isPending(h, folder) {
		t.Error("a refused upload is left pending")
	}
	h.write("docs/"+manifestName, []byte("{}\n"))
	h.expect(exitUsage, []string{"stamp", "--dir", folder}, "move it away")
}

// cutBehind answers with some groups and drops the connection; what is behind
// them is recorded, as far as record says, and not told.
func cutBehind(groups int) serveFunc {
	return func(s *fakeService, w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		s.mu.Lock()
		s.streamCommitments(w, r, body, groups)
		s.mu.Unlock()
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}
}

// endsWith answers with some groups and then an error's line.
func endsWith(groups int, code calpe.Code, status int) serveFunc {
	return func(s *fakeService, w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		rec := httptest.NewRecorder()
		s.streamCommitments(rec, r, body[:groups*fakeGroup*calpe.HashSize], groups)
		lines := bytes.SplitAfter(rec.Body.Bytes(), []byte("\n"))
		_, _ = w.Write(bytes.Join(lines[:groups], nil))
		_ = json.NewEncoder(w).Encode(map[string]any{"offset": groups * fakeGroup, "retry_after": 7,
			"error": map[string]any{"title": "Title", "detail": "Detail", "status": status, "code": code}})
	}
}

func TestStampManySurvivesFailures(t *testing.T) {
	t.Parallel()
	const n = 14
	for name, f := range map[string]serveFunc{
		"cut before": cutBefore, "cut after": cutAfter, "truncated": truncating, "503": refusing(503, calpe.CodeUnavailable),
		"cut behind no group": cutBehind(0), "cut behind a group": cutBehind(1), "cut behind two": cutBehind(2),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			folder := h.manyFiles(n)
			h.s.fail("/v1/commitments", f)
			h.expect(exitOK, []string{"stamp", "--dir", folder}, "going on", "14 stamped")
			h.wantStamped(folder, n)
		})
		t.Run(name+", for long", func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			folder := h.manyFiles(n)
			for range 50 {
				h.s.fail("/v1/commitments", f)
			}
			for run := 0; ; run++ { // each run may end, and the next one goes on
				r := h.run("stamp", "--dir", folder)
				if r.code == exitOK {
					break
				}
				if r.code != exitUsage || !isPending(h, folder) || run > 60 {
					t.Fatalf("run %d: %+v", run, r)
				}
				if run > 3 {
					h.s.heal()
				}
				h.write("docs/added later.txt", []byte("later")) // for the run after the last
			}
			if err := os.Remove(h.path("docs/added later.txt")); err != nil && !errors.Is(err, os.ErrNotExist) {
				t.Fatal(err)
			}
			h.wantStamped(folder, n)
		})
	}
}

// An error behind some groups leaves those, says what the service says, and is
// gone on with, if that may help.
func TestStampManyIsToldOfErrors(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	folder := h.manyFiles(10)
	h.s.fail("/v1/commitments", endsWith(1, calpe.CodeTooManyRequests, 429))
	h.expect(exitOK, []string{"stamp", "--dir", folder}, "too-many-requests", "asks to wait 7s", "10 stamped")
	h.wantStamped(folder, 10)
	h.write("docs/a.txt", []byte("a"))
	for i := range 9 {
		h.write(fmt.Sprintf("docs/b%d.txt", i), fmt.Append(nil, i))
	}
	h.s.fail("/v1/commitments", endsWith(1, calpe.CodeForbidden, 403))
	h.expect(exitUsage, []string{"stamp", "--dir", folder}, "4 of 10 are recorded", "forbidden")
	h.expect(exitOK, []string{"stamp", "--dir", folder}, "10 stamped")
	h.wantStamped(folder, 20)
}

func TestStampManyIsInterrupted(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	folder := h.manyFiles(9)
	ctx, cancel := context.WithCancel(t.Context())
	h.s.fail("/v1/commitments", func(s *fakeService, w http.ResponseWriter, r *http.Request) {
		cancel()
		cutBehind(1)(s, w, r)
	})
	if r := h.runContext(ctx, "stamp", "--dir", folder); r.code != exitUsage || !strings.Contains(r.err, "run the same command again") {
		t.Fatalf("%+v", r)
	}
	h.expect(exitOK, []string{"stamp", "--dir", folder}, "going on", "9 stamped")
	h.wantStamped(folder, 9)
}

// Only commitments leave, and the salts are durable before the first of them.
func TestStampManySendsCommitmentsAlone(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	folder := h.manyFiles(6)
	var seed []byte
	h.s.fail("/v1/commitments", func(s *fakeService, w http.ResponseWriter, r *http.Request) {
		var head manifestHead
		line, _, _ := bytes.Cut(h.read("docs/"+manifestName), []byte("\n"))
		if err := json.Unmarshal(line, &head); err != nil || head.Count != 6 {
			t.Errorf("%s: %v", line, err)
		}
		seed = head.Seed
		s.serve(w, r)
	})
	h.expect(exitOK, []string{"stamp", "--dir", folder})
	secrets := [][]byte{seed, fmt.Appendf(nil, "%x", seed), []byte("00.txt")}
	for i := range 6 {
		digest := sha256.Sum256(fmt.Appendf(nil, "document %d", i))
		secrets = append(secrets, digest[:], fmt.Appendf(nil, "%x", digest))
	}
	salts := map[calpe.Salt]bool{}
	for _, name := range []string{"sub/00", "01", "02", "sub/03", "04", "05"} {
		r := h.receipt("docs/" + name + ".txt.receipt.json")
		salts[r.Salt] = true
		secrets = append(secrets, r.Salt[:])
	}
	if len(salts) != 6 || len(seed) != seedSize {
		t.Errorf("%d salts from a seed of %d bytes", len(salts), len(seed))
	}
	for _, req := range h.s.requests {
		all := fmt.Appendf(nil, "%s %s %v %s", req.method, req.path, req.header, req.body)
		for _, secret := range secrets {
			if bytes.Contains(all, secret) {
				t.Errorf("a request holds what it must not: %q", secret)
			}
		}
	}
}

func TestStampManyChecksTheService(t *testing.T) {
	t.Parallel()
	other := newService(t)
	lines := func(change func(m map[string]any)) serveFunc {
		return altering(func(body []byte) []byte {
			var out []byte
			for line := range bytes.Lines(body) {
				m := map[string]any{}
				if err := json.Unmarshal(line, &m); err != nil {
					t.Errorf("line %s: %v", line, err)
				}
				change(m)
				data, err := json.Marshal(m)
				if err != nil {
					t.Error(err)
				}
				out = append(append(out, data...), '\n')
			}
			return out
		})
	}
	ifGroup := func(change func(m map[string]any)) serveFunc {
		return lines(func(m map[string]any) {
			if m["acknowledgement"] != nil {
				change(m)
			}
		})
	}
	for name, f := range map[string]serveFunc{
		"another index":      ifGroup(func(m map[string]any) { m["first"] = 0 }),
		"fewer":              ifGroup(func(m map[string]any) { m["count"] = 2 }),
		"too many":           ifGroup(func(m map[string]any) { m["count"] = 99 }),
		"none":               ifGroup(func(m map[string]any) { m["count"] = 0 }),
		"another offset":     ifGroup(func(m map[string]any) { m["offset"] = 4 }),
		"no acknowledgement": ifGroup(func(m map[string]any) { m["acknowledgement"] = nil }),
		"another's promise":  ifGroup(func(m map[string]any) { m["acknowledgement"] = other.promise(0) }),
		"the end too soon": lines(func(m map[string]any) {
			clear(m)
			m["recorded"] = 0
		}),
		"the end elsewhere": lines(func(m map[string]any) {
			if m["recorded"] != nil {
				m["recorded"] = 1
			}
		}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			folder := h.manyFiles(6)
			h.s.fail("/v1/commitments", f)
			h.expect(exitRefuted, []string{"stamp", "--dir", folder}, "refused")
			if !isPending(h, folder) {
				t.Error("nothing remembers the upload")
			}
			h.expect(exitOK, []string{"stamp", "--dir", folder}, "6 stamped")
			h.wantStamped(folder, 6)
		})
	}
}

// A list that was changed isn't mistaken for the one that was begun, nor one
// service for another.
func TestStampManyOfAnotherUpload(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	digest := sha256.Sum256([]byte("x"))
	list := h.write("list", fmt.Appendf(nil, "%x\n", digest))
	for range maxAttempts {
		h.s.fail("/v1/commitments", cutBefore)
	}
	h.expect(exitUsage, []string{"stamp", "--from-file", list, "-o", h.path("out")})
	h.expect(exitUsage, []string{"stamp", "--from-file", h.write("other", digest[:]), "-o", h.path("out")}, "another list")
	elsewhere := newService(t)
	h.env["CALPE_IDENTITY"] = h.write("identity.json", elsewhere.id.Canonical())
	h.expect(exitUsage, []string{"stamp", "--from-file", list, "-o", h.path("out"), "--server", elsewhere.url}, "another service")
	h.env["CALPE_IDENTITY"] = h.write("identity.json", h.s.id.Canonical())
	h.expect(exitOK, []string{"stamp", "--from-file", list, "-o", h.path("out")}, "1 stamped")
	if len(h.s.entries) != 2 {
		t.Errorf("%d entries", len(h.s.entries))
	}
}

// FuzzManifest: a manifest from anywhere is read, or refused with an error.
func FuzzManifest(f *testing.F) {
	head := fmt.Sprintf(`{"type":%q,"server":"http://x","key":"%032x","seed":"%064x","count":1,"source":"%064x"}`, manifestType, 1, 2, 0)
	f.Add(fmt.Appendf(nil, "%s\n{\"digest\":\"%064x\",\"receipt\":\"a.receipt.json\"}\n", head, 3))
	f.Add(fmt.Appendf(nil, "%s\n{\"digest\":\"%064x\",\"receipt\":\"../a\"}\n", head, 3))
	f.Add([]byte(head))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), manifestName)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		m, err := resumeMany(path)
		if err != nil {
			return
		}
		r, err := m.read(0)
		if err != nil {
			t.Fatal(err)
		}
		defer r.file.Close()
		for range 3 {
			item, err := r.item()
			if err != nil {
				return
			}
			if !filepath.IsLocal(item.Receipt) || item.commitment != calpe.Commit(item.Digest, item.salt) {
				t.Errorf("%+v", item)
			}
		}
	})
}
