package anchor_test

import (
	"context"
	"errors"
	"testing"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor"
	"github.com/calpe/calpe/anchor/bitcoin"
	"github.com/calpe/calpe/anchor/bitcoin/nodetest"
	"github.com/calpe/calpe/anchor/ledger"
)

// fakeWitness sees the chain of the first node, unless told otherwise.
type fakeWitness struct {
	*fakeNode
	down    error
	other   map[uint32]bool // heights at which it has another block
	behind  uint32
	network calpe.Network
	asked   int
}

func (w *fakeWitness) CheckNetwork(_ context.Context, network calpe.Network) error {
	w.asked++
	if w.network != network {
		return bitcoin.ErrWrongNetwork
	}
	return w.down
}

func (w *fakeWitness) BestBlock(ctx context.Context) (uint32, calpe.BlockHash, error) {
	height, hash, err := w.fakeNode.BestBlock(ctx)
	return height - w.behind, hash, err
}

func (w *fakeWitness) BlockHash(ctx context.Context, height uint32) (calpe.BlockHash, error) {
	if w.other[height] {
		return calpe.BlockHash{0xbb}, nil
	}
	return w.fakeNode.BlockHash(ctx, height)
}

// What the second node doesn't confirm isn't final, and everything else goes on.
func TestSecondNode(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil func(w *fakeWitness, height uint32)
		want  error
	}{
		"down":            {func(w *fakeWitness, _ uint32) { w.down = bitcoin.ErrUnavailable }, bitcoin.ErrUnavailable},
		"another network": {func(w *fakeWitness, _ uint32) { w.network = calpe.Signet }, bitcoin.ErrWrongNetwork},
		"another block":   {func(w *fakeWitness, height uint32) { w.other = map[uint32]bool{height: true} }, anchor.ErrNodesDisagree},
		"one block short": {func(w *fakeWitness, _ uint32) { w.behind = 1 }, anchor.ErrNodeBehind},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, newMemStore())
			second := &fakeWitness{fakeNode: w.node, network: calpe.Regtest}
			w.second = second
			w.restart()
			w.log.grow(10)
			w.mustStep()
			a := w.only()
			w.node.mine()
			w.node.empty(4)
			w.mustStep()
			if second.asked != 0 {
				t.Error("the second node was asked before an anchor was deep enough")
			}
			w.node.empty(1)
			tc.spoil(second, uint32(w.node.height())-5)
			w.log.grow(1)
			w.now = w.now.Add(interval)
			w.stepWants(tc.want)
			w.wantState(a.TxID, ledger.Mined)
			if b := w.only(); b.State != ledger.Sent || b.Size != 11 {
				t.Fatalf("the next attempt: %+v", b)
			}
			w.stepWants(tc.want)
			*second = fakeWitness{fakeNode: w.node, network: calpe.Regtest}
			w.mustStep()
			w.wantState(a.TxID, ledger.Final)
			w.settle()
		})
	}
}

// The second node is another real one: on another network; on another branch of the
// same one; and at last with the blocks of the first.
func TestRealSecondNode(t *testing.T) { forEachNode(t, realSecondNode) }

func realSecondNode(t *testing.T, kind nodetest.Kind) {
	t.Helper()
	w := newRealWorld(t, kind, calpe.Regtest)
	elsewhere, second := nodetest.Start(t, nodetest.Btcd, calpe.Simnet), nodetest.Start(t, kind, calpe.Regtest)
	second.Generate(20) // its own branch, deep enough
	w.log.grow(3)
	w.step()
	a := w.newest()
	w.node.Generate(6)
	for _, tc := range []struct {
		node anchor.Witness
		want error
	}{{elsewhere, bitcoin.ErrWrongNetwork}, {second, anchor.ErrNodesDisagree}} {
		w.second = tc.node
		w.restart()
		if err := w.engine.Step(t.Context(), 1); !errors.Is(err, tc.want) {
			t.Errorf("step gave %v, want %v", err, tc.want)
		}
		if got := w.attempt(a.TxID); got.State != ledger.Mined {
			t.Fatalf("the attempt is %s", got.State)
		}
	}
	w.node.Generate(30) // more than the second one has
	w.node.Give(second)
	w.step()
	if got := w.attempt(a.TxID); got.State != ledger.Final {
		t.Fatalf("both nodes have the block, and the attempt is %s", got.State)
	}
}
