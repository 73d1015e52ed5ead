package api

import (
	"context"
	"math"
	"net/http"
	"time"

	"github.com/calpe/calpe"
)

// Schedule is how often the stages work, as configured. /v1/status reckons with
// it; what is zero it doesn't speak of.
type Schedule struct {
	Seal   time.Duration // longest time an entry waits for its checkpoint
	Anchor time.Duration // least time between two anchors
	Target int           // blocks within which an anchor should be mined
	Depth  uint32        // confirmations from which an anchor is final
}

// FundsState says in one word how the funds stand.
type FundsState string

// The states of funds.
const (
	FundsAmple FundsState = "ample"
	FundsLow   FundsState = "low" // fewer anchors are left than the operator wants to be told of
	FundsOut   FundsState = "out" // no anchor is made until somebody pays, or the rate falls
)

// Outlook is what anchoring can still do.
type Outlook struct {
	Funds       FundsState // how they stand
	AnchorsLeft int64      // that the funds pay for, each at the highest cost allowed
	AnchorsNow  int64      // that the funds pay for, each at the rate of the newest one
	FeeRate     int64      // that rate, in satoshis per 1000 vB
	LastAttempt time.Time  // when the newest anchor transaction was made; zero: there is none
}

// Treasury knows what anchoring can still do.
type Treasury interface {
	Outlook(ctx context.Context) (Outlook, error)
}

// StampingState is how anchoring by calendars stands.
type StampingState struct {
	State        string    // ok; silent: no calendar takes anything; stalled: they take, and prove nothing
	ComparedWith string    // what their answers are compared with: node, file, nothing
	Promised     uint64    // largest size that a calendar has promised to anchor
	PromisedAt   time.Time // zero: none has
	Led          uint64    // largest size that was led to a block
	LedAt        time.Time // zero: none was
	Pending      int       // promises above that size that are open
}

// Stamper knows how anchoring by calendars stands.
type Stamper interface {
	Stamping(ctx context.Context) (StampingState, error)
}

type stampingAnswer struct {
	State        string    `json:"state"`
	ComparedWith string    `json:"compared_with"`
	Promised     uint64    `json:"promised"`
	PromisedAt   time.Time `json:"promised_at,omitzero"`
	Led          uint64    `json:"led"`
	LedAt        time.Time `json:"led_at,omitzero"`
	Pending      int       `json:"pending"`
}

// fundsAnswer is there if the log has coins.
type fundsAnswer struct {
	Funds       FundsState `json:"funds"`
	AnchorsLeft int64      `json:"anchors_left"`
	AnchorsNow  int64      `json:"anchors_left_at_fee_rate"`
	FeeRate     int64      `json:"fee_rate"`
}

type statusAnswer struct {
	Next         uint64        `json:"next"`
	Checkpointed uint64        `json:"checkpointed"`
	Broadcast    uint64        `json:"broadcast"`
	Confirmed    uint64        `json:"confirmed"`
	Final        uint64        `json:"final"`
	Network      calpe.Network `json:"network"`
	Log          calpe.Hash    `json:"log"`
	Time         time.Time     `json:"time"`
	Expected     expected      `json:"expected"`
	*fundsAnswer
	NewestAnchor *anchorSummary  `json:"newest_anchor,omitempty"`
	Calendars    *stampingAnswer `json:"calendars,omitempty"`
}

// expected is when each size will have reached what stands before it now, as
// far as that can be reckoned. What has nothing to reach has no time.
type expected struct {
	Checkpointed *time.Time `json:"checkpointed,omitempty"`
	Broadcast    *time.Time `json:"broadcast,omitempty"`
	Confirmed    *time.Time `json:"confirmed,omitempty"`
	Final        *time.Time `json:"final,omitempty"`
}

func (s *Server) getStatus(w http.ResponseWriter, r *http.Request) error {
	m, err := s.cfg.Watermarks.Watermarks(r.Context())
	if err != nil {
		return unavailable("The state of the log can't be read at the moment.", err)
	}
	outlook, stamping, err := s.outlook(r.Context())
	if err != nil {
		return err
	}
	newest, err := s.cfg.Anchors.Before(r.Context(), math.MaxUint32, math.MaxUint32, 1)
	if err != nil {
		return unavailable("The anchors can't be read at the moment.", err)
	}
	now := s.cfg.Now().UTC().Truncate(time.Second)
	answer := statusAnswer{
		Next: m.Next, Checkpointed: m.Checkpointed, Broadcast: m.Broadcast, Confirmed: m.Confirmed, Final: m.Final,
		Network: s.cfg.Identity.Network, Log: s.cfg.Identity.Hash(), Time: now,
	}
	if outlook != nil {
		answer.fundsAnswer = &fundsAnswer{outlook.Funds, outlook.AnchorsLeft, outlook.AnchorsNow, outlook.FeeRate}
	}
	if p := stamping; p != nil {
		second := func(t time.Time) time.Time { return t.UTC().Truncate(time.Second) }
		answer.Calendars = &stampingAnswer{p.State, p.ComparedWith, p.Promised, second(p.PromisedAt), p.Led, second(p.LedAt), p.Pending}
	}
	f := s.forecast(now, outlook, stamping)
	if len(newest) > 0 {
		summary := summarize(newest[0])
		answer.NewestAnchor, f.depth = &summary, newest[0].Depth
	}
	answer.Expected = f.expect(m)
	return writeJSON(w, http.StatusOK, answer)
}

// outlook asks the parts that anchor the log; what isn't there is nil.
func (s *Server) outlook(ctx context.Context) (*Outlook, *StampingState, error) {
	var outlook *Outlook
	if s.cfg.Treasury != nil {
		o, err := s.cfg.Treasury.Outlook(ctx)
		if err != nil {
			return nil, nil, unavailable("The state of the funds can't be read at the moment.", err)
		}
		outlook = &o
	}
	if s.cfg.Stamping == nil {
		return outlook, nil, nil
	}
	stamping, err := s.cfg.Stamping.Stamping(ctx)
	if err != nil {
		return nil, nil, unavailable("The state of the calendars can't be read at the moment.", err)
	}
	return outlook, &stamping, nil
}

// blockInterval is the mean time between two blocks; zero where they are made
// when somebody wishes.
func blockInterval(n calpe.Network) time.Duration {
	if n == calpe.Regtest || n == calpe.Simnet {
		return 0
	}
	return 10 * time.Minute
}

// forecast is what the expected times are reckoned from.
type forecast struct {
	schedule Schedule
	block    time.Duration
	now      time.Time
	last     time.Time // when the newest anchor transaction was made, or a calendar last promised one
	depth    uint32    // confirmations of the newest anchor
}

func (s *Server) forecast(now time.Time, outlook *Outlook, stamping *StampingState) forecast {
	f := forecast{schedule: s.cfg.Schedule, block: blockInterval(s.cfg.Identity.Network), now: now}
	switch {
	case outlook != nil:
		f.last = outlook.LastAttempt
	case stamping != nil:
		f.last = stamping.PromisedAt
	}
	return f
}

// confirmation is when a block is expected to hold an entry that none holds yet;
// nil: that can't be reckoned.
func (f forecast) confirmation(m calpe.Watermarks, index uint64) *time.Time {
	e := f.expect(m)
	if index < m.Broadcast {
		return e.Confirmed
	}
	if e.Broadcast == nil || f.block == 0 || f.schedule.Target == 0 {
		return nil
	}
	return f.at(e.Broadcast.Add(time.Duration(f.schedule.Target)*f.block), f.now)
}

// expect gives a time for each size that has something to reach. A later stage
// can't be earlier than the one that it waits for: the next anchor is made when
// the checkpoint is there, and when no other is unconfirmed.
func (f forecast) expect(m calpe.Watermarks) (e expected) {
	soonest := f.now
	if m.Checkpointed < m.Next && f.schedule.Seal > 0 {
		e.Checkpointed = f.at(f.now.Add(f.schedule.Seal), soonest)
		soonest = *e.Checkpointed
	}
	if m.Confirmed < m.Broadcast && f.block > 0 && f.schedule.Target > 0 {
		e.Confirmed = f.at(f.last.Add(time.Duration(f.schedule.Target)*f.block), f.now.Add(f.block))
	}
	if m.Broadcast < m.Next && f.schedule.Anchor > 0 {
		if e.Confirmed != nil {
			soonest = later(soonest, *e.Confirmed)
		}
		e.Broadcast = f.at(f.last.Add(f.schedule.Anchor), soonest)
	}
	if m.Final < m.Confirmed && f.block > 0 && f.schedule.Depth > f.depth {
		e.Final = f.at(f.now.Add(time.Duration(f.schedule.Depth-f.depth)*f.block), f.now)
	}
	return e
}

func (f forecast) at(t, soonest time.Time) *time.Time {
	t = later(t, soonest).UTC().Truncate(time.Second)
	return &t
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
