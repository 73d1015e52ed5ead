package main

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/calpe/calpe/anchor/calendar"
	"github.com/calpe/calpe/receipt/ots"
)

// maxCalendars are asked at once.
const maxCalendars = 8

type otsStampCommand struct {
	Calendars []string      `name:"calendar" required:"" help:"Address of a calendar, https://…; once for each." placeholder:"URL"`
	AtLeast   int           `short:"m" help:"How many calendars must promise. Default: 2, or 1 if only one is given." placeholder:"N"`
	Timeout   time.Duration `help:"How long to wait for the calendars." default:"10s"`
	Files     []string      `arg:"" name:"file" help:"Document to stamp."`
}

func (otsStampCommand) Help() string {
	return `The calendars get one hash for all files: each file's SHA-256 is hashed with 16 random bytes, and those hashes in pairs up to one. So they learn nothing of a file, and one file's proof says nothing of another's.

What a calendar answers is a promise. Some hours later, "calpe ots upgrade FILE.ots" asks for the rest: the way to a Bitcoin block. Several calendars are worth it: one that keeps its promise is enough.

FILE.ots must not exist. If fewer calendars answer than must (-m), nothing is written.`
}

// stamped is a file on its way to a calendar.
type stamped struct {
	path   string
	digest []byte
	ops    []ots.Op // from the digest to what the calendars get
}

func (s stamped) proof() string { return s.path + ".ots" }

func (c *otsStampCommand) Run(ctx context.Context, a *app) error {
	to, err := c.addresses()
	if err != nil {
		return err
	}
	var files []stamped
	failed := each(ctx, a, c.Files, func(path string) error {
		s, err := a.prepareStamp(ctx, path)
		if err == nil {
			files = append(files, s)
		}
		return err
	})
	if len(files) == 0 || ctx.Err() != nil {
		return failed
	}
	root, err := plant(files)
	if err != nil {
		return err
	}
	promise, err := c.submit(ctx, a, to, root)
	if err != nil {
		return err
	}
	// Crash here: the calendars know a hash that nobody can use any more. The next run draws another nonce.
	err = each(ctx, a, files, func(s stamped) error { return s.save(a, promise) })
	if err == nil || failed == nil {
		return cmp.Or(err, failed)
	}
	return reported(worse(exitCode(failed), exitCode(err)))
}

// addresses checks the flags. One calendar twice would count as two.
func (c *otsStampCommand) addresses() ([]*url.URL, error) {
	var to []*url.URL
	for _, text := range c.Calendars {
		u, err := calendar.ParseURL(text)
		if err != nil {
			return nil, fmt.Errorf("--calendar %s: %w", shown(text), err)
		}
		if slices.ContainsFunc(to, func(other *url.URL) bool { return *other == *u }) {
			return nil, fmt.Errorf("--calendar %s is given twice", shown(text))
		}
		to = append(to, u)
	}
	if c.AtLeast == 0 {
		c.AtLeast = min(2, len(to))
	}
	if c.AtLeast < 1 || c.AtLeast > len(to) {
		return nil, fmt.Errorf("-m %d: %d calendars are given", c.AtLeast, len(to))
	}
	return to, nil
}

// prepareStamp hashes a file with a nonce of its own. Without the nonce, who has
// another proof of the same tree could guess the file.
func (a *app) prepareStamp(ctx context.Context, path string) (stamped, error) {
	s := stamped{path: path}
	if err := refuseExisting(s.proof()); err != nil {
		return s, err
	}
	doc, err := a.hashDocument(ctx, path)
	if err != nil {
		return s, fmt.Errorf("%s: %w", shown(path), err)
	}
	var nonce [16]byte
	_, _ = rand.Read(nonce[:]) // never fails, see crypto/rand
	s.digest = doc.digest[:]
	s.ops = []ots.Op{{Tag: ots.Append, Arg: string(nonce[:])}, {Tag: ots.SHA256}}
	return s, nil
}

// plant makes the tree over all files, and gives its root.
func plant(files []stamped) ([]byte, error) {
	leaves := make([][]byte, len(files))
	for i, s := range files {
		leaf := sha256.Sum256(append(slices.Clone(s.digest), s.ops[0].Arg...))
		leaves[i] = leaf[:]
	}
	root, ways, err := ots.MerkleTree(leaves)
	for i := range files {
		files[i].ops = append(files[i].ops, ways[i]...)
	}
	return root, err
}

// submit asks all calendars, and puts together what those promise that answer.
func (c *otsStampCommand) submit(ctx context.Context, a *app, to []*url.URL, root []byte) (ots.Timestamp, error) {
	client := calendar.New(calendar.Config{Timeout: c.Timeout})
	defer client.Close()
	promises, errs := make([]ots.Timestamp, len(to)), make([]error, len(to))
	var group errgroup.Group
	group.SetLimit(maxCalendars)
	for i, u := range to {
		group.Go(func() error {
			promises[i], errs[i] = client.Submit(ctx, u, root)
			return nil
		})
	}
	_ = group.Wait() // each error is kept apart
	var all []ots.Timestamp
	for i, u := range to {
		if errs[i] != nil {
			errs[i] = fmt.Errorf("%s: %w", u, errs[i])
			continue
		}
		all = append(all, promises[i])
	}
	failures := errors.Join(errs...)
	if len(all) < c.AtLeast {
		return ots.Timestamp{}, fmt.Errorf("%d of %d calendars promised and %d must, so nothing is written: %w", len(all), len(to), c.AtLeast, failures)
	}
	if failures != nil {
		a.notice("%v", failures)
	}
	joined := all[0]
	for _, next := range all[1:] {
		var err error
		if joined, err = joined.Merge(next); err != nil {
			return ots.Timestamp{}, err
		}
	}
	return joined, nil
}

func (s stamped) save(a *app, promise ots.Timestamp) error {
	t, err := promise.From(s.digest, s.ops)
	if err != nil {
		return fmt.Errorf("%s: %w", shown(s.path), err)
	}
	f, err := ots.NewDetachedFile(ots.SHA256, t)
	if err != nil {
		return fmt.Errorf("%s: %w", shown(s.path), err)
	}
	if err := createOTS(s.proof(), f); err != nil {
		return err
	}
	_, err = fmt.Fprintf(a.Stdout, "%s: %s; proof: %s\n", shown(s.path), standing(f), shown(s.proof()))
	return err
}
