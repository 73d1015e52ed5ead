package ledger

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/calpe/calpe"
)

// FeeRate is satoshis per 1000 virtual bytes, the unit in which nodes keep it.
// People see sat/vB. It is an integer so that no amount of money ever depends
// on rounding.
type FeeRate int64

// SatPerVB is one satoshi per virtual byte, the lowest rate that every node
// relays.
const SatPerVB FeeRate = 1000

// FeeRateFromSatPerVB turns a configured number of sat/vB into a rate, rounded
// up. A negative, infinite or absurd number (above one bitcoin per 1000 vB) is
// an error.
func FeeRateFromSatPerVB(x float64) (FeeRate, error) {
	if math.IsNaN(x) || x < 0 || x > 100_000 {
		return 0, fmt.Errorf("fee rate of %v sat/vB is not between 0 and 100000", x)
	}
	return FeeRate(math.Ceil(x * float64(SatPerVB))), nil
}

// Fee in satoshis for a transaction of that many virtual bytes, rounded up.
func (r FeeRate) Fee(vsize int) int64 {
	return (int64(r)*int64(vsize) + int64(SatPerVB) - 1) / int64(SatPerVB)
}

// String is the rate in sat/vB, the unit of every wallet.
func (r FeeRate) String() string {
	return fmt.Sprintf("%d.%03d sat/vB", r/SatPerVB, r%SatPerVB)
}

// Output is one output of a transaction: its value in satoshis and its script.
type Output struct {
	Value  int64
	Script []byte
}

// CoinKind tells the coins apart by how they came to be ours.
type CoinKind string

// The kinds of coins.
const (
	// ChainCoin is a link of the chain of coins: the first outpoint, or the
	// change of an attempt. Input 0 of every attempt spends one.
	ChainCoin CoinKind = "chain"
	// DepositCoin is money that somebody paid to our script. It may join an
	// attempt as a further input. Smaller payments than the engine is set to
	// notice are dust, and no coins.
	DepositCoin CoinKind = "deposit"
)

// Coin is an output of the anchor key. Coins form a tree: MadeBy is the attempt
// whose change it is, so that what hangs on an attempt goes and comes with it.
type Coin struct {
	Outpoint calpe.Outpoint
	Output
	Kind        CoinKind
	State       CoinState
	MadeBy      calpe.BlockHash // zero for the first coin and for deposits
	Height      uint32          // of the block that makes it; 0 when void
	SpentBy     calpe.BlockHash // when spent or foreign: the transaction that spends it
	SpentHeight uint32          // and the height of its block
}

// Input is what an attempt spends, with what signing needs to know of it.
type Input struct {
	Outpoint calpe.Outpoint
	Output
}

// Attempt is a transaction that spends a coin and carries a payload. Its id is
// known before it is signed, because a segwit signature isn't part of it.
type Attempt struct {
	TxID calpe.BlockHash
	Coin calpe.Outpoint // the coin that input 0 spends
	N    int            // number of the attempt among those of its coin, from 1
	calpe.Payload
	State    AttemptState
	Inputs   []Input // in the order of the transaction; the first is Coin
	Unsigned []byte  // serialized without witness
	Raw      []byte  // signed; nil until then
	Fee      int64   // satoshis
	VSize    int     // virtual bytes, with signatures of the longest form
	Change   int64   // satoshis of output 1, the next coin
	Imported bool    // found in a block, and not created by this database (a restored one)
	Created  time.Time
	Tip      uint32    // height of the newest block followed when it was created
	LastSent time.Time // zero until it was handed to a node
	Answer   Answer    // of the last hand-over
	Height   uint32    // of its block when mined or final
}

// FeeRate is what the attempt pays, rounded up; zero if its fee isn't known.
func (a Attempt) FeeRate() FeeRate { return rateOf(a.Fee, a.VSize) }

// FeeRate is what an anchor paid, rounded up; zero if its fee isn't known.
func (m Movement) FeeRate() FeeRate { return rateOf(m.Fee, m.VSize) }

func rateOf(fee int64, vsize int) FeeRate {
	if vsize <= 0 {
		return 0
	}
	return FeeRate((fee*int64(SatPerVB) + int64(vsize) - 1) / int64(vsize))
}

// Block is one block of the best chain as the tip journal keeps it.
type Block struct {
	Height uint32
	Hash   calpe.BlockHash
	Header [calpe.HeaderSize]byte
}

// Prev is the hash of the block before, as the header states it.
func (b Block) Prev() (h calpe.BlockHash) {
	copy(h[:], b.Header[4:36])
	return h
}

// Time is when the block was made, as its header claims: up to two hours ahead of
// the clock, and not always after the block before.
func (b Block) Time() time.Time {
	return time.Unix(int64(binary.LittleEndian.Uint32(b.Header[68:72])), 0).UTC()
}

// Event is one thing that a connected block does to our coins. Exactly one
// field is set. Events are applied in the order of the block's transactions.
type Event struct {
	Mined   *MinedAttempt
	Foreign *ForeignSpend
	Found   *FoundCoin
	// Deposit: the block makes this coin of kind deposit. It is new, or void: then
	// it becomes live again.
	Deposit *Coin
}

// MinedAttempt: the block holds an attempt. Evidence is complete and verified. For a
// transaction that the store has no row of, Import is that row: it is ours, by
// tag and change, from a history that this database has lost.
type MinedAttempt struct {
	Coin     calpe.Outpoint   // that input 0 spends
	Deposits []calpe.Outpoint // live deposits that further inputs spend
	Raw      []byte           // as the block has it
	Evidence calpe.Anchor
	Next     Coin // output 1, live from now on
	Import   *Attempt
}

// ForeignSpend: the block holds a spend of Coin, of either kind, that isn't ours.
type ForeignSpend struct {
	Coin calpe.Outpoint
	TxID calpe.BlockHash
}

// FoundCoin: the block holds the transaction that makes the first coin, which had
// become void when a reorganisation took its block away.
type FoundCoin struct{ Coin calpe.Outpoint }

// Snapshot is what the engine acts on, read in one transaction.
type Snapshot struct {
	// Tip is the newest block that was followed; its zero value means that there
	// is no chain of coins yet.
	Tip Block
	// Live is the coin that the next attempt spends; nil if there is none.
	Live *Coin
	// Attempts of the live coin, oldest first.
	Attempts []Attempt
	// Deposits that no block spends, largest first: live ones may join an attempt,
	// void ones are in no block after a reorganisation.
	Deposits []Coin
	// Foreign is a coin that somebody else has spent, one of the chain before
	// deposits; nil if there is none but what the breaks settle.
	Foreign *Coin
	// Void is the first coin, or the one with which the chain was restarted last,
	// when its block is gone; nil otherwise.
	Void *Coin
	// Breaks of the chain of coins, in its order.
	Breaks []Break
	// Mined are the attempts in a block that aren't final yet, by height.
	Mined []Attempt
	// Anchored is the largest size in any block of the best chain, 0 if none.
	Anchored uint64
	// LastCreated is when the attempt that made the live coin was created, which
	// is the newest one before it. Zero if there is none, or if it was imported.
	LastCreated time.Time
	// LastRate is the fee rate of the live coin's newest attempt, or else of the
	// one that made it. Zero if there is none, or if its fee isn't known.
	LastRate FeeRate
}

// LeastSize is the size from which on an anchor may be made: it has to cover the
// statements of all breaks.
func (s Snapshot) LeastSize() uint64 {
	var least uint64
	for _, b := range s.Breaks {
		least = max(least, b.Statement+1)
	}
	return least
}

// Break is a place at which somebody else spent the live coin, and the operator
// restarted the chain with another one.
type Break struct {
	Coin      calpe.Outpoint  // foreign
	SpentBy   calpe.BlockHash // the transaction that spends it
	Height    uint32          // of the block that holds that
	First     calpe.Outpoint  // a former deposit, a coin of the chain from then on
	Statement uint64          // index of the break statement's entry
	Tip       uint32          // height of the newest block that was followed then
	// Former are the scripts that coins of the chain had up to the break, without
	// that of First: whoever spent the coin may have their keys.
	Former [][]byte
}

// GivenUp reports whether an output script is one that no money of ours should be
// paid to any more.
func (b Break) GivenUp(script []byte) bool {
	return slices.ContainsFunc(b.Former, func(s []byte) bool { return bytes.Equal(s, script) })
}

// Settles reports whether the foreign spend of a coin calls for nothing more: it
// is the break's own, or that of a deposit before it, or of a deposit to a key
// that was given up with it.
func (b Break) Settles(c Coin) bool {
	if c.Kind == ChainCoin {
		return c.Outpoint == b.Coin
	}
	return c.SpentHeight <= b.Tip || b.GivenUp(c.Script)
}

// Movement is one change of what the anchor key owns, as the blocks of the best
// chain have it.
type Movement struct {
	Kind   MovementKind
	Time   time.Time       // that the block's header claims
	TxID   calpe.BlockHash // of the transaction
	Height uint32          // of its block
	Amount int64           // satoshis that came in, or went out (negative)
	Fee    int64           // of an anchor; 0 if it isn't known
	VSize  int             // of an anchor
	Size   uint64          // log size of an anchor
	Final  bool            // an anchor as deep as configured
}

// MovementKind says why money moved.
type MovementKind string

// The kinds of movements.
const (
	// MovedIn: somebody paid to the anchor address; the first coin is one, too.
	MovedIn MovementKind = "deposit"
	// MovedFee: an anchor, which costs its fee.
	MovedFee MovementKind = "anchor"
	// MovedAway: a coin was spent by a transaction that isn't ours.
	MovedAway MovementKind = "foreign"
)

// AnswerKind classifies what a node says to a transaction. The text says it,
// more than the code: nodes use the same code for different things.
type AnswerKind string

// The kinds of answers, and what each calls for.
const (
	// Accepted: the node took it.
	Accepted AnswerKind = "accepted"
	// AlreadyKnown: the node has it in its mempool; as good as accepted.
	AlreadyKnown AnswerKind = "already-known"
	// AlreadyMined: the node has it in its chain; the block scan finds it.
	AlreadyMined AnswerKind = "already-mined"
	// FeeTooLow: below what the node relays, or replaces, at the moment. Keep and resend.
	FeeTooLow AnswerKind = "fee-too-low"
	// InputsMissing: an input is spent or unknown to this node. The chain decides.
	InputsMissing AnswerKind = "inputs-missing"
	// Conflict: another spend of an input is in the node's mempool. The chain decides.
	Conflict AnswerKind = "conflict"
	// Policy: the node calls the transaction itself wrong; resending won't help. Alarm.
	Policy AnswerKind = "policy"
	// OperatorCap: above the node's own limit for fees. Alarm.
	OperatorCap AnswerKind = "operator-cap"
	// Later: no answer, or not now. It may have been taken: keep and resend.
	Later AnswerKind = "later"
)

// Taken reports whether the node has the transaction.
func (k AnswerKind) Taken() bool {
	return k == Accepted || k == AlreadyKnown || k == AlreadyMined
}

// Answer is a classified answer and the words that it came in, cut to a
// bounded length and without secrets.
type Answer struct {
	Kind AnswerKind
	Text string
}

// Errors that a store and the engine share. All are for errors.Is.
var (
	// ErrConflict: the rows aren't in the state in which the caller saw them (a
	// compare-and-set found no row), or a constraint refused. Nothing was
	// applied. The engine stops and starts again from the database.
	ErrConflict = errors.New("anchor rows are not in the expected state")
	// ErrRootExists: there is a first coin already, and it is another one.
	ErrRootExists = errors.New("the chain of coins has another first coin")
)
