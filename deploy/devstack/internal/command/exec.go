package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/calpe/calpe/deploy/devstack/internal/bitcoin"
	"github.com/calpe/calpe/deploy/devstack/internal/postgres"
	"github.com/calpe/calpe/deploy/devstack/internal/process"
	"github.com/calpe/calpe/deploy/devstack/internal/s3"
	"github.com/calpe/calpe/deploy/devstack/internal/stack"
)

// tempPrefix begins the name of every throw-away stack's folder.
const tempPrefix = "calpe-devstack-"

type execCmd struct {
	Durable     bool     `help:"PostgreSQL with settings as in production."`
	Bitcoin     bool     `help:"Start a btcd node (regtest) too: CALPE_TEST_BITCOIN_URL."`
	DatabaseURL string   `name:"database-url" env:"DATABASE_URL" placeholder:"URL" help:"A PostgreSQL that runs already, whose user may create databases."`
	Command     []string `arg:"" passthrough:"" name:"command" help:"Command and its arguments, after --."`
}

func (c *execCmd) Run(a *app) (err error) {
	argv := c.Command
	if argv[0] == "--" {
		argv = argv[1:]
	}
	if len(argv) == 0 {
		return errors.New("exec: no command after --")
	}
	if _, err := exec.LookPath(argv[0]); err != nil {
		return err
	}
	caught := process.CatchSignals()
	defer caught.Stop()
	process.SweepDirs(os.TempDir(), tempPrefix, time.Now().Add(-time.Minute))
	dir, err := os.MkdirTemp("", tempPrefix)
	if err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	// Crash here: the next exec removes the folder, as nobody holds its lock.
	defer os.RemoveAll(dir)
	lock, err := process.LockDir(dir)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	// Root's PostgreSQL may have to run as somebody else, who must get to its
	// folder below; the folders of all servers are private to their users.
	if err := os.Chmod(dir, 0o711); err != nil {
		return fmt.Errorf("open folder: %w", err)
	}
	s, err := c.start(a, dir)
	if err != nil {
		return err
	}
	defer s.Stop()
	code, err := c.guarded(s, argv, caught)
	if failed := s.Failures(); failed != nil {
		err = errors.Join(err, failed)
	}
	if err == nil && code != 0 {
		return exitCode(code)
	}
	return err
}

func (c *execCmd) start(a *app, dir string) (*stack.Stack, error) {
	ctx, stop := signals()
	defer stop()
	cfg := stack.Config{
		Dir:         dir,
		DatabaseURL: c.DatabaseURL,
		Postgres:    postgres.Config{Durable: c.Durable, Binaries: a.cli.PGBin, CacheDir: a.cache},
		S3:          s3.Config{},
		Tools:       a.tools,
		Log:         a.log,
	}
	if c.Bitcoin {
		cfg.Bitcoin = &bitcoin.Config{Network: "regtest", Blocks: regtestBlocks}
	}
	return stack.Start(ctx, cfg)
}

// guarded runs argv below a second process of ours, which sees to it that
// nothing of it stays behind, even when we are killed.
func (c *execCmd) guarded(s *stack.Stack, argv []string, caught *process.Signals) (int, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, fmt.Errorf("find own program: %w", err)
	}
	cmd := exec.Command(self, append([]string{"guard", "--"}, argv...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = s.TestEnvironment(os.Environ(), filepath.Clean(self))
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start guard: %w", err)
	}
	caught.ForwardTo(cmd.Process)
	err = cmd.Wait()
	if ee := (*exec.ExitError)(nil); errors.As(err, &ee) {
		return process.ExitCode(ee.ProcessState), nil
	}
	return 0, err
}

type guardCmd struct {
	Command []string `arg:"" passthrough:""`
}

func (c *guardCmd) Run(a *app) error {
	signal.Ignore(syscall.SIGPIPE) // our reader may be gone before the command's processes are
	argv := c.Command
	if argv[0] == "--" {
		argv = argv[1:]
	}
	code, err := process.Guard(context.Background(), argv)
	if err != nil {
		return err
	}
	if code != 0 {
		return exitCode(code)
	}
	return nil
}
