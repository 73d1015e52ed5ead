package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"

	"github.com/btcsuite/btcd/chainhash/v2"
	"github.com/btcsuite/btcd/wire/v2"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/bitcoin"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/headers"
)

// testChain is a regtest chain that is mined by hand.
type testChain struct {
	t   testing.TB
	raw [][]byte
}

func newChain(t testing.TB) *testChain {
	t.Helper()
	p, err := headers.ParamsFor(calpe.Regtest)
	if err != nil {
		t.Fatal(err)
	}
	return &testChain{t, [][]byte{p.Genesis[:]}}
}

func (c *testChain) clone() *testChain { return &testChain{c.t, slices.Clone(c.raw)} }

func (c *testChain) tip() int { return len(c.raw) - 1 }

func (c *testChain) genesis() calpe.BlockHash {
	return calpe.BlockHash(chainhash.DoubleHashH(c.raw[0]))
}

func (c *testChain) file() []byte { return bytes.Join(c.raw, nil) }

// add mines a block with that Merkle root.
func (c *testChain) add(root calpe.BlockHash) []byte {
	c.t.Helper()
	previous := chainhash.DoubleHashH(c.raw[c.tip()])
	raw := make([]byte, calpe.HeaderSize)
	binary.LittleEndian.PutUint32(raw, 0x20000000)
	copy(raw[4:], previous[:])
	copy(raw[36:], root[:])
	before := binary.LittleEndian.Uint32(c.raw[c.tip()][68:])
	binary.LittleEndian.PutUint32(raw[68:], max(before+1, 1_790_000_000+600*uint32(len(c.raw))))
	binary.LittleEndian.PutUint32(raw[72:], 0x207fffff)
	for nonce := range uint32(1 << 16) {
		binary.LittleEndian.PutUint32(raw[76:], nonce)
		if hash := chainhash.DoubleHashH(raw); hash[31] < 0x7f {
			c.raw = append(c.raw, raw)
			return raw
		}
	}
	c.t.Fatal("no block found")
	return nil
}

// mine adds blocks; a seed makes branches differ.
func (c *testChain) mine(n int, seed byte) {
	for range n {
		c.add(calpe.BlockHash{seed, 1})
	}
}

// anchor mines a block whose second transaction carries the payload.
func (c *testChain) anchor(p calpe.Payload) *receipt.Anchor {
	coinbase, tx := wire.NewMsgTx(2), wire.NewMsgTx(2)
	coinbase.AddTxIn(&wire.TxIn{PreviousOutPoint: wire.OutPoint{Index: 0xffffffff}, SignatureScript: []byte{1, byte(len(c.raw))}})
	coinbase.AddTxOut(wire.NewTxOut(50e8, []byte{0x51}))
	tx.AddTxIn(&wire.TxIn{PreviousOutPoint: wire.OutPoint{Hash: chainhash.Hash{1}}})
	tx.AddTxOut(wire.NewTxOut(0, p.Script()))
	tx.AddTxOut(wire.NewTxOut(1000, make([]byte, 22)))
	ids := []calpe.BlockHash{calpe.BlockHash(coinbase.TxHash()), calpe.BlockHash(tx.TxHash())}
	branch, root, err := bitcoin.MerkleBranch(ids, 1)
	if err != nil {
		c.t.Fatal(err)
	}
	coinbaseBranch, _, err := bitcoin.MerkleBranch(ids, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	header := c.add(root)
	return &receipt.Anchor{Network: calpe.Regtest, Genesis: c.genesis(), Height: uint32(c.tip()), Header: header,
		Transaction: serialized(c.t, tx), Position: 1, Branch: branch, Coinbase: serialized(c.t, coinbase), CoinbaseBranch: coinbaseBranch}
}

func serialized(t testing.TB, tx *wire.MsgTx) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := tx.SerializeNoWitness(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// fakeNode is a Bitcoin node's JSON-RPC as far as headers go. Its chain may
// change between two calls.
type fakeNode struct {
	t      testing.TB
	url    string
	mu     sync.Mutex
	chain  *testChain
	name   string                          // of the chain
	before func(method string, height int) // called before each answer, with mu held
	calls  int
	known  map[string][]byte // headers whose hash was asked for: a node keeps those of former branches
}

func newNode(t testing.TB, chain *testChain) *fakeNode {
	n := &fakeNode{t: t, chain: chain, name: "regtest", known: map[string][]byte{}}
	server := httptest.NewServer(http.HandlerFunc(n.serve))
	t.Cleanup(server.Close)
	n.url = server.URL
	return n
}

// change changes the node between two runs. What the last run gave up on may
// still be being answered.
func (n *fakeNode) change(edit func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	edit()
}

// asked is how many calls there were.
func (n *fakeNode) asked() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.calls
}

func (n *fakeNode) serve(w http.ResponseWriter, r *http.Request) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.calls++
	if user, password, _ := r.BasicAuth(); user != "rpc" || password != "geheim" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	var call struct {
		ID     uint64            `json:"id"`
		Method string            `json:"method"`
		Params []json.RawMessage `json:"params"`
	}
	if err := json.NewDecoder(r.Body).Decode(&call); err != nil {
		n.t.Errorf("call of the node: %v", err)
	}
	var height int
	var hash string
	if len(call.Params) > 0 && json.Unmarshal(call.Params[0], &height) != nil {
		_ = json.Unmarshal(call.Params[0], &hash)
	}
	if n.before != nil {
		n.before(call.Method, height)
	}
	answer := map[string]any{"id": call.ID, "result": nil, "error": nil}
	answer["result"] = n.result(call.Method, height, hash)
	if answer["result"] == nil {
		answer["error"] = map[string]any{"code": -8, "message": "Block height out of range"}
	}
	_ = json.NewEncoder(w).Encode(answer)
}

func (n *fakeNode) result(method string, height int, hash string) any {
	switch method {
	case "getblockcount":
		return n.chain.tip()
	case "getblockchaininfo":
		return map[string]string{"chain": n.name}
	case "getblockhash":
		if height <= n.chain.tip() {
			raw := n.chain.raw[height]
			hash := chainhash.DoubleHashH(raw).String()
			n.known[hash] = raw
			return hash
		}
	case "getblockheader":
		if raw, ok := n.known[hash]; ok {
			return hex.EncodeToString(raw)
		}
	}
	return nil
}

// flags are those that reach the node.
func (n *fakeNode) flags() []string {
	return []string{"--node", n.url, "--rpc-user", "rpc", "--rpc-password", "geheim"}
}

// sliceNode is a node in memory that answers from a chain.
type sliceNode struct {
	chain *testChain
	known map[calpe.BlockHash][]byte
}

func newSliceNode(chain *testChain) sliceNode {
	n := sliceNode{chain, map[calpe.BlockHash][]byte{}}
	for _, raw := range chain.raw {
		n.known[calpe.BlockHash(chainhash.DoubleHashH(raw))] = raw
	}
	return n
}

func (n sliceNode) Height(context.Context) (uint32, error) { return uint32(n.chain.tip()), nil }

func (n sliceNode) BlockHash(_ context.Context, height uint32) (calpe.BlockHash, error) {
	return calpe.BlockHash(chainhash.DoubleHashH(n.chain.raw[height])), nil
}

func (n sliceNode) Header(_ context.Context, hash calpe.BlockHash) ([calpe.HeaderSize]byte, error) {
	raw, ok := n.known[hash]
	if !ok {
		return [calpe.HeaderSize]byte{}, calpe.ErrNotFound
	}
	return [calpe.HeaderSize]byte(raw), nil
}
