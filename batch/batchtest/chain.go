package batchtest

import (
	"bytes"
	"encoding/binary"
	"slices"
	"testing"

	"github.com/btcsuite/btcd/chaincfg/v2"
	"github.com/btcsuite/btcd/chainhash/v2"
	"github.com/btcsuite/btcd/wire/v2"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/bitcoin"
)

// Chain is a regtest chain of blocks that are mined by hand.
type Chain struct {
	tb     testing.TB
	Blocks []*wire.MsgBlock // the index is the height
	seed   byte
}

// NewChain is the genesis block. The seed makes chains differ.
func NewChain(tb testing.TB, seed byte) *Chain {
	tb.Helper()
	return &Chain{tb: tb, Blocks: []*wire.MsgBlock{chaincfg.RegressionNetParams.GenesisBlock}, seed: seed}
}

// Fork is a chain that has the blocks up to that height, and goes on differently.
func (c *Chain) Fork(height int, seed byte) *Chain {
	return &Chain{tb: c.tb, Blocks: slices.Clone(c.Blocks[:height+1]), seed: seed}
}

// Tip is the height of the last block.
func (c *Chain) Tip() int { return len(c.Blocks) - 1 }

// Empty mines blocks with nothing but their coinbases.
func (c *Chain) Empty(n int) {
	for range n {
		c.Mine()
	}
}

// Mine adds a block with those transactions behind its coinbase.
func (c *Chain) Mine(txs ...*wire.MsgTx) *wire.MsgBlock {
	c.tb.Helper()
	coinbase := wire.NewMsgTx(2)
	script := binary.LittleEndian.AppendUint32([]byte{5, c.seed}, uint32(len(c.Blocks)))
	coinbase.AddTxIn(wire.NewTxIn(&wire.OutPoint{Index: 0xffffffff}, script, nil))
	coinbase.AddTxOut(wire.NewTxOut(50e8, []byte{0x51}))
	tip := c.Blocks[c.Tip()]
	block := wire.NewMsgBlock(&wire.BlockHeader{Version: 0x20000000, PrevBlock: tip.BlockHash(), Bits: 0x207fffff,
		Timestamp: tip.Header.Timestamp.Add(600e9)})
	block.Transactions = append([]*wire.MsgTx{coinbase}, txs...)
	root, err := bitcoin.MerkleRoot(bitcoin.TxIDs(block))
	if err != nil {
		c.tb.Fatal(err)
	}
	block.Header.MerkleRoot = chainhash.Hash(root)
	for hash := block.BlockHash(); hash[31] > 0x7e; hash = block.BlockHash() {
		block.Header.Nonce++
	}
	c.Blocks = append(c.Blocks, block)
	return block
}

// Headers are the raw headers from the genesis block on.
func (c *Chain) Headers() []byte {
	var b bytes.Buffer
	for _, block := range c.Blocks {
		if err := block.Header.Serialize(&b); err != nil {
			c.tb.Fatal(err)
		}
	}
	return b.Bytes()
}

// Coin is a transaction that makes a coin of that value.
func Coin(value int64) *wire.MsgTx {
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(wire.NewTxIn(&wire.OutPoint{Hash: chainhash.Hash{7}}, nil, nil))
	tx.AddTxOut(wire.NewTxOut(value, change))
	return tx
}

// change is the script of all coins: any of that length is as good.
var change = slices.Concat([]byte{0, 20}, make([]byte, 20))

// AnchorTx is an attempt that spends the coins, and leaves a change of that value.
func AnchorTx(p calpe.Payload, value int64, coins ...calpe.Outpoint) *wire.MsgTx {
	tx := wire.NewMsgTx(2)
	for _, o := range coins {
		tx.AddTxIn(wire.NewTxIn(&wire.OutPoint{Hash: chainhash.Hash(o.TxID), Index: o.Vout}, nil, nil))
	}
	tx.AddTxOut(wire.NewTxOut(0, p.Script()))
	tx.AddTxOut(wire.NewTxOut(value, change))
	return tx
}

// Anchor is the evidence that a block holds the transaction at that position.
func (c *Chain) Anchor(height, position int, p calpe.Payload) calpe.Anchor {
	c.tb.Helper()
	block := c.Blocks[height]
	ids := bitcoin.TxIDs(block)
	a := calpe.Anchor{Payload: p, TxID: ids[position], Height: uint32(height), Block: calpe.BlockHash(block.BlockHash()),
		Position: uint32(position), Depth: uint32(c.Tip() - height + 1)}
	var header, tx, coinbase bytes.Buffer
	for _, err := range []error{
		block.Header.Serialize(&header), block.Transactions[position].SerializeNoWitness(&tx), block.Transactions[0].SerializeNoWitness(&coinbase),
	} {
		if err != nil {
			c.tb.Fatal(err)
		}
	}
	a.Header, a.Tx, a.Coinbase = [calpe.HeaderSize]byte(header.Bytes()), tx.Bytes(), coinbase.Bytes()
	var err, errCoinbase error
	a.Branch, _, err = bitcoin.MerkleBranch(ids, uint32(position))
	a.CoinbaseBranch, _, errCoinbase = bitcoin.MerkleBranch(ids, 0)
	if err != nil || errCoinbase != nil {
		c.tb.Fatal(err, errCoinbase)
	}
	return a
}
