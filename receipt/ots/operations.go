package ots

import (
	"fmt"
	"iter"
	"slices"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt"
)

// Ways yields for each Bitcoin attestation the operations that lead to its
// message, and the height that it names, in the order in which they are written.
// Nothing is verified. A hostile timestamp has thousands: stop early.
func (t Timestamp) Ways() iter.Seq2[[]Op, uint64] {
	return func(yield func([]Op, uint64) bool) {
		if t.root != nil {
			t.root.ways(nil, yield)
		}
	}
}

func (n *node) ways(from []Op, yield func([]Op, uint64) bool) bool {
	for _, a := range n.attestations {
		if height, ok := a.Block(); ok && !yield(slices.Clone(from), height) {
			return false
		}
	}
	for _, s := range n.steps {
		if !s.next.ways(append(from, s.op), yield) {
			return false
		}
	}
	return true
}

// Operations writes operations as the timestamp in a receipt has them. What such
// a timestamp can't have is an error.
func Operations(ops []Op) (receipt.Operations, error) {
	list := make([]receipt.Operation, len(ops))
	for i, op := range ops {
		list[i] = receipt.Operation{Tag: byte(op.Tag), Arg: []byte(op.Arg)}
	}
	o, err := receipt.NewOperations(list)
	if err != nil {
		return nil, fmt.Errorf("write operations for a receipt: %w", err)
	}
	return o, nil
}

// CompleteBy is [Complete] for an entry that is led to its block by another
// calendar: the path is the inclusion proof in the tree of the timestamp's size.
func CompleteBy(entry calpe.Entry, path []calpe.Hash, by calpe.Timestamp) (Timestamp, error) {
	ops, err := calendarOps(entry, path, by)
	if err != nil {
		return Timestamp{}, fmt.Errorf("complete entry %d: %w", entry.Index, err)
	}
	message := entry.Bytes()
	return NewTimestamp(message[:], ops, BitcoinBlock(uint64(by.Height)))
}

// calendarOps lead from an entry over the payload's digest to the Merkle root to
// which another calendar has led that.
func calendarOps(entry calpe.Entry, path []calpe.Hash, by calpe.Timestamp) ([]Op, error) {
	message := entry.Bytes()
	if err := merkle.VerifyInclusion(entry.Index, by.Size, merkle.LeafHash(message[:]), path, by.Root); err != nil {
		return nil, err
	}
	list, err := receipt.Operations(by.Operations).List()
	if err != nil {
		return nil, err
	}
	payload := by.Payload.Bytes()
	ops := append(inclusionOps(entry.Index, by.Size, path),
		Op{Prepend, string(payload[:calpe.PayloadSize-calpe.HashSize])}, Op{Tag: SHA256})
	for _, op := range list {
		ops = append(ops, Op{Tag(op.Tag), string(op.Arg)})
	}
	return ops, nil
}
