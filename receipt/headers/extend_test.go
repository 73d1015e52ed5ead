package headers

import (
	"bytes"
	"errors"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/calpe/calpe"
)

// Extending in steps of any size, over the bounds of chunks, gives what reading
// all at once gives, and leaves each chain before it as it was.
func TestExtendInSteps(t *testing.T) {
	p := mustParams(t, calpe.Regtest)
	whole := chainOf(t, p, 2*chunkHeaders+100)
	raw := rawOf(t, whole)
	for _, step := range []int{1, 500, chunkHeaders - 1, chunkHeaders, chunkHeaders + 1, 3 * chunkHeaders} {
		c, err := Read(bytes.NewReader(raw[:HeaderSize]), p)
		if err != nil {
			t.Fatal(err)
		}
		var before *Chain
		for from := HeaderSize; from < len(raw); from += step * HeaderSize {
			before = c
			if c, err = c.Extend(raw[from:min(len(raw), from+step*HeaderSize)]); err != nil {
				t.Fatalf("step %d: %v", step, err)
			}
			if got, want := before.headers.n*HeaderSize, from; got != want {
				t.Fatalf("step %d: the chain before has %d bytes, had %d", step, got, want)
			}
		}
		sameChain(t, whole, c)
		if got := rawOf(t, before); !bytes.Equal(got, raw[:len(got)]) {
			t.Errorf("step %d: the chain before changed", step)
		}
	}
}

func TestExtendWithNothingNew(t *testing.T) {
	c := chainOf(t, smallParams(), 20)
	raw := rawOf(t, c)
	for name, part := range map[string][]byte{
		"nothing":     nil,
		"the tip":     headerAt(raw, 20),
		"a piece":     raw[5*HeaderSize : 9*HeaderSize],
		"but genesis": raw[HeaderSize:],
	} {
		got, err := c.Extend(part)
		if err != nil || got != c {
			t.Errorf("%s: %v, same chain %t", name, err, got == c)
		}
	}
}

func TestExtendSkipsWhatIsThere(t *testing.T) {
	p := smallParams()
	long := chainOf(t, p, 20)
	short, err := Read(bytes.NewReader(rawOf(t, long)[:11*HeaderSize]), p)
	if err != nil {
		t.Fatal(err)
	}
	got, err := short.Extend(rawOf(t, long)[3*HeaderSize:])
	if err != nil {
		t.Fatal(err)
	}
	sameChain(t, long, got)
}

// A branch replaces what it must have more work than, and nothing else counts:
// neither its length nor that it came later.
func TestExtendReorganises(t *testing.T) {
	p := smallParams()
	p.MinWork = big.NewInt(1)
	const fast = spacing / 2 // so that the difficulty rises
	base := newMaker(t, p)
	base.grow(30, fast, 0)
	c := base.v.chain()
	before := rawOf(t, c)
	for _, test := range []struct {
		name   string
		fork   int
		blocks int
		gap    uint32
		want   error
	}{
		{"tip replaced by as much work", 29, 1, fast, ErrLessWork},
		{"tip replaced by more work", 29, 2, fast, nil},
		{"shorter", 20, 9, fast, ErrLessWork},
		{"as long", 20, 10, fast, ErrLessWork},
		{"longer by one", 20, 11, fast, nil},
		{"shorter, but of more work", 7, 18, 1, nil},
		{"longer, but of less work", 7, 24, 40, ErrLessWork},
		{"from the genesis block", 0, 31, fast, nil},
	} {
		branch := from(t, c, test.fork)
		raw := branch.grow(test.blocks, test.gap, 99)
		got, err := c.Extend(raw)
		if !bytes.Equal(rawOf(t, c), before) {
			t.Fatalf("%s: the chain changed", test.name)
		}
		if !errors.Is(err, test.want) || (err == nil) != (got != nil) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
		if err != nil {
			continue
		}
		want, err := Read(bytes.NewReader(rawOf(t, branch.v.chain())), p)
		if err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		sameChain(t, want, got)
	}
}

// After a reorganisation the rules that look back see the branch and not what
// it replaced: the same headers must pass as when read from a file. The chain
// is dear from height 8 on and of minimum difficulty from height 16 on, where
// the walk back to what is not an exception must end.
func TestExtendUsesTheBranch(t *testing.T) {
	for name, p := range map[string]Params{"plain": smallParams(), "minimum difficulty": minDifficultyParams()} {
		m := newMaker(t, p)
		m.grow(8, 1, 0)
		m.grow(12, 4*spacing+1, 0)
		c := m.v.chain()
		if first, _ := c.At(8); first.Bits == p.PowLimitBits {
			t.Fatalf("%s: height 8 is not dear", name)
		}
		if first, _ := c.At(16); p.MinDifficulty && first.Bits != p.PowLimitBits {
			t.Fatalf("%s: height 16 is dear", name)
		}
		for fork := range 20 {
			whole := newMaker(t, p)
			for height := 1; height <= fork; height++ {
				whole.add(c.headers.at(height))
			}
			raw := whole.grow(30, spacing/2, uint64(fork)+1)
			got, err := c.Extend(raw)
			if err != nil {
				t.Errorf("%s: fork at %d: %v", name, fork, err)
				continue
			}
			sameChain(t, whole.v.chain(), got)
		}
	}
}

func TestExtendRefuses(t *testing.T) {
	p := smallParams()
	c := chainOf(t, p, 10)
	next := from(t, c, 10).grow(3, spacing, 0)

	_, err := c.Extend(next[HeaderSize:])
	if !errors.Is(err, ErrUnconnected) {
		t.Errorf("gap: %v, want ErrUnconnected", err)
	}
	_, err = c.Extend(rawOf(t, c))
	if !errors.Is(err, ErrUnconnected) {
		t.Errorf("genesis block, which follows none: %v, want ErrUnconnected", err)
	}
	_, err = c.Extend(next[:len(next)-1])
	if !errors.Is(err, ErrTruncated) || !strings.Contains(err.Error(), "offset 160 ") {
		t.Errorf("last byte missing: %v, want ErrTruncated at 160", err)
	}
	swapped := slices.Concat(headerAt(next, 0), headerAt(next, 2), headerAt(next, 1))
	got, err := c.Extend(swapped)
	wantRule(t, "reordered", err, 12, RuleLink)
	if got != nil {
		t.Error("a chain beside the error")
	}
	p.MaxHeaders = 12
	if c, err = Read(bytes.NewReader(rawOf(t, c)), p); err != nil {
		t.Fatal(err)
	}
	if _, err = c.Extend(next); !errors.Is(err, ErrTooLong) {
		t.Errorf("beyond the limit: %v, want ErrTooLong", err)
	}
	if _, err = c.Extend(next[:HeaderSize]); err != nil {
		t.Errorf("up to the limit: %v", err)
	}
}

// One chain may be extended and read by several goroutines; run with -race.
func TestExtendConcurrently(t *testing.T) {
	c := chainOf(t, smallParams(), 20)
	var branches [4][]byte
	for i := range branches {
		branches[i] = from(t, c, 20).grow(10, spacing, uint64(i))
	}
	var wg sync.WaitGroup
	for _, raw := range branches {
		wg.Go(func() {
			got, err := c.Extend(raw)
			if err != nil {
				t.Error(err)
				return
			}
			if !bytes.Equal(rawOf(t, got)[21*HeaderSize:], raw) {
				t.Error("one branch has the headers of another")
			}
			if height, _ := c.Tip(); height != 20 {
				t.Errorf("tip moved to %d", height)
			}
		})
	}
	wg.Wait()
}
