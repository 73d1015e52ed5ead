package postgres

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/calpe/calpe/deploy/devstack/internal/process"
)

// minMajor is the oldest PostgreSQL that Calpe is run with.
const minMajor = 14

// Binaries is a folder with usable server programs.
type Binaries struct {
	Dir     string
	Version string // such as "15.18"
	Major   int
}

// locate finds the programs, of one major version if that isn't 0, and
// installs them if there are none.
func locate(ctx context.Context, cfg Config, major int) (Binaries, error) {
	if cfg.Binaries != "" {
		return explicit(ctx, cfg.Binaries, major)
	}
	if bin, ok := first(ctx, candidates(ctx, cfg.CacheDir), major); ok {
		return bin, nil
	}
	if major != 0 {
		return Binaries{}, fmt.Errorf("%s was made by PostgreSQL %d, which isn't found here: install it, name its folder in CALPE_PG_BIN, or begin with a new folder", cfg.Dir, major)
	}
	if err := install(ctx, cfg); err != nil {
		return Binaries{}, err
	}
	if bin, ok := first(ctx, candidates(ctx, cfg.CacheDir), 0); ok {
		return bin, nil
	}
	return Binaries{}, fmt.Errorf("installed PostgreSQL, but found no initdb and postgres of version %d or later; name their folder in CALPE_PG_BIN", minMajor)
}

func explicit(ctx context.Context, dir string, major int) (Binaries, error) {
	bin, err := inspect(ctx, dir)
	switch {
	case err != nil:
		return Binaries{}, fmt.Errorf("CALPE_PG_BIN: %w", err)
	case major != 0 && bin.Major != major:
		return Binaries{}, fmt.Errorf("the data directory was made by PostgreSQL %d, and CALPE_PG_BIN holds %s", major, bin.Version)
	}
	return bin, nil
}

// first returns the first usable candidate of the wanted major version.
func first(ctx context.Context, dirs []string, major int) (Binaries, bool) {
	for _, dir := range dirs {
		bin, err := inspect(ctx, dir)
		if err == nil && (major == 0 && bin.Major >= minMajor || bin.Major == major) {
			return bin, true
		}
	}
	return Binaries{}, false
}

// candidates lists the folders that may hold the programs, best first.
func candidates(ctx context.Context, cacheDir string) []string {
	var dirs []string
	if path, err := exec.LookPath("initdb"); err == nil {
		dirs = append(dirs, filepath.Dir(path))
	}
	if out, err := process.Run(ctx, process.Command{Path: "pg_config", Args: []string{"--bindir"}}); err == nil {
		dirs = append(dirs, strings.TrimSpace(out))
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin",
		"/usr/pgsql-*/bin",
		"/opt/homebrew/opt/postgresql@*/bin",
		"/usr/local/opt/postgresql@*/bin",
		"/Applications/Postgres.app/Contents/Versions/*/bin",
	} {
		dirs = append(dirs, newestFirst(pattern)...)
	}
	return append(dirs, npmBinaries(cacheDir))
}

func newestFirst(pattern string) []string {
	dirs, _ := filepath.Glob(pattern)
	number := regexp.MustCompile(`\d+`)
	slices.SortFunc(dirs, func(a, b string) int {
		x, _ := strconv.Atoi(number.FindString(a))
		y, _ := strconv.Atoi(number.FindString(b))
		return y - x
	})
	return dirs
}

// inspect asks the server program in dir for its version.
func inspect(ctx context.Context, dir string) (Binaries, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if _, err := os.Stat(filepath.Join(dir, "initdb")); err != nil {
		return Binaries{}, fmt.Errorf("no initdb: %w", err)
	}
	out, err := process.Run(ctx, process.Command{Path: filepath.Join(dir, "postgres"), Args: []string{"--version"}})
	if err != nil {
		return Binaries{}, fmt.Errorf("ask for the version: %w", err)
	}
	version, major, err := parseVersion(out)
	if err != nil {
		return Binaries{}, fmt.Errorf("%s: %w", dir, err)
	}
	return Binaries{Dir: dir, Version: version, Major: major}, nil
}

// parseVersion reads "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)".
func parseVersion(out string) (version string, major int, err error) {
	m := regexp.MustCompile(`\(PostgreSQL\) ((\d{1,4})\S*)`).FindStringSubmatch(out)
	if m == nil {
		return "", 0, errors.New("not the version line of a PostgreSQL server: " + strconv.Quote(out[:min(len(out), 80)]))
	}
	major, err = strconv.Atoi(m[2])
	return m[1], major, err
}
