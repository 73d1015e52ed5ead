package ots

// MerkleTree leads from each of several messages to one, so that a calendar is
// asked once for all of them: from leaf i, ways[i] leads to the root. One leaf is
// the root itself; no leaves have none. The leaves may be of any length that
// [Op.Apply] takes; clients use SHA-256 of digest and nonce.
//
// It is the tree of the reference's make_merkle_tree, which is not that of RFC
// 6962: neighbours are hashed in pairs, and one that is left over goes up as it is.
func MerkleTree(leaves [][]byte) (root []byte, ways [][]Op, err error) {
	ways = make([][]Op, len(leaves))
	type subtree struct {
		root        []byte
		first, last int // its leaves, without the last
	}
	level := make([]subtree, len(leaves))
	for i, leaf := range leaves {
		level[i] = subtree{leaf, i, i + 1}
	}
	for len(level) > 1 {
		next := level[:0]
		for len(level) > 1 {
			left, right := level[0], level[1]
			level = level[2:]
			appended := []Op{{Append, string(right.root)}, {Tag: SHA256}}
			prepended := []Op{{Prepend, string(left.root)}, {Tag: SHA256}}
			for i := left.first; i < left.last; i++ {
				ways[i] = append(ways[i], appended...)
			}
			for i := right.first; i < right.last; i++ {
				ways[i] = append(ways[i], prepended...)
			}
			both, err := applyAll(left.root, appended)
			if err != nil {
				return nil, nil, err
			}
			next = append(next, subtree{both, left.first, right.last})
		}
		level = append(next, level...)
	}
	if len(level) == 1 {
		root = level[0].root
	}
	return root, ways, nil
}
