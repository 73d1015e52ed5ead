// Package batchtest has stand-ins for the database and for object storage that
// enforce the contracts which batch and intake rely on, and fail both ways:
// "failed, not applied" and "failed, but applied". State is shared, as two
// servers share it; each server has views of its own, with faults of its own.
package batchtest

import (
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Fault is how one write goes wrong.
type Fault int

// The faults.
const (
	None       Fault = iota
	NotApplied       // the write fails and nothing was written
	Applied          // the write fails, but it was written
	Vanished         // as NotApplied, but a commit says that the outcome is unknown
	DieBefore        // the process dies before the write
	DieAfter         // the process dies after the write
)

// ErrInjected is in the chain of every injected failure.
var ErrInjected = errors.New("injected failure")

// ErrDead is what a process that died gets from everything.
var ErrDead = errors.New("this process is dead")

// Faults counts the writes of one process and spoils those it was told to. The
// zero value spoils none. Safe for concurrent use.
type Faults struct {
	mu     sync.Mutex
	plan   map[int]Fault // by number of the write, from 1
	writes []string
	dead   bool
}

// At makes Faults that spoil the n-th write from now.
func At(n int, fault Fault) *Faults { return &Faults{plan: map[int]Fault{n: fault}} }

// Writes names the writes so far, in order.
func (f *Faults) Writes() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.writes)
}

// Kill makes everything fail from now on.
func (f *Faults) Kill() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.dead = true
}

// Read fails if the process is dead.
func (f *Faults) Read() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dead {
		return ErrDead
	}
	return nil
}

// next counts a write and says what becomes of it.
func (f *Faults) next(name string) (Fault, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.dead {
		return None, ErrDead
	}
	f.writes = append(f.writes, name)
	fault := f.plan[len(f.writes)]
	f.dead = fault == DieBefore || fault == DieAfter
	return fault, nil
}

// Write applies a write, or not, as planned. A write that refuses gives its own error.
func (f *Faults) Write(name string, apply func() error) error {
	fault, err := f.next(name)
	if err != nil {
		return err
	}
	switch fault {
	case NotApplied, Vanished:
		return fmt.Errorf("%s: %w", name, ErrInjected)
	case DieBefore:
		return ErrDead
	case Applied, DieAfter:
		if err := apply(); err != nil {
			return err
		}
		if fault == DieAfter {
			return ErrDead
		}
		return fmt.Errorf("%s: %w", name, ErrInjected)
	case None:
	}
	return apply()
}
