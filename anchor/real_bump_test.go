package anchor_test

import (
	"slices"
	"testing"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/bitcoin/nodetest"
	"github.com/calpe/calpe/anchor/ledger"
)

// resend hands an attempt to the node behind the engine's back.
func (w *realWorld) resend(a ledger.Attempt) {
	w.t.Helper()
	answer, err := w.node.Send(w.t.Context(), a.Raw)
	if err != nil || !answer.Kind.Taken() {
		w.t.Fatalf("send %v: %+v, %v", a.TxID, answer, err)
	}
}

// emptyBlock mines a block without our transactions: a restart of the node loses
// its mempool.
func (w *realWorld) emptyBlock() {
	w.t.Helper()
	w.node.Restart()
	w.node.Generate(1)
}

func (w *realWorld) wantInPool(a ledger.Attempt) {
	w.t.Helper()
	if pool := w.node.Mempool(); !slices.Equal(pool, []calpe.BlockHash{a.TxID}) {
		w.t.Fatalf("the mempool has %v, want %v alone", pool, a.TxID)
	}
}

// A real node takes each bump in the place of the one before, and the last one
// is mined. Then a reorganisation puts an older one in its place: the evidence
// follows, and what that one doesn't cover is anchored next.
func TestRealBumpAndFlip(t *testing.T) { forEachNode(t, realBumpAndFlip) }

func realBumpAndFlip(t *testing.T, kind nodetest.Kind) {
	t.Helper()
	w := newRealWorld(t, kind, kind.Lasting())
	w.log.grow(3)
	w.step()
	attempts := []ledger.Attempt{w.newest()}
	for n := 2; n <= 3; n++ {
		w.emptyBlock()
		w.resend(w.attempt(attempts[n-2].TxID))
		w.log.grow(1)
		w.now = w.now.Add(3 * time.Hour) // the goal is missed
		w.step()
		a := w.newest()
		former := attempts[n-2]
		if a.N != n || a.State != ledger.Sent || a.Size != former.Size+1 || a.Coin != former.Coin || a.Fee < former.Fee+int64(a.VSize) {
			t.Fatalf("attempt %d: %+v", n, a)
		}
		w.wantInPool(a)
		attempts = append(attempts, a)
	}
	older, newest := w.attempt(attempts[0].TxID), attempts[2]
	mined := w.node.Generate(1)[0]
	w.step()
	if w.attempt(newest.TxID).State != ledger.Mined || w.attempt(older.TxID).State != ledger.Replaced {
		t.Fatalf("newest is %s, oldest %s", w.attempt(newest.TxID).State, w.attempt(older.TxID).State)
	}
	evidence, err := w.store.AnchorFor(t.Context(), 4)
	if err != nil || evidence.TxID != newest.TxID || evidence.Block != mined {
		t.Fatalf("evidence: %+v, %v", evidence, err)
	}
	checkEvidence(t, evidence)

	w.node.Invalidate(mined)
	w.node.Restart()
	w.resend(older)
	w.wantInPool(older)
	w.node.Generate(2)
	w.step()
	if w.attempt(newest.TxID).State != ledger.Replaced || w.attempt(older.TxID).State != ledger.Mined {
		t.Fatalf("after the flip newest is %s, oldest %s", w.attempt(newest.TxID).State, w.attempt(older.TxID).State)
	}
	if evidence, err = w.store.AnchorFor(t.Context(), 2); err != nil || evidence.TxID != older.TxID || evidence.Depth != 2 {
		t.Fatalf("evidence after the flip: %+v, %v", evidence, err)
	}
	checkEvidence(t, evidence)
	// The anchor is hours old, so the next one was due at once.
	snap, err := w.store.Snapshot(t.Context())
	if err != nil || len(snap.Attempts) != 1 || snap.Attempts[0].Coin.TxID != older.TxID || snap.Attempts[0].Size != 5 {
		t.Fatalf("attempts after the flip: %+v, %v", snap.Attempts, err)
	}
	next := snap.Attempts[0]
	w.node.Generate(6)
	w.step()
	if w.attempt(next.TxID).State != ledger.Final || w.attempt(older.TxID).State != ledger.Final {
		t.Fatalf("at the end next is %s, oldest %s", w.attempt(next.TxID).State, w.attempt(older.TxID).State)
	}
	spent, err := w.store.Spent(t.Context(), w.now.Add(-24*time.Hour), w.now.Add(time.Hour))
	if err != nil || spent != older.Fee+next.Fee {
		t.Errorf("spent %d sat (%v), the chain has %d", spent, err, older.Fee+next.Fee)
	}
}

// The database is one from before all anchors. Those that it doesn't know are found
// in the blocks and taken over, an anchor with its dearer attempt among them, and
// the chain goes on from there.
func TestRealOlderDatabase(t *testing.T) { forEachNode(t, realOlderDatabase) }

func realOlderDatabase(t *testing.T, kind nodetest.Kind) {
	t.Helper()
	w := newRealWorld(t, kind, calpe.Regtest)
	var lost []ledger.Attempt
	for range 2 {
		w.log.grow(2)
		w.now = w.now.Add(interval)
		w.step()
		w.node.Empty(1)
		w.now = w.now.Add(3 * time.Hour) // the goal is missed
		w.step()
		a := w.newest()
		w.node.Generate(1)
		w.step()
		if got := w.attempt(a.TxID); a.N != 2 || got.State != ledger.Mined {
			t.Fatalf("attempt %+v", got)
		}
		lost = append(lost, w.attempt(a.TxID))
	}
	w.store, _ = pgStore(t)
	if err := w.store.InsertFirstCoin(t.Context(), w.deposit.Coin, w.deposit.Blocks); err != nil {
		t.Fatalf("insert first coin: %v", err)
	}
	w.restart()
	w.step()
	for _, a := range lost {
		got := w.attempt(a.TxID)
		if !got.Imported || !got.State.InBlock() || got.Fee != a.Fee || got.Size != a.Size || got.Coin != a.Coin {
			t.Fatalf("attempt %+v, want %+v", got, a)
		}
	}
	w.log.grow(1)
	w.now = w.now.Add(interval)
	w.settle()
}
