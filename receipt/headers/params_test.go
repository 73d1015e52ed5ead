package headers

import (
	"encoding/binary"
	"math/big"
	"testing"

	"github.com/btcsuite/btcd/chaincfg/v2"
	"github.com/btcsuite/btcd/chainhash/v2"

	"github.com/calpe/calpe"
)

func TestParamsFor(t *testing.T) {
	for network, want := range map[calpe.Network]struct {
		chain   *chaincfg.Params
		genesis string
		highest int // pin
		bip94   bool
		minWork bool
	}{
		calpe.Mainnet:  {&chaincfg.MainNetParams, "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f", 938343, false, true},
		calpe.Testnet3: {&chaincfg.TestNet3Params, "000000000933ea01ad0ee984209779baaec3ced90fa3f408719526f8d77f4943", 2344474, false, false},
		calpe.Testnet4: {&chaincfg.TestNet4Params, "00000000da84f2bafbbc53dee25a72ae507ff4914b867c565be350b0da8bf043", 123613, true, false},
		calpe.Signet:   {&chaincfg.SigNetParams, "00000008819873e925422c1ff0f99f7cc9bbb232af63a077a480a3633bee1ef6", 0, false, false},
		calpe.Regtest:  {&chaincfg.RegressionNetParams, "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206", 0, false, false},
		calpe.Simnet:   {&chaincfg.SimNetParams, "683e86bd5c6d110d91b94b97137ba6bfe02dbbdb8e3dff722a669b5d69d77af6", 0, false, false},
	} {
		p := mustParams(t, network)
		if hash := chainhash.DoubleHashH(p.Genesis[:]); hash.String() != want.genesis || hash != *want.chain.GenesisHash {
			t.Errorf("genesis block of %s is %v", network, hash)
		}
		highest := 0
		for _, pin := range p.Pins {
			highest = max(highest, pin.Height)
		}
		if highest != want.highest || p.BIP94 != want.bip94 || (p.MinWork != nil) != want.minWork {
			t.Errorf("%s: highest pin %d, BIP94 %t, minimum work %v", network, highest, p.BIP94, p.MinWork)
		}
		if p.Network != network || p.Interval != 2016 || p.AdjustmentFactor != 4 || encodeCompact(p.PowLimit) != p.PowLimitBits {
			t.Errorf("%s: %s, interval %d, factor %d, limit %x %08x", network, p.Network, p.Interval, p.AdjustmentFactor, p.PowLimit, p.PowLimitBits)
		}
		p.PowLimit.SetInt64(0)
		if want.chain.PowLimit.Sign() == 0 {
			t.Errorf("%s: the limit is shared with chaincfg", network)
		}
	}
	if _, err := ParamsFor("litecoin"); err == nil {
		t.Error("rules for a network that isn't Bitcoin's")
	}
}

// Pinned work and pinned block belong together: 2^96.1 hashes is what Bitcoin
// had behind it in early 2026, and the block's hash shows the difficulty of then: 80
// leading zero bits.
func TestMainnetPinsArePlausible(t *testing.T) {
	p := mustParams(t, calpe.Mainnet)
	if n := p.MinWork.BitLen(); n != 97 {
		t.Errorf("minimum work has %d bits", n)
	}
	pins := map[int]chainhash.Hash{}
	for _, pin := range p.Pins {
		pins[pin.Height] = pin.Hash
	}
	last := pins[mainnetPinHeight]
	n, ok := new(big.Int).SetString(last.String(), 16)
	if !ok || last.String() != mainnetPinHash || n.BitLen() != 176 {
		t.Errorf("pinned block is %v, %d bits", last, n.BitLen())
	}
	if got := pins[11111].String(); got != "0000000069e244f73d78e8fd29ba2fd2ed618bd6fa2ee92559f542fdb26e7c1d" {
		t.Errorf("pinned block 11111 is %v", got)
	}
}

// Four retargets of mainnet, with the times and nBits that its blocks have:
// the first that changed anything, one at the limit of the network, one that
// was cut to a quarter and one that was cut to four times.
func TestMainnetRetargets(t *testing.T) {
	p := mustParams(t, calpe.Mainnet)
	for _, test := range []struct {
		last             int
		first, lastTime  uint32
		lastBits, demand uint32
	}{
		{32255, 1261130161, 1262152739, 0x1d00ffff, 0x1d00d86a},
		{2015, 1231006505, 1233061996, 0x1d00ffff, 0x1d00ffff},
		{68543, 1279008237, 1279297671, 0x1c05a3f4, 0x1c0168fd},
		{46367, 1263163443, 1269211443, 0x1c387f6f, 0x1d00e1fd},
	} {
		v := resume(&p, store{}, new(big.Int))
		for height := range test.last + 1 {
			raw := make([]byte, HeaderSize)
			switch height {
			case test.last - 2015:
				binary.LittleEndian.PutUint32(raw[68:72], test.first)
			case test.last:
				binary.LittleEndian.PutUint32(raw[68:72], test.lastTime)
				binary.LittleEndian.PutUint32(raw[72:76], test.lastBits)
			}
			v.headers.append(raw)
		}
		if got := v.requiredBits(test.last+1, test.lastTime+600); got != test.demand {
			t.Errorf("nBits after block %d are %08x, want %08x", test.last, got, test.demand)
		}
	}
}
