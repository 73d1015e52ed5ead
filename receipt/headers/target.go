package headers

import (
	"bytes"
	"math/big"
	"slices"

	"github.com/btcsuite/btcd/chainhash/v2"
)

// target is what a block's hash, read as a number, must not be above.
type target struct {
	bits  uint32   // the compact form that it was decoded from
	limit [32]byte // big-endian
	work  *big.Int // the hashes that meeting it takes on average; never written to
}

// newTarget decodes nBits; false for a target that is zero, negative or above powLimit.
func newTarget(bits uint32, powLimit *big.Int) (target, bool) {
	n := decodeCompact(bits)
	if n.Sign() <= 0 || n.Cmp(powLimit) > 0 {
		return target{}, false
	}
	t := target{bits: bits, work: workOf(n)}
	n.FillBytes(t.limit[:])
	return t, true
}

// metBy compares from the most significant byte, the last of a hash, on.
func (t *target) metBy(hash *chainhash.Hash) bool {
	reversed := *hash
	slices.Reverse(reversed[:])
	return bytes.Compare(reversed[:], t.limit[:]) <= 0
}

// workOf returns 2^256 / (target + 1), rounded down.
func workOf(n *big.Int) *big.Int {
	all := new(big.Int).Lsh(big.NewInt(1), 256)
	return all.Quo(all, new(big.Int).Add(n, big.NewInt(1)))
}

// The compact form of a number, as in nBits: eight bits of exponent e, a sign
// bit, 23 bits of mantissa m; the number is m * 256^(e-3), rounded towards zero.
// It comes from OpenSSL's MPI format, hence the sign.
const (
	compactSign     = 0x00800000
	compactMantissa = 0x007fffff
)

// decodeCompact can return a negative number, and one of up to 2040 bits.
func decodeCompact(bits uint32) *big.Int {
	exponent := uint(bits >> 24)
	n := big.NewInt(int64(bits & compactMantissa))
	if exponent <= 3 {
		n.Rsh(n, 8*(3-exponent))
	} else {
		n.Lsh(n, 8*(exponent-3))
	}
	if bits&compactSign != 0 {
		n.Neg(n)
	}
	return n
}

// encodeCompact rounds a number from zero to 2^256 down to 23 bits or, as the
// highest must not look like a sign, to as few as 16.
func encodeCompact(n *big.Int) uint32 {
	exponent := uint(n.BitLen()+7) / 8
	var mantissa uint32
	if exponent <= 3 {
		mantissa = uint32(n.Uint64()) << (8 * (3 - exponent))
	} else {
		mantissa = uint32(new(big.Int).Rsh(n, 8*(exponent-3)).Uint64())
	}
	if mantissa&compactSign != 0 {
		mantissa >>= 8
		exponent++
	}
	return uint32(exponent)<<24 | mantissa
}
