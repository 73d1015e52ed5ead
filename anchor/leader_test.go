package anchor_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/btcsuite/btcd/wire/v2"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
)

// meanwhile is what the second engine and the chain do while the first engine,
// which led, stands still.
type meanwhile struct {
	name string
	do   func(w *world)
}

func meanwhiles() []meanwhile {
	step := func(w *world) {
		w.t.Helper()
		if err := w.engine.Step(w.t.Context(), w.epoch); errors.Is(err, ledger.ErrConflict) || errors.Is(err, calpe.ErrLostLeadership) {
			w.t.Fatalf("the engine that leads: %v", err)
		}
	}
	return []meanwhile{
		{"takes over", step},
		{"anchors", func(w *world) {
			step(w)
			w.node.mine()
			w.log.grow(2)
			w.now = w.now.Add(2 * interval)
			step(w)
		}},
		{"bumps", func(w *world) {
			for range 3 {
				w.node.empty(1)
				w.log.grow(1)
				step(w)
			}
		}},
		{"is reorganised", func(w *world) {
			step(w)
			w.node.mine()
			step(w)
			w.node.cut(1, true)
			w.node.empty(2)
			step(w)
		}},
	}
}

// The leader stands still in every call that it makes: its process is paused, or it
// is cut off from everybody. Another engine leads and works on. Then the first one
// goes on where it was, and doesn't change a row: neither does it create an
// attempt, nor move one, nor touch the journal.
func TestPausedLeader(t *testing.T) {
	for _, story := range faultStories() {
		for _, m := range meanwhiles() {
			t.Run(story.name+"/"+m.name, func(t *testing.T) {
				t.Parallel()
				calls := story.pause(t, 0, m)
				if len(calls) < story.calls {
					t.Fatalf("the run makes %d calls only", len(calls))
				}
				for i, method := range calls {
					if writes(method) || i%40 == 0 {
						story.pause(t, i+1, m)
					}
				}
			})
		}
	}
}

// writes reports whether a call changes rows, or what a node has.
func writes(method string) bool {
	return slices.Contains([]string{"create", "signed", "send", "answer", "connect", "rewind", "final"}, method)
}

// pause plays the story and lets another engine take over in one of the calls. It
// lists them.
func (s faultStory) pause(t *testing.T, at int, m meanwhile) (calls []string) {
	t.Helper()
	w := s.start(t)
	mem, ok := w.store.(*memStore)
	if !ok {
		t.Fatal("the story isn't of the store in memory")
	}
	// The paused engine may send what is stored, whatever has become of it since.
	w.node.onSend = func(raw []byte) { w.wasStored(raw) }
	w.log.grow(6)
	var rows []any
	fault := func(method string) (bool, error) {
		if calls = append(calls, method); len(calls) == at {
			w.node.setFault(nil)
			w.faults.fault = nil
			w.epoch = mem.takeOver()
			w.restart()
			m.do(w)
			rows = mem.rows()
		}
		return true, nil
	}
	w.node.fault, w.faults.fault = fault, fault
	for i := range s.steps {
		s.scene(w, i)
		paused, epoch := w.engine, w.epoch
		err := paused.Step(t.Context(), epoch)
		if rows != nil {
			if errors.Is(err, ledger.ErrConflict) {
				t.Fatalf("call %d: the loss of leadership became a conflict: %v", at, err)
			}
			if diff := gocmp.Diff(rows, mem.rows()); diff != "" {
				t.Fatalf("call %d: an engine that doesn't lead any more changed rows:\n%s", at, diff)
			}
			w.node.fault, w.faults.fault = nil, nil
			break
		}
		w.now = w.now.Add(10 * time.Minute)
	}
	w.node.fault, w.faults.fault = nil, nil
	w.node.empty(8) // whatever branch the store is on, the node's has more work
	w.now = w.now.Add(2 * interval)
	w.settle()
	w.check()
	return calls
}

// rows is everything that is stored, for comparison.
func (s *memStore) rows() []any {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := s.state.clone()
	all := make([]ledger.Attempt, 0, len(st.attempts))
	for _, a := range st.attempts {
		all = append(all, st.read(a))
	}
	slices.SortFunc(all, func(a, b ledger.Attempt) int { return bytes.Compare(a.TxID[:], b.TxID[:]) })
	return []any{st.journal, st.coins, all}
}

// wasStored fails the test if a transaction is sent that no row has (I5).
func (w *world) wasStored(raw []byte) {
	w.t.Helper()
	var tx wire.MsgTx
	if err := tx.Deserialize(bytes.NewReader(raw)); err != nil {
		w.t.Fatalf("sent what isn't a transaction: %v", err)
	}
	a, ok, err := w.store.Attempt(context.Background(), calpe.BlockHash(tx.TxHash()))
	if err != nil || !ok || !bytes.Equal(a.Raw, raw) {
		w.t.Fatalf("sent %v, of which the store has %s", tx.TxHash(), fmt.Sprint(a.State, ok, err))
	}
}
