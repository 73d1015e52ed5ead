package nodetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"math/big"
	"time"

	"github.com/btcsuite/btcd/chainhash/v2"
	"github.com/btcsuite/btcd/txscript/v2"
	"github.com/btcsuite/btcd/wire/v2"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/bitcoin"
)

// Mine mines a block on the node's tip with just these serialized transactions,
// whatever its mempool holds.
func (n *Node) Mine(raws ...[]byte) calpe.BlockHash {
	n.tb.Helper()
	height, tip, err := n.BestBlock(context.Background())
	if err != nil {
		n.tb.Fatalf("mine: %v", err)
	}
	header, err := n.Header(context.Background(), tip)
	if err != nil {
		n.tb.Fatalf("mine: %v", err)
	}
	var prev wire.BlockHeader
	if err := prev.Deserialize(bytes.NewReader(header[:])); err != nil {
		n.tb.Fatalf("mine: %v", err)
	}
	block := wire.NewMsgBlock(&wire.BlockHeader{
		Version: 0x20000000, PrevBlock: chainhash.Hash(tip), Timestamp: prev.Timestamp.Add(time.Second), Bits: prev.Bits,
	})
	block.Transactions = []*wire.MsgTx{n.coinbase(height + 1)}
	for _, raw := range raws {
		tx := new(wire.MsgTx)
		if err := tx.Deserialize(bytes.NewReader(raw)); err != nil {
			n.tb.Fatalf("mine: %v", err)
		}
		block.Transactions = append(block.Transactions, tx)
	}
	n.commit(block)
	n.solve(block)
	n.submit(block)
	return calpe.BlockHash(block.BlockHash())
}

// Empty mines blocks without any transaction, whatever the mempool holds.
func (n *Node) Empty(count int) {
	n.tb.Helper()
	for range count {
		n.Mine()
	}
}

// coinbase claims nothing: the subsidy of a test chain halves soon.
func (n *Node) coinbase(height uint32) *wire.MsgTx {
	n.tb.Helper()
	n.mined++
	extra := binary.BigEndian.AppendUint64(nil, n.mined)
	script, err := txscript.NewScriptBuilder().AddInt64(int64(height)).AddData(append(extra, n.p2p...)).Script()
	if err != nil {
		n.tb.Fatalf("mine: %v", err)
	}
	tx := wire.NewMsgTx(2)
	in := wire.NewTxIn(&wire.OutPoint{Index: 0xffffffff}, script, nil)
	tx.AddTxIn(in)
	tx.AddTxOut(wire.NewTxOut(0, n.script))
	return tx
}

// commit adds the commitment to the witnesses (BIP 141) if there are any, and
// the Merkle root.
func (n *Node) commit(block *wire.MsgBlock) {
	n.tb.Helper()
	root := func(ids []calpe.BlockHash) chainhash.Hash {
		r, err := bitcoin.MerkleRoot(ids)
		if err != nil {
			n.tb.Fatalf("mine: %v", err)
		}
		return chainhash.Hash(r)
	}
	if len(block.Transactions) > 1 {
		ids := []calpe.BlockHash{{}}
		for _, tx := range block.Transactions[1:] {
			ids = append(ids, calpe.BlockHash(tx.WitnessHash()))
		}
		nonce := make([]byte, chainhash.HashSize)
		witness := root(ids)
		commitment := chainhash.DoubleHashB(append(witness[:], nonce...))
		coinbase := block.Transactions[0]
		coinbase.TxIn[0].Witness = wire.TxWitness{nonce}
		coinbase.AddTxOut(wire.NewTxOut(0, append([]byte{txscript.OP_RETURN, 0x24, 0xaa, 0x21, 0xa9, 0xed}, commitment...)))
	}
	block.Header.MerkleRoot = root(bitcoin.TxIDs(block))
}

// solve finds the proof of work: two tries on average.
func (n *Node) solve(block *wire.MsgBlock) {
	n.tb.Helper()
	target := new(big.Int).Lsh(big.NewInt(int64(block.Header.Bits&0xffffff)), uint(8*(block.Header.Bits>>24-3)))
	for nonce := range uint32(10_000) {
		block.Header.Nonce = nonce
		hash := block.Header.BlockHash()
		for i, j := 0, len(hash)-1; i < j; i, j = i+1, j-1 {
			hash[i], hash[j] = hash[j], hash[i]
		}
		if new(big.Int).SetBytes(hash[:]).Cmp(target) <= 0 {
			return
		}
	}
	n.tb.Fatal("mine: the difficulty is none of a test network's")
}

// submit hands over a block. "inconclusive" is Core's word for a branch that
// isn't the best.
func (n *Node) submit(block *wire.MsgBlock) {
	n.tb.Helper()
	var b bytes.Buffer
	if err := block.Serialize(&b); err != nil {
		n.tb.Fatalf("submit block: %v", err)
	}
	var answer any
	n.Call(&answer, "submitblock", hex.EncodeToString(b.Bytes()))
	if answer != nil && answer != "inconclusive" && answer != "duplicate" {
		n.tb.Fatalf("submit block: %v", answer)
	}
}

// Give hands all blocks of this node's best chain to another.
func (n *Node) Give(other *Node) {
	n.tb.Helper()
	ctx := context.Background()
	tip, _, err := n.BestBlock(ctx)
	if err != nil {
		n.tb.Fatalf("give: %v", err)
	}
	for height := uint32(1); height <= tip; height++ {
		hash, err := n.BlockHash(ctx, height)
		if err != nil {
			n.tb.Fatalf("give: %v", err)
		}
		block, err := n.Block(ctx, hash)
		if err != nil {
			n.tb.Fatalf("give: %v", err)
		}
		other.submit(block)
	}
}
