package audit

import (
	"fmt"
	"io"
	"strings"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt"
)

// Reason is a stable, machine-readable name of why a log doesn't pass. The set is
// closed.
type Reason string

// The reasons.
const (
	// Refuted.
	ReasonMalformed Reason = "malformed-checkpoint" // what should be the checkpoint isn't one, or is another log's
	ReasonSignature Reason = "checkpoint-signature" // no checkpoint key of the pinned identity signed it
	ReasonSplitView Reason = "split-view"           // two signed checkpoints contradict each other
	ReasonIdentity  Reason = "identity-entry"       // entry 0 isn't that of the pinned identity
	ReasonBundle    Reason = "entry-bundle"         // malformed, indices not dense, or not the entries that the tile has the hashes of
	ReasonTile      Reason = "tile"                 // malformed, or not the hashes of what is below it
	ReasonRoot      Reason = "root"                 // entries or tiles don't lead to the checkpoint's root
	// Refuted: the chain of anchors.
	ReasonAnchorMalformed Reason = "anchor-malformed" // a page of anchors can't be read, or the block doesn't hold the transaction
	ReasonAnchorNetwork   Reason = "anchor-network"   // an anchor is on another network than the identity says
	ReasonAnchorGap       Reason = "anchor-gap"       // an anchor spends another coin than the change of the one before
	ReasonAnchorOrder     Reason = "anchor-order"     // anchors don't stand in the order in which they spend each other's coins
	ReasonAnchorFork      Reason = "anchor-fork"      // two anchors spend the same coin
	ReasonAnchorRoot      Reason = "anchor-root"      // Bitcoin holds another root than the log has at that size
	ReasonAnchorShrank    Reason = "anchor-shrank"    // an anchor covers less of the log than the one before
	ReasonAnchorBlock     Reason = "anchor-block"     // another block stands at its height, and is deep
	ReasonForeignSpend    Reason = "foreign-spend"    // the coin was spent by a transaction that is no anchor

	ReasonBreakStatement Reason = "break-statement" // the chain goes on behind a break without a statement that says so, and was an entry before

	// Holds all the same.
	ReasonChainBroken Reason = "chain-broken" // somebody else has spent a coin, and the log says with which it goes on

	// Not yet.
	ReasonAnchorAhead    Reason = "anchor-ahead"    // Bitcoin holds a root of more entries than the log shows
	ReasonAnchorReorg    Reason = "anchor-reorg"    // another block stands at its height, near the tip
	ReasonAnchorWithheld Reason = "anchor-withheld" // the chain of coins goes on, and the log doesn't show it
	ReasonHeadersEnd     Reason = "headers-end"     // before the block of an anchor
	ReasonTooLittleWork  Reason = "too-little-work" // the headers aren't the whole chain
	ReasonNodeDisagrees  Reason = "node-disagrees"  // the node doesn't have the newest anchor's block
	ReasonNoCheckpoint   Reason = "no-checkpoint"
	ReasonOlder          Reason = "older-checkpoint" // than one that was seen before, and consistent with it
)

// Tree is the size and root of a log.
type Tree struct {
	Size uint64     `json:"size"`
	Root calpe.Hash `json:"root"`
}

// Checked counts what a run has read and checked, beyond what earlier runs had.
type Checked struct {
	Entries uint64 `json:"entries"`
	Void    uint64 `json:"void"` // of the entries; see docs/formats.md, "Void entries"
	Bundles uint64 `json:"bundles"`
	Tiles   uint64 `json:"tiles"`
}

// Report is what a run found.
type Report struct {
	Status receipt.Status `json:"status"` // holds, refuted or not-yet
	// Reason is empty if all holds, except for [ReasonChainBroken].
	Reason Reason `json:"reason,omitempty"`
	Text   string `json:"text"` // a sentence for people

	Log        calpe.Hash `json:"log"` // hash of the pinned identity
	Origin     string     `json:"origin"`
	Checkpoint *Tree      `json:"checkpoint,omitempty"` // as the log shows it now
	Previous   *Tree      `json:"previous,omitempty"`   // the newest that an earlier run found to hold
	Checked    Checked    `json:"checked"`
	// Anchors is what was found out about the chain of anchors, as far as it holds;
	// nil if the log isn't anchored by one, or has been refuted before.
	Anchors *Anchors `json:"anchors,omitempty"`
	// Evidence is, with a split view, the two notes that the log signed.
	Evidence []string `json:"evidence,omitempty"`
}

// WriteText writes the report in plain words.
func (r Report) WriteText(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "log         %s (%v)\n", r.Origin, r.Log)
	if r.Checkpoint != nil {
		fmt.Fprintf(&b, "checkpoint  %d entries, root %v\n", r.Checkpoint.Size, r.Checkpoint.Root)
	}
	if r.Previous != nil {
		fmt.Fprintf(&b, "before      %d entries, root %v\n", r.Previous.Size, r.Previous.Root)
	}
	fmt.Fprintf(&b, "checked     %d new entries (%d of them void) in %d bundles, %d tiles\n",
		r.Checked.Entries, r.Checked.Void, r.Checked.Bundles, r.Checked.Tiles)
	r.Anchors.write(&b)
	words := map[receipt.Status]string{receipt.Holds: "HOLDS", receipt.NotYet: "NOT YET", receipt.Refuted: "REFUTED"}
	word := words[r.Status]
	if r.Status == receipt.Holds && r.Reason == ReasonChainBroken {
		word += ", WITH A BREAK"
	}
	fmt.Fprintf(&b, "Answer: %s: %s\n", word, r.Text)
	for _, note := range r.Evidence {
		fmt.Fprintf(&b, "\nEvidence, signed by the log:\n%s", note)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// holds is the sentence for a log that passes.
func (r *run) holds() string {
	p, text := r.report.Previous, ""
	switch {
	case p != nil && p.Size == r.report.Checkpoint.Size:
		text = fmt.Sprintf("the log has the same %d entries as before", p.Size)
	case p != nil:
		text = fmt.Sprintf("the log has grown from %d to %d entries, and everything in it is as it was", p.Size, r.report.Checkpoint.Size)
	default:
		text = fmt.Sprintf("all %d entries are in the log that the checkpoint signs; nothing was kept from before to compare it with", r.report.Checkpoint.Size)
	}
	return text + r.report.Anchors.holds() + r.report.Anchors.broken()
}

// finding is a verdict on its way up.
type finding struct {
	status receipt.Status
	reason Reason
	text   string
}

func (f *finding) Error() string { return fmt.Sprintf("%s: %s", f.reason, f.text) }

func refuted(reason Reason, format string, args ...any) error {
	return &finding{receipt.Refuted, reason, fmt.Sprintf(format, args...)}
}

func notYet(reason Reason, format string, args ...any) error {
	return &finding{receipt.NotYet, reason, fmt.Sprintf(format, args...)}
}
