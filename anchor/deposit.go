package anchor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/bitcoin"
	"github.com/calpe/calpe/anchor/ledger"
)

// ErrNoDeposit: no confirmed, unspent output that could be the first coin.
var ErrNoDeposit = errors.New("no deposit was found")

// rootHistory is how many blocks below the first coin the tip journal begins
// with, so that a reorganisation that takes the coin's own block away has a
// fork to go back to.
const rootHistory = 100

// Deposit is what the chain of coins can begin with: a confirmed output, and
// the blocks with which the tip journal begins, oldest first; the last one
// holds the coin's transaction. [Store]s take both in InsertFirstCoin.
type Deposit struct {
	Coin   ledger.Coin
	Blocks []ledger.Block
}

// Explorer is what finding a deposit takes of a node.
type Explorer interface {
	Chain
	Outputs
}

// FindDeposit searches the blocks from a height to the node's tip for the first
// output to the script that is unspent and has at least that many satoshis. The
// error is [ErrNoDeposit] when there is none, and may be tried again later.
func FindDeposit(ctx context.Context, node Explorer, script []byte, from uint32, least int64) (Deposit, error) {
	tip, _, err := node.BestBlock(ctx)
	if err != nil {
		return Deposit{}, fmt.Errorf("read the node's tip: %w", err)
	}
	for h := from; h <= tip; h++ {
		hash, err := node.BlockHash(ctx, h)
		if err != nil {
			return Deposit{}, fmt.Errorf("read hash of block %d: %w", h, err)
		}
		coins, err := outputsTo(ctx, node, hash, h, script)
		if err != nil {
			return Deposit{}, err
		}
		for _, coin := range coins {
			if coin.Value < least {
				continue
			}
			if _, unspent, err := node.TxOut(ctx, coin.Outpoint); err != nil {
				return Deposit{}, fmt.Errorf("look up %v: %w", coin.Outpoint, err)
			} else if unspent {
				return newDeposit(ctx, node, coin, hash)
			}
		}
	}
	return Deposit{}, fmt.Errorf("%w: of at least %d sat in blocks %d to %d", ErrNoDeposit, least, from, tip)
}

// LocateDeposit finds the block of an output that the operator names, and
// checks that it is unspent and pays the script.
func LocateDeposit(ctx context.Context, node Explorer, script []byte, o calpe.Outpoint) (Deposit, error) {
	height, block, err := blockOf(ctx, node, o)
	if err != nil {
		return Deposit{}, err
	}
	coins, err := outputsTo(ctx, node, block, height, script)
	if err != nil {
		return Deposit{}, err
	}
	for _, coin := range coins {
		if coin.Outpoint == o {
			return newDeposit(ctx, node, coin, block)
		}
	}
	return Deposit{}, fmt.Errorf("%w: %v doesn't pay the anchor address in block %d", ErrNoDeposit, o, height)
}

// blockOf finds the block that makes an unspent output.
func blockOf(ctx context.Context, node Explorer, o calpe.Outpoint) (uint32, calpe.BlockHash, error) {
	out, ok, err := node.TxOut(ctx, o)
	if err != nil {
		return 0, calpe.BlockHash{}, fmt.Errorf("look up %v: %w", o, err)
	}
	if !ok {
		return 0, calpe.BlockHash{}, fmt.Errorf("%w: %v is not a confirmed, unspent output", ErrNoDeposit, o)
	}
	tip, hash, err := node.BestBlock(ctx)
	if err != nil {
		return 0, calpe.BlockHash{}, fmt.Errorf("read the node's tip: %w", err)
	}
	if hash != out.BestBlock || out.Confirmations > tip+1 {
		return 0, calpe.BlockHash{}, fmt.Errorf("%w: while %v was looked up", ErrChainMoved, o)
	}
	height := tip - out.Confirmations + 1
	block, err := node.BlockHash(ctx, height)
	if err != nil {
		return 0, calpe.BlockHash{}, fmt.Errorf("read hash of block %d: %w", height, err)
	}
	return height, block, nil
}

func outputsTo(ctx context.Context, node Explorer, hash calpe.BlockHash, height uint32, script []byte) ([]ledger.Coin, error) {
	block, err := node.Block(ctx, hash)
	if err != nil {
		return nil, fmt.Errorf("read block %d: %w", height, err)
	}
	var coins []ledger.Coin
	for i, txid := range bitcoin.TxIDs(block) {
		if i == 0 {
			continue // a coinbase can't be spent for 100 blocks
		}
		for vout, out := range block.Transactions[i].TxOut {
			if bytes.Equal(out.PkScript, script) {
				coins = append(coins, ledger.Coin{
					Outpoint: calpe.Outpoint{TxID: txid, Vout: uint32(vout)},
					Output:   ledger.Output{Value: out.Value, Script: slices.Clone(script)},
					Kind:     ledger.ChainCoin, State: ledger.CoinLive, Height: height,
				})
			}
		}
	}
	return coins, nil
}

// newDeposit goes back from the coin's block by the headers' own links.
func newDeposit(ctx context.Context, node Explorer, coin ledger.Coin, hash calpe.BlockHash) (Deposit, error) {
	d := Deposit{Coin: coin}
	for h := int64(coin.Height); h >= 0 && h >= int64(coin.Height)-rootHistory; h-- {
		header, err := node.Header(ctx, hash)
		if err != nil {
			return Deposit{}, fmt.Errorf("read header of block %d: %w", h, err)
		}
		b := ledger.Block{Height: uint32(h), Hash: hash, Header: header}
		d.Blocks = append(d.Blocks, b)
		hash = b.Prev()
	}
	slices.Reverse(d.Blocks)
	return d, nil
}
