package merkle

import (
	"fmt"
	"slices"

	"github.com/calpe/calpe"
)

// Builder appends to a log. It starts from the right edge of a log of some
// size and holds nothing but that edge and what was appended since: 32 bytes
// for each entry, and one in 255 more. Appending hashes each new subtree of a
// full tile once and allocates only to grow.
//
// A Builder belongs to one goroutine. It has no state outside memory: whoever
// gives up an append throws the Builder away and loads the edge again (I8).
type Builder struct {
	start  uint64 // size of the log when it was loaded
	size   uint64
	levels [tileLevels]edge
	work   subtree
}

// edge is the right end of one tile level.
type edge struct {
	first  uint64 // index in the level of the first hash held, a multiple of TileWidth
	hashes []byte
	rolled int // bytes of hashes that are full tiles whose roots are in the next level
}

// TileData is a tile and its bytes.
type TileData struct {
	Tile
	Data []byte
}

// LoadEdge makes a Builder for the log with that size and root, from the
// partial tiles at its right edge, one at most for each level. An error with
// [ErrRootMismatch] in its chain says that the tiles are not those of the root:
// the stores disagree, and nothing may be appended. The empty log needs no
// source.
func LoadEdge(size uint64, root calpe.Hash, src TileSource) (*Builder, error) {
	if err := checkSize(size); err != nil {
		return nil, fmt.Errorf("load edge: %w", err)
	}
	tiles := edgeTiles(size)
	data, err := readTiles(tiles, src)
	if err != nil {
		return nil, fmt.Errorf("load edge of size %d: %w", size, err)
	}
	b := &Builder{start: size, size: size}
	for level := range b.levels {
		b.levels[level].first = size >> (TileHeight * level) / TileWidth * TileWidth
	}
	for i, t := range tiles {
		b.levels[t.Level].hashes = slices.Clone(data[i])
	}
	if got := b.Root(); got != root {
		return nil, mismatch(fmt.Sprintf("load edge of size %d", size), got, root)
	}
	return b, nil
}

// edgeTiles are the partial tiles of a log: no tile at a level that is made of
// full ones.
func edgeTiles(size uint64) []Tile {
	var tiles []Tile
	for level := uint8(0); size > 0; level++ {
		if width := int(size % TileWidth); width > 0 {
			tiles = append(tiles, Tile{level, size / TileWidth, width})
		}
		size /= TileWidth
	}
	return tiles
}

// Size is the number of entries in the log, with those that were appended.
func (b *Builder) Size() uint64 { return b.size }

// Append adds leaf hashes at the end. It fails only if the log would grow above
// [calpe.MaxLogSize], and then adds none of them.
func (b *Builder) Append(leaves []calpe.Hash) error {
	if room := calpe.MaxLogSize - b.size; uint64(len(leaves)) > room {
		return fmt.Errorf("append %d leaves to a log of size %d: there is room for %d", len(leaves), b.size, room)
	}
	hashes := slices.Grow(b.levels[0].hashes, len(leaves)*calpe.HashSize)
	for i := range leaves {
		hashes = append(hashes, leaves[i][:]...)
	}
	b.levels[0].hashes = hashes
	b.size += uint64(len(leaves))
	b.rollUp()
	return nil
}

// rollUp adds the roots of tiles that became full to the next level. At the
// last level no tile becomes full below [calpe.MaxLogSize].
func (b *Builder) rollUp() {
	const full = TileWidth * calpe.HashSize
	for level := range tileLevels - 1 {
		e, next := &b.levels[level], &b.levels[level+1]
		for ; len(e.hashes)-e.rolled >= full; e.rolled += full {
			root := b.work.root(e.hashes[e.rolled:][:full])
			next.hashes = append(next.hashes, root[:]...)
		}
	}
}

// Root of the log, with what was appended. It costs at most 255 hashes a level.
func (b *Builder) Root() calpe.Hash {
	var r rightFold
	for level := range b.levels {
		e := &b.levels[level]
		partial := e.hashes[e.rolled:]
		for _, n := range (span{0, uint64(len(partial) / calpe.HashSize)}).nodes() {
			count := 1 << n.level
			r.add(b.work.root(partial[int(n.index)*count*calpe.HashSize:][:count*calpe.HashSize]))
		}
	}
	return r.root()
}

// Tiles gives the tiles that changed since [LoadEdge], in the order of
// [NewTiles], each with its bytes. The bytes are the Builder's own: don't
// change them. They stay as they are when more is appended.
func (b *Builder) Tiles() []TileData {
	var tiles []TileData
	for t := range NewTiles(b.start, b.size) {
		e := &b.levels[t.Level]
		lo := int(t.Index*TileWidth-e.first) * calpe.HashSize
		hi := lo + t.ByteLen()
		tiles = append(tiles, TileData{t, e.hashes[lo:hi:hi]})
	}
	return tiles
}
