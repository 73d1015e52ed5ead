package intake_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/batch"
	"github.com/calpe/calpe/batch/batchtest"
	"github.com/calpe/calpe/intake"
	"github.com/calpe/calpe/merkle"
)

// before is a log of 41 entries in single groups, with checkpoints over 16 and
// 31 of them if sealed, whose server is gone.
func before(t *testing.T, sealed bool) *world {
	t.Helper()
	w := newWorld(t)
	p := w.start(t, new(batchtest.Faults))
	for _, n := range []int{15, 15, 10} {
		p.mustSubmit(t, n)
		if sealed && n == 15 {
			w.seal(t)
		}
	}
	p.kill()
	return w
}

// TestRecovery puts back every earlier state of the database, and lets every
// write of the recovery fail in every way before another server goes on.
func TestRecovery(t *testing.T) {
	for _, sealed := range []bool{false, true} {
		for _, size := range []uint64{1, 15, 16, 25, 31, 36, 41} {
			t.Run(fmt.Sprintf("sealed %v back to %d", sealed, size), func(t *testing.T) {
				writes := recoverOnce(t, sealed, size, 0, batchtest.None)
				if len(writes) < 4 {
					t.Fatalf("only %d writes: %v", len(writes), writes)
				}
				for i, name := range writes {
					for _, fault := range []batchtest.Fault{batchtest.NotApplied, batchtest.Applied, batchtest.Vanished, batchtest.DieBefore, batchtest.DieAfter} {
						if fault == batchtest.Vanished && name != "commit" {
							continue // the same as NotApplied
						}
						recoverOnce(t, sealed, size, i+1, fault)
					}
				}
			})
		}
	}
}

func recoverOnce(t *testing.T, sealed bool, size uint64, n int, fault batchtest.Fault) (writes []string) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := before(t, sealed)
		old := w.state.Commitments()
		fence := parsed(t, w)
		w.state.GoBack(size)
		w.state.Restart()
		p := w.start(t, batchtest.At(n, fault))
		if fault == batchtest.DieBefore || fault == batchtest.DieAfter {
			p.kill()
			p = w.start(t, new(batchtest.Faults))
		}
		batchtest.Pass(5 * time.Second) // failures are tried again
		p.wantState(t, intake.StateOpen)
		writes = p.faults.Writes()
		w.check(t)
		kept := size
		if sealed {
			kept = max(size, 31)
		}
		checkRecovered(t, w, old[:kept], size, fence)
		r, err := p.submit(t)
		if err != nil || r.First < fence.Limit {
			t.Fatalf("write %d fault %d: after recovery: index %d, %v; old limit %d", n, fault, r.First, err, fence.Limit)
		}
		p.mustSubmit(t, 3)
		w.seal(t)
		w.check(t)
	})
	return writes
}

// checkRecovered compares the log with what recovery must have made of it: what
// was kept, void entries up to the old limit, one statement.
func checkRecovered(t *testing.T, w *world, kept []calpe.Commitment, size uint64, old intake.Fence) {
	t.Helper()
	got := w.state.Commitments()
	if uint64(len(got)) != old.Limit+1 {
		t.Fatalf("%d entries after recovery, want %d and the statement", len(got), old.Limit)
	}
	for i, c := range kept {
		if got[i] != c {
			t.Fatalf("entry %d was not restored", i)
		}
	}
	for i := uint64(len(kept)); i < old.Limit; i++ {
		if !got[i].IsVoid() {
			t.Fatalf("entry %d is not void", i)
		}
	}
	r := w.recoveries(t)
	if len(r) != 1 || r[0].VoidFrom != uint64(len(kept)) || r[0].VoidTo != old.Limit ||
		r[0].RolledFrom != min(size, uint64(len(kept))) || r[0].RolledTo != uint64(len(kept)) || !strings.Contains(r[0].Reason, "restored") {
		t.Fatalf("statements %+v", r)
	}
	now := parsed(t, w)
	if now.Epoch != old.Epoch+1 || now.Instance.Equal(old.Instance) || now.Limit <= old.Limit {
		t.Fatalf("fence %+v after %+v", now, old)
	}
}

func parsed(t *testing.T, w *world) intake.Fence {
	t.Helper()
	f, err := intake.ParseFence(w.storage.Fence())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestRecoveryOfRecovery: while one recovery is under way the database is put
// back again, at every write.
func TestRecoveryOfRecovery(t *testing.T) {
	for n := 1; n <= 9; n++ {
		for _, size := range []uint64{5, 20, 41} {
			synctest.Test(t, func(t *testing.T) {
				w := before(t, true)
				w.state.GoBack(20)
				w.state.Restart()
				w.start(t, batchtest.At(n, batchtest.DieAfter)).kill()
				w.state.GoBack(size)
				w.state.Restart()
				p := w.start(t, new(batchtest.Faults))
				p.wantState(t, intake.StateOpen)
				p.mustSubmit(t, 3)
				w.check(t)
				w.seal(t)
				w.check(t)
			})
		}
	}
}

// TestManyRestarts: the log grows by void entries at every restart, and never loses one.
func TestManyRestarts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.start(t, new(batchtest.Faults))
		for i := range 20 {
			p.mustSubmit(t, 7)
			if i%3 == 0 {
				w.seal(t)
			}
			limit := p.Status().Limit
			w.state.Restart()
			if _, err := p.submit(t); err != nil { // waits for the recovery
				t.Fatal(err)
			}
			p.wantState(t, intake.StateOpen)
			if next := w.state.Next(); next != limit+2 {
				t.Fatalf("%d entries after restart %d, limit was %d", next, i, limit)
			}
		}
		w.check(t)
		if r := w.recoveries(t); len(r) != 20 {
			t.Errorf("%d statements", len(r))
		}
		if e := p.Status().Epoch; e != 20 {
			t.Errorf("epoch %d", e)
		}
	})
}

// TestTwoServers record at the same time while the database is restarted and put
// back under them.
func TestTwoServers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		servers := []*process{w.start(t, new(batchtest.Faults)), w.start(t, new(batchtest.Faults)), w.start(t, new(batchtest.Faults))}
		for round := range 6 {
			var wg sync.WaitGroup
			for i := range 600 {
				wg.Go(func() {
					if _, err := servers[i%3].submit(t); err != nil && code(err) != calpe.CodeUnavailable {
						t.Error(err)
					}
				})
				if i == 300 && round%2 == 1 {
					wg.Go(w.state.Restart)
				}
			}
			wg.Wait()
			if round == 3 {
				w.seal(t)
			}
			if round == 4 {
				w.state.GoBack(w.state.Next() / 2)
				w.state.Restart()
			}
			batchtest.Pass(5500 * time.Millisecond) // every server has looked at the database
			synctest.Wait()
			for _, p := range servers {
				p.mustSubmit(t, 1)
				p.wantState(t, intake.StateOpen)
			}
			w.check(t)
		}
		f := parsed(t, w)
		if f.Epoch != 4 || len(w.recoveries(t)) == 0 {
			t.Errorf("epoch %d, %d statements", f.Epoch, len(w.recoveries(t)))
		}
	})
}

// TestSetBackWithMemory: the same instance lacks what it had. Who has seen it
// doesn't acknowledge; who starts afterwards finds out by the published log.
func TestSetBackWithMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.start(t, new(batchtest.Faults))
		p.mustSubmit(t, 20)
		w.seal(t)
		w.state.GoBack(11)
		_, err := p.submit(t)
		if code(err) != calpe.CodeIntakeStopped || !errors.Is(err, intake.ErrMaybeRecorded) {
			t.Fatalf("got %v", err)
		}
		p.wantState(t, intake.StateHalted)
		p.kill()
		w.state.GoBack(11)
		p = w.start(t, new(batchtest.Faults))
		p.wantState(t, intake.StateOpen)
		p.mustSubmit(t, 3)
		w.check(t)
		if r := w.recoveries(t); len(r) != 1 || r[0].RolledFrom != 11 || r[0].RolledTo != 21 {
			t.Errorf("statements %+v", r)
		}
	})
}

// TestHalts are the findings that only an operator can mend. Nothing may be
// written after any of them.
func TestHalts(t *testing.T) {
	other := batchtest.NewLog(t, "log.example/other").Identity.Hash()
	tests := []struct {
		name  string
		spoil func(t *testing.T, w *world)
		edit  func(*intake.RecorderConfig)
		want  error
	}{
		{"fence missing", func(_ *testing.T, w *world) { w.storage.SetFence(nil) }, nil, intake.ErrNoFence},
		{"fence damaged", func(_ *testing.T, w *world) { w.storage.SetFence([]byte("{}")) }, nil, nil},
		{"fence of another log", func(t *testing.T, w *world) {
			f := strings.ReplaceAll(string(w.storage.Fence()), w.log.Identity.Hash().String(), other.String())
			w.storage.SetFence([]byte(f))
		}, nil, nil},
		{"fence older than the log", func(t *testing.T, w *world) {
			w.storage.SetFence([]byte(strings.ReplaceAll(string(w.storage.Fence()), fmt.Sprintf(`"limit":%d`, parsed(t, w).Limit), `"limit":40`)))
		}, nil, intake.ErrFenceBack},
		{"fence older than a signed checkpoint", func(t *testing.T, w *world) {
			w.state.GoBack(10)
			w.state.Restart()
			w.storage.SetFence([]byte(strings.ReplaceAll(string(w.storage.Fence()), fmt.Sprintf(`"limit":%d`, parsed(t, w).Limit), `"limit":30`)))
		}, nil, intake.ErrFenceBack},
		{"other entries than in a signed checkpoint", func(t *testing.T, w *world) {
			w.state.GoBack(20)
			w.state.Restart()
			w.state.Append(calpe.OriginIntake, batchtest.Commitment(9999))
		}, nil, intake.ErrForked},
		{"other entries than in a signed checkpoint, all of them", func(t *testing.T, w *world) {
			w.state.GoBack(20)
			w.state.Restart()
			for i := range uint64(15) {
				w.state.Append(calpe.OriginIntake, batchtest.Commitment(9999+i))
			}
		}, nil, intake.ErrForked},
		{"published entry changed", func(t *testing.T, w *world) {
			w.state.GoBack(20)
			w.state.Restart()
			b := merkle.Bundle{Width: 31}
			entries, err := merkle.ParseEntryBundle(b, w.storage.Object(merkle.EntryBundlePath(0, 31)))
			if err != nil {
				t.Fatal(err)
			}
			entries[30].Commitment[0] ^= 1
			data, err := merkle.EncodeEntryBundle(b, entries)
			if err != nil {
				t.Fatal(err)
			}
			w.storage.Set(merkle.EntryBundlePath(0, 31), data)
		}, nil, intake.ErrForked},
		{"tiles changed", func(t *testing.T, w *world) {
			w.state.Restart()
			path := merkle.Tile{Width: 31}.Path()
			tile := w.storage.Object(path)
			tile[5] ^= 1
			w.storage.Set(path, tile)
		}, nil, intake.ErrForked},
		{"row above the database", func(t *testing.T, w *world) {
			rows := w.state.CheckpointRows()
			w.state.GoBack(20)
			w.state.Restart()
			w.state.SetCheckpoints(rows...)
		}, nil, intake.ErrForked},
		{"anchored above everything", func(t *testing.T, w *world) { w.state.GoBack(20); w.state.Restart() },
			func(c *intake.RecorderConfig) {
				c.Anchored = func(context.Context) (uint64, error) { return 32, nil }
			}, intake.ErrAheadOfLog},
		{"anchored above the log, same instance", func(*testing.T, *world) {},
			func(c *intake.RecorderConfig) {
				c.Anchored = func(context.Context) (uint64, error) { return 42, nil }
			}, intake.ErrAheadOfLog},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := before(t, true)
				tt.spoil(t, w)
				edit := tt.edit
				if edit == nil {
					edit = func(*intake.RecorderConfig) {}
				}
				p := w.start(t, new(batchtest.Faults), edit)
				p.wantState(t, intake.StateHalted)
				if tt.want != nil && !errors.Is(p.Status().Reason, tt.want) {
					t.Errorf("reason %v, want %v", p.Status().Reason, tt.want)
				}
				if _, err := p.submit(t); code(err) != calpe.CodeIntakeStopped {
					t.Errorf("record: %v", err)
				}
				if writes := p.faults.Writes(); len(writes) > 0 {
					t.Errorf("wrote %v", writes)
				}
			})
		})
	}
}

// TestAnchoredWithinReach: an anchor that the published log can reach is no reason to stop.
func TestAnchoredWithinReach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := before(t, true)
		w.state.GoBack(10)
		w.state.Restart()
		var down atomic.Bool
		down.Store(true)
		p := w.start(t, new(batchtest.Faults), func(c *intake.RecorderConfig) {
			c.Anchored = func(context.Context) (uint64, error) {
				if down.Load() {
					return 0, errors.New("down")
				}
				return 31, nil
			}
		})
		p.wantState(t, intake.StateJoining)
		if err := p.Status().Ready(); err == nil || !strings.Contains(err.Error(), "down") {
			t.Errorf("readiness doesn't say why: %v", err)
		}
		down.Store(false)
		batchtest.Pass(2 * time.Second)
		p.wantState(t, intake.StateOpen)
		p.mustSubmit(t, 1)
		w.check(t)
	})
}

// TestFailoverToLooseSettings: the server that took over loses commits in a power
// cut. Nothing is promised on it until that is mended.
func TestFailoverToLooseSettings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var loose atomic.Bool
		p := w.start(t, new(batchtest.Faults), func(c *intake.RecorderConfig) {
			c.Trustworthy = func(context.Context) error {
				if loose.Load() {
					return errors.New("fsync is off")
				}
				return nil
			}
		})
		p.mustSubmit(t, 3)
		fence := parsed(t, w)
		loose.Store(true)
		w.state.Restart()
		batchtest.Pass(time.Minute)
		p.wantState(t, intake.StateJoining)
		if err := p.Status().Ready(); err == nil || !strings.Contains(err.Error(), "fsync is off") {
			t.Errorf("readiness doesn't say why: %v", err)
		}
		if now := parsed(t, w); !reflect.DeepEqual(now, fence) || w.state.Next() != 4 {
			t.Errorf("fence %+v, %d entries, want nothing changed", now, w.state.Next())
		}
		loose.Store(false)
		batchtest.Pass(2 * time.Second)
		p.mustSubmit(t, 1)
		w.check(t)
	})
}

// TestOperatorMakesFence: the operator says that a missing fence is fine.
func TestOperatorMakesFence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := before(t, true)
		w.storage.SetFence(nil)
		p := w.start(t, new(batchtest.Faults), func(c *intake.RecorderConfig) { c.CreateFence = true })
		p.wantState(t, intake.StateOpen)
		p.mustSubmit(t, 1)
		w.check(t)
	})
}

// racing lets somebody else replace the fence just before the first write of it.
type racing struct {
	batchtest.Objects
	once  *sync.Once
	first func()
}

func (r racing) ReplaceFence(ctx context.Context, data []byte, etag string) (string, error) {
	r.once.Do(r.first)
	return r.Objects.ReplaceFence(ctx, data, etag)
}

// TestFenceRaisedDuringRecovery: a server that still was on the old instance has
// raised the limit after the void entries were written. What it may have handed
// out under the new limit is voided too.
func TestFenceRaisedDuringRecovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := before(t, true)
		w.state.Restart()
		old := parsed(t, w)
		raised := old
		raised.Limit += 300
		p := w.start(t, new(batchtest.Faults), func(c *intake.RecorderConfig) {
			c.Fence = racing{c.Fence.(batchtest.Objects), new(sync.Once), func() { w.storage.SetFence(encoded(t, raised)) }}
		})
		batchtest.Pass(2 * time.Second)
		p.wantState(t, intake.StateOpen)
		if r, err := p.submit(t); err != nil || r.First < raised.Limit {
			t.Errorf("index %d below the limit %d of the other server, %v", r.First, raised.Limit, err)
		}
		w.check(t)
	})
}

// TestClaimsOfAnotherServer: another server has filled the log up to the limit,
// on the same instance (the machine was set back), and died before it could
// declare so. Whoever raises the fence next finds its claims and declares them
// before anything else.
func TestClaimsOfAnotherServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.start(t, new(batchtest.Faults))
		p.mustSubmit(t, 3)
		fence := parsed(t, w)
		from := w.state.Next()
		w.state.Append(calpe.OriginVoid, make([]calpe.Commitment, fence.Limit-from)...)
		fence.Claims = []intake.Claim{{RolledFrom: from, RolledTo: from, VoidFrom: from, VoidTo: fence.Limit}}
		fence.Limit, fence.Epoch = fence.Limit+256, fence.Epoch+1
		w.storage.SetFence(encoded(t, fence))
		p.mustSubmit(t, 1)
		statements := w.state.Statements()
		if len(w.recoveries(t)) != 1 || statements[0].Index != fence.Claims[0].VoidTo {
			t.Errorf("the first entry behind the void ones is not their declaration: %+v", statements)
		}
		w.check(t)
	})
}

func encoded(t *testing.T, f intake.Fence) []byte {
	t.Helper()
	data, err := json.Marshal(f)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestFenceMovedAway: another server has recovered on another instance, which
// this one can't see: it is still connected to the former primary. It must not
// hand out what lies under the other's limit.
func TestFenceMovedAway(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.start(t, new(batchtest.Faults))
		p.mustSubmit(t, 3)
		moved := parsed(t, w)
		moved.Limit, moved.Epoch = moved.Limit+1000, moved.Epoch+1
		moved.Instance.Timeline++
		w.storage.SetFence(encoded(t, moved))
		beyond := false
		for range 400 {
			r, err := p.submit(t)
			if code(err) == calpe.CodeUnavailable { // it came while the server joined
				synctest.Wait()
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if r.First > 257 && r.First < moved.Limit {
				t.Fatalf("index %d was handed out under the limit %d of the other server", r.First, moved.Limit)
			}
			beyond = beyond || r.First >= moved.Limit
		}
		if !beyond {
			t.Error("it never went on behind the other server's limit")
		}
		w.check(t)
		if f := parsed(t, w); f.Epoch != moved.Epoch+1 {
			t.Errorf("epoch %d", f.Epoch)
		}
	})
}

// TestLogIsFull: the largest size that a payload can state is the end.
func TestLogIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.start(t, new(batchtest.Faults))
		p.mustSubmit(t, 1)
		full := parsed(t, w)
		p.kill()
		full.Limit = calpe.MaxLogSize
		w.storage.SetFence(encoded(t, full))
		p = w.start(t, new(batchtest.Faults), func(c *intake.RecorderConfig) {
			c.Groups = atLimit{c.Groups.(batchtest.Database)}
		})
		if _, err := p.submit(t); code(err) != calpe.CodeIntakeStopped || !errors.Is(err, intake.ErrFull) {
			t.Errorf("got %v", err)
		}
		p.wantState(t, intake.StateHalted)
	})
}

// atLimit is a log of 2^40 - 1 entries.
type atLimit struct{ batchtest.Database }

func (atLimit) CommitGroup(context.Context, calpe.Group) (calpe.GroupResult, error) {
	return calpe.GroupResult{}, calpe.ErrFence
}

// TestIdleServerNotices: nothing is submitted, and the database is put back.
func TestIdleServerNotices(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.start(t, new(batchtest.Faults))
		p.mustSubmit(t, 20)
		w.seal(t)
		w.state.GoBack(10)
		w.state.Restart()
		batchtest.Pass(6 * time.Second)
		p.wantState(t, intake.StateOpen)
		w.check(t)
		if e := parsed(t, w).Epoch; e != 1 {
			t.Errorf("epoch %d", e)
		}
	})
}

// TestMissingTiles: a published log that can't be read is waited for.
func TestMissingTiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := before(t, true)
		w.state.GoBack(10)
		w.state.Restart()
		path := merkle.EntryBundlePath(0, 31)
		bundle := w.storage.Object(path)
		w.storage.Set(path, nil)
		p := w.start(t, new(batchtest.Faults))
		batchtest.Pass(10 * time.Second)
		p.wantState(t, intake.StateJoining)
		if w.state.Next() != 10 {
			t.Fatalf("%d entries: something was filled in", w.state.Next())
		}
		w.storage.Set(path, bundle)
		batchtest.Pass(2 * time.Second)
		p.wantState(t, intake.StateOpen)
		w.check(t)
	})
}

// TestSealerAndRecovery: checkpoints are made of what recovery wrote, and a
// sealer that finds a database behind waits for it.
func TestSealerAndRecovery(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := before(t, true)
		w.state.GoBack(20)
		w.state.Restart()
		faults := new(batchtest.Faults)
		objects := batchtest.Objects{Storage: w.storage, Faults: faults}
		database := batchtest.Database{State: w.state, Faults: faults}
		published, err := batch.NewLog(batch.LogConfig{Objects: objects, Open: w.log.Open})
		if err != nil {
			t.Fatal(err)
		}
		s, err := batch.NewSealer(batch.SealerConfig{
			Entries: database, Checkpoints: database, Objects: objects, Log: published, Sign: w.log.Sign,
			Logger: slog.New(slog.DiscardHandler),
		})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx, w.state.TakeLead()) }()
		synctest.Wait()
		if rows := w.state.CheckpointRows(); rows[len(rows)-1].Size != 16 {
			t.Fatalf("sealed %d entries behind a signed checkpoint", rows[len(rows)-1].Size)
		}
		p := w.start(t, new(batchtest.Faults))
		p.wantState(t, intake.StateOpen)
		batchtest.Pass(time.Minute)
		synctest.Wait()
		if rows := w.state.CheckpointRows(); rows[len(rows)-1].Size != w.state.Next() {
			t.Errorf("sealed %d of %d entries", rows[len(rows)-1].Size, w.state.Next())
		}
		w.check(t)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}
