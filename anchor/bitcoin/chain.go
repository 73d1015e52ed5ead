package bitcoin

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"math"
	"math/big"
	"slices"

	"github.com/btcsuite/btcd/btcutil/v2"
	"github.com/btcsuite/btcd/chainhash/v2"
	"github.com/btcsuite/btcd/wire/v2"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
)

// Height is the number of the newest block of the node's best chain.
func (c *Client) Height(ctx context.Context) (uint32, error) {
	var n uint32
	err := c.call(ctx, smallAnswer, &n, "getblockcount")
	return n, err
}

// BestBlock is height and hash of the newest block of the node's best chain.
// When a block arrives between the two calls that it takes, it is the one that
// was newest at the first.
func (c *Client) BestBlock(ctx context.Context) (uint32, calpe.BlockHash, error) {
	height, err := c.Height(ctx)
	if err != nil {
		return 0, calpe.BlockHash{}, err
	}
	hash, err := c.BlockHash(ctx, height)
	return height, hash, err
}

// BlockHash is the hash of the block at a height of the node's best chain. A
// height above its tip is an [RPCError].
func (c *Client) BlockHash(ctx context.Context, height uint32) (calpe.BlockHash, error) {
	var h calpe.BlockHash
	err := c.call(ctx, smallAnswer, &h, "getblockhash", height)
	return h, err
}

// Header is a block's header, of any branch that the node knows. Its hash is
// the one asked for, and meets the difficulty that the header states.
func (c *Client) Header(ctx context.Context, hash calpe.BlockHash) ([calpe.HeaderSize]byte, error) {
	var text string
	if err := c.call(ctx, smallAnswer, &text, "getblockheader", hash, false); err != nil {
		return [calpe.HeaderSize]byte{}, err
	}
	raw, err := hex.DecodeString(text)
	if err != nil || len(raw) != calpe.HeaderSize {
		return [calpe.HeaderSize]byte{}, fmt.Errorf("%w: header %v is not 80 bytes in hexadecimal", ErrInvalidBlock, hash)
	}
	header := [calpe.HeaderSize]byte(raw)
	return header, checkHeader(header, hash)
}

// Block is a whole block, of any branch whose blocks the node keeps. Its hash
// is the one asked for and meets the difficulty that the header states; its
// transactions give the header's Merkle root.
func (c *Client) Block(ctx context.Context, hash calpe.BlockHash) (*wire.MsgBlock, error) {
	var text string
	if err := c.call(ctx, c.cfg.MaxResponse, &text, "getblock", hash, 0); err != nil {
		return nil, err
	}
	raw, err := hex.DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("%w: block %v is not hexadecimal", ErrInvalidBlock, hash)
	}
	return ParseBlock(raw, hash)
}

// ParseBlock reads a serialized block and makes the checks of [Client.Block].
// Any bytes give a block or an error.
func ParseBlock(raw []byte, hash calpe.BlockHash) (*wire.MsgBlock, error) {
	if len(raw) < calpe.HeaderSize {
		return nil, fmt.Errorf("%w: block %v has %d bytes", ErrInvalidBlock, hash, len(raw))
	}
	if err := checkHeader([calpe.HeaderSize]byte(raw[:calpe.HeaderSize]), hash); err != nil {
		return nil, err
	}
	var block wire.MsgBlock
	r := bytes.NewReader(raw)
	if err := block.Deserialize(r); err != nil {
		return nil, fmt.Errorf("%w: block %v: %w", ErrInvalidBlock, hash, err)
	}
	if r.Len() != 0 {
		return nil, fmt.Errorf("%w: block %v has %d bytes after its end", ErrInvalidBlock, hash, r.Len())
	}
	if len(block.Transactions) == 0 {
		return nil, fmt.Errorf("%w: block %v has no transaction", ErrInvalidBlock, hash)
	}
	root, err := MerkleRoot(TxIDs(&block))
	if err != nil {
		return nil, fmt.Errorf("%w: block %v: %w", ErrInvalidBlock, hash, err)
	}
	if root != calpe.BlockHash(block.Header.MerkleRoot) {
		return nil, fmt.Errorf("%w: the transactions of block %v don't give its Merkle root", ErrInvalidBlock, hash)
	}
	return &block, nil
}

// TxIDs lists the ids of a block's transactions, in their order.
func TxIDs(block *wire.MsgBlock) []calpe.BlockHash {
	ids := make([]calpe.BlockHash, len(block.Transactions))
	for i, tx := range block.Transactions {
		ids[i] = calpe.BlockHash(tx.TxHash())
	}
	return ids
}

func checkHeader(header [calpe.HeaderSize]byte, want calpe.BlockHash) error {
	got := calpe.BlockHash(chainhash.DoubleHashH(header[:]))
	if got != want {
		return fmt.Errorf("%w: the block has hash %v, asked for was %v", ErrInvalidBlock, got, want)
	}
	target, err := target(header)
	if err != nil {
		return fmt.Errorf("%w: %v: %w", ErrInvalidBlock, want, err)
	}
	be := want
	slices.Reverse(be[:])
	if new(big.Int).SetBytes(be[:]).Cmp(target) > 0 {
		return fmt.Errorf("%w: %v doesn't meet the difficulty that it states", ErrInvalidBlock, want)
	}
	return nil
}

// target decodes the compact form of a header's difficulty (nBits): a base-256
// floating-point number with a sign that must not be used.
func target(header [calpe.HeaderSize]byte) (*big.Int, error) {
	bits := uint32(header[72]) | uint32(header[73])<<8 | uint32(header[74])<<16 | uint32(header[75])<<24
	mantissa, exponent := int64(bits&0x007fffff), bits>>24
	if bits&0x00800000 != 0 || exponent > 34 {
		return nil, fmt.Errorf("difficulty %#08x is negative or too large", bits)
	}
	n := big.NewInt(mantissa)
	if exponent <= 3 {
		n.Rsh(n, uint(8*(3-exponent)))
	} else {
		n.Lsh(n, uint(8*(exponent-3)))
	}
	if n.Sign() == 0 || n.BitLen() > 256 {
		return nil, fmt.Errorf("difficulty %#08x is zero or too large", bits)
	}
	return n, nil
}

// Work is how many hashes a block with that header takes on average:
// 2^256 / (target + 1). A header whose difficulty can't be read has none.
func Work(header [calpe.HeaderSize]byte) *big.Int {
	t, err := target(header)
	if err != nil {
		return new(big.Int)
	}
	whole := new(big.Int).Lsh(big.NewInt(1), 256)
	return whole.Div(whole, t.Add(t, big.NewInt(1)))
}

// TxOut is what a node knows of an unspent, confirmed output.
type TxOut struct {
	ledger.Output
	BestBlock     calpe.BlockHash // the tip as of which it is unspent
	Confirmations uint32
}

// TxOut looks an output up in the chain, mempool left aside. The second result
// is false when no block of the best chain makes it, or one spends it.
func (c *Client) TxOut(ctx context.Context, o calpe.Outpoint) (TxOut, bool, error) {
	var out *struct {
		BestBlock     calpe.BlockHash `json:"bestblock"`
		Confirmations int64           `json:"confirmations"`
		Value         float64         `json:"value"`
		Script        struct {
			Hex string `json:"hex"`
		} `json:"scriptPubKey"`
	}
	if err := c.call(ctx, smallAnswer, &out, "gettxout", o.TxID, o.Vout, false); err != nil {
		return TxOut{}, false, err
	}
	if out == nil {
		return TxOut{}, false, nil
	}
	// Bitcoin amounts are floating-point numbers in JSON-RPC; they leave that
	// form here, rounded to the satoshi.
	value, err := btcutil.NewAmount(out.Value)
	script, errHex := hex.DecodeString(out.Script.Hex)
	if err != nil || errHex != nil || value < 0 || value > btcutil.MaxSatoshi || out.Confirmations < 1 || out.Confirmations > math.MaxInt32 {
		return TxOut{}, false, fmt.Errorf("%w: gettxout gave an impossible output for %v", ErrUnavailable, o)
	}
	return TxOut{
		Output:        ledger.Output{Value: int64(value), Script: script},
		BestBlock:     out.BestBlock,
		Confirmations: uint32(out.Confirmations),
	}, true, nil
}
