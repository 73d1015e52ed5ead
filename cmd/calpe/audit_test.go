package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/audit"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt"
)

// publish writes a log of that size into a folder, as it is in a bucket. The seed
// makes histories differ.
func (h *harness) publish(dir string, size uint64, seed byte) {
	h.t.Helper()
	entries := []calpe.Entry{h.s.id.Entry()}
	for n := uint64(1); n < size; n++ {
		entries = append(entries, calpe.Entry{Index: n, Commitment: calpe.Commit(calpe.Digest{seed, byte(n >> 8), byte(n)}, calpe.Salt{})})
	}
	b, err := merkle.LoadEdge(0, merkle.EmptyRoot(), nil)
	if err != nil {
		h.t.Fatal(err)
	}
	leaves := make([]calpe.Hash, len(entries))
	for i, e := range entries {
		entry := e.Bytes()
		leaves[i] = merkle.LeafHash(entry[:])
	}
	if err := b.Append(leaves); err != nil {
		h.t.Fatal(err)
	}
	for _, t := range b.Tiles() {
		h.put(dir, t.Path(), t.Data)
	}
	for bundle := range merkle.BundlesFor(0, size) {
		data, err := merkle.EncodeEntryBundle(bundle, entries[bundle.First():][:bundle.Width])
		if err != nil {
			h.t.Fatal(err)
		}
		h.put(dir, merkle.EntryBundlePath(bundle.Index, bundle.Width), data)
	}
	note, err := receipt.SignCheckpoint(h.s.checkpointKey, testOrigin, size, b.Root())
	if err != nil {
		h.t.Fatal(err)
	}
	h.put(dir, "checkpoint", note)
}

func (h *harness) put(dir, path string, data []byte) {
	h.t.Helper()
	name := filepath.Join(h.path(dir), filepath.FromSlash(path))
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(name, data, 0o600); err != nil {
		h.t.Fatal(err)
	}
}

// serveLog serves a folder as a service does, or as a bucket does if prefix is
// empty. broken may answer in its place.
func (h *harness) serveLog(dir, prefix string, broken func(w http.ResponseWriter, r *http.Request) bool) string {
	h.t.Helper()
	files := http.StripPrefix(prefix, http.FileServer(http.Dir(h.path(dir))))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if broken == nil || !broken(w, r) {
			files.ServeHTTP(w, r)
		}
	}))
	h.t.Cleanup(server.Close)
	return server.URL
}

func TestAuditService(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.publish("log", 300, 1)
	h.env["CALPE_SERVER"] = h.serveLog("log", "/log", nil)
	h.expect(exitOK, []string{"audit"}, "300 new entries", "nothing was kept", "Answer: HOLDS")
	h.expect(exitOK, []string{"audit", "--dir", h.path("mirror")}, "300 new entries", "Answer: HOLDS")
	h.expect(exitOK, []string{"audit", "--dir", h.path("mirror")}, "0 new entries", "same 300 entries")
	h.publish("log", 1000, 1)
	h.expect(exitOK, []string{"audit", "--dir", h.path("mirror")}, "700 new entries", "from 300 to 1000")

	// The mirror is a log, and an address is as good as a folder.
	h.expect(exitOK, []string{"audit", "--log", h.path("mirror")}, "1000 new entries")
	h.expect(exitOK, []string{"audit", "--log", h.serveLog("mirror", "", nil) + "/"}, "1000 new entries")
	h.expect(exitUsage, []string{"audit", "--log", h.path("mirror"), "--dir", h.path("mirror")}, "same folder")

	h.publish("log", 400, 1)
	h.expect(exitNotYet, []string{"audit", "--dir", h.path("mirror")}, "Answer: NOT YET", "of the same history")
	var left []string
	err := filepath.WalkDir(h.path("mirror"), func(path string, _ os.DirEntry, err error) error {
		if strings.Contains(path, ".tmp") || strings.Contains(path, "000.p") || strings.Contains(path, "001.p") {
			left = append(left, path)
		}
		return err
	})
	if err != nil || len(left) != 2 { // tile/1/000.p and what is in it
		t.Errorf("partial tiles %v, %v", left, err)
	}
}

func TestAuditAlarm(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.publish("log", 300, 1)
	args := []string{"audit", "--log", h.path("log"), "--dir", h.path("mirror")}
	h.expect(exitOK, args)
	before := h.read("log/checkpoint")
	h.publish("log", 400, 2)
	h.expect(exitRefuted, args, "Answer: REFUTED: the log has shown two histories", strings.TrimSpace(string(before)))
	var r audit.Report
	if err := json.Unmarshal([]byte(h.expect(exitRefuted, append(args, "--json")).out), &r); err != nil {
		t.Fatal(err)
	}
	if r.Reason != audit.ReasonSplitView || len(r.Evidence) != 2 || r.Evidence[0] != string(before) || r.Previous.Size != 300 {
		t.Errorf("%+v", r)
	}
	kept, err := filepath.Glob(h.path("mirror/conflicts/*"))
	if err != nil || len(kept) != 2 {
		t.Fatalf("%v, %v", kept, err)
	}
	if data, err := os.ReadFile(kept[0]); err != nil || !bytes.Equal(data, before) {
		t.Errorf("evidence is %q, %v", data, err)
	}
}

// The service fails in ways that prove nothing, and in ways that do.
func TestAuditFailures(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	failed := map[string]bool{}
	for name, tc := range map[string]struct {
		broken func(w http.ResponseWriter, r *http.Request) bool
		code   int
		text   string
	}{
		"busy for a moment": {func(w http.ResponseWriter, r *http.Request) bool {
			mu.Lock()
			defer mu.Unlock()
			if failed[r.URL.Path] {
				return false
			}
			failed[r.URL.Path] = true
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(http.StatusServiceUnavailable)
			return true
		}, exitOK, "Answer: HOLDS"},
		"down": {func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusBadGateway)
			return true
		}, exitUsage, "502"},
		"forbidden": {func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusForbidden)
			return true
		}, exitUsage, "403"},
		"a bucket that may not be listed": {func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != "/log/tile/0/001.p/44" {
				return false
			}
			w.WriteHeader(http.StatusForbidden)
			return true
		}, exitUsage, "doesn't give tile/0/001, which its checkpoint covers"},
		"no checkpoint yet": {func(w http.ResponseWriter, _ *http.Request) bool {
			refuse(w, http.StatusNotFound, calpe.CodeNotYet, "The log has no checkpoint yet.")
			return true
		}, exitNotYet, "no checkpoint yet"},
		"no log": {func(w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusNotFound)
			return true
		}, exitUsage, "no log answers at http://127.0.0.1:"},
		"endless": {func(w http.ResponseWriter, r *http.Request) bool {
			if !strings.HasPrefix(r.URL.Path, "/log/tile") {
				return false
			}
			w.WriteHeader(http.StatusOK)
			_, _ = w.Write(make([]byte, 1<<20))
			return true
		}, exitUsage, "more than 65536 bytes"},
		"cut": {func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != "/log/tile/0/000" {
				return false
			}
			w.Header().Set("Content-Length", "8192")
			_, _ = w.Write(make([]byte, 100))
			return true
		}, exitUsage, "ended before its end"},
		"another tile": {func(w http.ResponseWriter, r *http.Request) bool {
			if r.URL.Path != "/log/tile/0/000" {
				return false
			}
			_, _ = w.Write(make([]byte, 8192))
			return true
		}, exitRefuted, "entry 0 in tile/entries/000"},
		"a terminal's control codes": {func(w http.ResponseWriter, r *http.Request) bool {
			_, _ = w.Write([]byte("\x1b[2J"))
			return true
		}, exitRefuted, "Answer: REFUTED"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			h.publish("log", 300, 1)
			h.env["CALPE_SERVER"] = h.serveLog("log", "/log", tc.broken)
			r := h.expect(tc.code, []string{"audit", "--dir", h.path("mirror")}, tc.text)
			if strings.Contains(r.out+r.err, "\x1b") {
				t.Error("prints a control code")
			}
		})
	}
}

func TestAuditUsage(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.publish("log", 3, 1)
	for _, tc := range []struct {
		args []string
		text string
	}{
		{[]string{"--identity", h.path("missing")}, "no such file"},
		{[]string{"--log", h.path("missing")}, "neither an address nor a folder"},
		{[]string{"--log", "https://user:geheim@log.example/"}, "--log: "},
		{[]string{"--log", h.write("file", nil)}, "not a directory"},
		{[]string{"--log", h.t.TempDir()}, "no log answers at "},
		{[]string{"--log", h.path("log"), "--dir", h.path("file")}, "mirror"},
		{[]string{"--log", h.path("log"), "--dir", h.path("file/below")}, "mirror"},
	} {
		h.expect(exitUsage, append([]string{"audit"}, tc.args...), tc.text)
	}
	delete(h.env, "CALPE_IDENTITY")
	h.expect(exitUsage, []string{"audit", "--log", h.path("log")}, "--identity FILE")
	delete(h.env, "CALPE_SERVER")
	h.env["CALPE_IDENTITY"] = h.path("identity.json")
	h.expect(exitUsage, []string{"audit"}, "no service")
	h.expect(exitOK, []string{"audit", "--log", h.path("log")}, "3 new entries")
	// Another log's mirror, and what somebody else put into this one.
	h.put("mirror", "checkpoint", []byte("hello"))
	h.expect(exitUsage, []string{"audit", "--log", h.path("log"), "--dir", h.path("mirror")}, "mirror of another log")
	if err := os.Symlink("/etc/hostname", h.path("log/tile/x")); err != nil {
		t.Fatal(err)
	}
	if _, err := must(openFolderLog(h.path("log"))).Read(t.Context(), "tile/x", 1<<16, false); err == nil {
		t.Error("a link out of the folder was followed")
	}
}
