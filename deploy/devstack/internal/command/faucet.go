package command

import (
	"errors"
	"fmt"

	"github.com/calpe/calpe/deploy/devstack/internal/bitcoin"
	"github.com/calpe/calpe/deploy/devstack/internal/faucet"
)

// maxMine keeps block times, which grow by a second a block, within the two
// hours that a node allows them to be ahead of its clock.
const maxMine = 5000

type mineCmd struct {
	RPC string `name:"rpc" required:"" env:"CALPE_TEST_BITCOIN_URL" placeholder:"URL" help:"The node: http://USER:PASSWORD@HOST:PORT."`
	N   int    `arg:"" help:"How many blocks."`
}

// mined is what mine prints.
type mined struct {
	Blocks []string `json:"blocks"` // hashes, as Bitcoin shows them
	Height int64    `json:"height"` // of the last one
}

func (c *mineCmd) Run(a *app) error {
	ctx, stop := signals()
	defer stop()
	if c.N < 1 || c.N > maxMine {
		return fmt.Errorf("mine: %d blocks: must be 1 to %d", c.N, maxMine)
	}
	rpc, err := bitcoin.NewClient(c.RPC)
	if err != nil {
		return err
	}
	blocks, err := rpc.Mine(ctx, c.N)
	if err != nil {
		return fmt.Errorf("mine: after %d blocks: %w", len(blocks), err)
	}
	_, tip, err := rpc.Chain(ctx)
	if err != nil {
		return errors.Join(a.printJSON(mined{Blocks: blocks}), err)
	}
	return a.printJSON(mined{Blocks: blocks, Height: tip.Height})
}

type fundCmd struct {
	RPC     string `name:"rpc" required:"" env:"CALPE_TEST_BITCOIN_URL" placeholder:"URL" help:"The node: http://USER:PASSWORD@HOST:PORT."`
	Address string `arg:"" help:"Who is paid."`
	Sats    int64  `arg:"" help:"How much, in satoshi."`
}

func (c *fundCmd) Run(a *app) error {
	ctx, stop := signals()
	defer stop()
	f, err := faucet.New(ctx, c.RPC)
	if err != nil {
		return err
	}
	paid, err := f.Fund(ctx, c.Address, c.Sats)
	if err != nil {
		return fmt.Errorf("fund: %w", err)
	}
	return a.printJSON(paid)
}
