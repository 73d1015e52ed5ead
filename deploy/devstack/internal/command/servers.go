package command

import (
	"context"

	"github.com/calpe/calpe/deploy/devstack/internal/bitcoin"
	"github.com/calpe/calpe/deploy/devstack/internal/postgres"
	"github.com/calpe/calpe/deploy/devstack/internal/process"
	"github.com/calpe/calpe/deploy/devstack/internal/s3"
	"github.com/calpe/calpe/deploy/devstack/internal/stack"
)

// serve starts one server, prints what start says about it as one line of
// JSON, and lets it run until we are signalled or our parent dies.
func (a *app) serve(start func(context.Context) (stack.Server, any, error)) error {
	ctx, stop := signals()
	defer stop()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	orphaned := process.WatchParent(ctx)
	go func() {
		<-orphaned
		cancel()
	}()
	server, info, err := start(ctx)
	if err != nil {
		return err
	}
	defer server.Stop()
	if err := a.printJSON(info); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return nil
	case <-server.Done():
		return server.Failure()
	}
}

type postgresCmd struct {
	Dir     string `required:"" placeholder:"DIR" help:"Folder for everything the server keeps."`
	Port    int    `help:"Port on 127.0.0.1; 0 is a free one."`
	Durable bool   `help:"Settings as in production: a commit survives a crash. Without it they are fast, and for tests only."`
}

func (c *postgresCmd) Run(a *app) error {
	return a.serve(func(ctx context.Context) (stack.Server, any, error) {
		s, err := postgres.Start(ctx, postgres.Config{
			Dir: c.Dir, Port: c.Port, Durable: c.Durable, Binaries: a.cli.PGBin, CacheDir: a.cache, Log: a.log,
		})
		if err != nil {
			return nil, nil, err
		}
		return s, s.Info, nil
	})
}

type s3Cmd struct {
	Dir    string `required:"" placeholder:"DIR" help:"Folder for everything the server keeps."`
	Port   int    `help:"Port on 127.0.0.1; 0 is a free one."`
	Access string `placeholder:"KEY" help:"Access key; default is the one used before, or a new one."`
	Secret string `placeholder:"KEY" help:"Secret key; default is the one used before, or a new one."`
}

func (c *s3Cmd) Run(a *app) error {
	return a.serve(func(ctx context.Context) (stack.Server, any, error) {
		binary, err := a.tools.Versitygw(ctx)
		if err != nil {
			return nil, nil, err
		}
		s, err := s3.Start(ctx, s3.Config{Dir: c.Dir, Port: c.Port, AccessKey: c.Access, Secret: c.Secret, Binary: binary})
		if err != nil {
			return nil, nil, err
		}
		return s, s.Info, nil
	})
}

type bitcoinCmd struct {
	Dir          string `required:"" placeholder:"DIR" help:"Folder for everything the node keeps."`
	Port         int    `help:"JSON-RPC port on 127.0.0.1; 0 is a free one."`
	P2PPort      int    `name:"p2p-port" help:"Port on 127.0.0.1 for other nodes; 0 is a free one."`
	Network      string `enum:"regtest,simnet" default:"regtest" help:"regtest (its chain is wiped at each start) or simnet (its chain is kept when the node is stopped in order)."`
	MinerAddress string `placeholder:"ADDR" help:"Gets the block rewards; default is the faucet."`
	Blocks       int64  `default:"-1" help:"Mine at the start until there are these many blocks; -1 is as many as the faucet (and on simnet segwit) needs."`
}

// Blocks that make a fresh chain usable: coinbases mature after 100 blocks, and
// simnet activates segwit and taproot in its third period of 100 blocks.
const (
	regtestBlocks = 120
	simnetBlocks  = 420
)

func enoughBlocks(network string) int64 {
	if network == "simnet" {
		return simnetBlocks
	}
	return regtestBlocks
}

func (c *bitcoinCmd) Run(a *app) error {
	return a.serve(func(ctx context.Context) (stack.Server, any, error) {
		binary, err := a.tools.Btcd(ctx)
		if err != nil {
			return nil, nil, err
		}
		blocks := c.Blocks
		if blocks < 0 {
			blocks = enoughBlocks(c.Network)
		}
		s, err := stack.StartBitcoin(ctx, bitcoin.Config{
			Dir: c.Dir, Port: c.Port, P2PPort: c.P2PPort, Network: c.Network,
			MinerAddress: c.MinerAddress, Blocks: blocks, Binary: binary, Log: a.log,
		})
		if err != nil {
			return nil, nil, err
		}
		return s, s.Info, nil
	})
}
