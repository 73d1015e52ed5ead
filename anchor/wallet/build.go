package wallet

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/btcsuite/btcd/chainhash/v2"
	"github.com/btcsuite/btcd/wire/v2"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
)

// ErrOutOfFunds: after the fee, the change would not keep what the next anchor
// may cost. Nothing was built; a deposit to the address heals it.
var ErrOutOfFunds = errors.New("the anchor coin is out of funds")

// ErrCap: the fee or the fee rate is above what is allowed.
var ErrCap = errors.New("fee is above the cap")

const (
	// Dust is the smallest value of a P2WPKH output that nodes relay: 98 vB at
	// 3 sat/vB.
	Dust = 294
	// MaxInputs bounds a transaction's inputs. The address is public, so anybody
	// can pay dust to it.
	MaxInputs = 20
	// MaxDeposits bounds the deposits that [Caps.Join] lets join one attempt.
	MaxDeposits = 8

	txVersion = 2
	// sequence signals that the transaction may be replaced (BIP 125). Bitcoin
	// Core no longer asks for it, btcd does.
	sequence = 0xfffffffd
	// witnessPerInput is the longest witness of a P2WPKH input: the number of
	// items, a signature of 72 bytes with its length, a key of 33 with its length.
	witnessPerInput = 1 + 1 + 72 + 1 + 33
	// witnessHeader is marker and flag of a segwit transaction.
	witnessHeader = 2
	outputs       = 2
)

// Caps bound what anchors may cost.
type Caps struct {
	FeeRate ledger.FeeRate // highest fee rate
	Fee     int64          // highest fee of one anchor in satoshis
	// Day is the highest sum of fees in satoshis within any 24 hours, of what is in
	// a block or may still get into one. 0: none of its own. It takes whoever
	// remembers what was spent to keep it; [BuildAttempt] doesn't look at it.
	Day int64
}

// Validate refuses caps under which nothing could ever be sent.
func (c Caps) Validate() error {
	if c.FeeRate < ledger.SatPerVB {
		return fmt.Errorf("fee rate cap of %v is below 1 sat/vB", c.FeeRate)
	}
	if least := ledger.SatPerVB.Fee(VSize(2)); c.Fee < least {
		return fmt.Errorf("fee cap of %d sat is below the %d sat that an anchor that takes a deposit up costs at 1 sat/vB", c.Fee, least)
	} else if c.Day != 0 && c.Day < least {
		return fmt.Errorf("fee cap of %d sat a day is below the %d sat that an anchor that takes a deposit up costs at 1 sat/vB", c.Day, least)
	}
	return nil
}

// Reserve is what change must keep: dust, and one fee of a one-input anchor at
// the caps. It is what makes "anchors left" at least one.
func (c Caps) Reserve() int64 { return Dust + min(c.Fee, c.FeeRate.Fee(VSize(1))) }

// VSize is the virtual size in bytes of an attempt with that number of inputs
// when each signature has its longest form: 161 for one.
func VSize(inputs int) int {
	base := 4 + 1 + inputs*(36+1+4) + 1 + (8 + 1 + 2 + calpe.PayloadSize) + (8 + 1 + 22) + 4
	weight := 4*base + witnessHeader + inputs*witnessPerInput
	return (weight + 3) / 4
}

// Build is what [BuildAttempt] needs.
type Build struct {
	Coin    ledger.Input   // input 0
	Extra   []ledger.Input // further inputs, at most MaxInputs-1
	Change  []byte         // output script of the change; nil: that of the coin
	Payload calpe.Payload
	FeeRate ledger.FeeRate
	Bid     Bid // to be outbid, whatever FeeRate says
	Caps    Caps
}

// BuildAttempt builds the unsigned transaction of an attempt: version 2, every
// input replaceable, locktime 0, output 0 the payload with value 0, output 1 the
// change. It fills TxID, Coin, Payload, Inputs,
// Unsigned, Fee, VSize and Change of the result, and State with
// [ledger.Created]. It is pure: the same arguments give the same transaction.
//
// The error is [ErrCap] or [ErrOutOfFunds], or says which argument is wrong.
func BuildAttempt(b Build) (ledger.Attempt, error) {
	inputs := append([]ledger.Input{b.Coin}, b.Extra...)
	if err := checkBuild(b, inputs); err != nil {
		return ledger.Attempt{}, err
	}
	vsize := VSize(len(inputs))
	fee := max(b.FeeRate.Fee(vsize), b.Bid.Least(vsize))
	if b.FeeRate > b.Caps.FeeRate || fee > b.Caps.Fee || fee > b.Caps.FeeRate.Fee(vsize) {
		return ledger.Attempt{}, fmt.Errorf("%w: %d sat for %d vB, caps are %d sat and %v", ErrCap, fee, vsize, b.Caps.Fee, b.Caps.FeeRate)
	}
	var total int64
	for _, in := range inputs {
		total += in.Value
	}
	change := total - fee
	if reserve := b.Caps.Reserve(); change < reserve {
		return ledger.Attempt{}, fmt.Errorf("%w: %d sat are there, the fee takes %d, and the change must keep %d", ErrOutOfFunds, total, fee, reserve)
	}
	tx := wire.NewMsgTx(txVersion)
	for _, in := range inputs {
		tx.AddTxIn(&wire.TxIn{PreviousOutPoint: wireOutpoint(in.Outpoint), Sequence: sequence})
	}
	tx.AddTxOut(wire.NewTxOut(0, b.Payload.Script()))
	script := b.Change
	if script == nil {
		script = b.Coin.Script
	}
	tx.AddTxOut(wire.NewTxOut(change, slices.Clone(script)))
	unsigned, err := serialize(tx, false)
	if err != nil {
		return ledger.Attempt{}, err
	}
	return ledger.Attempt{
		TxID: calpe.BlockHash(tx.TxHash()), Coin: b.Coin.Outpoint, Payload: b.Payload, State: ledger.Created,
		Inputs: inputs, Unsigned: unsigned, Fee: fee, VSize: vsize, Change: change,
	}, nil
}

func checkBuild(b Build, inputs []ledger.Input) error {
	if err := b.Caps.Validate(); err != nil {
		return err
	}
	if len(inputs) > MaxInputs {
		return fmt.Errorf("an attempt of %d inputs is above the limit of %d", len(inputs), MaxInputs)
	}
	if b.FeeRate < ledger.SatPerVB {
		return fmt.Errorf("fee rate of %v is below 1 sat/vB, which not every node relays", b.FeeRate)
	}
	if b.Payload.Size == 0 || b.Payload.Size > calpe.MaxLogSize {
		return fmt.Errorf("payload has a log size of %d", b.Payload.Size)
	}
	if b.Change != nil && !IsScript(b.Change) {
		return errors.New("change is to a script that no key of ours has")
	}
	seen := map[calpe.Outpoint]bool{}
	for i, in := range inputs {
		switch {
		case seen[in.Outpoint]:
			return fmt.Errorf("input %d spends %v a second time", i, in.Outpoint)
		case in.Value <= 0 || in.Value > maxMoney:
			return fmt.Errorf("input %d has an impossible value of %d sat", i, in.Value)
		case !IsScript(in.Script):
			return fmt.Errorf("input %d has a script that no key of ours has", i)
		}
		seen[in.Outpoint] = true
	}
	return nil
}

// maxMoney is 21 million bitcoin in satoshis: sums of MaxInputs such values
// don't overflow.
const maxMoney = 21_000_000 * 100_000_000

func wireOutpoint(o calpe.Outpoint) wire.OutPoint {
	return wire.OutPoint{Hash: chainhash.Hash(o.TxID), Index: o.Vout}
}

func serialize(tx *wire.MsgTx, witness bool) ([]byte, error) {
	var b bytes.Buffer
	write := tx.SerializeNoWitness
	if witness {
		write = tx.Serialize
	}
	if err := write(&b); err != nil {
		return nil, fmt.Errorf("serialize transaction: %w", err)
	}
	return b.Bytes(), nil
}
