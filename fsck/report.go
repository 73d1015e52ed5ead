package fsck

import (
	"fmt"
	"slices"
	"time"
)

// Status is the outcome of a check.
type Status string

// The outcomes.
const (
	Clean      Status = "clean"      // all was looked at, and nothing is left to find
	Broken     Status = "broken"     // something is
	Incomplete Status = "incomplete" // nothing was found, and not everything was looked at
)

// Finding is one thing that is broken.
type Finding struct {
	Invariant string `json:"invariant"` // I1 to I10 of docs/design
	Thing     string `json:"thing"`     // which row, object or index
	Problem   string `json:"problem"`
	Do        string `json:"do"`                 // what an operator does about it
	Mend      Mend   `json:"mend,omitempty"`     // how --repair can; empty: it can't
	Repaired  bool   `json:"repaired,omitempty"` // and did, and read it back
}

// Mend says from what an object can be written again. Its path is the finding's Thing.
type Mend string

// What can be mended.
const (
	MendTile       Mend = "tile"       // from the tiles below it, or from entries
	MendBundle     Mend = "bundle"     // from entries
	MendCheckpoint Mend = "checkpoint" // from its row
	MendHead       Mend = "head"       // from the newest row
	MendAnchors    Mend = "anchors"    // from the rows of attempts
)

// Report is what a check found.
type Report struct {
	Type       string            `json:"type"` // "calpe/fsck/v1"
	Log        string            `json:"log"`  // origin
	Status     Status            `json:"status"`
	Started    time.Time         `json:"started"`
	Finished   time.Time         `json:"finished"`
	Resumed    int               `json:"resumed"` // how often the run was taken up again
	Findings   []Finding         `json:"findings"`
	More       int               `json:"more,omitempty"` // findings beyond those that are listed
	Notes      []string          `json:"notes,omitempty"`
	Unchecked  []string          `json:"unchecked,omitempty"` // what couldn't be looked at, and why
	Counts     map[string]uint64 `json:"counts"`              // what was looked at
	Invariants []Invariant       `json:"invariants"`
}

// Invariant is what was done for one invariant.
type Invariant struct {
	ID       string `json:"id"`
	Checked  string `json:"checked"`
	Findings int    `json:"findings"`
}

const reportType = "calpe/fsck/v1"

// maxFindings bounds the report, and memory. More are counted.
const maxFindings = 10_000

// invariants says, for each, what is looked at.
func invariants() []Invariant {
	return []Invariant{
		{ID: "I1", Checked: "every document's object is there, of that version, size and checksum, and locked; every object is named by a row"},
		{ID: "I2", Checked: "groups are dense, bundles and tiles hold the entries of the rows, documents and statements have the entries that commit to them, and the fence is above all of them"},
		{ID: "I3", Checked: "the root of each checkpoint, in its row, its note and its copy, and of each anchor, is that of the entries below its size"},
		{ID: "I4", Checked: "every tile, bundle and copy of a checkpoint below the newest checkpoint is there, and is what follows from the entries"},
		{ID: "I5", Checked: "every attempt has the transaction of its id, signed before it was sent; none of a coin's attempts is missing"},
		{ID: "I6", Checked: "states of coins and attempts are those that follow from the blocks that were followed, and those are the chain of the node"},
		{ID: "I7", Checked: "no promised deadline has passed without a checkpoint"},
		{ID: "I8", Checked: "what servers start from is there: deployment, newest checkpoint, first coin, followed blocks, pages of anchors"},
		{ID: "I9", Checked: "nothing in a store: that verify is pure and total is for the tests"},
		{ID: "I10", Checked: "every document's key unwraps and opens its row, and every object begins as an encrypted one"},
	}
}

// found adds findings, one for each thing and invariant: what is wrong with it in
// another way as well follows from the same cause, or shows in the next check.
func (r *run) found(list ...Finding) {
	for _, f := range list {
		if slices.ContainsFunc(r.state.Findings, func(x Finding) bool { return x.Invariant == f.Invariant && x.Thing == f.Thing }) {
			continue
		}
		if len(r.state.Findings) == maxFindings {
			r.state.More++
			continue
		}
		r.state.Findings = append(r.state.Findings, f)
	}
}

// note adds something to know that isn't a finding, once.
func (r *run) note(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(r.state.Notes, text) {
		r.state.Notes = append(r.state.Notes, text)
	}
}

// unchecked adds what can't be looked at, once.
func (r *run) unchecked(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(r.state.Unchecked, text) {
		r.state.Unchecked = append(r.state.Unchecked, text)
	}
}

// report sums up. A stop is why the check ended early; nil: it didn't.
func (r *run) report(stop error) Report {
	s := r.state
	rep := Report{
		Type: reportType, Log: r.Identity.Origin, Started: s.Started, Finished: r.Now().UTC(), Resumed: s.Resumed,
		Findings: append([]Finding{}, s.Findings...), More: s.More, Notes: s.Notes, Unchecked: slices.Clone(s.Unchecked),
		Counts: s.Counts, Invariants: invariants(), Status: Clean,
	}
	if stop != nil {
		rep.Unchecked = append(rep.Unchecked, "the rest: "+stop.Error())
	}
	left := s.More
	for _, f := range rep.Findings {
		if !f.Repaired {
			left++
		}
		for i := range rep.Invariants {
			if rep.Invariants[i].ID == f.Invariant {
				rep.Invariants[i].Findings++
			}
		}
	}
	switch {
	case left > 0:
		rep.Status = Broken
	case len(rep.Unchecked) > 0:
		rep.Status = Incomplete
	}
	return rep
}
