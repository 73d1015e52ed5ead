package tools

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const goMod = `module m

tool github.com/btcsuite/btcd

require (
	github.com/btcsuite/btcd/wire/v2 v2.0.1
	github.com/btcsuite/btcd v0.26.2 // indirect
)
`

// fakeGo puts a "go" into PATH that notes its calls in calls, and runs body
// with the output file in $out.
func fakeGo(t *testing.T, body string) (calls string) {
	t.Helper()
	dir := t.TempDir()
	calls = filepath.Join(dir, "calls")
	script := "#!/bin/sh\necho \"$*\" >> " + calls + "\nwhile [ \"$1\" != -o ]; do shift; done\nout=$2\n" + body + "\n"
	if err := os.WriteFile(filepath.Join(dir, "go"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":/usr/bin:/bin")
	return calls
}

func builder(t *testing.T, cache string, mod string) *Builder {
	t.Helper()
	b, err := New(Config{GoMod: []byte(mod), GoSum: []byte("sum"), CacheDir: cache, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func count(t *testing.T, calls string) int {
	t.Helper()
	text, err := os.ReadFile(calls)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return bytes.Count(text, []byte("\n"))
}

// TestBuildOnce builds with many builders at once, as many processes would.
func TestBuildOnce(t *testing.T) {
	calls := fakeGo(t, `cp go.mod "$out"; sleep 0.1; chmod +x "$out"`)
	cache := t.TempDir()
	var all sync.WaitGroup
	for range 8 {
		b := builder(t, cache, goMod)
		all.Go(func() {
			path, err := b.Btcd(t.Context())
			if err != nil {
				t.Error(err)
				return
			}
			if text, err := os.ReadFile(path); err != nil || string(text) != goMod {
				t.Errorf("program is %q, %v; want it whole", text, err)
			}
			if !strings.Contains(path, "btcd-v0.26.2-") {
				t.Errorf("path %s doesn't name the version", path)
			}
		})
	}
	all.Wait()
	if n := count(t, calls); n != 1 {
		t.Errorf("%d builds, want 1", n)
	}
	// Another go.mod is another program.
	if _, err := builder(t, cache, goMod+"\n").Btcd(t.Context()); err != nil || count(t, calls) != 2 {
		t.Errorf("err %v, %d builds; want a second one for another go.mod", err, count(t, calls))
	}
}

func TestFailedBuildLeavesNothing(t *testing.T) {
	fakeGo(t, `echo half > "$out"; chmod +x "$out"; echo "does not compile" >&2; exit 1`)
	cache := t.TempDir()
	_, err := builder(t, cache, goMod).Btcd(t.Context())
	if err == nil || !strings.Contains(err.Error(), "btcd v0.26.2") || !strings.Contains(err.Error(), "does not compile") {
		t.Errorf("err = %v, want the program, its version and the compiler's words", err)
	}
	if left, _ := filepath.Glob(filepath.Join(cache, "*", "b*")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	calls := fakeGo(t, `echo whole > "$out"; chmod +x "$out"`)
	if _, err := builder(t, cache, goMod).Btcd(t.Context()); err != nil || count(t, calls) != 1 {
		t.Errorf("next try: %v", err)
	}
}

func TestNoToolchain(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := builder(t, t.TempDir(), goMod).Btcd(t.Context())
	if err == nil || !strings.Contains(err.Error(), "Go toolchain") {
		t.Errorf("err = %v, want that Go is missing", err)
	}
}

func TestUnpinned(t *testing.T) {
	_, err := builder(t, t.TempDir(), goMod).Versitygw(t.Context())
	if err == nil || !strings.Contains(err.Error(), "no version of github.com/versity/versitygw") {
		t.Errorf("err = %v, want that go.mod has no version", err)
	}
}

func TestNewRefuses(t *testing.T) {
	if _, err := New(Config{}); err == nil {
		t.Error("no error for an empty Config")
	}
}

func TestCacheDir(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", "/xdg")
	t.Setenv("HOME", "/home/x")
	if got, err := CacheDir(""); err != nil || !strings.HasSuffix(got, filepath.Join("calpe", "devstack")) {
		t.Errorf("default %q, %v", got, err)
	}
	if got, err := CacheDir("/c/../d"); err != nil || got != "/d" {
		t.Errorf("given %q, %v", got, err)
	}
}
