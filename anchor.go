package calpe

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// BlockHash is a double SHA-256 as Bitcoin keeps it: a block's hash, a
// transaction's id, a node of a block's Merkle tree. The bytes are in internal
// order; the text form is byte-reversed, as every block explorer and RPC shows it.
type BlockHash [HashSize]byte

// String is the text form: 64 lower-case hexadecimal digits, byte-reversed.
func (h BlockHash) String() string {
	slices.Reverse(h[:])
	return hex.EncodeToString(h[:])
}

// MarshalText implements [encoding.TextMarshaler] with [BlockHash.String].
func (h BlockHash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler], see [ParseBlockHash].
func (h *BlockHash) UnmarshalText(text []byte) (err error) {
	*h, err = ParseBlockHash(string(text))
	return err
}

// ParseBlockHash reads the byte-reversed text form, lower case only.
func ParseBlockHash(text string) (h BlockHash, err error) {
	if err := parseHex("block or transaction hash", h[:], text); err != nil {
		return BlockHash{}, err
	}
	slices.Reverse(h[:])
	return h, nil
}

// Outpoint names one output of one transaction.
type Outpoint struct {
	TxID BlockHash
	Vout uint32
}

// String is "txid:vout", as in every Bitcoin tool.
func (o Outpoint) String() string {
	return o.TxID.String() + ":" + strconv.FormatUint(uint64(o.Vout), 10)
}

// MarshalText implements [encoding.TextMarshaler] with [Outpoint.String].
func (o Outpoint) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler], see [ParseOutpoint].
func (o *Outpoint) UnmarshalText(text []byte) (err error) {
	*o, err = ParseOutpoint(string(text))
	return err
}

// ParseOutpoint reads "txid:vout"; the number has no sign and no leading zero.
func ParseOutpoint(text string) (Outpoint, error) {
	txid, vout, ok := strings.Cut(text, ":")
	if !ok {
		return Outpoint{}, fmt.Errorf("outpoint %q is not txid:vout", text)
	}
	h, err := ParseBlockHash(txid)
	if err != nil {
		return Outpoint{}, fmt.Errorf("outpoint: %w", err)
	}
	n, err := strconv.ParseUint(vout, 10, 32)
	if err != nil || strconv.FormatUint(n, 10) != vout {
		return Outpoint{}, fmt.Errorf("outpoint: output number %q is not a plain decimal number", vout)
	}
	return Outpoint{TxID: h, Vout: uint32(n)}, nil
}

// Checkpoint states the root of exactly the first Size entries (I3). Note is
// the signed note that says so (docs/formats.md, "Checkpoint").
type Checkpoint struct {
	Size uint64
	Root Hash
	Note []byte
	Time time.Time
}

// HeaderSize is the length of a Bitcoin block header in bytes.
const HeaderSize = 80

// Anchor is a transaction with a [Payload] that is in a block, with all that a
// verifier needs to get from the transaction to the block's header. What block
// it is in is subject to what Bitcoin does: until Final, a reorganisation can
// replace it.
type Anchor struct {
	Payload
	Tx     []byte    // the raw transaction, serialized without witness: its double SHA-256 is TxID
	TxID   BlockHash // txid
	Height uint32    // of the block
	Block  BlockHash
	Header [HeaderSize]byte
	// Position of the transaction in the block, and the sibling hashes from it
	// to the header's Merkle root, lowest first.
	Position uint32
	Branch   []BlockHash
	// Coinbase is the block's first transaction without witness, and its branch.
	// Its depth proves the depth of Branch, so that an inner node of the block's
	// tree can't pass for a transaction (BIP 54 has the attack).
	Coinbase       []byte
	CoinbaseBranch []BlockHash
	Depth          uint32 // confirmations when last looked at: 1 in the newest block
	Final          bool
}
