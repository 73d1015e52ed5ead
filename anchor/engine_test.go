package anchor_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/btcsuite/btcd/chainhash/v2"
	"github.com/btcsuite/btcd/txscript/v2"
	"github.com/btcsuite/btcd/wire/v2"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor"
	"github.com/calpe/calpe/anchor/bitcoin"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/anchor/wallet"
)

// An anchor goes from created to final, one thing at a time.
func TestLifecycle(t *testing.T) {
	w := newWorld(t, newMemStore())
	w.mustStep() // nothing to anchor
	if n := len(w.snapshot().Attempts); n != 0 {
		t.Fatalf("an empty log has %d attempts", n)
	}
	w.log.grow(10)
	w.mustStep()
	a := w.only()
	if a.State != ledger.Sent || a.Size != 10 || a.Root != rootOf(10) || a.N != 1 || a.Answer.Kind != ledger.Accepted || a.LastSent != w.now {
		t.Fatalf("attempt after the first step: %+v", a)
	}
	if a.VSize != 161 || a.Fee != 161*3 {
		t.Fatalf("attempt of %d vB pays %d sat, want 161 vB and %d sat", a.VSize, a.Fee, 161*3)
	}
	w.log.grow(5) // rolls over into the next anchor
	w.mustStep()
	w.node.mine()
	for depth := 1; depth <= 5; depth++ {
		w.mustStep()
		w.wantState(a.TxID, ledger.Mined)
		w.node.empty(1)
	}
	w.mustStep()
	w.wantState(a.TxID, ledger.Final)
	if n := len(w.snapshot().Attempts); n != 0 {
		t.Fatalf("%d attempts before the interval has passed", n)
	}
	w.now = w.now.Add(interval)
	w.mustStep()
	if b := w.only(); b.Size != 15 || b.Coin != (calpe.Outpoint{TxID: a.TxID, Vout: 1}) {
		t.Fatalf("second attempt: %+v", b)
	}
	w.settle()
	if s := w.engine.Status(); s.Err != nil || s.Coin == nil || s.Funds.LeftAtCap != (s.Coin.Value-w.caps.Reserve())/w.caps.Fee || s.Tip.Height != uint32(w.node.height()) {
		t.Fatalf("status: %+v", s)
	}
}

// One attempt at most waits for a block, and nothing is anchored twice.
func TestNothingToDo(t *testing.T) {
	w := newWorld(t, newMemStore())
	w.log.grow(10)
	w.mustStep()
	w.now = w.now.Add(3 * interval)
	w.log.grow(10)
	w.mustStep()
	if a := w.only(); a.Size != 10 {
		t.Fatalf("a second attempt was created beside an unmined one: %+v", a)
	}
	w.settle()
	w.now = w.now.Add(3 * interval)
	w.settle()
	w.now = w.now.Add(3 * interval)
	w.mustStep()
	if n := len(w.snapshot().Attempts); n != 0 {
		t.Fatal("an anchor was created for a log that has not grown")
	}
}

// The clock was a year ahead when an attempt was made, and is put right: neither
// do the next ones wait for a year, nor is there one in every block till then.
func TestClockThatWasSetBack(t *testing.T) {
	w := newWorld(t, newMemStore())
	right := w.now
	w.now = right.Add(365 * 24 * time.Hour)
	w.log.grow(10)
	w.mustStep()
	a := w.only()
	sent := w.node.sends
	w.now = right
	w.mustStep()
	w.mustStep()
	if n := w.node.sends - sent; n != 1 {
		t.Errorf("sent %d times after the clock was put right, want once", n)
	}
	w.node.mine()
	w.log.grow(10)
	w.mustStep()
	w.wantState(a.TxID, ledger.Mined)
	b := w.only()
	w.node.mine()
	w.log.grow(10)
	w.mustStep()
	w.wantState(b.TxID, ledger.Mined)
	if n := len(w.snapshot().Attempts); n != 0 {
		t.Fatalf("%d attempts before the interval has passed", n)
	}
	w.now = w.now.Add(interval)
	w.mustStep()
	w.only()
}

// An attempt that lost its mempool is sent again: at each block, after the
// resend time, and after a restart; not more often.
func TestResend(t *testing.T) {
	w := newWorld(t, newMemStore())
	w.log.grow(1)
	w.mustStep()
	for _, row := range []struct {
		name string
		do   func()
		want int
	}{
		{"nothing happened", func() {}, 0},
		{"a minute passed", func() { w.now = w.now.Add(time.Minute) }, 0},
		{"a block came", func() { w.node.empty(1) }, 1},
		{"the resend time passed", func() { w.now = w.now.Add(10 * time.Minute) }, 1},
		{"the engine was restarted", w.restart, 1},
		{"nothing happened again", func() {}, 0},
	} {
		w.node.forget()
		before := w.node.sends
		row.do()
		w.mustStep()
		if got := w.node.sends - before; got != row.want {
			t.Errorf("%s: sent %d times, want %d", row.name, got, row.want)
		}
	}
	w.node.forget()
	w.now = w.now.Add(time.Hour)
	w.settle()
}

func TestAnswers(t *testing.T) {
	for _, row := range []struct {
		kind  ledger.AnswerKind
		state ledger.AttemptState
		err   error
	}{
		{ledger.Accepted, ledger.Sent, nil},
		{ledger.AlreadyKnown, ledger.Sent, nil},
		{ledger.AlreadyMined, ledger.Sent, nil},
		{ledger.FeeTooLow, ledger.Signed, nil},
		{ledger.InputsMissing, ledger.Signed, nil},
		{ledger.Conflict, ledger.Signed, nil},
		{ledger.Later, ledger.Signed, nil},
		{ledger.Policy, ledger.Signed, anchor.ErrRefused},
		{ledger.OperatorCap, ledger.Signed, anchor.ErrRefused},
	} {
		t.Run(string(row.kind), func(t *testing.T) {
			w := newWorld(t, newMemStore())
			w.log.grow(1)
			w.node.answer = &ledger.Answer{Kind: row.kind, Text: "words"}
			if err := w.step(); !errors.Is(err, row.err) {
				t.Fatalf("step gave %v, want %v", err, row.err)
			}
			if a := w.only(); a.State != row.state || a.Answer.Kind != row.kind || a.Answer.Text != "words" {
				t.Fatalf("attempt is %s with answer %+v", a.State, a.Answer)
			}
			w.node.answer = nil
			w.settle() // it was kept, and goes through later
			if a := w.snapshot(); a.Anchored != 1 {
				t.Fatal("not anchored")
			}
		})
	}
}

func TestFees(t *testing.T) {
	for _, row := range []struct {
		name     string
		estimate ledger.FeeRate
		fee      int64
	}{
		{"no estimate: the fallback", 0, 161 * 3},
		{"the estimate", 7 * ledger.SatPerVB, 161 * 7},
		{"a fraction, rounded up", 1501, 242},
		{"below 1 sat/vB: the floor", 100, 161},
		{"above the fee cap: the cap", 49 * ledger.SatPerVB, 5_000},
		{"above both caps", 49_000 * ledger.SatPerVB, 5_000},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := newWorld(t, newMemStore())
			w.node.rate = row.estimate
			w.log.grow(1)
			w.mustStep()
			if a := w.only(); a.Fee > row.fee || a.Fee < row.fee-1 {
				t.Errorf("fee is %d sat, want %d", a.Fee, row.fee)
			}
			w.settle()
		})
	}
}

// Out of funds means that nothing is created; nothing is lost.
func TestOutOfFunds(t *testing.T) {
	w := emptyWorld(t, newMemStore())
	w.begin(w.caps.Reserve() + 161*3 - 1) // one satoshi short at the fallback rate
	w.log.grow(1)
	w.stepWants(wallet.ErrOutOfFunds)
	if n := len(w.snapshot().Attempts); n != 0 {
		t.Fatalf("%d attempts", n)
	}
	w.node.rate = ledger.SatPerVB // fees fell
	w.settle()
}

func TestNoCoin(t *testing.T) {
	w := emptyWorld(t, newMemStore())
	w.log.grow(1)
	w.stepWants(anchor.ErrNoCoin)
}

func TestWrongNetwork(t *testing.T) {
	w := newWorld(t, newMemStore())
	w.log.grow(1)
	w.node.network = calpe.Simnet
	w.stepWants(bitcoin.ErrWrongNetwork)
	w.node.network = calpe.Regtest
	w.settle()
}

// A database that has gone back in time learns from the chain what it lost.
func TestAheadOfLog(t *testing.T) {
	mem := newMemStore()
	w := newWorld(t, mem)
	w.log.grow(10)
	old := mem.copyOf()
	w.settle()

	// The older copy is put back, of the log and of the anchors.
	w.store, w.faults.Store = old, old
	w.log.next, w.log.size = 4, 4
	w.restart()
	w.now = w.now.Add(2 * interval)
	for range 2 {
		w.halted = nil
		w.stepWants(anchor.ErrAheadOfLog)
		if !errors.Is(w.halted, anchor.ErrAheadOfLog) || !strings.Contains(w.halted.Error(), "10 entries") {
			t.Fatalf("intake was stopped with %v", w.halted)
		}
	}
	// Found by its tag and its change, it isn't fought.
	a, ok, err := old.Attempt(t.Context(), w.snapshot().Live.Outpoint.TxID)
	if err != nil || !ok || !a.Imported || a.Size != 10 || a.Fee == 0 {
		t.Fatalf("the anchor of the lost history: found %v, %+v", ok, a)
	}
	w.log.grow(6) // recovery filled the log up
	w.halted = nil
	w.log.grow(1)
	w.settle()
	if w.halted != nil {
		t.Fatalf("intake was stopped again: %v", w.halted)
	}
}

// Several links of a lost history can stand in one block.
func TestImportTwoInOneBlock(t *testing.T) {
	mem := newMemStore()
	w := newWorld(t, mem)
	old := mem.copyOf()
	var txs []*wire.MsgTx
	fork := w.node.height()
	for range 2 {
		w.log.grow(10)
		w.now = w.now.Add(2 * interval)
		w.mustStep()
		for _, tx := range w.node.pool() {
			txs = append(txs, tx)
		}
		w.node.mine()
		w.mustStep()
	}
	w.node.cut(w.node.height()-fork, false)
	w.node.mine(txs...)
	w.node.empty(3)
	w.settle() // as a reorganisation, for the database that knows them
	w.store, w.faults.Store = old, old
	w.restart()
	w.log.grow(1)
	w.now = w.now.Add(2 * interval)
	w.settle()
	for _, tx := range txs {
		a, _, err := old.Attempt(t.Context(), calpe.BlockHash(tx.TxHash()))
		if err != nil || !a.Imported || a.State != ledger.Final {
			t.Fatalf("attempt %v of the lost history is %+v", tx.TxHash(), a)
		}
	}
}

// foreignSpend is a transaction with our coin in it that isn't of our form.
func foreignSpend(coin calpe.Outpoint, change func(tx *wire.MsgTx)) *wire.MsgTx {
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(wire.NewTxIn(&wire.OutPoint{Hash: chainhash.Hash(coin.TxID), Index: coin.Vout}, nil, nil))
	tx.AddTxOut(wire.NewTxOut(1000, []byte{txscript.OP_TRUE}))
	change(tx)
	return tx
}

func TestForeignSpend(t *testing.T) {
	w := newWorld(t, newMemStore())
	w.log.grow(1)
	w.mustStep()
	a := w.only()
	for name, change := range map[string]func(tx *wire.MsgTx){
		"theft": func(*wire.MsgTx) {},
		"our payload, their change": func(tx *wire.MsgTx) {
			tx.TxOut[0] = wire.NewTxOut(0, calpe.Payload{Size: 5}.Script())
			tx.AddTxOut(wire.NewTxOut(1000, []byte{txscript.OP_TRUE}))
		},
		"our change, another payload": func(tx *wire.MsgTx) {
			tx.TxOut[0] = wire.NewTxOut(0, []byte{txscript.OP_RETURN, 1, 7})
			tx.AddTxOut(wire.NewTxOut(1000, w.signer.Script()))
		},
		"a third output": func(tx *wire.MsgTx) {
			tx.TxOut[0] = wire.NewTxOut(0, calpe.Payload{Size: 5}.Script())
			tx.AddTxOut(wire.NewTxOut(1000, w.signer.Script()))
			tx.AddTxOut(wire.NewTxOut(1000, []byte{txscript.OP_TRUE}))
		},
		"our coin as second input": func(tx *wire.MsgTx) {
			tx.TxIn = append([]*wire.TxIn{wire.NewTxIn(&wire.OutPoint{Index: 3}, nil, nil)}, tx.TxIn...)
			tx.TxOut[0] = wire.NewTxOut(0, calpe.Payload{Size: 5}.Script())
			tx.AddTxOut(wire.NewTxOut(1000, w.signer.Script()))
		},
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			w.node.mine(foreignSpend(a.Coin, change))
			w.stepWants(anchor.ErrForeignSpend)
			w.wantState(a.TxID, ledger.Replaced)
			w.node.empty(3)
			w.restart()
			w.stepWants(anchor.ErrForeignSpend)
			// A longer branch without it, and all goes on.
			w.node.cut(4, false)
			w.node.empty(5)
			w.mustStep()
			w.wantState(a.TxID, ledger.Sent)
		})
	}
	w.t = t
	w.settle()
}

// A node that knows less isn't a reorganisation.
func TestNodeBehind(t *testing.T) {
	w := newWorld(t, newMemStore())
	w.log.grow(1)
	w.mustStep()
	a := w.only()
	w.node.mine()
	w.node.empty(2)
	w.mustStep()
	w.wantState(a.TxID, ledger.Mined)

	w.node.lag = 3
	w.stepWants(anchor.ErrNodeBehind)
	w.wantState(a.TxID, ledger.Mined)
	w.node.lag = 0
	w.mustStep()

	// It lost the end of its chain and grew another one, still with less work.
	gone := w.node.cut(3, false)
	w.node.empty(2)
	w.stepWants(anchor.ErrNodeBehind)
	w.wantState(a.TxID, ledger.Mined)
	w.node.switchTo(w.node.height()-2, gone)
	w.mustStep()
	w.settle()
}

// A wiped test chain has the same genesis block and nothing else in common.
func TestUnknownChain(t *testing.T) {
	w := newWorld(t, newMemStore())
	w.log.grow(1)
	w.mustStep()
	w.node.mine()
	w.mustStep()
	a, _ := lastMined(w)
	chain := w.node.chain
	d := w.journal()[0]
	if d.Height != 0 {
		t.Fatalf("journal begins at %d, the test takes it for 0", d.Height)
	}
	w.node.cut(w.node.height(), false)
	w.stepWants(anchor.ErrNodeBehind) // only the genesis block is there
	w.wantState(a.TxID, ledger.Mined)
	w.node.empty(2)
	w.stepWants(anchor.ErrNodeBehind)
	w.wantState(a.TxID, ledger.Mined)
	w.node.chain = chain
	w.settle()
}

func lastMined(w *world) (ledger.Attempt, bool) {
	snap := w.snapshot()
	if len(snap.Mined) == 0 {
		return ledger.Attempt{}, false
	}
	return snap.Mined[len(snap.Mined)-1], true
}

// A reorganisation takes the anchor's block away, and the anchor goes into
// another block, at another height; the evidence follows.
func TestReorganisation(t *testing.T) {
	for depth := 1; depth <= 5; depth++ {
		for _, keeps := range []bool{true, false} {
			t.Run(fmt.Sprintf("depth=%d/mempool=%v", depth, keeps), func(t *testing.T) {
				w := newWorld(t, newMemStore())
				w.log.grow(1)
				w.mustStep()
				w.node.mine()
				w.node.empty(depth - 1)
				w.mustStep()
				a, ok := lastMined(w)
				if !ok {
					t.Fatal("not mined")
				}
				w.node.cut(depth, keeps)
				w.node.empty(depth + 1) // the new branch doesn't hold it yet
				before := w.node.sends
				w.mustStep()
				w.wantState(a.TxID, ledger.Sent)
				if w.node.sends != before+1 {
					t.Fatal("the anchor was not sent again after the reorganisation")
				}
				w.node.mine()
				w.mustStep()
				again, ok := lastMined(w)
				if !ok || again.TxID != a.TxID || again.Height != uint32(w.node.height()) {
					t.Fatalf("mined again: %+v, want %v at %d", again, a.TxID, w.node.height())
				}
				w.settle()
			})
		}
	}
}

// The same branch comes back: the former evidence does too.
func TestReorganisationAndBack(t *testing.T) {
	w := newWorld(t, newMemStore())
	w.log.grow(1)
	w.mustStep()
	w.node.mine()
	w.mustStep()
	a, _ := lastMined(w)
	fork := w.node.height() - 1
	gone := w.node.cut(1, false)
	w.node.empty(2)
	w.mustStep()
	w.wantState(a.TxID, ledger.Sent)
	w.node.switchTo(fork, gone)
	w.node.empty(3)
	w.mustStep()
	w.wantState(a.TxID, ledger.Mined)
	w.settle()
}

// Deeper than the configured depth: an alarm, but the chain decides.
func TestReorganisationOfFinalAnchor(t *testing.T) {
	w := newWorld(t, newMemStore())
	w.log.grow(1)
	w.mustStep()
	a := w.only()
	w.settle()
	w.wantState(a.TxID, ledger.Final)
	above := w.node.height() - 4 // all but the first coin's block
	w.node.cut(above, true)
	w.node.empty(above + 1)
	w.mustStep()
	w.wantState(a.TxID, ledger.Sent)
	w.settle()
	w.wantState(a.TxID, ledger.Final)
}

// What hangs on a flipped anchor is void, and comes back with it.
func TestDescendantsOfFlippedAnchor(t *testing.T) {
	w := newWorld(t, newMemStore())
	w.log.grow(1)
	w.mustStep()
	first := w.only()
	w.node.mine()
	w.log.grow(1)
	w.now = w.now.Add(2 * interval)
	w.mustStep()
	second := w.only()
	w.node.mine()
	w.log.grow(1)
	w.now = w.now.Add(2 * interval)
	w.mustStep()
	third := w.only()

	gone := w.node.cut(2, false)
	w.node.empty(3)
	w.mustStep()
	w.wantState(first.TxID, ledger.Sent)
	w.wantState(second.TxID, ledger.Void)
	w.wantState(third.TxID, ledger.Void)
	w.node.mine() // the first again
	w.mustStep()
	w.wantState(first.TxID, ledger.Mined)
	w.wantState(second.TxID, ledger.Sent)
	w.wantState(third.TxID, ledger.Void)

	// And the old branch again, all of it.
	w.node.cut(4, false)
	w.node.switchTo(w.node.height(), gone)
	w.node.empty(3)
	w.mustStep()
	w.wantState(first.TxID, ledger.Mined)
	w.wantState(second.TxID, ledger.Mined)
	w.wantState(third.TxID, ledger.Sent)
	w.settle()
}

// The first coin's own block goes away, and the coin comes back in another one.
func TestFirstCoinReorganisedAway(t *testing.T) {
	w := newWorld(t, newMemStore())
	w.log.grow(1)
	w.mustStep()
	a := w.only()
	gone := w.node.cut(1, false)
	w.node.empty(3)
	w.stepWants(anchor.ErrNoCoin)
	w.wantState(a.TxID, ledger.Void)
	w.restart()
	w.stepWants(anchor.ErrNoCoin)
	w.node.mine(gone[0].Transactions[1])
	w.mustStep()
	w.wantState(a.TxID, ledger.Sent)
	w.settle()
	w.wantState(a.TxID, ledger.Final)
}

// An engine whose epoch is over writes nothing, whatever it is at.
func TestLostLeadership(t *testing.T) {
	w := newWorld(t, newMemStore())
	w.log.grow(1)
	w.store.(*memStore).takeOver()
	w.stepWants(calpe.ErrLostLeadership)
	if n := len(w.snapshot().Attempts); n != 0 {
		t.Fatalf("%d attempts by an engine that doesn't lead", n)
	}
	w.epoch++
	w.settle()
}

// Run steps at once, when woken and by the clock; it ends with its context, or
// when it doesn't lead any more.
func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, newMemStore())
		w.log.grow(1)
		wake := make(chan struct{}, 1)
		engine, err := anchor.New(anchor.Config{
			Network: calpe.Regtest, Store: w.store, Node: w.node, Signer: w.signer, Log: w.log, Caps: w.caps,
			Poll: 5 * time.Second, Wake: wake, StopIntake: func(error) {},
		})
		if err != nil {
			t.Fatalf("make engine: %v", err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- engine.Run(ctx, w.epoch) }()
		synctest.Wait()
		a := w.only()
		w.wantState(a.TxID, ledger.Sent)
		w.node.mine()
		wake <- struct{}{}
		synctest.Wait()
		w.wantState(a.TxID, ledger.Mined)
		w.node.empty(4)
		<-time.After(6 * time.Second)
		w.wantState(a.TxID, ledger.Mined)
		w.node.setFault(func(string) (bool, error) { return false, errFault }) // it goes on through errors
		<-time.After(60 * time.Second)
		w.node.setFault(nil)
		w.node.empty(1)
		<-time.After(6 * time.Second)
		w.wantState(a.TxID, ledger.Final)
		cancel()
		if err := <-done; err != nil {
			t.Fatalf("run ended with %v when its context did", err)
		}

		w.store.(*memStore).takeOver()
		w.node.empty(1)
		if err := engine.Run(t.Context(), w.epoch); !errors.Is(err, calpe.ErrLostLeadership) {
			t.Fatalf("run of an old epoch ended with %v", err)
		}
	})
}

func TestConfig(t *testing.T) {
	w := newWorld(t, newMemStore())
	good := anchor.Config{Network: calpe.Regtest, Store: w.store, Node: w.node, Signer: w.signer, Log: w.log, StopIntake: func(error) {}}
	if _, err := anchor.New(good); err != nil {
		t.Fatalf("defaults are refused: %v", err)
	}
	for name, spoil := range map[string]func(*anchor.Config){
		"no stop":         func(c *anchor.Config) { c.StopIntake = nil },
		"no node":         func(c *anchor.Config) { c.Node = nil },
		"unknown network": func(c *anchor.Config) { c.Network = "moon" },
		"caps too low":    func(c *anchor.Config) { c.Caps.Fee = 10 },
		"target":          func(c *anchor.Config) { c.Target = 26 },
	} {
		cfg := good
		spoil(&cfg)
		if _, err := anchor.New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestDeposits(t *testing.T) {
	w := emptyWorld(t, newMemStore())
	ctx, script := t.Context(), w.signer.Script()
	if _, err := anchor.FindDeposit(ctx, w.node, script, 0, 1000); !errors.Is(err, anchor.ErrNoDeposit) {
		t.Fatalf("found something in an empty chain: %v", err)
	}
	w.node.empty(120)
	dust := w.node.pay(script, 500)
	w.node.pay([]byte{txscript.OP_TRUE}, 50_000)
	want := w.node.pay(script, 50_000)
	w.node.pay(script, 60_000)
	d, err := anchor.FindDeposit(ctx, w.node, script, 1, 1000)
	if err != nil || d.Coin.Outpoint != want || d.Coin.Value != 50_000 || d.Coin.Height != 123 {
		t.Fatalf("found %+v (%v), want %v", d.Coin, err, want)
	}
	if n := len(d.Blocks); n != 101 || d.Blocks[n-1].Height != 123 || d.Blocks[0].Height != 23 {
		t.Fatalf("journal of %d blocks from %d", n, d.Blocks[0].Height)
	}
	located, err := anchor.LocateDeposit(ctx, w.node, script, want)
	if err != nil || located.Coin.Outpoint != want || located.Coin.Height != 123 || len(located.Blocks) != 101 {
		t.Fatalf("located %+v: %v", located.Coin, err)
	}
	for name, o := range map[string]calpe.Outpoint{
		"unknown":        {TxID: calpe.BlockHash{1}},
		"not our script": {TxID: want.TxID, Vout: 0},
	} {
		if _, err := anchor.LocateDeposit(ctx, w.node, script, o); !errors.Is(err, anchor.ErrNoDeposit) {
			t.Errorf("%s: located with error %v", name, err)
		}
	}
	// Spent ones are passed over.
	w.node.mine(foreignSpend(want, func(*wire.MsgTx) {}))
	if d, err = anchor.FindDeposit(ctx, w.node, script, 0, 100); err != nil || d.Coin.Outpoint != dust {
		t.Fatalf("found %v (%v), want %v", d.Coin.Outpoint, err, dust)
	}
}
