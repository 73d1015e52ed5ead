package ots

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/calpe/calpe/internal/heaptest"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/headers"
)

// mutations of each file; each is verified as the file of the true document and
// of the document that it then names.
const mutations = 12_000

// sample is a file that holds in a chain.
type sample struct {
	name   string
	data   []byte
	digest []byte
	chain  *headers.Chain
	height int
}

func samples(tb testing.TB) []sample {
	tb.Helper()
	chain := chainOf(tb, "headers", false)
	anchored := vector(tb, "anchored")
	large := makeReceipt(tb, 123_456_789, 1_000_000_000, 16, 40_000, 0)
	early := large.Receipt
	early.Anchor = nil
	both, err := mustFromReceipt(tb, early).Merge(mustFromReceipt(tb, large.Receipt))
	if err != nil {
		tb.Fatal(err)
	}
	return []sample{
		{"vector", mustSerialize(tb, mustFromReceipt(tb, anchored)), anchored.Digest[:], chain, 5},
		{"large", mustSerialize(tb, mustFromReceipt(tb, large.Receipt)), large.Digest[:], large.chain, 1},
		{"upgraded", mustSerialize(tb, both), large.Digest[:], large.chain, 1},
	}
}

// TestMutations: no change of a file makes it hold for another document, or in
// another block.
func TestMutations(t *testing.T) {
	for _, s := range samples(t) {
		t.Run(s.name, func(t *testing.T) {
			if got := s.verify(mustParse(t, s.data), s.digest); got.Existed.Status != receipt.Holds || got.Block.Height != s.height {
				t.Fatalf("unchanged: %+v", got)
			}
			rng := rand.New(rand.NewPCG(5, 6))
			read, held := 0, 0
			heap := heaptest.New()
			for range mutations {
				data := mutate(rng, s.data)
				heap.Watch(func() {
					f, err := Parse(data)
					if err != nil {
						return
					}
					read++
					if s.check(t, f) {
						held++
					}
				})
				if t.Failed() {
					t.Fatalf("%x", data)
				}
			}
			// A changed attestation of a calendar, or a byte changed and changed back.
			t.Logf("%d of %d read, %d hold; one took %d KiB at most, the heap was %d KiB", read, mutations, held, heap.Single>>10, heap.Peak>>10)
			if heap.Single > heaptest.Limit || heap.Peak > heaptest.Limit {
				t.Errorf("one file took %d bytes, and the heap was %d, want %d at most", heap.Single, heap.Peak, heaptest.Limit)
			}
			if read < mutations/10 || held > mutations/10 {
				t.Errorf("%d of %d read, %d hold: the test shows nothing", read, mutations, held)
			}
		})
	}
}

func (s sample) verify(f DetachedFile, digest []byte) Report {
	return Verify(Input{File: f, Digest: digest, Headers: s.chain})
}

// check that f says nothing but the sample, and whether it says that.
func (s sample) check(t *testing.T, f DetachedFile) (held bool) {
	t.Helper()
	own := s.verify(f, f.Digest())
	same := f.Hash() == SHA256 && bytes.Equal(f.Digest(), s.digest)
	held = own.Existed.Status == receipt.Holds
	if held && (!same || own.Block.Height != s.height) {
		t.Errorf("it holds for %s %x in block %d", f.Hash(), f.Digest(), own.Block.Height)
	}
	if r := s.verify(f, s.digest); !bytes.Equal(f.Digest(), s.digest) && r.Existed.Reason != receipt.ReasonOtherDocument {
		t.Errorf("another digest, and %+v", r.Existed)
	}
	return held
}

// mutate makes one to three small changes, most of them behind the magic.
func mutate(rng *rand.Rand, data []byte) []byte {
	data = slices.Clone(data)
	for range 1 + rng.IntN(3) {
		i := min(len(magic)+rng.IntN(len(data)), len(data)-1)
		j := min(len(magic)+rng.IntN(len(data)), len(data)-1)
		switch rng.IntN(7) {
		case 0: // a bit
			data[i] ^= 1 << rng.IntN(8)
		case 1: // a byte that means something
			const meaning = "\x00\x01\x02\x03\x08\x20\x67\x80\xf0\xf1\xf2\xf3\xff"
			data[i] = meaning[rng.IntN(len(meaning))]
		case 2: // two bytes change places
			data[i], data[j] = data[j], data[i]
		case 3: // a piece goes
			data = slices.Delete(data, i, min(len(data), i+1+rng.IntN(40)))
		case 4: // a piece comes twice
			data = slices.Insert(data, j, slices.Clone(data[i:min(len(data), i+1+rng.IntN(40))])...)
		case 5: // a piece comes elsewhere
			n := min(1+rng.IntN(40), len(data)-max(i, j))
			copy(data[j:], slices.Clone(data[i:i+n]))
		case 6: // operations that cancel out, or don't
			data = slices.Insert(data, i, []byte{0xf2, 0xf2, 0x08}[:2+rng.IntN(2)]...)
		}
		if len(data) <= len(magic) {
			return data
		}
	}
	return data
}

// TestEveryBit changes each bit of a file by itself: nearly all are evidence.
func TestEveryBit(t *testing.T) {
	s := samples(t)[0]
	for i := range 8 * len(s.data) {
		data := slices.Clone(s.data)
		data[i/8] ^= 1 << (i % 8)
		f, err := Parse(data)
		if err != nil {
			continue
		}
		if s.check(t, f) {
			t.Errorf("nobody notices the change of bit %d of byte %d", i%8, i/8)
		}
	}
}

// TestCutAnywhere: no beginning of a file is a file.
func TestCutAnywhere(t *testing.T) {
	for _, s := range samples(t) {
		for n := range s.data {
			if _, err := Parse(s.data[:n]); err == nil {
				t.Errorf("%s: cut to %d of %d bytes it is a file", s.name, n, len(s.data))
			}
		}
	}
}
