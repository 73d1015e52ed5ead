package stamp

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"sync"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/calendar"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/internal/commitpoint"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/ots"
)

// complete asks calendars for the rest of what they promised. Of each calendar
// the promises are asked about one after another, and no further once it can't be
// reached: a dead one costs a step one time-out. One that takes its time with each
// answer doesn't keep those of others from being stored: what isn't answered in
// time is asked in the next step.
func (e *Engine) complete(ctx context.Context, epoch uint64) error {
	open, err := e.cfg.Store.OpenProofs(ctx, e.cfg.Now(), e.cfg.Ask, maxOpen)
	if err != nil {
		return err
	}
	by := map[string][]ledger.Proof{}
	for _, p := range open {
		by[p.Calendar] = append(by[p.Calendar], p)
	}
	asking, cancel := context.WithTimeout(ctx, e.askTime)
	defer cancel()
	answers := make(chan answered, len(open))
	var all sync.WaitGroup
	for _, proofs := range by {
		all.Go(func() { e.askAbout(asking, proofs, answers) })
	}
	all.Wait()
	close(answers)
	for a := range answers {
		if err := e.take(ctx, epoch, a); err != nil {
			return err
		}
	}
	return nil
}

// answered is what came of asking about a promise: the promise with what the
// calendars added, or why there is nothing.
type answered struct {
	proof ledger.Proof
	whole ots.Timestamp
	err   error
}

func (e *Engine) askAbout(ctx context.Context, proofs []ledger.Proof, answers chan<- answered) {
	for _, p := range proofs {
		whole, err := e.ask(ctx, p)
		answers <- answered{p, whole, err}
		if err != nil && !errors.Is(err, calendar.ErrNotYet) && !errors.Is(err, calendar.ErrRefused) {
			return
		}
	}
}

// ask gives the promise with all that calendars add to it. It is an error if none
// adds anything: the last one's.
func (e *Engine) ask(ctx context.Context, p ledger.Proof) (ots.Timestamp, error) {
	whole, err := ots.ParseTimestamp(digestOf(p.Payload), p.Promise)
	if err != nil {
		return ots.Timestamp{}, fmt.Errorf("%w: the stored promise: %w", calendar.ErrRefused, err)
	}
	questions := e.questions(whole)
	failed := fmt.Errorf("%w: the promise is pending at no calendar that is configured any more", calendar.ErrRefused)
	got := false
	for _, q := range questions {
		answer, err := e.cfg.Calendars.Complete(ctx, q.calendar, q.message)
		if err == nil {
			answer, err = whole.Upgrade(answer)
		}
		if err != nil {
			failed = fmt.Errorf("%s: %w", q.calendar, err)
			continue
		}
		whole, got = answer, true
	}
	if !got {
		return ots.Timestamp{}, failed
	}
	return whole, nil
}

// take stores the way to a block, if there is one that holds; else that the
// calendar was asked.
func (e *Engine) take(ctx context.Context, epoch uint64, a answered) error {
	way, err := ledger.Attestation{}, a.err
	if err == nil {
		// Crash here: the calendar is asked again.
		commitpoint.Reached(commitpoint.ProofAnswered)
		way, err = e.way(ctx, a.proof.Payload, a.whole)
	}
	if e.tellAnswer(ctx, a.proof, err); err != nil {
		return e.cfg.Store.MarkAsked(ctx, epoch, a.proof.ID(), e.cfg.Now())
	}
	if err := e.cfg.Store.StoreWay(ctx, epoch, a.proof.ID(), way, e.cfg.Now()); err != nil {
		return err
	}
	// Crash here: it is stored; whether it is deep enough, the next step looks.
	commitpoint.Reached(commitpoint.ProofConfirmed)
	e.compared = calpe.BlockHash{} // this one wasn't
	e.cfg.Logger.InfoContext(ctx, "a calendar has led the log to a block", slog.String("calendar", a.proof.Calendar),
		slog.Uint64("size", a.proof.Size), slog.Uint64("height", uint64(way.Height)), slog.Bool("compared", way.Checked()))
	return nil
}

// way is the first way of a timestamp to a block that a receipt can have and
// that the headers bear out. An error has [calendar.ErrNotYet] in its chain if
// newer headers may.
func (e *Engine) way(ctx context.Context, p calpe.Payload, whole ots.Timestamp) (ledger.Attestation, error) {
	failed := fmt.Errorf("%w: its answer leads to no block", calendar.ErrRefused)
	seen := 0
	for ops, height := range whole.Ways() {
		if seen++; seen > maxWays {
			break
		}
		way, err := e.check(ctx, p, ops, height)
		if err == nil {
			return way, nil
		}
		if failed = err; ctx.Err() != nil {
			break
		}
	}
	return ledger.Attestation{}, failed
}

// errHeaders: what a calendar answered can't be compared now.
var errHeaders = errors.New("read headers")

// check compares a way with the header at its height, if headers are known.
func (e *Engine) check(ctx context.Context, p calpe.Payload, ops []ots.Op, height uint64) (ledger.Attestation, error) {
	operations, err := ots.Operations(ops)
	if err != nil {
		return ledger.Attestation{}, fmt.Errorf("%w: its answer: %w", calendar.ErrRefused, err)
	}
	root, err := operations.Root(p)
	if err != nil {
		return ledger.Attestation{}, fmt.Errorf("%w: its answer: %w", calendar.ErrRefused, err)
	}
	if height > math.MaxUint32 {
		return ledger.Attestation{}, fmt.Errorf("%w: its answer names block %d", calendar.ErrRefused, height)
	}
	way := ledger.Attestation{Operations: operations, Height: uint32(height)}
	if e.cfg.Headers == nil {
		return way, nil
	}
	tip, _, err := e.cfg.Headers.Tip(ctx)
	if err != nil {
		return ledger.Attestation{}, fmt.Errorf("%w: %w", errHeaders, err)
	}
	if way.Height > tip {
		return ledger.Attestation{}, fmt.Errorf("%w: its answer names block %d, and the newest known is %d", calendar.ErrNotYet, height, tip)
	}
	if way.Header, err = e.cfg.Headers.At(ctx, way.Height); err != nil {
		return ledger.Attestation{}, fmt.Errorf("%w: %w", errHeaders, err)
	}
	e.tellUnread(ctx, nil)
	if got := rootOf(way.Header); got != root {
		return ledger.Attestation{}, fmt.Errorf("%w: its answer leads to the Merkle root %s, block %d has %s", calendar.ErrRefused, root, height, got)
	}
	way.Block = hashOf(way.Header)
	return way, nil
}

// rootOf is the Merkle root in a block header.
func rootOf(header [calpe.HeaderSize]byte) calpe.BlockHash { return calpe.BlockHash(header[36:68]) }

func hashOf(header [calpe.HeaderSize]byte) calpe.BlockHash {
	once := sha256.Sum256(header[:])
	return sha256.Sum256(once[:])
}

// compareAny is compare for a log that no calendars anchor any more, and most
// never did: then the source of headers isn't bothered.
func (e *Engine) compareAny(ctx context.Context, epoch uint64) error {
	if newest, err := e.cfg.Store.NewestProofs(ctx); err != nil || len(newest) == 0 {
		return err
	}
	return e.compare(ctx, epoch)
}

// compare holds the proofs in blocks against the headers, once for each new tip:
// what an attested one lacked, whether one is deep enough, and whether its block
// is still there. What is above the tip is left alone: then it is the source of
// headers that lags.
func (e *Engine) compare(ctx context.Context, epoch uint64) error {
	if e.cfg.Headers == nil {
		return nil
	}
	tip, hash, err := e.cfg.Headers.Tip(ctx)
	if err != nil {
		return fmt.Errorf("read headers: %w", err)
	}
	if hash == e.compared {
		return nil
	}
	led, err := e.cfg.Store.LedProofs(ctx, tip-min(tip, watched), maxLed)
	if err != nil {
		return err
	}
	var held error
	for _, p := range led {
		if p.Way.Height > tip {
			continue
		}
		if p, err = e.compareOne(ctx, epoch, p); err != nil {
			return err
		}
		if p.State != ledger.ProofConfirmed || tip-p.Way.Height+1 < e.cfg.Depth || held != nil {
			continue
		}
		if e.cfg.Agrees != nil {
			held = e.cfg.Agrees(ctx, p.Way.Height, p.Way.Block)
		}
		if held == nil {
			if err := e.makeFinal(ctx, epoch, p); err != nil {
				return err
			}
		}
	}
	if e.tellHeld(ctx, held); held == nil {
		e.compared = hash
	}
	return nil
}

// tellHeld says once in the log that the second node keeps proofs from getting
// final, and once that it does no more.
func (e *Engine) tellHeld(ctx context.Context, held error) {
	if (held != nil) == e.told.held || ctx.Err() != nil {
		return
	}
	e.told.held = held != nil
	if e.told.held {
		e.cfg.Logger.WarnContext(ctx, "proofs by calendars aren't made final: the second node doesn't confirm their blocks", slog.Any("error", held))
	} else {
		e.cfg.Logger.InfoContext(ctx, "the second node confirms the blocks of proofs again")
	}
}

// compareOne gives the proof as it is after the comparison.
func (e *Engine) compareOne(ctx context.Context, epoch uint64, p ledger.Proof) (ledger.Proof, error) {
	header, err := e.cfg.Headers.At(ctx, p.Way.Height)
	if err != nil {
		return p, fmt.Errorf("read headers: %w", err)
	}
	if p.Way.Checked() && p.Way.Header != header {
		return e.takeBack(ctx, epoch, p, "its block isn't in the chain any more")
	}
	root, err := receipt.Operations(p.Way.Operations).Root(p.Payload)
	if err != nil || root != rootOf(header) {
		return e.takeBack(ctx, epoch, p, "the block has another Merkle root")
	}
	if p.State == ledger.ProofAttested {
		p.State, p.Way.Block, p.Way.Header = ledger.ProofConfirmed, hashOf(header), header
		err = e.cfg.Store.ConfirmProof(ctx, epoch, p.ID(), p.Way.Block, header)
	}
	return p, err
}

func (e *Engine) makeFinal(ctx context.Context, epoch uint64, p ledger.Proof) error {
	if err := e.cfg.Store.MakeProofFinal(ctx, epoch, p.ID()); err != nil {
		return err
	}
	// Crash here: it is final, and nothing depends on anybody having heard of it.
	commitpoint.Reached(commitpoint.ProofFinal)
	e.cfg.Logger.InfoContext(ctx, "a proof by a calendar is final", slog.String("calendar", p.Calendar), slog.Uint64("size", p.Size), slog.Uint64("height", uint64(p.Way.Height)))
	return nil
}

func (e *Engine) takeBack(ctx context.Context, epoch uint64, p ledger.Proof, why string) (ledger.Proof, error) {
	e.cfg.Logger.WarnContext(ctx, "a proof by a calendar was taken back", slog.String("because", why), slog.String("was", string(p.State)),
		slog.String("calendar", p.Calendar), slog.Uint64("size", p.Size), slog.Uint64("height", uint64(p.Way.Height)))
	p.State = ledger.ProofPending
	return p, e.cfg.Store.TakeProofBack(ctx, epoch, p.ID())
}
