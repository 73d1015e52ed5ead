// Package tools builds the servers of the local stack that are Go programs.
// Their versions, and the hash of every module in them, are pinned in the
// go.mod and go.sum of the devstack module, which its binary carries inside.
package tools

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/calpe/calpe/deploy/devstack/internal/process"
)

// buildTimeout is for a first build on a slow machine, downloads included.
const buildTimeout = 20 * time.Minute

// Config says from what and where to build.
type Config struct {
	GoMod, GoSum []byte // the devstack module's
	CacheDir     string // see CacheDir; default is that of the user
	Log          *slog.Logger
}

// Builder builds each program once and keeps it in the cache. It is safe for
// concurrent use, also by several processes with the same cache.
type Builder struct{ cfg Config }

// New checks cfg.
func New(cfg Config) (*Builder, error) {
	if len(cfg.GoMod) == 0 || len(cfg.GoSum) == 0 || cfg.CacheDir == "" || cfg.Log == nil {
		return nil, errors.New("tools: go.mod, go.sum, a cache folder and a logger are needed")
	}
	return &Builder{cfg}, nil
}

// CacheDir is dir, or if that is empty the user's own cache of devstack.
func CacheDir(dir string) (string, error) {
	if dir != "" {
		return filepath.Abs(dir)
	}
	user, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a cache folder (set CALPE_DEVSTACK_CACHE): %w", err)
	}
	return filepath.Join(user, "calpe", "devstack"), nil
}

// Btcd returns the path of a btcd binary, built first if the cache has none.
func (b *Builder) Btcd(ctx context.Context) (string, error) {
	return b.binary(ctx, "btcd", "github.com/btcsuite/btcd", "github.com/btcsuite/btcd")
}

// Versitygw returns the path of a versitygw binary, built first if the cache
// has none.
func (b *Builder) Versitygw(ctx context.Context) (string, error) {
	return b.binary(ctx, "versitygw", "github.com/versity/versitygw", "github.com/versity/versitygw/cmd/versitygw")
}

func (b *Builder) binary(ctx context.Context, name, module, pkg string) (string, error) {
	version, err := b.version(module)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(b.cfg.CacheDir, name+"-"+version+"-"+b.fingerprint())
	path := filepath.Join(dir, name)
	if built(path) {
		return path, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("make cache folder: %w", err)
	}
	lock, err := process.WaitLock(ctx, filepath.Join(dir, "lock"))
	if err != nil {
		return "", fmt.Errorf("wait for another build of %s: %w", name, err)
	}
	defer lock.Unlock()
	if built(path) {
		return path, nil
	}
	b.cfg.Log.InfoContext(ctx, "building, first time only", "program", name, "version", version)
	if err := b.build(ctx, pkg, path); err != nil {
		return "", fmt.Errorf("build %s %s: %w", name, version, err)
	}
	return path, nil
}

func built(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular() && st.Mode()&0o100 != 0
}

// version finds the module's version in go.mod.
func (b *Builder) version(module string) (string, error) {
	for line := range strings.Lines(string(b.cfg.GoMod)) {
		if f := strings.Fields(line); len(f) >= 2 && f[0] == module && strings.HasPrefix(f[1], "v") {
			return f[1], nil
		}
	}
	return "", fmt.Errorf("go.mod names no version of %s", module)
}

// fingerprint stands for everything that decides what a build gives.
func (b *Builder) fingerprint() string {
	h := sha256.New()
	for _, part := range []string{string(b.cfg.GoMod), string(b.cfg.GoSum), runtime.Version(), runtime.GOOS, runtime.GOARCH} {
		fmt.Fprintf(h, "%d\n%s", len(part), part)
	}
	return fmt.Sprintf("%x", h.Sum(nil)[:6])
}

// build makes the program in a temporary folder and renames it to path.
// Crash here: the folder stays behind, and the next build starts again.
func (b *Builder) build(ctx context.Context, pkg, path string) error {
	ctx, cancel := context.WithTimeout(ctx, buildTimeout)
	defer cancel()
	tmp, err := os.MkdirTemp(filepath.Dir(path), "build-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	for name, text := range map[string][]byte{"go.mod": b.cfg.GoMod, "go.sum": b.cfg.GoSum} {
		if err := os.WriteFile(filepath.Join(tmp, name), text, 0o644); err != nil {
			return err
		}
	}
	goTool, err := exec.LookPath("go")
	if err != nil {
		return fmt.Errorf("the Go toolchain is needed in PATH: %w", err)
	}
	out := filepath.Join(tmp, filepath.Base(path))
	_, err = process.Run(ctx, process.Command{
		Path: goTool,
		Args: []string{"build", "-mod=readonly", "-trimpath", "-ldflags=-s -w", "-o", out, pkg},
		Dir:  tmp,
		Env:  append(os.Environ(), "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0", "GOOS="+runtime.GOOS, "GOARCH="+runtime.GOARCH),
	})
	if err != nil {
		return err
	}
	return os.Rename(out, path)
}
