package dev

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/calpe/calpe/deploy/devstack/internal/bitcoin"
	"github.com/calpe/calpe/deploy/devstack/internal/postgres"
	"github.com/calpe/calpe/deploy/devstack/internal/process"
	"github.com/calpe/calpe/deploy/devstack/internal/s3"
	"github.com/calpe/calpe/deploy/devstack/internal/stack"
	"github.com/calpe/calpe/deploy/devstack/internal/tools"
)

// UpConfig says what to run.
type UpConfig struct {
	State         string // folder in which everything is kept; made if missing
	Calped, Calpe string // paths of the programs
	Near          string // folder of whoever reads; paths below it are shown short
	Listen        string // address of calped
	BlockEvery    time.Duration
	DatabaseURL   string // a PostgreSQL that runs already; empty is to start one
	PGBin, Cache  string // see postgres.Config
	Tools         *tools.Builder
	Out           io.Writer // for people; calped's log goes there too
	Log           *slog.Logger
}

const (
	// chainBlocks are those from which segwit is active on simnet.
	chainBlocks = 420
	funding     = 100_000_000
	origin      = "dev.calpe.example/log"
	agencyID    = "civil-registry"
	agencyName  = "Civil Registry (development)"
)

// pace are settings for people who don't like to wait.
var pace = []string{"CALPE_SEAL_INTERVAL=1s", "CALPE_ANCHOR_INTERVAL=15s", "CALPE_ANCHOR_POLL=1s"}

// up is a running development service.
type up struct {
	cfg        UpConfig
	state      state
	stack      *stack.Stack
	node       *bitcoin.Client
	deployment *Deployment
	server     *Server
	token      string
}

// Up runs a service whose state survives restarts, until ctx ends or one of its
// servers does. When it returns, all of them are stopped. A folder that another
// Up runs on gives process.ErrLocked.
func Up(ctx context.Context, cfg UpConfig) (err error) {
	if cfg.State, err = filepath.Abs(cfg.State); err != nil {
		return err
	}
	lock, err := process.LockDir(cfg.State)
	if err != nil {
		return err
	}
	defer lock.Unlock()
	if err := os.Chmod(cfg.State, stateMode()); err != nil {
		return fmt.Errorf("open folder: %w", err)
	}
	u := &up{cfg: cfg}
	if u.state, err = loadState(cfg.State); err != nil {
		return err
	}
	fmt.Fprintf(cfg.Out, "Starting PostgreSQL, S3 and Bitcoin in %s\n", cfg.State)
	if err := u.startStack(ctx); err != nil {
		return err
	}
	defer u.stop()
	if err := u.checkChain(ctx); err != nil {
		return err
	}
	if err := u.setUp(ctx); err != nil {
		return err
	}
	return u.run(ctx)
}

// stateMode is private, but lets another user pass to root's PostgreSQL, which
// may have to run as somebody else; the files below are private all the same.
func stateMode() os.FileMode {
	if os.Geteuid() == 0 {
		return 0o711
	}
	return 0o700
}

func (u *up) startStack(ctx context.Context) (err error) {
	p := &u.state.Ports
	u.stack, err = stack.Start(ctx, stack.Config{
		Dir: u.cfg.State, DatabaseURL: u.cfg.DatabaseURL,
		Postgres: postgres.Config{Port: free(p.Postgres), Durable: true, Binaries: u.cfg.PGBin, CacheDir: u.cfg.Cache},
		S3:       s3.Config{Port: free(p.S3)},
		Bitcoin:  &bitcoin.Config{Network: "simnet", Port: free(p.Bitcoin), P2PPort: free(p.P2P), Blocks: chainBlocks},
		Tools:    u.cfg.Tools, Log: u.cfg.Log,
	})
	if err != nil {
		return err
	}
	p.S3, p.Bitcoin, p.P2P = port(u.stack.S3.URL), port(u.stack.Bitcoin.URL), port("tcp://"+u.stack.Bitcoin.P2P)
	if u.cfg.DatabaseURL == "" {
		p.Postgres = port(u.stack.DatabaseURL)
	}
	if p.Calendar, err = firstFree(p.Calendar, usualCalendar); err != nil {
		u.stop()
		return err
	}
	if p.Metrics, err = firstFree(p.Metrics, usualMetrics); err != nil {
		u.stop()
		return err
	}
	if u.state.Database == "" {
		u.state.Database = "calpe_dev_" + strings.ToLower(rand.Text()[:10])
	}
	if err := u.state.save(u.cfg.State); err != nil {
		u.stop()
		return err
	}
	u.node, err = bitcoin.NewClient(u.stack.Bitcoin.URL)
	return err
}

// port is 0 if the URL has none.
func port(rawURL string) int {
	u, err := url.Parse(rawURL)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(u.Port())
	return n
}

// ErrChainLost says that the chain in which the log is anchored is gone.
var ErrChainLost = errors.New("btcd has lost its chain")

// checkChain demands the block in which the log's chain of anchors starts. The
// node's own memory of its tip won't do: it tells of a loss just once.
func (u *up) checkChain(ctx context.Context) error {
	want := u.state.FirstBlock
	if want == nil {
		return nil
	}
	hash, err := u.node.BlockHash(ctx, want.Height)
	if refused := (*bitcoin.RPCError)(nil); err != nil && !errors.As(err, &refused) {
		return err
	}
	if hash != want.Hash {
		return fmt.Errorf("%w: its block %d is not %s, in which the coins of this log begin.\n"+
			"That happens when btcd, or the machine, is killed. The log can't go on.\n"+
			"To begin anew, and lose all that is stored here:\n\n    rm -rf %s", ErrChainLost, want.Height, want.Hash, u.cfg.State)
	}
	if lost := u.stack.Bitcoin.LostTip; lost != nil {
		u.cfg.Log.WarnContext(ctx, "btcd has lost the newest blocks; to Calpe that is a reorganisation of the chain", "lost_height", lost.Height)
	}
	return nil
}

// setUp does what an operator does before the first start, as far as it hasn't
// been done. Stopped anywhere, the next start goes on.
func (u *up) setUp(ctx context.Context) error {
	database, err := CreateDatabase(ctx, u.stack.DatabaseURL, u.state.Database)
	if err != nil {
		return err
	}
	u.deployment, err = New(Config{
		Name: "calpe", Origin: origin, Dir: u.cfg.State, Calped: u.cfg.Calped, Database: database,
		S3: u.stack.S3, Bitcoin: *u.stack.Bitcoin, Settings: append([]string{
			"CALPE_LISTEN=" + u.cfg.Listen,
			"CALPE_CALENDAR_LISTEN=" + strings.TrimPrefix(u.calendar(), "http://"), "CALPE_CALENDAR_URI=" + u.calendar(),
			"CALPE_METRICS_LISTEN=127.0.0.1:" + strconv.Itoa(u.state.Ports.Metrics),
		}, pace...),
	})
	if err != nil {
		return err
	}
	if _, err := u.deployment.Migrate(ctx); err != nil {
		return err
	}
	address, err := u.deployment.Init(ctx)
	if err != nil {
		return err
	}
	if err := u.createLog(ctx, address); err != nil {
		return err
	}
	if err := u.addAgency(ctx); err != nil {
		return err
	}
	return u.createToken(ctx)
}

// calendar is the address of the OpenTimestamps calendar.
func (u *up) calendar() string { return "http://127.0.0.1:" + strconv.Itoa(u.state.Ports.Calendar) }

// createLog funds the wallet once, and remembers the block with the coin.
func (u *up) createLog(ctx context.Context, address string) error {
	if u.state.FirstBlock != nil {
		_, err := u.deployment.CreateLog(ctx)
		return err
	}
	if _, err := u.deployment.Fund(ctx, address, funding); err != nil {
		return err
	}
	// Crash here: the next start funds the wallet again, which does no harm.
	if _, err := u.deployment.CreateLog(ctx); err != nil {
		return err
	}
	// Crash here: likewise, and finds that the log is there.
	_, tip, err := u.node.Chain(ctx)
	if err != nil {
		return err
	}
	u.state.FirstBlock = &block{tip.Height, tip.Hash}
	return u.state.save(u.cfg.State)
}

func (u *up) agencyKey() string { return filepath.Join(u.cfg.State, agencyID+".key") }

// addAgency makes the key of an agency and registers it.
func (u *up) addAgency(ctx context.Context) error {
	public := u.agencyKey() + ".pub"
	key, err := os.ReadFile(public)
	if errors.Is(err, os.ErrNotExist) {
		if err := os.RemoveAll(u.agencyKey()); err != nil { // its public half is lost, so nobody has registered it
			return err
		}
		calpe := Program{Path: u.cfg.Calpe, Dir: u.cfg.State}
		var text string
		if text, err = calpe.Do(ctx, "keygen", agencyID, "-o", u.agencyKey()); err != nil {
			return err
		}
		key = []byte(text)
		// Crash here: the next start makes another key.
		err = replace(public, key)
	}
	if err != nil {
		return err
	}
	_, err = u.deployment.AddAgency(ctx, agencyID, agencyName, strings.TrimSpace(string(key)))
	return err
}

// createToken makes one, or takes the one of the first start.
func (u *up) createToken(ctx context.Context) error {
	path := filepath.Join(u.cfg.State, "token")
	text, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		if u.token, err = u.deployment.CreateToken(ctx, "developer"); err != nil {
			return err
		}
		// Crash here: that token is lost, and the next start makes another.
		return replace(path, []byte(u.token+"\n"))
	}
	u.token = strings.TrimSpace(string(text))
	return err
}

// run serves, mines and shows calped's log until ctx ends or a server does.
func (u *up) run(ctx context.Context) (err error) {
	logged, err := size(u.deployment.LogFile())
	if err != nil {
		return err
	}
	if u.server, err = u.deployment.Serve(ctx, u.cfg.Listen); errors.Is(err, process.ErrPortTaken) {
		return fmt.Errorf("another program listens on %s; choose another address with --listen, or CALPE_LISTEN=127.0.0.1:PORT: %w", u.cfg.Listen, err)
	}
	if err != nil {
		return err
	}
	if err := u.writeEnvironments(); err != nil {
		return err
	}
	u.welcome()
	return u.keep(ctx, logged)
}

// keep is the time in which the service runs.
func (u *up) keep(ctx context.Context, logged int64) error {
	log := follower{path: u.deployment.LogFile(), at: logged, to: u.cfg.Out}
	defer log.copy()
	m := miner{node: u.node, every: u.cfg.BlockEvery, log: u.cfg.Log}
	mining, cancel := context.WithCancel(ctx)
	mined := make(chan struct{})
	go func() {
		defer close(mined)
		m.run(mining)
	}()
	defer func() { cancel(); <-mined }()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			fmt.Fprintln(u.cfg.Out, "\nStopping calped, then the other servers")
			return nil
		case <-u.server.Done():
			return u.server.Failure()
		case <-tick.C:
		}
		log.copy()
		if err := u.stack.Failures(); err != nil {
			return err
		}
	}
}

// stop ends the servers, calped first.
func (u *up) stop() {
	if u.server != nil {
		u.server.Stop()
	}
	u.stack.Stop()
}
