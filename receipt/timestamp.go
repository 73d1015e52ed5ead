package receipt

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt/headers"
)

// Timestamp leads from the checkpoint to a block by operations of a calendar
// instead of a transaction of the log's own (docs/formats.md, "Receipt"). The
// header isn't in it: the Merkle root to which the operations lead is found in
// the chain of headers.
type Timestamp struct {
	Network    calpe.Network   `json:"network"`
	Genesis    calpe.BlockHash `json:"genesis"`
	Height     uint32          `json:"height"`
	Operations Operations      `json:"operations"`
}

// The limits of operations: those of OpenTimestamps.
const (
	MaxOperations      = 255    // how many
	MaxOperationsBytes = 10_000 // all together, as they are written: what calendars answer at most
	maxMessage         = 4096   // bytes of an argument, and of a message before or behind an operation
)

// The operations that a timestamp may have, by the bytes of OpenTimestamps.
const (
	OpSHA256  = 0x08
	OpAppend  = 0xf0
	OpPrepend = 0xf1
)

// Operation makes another message of a message.
type Operation struct {
	Tag byte   // [OpSHA256], [OpAppend] or [OpPrepend]
	Arg []byte // of the latter two, 1 to 4096 bytes
}

// Operations are operations as they are written, one behind the other: the tag,
// and for [OpAppend] and [OpPrepend] the length of the argument (LEB128) and the
// argument. Their text form is base64.
type Operations []byte

// MarshalText implements [encoding.TextMarshaler].
func (o Operations) MarshalText() ([]byte, error) {
	return base64.StdEncoding.AppendEncode(nil, o), nil
}

// UnmarshalText implements [encoding.TextUnmarshaler]; the result isn't nil.
func (o *Operations) UnmarshalText(text []byte) error {
	if len(text) > base64.StdEncoding.EncodedLen(MaxOperationsBytes) {
		return fmt.Errorf("operations of more than %d bytes", MaxOperationsBytes)
	}
	raw, err := base64.StdEncoding.Strict().AppendDecode([]byte{}, text)
	if err != nil {
		return err
	}
	*o = raw
	return nil
}

// NewOperations writes operations. It refuses what [Operations.List] does.
func NewOperations(list []Operation) (Operations, error) {
	o := Operations{}
	for _, op := range list {
		o = append(o, op.Tag)
		if op.Tag != OpSHA256 {
			o = binary.AppendUvarint(o, uint64(len(op.Arg)))
		}
		o = append(o, op.Arg...)
	}
	_, err := o.List()
	return o, err
}

// List reads the operations: 1 to [MaxOperations], nothing but the three, each
// in its only spelling, the last one [OpSHA256].
func (o Operations) List() (list []Operation, err error) {
	if len(o) > MaxOperationsBytes {
		return nil, fmt.Errorf("operations have %d bytes, more than %d", len(o), MaxOperationsBytes)
	}
	for rest := []byte(o); len(rest) > 0; {
		var op Operation
		if op, rest, err = readOperation(rest); err != nil {
			return nil, fmt.Errorf("operation %d: %w", len(list), err)
		}
		if len(list) == MaxOperations {
			return nil, fmt.Errorf("more than %d operations", MaxOperations)
		}
		list = append(list, op)
	}
	if len(list) == 0 || list[len(list)-1].Tag != OpSHA256 {
		return nil, errors.New("the operations don't end with SHA-256")
	}
	return list, nil
}

func readOperation(data []byte) (op Operation, rest []byte, err error) {
	op.Tag, rest = data[0], data[1:]
	switch op.Tag {
	case OpSHA256:
		return op, rest, nil
	case OpAppend, OpPrepend:
	default:
		return op, nil, fmt.Errorf("0x%02x is none that a receipt may have", op.Tag)
	}
	n, size := binary.Uvarint(rest)
	if size <= 0 || !bytes.Equal(binary.AppendUvarint(nil, n), rest[:size]) {
		return op, nil, errors.New("the length of its argument is not a number in its shortest form")
	}
	rest = rest[size:]
	if n < 1 || n > maxMessage || n > uint64(len(rest)) {
		return op, nil, fmt.Errorf("its argument has %d bytes, of %d that are left; 1 to %d may be", n, len(rest), maxMessage)
	}
	op.Arg = rest[:n]
	return op, rest[n:], nil
}

// Root is the Merkle root to which the operations lead from SHA-256 of a payload.
func (o Operations) Root(p calpe.Payload) (calpe.BlockHash, error) {
	list, err := o.List()
	if err != nil {
		return calpe.BlockHash{}, err
	}
	payload := p.Bytes()
	digest := sha256.Sum256(payload[:])
	message := digest[:]
	for i, op := range list {
		switch op.Tag {
		case OpSHA256:
			digest := sha256.Sum256(message)
			message = digest[:]
		case OpAppend:
			message = append(bytes.Clone(message), op.Arg...)
		case OpPrepend:
			message = append(bytes.Clone(op.Arg), message...)
		}
		if len(message) > maxMessage {
			return calpe.BlockHash{}, fmt.Errorf("operation %d makes a message of %d bytes, more than %d", i, len(message), maxMessage)
		}
	}
	return calpe.BlockHash(message), nil
}

// NewTimestamp is t as a receipt of that log shows it, and a copy of it. It
// checks nothing.
func NewTimestamp(id Identity, t calpe.Timestamp) *Timestamp {
	return &Timestamp{Network: id.Network, Genesis: id.Genesis, Height: t.Height, Operations: bytes.Clone(t.Operations)}
}

func (p *parsed) parseTimestamp() (err error) {
	t := p.Timestamp
	if t == nil {
		return nil
	}
	if p.checkpoint == nil {
		return errors.New("timestamp is there without a checkpoint")
	}
	if p.Anchor != nil {
		return errors.New("timestamp stands beside anchor")
	}
	if err := checkNetwork(t.Network, t.Genesis); err != nil {
		return fmt.Errorf("timestamp: %w", err)
	}
	p.merkleRoot, err = t.Operations.Root(calpe.Payload{Size: p.checkpoint.Size, Root: p.checkpoint.Root})
	if err != nil {
		return fmt.Errorf("timestamp: %w", err)
	}
	return nil
}

// inChain answers whether the block at the height has that Merkle root, and is
// deep enough.
func (t *Timestamp) inChain(root calpe.BlockHash, chain *headers.Chain, depth int) (Verdict, *Block) {
	p := place{t.Network, t.Genesis, t.Height}
	header, bad := p.find(chain)
	if bad != nil {
		return *bad, nil
	}
	if got := calpe.BlockHash(header.MerkleRoot); got != root {
		return refuted(ReasonNotInChain, "The timestamp leads to the Merkle root %s, block %d of the chain has %s: it never was in this chain, or was reorganised away.",
			root, t.Height, got), nil
	}
	return p.block(header, calpe.BlockHash{}, chain, depth)
}
