package wallet

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/btcsuite/btcd/txscript/v2"
	"github.com/btcsuite/btcd/wire/v2"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
)

// ErrPolicy: the transaction isn't one that the signer may sign.
var ErrPolicy = errors.New("the signer's policy refuses the transaction")

// Signer signs attempts with the keys of a keystore, within caps of its own. What
// it checks is in the transaction alone: what can't be seen there (whether the
// values of inputs are true, whether roots are of one log, what was spent today)
// package signer checks before. It is safe for concurrent use.
type Signer struct {
	keys *Keystore
	caps Caps
}

// Config of a [Signer].
type Config struct {
	Keys *Keystore
	Caps Caps
}

// New checks the caps and makes a signer.
func New(cfg Config) (*Signer, error) {
	if cfg.Keys == nil {
		return nil, errors.New("signer has no keys")
	}
	if err := cfg.Caps.Validate(); err != nil {
		return nil, err
	}
	return &Signer{keys: cfg.Keys, caps: cfg.Caps}, nil
}

// Script is the output script of deposits and change: that of the current key.
func (s *Signer) Script() []byte { return s.keys.Current().Script() }

// Owns reports whether a key of the keystore has that output script.
func (s *Signer) Owns(script []byte) bool {
	_, ok := s.keys.key(script)
	return ok
}

// Sign signs the transaction whose serialization without witness is unsigned,
// and whose inputs spend these outputs. It refuses with [ErrPolicy] whatever
// isn't an attempt of ours: another shape, another script, and with [ErrCap] a
// fee above the caps. Signatures cover the values of all inputs (BIP 143) and
// have the low form of S; the result was run through the script engine under
// the rules of relay before it is returned. The same call gives the same bytes
// (RFC 6979).
func (s *Signer) Sign(ctx context.Context, unsigned []byte, inputs []ledger.Input) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("sign attempt: %w", err)
	}
	if _, _, err := s.Check(unsigned, inputs); err != nil {
		return nil, err
	}
	tx, err := ParseUnsigned(unsigned)
	if err != nil {
		return nil, err
	}
	hashes := txscript.NewTxSigHashes(tx, previous(inputs))
	for i, in := range inputs {
		key, ok := s.keys.key(in.Script)
		if !ok {
			return nil, fmt.Errorf("%w: input %d is not ours", ErrPolicy, i)
		}
		// WitnessSignature halves S when it is high.
		witness, err := txscript.WitnessSignature(tx, hashes, i, in.Value, in.Script, txscript.SigHashAll, key.private, true)
		if err != nil {
			return nil, fmt.Errorf("sign input %d", i) // the cause could speak of the key
		}
		tx.TxIn[i].Witness = witness
	}
	if err := verify(tx, inputs); err != nil {
		return nil, err
	}
	return serialize(tx, true)
}

// verify runs the scripts of all inputs as a node does.
func verify(tx *wire.MsgTx, inputs []ledger.Input) error {
	prev := previous(inputs)
	hashes := txscript.NewTxSigHashes(tx, prev)
	for i, in := range inputs {
		engine, err := txscript.NewEngine(in.Script, tx, i, txscript.StandardVerifyFlags, nil, hashes, in.Value, prev)
		if err != nil {
			return fmt.Errorf("verify signature of input %d: %w", i, err)
		}
		if err := engine.Execute(); err != nil {
			return fmt.Errorf("verify signature of input %d: %w", i, err)
		}
	}
	return nil
}

// VerifySigned checks that raw is the unsigned transaction with signatures under
// which it may spend these inputs, which are all that it has, in their order.
func VerifySigned(raw, unsigned []byte, inputs []ledger.Input) error {
	var tx wire.MsgTx
	r := bytes.NewReader(raw)
	if err := tx.Deserialize(r); err != nil {
		return fmt.Errorf("it can't be read: %w", err)
	}
	if r.Len() != 0 {
		return fmt.Errorf("%d bytes follow it", r.Len())
	}
	stripped, err := serialize(&tx, false)
	if err != nil {
		return err
	}
	if !bytes.Equal(stripped, unsigned) {
		return errors.New("without its signatures it is another transaction than the one that was to be signed")
	}
	if len(inputs) != len(tx.TxIn) {
		return fmt.Errorf("it has %d inputs, and %d are described", len(tx.TxIn), len(inputs))
	}
	for i, in := range tx.TxIn {
		if in.PreviousOutPoint != wireOutpoint(inputs[i].Outpoint) {
			return fmt.Errorf("input %d spends %v, described is %v", i, in.PreviousOutPoint, inputs[i].Outpoint)
		}
	}
	return verify(&tx, inputs)
}

func previous(inputs []ledger.Input) txscript.PrevOutputFetcher {
	prev := txscript.NewMultiPrevOutFetcher(nil)
	for _, in := range inputs {
		prev.AddPrevOut(wireOutpoint(in.Outpoint), wire.NewTxOut(in.Value, in.Script))
	}
	return prev
}

// Check says whether Sign would sign, and what it would: the payload and the fee
// in satoshis. It changes nothing.
func (s *Signer) Check(unsigned []byte, inputs []ledger.Input) (calpe.Payload, int64, error) {
	tx, err := ParseUnsigned(unsigned)
	if err != nil {
		return calpe.Payload{}, 0, err
	}
	if err := s.checkInputs(tx, inputs); err != nil {
		return calpe.Payload{}, 0, err
	}
	payload, err := s.checkOutputs(tx, inputs[0].Script)
	if err != nil {
		return calpe.Payload{}, 0, err
	}
	fee, err := s.checkFee(tx, inputs)
	return payload, fee, err
}

func (s *Signer) checkFee(tx *wire.MsgTx, inputs []ledger.Input) (int64, error) {
	var fee int64
	for _, in := range inputs {
		fee += in.Value
	}
	fee -= tx.TxOut[1].Value
	vsize := VSize(len(inputs))
	if least := ledger.SatPerVB.Fee(vsize); fee < least {
		return 0, fmt.Errorf("%w: the fee is %d sat, and 1 sat/vB takes %d", ErrPolicy, fee, least)
	}
	if most := s.caps.FeeRate.Fee(vsize); fee > s.caps.Fee || fee > most {
		return 0, fmt.Errorf("%w: the fee is %d sat, the signer's caps are %d sat and %v", ErrCap, fee, s.caps.Fee, s.caps.FeeRate)
	}
	return fee, nil
}

func (s *Signer) checkInputs(tx *wire.MsgTx, inputs []ledger.Input) error {
	if tx.Version != txVersion || tx.LockTime != 0 {
		return fmt.Errorf("%w: version %d and locktime %d", ErrPolicy, tx.Version, tx.LockTime)
	}
	if len(inputs) != len(tx.TxIn) || len(inputs) < 1 || len(inputs) > MaxInputs {
		return fmt.Errorf("%w: it has %d inputs, and %d are described", ErrPolicy, len(tx.TxIn), len(inputs))
	}
	seen := map[wire.OutPoint]bool{}
	for i, in := range tx.TxIn {
		switch want := inputs[i]; {
		case in.PreviousOutPoint != wireOutpoint(want.Outpoint):
			return fmt.Errorf("%w: input %d spends %v, described is %v", ErrPolicy, i, in.PreviousOutPoint, want.Outpoint)
		case seen[in.PreviousOutPoint]:
			return fmt.Errorf("%w: input %d spends %v again", ErrPolicy, i, in.PreviousOutPoint)
		case in.Sequence != sequence || len(in.SignatureScript) != 0:
			return fmt.Errorf("%w: input %d has sequence %#x or a signature script", ErrPolicy, i, in.Sequence)
		case !s.Owns(want.Script):
			return fmt.Errorf("%w: input %d is not ours", ErrPolicy, i)
		case want.Value <= 0 || want.Value > maxMoney:
			return fmt.Errorf("%w: input %d has a value of %d sat", ErrPolicy, i, want.Value)
		}
		seen[in.PreviousOutPoint] = true
	}
	return nil
}

// checkOutputs: change goes to the script of the coin, or on to that of the
// current key, and never back to an older one.
func (s *Signer) checkOutputs(tx *wire.MsgTx, coin []byte) (calpe.Payload, error) {
	if len(tx.TxOut) != outputs {
		return calpe.Payload{}, fmt.Errorf("%w: it has %d outputs, want %d", ErrPolicy, len(tx.TxOut), outputs)
	}
	payload, err := calpe.ParsePayloadScript(tx.TxOut[0].PkScript)
	if err != nil || tx.TxOut[0].Value != 0 {
		return calpe.Payload{}, fmt.Errorf("%w: output 0 is not a payload of value 0", ErrPolicy)
	}
	change := tx.TxOut[1]
	if !bytes.Equal(change.PkScript, coin) && !bytes.Equal(change.PkScript, s.keys.Current().script) {
		return calpe.Payload{}, fmt.Errorf("%w: output 1 is neither to the coin's script nor to that of the current key", ErrPolicy)
	}
	if change.Value < Dust || change.Value > maxMoney {
		return calpe.Payload{}, fmt.Errorf("%w: change of %d sat is not above dust", ErrPolicy, change.Value)
	}
	return payload, nil
}

// ParseUnsigned reads a transaction that is serialized without witness, with
// nothing behind it. The error is [ErrPolicy].
func ParseUnsigned(unsigned []byte) (*wire.MsgTx, error) {
	var tx wire.MsgTx
	r := bytes.NewReader(unsigned)
	if err := tx.DeserializeNoWitness(r); err != nil {
		return nil, fmt.Errorf("%w: it can't be read: %w", ErrPolicy, err)
	}
	if r.Len() != 0 {
		return nil, fmt.Errorf("%w: %d bytes follow it", ErrPolicy, r.Len())
	}
	return &tx, nil
}
