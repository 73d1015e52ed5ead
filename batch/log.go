package batch

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
	"golang.org/x/sync/errgroup"
)

// LogConfig is what a [Log] needs.
type LogConfig struct {
	Objects ObjectReader
	// Open verifies a checkpoint note against the log's identity and gives what
	// it says (receipt.OpenCheckpoint).
	Open func(note []byte) (calpe.Checkpoint, error)
	// CacheTiles is how many full tiles of 8 KiB are kept in memory. Default 1024.
	CacheTiles int
	// Readers is how many objects are read at the same time for one call. Default 8.
	Readers int
}

// Log reads the published log. Nothing that it gives out is taken on trust from
// object storage: a checkpoint is checked by its signature, a proof and an edge
// by the checkpoint's root. Safe for concurrent use.
type Log struct {
	cfg   LogConfig
	cache *tileCache
}

// NewLog makes a Log. It reads nothing yet.
func NewLog(cfg LogConfig) (*Log, error) {
	if cfg.Objects == nil || cfg.Open == nil {
		return nil, errors.New("log: Objects and Open must be set")
	}
	cfg.CacheTiles = cmp.Or(cfg.CacheTiles, 1024)
	cfg.Readers = cmp.Or(cfg.Readers, 8)
	if cfg.CacheTiles < 0 || cfg.Readers < 0 {
		return nil, errors.New("log: CacheTiles and Readers must be positive")
	}
	return &Log{cfg: cfg, cache: newTileCache(cfg.CacheTiles)}, nil
}

// Proof is the inclusion path of an entry in the tree of a checkpoint. It has
// been verified: entry and path give cp.Root. An entry beyond the checkpoint is
// [calpe.CodeNotYet]; an error with [merkle.ErrRootMismatch] in its chain says
// that tiles are damaged, or that the log never held that entry.
func (l *Log) Proof(ctx context.Context, entry calpe.Entry, cp calpe.Checkpoint) ([]calpe.Hash, error) {
	if entry.Index >= cp.Size {
		return nil, calpe.Errorf(calpe.CodeNotYet, "entry %d is not in a checkpoint yet; the newest has %d entries", entry.Index, cp.Size)
	}
	return verified(ctx, l, func(src merkle.TileSource) ([]calpe.Hash, error) {
		path, err := merkle.InclusionProof(entry.Index, cp.Size, src)
		if err != nil {
			return nil, err
		}
		return path, merkle.VerifyInclusion(entry.Index, cp.Size, leaf(entry.Index, entry.Commitment), path, cp.Root)
	})
}

// ConsistencyProof proves that the log of a checkpoint begins with the log of
// oldSize entries and oldRoot. It has been verified.
func (l *Log) ConsistencyProof(ctx context.Context, oldSize uint64, oldRoot calpe.Hash, cp calpe.Checkpoint) ([]calpe.Hash, error) {
	return verified(ctx, l, func(src merkle.TileSource) ([]calpe.Hash, error) {
		path, err := merkle.ConsistencyProof(oldSize, cp.Size, src)
		if err != nil {
			return nil, err
		}
		return path, merkle.VerifyConsistency(oldSize, cp.Size, oldRoot, cp.Root, path)
	})
}

// verified runs read, and once more without the cache if what it read is refuted:
// a tile that was read wrongly once must neither spoil proofs until a restart nor
// pass for a fork.
func verified[T any](ctx context.Context, l *Log, read func(merkle.TileSource) (T, error)) (T, error) {
	got, err := read(l.source(ctx))
	if errors.Is(err, merkle.ErrRootMismatch) {
		l.cache.clear()
		got, err = read(l.source(ctx))
	}
	if err != nil {
		return *new(T), err
	}
	return got, nil
}

// Edge loads the right edge of the log of a checkpoint, for appending to it. An
// error with [merkle.ErrRootMismatch] in its chain says that the tiles aren't
// those of the checkpoint.
func (l *Log) Edge(ctx context.Context, cp calpe.Checkpoint) (*merkle.Builder, error) {
	return verified(ctx, l, func(src merkle.TileSource) (*merkle.Builder, error) {
		return merkle.LoadEdge(cp.Size, cp.Root, src)
	})
}

// Newest is the newest signed checkpoint that has a copy in object storage, of
// those with more than above entries; [calpe.ErrNotFound] if there is none. Its
// signature has been verified; its tiles have not (see [Log.Edge]).
func (l *Log) Newest(ctx context.Context, above uint64) (calpe.Checkpoint, error) {
	var newest string
	err := l.ListCheckpoints(ctx, above, func(path string) bool {
		newest = path
		return true
	})
	if err != nil {
		return calpe.Checkpoint{}, err
	}
	if newest == "" {
		return calpe.Checkpoint{}, fmt.Errorf("checkpoint above %d: %w", above, calpe.ErrNotFound)
	}
	size, err := ParseCheckpointPath(newest)
	if err != nil {
		return calpe.Checkpoint{}, err
	}
	return l.Checkpoint(ctx, size)
}

// ListCheckpoints yields the paths of the copies of checkpoints with more than
// above entries, the smallest first, until yield returns false.
func (l *Log) ListCheckpoints(ctx context.Context, above uint64, yield func(path string) bool) error {
	if err := l.cfg.Objects.ListLog(ctx, checkpointPrefix, CheckpointPath(above), yield); err != nil {
		return fmt.Errorf("list checkpoints above %d: %w", above, err)
	}
	return nil
}

// Checkpoint is the published checkpoint of exactly that size, from its immutable
// copy; [calpe.ErrNotFound] if there is none. Its signature has been verified. It
// outlives the rows of a database that is replaced by an older copy.
func (l *Log) Checkpoint(ctx context.Context, size uint64) (calpe.Checkpoint, error) {
	path := CheckpointPath(size)
	note, err := l.cfg.Objects.ReadLogObject(ctx, path, maxCheckpointBytes)
	if err != nil {
		return calpe.Checkpoint{}, fmt.Errorf("read %s: %w", path, err)
	}
	cp, err := l.cfg.Open(note)
	if err != nil {
		return calpe.Checkpoint{}, fmt.Errorf("open %s: %w", path, err)
	}
	if cp.Size != size {
		return calpe.Checkpoint{}, fmt.Errorf("%s holds the checkpoint of size %d", path, cp.Size)
	}
	cp.Note = note
	return cp, nil
}

// ReadEntries reads the entries from up to, and not including, to from the
// bundles of the log of size entries, and calls fn with runs of them, in order.
// Form and indices are checked; that they belong to a checkpoint is for the
// caller to see, by its root. The slice is valid only during fn.
func (l *Log) ReadEntries(ctx context.Context, from, to, size uint64, fn func(first uint64, commitments []calpe.Commitment) error) error {
	if from > to || to > size || size > calpe.MaxLogSize {
		return fmt.Errorf("read entries %d to %d of a log of size %d: out of range", from, to, size)
	}
	for from < to {
		var bundles []merkle.Bundle
		for i := from / merkle.TileWidth; len(bundles) < l.cfg.Readers && i*merkle.TileWidth < to; i++ {
			bundles = append(bundles, merkle.Bundle{Index: i, Width: widthAt(i, size)})
		}
		run, err := l.readBundles(ctx, bundles)
		if err != nil {
			return err
		}
		run = run[from-bundles[0].First():]
		run = run[:min(uint64(len(run)), to-from)]
		if err := fn(from, run); err != nil {
			return err
		}
		from += uint64(len(run))
	}
	return nil
}

// widthAt is how many hashes the tile at level 0 with that index has in a log of
// size entries.
func widthAt(index, size uint64) int {
	return int(min(size-index*merkle.TileWidth, merkle.TileWidth))
}

// readBundles reads bundles in a row, at the same time, and joins their entries.
func (l *Log) readBundles(ctx context.Context, bundles []merkle.Bundle) ([]calpe.Commitment, error) {
	parts := make([][]calpe.Entry, len(bundles))
	err := l.each(ctx, len(bundles), func(ctx context.Context, i int) (err error) {
		b := bundles[i]
		data, err := l.Bundle(ctx, b)
		if err != nil {
			return err
		}
		parts[i], err = merkle.ParseEntryBundle(b, data)
		return err
	})
	if err != nil {
		return nil, err
	}
	var run []calpe.Commitment
	for _, entries := range parts {
		for _, e := range entries {
			run = append(run, e.Commitment)
		}
	}
	return run, nil
}

// Tile reads a tile as it is in object storage, past the cache; nothing but its
// length is checked. A partial one may be cut from the full one, which it is the
// beginning of. [calpe.ErrNotFound]: neither is there.
func (l *Log) Tile(ctx context.Context, t merkle.Tile) ([]byte, error) {
	full := merkle.Tile{Level: t.Level, Index: t.Index, Width: merkle.TileWidth}
	return l.read(ctx, t.Path(), full.Path(), t.ByteLen(), full.ByteLen())
}

// Bundle reads an entry bundle, as [Log.Tile] does a tile.
func (l *Log) Bundle(ctx context.Context, b merkle.Bundle) ([]byte, error) {
	full := merkle.Bundle{Index: b.Index, Width: merkle.TileWidth}
	return l.read(ctx, merkle.EntryBundlePath(b.Index, b.Width), merkle.EntryBundlePath(full.Index, full.Width), b.ByteLen(), full.ByteLen())
}

// each calls f for 0 to n-1, Readers at a time.
func (l *Log) each(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(l.cfg.Readers)
	for i := range n {
		group.Go(func() error { return f(ctx, i) })
	}
	return group.Wait()
}

// source reads tiles, full ones through the cache.
func (l *Log) source(ctx context.Context) merkle.TileSource {
	return func(tiles []merkle.Tile) ([][]byte, error) {
		data := make([][]byte, len(tiles))
		err := l.each(ctx, len(tiles), func(ctx context.Context, i int) (err error) {
			data[i], err = l.tile(ctx, tiles[i])
			return err
		})
		return data, err
	}
}

func (l *Log) tile(ctx context.Context, t merkle.Tile) ([]byte, error) {
	if data, ok := l.cache.get(t); ok {
		return data, nil
	}
	data, err := l.Tile(ctx, t)
	if err != nil {
		return nil, err
	}
	if t.Width == merkle.TileWidth {
		l.cache.put(t, data)
	}
	return data, nil
}

// read reads a tile or bundle of exactly size bytes. A partial one may have been
// removed once the full one was there, as tlog-tiles allows; what it held is the
// beginning of the full one.
func (l *Log) read(ctx context.Context, path, fullPath string, size, fullSize int) ([]byte, error) {
	data, err := l.cfg.Objects.ReadLogObject(ctx, path, int64(fullSize))
	if errors.Is(err, calpe.ErrNotFound) && path != fullPath {
		full, fullErr := l.cfg.Objects.ReadLogObject(ctx, fullPath, int64(fullSize))
		if fullErr == nil && len(full) == fullSize {
			data, err = full[:size], nil
		}
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if len(data) != size {
		return nil, fmt.Errorf("%s has %d bytes, want %d: %w", path, len(data), size, calpe.ErrDamaged)
	}
	return data, nil
}
