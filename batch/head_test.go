package batch_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/batch"
	"github.com/calpe/calpe/batch/batchtest"
)

const headObject = "checkpoint"

// headIs demands that the head in object storage is the newest row's note, of
// that size.
func (w *world) headIs(t *testing.T, size uint64) {
	t.Helper()
	rows := w.state.CheckpointRows()
	row := rows[len(rows)-1]
	got := string(w.storage.Object(headObject))
	if row.Size != size || got != string(row.Note) {
		t.Fatalf("the newest row has size %d, want %d; the head is %q", row.Size, size, got)
	}
}

func TestHeadFollowsTheRow(t *testing.T) {
	w := newWorld(t)
	for _, n := range []int{1, 300, 0, 7} {
		w.grow(n)
		w.headIs(t, w.seal(t).Size)
	}
}

// Preflight mends what a crash, a former leader or somebody else left as head.
func TestPreflightMendsHead(t *testing.T) {
	tests := []struct {
		name  string
		spoil func(w *world)
		want  error
	}{
		{"right", func(*world) {}, nil},
		{"missing", func(w *world) { w.storage.Set(headObject, nil) }, nil},
		{"older", func(w *world) { w.storage.Set(headObject, w.state.CheckpointRows()[0].Note) }, nil},
		{"no checkpoint", func(w *world) { w.storage.Set(headObject, []byte("hello")) }, nil},
		{"too large", func(w *world) { w.storage.Set(headObject, make([]byte, 1<<20)) }, nil},
		{"another log's, and larger", func(w *world) {
			note, err := batchtest.NewLog(t, "other.example/log").Sign(1000, calpe.Hash{1})
			if err != nil {
				panic(err)
			}
			w.storage.Set(headObject, note)
		}, nil},
		{"row that is not shown yet", func(w *world) {
			w.grow(5)
			dead := batchtest.At(5, batchtest.DieBefore) // bundle, tile, copy, row, head
			s := w.sealer(t, dead)
			if _, err := s.Seal(t.Context(), w.state.TakeLead()); !errors.Is(err, batchtest.ErrDead) {
				t.Fatalf("got %v", err)
			}
		}, nil},
		{"ours and newer than any row", func(w *world) {
			note, err := w.log.Sign(1000, calpe.Hash{1})
			if err != nil {
				panic(err)
			}
			w.storage.Set(headObject, note)
		}, batch.ErrBehind},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.grow(3)
			w.seal(t)
			w.grow(3)
			w.seal(t)
			tt.spoil(w)
			before := w.storage.Object(headObject)
			err := w.sealer(t, new(batchtest.Faults)).Preflight(t.Context(), w.state.TakeLead())
			if !errors.Is(err, tt.want) {
				t.Fatalf("got %v, want %v", err, tt.want)
			}
			if tt.want == nil {
				w.headIs(t, w.state.Next())
				w.check(t)
			} else if string(w.storage.Object(headObject)) != string(before) {
				t.Fatal("a newer head was replaced")
			}
		})
	}
}

// A log without a checkpoint has no head.
func TestNoHeadWithoutCheckpoint(t *testing.T) {
	w := newWorld(t)
	faults := new(batchtest.Faults)
	if err := w.sealer(t, faults).Preflight(t.Context(), w.state.TakeLead()); err != nil {
		t.Fatal(err)
	}
	if writes := faults.Writes(); len(writes) > 0 {
		t.Fatalf("wrote %v", writes)
	}
}

// TestRunKeepsHead: a head that couldn't be written is written at the next tick
// and holds no checkpoint up; one that a former leader put back is replaced
// within a minute, without new entries.
func TestRunKeepsHead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		faults := batchtest.At(5, batchtest.NotApplied) // bundle, tile, copy, row, head
		s := w.sealer(t, faults)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx, w.state.TakeLead()) }()
		synctest.Wait()
		if rows := w.state.CheckpointRows(); len(rows) != 1 || w.storage.Object(headObject) != nil {
			t.Fatalf("%d rows, head %q", len(rows), w.storage.Object(headObject))
		}
		batchtest.Pass(2 * time.Second)
		synctest.Wait()
		w.headIs(t, 1)

		w.grow(10)
		batchtest.Pass(15 * time.Second)
		synctest.Wait()
		w.headIs(t, 11)
		writes := len(faults.Writes())
		w.storage.Set(headObject, w.state.CheckpointRows()[0].Note)
		batchtest.Pass(time.Minute + 2*time.Second)
		synctest.Wait()
		w.headIs(t, 11)
		batchtest.Pass(time.Hour)
		synctest.Wait()
		if got := len(faults.Writes()); got != writes+1 {
			t.Fatalf("%d writes, want one", got-writes)
		}
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		w.check(t)
	})
}
