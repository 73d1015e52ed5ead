// Package command is the command line of devstack.
package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/alecthomas/kong"
	"github.com/calpe/calpe/deploy/devstack/internal/tools"
)

// Config is what main knows.
type Config struct {
	Args         []string // without the program's name
	GoMod, GoSum []byte   // of the devstack module; they pin what is built
	Stdout       io.Writer
	Stderr       io.Writer
}

type cli struct {
	Cache string `env:"CALPE_DEVSTACK_CACHE" placeholder:"DIR" help:"Folder for built and downloaded programs. Default: calpe/devstack in the user's cache."`
	PGBin string `name:"pg-bin" env:"CALPE_PG_BIN" placeholder:"DIR" help:"Folder with PostgreSQL's initdb and postgres. Default: found, else installed."`

	Demo     demoCmd     `cmd:"" help:"Show Calpe at work on a throw-away stack: notarize documents, and verify their receipts with everything switched off."`
	Up       upCmd       `cmd:"" help:"Run Calpe on a stack whose state is kept, for development."`
	Postgres postgresCmd `cmd:"" help:"Run a PostgreSQL server."`
	S3       s3Cmd       `cmd:"" name:"s3" help:"Run versitygw, an S3 server with versioning and Object Lock."`
	Bitcoin  bitcoinCmd  `cmd:"" help:"Run a btcd node with a chain of its own."`
	Exec     execCmd     `cmd:"" help:"Run a command with a throw-away stack; CALPE_TEST_… variables say where it is."`
	Mine     mineCmd     `cmd:"" help:"Mine blocks."`
	Fund     fundCmd     `cmd:"" help:"Pay an address from the coins of the node's miner, and mine the payment."`
	Guard    guardCmd    `cmd:"" hidden:"" help:"Run a command and leave no process of it behind."`
}

// app is what every command gets.
type app struct {
	cfg   Config
	cli   *cli
	log   *slog.Logger
	cache string
	tools *tools.Builder
}

// exitCode is an error that only carries a command's exit code.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

// Run runs one command and returns the exit code: 0 all went well, 2 the
// command line is wrong, 1 anything else; exec has its command's code.
func Run(cfg Config) int {
	var c cli
	parser, err := kong.New(&c,
		kong.Name("devstack"),
		kong.Description("The servers that Calpe needs, for development and tests."),
		kong.Writers(cfg.Stdout, cfg.Stderr),
		kong.UsageOnError(),
	)
	if err != nil {
		fmt.Fprintln(cfg.Stderr, "devstack:", err)
		return 1
	}
	parsed, err := parser.Parse(cfg.Args)
	if err != nil {
		fmt.Fprintln(cfg.Stderr, "devstack:", err)
		return 2
	}
	a := &app{cfg: cfg, cli: &c, log: slog.New(slog.NewTextHandler(cfg.Stderr, nil))}
	err = a.prepare()
	if err == nil {
		err = parsed.Run(a)
	}
	var code exitCode
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	}
	fmt.Fprintln(cfg.Stderr, "devstack:", err)
	return 1
}

func (a *app) prepare() (err error) {
	if a.cache, err = tools.CacheDir(a.cli.Cache); err != nil {
		return err
	}
	a.tools, err = tools.New(tools.Config{GoMod: a.cfg.GoMod, GoSum: a.cfg.GoSum, CacheDir: a.cache, Log: a.log})
	return err
}

// signals returns a context that ends when we are asked to end.
func signals() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
}

// printJSON writes v as one line.
func (a *app) printJSON(v any) error {
	if err := json.NewEncoder(a.cfg.Stdout).Encode(v); err != nil {
		return fmt.Errorf("write to standard output: %w", err)
	}
	return nil
}
