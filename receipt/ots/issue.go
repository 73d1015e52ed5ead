package ots

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt"
)

// ErrNotAnchored says that there is no block yet and no calendar to ask later, so
// that there is nothing to attest.
var ErrNotAnchored = errors.New("the receipt has no anchor yet")

// The first bytes of what is hashed (RFC 6962, section 2.1).
const (
	leafPrefix = "\x00"
	nodePrefix = "\x01"
)

// FromReceipt writes a receipt as a file that every OpenTimestamps client can
// verify: one line from the digest over salt, index, inclusion proof and
// transaction to the Merkle root of the block. It shows that the document
// existed; whose log it is in and who certified it are only in the receipt.
//
// Without an anchor the line ends at the entry's 40 bytes, pending at the given
// calendar, from which a client gets the rest (see [Complete]); the error has
// [ErrNotAnchored] in its chain if calendar is empty. With an anchor, or with a
// timestamp by another calendar, calendar isn't used.
//
// The receipt is verified first, except for what takes a chain of headers. A
// transaction of more than [MaxMessage] bytes can't be in such a file. An anchor
// in a test network gives the same attestation: the format has no other.
func FromReceipt(r receipt.Receipt, calendar string) (DetachedFile, error) {
	v := receipt.Verify(receipt.Input{Digest: r.Digest, Receipt: r}).Existed
	if v.Status == receipt.Refuted {
		// Not the sentence, which may show a digest: this error ends in a log (I10).
		return DetachedFile{}, fmt.Errorf("write receipt as OpenTimestamps file: the receipt is refuted: %s", v.Reason)
	}
	t, err := timestampOf(r, calendar)
	if err != nil {
		return DetachedFile{}, fmt.Errorf("write receipt of entry %d as OpenTimestamps file: %w", r.Index, err)
	}
	return NewDetachedFile(SHA256, t)
}

func timestampOf(r receipt.Receipt, calendar string) (Timestamp, error) {
	if r.Timestamp != nil {
		return timestampBy(r)
	}
	if r.Anchor == nil {
		if calendar == "" {
			return Timestamp{}, ErrNotAnchored
		}
		return Stamp(r.Digest[:], r.Salt, r.Index, calendar)
	}
	a, err := anchorOf(r)
	if err != nil {
		return Timestamp{}, err
	}
	entry := calpe.Entry{Index: r.Index, Commitment: calpe.Commit(r.Digest, r.Salt)}
	ops, err := blockOps(entry, r.Path, a)
	if err != nil {
		return Timestamp{}, err
	}
	return NewTimestamp(r.Digest[:], append(entryOps(r.Salt, r.Index), ops...), BitcoinBlock(uint64(a.Height)))
}

// timestampBy is the way of a receipt that a calendar has led to its block.
func timestampBy(r receipt.Receipt) (Timestamp, error) {
	_, c, err := receipt.ReadCheckpoint([]byte(r.Checkpoint))
	if err != nil {
		return Timestamp{}, err
	}
	entry := calpe.Entry{Index: r.Index, Commitment: calpe.Commit(r.Digest, r.Salt)}
	ops, err := calendarOps(entry, r.Path, calpe.Timestamp{Payload: calpe.Payload{Size: c.Size, Root: c.Root}, Operations: r.Timestamp.Operations})
	if err != nil {
		return Timestamp{}, err
	}
	return NewTimestamp(r.Digest[:], append(entryOps(r.Salt, r.Index), ops...), BitcoinBlock(uint64(r.Timestamp.Height)))
}

func anchorOf(r receipt.Receipt) (calpe.Anchor, error) {
	_, c, err := receipt.ReadCheckpoint([]byte(r.Checkpoint))
	if err != nil {
		return calpe.Anchor{}, err
	}
	a := calpe.Anchor{Payload: calpe.Payload{Size: c.Size, Root: c.Root}, Tx: r.Anchor.Transaction,
		Height: r.Anchor.Height, Position: r.Anchor.Position, Branch: r.Anchor.Branch}
	copy(a.Header[:], r.Anchor.Header)
	return a, nil
}

// Stamp is what a calendar answers to a digest that it has recorded: the way
// from the message to its entry, pending at the calendar's URI. The entry's
// commitment is SHA-256(message || salt), so that the client can't choose it.
func Stamp(message []byte, salt calpe.Salt, index uint64, calendar string) (Timestamp, error) {
	a, err := PendingAt(calendar)
	if err != nil {
		return Timestamp{}, fmt.Errorf("stamp entry %d: %w", index, err)
	}
	return NewTimestamp(message, entryOps(salt, index), a)
}

// Complete is what a calendar answers to the 40 bytes of an entry, once there is
// an anchor that covers it: the way from there to the block. The path is the
// inclusion proof in the tree of the anchor's size. Of the anchor it uses
// Payload, Tx, Height, Header, Position and Branch. Parts that don't lead from
// one to the other are an error.
func Complete(entry calpe.Entry, path []calpe.Hash, anchor calpe.Anchor) (Timestamp, error) {
	ops, err := blockOps(entry, path, anchor)
	if err != nil {
		return Timestamp{}, fmt.Errorf("complete entry %d: %w", entry.Index, err)
	}
	message := entry.Bytes()
	return NewTimestamp(message[:], ops, BitcoinBlock(uint64(anchor.Height)))
}

// entryOps lead from a digest to an entry: index || SHA-256(digest || salt).
func entryOps(salt calpe.Salt, index uint64) []Op {
	return []Op{
		{Append, string(salt[:])},
		{Tag: SHA256},
		{Prepend, string(binary.BigEndian.AppendUint64(nil, index))},
	}
}

// blockOps lead from an entry to the Merkle root of the anchor's block. At the
// longest, 40 levels of the log and 32 of a block, they are 222.
func blockOps(entry calpe.Entry, path []calpe.Hash, a calpe.Anchor) ([]Op, error) {
	message := entry.Bytes()
	err := merkle.VerifyInclusion(entry.Index, a.Size, merkle.LeafHash(message[:]), path, a.Root)
	if err != nil {
		return nil, err
	}
	payload := a.Payload.Bytes()
	// Wherever it stands in the transaction, it is committed to. A receipt demands
	// more than this: output 0.
	at := bytes.Index(a.Tx, payload[:])
	if at < 0 {
		return nil, errors.New("the transaction doesn't hold the payload")
	}
	ops := inclusionOps(entry.Index, a.Size, path)
	ops = append(ops, wrap(a.Tx[:at+len(payload)-calpe.HashSize], a.Tx[at+len(payload):])...)
	ops = append(ops, Op{Tag: SHA256}, Op{Tag: SHA256})
	ops = append(ops, branchOps(a.Position, a.Branch)...)
	return ops, checkOps(message[:], ops, a.Header)
}

// inclusionOps lead from an entry to the root of the log (RFC 9162, section
// 2.1.3.2). They need a path that has been verified.
func inclusionOps(index, size uint64, path []calpe.Hash) []Op {
	ops := []Op{{Prepend, leafPrefix}, {Tag: SHA256}}
	inner := bits.Len64(index ^ (size - 1)) // levels below the right border of the tree
	for i, h := range path {
		if i < inner && index>>i&1 == 0 {
			ops = append(ops, wrap([]byte(nodePrefix), h[:])...)
		} else {
			ops = append(ops, Op{Prepend, nodePrefix + string(h[:])})
		}
		ops = append(ops, Op{Tag: SHA256})
	}
	return ops
}

// branchOps lead from a txid to the Merkle root of its block.
func branchOps(position uint32, branch []calpe.BlockHash) (ops []Op) {
	for level, h := range branch {
		side := Append
		if position>>level&1 == 1 {
			side = Prepend
		}
		ops = append(ops, Op{side, string(h[:])}, Op{Tag: SHA256}, Op{Tag: SHA256})
	}
	return ops
}

// wrap puts bytes before and behind a message.
func wrap(before, behind []byte) (ops []Op) {
	if len(behind) > 0 {
		ops = append(ops, Op{Append, string(behind)})
	}
	return append(ops, Op{Prepend, string(before)})
}

// checkOps follows the operations to the Merkle root of the header.
func checkOps(message []byte, ops []Op, header [calpe.HeaderSize]byte) error {
	for _, op := range ops {
		var err error
		if message, err = op.Apply(message); err != nil {
			return err
		}
	}
	// Every way ends with a hash: that of the transaction, or of its branch.
	if got, want := calpe.BlockHash(message), calpe.BlockHash(header[36:68]); got != want {
		return fmt.Errorf("the branch leads to the root %s, the header has %s", got, want)
	}
	return nil
}
