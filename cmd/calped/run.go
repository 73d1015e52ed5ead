package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/alecthomas/kong"

	"github.com/calpe/calpe/anchor/bitcoin"
	"github.com/calpe/calpe/internal/buildinfo"
	"github.com/calpe/calpe/metrics"
	"github.com/calpe/calpe/storage/postgres"
	"github.com/calpe/calpe/storage/s3"
)

// Exit codes of calped.
const (
	exitOK    = 0
	exitFail  = 1 // it was tried and failed; the message says what to do
	exitUsage = 2 // the command line or a setting is wrong; nothing was tried
)

type cli struct {
	Version kong.VersionFlag `help:"Print the version."`

	Config `embed:""`

	Serve   serveCommand   `cmd:"" help:"Serve the API, seal batches and anchor them. Several processes may serve one log."`
	Doctor  doctorCommand  `cmd:"" help:"Run the checks that serve starts with, and stop."`
	Fsck    fsckCommand    `cmd:"" help:"Hold database, object storage, log and chain against each other, and name what is broken. Exit code 3: something is; 1: not all could be looked at."`
	Migrate migrateCommand `cmd:"" help:"Bring the database's schema up to this version."`
	Init    initCommand    `cmd:"" help:"Make the service's keys, once, before anything else."`
	Wallet  walletCommand  `cmd:"" help:"The anchor wallet: its address and its coin."`
	Signer  signerCommand  `cmd:"" help:"The policy signer: a process of its own that holds the anchor keys."`
	Log     logCommand     `cmd:"" help:"Create the log."`
	Agency  agencyCommand  `cmd:"" help:"The agencies that may certify documents."`
	Token   tokenCommand   `cmd:"" help:"API tokens."`
	Keyring keyringCommand `cmd:"" help:"The key-encryption keys."`
}

// app is what commands work with: settings, streams, and how to reach the
// servers. It opens a server only when a command asks for it.
type app struct {
	Config
	stdout io.Writer
	stderr io.Writer
	log    *slog.Logger
	now    func() time.Time

	metrics *metrics.Metrics // of a server; nil in every other command
}

// run parses args, runs the command, and returns the process's exit code. It
// writes results to stdout, and messages and the log to stderr.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var c cli
	exited := -1
	parser, err := kong.New(&c,
		kong.Name("calped"), kong.Vars{"version": buildinfo.Version("calped")},
		kong.Description("Calpe's server, and the operator's tool. Settings are flags or the variables named beside them."),
		kong.Writers(stdout, stderr), kong.Exit(func(code int) { exited = code }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true}),
	)
	if err != nil {
		fmt.Fprintf(stderr, "calped: %v\n", err)
		return exitUsage
	}
	command, err := parser.Parse(args)
	if exited >= 0 { // --help, --version
		return exited
	}
	if err != nil {
		fmt.Fprintf(stderr, "calped: %v\n", err)
		return exitUsage
	}
	a := &app{Config: c.Config, stdout: stdout, stderr: stderr, log: c.Logging.logger(stderr), now: time.Now}
	command.BindTo(ctx, (*context.Context)(nil))
	if err := command.Run(a); err != nil {
		if own, ok := errors.AsType[exitError](err); ok {
			return own.code
		}
		if errors.Is(err, context.Canceled) && ctx.Err() != nil {
			return exitOK
		}
		fmt.Fprintf(stderr, "calped: %v\n", err)
		return exitFail
	}
	return exitOK
}

// openDatabase connects, and refuses a database whose schema isn't ours.
func (a *app) openDatabase(ctx context.Context) (*postgres.DB, error) {
	url, err := a.Database.url()
	if err != nil {
		return nil, err
	}
	config := postgres.Config{
		URL: url, MaxConns: a.Database.MaxConns, StatementTimeout: a.Database.StatementTimeout,
		Logger: a.log, Now: a.now,
	}
	if a.metrics != nil {
		config.Observe = a.metrics.Postgres
	}
	db, err := postgres.Open(ctx, config)
	if err != nil {
		return nil, err
	}
	if err := db.CheckSchema(ctx); err != nil {
		db.Close()
		return nil, err
	}
	return db, nil
}

func (a *app) openObjects() (*s3.Store, error) {
	secretKey, err := secret("s3-secret-key", a.S3.SecretKey, a.S3.SecretKeyFile)
	if err != nil {
		return nil, err
	}
	if a.S3.Endpoint == "" {
		return nil, errors.New("no object storage: set CALPE_S3_ENDPOINT")
	}
	config := s3.Config{
		Endpoint: a.S3.Endpoint, Region: a.S3.Region, AccessKey: a.S3.AccessKey, SecretKey: secretKey,
		DocumentsBucket: a.S3.DocumentsBucket, LogBucket: a.S3.LogBucket, Logger: a.log, Now: a.now,
	}
	if a.metrics != nil {
		config.Observe = a.metrics.S3
	}
	return s3.New(config)
}

func (a *app) openNode() (*bitcoin.Client, error) {
	if a.Bitcoin.URL == "" {
		return nil, errors.New("no Bitcoin node: set CALPE_BITCOIN_URL")
	}
	return a.openBitcoin("bitcoin-password", a.Bitcoin, metrics.FirstNode)
}

// openSecondNode gives nil if there is none.
func (a *app) openSecondNode() (*bitcoin.Client, error) {
	switch a.Bitcoin2.URL {
	case "":
		return nil, nil //nolint:nilnil // it is optional
	case a.Bitcoin.URL:
		return nil, errors.New("CALPE_BITCOIN2_URL is the same node as CALPE_BITCOIN_URL: it can't contradict itself")
	}
	node, err := a.openBitcoin("bitcoin2-password", a.Bitcoin2, metrics.SecondNode)
	if err != nil {
		return nil, fmt.Errorf("second Bitcoin node: %w", err)
	}
	return node, nil
}

func (a *app) openBitcoin(credential string, b Bitcoin, which metrics.Node) (*bitcoin.Client, error) {
	password, err := secret(credential, b.Password, b.PasswordFile)
	if err != nil {
		return nil, err
	}
	config := bitcoin.Config{
		URL: b.URL, User: b.User, Password: password, CookieFile: b.CookieFile, CAFile: b.CAFile, Timeout: b.Timeout, Logger: a.log,
	}
	if a.metrics != nil {
		config.Observe = a.metrics.BitcoinCall(which)
	}
	return bitcoin.New(config)
}

// readFull reads until buf is full or the file ends.
func readFull(f *os.File, buf []byte) (int, error) {
	n, err := io.ReadFull(f, buf)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return n, err
}
