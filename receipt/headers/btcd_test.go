package headers

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/big"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/btcsuite/btcd/blockchain"
	"github.com/btcsuite/btcd/chaincfg/v2"
	"github.com/btcsuite/btcd/chainhash/v2"
	"github.com/btcsuite/btcd/wire/v2"

	"github.com/calpe/calpe"
)

// reference answers what btcd thinks of a header: the same rules in code that
// shares nothing with ours and has followed the real chain for years.
type reference struct{ chaincfg.Params }

func newReference(p *Params) *reference {
	return &reference{chaincfg.Params{
		PowLimit:                 p.PowLimit,
		PowLimitBits:             p.PowLimitBits,
		PoWNoRetargeting:         p.NoRetarget,
		TargetTimespan:           p.TargetTimespan,
		TargetTimePerBlock:       p.TargetTimespan / time.Duration(p.Interval),
		RetargetAdjustmentFactor: p.AdjustmentFactor,
		ReduceMinDifficulty:      p.MinDifficulty,
		MinDiffReductionTime:     p.MinDifficultyAfter,
		EnforceBIP94:             p.BIP94,
		BIP0034Height:            int32(p.BIP34Height),
		BIP0066Height:            int32(p.BIP66Height),
		BIP0065Height:            int32(p.BIP65Height),
	}}
}

func (r *reference) ChainParams() *chaincfg.Params { return &r.Params }
func (r *reference) BlocksPerRetarget() int32 {
	return int32(r.TargetTimespan / r.TargetTimePerBlock)
}
func (r *reference) MinRetargetTimespan() int64 {
	return int64(r.TargetTimespan/time.Second) / r.RetargetAdjustmentFactor
}
func (r *reference) MaxRetargetTimespan() int64 {
	return int64(r.TargetTimespan/time.Second) * r.RetargetAdjustmentFactor
}
func (r *reference) VerifyCheckpoint(int32, *chainhash.Hash) bool { return true }
func (r *reference) FindPreviousCheckpoint() (blockchain.HeaderCtx, error) {
	return nil, nil
}

// node is a header of a chain as btcd wants to see it.
type node struct {
	headers *store
	height  int32
}

func (n node) Height() int32    { return n.height }
func (n node) Bits() uint32     { return bits(n.headers.at(int(n.height))) }
func (n node) Timestamp() int64 { return int64(seconds(n.headers.at(int(n.height)))) }
func (n node) Parent() blockchain.HeaderCtx {
	return n.RelativeAncestorCtx(1)
}
func (n node) RelativeAncestorCtx(distance int32) blockchain.HeaderCtx {
	if distance > n.height {
		return nil
	}
	return node{n.headers, n.height - distance}
}

// rules tells which rules we may say are broken when btcd gives a code. For it,
// nBits that aren't a target at all have the code of those that are the wrong one.
var rules = map[blockchain.ErrorCode][]Rule{
	blockchain.ErrUnexpectedDifficulty: {RuleBits, RuleTarget},
	blockchain.ErrHighHash:             {RuleWork},
	blockchain.ErrTimeTooOld:           {RuleTime},
	blockchain.ErrTimewarpAttack:       {RuleTimewarp},
	blockchain.ErrBlockVersionTooOld:   {RuleVersion},
}

// judge returns btcd's opinion of a header after others, nil when it
// would take it. Links are outside of what btcd's functions look at.
func (r *reference) judge(t *testing.T, headers *store, next []byte) error {
	t.Helper()
	var header wire.BlockHeader
	if err := header.Deserialize(bytes.NewReader(next)); err != nil {
		t.Fatal(err)
	}
	tip := node{headers, int32(headers.n - 1)}
	if err := blockchain.CheckBlockHeaderSanity(&header, r.PowLimit, endOfTime{}, blockchain.BFNoPoWCheck); err != nil {
		return err
	}
	// The difficulty comes before the work with us, and all else after it.
	context := blockchain.CheckBlockHeaderContext(&header, tip, blockchain.BFNone, r, true)
	var broken blockchain.RuleError
	if errors.As(context, &broken) && broken.ErrorCode == blockchain.ErrUnexpectedDifficulty {
		return context
	}
	if err := blockchain.CheckBlockHeaderSanity(&header, r.PowLimit, endOfTime{}, blockchain.BFNone); err != nil {
		return err
	}
	return context
}

// endOfTime is a clock by which no header is from the future.
type endOfTime struct{ blockchain.MedianTimeSource }

func (endOfTime) AdjustedTime() time.Time { return time.Unix(1<<33, 0) }

// compare gives one header to both, fails the test when they disagree, and
// returns the rule on which they agree that it is broken.
func compare(t *testing.T, m *maker, ref *reference, next []byte) (Rule, bool) {
	t.Helper()
	height := m.v.headers.n
	theirs := ref.judge(t, &m.v.headers, next)
	ours := m.v.add(next)
	if theirs == nil || ours == nil {
		if theirs != nil || ours != nil {
			t.Fatalf("height %d, header %x: ours %v, btcd's %v", height, next, ours, theirs)
		}
		return "", false
	}
	code := theirs.(blockchain.RuleError).ErrorCode
	wantRule(t, theirs.Error(), ours, height, rules[code]...)
	var broken *RuleError
	if !errors.As(ours, &broken) {
		t.FailNow()
	}
	return broken.Rule, true
}

func TestAgreesWithBtcd(t *testing.T) {
	noRetarget := smallParams()
	noRetarget.NoRetarget = true
	for name, p := range map[string]Params{
		"plain":              smallParams(),
		"minimum difficulty": minDifficultyParams(),
		"BIP94":              bip94Params(),
		"no retarget":        noRetarget,
	} {
		t.Run(name, func(t *testing.T) {
			accepted, refused := 0, map[Rule]int{}
			for seed := range uint64(30) {
				rnd := rand.New(rand.NewPCG(seed, 1))
				m, ref := newMaker(t, p), newReference(&p)
				for range 200 {
					if rule, broken := compare(t, m, ref, candidate(t, rnd, m)); broken {
						refused[rule]++
					} else {
						accepted++
					}
				}
			}
			t.Logf("%d headers accepted, refused %v", accepted, refused)
			for _, rule := range []Rule{RuleTarget, RuleBits, RuleWork, RuleTime, RuleVersion} {
				if refused[rule] == 0 {
					t.Errorf("no header broke rule %q", rule)
				}
			}
			if (refused[RuleTimewarp] > 0) != p.BIP94 || accepted == 0 {
				t.Errorf("%d headers accepted, %d refused for a time warp", accepted, refused[RuleTimewarp])
			}
		})
	}
}

// candidate makes a header that is right, or nearly.
func candidate(t *testing.T, rnd *rand.Rand, m *maker) []byte {
	t.Helper()
	span := int64(m.v.params.TargetTimespan / time.Second / 8)
	at := max(0, int64(m.now())+rnd.Int64N(5*span)-2*span)
	if work := m.v.current.work; work.BitLen() > 8 {
		at += 10 * span // blocks became dear: make them cheap again
	}
	raw := m.template(uint32(at), rnd.Uint64())
	if rnd.IntN(10) == 0 {
		binary.LittleEndian.PutUint32(raw[0:4], uint32(rnd.IntN(6))-1)
	}
	switch rnd.IntN(20) {
	case 0:
		binary.LittleEndian.PutUint32(raw[72:76], m.v.params.PowLimitBits)
	case 1:
		binary.LittleEndian.PutUint32(raw[72:76], bits(m.v.headers.at(rnd.IntN(m.v.headers.n))))
	case 2:
		binary.LittleEndian.PutUint32(raw[72:76], rnd.Uint32())
		return raw
	case 3:
		return raw // not mined
	}
	return mine(t, raw)
}

// The rules of the real networks, over blocks that are not mined: difficulty
// over several intervals of 2016 blocks, as both compute it.
func TestRetargetAgreesWithBtcd(t *testing.T) {
	for _, network := range []calpe.Network{calpe.Mainnet, calpe.Testnet3, calpe.Testnet4, calpe.Signet, calpe.Simnet, calpe.Regtest} {
		t.Run(string(network), func(t *testing.T) {
			p := mustParams(t, network)
			ref := newReference(&p)
			rnd := rand.New(rand.NewPCG(2, 3))
			v := resume(&p, store{}, new(big.Int))
			if err := v.add(p.Genesis[:]); err != nil {
				t.Fatal(err)
			}
			seen := map[uint32]bool{}
			for height := 1; height < 5*p.Interval; height++ {
				next := make([]byte, HeaderSize)
				copy(next[4:36], v.tip[:])
				gap := []uint32{60, 400, 900, 30}[height/p.Interval%4] + rnd.Uint32N(150)
				if rnd.IntN(20) == 0 {
					gap += 1150 // often over 20 minutes
				}
				at := seconds(v.headers.at(height-1)) + gap
				binary.LittleEndian.PutUint32(next[0:4], 4)
				binary.LittleEndian.PutUint32(next[68:72], at)
				binary.LittleEndian.PutUint32(next[72:76], v.requiredBits(height, at))
				seen[bits(next)] = true
				// Only what btcd demands, as nobody can mine these here.
				var header wire.BlockHeader
				if err := header.Deserialize(bytes.NewReader(next)); err != nil {
					t.Fatal(err)
				}
				if err := blockchain.CheckBlockHeaderContext(&header, node{&v.headers, int32(height - 1)}, blockchain.BFNone, ref, true); err != nil {
					t.Fatalf("height %d: %v", height, err)
				}
				force(v, next)
			}
			if retargets := len(seen) >= 4; retargets == p.NoRetarget {
				t.Errorf("%d different difficulties", len(seen))
			}
		})
	}
}

// force appends a header without the check of its work.
func force(v *verifier, raw []byte) {
	v.headers.append(raw)
	v.tip = chainhash.DoubleHashH(raw)
	v.realBits = resume(v.params, v.headers, nil).realBits
}

// The compact form and the work of a target, on numbers at which they turn and at random.
func TestCompactAgreesWithBtcd(t *testing.T) {
	rnd := rand.New(rand.NewPCG(4, 5))
	for range 50_000 {
		compact := rnd.Uint32()
		n := decodeCompact(compact)
		if want := blockchain.CompactToBig(compact); n.Cmp(want) != 0 {
			t.Fatalf("decode %08x: %x, want %x", compact, n, want)
		}
		if n.Sign() > 0 && n.BitLen() <= 256 {
			if want := blockchain.CalcWork(compact); workOf(n).Cmp(want) != 0 {
				t.Fatalf("work of %08x: %x, want %x", compact, workOf(n), want)
			}
		}
		n = new(big.Int).Rsh(new(big.Int).SetUint64(rnd.Uint64()), uint(rnd.IntN(64)))
		n.Lsh(n, uint(rnd.IntN(192)))
		if got, want := encodeCompact(n), blockchain.BigToCompact(n); got != want {
			t.Fatalf("encode %x: %08x, want %08x", n, got, want)
		}
	}
}
