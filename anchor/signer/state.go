package signer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/calpe/calpe"
)

const (
	// day is the time within which fees count together.
	day = 24 * time.Hour
	// largestState is far above what a day's fees take.
	largestState = 16 << 20
	stateMode    = 0o600
)

// State is what a [Policy] remembers.
type State struct {
	Network calpe.Network `json:"network"`
	// Address of the oldest key: tells whose state it is.
	Address string     `json:"address"`
	Size    uint64     `json:"size"` // largest size that was signed; 0: none
	Root    calpe.Hash `json:"root"` // root of that size
	Fees    []Fee      `json:"fees"` // of the last 24 hours
	// First is the coin with which the chain began, or with which an operator said
	// that it goes on. Until there is one, the first coin that is asked for is it.
	First calpe.Outpoint `json:"first,omitzero"`
	// Signed are the newest transactions that were signed, up to [maxSigned]: their
	// change goes on with the chain.
	Signed []calpe.BlockHash `json:"signed,omitempty"`
}

// maxSigned is far more than a reorganisation has ever taken back: a month of
// hourly anchors.
const maxSigned = 720

// Fee is what an anchor of a coin may cost: of all transactions that were signed
// with that coin as input 0 a block can hold one, and the dearest counts.
type Fee struct {
	Coin calpe.Outpoint `json:"coin"`
	Sat  int64          `json:"sat"`
	At   time.Time      `json:"at"`
}

func (s State) payload() calpe.Payload { return calpe.Payload{Size: s.Size, Root: s.Root} }

// counts: a fee from the future, by a clock that was set back, counts too.
func (f Fee) counts(now time.Time) bool { return now.Sub(f.At) < day }

func (s State) spent(now time.Time) int64 {
	var sum int64
	for _, f := range s.Fees {
		if f.counts(now) {
			sum += f.Sat
		}
	}
	return sum
}

// with is the state after a signature for a, or [ErrBudget].
func (s State) with(a asked, now time.Time, budget int64) (State, error) {
	fee := Fee{Coin: a.inputs[0].Outpoint, Sat: a.fee, At: now.UTC()}
	var fees []Fee
	for _, f := range s.Fees {
		switch {
		case !f.counts(now):
		case f.Coin != fee.Coin:
			fees = append(fees, f)
		case f.Sat >= fee.Sat:
			fee = f // the dearest counts, from when it was signed
		}
	}
	s.Fees = append(fees, fee)
	if spent := s.spent(now); spent > budget {
		return State{}, fmt.Errorf("%w: with this anchor's %d sat it would be %d sat in 24 hours, and may be %d", ErrBudget, a.fee, spent, budget)
	}
	if a.payload.Size > s.Size {
		s.Size, s.Root = a.payload.Size, a.payload.Root
	}
	if s.First == (calpe.Outpoint{}) {
		s.First = fee.Coin
	}
	if !slices.Contains(s.Signed, a.txid) {
		s.Signed = append(slices.Clone(s.Signed), a.txid)
		s.Signed = s.Signed[max(0, len(s.Signed)-maxSigned):]
	}
	return s, nil
}

// Restarted is the state after an operator has said that the chain goes on with
// another coin: the former coins aren't signed for any more.
func (s State) Restarted(first calpe.Outpoint) State {
	s.First, s.Signed = first, nil
	return s
}

// checkChain: the coin is of the one chain that was signed so far. Nothing that a
// request brings can prove another one.
func (s State) checkChain(coin calpe.Outpoint) error {
	if s.First == (calpe.Outpoint{}) || coin == s.First || coin.Vout == 1 && slices.Contains(s.Signed, coin.TxID) {
		return nil
	}
	return fmt.Errorf("%w: %v is neither %v nor the change of an anchor that was signed since; if the chain was restarted after a foreign spend, "+
		"an operator must say so (\"calped signer restart-chain\")", ErrChain, coin, s.First)
}

// StateFile keeps a [State] in a file, which one process at a time may use.
type StateFile struct {
	path  string
	lock  *os.File
	state State
}

// CreateState writes the state of a signer with which nothing more than s says was
// signed. A file that is there is an error, unless replace is set: then a lower size
// lets a second history be signed, so s must come from the newest checkpoint.
// When CreateState returns, the file is durable.
func CreateState(path string, s State, replace bool) error {
	lock, err := lockState(path)
	if err != nil {
		return err
	}
	defer lock.Close()
	if _, err := os.Stat(path); err == nil && !replace {
		return fmt.Errorf("signer state %s: %w", path, fs.ErrExist)
	}
	return writeState(path, s)
}

// OpenState reads a state, and keeps others from using it until Close. The error
// is [ErrState] if there is none, if it is another keystore's, or if it is damaged.
func OpenState(path string, network calpe.Network, address string) (*StateFile, error) {
	lock, err := lockState(path)
	if err != nil {
		return nil, err
	}
	s, err := readState(path)
	if err == nil && (s.Network != network || s.Address != address) {
		err = fmt.Errorf("%w: %s is of the keystore whose first address is %s on %s", ErrState, path, s.Address, s.Network)
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return &StateFile{path: path, lock: lock, state: s}, nil
}

// State is what was read or saved last.
func (f *StateFile) State() State { return f.state }

// Save replaces the state. When it returns nil, the state is durable; after an
// error the file holds the former or the new one.
func (f *StateFile) Save(s State) error {
	s.Network, s.Address = f.state.Network, f.state.Address
	if err := writeState(f.path, s); err != nil {
		return err
	}
	f.state = s
	return nil
}

// Close lets others use the state.
func (f *StateFile) Close() error { return f.lock.Close() }

func readState(path string) (State, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return State{}, fmt.Errorf("%w: there is no %s: for a new log run \"calped signer init\"; for one that has anchors, "+
			"give it --size and --root of the newest checkpoint", ErrState, path)
	}
	if err != nil {
		return State{}, fmt.Errorf("open signer state: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || info.Mode().Perm()&0o077 != 0 {
		return State{}, fmt.Errorf("%w: others may read or write %s: look who may have, then run chmod 600 on it", ErrState, path)
	}
	content, err := io.ReadAll(io.LimitReader(f, largestState+1))
	if err != nil {
		return State{}, fmt.Errorf("read signer state: %w", err)
	}
	var s State
	if len(content) > largestState {
		err = fmt.Errorf("it has more than %d bytes", largestState)
	} else if err = json.Unmarshal(content, &s, json.RejectUnknownMembers(true)); err == nil {
		err = s.validate()
	}
	if err != nil {
		return State{}, fmt.Errorf("%w: %s is damaged: %w", ErrState, path, err)
	}
	return s, nil
}

func (s State) validate() error {
	switch {
	case s.Network == "" || s.Address == "":
		return errors.New("it doesn't say whose it is")
	case s.Size > calpe.MaxLogSize:
		return fmt.Errorf("a size of %d", s.Size)
	case (s.Size == 0) != (s.Root == calpe.Hash{}):
		return errors.New("size and root go together")
	case len(s.Signed) > maxSigned:
		return fmt.Errorf("%d signed transactions, more than %d", len(s.Signed), maxSigned)
	case slices.ContainsFunc(s.Fees, func(f Fee) bool { return f.Sat <= 0 }):
		return errors.New("a fee that is not positive")
	}
	return nil
}

func writeState(path string, s State) error {
	if err := s.validate(); err != nil {
		return fmt.Errorf("write signer state: %w", err)
	}
	content, err := json.Marshal(s, jsontext.Multiline(true))
	if err != nil {
		return fmt.Errorf("encode signer state: %w", err)
	}
	if err := replaceFile(path, append(content, '\n')); err != nil {
		return fmt.Errorf("write signer state: %w", err)
	}
	return nil
}

// replaceFile is durable when it returns nil. The lock keeps others away.
func replaceFile(path string, content []byte) error {
	fresh := path + ".new"
	f, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, stateMode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	// Crash here: the former state is in place, and the signature that the new one
	// is for was not made.
	if err := os.Rename(fresh, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
