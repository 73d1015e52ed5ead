package merkle

import (
	"fmt"
	"math/bits"
	"slices"

	"github.com/calpe/calpe"
)

// TileSource supplies tiles: for each of those asked for, in their order, its
// bytes, exactly [Tile.ByteLen] of them. It is asked once for all tiles that a
// computation needs, each of them once, so that it can read them at the same
// time; context, time-outs and retries are its own. Only tiles of the log size
// in question are asked for. A source that has the full tile in place of a
// partial one may cut it: hashes don't change when a tile grows.
//
// The slices are read before the computation returns, and not kept.
type TileSource func(tiles []Tile) ([][]byte, error)

// RootFromTiles computes the root of the log of size entries, from at most one
// tile for each level.
func RootFromTiles(size uint64, src TileSource) (calpe.Hash, error) {
	if err := checkSize(size); err != nil {
		return calpe.Hash{}, fmt.Errorf("root: %w", err)
	}
	roots, err := spanRoots(size, []span{{0, size}}, src)
	if err != nil {
		return calpe.Hash{}, fmt.Errorf("root of size %d: %w", size, err)
	}
	return roots[0], nil
}

// InclusionProof computes PATH(index, D[size]) of RFC 6962, section 2.1.1. The
// tiles are taken as they are: whoever has leaf and root should check the
// result with [VerifyInclusion] before giving it away.
func InclusionProof(index, size uint64, src TileSource) ([]calpe.Hash, error) {
	if err := checkSize(size); err != nil {
		return nil, fmt.Errorf("inclusion proof: %w", err)
	}
	if index >= size {
		return nil, fmt.Errorf("inclusion proof: index %d is not below size %d", index, size)
	}
	path, err := spanRoots(size, inclusionSpans(index, size), src)
	if err != nil {
		return nil, fmt.Errorf("inclusion proof of index %d in size %d: %w", index, size, err)
	}
	return path, nil
}

// ConsistencyProof computes PROOF(oldSize, D[newSize]) of RFC 6962, section
// 2.1.2. It is empty for equal sizes and from size 0. Check the result with
// [VerifyConsistency].
func ConsistencyProof(oldSize, newSize uint64, src TileSource) ([]calpe.Hash, error) {
	if err := checkGrowth(oldSize, newSize); err != nil {
		return nil, fmt.Errorf("consistency proof: %w", err)
	}
	path, err := spanRoots(newSize, consistencySpans(oldSize, newSize), src)
	if err != nil {
		return nil, fmt.Errorf("consistency proof from size %d to %d: %w", oldSize, newSize, err)
	}
	return path, nil
}

// span is the subtree of the log over the entries lo up to, not including, hi.
type span struct{ lo, hi uint64 }

// split is where RFC 6962 splits a subtree of more than one entry: its left
// part is as large a power of two as leaves something to the right.
func (s span) split() uint64 {
	return s.lo + 1<<(bits.Len64(s.hi-s.lo-1)-1)
}

// inclusionSpans are the subtrees whose roots are the inclusion path, the
// smallest first.
func inclusionSpans(index, size uint64) []span {
	var spans []span
	for s := (span{0, size}); s.hi-s.lo > 1; {
		mid := s.split()
		if index < mid {
			spans = append(spans, span{mid, s.hi})
			s.hi = mid
		} else {
			spans = append(spans, span{s.lo, mid})
			s.lo = mid
		}
	}
	slices.Reverse(spans)
	return spans
}

// consistencySpans are the same for the consistency path.
func consistencySpans(oldSize, newSize uint64) []span {
	if oldSize == 0 {
		return nil
	}
	var spans []span
	s := span{0, newSize}
	for s.hi != oldSize {
		mid := s.split()
		if oldSize <= mid {
			spans = append(spans, span{mid, s.hi})
			s.hi = mid
		} else {
			spans = append(spans, span{s.lo, mid})
			s.lo = mid
		}
	}
	if s.lo > 0 { // otherwise it is the old log, whose root the verifier has
		spans = append(spans, s)
	}
	slices.Reverse(spans)
	return spans
}

// node is the root of a complete subtree of 2^level entries, the index-th.
type node struct {
	level int
	index uint64
}

// nodes are the complete subtrees that s consists of, from right to left.
func (s span) nodes() []node {
	var nodes []node
	for s.lo < s.hi {
		level := bits.TrailingZeros64(s.hi - s.lo)
		s.hi -= 1 << level
		nodes = append(nodes, node{level, s.hi >> level})
	}
	return nodes
}

// tile of a log of size entries that holds n, or the hashes n is made from, and
// which of them: count from the offset-th.
func (n node) tile(size uint64) (t Tile, offset, count int) {
	level := n.level / TileHeight
	count = 1 << (n.level % TileHeight)
	first := n.index * uint64(count)
	t = Tile{Level: uint8(level), Index: first / TileWidth}
	t.Width = int(min(size>>(level*TileHeight)-t.Index*TileWidth, TileWidth))
	return t, int(first % TileWidth), count
}

// spanRoots computes the root of each span in the log of size entries.
func spanRoots(size uint64, spans []span, src TileSource) ([]calpe.Hash, error) {
	tiles, err := loadTiles(size, spans, src)
	if err != nil {
		return nil, err
	}
	var work subtree
	roots := make([]calpe.Hash, len(spans))
	for i, s := range spans {
		var r rightFold
		for _, n := range s.nodes() {
			t, offset, count := n.tile(size)
			r.add(work.root(tiles[t][offset*calpe.HashSize:][:count*calpe.HashSize]))
		}
		roots[i] = r.root()
	}
	return roots, nil
}

// loadTiles gets every tile that the spans need, once.
func loadTiles(size uint64, spans []span, src TileSource) (map[Tile][]byte, error) {
	loaded := make(map[Tile][]byte)
	var wanted []Tile
	for _, s := range spans {
		for _, n := range s.nodes() {
			t, _, _ := n.tile(size)
			if _, ok := loaded[t]; !ok {
				loaded[t] = nil
				wanted = append(wanted, t)
			}
		}
	}
	data, err := readTiles(wanted, src)
	if err != nil {
		return nil, err
	}
	for i, t := range wanted {
		loaded[t] = data[i]
	}
	return loaded, nil
}

// readTiles asks the source, unless there is nothing to ask for, and checks the
// length of everything that comes back.
func readTiles(tiles []Tile, src TileSource) ([][]byte, error) {
	if len(tiles) == 0 {
		return nil, nil
	}
	data, err := src(tiles)
	if err != nil {
		return nil, fmt.Errorf("read tiles: %w", err)
	}
	if len(data) != len(tiles) {
		return nil, fmt.Errorf("read tiles: source gave %d tiles, want %d", len(data), len(tiles))
	}
	for i, t := range tiles {
		if len(data[i]) != t.ByteLen() {
			return nil, fmt.Errorf("%v has %d bytes, want %d", t, len(data[i]), t.ByteLen())
		}
	}
	return data, nil
}
