package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt"
)

// waiting are the flags of commands that can wait for a state.
type waiting struct {
	Wait    calpe.State   `help:"Wait until the entry has come that far: received, checkpointed, broadcast, confirmed or final. Final takes about an hour on mainnet, after the service's next anchor." placeholder:"STATE"`
	Timeout time.Duration `help:"How long to wait. After it the exit code is 3; run \"calpe receipt\" later." default:"6h"`
}

const (
	firstPoll = time.Second
	maxPoll   = 30 * time.Second
)

// receiptFile is a receipt that lies in a file, and the log it is from.
type receiptFile struct {
	path  string
	r     receipt.Receipt
	state calpe.State // as of the last look; 0: never looked
	id    receipt.Identity
	code  string // by which the document is found, if the service has just said it
}

// follow brings the file up to date, and waits for the state that is asked for.
// The file is written at each step that gives it more evidence.
func (w waiting) follow(ctx context.Context, a *app, s *service, f *receiptFile) error {
	ctx, cancel := context.WithTimeoutCause(ctx, w.Timeout, errNotYet)
	defer cancel()
	delay := firstPoll
	for {
		before := f.state
		err := f.update(ctx, a, s)
		switch {
		case err == nil && f.state >= w.Wait && holds(f.r, w.Wait):
			return nil
		case err == nil && f.state != before:
			a.notice("%s: %s", shown(f.path), f.state)
			delay = firstPoll
		case err != nil && (w.Wait == 0 || !transient(err)):
			return w.why(ctx, f, err)
		}
		if err := s.wait(ctx, delay); err != nil {
			return w.why(ctx, f, err)
		}
		delay = min(delay*3/2, maxPoll)
	}
}

// transient reports whether the service may answer later: nothing that it said
// was wrong.
func transient(err error) bool {
	p, refused := errors.AsType[*problem](err)
	return !errors.Is(err, errRefuted) && !errors.Is(err, errLocal) && (!refused || p.Status >= 500 || p.Status == 429)
}

func (w waiting) why(ctx context.Context, f *receiptFile, err error) error {
	if !errors.Is(context.Cause(ctx), errNotYet) {
		return fmt.Errorf("%s: %w", shown(f.path), err)
	}
	return fmt.Errorf("%s: %w: it is %s after %v, not %s; run \"calpe receipt\" later", shown(f.path), errNotYet, stateName(f.state), w.Timeout, w.Wait)
}

func stateName(s calpe.State) string {
	if s == 0 {
		return "not known to be recorded"
	}
	return s.String()
}

// update looks once, and writes the file if there is more evidence than before.
// Evidence is never given up: a receipt with an anchor stays if the service has
// none to show, and is kept beside the new one if it has another.
func (f *receiptFile) update(ctx context.Context, a *app, s *service) error {
	r, state, err := s.current(ctx, f.r, f.id)
	if err != nil {
		return err
	}
	f.state = state
	moved := evidence(f.r) == 2 && evidence(r) == 2 && !sameBlock(f.r, r)
	if evidence(r) < evidence(f.r) {
		a.notice("%s: the service shows less than this receipt has, perhaps because Bitcoin's chain was reorganised; the receipt stays as it is", shown(f.path))
		return nil
	}
	if evidence(r) == evidence(f.r) && !moved {
		return nil
	}
	if moved {
		former := f.path + ".former"
		if err := writeReceipt(former, f.r); err != nil {
			return err
		}
		a.notice("%s: the anchor is in another block now; the former receipt is kept as %s", shown(f.path), shown(former))
	}
	if err := writeReceipt(f.path, r); err != nil {
		return err
	}
	f.r = r
	return nil
}

// sameBlock reports whether both receipts lead to a block in the same way.
func sameBlock(a, b receipt.Receipt) bool {
	if a.Anchor == nil || b.Anchor == nil {
		return a.Timestamp != nil && b.Timestamp != nil &&
			a.Timestamp.Height == b.Timestamp.Height && bytes.Equal(a.Timestamp.Operations, b.Timestamp.Operations)
	}
	return a.Anchor.Height == b.Anchor.Height && bytes.Equal(a.Anchor.Header, b.Anchor.Header) && bytes.Equal(a.Anchor.Transaction, b.Anchor.Transaction)
}

// report prints the one line that stands for a notarized file.
func (f *receiptFile) report(a *app, name string) error {
	block := ""
	if network, height, ok := f.r.Place(); ok {
		block = fmt.Sprintf(", in block %d of %s", height, network)
	}
	code := ""
	if f.code != "" {
		code = "; code: " + clean(clip(f.code))
	}
	_, err := fmt.Fprintf(a.Stdout, "%s: entry %d, %s%s; receipt: %s%s\n", shown(name), f.r.Index, stateName(f.state), block, shown(f.path), code)
	return err
}

type receiptCommand struct {
	connection
	pinning
	waiting
	Receipts []string `arg:"" name:"receipt" help:"Receipt to bring up to date, in its place."`
}

func (receiptCommand) Help() string {
	return `Asks the public part of the service, without a token, for the proof of the receipt's entries as of now; checks it against the receipt and the log's identity; and writes the receipt anew if it has more evidence than before. Neither the document's digest nor its salt is sent.`
}

func (c *receiptCommand) Run(ctx context.Context, a *app) error {
	s, err := c.open(a, "")
	if err != nil {
		return err
	}
	id, err := c.pinned()
	if err != nil {
		return err
	}
	return each(ctx, a, c.Receipts, func(path string) error {
		r, err := readReceipt(path)
		if err != nil {
			return err
		}
		if id == nil {
			// The receipt names the hash of its log's identity: whoever supplies the identity, it is that one or refused.
			fetched, err := s.identity(ctx)
			if err != nil {
				return err
			}
			id = &fetched
		}
		if r.Log != id.Hash() {
			return fmt.Errorf("%s: %w: it is from the log %s, not from %s, %s", shown(path), errRefuted, r.Log, id.Origin, id.Hash())
		}
		f := &receiptFile{path: path, r: r, id: *id}
		err = c.follow(ctx, a, s, f)
		return errors.Join(err, f.report(a, filepath.Base(path)))
	})
}
