package receipt

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/bits"
	"slices"
	"strings"
	"testing"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
)

// sparse is a tree of which only some leaves are known; what lies between is
// made up, as nobody has a log of a billion entries at hand.
type sparse[H ~[32]byte] struct {
	known map[uint64]H
	paths map[uint64][]H // of the known leaves, lowest sibling first
	node  func(left, right H) H
}

func newSparse[H ~[32]byte](node func(left, right H) H, known map[uint64]H) sparse[H] {
	return sparse[H]{known, map[uint64][]H{}, node}
}

// root of the leaves from lo to hi-1 (RFC 6962, section 2.1).
func (s sparse[H]) root(lo, hi uint64) H {
	if hi-lo == 1 {
		if leaf, ok := s.known[lo]; ok {
			return leaf
		}
	}
	if len(s.within(lo, hi)) == 0 {
		return sha256.Sum256(fmt.Appendf(nil, "leaves %d to %d", lo, hi))
	}
	mid := lo + 1<<(bits.Len64(hi-lo-1)-1)
	left, right := s.root(lo, mid), s.root(mid, hi)
	for _, i := range s.within(lo, mid) {
		s.paths[i] = append(s.paths[i], right)
	}
	for _, i := range s.within(mid, hi) {
		s.paths[i] = append(s.paths[i], left)
	}
	return s.node(left, right)
}

func (s sparse[H]) within(lo, hi uint64) (indices []uint64) {
	for i := range s.known {
		if lo <= i && i < hi {
			indices = append(indices, i)
		}
	}
	return indices
}

const billion = 1_000_000_000

// blockLevels is the depth of the tree of the fullest block there can be: a
// million bytes without witnesses, 60 in the smallest transaction.
const blockLevels = 15

// large is evidence from a log of a billion entries and a full block, with
// everything as long as it gets: paths, numbers, and an anchor that spends two
// deposits besides the coin before it.
func large(t *testing.T, certified bool) (Receipt, Input) {
	t.Helper()
	w := newWorld(t, testOrigin)
	at := map[int]uint64{entryAgency: 111_111_111, entryCertification: 444_444_444, entryDocument: 536_870_911}
	known := map[uint64]calpe.Hash{}
	for entry, index := range at {
		b := calpe.Entry{Index: index, Commitment: calpe.Commit(w.digests[entry], w.salts[entry])}.Bytes()
		known[index] = merkle.LeafHash(b[:])
	}
	log := newSparse(merkle.NodeHash, known)
	root := log.root(0, billion)
	e := w.evidence(entryDocument)
	e.Index, e.Path = at[entryDocument], log.paths[at[entryDocument]]
	if len(e.Path) != 30 {
		t.Fatalf("the path has %d hashes", len(e.Path))
	}
	var err error
	if e.Checkpoint, err = SignCheckpoint(testKey(t, testOrigin, ""), testOrigin, billion, root); err != nil {
		t.Fatal(err)
	}
	c := e.Certification
	c.Index, c.Path = at[entryCertification], log.paths[at[entryCertification]]
	c.AgencyIndex, c.AgencyPath = at[entryAgency], log.paths[at[entryAgency]]
	if !certified {
		e.Certification = nil
	}
	e.Anchor = w.anchorInFullBlock(calpe.Payload{Size: billion, Root: root})
	r, err := Issue(e)
	if err != nil {
		t.Fatal(err)
	}
	return r, w.input(r)
}

// anchorInFullBlock puts an anchor in the middle of the largest block, at the
// height where the chain's own is, and makes the chain anew.
func (w *world) anchorInFullBlock(p calpe.Payload) *calpe.Anchor {
	w.tb.Helper()
	coinbase := coinbaseTx(anchorHeight)
	tx := rawTx(calpe.Outpoint{TxID: doubleHash([]byte("coin")), Vout: 1}, testOutput{0, p.Script()}, testOutput{99_000, append([]byte{0x51, 32}, make([]byte, 32)...)})
	inputs := tx[5 : 5+41]
	tx = slices.Concat(tx[:4], []byte{3}, inputs, inputs, tx[5:]) // its witnesses aren't part of the receipt
	const position = 1<<(blockLevels-1) - 1
	block := newSparse(func(left, right calpe.BlockHash) calpe.BlockHash { return doubleHash(slices.Concat(left[:], right[:])) },
		map[uint64]calpe.BlockHash{0: doubleHash(coinbase), position: doubleHash(tx)})
	root := block.root(0, 1<<blockLevels)
	w.raw = bytes.Clone(genesis(w.tb, calpe.Regtest))
	for height := 1; height <= tipHeight; height++ {
		of := doubleHash(fmt.Appendf(nil, "block %d", height))
		if height == anchorHeight {
			of = root
		}
		w.raw = append(w.raw, mineHeader(w.raw, height, of)...)
	}
	w.chain = readChain(w.tb, w.raw)
	a := &calpe.Anchor{Payload: p, Tx: tx, TxID: doubleHash(tx), Height: anchorHeight, Position: position, Branch: block.paths[position],
		Coinbase: coinbase, CoinbaseBranch: block.paths[0], Depth: tipHeight - anchorHeight + 1}
	copy(a.Header[:], w.raw[anchorHeight*80:])
	a.Block = doubleHash(a.Header[:])
	return a
}

// TestSize: a receipt is a file that one can send by mail, print as a code, and
// keep. Counted is the text as the service gives it, spaces and all, without the
// block's coinbase, whose length is the miner's.
func TestSize(t *testing.T) {
	for _, tc := range []struct {
		name      string
		certified bool
		most      int
	}{
		{"of a document", false, 6_000},
		{"with a certification", true, 9_000}, // two more paths, and two statements
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, in := large(t, tc.certified)
			report := Verify(in)
			if report.Outcome() != Holds || (report.Certified.Status == Holds) != tc.certified {
				t.Fatalf("%+v", report)
			}
			text, err := r.Encode()
			if err != nil {
				t.Fatal(err)
			}
			counted := len(text) - strings.Count(string(text), fmt.Sprintf("%x", []byte(r.Anchor.Coinbase)))*2*len(r.Anchor.Coinbase)
			t.Logf("%d bytes, %d of them without the coinbase", len(text), counted)
			if counted > tc.most || counted == len(text) {
				t.Errorf("%d bytes without the coinbase, want %d at most", counted, tc.most)
			}
		})
	}
}
