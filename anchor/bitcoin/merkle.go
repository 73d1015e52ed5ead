package bitcoin

import (
	"errors"
	"fmt"

	"github.com/btcsuite/btcd/chainhash/v2"

	"github.com/calpe/calpe"
)

// This is Bitcoin's tree of a block's transactions: double SHA-256, an odd node
// at the end of a level paired with itself. It is not the log's tree.

var errTwins = errors.New("two equal nodes stand side by side in its Merkle tree, which would hide a repeated transaction (CVE-2012-2459)")

// MerkleRoot is the root over the ids of a block's transactions. No id at all
// is an error, and so is a tree that several lists of transactions give.
func MerkleRoot(txids []calpe.BlockHash) (calpe.BlockHash, error) {
	_, root, err := merkleWalk(txids, 0)
	return root, err
}

// MerkleBranch is the sibling hashes from the transaction at position to the
// root, lowest first, and the root.
func MerkleBranch(txids []calpe.BlockHash, position uint32) (branch []calpe.BlockHash, root calpe.BlockHash, err error) {
	return merkleWalk(txids, position)
}

func merkleWalk(txids []calpe.BlockHash, position uint32) (branch []calpe.BlockHash, root calpe.BlockHash, err error) {
	if uint64(position) >= uint64(len(txids)) {
		return nil, calpe.BlockHash{}, fmt.Errorf("no transaction %d in a block of %d", position, len(txids))
	}
	level := append([]calpe.BlockHash(nil), txids...)
	branch = []calpe.BlockHash{}
	for pos := int(position); len(level) > 1; pos /= 2 {
		last := len(level) - 1
		branch = append(branch, level[min(pos^1, last)])
		next := level[:0]
		for i := 0; i <= last; i += 2 {
			if i < last && level[i] == level[i+1] {
				return nil, calpe.BlockHash{}, errTwins
			}
			next = append(next, merkleNode(level[i], level[min(i+1, last)]))
		}
		level = next
	}
	return branch, level[0], nil
}

// MerkleRootFromBranch is the root to which a branch leads from the transaction
// at position. The second result is false if position has more bits than the
// branch has hashes.
func MerkleRootFromBranch(txid calpe.BlockHash, position uint32, branch []calpe.BlockHash) (calpe.BlockHash, bool) {
	for _, sibling := range branch {
		if position&1 == 0 {
			txid = merkleNode(txid, sibling)
		} else {
			txid = merkleNode(sibling, txid)
		}
		position >>= 1
	}
	return txid, position == 0
}

func merkleNode(left, right calpe.BlockHash) calpe.BlockHash {
	var b [2 * calpe.HashSize]byte
	copy(b[:], left[:])
	copy(b[calpe.HashSize:], right[:])
	return calpe.BlockHash(chainhash.DoubleHashH(b[:]))
}
