package headers

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"time"

	"github.com/btcsuite/btcd/chaincfg/v2"
	"github.com/btcsuite/btcd/chainhash/v2"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/internal/chainparams"
)

// Pin is a block that the chain must have at a height, if it is that long.
type Pin struct {
	Height int
	Hash   chainhash.Hash // its text form is byte-reversed hex, as Bitcoin shows it
}

// Params are the rules of one network. ParamsFor gives those of the real ones;
// the fields are open so that tests can make a network with a retarget every
// few blocks. What Params point to must not change while a Chain uses them.
type Params struct {
	Network calpe.Network
	Genesis [HeaderSize]byte // the raw header of block 0

	PowLimit     *big.Int // the easiest target: greater than zero, below 2^256
	PowLimitBits uint32   // what a block of minimum difficulty must say

	NoRetarget       bool          // every block has PowLimitBits (regtest)
	Interval         int           // blocks between two retargets, 2016
	TargetTimespan   time.Duration // what they should take, two weeks
	AdjustmentFactor int64         // a retarget changes the target by this factor at most, 4

	// MinDifficulty lets a block have PowLimitBits when its time is more than
	// MinDifficultyAfter later than that of the block before (test networks).
	MinDifficulty      bool
	MinDifficultyAfter time.Duration

	// BIP94 makes a retarget start from the first block of the interval, and
	// forbids the first one of the next to be over 600 s earlier than the block
	// before it (testnet4).
	BIP94 bool

	// From these heights on the version must be at least 2, 3 and 4.
	BIP34Height, BIP66Height, BIP65Height int

	// MinWork is the work that a complete chain has at least; nil means that
	// none is pinned.
	MinWork *big.Int

	Pins []Pin // in any order

	// MaxHeaders bounds the length of a chain, and with it the memory.
	MaxHeaders int
}

// The limits are what a chain can reach in some decades: mainnet passes four
// million blocks in about 2085. Testnet3, whose rules let blocks come in
// storms, had passed it by 2025.
const (
	maxHeaders         = 4_000_000
	maxHeadersTestnet3 = 16_000_000
)

// The pins beyond those of chaincfg are those of Bitcoin Core's
// kernel/chainparams.cpp of August 2026. Signet has none, as every signet,
// also a private one, begins with the same genesis block (BIP325).
const (
	mainnetMinWork = "01128750f82f4c366153a3a030"

	mainnetPinHeight = 938343
	mainnetPinHash   = "00000000000000000000ccebd6d74d9194d8dcdc1d177c478e094bfad51ba5ac"

	testnet4PinHeight = 123613
	testnet4PinHash   = "0000000002368b1e4ee27e2e85676ae6f9f9e69579b29093e9a82c170bf7cf8a"
)

// ParamsFor returns the rules of a network, with what is pinned for it: blocks
// on mainnet, testnet3 and testnet4, and on mainnet the minimum work. The result
// is the caller's own. An unknown name is the only error that a caller can cause.
func ParamsFor(network calpe.Network) (Params, error) {
	chain, err := chainparams.For(network)
	if err != nil {
		return Params{}, fmt.Errorf("no header rules: %w", err)
	}
	p, err := fromChaincfg(network, chain)
	if err != nil {
		return Params{}, err
	}
	switch network {
	case calpe.Mainnet:
		p.MinWork, _ = new(big.Int).SetString(mainnetMinWork, 16)
		err = p.pin(mainnetPinHeight, mainnetPinHash)
	case calpe.Testnet3:
		p.MaxHeaders = maxHeadersTestnet3
	case calpe.Testnet4:
		err = p.pin(testnet4PinHeight, testnet4PinHash)
	default: // private signets share a genesis block; the others are anybody's: nothing to pin
	}
	return p, err
}

func fromChaincfg(network calpe.Network, c *chaincfg.Params) (Params, error) {
	p := Params{
		Network:            network,
		PowLimit:           new(big.Int).Set(c.PowLimit),
		PowLimitBits:       c.PowLimitBits,
		NoRetarget:         c.PoWNoRetargeting,
		Interval:           int(c.TargetTimespan / c.TargetTimePerBlock),
		TargetTimespan:     c.TargetTimespan,
		AdjustmentFactor:   c.RetargetAdjustmentFactor,
		MinDifficulty:      c.ReduceMinDifficulty,
		MinDifficultyAfter: c.MinDiffReductionTime,
		BIP94:              c.EnforceBIP94,
		BIP34Height:        int(c.BIP0034Height),
		BIP66Height:        int(c.BIP0066Height),
		BIP65Height:        int(c.BIP0065Height),
		MaxHeaders:         maxHeaders,
	}
	var raw bytes.Buffer
	if err := c.GenesisBlock.Header.Serialize(&raw); err != nil {
		return Params{}, fmt.Errorf("serialize genesis header of %s: %w", network, err)
	}
	copy(p.Genesis[:], raw.Bytes())
	for _, cp := range c.Checkpoints {
		p.Pins = append(p.Pins, Pin{Height: int(cp.Height), Hash: *cp.Hash})
	}
	return p, nil
}

// pin adds a block whose hash is given as Bitcoin shows it.
func (p *Params) pin(height int, hash string) error {
	raw, err := hex.DecodeString(hash)
	if err != nil || len(raw) != chainhash.HashSize {
		return fmt.Errorf("decode pinned hash at height %d: %q", height, hash)
	}
	h, err := chainhash.NewHashFromStr(hash)
	if err != nil {
		return fmt.Errorf("decode pinned hash at height %d: %w", height, err)
	}
	p.Pins = append(p.Pins, Pin{Height: height, Hash: *h})
	return nil
}

// check refuses rules that no chain can be measured by.
func (p *Params) check() error {
	switch {
	case p.PowLimit == nil || p.PowLimit.Sign() <= 0 || p.PowLimit.BitLen() > 256:
		return errors.New("header rules: the work limit is not between zero and 2^256")
	case p.MaxHeaders < 1:
		return errors.New("header rules: the maximum length is not positive")
	case p.Interval < 1 || p.AdjustmentFactor < 1:
		return errors.New("header rules: the retarget interval or factor is not positive")
	case p.TargetTimespan < time.Second || p.TargetTimespan%time.Second != 0:
		return errors.New("header rules: the retarget timespan is not whole seconds")
	}
	return nil
}
