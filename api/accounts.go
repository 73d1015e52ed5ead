package api

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/calpe/calpe"
)

// AccountLimits bounds what one owner may have recorded, by all of their tokens
// together. Each server process counts by itself, from its start. Zero is no
// limit, unless it says otherwise.
type AccountLimits struct {
	EntriesPerSecond int64
	EntriesPerDay    int64
	BytesPerSecond   int64 // of bodies
	BytesPerDay      int64
	// Uploads is how many requests with many commitments an owner may have at a
	// time; default 4.
	Uploads int
}

// limit is a token bucket: a window's worth at once, then evenly.
type limit struct {
	most   int64 // in a window; 0: no limit
	window time.Duration
	bytes  bool // else entries
	name   string
}

// of chooses what is limited.
func (l limit) of(entries, bytes int64) int64 {
	if l.bytes {
		return bytes
	}
	return entries
}

// cost is the time in which the bucket gets n back.
func (l limit) cost(n int64) time.Duration {
	return time.Duration(float64(n) / float64(l.most) * float64(l.window))
}

// accounts holds what owners have used up. A bucket is the one time at which it
// will be full again (see quota). It is overdrawn by what is larger than itself,
// and by a document, whose size is known when it is there; then the next one waits.
//
// Its memory is bounded by the number of owners who have sent something within a
// day. Safe for concurrent use.
type accounts struct {
	limits  []limit // those that are set
	uploads int
	now     func() time.Time

	mu    sync.Mutex
	of    map[string]*account
	swept time.Time
}

type account struct {
	full    []time.Time // when each bucket is full again, in the order of limits
	uploads int         // that are running
}

func newAccounts(l AccountLimits, now func() time.Time) *accounts {
	a := &accounts{uploads: l.Uploads, now: now, of: map[string]*account{}, swept: now()}
	for _, limit := range []limit{
		{l.EntriesPerSecond, time.Second, false, "entries a second"}, {l.EntriesPerDay, 24 * time.Hour, false, "entries a day"},
		{l.BytesPerSecond, time.Second, true, "bytes a second"}, {l.BytesPerDay, 24 * time.Hour, true, "bytes a day"},
	} {
		if limit.most > 0 {
			a.limits = append(a.limits, limit)
		}
	}
	return a
}

// get is the owner's account; it needs mu.
func (a *accounts) get(owner string) *account {
	if a.of[owner] == nil {
		a.of[owner] = &account{full: make([]time.Time, len(a.limits))}
	}
	return a.of[owner]
}

// admit is nil if the owner may have so much more recorded, else an error that
// says when.
func (a *accounts) admit(owner string, entries, bytes int64) error {
	if len(a.limits) == 0 {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	a.sweep(now)
	of := a.get(owner)
	for i, l := range a.limits {
		if of.full[i].Before(now) {
			of.full[i] = now
		}
		need := min(l.cost(l.of(entries, bytes)), l.window)
		if wait := of.full[i].Add(need).Sub(now) - l.window; wait > 0 {
			return &laterError{wait, calpe.Errorf(calpe.CodeTooManyRequests, "This account may have up to %d %s recorded.", l.most, l.name)}
		}
	}
	return nil
}

// charge uses up entries and bytes of an owner who was admitted.
func (a *accounts) charge(owner string, entries, bytes int64) {
	if len(a.limits) == 0 {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now, of := a.now(), a.get(owner)
	for i, l := range a.limits {
		if of.full[i].Before(now) {
			of.full[i] = now
		}
		of.full[i] = of.full[i].Add(l.cost(l.of(entries, bytes)))
	}
}

// chargedBody charges an owner with each byte of a body.
type chargedBody struct {
	io.Reader
	accounts *accounts
	owner    string
}

func (b *chargedBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	b.accounts.charge(b.owner, 0, int64(n))
	return n, err
}

// begin takes a place for a request with many commitments, until done is called.
func (a *accounts) begin(owner string) (done func(), err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	of := a.get(owner)
	if of.uploads >= a.uploads {
		return nil, calpe.Errorf(calpe.CodeTooManyRequests, "%d requests with many commitments of this account are being read already.", of.uploads)
	}
	of.uploads++
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if of.uploads--; of.uploads == 0 && len(a.limits) == 0 {
			delete(a.of, owner)
		}
	}, nil
}

// sweep forgets, once a minute, the accounts that have used up nothing.
func (a *accounts) sweep(now time.Time) {
	if now.Sub(a.swept) < quotaWindow {
		return
	}
	a.swept = now
	for owner, of := range a.of {
		idle := of.uploads == 0
		for _, full := range of.full {
			idle = idle && !full.After(now)
		}
		if idle {
			delete(a.of, owner)
		}
	}
}

// laterError is one that says when another try makes sense.
type laterError struct {
	after time.Duration
	err   error
}

func (e *laterError) Error() string { return fmt.Sprintf("%v (in %v)", e.err, e.after) }
func (e *laterError) Unwrap() error { return e.err }
