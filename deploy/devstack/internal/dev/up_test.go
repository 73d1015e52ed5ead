package dev_test

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/calpe/calpe/deploy/devstack/internal/dev"
	"github.com/calpe/calpe/deploy/devstack/internal/dev/devtest"
	"github.com/calpe/calpe/deploy/devstack/internal/process"
)

const root = "../.."

// output collects what a running Up prints.
type output struct {
	mu   sync.Mutex
	text strings.Builder
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// running is an Up that was started.
type running struct {
	out   *output
	stop  context.CancelFunc
	ended chan error
}

func start(t *testing.T, cfg dev.UpConfig) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	r := &running{out: &output{}, stop: cancel, ended: make(chan error, 1)}
	cfg.Out = r.out
	go func() { r.ended <- dev.Up(ctx, cfg) }()
	t.Cleanup(cancel)
	return r
}

// await waits until something is printed, and returns the groups of the pattern.
func (r *running) await(t *testing.T, pattern string) []string {
	t.Helper()
	re := regexp.MustCompile(pattern)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	limit := time.After(5 * time.Minute)
	for {
		if found := re.FindStringSubmatch(r.out.String()); found != nil {
			return found
		}
		select {
		case err := <-r.ended:
			t.Fatalf("it ended: %v\n%s", err, r.out)
		case <-limit:
			t.Fatalf("it never printed %q:\n%s", pattern, r.out)
		case <-tick.C:
		}
	}
}

// end stops it in order.
func (r *running) end(t *testing.T) {
	t.Helper()
	r.stop()
	if err := <-r.ended; err != nil {
		t.Fatalf("stopped: %v\n%s", err, r.out)
	}
}

func upConfig(t *testing.T) dev.UpConfig {
	t.Helper()
	calped, calpe := devtest.Programs(t, root)
	builder, cache := devtest.Tools(t, root)
	return dev.UpConfig{
		State: filepath.Join(t.TempDir(), "state"), Calped: calped, Calpe: calpe, Near: t.TempDir(),
		Listen: "127.0.0.1:0", BlockEvery: 200 * time.Millisecond, PGBin: os.Getenv("CALPE_PG_BIN"), Cache: cache,
		Tools: builder, Log: slog.New(slog.DiscardHandler),
	}
}

// user is calpe with the variables of the state folder's env file.
func user(t *testing.T, cfg dev.UpConfig) dev.Program {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(cfg.State, "env"))
	if err != nil {
		t.Fatal(err)
	}
	p := dev.Program{Path: cfg.Calpe, Dir: cfg.Near}
	for _, m := range regexp.MustCompile(`(?m)^export (\w+)='(.*)'$`).FindAllStringSubmatch(string(text), -1) {
		p.Env = append(p.Env, m[1]+"="+m[2])
	}
	return p
}

const welcomed = `service +(http://\S+)\n +token +(calpe_\S+)\n +calendar +(http://\S+) (?s:.*)Bitcoin +(http://\S+)(?s:.*) msg=serving `

func TestUp(t *testing.T) {
	cfg := upConfig(t)
	first := start(t, cfg)
	before := first.await(t, welcomed)
	if err := dev.Up(t.Context(), cfg); !errors.Is(err, process.ErrLocked) {
		t.Errorf("a second one on the same folder: %v, want ErrLocked", err)
	}
	if err := os.WriteFile(filepath.Join(cfg.Near, "a.txt"), []byte("a"), 0o600); err != nil {
		t.Fatal(err)
	}
	calpe := user(t, cfg)
	if _, err := calpe.Do(t.Context(), "upload", "a.txt", "--wait", "final", "--timeout", "2m"); err != nil {
		t.Fatalf("%v\n%s", err, first.out)
	}
	if _, err := calpe.Do(t.Context(), "ots", "stamp", "a.txt", "--calendar", before[3]); err != nil {
		t.Fatalf("%v\n%s", err, first.out)
	}
	first.end(t)

	second := start(t, cfg)
	after := second.await(t, welcomed)
	if !slices.Equal(after[2:], before[2:]) {
		t.Errorf("token, calendar and node became %q, from %q", after[2:], before[2:])
	}
	calpe = user(t, cfg)
	if _, err := calpe.Do(t.Context(), "headers", "--network", "simnet", "headers.bin"); err != nil {
		t.Fatal(err)
	}
	if _, err := calpe.Do(t.Context(), "verify", "a.txt", "a.txt.receipt.json", "--headers", "headers.bin", "--require", "existence,log"); err != nil {
		t.Errorf("the receipt from before the restart: %v", err)
	}
	info, err := calpe.Do(t.Context(), "ots", "info", "a.txt.ots")
	if err != nil || !strings.Contains(info, after[3]) {
		t.Errorf("the .ots file isn't pending at %s: %s, %v", after[3], info, err)
	}
	text, err := dev.Get(t.Context(), after[1]+"/v1/status")
	var status struct{ Final, Next uint64 }
	if err != nil || json.Unmarshal(text, &status) != nil || status.Final < 3 {
		t.Errorf("status after the restart: %s, %v", text, err)
	}
	second.end(t)
	if left := servers(t, cfg.State); left != nil {
		t.Errorf("left running: %q", left)
	}
	loseChain(t, cfg)
}

// loseChain makes btcd forget, as it does when it is killed. Every later start
// must say so, not just the next.
func loseChain(t *testing.T, cfg dev.UpConfig) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(cfg.State, "bitcoin", "data")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		r := start(t, cfg)
		err := <-r.ended
		if !errors.Is(err, dev.ErrChainLost) || !strings.Contains(err.Error(), "rm -rf "+cfg.State) {
			t.Errorf("err = %v, want that the chain is lost, and what to do", err)
		}
	}
	if left := servers(t, cfg.State); left != nil {
		t.Errorf("left running: %q", left)
	}
}

// servers are the processes that run from a folder.
func servers(t *testing.T, dir string) (found []string) {
	t.Helper()
	paths, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range paths {
		if text, err := os.ReadFile(path); err == nil && strings.Contains(string(text), dir) {
			found = append(found, strings.ReplaceAll(string(text), "\x00", " "))
		}
	}
	return found
}

func TestUpAddressTaken(t *testing.T) {
	cfg := upConfig(t)
	taken := start(t, cfg)
	address := strings.TrimPrefix(taken.await(t, welcomed)[1], "http://")
	cfg.State, cfg.Listen, cfg.Out = filepath.Join(t.TempDir(), "other"), address, &output{}
	err := dev.Up(t.Context(), cfg)
	if !errors.Is(err, process.ErrPortTaken) || !strings.Contains(err.Error(), "--listen") {
		t.Errorf("err = %v, want that the address is taken, and what to do", err)
	}
	taken.end(t)
}
