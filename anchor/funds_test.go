package anchor_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/btcsuite/btcd/chainhash/v2"
	"github.com/btcsuite/btcd/wire/v2"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/anchor/wallet"
)

// poorWorld has a first coin that pays for nothing, and a log to anchor.
func poorWorld(t *testing.T, store firstStore) *world {
	t.Helper()
	w := emptyWorld(t, store)
	w.node.empty(3)
	w.begin(w.caps.Reserve())
	w.log.grow(1)
	return w
}

func (w *world) deposit(value int64) calpe.Outpoint { return w.node.pay(w.signer.Script(), value) }

// inPool is the only transaction in the node's mempool.
func (w *world) inPool() *wire.MsgTx {
	w.t.Helper()
	for _, tx := range w.node.pool() {
		if len(w.node.pool()) == 1 {
			return tx
		}
	}
	w.t.Fatalf("the mempool has %d transactions, want 1", len(w.node.pool()))
	return nil
}

func spent(a ledger.Attempt) (all []calpe.Outpoint) {
	for _, in := range a.Inputs {
		all = append(all, in.Outpoint)
	}
	return all
}

// An empty coin stops anchoring and nothing else; the smallest deposit that is
// noticed heals it, at the highest fee rate, with nobody's help.
func TestDepositHealsEmptyCoin(t *testing.T) {
	forEachStore(t, func(t *testing.T, store firstStore, _ func()) {
		w := poorWorld(t, store)
		w.node.rate = 1000 * ledger.SatPerVB // so that everything costs the caps
		for range 3 {
			w.stepWants(wallet.ErrOutOfFunds)
		}
		if s := w.engine.Status(); s.Funds.State(1) != wallet.FundsOut || s.Funds.Left != 0 || s.Funds.Value != w.caps.Reserve() {
			t.Fatalf("status: %+v", s)
		}
		d := w.deposit(w.caps.MinDeposit())
		w.mustStep()
		a := w.only()
		if got := spent(a); len(got) != 2 || got[1] != d || a.Fee > w.caps.Fee || a.Change != w.caps.Reserve()+w.caps.MinDeposit()-a.Fee {
			t.Fatalf("attempt spends %v with a fee of %d, change %d", got, a.Fee, a.Change)
		}
		w.settle()
		w.wantState(a.TxID, ledger.Final)
		if s := w.engine.Status(); s.Err != nil || s.Funds.Value != a.Change {
			t.Fatalf("status: %+v", s)
		}
		if n := strings.Count(w.logged.String(), "out of funds: no anchor"); n != 1 {
			t.Errorf("the log says %d times that the funds are out:\n%s", n, w.logged.String())
		}
	})
}

// The log says once when funds become low, and when they are ample again.
func TestFundsAlarm(t *testing.T) {
	w := emptyWorld(t, newMemStore())
	w.begin(w.caps.Reserve() + 30*161*3)
	for range 3 {
		w.mustStep()
	}
	w.deposit(1_000_000)
	for range 3 {
		w.mustStep()
	}
	for text, want := range map[string]int{"level=WARN msg=\"funds are low": 1, "funds are ample": 1, "out of funds": 0} {
		if got := strings.Count(w.logged.String(), text); got != want {
			t.Errorf("the log has %q %d times, want %d:\n%s", text, got, want, w.logged.String())
		}
	}
	if s := w.engine.Status().Funds; s.Left < 30 || s.LeftAtCap >= s.Left || s.Rate != 3*ledger.SatPerVB || s.State(100) != wallet.FundsAmple {
		t.Errorf("funds: %+v", s)
	}
}

// Deposits join the next attempt whether it needs them or not, largest first,
// no more than a bounded number of them.
func TestDepositsJoin(t *testing.T) {
	forEachStore(t, func(t *testing.T, store firstStore, _ func()) {
		w := newWorld(t, store)
		small, large := w.deposit(20_000), w.deposit(30_000)
		w.log.grow(1)
		w.mustStep()
		a := w.only()
		if got, want := fmt.Sprint(spent(a)[1:]), fmt.Sprint([]calpe.Outpoint{large, small}); got != want || a.Change != 1_050_000-a.Fee || a.Fee != int64(3*wallet.VSize(3)) {
			t.Fatalf("attempt spends the deposits %v, want %v; change %d, fee %d", got, want, a.Change, a.Fee)
		}
		w.settle()
		if snap := w.snapshot(); len(snap.Deposits) != 0 || snap.Live.Value != a.Change {
			t.Fatalf("left are %+v and %+v", snap.Live, snap.Deposits)
		}
	})
}

func TestManyDeposits(t *testing.T) {
	w := newWorld(t, newMemStore())
	w.node.mine(payTo(w, 20, 20_000))
	for _, want := range []int{8, 8, 4, 0} {
		w.now = w.now.Add(2 * interval)
		w.log.grow(1)
		w.mustStep()
		if a := w.only(); len(a.Inputs) != 1+want {
			t.Fatalf("attempt has %d inputs, want %d", len(a.Inputs), 1+want)
		}
		w.settle()
	}
}

// payTo is a transaction with that many outputs to us.
func payTo(w *world, n int, value int64) *wire.MsgTx {
	w.node.extra++
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(wire.NewTxIn(&wire.OutPoint{Hash: chainhash.Hash{byte(w.node.extra), 0xdd}, Index: fromNowhere}, nil, nil))
	for range n {
		tx.AddTxOut(wire.NewTxOut(value, w.signer.Script()))
	}
	return tx
}

// The address is public: 1000 outputs of dust leave no row and cost nothing.
func TestDustFlood(t *testing.T) {
	forEachStore(t, func(t *testing.T, store firstStore, _ func()) {
		w := newWorld(t, store)
		w.node.mine(payTo(w, 1000, w.caps.MinDeposit()-1))
		w.log.grow(1)
		w.mustStep()
		if a := w.only(); len(a.Inputs) != 1 || a.Fee != 161*3 {
			t.Fatalf("attempt has %d inputs and a fee of %d sat", len(a.Inputs), a.Fee)
		}
		if snap := w.snapshot(); len(snap.Deposits) != 0 {
			t.Fatalf("%d coins were stored", len(snap.Deposits))
		}
		w.settle()
	})
}

// A coinbase can't be spent for 100 blocks, and is no deposit.
func TestCoinbaseIsNoDeposit(t *testing.T) {
	w := newWorld(t, newMemStore())
	w.node.coinbase = w.signer.Script()
	w.node.empty(1)
	if err := w.engine.Step(t.Context(), w.epoch); err != nil {
		t.Fatalf("step: %v", err)
	}
	if snap := w.snapshot(); len(snap.Deposits) != 0 || snap.Tip.Height != uint32(w.node.height()) {
		t.Fatalf("a coinbase became a deposit: %+v", snap.Deposits)
	}
}

// A deposit that is reorganised away takes the attempts that spend it with it.
// The next is made without it. If it comes back, so do they; what a block then
// holds, decides.
func TestDepositReorganisedAway(t *testing.T) {
	for _, older := range []bool{true, false} {
		t.Run(fmt.Sprintf("older=%v", older), func(t *testing.T) {
			forEachStore(t, func(t *testing.T, store firstStore, _ func()) {
				w := newWorld(t, store)
				w.mustStep()
				d := w.deposit(50_000)
				w.log.grow(1)
				w.mustStep()
				with, withTx := w.only(), w.inPool()
				paid := w.node.cut(1, false)[0].Transactions[1]
				w.node.empty(2)
				w.mustStep()
				w.wantState(with.TxID, ledger.Void)
				snap := w.snapshot()
				if len(snap.Attempts) != 2 || len(snap.Deposits) != 1 || snap.Deposits[0].State != ledger.CoinVoid || snap.Deposits[0].Outpoint != d {
					t.Fatalf("%d attempts, deposits %+v", len(snap.Attempts), snap.Deposits)
				}
				without, withoutTx := snap.Attempts[1], w.inPool()
				if len(without.Inputs) != 1 || without.State != ledger.Sent {
					t.Fatalf("second attempt: %+v", without)
				}
				if older { // one block holds the deposit and what spends it
					w.node.mine(paid, withTx)
					w.mustStep()
					w.wantState(with.TxID, ledger.Mined)
					w.wantState(without.TxID, ledger.Replaced)
				} else {
					w.node.mine(withoutTx)
					w.mustStep()
					w.wantState(with.TxID, ledger.Void)
					w.node.mine(paid)
					w.mustStep()
					w.wantState(with.TxID, ledger.Replaced)
					w.wantState(without.TxID, ledger.Mined)
				}
				// And all of it gone again, down to before the deposit.
				w.node.cut(w.node.height()-4, false)
				w.node.empty(6)
				w.mustStep()
				w.wantState(with.TxID, ledger.Void)
				w.wantState(without.TxID, ledger.Sent)
				w.node.mine(paid)
				w.mustStep()
				w.wantState(with.TxID, ledger.Sent)
				w.settle()
			})
		})
	}
}

// A deposit in an attempt that lost, joins the next one: never two live attempts
// of different coins at once.
func TestDepositJoinsLater(t *testing.T) {
	w := newWorld(t, newMemStore())
	w.log.grow(1)
	w.mustStep()
	first := w.inPool()
	w.deposit(50_000)
	w.mustStep() // the attempt that is out stays as it is
	if a := w.only(); len(a.Inputs) != 1 {
		t.Fatalf("attempt has %d inputs", len(a.Inputs))
	}
	w.node.mine(first)
	w.log.grow(1)
	w.now = w.now.Add(interval)
	w.mustStep()
	second := w.only()
	if len(second.Inputs) != 2 {
		t.Fatalf("second attempt has %d inputs", len(second.Inputs))
	}
	w.node.mine()
	w.mustStep()
	// Both anchors are gone; the first coin is live again, and its attempt unchanged.
	w.node.cut(2, false)
	w.node.empty(3)
	w.mustStep()
	w.wantState(second.TxID, ledger.Void)
	w.node.mine()
	w.mustStep()
	w.wantState(second.TxID, ledger.Sent)
	w.settle()
	w.wantState(second.TxID, ledger.Final)
}

// A deposit that somebody else spends means that the key is in other hands.
func TestForeignSpendOfDeposit(t *testing.T) {
	forEachStore(t, func(t *testing.T, store firstStore, _ func()) {
		w := newWorld(t, store)
		d := w.deposit(50_000)
		w.log.grow(1)
		w.mustStep()
		a := w.only()
		w.node.mine(foreignSpend(d, func(*wire.MsgTx) {}))
		w.stepWants(anchor.ErrForeignSpend)
		w.wantState(a.TxID, ledger.Replaced)
		if snap := w.snapshot(); snap.Foreign == nil || snap.Foreign.Outpoint != d || snap.Live == nil {
			t.Fatalf("foreign is %+v", snap.Foreign)
		}
		w.node.cut(1, false) // and it never was
		w.node.empty(2)
		w.mustStep()
		w.wantState(a.TxID, ledger.Sent)
		// Coin and deposit in one theft.
		w.node.mine(foreignSpend(a.Coin, func(tx *wire.MsgTx) {
			tx.AddTxIn(wire.NewTxIn(&wire.OutPoint{Hash: chainhash.Hash(d.TxID), Index: d.Vout}, nil, nil))
		}))
		w.stepWants(anchor.ErrForeignSpend)
		if snap := w.snapshot(); snap.Foreign == nil || snap.Foreign.Outpoint != a.Coin || snap.Live != nil || len(snap.Deposits) != 0 {
			t.Fatalf("foreign is %+v, live %+v, deposits %+v", snap.Foreign, snap.Live, snap.Deposits)
		}
	})
}

// An older copy of the database finds deposits and the anchors that took them up
// in the blocks, and knows what these cost.
func TestImportWithDeposit(t *testing.T) {
	forEachStore(t, func(t *testing.T, store firstStore, _ func()) {
		mem := newMemStore()
		w := newWorld(t, mem)
		first := w.snapshot()
		w.deposit(50_000)
		w.log.grow(1)
		w.mustStep()
		a := w.only()
		w.settle()
		if err := store.InsertFirstCoin(t.Context(), *first.Live, w.journal()[:first.Tip.Height+1]); err != nil {
			t.Fatalf("insert first coin: %v", err)
		}
		w.store, w.faults.Store = store, store
		w.restart()
		w.settle()
		got, ok, err := store.Attempt(t.Context(), a.TxID)
		if err != nil || !ok || !got.Imported || got.Fee != a.Fee || len(got.Inputs) != 2 {
			t.Fatalf("imported %+v (%v, %v), want a fee of %d", got, ok, err, a.Fee)
		}
	})
}

// A deposit that was noticed is noticed again after a reorganisation, though the
// smallest value was raised meanwhile.
func TestKnownDepositBelowTheMinimum(t *testing.T) {
	w := newWorld(t, newMemStore())
	w.deposit(w.caps.MinDeposit())
	w.log.grow(1)
	w.mustStep()
	a := w.only()
	paid := w.node.cut(1, false)[0].Transactions[1]
	w.node.empty(2)
	w.mustStep()
	w.wantState(a.TxID, ledger.Void)
	w.minDeposit = 10 * w.caps.MinDeposit()
	w.restart()
	w.node.mine(paid)
	w.mustStep()
	w.wantState(a.TxID, ledger.Sent)
	w.settle()
}

// Near the cap a deposit that isn't needed stays out; one that is needed lowers
// the rate.
func TestDepositAtTheFeeCap(t *testing.T) {
	for _, row := range []struct {
		name   string
		coin   int64
		inputs int
	}{{"not needed", 1_000_000, 1}, {"needed", 1_000, 2}} {
		t.Run(row.name, func(t *testing.T) {
			w := emptyWorld(t, newMemStore())
			w.begin(row.coin)
			w.deposit(100_000)
			w.node.rate = 31 * ledger.SatPerVB // 4991 sat for one input, 7099 for two; the cap is 5000
			w.log.grow(1)
			w.mustStep()
			if a := w.only(); len(a.Inputs) != row.inputs || a.Fee > w.caps.Fee || a.Fee < w.caps.Fee-9 {
				t.Fatalf("attempt has %d inputs and a fee of %d", len(a.Inputs), a.Fee)
			}
			w.settle()
		})
	}
}

// A deposit below the smallest value is refused as a setting below dust.
func TestMinDepositConfig(t *testing.T) {
	w := newWorld(t, newMemStore())
	cfg := anchor.Config{Network: calpe.Regtest, Store: w.store, Node: w.node, Signer: w.signer, Log: w.log, StopIntake: func(error) {}, MinDeposit: wallet.Dust - 1}
	if _, err := anchor.New(cfg); err == nil {
		t.Error("a smallest deposit below dust")
	}
	cfg.MinDeposit++
	if _, err := anchor.New(cfg); err != nil {
		t.Errorf("a smallest deposit of dust: %v", err)
	}
}

// randomDeposit pays dust, or a deposit, or several at once.
func (w *world) randomDeposit(r *rand.Rand) {
	switch r.IntN(3) {
	case 0:
		w.deposit(w.caps.MinDeposit() - 1)
	case 1:
		w.deposit(w.caps.MinDeposit() + r.Int64N(50_000))
	case 2:
		w.node.mine(payTo(w, 1+r.IntN(12), w.caps.MinDeposit()))
	}
}

// The node says that a deposit is spent, which no block that was followed does:
// a block has come meanwhile, and nothing is built on what the node denies.
func TestDepositThatTheNodeDenies(t *testing.T) {
	w := newWorld(t, newMemStore())
	d := w.deposit(50_000)
	w.mustStep()
	w.log.grow(1)
	w.node.deny = d
	w.stepWants(anchor.ErrChainMoved)
	if n := len(w.snapshot().Attempts); n != 0 {
		t.Fatalf("%d attempts", n)
	}
	w.node.deny = calpe.Outpoint{}
	w.mustStep()
	if a := w.only(); len(a.Inputs) != 2 {
		t.Fatalf("attempt has %d inputs", len(a.Inputs))
	}
	w.settle()
}

// pickySigner refuses whatever spends one output.
type pickySigner struct {
	*wallet.Signer
	refuses calpe.Outpoint
}

func (s pickySigner) Sign(ctx context.Context, unsigned []byte, inputs []ledger.Input) ([]byte, error) {
	if slices.ContainsFunc(inputs, func(in ledger.Input) bool { return in.Outpoint == s.refuses }) {
		return nil, wallet.ErrPolicy
	}
	return s.Signer.Sign(ctx, unsigned, inputs)
}

// A deposit that the signer refuses doesn't stop anchoring: the next block brings
// an attempt without it.
func TestDepositThatTheSignerRefuses(t *testing.T) {
	w := newWorld(t, newMemStore())
	w.signs = pickySigner{w.signer, w.deposit(50_000)}
	w.restart()
	w.log.grow(1)
	w.stepWants(anchor.ErrUnsigned)
	w.stepWants(anchor.ErrUnsigned)
	w.node.empty(1)
	w.mustStep()
	attempts := w.snapshot().Attempts
	if len(attempts) != 2 || len(attempts[1].Inputs) != 1 || attempts[1].State != ledger.Sent {
		t.Fatalf("%d attempts, the last is %+v", len(attempts), attempts[len(attempts)-1])
	}
	w.settle()
}

// A bump took a deposit up, and a reorganisation takes that away, to a tip that is
// no higher: the attempt before it is sent again, and the void one isn't.
func TestBumpWithDepositReorganisedAway(t *testing.T) {
	forEachStore(t, func(t *testing.T, store firstStore, _ func()) {
		w := newWorld(t, store)
		w.goal = interval
		w.restart()
		w.log.grow(1)
		w.mustStep()
		older := w.only()
		w.deposit(50_000)
		w.now = w.now.Add(interval)
		w.mustStep()
		attempts := w.snapshot().Attempts
		if len(attempts) != 2 || len(attempts[1].Inputs) != 2 || attempts[1].State != ledger.Sent {
			t.Fatalf("%d attempts, the last is %+v", len(attempts), attempts[len(attempts)-1])
		}
		w.node.cut(1, false)
		w.node.empty(1)
		w.mustStep()
		w.wantState(attempts[1].TxID, ledger.Void)
		w.wantState(older.TxID, ledger.Sent)
		if got := calpe.BlockHash(w.inPool().TxHash()); got != older.TxID {
			t.Fatalf("the node has %v, want %v", got, older.TxID)
		}
		w.settle()
	})
}

// When an empty coin needs a deposit, and the day's budget doesn't pay for two
// inputs, it is the budget that is waited for.
func TestDepositBeyondTheDaysBudget(t *testing.T) {
	w := emptyWorld(t, newMemStore())
	w.begin(w.caps.Reserve() + 161*3)
	w.caps.Day = 161*3 + 200 // 161 sat for one input, 229 for two
	w.restart()
	w.log.grow(1)
	w.mustStep()
	w.node.mine()
	w.mustStep()
	w.deposit(w.caps.MinDeposit())
	w.log.grow(1)
	w.now = w.now.Add(interval)
	w.mustStep()
	if s := w.engine.Status(); s.Limit != anchor.LimitDay || len(w.snapshot().Attempts) != 0 {
		t.Fatalf("limit is %q, %d attempts", s.Limit, len(w.snapshot().Attempts))
	}
	w.now = w.now.Add(48 * interval)
	w.node.empty(1)
	w.mustStep()
	if a := w.only(); len(a.Inputs) != 2 {
		t.Fatalf("attempt has %d inputs", len(a.Inputs))
	}
	w.settle()
}
