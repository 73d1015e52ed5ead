package fsck

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
)

// window is how many entries are looked at together: what is in memory at a time.
const window = 64 * merkle.TileWidth

// builder is a tree of which only the right edge is in memory, however long it
// grows: it begins anew from its own edge after each window.
type builder struct {
	*merkle.Builder
	edges map[uint8][]byte // the partial tile of each level
}

func loadBuilder(e edge) (*builder, error) {
	b, err := merkle.LoadEdge(e.Size, e.Root, func(tiles []merkle.Tile) ([][]byte, error) {
		data := make([][]byte, len(tiles))
		for i, t := range tiles {
			data[i] = e.Tiles[t.Level]
		}
		return data, nil
	})
	return &builder{b, e.Tiles}, err
}

// edge is where the tree ends now.
func (b *builder) edge() edge {
	e := edge{Size: b.Size(), Root: b.Root(), Tiles: map[uint8][]byte{}}
	changed := map[uint8]merkle.TileData{}
	for _, t := range b.Tiles() {
		changed[t.Level] = t // the last of the level
	}
	for level, size := uint8(0), e.Size; size > 0; level, size = level+1, size/merkle.TileWidth {
		width := int(size % merkle.TileWidth)
		if width == 0 {
			continue
		}
		if t, ok := changed[level]; ok && t.Index == size/merkle.TileWidth && t.Width == width {
			e.Tiles[level] = bytes.Clone(t.Data)
		} else {
			e.Tiles[level] = b.edges[level]
		}
	}
	return e
}

// checkLog goes through all entries below the newest signed checkpoint: rows,
// bundles and tiles hold the same ones (I2, I4), and every root that was signed or
// anchored is theirs (I3).
func (r *run) checkLog(ctx context.Context) error {
	if err := r.startTree(ctx); err != nil {
		return err
	}
	r.rows = &rowReader{entries: r.Entries, next: r.tree.Size()}
	for from := r.tree.Size(); from < r.sealed; from = r.tree.Size() {
		to := min(from/window*window+window, r.sealed)
		if err := r.checkWindow(ctx, from, to); err != nil {
			return err
		}
		if err := r.save(false); err != nil {
			return err
		}
		r.Progress("entries", to, r.sealed)
	}
	return nil
}

// startTree takes up the tree of the state, or of the newest checkpoint before
// Since, or the empty one.
func (r *run) startTree(ctx context.Context) (err error) {
	e := r.state.Edge
	if e.Size == 0 {
		e = edge{Root: merkle.EmptyRoot()}
		if !r.Since.IsZero() {
			if e, err = r.edgeBefore(ctx); err != nil {
				return err
			}
		}
	}
	r.forked = r.state.Forked
	if r.tree, err = loadBuilder(e); err != nil {
		return fmt.Errorf("the tree in the state: %w", err)
	}
	r.state.Edge = e
	return nil
}

// edgeBefore reads the edge of the newest checkpoint before Since from the tiles,
// which must give its signed root.
func (r *run) edgeBefore(ctx context.Context) (edge, error) {
	e := edge{Root: merkle.EmptyRoot(), Tiles: map[uint8][]byte{}}
	cp, err := r.Checkpoints.CheckpointBefore(ctx, r.Since)
	if errors.Is(err, calpe.ErrNotFound) {
		return e, nil
	}
	if err != nil {
		return edge{}, err
	}
	e.Size, e.Root = cp.Size, cp.Root
	_, err = merkle.LoadEdge(cp.Size, cp.Root, func(tiles []merkle.Tile) ([][]byte, error) {
		data := make([][]byte, len(tiles))
		for i, t := range tiles {
			if data[i], err = r.log.Tile(ctx, t); err != nil {
				return nil, err
			}
			e.Tiles[t.Level] = data[i]
		}
		return data, nil
	})
	if err != nil {
		return edge{}, fmt.Errorf("begin at the checkpoint of size %d (without --since the check says what is wrong): %w", cp.Size, err)
	}
	r.note("entries below %d are left out: they were sealed before %s", cp.Size, r.Since.Format("2006-01-02 15:04:05Z07:00"))
	return e, nil
}

// checkWindow looks at the entries from one up to, and not including, another.
func (r *run) checkWindow(ctx context.Context, from, to uint64) error {
	slots, found, err := r.rows.read(ctx, to)
	if err != nil {
		return err
	}
	parts, err := r.readParts(ctx, from, to)
	if err != nil {
		return err
	}
	leaves := make([]calpe.Hash, 0, to-from)
	for _, p := range parts {
		skip := max(from, p.First()) - p.First()
		truth, altered, more := p.judge(slots[p.First()+skip-from:][:uint64(p.Width)-skip], int(skip))
		leaves, found = append(leaves, truth...), append(found, more...)
		if len(r.state.Altered) < maxFindings {
			r.state.Altered = append(r.state.Altered, altered...)
		}
	}
	more, err := r.grow(ctx, leaves, to)
	if err != nil {
		return err
	}
	found = append(found, more...)
	if more, err = r.checkUpperTiles(ctx); err != nil {
		return err
	}
	r.found(append(found, more...)...)
	r.state.Edge, r.state.Forked = r.tree.edge(), r.forked
	r.state.count("entries", int(to-from))
	r.tree, err = loadBuilder(r.state.Edge)
	return err
}

// part is a bundle with its tile, as they are in object storage.
type part struct {
	merkle.Bundle
	entries []calpe.Entry // nil: see bundleErr
	tile    []byte        // nil: see tileErr
	// bundleErr and tileErr say that the object is missing or damaged.
	bundleErr, tileErr error
}

// readParts reads the bundles and level-0 tiles of entries, several at a time.
func (r *run) readParts(ctx context.Context, from, to uint64) ([]part, error) {
	var parts []part
	for i := from / merkle.TileWidth; i*merkle.TileWidth < to; i++ {
		parts = append(parts, part{Bundle: merkle.Bundle{Index: i, Width: int(min(to-i*merkle.TileWidth, merkle.TileWidth))}})
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(r.Readers)
	for i := range parts {
		p := &parts[i]
		g.Go(func() error {
			data, err := r.log.Bundle(ctx, p.Bundle)
			if err == nil {
				if p.entries, err = merkle.ParseEntryBundle(p.Bundle, data); err != nil {
					err = fmt.Errorf("%w: %w", calpe.ErrDamaged, err)
				}
			}
			p.bundleErr, err = broken(err)
			return err
		})
		g.Go(func() (err error) {
			p.tile, err = r.log.Tile(ctx, merkle.Tile{Index: p.Index, Width: p.Width})
			p.tileErr, err = broken(err)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	r.state.count("bundles", len(parts))
	r.state.count("tiles", len(parts))
	return parts, nil
}

// broken tells what is wrong with an object from what is wrong with the way to it.
func broken(err error) (object, other error) {
	if errors.Is(err, calpe.ErrNotFound) || errors.Is(err, calpe.ErrDamaged) {
		return err, nil
	}
	return nil, err
}

// judge compares the rows with bundle and tile, from the entry skip of the bundle
// on. Where they differ, two of the three are taken for what was sealed; the
// signed root says at the next checkpoint whether that is right. It gives the
// leaf hashes, and the entries of which the rows were changed.
func (p part) judge(slots []slot, skip int) (truth []calpe.Hash, changed [][2]uint64, found []Finding) {
	var altered, bundle, tile []int
	for i, s := range slots {
		index := p.First() + uint64(skip+i)
		row, bundled, tiled := calpe.Hash{}, calpe.Hash{}, calpe.Hash{}
		if s.there {
			row = leafOf(index, s.commitment)
		}
		if p.entries != nil {
			bundled = leafOf(index, p.entries[skip+i].Commitment)
		}
		if p.tile != nil {
			tiled = calpe.Hash(p.tile[(skip+i)*calpe.HashSize:])
		}
		right := row
		if !s.there || bundled != row && p.entries != nil && bundled == tiled {
			if right = bundled; p.entries == nil {
				right = tiled
			}
			if s.there {
				altered = append(altered, i)
			}
		}
		if p.entries != nil && bundled != right {
			bundle = append(bundle, i)
		}
		if p.tile != nil && tiled != right {
			tile = append(tile, i)
		}
		truth = append(truth, right)
	}
	at := p.First() + uint64(skip)
	for run := range runs(altered) {
		from, to := at+uint64(run[0]), at+uint64(run[1])
		changed = append(changed, [2]uint64{from, to})
		found = append(found, Finding{Invariant: "I2", Thing: span(from, to),
			Problem: "another commitment in the row than in the published bundle and tile", Do: restoreRows})
	}
	found = append(found, judgeObject(merkle.EntryBundlePath(p.Index, p.Width), MendBundle, p.bundleErr, bundle, at)...)
	return truth, changed, append(found, judgeObject(merkle.Tile{Index: p.Index, Width: p.Width}.Path(), MendTile, p.tileErr, tile, at)...)
}

func leafOf(index uint64, c calpe.Commitment) calpe.Hash {
	b := calpe.Entry{Index: index, Commitment: c}.Bytes()
	return merkle.LeafHash(b[:])
}

// runs yields runs of consecutive numbers: the first, and the one behind the last.
func runs(numbers []int) func(yield func([2]int) bool) {
	return func(yield func([2]int) bool) {
		for len(numbers) > 0 {
			n := 1
			for n < len(numbers) && numbers[n] == numbers[0]+n {
				n++
			}
			if !yield([2]int{numbers[0], numbers[0] + n}) {
				return
			}
			numbers = numbers[n:]
		}
	}
}

// judgeObject names an object of the log that isn't there, can't be read, or has
// other entries; wrong are the numbers of these behind at.
func judgeObject(path string, mend Mend, err error, wrong []int, at uint64) []Finding {
	f := Finding{Invariant: "I4", Thing: path, Mend: mend, Do: "run fsck with --repair: it follows from the entries"}
	switch {
	case errors.Is(err, calpe.ErrNotFound):
		f.Problem = "is not there"
	case err != nil:
		f.Problem = "is damaged: " + err.Error()
	case len(wrong) > 0:
		first := uint64(slices.Min(wrong))
		f.Problem = fmt.Sprintf("is not what follows from the rows, first at entry %d", at+first)
	default:
		return nil
	}
	return []Finding{f}
}

// checkUpperTiles compares the tiles above level 0 that became full, and at the end
// of what is sealed the partial ones.
func (r *run) checkUpperTiles(ctx context.Context) (found []Finding, err error) {
	var tiles []merkle.TileData
	for _, t := range r.tree.Tiles() {
		if t.Level > 0 && (t.Width == merkle.TileWidth || r.tree.Size() == r.sealed) {
			tiles = append(tiles, t)
		}
	}
	if r.tree.Size() == r.sealed { // those at the edge that this window didn't change
		for level, data := range r.tree.edge().Tiles {
			t := merkle.Tile{Level: level, Index: r.sealed >> (merkle.TileHeight * level) / merkle.TileWidth, Width: len(data) / calpe.HashSize}
			if level > 0 && !slices.ContainsFunc(tiles, func(x merkle.TileData) bool { return x.Tile == t }) {
				tiles = append(tiles, merkle.TileData{Tile: t, Data: data})
			}
		}
	}
	for _, t := range tiles {
		data, err := r.log.Tile(ctx, t.Tile)
		object, err := broken(err)
		if err != nil {
			return nil, err
		}
		var wrong []int
		if object == nil && !bytes.Equal(data, t.Data) {
			wrong = []int{0}
		}
		at := t.Index * merkle.TileWidth << (merkle.TileHeight * t.Level)
		found = append(found, judgeObject(t.Path(), MendTile, object, wrong, at)...)
		r.state.count("tiles", 1)
	}
	return found, nil
}

// checkTail looks at the entries that no checkpoint covers yet: they are dense,
// not void without a reason, and not overdue (I2, I7).
func (r *run) checkTail(ctx context.Context) error {
	now := r.Now()
	var found []Finding
	rows := &rowReader{entries: r.Entries, next: max(r.sealed, r.state.After.Index)}
	rows.each = func(g calpe.GroupRecord) {
		void := slices.ContainsFunc(g.Commitments, calpe.Commitment.IsVoid)
		other := slices.ContainsFunc(g.Commitments, func(c calpe.Commitment) bool { return !c.IsVoid() })
		if g.Origin == calpe.OriginIntake && void || g.Origin == calpe.OriginVoid && other {
			found = append(found, Finding{Invariant: "I2", Thing: fmt.Sprintf("group at %d", g.First),
				Problem: fmt.Sprintf("has entries that a group of origin %s can't have", g.Origin), Do: restoreRows})
		}
		if !g.Deadline.IsZero() && g.Deadline.Before(now) {
			found = append(found, Finding{Invariant: "I7", Thing: fmt.Sprintf("group at %d", g.First),
				Problem: fmt.Sprintf("a checkpoint was promised by %s, and there is none", g.Deadline.Format("2006-01-02 15:04:05Z07:00")),
				Do:      "see in the servers' log why no checkpoint is made, or start a server"})
		}
	}
	for rows.next < r.next {
		to := min(rows.next+window, r.next)
		from := rows.next
		_, more, err := rows.read(ctx, to)
		if err != nil {
			return err
		}
		r.found(append(found, more...)...)
		found = nil
		r.state.count("entries", int(to-from))
		r.state.After.Index = to
		if err := r.save(false); err != nil {
			return err
		}
	}
	return nil
}
