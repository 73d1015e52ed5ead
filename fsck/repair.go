package fsck

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/batch"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt"
)

// repair writes again what can be, from the bottom up. Nothing is written that
// doesn't lead to a root that was signed, and nothing over what another process
// writes at the same time. What can't be mended stays a finding.
func (r *run) repair(ctx context.Context) error {
	order := make([]int, 0, len(r.state.Findings))
	for i, f := range r.state.Findings {
		if f.Mend != "" && !f.Repaired {
			order = append(order, i)
		}
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Compare(rank(r.state.Findings[a]), rank(r.state.Findings[b]))
	})
	for _, i := range order {
		f := &r.state.Findings[i]
		err := r.mend(ctx, *f)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			r.note("%s was not mended: %v", f.Thing, err)
			continue
		}
		// Crash here: it is mended, and the next run doesn't find it.
		f.Repaired = true
		r.Logger.WarnContext(ctx, "mended", slog.String("object", f.Thing))
	}
	return nil
}

// rank orders tiles by level, full ones before the partial ones that are cut from
// them, and puts all else behind.
func rank(f Finding) int {
	t, err := merkle.ParseTilePath(f.Thing)
	if err != nil {
		return 1 << 20
	}
	return int(t.Level)*(2*merkle.TileWidth) + merkle.TileWidth - t.Width
}

func (r *run) mend(ctx context.Context, f Finding) error {
	data, err := r.again(ctx, f)
	if err != nil || data == nil {
		return err
	}
	contentType, cacheControl := batch.HowServed(f.Thing)
	if err := r.limit.wait(ctx); err != nil {
		return err
	}
	return r.Objects.MendLogObject(ctx, f.Thing, data, contentType, cacheControl)
}

// again computes what an object should be; nil if it is so by now.
func (r *run) again(ctx context.Context, f Finding) ([]byte, error) {
	switch f.Mend {
	case MendTile:
		t, err := merkle.ParseTilePath(f.Thing)
		if err != nil {
			return nil, err
		}
		data, err := r.provenTile(ctx, t)
		if err != nil {
			return nil, err
		}
		return data[:t.ByteLen()], nil
	case MendBundle:
		return r.bundleAgain(ctx, f.Thing)
	case MendCheckpoint:
		size, err := batch.ParseCheckpointPath(f.Thing)
		if err != nil {
			return nil, err
		}
		row, err := r.Checkpoints.CheckpointAt(ctx, size)
		return row.Note, err
	case MendHead:
		return r.headAgain(ctx)
	case MendAnchors:
		page, err := receipt.ParseAnchorsPath(f.Thing)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(r.state.Findings, func(f Finding) bool { return f.Invariant == "I5" || f.Invariant == "I6" }) {
			return nil, errors.New("the rows of coins or attempts, from which it follows, are broken themselves")
		}
		data, err := batch.AnchorPage(ctx, r.Anchors, r.Identity, page)
		return append([]byte{}, data...), err
	}
	return nil, fmt.Errorf("nothing is known about how %q is mended", f.Mend)
}

// headAgain gives nothing if a server has put it right by now.
func (r *run) headAgain(ctx context.Context) ([]byte, error) {
	if found, err := r.checkHead(ctx); err != nil || len(found) == 0 {
		return nil, err
	}
	head, err := r.Checkpoints.CheckpointHead(ctx)
	return head.Note, err
}

// signedHead is the newest signed checkpoint that this run has compared all entries with.
func (r *run) signedHead(ctx context.Context) (calpe.Checkpoint, error) {
	if r.sealed == r.head.Size {
		return receipt.OpenCheckpoint(r.head.Note, r.Identity)
	}
	return r.log.Checkpoint(ctx, r.sealed)
}

var errNotProven = errors.New("what follows from the rows doesn't lead to the root that was signed")

// bundleAgain encodes the entries of a bundle, once their tile is proven.
func (r *run) bundleAgain(ctx context.Context, path string) ([]byte, error) {
	b, err := merkle.ParseEntryBundlePath(path)
	if err != nil {
		return nil, err
	}
	entries, err := r.readEntries(ctx, merkle.Tile{Index: b.Index, Width: b.Width})
	if err != nil {
		return nil, err
	}
	if _, err := r.provenTile(ctx, merkle.Tile{Index: b.Index, Width: b.Width}); err != nil {
		return nil, err
	}
	return merkle.EncodeEntryBundle(b, entries)
}

// readEntries reads the entries of a tile of level 0 from the rows.
func (r *run) readEntries(ctx context.Context, t merkle.Tile) ([]calpe.Entry, error) {
	first := t.Index * merkle.TileWidth
	rows := &rowReader{entries: r.Entries, next: first}
	slots, found, err := rows.read(ctx, first+uint64(t.Width))
	if err != nil {
		return nil, err
	}
	if len(found) > 0 {
		return nil, fmt.Errorf("%s: %s", found[0].Thing, found[0].Problem)
	}
	entries := make([]calpe.Entry, t.Width)
	for i, s := range slots {
		entries[i] = calpe.Entry{Index: first + uint64(i), Commitment: s.commitment}
	}
	return entries, nil
}

// provenTile computes the tile of that place, as wide as it is by now, from what
// is below it, and proves that it belongs to the signed root.
func (r *run) provenTile(ctx context.Context, t merkle.Tile) ([]byte, error) {
	head, err := r.signedHead(ctx)
	if err != nil {
		return nil, err
	}
	hashes := head.Size >> (merkle.TileHeight * t.Level)
	if t.Index*merkle.TileWidth+uint64(t.Width) > hashes {
		return nil, fmt.Errorf("%v is above what was signed", t)
	}
	t.Width = int(min(hashes-t.Index*merkle.TileWidth, merkle.TileWidth))
	data, err := r.computeTile(ctx, t)
	if err != nil {
		return nil, err
	}
	if err := r.prove(ctx, t, data, head); err != nil {
		return nil, err
	}
	return data, nil
}

// prove checks that a tile belongs to the signed root. A run over all entries has
// seen that they lead to that root, and that the tiles below follow from them, or
// were mended. One that has left out what is old needs a proof for each tile.
func (r *run) prove(ctx context.Context, t merkle.Tile, data []byte, head calpe.Checkpoint) error {
	if e := r.state.Edge; r.state.Forked || e.Size != head.Size || e.Root != head.Root {
		return errNotProven
	}
	first := t.Index * merkle.TileWidth << (merkle.TileHeight * t.Level)
	end := first + uint64(t.Width)<<(merkle.TileHeight*t.Level)
	if slices.ContainsFunc(r.state.Altered, func(span [2]uint64) bool { return span[0] < end && first < span[1] }) {
		return errNotProven
	}
	if r.Since.IsZero() {
		return nil
	}
	source := func(tiles []merkle.Tile) (out [][]byte, err error) {
		out = make([][]byte, len(tiles))
		for i, x := range tiles {
			if out[i] = data; x != t {
				if out[i], err = r.log.Tile(ctx, x); err != nil {
					return nil, err
				}
			}
		}
		return out, nil
	}
	if t.Width < merkle.TileWidth { // at the edge: each of its hashes counts for the root
		root, err := merkle.RootFromTiles(head.Size, source)
		if err == nil && root != head.Root {
			err = errNotProven
		}
		return err
	}
	// The path of the first entry takes up all hashes of the tile but the first,
	// that of the last entry all but the last.
	for _, index := range []uint64{first, end - 1} {
		path, err := merkle.InclusionProof(index, head.Size, source)
		if err != nil {
			return err
		}
		entry, err := r.Entries.Entry(ctx, index)
		if err != nil {
			return err
		}
		if err := merkle.VerifyInclusion(index, head.Size, leafOf(index, entry.Commitment), path, head.Root); err != nil {
			return fmt.Errorf("%w: %w", errNotProven, err)
		}
	}
	return nil
}

// computeTile makes a tile of level 0 from entries, others from the tiles below.
func (r *run) computeTile(ctx context.Context, t merkle.Tile) ([]byte, error) {
	var data []byte
	if t.Level == 0 {
		entries, err := r.readEntries(ctx, t)
		for _, e := range entries {
			hash := leafOf(e.Index, e.Commitment)
			data = append(data, hash[:]...)
		}
		return data, err
	}
	for i := range uint64(t.Width) {
		below, err := r.log.Tile(ctx, merkle.Tile{Level: t.Level - 1, Index: t.Index*merkle.TileWidth + i, Width: merkle.TileWidth})
		if err != nil {
			return nil, err
		}
		hashes := make([]calpe.Hash, merkle.TileWidth)
		for j := range hashes {
			hashes[j] = calpe.Hash(below[j*calpe.HashSize:])
		}
		root := merkle.Root(hashes)
		data = append(data, root[:]...)
	}
	return data, nil
}
