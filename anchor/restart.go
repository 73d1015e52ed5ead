package anchor

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/bitcoin"
	"github.com/calpe/calpe/anchor/ledger"
)

// What [FindBreak] can find instead of a break. Both are for errors.Is.
var (
	// ErrNotBroken: nobody else has spent the live coin.
	ErrNotBroken = errors.New("the chain of coins isn't broken")
	// ErrNotDeep: the foreign spend, or the deposit, isn't as deep in the chain as
	// an anchor must be to be final. It passes with time.
	ErrNotDeep = errors.New("not deep enough yet")
)

// BreakConfig says what to look at for a break.
type BreakConfig struct {
	Store interface {
		Snapshot(ctx context.Context) (ledger.Snapshot, error)
		Attempt(ctx context.Context, txid calpe.BlockHash) (ledger.Attempt, bool, error)
		Journal(ctx context.Context, from uint32, limit int) ([]ledger.Block, error)
	}
	Node   Explorer
	Second Witness // must have the same blocks; nil: there is none
	Depth  uint32  // confirmations that the spend and the deposit must have
	Script []byte  // to which the deposit must be paid, unless First names it
	Least  int64   // satoshis of the deposit, unless First names it
	First  calpe.Outpoint
}

// Broken is a chain of coins that somebody else has broken, and how it can go on.
type Broken struct {
	Coin  ledger.Coin    // foreign
	Spend calpe.Anchor   // the transaction that spends it, in its block; its payload isn't set
	Last  ledger.Attempt // that made Coin; the zero value if no anchor did
	First ledger.Coin    // the deposit to go on with
}

// FindBreak finds the coin of the chain that somebody else has spent, reads the
// transaction from the node, and picks a deposit: the one that is named, which may
// be to the key of the coin, or else the largest to the script. It changes nothing.
// The error is [ErrNotBroken], [ErrNotDeep], [ErrNoDeposit], or one of the node.
func FindBreak(ctx context.Context, cfg BreakConfig) (Broken, error) {
	b, snap, err := findSpend(ctx, cfg)
	if err != nil {
		return Broken{}, err
	}
	b.First, err = cfg.pick(ctx, b.Coin, snap)
	return b, err
}

// FindSpend is [FindBreak] without the deposit, for a break whose statement has
// named one already.
func FindSpend(ctx context.Context, cfg BreakConfig) (Broken, error) {
	b, _, err := findSpend(ctx, cfg)
	return b, err
}

func findSpend(ctx context.Context, cfg BreakConfig) (Broken, ledger.Snapshot, error) {
	snap, err := cfg.Store.Snapshot(ctx)
	if err != nil {
		return Broken{}, snap, fmt.Errorf("read anchor state: %w", err)
	}
	switch {
	case snap.Foreign == nil:
		return Broken{}, snap, ErrNotBroken
	case snap.Foreign.Kind != ledger.ChainCoin:
		return Broken{}, snap, fmt.Errorf("%w: the deposit %v was spent by others, and the coin of the chain wasn't: "+
			"pay it to a new key yourself, before whoever has the key does", ErrNotBroken, snap.Foreign.Outpoint)
	}
	b := Broken{Coin: *snap.Foreign}
	if err := cfg.checkDeep("the spend of "+b.Coin.Outpoint.String(), b.Coin.SpentHeight, snap.Tip); err != nil {
		return Broken{}, snap, err
	}
	if b.Last, _, err = cfg.Store.Attempt(ctx, b.Coin.MadeBy); err != nil {
		return Broken{}, snap, fmt.Errorf("look for attempt %v: %w", b.Coin.MadeBy, err)
	}
	b.Spend, err = cfg.spend(ctx, b.Coin)
	return b, snap, err
}

func (cfg BreakConfig) checkDeep(what string, height uint32, tip ledger.Block) error {
	if deep := int64(tip.Height) - int64(height) + 1; deep < int64(cfg.Depth) {
		return fmt.Errorf("%w: %s is %d blocks deep at the height %d that the server has followed, and must be %d", ErrNotDeep, what, deep, tip.Height, cfg.Depth)
	}
	return nil
}

// spend reads the spend of a coin out of its block, which the server has followed
// and both nodes have.
func (cfg BreakConfig) spend(ctx context.Context, coin ledger.Coin) (calpe.Anchor, error) {
	followed, err := cfg.Store.Journal(ctx, coin.SpentHeight, 1)
	if err != nil {
		return calpe.Anchor{}, fmt.Errorf("read tip journal: %w", err)
	}
	if len(followed) != 1 || followed[0].Height != coin.SpentHeight {
		return calpe.Anchor{}, fmt.Errorf("%w: block %d is no longer in the tip journal", ErrChainMoved, coin.SpentHeight)
	}
	hash, err := cfg.Node.BlockHash(ctx, coin.SpentHeight)
	if err != nil {
		return calpe.Anchor{}, fmt.Errorf("read hash of block %d: %w", coin.SpentHeight, err)
	}
	if hash != followed[0].Hash {
		return calpe.Anchor{}, fmt.Errorf("%w: it has another block %d than the server has followed", ErrChainMoved, coin.SpentHeight)
	}
	if cfg.Second != nil {
		second, err := cfg.Second.BlockHash(ctx, coin.SpentHeight)
		if err != nil {
			return calpe.Anchor{}, fmt.Errorf("ask the second node for block %d: %w", coin.SpentHeight, err)
		}
		if second != hash {
			return calpe.Anchor{}, fmt.Errorf("%w: at height %d", ErrNodesDisagree, coin.SpentHeight)
		}
	}
	msg, err := cfg.Node.Block(ctx, hash)
	if err != nil {
		return calpe.Anchor{}, fmt.Errorf("read block %d, of which a pruned node has only the newest: %w", coin.SpentHeight, err)
	}
	for i, txid := range bitcoin.TxIDs(msg) {
		if txid == coin.SpentBy {
			return newEvidence(followed[0], msg, uint32(i), calpe.Payload{})
		}
	}
	return calpe.Anchor{}, fmt.Errorf("%w: block %d doesn't hold %v", ErrChainMoved, coin.SpentHeight, coin.SpentBy)
}

// pick gives the deposit to go on with: it must be as deep as the spend has to be,
// and unspent.
func (cfg BreakConfig) pick(ctx context.Context, broken ledger.Coin, snap ledger.Snapshot) (ledger.Coin, error) {
	var best ledger.Coin
	named := cfg.First != calpe.Outpoint{}
	for _, d := range snap.Deposits { // the largest first
		switch {
		case d.State != ledger.CoinLive || best.Value > 0:
		case named && d.Outpoint == cfg.First && (bytes.Equal(d.Script, cfg.Script) || bytes.Equal(d.Script, broken.Script)):
			best = d
		case !named && d.Value >= cfg.Least && bytes.Equal(d.Script, cfg.Script):
			best = d
		}
	}
	switch {
	case best.Value == 0 && named:
		return best, fmt.Errorf("%w: %v is no deposit that the server has seen in a block, to the newest anchor key or to that of the coin", ErrNoDeposit, cfg.First)
	case best.Value == 0:
		return best, fmt.Errorf("%w: of at least %d sat to the newest anchor key", ErrNoDeposit, cfg.Least)
	}
	if err := cfg.checkDeep("the deposit "+best.Outpoint.String(), best.Height, snap.Tip); err != nil {
		return best, err
	}
	out, ok, err := cfg.Node.TxOut(ctx, best.Outpoint)
	if err != nil {
		return best, fmt.Errorf("look up deposit %v: %w", best.Outpoint, err)
	}
	if !ok || out.Value != best.Value {
		return best, fmt.Errorf("%w: %v is spent in the node's chain", ErrNoDeposit, best.Outpoint)
	}
	return best, nil
}

// Break is what a store records of it, once its statement is the entry of that index.
func (b Broken) Break(statement uint64) ledger.Break {
	return ledger.Break{Coin: b.Coin.Outpoint, SpentBy: b.Coin.SpentBy, Height: b.Coin.SpentHeight, First: b.First.Outpoint, Statement: statement}
}
