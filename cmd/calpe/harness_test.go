package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/calpe/calpe/receipt"
)

// harness runs the program in a folder of its own. Time passes only when the
// program waits.
type harness struct {
	t      testing.TB
	s      *fakeService
	dir    string
	env    map[string]string
	stdin  string
	waits  []time.Duration
	onWait func()
}

func newHarness(t testing.TB) *harness {
	t.Helper()
	s := newService(t)
	h := &harness{t: t, s: s, dir: t.TempDir()}
	h.env = map[string]string{"CALPE_SERVER": s.url, "CALPE_TOKEN": testToken, "CALPE_IDENTITY": h.write("identity.json", s.id.Canonical())}
	return h
}

// testNow is when every run happens.
var testNow = time.Date(2026, 11, 21, 9, 30, 0, 0, time.UTC)

type result struct {
	code     int
	out, err string
}

func (h *harness) runContext(ctx context.Context, args ...string) result {
	h.t.Helper()
	var out, errs bytes.Buffer
	code := Run(ctx, args, System{
		Stdin: strings.NewReader(h.stdin), Stdout: &out, Stderr: &errs,
		Now:       func() time.Time { return testNow },
		LookupEnv: func(name string) (string, bool) { v, ok := h.env[name]; return v, ok },
		Wait: func(ctx context.Context, d time.Duration) error {
			h.waits = append(h.waits, d)
			if h.onWait != nil {
				h.onWait()
			}
			return context.Cause(ctx)
		},
	})
	r := result{code, out.String(), errs.String()}
	for _, secret := range []string{testToken, "geheim"} {
		if strings.Contains(r.out+r.err, secret) {
			h.t.Errorf("calpe %s prints a secret:\n%s%s", args[0], r.out, r.err)
		}
	}
	return r
}

func (h *harness) run(args ...string) result {
	h.t.Helper()
	return h.runContext(h.t.Context(), args...)
}

// expect runs and demands an exit code, and texts among all that is printed.
func (h *harness) expect(code int, args []string, texts ...string) result {
	h.t.Helper()
	r := h.run(args...)
	if r.code != code {
		h.t.Fatalf("calpe %s: exit code %d, want %d\n%s%s", strings.Join(args, " "), r.code, code, r.out, r.err)
	}
	for _, text := range texts {
		if !strings.Contains(r.out+r.err, text) {
			h.t.Errorf("calpe %s doesn't say %q:\n%s%s", args[0], text, r.out, r.err)
		}
	}
	return r
}

func (h *harness) path(name string) string { return filepath.Join(h.dir, name) }

func (h *harness) write(name string, data []byte) string {
	h.t.Helper()
	if err := os.WriteFile(h.path(name), data, 0o600); err != nil {
		h.t.Fatal(err)
	}
	return h.path(name)
}

func (h *harness) read(name string) []byte {
	h.t.Helper()
	data, err := os.ReadFile(h.path(name))
	if err != nil {
		h.t.Fatal(err)
	}
	return data
}

func (h *harness) exists(name string) bool {
	h.t.Helper()
	there, err := exists(h.path(name))
	if err != nil {
		h.t.Fatal(err)
	}
	return there
}

func (h *harness) receipt(name string) receipt.Receipt {
	h.t.Helper()
	r, err := receipt.Decode(h.read(name))
	if err != nil {
		h.t.Fatal(err)
	}
	return r
}

// headers writes the chain's headers.
func (h *harness) headers() string { return h.write("headers.bin", h.s.chain.file()) }

// files lists the folder, for seeing that nothing is left behind.
func (h *harness) files() string {
	h.t.Helper()
	entries, err := os.ReadDir(h.dir)
	if err != nil {
		h.t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		if e.Name() != "identity.json" && e.Name() != "headers.bin" {
			names = append(names, e.Name())
		}
	}
	return strings.Join(names, " ")
}

// final uploads a file and brings its receipt to final.
func (h *harness) final(name string, content string, args ...string) (file, receiptFile string) {
	h.t.Helper()
	file = h.write(name, []byte(content))
	h.onWait = h.s.advance
	h.expect(exitOK, append([]string{"upload", file, "--wait", "final"}, args...), "final")
	return file, file + ".receipt.json"
}
