package main

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/metrics"
)

// state is what metrics say of the database.
func (s *service) state(ctx context.Context) (state metrics.State, err error) {
	if state.Marks, err = s.Watermarks(ctx); err != nil {
		return metrics.State{}, err
	}
	if state.Unsealed, err = s.oldest(ctx, state.Marks.Checkpointed, state.Marks); err != nil {
		return metrics.State{}, err
	}
	if state.Unanchored, err = s.oldest(ctx, state.Marks.Confirmed, state.Marks); err != nil {
		return metrics.State{}, err
	}
	anchors, now := s.db.Anchors(), s.app.now()
	if state.Chain, err = anchors.Snapshot(ctx); err != nil {
		return metrics.State{}, err
	}
	if state.Spent, err = anchors.Spent(ctx, now.Add(-24*time.Hour), now.Add(24*time.Hour)); err != nil { // as the engine counts
		return metrics.State{}, err
	}
	if state.Anchors, state.Fees, err = anchors.Paid(ctx); err != nil {
		return metrics.State{}, err
	}
	if s.calendars != nil {
		sum, err := s.db.Proofs().ProofSummary(ctx)
		if err != nil {
			return metrics.State{}, err
		}
		limits, addresses := s.stamping.Limits(), s.stamping.Calendars()
		state.Calendars = limits.Judge(sum, now)
		each, err := s.db.Proofs().ProofSummaries(ctx, addresses)
		if err != nil {
			return metrics.State{}, err
		}
		for i, sum := range each {
			state.EachCalendar = append(state.EachCalendar, metrics.CalendarState{Address: addresses[i], State: limits.Judge(sum, now)})
		}
	}
	state.Caps = s.caps
	state.Funds = s.caps.Funds(state.Chain.Live, state.Chain.Deposits, cmp.Or(state.Chain.LastRate, s.fallback))
	state.FundsState = state.Funds.State(s.lowFunds)
	return state, nil
}

// oldest is when the first entry was recorded that a watermark doesn't cover;
// zero if there is none.
func (s *service) oldest(ctx context.Context, covered uint64, marks calpe.Watermarks) (time.Time, error) {
	if covered >= marks.Next {
		return time.Time{}, nil
	}
	at, err := s.db.EntryTime(ctx, covered)
	if errors.Is(err, calpe.ErrNotFound) { // the database was put back between the two reads
		return time.Time{}, nil
	}
	return at, err
}
