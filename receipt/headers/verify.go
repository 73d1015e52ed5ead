package headers

import (
	"bytes"
	"fmt"
	"math/big"
	"time"

	"github.com/btcsuite/btcd/chainhash/v2"
)

// maxTimewarp is how much earlier than the block before it the first block of
// an interval may be, in seconds (BIP94).
const maxTimewarp = 600

// verifier appends headers that pass every rule to those that already did.
type verifier struct {
	params  *Params
	pins    map[int]chainhash.Hash
	headers store
	tip     chainhash.Hash
	work    *big.Int // of all headers together

	// realBits are those of the newest header that did not use the
	// minimum-difficulty rule, or that began an interval: what the next one goes
	// back to. Kept here because walking back costs up to an interval a header.
	realBits uint32

	current target // the last that was decoded, which needn't be the tip's
}

// resume returns a verifier that goes on after headers which are verified.
// work is theirs, and becomes the verifier's own.
func resume(p *Params, headers store, work *big.Int) *verifier {
	v := &verifier{params: p, headers: headers, work: work, pins: make(map[int]chainhash.Hash, len(p.Pins))}
	for _, pin := range p.Pins {
		v.pins[pin.Height] = pin.Hash
	}
	if headers.n == 0 {
		return v
	}
	last := headers.n - 1
	v.tip = chainhash.DoubleHashH(headers.at(last))
	h := last
	for h > 0 && h%p.Interval != 0 && bits(headers.at(h)) == p.PowLimitBits {
		h--
	}
	v.realBits = bits(headers.at(h))
	return v
}

// add verifies the next header and appends it, or changes nothing.
func (v *verifier) add(raw []byte) error {
	height, hash := v.headers.n, chainhash.DoubleHashH(raw)
	if height >= v.params.MaxHeaders {
		return fmt.Errorf("block header at height %d, at most %d are read: %w", height, v.params.MaxHeaders, ErrTooLong)
	}
	if broken := v.check(height, raw, &hash); broken != nil {
		broken.Height = height
		return broken
	}
	v.headers.append(raw)
	v.tip = hash
	v.work.Add(v.work, v.current.work)
	if !v.params.MinDifficulty || height%v.params.Interval == 0 || bits(raw) != v.params.PowLimitBits {
		v.realBits = bits(raw)
	}
	return nil
}

// check returns the rule that the next header breaks, without its height, or nil.
func (v *verifier) check(height int, raw []byte, hash *chainhash.Hash) *RuleError {
	if height == 0 {
		return v.checkGenesis(raw, hash)
	}
	if !bytes.Equal(prevBlock(raw), v.tip[:]) {
		return broken(RuleLink, "previous block is %v, but the block before is %v", chainhash.Hash(prevBlock(raw)), v.tip)
	}
	if err := v.checkWork(height, raw, hash); err != nil {
		return err
	}
	if err := v.checkTime(height, raw); err != nil {
		return err
	}
	if least := v.leastVersion(height); version(raw) < least {
		return broken(RuleVersion, "version is %d, want at least %d", version(raw), least)
	}
	if pinned, ok := v.pins[height]; ok && pinned != *hash {
		return broken(RulePin, "block is %v, but %v is pinned here", *hash, pinned)
	}
	return nil
}

func broken(rule Rule, format string, args ...any) *RuleError {
	return &RuleError{Rule: rule, Detail: fmt.Sprintf(format, args...)}
}

// checkGenesis compares block 0 with the known one; no other rule applies to it.
func (v *verifier) checkGenesis(raw []byte, hash *chainhash.Hash) *RuleError {
	if !bytes.Equal(raw, v.params.Genesis[:]) {
		return broken(RuleGenesis, "block is %v, but the genesis block of %s is %v", *hash,
			v.params.Network, chainhash.DoubleHashH(v.params.Genesis[:]))
	}
	return v.setTarget(bits(raw))
}

func (v *verifier) checkWork(height int, raw []byte, hash *chainhash.Hash) *RuleError {
	if err := v.setTarget(bits(raw)); err != nil {
		return err
	}
	if want := v.requiredBits(height, seconds(raw)); bits(raw) != want {
		return broken(RuleBits, "nBits are %08x, the difficulty rules demand %08x", bits(raw), want)
	}
	if !v.current.metBy(hash) {
		return broken(RuleWork, "hash %v is above the target %x", *hash, v.current.limit)
	}
	return nil
}

// setTarget decodes the nBits of the next header, unless they are those of the
// one before it, as they nearly always are.
func (v *verifier) setTarget(bits uint32) *RuleError {
	if v.current.work != nil && v.current.bits == bits {
		return nil
	}
	t, ok := newTarget(bits, v.params.PowLimit)
	if !ok {
		return broken(RuleTarget, "nBits %08x are no target up to %08x", bits, v.params.PowLimitBits)
	}
	v.current = t
	return nil
}

// checkTime compares with the blocks before only. Whether a time is in the
// future isn't checked: that needs a clock, and was checked by the nodes.
func (v *verifier) checkTime(height int, raw []byte) *RuleError {
	if median := v.headers.medianTime(height - 1); seconds(raw) <= median {
		return broken(RuleTime, "time %s is not later than the median %s", clock(seconds(raw)), clock(median))
	}
	if !v.params.BIP94 || height%v.params.Interval != 0 {
		return nil
	}
	if before := seconds(v.headers.at(height - 1)); int64(seconds(raw)) < int64(before)-maxTimewarp {
		return broken(RuleTimewarp, "time %s is over %d s before the block before, %s", clock(seconds(raw)), maxTimewarp, clock(before))
	}
	return nil
}

func clock(seconds uint32) string {
	return time.Unix(int64(seconds), 0).UTC().Format(time.RFC3339)
}

// leastVersion is what BIP34, BIP66 and BIP65 left allowed at a height.
func (v *verifier) leastVersion(height int) int32 {
	switch {
	case height >= v.params.BIP65Height:
		return 4
	case height >= v.params.BIP66Height:
		return 3
	case height >= v.params.BIP34Height:
		return 2
	}
	return -1 << 31
}

// requiredBits returns the nBits that the network demands of the header at a
// height above 0 whose time is at, in seconds.
func (v *verifier) requiredBits(height int, at uint32) uint32 {
	p := v.params
	switch {
	case p.NoRetarget:
		return p.PowLimitBits
	case height%p.Interval == 0:
		return v.retarget(height)
	case !p.MinDifficulty:
		return bits(v.headers.at(height - 1))
	case int64(at) > int64(seconds(v.headers.at(height-1)))+int64(p.MinDifficultyAfter/time.Second):
		return p.PowLimitBits
	}
	return v.realBits
}

// retarget returns nBits for the first block of an interval. The time that the
// last interval took is measured from its first block to its last, one gap too
// few: a mistake of the first version of Bitcoin that is consensus now.
func (v *verifier) retarget(height int) uint32 {
	p := v.params
	first, last := v.headers.at(height-p.Interval), v.headers.at(height-1)
	timespan := int64(p.TargetTimespan / time.Second)
	took := int64(seconds(last)) - int64(seconds(first))
	took = max(took, timespan/p.AdjustmentFactor)
	took = min(took, timespan*p.AdjustmentFactor)

	from := bits(last)
	if p.BIP94 {
		// The first block can't have used the minimum-difficulty rule.
		from = bits(first)
	}
	limit := decodeCompact(from)
	limit.Mul(limit, big.NewInt(took))
	limit.Quo(limit, big.NewInt(timespan))
	if limit.Cmp(p.PowLimit) > 0 {
		limit = p.PowLimit
	}
	return encodeCompact(limit)
}
