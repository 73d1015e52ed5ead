package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/calpe/calpe/anchor/calendar"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/headers"
	"github.com/calpe/calpe/receipt/ots"
)

// maxQuestions of one file are asked: a hostile file has thousands, and would
// make us flood a calendar.
const maxQuestions = 64

type otsUpgradeCommand struct {
	chainSource
	pinning
	Calendars []string      `name:"calendar" help:"Address of a calendar that may be asked too; once for each." placeholder:"URL"`
	Server    string        `help:"Address of a Calpe service: a calendar on its host, or on a host below it, may be asked too." variable:"CALPE_SERVER" placeholder:"URL"`
	Timeout   time.Duration `help:"How long to wait for each answer." default:"30s"`
	Files     []string      `arg:"" name:"file.ots" help:"File to complete, in its place."`
}

func (otsUpgradeCommand) Help() string {
	return `Asks each calendar at which a file is pending for the way to a Bitcoin block, and adds it. Whoever wrote the file has chosen the calendars, so only these are asked: those of opentimestamps.org, eternitywall.com and catallaxy.com; any given as --calendar; those of the service given as --server, or of the log pinned by --identity. Nothing is removed from a file; the one before the first upgrade is kept as FILE.ots.bak.

With --headers or --node, an answer that names a wrong block is refused. Without, it shows in "calpe ots verify". A node is asked for every single header, which takes long on mainnet.

Exit codes: 0 each file is complete: it leads to a Bitcoin block; 3 one is still incomplete; 2 no calendar of a file could be asked; 1 a file isn't a .ots file, or all that its calendars answered doesn't hold. Of several files, the worst counts, in the order 1, 2, 3, 0.`
}

func (c *otsUpgradeCommand) Run(ctx context.Context, a *app) error {
	policy, err := c.policy()
	if err != nil {
		return err
	}
	if _, err := c.parse(); err != nil {
		return err
	}
	u := upgrader{a: a, policy: policy, client: calendar.New(calendar.Config{Timeout: c.Timeout}), chain: sync.OnceValues(func() (*headers.Chain, error) { return c.load(ctx, a, true) })}
	defer u.client.Close()
	return each(ctx, a, c.Files, func(path string) error { return u.upgrade(ctx, path) })
}

// calendarPolicy says which calendars may be asked: a file can name any address,
// also one inside the user's network.
type calendarPolicy struct {
	given []*url.URL
	hosts []trustedHost
}

// trustedHost is where a Calpe service is, so that its calendar is there, on
// another port, or on a host below.
type trustedHost struct {
	scheme string
	name   string
}

func (c *otsUpgradeCommand) policy() (p calendarPolicy, err error) {
	for _, text := range c.Calendars {
		u, err := calendar.ParseURL(text)
		if err != nil {
			return p, fmt.Errorf("--calendar %s: %w", shown(text), err)
		}
		p.given = append(p.given, u)
	}
	if c.Server != "" {
		u, err := calendar.ParseURL(c.Server)
		if err != nil {
			return p, fmt.Errorf("--server: %w", err)
		}
		p.hosts = append(p.hosts, trustedHost{u.Scheme, u.Hostname()})
	}
	id, err := c.pinned()
	if id != nil {
		name, _, _ := strings.Cut(id.Origin, "/")
		p.hosts = append(p.hosts, trustedHost{"https", strings.ToLower(name)})
	}
	return p, err
}

// allows gives the address of a calendar that may be asked.
func (p calendarPolicy) allows(uri string) (*url.URL, bool) {
	u, err := calendar.ParseURL(uri)
	if err != nil {
		return nil, false
	}
	if slices.ContainsFunc(p.given, func(g *url.URL) bool { return *g == *u }) {
		return u, true
	}
	if u.Path != "" {
		return nil, false
	}
	return u, calendar.IsPublic(u) || slices.ContainsFunc(p.hosts, func(h trustedHost) bool {
		return u.Scheme == h.scheme && (u.Hostname() == h.name || isDomain(h.name) && below(u.Hostname(), "."+h.name))
	})
}

func below(name, suffix string) bool {
	return strings.HasSuffix(name, suffix) && len(name) > len(suffix)
}

// isDomain reports whether hosts below a name belong to the same owner: not
// below an address, or a top level.
func isDomain(name string) bool {
	return net.ParseIP(name) == nil && strings.Contains(strings.Trim(name, "."), ".")
}

// upgrader completes files.
type upgrader struct {
	a      *app
	policy calendarPolicy
	client *calendar.Client
	chain  func() (*headers.Chain, error)
}

// question is a pending attestation that a calendar may be asked about.
type question struct {
	calendar *url.URL
	message  []byte
	answer   ots.Timestamp
	err      error
}

// upgrade completes a file as far as its calendars can.
func (u *upgrader) upgrade(ctx context.Context, path string) error {
	f, data, err := readOTS(path)
	if err != nil {
		return err
	}
	questions, foreign := u.questions(f)
	u.ask(ctx, questions)
	upgraded := f
	for _, q := range questions {
		if q.err == nil {
			chain, err := u.chain()
			if err != nil {
				return err
			}
			upgraded, q.err = take(upgraded, q.answer, chain)
		}
		if q.err != nil {
			q.err = fmt.Errorf("%s: %s: %w", shown(path), q.calendar, q.err)
			u.a.notice("%v", q.err)
		}
	}
	for _, uri := range foreign {
		u.a.notice("%s: pending at %s, which isn't asked: give --calendar %s if you trust it", shown(path), uri, uri)
	}
	if err := saveUpgraded(path, data, f, upgraded); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(u.a.Stdout, "%s: %s\n", shown(path), standing(upgraded)); err != nil {
		return err
	}
	return incomplete(upgraded, questions, foreign)
}

// questions are what may be asked about a file, and the first few calendars that
// may not be.
func (u *upgrader) questions(f ots.DetachedFile) (list []*question, foreign []string) {
	seen := map[string]bool{}
	for message, uri := range f.Timestamp().Pending() {
		to, ok := u.policy.allows(uri)
		key := uri // chosen from other characters than those of a message in hexadecimal
		if ok {
			key = fmt.Sprintf("%x %s", message, to)
		}
		switch {
		case seen[key]:
			continue
		case ok:
			list = append(list, &question{calendar: to, message: message})
		case len(foreign) < maxForeign:
			foreign = append(foreign, uri)
		}
		seen[key] = true
		if len(list) == maxQuestions {
			break
		}
	}
	return list, foreign
}

// maxForeign calendars that aren't asked are named.
const maxForeign = 10

func (u *upgrader) ask(ctx context.Context, questions []*question) {
	var group errgroup.Group
	group.SetLimit(maxCalendars)
	for _, q := range questions {
		group.Go(func() error {
			q.answer, q.err = u.client.Complete(ctx, q.calendar, q.message)
			return nil
		})
	}
	_ = group.Wait() // each error is kept apart
}

// take returns the file with the answer; beside an error, the file as it was. It
// refuses an answer with a Bitcoin attestation that doesn't hold: that would spoil
// the file for readers that look at the lowest block alone. Without a chain such is
// only one of something that is no Merkle root.
func take(f ots.DetachedFile, answer ots.Timestamp, chain *headers.Chain) (ots.DetachedFile, error) {
	for _, r := range ots.Check(answer, chain, 1) {
		if r.Status == receipt.Refuted {
			return f, fmt.Errorf("%w: its answer: %s", errRefuted, r.Text)
		}
	}
	upgraded, err := f.Upgrade(answer)
	if err != nil {
		return f, err
	}
	return upgraded, nil
}

// saveUpgraded writes a file that has grown. Nothing is lost without the copy; it
// is there for who doesn't want what was added.
func saveUpgraded(path string, data []byte, before, after ots.DetachedFile) error {
	old, err := before.Serialize()
	if err != nil {
		return err
	}
	grown, err := after.Serialize()
	if err != nil || bytes.Equal(old, grown) {
		return err
	}
	if err := createFile(path+".bak", data); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	// Crash here: the file is as it was, beside its copy. The next run upgrades it.
	return replaceFile(path, privateFile, func(w io.Writer) error { _, err := w.Write(grown); return err })
}

// incomplete says why a file has no Bitcoin block yet: the best of what its
// calendars said.
func incomplete(f ots.DetachedFile, questions []*question, foreign []string) error {
	if len(blocksOf(f.Timestamp())) > 0 {
		return nil
	}
	if len(questions)+len(foreign) == 0 {
		return errors.New("there is no Bitcoin block in it, and no calendar to ask")
	}
	if len(foreign) > 0 {
		return reported(exitNotYet)
	}
	best := exitRefuted
	for _, q := range questions {
		if code := exitCode(q.err); worse(best, code) == best {
			best = code
		}
	}
	return reported(best)
}
