package audit

import (
	"fmt"
	"strings"
	"time"

	"github.com/calpe/calpe"
)

// Anchors is what a run has found out about the chain of anchors.
type Anchors struct {
	Count      uint64    `json:"count"`            // anchors, each of which spends the coin of the one before
	Newest     *Anchored `json:"newest,omitempty"` // nil: there is none yet
	Final      *Anchored `json:"final,omitempty"`  // the newest that is deep enough in the headers
	Unanchored uint64    `json:"unanchored"`       // entries at the end that no anchor covers
	// Coin is the end of the chain: the next anchor spends it.
	Coin    calpe.Outpoint `json:"coin"`
	Headers bool           `json:"headers"`           // the blocks were found in a chain of headers
	Fresh   bool           `json:"fresh"`             // a node says that Coin is unspent: no anchor is withheld
	Scanned uint32         `json:"scanned,omitempty"` // height up to which blocks were searched for spends
	Cost    Cost           `json:"cost"`
	// Breaks are the places at which the chain was spent by others, and goes on
	// with a coin that an entry of the log names.
	Breaks []Broken `json:"breaks,omitempty"`
}

// Anchored is an anchor in a block.
type Anchored struct {
	TxID   calpe.BlockHash `json:"txid"`
	Height uint32          `json:"height"`
	Time   *time.Time      `json:"time,omitempty"`  // of the block, if it is in the headers
	Depth  int             `json:"depth,omitempty"` // 1: it is the tip
	Size   uint64          `json:"size"`            // entries that it covers
	Root   calpe.Hash      `json:"root"`
}

// Cost is what anchors cost whose inputs are all known: the first one's only
// after a scan, and not of those that a deposit joined.
type Cost struct {
	Anchors uint64 `json:"anchors"`
	Fees    int64  `json:"fees"`    // satoshis together
	Entries uint64 `json:"entries"` // that they were the first to cover
}

// PerAnchor is satoshis for each anchor on average; false if none is known.
func (c Cost) PerAnchor() (float64, bool) {
	return float64(c.Fees) / float64(max(c.Anchors, 1)), c.Anchors > 0
}

// PerMillion is satoshis for a million entries; false if none is known.
func (c Cost) PerMillion() (float64, bool) {
	return float64(c.Fees) * 1e6 / float64(max(c.Entries, 1)), c.Entries > 0
}

// String is the cost in words.
func (c Cost) String() string {
	each, ok := c.PerAnchor()
	if !ok {
		return "not known"
	}
	text := fmt.Sprintf("%.0f sat an anchor (%d sat for %d of them)", each, c.Fees, c.Anchors)
	if million, ok := c.PerMillion(); ok {
		text += fmt.Sprintf(", %.0f sat a million entries (for %d)", million, c.Entries)
	}
	return text
}

// holds goes on with the sentence for a log that passes.
func (a *Anchors) holds() string {
	switch {
	case a == nil || a.Newest == nil:
		return ""
	case a.Final != nil:
		return fmt.Sprintf(". Bitcoin holds the roots of its first %d entries, finally of %d", a.Newest.Size, a.Final.Size)
	case a.Headers:
		return fmt.Sprintf(". Bitcoin holds the root of its first %d entries, not deep enough to be final", a.Newest.Size)
	}
	return fmt.Sprintf(". Anchors hold the root of its first %d entries, if their blocks are in the chain", a.Newest.Size)
}

// broken ends the sentence for a log that passes, and whose chain was broken.
func (a *Anchors) broken() string {
	if a == nil || len(a.Breaks) == 0 {
		return ""
	}
	first, last := a.Breaks[0], a.Breaks[len(a.Breaks)-1]
	text := fmt.Sprintf(". The chain of anchors was BROKEN: %v", last)
	if n := len(a.Breaks); n > 1 {
		text += fmt.Sprintf(" (and %d times before)", n-1)
	}
	return text + fmt.Sprintf(". That there is one history follows from Bitcoin alone only for the first %d entries; "+
		"for later ones it takes the word of whoever signs the log's statements, and whoever spent the coin could have anchored another history with it", first.Size)
}

// write adds the lines of a report on anchors, if there is one.
func (a *Anchors) write(b *strings.Builder) {
	if a == nil {
		return
	}
	fmt.Fprintf(b, "anchors     %d, up to the coin %v", a.Count, a.Coin)
	switch {
	case a.Fresh:
		b.WriteString(", which is unspent\n")
	case a.Scanned > 0:
		fmt.Fprintf(b, "; blocks searched up to %d\n", a.Scanned)
	default:
		b.WriteString("; whether it is unspent wasn't asked (--node)\n")
	}
	if !a.Headers && a.Count > 0 {
		b.WriteString("            whether their blocks are in the chain wasn't asked (--headers)\n")
	}
	for _, line := range []struct {
		name string
		at   *Anchored
	}{{"newest", a.Newest}, {"final", a.Final}} {
		if line.at == nil {
			continue
		}
		fmt.Fprintf(b, "%-11s %d entries in block %d", line.name, line.at.Size, line.at.Height)
		if line.at.Time != nil {
			fmt.Fprintf(b, ", %d deep, of %s", line.at.Depth, line.at.Time.UTC().Format(time.DateTime+" MST"))
		}
		b.WriteByte('\n')
	}
	for _, broken := range a.Breaks {
		fmt.Fprintf(b, "BREAK       %v\n", broken)
	}
	fmt.Fprintf(b, "unanchored  %d entries\ncost        %v\n", a.Unanchored, a.Cost)
}
