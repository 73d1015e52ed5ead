package headers

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"github.com/btcsuite/btcd/chainhash/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
)

func hashFrom(tb testing.TB, text string) chainhash.Hash {
	tb.Helper()
	h, err := chainhash.NewHashFromStr(text)
	if err != nil {
		tb.Fatal(err)
	}
	return *h
}

func TestReadMainnet(t *testing.T) {
	c, err := ReadPartial(bytes.NewReader(mainnet(t)), mustParams(t, calpe.Mainnet))
	if err != nil {
		t.Fatal(err)
	}
	got, ok := c.At(1)
	if !ok {
		t.Fatal("no block 1")
	}
	want := Header{
		Raw:        [HeaderSize]byte(headerAt(mainnet(t), 1)),
		Hash:       hashFrom(t, "00000000839a8e6886ab5951d76f411475428afc90947ee320161bbf18eb6048"),
		Version:    1,
		PrevBlock:  hashFrom(t, "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f"),
		MerkleRoot: hashFrom(t, "0e3e2357e806b6cdb1f70b54c3a3a17b6714ee1f0e68bebb44a74b1efd512098"),
		Time:       time.Date(2009, 1, 9, 2, 54, 25, 0, time.UTC),
		Bits:       0x1d00ffff,
		Nonce:      2573394689,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("block 1 (-want +got):\n%s", diff)
	}
	if height, hash := c.Tip(); height != 255 || hash.String() != "00000000d0a75c861fabf9ff7b92022f60e4afeed9331fe5aa073d8e4706fe3c" {
		t.Errorf("tip is %d %v", height, hash)
	}
	// 256 blocks of difficulty 1, each 0x100010001 hashes.
	if want := big.NewInt(256 * 0x100010001); c.Work().Cmp(want) != 0 {
		t.Errorf("work is %v, want %v", c.Work(), want)
	}
	if c.Network() != calpe.Mainnet || c.EnoughWork() {
		t.Errorf("network %s, enough work %t", c.Network(), c.EnoughWork())
	}
}

func TestReadDemandsPinnedWork(t *testing.T) {
	p := mustParams(t, calpe.Mainnet)
	if c, err := Read(bytes.NewReader(mainnet(t)), p); c != nil || !errors.Is(err, ErrTooLittleWork) {
		t.Errorf("256 headers of mainnet: %v, want ErrTooLittleWork", err)
	}
	p.MinWork = big.NewInt(256 * 0x100010001)
	c, err := Read(bytes.NewReader(mainnet(t)), p)
	if err != nil || !c.EnoughWork() {
		t.Errorf("exactly the minimum work: %v", err)
	}
	p.MinWork.Add(p.MinWork, big.NewInt(1))
	if _, err := Read(bytes.NewReader(mainnet(t)), p); !errors.Is(err, ErrTooLittleWork) {
		t.Errorf("one less than the minimum work: %v, want ErrTooLittleWork", err)
	}
}

func TestReadRegtest(t *testing.T) {
	p := mustParams(t, calpe.Regtest)
	c := chainOf(t, p, 2500)
	again, err := Read(bytes.NewReader(rawOf(t, c)), p)
	if err != nil {
		t.Fatal(err)
	}
	sameChain(t, c, again)
	if !again.EnoughWork() {
		t.Error("no work is pinned for regtest, so any is enough")
	}
}

func sameChain(tb testing.TB, want, got *Chain) {
	tb.Helper()
	wantTip, wantHash := want.Tip()
	tip, hash := got.Tip()
	if tip != wantTip || hash != wantHash || got.Work().Cmp(want.Work()) != 0 {
		tb.Errorf("tip %d %v, work %v; want %d %v, %v", tip, hash, got.Work(), wantTip, wantHash, want.Work())
	}
	if !bytes.Equal(rawOf(tb, want), rawOf(tb, got)) {
		tb.Error("raw headers differ")
	}
}

func TestReadAnyReader(t *testing.T) {
	raw := mainnet(t)
	p := mustParams(t, calpe.Mainnet)
	for name, r := range map[string]io.Reader{
		"a byte at a time":  iotest.OneByteReader(bytes.NewReader(raw)),
		"half of it":        iotest.HalfReader(bytes.NewReader(raw)),
		"end with the data": iotest.DataErrReader(bytes.NewReader(raw)),
	} {
		c, err := ReadPartial(r, p)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !bytes.Equal(rawOf(t, c), raw) {
			t.Errorf("%s: raw headers differ", name)
		}
	}
	broken := errors.New("disk on fire")
	r := io.MultiReader(bytes.NewReader(raw[:5*HeaderSize+7]), iotest.ErrReader(broken))
	if _, err := ReadPartial(r, p); !errors.Is(err, broken) || errors.Is(err, ErrTruncated) || !strings.Contains(err.Error(), "height 5") {
		t.Errorf("failing reader: %v", err)
	}
}

func TestReadTruncated(t *testing.T) {
	raw := rawOf(t, chainOf(t, smallParams(), 3))
	for n := range len(raw) + 1 {
		c, err := Read(bytes.NewReader(raw[:n]), smallParams())
		switch {
		case n == 0:
			if !errors.Is(err, ErrEmpty) {
				t.Errorf("no bytes: %v, want ErrEmpty", err)
			}
		case n%HeaderSize == 0:
			if err != nil {
				t.Errorf("%d bytes: %v", n, err)
			} else if height, _ := c.Tip(); height != n/HeaderSize-1 {
				t.Errorf("%d bytes: tip at height %d", n, height)
			}
		default:
			at := fmt.Sprintf("byte offset %d,", n/HeaderSize*HeaderSize)
			if !errors.Is(err, ErrTruncated) || !strings.Contains(err.Error(), at) {
				t.Errorf("%d bytes: %v, want ErrTruncated at %s", n, err, at)
			}
		}
	}
}

func TestReadTooLong(t *testing.T) {
	p := smallParams()
	raw := rawOf(t, chainOf(t, p, 5))
	p.MaxHeaders = 6
	if _, err := Read(bytes.NewReader(raw), p); err != nil {
		t.Errorf("as many as allowed: %v", err)
	}
	p.MaxHeaders = 5
	endless := io.MultiReader(bytes.NewReader(raw), neverRead{t})
	if _, err := Read(io.LimitReader(endless, int64(len(raw))), p); !errors.Is(err, ErrTooLong) {
		t.Errorf("one too many: %v, want ErrTooLong", err)
	}
}

// neverRead fails the test when it is read.
type neverRead struct{ t *testing.T }

func (r neverRead) Read([]byte) (int, error) {
	r.t.Error("read on after the limit")
	return 0, io.EOF
}

func TestReadWrongNetwork(t *testing.T) {
	networks := []calpe.Network{calpe.Mainnet, calpe.Testnet3, calpe.Testnet4, calpe.Signet, calpe.Regtest, calpe.Simnet}
	for _, of := range networks {
		for _, as := range networks {
			genesis := mustParams(t, of).Genesis
			_, err := ReadPartial(bytes.NewReader(genesis[:]), mustParams(t, as))
			if of == as {
				if err != nil {
					t.Errorf("genesis of %s: %v", of, err)
				}
				continue
			}
			var broken *RuleError
			if !errors.As(err, &broken) || broken.Height != 0 || broken.Rule != RuleGenesis || !strings.Contains(err.Error(), string(as)) {
				t.Errorf("headers of %s as %s: %v", of, as, err)
			}
		}
	}
}

// wantRule fails the test unless err says that a rule is broken at a height.
func wantRule(t *testing.T, what string, err error, height int, rules ...Rule) {
	t.Helper()
	var broken *RuleError
	if !errors.As(err, &broken) || broken.Height != height || !slices.Contains(rules, broken.Rule) {
		t.Errorf("%s: %v, want %v at height %d", what, err, rules, height)
	}
}

// Every header of mainnet took 2^32 tries or more, so no change can go unseen
// at the header itself.
func TestReadEveryBitFlipMainnet(t *testing.T) {
	raw, p := mainnet(t)[:4*HeaderSize], mustParams(t, calpe.Mainnet)
	for bit := range len(raw) * 8 {
		raw[bit/8] ^= 1 << (bit % 8)
		height, at := bit/8/HeaderSize, bit/8%HeaderSize
		_, err := ReadPartial(bytes.NewReader(raw), p)
		want := RuleWork
		switch {
		case height == 0:
			want = RuleGenesis
		case at >= 4 && at < 36:
			want = RuleLink
		case at >= 72 && at < 76:
			wantRule(t, fmt.Sprintf("bit %d", bit), err, height, RuleBits, RuleTarget)
			want = ""
		}
		if want != "" {
			wantRule(t, fmt.Sprintf("bit %d", bit), err, height, want)
		}
		raw[bit/8] ^= 1 << (bit % 8)
	}
}

// On regtest half of all changed headers still have enough work. Then the next
// one no longer links to it.
func TestReadEveryBitFlipRegtest(t *testing.T) {
	p := mustParams(t, calpe.Regtest)
	raw := rawOf(t, chainOf(t, p, 4))
	for bit := range (len(raw) - HeaderSize) * 8 {
		raw[bit/8] ^= 1 << (bit % 8)
		height := bit / 8 / HeaderSize
		_, err := Read(bytes.NewReader(raw), p)
		var broken *RuleError
		switch {
		case !errors.As(err, &broken):
			t.Errorf("bit %d flipped: %v", bit, err)
		case broken.Height == height+1 && broken.Rule == RuleLink:
		case broken.Height != height:
			t.Errorf("bit %d of height %d flipped: %v", bit, height, err)
		}
		raw[bit/8] ^= 1 << (bit % 8)
	}
}

func TestReadReordered(t *testing.T) {
	raw, p := mainnet(t)[:20*HeaderSize], mustParams(t, calpe.Mainnet)
	for a := 1; a < 19; a++ {
		swapped := slices.Concat(raw[:a*HeaderSize], headerAt(raw, a+1), headerAt(raw, a), raw[(a+2)*HeaderSize:])
		_, err := ReadPartial(bytes.NewReader(swapped), p)
		wantRule(t, "swapped", err, a, RuleLink)
		missing := slices.Concat(raw[:a*HeaderSize], raw[(a+1)*HeaderSize:])
		_, err = ReadPartial(bytes.NewReader(missing), p)
		wantRule(t, "missing", err, a, RuleLink)
		twice := slices.Concat(raw[:(a+1)*HeaderSize], raw[a*HeaderSize:])
		_, err = ReadPartial(bytes.NewReader(twice), p)
		wantRule(t, "twice", err, a+1, RuleLink)
		shifted := slices.Concat(raw[:a*HeaderSize], []byte{0}, raw[a*HeaderSize:])
		_, err = ReadPartial(bytes.NewReader(shifted), p)
		wantRule(t, "shifted by a byte", err, a, RuleLink)
	}
}

// Each rule is broken alone, by a header that is mined and right otherwise.
func TestEachRule(t *testing.T) {
	put := func(at int, value uint32) func([]byte) {
		return func(raw []byte) { binary.LittleEndian.PutUint32(raw[at:], value) }
	}
	const tip = 31 // height 32 begins an interval
	for _, test := range []struct {
		name   string
		params Params
		change func(raw []byte)
		want   Rule
	}{
		{"unknown parent", smallParams(), func(raw []byte) { raw[4]++ }, RuleLink},
		{"easier", minDifficultyParams(), put(72, 0x207ffffe), RuleBits},
		{"harder", smallParams(), put(72, 0x1f7fffff), RuleBits},
		{"at the median", smallParams(), put(68, start+26*spacing), RuleTime},
		{"before the genesis block", smallParams(), put(68, 1), RuleTime},
		{"601 s back", bip94Params(), put(68, start+31*1000-601), RuleTimewarp},
		{"version 3", smallParams(), put(0, 3), RuleVersion},
		{"negative version", smallParams(), put(0, 0xffffffff), RuleVersion},
	} {
		m := newMaker(t, test.params)
		gap := uint32(test.params.TargetTimespan/time.Second) / 8
		if test.params.BIP94 {
			gap = 1000
		}
		m.grow(tip, gap, 0)
		raw := m.template(m.now()+gap, 0)
		test.change(raw)
		if test.want != RuleBits && test.want != RuleLink {
			binary.LittleEndian.PutUint32(raw[72:], m.v.requiredBits(tip+1, seconds(raw)))
		}
		wantRule(t, test.name, m.v.add(mine(t, raw)), tip+1, test.want)
	}
}

// What is just within each limit passes.
func TestEachRuleAtItsLimit(t *testing.T) {
	for _, test := range []struct {
		name    string
		params  Params
		tip     int
		at      int64 // seconds after the tip
		version uint32
	}{
		{"a second after the median", smallParams(), 31, -5*spacing + 1, 4},
		{"600 s back", bip94Params(), 31, -600, 4},
		{"601 s back within an interval", bip94Params(), 30, -601, 4},
		{"any version at first", smallParams(), 8, spacing, 0x80000000},
		{"version 2 from BIP34 on", smallParams(), 9, spacing, 2},
		{"version 3 from BIP66 on", smallParams(), 19, spacing, 3},
		{"version 4 from BIP65 on", smallParams(), 29, spacing, 4},
		{"the last second there is", smallParams(), 31, int64(0xffffffff) - start - 31*spacing, 4},
	} {
		m := newMaker(t, test.params)
		gap := uint32(spacing)
		if test.params.BIP94 {
			gap = 1000
		}
		m.grow(test.tip, gap, 0)
		raw := m.template(uint32(int64(m.now())+test.at), 0)
		binary.LittleEndian.PutUint32(raw, test.version)
		if err := m.v.add(mine(t, raw)); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
	}
}

func TestTargets(t *testing.T) {
	limit := smallParams().PowLimit
	for bits, want := range map[uint32]bool{
		0x207fffff: true,
		0x03000001: true,
		0x02000100: true,  // the mantissa is shifted out but for a one
		0x01000001: false, // shifted out altogether
		0x20000000: false, // zero
		0x00000000: false,
		0x2080ffff: false, // negative
		0x03800000: false, // minus zero
		0x21008000: false, // above the limit by one bit
		0x217fffff: false,
		0xff7fffff: false, // 2040 bits
		0xffffffff: false,
	} {
		if _, got := newTarget(bits, limit); got != want {
			t.Errorf("target %08x accepted: %t, want %t", bits, got, want)
		}
	}
}

func TestTargetIsMetByItself(t *testing.T) {
	easiest, _ := newTarget(0x207fffff, smallParams().PowLimit)
	hash := chainhash.Hash{29: 0xff, 30: 0xff, 31: 0x7f} // little-endian
	if !easiest.metBy(&hash) {
		t.Error("a hash equal to the target doesn't meet it")
	}
	hash[0]++
	if easiest.metBy(&hash) {
		t.Error("a hash one above the target meets it")
	}
}

func TestPins(t *testing.T) {
	p := smallParams()
	c := chainOf(t, p, 20)
	raw := rawOf(t, c)
	right, _ := c.At(10)
	p.Pins = []Pin{{Height: 10, Hash: right.Hash}, {Height: 30, Hash: chainhash.Hash{1}}}
	for _, tip := range []int{10, 20} {
		pinned, err := Read(bytes.NewReader(raw[:(tip+1)*HeaderSize]), p)
		if err != nil {
			t.Fatalf("pinned block is there, the other is above the tip: %v", err)
		}
		_, err = pinned.Extend(from(t, c, 8).grow(15, 1, 7))
		wantRule(t, "branch below a pinned block", err, 9, RulePin)
		if _, err = pinned.Extend(from(t, c, 10).grow(15, 1, 7)); err != nil {
			t.Errorf("branch from the pinned block: %v", err)
		}
	}
	branch := from(t, c, 9)
	branch.grow(15, 1, 7)
	_, err := Read(bytes.NewReader(rawOf(t, branch.v.chain())), p)
	wantRule(t, "another block is pinned", err, 10, RulePin)
}

func TestParamsUnfit(t *testing.T) {
	for name, spoil := range map[string]func(*Params){
		"zero":           func(p *Params) { *p = Params{} },
		"negative limit": func(p *Params) { p.PowLimit = big.NewInt(-1) },
		"257 bits":       func(p *Params) { p.PowLimit = new(big.Int).Lsh(big.NewInt(1), 256) },
		"no interval":    func(p *Params) { p.Interval = 0 },
		"no factor":      func(p *Params) { p.AdjustmentFactor = 0 },
		"half seconds":   func(p *Params) { p.TargetTimespan = 1500 * time.Millisecond },
		"no length":      func(p *Params) { p.MaxHeaders = 0 },
	} {
		p := smallParams()
		genesis := p.Genesis
		spoil(&p)
		if _, err := Read(bytes.NewReader(genesis[:]), p); err == nil || !strings.HasPrefix(err.Error(), "header rules:") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestLookups(t *testing.T) {
	m := newMaker(t, smallParams())
	for _, gap := range []int32{5, 90, -3, 20, -10, 100, 40, 1, 80, -60, 2, 30, 10, -5, 70} {
		m.add(mine(t, m.template(uint32(int32(m.now())+gap), 0)))
	}
	c := m.v.chain()
	tip, _ := c.Tip()
	before := time.Time{}
	for height := range tip + 1 {
		h, ok := c.At(height)
		if !ok || h.Hash != chainhash.DoubleHashH(h.Raw[:]) {
			t.Errorf("At(%d): %t, %v", height, ok, h.Hash)
		}
		if got, ok := c.Height(h.Hash); !ok || got != height {
			t.Errorf("Height of block %d: %d, %t", height, got, ok)
		}
		median, ok := c.MedianTime(height)
		if want := naiveMedian(c, height); !ok || !median.Equal(want) || median.Before(before) {
			t.Errorf("median time at %d: %v, %t; want %v", height, median, ok, want)
		}
		before = median
	}
	for _, height := range []int{-1, tip + 1, 1 << 40} {
		if _, ok := c.At(height); ok {
			t.Errorf("At(%d) found a header", height)
		}
		if _, ok := c.MedianTime(height); ok {
			t.Errorf("MedianTime(%d) found a time", height)
		}
	}
	if _, ok := c.Height(chainhash.Hash{}); ok {
		t.Error("Height of no block: found, though the genesis block names it as its parent")
	}
}

func naiveMedian(c *Chain, height int) time.Time {
	var times []time.Time
	for h := height; h >= 0 && h > height-11; h-- {
		block, _ := c.At(h)
		times = append(times, block.Time)
	}
	slices.SortFunc(times, time.Time.Compare)
	return times[len(times)/2]
}

// The results are the caller's own: writing to them doesn't change the chain.
func TestChainIsImmutable(t *testing.T) {
	c := chainOf(t, smallParams(), 3)
	want := rawOf(t, c)
	c.Work().SetInt64(0)
	h, _ := c.At(2)
	h.Raw[0]++
	if c.Work().Sign() == 0 || !bytes.Equal(rawOf(t, c), want) {
		t.Error("the chain changed")
	}
}

func TestWriteToFailure(t *testing.T) {
	c := chainOf(t, smallParams(), 3)
	full := errors.New("disk full")
	if n, err := c.WriteTo(failingWriter{full}); n != 7 || !errors.Is(err, full) {
		t.Errorf("WriteTo: %d, %v", n, err)
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 7, w.err }

func TestParse(t *testing.T) {
	raw := headerAt(mainnet(t), 2)
	got, err := Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if got.Hash.String() != "000000006a625f06636b8bb6ac7b960a8d03705d1ace08b1a19da3fdcc99ddbd" {
		t.Errorf("hash of block 2 of mainnet is %v", got.Hash)
	}
	for _, n := range []int{0, 79} {
		if _, err := Parse(raw[:n]); err == nil {
			t.Errorf("%d bytes were taken for a header", n)
		}
	}
	if _, err := Parse(make([]byte, 81)); err == nil {
		t.Error("81 bytes were taken for a header")
	}
}
