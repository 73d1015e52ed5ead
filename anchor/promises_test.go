package anchor_test

import (
	"context"
	"testing"

	"github.com/btcsuite/btcd/wire/v2"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor"
	"github.com/calpe/calpe/anchor/ledger"
)

// attemptLister lists the newest attempts of all coins.
type attemptLister interface {
	Attempts(ctx context.Context, limit int) ([]ledger.Attempt, error)
}

// promises is what a scenario holds against the chain when it is over. Whatever
// happened: every entry is in a final anchor, each coin has at most one spender in
// the chain and in the rows, and the recorded fees are what the chain's
// transactions paid. It takes the blocks and the rows and nothing of the engine's.
type promises struct {
	chain anchor.Chain
	rows  attemptLister
	owns  func(script []byte) bool
	first calpe.Outpoint // of the chain of coins
	size  uint64         // entries that were acknowledged
	depth uint32         // from which an anchor is final
	// restarts are the coins with which the chain goes on behind those that others
	// have spent.
	restarts map[calpe.Outpoint]calpe.Outpoint
}

func (p promises) check(t *testing.T) {
	t.Helper()
	ctx := context.Background()
	rows, err := p.rows.Attempts(ctx, 1<<20)
	if err != nil {
		t.Fatalf("promises: list attempts: %v", err)
	}
	unseen, spenders := map[calpe.BlockHash]ledger.Attempt{}, map[calpe.Outpoint]int{}
	for _, a := range rows {
		if a.State.InBlock() {
			unseen[a.TxID] = a
			spenders[a.Coin]++
		}
	}
	for coin, n := range spenders {
		if n > 1 {
			t.Fatalf("promises: coin %v has %d spenders in blocks, by the rows", coin, n)
		}
	}
	tip, _, err := p.chain.BestBlock(ctx)
	if err != nil {
		t.Fatalf("promises: best block: %v", err)
	}
	coin, values := p.first, map[calpe.Outpoint]int64{}
	var size uint64
	for height := uint32(1); height <= tip; height++ {
		for _, tx := range p.block(t, height).Transactions[1:] {
			in, out := p.move(tx, values)
			if !spendsCoin(tx, coin) {
				continue
			}
			txid := calpe.BlockHash(tx.TxHash())
			a, ok := unseen[txid]
			if first, broken := p.restarts[coin]; broken && !ok {
				coin = first
				continue
			}
			want := ledger.Mined
			if tip-height+1 >= p.depth {
				want = ledger.Final
			}
			switch {
			case !ok || a.Coin != coin || a.Height != height || a.State != want:
				t.Fatalf("promises: block %d of %d spends %v by %v, whose row is %+v", height, tip, coin, txid, a)
			case a.Fee != in-out:
				t.Fatalf("promises: anchor %v paid %d sat, its row says %d", txid, in-out, a.Fee)
			case a.Size <= size || a.Root != rootOf(a.Size):
				t.Fatalf("promises: anchor %v of %d entries after one of %d has the root %v", txid, a.Size, size, a.Root)
			}
			if want == ledger.Final {
				size = a.Size
			}
			delete(unseen, txid)
			coin = calpe.Outpoint{TxID: txid, Vout: 1}
		}
	}
	if len(unseen) != 0 {
		t.Fatalf("promises: rows of anchors that the chain doesn't have: %v", unseen)
	}
	if size < p.size {
		t.Fatalf("promises: %d entries were acknowledged, %d are final", p.size, size)
	}
}

func (p promises) block(t *testing.T, height uint32) *wire.MsgBlock {
	t.Helper()
	hash, err := p.chain.BlockHash(context.Background(), height)
	if err != nil {
		t.Fatalf("promises: block %d: %v", height, err)
	}
	block, err := p.chain.Block(context.Background(), hash)
	if err != nil {
		t.Fatalf("promises: block %d: %v", height, err)
	}
	return block
}

// move keeps the values of outputs that we own, and says what of them the
// transaction takes, and what all of its outputs come to.
func (p promises) move(tx *wire.MsgTx, values map[calpe.Outpoint]int64) (in, out int64) {
	for _, i := range tx.TxIn {
		in += values[calpe.Outpoint{TxID: calpe.BlockHash(i.PreviousOutPoint.Hash), Vout: i.PreviousOutPoint.Index}]
	}
	for vout, o := range tx.TxOut {
		out += o.Value
		if p.owns(o.PkScript) {
			values[calpe.Outpoint{TxID: calpe.BlockHash(tx.TxHash()), Vout: uint32(vout)}] = o.Value
		}
	}
	return in, out
}

// keepsPromises is the end of a scenario with the fake node.
func (w *world) keepsPromises() {
	w.t.Helper()
	promises{chain: w.node, rows: w.store, owns: w.signer.Owns, first: w.firstCoin, size: w.log.size, depth: 6, restarts: w.restarted()}.check(w.t)
}

// keepsPromises is the end of a scenario with a real one.
func (w *realWorld) keepsPromises() {
	w.t.Helper()
	promises{chain: w.node, rows: w.store, owns: w.signer.Owns, first: w.firstCoin, size: w.log.size, depth: 6}.check(w.t)
}
