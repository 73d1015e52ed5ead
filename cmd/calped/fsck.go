package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/fsck"
	"github.com/calpe/calpe/internal/progress"
	"github.com/calpe/calpe/receipt"
)

type fsckCommand struct {
	Deep      bool          `help:"Decrypt every document and compare its digest; read every partial tile that is left."`
	Since     string        `help:"Leave out what was sealed before a time, such as 2026-11-21T09:30:00Z." placeholder:"TIME"`
	Rate      float64       `help:"Most requests to object storage a second, and MiB of documents. 0: no bound."`
	Readers   int           `help:"Objects read at the same time." default:"8"`
	State     string        `help:"File that keeps how far the check is: one that was ended goes on with it." type:"path" placeholder:"FILE"`
	Repair    bool          `help:"Write again what follows from what is there: tiles, bundles, copies of checkpoints, pages of anchors. Signs and deletes nothing."`
	JSON      bool          `help:"Print the report as JSON." name:"json"`
	Grace     time.Duration `help:"Time after which what a running server may be about to put right is looked at again." default:"30s"`
	OrphanAge time.Duration `help:"Age at which an object that no document names is one; above the longest upload." env:"CALPE_DOCUMENT_ORPHAN_AGE" default:"24h"`
}

// Exit codes of fsck beside those of all commands.
const exitBroken = 3 // something is broken; the report says what

// exitError ends the program with a code of its own, and says no more: what there
// is to say was printed.
type exitError struct{ code int }

func (e exitError) Error() string { return fmt.Sprintf("exit code %d", e.code) }

// Run checks, prints the report, and ends with 0 (all was looked at and nothing is
// broken, or all of it was mended), exitBroken, or exitFail (not all could be looked at).
func (c *fsckCommand) Run(ctx context.Context, a *app) error {
	db, err := a.openDatabase(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	config := fsck.Config{
		Instance: db.Instance, Entries: db, Checkpoints: db, Documents: db, Records: db, Anchors: db.Anchors(), Blocks: db.Anchors(), Proofs: db.Proofs(),
		Deep: c.Deep, Rate: c.Rate, Readers: c.Readers, Orphan: c.OrphanAge, Grace: c.Grace, Repair: c.Repair, State: c.State,
		Now: a.now, Logger: a.log,
	}
	if config.Since, err = since(c.Since); err != nil {
		return err
	}
	d, err := db.Deployment(ctx)
	if errors.Is(err, calpe.ErrNotFound) {
		return errors.New("there is no log in this database yet: nothing to check")
	}
	if err != nil {
		return err
	}
	if config.Identity, err = receipt.ParseIdentity(d.Identity); err != nil {
		return fmt.Errorf("row of the deployment (I8): %w", err)
	}
	objects, err := a.openObjects()
	if err != nil {
		return err
	}
	config.Objects, config.Bucket = objects, objects
	close, err := c.optional(ctx, a, &config)
	if err != nil {
		return err
	}
	defer close()
	bar := &phaseMeter{w: a.stderr, show: progress.IsTerminal(a.stderr)}
	config.Progress = bar.set
	report, err := fsck.Run(ctx, config)
	bar.meter.Done()
	return c.print(a, report, err)
}

// optional opens what the check can do without, but then says what wasn't looked at.
func (c *fsckCommand) optional(ctx context.Context, a *app, config *fsck.Config) (closeNode func(), err error) {
	if ring, err := a.loadKeyring(); err == nil {
		config.Keys = ring
	} else {
		fmt.Fprintf(a.stderr, "calped: documents' keys aren't checked: %v\n", err)
	}
	if config.Identity.FirstOutpoint == nil {
		fmt.Fprintln(a.stderr, "calped: the log has no coins; what calendars have proved isn't checked: calpe verify does, receipt by receipt")
		return func() {}, nil
	}
	if a.Bitcoin.URL == "" {
		fmt.Fprintln(a.stderr, "calped: the chain isn't asked: set CALPE_BITCOIN_URL")
		return func() {}, nil
	}
	node, err := a.openNode()
	if err != nil {
		return nil, err
	}
	config.Node = node
	if err := node.CheckNetwork(ctx, config.Identity.Network); err != nil && ctx.Err() == nil {
		fmt.Fprintf(a.stderr, "calped: the Bitcoin node: %v\n", err)
	}
	return node.Close, nil
}

func since(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	at, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return time.Time{}, fmt.Errorf("--since: %q is no time such as 2026-11-21T09:30:00Z", text)
	}
	return at.UTC(), nil
}

// phaseMeter shows a bar for each phase.
type phaseMeter struct {
	w     io.Writer
	show  bool
	phase string
	meter progress.Meter
}

func (m *phaseMeter) set(phase string, done, total uint64) {
	if !m.show {
		return
	}
	if phase != m.phase {
		m.meter.Done()
		size := int64(-1)
		if total > 0 {
			size = int64(min(total, math.MaxInt64))
		}
		m.phase, m.meter = phase, progress.New(m.w, phase, size, false)
	}
	m.meter.Set(int64(min(done, math.MaxInt64)))
}

// print writes the report, and gives the error that is the exit code.
func (c *fsckCommand) print(a *app, report fsck.Report, stopped error) error {
	if report.Type == "" {
		return stopped // it never began
	}
	if c.JSON {
		encoder := json.NewEncoder(a.stdout)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(report); err != nil {
			return fmt.Errorf("print report: %w", err)
		}
	} else {
		fmt.Fprint(a.stdout, text(report))
	}
	switch report.Status {
	case fsck.Clean:
		return stopped
	case fsck.Broken:
		return exitError{exitBroken}
	default:
		return exitError{exitFail}
	}
}

// text is the report for people.
func text(r fsck.Report) string {
	var b strings.Builder
	for _, f := range r.Findings {
		state := ""
		if f.Repaired {
			state = "MENDED: "
		}
		fmt.Fprintf(&b, "%-4s %s%s: %s\n", f.Invariant, state, f.Thing, f.Problem)
		if !f.Repaired {
			fmt.Fprintf(&b, "     -> %s\n", f.Do)
		}
	}
	if r.More > 0 {
		fmt.Fprintf(&b, "     and %d more\n", r.More)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "note      %s\n", n)
	}
	for _, u := range r.Unchecked {
		fmt.Fprintf(&b, "unchecked %s\n", u)
	}
	for _, what := range slices.Sorted(maps.Keys(r.Counts)) {
		fmt.Fprintf(&b, "checked   %d %s\n", r.Counts[what], what)
	}
	for _, i := range r.Invariants {
		fmt.Fprintf(&b, "%-4s %d findings: %s\n", i.ID, i.Findings, i.Checked)
	}
	fmt.Fprintf(&b, "%s: %s, in %v\n", r.Log, r.Status, r.Finished.Sub(r.Started).Round(time.Millisecond))
	return b.String()
}
