package anchor

import (
	"context"
	"fmt"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
)

// askWitness demands that the second node, if there is one, has the journal's
// block at a height, as deep as an anchor has to be.
func (e *Engine) askWitness(ctx context.Context, height uint32) error {
	if e.cfg.Second == nil {
		return nil
	}
	own, err := e.journalBlock(ctx, height)
	if err != nil {
		return err
	}
	return AskWitness(ctx, e.cfg.Second, e.cfg.Network, height, own, e.cfg.Depth)
}

// AskWitness is nil if a second node of that network has that block, as deep as it
// has to be. Both nodes have then been on one chain for all of these blocks: a node
// that is cut off, or fed by somebody, doesn't make anything final alone. Else the
// error is [ErrNodeBehind], [ErrNodesDisagree], or one of the node.
func AskWitness(ctx context.Context, second Witness, network calpe.Network, height uint32, block calpe.BlockHash, depth uint32) error {
	// At every time, because the node behind an address can become another one.
	if err := second.CheckNetwork(ctx, network); err != nil {
		return fmt.Errorf("check the second node: %w", err)
	}
	tip, _, err := second.BestBlock(ctx)
	if err != nil {
		return fmt.Errorf("read the second node's tip: %w", err)
	}
	if uint64(tip)+1 < uint64(height)+uint64(depth) {
		return fmt.Errorf("%w: the second one's tip is at height %d, and block %d has to be %d deep", ErrNodeBehind, tip, height, depth)
	}
	hash, err := second.BlockHash(ctx, height)
	if err != nil {
		return fmt.Errorf("read hash of block %d of the second node: %w", height, err)
	}
	if hash != block {
		return fmt.Errorf("%w: block %d is %v for the first and %v for the second", ErrNodesDisagree, height, block, hash)
	}
	return nil
}

// journalBlock is the block that was followed at a height.
func (e *Engine) journalBlock(ctx context.Context, height uint32) (calpe.BlockHash, error) {
	blocks, err := e.cfg.Store.Journal(ctx, height, 1)
	if err != nil {
		return calpe.BlockHash{}, fmt.Errorf("read tip journal: %w", err)
	}
	if len(blocks) != 1 || blocks[0].Height != height {
		return calpe.BlockHash{}, fmt.Errorf("%w: the tip journal has no block %d", ledger.ErrConflict, height)
	}
	return blocks[0].Hash, nil
}
