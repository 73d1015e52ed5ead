package bitcoin_test

import (
	"bytes"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/rand/v2"
	"net/http"
	"slices"
	"testing"

	"github.com/btcsuite/btcd/blockchain"
	"github.com/btcsuite/btcd/btcutil/v2"
	"github.com/btcsuite/btcd/chaincfg/v2"
	"github.com/btcsuite/btcd/wire/v2"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/bitcoin"
)

func pemOf(certificate []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate})
}

func genesis(t testing.TB, params *chaincfg.Params) (raw []byte, hash calpe.BlockHash) {
	t.Helper()
	var b bytes.Buffer
	if err := params.GenesisBlock.Serialize(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), calpe.BlockHash(*params.GenesisHash)
}

func TestParseBlock(t *testing.T) {
	for _, params := range []*chaincfg.Params{&chaincfg.MainNetParams, &chaincfg.TestNet4Params, &chaincfg.SigNetParams, &chaincfg.RegressionNetParams} {
		raw, hash := genesis(t, params)
		if b, err := bitcoin.ParseBlock(raw, hash); err != nil || calpe.BlockHash(b.BlockHash()) != hash {
			t.Errorf("%s: %v", params.Name, err)
		}
	}
	raw, hash := genesis(t, &chaincfg.MainNetParams)
	for n := range raw {
		if _, err := bitcoin.ParseBlock(raw[:n], hash); !errors.Is(err, bitcoin.ErrInvalidBlock) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
		spoiled := slices.Clone(raw)
		spoiled[n] ^= 4
		if _, err := bitcoin.ParseBlock(spoiled, hash); !errors.Is(err, bitcoin.ErrInvalidBlock) {
			t.Fatalf("byte %d changed: %v", n, err)
		}
	}
	if _, err := bitcoin.ParseBlock(append(slices.Clone(raw), 0), hash); !errors.Is(err, bitcoin.ErrInvalidBlock) {
		t.Errorf("a byte more: %v", err)
	}
	if _, err := bitcoin.ParseBlock(raw, calpe.BlockHash{1}); !errors.Is(err, bitcoin.ErrInvalidBlock) {
		t.Errorf("another hash: %v", err)
	}
}

// A block or header whose hash doesn't meet its own difficulty is refused even
// if it has the hash that was asked for.
func TestDifficultyIsChecked(t *testing.T) {
	block := chaincfg.RegressionNetParams.GenesisBlock.Copy()
	for _, bits := range []uint32{0x1d00ffff, 0x1d80ffff, 0, 0xff123456, 0x01003456, 0x2200ffff} {
		block.Header.Bits = bits
		var raw bytes.Buffer
		if err := block.Serialize(&raw); err != nil {
			t.Fatal(err)
		}
		hash := calpe.BlockHash(block.BlockHash())
		if _, err := bitcoin.ParseBlock(raw.Bytes(), hash); !errors.Is(err, bitcoin.ErrInvalidBlock) {
			t.Errorf("bits %#x: %v", bits, err)
		}
		url := serve(t, func(w http.ResponseWriter, _ *http.Request, req rpcRequest) {
			says(w, req, `"`+hex.EncodeToString(raw.Bytes()[:80])+`"`, "null")
		})
		if _, err := client(t, bitcoin.Config{URL: url}).Header(t.Context(), hash); !errors.Is(err, bitcoin.ErrInvalidBlock) {
			t.Errorf("header with bits %#x: %v", bits, err)
		}
	}
}

func TestHeaderLength(t *testing.T) {
	for _, result := range []string{`""`, `"00"`, `"` + hex.EncodeToString(make([]byte, 81)) + `"`, `"zz"`} {
		url := serve(t, func(w http.ResponseWriter, _ *http.Request, req rpcRequest) { says(w, req, result, "null") })
		if _, err := client(t, bitcoin.Config{URL: url}).Header(t.Context(), calpe.BlockHash{}); !errors.Is(err, bitcoin.ErrInvalidBlock) {
			t.Errorf("%s: %v", result, err)
		}
	}
}

// Work agrees with btcd's, for every difficulty that can be read.
func TestWork(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 5000 {
		bits := []uint32{0x1d00ffff, 0x207fffff, 0x03123456, 0x02123456}[i%4]
		if i > 100 {
			bits = r.Uint32N(33)<<24 | r.Uint32N(0x800000)
		}
		var header [calpe.HeaderSize]byte
		header[72], header[73], header[74], header[75] = byte(bits), byte(bits>>8), byte(bits>>16), byte(bits>>24)
		if got, want := bitcoin.Work(header), blockchain.CalcWork(bits); got.Cmp(want) != 0 {
			t.Fatalf("work of %#08x is %v, want %v", bits, got, want)
		}
	}
}

func randomIDs(r *rand.Rand, n int) ([]calpe.BlockHash, []*btcutil.Tx) {
	ids := make([]calpe.BlockHash, n)
	txs := make([]*btcutil.Tx, n)
	for i := range n {
		tx := wire.NewMsgTx(2)
		tx.LockTime = r.Uint32()
		ids[i], txs[i] = calpe.BlockHash(tx.TxHash()), btcutil.NewTx(tx)
	}
	return ids, txs
}

// Roots agree with btcd's; every branch of every size leads to the root, and to
// no other place.
func TestMerkle(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for n := 1; n <= 70; n++ {
		ids, txs := randomIDs(r, n)
		root, err := bitcoin.MerkleRoot(ids)
		if want := blockchain.CalcMerkleRoot(txs, false); err != nil || root != calpe.BlockHash(want) {
			t.Fatalf("root of %d: %v (%v), want %v", n, root, err, want)
		}
		for pos := range uint32(n) {
			branch, same, err := bitcoin.MerkleBranch(ids, pos)
			if err != nil || same != root {
				t.Fatalf("branch %d of %d: %v, %v", pos, n, same, err)
			}
			if got, ok := bitcoin.MerkleRootFromBranch(ids[pos], pos, branch); !ok || got != root {
				t.Fatalf("branch %d of %d leads to %v, %v", pos, n, got, ok)
			}
			if _, ok := bitcoin.MerkleRootFromBranch(ids[pos], pos+1<<len(branch), branch); ok {
				t.Fatalf("branch %d of %d fits a position beyond its depth", pos, n)
			}
		}
		if _, _, err := bitcoin.MerkleBranch(ids, uint32(n)); err == nil {
			t.Fatalf("branch of transaction %d of %d", n, n)
		}
	}
	if _, err := bitcoin.MerkleRoot(nil); err == nil {
		t.Error("root of no transaction")
	}
}

// CVE-2012-2459: a list with its end repeated has the same root.
func TestMerkleTwins(t *testing.T) {
	ids, _ := randomIDs(rand.New(rand.NewPCG(5, 6)), 6)
	if _, err := bitcoin.MerkleRoot(append(slices.Clone(ids), ids[4], ids[5])); err == nil {
		t.Error("a block with two transactions repeated has a root")
	}
	if _, err := bitcoin.MerkleRoot(append(slices.Clone(ids[:5]), ids[4])); err == nil {
		t.Error("a block with its last transaction repeated has a root")
	}
}

// Any bytes give a block that is what was asked for, or an error.
func FuzzParseBlock(f *testing.F) {
	raw, hash := genesis(f, &chaincfg.RegressionNetParams)
	f.Add(raw)
	f.Add(raw[:80])
	f.Add(append(slices.Clone(raw[:80]), 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if block, err := bitcoin.ParseBlock(raw, hash); err == nil && calpe.BlockHash(block.BlockHash()) != hash {
			t.Fatal("a block with another hash")
		}
		if len(raw) < calpe.HeaderSize {
			return
		}
		// With its own hash, so that the parser behind the first check is reached.
		var h wire.BlockHeader
		if err := h.Deserialize(bytes.NewReader(raw)); err != nil {
			return
		}
		if block, err := bitcoin.ParseBlock(raw, calpe.BlockHash(h.BlockHash())); err == nil {
			if root, err := bitcoin.MerkleRoot(bitcoin.TxIDs(block)); err != nil || root != calpe.BlockHash(h.MerkleRoot) {
				t.Fatalf("a block without its root: %v", err)
			}
		}
	})
}
