package anchor_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor"
	"github.com/calpe/calpe/anchor/bitcoin/nodetest"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/anchor/wallet"
)

// partition is a world whose node has a neighbour: both mine apart, and when they
// are joined again the longer branch wins, as in the network.
type partition struct {
	*realWorld
	other *nodetest.Node
}

// newPartition begins the chain of coins while the nodes are joined, or when they
// have been parted. The neighbour is always a btcd, so that Core's are reorganised
// by blocks of another implementation.
func newPartition(t *testing.T, kind nodetest.Kind, joined bool) *partition {
	t.Helper()
	p := &partition{
		realWorld: emptyRealWorld(t, kind, calpe.Regtest, wallet.Caps{FeeRate: 20 * ledger.SatPerVB, Fee: 5_000}),
		other:     nodetest.Start(t, nodetest.Btcd, calpe.Regtest),
	}
	p.node.Empty(1) // more than the other has
	p.node.Join(p.other)
	p.node.Part(p.other)
	p.begin(1_000_000)
	if joined {
		p.node.Join(p.other) // it knows the coin
		p.node.Part(p.other)
	}
	return p
}

// bumped makes the engine send a first attempt, and a dearer one at the next block.
func (p *partition) bumped() (older, newer ledger.Attempt) {
	p.t.Helper()
	p.log.grow(1)
	p.now = p.now.Add(3 * time.Hour)
	p.step()
	older = p.attempt(p.newest().TxID)
	p.node.Empty(1)
	p.log.grow(1)
	p.now = p.now.Add(3 * time.Hour) // the goal is missed
	p.step()
	newer = p.attempt(p.newest().TxID)
	if newer.Coin != older.Coin || newer.N != 2 || newer.State != ledger.Sent {
		p.t.Fatalf("attempts %+v and %+v", older, newer)
	}
	return older, newer
}

// The network falls apart. One attempt is mined on our side, another one of the
// same coin on the other, whose branch is longer in the end. The evidence follows,
// what was built on the former is void, and nothing is lost or paid twice.
func TestRealFlips(t *testing.T) { forEachNode(t, realFlips) }

func realFlips(t *testing.T, kind nodetest.Kind) {
	t.Helper()
	p := newPartition(t, kind, true)
	for _, depth := range []int{1, 2, 6} {
		for _, toOlder := range []bool{true, false} {
			t.Run(fmt.Sprintf("depth=%d/to-older=%v", depth, toOlder), func(t *testing.T) {
				p.t = t
				p.flip(depth, toOlder)
			})
		}
	}
}

func (p *partition) flip(depth int, toOlder bool) {
	t := p.t
	t.Helper()
	former, latter := p.bumped()
	if toOlder {
		former, latter = latter, former
	}
	p.node.Join(p.other)
	p.node.Part(p.other)
	p.node.Mine(former.Raw)
	p.node.Empty(depth - 1)
	p.log.grow(1)
	p.now = p.now.Add(3 * time.Hour)
	p.step()
	child := p.newest() // built on the former
	was, err := p.store.AnchorFor(t.Context(), former.Size-1)
	if err != nil || was.TxID != former.TxID || child.Coin.TxID != former.TxID || was.Final != (depth >= 6) {
		t.Fatalf("before the flip: %+v, built on it %+v, %v", was, child, err)
	}

	p.other.Mine(latter.Raw)
	p.other.Empty(depth)
	p.node.Join(p.other)
	p.step()
	if got := p.attempt(latter.TxID); !got.State.InBlock() || p.attempt(former.TxID).State != ledger.Replaced || p.attempt(child.TxID).State != ledger.Void {
		t.Fatalf("after the flip: %s, %s, what was built %s", got.State, p.attempt(former.TxID).State, p.attempt(child.TxID).State)
	}
	is, err := p.store.AnchorFor(t.Context(), latter.Size-1)
	if err != nil || is.TxID != latter.TxID || is.Block == was.Block || is.Depth != uint32(depth)+1 {
		t.Fatalf("evidence after the flip: %+v, %v", is, err)
	}
	checkEvidence(t, is)
	p.node.Part(p.other)
	p.settle()
}

// The anchor's block is reorganised away, and the longer branch doesn't hold it:
// it is with the node again at once, and mined later, in another block.
func TestRealAnchorNotMinedAgain(t *testing.T) { forEachNode(t, realAnchorNotMinedAgain) }

func realAnchorNotMinedAgain(t *testing.T, kind nodetest.Kind) {
	t.Helper()
	p := newPartition(t, kind, true)
	for _, depth := range []int{1, 6} {
		p.log.grow(1)
		p.now = p.now.Add(interval)
		p.step()
		a := p.newest()
		p.node.Mine(a.Raw)
		p.node.Empty(depth - 1)
		p.step()
		was, err := p.store.AnchorFor(t.Context(), a.Size-1)
		if err != nil || was.TxID != a.TxID {
			t.Fatalf("evidence: %+v, %v", was, err)
		}
		p.other.Empty(depth + 1)
		p.node.Join(p.other)
		p.step()
		waits := p.newest() // a dearer one, if the goal of six blocks is missed by now
		if got := p.attempt(a.TxID); got.State != ledger.Sent || waits.Coin != a.Coin || !slices.Contains(p.node.Mempool(), waits.TxID) {
			t.Fatalf("the attempt is %s, the mempool has %v, want %v", got.State, p.node.Mempool(), waits.TxID)
		}
		if _, err := p.store.AnchorFor(t.Context(), a.Size-1); !errors.Is(err, calpe.ErrNotFound) {
			t.Fatalf("evidence without a block: %v", err)
		}
		p.node.Part(p.other)
		p.settle()
		if is, err := p.store.AnchorFor(t.Context(), a.Size-1); err != nil || is.TxID != waits.TxID || is.Block == was.Block {
			t.Fatalf("evidence in the end: %+v, %v", is, err)
		}
		p.node.Join(p.other)
		p.node.Part(p.other)
	}
}

// The block that pays the first coin is reorganised away, and with it everything:
// nothing is sent until the payment is in a block again, and then all goes on.
func TestRealFundingReorganisedAway(t *testing.T) { forEachNode(t, realFundingReorganisedAway) }

func realFundingReorganisedAway(t *testing.T, kind nodetest.Kind) {
	t.Helper()
	p := newPartition(t, kind, false)
	funding := p.transaction(p.firstCoin.TxID)
	p.log.grow(3)
	p.step()
	a := p.newest()
	p.node.Mine(a.Raw)
	p.step()
	if got := p.attempt(a.TxID); got.State != ledger.Mined {
		t.Fatalf("the attempt is %s", got.State)
	}
	p.other.Empty(4)
	p.node.Join(p.other)
	for range 2 {
		if err := p.engine.Step(t.Context(), 1); !errors.Is(err, anchor.ErrNoCoin) {
			t.Fatalf("step without a coin: %v", err)
		}
		p.restart()
	}
	if got := p.attempt(a.TxID); got.State != ledger.Void {
		t.Fatalf("the attempt is %s", got.State)
	}
	p.node.Mine(funding)
	p.step()
	if got := p.attempt(a.TxID); got.State != ledger.Sent || !slices.Contains(p.node.Mempool(), a.TxID) {
		t.Fatalf("the attempt is %s", got.State)
	}
	p.settle()
}

// transaction is one of the tip's block, serialized.
func (w *realWorld) transaction(txid calpe.BlockHash) []byte {
	w.t.Helper()
	_, hash, err := w.node.BestBlock(w.t.Context())
	if err != nil {
		w.t.Fatalf("best block: %v", err)
	}
	block, err := w.node.Block(w.t.Context(), hash)
	if err != nil {
		w.t.Fatalf("block: %v", err)
	}
	for _, tx := range block.Transactions {
		if calpe.BlockHash(tx.TxHash()) == txid {
			var b bytes.Buffer
			if err := tx.Serialize(&b); err != nil {
				w.t.Fatalf("serialize: %v", err)
			}
			return b.Bytes()
		}
	}
	w.t.Fatalf("block %v doesn't hold %v", hash, txid)
	return nil
}
