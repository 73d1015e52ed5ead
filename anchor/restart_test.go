package anchor_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/btcsuite/btcd/wire/v2"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/anchor/wallet"
)

// broken is a world with two final anchors, whose live coin was spent by somebody
// else six blocks ago.
func broken(t *testing.T, store firstStore) *world {
	t.Helper()
	w := newWorld(t, store)
	for range 2 {
		w.log.grow(3)
		w.now = w.now.Add(interval)
		w.settle()
	}
	w.steal(w.snapshot().Live.Outpoint)
	return w
}

// steal lets a foreign spend of a coin become six blocks deep.
func (w *world) steal(coin calpe.Outpoint) {
	w.t.Helper()
	w.node.mine(foreignSpend(coin, func(*wire.MsgTx) {}))
	w.stepWants(anchor.ErrForeignSpend)
	w.node.empty(5)
	w.stepWants(anchor.ErrForeignSpend)
}

// payIn pays to the anchor key, six blocks deep.
func (w *world) payIn(value int64) calpe.Outpoint {
	w.t.Helper()
	o := w.node.pay(w.signer.Script(), value)
	w.node.empty(5)
	w.stepWants(anchor.ErrForeignSpend)
	return o
}

func (w *world) mustRestart() {
	w.t.Helper()
	if err := w.restartChain(); err != nil {
		w.t.Fatalf("restart the chain: %v", err)
	}
	w.check()
}

func TestRestartChain(t *testing.T) {
	forEachStore(t, func(t *testing.T, store firstStore, _ func()) {
		w := broken(t, store)
		if _, err := w.findBreak(); !errors.Is(err, anchor.ErrNoDeposit) {
			t.Fatalf("without a deposit: %v", err)
		}
		w.payIn(19_999)
		if _, err := w.findBreak(); !errors.Is(err, anchor.ErrNoDeposit) {
			t.Fatalf("with a small deposit: %v", err)
		}
		first := w.payIn(300_000)
		before := w.snapshot()
		b, err := w.findBreak()
		if err != nil || b.First.Outpoint != first || b.Coin.Outpoint != before.Foreign.Outpoint || b.Spend.TxID != before.Foreign.SpentBy || b.Last.TxID != before.Foreign.MadeBy || b.Last.Size != 6 {
			t.Fatalf("found %+v, %v", b, err)
		}
		w.mustRestart()
		snap := w.snapshot()
		if snap.Foreign != nil || snap.Live == nil || snap.Live.Outpoint != first || snap.Live.Kind != ledger.ChainCoin || len(snap.Breaks) != 1 || snap.LeastSize() != 7 {
			t.Fatalf("after the restart: %+v", snap)
		}
		again := w.restarts[0]
		if err := store.RestartChain(t.Context(), again.Break, again.ChainBreak); err != nil {
			t.Errorf("the same restart again: %v", err)
		}
		again.First.Vout++
		if err := store.RestartChain(t.Context(), again.Break, again.ChainBreak); !errors.Is(err, ledger.ErrConflict) {
			t.Errorf("another restart from the same coin: %v", err)
		}
		if _, err := w.findBreak(); !errors.Is(err, anchor.ErrNotBroken) {
			t.Errorf("after the restart: %v", err)
		}

		// No anchor is made before one can cover the statement.
		w.mustStep()
		if n := len(w.snapshot().Attempts); n != 0 {
			t.Fatalf("%d attempts before a checkpoint covers the statement", n)
		}
		w.log.grow(0)
		w.mustStep()
		a := w.only()
		if a.Coin != first || a.Size != 7 {
			t.Fatalf("the first attempt is %+v", a)
		}
		w.settle()
		w.wantState(a.TxID, ledger.Final)
		w.log.grow(2)
		w.now = w.now.Add(interval)
		w.settle()
		if snap := w.snapshot(); snap.Anchored != 9 {
			t.Fatalf("anchored are %d", snap.Anchored)
		}
	})
}

// The deposit that the statement names is stolen before the break is recorded: it
// is, and the chain breaks again at that coin.
func TestRestartFromStolenDeposit(t *testing.T) {
	forEachStore(t, func(t *testing.T, store firstStore, _ func()) {
		w := broken(t, store)
		first := w.payIn(300_000)
		b, err := w.findBreak()
		if err != nil {
			t.Fatal(err)
		}
		w.steal(first)
		r := restarted{b.Break(6), calpe.ChainBreak{Spend: b.Spend, Statement: calpe.Statement{Index: 6, Body: []byte("{}")}}}
		w.restarts = append(w.restarts, r)
		w.mustRestart()
		w.stepWants(anchor.ErrForeignSpend)
		w.log.grow(1)
		second := w.payIn(200_000)
		if snap := w.snapshot(); snap.Foreign == nil || snap.Foreign.Outpoint != first || snap.Foreign.Kind != ledger.ChainCoin {
			t.Fatalf("after the theft of the new coin: %+v", snap)
		}
		w.mustRestart()
		w.log.grow(1)
		w.settle()
		if snap := w.snapshot(); len(snap.Breaks) != 2 || snap.Breaks[1].Coin != first || snap.Breaks[1].First != second || snap.Anchored != w.log.size {
			t.Fatalf("after the second restart: %+v", snap)
		}
	})
}

// The spend on which a restart rests is reorganised away: nothing is written, all
// stands still, and goes on when the branch is back. Above it, reorganisations are
// followed: the new coin is void, and comes back.
func TestReorganisationsOfRestart(t *testing.T) {
	forEachStore(t, func(t *testing.T, store firstStore, _ func()) {
		w := broken(t, store)
		first := w.payIn(300_000)
		w.mustRestart()
		w.log.grow(1)
		w.mustStep()
		w.node.mine()
		w.mustStep()
		tip := w.node.height()
		spend := w.settledHeight()
		before := w.snapshot()

		gone := w.node.cut(tip-spend+1, true)
		w.node.empty(len(gone) + 1)
		for range 2 {
			w.stepWants(anchor.ErrBreakUndone)
			w.restart()
		}
		if diff := diffSnapshots(before, w.snapshot()); diff != "" {
			t.Fatalf("something was written:\n%s", diff)
		}
		at := w.journal()
		if err := store.Rewind(t.Context(), w.epoch, at[len(at)-1], at[spend-1]); !errors.Is(err, ledger.ErrConflict) {
			t.Errorf("the store takes the blocks back: %v", err)
		}
		w.node.switchTo(spend-1, gone)
		w.node.empty(2)
		w.mustStep()

		// The deposit's own block goes, and is mined again.
		depth := w.node.height() - spend
		w.node.cut(depth, true)
		w.node.empty(depth + 1)
		w.stepWants(anchor.ErrNoCoin)
		if snap := w.snapshot(); snap.Void == nil || snap.Void.Outpoint != first || snap.Live != nil {
			t.Fatalf("without the deposit: %+v", snap)
		}
		w.node.mine(w.node.byHash[calpe.BlockHash(gone[6].BlockHash())].Transactions[1:]...)
		w.now = w.now.Add(interval)
		w.settle()
		if snap := w.snapshot(); snap.Live.Outpoint == first || snap.Anchored != 8 {
			t.Fatalf("after all: %+v", snap)
		}
	})
}

// A database that knows nothing of the restart, nor of any attempt, is told of it,
// and finds the anchors behind it in the blocks: what it took for deposits are coins
// of the chain.
func TestRestartAfterRestore(t *testing.T) {
	forEachStore(t, func(t *testing.T, store firstStore, _ func()) {
		w := broken(t, newMemStore())
		w.payIn(300_000)
		w.mustRestart()
		for range 3 {
			w.log.grow(2)
			w.now = w.now.Add(interval)
			w.settle()
		}
		want := w.snapshot()
		first := ledger.Coin{Outpoint: w.firstCoin, Output: ledger.Output{Value: 1_000_000, Script: w.signer.Script()}, Kind: ledger.ChainCoin, State: ledger.CoinLive, Height: 4}
		if err := store.InsertFirstCoin(t.Context(), first, w.journal()[:5]); err != nil {
			t.Fatal(err)
		}
		w.store, w.faults.Store = store, store
		w.restart()
		w.stepWants(anchor.ErrForeignSpend)
		if snap := w.snapshot(); snap.Live != nil || len(snap.Deposits) != 1 || snap.Deposits[0].Outpoint != want.Live.Outpoint {
			t.Fatalf("before it is told: %+v", snap)
		}
		if err := w.restartChain(); err != nil {
			t.Fatal(err)
		}
		w.mustStep()
		snap := w.snapshot()
		if snap.Live == nil || snap.Live.Outpoint != want.Live.Outpoint || snap.Anchored != want.Anchored || snap.Live.MadeBy != want.Live.MadeBy {
			t.Fatalf("after the restore: %+v", snap)
		}
		w.log.grow(2)
		w.now = w.now.Add(interval)
		w.settle()
	})
}

// What isn't so isn't recorded.
func TestRestartRefusals(t *testing.T) {
	forEachStore(t, func(t *testing.T, store firstStore, _ func()) {
		w := newWorld(t, store)
		w.log.grow(3)
		w.settle()
		if _, err := w.findBreak(); !errors.Is(err, anchor.ErrNotBroken) {
			t.Errorf("of a whole chain: %v", err)
		}
		coin := w.snapshot().Live.Outpoint
		deposit := w.node.pay(w.signer.Script(), 300_000)
		w.node.mine(foreignSpend(coin, func(*wire.MsgTx) {}))
		w.stepWants(anchor.ErrForeignSpend)
		for range 5 {
			if _, err := w.findBreak(); !errors.Is(err, anchor.ErrNotDeep) || !strings.Contains(err.Error(), "must be 6") {
				t.Errorf("not deep yet: %v", err)
			}
			w.node.empty(1)
			w.stepWants(anchor.ErrForeignSpend)
		}
		b, err := w.findBreak()
		if err != nil {
			t.Fatal(err)
		}
		late := w.node.pay(w.signer.Script(), 400_000)
		w.stepWants(anchor.ErrForeignSpend)
		if _, err := w.findBreak(); !errors.Is(err, anchor.ErrNotDeep) {
			t.Errorf("the largest deposit isn't deep: %v", err)
		}
		named := anchor.BreakConfig{Store: w.store, Node: w.node, Depth: 6, Script: w.signer.Script(), Least: 1_000_000, First: deposit}
		if found, err := anchor.FindBreak(t.Context(), named); err != nil || found.First.Outpoint != deposit {
			t.Errorf("a deposit that is named: %+v, %v", found.First, err)
		}
		named.First = coin
		if _, err := anchor.FindBreak(t.Context(), named); !errors.Is(err, anchor.ErrNoDeposit) {
			t.Errorf("what is no deposit: %v", err)
		}
		named.First, w.node.deny = deposit, deposit
		if _, err := anchor.FindBreak(t.Context(), named); !errors.Is(err, anchor.ErrNoDeposit) {
			t.Errorf("a deposit that the node says is spent: %v", err)
		}
		w.node.deny = calpe.Outpoint{}
		other := newFakeNode(t)
		other.empty(w.node.height() + 1)
		named.Second = other
		if _, err := anchor.FindBreak(t.Context(), named); !errors.Is(err, anchor.ErrNodesDisagree) {
			t.Errorf("the second node has another block: %v", err)
		}
		named.Second, named.Node = nil, other
		if _, err := anchor.FindBreak(t.Context(), named); !errors.Is(err, anchor.ErrChainMoved) {
			t.Errorf("the node has another block: %v", err)
		}

		before := w.snapshot()
		good := b.Break(5)
		published := calpe.ChainBreak{Spend: b.Spend, Statement: calpe.Statement{Index: 5, Body: []byte("{}")}}
		for name, edit := range map[string]func(x *ledger.Break, r *calpe.ChainBreak){
			"a coin that is spent by us": func(x *ledger.Break, _ *calpe.ChainBreak) { x.Coin = w.firstCoin },
			"no coin":                    func(x *ledger.Break, _ *calpe.ChainBreak) { x.Coin.Vout = 99 },
			"another spender":            func(x *ledger.Break, _ *calpe.ChainBreak) { x.SpentBy[0] ^= 1 },
			"another height":             func(x *ledger.Break, _ *calpe.ChainBreak) { x.Height-- },
			"another block":              func(_ *ledger.Break, r *calpe.ChainBreak) { r.Spend.Block[0] ^= 1 },
			"the same coin":              func(x *ledger.Break, _ *calpe.ChainBreak) { x.First = x.Coin },
			"no deposit":                 func(x *ledger.Break, _ *calpe.ChainBreak) { x.First = w.firstCoin },
		} {
			x, r := good, published
			edit(&x, &r)
			if err := store.RestartChain(t.Context(), x, r); !errors.Is(err, ledger.ErrConflict) {
				t.Errorf("%s: %v", name, err)
			}
		}
		if diff := diffSnapshots(before, w.snapshot()); diff != "" {
			t.Errorf("a refused restart changed something:\n%s", diff)
		}
		if err := store.RestartChain(t.Context(), good, published); err != nil {
			t.Fatal(err)
		}
		w.steal(deposit)
		again := good
		again.Coin, again.First = deposit, late
		again.SpentBy, again.Height = w.snapshot().Foreign.SpentBy, w.snapshot().Foreign.SpentHeight
		r := published
		r.Spend.Block = calpe.BlockHash(w.node.chain[again.Height].BlockHash())
		if err := store.RestartChain(t.Context(), again, r); !errors.Is(err, ledger.ErrConflict) {
			t.Errorf("two breaks by one statement: %v", err)
		}
	})
}

// What a key that was given up still gets is watched, and neither joins an anchor
// nor is an alarm when whoever has the key takes it.
func TestGivenUpKey(t *testing.T) {
	forEachStore(t, func(t *testing.T, store firstStore, _ func()) {
		w := broken(t, store)
		former := w.signer.Script()
		keys, err := wallet.Decode([]byte(`{"network":"regtest","keys":[`+keyOne+`,`+keyTwo+`]}`), calpe.Regtest)
		if err != nil {
			t.Fatal(err)
		}
		if w.signer, err = wallet.New(wallet.Config{Keys: keys, Caps: w.caps}); err != nil {
			t.Fatal(err)
		}
		w.restart()
		first := w.payIn(300_000)
		w.mustRestart()
		w.log.grow(1)
		w.engineOnly(nil)
		stays := w.node.pay(former, 900_000)
		w.engineOnly(nil)
		w.node.mine()
		w.log.grow(1)
		w.now = w.now.Add(interval)
		w.engineOnly(nil)
		snap := w.snapshot()
		if len(snap.Breaks) != 1 || len(snap.Breaks[0].Former) != 1 || !snap.Breaks[0].GivenUp(former) || snap.Breaks[0].GivenUp(w.signer.Script()) {
			t.Fatalf("the break is %+v", snap.Breaks)
		}
		if len(snap.Deposits) != 1 || snap.Deposits[0].Outpoint != stays || len(snap.Attempts) != 1 || len(snap.Attempts[0].Inputs) != 1 {
			t.Fatalf("with a deposit to the former key: %+v", snap)
		}
		if maker, _, err := w.store.Attempt(t.Context(), snap.Live.MadeBy); err != nil || maker.Coin != first {
			t.Fatalf("the coin was made by %+v, %v", maker, err)
		}
		if got := w.engine.Status().Funds.Value; got != snap.Live.Value {
			t.Errorf("the funds are %d sat, the coin has %d", got, snap.Live.Value)
		}
		w.node.mine(foreignSpend(stays, func(*wire.MsgTx) {}))
		w.engineOnly(nil)
		if snap := w.snapshot(); snap.Foreign != nil || len(snap.Deposits) != 0 {
			t.Fatalf("after it was taken: %+v", snap)
		}
		// What was paid to the new key is another matter.
		mine := w.node.pay(w.signer.Script(), 900_000)
		w.engineOnly(nil)
		w.node.mine(foreignSpend(mine, func(*wire.MsgTx) {}))
		w.engineOnly(anchor.ErrForeignSpend)
	})
}

// engineOnly is a step without the comparison of everything, which knows one key.
func (w *world) engineOnly(want error) {
	w.t.Helper()
	if err := w.engine.Step(w.t.Context(), w.epoch); !errors.Is(err, want) {
		w.t.Fatalf("step: %v, want %v", err, want)
	}
}
