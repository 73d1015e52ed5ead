package batch_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/batch"
	"github.com/calpe/calpe/batch/batchtest"
	"github.com/calpe/calpe/merkle"
	"github.com/google/go-cmp/cmp"
)

// world is a log with its two stores.
type world struct {
	log     batchtest.Log
	storage *batchtest.Storage
	state   *batchtest.State
	next    uint64 // number of the next commitment that grow makes up
}

func newWorld(t *testing.T) *world {
	t.Helper()
	l := batchtest.NewLog(t, "log.example/test")
	return &world{log: l, storage: batchtest.NewStorage(), state: batchtest.NewState(l.Identity.Hash()), next: 1}
}

// grow appends n entries in groups of up to 70.
func (w *world) grow(n int) {
	for n > 0 {
		group := make([]calpe.Commitment, min(n, 70))
		for i := range group {
			group[i] = batchtest.Commitment(w.next)
			w.next++
		}
		w.state.Append(calpe.OriginIntake, group...)
		n -= len(group)
	}
}

func (w *world) reader(t *testing.T) *batch.Log {
	t.Helper()
	return w.readerOf(t, batchtest.Objects{Storage: w.storage, Faults: new(batchtest.Faults)}, 0)
}

func (w *world) readerOf(t *testing.T, objects batch.ObjectReader, cache int) *batch.Log {
	t.Helper()
	l, err := batch.NewLog(batch.LogConfig{Objects: objects, Open: w.log.Open, CacheTiles: cache})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// sealer is a process of its own, with its own faults.
func (w *world) sealer(t *testing.T, faults *batchtest.Faults, edit ...func(*batch.SealerConfig)) *batch.Sealer {
	t.Helper()
	objects := batchtest.Objects{Storage: w.storage, Faults: faults}
	database := batchtest.Database{State: w.state, Faults: faults}
	cfg := batch.SealerConfig{
		Entries: database, Checkpoints: database, Objects: objects, Log: w.readerOf(t, objects, 0), Sign: w.log.Sign,
		Writers: 1, Logger: slog.New(slog.DiscardHandler),
	}
	for _, e := range edit {
		e(&cfg)
	}
	s, err := batch.NewSealer(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (w *world) seal(t *testing.T) calpe.Checkpoint {
	t.Helper()
	cp, err := w.sealer(t, new(batchtest.Faults)).Seal(t.Context(), w.state.TakeLead())
	if err != nil {
		t.Fatal(err)
	}
	w.check(t)
	return cp
}

// rootOf computes a root without tiles.
func rootOf(commitments []calpe.Commitment) calpe.Hash {
	leaves := make([]calpe.Hash, len(commitments))
	for i, c := range commitments {
		b := calpe.Entry{Index: uint64(i), Commitment: c}.Bytes()
		leaves[i] = merkle.LeafHash(b[:])
	}
	return merkle.Root(leaves)
}

// check is the whole-state checker: whatever happened, every signed checkpoint
// is about the database's entries, rows only grow and have their copies, and
// what the newest row covers can be read back from object storage alone.
func (w *world) check(t *testing.T) {
	t.Helper()
	entries := w.state.Commitments()
	for _, path := range w.storage.Paths("checkpoints/") {
		cp, err := w.log.Open(w.storage.Object(path))
		if err != nil || batch.CheckpointPath(cp.Size) != path {
			t.Fatalf("copy %s holds size %d, %v", path, cp.Size, err)
		}
		if cp.Size <= uint64(len(entries)) && cp.Root != rootOf(entries[:cp.Size]) {
			t.Fatalf("checkpoint of size %d has a root that is not that of the entries", cp.Size)
		}
	}
	var last uint64
	for _, row := range w.state.CheckpointRows() {
		if row.Size <= last || row.Size > uint64(len(entries)) {
			t.Fatalf("row of size %d after %d, with %d entries", row.Size, last, len(entries))
		}
		if !slices.Equal(w.storage.Object(batch.CheckpointPath(row.Size)), row.Note) {
			t.Fatalf("row of size %d has no copy, or another", row.Size)
		}
		last = row.Size
	}
	if v := w.storage.Violations(); len(v) > 0 {
		t.Fatal(v)
	}
	if last > 0 {
		w.checkPublished(t, entries[:last])
	}
}

// checkPublished reads what the newest row covers.
func (w *world) checkPublished(t *testing.T, entries []calpe.Commitment) {
	t.Helper()
	l := w.reader(t)
	size := uint64(len(entries))
	row := w.state.CheckpointRows()[len(w.state.CheckpointRows())-1]
	var got []calpe.Commitment
	err := l.ReadEntries(t.Context(), 0, size, size, func(first uint64, run []calpe.Commitment) error {
		if first != uint64(len(got)) {
			return fmt.Errorf("run at %d, want %d", first, len(got))
		}
		got = append(got, run...)
		return nil
	})
	if err != nil || !slices.Equal(got, entries) {
		t.Fatalf("published entries are not those of the database: %v", err)
	}
	for _, index := range []uint64{0, size / 2, size - 1} {
		entry := calpe.Entry{Index: index, Commitment: entries[index]}
		path, err := l.Proof(t.Context(), entry, row)
		b := entry.Bytes()
		if err != nil || merkle.VerifyInclusion(index, size, merkle.LeafHash(b[:]), path, row.Root) != nil {
			t.Fatalf("entry %d of %d has no proof: %v", index, size, err)
		}
	}
}

func TestSealGrowing(t *testing.T) {
	w := newWorld(t)
	for _, n := range []int{0, 1, 3, 250, 1, 1, 255, 256, 257, 600, 70} {
		w.grow(n)
		before := len(w.state.CheckpointRows())
		cp := w.seal(t)
		if cp.Size != w.state.Next() {
			t.Fatalf("sealed %d of %d entries", cp.Size, w.state.Next())
		}
		if again := w.seal(t); again.Size != cp.Size || len(w.state.CheckpointRows()) > before+1 {
			t.Fatalf("sealed without new entries: %d after %d", again.Size, cp.Size)
		}
	}
}

func TestSealInSteps(t *testing.T) {
	w := newWorld(t)
	w.grow(1000)
	s := w.sealer(t, new(batchtest.Faults), func(c *batch.SealerConfig) { c.StepEntries = 300; c.Writers = 4 })
	epoch := w.state.TakeLead()
	for _, want := range []uint64{300, 600, 900, 1001, 1001} {
		cp, err := s.Seal(t.Context(), epoch)
		if err != nil || cp.Size != want {
			t.Fatalf("got size %d, %v; want %d", cp.Size, err, want)
		}
		w.check(t)
	}
}

// TestSealFaults lets every write of a step fail in every way, then has another
// process go on.
func TestSealFaults(t *testing.T) {
	start := func(t *testing.T) *world {
		w := newWorld(t)
		w.grow(299)
		w.seal(t)
		w.grow(500)
		return w
	}
	w := start(t)
	count := new(batchtest.Faults)
	if _, err := w.sealer(t, count).Seal(t.Context(), w.state.TakeLead()); err != nil {
		t.Fatal(err)
	}
	writes := count.Writes()
	if len(writes) < 8 {
		t.Fatalf("only %d writes in a step: %v", len(writes), writes)
	}
	for n, name := range writes {
		for _, fault := range []batchtest.Fault{batchtest.NotApplied, batchtest.Applied, batchtest.DieBefore, batchtest.DieAfter} {
			t.Run(fmt.Sprintf("%d %s fault %d", n+1, name, fault), func(t *testing.T) {
				w := start(t)
				faulty := w.sealer(t, batchtest.At(n+1, fault))
				epoch := w.state.TakeLead()
				if _, err := faulty.Seal(t.Context(), epoch); err == nil {
					t.Fatal("the fault went unnoticed")
				}
				w.check(t)
				if fault == batchtest.NotApplied || fault == batchtest.Applied { // the same process tries again
					if cp, err := faulty.Seal(t.Context(), epoch); err != nil || cp.Size != 800 {
						t.Fatalf("again: size %d, %v", cp.Size, err)
					}
					w.check(t)
				}
				w.grow(5)
				s := w.sealer(t, new(batchtest.Faults))
				epoch = w.state.TakeLead()
				if err := s.Preflight(t.Context(), epoch); err != nil {
					t.Fatalf("preflight: %v", err)
				}
				if cp, err := s.Seal(t.Context(), epoch); err != nil || cp.Size != 805 {
					t.Fatalf("next process: size %d, %v", cp.Size, err)
				}
				w.check(t)
			})
		}
	}
}

// TestDatabaseWentBackDuringStep crashes at every write of a step, puts back an
// older database and lets other entries come: what was signed stays, what was
// not is replaced.
func TestDatabaseWentBackDuringStep(t *testing.T) {
	for n := 1; ; n++ {
		w := newWorld(t)
		w.grow(299)
		w.seal(t)
		w.grow(500)
		faults := batchtest.At(n, batchtest.DieAfter)
		if _, err := w.sealer(t, faults).Seal(t.Context(), w.state.TakeLead()); err == nil {
			if n < 8 {
				t.Fatalf("the step has only %d writes", n-1)
			}
			return
		}
		signed := w.storage.Object(batch.CheckpointPath(800)) != nil
		w.state.GoBack(300)
		s := w.sealer(t, new(batchtest.Faults))
		epoch := w.state.TakeLead()
		if signed {
			if err := s.CheckStores(t.Context()); !errors.Is(err, batch.ErrBehind) {
				t.Fatalf("write %d: a database behind a signed checkpoint: %v", n, err)
			}
			if _, err := s.Seal(t.Context(), epoch); !errors.Is(err, batch.ErrBehind) {
				t.Fatalf("write %d: sealed behind a signed checkpoint: %v", n, err)
			}
		}
		w.next += 1000 // other entries than before
		w.grow(520)
		_, err := s.Seal(t.Context(), epoch)
		if signed != errors.Is(err, batch.ErrForked) || !signed && err != nil {
			t.Fatalf("write %d, signed %v: %v", n, signed, err)
		}
		if signed {
			if err := s.Preflight(t.Context(), epoch); !errors.Is(err, batch.ErrForked) {
				t.Fatalf("write %d: preflight: %v", n, err)
			}
			continue
		}
		w.check(t)
	}
}

// TestPausedLeader: a leader that wakes up after another took over signs nothing;
// if it has signed already it must not publish, and what it signed is taken up.
func TestPausedLeader(t *testing.T) {
	w := newWorld(t)
	w.grow(10)
	signed := func() bool { return w.storage.Object(batch.CheckpointPath(11)) != nil }
	old := w.sealer(t, new(batchtest.Faults))
	epoch := w.state.TakeLead()
	w.state.TakeLead()
	if _, err := old.Seal(t.Context(), epoch); !errors.Is(err, calpe.ErrLostLeadership) || signed() {
		t.Fatalf("a former leader signed a checkpoint: %v", err)
	}
	if err := old.Run(t.Context(), epoch); !errors.Is(err, calpe.ErrLostLeadership) || signed() {
		t.Fatalf("run of a former leader: %v", err)
	}
	old = w.sealer(t, new(batchtest.Faults), func(c *batch.SealerConfig) {
		c.Sign = func(size uint64, root calpe.Hash) ([]byte, error) {
			w.state.TakeLead()
			return w.log.Sign(size, root)
		}
	})
	if _, err := old.Seal(t.Context(), w.state.TakeLead()); !errors.Is(err, calpe.ErrLostLeadership) || !signed() {
		t.Fatalf("a former leader recorded a checkpoint: %v", err)
	}
	w.grow(10)
	if cp := w.seal(t); cp.Size != 21 {
		t.Fatalf("sealed %d", cp.Size)
	}
	if rows := w.state.CheckpointRows(); len(rows) != 2 || rows[0].Size != 11 {
		t.Fatalf("the checkpoint that the former leader signed was not taken up: %d rows", len(rows))
	}
}

// objectsThen lets something happen before its first write.
type objectsThen struct {
	batch.Objects
	once    sync.Once
	happens func()
}

func (o *objectsThen) PutLogObject(ctx context.Context, path string, data []byte, contentType, cacheControl string) error {
	o.once.Do(o.happens)
	return o.Objects.PutLogObject(ctx, path, data, contentType, cacheControl)
}

// TestLeaderPausedOverRecovery: while a leader is paused the database goes back,
// others take its place, and their tiles are signed. When it wakes up it must not
// put its own over them.
func TestLeaderPausedOverRecovery(t *testing.T) {
	w := newWorld(t)
	w.grow(299)
	w.seal(t)
	w.grow(500)
	paused := w.sealer(t, new(batchtest.Faults), func(c *batch.SealerConfig) {
		c.Objects = &objectsThen{Objects: c.Objects, happens: func() {
			w.state.GoBack(300)
			w.next += 1000 // other entries than before
			w.grow(700)
			w.seal(t)
		}}
	})
	if _, err := paused.Seal(t.Context(), w.state.TakeLead()); !errors.Is(err, calpe.ErrLostLeadership) {
		t.Errorf("got %v", err)
	}
	w.check(t)
	w.grow(10)
	w.seal(t)
}

func TestPreflight(t *testing.T) {
	tests := []struct {
		name    string
		spoil   func(w *world)
		want    error
		mended  bool   // Preflight mends it, CheckStores doesn't mind
		wantRow uint64 // afterwards
	}{
		{"nothing wrong", func(*world) {}, nil, true, 401},
		{"copy missing", func(w *world) { w.storage.Set(batch.CheckpointPath(401), nil) }, nil, true, 401},
		{"row missing", func(w *world) { w.state.SetCheckpoints(w.state.CheckpointRows()[0]) }, nil, true, 401},
		{"all rows missing", func(w *world) { w.state.SetCheckpoints() }, nil, true, 401},
		{"database went back to the last row", func(w *world) { w.state.GoBack(300) }, batch.ErrBehind, false, 201},
		{"row without entries", func(w *world) {
			rows := w.state.CheckpointRows()
			w.state.GoBack(300)
			w.state.SetCheckpoints(rows...)
		}, batch.ErrForked, false, 401},
		{"other entries behind a signed checkpoint", func(w *world) {
			w.state.GoBack(300)
			w.next += 1000
			w.grow(300)
		}, batch.ErrForked, false, 201},
		{"copy with another root", func(w *world) {
			note, err := w.log.Sign(401, calpe.Hash{1})
			if err != nil {
				panic(err)
			}
			w.storage.Set(batch.CheckpointPath(401), note)
		}, batch.ErrForked, false, 401},
		{"tile with another hash", func(w *world) {
			path := merkle.Tile{Level: 0, Index: 1, Width: 401 - 256}.Path()
			tile := w.storage.Object(path)
			tile[0] ^= 1
			w.storage.Set(path, tile)
		}, batch.ErrForked, false, 401},
		{"tile missing", func(w *world) {
			w.storage.Set(merkle.Tile{Level: 0, Index: 1, Width: 401 - 256}.Path(), nil)
		}, batch.ErrObjectsBehind, false, 401},
		{"an older copy of the bucket", func(w *world) {
			for _, path := range []string{merkle.Tile{Level: 0, Index: 1, Width: 401 - 256}.Path(), merkle.EntryBundlePath(1, 401-256), batch.CheckpointPath(401)} {
				w.storage.Set(path, nil)
			}
		}, batch.ErrObjectsBehind, false, 401},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t)
			w.grow(200)
			w.seal(t)
			w.grow(200)
			w.seal(t)
			tt.spoil(w)
			faults := new(batchtest.Faults)
			s := w.sealer(t, faults)
			epoch := w.state.TakeLead()
			if err := s.CheckStores(t.Context()); !errors.Is(err, tt.want) {
				t.Fatalf("CheckStores: %v, want %v", err, tt.want)
			}
			if writes := faults.Writes(); len(writes) > 0 {
				t.Fatalf("CheckStores wrote: %v", writes)
			}
			if err := s.Preflight(t.Context(), epoch); !errors.Is(err, tt.want) {
				t.Fatalf("Preflight: %v, want %v", err, tt.want)
			}
			rows := w.state.CheckpointRows()
			if got := rows[len(rows)-1].Size; got != tt.wantRow {
				t.Fatalf("newest row has size %d, want %d", got, tt.wantRow)
			}
			if tt.mended {
				w.check(t)
			}
		})
	}
}

// TestChangedEntry: the database has another entry than the published tile, below
// the checkpoint and in a tile that is written again.
func TestChangedEntry(t *testing.T) {
	w := newWorld(t)
	w.grow(10)
	w.seal(t)
	rows := w.state.CheckpointRows()
	w.state.GoBack(1)
	w.next = 500
	w.grow(20)
	w.state.SetCheckpoints(rows...)
	_, err := w.sealer(t, new(batchtest.Faults)).Seal(t.Context(), w.state.TakeLead())
	if !errors.Is(err, batch.ErrForked) || !strings.Contains(err.Error(), "entry 1 ") {
		t.Fatalf("got %v", err)
	}
}

// TestOtherNote: the copy of a checkpoint has other bytes than we would write
// now, and the same root: it was signed with a key that has been replaced since,
// or it has the signature of a witness. It is the checkpoint.
func TestOtherNote(t *testing.T) {
	w := newWorld(t)
	w.grow(10)
	note, err := w.log.Sign(11, rootOf(w.state.Commitments()))
	if err != nil {
		t.Fatal(err)
	}
	note = append(note, "— witness.example AAAAAAAAAAA=\n"...)
	dead := batchtest.At(3, batchtest.DieBefore) // bundle, tile, copy, row
	if _, err := w.sealer(t, dead).Seal(t.Context(), w.state.TakeLead()); err == nil {
		t.Fatal("the fault went unnoticed")
	}
	s := w.sealer(t, new(batchtest.Faults), func(c *batch.SealerConfig) {
		c.Sign = func(size uint64, root calpe.Hash) ([]byte, error) {
			w.storage.Set(batch.CheckpointPath(11), note) // after the step has looked for newer checkpoints
			return w.log.Sign(size, root)
		}
	})
	cp, err := s.Seal(t.Context(), w.state.TakeLead())
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(note), string(cp.Note)); diff != "" {
		t.Fatal(diff)
	}
	w.check(t)
}

// rowsThen answers the first question for the newest row, and then something
// happens.
type rowsThen struct {
	batch.Checkpoints
	happens func()
}

func (r *rowsThen) CheckpointHead(ctx context.Context) (calpe.Checkpoint, error) {
	head, err := r.Checkpoints.CheckpointHead(ctx)
	if r.happens != nil {
		r.happens()
		r.happens = nil
	}
	return head, err
}

// TestFailoverBetweenTwoReads: the newest row was read from a server, and what
// follows is read from another one, which lacks it. That is for intake to mend,
// and no fork.
func TestFailoverBetweenTwoReads(t *testing.T) {
	for name, step := range map[string]func(s *batch.Sealer, ctx context.Context, epoch uint64) error{
		"seal": func(s *batch.Sealer, ctx context.Context, epoch uint64) error {
			_, err := s.Seal(ctx, epoch)
			return err
		},
		"preflight":    (*batch.Sealer).Preflight,
		"check stores": func(s *batch.Sealer, ctx context.Context, _ uint64) error { return s.CheckStores(ctx) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.grow(200)
			w.seal(t)
			w.grow(200)
			w.seal(t)
			s := w.sealer(t, new(batchtest.Faults), func(c *batch.SealerConfig) {
				c.Checkpoints = &rowsThen{c.Checkpoints, func() { w.state.GoBack(300) }}
			})
			if err := step(s, t.Context(), w.state.TakeLead()); !errors.Is(err, batch.ErrBehind) || errors.Is(err, batch.ErrForked) {
				t.Errorf("got %v", err)
			}
		})
	}
}

// TestOtherRoot: meanwhile somebody has signed another root for the same size.
func TestOtherRoot(t *testing.T) {
	w := newWorld(t)
	w.grow(10)
	note, err := w.log.Sign(11, calpe.Hash{1})
	if err != nil {
		t.Fatal(err)
	}
	s := w.sealer(t, new(batchtest.Faults), func(c *batch.SealerConfig) {
		c.Sign = func(size uint64, root calpe.Hash) ([]byte, error) {
			w.storage.Set(batch.CheckpointPath(11), note)
			return w.log.Sign(size, root)
		}
	})
	if _, err := s.Seal(t.Context(), w.state.TakeLead()); !errors.Is(err, batch.ErrForked) {
		t.Fatalf("got %v", err)
	}
	if n := len(w.state.CheckpointRows()); n != 0 {
		t.Errorf("%d rows", n)
	}
}

func TestRun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		wake := make(chan struct{}, 1)
		s := w.sealer(t, new(batchtest.Faults), func(c *batch.SealerConfig) {
			c.Interval, c.MaxEntries, c.StepEntries, c.Wake = time.Minute, 500, 200, wake
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- s.Run(ctx, w.state.TakeLead()) }()
		rows := func(want ...uint64) {
			t.Helper()
			synctest.Wait()
			var got []uint64
			for _, r := range w.state.CheckpointRows() {
				got = append(got, r.Size)
			}
			if !slices.Equal(got, want) {
				t.Fatalf("checkpoints %v, want %v", got, want)
			}
		}
		rows(1) // no checkpoint yet: due at once
		w.grow(10)
		batchtest.Pass(58 * time.Second)
		rows(1) // waits for the interval
		batchtest.Pass(4 * time.Second)
		rows(1, 11)
		batchtest.Pass(10 * time.Minute)
		rows(1, 11) // nothing new
		w.grow(10)
		batchtest.Pass(2 * time.Second)
		rows(1, 11, 21)
		w.grow(499)
		wake <- struct{}{}
		rows(1, 11, 21) // not enough
		w.grow(300)
		wake <- struct{}{}
		rows(1, 11, 21, 221, 421) // enough until fewer than 500 are left; in steps
		batchtest.Pass(time.Minute + time.Second)
		rows(1, 11, 21, 221, 421, 621)
		cancel()
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
		w.check(t)
	})
}

// TestRunGoesOn: a failure is the next tick's, a fork is the end.
func TestRunGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.grow(10)
		s := w.sealer(t, batchtest.At(2, batchtest.NotApplied))
		ended := make(chan error, 1)
		go func() { ended <- s.Run(t.Context(), w.state.TakeLead()) }()
		synctest.Wait()
		if n := len(w.state.CheckpointRows()); n != 0 {
			t.Fatalf("%d checkpoints after a failure", n)
		}
		batchtest.Pass(time.Second)
		synctest.Wait()
		w.check(t)
		if n := len(w.state.CheckpointRows()); n != 1 {
			t.Fatalf("%d checkpoints after the next tick", n)
		}
		rows := w.state.CheckpointRows()
		w.state.GoBack(1)
		w.state.SetCheckpoints(rows...)
		w.next = 700
		w.grow(20)
		batchtest.Pass(11 * time.Second)
		if err := <-ended; !errors.Is(err, batch.ErrForked) {
			t.Fatalf("got %v", err)
		}
	})
}

func TestSealerConfig(t *testing.T) {
	w := newWorld(t)
	faults := new(batchtest.Faults)
	database := batchtest.Database{State: w.state, Faults: faults}
	full := batch.SealerConfig{
		Entries: database, Checkpoints: database, Objects: batchtest.Objects{Storage: w.storage, Faults: faults},
		Log: w.reader(t), Sign: w.log.Sign,
	}
	if _, err := batch.NewSealer(full); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(*batch.SealerConfig){
		"no entries": func(c *batch.SealerConfig) { c.Entries = nil }, "no checkpoints": func(c *batch.SealerConfig) { c.Checkpoints = nil },
		"no objects": func(c *batch.SealerConfig) { c.Objects = nil }, "no log": func(c *batch.SealerConfig) { c.Log = nil },
		"no signer": func(c *batch.SealerConfig) { c.Sign = nil }, "negative interval": func(c *batch.SealerConfig) { c.Interval = -1 },
	} {
		cfg := full
		edit(&cfg)
		if _, err := batch.NewSealer(cfg); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if _, err := batch.NewLog(batch.LogConfig{Open: w.log.Open}); err == nil {
		t.Error("a log without objects was accepted")
	}
}

// The hook is told of each checkpoint that was made, and of nothing else.
func TestSealedIsTold(t *testing.T) {
	w := newWorld(t)
	var told []uint64
	w.grow(5) // behind entry 0
	s := w.sealer(t, new(batchtest.Faults), func(c *batch.SealerConfig) {
		c.Sealed = func(entries uint64, took time.Duration) {
			if took < 0 {
				t.Errorf("it took %v", took)
			}
			told = append(told, entries)
		}
	})
	epoch := w.state.TakeLead()
	for _, n := range []int{0, 0, 3} { // the second time there is nothing new
		w.grow(n)
		if _, err := s.Seal(t.Context(), epoch); err != nil {
			t.Fatal(err)
		}
	}
	w.grow(2)
	if _, err := s.Seal(t.Context(), epoch-1); err == nil {
		t.Error("a former leader sealed")
	}
	if diff := cmp.Diff([]uint64{6, 3}, told); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
}
