package anchor_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/anchor/wallet"
)

var errFault = errors.New("scripted fault")

// crash is the panic that stands for the death of the process.
type crash struct{}

// survive makes a step. When the process dies in it, a new one takes its place.
func (w *world) survive() (err error) {
	w.t.Helper()
	defer func() {
		if r := recover(); r != nil {
			if _, ok := r.(crash); !ok {
				panic(r)
			}
			w.restart()
		}
	}()
	return w.engine.Step(w.t.Context(), w.epoch)
}

// faultStory is what happens around the steps of TestEveryFault.
type faultStory struct {
	name  string
	calls int // that it makes at least
	start func(t *testing.T) *world
	scene func(w *world, i int) // before step i
	steps int
}

func faultStories() []faultStory {
	return []faultStory{
		{
			name: "reorganised", calls: 120, steps: 14,
			start: func(t *testing.T) *world { return newWorld(t, newMemStore()) },
			scene: func(w *world, i int) { reorganised(w, i, 2) },
		},
		{
			// The coin is empty; the deposit that heals it is reorganised, too.
			name: "poor", calls: 120, steps: 14,
			start: func(t *testing.T) *world {
				w := poorWorld(t, newMemStore())
				w.stepWants(wallet.ErrOutOfFunds)
				w.deposit(50_000)
				return w
			},
			scene: func(w *world, i int) { reorganised(w, i, 4) },
		},
		{
			name: "bumped and flipped", calls: 120, steps: 10,
			start: func(t *testing.T) *world {
				return bumpWorld(t, func(w *world) { w.caps.Day = 161 * 40 })
			},
			scene: func(w *world, i int) {
				switch {
				case i == 0:
				case i <= 4: // the goal is missed
					w.node.empty(1)
					w.log.grow(1)
				case i == 5: // the oldest attempt that a node may have is mined
					w.node.mine(txOf(w.t, w.signed()[0]))
				case i == 7: // and then the dearest
					all := w.signedOf(w.firstCoin)
					w.node.cut(2, false)
					w.node.mine(txOf(w.t, all[len(all)-1]))
					w.node.empty(2)
				default:
					w.node.mine()
				}
			},
		},
	}
}

// reorganised: the anchor is two blocks deep, and goes into another one.
func reorganised(w *world, i, depth int) {
	if i > 0 {
		w.node.mine()
	}
	if i == 3 {
		w.node.cut(depth, true)
		w.node.empty(depth + 1)
	}
}

// Every call to the store and the node fails once, in both ways; then, at the
// same place, the process dies. The log becomes final all the same, with one
// anchor per coin, and whatever was sent had been stored.
func TestEveryFault(t *testing.T) {
	for _, story := range faultStories() {
		for _, dies := range []bool{false, true} {
			for _, applied := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/dies=%v/applied=%v", story.name, dies, applied), func(t *testing.T) {
					t.Parallel()
					total := story.run(t, 0, true, false)
					if total < story.calls {
						t.Fatalf("the run makes %d calls only", total)
					}
					for at := 1; at <= total; at++ {
						story.run(t, at, applied, dies)
					}
				})
			}
		}
	}
}

// run plays the story with a fault at one of the calls, and counts them.
func (s faultStory) run(t *testing.T, at int, applied, dies bool) (calls int) {
	w := s.start(t)
	w.log.grow(6)
	fault := func(string) (bool, error) {
		calls++
		switch {
		case calls != at:
			return true, nil
		case dies && !applied:
			panic(crash{})
		}
		return applied, errFault
	}
	w.node.fault, w.faults.fault = fault, fault
	for i := range s.steps {
		s.scene(w, i)
		before := calls
		err := w.survive()
		if errors.Is(err, ledger.ErrConflict) {
			t.Fatalf("call %d: an unclear answer became a conflict: %v", at, err)
		}
		if dies && err != nil { // applied, and the process died before it knew
			w.restart()
		}
		if before < at && at <= calls {
			w.check()
		}
		w.now = w.now.Add(10 * time.Minute)
	}
	w.node.fault, w.faults.fault = nil, nil
	w.settle()
	w.check()
	return calls
}

// signed is what may be with a node of the attempts of the live coin.
func (w *world) signed() []ledger.Attempt {
	w.t.Helper()
	return w.signedOf(w.snapshot().Live.Outpoint)
}

func (w *world) signedOf(coin calpe.Outpoint) []ledger.Attempt {
	w.t.Helper()
	var all []ledger.Attempt
	for _, a := range w.store.(*memStore).all(coin) {
		if a.Raw != nil {
			all = append(all, a)
		}
	}
	if len(all) == 0 {
		w.t.Fatalf("coin %v has no signed attempt", coin)
	}
	return all
}
