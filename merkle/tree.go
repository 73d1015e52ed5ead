package merkle

import (
	"fmt"
	"math/bits"

	"github.com/calpe/calpe"
)

// Tree is a whole tree in memory, for groups of entries that need every path:
// building it costs one hash for each leaf, a path after that none. It is never
// changed, so any number of goroutines may use it at once.
type Tree struct {
	// levels[0] are the leaves; each next level has the hashes of the pairs
	// below. A last node without a partner goes up as it is, which gives the
	// same tree as the recursive definition in RFC 6962.
	levels [][]calpe.Hash
}

// NewTree makes the tree over leaf hashes. It keeps a copy, not the slice.
// Memory: 64 bytes a leaf.
func NewTree(leaves []calpe.Hash) *Tree {
	if len(leaves) == 0 {
		return &Tree{}
	}
	depth := bits.Len(uint(len(leaves) - 1))
	t := &Tree{levels: make([][]calpe.Hash, 0, depth+1)}
	nodes := make([]calpe.Hash, 2*len(leaves)+depth) // each level adds at most half a node by rounding up
	level := nodes[:copy(nodes, leaves)]
	for t.levels = append(t.levels, level); len(level) > 1; t.levels = append(t.levels, level) {
		nodes = nodes[len(level):]
		level = pairUp(nodes[:(len(level)+1)/2], level)
	}
	return t
}

// pairUp fills dst with the parents of src.
func pairUp(dst, src []calpe.Hash) []calpe.Hash {
	for i := range len(src) / 2 {
		dst[i] = NodeHash(src[2*i], src[2*i+1])
	}
	if len(src)%2 == 1 {
		dst[len(dst)-1] = src[len(src)-1]
	}
	return dst
}

// Root of the tree; [EmptyRoot] without leaves.
func (t *Tree) Root() calpe.Hash {
	if len(t.levels) == 0 {
		return EmptyRoot()
	}
	return t.levels[len(t.levels)-1][0]
}

// InclusionPath is PATH(index, leaves) of RFC 6962, section 2.1.1: the sibling
// next to the leaf first. The only error is an index that isn't in the tree.
func (t *Tree) InclusionPath(index uint64) ([]calpe.Hash, error) {
	var size uint64
	if len(t.levels) > 0 {
		size = uint64(len(t.levels[0]))
	}
	if index >= size {
		return nil, fmt.Errorf("inclusion path: index %d is not below size %d", index, size)
	}
	path := make([]calpe.Hash, 0, len(t.levels)-1)
	for _, level := range t.levels[:len(t.levels)-1] {
		if sibling := index ^ 1; sibling < uint64(len(level)) {
			path = append(path, level[sibling])
		}
		index >>= 1
	}
	return path, nil
}

// InclusionPath is one path of a tree that isn't needed again, see
// [Tree.InclusionPath]. For more than one path of a group use [NewTree].
func InclusionPath(leaves []calpe.Hash, index uint64) ([]calpe.Hash, error) {
	return NewTree(leaves).InclusionPath(index)
}
