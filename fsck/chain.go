package fsck

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"math"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/bitcoin"
	"github.com/calpe/calpe/anchor/ledger"
)

const journalPage = 2000

const uncheckedChain = "the chain:"

// checkJournal: the followed blocks are a chain without gaps (I6).
func (r *run) checkJournal(ctx context.Context) error {
	for {
		after := r.state.After
		page, err := r.Blocks.JournalFrom(ctx, after.Height, journalPage)
		if err != nil {
			return err
		}
		if found := judgeBlocks(page, after); len(found) > 0 {
			// A reorganisation may have been followed between two pages.
			from := max(after.Height, 1) - 1
			r.later = append(r.later, check{"blocks", func(ctx context.Context) ([]Finding, error) {
				page, err := r.Blocks.JournalFrom(ctx, from, journalPage+1)
				return both(found, judgeBlocks(page, cursor{Height: from})), err
			}})
		}
		if len(page) > 0 {
			hash := hashOf(page[len(page)-1])
			r.state.After.Height, r.state.After.Block = page[len(page)-1].Height+1, hash[:]
		}
		r.state.count("blocks", len(page))
		if len(page) < journalPage {
			return nil
		}
		r.Progress("blocks", uint64(r.state.After.Height), 0)
		if err := r.save(false); err != nil {
			return err
		}
	}
}

// judgeBlocks looks at blocks that follow the one of the cursor.
func judgeBlocks(page []ledger.Block, after cursor) (found []Finding) {
	for _, b := range page {
		f := Finding{Invariant: "I6", Thing: fmt.Sprintf("followed block %d", b.Height), Do: doAnchor}
		prev, hash := b.Prev(), hashOf(b)
		switch {
		case hash != b.Hash:
			f.Problem = fmt.Sprintf("its row has the hash %v, its header %v", b.Hash, hash)
		case after.Block != nil && b.Height != after.Height:
			f.Problem = fmt.Sprintf("the blocks from %d up to it have no rows", after.Height)
		case after.Block != nil && !bytes.Equal(prev[:], after.Block):
			f.Problem = fmt.Sprintf("it doesn't follow the block before it, but %v", prev)
		}
		if f.Problem != "" {
			found = append(found, f)
		}
		after.Height, after.Block = b.Height+1, hash[:]
	}
	return found
}

func hashOf(b ledger.Block) calpe.BlockHash {
	once := sha256.Sum256(b.Header[:])
	return sha256.Sum256(once[:])
}

// tip is the newest followed block, false if there is none.
func (r *run) tip(ctx context.Context) (ledger.Block, bool, error) {
	blocks, err := r.Blocks.Journal(ctx, math.MaxUint32, 1)
	if err != nil || len(blocks) == 0 {
		return ledger.Block{}, false, err
	}
	return blocks[0], true, nil
}

// behind reports whether the rows lack blocks that the node has. Without a node
// nobody knows, and it is false.
func (r *run) behind(ctx context.Context) (bool, error) {
	tip, ok, err := r.tip(ctx)
	if err != nil || !ok || r.Node == nil {
		return false, err
	}
	height, err := r.Node.Height(ctx)
	return err == nil && height > tip.Height, ctx.Err()
}

// checkChain holds the newest followed block, and what is unspent, against the
// node (I6). All below that block follows from its header.
func (r *run) checkChain(ctx context.Context) ([]Finding, error) {
	if r.Identity.FirstOutpoint == nil { // calendars anchor the log: no chain is followed
		return nil, nil
	}
	tip, ok, err := r.tip(ctx)
	if err != nil {
		return nil, err
	}
	if !ok {
		return []Finding{{Invariant: "I8", Thing: "followed blocks", Problem: "there are none: the engine has nothing to start from", Do: doAnchor}}, nil
	}
	if r.Node == nil {
		r.unchecked(uncheckedChain + " no Bitcoin node was given")
		return nil, nil
	}
	found, err := r.askNode(ctx, tip)
	if errors.Is(err, bitcoin.ErrUnavailable) || errors.Is(err, bitcoin.ErrWarmingUp) {
		r.unchecked(uncheckedChain+" %v", err)
		return nil, nil
	}
	return found, err
}

func (r *run) askNode(ctx context.Context, tip ledger.Block) ([]Finding, error) {
	height, err := r.Node.Height(ctx)
	if err != nil {
		return nil, err
	}
	if height < tip.Height {
		r.unchecked(uncheckedChain+" the node is at block %d, and block %d was followed already", height, tip.Height)
		return nil, nil
	}
	hash, err := r.Node.BlockHash(ctx, tip.Height)
	if err != nil {
		return nil, err
	}
	if hash != tip.Hash {
		return r.findFork(ctx, tip)
	}
	if height > tip.Height {
		r.note("the node has %d blocks more than were followed (block %d); a running server follows them", height-tip.Height, tip.Height)
		return nil, nil
	}
	return r.checkUnspent(ctx)
}

// deepest is how far a reorganisation may go back that nobody has to look at.
const deepest = 100

func (r *run) findFork(ctx context.Context, tip ledger.Block) ([]Finding, error) {
	blocks, err := r.Blocks.Journal(ctx, tip.Height, deepest+1)
	if err != nil {
		return nil, err
	}
	for _, b := range blocks {
		hash, err := r.Node.BlockHash(ctx, b.Height)
		if err != nil {
			return nil, err
		}
		if hash == b.Hash {
			r.note("the node's chain parts from the followed blocks above block %d: a reorganisation that wasn't followed yet", b.Height)
			return nil, nil
		}
	}
	return []Finding{{Invariant: "I6", Thing: fmt.Sprintf("followed block %d", tip.Height),
		Problem: fmt.Sprintf("none of the newest %d followed blocks is in the node's chain", len(blocks)),
		Do:      "compare the node with another one: it follows another chain, or the rows are those of another"}}, nil
}

// checkUnspent: what is live by the rows is unspent in the chain, mempools aside.
func (r *run) checkUnspent(ctx context.Context) (found []Finding, err error) {
	coins, err := r.Anchors.Deposits(ctx)
	if err != nil {
		return nil, err
	}
	coins = coins[:min(len(coins), deepest)] // anybody can pay dust
	live, err := r.Anchors.LiveCoin(ctx)
	if err != nil && !errors.Is(err, calpe.ErrNotFound) {
		return nil, err
	}
	if err == nil {
		coins = append(coins, live)
	}
	for _, c := range coins {
		out, unspent, err := r.Node.TxOut(ctx, c.Outpoint)
		if err != nil {
			return nil, err
		}
		f := Finding{Invariant: "I6", Thing: "coin " + c.Outpoint.String(), Do: doAnchor}
		switch {
		case !unspent:
			f.Problem = "is live in its row, and in the node's chain it is spent, or was never made"
		case out.Value != c.Value || !bytes.Equal(out.Script, c.Script):
			f.Problem = fmt.Sprintf("has %d sat in its row, and %d in the node's chain, or another script", c.Value, out.Value)
		default:
			continue
		}
		found = append(found, f)
	}
	return found, nil
}
