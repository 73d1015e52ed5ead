package audit

import (
	"context"
	"errors"
	"fmt"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
)

// maxTiles is how many tiles of the log are kept for proofs, 8 KiB each. Those
// near the root are in every one.
const maxTiles = 256

// prefixRoot is the root of the first size entries of a tree: computed from its
// tiles, and proved to be that by the tree's own root. An error with
// [merkle.ErrRootMismatch] in its chain says that the tiles aren't the tree's.
func prefixRoot(size uint64, of tree, src merkle.TileSource) (calpe.Hash, error) {
	root, err := merkle.RootFromTiles(size, src)
	if err != nil {
		return calpe.Hash{}, err
	}
	path, err := merkle.ConsistencyProof(size, of.size, src)
	if err != nil {
		return calpe.Hash{}, err
	}
	return root, merkle.VerifyConsistency(size, of.size, root, of.root, path)
}

// prefix is prefixRoot of what the log shows now. Before it is held against the
// log, everything is read once more past all caches.
func (r *run) prefix(ctx context.Context, size uint64, now tree) (root calpe.Hash, err error) {
	err = twice(func(fresh bool) error {
		if fresh {
			clear(r.tiles)
		}
		root, err = prefixRoot(size, now, r.published(ctx, now.size, fresh))
		if errors.Is(err, merkle.ErrRootMismatch) {
			return refuted(ReasonRoot, "the tiles don't lead to the checkpoint's root: %v", err)
		}
		return err
	})
	return root, err
}

// twice runs a check, and once more with fresh data if something was found: what
// a cache has kept too long is nothing to sound the alarm about.
func twice(check func(fresh bool) error) error {
	err := check(false)
	if _, found := errors.AsType[*finding](err); found {
		return check(true)
	}
	return err
}

// published reads tiles of the log of that size.
func (r *run) published(ctx context.Context, size uint64, fresh bool) merkle.TileSource {
	return cutting(size, func(t merkle.Tile) ([]byte, error) {
		if data, ok := r.tiles[t]; ok {
			return data, nil
		}
		data, err := r.tile(ctx, t, fresh)
		if err != nil {
			return nil, err
		}
		if len(r.tiles) >= maxTiles {
			clear(r.tiles)
		}
		r.tiles[t] = data
		return data, nil
	})
}

// mirrored reads tiles of the mirror, which has those of the log of that size.
func (r *run) mirrored(ctx context.Context, size uint64) merkle.TileSource {
	return cutting(size, func(t merkle.Tile) ([]byte, error) {
		data, err := r.mirror.Read(ctx, t.Path(), maxObject)
		if err == nil && len(data) != t.ByteLen() {
			err = fmt.Errorf("has %d bytes, want %d", len(data), t.ByteLen())
		}
		if err != nil {
			return nil, fmt.Errorf("%v: %w", t, err)
		}
		return data, nil
	})
}

// cutting makes tiles of smaller logs from those of the log of that size, which
// is all that there may be: hashes don't change when a tile grows.
func cutting(size uint64, read func(merkle.Tile) ([]byte, error)) merkle.TileSource {
	return func(tiles []merkle.Tile) ([][]byte, error) {
		all := make([][]byte, len(tiles))
		for i, t := range tiles {
			whole := t
			whole.Width = int(min(size>>(merkle.TileHeight*t.Level)-t.Index*merkle.TileWidth, merkle.TileWidth))
			data, err := read(whole)
			if err != nil {
				return nil, err
			}
			all[i] = data[:t.ByteLen()]
		}
		return all, nil
	}
}

// tile reads a tile of the log.
func (r *run) tile(ctx context.Context, t merkle.Tile, fresh bool) ([]byte, error) {
	full := merkle.Tile{Level: t.Level, Index: t.Index, Width: merkle.TileWidth}
	return r.object(ctx, object{ReasonTile, t.Path(), t.ByteLen()}, object{ReasonTile, full.Path(), full.ByteLen()}, fresh)
}

// bundle reads an entry bundle of the log.
func (r *run) bundle(ctx context.Context, b merkle.Bundle, fresh bool) ([]byte, error) {
	full := merkle.Bundle{Index: b.Index, Width: merkle.TileWidth}
	return r.object(ctx, object{ReasonBundle, merkle.EntryBundlePath(b.Index, b.Width), b.ByteLen()},
		object{ReasonBundle, merkle.EntryBundlePath(full.Index, full.Width), full.ByteLen()}, fresh)
}

// object is a tile or bundle.
type object struct {
	reason Reason // if it isn't as it must be
	path   string
	length int
}

// object reads one. In place of a partial one a log may have the full one only
// (tlog-tiles), which begins with the same bytes.
func (r *run) object(ctx context.Context, o, full object, fresh bool) ([]byte, error) {
	data, err := r.exact(ctx, o, fresh)
	if errors.Is(err, calpe.ErrNotFound) && o != full {
		data, err = r.exact(ctx, full, fresh)
	}
	if err != nil {
		return nil, err
	}
	return data[:o.length], nil
}

// exact reads an object that must have just that length.
func (r *run) exact(ctx context.Context, o object, fresh bool) ([]byte, error) {
	data, err := r.cfg.Log.Read(ctx, o.path, maxObject, fresh)
	if errors.Is(err, calpe.ErrNotFound) {
		return nil, fmt.Errorf("the log doesn't give %s, which its checkpoint covers: %w", o.path, err)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", o.path, err)
	}
	if len(data) != o.length {
		return nil, refuted(o.reason, "%s has %d bytes, want %d", o.path, len(data), o.length)
	}
	return data, nil
}
