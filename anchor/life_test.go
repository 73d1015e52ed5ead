package anchor_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/btcsuite/btcd/chainhash/v2"
	"github.com/btcsuite/btcd/wire/v2"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/bitcoin"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/anchor/wallet"
)

// Randomised lives: blocks with the newest attempt, with an older one or with
// none, reorganisations, lost mempools, a node that lags, refuses or is cut off,
// faults both ways, deaths, deposits and dust, thefts and restarts of the chain, a fee market that rises and falls,
// clocks that jump, a growing log. The whole state is compared with the chain after
// each step. CALPE_LIFE_STEPS is how many steps are made at least ("make fuzz" makes
// more), CALPE_LIFE_SEED the seed of the one life to play again.
func TestRandomLife(t *testing.T) {
	const steps = 900 // of a life
	lives, seed := uint64(12), rand.Uint64()
	if n := lifeSetting(t, "CALPE_LIFE_STEPS"); n > lives*steps {
		lives = (n + steps - 1) / steps
	}
	if n := lifeSetting(t, "CALPE_LIFE_SEED"); n != 0 {
		lives, seed = 1, n
	}
	t.Logf("%d steps from seed %d", lives*steps, seed)
	var mu sync.Mutex
	walked := map[edge]int{}
	t.Run("lives", func(t *testing.T) {
		for i := range lives {
			t.Run(fmt.Sprint(seed+i), func(t *testing.T) {
				t.Parallel()
				moves := liveRandomly(t, seed+i, steps)
				mu.Lock()
				defer mu.Unlock()
				for e, n := range moves {
					walked[e] += n
				}
			})
		}
	})
	if lives > 1 {
		checkWalked(t, walked, "attempt ", ledger.AttemptEdges())
		checkWalked(t, walked, "coin ", ledger.CoinEdges())
		if walked[edge{"chain", "restarted"}] == 0 {
			t.Error("no chain was ever restarted")
		}
	}
}

func lifeSetting(t *testing.T, name string) uint64 {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		return 0
	}
	n, err := strconv.ParseUint(value, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// checkWalked: most edges of the table were walked, or the lives were dull.
func checkWalked[S ~string](t *testing.T, walked map[edge]int, what string, table []ledger.Edge[S]) {
	t.Helper()
	none := 0
	for _, e := range table {
		n := walked[edge{what + string(e.From), string(e.To)}]
		t.Logf("%s%s to %s: %d times", what, e.From, e.To, n)
		if n == 0 {
			none++
		}
	}
	if none > len(table)/4 {
		t.Errorf("%d of %d edges were never walked", none, len(table))
	}
}

func liveRandomly(t *testing.T, seed uint64, steps int) map[edge]int {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 0))
	w := newWorld(t, newMemStore())
	w.target, w.goal = 2+r.IntN(5), time.Duration(1+r.IntN(5))*time.Hour
	w.caps.Day = 161 * int64(100+r.IntN(400))
	w.signs = &refusingSigner{Signer: w.signer}
	w.restart()
	randomLife(t, w, r, steps)
	return w.store.(*memStore).moves()
}

func randomLife(t *testing.T, w *world, r *rand.Rand, steps int) {
	t.Helper()
	dies := false
	fault := func(string) (bool, error) {
		switch r.IntN(400) {
		case 0:
			return false, errFault
		case 1:
			return true, errFault
		case 2:
			panic(crash{})
		case 3:
			dies = true // as soon as the call was made
			return true, errFault
		}
		return true, nil
	}
	down := 0 // steps for which the node can't be reached
	w.faults.fault = fault
	w.node.fault = func(method string) (bool, error) {
		if down > 0 {
			return false, bitcoin.ErrUnavailable
		}
		return fault(method)
	}
	for range steps {
		if down--; down < 0 && r.IntN(80) == 0 {
			down = 1 + r.IntN(8)
		}
		w.happen(r)
		err := w.survive()
		if errors.Is(err, ledger.ErrConflict) || errors.Is(err, calpe.ErrLostLeadership) {
			t.Fatalf("step: %v", err)
		}
		if dies {
			dies = false
			w.restart()
		}
		w.unharmed(w.check)
	}
	w.node.fault, w.faults.fault, w.node.lag = nil, nil, 0
	w.node.rate, w.node.minRate, w.node.raise, w.caps.Day, w.signs = 0, 0, 0, 0, nil
	w.restart()
	funding := w.funding // of the coin with which the chain began, last
	for _, r := range w.restarts {
		funding = w.node.transaction(r.First.TxID)
	}
	if !slices.ContainsFunc(w.node.chain, func(b *wire.MsgBlock) bool { return slices.Contains(b.Transactions, funding) }) {
		w.node.mine(funding)
	}
	w.node.empty(10) // whatever branch the store is on, the node's has more work now
	w.now = w.now.Add(2 * interval)
	w.log.grow(1)
	w.settle()
	if snap := w.snapshot(); snap.Anchored < 2 {
		t.Fatalf("only %d entries were anchored", snap.Anchored)
	}
}

// unharmed runs a look at the world in which nothing fails.
func (w *world) unharmed(look func()) {
	node, store := w.node.fault, w.faults.fault
	w.node.fault, w.faults.fault = nil, nil
	look()
	w.node.fault, w.faults.fault = node, store
}

// happen lets one thing happen.
func (w *world) happen(r *rand.Rand) {
	w.now = w.now.Add(time.Duration(r.IntN(20)) * time.Minute)
	switch r.IntN(18) {
	case 0, 1:
		w.node.mine()
	case 2, 3:
		w.node.empty(1 + r.IntN(2))
	case 4:
		w.mineAny(r)
	case 5, 6:
		w.log.grow(uint64(r.IntN(5)))
	case 7:
		w.node.forget()
	case 8:
		w.restart()
	case 9:
		w.reorganise(r)
	case 10:
		w.node.lag = r.IntN(3) * r.IntN(2)
	case 11:
		w.now = w.now.Add(time.Duration(r.IntN(90)) * time.Minute)
	case 12: // a clock jumps, and is put right later, or not
		w.now = w.now.Add(time.Duration(r.IntN(240)-120) * time.Minute)
	case 13:
		w.node.rate = ledger.FeeRate(r.IntN(60_000)) * ledger.FeeRate(r.IntN(2))
	case 14:
		w.node.minRate = ledger.FeeRate(r.IntN(6_000)) * ledger.FeeRate(r.IntN(2))
		w.node.raise = ledger.FeeRate(r.IntN(5_000)) * ledger.FeeRate(r.IntN(2))
	case 15:
		w.disaster(r)
	case 16:
		if r.IntN(4) == 0 {
			w.randomDeposit(r)
		}
	case 17:
		if signer, ok := w.signs.(*refusingSigner); ok {
			signer.refuse = nil
			if r.IntN(3) == 0 {
				signer.refuse = wallet.ErrCap
			}
		}
	}
}

// disaster is what should never happen: a reorganisation of all blocks down to
// the first coin's, a spend by somebody else that a reorganisation takes back,
// an older copy of the database put back.
func (w *world) disaster(r *rand.Rand) {
	switch r.IntN(8) {
	case 0:
		depth := w.node.height() - 3
		if depth > 60 || w.settledHeight() > 0 {
			return
		}
		w.node.cut(depth, r.IntN(2) == 0)
		if r.IntN(2) == 0 {
			w.node.empty(depth + 1)
			_ = w.survive()
		}
		w.node.mine(w.funding)
		w.node.empty(depth)
	case 1:
		var coin calpe.Outpoint
		w.unharmed(func() {
			if live := w.snapshot().Live; live != nil {
				coin = live.Outpoint
			}
		})
		if _, ok := w.node.unspentIn(w.node.chain)[wire.OutPoint{Hash: chainhash.Hash(coin.TxID), Index: coin.Vout}]; !ok {
			return
		}
		w.node.mine(foreignSpend(coin, func(*wire.MsgTx) {}))
		_ = w.survive()
		depth := 1 + r.IntN(2)
		w.node.cut(depth, false)
		w.node.empty(depth + 1)
	case 3:
		if r.IntN(3) == 0 {
			w.theft(r)
		}
	case 2:
		if mem, ok := w.store.(*memStore); ok && w.backup == nil {
			w.backup = mem.copyOf()
		} else if ok {
			w.store, w.faults.Store, w.backup = w.backup, w.backup, nil
			w.restart()
			w.repair()
		}
	}
}

// theft is a foreign spend that stays, and the operator's restart of the chain.
func (w *world) theft(r *rand.Rand) {
	var coin calpe.Outpoint
	w.unharmed(func() {
		if snap := w.snapshot(); snap.Live != nil && snap.Foreign == nil {
			coin = snap.Live.Outpoint
		}
	})
	if _, ok := w.node.unspentIn(w.node.chain)[wire.OutPoint{Hash: chainhash.Hash(coin.TxID), Index: coin.Vout}]; !ok || len(w.restarts) > 3 {
		return
	}
	w.node.mine(foreignSpend(coin, func(*wire.MsgTx) {}))
	for range r.IntN(4) {
		_ = w.survive()
		w.node.empty(r.IntN(3))
	}
	w.node.pay(w.signer.Script(), int64(100_000+r.IntN(900_000)))
	w.node.empty(6)
	_ = w.survive()
	w.repair()
	if r.IntN(2) == 0 {
		w.log.grow(1) // else the statement waits for a checkpoint
	}
}

// repair restarts the chain if it has to be, and was before, by another copy of the
// database, or can be.
func (w *world) repair() {
	w.unharmed(func() {
		lag := w.node.lag
		defer func() { w.node.lag = lag }()
		w.node.lag = 0
		for range 6 {
			_ = w.engine.Step(w.t.Context(), w.epoch)
			if w.snapshot().Foreign == nil {
				return
			}
			if err := w.restartChain(); err != nil {
				w.t.Fatalf("restart the chain: %v", err)
			}
		}
		w.t.Fatal("the chain couldn't be restarted")
	})
}

// mineAny mines any attempt that a node could have, also one long replaced.
func (w *world) mineAny(r *rand.Rand) {
	unspent := w.node.unspentIn(w.node.chain)
	var candidates []*wire.MsgTx
	w.unharmed(func() {
		for _, a := range w.snapshot().Attempts {
			if a.Raw == nil {
				continue
			}
			tx := txOf(w.t, a)
			if !slices.ContainsFunc(tx.TxIn, func(in *wire.TxIn) bool { _, ok := unspent[in.PreviousOutPoint]; return !ok }) {
				candidates = append(candidates, tx)
			}
		}
	})
	if len(candidates) > 0 {
		w.node.mine(candidates[r.IntN(len(candidates))])
	}
}

// reorganise takes blocks away, mostly few, and puts as many or more in their
// place, with the transactions that were in them, or others, or none.
func (w *world) reorganise(r *rand.Rand) {
	depth := 1 + r.IntN(3)
	if r.IntN(4) == 0 {
		depth = 1 + r.IntN(8)
	}
	if w.node.height() <= max(depth+4, w.settledHeight()+depth) {
		return // of a restart's foreign spend: TestReorganisationsOfRestart
	}
	fork := w.node.height() - depth
	gone := w.node.cut(depth, r.IntN(2) == 0)
	switch r.IntN(4) {
	case 0:
		w.node.mine()
		w.node.empty(depth - 1 + r.IntN(2))
	case 1: // and back again, before or after the engine has seen it
		w.node.empty(depth + 1)
		if r.IntN(2) == 0 {
			_ = w.survive()
		}
		w.node.switchTo(fork, gone)
		w.node.empty(2)
	default:
		w.node.empty(depth + r.IntN(2))
	}
}
