package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func TestHelp(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	r := h.expect(exitOK, []string{"--help"}, "Exit codes: 0 done", "3 not anchored yet")
	for _, command := range []string{"upload", "stamp", "receipt", "verify", "find", "ots", "headers", "identity", "certify", "keygen"} {
		if !strings.Contains(r.out, "\n  "+command+" ") {
			t.Errorf("--help doesn't list %s", command)
		}
		h.expect(exitOK, []string{command, "--help"}, "Usage: calpe "+command)
	}
	h.expect(exitOK, []string{"upload", "--help"}, "$CALPE_SERVER", "$CALPE_TOKEN", "$CALPE_IDENTITY")
	h.expect(exitOK, []string{"--version"}, "calpe ", runtime.Version())
	h.expect(exitUsage, nil, "see calpe --help")
	h.expect(exitUsage, []string{"verify", "a.txt"}, "see calpe verify --help")
	h.expect(exitUsage, []string{"ots", "merge"}, "see calpe ots merge --help")
	h.expect(exitUsage, []string{"audit-everything"}, "audit-everything")
}

func TestIdentityCommand(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	r := h.expect(exitOK, []string{"identity"}, h.s.id.Hash().String())
	if r.out != string(h.s.id.Canonical())+"\n" {
		t.Errorf("printed %q", r.out)
	}
	h.s.fail("/v1/identity", altering(func(b []byte) []byte { return b[:len(b)-2] }))
	h.expect(exitUsage, []string{"identity"}, "answer is none")
	h.env["CALPE_SERVER"] = ""
	h.expect(exitUsage, []string{"identity"}, "CALPE_SERVER")
}

func TestExitCodes(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		err  error
		want int
	}{
		{nil, exitOK}, {io.EOF, exitUsage}, {errRefuted, exitRefuted}, {errNotYet, exitNotYet}, {reported(3), exitNotYet},
		{fmt.Errorf("x: %w", errors.Join(errNotYet, errRefuted)), exitRefuted}, {context.Canceled, exitUsage},
	} {
		if got := exitCode(tc.err); got != tc.want {
			t.Errorf("exit code of %v is %d, want %d", tc.err, got, tc.want)
		}
	}
	order := []int{exitOK, exitNotYet, exitUsage, exitRefuted}
	for i, a := range order {
		for j, b := range order {
			if got := worse(a, b); got != order[max(i, j)] {
				t.Errorf("worse(%d, %d) is %d", a, b, got)
			}
		}
	}
}

func TestCleanAndShown(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"a b\nc": "a b\nc", "\x1b[2J": "\uFFFD[2J", "a\u202eb": "a\uFFFDb", "\xff": "\uFFFD", "año": "año", "a\tb\r": "a\uFFFDb\uFFFD",
	} {
		if got := clean(in); got != want {
			t.Errorf("clean(%q) is %q, want %q", in, got, want)
		}
	}
	for in, want := range map[string]string{"a b": "a b", "a\nb": `"a\nb"`, "\xff": `"\xff"`, "año.pdf": "año.pdf"} {
		if got := shown(in); got != want {
			t.Errorf("shown(%q) is %s, want %s", in, got, want)
		}
	}
}

// The former file stays whatever goes wrong, and nothing is left beside it.
func TestReplaceFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	write := func(text string, err error) func(io.Writer) error {
		return func(w io.Writer) error { _, _ = io.WriteString(w, text); return err }
	}
	if err := replaceFile(path, privateFile, write("one", nil)); err != nil {
		t.Fatal(err)
	}
	if err := replaceFile(path, privateFile, write("half of tw", io.ErrShortWrite)); !errors.Is(err, io.ErrShortWrite) || !strings.Contains(err.Error(), path) {
		t.Errorf("error is %v", err)
	}
	data, err := os.ReadFile(path)
	entries, _ := os.ReadDir(dir)
	if err != nil || string(data) != "one" || len(entries) != 1 {
		t.Errorf("file holds %q, %v; folder holds %v", data, err, entries)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := replaceFile(path, privateFile, write("two", nil)); err != nil {
		t.Fatal(err)
	}
	if data, err = os.ReadFile(path); err != nil || string(data) != "two" {
		t.Errorf("file holds %q, %v", data, err)
	}
	if info, err := os.Stat(path); err != nil || runtime.GOOS != "windows" && info.Mode().Perm() != 0o640 {
		t.Errorf("mode is %v, %v: it was 0640", info.Mode(), err)
	}
	if err := replaceFile(filepath.Join(dir, "none", "a"), privateFile, write("x", nil)); err == nil {
		t.Error("a file in no folder was written")
	}
}

func TestPause(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		if err := pause(t.Context(), time.Minute); err != nil || time.Since(start) != time.Minute {
			t.Errorf("paused %v: %v", time.Since(start), err)
		}
		cause := errors.New("stop")
		ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, cause)
		defer cancel()
		if err := pause(ctx, time.Minute); !errors.Is(err, cause) || time.Since(start) != time.Minute+time.Second {
			t.Errorf("paused %v: %v", time.Since(start), err)
		}
	})
}

// On a terminal there are bars, on the error stream alone.
func TestProgress(t *testing.T) {
	t.Parallel()
	var errs bytes.Buffer
	a := &app{System: System{Stderr: &errs}, terminal: true}
	n, err := a.hash(t.Context(), sha256.New(), strings.NewReader(strings.Repeat("x", 1<<20)), "hash \x1b.txt", 1<<20)
	if err != nil || n != 1<<20 {
		t.Fatal(n, err)
	}
	if !strings.Contains(errs.String(), `hash \x1b.txt`) || !strings.Contains(errs.String(), "/1.0 MB") {
		t.Errorf("bar is %q", errs.String())
	}
	errs.Reset()
	progress, done := a.fetchProgress()
	progress(10, 20)
	progress(20, 20)
	done()
	if !strings.Contains(errs.String(), "block headers") {
		t.Errorf("bar is %q", errs.String())
	}
}

func TestHashEndsWithContext(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := h.runContext(ctx, "upload", h.write("a.txt", []byte("hello")))
	if r.code != exitUsage || !strings.Contains(r.err, "interrupted") {
		t.Errorf("exit code %d: %s", r.code, r.err)
	}
}
