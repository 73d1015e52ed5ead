package headers

import (
	"bytes"
	"encoding/binary"
	"math/big"
	"os"
	"testing"
	"time"

	"github.com/btcsuite/btcd/chainhash/v2"

	"github.com/calpe/calpe"
)

// spacing is the seconds between the blocks of a test network, if nothing else is said.
const spacing = 10

// start is the time of the genesis block of the test networks.
const start = 1_700_000_000

// smallParams make a network whose difficulty changes every eight blocks and
// whose easiest block takes two tries.
func smallParams() Params {
	p := Params{
		Network:          calpe.Regtest,
		PowLimit:         new(big.Int).Sub(new(big.Int).Lsh(big.NewInt(1), 255), big.NewInt(1)),
		PowLimitBits:     0x207fffff,
		Interval:         8,
		TargetTimespan:   8 * spacing * time.Second,
		AdjustmentFactor: 4,
		BIP34Height:      10,
		BIP66Height:      20,
		BIP65Height:      30,
		MaxHeaders:       10_000,
	}
	binary.LittleEndian.PutUint32(p.Genesis[0:4], 1)
	binary.LittleEndian.PutUint32(p.Genesis[68:72], start)
	binary.LittleEndian.PutUint32(p.Genesis[72:76], p.PowLimitBits)
	return p
}

func minDifficultyParams() Params {
	p := smallParams()
	p.MinDifficulty = true
	p.MinDifficultyAfter = 2 * spacing * time.Second
	return p
}

func bip94Params() Params {
	p := minDifficultyParams()
	p.BIP94 = true
	p.TargetTimespan *= 100 // so that 600 s are within what times vary by
	p.MinDifficultyAfter *= 100
	return p
}

func mustParams(tb testing.TB, network calpe.Network) Params {
	tb.Helper()
	p, err := ParamsFor(network)
	if err != nil {
		tb.Fatal(err)
	}
	return p
}

// maker mines headers that are right, one after the other.
type maker struct {
	tb testing.TB
	v  *verifier
}

func newMaker(tb testing.TB, p Params) *maker {
	tb.Helper()
	m := &maker{tb: tb, v: resume(&p, store{}, new(big.Int))}
	m.add(p.Genesis[:])
	return m
}

// from starts a maker at a block of a chain, for a branch.
func from(tb testing.TB, c *Chain, height int) *maker {
	tb.Helper()
	return &maker{tb: tb, v: resume(c.params, c.headers.prefix(height+1), new(big.Int))}
}

func (m *maker) add(raw []byte) {
	m.tb.Helper()
	if err := m.v.add(raw); err != nil {
		m.tb.Fatal(err)
	}
}

// template returns the next header, not yet mined. The seed makes branches differ.
func (m *maker) template(at uint32, seed uint64) []byte {
	raw := make([]byte, HeaderSize)
	binary.LittleEndian.PutUint32(raw[0:4], 0x20000000)
	copy(raw[4:36], m.v.tip[:])
	binary.LittleEndian.PutUint64(raw[36:44], uint64(m.v.headers.n))
	binary.LittleEndian.PutUint64(raw[44:52], seed)
	binary.LittleEndian.PutUint32(raw[68:72], at)
	binary.LittleEndian.PutUint32(raw[72:76], m.v.requiredBits(m.v.headers.n, at))
	return raw
}

// mine looks for a nonce.
func mine(tb testing.TB, raw []byte) []byte {
	tb.Helper()
	t, ok := newTarget(bits(raw), new(big.Int).Lsh(big.NewInt(1), 255))
	if !ok {
		tb.Fatalf("mine at impossible nBits %08x", bits(raw))
	}
	for nonce := range uint32(1 << 24) {
		binary.LittleEndian.PutUint32(raw[76:80], nonce)
		if hash := chainhash.DoubleHashH(raw); t.metBy(&hash) {
			return raw
		}
	}
	tb.Fatalf("no block found at nBits %08x", bits(raw))
	return nil
}

func (m *maker) now() uint32 { return seconds(m.v.headers.at(m.v.headers.n - 1)) }

// grow mines n blocks, gap seconds apart, and returns their raw headers.
func (m *maker) grow(n int, gap uint32, seed uint64) []byte {
	m.tb.Helper()
	var out []byte
	for range n {
		raw := mine(m.tb, m.template(m.now()+gap, seed))
		m.add(raw)
		out = append(out, raw...)
	}
	return out
}

// chainOf makes a chain with a tip at a height.
func chainOf(tb testing.TB, p Params, tip int) *Chain {
	tb.Helper()
	m := newMaker(tb, p)
	m.grow(tip, spacing, 0)
	return m.v.chain()
}

func rawOf(tb testing.TB, c *Chain) []byte {
	tb.Helper()
	var out bytes.Buffer
	n, err := c.WriteTo(&out)
	if err != nil || n != int64(out.Len()) {
		tb.Fatalf("WriteTo: %d of %d bytes, %v", n, out.Len(), err)
	}
	return out.Bytes()
}

func headerAt(raw []byte, height int) []byte {
	return raw[height*HeaderSize : (height+1)*HeaderSize]
}

// mainnet returns the first 256 headers of mainnet.
func mainnet(tb testing.TB) []byte {
	tb.Helper()
	raw, err := os.ReadFile("testdata/mainnet-0-255.bin")
	if err != nil {
		tb.Fatal(err)
	}
	return raw
}
