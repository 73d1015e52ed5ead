package bitcoin

import (
	"bytes"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/calpe/calpe/deploy/devstack/internal/process"
	"github.com/calpe/calpe/deploy/devstack/internal/tools/toolstest"
	"github.com/google/go-cmp/cmp"
)

// Addresses of the public key of private key 1 (BIP 173 has it on mainnet).
const (
	regtestAddress = "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080"
	simnetAddress  = "sb1qw508d6qejxtdg4y5r3zarvary0c5xw7krxe8se"
)

func config(t *testing.T, dir, network string) Config {
	t.Helper()
	binary, err := toolstest.Builder(t, "../..").Btcd(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	password, err := LoadPassword(dir)
	if err != nil {
		t.Fatal(err)
	}
	addr := regtestAddress
	if network == "simnet" {
		addr = simnetAddress
	}
	return Config{
		Dir: dir, Network: network, MinerAddress: addr, Password: password, Blocks: 5,
		Binary: binary, Log: slog.New(slog.DiscardHandler),
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

func TestRemoveIfNew(t *testing.T) {
	for name, c := range map[string]struct {
		before, file, stays bool
	}{
		"new":                {},
		"new with a file":    {file: true, stays: true},
		"it was there":       {before: true, stays: true},
		"there, with a file": {before: true, file: true, stays: true},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), ".btcd")
			if c.before {
				mkdir(t, dir)
			}
			remove := removeIfNew(dir)
			mkdir(t, dir)
			if c.file {
				if err := os.WriteFile(filepath.Join(dir, "rpc.cert"), nil, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			remove()
			if _, err := os.Stat(dir); (err == nil) != c.stays {
				t.Errorf("stays: %v, want %v", err == nil, c.stays)
			}
		})
	}
}

func mkdir(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
}

func TestNode(t *testing.T) {
	for network, genesis := range map[string]string{
		"regtest": "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206",
		"simnet":  "683e86bd5c6d110d91b94b97137ba6bfe02dbbdb8e3dff722a669b5d69d77af6",
	} {
		t.Run(network, func(t *testing.T) {
			s := run(t, config(t, t.TempDir(), network))
			name, tip, err := s.RPC().Chain(t.Context())
			if err != nil || name != network {
				t.Fatalf("network %q, %v", name, err)
			}
			if diff := cmp.Diff(Tip{5, s.Info.Tip}, tip); diff != "" || s.Info.Height != 5 {
				t.Errorf("tip: %s", diff)
			}
			if s.Info.Genesis != genesis {
				t.Errorf("genesis %s", s.Info.Genesis)
			}
			if s.Info.LostTip != nil {
				t.Errorf("lost %+v at the first start", s.Info.LostTip)
			}
			blocks, err := s.RPC().Mine(t.Context(), 3)
			if err != nil || len(blocks) != 3 {
				t.Fatalf("mined %v, %v", blocks, err)
			}
			if hash, err := s.RPC().BlockHash(t.Context(), 8); err != nil || hash != blocks[2] {
				t.Errorf("block 8 is %s, %v; want %s", hash, err, blocks[2])
			}
			if block, err := s.RPC().Block(t.Context(), blocks[0]); err != nil || block.BlockHash().String() != blocks[0] {
				t.Errorf("block: %v", err)
			}
		})
	}
}

// TestTwoNodes joins two chains over the port that Info names: the longer wins.
func TestTwoNodes(t *testing.T) {
	a := run(t, config(t, t.TempDir(), "regtest"))
	cfg := config(t, t.TempDir(), "regtest")
	cfg.Blocks = 0
	b := run(t, cfg)
	if err := b.RPC().Call(t.Context(), nil, "addnode", a.Info.P2P, "add"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "second node has the first one's chain", func() bool {
		_, tip, err := b.RPC().Chain(t.Context())
		return err == nil && tip.Hash == a.Info.Tip
	})
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(2 * time.Minute)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not within 2 minutes: %s", what)
		case <-tick.C:
		}
	}
}

// TestChainKeptAndLost: simnet keeps its chain over an ordered stop, and
// regtest never does, which the second start must say.
func TestChainKeptAndLost(t *testing.T) {
	for _, tt := range []struct {
		network string
		kept    bool
	}{{"simnet", true}, {"regtest", false}} {
		t.Run(tt.network, func(t *testing.T) {
			cfg := config(t, t.TempDir(), tt.network)
			first, err := Start(t.Context(), cfg)
			if err != nil {
				t.Fatal(err)
			}
			blocks, err := first.RPC().Mine(t.Context(), 2)
			if err != nil {
				t.Fatal(err)
			}
			first.Stop()
			var log bytes.Buffer
			cfg.Blocks, cfg.Log = 0, slog.New(slog.NewTextHandler(&log, nil))
			second := run(t, cfg)
			if tt.kept {
				if second.Info.LostTip != nil || second.Info.Tip != blocks[1] || log.Len() > 0 {
					t.Errorf("lost %+v, tip %s; want the chain kept. %s", second.Info.LostTip, second.Info.Tip, &log)
				}
				return
			}
			if diff := cmp.Diff(&Tip{7, blocks[1]}, second.Info.LostTip); diff != "" {
				t.Errorf("lost tip: %s", diff)
			}
			if !strings.Contains(log.String(), "lost its chain") || !strings.Contains(log.String(), blocks[1]) {
				t.Errorf("log: %q", &log)
			}
		})
	}
}

// TestKilledSimnet kills a node whose last block was remembered. Whatever is
// left of the chain, Info must say whether that block is in it.
func TestKilledSimnet(t *testing.T) {
	cfg := config(t, t.TempDir(), "simnet")
	first, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	blocks, err := first.RPC().Mine(t.Context(), 20)
	if err != nil {
		t.Fatal(err)
	}
	tipFile := filepath.Join(cfg.Dir, "tip-simnet.json")
	waitFor(t, "tip is remembered", func() bool {
		text, err := os.ReadFile(tipFile)
		return err == nil && strings.Contains(string(text), blocks[19])
	})
	syscall.Kill(first.Info.PID, syscall.SIGKILL)
	<-first.Done()
	if err := first.Failure(); !errors.Is(err, process.ErrEnded) {
		t.Errorf("failure = %v", err)
	}
	first.Stop()
	cfg.Blocks = 0
	second := run(t, cfg)
	hash, err := second.RPC().BlockHash(t.Context(), 25)
	lost := err != nil || hash != blocks[19]
	if lost != (second.Info.LostTip != nil) {
		t.Errorf("block 25 is %q (%v), and Info says lost: %+v", hash, err, second.Info.LostTip)
	}
}

func TestStartRefuses(t *testing.T) {
	good := config(t, t.TempDir(), "regtest")
	running := run(t, good)
	for _, tt := range []struct {
		name   string
		change func(*Config)
		want   string
	}{
		{"mainnet", func(c *Config) { c.Network = "mainnet" }, "only regtest and simnet"},
		{"folder in use", func(c *Config) { c.Dir = good.Dir }, "in use by another devstack"},
		{"address of another network", func(c *Config) { c.MinerAddress = simnetAddress }, "btcd: server ended by itself"},
		{"no program", func(c *Config) { c.Binary = "/nonexistent" }, "no such file"},
		{"remembered tip is no JSON", func(c *Config) {
			if err := os.WriteFile(filepath.Join(c.Dir, "tip-regtest.json"), []byte("x"), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "tip-regtest.json"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := config(t, t.TempDir(), "regtest")
			tt.change(&cfg)
			if _, err := Start(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("err = %v, want %q", err, tt.want)
			}
		})
	}
	if _, _, err := running.RPC().Chain(t.Context()); err != nil {
		t.Errorf("the first node suffered: %v", err)
	}
}
