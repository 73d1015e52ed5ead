package anchor_test

import (
	"bytes"
	"testing"

	"github.com/btcsuite/btcd/chainhash/v2"
	"github.com/btcsuite/btcd/wire/v2"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/bitcoin"
)

// checkEvidence does what a verifier does, with the steps of docs/formats.md.
func checkEvidence(t *testing.T, a calpe.Anchor) {
	t.Helper()
	var tx, coinbase wire.MsgTx
	if err := tx.DeserializeNoWitness(bytes.NewReader(a.Tx)); err != nil {
		t.Fatalf("transaction of the evidence: %v", err)
	}
	if err := coinbase.DeserializeNoWitness(bytes.NewReader(a.Coinbase)); err != nil {
		t.Fatalf("coinbase of the evidence: %v", err)
	}
	if !bytes.Equal(tx.TxOut[0].PkScript, a.Payload.Script()) || tx.TxOut[0].Value != 0 {
		t.Errorf("output 0 of %v isn't the payload of size %d", a.TxID, a.Size)
	}
	if id := calpe.BlockHash(chainhash.DoubleHashH(a.Tx)); id != a.TxID {
		t.Errorf("transaction has id %v, stated is %v", id, a.TxID)
	}
	if hash := calpe.BlockHash(chainhash.DoubleHashH(a.Header[:])); hash != a.Block {
		t.Errorf("header has hash %v, stated is %v", hash, a.Block)
	}
	want := calpe.BlockHash(a.Header[36:68])
	if root, ok := bitcoin.MerkleRootFromBranch(a.TxID, a.Position, a.Branch); !ok || root != want || a.Position == 0 {
		t.Errorf("branch of %v at %d leads to %v, not to %v", a.TxID, a.Position, root, want)
	}
	id := calpe.BlockHash(chainhash.DoubleHashH(a.Coinbase))
	if root, ok := bitcoin.MerkleRootFromBranch(id, 0, a.CoinbaseBranch); !ok || root != want || len(a.Branch) != len(a.CoinbaseBranch) {
		t.Errorf("coinbase branch of %v leads to %v, not to %v", a.TxID, root, want)
	}
	if in := coinbase.TxIn; len(in) != 1 || in[0].PreviousOutPoint.Index != 0xffffffff {
		t.Errorf("coinbase of %v is none", a.TxID)
	}
}
