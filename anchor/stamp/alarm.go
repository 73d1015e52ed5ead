package stamp

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/calpe/calpe/anchor/calendar"
	"github.com/calpe/calpe/anchor/ledger"
)

// Alarm is what an operator must be told of the calendars.
type Alarm string

// The alarms, the gravest first.
const (
	AlarmSilent  Alarm = "silent"  // no calendar takes anything: entries wait
	AlarmStalled Alarm = "stalled" // they take, and lead nothing to a block
	AlarmNone    Alarm = "ok"
)

// Limits are when there is an alarm.
type Limits struct {
	Silence time.Duration // without a promise, though something is wanted
	Stall   time.Duration // without a way to a block, though something is promised
}

// Judge tells whether there is an alarm: of all calendars together, or of one.
func (l Limits) Judge(s ledger.ProofSummary, now time.Time) Alarm {
	switch {
	case !s.Unpromised.IsZero() && now.Sub(s.Unpromised) > l.Silence:
		return AlarmSilent
	case !s.Waiting.IsZero() && now.Sub(s.Waiting) > l.Stall:
		return AlarmStalled
	}
	return AlarmNone
}

// Limits are those of the engine.
func (e *Engine) Limits() Limits {
	return Limits{Silence: time.Duration(e.cfg.Silence) * e.cfg.Interval, Stall: e.cfg.Stall}
}

// watch says in the log when an alarm begins or ends.
func (e *Engine) watch(ctx context.Context, _ uint64) error {
	s, err := e.cfg.Store.ProofSummary(ctx)
	if err != nil {
		return err
	}
	alarm := e.Limits().Judge(s, e.cfg.Now())
	if before := e.told.alarm; alarm == before || before == "" && alarm == AlarmNone {
		e.told.alarm = alarm
		return nil
	}
	e.told.alarm = alarm
	switch alarm {
	case AlarmSilent:
		e.cfg.Logger.ErrorContext(ctx, "no calendar takes what is to be anchored; entries wait", slog.Time("since", s.Unpromised), slog.Uint64("promised", s.Promised))
	case AlarmStalled:
		e.cfg.Logger.ErrorContext(ctx, "calendars keep none of their promises; entries wait", slog.Time("since", s.Waiting), slog.Int("pending", s.Pending))
	case AlarmNone:
		e.cfg.Logger.InfoContext(ctx, "calendars work again")
	}
	return nil
}

// told is what was said in the log and isn't over, so that a failure that goes on
// for days is one line. It is lost with the process: then it is said again.
type told struct {
	alarm   Alarm             // of all calendars together
	untaken map[string]bool   // calendars that take nothing
	unkept  map[string]uint64 // the size whose promise a calendar didn't keep
	unread  bool              // answers wait for headers
	held    bool              // the second node keeps proofs from getting final
	failing string            // parts of a step
}

// tellUntaken says once that a calendar takes nothing, and tellTaken that it does again.
func (e *Engine) tellUntaken(ctx context.Context, p ledger.Proof, err error) {
	if e.told.untaken[p.Calendar] || ctx.Err() != nil {
		return
	}
	e.told.untaken[p.Calendar] = true
	e.cfg.Logger.WarnContext(ctx, "a calendar doesn't take what is to be anchored", slog.String("calendar", p.Calendar),
		slog.Uint64("size", p.Size), slog.Any("error", err))
}

func (e *Engine) tellTaken(ctx context.Context, p ledger.Proof) {
	if e.told.untaken[p.Calendar] {
		delete(e.told.untaken, p.Calendar)
		e.cfg.Logger.InfoContext(ctx, "a calendar takes what is to be anchored again", slog.String("calendar", p.Calendar))
	}
}

// tellAnswer says once that a calendar fails when it is asked about a promise, and
// once that it answers about that one: another one's answer doesn't mend it.
func (e *Engine) tellAnswer(ctx context.Context, p ledger.Proof, err error) {
	if ctx.Err() != nil {
		return
	}
	if errors.Is(err, errHeaders) { // that isn't the calendar's fault
		e.tellUnread(ctx, err)
		return
	}
	size, failed := e.told.unkept[p.Calendar]
	switch ok := err == nil || errors.Is(err, calendar.ErrNotYet); { // "not yet" is the answer nearly always
	case !ok && !failed:
		e.told.unkept[p.Calendar] = p.Size
		e.cfg.Logger.WarnContext(ctx, "a calendar hasn't kept its promise", slog.String("calendar", p.Calendar), slog.Uint64("size", p.Size), slog.Any("error", err))
	case ok && failed && size == p.Size:
		delete(e.told.unkept, p.Calendar)
		e.cfg.Logger.InfoContext(ctx, "a calendar answers about its promise again", slog.String("calendar", p.Calendar), slog.Uint64("size", p.Size))
	}
}

// tellUnread says once that the headers can't be read, with which answers are to be
// compared; nil ends it.
func (e *Engine) tellUnread(ctx context.Context, err error) {
	if (err != nil) == e.told.unread {
		return
	}
	e.told.unread = err != nil
	if err != nil {
		e.cfg.Logger.WarnContext(ctx, "what calendars answer can't be compared: the headers can't be read", slog.Any("error", err))
	} else {
		e.cfg.Logger.InfoContext(ctx, "what calendars answer is compared again")
	}
}

// tellFailing says once which parts of the steps fail, and once that none does.
func (e *Engine) tellFailing(ctx context.Context, parts []string, err error) {
	failing := strings.Join(parts, ",")
	if failing == e.told.failing || ctx.Err() != nil || isFatal(err) { // whoever ended the engine says why
		return
	}
	e.told.failing = failing
	if err == nil {
		e.cfg.Logger.InfoContext(ctx, "stamping steps succeed again")
	} else {
		e.cfg.Logger.WarnContext(ctx, "stamping step failed", slog.String("parts", failing), slog.Any("error", err))
	}
}
