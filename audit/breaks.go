package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/statement"
)

// Broken is a break of the chain of anchors that holds: its statement is an entry
// of the log. From there on Bitcoin alone doesn't say that the history is the only one.
type Broken struct {
	After     uint64          `json:"after"` // anchors before it
	Size      uint64          `json:"size"`  // entries that these cover
	Coin      calpe.Outpoint  `json:"coin"`  // that was spent
	SpentBy   calpe.BlockHash `json:"spent_by"`
	Height    uint32          `json:"height"`            // of the block
	Carries   *calpe.Payload  `json:"carries,omitempty"` // a size and root, if that transaction has the form to carry one
	Statement uint64          `json:"statement"`         // index of the entry
	First     calpe.Outpoint  `json:"first_outpoint"`    // with which the chain goes on
	Reason    string          `json:"reason"`
	Time      time.Time       `json:"time"` // that the statement claims
}

// String is what has to be known of it.
func (b Broken) String() string {
	text := fmt.Sprintf("behind %d anchors the coin %v was spent by %v in block %d, which isn't the log's; entry %d, of %s, says so, and that the chain goes on with %v: %q",
		b.After, b.Coin, b.SpentBy, b.Height, b.Statement, b.Time.UTC().Format(time.DateTime+" MST"), b.First, b.Reason)
	if b.Carries != nil {
		text += fmt.Sprintf("; that transaction carries the root %v of %d entries", b.Carries.Root, b.Carries.Size)
	}
	return text
}

// readBreaks reads the breaks that the log publishes.
func (r *run) readBreaks(ctx context.Context, c *chain, fresh bool) ([]byte, error) {
	data, err := r.cfg.Log.Read(ctx, receipt.BreaksPath, receipt.MaxBreaksSize, fresh)
	if errors.Is(err, calpe.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", receipt.BreaksPath, err)
	}
	if c.breaks, err = receipt.DecodeBreaks(data); err != nil {
		return nil, refuted(ReasonAnchorMalformed, "%s: %v", receipt.BreaksPath, err)
	}
	return data, nil
}

// followBreaks goes over the breaks that stand behind the anchors so far.
func (r *run) followBreaks(ctx context.Context, now tree, c *chain) error {
	for len(c.breaks) > 0 && c.breaks[0].After <= c.summary.Count {
		b := c.breaks[0]
		if s := r.cfg.Scan; s != nil && b.Spend.Height > s.Tip {
			c.breaks = nil // mined since
			return nil
		}
		if err := r.followBreak(ctx, now, c, &b); err != nil {
			return err
		}
		c.breaks = c.breaks[1:]
	}
	return nil
}

// lastBreaks goes over those behind the last anchor. The statement of the last one
// is under no anchor yet.
func (r *run) lastBreaks(ctx context.Context, now tree, c *chain) error {
	if err := r.followBreaks(ctx, now, c); err != nil {
		return err
	}
	if len(c.breaks) > 0 {
		return refuted(ReasonAnchorOrder, "the log publishes a break behind %d anchors, and has %d", c.breaks[0].After, c.summary.Count)
	}
	return nil
}

// followBreak checks a break against the chain so far, and goes on from the coin
// that its statement names.
func (r *run) followBreak(ctx context.Context, now tree, c *chain, b *receipt.Break) error {
	what := fmt.Sprintf("the break behind %d anchors", b.After)
	if id := r.cfg.Identity; b.Spend.Network != id.Network || b.Spend.Genesis != id.Genesis {
		return refuted(ReasonAnchorNetwork, "%s is in %s, and %s is anchored in %s", what, b.Spend.Network, id.Origin, id.Network)
	}
	link, err := b.Spend.Link()
	if err != nil {
		return refuted(ReasonAnchorMalformed, "%s: %v", what, err)
	}
	if err := r.checkSpend(c, b, link, what); err != nil {
		return err
	}
	if err := r.checkStatement(c, b, link, what); err != nil {
		return err
	}
	if _, err := r.locate(c, &b.Spend, what); err != nil {
		return err
	}
	if err := r.checkEntry(ctx, now, b, now.size, now.root, what); err != nil {
		return err
	}
	c.goOn(b, link)
	return nil
}

// checkSpend: the transaction spends the coin at which the chain has arrived, behind
// the last anchor, once; and a scan has found it there.
func (r *run) checkSpend(c *chain, b *receipt.Break, link receipt.Link, what string) error {
	coin := b.Body().Coin
	switch {
	case c.spent[coin]:
		return refuted(ReasonAnchorFork, "%s goes on from the coin %v a second time: an anchor, or another break, has spent it", what, coin)
	case b.After != c.summary.Count:
		return refuted(ReasonAnchorOrder, "%s stands behind %d", what, c.summary.Count)
	case !slices.Contains(link.Inputs, c.coin):
		return refuted(ReasonBreakStatement, "%s: the transaction %v doesn't spend the coin %v, at which the chain has arrived", what, link.TxID, c.coin)
	case b.Spend.Height < c.height || b.Spend.Height == c.height && b.Spend.Position <= c.position:
		return refuted(ReasonAnchorOrder, "%s stands in block %d at place %d, not behind the anchor before", what, b.Spend.Height, b.Spend.Position)
	}
	s := r.cfg.Scan
	if s == nil {
		return nil
	}
	n := len(c.summary.Breaks)
	if n >= len(s.Breaks) || s.Breaks[n].After != int(b.After) || s.Breaks[n].Spend.Height != b.Spend.Height ||
		!bytes.Equal(s.Breaks[n].Spend.Transaction, b.Spend.Transaction) || !bytes.Equal(s.Breaks[n].Spend.Header, b.Spend.Header) {
		return refuted(ReasonAnchorFork, "%s isn't where the node's blocks have it: the coin %v was not spent by %v in block %d", what, c.coin, link.TxID, b.Spend.Height)
	}
	return nil
}

// checkStatement: it is signed by the log, and says of this break what is so.
func (r *run) checkStatement(c *chain, b *receipt.Break, link receipt.Link, what string) error {
	id, body := r.cfg.Identity, b.Body()
	signed := func(key string) bool { return b.Statement.Verify(key) == nil }
	if !slices.ContainsFunc(id.StatementKeys, signed) {
		return refuted(ReasonBreakStatement, "%s: its statement isn't signed by a statement key of %s", what, id.Origin)
	}
	said := statement.Break{Log: body.Log, Coin: body.Coin, SpentBy: body.SpentBy, Block: body.Block, Height: body.Height, Anchor: body.Anchor, Size: body.Size, Root: body.Root}
	is := statement.Break{Log: id.Hash(), Coin: c.coin, SpentBy: link.TxID, Block: b.Spend.Block(), Height: b.Spend.Height}
	if n := c.summary.Newest; n != nil && c.coin.TxID == n.TxID {
		is.Anchor, is.Size, is.Root = n.TxID, n.Size, n.Root
	}
	if said != is {
		return refuted(ReasonBreakStatement, "%s: entry %d says that of the log %v the coin %v, behind the anchor %v of %d entries, was spent by %v in block %v, %d; "+
			"in fact it is %v, %v, %v, %d, %v, %v, %d", what, b.Index, said.Log, said.Coin, said.Anchor, said.Size, said.SpentBy, said.Block, said.Height,
			is.Log, is.Coin, is.Anchor, is.Size, is.SpentBy, is.Block, is.Height)
	}
	if c.spent[body.First] {
		return refuted(ReasonAnchorFork, "%s goes on with %v, a coin that the chain has had before", what, body.First)
	}
	return nil
}

// checkEntry: the statement is the entry of its index in the tree of that size.
func (r *run) checkEntry(ctx context.Context, now tree, b *receipt.Break, size uint64, root calpe.Hash, what string) error {
	if b.Index >= size {
		return notYet(ReasonAnchorAhead, "%s: its statement is to be entry %d, and the log shows %d", what, b.Index, size)
	}
	return twice(func(fresh bool) error {
		if fresh {
			clear(r.tiles)
		}
		path, err := merkle.InclusionProof(b.Index, size, r.published(ctx, now.size, fresh))
		if err != nil && !errors.Is(err, merkle.ErrRootMismatch) {
			return fmt.Errorf("proof of entry %d: %w", b.Index, err)
		}
		if err == nil {
			err = merkle.VerifyInclusion(b.Index, size, b.Leaf(), path, root)
		}
		if err != nil {
			return refuted(ReasonBreakStatement, "%s: its statement isn't entry %d of the log", what, b.Index)
		}
		return nil
	})
}

// goOn takes a break that holds into the chain.
func (c *chain) goOn(b *receipt.Break, link receipt.Link) {
	body := b.Body()
	c.summary.Breaks = append(c.summary.Breaks, Broken{
		After: b.After, Size: c.size, Coin: c.coin, SpentBy: link.TxID, Height: b.Spend.Height, Carries: link.Payload,
		Statement: b.Index, First: body.First, Reason: body.Reason, Time: body.Time,
	})
	c.spent[c.coin] = true
	c.coin, c.value, c.open = body.First, 0, append(c.open, b)
	c.height, c.position = b.Spend.Height, b.Spend.Position
}

// closeBreaks: the first anchor behind a break covers its statement, so that nobody
// could go on with a coin before the log said so.
func (r *run) closeBreaks(ctx context.Context, now tree, c *chain, p calpe.Payload) error {
	for _, b := range c.open {
		what := fmt.Sprintf("the break behind %d anchors", b.After)
		if b.Index >= p.Size {
			return refuted(ReasonBreakStatement, "%s: the next anchor covers %d entries, and its statement is entry %d: it was notarized after it was used", what, p.Size, b.Index)
		}
		if err := r.checkEntry(ctx, now, b, p.Size, p.Root, what); err != nil {
			return err
		}
	}
	c.open = nil
	return nil
}
