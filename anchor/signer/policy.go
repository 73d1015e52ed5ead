package signer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/btcsuite/btcd/chainhash/v2"
	"github.com/btcsuite/btcd/wire/v2"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/anchor/wallet"
	"github.com/calpe/calpe/merkle"
)

// Why a policy refuses. Each is a [wallet.ErrPolicy] or a [wallet.ErrCap], which by
// themselves say that the transaction isn't an anchor of ours, and that one fee is
// too high. All are for errors.Is, and none of them changes any state.
var (
	// ErrBudget: the fees of a day would exceed the budget. It passes with time.
	ErrBudget = error(&refusal{"the signer's budget for a day is used up", wallet.ErrCap})
	// ErrHistory: the root was not proved to be of the same log as the largest one
	// that was signed. Never signed, whatever the reason: it could be a second history.
	ErrHistory = error(&refusal{"the root is not proved consistent with what was signed before", wallet.ErrPolicy})
	// ErrChain: the coin isn't of the chain of coins that was signed so far. Another
	// chain would let two histories stand beside each other.
	ErrChain = error(&refusal{"the coin is not of the chain that was signed", wallet.ErrPolicy})
	// ErrState: there is no state of the signer, or it is an older copy: the chain of
	// coins holds a larger size than the state knows to be signed. An operator
	// must say what was signed ("calped signer init").
	ErrState = error(&refusal{"the signer's state is missing or too old", wallet.ErrPolicy})
)

// refusal is one of those: a word of its own for a general kind of refusal.
type refusal struct {
	text string
	kind error
}

func (r *refusal) Error() string { return r.text }
func (r *refusal) Unwrap() error { return r.kind }

// Limits of a [Request].
const (
	// MaxUnsigned is above what an anchor with the most inputs has.
	MaxUnsigned = 4 << 10
	// MaxPrevious is the largest transaction without witness that a block can hold.
	MaxPrevious = 1_000_000
	// MaxProof is above the longest consistency proof of a log of 2^40 entries.
	MaxProof = 96
)

// Request asks for a signature. Everything in it is checked.
type Request struct {
	// Unsigned is the anchor, serialized without witness.
	Unsigned []byte `json:"unsigned"`
	// Previous has, for each input, the whole transaction that made the output
	// that it spends, serialized without witness.
	Previous [][]byte `json:"previous"`
	// Proof is the consistency proof (RFC 6962, section 2.1.2) between the largest
	// size that was signed and the size in the anchor, whichever is the larger.
	// It is empty if they are equal, or if nothing was signed yet.
	Proof []calpe.Hash `json:"proof"`
}

// Status is what may be known of a signer.
type Status struct {
	Network calpe.Network `json:"network"`
	Scripts [][]byte      `json:"scripts"` // output scripts of its keys, oldest first; change goes to the last
	Size    uint64        `json:"size"`    // largest size that it signed; 0 if none
	Root    calpe.Hash    `json:"root"`    // root of that size
	Spent   int64         `json:"spent"`   // satoshis of fees in the last 24 hours
	Budget  int64         `json:"budget"`  // satoshis that these may be
}

// Signer is a [Policy], or a [Remote] one. Its methods may be called concurrently.
type Signer interface {
	Status(ctx context.Context) (Status, error)
	// Sign gives the signed transaction, with the id of the unsigned one. It may
	// be repeated: the same request is answered with the same bytes, and is
	// counted once.
	Sign(ctx context.Context, r Request) (raw []byte, err error)
}

// PolicyConfig of a [Policy].
type PolicyConfig struct {
	Keys *wallet.Keystore
	Caps wallet.Caps // all three: of the rate, of one anchor, of 24 hours
	// State is where the policy's memory is durable. Nil: it is kept in this process
	// alone. That is for a signer in the engine's own process, which no policy
	// protects from whoever has taken the process: it catches mistakes. Several
	// servers may then sign by turns, none of which knows what the others signed.
	State  *StateFile
	Now    func() time.Time
	Logger *slog.Logger
}

// Policy signs anchors and nothing else. It is a [Signer].
type Policy struct {
	cfg    PolicyConfig
	signer *wallet.Signer

	// mu is held from the look at the state until it is durable: of two requests
	// the second is judged by what the first one left.
	mu    sync.Mutex
	state State
}

var (
	_ Signer = (*Policy)(nil)
	_ Signer = (*Remote)(nil)
)

// NewPolicy checks the configuration, and takes over the state.
func NewPolicy(cfg PolicyConfig) (*Policy, error) {
	signer, err := wallet.New(wallet.Config{Keys: cfg.Keys, Caps: cfg.Caps})
	if err != nil {
		return nil, err
	}
	if cfg.Caps.Day <= 0 {
		return nil, errors.New("signer has no cap on the fees of a day")
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Policy{cfg: cfg, signer: signer}
	if cfg.State != nil {
		p.state = cfg.State.State()
	}
	return p, nil
}

// Status implements [Signer].
func (p *Policy) Status(context.Context) (Status, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return Status{
		Network: p.cfg.Keys.Network(), Scripts: p.cfg.Keys.Scripts(), Size: p.state.Size, Root: p.state.Root,
		Spent: p.state.spent(p.cfg.Now()), Budget: p.cfg.Caps.Day,
	}, nil
}

// Sign implements [Signer].
func (p *Policy) Sign(ctx context.Context, r Request) ([]byte, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	a, err := p.judge(r)
	if err != nil {
		p.cfg.Logger.WarnContext(ctx, "refused to sign", slog.String("cause", err.Error()))
		return nil, err
	}
	next, err := p.state.with(a, p.cfg.Now(), p.cfg.Caps.Day)
	if err != nil {
		p.cfg.Logger.WarnContext(ctx, "refused to sign", slog.String("cause", err.Error()))
		return nil, err
	}
	// In memory first: if the write fails, and was applied or not, this process
	// is the stricter one.
	p.state = next
	if p.cfg.State != nil {
		if err := p.cfg.State.Save(next); err != nil {
			return nil, err
		}
	}
	// Crash here: size and fee count for a signature that nobody has. The engine
	// asks again for the same transaction, which changes nothing more.
	raw, err := p.signer.Sign(ctx, r.Unsigned, a.inputs)
	if err != nil {
		return nil, err
	}
	p.cfg.Logger.InfoContext(ctx, "signed an anchor", slog.Uint64("size", a.payload.Size), slog.String("coin", a.inputs[0].Outpoint.String()),
		slog.Int64("fee_sat", a.fee), slog.Int64("spent_sat", next.spent(p.cfg.Now())))
	return raw, nil
}

// asked is what a request asks for, as far as the policy has checked it.
type asked struct {
	txid    calpe.BlockHash
	inputs  []ledger.Input
	payload calpe.Payload
	fee     int64
}

// judge checks everything but the budget.
func (p *Policy) judge(r Request) (asked, error) {
	var a asked
	tx, err := wallet.ParseUnsigned(r.Unsigned)
	if err != nil {
		return a, err
	}
	a.txid = calpe.BlockHash(tx.TxHash())
	if len(r.Previous) != len(tx.TxIn) {
		return a, fmt.Errorf("%w: it has %d inputs, and comes with %d previous transactions", wallet.ErrPolicy, len(tx.TxIn), len(r.Previous))
	}
	for i, in := range tx.TxIn {
		spent, err := output(r.Previous[i], in.PreviousOutPoint)
		if err != nil {
			return a, fmt.Errorf("%w: input %d: %w", wallet.ErrPolicy, i, err)
		}
		a.inputs = append(a.inputs, spent)
	}
	if a.payload, a.fee, err = p.signer.Check(r.Unsigned, a.inputs); err != nil {
		return a, err
	}
	if err := p.checkAge(r.Previous); err != nil {
		return a, err
	}
	if p.cfg.State != nil { // else others sign by turns, and have a part of the chain each
		if err := p.state.checkChain(a.inputs[0].Outpoint); err != nil {
			return a, err
		}
	}
	return a, p.state.checkHistory(a.payload, r.Proof)
}

// output is the output that an outpoint names, out of the transaction that made it.
func output(previous []byte, o wire.OutPoint) (ledger.Input, error) {
	if chainhash.DoubleHashH(previous) != o.Hash {
		return ledger.Input{}, fmt.Errorf("the previous transaction is not %v, whose output it spends", o.Hash)
	}
	tx, err := parsePrevious(previous)
	if err != nil {
		return ledger.Input{}, err
	}
	if uint64(o.Index) >= uint64(len(tx.TxOut)) {
		return ledger.Input{}, fmt.Errorf("transaction %v has %d outputs, and no output %d", o.Hash, len(tx.TxOut), o.Index)
	}
	out := tx.TxOut[o.Index]
	return ledger.Input{
		Outpoint: calpe.Outpoint{TxID: calpe.BlockHash(o.Hash), Vout: o.Index},
		Output:   ledger.Output{Value: out.Value, Script: out.PkScript},
	}, nil
}

func parsePrevious(previous []byte) (*wire.MsgTx, error) {
	var tx wire.MsgTx
	r := bytes.NewReader(previous)
	if err := tx.DeserializeNoWitness(r); err != nil {
		return nil, errors.New("the previous transaction can't be read without witness")
	}
	if r.Len() != 0 {
		return nil, fmt.Errorf("%d bytes follow the previous transaction", r.Len())
	}
	return &tx, nil
}

// checkAge finds out whether the state is an older copy: the anchor that the coin
// comes from was signed by these keys, so the state must know of a size at least as
// large. What deposits come from is anybody's, and says nothing: a payment can be
// made up to look like an anchor.
func (p *Policy) checkAge(previous [][]byte) error {
	if p.cfg.State == nil {
		return nil
	}
	tx, err := parsePrevious(previous[0])
	if err != nil {
		return err
	}
	anchored, err := calpe.ParsePayloadScript(tx.TxOut[0].PkScript)
	if err != nil {
		return nil //nolint:nilerr // the first coin: no anchor made it
	}
	if anchored.Size > p.state.Size {
		return fmt.Errorf("%w: the coin comes from an anchor of %d entries, and the state knows of %d", ErrState, anchored.Size, p.state.Size)
	}
	if anchored.Size == p.state.Size && anchored.Root != p.state.Root {
		return fmt.Errorf("%w: the coin comes from an anchor of %d entries with another root than the state's", ErrState, anchored.Size)
	}
	return nil
}

// checkHistory: the root and the largest one that was signed are of one log. A
// smaller size is signed, too, when it is proved: after a reorganisation the
// engine may have to finish an older anchor.
func (s State) checkHistory(p calpe.Payload, proof []calpe.Hash) error {
	if p.Size == 0 {
		return fmt.Errorf("%w: the payload has a log size of 0", wallet.ErrPolicy)
	}
	if s.Size == 0 {
		if len(proof) != 0 {
			return fmt.Errorf("%w: a proof of %d hashes, and nothing was signed yet", ErrHistory, len(proof))
		}
		return nil
	}
	small, large := s.payload(), p
	if small.Size > large.Size {
		small, large = large, small
	}
	if err := merkle.VerifyConsistency(small.Size, large.Size, small.Root, large.Root, proof); err != nil {
		return fmt.Errorf("%w: %d entries, signed were %d: %w", ErrHistory, p.Size, s.Size, err)
	}
	return nil
}
