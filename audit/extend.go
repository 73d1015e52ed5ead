package audit

import (
	"bytes"
	"context"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
)

// extend reads and checks everything by which the log has grown, step by step,
// and puts it into the mirror. base is the size of the mirror's own checkpoint.
func (r *run) extend(ctx context.Context, from, now tree, base uint64) error {
	r.start = from.size
	for {
		r.stale = append(r.stale, from.size)
		end := min(now.size, (from.size/r.cfg.Step+1)*r.cfg.Step)
		next, err := r.step(ctx, from, end, now)
		if err != nil {
			return err
		}
		if end == now.size {
			return r.checkEdge(ctx, end)
		}
		if err := r.saveProgress(ctx, next, now); err != nil {
			return err
		}
		if err := r.removePartial(ctx, from.size, base, end); err != nil {
			return err
		}
		from = next
	}
}

// step extends the tree by the entries up to end. What it writes to the mirror
// has been checked: by its hashes up to the root of the log now.
func (r *run) step(ctx context.Context, from tree, end uint64, now tree) (tree, error) {
	builder, err := merkle.LoadEdge(from.size, from.root, r.mirrored(ctx, from.size))
	if err != nil {
		return tree{}, damagedMirror(from.size, err)
	}
	pieces, err := r.fetch(ctx, from.size, end, now.size)
	if err != nil {
		return tree{}, err
	}
	for _, p := range pieces {
		if err := builder.Append(p.leaves[max(from.size, p.First())-p.First():]); err != nil {
			return tree{}, err
		}
	}
	if err := checkOverlap(builder, from.size, pieces); err != nil {
		return tree{}, err
	}
	tiles := builder.Tiles()
	if err := r.checkTiles(ctx, tiles); err != nil {
		return tree{}, err
	}
	next := tree{end, builder.Root(), now.note}
	if err := r.checkRoot(ctx, from.size, next, now); err != nil {
		return tree{}, err
	}
	return next, r.keep(ctx, pieces, tiles)
}

// piece is an entry bundle that goes with its tile.
type piece struct {
	merkle.Bundle
	data   []byte
	leaves []calpe.Hash
}

// fetch reads the bundles with the entries from and up to end, and the tiles
// above them, in the log of size entries.
func (r *run) fetch(ctx context.Context, from, end, size uint64) ([]piece, error) {
	var bundles []merkle.Bundle
	for b := range merkle.BundlesFor(from, end) {
		bundles = append(bundles, b)
	}
	pieces := make([]piece, len(bundles))
	var mu sync.Mutex // over report
	err := r.each(ctx, len(bundles), func(ctx context.Context, i int) error {
		return twice(func(fresh bool) error {
			p, entries, err := r.piece(ctx, bundles[i], fresh)
			if err != nil {
				return err
			}
			pieces[i] = p
			mu.Lock()
			defer mu.Unlock()
			r.count(entries, from)
			r.cfg.Progress(r.start+r.report.Checked.Entries, size)
			return nil
		})
	})
	return pieces, err
}

// count adds the entries of a bundle to the report, but not those below from.
func (r *run) count(entries []calpe.Entry, from uint64) {
	r.report.Checked.Bundles++
	r.report.Checked.Tiles++ // the one above it
	for _, e := range entries {
		if e.Index < from {
			continue
		}
		r.report.Checked.Entries++
		if e.Commitment.IsVoid() {
			r.report.Checked.Void++
		}
	}
}

// piece reads a bundle and its tile, and checks one against the other.
func (r *run) piece(ctx context.Context, b merkle.Bundle, fresh bool) (piece, []calpe.Entry, error) {
	data, err := r.bundle(ctx, b, fresh)
	if err != nil {
		return piece{}, nil, err
	}
	entries, err := merkle.ParseEntryBundle(b, data)
	if err != nil {
		return piece{}, nil, refuted(ReasonBundle, "%v", err)
	}
	if b.Index == 0 && entries[0] != r.cfg.Identity.Entry() {
		return piece{}, nil, refuted(ReasonIdentity, "entry 0 is %x, and not the hash of the pinned identity", entries[0].Commitment)
	}
	tile, err := r.tile(ctx, merkle.Tile{Index: b.Index, Width: b.Width}, fresh)
	if err != nil {
		return piece{}, nil, err
	}
	p := piece{Bundle: b, data: data, leaves: make([]calpe.Hash, len(entries))}
	for i, e := range entries {
		entry := e.Bytes()
		p.leaves[i] = merkle.LeafHash(entry[:])
		if !bytes.Equal(p.leaves[i][:], tile[i*calpe.HashSize:][:calpe.HashSize]) {
			return piece{}, nil, refuted(ReasonBundle, "entry %d in %s isn't the one that the tile above it has the hash of", e.Index, merkle.EntryBundlePath(b.Index, b.Width))
		}
	}
	return p, entries, nil
}

// checkOverlap demands that the entries which the mirror had already, in a bundle
// that was partial then, are the same ones.
func checkOverlap(builder *merkle.Builder, from uint64, pieces []piece) error {
	first := builder.Tiles()[0] // at level 0, the one with the entries from
	for i, leaf := range pieces[0].leaves[:from-pieces[0].First()] {
		if !bytes.Equal(leaf[:], first.Data[i*calpe.HashSize:][:calpe.HashSize]) {
			return refuted(ReasonBundle, "entry %d was another one before", pieces[0].First()+uint64(i))
		}
	}
	return nil
}

// checkRoot demands that the tree of a step is the beginning of the log now.
func (r *run) checkRoot(ctx context.Context, from uint64, next, now tree) error {
	root := now.root
	if next.size < now.size {
		var err error
		if root, err = r.prefix(ctx, next.size, now); err != nil {
			return err
		}
	}
	if root != next.root {
		return refuted(ReasonRoot, "the entries %d to %d and their tiles don't lead to the root of the checkpoint of %d entries", from, next.size-1, now.size)
	}
	return nil
}

// checkTiles compares the full tiles above the lowest level, whose tiles
// [run.piece] has compared, with those that follow from the entries.
func (r *run) checkTiles(ctx context.Context, tiles []merkle.TileData) error {
	var wanted []merkle.TileData
	for _, t := range tiles {
		if t.Level > 0 && t.Width == merkle.TileWidth {
			wanted = append(wanted, t)
		}
	}
	return r.checkAll(ctx, wanted)
}

// checkEdge does the same with the partial tiles, of which only those of the whole
// log are published. What follows from the entries is in the mirror by now.
func (r *run) checkEdge(ctx context.Context, size uint64) error {
	mirrored := r.mirrored(ctx, size)
	var wanted []merkle.TileData
	for _, t := range partialTiles(size) {
		if t.Level == 0 {
			continue
		}
		data, err := mirrored([]merkle.Tile{t})
		if err != nil {
			return damagedMirror(size, err)
		}
		wanted = append(wanted, merkle.TileData{Tile: t, Data: data[0]})
	}
	return r.checkAll(ctx, wanted)
}

func (r *run) checkAll(ctx context.Context, tiles []merkle.TileData) error {
	err := r.each(ctx, len(tiles), func(ctx context.Context, i int) error {
		return twice(func(fresh bool) error { return r.checkTile(ctx, tiles[i], fresh) })
	})
	r.report.Checked.Tiles += uint64(len(tiles))
	return err
}

func (r *run) checkTile(ctx context.Context, want merkle.TileData, fresh bool) error {
	data, err := r.tile(ctx, want.Tile, fresh)
	if err != nil {
		return err
	}
	for i := range want.Width {
		at := i * calpe.HashSize
		if !bytes.Equal(data[at:at+calpe.HashSize], want.Data[at:at+calpe.HashSize]) {
			return refuted(ReasonTile, "hash %d in %v isn't the root of what is below it", i, want.Tile)
		}
	}
	return nil
}

// keep writes bundles and tiles to the mirror.
func (r *run) keep(ctx context.Context, pieces []piece, tiles []merkle.TileData) error {
	return r.each(ctx, len(pieces)+len(tiles), func(ctx context.Context, i int) error {
		if i < len(pieces) {
			p := pieces[i]
			return r.mirror.Write(ctx, merkle.EntryBundlePath(p.Index, p.Width), p.data)
		}
		t := tiles[i-len(pieces)]
		return r.mirror.Write(ctx, t.Path(), t.Data)
	})
}

// each calls f for 0 to n-1, Readers at a time.
func (r *run) each(ctx context.Context, n int, f func(ctx context.Context, i int) error) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(r.cfg.Readers)
	for i := range n {
		group.Go(func() error { return f(ctx, i) })
	}
	return group.Wait()
}
