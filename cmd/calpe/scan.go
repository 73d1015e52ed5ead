package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/btcsuite/btcd/wire/v2"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/bitcoin"
	"github.com/calpe/calpe/audit"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/headers"
)

// blocks is what a scan takes of an archival Bitcoin node.
type blocks interface {
	node
	// Block is the whole block with that hash, its work and Merkle root checked.
	Block(ctx context.Context, hash calpe.BlockHash) (*wire.MsgBlock, error)
}

var _ blocks = (*bitcoin.Client)(nil)

// errMoved: the chain was reorganised while it was read.
var errMoved = errors.New("the node's chain was reorganised while it was read: run the same command again")

// scanner derives the chain of anchors from blocks alone.
type scanner struct {
	node     blocks
	identity receipt.Identity
	// from is the height of the block that makes the first coin, or of one before
	// it; nil: it is looked for backwards from below.
	from  *uint32
	below uint32 // height of the first anchor that is known; the tip if there is none
	// headers, if there are any, are the chain that the blocks must be of.
	headers *headers.Chain
	// breaks are what the log publishes of breaks of the chain: where it may go on
	// behind a transaction that is no anchor. Nothing else of them is believed.
	breaks []receipt.Break
	// progress is told which height was looked into, and where the scan ends.
	progress func(height, tip int)
}

// run follows the spends from the first outpoint to the tip.
func (s scanner) run(ctx context.Context) (*audit.Scan, error) {
	tip, err := s.node.Height(ctx)
	if err != nil {
		return nil, err
	}
	start, first, err := s.findFirst(ctx, min(s.below, tip))
	if err != nil {
		return nil, err
	}
	scan := &audit.Scan{FirstValue: first, Tip: tip}
	coin, prev := *s.identity.FirstOutpoint, calpe.BlockHash{}
	for height := start; height <= tip; height++ {
		msg, hash, err := s.block(ctx, height)
		if err != nil {
			return nil, err
		}
		if height > start && calpe.BlockHash(msg.Header.PrevBlock) != prev {
			return nil, errMoved
		}
		prev = hash
		coin, err = s.follow(scan, msg, height, coin)
		if err != nil || scan.Foreign != nil {
			return scan, err
		}
		s.progress(int(height-start)+1, int(tip-start)+1)
	}
	return scan, nil
}

// findFirst is the height of the block with the transaction that makes the first
// coin, and the coin's value.
func (s scanner) findFirst(ctx context.Context, below uint32) (height uint32, value int64, err error) {
	o := *s.identity.FirstOutpoint
	up := s.from != nil
	if height = below; up {
		height = *s.from
	}
	tip, err := s.node.Height(ctx)
	if err != nil {
		return 0, 0, err
	}
	for height <= tip {
		msg, _, err := s.block(ctx, height)
		if err != nil {
			return 0, 0, err
		}
		for _, tx := range msg.Transactions {
			if calpe.BlockHash(tx.TxHash()) == o.TxID && int64(o.Vout) < int64(len(tx.TxOut)) {
				return height, tx.TxOut[o.Vout].Value, nil
			}
		}
		switch {
		case up:
			height++
		case height == 0:
			return 0, 0, fmt.Errorf("no block from %d down makes the first outpoint %v: if it is in a later one, give --from-height", below, o)
		default:
			height--
		}
	}
	return 0, 0, fmt.Errorf("no block from %d up makes the first outpoint %v: --from-height is too high, or the node is behind", *s.from, o)
}

func (s scanner) block(ctx context.Context, height uint32) (*wire.MsgBlock, calpe.BlockHash, error) {
	hash, err := s.node.BlockHash(ctx, height)
	if err != nil {
		return nil, hash, err
	}
	if s.headers != nil {
		if own, ok := s.headers.At(int(height)); ok && calpe.BlockHash(own.Hash) != hash {
			return nil, hash, fmt.Errorf("the node's block %d is %v, and the headers have %v there", height, hash, own.Hash)
		}
	}
	msg, err := s.node.Block(ctx, hash)
	if err != nil {
		return nil, hash, fmt.Errorf("block %d, of which a pruned node has only the newest: %w", height, err)
	}
	return msg, hash, nil
}

// follow goes through a block, which may hold several links, and gives the coin
// that the next block may spend.
func (s scanner) follow(scan *audit.Scan, msg *wire.MsgBlock, height uint32, coin calpe.Outpoint) (calpe.Outpoint, error) {
	for position, tx := range msg.Transactions {
		if !spends(tx, coin) {
			continue
		}
		a, err := s.evidence(msg, height, position)
		if err != nil {
			return coin, fmt.Errorf("the spender of %v in block %d: %w", coin, height, err)
		}
		link, err := a.Link()
		if err != nil {
			return coin, fmt.Errorf("the spender of %v in block %d: %w", coin, height, err)
		}
		if first, ok := s.goesOn(coin, link.TxID); ok {
			scan.Breaks = append(scan.Breaks, audit.ScannedBreak{After: len(scan.Anchors), Spend: a})
			coin = first
			continue
		}
		if link.Inputs[0] != coin || link.Payload == nil || len(link.Outputs) != 2 {
			scan.Foreign = &a
			return coin, nil
		}
		scan.Anchors = append(scan.Anchors, a)
		coin = link.Next()
	}
	return coin, nil
}

// goesOn is the coin with which the chain goes on, as a published break says, when
// that transaction has spent the coin.
func (s scanner) goesOn(coin calpe.Outpoint, spentBy calpe.BlockHash) (calpe.Outpoint, bool) {
	for _, b := range s.breaks {
		if body := b.Body(); body.Coin == coin && body.SpentBy == spentBy {
			return body.First, true
		}
	}
	return calpe.Outpoint{}, false
}

func spends(tx *wire.MsgTx, o calpe.Outpoint) bool {
	for _, in := range tx.TxIn {
		if in.PreviousOutPoint.Index == o.Vout && calpe.BlockHash(in.PreviousOutPoint.Hash) == o.TxID {
			return true
		}
	}
	return false
}

// evidence collects what leads from a transaction to its block's header.
func (s scanner) evidence(msg *wire.MsgBlock, height uint32, position int) (receipt.Anchor, error) {
	var header, tx, coinbase bytes.Buffer
	err := errors.Join(msg.Header.Serialize(&header), msg.Transactions[position].SerializeNoWitness(&tx),
		msg.Transactions[0].SerializeNoWitness(&coinbase))
	if err != nil {
		return receipt.Anchor{}, err
	}
	ids := bitcoin.TxIDs(msg)
	branch, _, err := bitcoin.MerkleBranch(ids, uint32(position))
	if err != nil {
		return receipt.Anchor{}, err
	}
	coinbaseBranch, _, err := bitcoin.MerkleBranch(ids, 0)
	return receipt.Anchor{
		Network: s.identity.Network, Genesis: s.identity.Genesis, Height: height, Header: header.Bytes(),
		Transaction: tx.Bytes(), Position: uint32(position), Branch: branch,
		Coinbase: coinbase.Bytes(), CoinbaseBranch: coinbaseBranch,
	}, err
}
