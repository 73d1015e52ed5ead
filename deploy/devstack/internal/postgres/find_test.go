package postgres

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// programs makes a folder with an initdb, and a postgres that says a version.
func programs(t *testing.T, says string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"initdb": "#!/bin/sh\n", "postgres": "#!/bin/sh\necho '" + says + "'\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestParseVersion(t *testing.T) {
	for _, tt := range []struct {
		out, version string
		major        int
	}{
		{"postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", "15.18", 15},
		{"postgres (PostgreSQL) 18.4", "18.4", 18},
		{"postgres (PostgreSQL) 19beta1", "19beta1", 19},
		{"postgres (PostgreSQL) 9.6.24", "9.6.24", 9},
		{"postgres (PostgreSQL) devel", "", 0},
		{"postgres (PostgreSQL) 99999999999999999999", "", 0},
		{"", "", 0},
	} {
		version, major, err := parseVersion(tt.out)
		if tt.version == "" {
			if err == nil && major > 9999 {
				t.Errorf("%q: major %d", tt.out, major)
			}
			if err == nil && version == "" {
				t.Errorf("%q: no error", tt.out)
			}
			continue
		}
		if err != nil || version != tt.version || major != tt.major {
			t.Errorf("%q: %q %d %v", tt.out, version, major, err)
		}
	}
}

func FuzzParseVersion(f *testing.F) {
	f.Add("postgres (PostgreSQL) 15.18 (Debian)")
	f.Add("postgres (PostgreSQL) x")
	f.Fuzz(func(t *testing.T, out string) {
		if version, major, err := parseVersion(out); err == nil && (version == "" || major < 0 || major > 9999) {
			t.Errorf("%q: %q %d", out, version, major)
		}
	})
}

func TestLocate(t *testing.T) {
	v15 := programs(t, "postgres (PostgreSQL) 15.1")
	v13 := programs(t, "postgres (PostgreSQL) 13.1")
	odd := programs(t, "something else")
	for _, tt := range []struct {
		name, path, binaries string
		major                int
		want, err            string
	}{
		{name: "in PATH", path: v15, want: v15},
		{name: "the version that made the data", path: v15, major: 15, want: v15},
		{name: "explicit", path: v13, binaries: v15, want: v15},
		{name: "explicit wins over age", binaries: v13, want: v13},
		{name: "explicit, but of another version than the data", binaries: v15, major: 14, err: "made by PostgreSQL 14, and CALPE_PG_BIN holds 15.1"},
		{name: "explicit, but nothing there", binaries: "/nonexistent", err: "CALPE_PG_BIN: no initdb"},
		{name: "explicit, but not PostgreSQL", binaries: odd, err: "not the version line"},
		{name: "data of a version that isn't there", path: v15, major: 42, err: "made by PostgreSQL 42, which isn't found here"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("PATH", tt.path+":/usr/bin:/bin")
			cfg := config(t)
			cfg.Binaries = tt.binaries
			got, err := locate(t.Context(), cfg, tt.major)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("err = %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil || got.Dir != tt.want {
				t.Errorf("found %+v, %v; want %s", got, err, tt.want)
			}
		})
	}
}

func TestFirstSkipsTheOldAndTheBroken(t *testing.T) {
	v13, v16 := programs(t, "postgres (PostgreSQL) 13.9"), programs(t, "postgres (PostgreSQL) 16.2")
	dirs := []string{"/nonexistent", programs(t, "?"), v13, v16}
	if got, ok := first(t.Context(), dirs, 0); !ok || got.Dir != v16 {
		t.Errorf("got %+v, want %s", got, v16)
	}
	// Data that an old version made can only be read by that one.
	if got, ok := first(t.Context(), dirs, 13); !ok || got.Dir != v13 {
		t.Errorf("got %+v, want %s", got, v13)
	}
	if got, ok := first(t.Context(), dirs, 15); ok {
		t.Errorf("got %+v, want none", got)
	}
}

func TestNewestFirst(t *testing.T) {
	base := t.TempDir()
	// The number compared is the path's first, so the test's own path has none.
	t.Chdir(base)
	for _, v := range []string{"9", "15", "14", "100"} {
		if err := os.MkdirAll(filepath.Join(v, "bin"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"100/bin", "15/bin", "14/bin", "9/bin"}, newestFirst("*/bin")); diff != "" {
		t.Error(diff)
	}
}
