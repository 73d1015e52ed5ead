package merkle_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
)

// The reference: the recursive definitions of RFC 6962, sections 2.1 to 2.1.2,
// and the loops of RFC 9162, as literally as Go allows. Slow, and sharing
// nothing with the package but the hash of a node.

// refSplit is the largest power of two below n.
func refSplit(n int) int {
	k := 1
	for k*2 < n {
		k *= 2
	}
	return k
}

// refRoot is MTH(D[n]).
func refRoot(leaves []calpe.Hash) calpe.Hash {
	switch len(leaves) {
	case 0:
		return merkle.EmptyRoot()
	case 1:
		return leaves[0]
	}
	k := refSplit(len(leaves))
	return merkle.NodeHash(refRoot(leaves[:k]), refRoot(leaves[k:]))
}

// refPath is PATH(m, D[n]).
func refPath(m int, leaves []calpe.Hash) []calpe.Hash {
	if len(leaves) == 1 {
		return nil
	}
	k := refSplit(len(leaves))
	if m < k {
		return append(refPath(m, leaves[:k]), refRoot(leaves[k:]))
	}
	return append(refPath(m-k, leaves[k:]), refRoot(leaves[:k]))
}

// refProof is PROOF(m, D[n]), for 0 < m < n.
func refProof(m int, leaves []calpe.Hash) []calpe.Hash {
	return refSubproof(m, leaves, true)
}

func refSubproof(m int, leaves []calpe.Hash, known bool) []calpe.Hash {
	if m == len(leaves) {
		if known {
			return nil
		}
		return []calpe.Hash{refRoot(leaves)}
	}
	k := refSplit(len(leaves))
	if m <= k {
		return append(refSubproof(m, leaves[:k], known), refRoot(leaves[k:]))
	}
	return append(refSubproof(m-k, leaves[k:], false), refRoot(leaves[:k]))
}

// refVerifyInclusion is RFC 9162, section 2.1.3.2.
func refVerifyInclusion(index, size uint64, leaf calpe.Hash, path []calpe.Hash, root calpe.Hash) bool {
	if index >= size {
		return false
	}
	fn, sn, r := index, size-1, leaf
	for _, p := range path {
		if sn == 0 {
			return false
		}
		if fn&1 == 1 || fn == sn {
			r = merkle.NodeHash(p, r)
			for fn&1 == 0 && fn != 0 {
				fn, sn = fn>>1, sn>>1
			}
		} else {
			r = merkle.NodeHash(r, p)
		}
		fn, sn = fn>>1, sn>>1
	}
	return sn == 0 && r == root
}

// refVerifyConsistency is RFC 9162, section 2.1.4.2, for 0 < first < second.
func refVerifyConsistency(first, second uint64, firstHash, secondHash calpe.Hash, path []calpe.Hash) bool {
	if len(path) == 0 {
		return false
	}
	if first&(first-1) == 0 {
		path = slices.Concat([]calpe.Hash{firstHash}, path)
	}
	fn, sn := first-1, second-1
	for fn&1 == 1 {
		fn, sn = fn>>1, sn>>1
	}
	fr, sr := path[0], path[0]
	for _, c := range path[1:] {
		if sn == 0 {
			return false
		}
		if fn&1 == 1 || fn == sn {
			fr, sr = merkle.NodeHash(c, fr), merkle.NodeHash(c, sr)
			for fn&1 == 0 && fn != 0 {
				fn, sn = fn>>1, sn>>1
			}
		} else {
			sr = merkle.NodeHash(sr, c)
		}
		fn, sn = fn>>1, sn>>1
	}
	return sn == 0 && fr == firstHash && sr == secondHash
}

// testLeaves are n leaf hashes, the same ones in every run.
func testLeaves(n int) []calpe.Hash {
	leaves := make([]calpe.Hash, n)
	for i := range leaves {
		leaves[i] = merkle.LeafHash(binary.BigEndian.AppendUint64(nil, uint64(i)))
	}
	return leaves
}

// refTile is the definition in tlog-tiles: hash i of the n-th tile at level l is
// MTH(D[(n*256+i) * 256^l : (n*256+i+1) * 256^l]).
func refTile(t testing.TB, tile merkle.Tile, leaves []calpe.Hash) []byte {
	t.Helper()
	span := uint64(1) << (8 * tile.Level)
	var data []byte
	for i := range uint64(tile.Width) {
		lo := (tile.Index*merkle.TileWidth + i) * span
		if lo+span > uint64(len(leaves)) {
			t.Fatalf("%v is not a tile of a log of size %d", tile, len(leaves))
		}
		h := refRoot(leaves[lo : lo+span])
		data = append(data, h[:]...)
	}
	return data
}

// store is a fake of the tile storage of one log. It enforces what tlog-tiles
// asks of one: a tile never changes, and one that grows keeps its start.
type store struct {
	t     testing.TB
	tiles map[merkle.Tile][]byte
}

func newStore(t testing.TB) *store {
	return &store{t: t, tiles: make(map[merkle.Tile][]byte)}
}

func (s *store) put(tiles []merkle.TileData) {
	s.t.Helper()
	for _, tile := range tiles {
		if old, ok := s.tiles[tile.Tile]; ok && !bytes.Equal(old, tile.Data) {
			s.t.Fatalf("%v written again with other bytes", tile)
		}
		if len(tile.Data) != tile.Width*calpe.HashSize {
			s.t.Fatalf("%v written with %d bytes", tile, len(tile.Data))
		}
		s.tiles[tile.Tile] = bytes.Clone(tile.Data)
	}
}

// source gives tiles of the log when it had that size, and fails the test if it
// is asked for another, or twice for one.
func (s *store) source(size uint64) merkle.TileSource {
	return func(tiles []merkle.Tile) ([][]byte, error) {
		s.t.Helper()
		var data [][]byte
		for i, tile := range tiles {
			hashes := size >> (8 * tile.Level)
			if want := min(hashes-tile.Index*merkle.TileWidth, merkle.TileWidth); uint64(tile.Width) != want {
				s.t.Errorf("size %d: asked for %v, which has width %d", size, tile, want)
			}
			if slices.Contains(tiles[:i], tile) {
				s.t.Errorf("size %d: asked twice for %v", size, tile)
			}
			d, ok := s.tiles[tile]
			if !ok {
				return nil, fmt.Errorf("no tile %v", tile)
			}
			data = append(data, d)
		}
		return data, nil
	}
}

// storeOf is the store of a log that grew to the leaves in one step.
func storeOf(t testing.TB, leaves []calpe.Hash) *store {
	t.Helper()
	s := newStore(t)
	s.put(grow(t, s, 0, merkle.EmptyRoot(), leaves).Tiles())
	return s
}

// grow loads the edge at size and appends leaves.
func grow(t testing.TB, s *store, size uint64, root calpe.Hash, leaves []calpe.Hash) *merkle.Builder {
	t.Helper()
	b, err := merkle.LoadEdge(size, root, s.source(size))
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Append(leaves); err != nil {
		t.Fatal(err)
	}
	return b
}

// tlogReader answers x/mod's tlog, by its numbering of stored hashes.
type tlogReader []tlog.Hash

func (r tlogReader) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	hashes := make([]tlog.Hash, len(indexes))
	for i, index := range indexes {
		hashes[i] = r[index]
	}
	return hashes, nil
}

func newTlog(t testing.TB, leaves []calpe.Hash) tlogReader {
	t.Helper()
	var r tlogReader
	for i, h := range leaves {
		stored, err := tlog.StoredHashesForRecordHash(int64(i), tlog.Hash(h), r)
		if err != nil {
			t.Fatal(err)
		}
		r = append(r, stored...)
	}
	return r
}

func fromTlog(hashes []tlog.Hash) []calpe.Hash {
	var out []calpe.Hash
	for _, h := range hashes {
		out = append(out, calpe.Hash(h))
	}
	return out
}

func toTlog(hashes []calpe.Hash) []tlog.Hash {
	var out []tlog.Hash
	for _, h := range hashes {
		out = append(out, tlog.Hash(h))
	}
	return out
}
