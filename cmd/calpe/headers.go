package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt/headers"
)

type headersCommand struct {
	nodesFlags
	chainRules
	Network string `help:"The network: mainnet, testnet3, testnet4, signet, regtest or simnet." variable:"CALPE_NETWORK" default:"mainnet"`
	File    string `arg:"" help:"File of raw block headers, 80 bytes each, from the genesis block on. It is made or extended."`
}

func (headersCommand) Help() string {
	return `Fetches the headers of the node's best chain. Each one is verified by the rules of Bitcoin, from the genesis block on, before it is written, so the node is trusted with nothing but being up to date. Several nodes are compared: the chain with the most work is written, and if they differ in more than the last 3 blocks, nothing of that is. A file that exists is extended; where the chain was reorganised, its tail is replaced. An interrupted run is gone on with by the next. For mainnet that is about 80 MB, and some minutes with a node nearby.

Any other way to such a file is as good: it is checked again at every use.`
}

func (c *headersCommand) Run(ctx context.Context, a *app) error {
	network, err := calpe.ParseNetwork(c.Network)
	if err != nil {
		return fmt.Errorf("--network: %w", err)
	}
	if len(c.Node) == 0 {
		return errors.New("no Bitcoin node: give --node URL or set CALPE_NODE")
	}
	demands, err := c.parse()
	if err != nil {
		return err
	}
	params, err := headers.ParamsFor(network)
	if err != nil {
		return err
	}
	params.Pins = append(params.Pins, demands.pins...) // found out at once, and not after 900,000 headers
	chain, err := startingChain(c.File, params)
	if err != nil {
		return err
	}
	peers, closeAll, err := c.openAll(ctx, network)
	if err != nil {
		return err
	}
	defer closeAll()
	progress, done := a.fetchProgress()
	before, _ := chain.Tip()
	longer, err := follow(ctx, peers, chain, syncer{progress: progress, save: c.save, every: saveEvery})
	done()
	if longer != chain || before == 0 {
		err = errors.Join(err, c.save(longer))
	}
	if err != nil {
		return headersError(err, shown(c.File))
	}
	return c.report(a, longer, demands)
}

// startingChain reads the file, or starts with the genesis block if there is none.
func startingChain(path string, params headers.Params) (*headers.Chain, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return genesisChain(params)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	chain, err := headers.ReadPartial(f, params)
	if err != nil {
		return nil, fmt.Errorf("%s is not a file of %s's headers: give the --network that it is of, or move it away to fetch them anew: %w", shown(path), params.Network, err)
	}
	return chain, nil
}

func headersError(err error, what string) error {
	if errors.Is(err, headers.ErrLessWork) {
		return fmt.Errorf("the node's chain has less work than %s: the node is behind, or was started anew (a test network's); to follow it all the same, move the file away: %w", what, err)
	}
	return err
}

func (c *headersCommand) save(chain *headers.Chain) error {
	// Crash at any point of it: the former file is there whole, and the next run goes on from it.
	return replaceFile(c.File, publicFile, func(w io.Writer) error { _, err := chain.WriteTo(w); return err })
}

func (c *headersCommand) report(a *app, chain *headers.Chain, demands demands) error {
	height, hash := chain.Tip()
	_, err := fmt.Fprintf(a.Stdout, "%s: %s up to block %d, %s\n", shown(c.File), chain.Network(), height, hash)
	if err != nil {
		return err
	}
	if !chain.EnoughWork() {
		return fmt.Errorf("%w: the node is still syncing: its chain has less work than %s is known to have. Run the same command again when it has finished", errNotYet, chain.Network())
	}
	if err := demands.unreached(chain); err != nil {
		return fmt.Errorf("%w: %w. Run the same command again when the node has it", errNotYet, err)
	}
	return nil
}
