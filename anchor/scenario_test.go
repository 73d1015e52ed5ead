package anchor_test

import (
	"fmt"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/bitcoin"
	"github.com/calpe/calpe/anchor/ledger"
)

// While a dearer attempt is on its way to the node, a block with the older one
// comes: before the node hears of the dearer one, or after. The older one is the
// anchor, and what it doesn't cover is in the next.
func TestOlderMinedWhileNewerIsSent(t *testing.T) {
	for _, heard := range []bool{false, true} {
		t.Run(fmt.Sprintf("heard=%v", heard), func(t *testing.T) {
			w := bumpWorld(t)
			w.log.grow(1)
			w.mustStep()
			older := w.only()
			w.log.grow(1)
			w.block()
			w.now = w.now.Add(10 * time.Minute)
			w.node.empty(1)
			sending := false
			w.node.setFault(func(method string) (bool, error) {
				if method == "send" && !sending && !heard {
					sending = true
					w.node.mine(txOf(t, older))
				}
				return true, nil
			})
			w.mustStep()
			w.node.setFault(nil)
			all := w.store.(*memStore).all(older.Coin)
			newer := all[len(all)-1]
			if len(all) < 2 || newer.Raw == nil || !heard && newer.Answer.Kind != ledger.InputsMissing {
				t.Fatalf("attempts %+v", all)
			}
			if heard {
				w.node.mine(txOf(t, older))
			}
			w.mustStep()
			w.wantState(older.TxID, ledger.Mined)
			w.wantState(newer.TxID, ledger.Replaced)
			w.now = w.now.Add(interval)
			w.settle()
			w.wantState(older.TxID, ledger.Final)
		})
	}
}

// The node is down for minutes, at each stage of an anchor: steps fail, nothing is
// written, and when it is back all goes on.
func TestNodeDown(t *testing.T) {
	mem := newMemStore()
	w := newWorld(t, mem)
	for stage, do := range []func(){
		func() { w.log.grow(3) },
		func() { w.node.mine() },
		func() { w.node.empty(5) },
		func() { w.log.grow(1); w.now = w.now.Add(interval) },
		func() { w.node.empty(1) }, // and blocks come while it can't be asked
		func() { w.node.cut(1, true); w.node.empty(2) },
	} {
		do()
		before := mem.rows()
		w.node.setFault(func(string) (bool, error) { return false, bitcoin.ErrUnavailable })
		for range 30 {
			w.now = w.now.Add(time.Minute)
			w.stepWants(bitcoin.ErrUnavailable)
		}
		w.node.setFault(nil)
		if diff := gocmp.Diff(before, mem.rows()); diff != "" {
			t.Fatalf("stage %d: rows changed while the node was down:\n%s", stage, diff)
		}
		w.mustStep()
	}
	w.settle()
}

// btcd can keep a transaction in its mempool that conflicts with a block, for good,
// and says so of the attempt when it gets it again. The chain decides, not the
// mempool: the attempt in the block is the anchor.
func TestZombieInMempool(t *testing.T) {
	w := bumpWorld(t)
	w.log.grow(1)
	w.mustStep()
	older := w.only()
	w.block()
	w.block()
	all := w.attempts()
	zombie := all[len(all)-1]
	w.node.mine(txOf(t, older))
	w.node.empty(1)
	w.node.answer = &ledger.Answer{Kind: ledger.AlreadyKnown, Text: "already have transaction in mempool"}
	w.mustStep()
	w.wantState(older.TxID, ledger.Mined)
	w.wantState(zombie.TxID, ledger.Replaced)
	w.log.grow(1)
	w.now = w.now.Add(interval)
	w.mustStep()
	if next := w.only(); next.Coin.TxID != older.TxID || next.State != ledger.Sent {
		t.Fatalf("next attempt %+v", next)
	}
	w.node.answer = nil
	w.now = w.now.Add(time.Hour)
	w.settle()
}

// A reorganisation takes the tip away at which the attempt was sent, and another one
// brings it back. The node has forgotten the attempt, and couldn't be given it in
// between: it gets it now, and not ten minutes later.
func TestResendAtATipThatComesBack(t *testing.T) {
	w := newWorld(t, newMemStore())
	w.log.grow(1)
	w.mustStep()
	a := w.only()
	fork := w.node.height() - 1
	w.node.empty(1)
	w.mustStep() // sent at this tip
	gone := w.node.cut(1, false)
	w.node.empty(1)
	w.node.setFault(func(method string) (bool, error) {
		if method == "txout" {
			return false, bitcoin.ErrUnavailable
		}
		return true, nil
	})
	w.stepWants(bitcoin.ErrUnavailable)
	w.node.setFault(nil)
	w.node.switchTo(fork+1, gone)
	w.mustStep()
	if w.node.pool()[a.TxID] == nil {
		t.Fatal("the node hasn't the attempt")
	}
	w.settle()
}

// The node evicts the attempt from its mempool (it pays less than the rest by now)
// and doesn't take it back for its fee. The next block brings a dearer one.
func TestEviction(t *testing.T) {
	w := newWorld(t, newMemStore())
	w.log.grow(1)
	w.mustStep()
	a := w.only()
	w.node.forget()
	w.node.minRate = 8 * ledger.SatPerVB
	w.node.rate = 9 * ledger.SatPerVB
	w.node.empty(1)
	w.mustStep() // it is refused
	w.wantState(a.TxID, ledger.Sent)
	w.node.empty(1)
	w.mustStep()
	all := w.attempts()
	if last := all[len(all)-1]; len(all) != 2 || last.FeeRate() < w.node.minRate || w.node.pool()[last.TxID] == nil {
		t.Fatalf("attempts at %s", rates(all))
	}
	w.settle()
}

// Another engine, which this database knows nothing of, spends the coin with an
// attempt of ours that has another size while ours waits: it is taken over, not
// fought. Each of the two makes no more than its own.
func TestUnknownAttemptIsImported(t *testing.T) {
	mem := newMemStore()
	w := newWorld(t, mem)
	old := mem.copyOf()
	w.log.grow(4)
	w.mustStep()
	unknown := w.only()
	raw := txOf(t, unknown)

	w.store, w.faults.Store = old, old
	w.restart()
	w.log.grow(3)
	w.now = w.now.Add(interval)
	w.node.answer = &ledger.Answer{Kind: ledger.Conflict, Text: "txn-mempool-conflict"}
	w.mustStep()
	own := w.only()
	if own.TxID == unknown.TxID || own.Coin != unknown.Coin {
		t.Fatalf("attempts %+v and %+v", own, unknown)
	}
	w.node.answer = nil
	w.node.mine(raw)
	w.mustStep()
	w.wantState(own.TxID, ledger.Replaced)
	got, ok, err := old.Attempt(t.Context(), unknown.TxID)
	if err != nil || !ok || !got.Imported || got.State != ledger.Mined || got.Fee != unknown.Fee || got.Size != 4 {
		t.Fatalf("the unknown attempt: %+v, %v, %v", got, ok, err)
	}
	if snap := w.snapshot(); snap.Foreign != nil || snap.Live == nil || snap.Live.Outpoint != (calpe.Outpoint{TxID: unknown.TxID, Vout: 1}) {
		t.Fatalf("the coin: %+v, foreign %+v", snap.Live, snap.Foreign)
	}
	w.now = w.now.Add(interval)
	w.settle()
}
