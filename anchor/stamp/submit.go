package stamp

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"slices"
	"sync"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/internal/commitpoint"
	"github.com/calpe/calpe/receipt/ots"
)

// digestOf is what calendars get of a payload.
func digestOf(p calpe.Payload) []byte {
	payload := p.Bytes()
	digest := sha256.Sum256(payload[:])
	return digest[:]
}

// submit decides whether a payload is due, and gives the newest one to every
// calendar that hasn't promised it yet. Older payloads that nobody promised are
// left: the newest covers them.
func (e *Engine) submit(ctx context.Context, epoch uint64) error {
	newest, err := e.cfg.Store.NewestProofs(ctx)
	if err != nil {
		return err
	}
	wanted, err := e.want(ctx, epoch, newest)
	if err != nil {
		return err
	}
	if wanted {
		if newest, err = e.cfg.Store.NewestProofs(ctx); err != nil {
			return err
		}
	}
	return e.submitTo(ctx, epoch, newest)
}

// want stores that a payload is due, before any calendar hears of it.
func (e *Engine) want(ctx context.Context, epoch uint64, newest []ledger.Proof) (bool, error) {
	head, err := e.cfg.Log.CheckpointHead(ctx)
	if errors.Is(err, calpe.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the newest checkpoint: %w", err)
	}
	payload := calpe.Payload{Size: head.Size, Root: head.Root}
	now, calendars := e.cfg.Now(), e.unwanted(newest)
	switch {
	case len(newest) == 0:
	case payload == newest[0].Payload: // the log rests, and a calendar may be new
	case head.Size <= newest[0].Size || now.Sub(newest[0].Created) < e.cfg.Interval:
		return false, nil
	default:
		calendars = e.unwanted(nil)
	}
	if len(calendars) == 0 {
		return false, nil
	}
	if err := e.cfg.Store.WantProofs(ctx, epoch, payload, calendars, now); err != nil {
		return false, err
	}
	// Crash here: the rows are there, and nothing was submitted. The next step does.
	commitpoint.Reached(commitpoint.ProofWanted)
	return true, nil
}

// unwanted are the configured calendars that none of these proofs is wanted from.
func (e *Engine) unwanted(proofs []ledger.Proof) (calendars []string) {
	for _, u := range e.cfg.URLs {
		if text := u.String(); !slices.ContainsFunc(proofs, func(p ledger.Proof) bool { return p.Calendar == text }) {
			calendars = append(calendars, text)
		}
	}
	return calendars
}

// submitTo asks all calendars at once that are due, and stores each promise as
// soon as all have answered.
func (e *Engine) submitTo(ctx context.Context, epoch uint64, newest []ledger.Proof) error {
	promises, errs := make([][]byte, len(newest)), make([]error, len(newest))
	var all sync.WaitGroup
	for i, p := range newest {
		u := e.configured(p.Calendar)
		if p.State != ledger.ProofWanted || u == nil || e.cfg.Now().Before(e.retryAt[p.Calendar]) {
			continue
		}
		all.Go(func() { promises[i], errs[i] = e.promise(ctx, u, digestOf(p.Payload)) })
	}
	all.Wait()
	for i, p := range newest {
		if errs[i] != nil {
			e.retryAt[p.Calendar] = e.cfg.Now().Add(e.cfg.Retry)
			e.tellUntaken(ctx, p, errs[i])
			continue
		}
		if promises[i] == nil {
			continue
		}
		// Crash here: the calendar has promised, and nobody knows. It is asked again.
		commitpoint.Reached(commitpoint.ProofSubmitted)
		if err := e.cfg.Store.StorePromise(ctx, epoch, p.ID(), promises[i], e.cfg.Now()); err != nil {
			return err
		}
		// Crash here: the promise is stored; the next step asks for the rest.
		commitpoint.Reached(commitpoint.ProofPromised)
		e.tellTaken(ctx, p)
		e.cfg.Logger.InfoContext(ctx, "a calendar has promised to anchor", slog.String("calendar", p.Calendar), slog.Uint64("size", p.Size))
	}
	return nil
}

// configured is the address of a calendar as it is configured now, or nil.
func (e *Engine) configured(uri string) *url.URL {
	for _, u := range e.cfg.URLs {
		if u.String() == uri {
			return u
		}
	}
	return nil
}

// promise submits a digest. A promise that nobody may be asked to keep is none.
func (e *Engine) promise(ctx context.Context, u *url.URL, digest []byte) ([]byte, error) {
	t, err := e.cfg.Calendars.Submit(ctx, u, digest)
	if err != nil {
		return nil, err
	}
	if len(e.questions(t)) == 0 {
		return nil, errors.New("its promise is pending at no calendar that may be asked: configure the one that it names, if you trust it")
	}
	return t.Serialize()
}

// question is a message that a calendar may be asked about.
type question struct {
	calendar *url.URL
	message  []byte
}

// questions are the first few that a promise gives rise to.
func (e *Engine) questions(t ots.Timestamp) (list []question) {
	for message, uri := range t.Pending() {
		if u, ok := e.allowed(uri); ok {
			if list = append(list, question{u, message}); len(list) == maxQuestions {
				break
			}
		}
	}
	return list
}
