package anchor_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/btcsuite/btcd/wire/v2"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/anchor/wallet"
)

// bumpWorld is a world in which a coin is bumped at each block from the second
// after its first attempt.
func bumpWorld(t *testing.T, change ...func(w *world)) *world {
	t.Helper()
	w := newWorld(t, newMemStore())
	w.target = 2
	for _, c := range change {
		c(w)
	}
	w.restart()
	return w
}

// block mines a block without our transactions and lets the engine see it.
func (w *world) block() {
	w.t.Helper()
	w.node.empty(1)
	w.now = w.now.Add(10 * time.Minute)
	w.mustStep()
}

func (w *world) attempts() []ledger.Attempt { return w.snapshot().Attempts }

// pooled is the transaction of ours that waits in the node's mempool.
func (w *world) pooled() calpe.BlockHash {
	w.t.Helper()
	pool := w.node.pool()
	if len(pool) != 1 {
		w.t.Fatalf("the mempool has %d transactions, want one", len(pool))
	}
	for id := range pool {
		return id
	}
	panic("unreachable")
}

func txOf(t *testing.T, a ledger.Attempt) *wire.MsgTx {
	t.Helper()
	var tx wire.MsgTx
	if err := tx.Deserialize(bytes.NewReader(a.Raw)); err != nil {
		t.Fatalf("read attempt %v: %v", a.TxID, err)
	}
	return &tx
}

// fees of the attempts in units of what one pays at 1 sat/vB.
func rates(attempts []ledger.Attempt) string {
	var parts []string
	for _, a := range attempts {
		parts = append(parts, fmt.Sprintf("%.4g", float64(a.Fee)/float64(a.VSize)))
	}
	return strings.Join(parts, " ")
}

// Once the goal is missed, each block brings an attempt with the newest root and
// a higher fee. The one in a block wins, and the others are replaced.
func TestBumps(t *testing.T) {
	w := bumpWorld(t, func(w *world) { w.target = 3 })
	w.log.grow(10)
	w.mustStep()
	for range 2 {
		w.log.grow(1)
		w.block()
		w.mustStep()
		w.only()
	}
	for n := 2; n <= 5; n++ {
		w.log.grow(1)
		w.block()
		sends := w.node.sends
		w.mustStep() // at most one for each block
		w.now = w.now.Add(2 * time.Minute)
		w.mustStep()
		all := w.attempts()
		newest := all[len(all)-1]
		if len(all) != n || newest.N != n || newest.Size != w.log.size || newest.State != ledger.Sent || newest.Tip != uint32(w.node.height()) {
			t.Fatalf("attempt %d of %d: %+v", n, len(all), newest)
		}
		if w.node.sends != sends {
			t.Fatal("sent again without need")
		}
		if w.pooled() != newest.TxID {
			t.Fatal("the node doesn't have the newest")
		}
	}
	all := w.attempts()
	if got := rates(all); got != "3 4 5 6 7" {
		t.Fatalf("fee rates are %s", got)
	}
	w.node.mine()
	w.mustStep()
	w.wantState(all[4].TxID, ledger.Mined)
	for _, a := range all[:4] {
		w.wantState(a.TxID, ledger.Replaced)
	}
	w.settle()
}

func TestBumpDue(t *testing.T) {
	for _, row := range []struct {
		name  string
		setup func(w *world)
		after func(w *world)
		rates string
	}{
		{"the goal in blocks isn't missed", nil, func(w *world) { w.block() }, "3"},
		{"the goal in blocks is missed", nil, func(w *world) { w.block(); w.block() }, "3 4"},
		{"the goal in time is missed, but no block came", func(w *world) { w.target, w.goal = 25, time.Hour },
			func(w *world) { w.now = w.now.Add(2 * time.Hour); w.mustStep() }, "3"},
		{"the goal in time is missed, and a block came", func(w *world) { w.target, w.goal = 25, time.Hour },
			func(w *world) { w.now = w.now.Add(2 * time.Hour); w.block() }, "3 4"},
		{"the clock was set back by a year", func(w *world) { w.target, w.goal = 25, time.Hour },
			func(w *world) { w.now = w.now.Add(-365 * 24 * time.Hour); w.block() }, "3"},
		{"two blocks at once are one occasion", nil, func(w *world) { w.node.empty(4); w.mustStep(); w.mustStep() }, "3 4"},
		{"a restart is no occasion", nil, func(w *world) { w.block(); w.block(); w.restart(); w.mustStep() }, "3 4"},
		{"the estimate has risen", nil, func(w *world) { w.node.rate = 9 * ledger.SatPerVB; w.block(); w.block() }, "3 9"},
		{"a spike, and a fall below what was paid", nil, func(w *world) {
			w.block()
			w.node.rate = 12 * ledger.SatPerVB
			w.block()
			w.node.rate = ledger.SatPerVB
			w.block()
		}, "3 12 13"},
		{"the node relays nothing below 5 sat/vB", func(w *world) { w.target, w.node.minRate = 25, 5*ledger.SatPerVB },
			func(w *world) { w.block(); w.block(); w.block(); w.block() }, "3 4 5"},
		{"a configured raise", func(w *world) { w.raise = 2500 }, func(w *world) { w.block(); w.block(); w.block() }, "3 5.503 8.006"},
		{"a raise below the least", func(w *world) { w.raise = 100 }, func(w *world) { w.block(); w.block() }, "3 4"},
		{"a reorganisation to the same height", nil, func(w *world) {
			w.block()
			w.block()
			w.node.cut(1, true)
			w.node.empty(1)
			w.mustStep()
		}, "3 4"},
		{"what was anchored doesn't grow", nil, func(w *world) { w.log.fault = nil; w.block(); w.block(); w.block() }, "3 4 5"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := bumpWorld(t)
			if row.setup != nil {
				row.setup(w)
				w.restart()
			}
			w.log.grow(1)
			w.mustStep()
			row.after(w)
			if got := rates(w.attempts()); got != row.rates {
				t.Errorf("fee rates are %s, want %s", got, row.rates)
			}
			w.node.minRate = 0
			w.now = w.now.Add(24 * time.Hour)
			w.settle()
		})
	}
}

// A node whose incremental relay fee is above ours refuses replacements until
// one is dear enough; meanwhile the one that it has is handed over again.
func TestNodeWantsMore(t *testing.T) {
	w := bumpWorld(t, func(w *world) { w.node.raise = 3 * ledger.SatPerVB })
	w.log.grow(1)
	w.mustStep()
	first := w.only()
	w.block()
	for range 2 { // 4 and 5 sat/vB don't replace 3
		w.node.forgetAllBut(first.TxID)
		w.block()
		if w.pooled() != first.TxID {
			t.Fatal("the node lost the attempt that it had")
		}
	}
	all := w.attempts()
	if last := all[len(all)-1]; last.State != ledger.Signed || last.Answer.Kind != ledger.FeeTooLow {
		t.Fatalf("newest attempt: %+v", last)
	}
	// The mempool is lost; the newest goes in now.
	w.node.forget()
	w.restart()
	w.mustStep()
	all = w.attempts()
	if w.pooled() != all[len(all)-1].TxID {
		t.Fatal("the newest is not with the node")
	}
	for range 3 {
		w.block()
	}
	all = w.attempts()
	if got := rates(all); got != "3 4 5 6 7 8" || w.pooled() != all[5].TxID {
		t.Fatalf("rates %s, the node has %v", got, w.pooled())
	}
	w.settle()
}

// A refused newest attempt doesn't keep the one that a node took before from
// being sent again when the node has lost it.
func TestRefusedBumpDoesNotHideTheFormer(t *testing.T) {
	for _, kind := range []ledger.AnswerKind{ledger.Policy, ledger.OperatorCap, ledger.FeeTooLow, ledger.Conflict} {
		t.Run(string(kind), func(t *testing.T) {
			w := bumpWorld(t)
			w.log.grow(1)
			w.mustStep()
			first := w.only()
			w.block()
			w.node.forget()
			w.node.refuse = func(tx *wire.MsgTx) *ledger.Answer {
				if calpe.BlockHash(tx.TxHash()) == first.TxID {
					return nil
				}
				return &ledger.Answer{Kind: kind, Text: "words"}
			}
			w.node.empty(1)
			err := w.step()
			if refused := errors.Is(err, anchor.ErrRefused); refused != (kind == ledger.Policy || kind == ledger.OperatorCap) {
				t.Fatalf("step: %v", err)
			}
			if len(w.attempts()) != 2 || w.pooled() != first.TxID {
				t.Fatalf("%d attempts, the node has %v", len(w.attempts()), w.pooled())
			}
			w.node.mine()
			w.mustStep()
			w.wantState(first.TxID, ledger.Mined)
			w.node.refuse = nil
			w.settle()
		})
	}
}

// At a cap no attempt is made any more, what is there is sent again, the alarm
// is given once, entries accumulate, and the next anchor covers them.
func TestLimits(t *testing.T) {
	for _, row := range []struct {
		name  string
		setup func(w *world)
		limit anchor.Limit
		rates string
	}{
		{"satoshis", func(w *world) { w.caps.Fee = 161*6 - 1 }, anchor.LimitFee, "3 4 5"},
		{"rate", func(w *world) { w.caps.FeeRate = 4 * ledger.SatPerVB }, anchor.LimitFeeRate, "3 4"},
		{"day", func(w *world) { w.caps.Day = 161*7 - 1 }, anchor.LimitDay, "3 4 5 6"},
		{"market above the rate", func(w *world) { w.caps.FeeRate, w.node.rate = 4*ledger.SatPerVB, 900*ledger.SatPerVB }, anchor.LimitFeeRate, "4"},
		{"market above the satoshis", func(w *world) { w.caps.Fee, w.node.rate = 700, 900*ledger.SatPerVB }, anchor.LimitFee, "4.348"},
		{"market above the day", func(w *world) { w.caps.Day, w.node.rate = 500, 900*ledger.SatPerVB }, anchor.LimitDay, "3.106"},
	} {
		t.Run(row.name, func(t *testing.T) {
			w := bumpWorld(t, row.setup)
			w.log.grow(1)
			w.mustStep()
			for range 8 {
				w.log.grow(1)
				w.node.forget()
				w.block()
				w.mustStep()
			}
			all := w.attempts()
			if got := rates(all); got != row.rates {
				t.Fatalf("fee rates are %s, want %s", got, row.rates)
			}
			if got := w.engine.Status().Limit; got != row.limit {
				t.Errorf("limit is %q, want %q", got, row.limit)
			}
			if w.pooled() != all[len(all)-1].TxID {
				t.Error("the newest attempt isn't sent again")
			}
			if n := strings.Count(w.logged.String(), "level=ERROR"); n != 1 || !strings.Contains(w.logged.String(), "limit="+string(row.limit)) {
				t.Errorf("%d alarms, want one about %s:\n%s", n, row.limit, w.logged.String())
			}
			w.node.mine()
			w.node.rate = 0
			w.now = w.now.Add(48 * time.Hour)
			w.mustStep()
			if got := w.engine.Status().Limit; got != anchor.NoLimit {
				t.Errorf("limit is still %q", got)
			}
			if n := strings.Count(w.logged.String(), "within its limits again"); n != 1 {
				t.Errorf("the end of the alarm was told %d times", n)
			}
			w.settle()
		})
	}
}

// The day's budget is kept over coins: what is in blocks and what may still get
// into one count, and a day later there is a new one.
func TestDailyBudget(t *testing.T) {
	w := bumpWorld(t, func(w *world) { w.target, w.caps.Day = 25, 161*3*2+161 })
	anchored := func() uint64 { return w.snapshot().Anchored }
	for range 2 {
		w.log.grow(1)
		w.now = w.now.Add(interval)
		w.mustStep()
		w.node.mine()
		w.mustStep()
	}
	start := w.now
	w.log.grow(1)
	w.now = w.now.Add(interval)
	w.mustStep() // what is left pays for 1 sat/vB
	if a := w.only(); a.Fee != 161 || w.engine.Status().Limit != anchor.LimitDay {
		t.Fatalf("third attempt pays %d sat, limit %q", a.Fee, w.engine.Status().Limit)
	}
	w.node.mine()
	w.log.grow(1)
	w.now = w.now.Add(2 * interval)
	w.mustStep()
	if n := len(w.attempts()); n != 0 || anchored() != 3 || w.engine.Status().Limit != anchor.LimitDay {
		t.Fatalf("%d attempts beyond the day's budget, %d anchored, limit %q", n, anchored(), w.engine.Status().Limit)
	}
	w.restart()
	w.now = start.Add(22 * time.Hour)
	w.block()
	if n := len(w.attempts()); n != 0 {
		t.Fatal("an attempt before the day is over")
	}
	w.now = start.Add(25 * time.Hour)
	w.mustStep()
	if a := w.only(); a.Size != 4 || w.engine.Status().Limit != anchor.NoLimit {
		t.Fatalf("after the day: %+v, limit %q", a, w.engine.Status().Limit)
	}
	w.settle()
}

// The older, cheaper attempt got into the block: the dearer one still counts
// against the day until the anchor is final, because a reorganisation can put it
// in its place.
func TestBudgetCountsWhatMayStillBeMined(t *testing.T) {
	w := bumpWorld(t)
	w.log.grow(1)
	w.mustStep()
	older := w.only()
	w.node.rate = 20 * ledger.SatPerVB
	w.block()
	w.block()
	dearer := w.attempts()[1]
	spent := func() int64 {
		sum, err := w.store.Spent(t.Context(), w.now.Add(-24*time.Hour), w.now)
		if err != nil {
			t.Fatal(err)
		}
		return sum
	}
	if got := spent(); got != 0 {
		t.Errorf("spent %d sat on other coins than the live one", got)
	}
	w.node.mine(txOf(t, older))
	w.mustStep()
	if got := spent(); got != dearer.Fee || got != 20*161 {
		t.Errorf("spent %d sat, want %d", got, dearer.Fee)
	}
	w.node.empty(5)
	w.mustStep()
	w.wantState(older.TxID, ledger.Final)
	if got := spent(); got != older.Fee {
		t.Errorf("spent %d sat when it is final, want %d", got, older.Fee)
	}
	w.now = w.now.Add(25 * time.Hour)
	if got := spent(); got != 0 {
		t.Errorf("spent %d sat a day later", got)
	}
}

// A bump that the coin can't pay for isn't made; the attempt that is there stays.
func TestBumpOutOfFunds(t *testing.T) {
	w := emptyWorld(t, newMemStore())
	w.target = 2
	w.restart()
	w.begin(w.caps.Reserve() + 161*4)
	w.log.grow(1)
	w.mustStep()
	for range 4 {
		w.block()
	}
	all := w.attempts()
	if got := rates(all); got != "3 4" || w.engine.Status().Limit != anchor.LimitFunds || w.pooled() != all[1].TxID {
		t.Fatalf("rates %s, limit %q", got, w.engine.Status().Limit)
	}
	w.settle()
}

// The dearest attempts hang on a deposit that a reorganisation took away for good:
// they don't keep the coin from being spent at the market's rate.
func TestVoidAttemptsAreNotOutbid(t *testing.T) {
	w := bumpWorld(t)
	w.deposit(50_000)
	w.log.grow(1)
	w.node.rate = 10 * ledger.SatPerVB
	w.mustStep()
	w.node.rate = 0
	for range 3 {
		w.block()
	}
	all := w.attempts()
	if got := rates(all); got != "10 11 12" {
		t.Fatalf("rates %s", got)
	}
	w.node.cut(4, false) // the deposit's block and all above
	w.node.empty(5)
	w.mustStep()
	for _, a := range all {
		w.wantState(a.TxID, ledger.Void)
	}
	again := w.attempts()
	if last := again[len(again)-1]; len(again) != len(all)+1 || last.Fee != 161*3 || w.pooled() != last.TxID {
		t.Fatalf("rates %s", rates(again))
	}
	w.settle()
}

// When none of a coin's attempts can be mined any more, the next block brings
// another, long before the goal is missed.
func TestAllAttemptsVoid(t *testing.T) {
	w := newWorld(t, newMemStore())
	w.deposit(50_000)
	w.log.grow(1)
	w.mustStep()
	a := w.only()
	w.node.cut(1, false)
	w.node.empty(2)
	w.mustStep()
	w.wantState(a.TxID, ledger.Void)
	if all := w.attempts(); len(all) != 2 || w.pooled() != all[1].TxID {
		t.Fatalf("rates %s", rates(all))
	}
	w.settle()
}

// What was spent by a clock that was ahead counts when it has been put right.
func TestBudgetOfAClockThatWasAhead(t *testing.T) {
	w := bumpWorld(t, func(w *world) { w.caps.Day = 161*3 + 160 })
	w.now = w.now.Add(3 * time.Hour)
	w.log.grow(1)
	w.mustStep()
	w.node.mine()
	w.mustStep()
	w.now = w.now.Add(-2 * time.Hour)
	w.log.grow(1)
	w.mustStep()
	if n := len(w.attempts()); n != 0 || w.engine.Status().Limit != anchor.LimitDay {
		t.Fatalf("%d attempts, limit %q", n, w.engine.Status().Limit)
	}
	w.now = w.now.Add(27 * time.Hour)
	w.settle()
}

// refusingSigner refuses transactions above a fee, as one with lower caps does.
type refusingSigner struct {
	*wallet.Signer
	refuse error
}

func (s *refusingSigner) Sign(ctx context.Context, unsigned []byte, inputs []ledger.Input) ([]byte, error) {
	if s.refuse != nil {
		return nil, s.refuse
	}
	return s.Signer.Sign(ctx, unsigned, inputs)
}

// A signer that refuses a bump, or is down, leaves what is signed where it is:
// it is sent again. When the signer is back, so are bumps.
func TestSignerRefuses(t *testing.T) {
	for _, refusal := range []error{wallet.ErrCap, wallet.ErrPolicy, errFault} {
		for _, firstToo := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v/first=%v", refusal, firstToo), func(t *testing.T) {
				w := bumpWorld(t)
				signer := &refusingSigner{Signer: w.signer}
				w.signs = signer
				w.restart()
				w.log.grow(1)
				if firstToo {
					signer.refuse = refusal
					w.stepWants(anchor.ErrUnsigned)
				} else {
					w.mustStep()
				}
				signer.refuse = refusal
				sent := map[calpe.BlockHash]bool{}
				for range 4 {
					w.log.grow(1)
					w.node.forget()
					w.node.empty(1)
					err := w.step()
					if errors.Is(err, ledger.ErrConflict) || firstToo && !errors.Is(err, refusal) {
						t.Fatalf("step: %v", err)
					}
					for id := range w.node.pool() {
						sent[id] = true
					}
				}
				if !firstToo && (len(sent) != 1 || w.state(w.pooled()) != ledger.Sent) || firstToo && len(sent) != 0 {
					t.Fatalf("the node got %d attempts", len(sent))
				}
				signer.refuse = nil
				w.block()
				all := w.attempts()
				if w.pooled() != all[len(all)-1].TxID || all[len(all)-1].Size != w.log.size {
					t.Fatal("the newest attempt isn't with the node")
				}
				w.settle()
			})
		}
	}
}

// The database is put back to where an attempt had no signature yet, and the
// signed one is in a block: it is known by its id, and takes the block's copy.
// A flip takes it back to where it was.
func TestSignatureLost(t *testing.T) {
	mem := newMemStore()
	w := newWorld(t, mem)
	signer := &refusingSigner{Signer: w.signer, refuse: errFault}
	w.signs = signer
	w.restart()
	w.log.grow(1)
	w.stepWants(anchor.ErrUnsigned)
	old := mem.copyOf()
	signer.refuse = nil
	w.mustStep()
	a := w.only()
	signer.refuse = errFault
	w.store, w.faults.Store = old, old
	w.restart()
	w.stepWants(anchor.ErrUnsigned)
	w.wantState(a.TxID, ledger.Created)
	w.node.mine(txOf(t, a))
	w.mustStep()
	w.wantState(a.TxID, ledger.Mined)
	w.node.cut(1, false)
	w.node.mine(foreignSpend(a.Coin, func(*wire.MsgTx) {}))
	w.node.empty(1)
	w.stepWants(anchor.ErrForeignSpend)
	w.wantState(a.TxID, ledger.Replaced)
	w.node.cut(2, false)
	w.node.empty(3)
	w.mustStep()
	w.wantState(a.TxID, ledger.Sent)
	if w.pooled() != a.TxID {
		t.Fatal("the attempt wasn't sent again")
	}
	w.settle()
}

// Whichever attempt is in the best chain is the anchor. A flip between two of a
// coin, at any depth, moves the evidence, voids what was built on the former,
// and loses nothing.
func TestFlips(t *testing.T) {
	for _, depth := range []int{1, 2, 6} {
		for _, toOlder := range []bool{true, false} {
			t.Run(fmt.Sprintf("depth=%d/to-older=%v", depth, toOlder), func(t *testing.T) {
				w := bumpWorld(t)
				w.log.grow(1)
				w.mustStep()
				w.log.grow(1)
				w.block()
				w.block()
				all := w.attempts()
				if len(all) != 2 {
					t.Fatalf("%d attempts", len(all))
				}
				former, latter := all[0], all[1]
				if toOlder {
					former, latter = latter, former
				}
				w.node.mine(txOf(t, former))
				w.mustStep()
				w.wantState(former.TxID, ledger.Mined)
				w.wantState(latter.TxID, ledger.Replaced)
				w.log.grow(1)
				w.now = w.now.Add(2 * interval)
				w.mustStep()
				child := w.only() // built on the former
				w.node.empty(depth - 1)
				w.mustStep()

				w.node.cut(depth, false)
				w.node.mine(txOf(t, latter))
				w.node.empty(depth)
				w.restart()
				w.mustStep()
				if state := w.state(latter.TxID); !state.InBlock() {
					t.Fatalf("attempt %v is %s", latter.TxID, state)
				}
				w.wantState(former.TxID, ledger.Replaced)
				w.wantState(child.TxID, ledger.Void)
				if got := w.snapshot(); got.Anchored != latter.Size || got.Live.MadeBy != latter.TxID {
					t.Fatalf("anchored %d, want %d", got.Anchored, latter.Size)
				}
				w.now = w.now.Add(2 * interval)
				w.settle()
				w.wantState(latter.TxID, ledger.Final)
			})
		}
	}
}
