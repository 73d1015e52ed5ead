package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/calpe/calpe/deploy/devstack/internal/process"
	"github.com/calpe/calpe/deploy/devstack/internal/tools"
	"github.com/jackc/pgx/v5"
)

// realConfig is a Config for a real server with the programs that a user would get.
func realConfig(t *testing.T, dir string) Config {
	t.Helper()
	cache, err := tools.CacheDir(os.Getenv("CALPE_DEVSTACK_CACHE"))
	if err != nil {
		t.Fatal(err)
	}
	return Config{
		Dir: dir, Binaries: os.Getenv("CALPE_PG_BIN"), CacheDir: cache,
		Log: slog.New(slog.DiscardHandler),
	}
}

func run(t *testing.T, cfg Config) *Server {
	t.Helper()
	s, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

func query(t *testing.T, rawURL, sql string) (answer string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), rawURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	if err := conn.QueryRow(t.Context(), sql).Scan(&answer); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return answer
}

func execute(t *testing.T, rawURL, sql string) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), rawURL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	if _, err := conn.Exec(t.Context(), sql); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func TestSettings(t *testing.T) {
	for _, durable := range []bool{false, true} {
		t.Run(fmt.Sprint("durable ", durable), func(t *testing.T) {
			cfg := realConfig(t, filepath.Join(t.TempDir(), "pg"))
			cfg.Durable = durable
			s := run(t, cfg)
			want := map[bool]string{false: "off", true: "on"}[durable]
			for _, name := range []string{"fsync", "synchronous_commit", "full_page_writes"} {
				if got := query(t, s.Info.URL, "SHOW "+name); got != want {
					t.Errorf("%s = %s, want %s", name, got, want)
				}
			}
			if got := query(t, s.Info.URL, "SHOW max_connections"); got != "300" {
				t.Errorf("max_connections = %s", got)
			}
			if got := query(t, s.Info.URL, "SELECT version()"); !strings.Contains(got, "PostgreSQL "+s.Info.Version) {
				t.Errorf("server is %q, Info says %q", got, s.Info.Version)
			}
			if got := query(t, s.Info.URL, "SELECT rolsuper::text FROM pg_roles WHERE rolname = current_user"); got != "true" {
				t.Errorf("superuser: %s", got)
			}
		})
	}
}

// TestPasswordIsNeeded tries a wrong password and none, also over IPv4 loopback
// as somebody else on the machine would.
func TestPasswordIsNeeded(t *testing.T) {
	s := run(t, realConfig(t, t.TempDir()))
	u, err := url.Parse(s.Info.URL)
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range []*url.Userinfo{url.UserPassword("calpe", "wrong"), url.User("calpe"), url.User("postgres")} {
		u.User = user
		if err := Ping(t.Context(), u.String()); err == nil {
			t.Errorf("%s was let in", user)
		}
	}
}

// TestRestart kills a durable server and starts it again on its folder.
func TestRestart(t *testing.T) {
	cfg := realConfig(t, t.TempDir())
	cfg.Durable = true
	first := run(t, cfg)
	execute(t, first.Info.URL, "CREATE TABLE kept AS SELECT 'here'::text AS v")
	if _, err := Start(t.Context(), cfg); !errors.Is(err, process.ErrLocked) {
		t.Errorf("second server on the folder: %v, want ErrLocked", err)
	}
	syscall.Kill(first.Info.PID, syscall.SIGKILL)
	<-first.Done()
	if err := first.Failure(); !errors.Is(err, process.ErrEnded) || !strings.Contains(err.Error(), "killed") {
		t.Errorf("failure = %v", err)
	}
	first.Stop()
	second := run(t, cfg)
	if got := query(t, second.Info.URL, "SELECT v FROM kept"); got != "here" {
		t.Errorf("committed row is %q after kill -9", got)
	}
}

func TestUnfinishedDataDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "data.new", "base"), 0o700); err != nil {
		t.Fatal(err)
	}
	run(t, realConfig(t, dir))
}

func TestPortTaken(t *testing.T) {
	first := run(t, realConfig(t, t.TempDir()))
	u, err := url.Parse(first.Info.URL)
	if err != nil {
		t.Fatal(err)
	}
	cfg := realConfig(t, t.TempDir())
	fmt.Sscan(u.Port(), &cfg.Port)
	if _, err := Start(t.Context(), cfg); !errors.Is(err, process.ErrPortTaken) {
		t.Errorf("err = %v, want ErrPortTaken", err)
	}
	cfg.Port = 0
	run(t, cfg) // the failure gave the folder's lock back
}

func TestCheckCreator(t *testing.T) {
	s := run(t, realConfig(t, t.TempDir()))
	if err := CheckCreator(t.Context(), s.Info.URL); err != nil {
		t.Errorf("superuser: %v", err)
	}
	execute(t, s.Info.URL, "CREATE ROLE poor LOGIN PASSWORD 'x'; CREATE ROLE maker LOGIN CREATEDB PASSWORD 'x'")
	u, err := url.Parse(s.Info.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("maker", "x")
	if err := CheckCreator(t.Context(), u.String()); err != nil {
		t.Errorf("role with CREATEDB: %v", err)
	}
	u.User = url.UserPassword("poor", "x")
	if err := CheckCreator(t.Context(), u.String()); err == nil || !strings.Contains(err.Error(), "may not create databases") {
		t.Errorf("role without: %v", err)
	}
	u.User = url.UserPassword("poor", "sesame")
	if err := CheckCreator(t.Context(), u.String()); err == nil || strings.Contains(err.Error(), "sesame") {
		t.Errorf("wrong password: %v; want an error that doesn't show it", err)
	}
}

func TestBadFolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), realConfig(t, file)); err == nil {
		t.Error("started in a file")
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "password"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), realConfig(t, dir)); err == nil || !strings.Contains(err.Error(), "read password") {
		t.Errorf("err = %v, want that the password can't be read", err)
	}
}
