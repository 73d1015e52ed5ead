package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/bitcoin"
	"github.com/calpe/calpe/receipt/headers"
)

// nodeFlags are how to reach a Bitcoin node.
type nodeFlags struct {
	Node string `help:"JSON-RPC address of a Bitcoin node (btcd or Bitcoin Core; pruned is enough), http://host:port." variable:"CALPE_NODE" placeholder:"URL" group:"Bitcoin node"`
	nodeAccess
}

// nodeAccess is how to be let in.
type nodeAccess struct {
	CookieFile      string `help:"Bitcoin Core's cookie file." variable:"CALPE_NODE_COOKIE_FILE" placeholder:"FILE" group:"Bitcoin node"`
	RPCUser         string `name:"rpc-user" help:"RPC user, instead of a cookie file." variable:"CALPE_NODE_USER" placeholder:"NAME" group:"Bitcoin node"`
	RPCPassword     string `name:"rpc-password" help:"RPC password. Others on this machine can see a command line: use the variable or a file." variable:"CALPE_NODE_PASSWORD" placeholder:"TEXT" group:"Bitcoin node"`
	RPCPasswordFile string `name:"rpc-password-file" help:"File that holds the RPC password." variable:"CALPE_NODE_PASSWORD_FILE" placeholder:"FILE" group:"Bitcoin node"`
	RPCCAFile       string `name:"rpc-ca-file" help:"Certificate of a node that speaks TLS, such as btcd's rpc.cert." variable:"CALPE_NODE_CA_FILE" placeholder:"FILE" group:"Bitcoin node"`
}

// open makes a client; it sends nothing. An address of the form
// http://user:password@host is taken apart.
func (n nodeFlags) open() (*bitcoin.Client, error) {
	cfg := bitcoin.Config{URL: n.Node, User: n.RPCUser, Password: n.RPCPassword, CookieFile: n.CookieFile, CAFile: n.RPCCAFile}
	if u, err := url.Parse(n.Node); err == nil && u.User != nil && cfg.User == "" && cfg.CookieFile == "" {
		password, _ := u.User.Password()
		cfg.User, cfg.Password = u.User.Username(), cmp.Or(cfg.Password, password)
		u.User = nil
		cfg.URL = u.String()
	}
	if n.RPCPasswordFile != "" {
		if cfg.Password != "" {
			return nil, errors.New("the RPC password is given twice, as a value and as a file")
		}
		data, err := readFile(n.RPCPasswordFile, maxToken)
		if err != nil {
			return nil, fmt.Errorf("RPC password: %w", err)
		}
		cfg.Password = strings.TrimRight(string(data), "\r\n")
	}
	return bitcoin.New(cfg)
}

// node is what syncing headers takes of a Bitcoin node.
type node interface {
	// Height is that of the newest block of the node's best chain.
	Height(ctx context.Context) (uint32, error)
	// BlockHash is the hash of the block at a height of that chain.
	BlockHash(ctx context.Context, height uint32) (calpe.BlockHash, error)
	// Header is the header with that hash, of any branch.
	Header(ctx context.Context, hash calpe.BlockHash) ([calpe.HeaderSize]byte, error)
}

var _ node = (*bitcoin.Client)(nil)

const (
	// fetchWorkers calls at once keep a node busy without crowding others out; it
	// answers each within a millisecond.
	fetchWorkers = 8
	fetchBatch   = 2000
	// saveEvery headers a long sync is saved: what an interruption costs.
	saveEvery = 100_000
	// maxForks bounds how often a reorganisation may cross a sync.
	maxForks = 10
)

// networks are all of them, for finding the one of a genesis block.
func networks() []calpe.Network {
	return []calpe.Network{calpe.Mainnet, calpe.Testnet3, calpe.Testnet4, calpe.Signet, calpe.Regtest, calpe.Simnet}
}

// paramsOf finds the network whose genesis block has that hash.
func paramsOf(genesis calpe.BlockHash) (headers.Params, error) {
	for _, n := range networks() {
		p, err := headers.ParamsFor(n)
		if err != nil {
			return headers.Params{}, err
		}
		if first, err := headers.Parse(p.Genesis[:]); err == nil && calpe.BlockHash(first.Hash) == genesis {
			return p, nil
		}
	}
	return headers.Params{}, fmt.Errorf("block 0 is %s, the genesis block of no network that is known", genesis)
}

// syncer brings a chain to the tip of a node.
type syncer struct {
	node     node
	progress func(height, tip int)
	// save is called with what has been verified, each time it has grown by that
	// many headers; nil: never.
	save  func(*headers.Chain) error
	every int
}

// run fetches what the node's best chain has and c doesn't. Every header is
// verified. A tail that the node has reorganised away is replaced. It returns
// the longest chain that it got, also beside an error.
func (s syncer) run(ctx context.Context, c *headers.Chain) (*headers.Chain, error) {
	saved, _ := c.Tip()
	for forks := 0; ; {
		tip, err := s.node.Height(ctx)
		if err != nil {
			return c, err
		}
		base, err := s.common(ctx, c, int(tip))
		if err != nil {
			return c, err
		}
		if base == int(tip) {
			return c, nil
		}
		have, _ := c.Tip()
		raw, err := s.fetch(ctx, base+1, min(int(tip), base+max(fetchBatch, have-base+1)))
		if err != nil {
			return c, err
		}
		next, err := c.Extend(raw)
		if crossed(err) && forks < maxForks {
			forks++ // the chain was reorganised between two calls
			continue
		}
		if err != nil {
			return c, err
		}
		c = next
		height, _ := c.Tip()
		s.progress(height, int(tip))
		if s.save != nil && height-saved >= s.every {
			saved = height
			if err := s.save(c); err != nil {
				return c, err
			}
		}
	}
}

// crossed reports whether headers don't hang together, as when the node changed
// branches while they were fetched.
func crossed(err error) bool {
	rule, broken := errors.AsType[*headers.RuleError](err)
	return errors.Is(err, headers.ErrUnconnected) || broken && rule.Rule == headers.RuleLink
}

// common is the height of the last block that the chain and the node share. It
// steps back faster and faster, so it may name an earlier one.
func (s syncer) common(ctx context.Context, c *headers.Chain, tip int) (int, error) {
	have, _ := c.Tip()
	for height, step := min(have, tip), 1; ; height, step = max(0, height-step), step*2 {
		hash, err := s.node.BlockHash(ctx, uint32(height))
		if err != nil {
			return 0, err
		}
		own, _ := c.At(height)
		if calpe.BlockHash(own.Hash) == hash {
			return height, nil
		}
		if height == 0 {
			return 0, fmt.Errorf("the node's block 0 is %s: it is not on %s", hash, c.Network())
		}
	}
}

// fetch gets the headers from a height to another, some at a time.
func (s syncer) fetch(ctx context.Context, from, to int) ([]byte, error) {
	all := make([][calpe.HeaderSize]byte, to-from+1)
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(fetchWorkers)
	for i := range all {
		group.Go(func() error {
			hash, err := s.node.BlockHash(ctx, uint32(from+i))
			if err != nil {
				return fmt.Errorf("fetch the header at height %d: %w", from+i, err)
			}
			if all[i], err = s.node.Header(ctx, hash); err != nil {
				return fmt.Errorf("fetch the header at height %d: %w", from+i, err)
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	raw := make([]byte, 0, len(all)*calpe.HeaderSize)
	for i := range all {
		raw = append(raw, all[i][:]...)
	}
	return raw, nil
}

// genesisChain is a chain of the first block alone.
func genesisChain(p headers.Params) (*headers.Chain, error) {
	return headers.ReadPartial(bytes.NewReader(p.Genesis[:]), p)
}

// fetchProgress is a bar over the headers of a sync.
func (a *app) fetchProgress() (progress func(height, tip int), done func()) {
	var m meter
	last := 0
	return func(height, tip int) {
		if last == 0 {
			m = a.newMeter("block headers", int64(tip), false)
		}
		m.add(height - last)
		last = height
	}, func() { m.done() }
}
