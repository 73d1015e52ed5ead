package merkle

import (
	"crypto/sha256"
	"fmt"
	"math/bits"

	"github.com/calpe/calpe"
)

// The first byte of what is hashed (RFC 6962, section 2.1). It keeps leaves and
// nodes apart, so that nobody can pass off a node as an entry.
const (
	leafPrefix = 0x00
	nodePrefix = 0x01
)

// LeafHash is SHA-256(0x00 || entry), RFC 6962 section 2.1. The bytes of an
// entry are those of [calpe.Entry.Bytes]; other lengths are hashed just so.
func LeafHash(entry []byte) calpe.Hash {
	b := make([]byte, 0, 1+calpe.EntrySize) // on the stack for the entries of the log
	b = append(b, leafPrefix)
	b = append(b, entry...)
	return sha256.Sum256(b)
}

// NodeHash is SHA-256(0x01 || left || right), RFC 6962 section 2.1.
func NodeHash(left, right calpe.Hash) calpe.Hash {
	var b [1 + 2*calpe.HashSize]byte
	b[0] = nodePrefix
	copy(b[1:], left[:])
	copy(b[1+calpe.HashSize:], right[:])
	return sha256.Sum256(b[:])
}

// EmptyRoot is the root of the log without entries, SHA-256 of no bytes.
func EmptyRoot() calpe.Hash { return sha256.Sum256(nil) }

// Root is the Merkle Tree Hash (RFC 6962, section 2.1) over leaf hashes. It
// takes constant memory and doesn't change its argument.
func Root(leaves []calpe.Hash) calpe.Hash {
	var r rightFold
	// peaks[k] is the root of a complete subtree of 2^k leaves, if bit k of the
	// number of leaves so far is set: adding one leaf is adding 1 in binary.
	var peaks [64]calpe.Hash
	for n, h := range leaves {
		level := bits.TrailingZeros64(^uint64(n))
		for k := range level {
			h = NodeHash(peaks[k], h)
		}
		peaks[level] = h
	}
	for k := range bits.Len(uint(len(leaves))) {
		if len(leaves)>>k&1 == 1 {
			r.add(peaks[k])
		}
	}
	return r.root()
}

// rightFold joins the complete subtrees of a tree from the right, the smallest,
// to the left, as RFC 6962 splits a tree that isn't complete.
type rightFold struct {
	acc calpe.Hash
	any bool
}

// add joins the next subtree to the left.
func (r *rightFold) add(subtree calpe.Hash) {
	if r.any {
		subtree = NodeHash(subtree, r.acc)
	}
	r.acc, r.any = subtree, true
}

// root of all that was added.
func (r *rightFold) root() calpe.Hash {
	if !r.any {
		return EmptyRoot()
	}
	return r.acc
}

// halve hashes the pairs of src, which holds 2n hashes, into the n hashes of
// dst. dst may be src: pair i is read before hash i is written.
func halve(dst, src []byte) {
	var b [1 + 2*calpe.HashSize]byte
	b[0] = nodePrefix
	for len(src) > 0 {
		copy(b[1:], src[:2*calpe.HashSize])
		h := sha256.Sum256(b[:])
		copy(dst, h[:])
		dst, src = dst[calpe.HashSize:], src[2*calpe.HashSize:]
	}
}

// subtree is a work area in which the roots of complete subtrees of up to a
// tile are computed, without an allocation for each.
type subtree [TileWidth / 2 * calpe.HashSize]byte

// root of the complete subtree over the hashes, of which there must be a power
// of two, at most [TileWidth].
func (s *subtree) root(hashes []byte) calpe.Hash {
	for len(hashes) > calpe.HashSize {
		halved := s[:len(hashes)/2]
		halve(halved, hashes)
		hashes = halved
	}
	return calpe.Hash(hashes)
}

// checkSize refuses what no log can reach. Below the limit, no sum or shift in
// this package overflows.
func checkSize(size uint64) error {
	if size > calpe.MaxLogSize {
		return fmt.Errorf("log size %d is above %d", size, uint64(calpe.MaxLogSize))
	}
	return nil
}
