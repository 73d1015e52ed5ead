package main

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"github.com/btcsuite/btcd/chainhash/v2"

	"github.com/calpe/calpe/receipt/headers"
)

// chainRules are what a chain of headers must fulfil beyond what is built in for
// its network. With a block that one knows from elsewhere, such as from a
// newspaper, nobody who mines a chain of his own gets through.
type chainRules struct {
	Pin     []string `help:"A block that the chain must have, HEIGHT:HASH; may be given more than once." variable:"CALPE_PIN" placeholder:"HEIGHT:HASH" group:"Bitcoin's chain"`
	MinWork string   `name:"min-work" help:"The work that the chain must have at least, in hexadecimal, as Bitcoin Core's getblockheader says it (chainwork). What is built in for mainnet is asked for in any case." variable:"CALPE_MIN_WORK" placeholder:"HEX" group:"Bitcoin's chain"`
}

// demands are rules that have been read.
type demands struct {
	pins []headers.Pin
	work *big.Int
}

func (r chainRules) parse() (d demands, err error) {
	for _, text := range r.Pin {
		pin, err := parsePin(text)
		if err != nil {
			return demands{}, fmt.Errorf("--pin: %w", err)
		}
		d.pins = append(d.pins, pin)
	}
	d.work = new(big.Int)
	if r.MinWork == "" {
		return d, nil
	}
	// 2^256 is more than any chain has.
	if _, ok := d.work.SetString(strings.TrimPrefix(r.MinWork, "0x"), 16); !ok || d.work.Sign() < 0 || d.work.BitLen() > 256 {
		return demands{}, fmt.Errorf("--min-work: %q is not a number of up to 64 hexadecimal digits", r.MinWork)
	}
	return d, nil
}

func parsePin(text string) (headers.Pin, error) {
	number, hash, _ := strings.Cut(text, ":")
	height, err := strconv.ParseUint(number, 10, 31)
	if err != nil || len(hash) != 2*chainhash.HashSize {
		return headers.Pin{}, fmt.Errorf("%q is not HEIGHT:HASH with 64 hexadecimal digits", text)
	}
	h, err := chainhash.NewHashFromStr(hash)
	if err != nil {
		return headers.Pin{}, fmt.Errorf("%q is not HEIGHT:HASH with 64 hexadecimal digits", text)
	}
	return headers.Pin{Height: int(height), Hash: *h}, nil
}

// contradicted says which pinned block the chain has another one in place of.
func (d demands) contradicted(chain *headers.Chain) error {
	for _, pin := range d.pins {
		if h, ok := chain.At(pin.Height); ok && h.Hash != pin.Hash {
			return fmt.Errorf("block %d is %s, but %s is pinned there (--pin): it is another chain than the one that you know", pin.Height, h.Hash, pin.Hash)
		}
	}
	return nil
}

// unreached says what the chain is still too short for.
func (d demands) unreached(chain *headers.Chain) error {
	tip, _ := chain.Tip()
	for _, pin := range d.pins {
		if tip < pin.Height {
			return fmt.Errorf("the chain ends at block %d, before the block that is pinned at %d (--pin)", tip, pin.Height)
		}
	}
	if work := chain.Work(); work.Cmp(d.work) < 0 {
		return fmt.Errorf("the chain up to block %d has work %x, and %x is asked for (--min-work): %w", tip, work, d.work, headers.ErrTooLittleWork)
	}
	return nil
}

// check is for a chain that is complete.
func (d demands) check(chain *headers.Chain) error {
	if err := d.contradicted(chain); err != nil {
		return err
	}
	return d.unreached(chain)
}
