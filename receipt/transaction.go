package receipt

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/calpe/calpe"
)

const (
	// MaxTransactionSize is the largest transaction in a receipt, in bytes: more
	// than any node relays.
	MaxTransactionSize = 100_000

	// forgeableSize is the length of two hashes: a transaction of that length can't
	// be told from an inner node of a block's tree (BIP 54).
	forgeableSize = 64

	minInputSize  = 32 + 4 + 1 + 4 // outpoint, length of an empty script, sequence
	minOutputSize = 8 + 1          // value, length of an empty script
)

var (
	errShort    = errors.New("ends too early")
	errSpelling = errors.New("a count is not in its shortest form")
)

// transaction is what a verifier needs to know of a Bitcoin transaction.
type transaction struct {
	id      calpe.BlockHash
	inputs  []calpe.Outpoint // what it spends
	scripts [][]byte         // of its outputs; they share the memory of the raw bytes
	values  []uint64         // of its outputs, satoshis
}

// parseTransaction reads a transaction in the serialization without witness,
// whose double SHA-256 is the txid. Nothing may be left over.
func parseTransaction(raw []byte) (transaction, error) {
	if len(raw) > MaxTransactionSize {
		return transaction{}, fmt.Errorf("transaction has %d bytes, more than %d", len(raw), MaxTransactionSize)
	}
	if len(raw) == forgeableSize {
		return transaction{}, fmt.Errorf("transaction has %d bytes: it may be an inner node of the block's tree", forgeableSize)
	}
	r := reader{rest: raw}
	tx := transaction{id: doubleHash(raw)}
	r.take(4) // version
	tx.inputs = r.inputs()
	tx.scripts, tx.values = r.outputs()
	r.take(4) // lock time
	if r.err == nil && len(r.rest) > 0 {
		r.err = fmt.Errorf("%d bytes follow it", len(r.rest))
	}
	if r.err != nil {
		return transaction{}, fmt.Errorf("transaction, at byte %d: %w", len(raw)-len(r.rest), r.err)
	}
	return tx, nil
}

// isCoinbase reports whether the transaction has the single input that only the
// first one of a block has.
func (tx transaction) isCoinbase() bool {
	return len(tx.inputs) == 1 && tx.inputs[0] == calpe.Outpoint{Vout: 0xffffffff}
}

// reader takes bytes from the front of rest. After the first error it gives
// nothing but zeros, so that callers check once.
type reader struct {
	rest []byte
	err  error
}

func (r *reader) take(n uint64) []byte {
	if r.err == nil && n > uint64(len(r.rest)) {
		r.err = errShort
	}
	if r.err != nil {
		return nil
	}
	b := r.rest[:n]
	r.rest = r.rest[n:]
	return b
}

// count reads Bitcoin's compact size, in its shortest form only.
func (r *reader) count() uint64 {
	first := r.take(1)
	if r.err != nil {
		return 0
	}
	if first[0] < 0xfd {
		return uint64(first[0])
	}
	width := uint64(1) << (first[0] - 0xfc) // 2, 4 or 8 bytes
	var b [8]byte
	copy(b[:], r.take(width))
	n := binary.LittleEndian.Uint64(b[:])
	if shortest := compactWidth(n); r.err == nil && shortest != width {
		r.err = errSpelling
	}
	return n
}

// compactWidth is how many bytes behind the first one a compact size has.
func compactWidth(n uint64) uint64 {
	switch {
	case n < 0xfd:
		return 0
	case n <= 0xffff:
		return 2
	case n <= 0xffffffff:
		return 4
	}
	return 8
}

// many reads how many things of at least size bytes follow: never more than
// there is room for, so that a lie about it costs no memory.
func (r *reader) many(what string, size int) int {
	n := r.count()
	if r.err == nil && n > uint64(len(r.rest)/size) {
		r.err = fmt.Errorf("%d %s: %w", n, what, errShort)
	}
	if r.err == nil && n == 0 {
		r.err = fmt.Errorf("no %s: it is no transaction, or one serialized with its witness", what)
	}
	if r.err != nil {
		return 0
	}
	return int(n)
}

func (r *reader) inputs() []calpe.Outpoint {
	inputs := make([]calpe.Outpoint, r.many("inputs", minInputSize))
	for i := range inputs {
		copy(inputs[i].TxID[:], r.take(calpe.HashSize))
		if vout := r.take(4); r.err == nil {
			inputs[i].Vout = binary.LittleEndian.Uint32(vout)
		}
		r.take(r.count()) // script
		r.take(4)         // sequence
	}
	return inputs
}

func (r *reader) outputs() (scripts [][]byte, values []uint64) {
	n := r.many("outputs", minOutputSize)
	scripts, values = make([][]byte, n), make([]uint64, n)
	for i := range scripts {
		if value := r.take(8); r.err == nil {
			values[i] = binary.LittleEndian.Uint64(value)
		}
		scripts[i] = r.take(r.count())
	}
	return scripts, values
}

// doubleHash is Bitcoin's SHA256d.
func doubleHash(b []byte) calpe.BlockHash {
	once := sha256.Sum256(b)
	return sha256.Sum256(once[:])
}

// branchRoot leads from a transaction at a position of its block to the root of
// the block's tree.
func branchRoot(id calpe.BlockHash, position uint32, branch []calpe.BlockHash) (calpe.BlockHash, error) {
	for level, sibling := range branch {
		var pair [2 * calpe.HashSize]byte
		if position&1 == 0 {
			copy(pair[:], id[:])
			copy(pair[calpe.HashSize:], sibling[:])
		} else {
			if id == sibling {
				// Bitcoin pairs the last hash of an odd level with itself: the copy is no
				// transaction's (CVE-2012-2459).
				return calpe.BlockHash{}, fmt.Errorf("level %d of the branch leads to a position that the block doesn't have", level)
			}
			copy(pair[:], sibling[:])
			copy(pair[calpe.HashSize:], id[:])
		}
		id = doubleHash(pair[:])
		position >>= 1
	}
	if position != 0 {
		return calpe.BlockHash{}, fmt.Errorf("position has more bits than the branch has levels (%d)", len(branch))
	}
	return id, nil
}
