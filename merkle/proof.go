package merkle

import (
	"errors"
	"fmt"
	"math/bits"

	"github.com/calpe/calpe"
)

// ErrRootMismatch is in the chain of every error that says: the input was well
// formed, and leads to another root than the one given. A proof is refuted, or
// tiles don't belong to the checkpoint. Trying again doesn't help.
var ErrRootMismatch = errors.New("root does not match")

// mismatch reports got, computed from what, where want was expected.
func mismatch(what string, got, want calpe.Hash) error {
	return fmt.Errorf("%s: %w: computed %v, want %v", what, ErrRootMismatch, got, want)
}

// inclusionShape is the number of hashes in the inclusion path of index in a
// log of size entries. In the inner part the path has one hash a level, right
// or left as the bits of index say. Above that lies the right border, where
// every hash is on the left. Needs index < size.
func inclusionShape(index, size uint64) (inner, border int) {
	inner = bits.Len64(index ^ (size - 1))
	return inner, bits.OnesCount64(index >> inner)
}

// RootFromInclusion computes the root of a log of size entries from the leaf
// hash at index and its inclusion path (RFC 9162, section 2.1.3.2). The length
// of the path is checked before anything is hashed. The result proves nothing
// until it is compared with a root that is trusted together with its size.
func RootFromInclusion(index, size uint64, leaf calpe.Hash, path []calpe.Hash) (calpe.Hash, error) {
	if err := checkSize(size); err != nil {
		return calpe.Hash{}, fmt.Errorf("inclusion proof: %w", err)
	}
	if index >= size {
		return calpe.Hash{}, fmt.Errorf("inclusion proof: index %d is not below size %d", index, size)
	}
	inner, border := inclusionShape(index, size)
	if len(path) != inner+border {
		return calpe.Hash{}, fmt.Errorf("inclusion proof: path has %d hashes, want %d for index %d in size %d",
			len(path), inner+border, index, size)
	}
	root := leaf
	for i, h := range path {
		if i < inner && index>>i&1 == 0 {
			root = NodeHash(root, h)
		} else {
			root = NodeHash(h, root)
		}
	}
	return root, nil
}

// VerifyInclusion checks that leaf is the leaf hash at index in the log with
// that size and root. An error with [ErrRootMismatch] in its chain is a refuted
// proof; any other error is a malformed one.
func VerifyInclusion(index, size uint64, leaf calpe.Hash, path []calpe.Hash, root calpe.Hash) error {
	got, err := RootFromInclusion(index, size, leaf, path)
	if err != nil {
		return err
	}
	if got != root {
		return mismatch("inclusion proof", got, root)
	}
	return nil
}

// VerifyConsistency checks that the log with newSize and newRoot starts with
// exactly the entries of the log with oldSize and oldRoot (RFC 9162, section
// 2.1.4.2). The path between equal sizes is empty, and so is the one from size
// 0, which RFC 9162 leaves undefined: every log starts with the empty one.
// Errors are as for [VerifyInclusion].
func VerifyConsistency(oldSize, newSize uint64, oldRoot, newRoot calpe.Hash, path []calpe.Hash) error {
	if err := checkGrowth(oldSize, newSize); err != nil {
		return fmt.Errorf("consistency proof: %w", err)
	}
	if want := consistencyLen(oldSize, newSize); len(path) != want {
		return fmt.Errorf("consistency proof: path has %d hashes, want %d from size %d to %d",
			len(path), want, oldSize, newSize)
	}
	if oldSize == 0 && oldRoot != EmptyRoot() {
		return mismatch("consistency proof: root of size 0", EmptyRoot(), oldRoot)
	}
	gotOld, gotNew := oldRoot, newRoot
	switch {
	case oldSize == newSize:
		gotNew = oldRoot
	case oldSize > 0:
		gotOld, gotNew = rootsFromConsistency(oldSize, newSize, oldRoot, path)
	}
	if gotOld != oldRoot {
		return mismatch(fmt.Sprintf("consistency proof: root of old size %d", oldSize), gotOld, oldRoot)
	}
	if gotNew != newRoot {
		return mismatch(fmt.Sprintf("consistency proof: root of new size %d", newSize), gotNew, newRoot)
	}
	return nil
}

// rootsFromConsistency computes both roots. Needs 0 < oldSize < newSize and a
// path of [consistencyLen] hashes.
//
// The path is the inclusion path in the new log of the largest complete subtree
// that ends at oldSize. Its hashes on the left are in the old log as well.
func rootsFromConsistency(oldSize, newSize uint64, oldRoot calpe.Hash, path []calpe.Hash) (gotOld, gotNew calpe.Hash) {
	seed := oldRoot
	if !isPowerOfTwo(oldSize) {
		seed, path = path[0], path[1:] // the subtree isn't the whole old log, so its root is in the path
	}
	shift := bits.TrailingZeros64(oldSize)
	inner, _ := inclusionShape(oldSize-1, newSize)
	inner -= shift
	last := (oldSize - 1) >> shift // the index of that subtree among those of its height
	gotOld, gotNew = seed, seed
	for i, h := range path {
		if i < inner && last>>i&1 == 0 {
			gotNew = NodeHash(gotNew, h)
		} else {
			gotOld, gotNew = NodeHash(h, gotOld), NodeHash(h, gotNew)
		}
	}
	return gotOld, gotNew
}

// consistencyLen is the number of hashes in the consistency path between two
// sizes. Needs oldSize <= newSize.
func consistencyLen(oldSize, newSize uint64) int {
	if oldSize == 0 || oldSize == newSize {
		return 0
	}
	inner, border := inclusionShape(oldSize-1, newSize)
	n := inner - bits.TrailingZeros64(oldSize) + border
	if !isPowerOfTwo(oldSize) {
		n++
	}
	return n
}

func isPowerOfTwo(n uint64) bool { return bits.OnesCount64(n) == 1 }

// checkGrowth refuses sizes between which no log can have grown.
func checkGrowth(oldSize, newSize uint64) error {
	if oldSize > newSize {
		return fmt.Errorf("old size %d is above new size %d", oldSize, newSize)
	}
	return checkSize(newSize)
}
