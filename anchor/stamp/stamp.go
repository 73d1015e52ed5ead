// Package stamp anchors a log by OpenTimestamps calendars instead of coins of its
// own: once an interval it submits SHA-256 of the newest payload to each of them,
// and later fetches the ways to Bitcoin blocks, compares them with the headers
// that it knows, and watches until they are deep.
//
// All state is in the store; a step that is cut off anywhere is made again by the
// next one (I8). Submitting the same payload twice does no harm: a calendar then
// promises twice, and one of the promises is kept here.
package stamp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/calendar"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/receipt/ots"
)

// Submissions keeps what is wanted from calendars and what they have promised.
// Each write is one transaction, durable when it returns; with another epoch than
// the newest it is refused with [calpe.ErrLostLeadership], and if the rows aren't
// in the state it needs with [ledger.ErrConflict]. Either way nothing is written.
// Any other error leaves open whether it was.
type Submissions interface {
	// NewestProofs lists the proofs of the largest size that was ever wanted.
	NewestProofs(ctx context.Context) ([]ledger.Proof, error)
	// WantProofs makes a row for each calendar, which has none of that size. No row
	// has a larger size, or that one with another root.
	WantProofs(ctx context.Context, epoch uint64, p calpe.Payload, calendars []string, at time.Time) error
	// StorePromise moves a proof from wanted to pending.
	StorePromise(ctx context.Context, epoch uint64, id ledger.ProofID, promise []byte, at time.Time) error
}

// Questions keeps what is still to be asked. Its methods promise what those of
// [Submissions] do.
type Questions interface {
	// OpenProofs lists pending proofs whose calendars are to be asked now: not
	// asked for at least that long, and the older they get the more rarely; up to
	// limit of each calendar, the longest unasked first.
	OpenProofs(ctx context.Context, now time.Time, least time.Duration, limit int) ([]ledger.Proof, error)
	MarkAsked(ctx context.Context, epoch uint64, id ledger.ProofID, at time.Time) error
	// StoreWay moves a pending proof to confirmed, or to attested without a header.
	StoreWay(ctx context.Context, epoch uint64, id ledger.ProofID, way ledger.Attestation, at time.Time) error
}

// Blocks keeps which proofs are in blocks. Its methods promise what those of
// [Submissions] do.
type Blocks interface {
	// LedProofs lists what is attested or confirmed, and what is final above a height.
	LedProofs(ctx context.Context, above uint32, limit int) ([]ledger.Proof, error)
	ConfirmProof(ctx context.Context, epoch uint64, id ledger.ProofID, block calpe.BlockHash, header [calpe.HeaderSize]byte) error
	MakeProofFinal(ctx context.Context, epoch uint64, id ledger.ProofID) error
	// TakeProofBack makes a proof pending whose block isn't in the chain.
	TakeProofBack(ctx context.Context, epoch uint64, id ledger.ProofID) error
}

// Store is everything that an engine keeps. *postgres.Proofs is one.
type Store interface {
	Submissions
	Questions
	Blocks
	// ProofSummary says how all of it stands.
	ProofSummary(ctx context.Context) (ledger.ProofSummary, error)
}

// Log is what is to be anchored. *postgres.DB is one.
type Log interface {
	// CheckpointHead is the newest checkpoint, or [calpe.ErrNotFound].
	CheckpointHead(ctx context.Context) (calpe.Checkpoint, error)
}

// Calendars asks calendars. *calendar.Client is one: what it returns is well
// formed and about what was asked, and may be anything else.
type Calendars interface {
	Submit(ctx context.Context, base *url.URL, digest []byte) (ots.Timestamp, error)
	Complete(ctx context.Context, base *url.URL, message []byte) (ots.Timestamp, error)
}

// Headers is what is known of Bitcoin's best chain.
type Headers interface {
	// Tip is the newest block that is known.
	Tip(ctx context.Context) (height uint32, hash calpe.BlockHash, err error)
	// At is the header at a height that isn't above the tip.
	At(ctx context.Context, height uint32) ([calpe.HeaderSize]byte, error)
}

// Config of an [Engine]. Zero values take the default in brackets.
type Config struct {
	Store Store
	Log   Log
	// Calendars are asked. Nil: nobody is, nothing is submitted, and the engine only
	// compares the proofs that there are with Headers, so that none outlives its block.
	Calendars Calendars
	// URLs are the calendars to submit to, from [calendar.ParseURL]: two or more,
	// none twice. Beside them only public ones are asked for the rest of what these
	// promise: a calendar's answer may name any address. Without Calendars, none.
	URLs []*url.URL
	// Headers are what ways to blocks are compared with. Nil: they aren't, and
	// nothing is confirmed; whoever verifies a receipt compares.
	Headers Headers
	// Agrees, if set, is nil when a second node has that block too, Depth deep.
	// Without that nothing becomes final; all else goes on.
	Agrees   func(ctx context.Context, height uint32, block calpe.BlockHash) error
	Interval time.Duration // least time between two submissions [1 hour]
	Depth    uint32        // confirmations from which a proof is final [6]
	Ask      time.Duration // how often a calendar is asked for the rest of a promise, at first [10 minutes]
	Retry    time.Duration // how soon a calendar that failed is submitted to again [1 minute, at most Interval]
	// Silence is after how many intervals without any calendar's promise there is an
	// alarm [3]; Stall after how long without any way to a block [24 hours].
	Silence int
	Stall   time.Duration
	Poll    time.Duration // [5 seconds]
	Now     func() time.Time
	Logger  *slog.Logger
}

// The limits of a step, so that it ends soon whatever calendars answer.
const (
	maxOpen      = 64 // promises of each calendar that are asked about
	maxQuestions = 4  // pending attestations of one promise that are asked about
	maxWays      = 16 // ways to blocks in one answer that are looked at
	maxLed       = 1000
	watched      = 100 // blocks below the tip within which what is final is still compared
	stepTime     = 10 * time.Minute
	askTime      = stepTime / 2 // for all questions of a step: what was answered must be stored, too
)

// Engine anchors one log by calendars. Run and Step must not be called
// concurrently.
type Engine struct {
	cfg     Config
	askTime time.Duration
	// What follows is lost with the process on purpose: a restart tries everything
	// again. Only Step uses it.
	retryAt  map[string]time.Time // when a calendar that failed is submitted to again
	compared calpe.BlockHash      // tip at which all proofs in blocks were compared
	told     told
}

// New checks the configuration and makes an engine. It contacts nobody.
func New(cfg Config) (*Engine, error) {
	cfg.Interval = cmp.Or(cfg.Interval, time.Hour)
	cfg.Depth = cmp.Or(cfg.Depth, 6)
	cfg.Ask = cmp.Or(cfg.Ask, 10*time.Minute)
	cfg.Retry = cmp.Or(cfg.Retry, min(time.Minute, cfg.Interval))
	cfg.Silence = cmp.Or(cfg.Silence, 3)
	cfg.Stall = cmp.Or(cfg.Stall, 24*time.Hour)
	cfg.Poll = cmp.Or(cfg.Poll, 5*time.Second)
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Store == nil || cfg.Log == nil {
		return nil, errors.New("stamping lacks its store or log")
	}
	if min(cfg.Interval, cfg.Ask, cfg.Retry, cfg.Stall, cfg.Poll) < 0 || cfg.Silence < 0 {
		return nil, errors.New("stamping: no time may be negative")
	}
	if err := cfg.checkCalendars(); err != nil {
		return nil, err
	}
	return &Engine{
		cfg: cfg, askTime: askTime, retryAt: make(map[string]time.Time),
		told: told{untaken: make(map[string]bool), unkept: make(map[string]uint64)},
	}, nil
}

func (c Config) checkCalendars() error {
	switch {
	case c.Calendars != nil:
		return checkURLs(c.URLs)
	case len(c.URLs) > 0:
		return errors.New("stamping lacks what asks its calendars")
	case c.Headers == nil:
		return errors.New("stamping has neither calendars to ask nor headers to compare with: there is nothing to do")
	}
	return nil
}

// checkURLs demands two calendars, for one that is alone can lose everything.
func checkURLs(urls []*url.URL) error {
	if len(urls) < 2 {
		return fmt.Errorf("%d calendars are configured: give two or more, for one may be gone when its proofs are needed", len(urls))
	}
	for i, u := range urls {
		if slices.ContainsFunc(urls[:i], func(other *url.URL) bool { return *other == *u }) {
			return fmt.Errorf("the calendar %s is configured twice", u)
		}
	}
	return nil
}

// Run makes a step at once and then every few seconds, until the context ends or
// the engine may not go on: then the error is [calpe.ErrLostLeadership] or
// [ledger.ErrConflict], and a new Run starts from the store. Every other failure
// is logged and left to the next step. When the context ends, the error is nil.
func (e *Engine) Run(ctx context.Context, epoch uint64) error {
	ticker := time.NewTicker(e.cfg.Poll)
	defer ticker.Stop()
	for {
		err := e.boundedStep(ctx, epoch)
		if ctx.Err() != nil {
			return nil
		}
		if isFatal(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (e *Engine) boundedStep(ctx context.Context, epoch uint64) error {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	return e.Step(ctx, epoch)
}

// isFatal: the rows aren't ours any more, or not what we take them for.
func isFatal(err error) bool {
	return errors.Is(err, calpe.ErrLostLeadership) || errors.Is(err, ledger.ErrConflict)
}

// Step is one round: submit what is due, fetch what calendars have by now,
// compare with the headers. A part that fails doesn't keep the others from being
// tried. It may be stopped anywhere; the next one goes on from what is stored.
//
// That a calendar fails is no error of the step: it is logged, and tried again.
func (e *Engine) Step(ctx context.Context, epoch uint64) error {
	var errs []error
	var failing []string
	for _, part := range e.parts() {
		if err := part.do(ctx, epoch); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", part.what, err))
			failing = append(failing, part.what)
		}
		if isFatal(errors.Join(errs...)) || ctx.Err() != nil {
			break
		}
	}
	err := errors.Join(errs...)
	e.tellFailing(ctx, failing, err)
	return err
}

// Calendars are the addresses of those that the engine submits to.
func (e *Engine) Calendars() (addresses []string) {
	for _, u := range e.cfg.URLs {
		addresses = append(addresses, u.String())
	}
	return addresses
}

// part is one of the things that a step does.
type part struct {
	what string
	do   func(ctx context.Context, epoch uint64) error
}

func (e *Engine) parts() []part {
	if e.cfg.Calendars == nil {
		return []part{{"compare", e.compareAny}}
	}
	return []part{{"submit", e.submit}, {"complete", e.complete}, {"compare", e.compare}, {"sum up", e.watch}}
}

// allowed gives the address of a calendar that a promise names, if it may be
// asked: a configured or a public one.
func (e *Engine) allowed(uri string) (*url.URL, bool) {
	u, err := calendar.ParseURL(uri)
	if err != nil {
		return nil, false
	}
	return u, calendar.IsPublic(u) || slices.ContainsFunc(e.cfg.URLs, func(own *url.URL) bool { return *own == *u })
}
