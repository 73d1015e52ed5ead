package demo_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/calpe/calpe/deploy/devstack/internal/demo"
	"github.com/calpe/calpe/deploy/devstack/internal/dev/devtest"
	"github.com/calpe/calpe/deploy/devstack/internal/tools"
)

const root = "../.."

func config(t *testing.T, calped, calpe string, out *bytes.Buffer) demo.Config {
	t.Helper()
	builder, cache := devtest.Tools(t, root)
	return demo.Config{
		Dir: t.TempDir(), Calped: calped, Calpe: calpe, PGBin: os.Getenv("CALPE_PG_BIN"), Cache: cache,
		BigSize: 20 << 20, Tools: func(*slog.Logger) (*tools.Builder, error) { return builder, nil }, Out: out, Now: time.Now,
	}
}

// servers are the processes that run from a folder.
func servers(t *testing.T, dir string) (found []string) {
	t.Helper()
	lines, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range lines {
		if text, err := os.ReadFile(path); err == nil && strings.Contains(string(text), dir) {
			found = append(found, strings.ReplaceAll(string(text), "\x00", " "))
		}
	}
	return found
}

func TestDemo(t *testing.T) {
	calped, calpe := devtest.Programs(t, root)
	var out bytes.Buffer
	cfg := config(t, calped, calpe, &out)
	if err := demo.Run(t.Context(), cfg); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for _, want := range []string{
		`birth-certificate\.pdf is entry 2, its certification entry 3`,
		`land-survey\.bin is entry 4`,
		`its OP_RETURN: "CLP" 434c50, size 0000000007, root [0-9a-f]{64}`,
		`6 confirmations`,
		`nobody listens on their ports any more`,
		`Certified +HOLDS +by Civil Registry of Port Lumen`,
		`exit code 1; the document was changed`,
		`exit code 1; the receipt was changed`,
		`exit code 1; the receipt is genuine, but of somebody else's log`,
		`existence only, issuer unknown`,
		`with every outcome as expected`,
	} {
		if !regexp.MustCompile(want).MatchString(out.String()) {
			t.Errorf("it doesn't show %q", want)
		}
	}
	if got := strings.Count(out.String(), "as expected: exit code"); got != 8 {
		t.Errorf("%d verifications, want 8", got)
	}
	if t.Failed() {
		t.Log(out.String())
	}
	if left := servers(t, cfg.Dir); left != nil {
		t.Errorf("left running: %q", left)
	}
}

// TestRefusalsCount: a verifier that lets everything pass must not pass the demo.
func TestRefusalsCount(t *testing.T) {
	calped, calpe := devtest.Programs(t, root)
	credulous := filepath.Join(t.TempDir(), "calpe")
	script := fmt.Sprintf("#!/bin/sh\n%s \"$@\"\ncode=$?\n[ \"$1\" = verify ] || exit $code\n", calpe)
	if err := os.WriteFile(credulous, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cfg := config(t, calped, credulous, &out)
	err := demo.Run(t.Context(), cfg)
	if !errors.Is(err, demo.ErrFailed) {
		t.Errorf("err = %v, want ErrFailed", err)
	}
	for _, want := range []string{`in the step "verify tampered.pdf"`, "exit code 0, expected 1"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it doesn't say %q:\n%s", want, out.String())
		}
	}
}

func TestFailureIsExplained(t *testing.T) {
	_, calpe := devtest.Programs(t, root)
	calped := filepath.Join(t.TempDir(), "calped")
	if err := os.WriteFile(calped, []byte("#!/bin/sh\necho out of order >&2\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	cfg := config(t, calped, calpe, &out)
	if err := demo.Run(t.Context(), cfg); !errors.Is(err, demo.ErrFailed) {
		t.Errorf("err = %v, want ErrFailed", err)
	}
	for _, want := range []string{`in the step "schema"`, "calped migrate: exit code 1: out of order"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("it doesn't say %q:\n%s", want, out.String())
		}
	}
	if left := servers(t, cfg.Dir); left != nil {
		t.Errorf("left running: %q", left)
	}
}

func TestInterrupted(t *testing.T) {
	var out bytes.Buffer
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := demo.Run(ctx, config(t, "/none", "/none", &out)); !errors.Is(err, demo.ErrFailed) {
		t.Errorf("err = %v, want ErrFailed", err)
	}
	if !strings.Contains(out.String(), "interrupted") {
		t.Errorf("it doesn't say why:\n%s", out.String())
	}
}
