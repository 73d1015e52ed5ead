package batch_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/batch"
	"github.com/calpe/calpe/batch/batchtest"
	"github.com/calpe/calpe/merkle"
)

func TestProof(t *testing.T) {
	w := newWorld(t)
	w.grow(299)
	old := w.seal(t)
	w.grow(300)
	cp := w.seal(t)
	l := w.reader(t)
	for i, c := range w.state.Commitments() {
		entry := calpe.Entry{Index: uint64(i), Commitment: c}
		for _, at := range []calpe.Checkpoint{old, cp} {
			path, err := l.Proof(t.Context(), entry, at)
			if entry.Index >= at.Size {
				if calpe.ErrorCode(err) != calpe.CodeNotYet {
					t.Fatalf("entry %d in size %d: %v", i, at.Size, err)
				}
				continue
			}
			b := entry.Bytes()
			if err != nil || merkle.VerifyInclusion(entry.Index, at.Size, merkle.LeafHash(b[:]), path, at.Root) != nil {
				t.Fatalf("entry %d in size %d: %v", i, at.Size, err)
			}
		}
	}
	if path, err := l.Proof(t.Context(), calpe.Entry{Index: 7}, cp); !errors.Is(err, merkle.ErrRootMismatch) || path != nil {
		t.Errorf("proof of an entry that isn't in the log: %v, %v", path, err)
	}
	path, err := l.ConsistencyProof(t.Context(), old.Size, old.Root, cp)
	if err != nil || merkle.VerifyConsistency(old.Size, cp.Size, old.Root, cp.Root, path) != nil {
		t.Errorf("consistency proof: %v", err)
	}
	if _, err := l.ConsistencyProof(t.Context(), old.Size, calpe.Hash{1}, cp); !errors.Is(err, merkle.ErrRootMismatch) {
		t.Errorf("consistency with another root: %v", err)
	}
}

// TestDamagedTile: a tile that is read wrongly once spoils nothing for long.
func TestDamagedTile(t *testing.T) {
	w := newWorld(t)
	w.grow(599)
	cp := w.seal(t)
	l := w.reader(t)
	path := merkle.Tile{Index: 1, Width: merkle.TileWidth}.Path()
	good := w.storage.Object(path)
	bad := slices.Clone(good)
	bad[40] ^= 1
	entry := calpe.Entry{Index: 300, Commitment: w.state.Commitments()[300]}
	w.storage.Set(path, bad)
	if _, err := l.Proof(t.Context(), entry, cp); !errors.Is(err, merkle.ErrRootMismatch) {
		t.Fatalf("proof over a damaged tile: %v", err)
	}
	w.storage.Set(path, good[:100])
	if _, err := w.reader(t).Proof(t.Context(), entry, cp); err == nil || !strings.Contains(err.Error(), path) {
		t.Fatalf("proof over a tile that is cut off: %v", err)
	}
	w.storage.Set(path, good)
	if _, err := l.Proof(t.Context(), entry, cp); err != nil {
		t.Fatalf("the damaged tile is still in the cache: %v", err)
	}
}

// wrongOnce gives an object with a wrong bit, the first time.
type wrongOnce struct {
	batch.ObjectReader
	path  string
	given atomic.Bool
}

func (o *wrongOnce) ReadLogObject(ctx context.Context, path string, maxBytes int64) ([]byte, error) {
	data, err := o.ObjectReader.ReadLogObject(ctx, path, maxBytes)
	if err == nil && path == o.path && o.given.CompareAndSwap(false, true) {
		data = slices.Clone(data)
		data[40] ^= 1
	}
	return data, err
}

// TestEdgeReadWronglyOnce: that is no fork, which would stop intake for good.
func TestEdgeReadWronglyOnce(t *testing.T) {
	w := newWorld(t)
	w.grow(599)
	cp := w.seal(t)
	objects := &wrongOnce{
		ObjectReader: batchtest.Objects{Storage: w.storage, Faults: new(batchtest.Faults)},
		path:         merkle.Tile{Index: 2, Width: 600 - 512}.Path(),
	}
	edge, err := w.readerOf(t, objects, 0).Edge(t.Context(), cp)
	if err != nil || edge.Root() != cp.Root || !objects.given.Load() {
		t.Errorf("%v; the tile was read: %v", err, objects.given.Load())
	}
}

// TestPartialRemoved: tlog-tiles allows to remove a partial tile once the full
// one is there.
func TestPartialRemoved(t *testing.T) {
	w := newWorld(t)
	w.grow(299)
	old := w.seal(t)
	w.grow(300)
	w.seal(t)
	w.storage.Set(merkle.Tile{Index: 1, Width: 300 - 256}.Path(), nil)
	w.storage.Set(merkle.EntryBundlePath(1, 300-256), nil)
	l := w.reader(t)
	if _, err := l.Edge(t.Context(), old); err != nil {
		t.Errorf("edge: %v", err)
	}
	var got []calpe.Commitment
	err := l.ReadEntries(t.Context(), 250, 290, old.Size, func(_ uint64, run []calpe.Commitment) error {
		got = append(got, run...)
		return nil
	})
	if want := w.state.Commitments()[250:290]; err != nil || !slices.Equal(got, want) {
		t.Errorf("entries: %d, %v", len(got), err)
	}
}

func TestReadEntriesRefuses(t *testing.T) {
	w := newWorld(t)
	w.grow(299)
	w.seal(t)
	l := w.reader(t)
	none := func(uint64, []calpe.Commitment) error { return nil }
	for _, r := range [][3]uint64{{2, 1, 300}, {0, 301, 300}, {0, 1, calpe.MaxLogSize + 1}} {
		if err := l.ReadEntries(t.Context(), r[0], r[1], r[2], none); err == nil {
			t.Errorf("range %v was read", r)
		}
	}
	stop := errors.New("stop")
	if err := l.ReadEntries(t.Context(), 0, 300, 300, func(uint64, []calpe.Commitment) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v", err)
	}
	if err := l.ReadEntries(t.Context(), 0, 301, 301, none); !errors.Is(err, calpe.ErrNotFound) {
		t.Errorf("bundle of a size that was never sealed: %v", err)
	}
	w.storage.Set(merkle.EntryBundlePath(0, 256), make([]byte, 256*42))
	if err := l.ReadEntries(t.Context(), 0, 300, 300, none); err == nil {
		t.Error("a bundle of zeros was read")
	}
}

// counting counts reads.
type counting struct {
	batchtest.Objects
	mu    *sync.Mutex
	reads map[string]int
}

func (c counting) ReadLogObject(ctx context.Context, path string, maxBytes int64) ([]byte, error) {
	c.mu.Lock()
	c.reads[path]++
	c.mu.Unlock()
	return c.Objects.ReadLogObject(ctx, path, maxBytes)
}

func TestCacheIsBounded(t *testing.T) {
	w := newWorld(t)
	w.grow(4 * 256)
	cp := w.seal(t)
	objects := counting{batchtest.Objects{Storage: w.storage, Faults: new(batchtest.Faults)}, new(sync.Mutex), make(map[string]int)}
	l := w.readerOf(t, objects, 2)
	entries := w.state.Commitments()
	prove := func(index uint64) {
		t.Helper()
		if _, err := l.Proof(t.Context(), calpe.Entry{Index: index, Commitment: entries[index]}, cp); err != nil {
			t.Fatal(err)
		}
	}
	tile := func(i uint64) string { return merkle.Tile{Index: i, Width: merkle.TileWidth}.Path() }
	for range 3 {
		prove(0)
		prove(256)
	}
	if objects.reads[tile(0)] != 1 || objects.reads[tile(1)] != 1 {
		t.Fatalf("tiles were read again: %v", objects.reads)
	}
	prove(512) // pushes out tile 0
	prove(256)
	prove(0)
	if objects.reads[tile(0)] != 2 || objects.reads[tile(1)] != 1 {
		t.Fatalf("the cache doesn't keep what was used last: %v", objects.reads)
	}
}

func TestNewest(t *testing.T) {
	w := newWorld(t)
	l := w.reader(t)
	if _, err := l.Newest(t.Context(), 0); !errors.Is(err, calpe.ErrNotFound) {
		t.Fatalf("no checkpoint: %v", err)
	}
	for _, n := range []int{5, 20, 1200} {
		w.grow(n)
		w.seal(t)
	}
	for above, want := range map[uint64]uint64{0: 1226, 6: 1226, 1225: 1226, 1226: 0, calpe.MaxLogSize: 0} {
		cp, err := l.Newest(t.Context(), above)
		if cp.Size != want || (want == 0) != errors.Is(err, calpe.ErrNotFound) {
			t.Errorf("above %d: size %d, %v", above, cp.Size, err)
		}
	}
	foreign := batchtest.NewLog(t, "log.example/other")
	note, err := foreign.Sign(2000, calpe.Hash{})
	if err != nil {
		t.Fatal(err)
	}
	for path, data := range map[string][]byte{
		batch.CheckpointPath(2000): note,
		batch.CheckpointPath(1500): w.storage.Object(batch.CheckpointPath(26)),
		"checkpoints/zzz":          []byte("?"),
	} {
		w.storage.Set(path, data)
		if cp, err := l.Newest(t.Context(), 0); err == nil || errors.Is(err, calpe.ErrNotFound) {
			t.Errorf("%s was taken for a checkpoint of size %d", path, cp.Size)
		}
		w.storage.Set(path, nil)
	}
}

func TestCheckpointPath(t *testing.T) {
	for size, want := range map[uint64]string{
		0: "checkpoints/x000/x000/x000/x000/000", 1234067: "checkpoints/x000/x000/x001/x234/067",
		calpe.MaxLogSize: "checkpoints/x001/x099/x511/x627/775",
	} {
		if got := batch.CheckpointPath(size); got != want {
			t.Errorf("size %d: %s, want %s", size, got, want)
		}
	}
	sizes := []uint64{0, 1, 999, 1000, 1001, 999999, 1000000, 1 << 30, 1 << 39}
	if !slices.IsSortedFunc(sizes, func(a, b uint64) int { return strings.Compare(batch.CheckpointPath(a), batch.CheckpointPath(b)) }) {
		t.Error("names don't sort as sizes do")
	}
}
