// Package bitcoin runs a btcd node with a chain of its own, regtest or simnet,
// on the loopback interface.
package bitcoin

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/calpe/calpe/deploy/devstack/internal/process"
)

const readyTimeout = time.Minute

// Config says what node to run.
type Config struct {
	Dir           string // everything the node keeps; made if missing
	Port, P2PPort int    // 0 is a free one
	Network       string // "regtest" or "simnet"
	MinerAddress  string // gets the reward of every block
	Password      string // of the RPC user; see LoadPassword
	Blocks        int64  // the chain has at least these many blocks when Start returns
	Binary        string // the btcd program
	Log           *slog.Logger
}

// Info is what a user of the node needs to know.
type Info struct {
	Component    string `json:"component"` // "bitcoin"
	PID          int    `json:"pid"`
	URL          string `json:"url"` // JSON-RPC over http, with user and password
	P2P          string `json:"p2p"` // host:port for other nodes
	Network      string `json:"network"`
	Genesis      string `json:"genesis"` // as Bitcoin shows it
	MinerAddress string `json:"miner_address"`
	Height       int64  `json:"height"`
	Tip          string `json:"tip"` // as Bitcoin shows it
	// LostTip is the newest block that was seen when the node ran here before,
	// if the node has it no more: it lost its chain and began another one.
	// Whatever was anchored in the old chain is gone. Absent if nothing is lost.
	LostTip *Tip   `json:"lost_tip,omitempty"`
	Dir     string `json:"dir"`
	LogFile string `json:"log"`
}

// Server is a running node.
type Server struct {
	Info   Info
	cfg    Config
	rpc    *Client
	lock   *process.Lock
	proc   *process.Process
	follow context.CancelFunc
	done   chan struct{} // the follower has ended
}

// LoadPassword reads the password of the RPC user from dir, or makes one there.
func LoadPassword(dir string) (string, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("make folder: %w", err)
	}
	path := filepath.Join(dir, "rpcpassword")
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

// Start starts a node and returns when it answers and has cfg.Blocks blocks.
// ctx bounds the start only. If the node lost its chain since it ran in this
// folder before, Info.LostTip and a warning say so: btcd wipes a regtest chain
// at each start, and a simnet chain is lost when btcd is killed. A folder that
// another node runs on gives process.ErrLocked.
func Start(ctx context.Context, cfg Config) (_ *Server, err error) {
	if cfg.Network != "regtest" && cfg.Network != "simnet" {
		return nil, fmt.Errorf("bitcoin: network %q: only regtest and simnet have chains of one's own", cfg.Network)
	}
	if cfg.Dir, err = filepath.Abs(cfg.Dir); err != nil {
		return nil, err
	}
	lock, err := process.LockDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, lock: lock}
	if err := s.start(ctx); err != nil {
		lock.Unlock()
		return nil, fmt.Errorf("bitcoin: %w", err)
	}
	return s, nil
}

func (s *Server) start(ctx context.Context) error {
	s.Info = Info{
		Component: "bitcoin", Network: s.cfg.Network, MinerAddress: s.cfg.MinerAddress,
		Dir: s.cfg.Dir, LogFile: filepath.Join(s.cfg.Dir, "btcd.log"),
	}
	tidy := tidyHome()
	err := process.WithPort(s.cfg.Port, func(port int) error {
		return process.WithPort(s.cfg.P2PPort, func(p2p int) error { return s.listen(ctx, port, p2p) })
	})
	tidy()
	if err != nil {
		return err
	}
	if err := s.prepare(ctx); err != nil {
		s.proc.Stop()
		return err
	}
	following, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.follow, s.done = cancel, make(chan struct{})
	go func() {
		defer close(s.done)
		s.rememberTips(following)
	}()
	return nil
}

// tidyHome looks for the folder .btcd in the user's home, which btcd makes
// whenever it starts, wherever it is told to keep its things. The function that
// it returns removes one that is new.
func tidyHome() func() {
	me, err := user.Current() // by /etc/passwd and not HOME, as in btcd
	if err != nil {
		return func() {}
	}
	return removeIfNew(filepath.Join(me.HomeDir, ".btcd"))
}

// removeIfNew is for a folder that is only removed if it is missing now, and
// empty then.
func removeIfNew(dir string) func() {
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		return func() {}
	}
	return func() { _ = os.Remove(dir) } // one that isn't empty stays
}

// listen runs the node until it answers a call by its own user; no other node
// knows the password.
func (s *Server) listen(ctx context.Context, port, p2p int) error {
	s.Info.P2P = "127.0.0.1:" + strconv.Itoa(p2p)
	host := "127.0.0.1:" + strconv.Itoa(port)
	conf := filepath.Join(s.cfg.Dir, "btcd.conf")
	if err := os.WriteFile(conf, []byte(s.cfg.file(host, s.Info.P2P)), 0o600); err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	proc, err := process.Start(context.WithoutCancel(ctx), process.Config{
		Name: "btcd",
		Path: s.cfg.Binary,
		Args: []string{"--configfile=" + conf},
		Dir:  s.cfg.Dir,
		Env:  process.Environment(s.cfg.Dir),
		Log:  s.Info.LogFile,
		// A simnet chain that isn't flushed is lost.
		Grace: 30 * time.Second,
	})
	if err != nil {
		return err
	}
	u := url.URL{Scheme: "http", User: url.UserPassword("calpe", s.cfg.Password), Host: host}
	if s.rpc, err = NewClient(u.String()); err != nil {
		proc.Stop()
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	if err := proc.WaitReady(ctx, func(ctx context.Context) error { return s.rpc.Call(ctx, nil, "getblockcount") }); err != nil {
		proc.Stop()
		return err
	}
	s.proc, s.Info.PID, s.Info.URL = proc, proc.PID(), u.String()
	return nil
}

// file is the node's configuration. It is a file and not arguments, because any
// user of the machine can read those.
func (c Config) file(rpc, p2p string) string {
	lines := []string{
		"[Application Options]",
		c.Network + "=1",
		"rejectnonstd=1", // the rules of the real network; btcd's test networks take anything
		"notls=1",
		"nodnsseed=1",
		"trickleinterval=100ms", // transactions reach a second node at once, not after 10 s
		"listen=" + p2p,
		"rpclisten=" + rpc,
		"rpcuser=calpe",
		"rpcpass=" + c.Password,
		"datadir=" + filepath.Join(c.Dir, "data"),
		"logdir=" + filepath.Join(c.Dir, "logs"),
		"miningaddr=" + c.MinerAddress,
	}
	return strings.Join(lines, "\n") + "\n"
}

// prepare says if the chain was lost, and mines until it is long enough.
func (s *Server) prepare(ctx context.Context) error {
	lost, err := s.lostTip(ctx)
	if err != nil {
		return err
	}
	if s.Info.LostTip = lost; lost != nil {
		s.cfg.Log.WarnContext(ctx, "btcd lost its chain and began a new one; what was anchored in the old one is gone",
			"network", s.cfg.Network, "lost_height", lost.Height, "lost_hash", lost.Hash)
	}
	_, tip, err := s.rpc.Chain(ctx)
	if err != nil {
		return err
	}
	if missing := s.cfg.Blocks - tip.Height; missing > 0 {
		if _, err := s.rpc.Mine(ctx, int(missing)); err != nil {
			return fmt.Errorf("mine the first %d blocks: %w", s.cfg.Blocks, err)
		}
	}
	if s.Info.Genesis, err = s.rpc.BlockHash(ctx, 0); err != nil {
		return err
	}
	if _, tip, err = s.rpc.Chain(ctx); err != nil {
		return err
	}
	s.Info.Height, s.Info.Tip = tip.Height, tip.Hash
	return s.writeTip(tip)
}

// lostTip returns the remembered tip if the node's best chain doesn't hold it.
func (s *Server) lostTip(ctx context.Context) (*Tip, error) {
	text, err := os.ReadFile(s.tipFile())
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read remembered tip: %w", err)
	}
	var tip Tip
	if err := json.Unmarshal(text, &tip); err != nil {
		return nil, fmt.Errorf("parse %s: %w", s.tipFile(), err)
	}
	hash, err := s.rpc.BlockHash(ctx, tip.Height)
	if refused := (*RPCError)(nil); errors.As(err, &refused) {
		return &tip, nil // the chain is shorter
	}
	if err != nil {
		return nil, err
	}
	if hash != tip.Hash {
		return &tip, nil
	}
	return nil, nil
}

func (s *Server) tipFile() string { return filepath.Join(s.cfg.Dir, "tip-"+s.cfg.Network+".json") }

// writeTip replaces the file whole.
// Crash here: the older tip stays, which the chain holds as well.
func (s *Server) writeTip(tip Tip) error {
	text, err := json.Marshal(tip)
	if err != nil {
		return err
	}
	if err := os.WriteFile(s.tipFile()+".new", text, 0o600); err != nil {
		return fmt.Errorf("remember tip: %w", err)
	}
	return os.Rename(s.tipFile()+".new", s.tipFile())
}

// rememberTips notes the newest block every second, and once more at the end.
// What it misses only makes a loss look smaller than it was.
func (s *Server) rememberTips(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	last := s.Info.Tip
	for ended := false; !ended; {
		select {
		case <-s.proc.Done():
			return
		case <-ctx.Done():
			ended = true
		case <-tick.C:
		}
		last = s.rememberTip(context.WithoutCancel(ctx), last)
	}
}

func (s *Server) rememberTip(ctx context.Context, last string) string {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, tip, err := s.rpc.Chain(ctx)
	if err != nil || tip.Hash == last {
		return last // a dead node is reported by Done
	}
	if err := s.writeTip(tip); err != nil {
		s.cfg.Log.WarnContext(ctx, "can't remember the chain's tip", "error", err)
		return last
	}
	return tip.Hash
}

// RPC is a client of the node.
func (s *Server) RPC() *Client { return s.rpc }

// Done is closed when the node has ended.
func (s *Server) Done() <-chan struct{} { return s.proc.Done() }

// Failure says how a node ended that nobody stopped.
func (s *Server) Failure() error { return s.proc.Failure() }

// Stop ends the node and returns when it is gone and its chain is on disk.
func (s *Server) Stop() {
	s.follow()
	<-s.done
	s.proc.Stop()
	s.lock.Unlock()
}
