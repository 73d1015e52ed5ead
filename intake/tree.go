package intake

import (
	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
)

// groupTree is the RFC 6962 tree over the entries of one commit group, kept
// whole so that the path of every entry costs no further hash. levels[0] are the
// leaves; each level above has half as many, an odd last one moves up as it is.
type groupTree struct{ levels [][]calpe.Hash }

// newGroupTree needs at least one commitment.
func newGroupTree(first uint64, commitments []calpe.Commitment) groupTree {
	level := leafHashes(first, commitments)
	t := groupTree{[][]calpe.Hash{level}}
	for len(level) > 1 {
		above := make([]calpe.Hash, 0, (len(level)+1)/2)
		for i := 0; i+1 < len(level); i += 2 {
			above = append(above, merkle.NodeHash(level[i], level[i+1]))
		}
		if len(level)%2 == 1 {
			above = append(above, level[len(level)-1])
		}
		level = above
		t.levels = append(t.levels, level)
	}
	return t
}

func (t groupTree) root() calpe.Hash { return t.levels[len(t.levels)-1][0] }

// path is the inclusion path of the i-th entry, the lowest sibling first.
func (t groupTree) path(i uint64) []calpe.Hash {
	var path []calpe.Hash
	for _, level := range t.levels[:len(t.levels)-1] {
		if sibling := i ^ 1; sibling < uint64(len(level)) {
			path = append(path, level[sibling])
		}
		i /= 2
	}
	return path
}

// leafHashes are the leaf hashes of entries in a row.
func leafHashes(first uint64, commitments []calpe.Commitment) []calpe.Hash {
	leaves := make([]calpe.Hash, len(commitments))
	for i, c := range commitments {
		entry := calpe.Entry{Index: first + uint64(i), Commitment: c}.Bytes()
		leaves[i] = merkle.LeafHash(entry[:])
	}
	return leaves
}
