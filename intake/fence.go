package intake

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/calpe/calpe"
)

// FenceStore is the one object that outlives the database.
type FenceStore interface {
	// ReadFence gives the object and its entity tag; [calpe.ErrNotFound] if
	// there is none.
	ReadFence(ctx context.Context) (data []byte, etag string, err error)
	// ReplaceFence replaces the object if its entity tag is still etag ("": if
	// there is none), durably, and gives the new one. [calpe.ErrExists]: it was
	// another, nothing written. After any other error it may have been written.
	ReplaceFence(ctx context.Context, data []byte, etag string) (newETag string, err error)
}

const fenceType = "calpe/fence/v1"

// maxFenceBytes bounds what is parsed.
const maxFenceBytes = 32 << 10

// maxClaims bounds the list in a fence. There is one for each recovery whose void
// entries the database has lost again, so hardly ever more than a few. It is well
// below the first step of the fence: each becomes an entry.
const maxClaims = 128

// Fence is the content of the fence object. It is written as JSON in exactly one
// spelling.
type Fence struct {
	Type string     `json:"type"` // "calpe/fence/v1"
	Log  calpe.Hash `json:"log"`  // hash of the log's identity
	// Limit: no index at or above it was ever handed out.
	Limit uint64 `json:"limit"`
	// Instance handed out what lies above the void entries of the last recovery.
	Instance calpe.Instance `json:"instance"`
	// Epoch counts the recoveries.
	Epoch uint64 `json:"epoch"`
	// Claims are ranges that recovery wrote and whose statement may not be an
	// entry yet. Nothing else is recorded before it is.
	Claims []Claim `json:"claims,omitempty"`
}

// Claim is what one recovery wrote. Both ranges are half-open; an empty one has
// equal ends.
type Claim struct {
	RolledFrom uint64 `json:"rolled_from"`
	RolledTo   uint64 `json:"rolled_to"`
	VoidFrom   uint64 `json:"void_from"`
	VoidTo     uint64 `json:"void_to"`
}

// errFence is in the chain of every error about a fence that can't be used, and
// that no retry makes usable.
var errFence = errors.New("the fence in object storage can't be used")

// maxRaise bounds what a slip of the pen in one command can cost: 340 MB of table.
const maxRaise = 10_000_000

// RaiseFence lifts the fence of the log to limit, at most 10,000,000 at once. It is
// for an operator who has to go on from a state of object storage, and of the
// database, that may be older than the last acknowledgements, and who knows an index
// that none of them can have reached. When the next server recovers, it fills the log
// up to there with void entries and declares them, so that no index gets a second
// commitment (I2). A server that is open already takes it for room, and fills nothing.
//
// It gives the limit that was. After an error it may be called again.
func RaiseFence(ctx context.Context, store FenceStore, log calpe.Hash, limit uint64) (was uint64, err error) {
	data, etag, err := store.ReadFence(ctx)
	if err != nil {
		return 0, fmt.Errorf("read fence: %w", err)
	}
	fence, err := ParseFence(data)
	if err != nil {
		return 0, err
	}
	was = fence.Limit
	switch {
	case fence.Log != log:
		return was, fmt.Errorf("%w: it is for %v, this log is %v", errOtherLog, fence.Log, log)
	case limit <= was:
		return was, fmt.Errorf("the fence is at %d already: nothing was done", was)
	case limit > calpe.MaxLogSize || limit-was > maxRaise:
		return was, fmt.Errorf("the fence is at %d, and one step may be %d at most: each index costs a void entry", was, maxRaise)
	}
	fence.Limit = limit
	if data, err = fence.encode(); err != nil {
		return was, err
	}
	// Crash here: the fence is as it was, or higher than need be.
	if _, err := store.ReplaceFence(ctx, data, etag); err != nil {
		return was, fmt.Errorf("replace fence: %w", err)
	}
	return was, nil
}

// encode writes the fence.
func (f Fence) encode() ([]byte, error) {
	f.Type = fenceType
	if err := f.validate(); err != nil {
		return nil, err
	}
	return json.Marshal(f)
}

// ParseFence reads a fence. It accepts the one spelling that is written, and
// nothing else.
func ParseFence(data []byte) (Fence, error) {
	if len(data) > maxFenceBytes {
		return Fence{}, fmt.Errorf("%w: %d bytes, more than %d", errFence, len(data), maxFenceBytes)
	}
	var f Fence
	if err := json.Unmarshal(data, &f); err != nil {
		return Fence{}, fmt.Errorf("%w: %w", errFence, err)
	}
	if err := f.validate(); err != nil {
		return Fence{}, err
	}
	again, err := json.Marshal(f)
	if err != nil || !bytes.Equal(again, data) {
		return Fence{}, fmt.Errorf("%w: not in its only spelling", errFence)
	}
	return f, nil
}

func (f Fence) validate() error {
	switch {
	case f.Type != fenceType:
		return fmt.Errorf("%w: type %.40q, want %q", errFence, f.Type, fenceType)
	case f.Limit > calpe.MaxLogSize:
		return fmt.Errorf("%w: limit %d is above the largest log", errFence, f.Limit)
	case f.Instance.IsZero():
		return fmt.Errorf("%w: no instance", errFence)
	case len(f.Claims) > maxClaims:
		return fmt.Errorf("%w: %d claims, more than %d", errFence, len(f.Claims), maxClaims)
	}
	for i, c := range f.Claims {
		if c.RolledFrom > c.RolledTo || c.VoidFrom > c.VoidTo || max(c.RolledTo, c.VoidTo) > f.Limit {
			return fmt.Errorf("%w: claim %d is not two ranges below the limit", errFence, i)
		}
	}
	return nil
}

// equal reports whether both say the same.
func (f Fence) equal(o Fence) bool {
	a, errA := f.encode()
	b, errB := o.encode()
	return errA == nil && errB == nil && bytes.Equal(a, b)
}
