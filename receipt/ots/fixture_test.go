package ots

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/big"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/headers"
)

const (
	vectors  = "../../docs/vectors"
	calendar = "https://log.calpe.example"
)

// verification is one of docs/vectors/verifications.json.
type verification struct {
	Name, Digest, Receipt, Headers, Existed string
	Depth                                   int
}

func verifications(tb testing.TB) (all []verification) {
	tb.Helper()
	if err := json.Unmarshal(readFile(tb, vectors, "verifications.json"), &all); err != nil {
		tb.Fatal(err)
	}
	return all
}

func readFile(tb testing.TB, path ...string) []byte {
	tb.Helper()
	data, err := os.ReadFile(filepath.Join(path...))
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

// vector is a receipt of docs/vectors.
func vector(tb testing.TB, name string) receipt.Receipt {
	tb.Helper()
	r, err := receipt.Decode(readFile(tb, vectors, "receipts", name+".json"))
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

// chainOf is a chain of docs/vectors. Of mainnet there is only the genesis block,
// so its minimum work is asked for only where the test says so.
func chainOf(tb testing.TB, name string, minWork bool) *headers.Chain {
	tb.Helper()
	network := calpe.Regtest
	switch name {
	case "":
		return nil
	case "headers-mainnet":
		network = calpe.Mainnet
	case "headers-simnet":
		network = calpe.Simnet
	}
	p, err := headers.ParamsFor(network)
	if err != nil {
		tb.Fatal(err)
	}
	if !minWork {
		p.MinWork = nil
	}
	return readChain(tb, readFile(tb, vectors, name+".bin"), p)
}

func readChain(tb testing.TB, raw []byte, p headers.Params) *headers.Chain {
	tb.Helper()
	c, err := headers.ReadPartial(bytes.NewReader(raw), p)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func doubleHash(b []byte) calpe.BlockHash {
	once := sha256.Sum256(b)
	return sha256.Sum256(once[:])
}

// some is a hash that is the same in every run.
func some(what string, i int) calpe.Hash { return sha256.Sum256(fmt.Appendf(nil, "%s %d", what, i)) }

// made is a receipt as large as one wants, with a chain that holds its block.
type made struct {
	receipt.Receipt
	entry  calpe.Entry
	anchor calpe.Anchor
	chain  *headers.Chain
}

// makeReceipt makes a receipt for an entry of a log of that size, anchored at a
// position of a block whose tree has so many levels, by a transaction whose
// input has a script of scriptSize bytes.
func makeReceipt(tb testing.TB, index, size uint64, levels int, position uint32, scriptSize int) made {
	tb.Helper()
	m := made{Receipt: receipt.Receipt{Type: receipt.ReceiptType, Log: some("log", 0), Index: index, Path: receipt.Path{}}}
	m.Digest = calpe.Digest(some("digest", 0))
	copy(m.Salt[:], some("salt", 0).String())
	m.entry = calpe.Entry{Index: index, Commitment: calpe.Commit(m.Digest, m.Salt)}
	inner := bits.Len64(index ^ (size - 1))
	for i := range inner + bits.OnesCount64(index>>inner) {
		m.Path = append(m.Path, some("sibling", i))
	}
	leaf := m.entry.Bytes()
	root, err := merkle.RootFromInclusion(index, size, merkle.LeafHash(leaf[:]), m.Path)
	if err != nil {
		tb.Fatal(err)
	}
	m.Checkpoint = checkpointNote(tb, size, root)
	payload := calpe.Payload{Size: size, Root: root}
	m.anchor = calpe.Anchor{Payload: payload, Height: 1, Position: position,
		Tx: anchorTx(scriptSize, payload), Coinbase: append(rawTx(calpe.Outpoint{Vout: 0xffffffff}, 2, payload.Script()), 0, 0, 0, 0)}
	var merkleRoot calpe.BlockHash
	m.anchor.Branch, m.anchor.CoinbaseBranch, merkleRoot = blockTree(m.anchor, levels)
	m.mine(tb, merkleRoot)
	return m
}

// mine makes a regtest chain with the root in block 1 and enough blocks on it.
func (m *made) mine(tb testing.TB, root calpe.BlockHash) {
	tb.Helper()
	p, err := headers.ParamsFor(calpe.Regtest)
	if err != nil {
		tb.Fatal(err)
	}
	raw := bytes.Clone(p.Genesis[:])
	for height := uint32(1); height <= receipt.DefaultDepth; height++ {
		raw = append(raw, mineHeader(raw[len(raw)-80:], height, root)...)
		root = calpe.BlockHash(some("root", int(height)))
	}
	copy(m.anchor.Header[:], raw[80:])
	m.chain = readChain(tb, raw, p)
	a := receipt.NewAnchor(receipt.Identity{Network: calpe.Regtest, Genesis: doubleHash(p.Genesis[:])}, m.anchor)
	m.Anchor = a
}

func mineHeader(before []byte, height uint32, root calpe.BlockHash) []byte {
	prev := doubleHash(before)
	h := binary.LittleEndian.AppendUint32(nil, 0x20000000)
	h = append(append(h, prev[:]...), root[:]...)
	h = binary.LittleEndian.AppendUint32(h, 1_790_000_000+600*height)
	h = binary.LittleEndian.AppendUint32(h, 0x207fffff)
	limit := new(big.Int).Lsh(big.NewInt(0x7fffff), 8*(0x20-3))
	for nonce := uint32(0); ; nonce++ {
		mined := binary.LittleEndian.AppendUint32(bytes.Clone(h), nonce)
		hash := doubleHash(mined)
		slices.Reverse(hash[:])
		if new(big.Int).SetBytes(hash[:]).Cmp(limit) <= 0 {
			return mined
		}
	}
}

func checkpointNote(tb testing.TB, size uint64, root calpe.Hash) string {
	tb.Helper()
	const origin = "log.calpe.example"
	private, _, err := note.GenerateKey(rand.Reader, origin)
	if err != nil {
		tb.Fatal(err)
	}
	signer, err := note.NewSigner(private)
	if err != nil {
		tb.Fatal(err)
	}
	msg, err := receipt.SignCheckpoint(signer, origin, size, root)
	if err != nil {
		tb.Fatal(err)
	}
	return string(msg)
}

// anchorTx has the payload, and change to a Taproot address.
func anchorTx(scriptSize int, payload calpe.Payload) []byte {
	tx := rawTx(calpe.Outpoint{TxID: calpe.BlockHash(some("coin", 0)), Vout: 1}, scriptSize, payload.Script(), append([]byte{0x51, 32}, make([]byte, 32)...))
	return append(tx, 0, 0, 0, 0)
}

// rawTx is a transaction without its lock time.
func rawTx(spends calpe.Outpoint, scriptSize int, scripts ...[]byte) []byte {
	tx := []byte{2, 0, 0, 0, 1}
	tx = binary.LittleEndian.AppendUint32(append(tx, spends.TxID[:]...), spends.Vout)
	if scriptSize < 0xfd {
		tx = append(tx, byte(scriptSize))
	} else {
		tx = append(tx, 0xfd, byte(scriptSize), byte(scriptSize>>8))
	}
	tx = append(tx, make([]byte, scriptSize)...)
	tx = append(tx, 0xfd, 0xff, 0xff, 0xff, byte(len(scripts)))
	for _, s := range scripts {
		tx = append(append(tx, 0, 0, 0, 0, 0, 0, 0, 0, byte(len(s))), s...)
	}
	return tx
}

// blockTree makes a block around two transactions.
func blockTree(a calpe.Anchor, levels int) (branch, coinbaseBranch []calpe.BlockHash, root calpe.BlockHash) {
	first, ours, at := doubleHash(a.Coinbase), doubleHash(a.Tx), a.Position
	for level := range levels {
		right, beside := calpe.BlockHash(some("right", level)), calpe.BlockHash(some("beside", level))
		switch at {
		case 0:
			beside = right
		case 1:
			right, beside = ours, first
		}
		coinbaseBranch, branch = append(coinbaseBranch, right), append(branch, beside)
		if at&1 == 1 {
			ours = doubleHash(slices.Concat(beside[:], ours[:]))
		} else {
			ours = doubleHash(slices.Concat(ours[:], beside[:]))
		}
		first = doubleHash(slices.Concat(first[:], right[:]))
		at >>= 1
	}
	return branch, coinbaseBranch, first
}

// The pieces of files made by hand.
var zeroDigest = strings.Repeat("\x00", 32)

func attested(notary, payload string) string {
	return "\x00" + notary + string(appendVarbytes(nil, payload))
}

// block is the attestation of a height below 128.
func block(height byte) string { return attested(bitcoinNotary, string(rune(height))) }

func pendingAt(uri string) string {
	return attested(pendingNotary, string(appendVarbytes(nil, uri)))
}

// otsFile is a file about the document whose SHA-256 is all zeros.
func otsFile(body string) []byte { return []byte(magic + "\x01\x08" + zeroDigest + body) }

func mustParse(tb testing.TB, data []byte) DetachedFile {
	tb.Helper()
	f, err := Parse(data)
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

func mustSerialize(tb testing.TB, f DetachedFile) []byte {
	tb.Helper()
	data, err := f.Serialize()
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

func mustFromReceipt(tb testing.TB, r receipt.Receipt) DetachedFile {
	tb.Helper()
	f, err := FromReceipt(r, calendar)
	if err != nil {
		tb.Fatal(err)
	}
	return f
}

func mustHex(tb testing.TB, text string) []byte {
	tb.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// listing is a line for each attestation, as testdata/peer.py prints it.
func listing(t Timestamp) string {
	var b strings.Builder
	for message, a := range t.All() {
		fmt.Fprintf(&b, "%x %s\n", message, a)
	}
	return b.String()
}

// wantError fails the test unless the error says all that is wanted.
func wantError(t *testing.T, err error, want ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error, want one that says %q", want)
		return
	}
	for _, w := range want {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q, want one that says %q", err, w)
		}
	}
}
