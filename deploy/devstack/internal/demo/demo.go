// Package demo shows Calpe at work: real documents go into a real S3 server,
// their hashes into a log in a real PostgreSQL, its root into a real Bitcoin
// node's block, and what comes out is verified with all of that switched off.
package demo

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/calpe/calpe/deploy/devstack/internal/bitcoin"
	"github.com/calpe/calpe/deploy/devstack/internal/dev"
	"github.com/calpe/calpe/deploy/devstack/internal/postgres"
	"github.com/calpe/calpe/deploy/devstack/internal/process"
	"github.com/calpe/calpe/deploy/devstack/internal/stack"
	"github.com/calpe/calpe/deploy/devstack/internal/tools"
)

// Config says what to run.
type Config struct {
	Dir           string // everything the demo keeps; the caller removes it
	Calped, Calpe string // paths of the programs
	DatabaseURL   string // a PostgreSQL that runs already; empty is to start one
	PGBin, Cache  string // see postgres.Config
	BigSize       int64  // bytes of the big document
	Keep          bool   // say where documents and receipts are
	Tools         func(*slog.Logger) (*tools.Builder, error)
	Out           io.Writer
	Colour        bool
	Now           func() time.Time
}

// Limits on how long steps may take; the first one builds servers.
const (
	stackTimeout  = 40 * time.Minute
	stepTimeout   = time.Minute
	uploadTimeout = 5 * time.Minute
)

// firstBlocks make the faucet's coins mature.
const firstBlocks = 120

// funding pays for thousands of anchors.
const funding = 1_000_000

const (
	agencyID   = "civil-registry"
	agencyName = "Civil Registry of Port Lumen"
)

// pace are settings for people who watch.
var pace = []string{"CALPE_SEAL_INTERVAL=2s", "CALPE_ANCHOR_INTERVAL=8s", "CALPE_ANCHOR_POLL=200ms"}

// depth is from how many confirmations an anchor is final: calped's default.
const depth = 6

// ErrFailed says that something didn't happen as expected; what has been printed.
var ErrFailed = errors.New("the demo failed")

type demo struct {
	cfg Config
	p   *printer

	docs  string // folder of documents and receipts
	tools *tools.Builder
	stack *stack.Stack
	node  *bitcoin.Client
	ours  party
	other party // a deployment of somebody else

	at string // name of the step that runs

	failures []func() error // one for whatever runs: why it has ended by itself, or nil

	// For the summary.
	sizes             []string // of our receipts
	checkpoint, block string
}

// party is a deployment with a user of it.
type party struct {
	*dev.Deployment
	service
	database string // its name
	log      dev.Log
	user     dev.Program // calpe with the user's settings
}

// Run runs the demo and prints what happens. Any outcome but the expected one is
// ErrFailed, after why was printed. When Run returns, nothing that it started is left
// but cfg.Dir.
func Run(ctx context.Context, cfg Config) error {
	d := &demo{
		cfg: cfg, docs: filepath.Join(cfg.Dir, "documents"),
		p: &printer{w: cfg.Out, colour: cfg.Colour, now: cfg.Now, start: cfg.Now()},
	}
	defer d.stop(context.WithoutCancel(ctx))
	fmt.Fprintln(cfg.Out, d.p.paint(bold, "Calpe: a notary whose word nobody has to take"))
	d.p.text("Documents go into storage, their hashes into a log, the log's root into Bitcoin, and receipts come out.\n" +
		"Every part is real but the coins and the people. It all runs on this machine, and is removed in the end.\n" +
		"Times: since the start, and for the step.")
	for _, act := range []func(context.Context) error{
		d.startServers, d.setUp, d.submit, d.anchor, d.switchOff, d.verify, d.refuse,
	} {
		if err := act(ctx); err != nil {
			d.explain(ctx, err)
			return ErrFailed
		}
	}
	d.summary()
	return nil
}

// explain prints why the demo failed, with the ends of the logs that may say more.
func (d *demo) explain(ctx context.Context, err error) {
	if ctx.Err() != nil {
		d.p.failed(d.at, errors.New("interrupted"))
		return
	}
	d.p.failed(d.at, err)
	if d.ours.Server != nil && !errors.Is(err, process.ErrEnded) { // that one shows a log
		d.p.quote("The end of calped's log:\n" + process.Tail(d.ours.LogFile()))
	}
}

// step runs one step and prints what it returns. It fails at once when a server
// ends by itself.
func (d *demo) step(ctx context.Context, name string, limit time.Duration, run func(context.Context) (string, error)) error {
	d.at = name
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	go watch(ctx, d.failures, fail)
	began := d.cfg.Now()
	detail, err := run(ctx)
	if ended := context.Cause(ctx); err != nil && errors.Is(ended, process.ErrEnded) {
		return ended
	}
	if err != nil {
		return err
	}
	d.p.step(name, detail, d.cfg.Now().Sub(began))
	return nil
}

// watch calls fail with the first failure, until ctx ends.
func watch(ctx context.Context, failures []func() error, fail context.CancelCauseFunc) {
	tick := time.NewTicker(poll)
	defer tick.Stop()
	for {
		for _, failure := range failures {
			if err := failure(); err != nil {
				fail(err)
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (d *demo) startServers(ctx context.Context) error {
	d.p.act("The servers", "Real ones, as a ministry would run them, with throw-away folders and free ports.")
	var err error
	log := slog.New(handler{p: d.p})
	if d.tools, err = d.cfg.Tools(log); err != nil {
		return err
	}
	err = d.step(ctx, "servers", stackTimeout, func(ctx context.Context) (_ string, err error) {
		d.stack, err = stack.Start(ctx, stack.Config{
			Dir: d.cfg.Dir, DatabaseURL: d.cfg.DatabaseURL,
			Postgres: postgres.Config{Durable: true, Binaries: d.cfg.PGBin, CacheDir: d.cfg.Cache},
			Bitcoin:  &bitcoin.Config{Network: "regtest", Blocks: firstBlocks},
			Tools:    d.tools, Log: log,
		})
		return "all three answer", err
	})
	if err != nil {
		return err
	}
	d.failures = append(d.failures, d.stack.Failures)
	if d.node, err = bitcoin.NewClient(d.stack.Bitcoin.URL); err != nil {
		return err
	}
	version, err := dev.ServerVersion(ctx, d.stack.DatabaseURL)
	if err != nil {
		return err
	}
	s3, err := d.tools.Versitygw(ctx)
	if err != nil {
		return err
	}
	what := "every commit is on disk before it is answered"
	if d.cfg.DatabaseURL != "" {
		what = "the one in DATABASE_URL"
	}
	d.p.more("PostgreSQL", fmt.Sprintf("%s at %s: %s", firstWord(version), host(d.stack.DatabaseURL), what))
	d.p.more("S3", fmt.Sprintf("versitygw %s at %s: versioning and Object Lock", builtVersion(s3), host(d.stack.S3.URL)))
	d.p.more("Bitcoin", fmt.Sprintf("btcd %s at %s: a chain of its own (regtest), %d blocks so far",
		builtVersion(d.stack.Btcd), host(d.stack.Bitcoin.URL), d.stack.Bitcoin.Height))
	return nil
}

func firstWord(text string) string {
	word, _, _ := strings.Cut(text, " ")
	return word
}

// host is the part of a URL that holds no password.
func host(rawURL string) string {
	u, err := url.Parse(rawURL)
	if err != nil {
		return "an address that can't be parsed"
	}
	return u.Host
}

// builtVersion is the version in the name of a program's folder, which the
// builder calls NAME-VERSION-FINGERPRINT.
func builtVersion(path string) string {
	version := strings.TrimPrefix(filepath.Base(filepath.Dir(path)), filepath.Base(path)+"-")
	if i := strings.LastIndexByte(version, '-'); i > 0 {
		version = version[:i]
	}
	return version
}

// deploy makes a deployment with a database of its own; nothing is in it yet.
func (d *demo) deploy(ctx context.Context, name, origin string) (p party, err error) {
	p.database = "calpe_demo_" + strings.ToLower(rand.Text()[:10])
	database, err := dev.CreateDatabase(ctx, d.stack.DatabaseURL, p.database)
	if err != nil {
		return party{}, err
	}
	p.Deployment, err = dev.New(dev.Config{
		Name: name, Origin: origin, Dir: filepath.Join(d.cfg.Dir, name), Calped: d.cfg.Calped,
		Database: database, S3: d.stack.S3, Bitcoin: *d.stack.Bitcoin, Settings: pace,
	})
	return p, err
}

// serve starts the server, with a token for its user.
func (d *demo) serve(ctx context.Context, p *party) error {
	token, err := p.CreateToken(ctx, "citizen")
	if err != nil {
		return err
	}
	server, err := p.Serve(ctx, "127.0.0.1:0")
	if err != nil {
		return err
	}
	p.Server = server
	d.failures = append(d.failures, func() error {
		select {
		case <-server.Done():
			return server.Failure()
		default:
			return nil
		}
	})
	p.user = dev.Program{Path: d.cfg.Calpe, Dir: d.docs, Env: []string{
		"CALPE_SERVER=" + p.URL, "CALPE_TOKEN=" + token, "CALPE_IDENTITY=" + p.IdentityFile(),
	}}
	return nil
}

// stop ends what runs, the servers of Calpe first, and leaves no database
// behind on a server that isn't ours.
func (d *demo) stop(ctx context.Context) {
	d.failures = nil
	for _, p := range []*party{&d.ours, &d.other} {
		if p.Server != nil {
			p.Server.Stop()
			p.Server = nil
		}
	}
	if d.stack == nil {
		return
	}
	if d.cfg.DatabaseURL != "" {
		d.dropDatabases(ctx)
	}
	d.stack.Stop()
	d.stack = nil
}

func (d *demo) dropDatabases(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	for _, p := range []*party{&d.ours, &d.other} {
		if p.database == "" {
			continue
		}
		if err := dev.DropDatabase(ctx, d.cfg.DatabaseURL, p.database); err != nil {
			d.p.text(fmt.Sprintf("The database %s is left behind: %v", p.database, err))
		}
		p.database = ""
	}
}
