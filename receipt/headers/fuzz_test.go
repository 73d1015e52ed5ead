package headers

import (
	"bytes"
	"testing"

	"github.com/btcsuite/btcd/chainhash/v2"

	"github.com/calpe/calpe"
)

// Whatever is read either comes out again as it went in, or is refused.
func FuzzRead(f *testing.F) {
	small := smallParams()
	raw := rawOf(f, chainOf(f, small, 20))
	f.Add(raw, false)
	f.Add(raw[:len(raw)-1], false)
	f.Add(raw[:HeaderSize], false)
	f.Add([]byte{}, false)
	regtest := mustParams(f, calpe.Regtest)
	f.Add(rawOf(f, chainOf(f, regtest, 3)), true)
	f.Fuzz(func(t *testing.T, raw []byte, asRegtest bool) {
		p := small
		if asRegtest {
			p = regtest
		}
		c, err := Read(bytes.NewReader(raw), p)
		if (c == nil) != (err != nil) {
			t.Fatalf("chain %v, error %v", c, err)
		}
		if err != nil {
			return
		}
		if !bytes.Equal(rawOf(t, c), raw) {
			t.Error("other bytes came out")
		}
		height, hash := c.Tip()
		if hash != chainhash.DoubleHashH(raw[len(raw)-HeaderSize:]) || height != len(raw)/HeaderSize-1 {
			t.Errorf("tip %d %v", height, hash)
		}
		if at, ok := c.Height(hash); !ok || at != height {
			t.Errorf("tip found at %d, %t", at, ok)
		}
	})
}

// What an extension leads to could also have been read from a file, and has no
// less work than before.
func FuzzExtend(f *testing.F) {
	p := minDifficultyParams()
	base := chainOf(f, p, 20)
	f.Add(from(f, base, 20).grow(5, spacing, 1))
	f.Add(from(f, base, 20).grow(5, 3*spacing, 1))
	f.Add(from(f, base, 9).grow(15, spacing/2, 2))
	f.Add(from(f, base, 9).grow(3, spacing, 3))
	f.Add(rawOf(f, base)[HeaderSize:])
	before := rawOf(f, base)
	f.Fuzz(func(t *testing.T, raw []byte) {
		c, err := base.Extend(raw)
		if !bytes.Equal(rawOf(t, base), before) {
			t.Fatal("the chain changed")
		}
		if (c == nil) != (err != nil) {
			t.Fatalf("chain %v, error %v", c, err)
		}
		if err != nil {
			return
		}
		if c.Work().Cmp(base.Work()) < 0 {
			t.Error("less work")
		}
		again, err := Read(bytes.NewReader(rawOf(t, c)), p)
		if err != nil {
			t.Fatal(err)
		}
		sameChain(t, again, c)
	})
}
