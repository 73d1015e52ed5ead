package audit

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/headers"
)

// Coins is what a Bitcoin node, of whichever kind, knows of an output.
type Coins interface {
	// BlockHash is the hash of the block at a height of the node's best chain. A
	// height above its tip is an error.
	BlockHash(ctx context.Context, height uint32) (calpe.BlockHash, error)
	// Unspent reports whether a block of that chain makes the output, and none
	// spends it. Mempools don't count.
	Unspent(ctx context.Context, o calpe.Outpoint) (bool, error)
}

// Scan is the chain of anchors as it follows from blocks alone: the first
// outpoint's spender, that one's change's spender, and so on.
type Scan struct {
	Anchors []receipt.Anchor
	// FirstValue is the value of the first coin in satoshis; 0 if it isn't known.
	FirstValue int64
	// Foreign is the transaction that ends the chain: it spends the last coin and
	// is no anchor. Nil if there is none.
	Foreign *receipt.Anchor
	// Breaks are the foreign spends behind which the chain goes on, because a
	// published break names coin, transaction and the coin after it. What else the
	// break says is not looked at.
	Breaks []ScannedBreak
	Tip    uint32 // height of the last block that was looked into
}

// ScannedBreak is a foreign spend in a block, behind that many anchors.
type ScannedBreak struct {
	After int
	Spend receipt.Anchor
}

// maxPages is how many pages of anchors there may be.
const maxPages = 1_000_000

func checkHeaders(chain *headers.Chain, id receipt.Identity) error {
	if chain == nil {
		return nil
	}
	first, _ := chain.At(0) // a chain has at least its genesis block
	if chain.Network() != id.Network || calpe.BlockHash(first.Hash) != id.Genesis {
		return fmt.Errorf("the headers are of %s, and %s is anchored in %s", chain.Network(), id.Origin, id.Network)
	}
	return nil
}

// auditAnchors follows the chain of anchors through the log of now, which has
// been checked.
func (r *run) auditAnchors(ctx context.Context, now tree) error {
	if r.cfg.Identity.FirstOutpoint == nil {
		return nil
	}
	if h := r.cfg.Headers; h != nil && !h.EnoughWork() {
		return notYet(ReasonTooLittleWork, "the headers have less work than the network is known to have: fetch the rest")
	}
	var c *chain
	err := twice(func(fresh bool) (err error) {
		c, err = r.followAnchors(ctx, now, fresh)
		return err
	})
	if err != nil {
		return err
	}
	return r.judgeAnchors(ctx, c)
}

// page is some anchors of the published chain, as they were read.
type page struct {
	data    []byte
	anchors []receipt.Anchor
	kept    bool // it comes from the mirror
}

// anchorPage reads a page. A full one is read from the mirror, unless fresh: what
// it says is checked all the same.
func (r *run) anchorPage(ctx context.Context, n uint64, fresh bool) (page, error) {
	path := receipt.AnchorsPath(n)
	if !fresh {
		data, err := r.mirror.Read(ctx, path, receipt.MaxAnchorsPage)
		if err != nil && !errors.Is(err, calpe.ErrNotFound) {
			return page{}, fmt.Errorf("the mirror's %s: %w", path, err)
		}
		if anchors, err := receipt.DecodeAnchors(data); err == nil && len(anchors) == receipt.AnchorsPerPage {
			return page{data, anchors, true}, nil
		}
	}
	data, err := r.cfg.Log.Read(ctx, path, receipt.MaxAnchorsPage, fresh)
	if errors.Is(err, calpe.ErrNotFound) {
		return page{}, nil
	}
	if err != nil {
		return page{}, fmt.Errorf("read %s: %w", path, err)
	}
	anchors, err := receipt.DecodeAnchors(data)
	if err != nil {
		return page{}, refuted(ReasonAnchorMalformed, "%s: %v", path, err)
	}
	return page{data, anchors, false}, nil
}

// keepPage puts a page into the mirror, now that it has been checked, or takes one
// away that a reorganisation has emptied.
func (r *run) keepPage(ctx context.Context, n uint64, p page) error {
	if p.kept {
		return nil
	}
	return r.keepObject(ctx, receipt.AnchorsPath(n), p.data, receipt.MaxAnchorsPage)
}

// keepObject makes an object of the mirror what was checked. Without bytes it is
// taken away.
func (r *run) keepObject(ctx context.Context, path string, checked []byte, limit int64) error {
	data, err := r.mirror.Read(ctx, path, limit)
	switch there := err == nil; {
	case there && bytes.Equal(data, checked), !there && len(checked) == 0:
		return nil
	case len(checked) == 0:
		err = r.mirror.Remove(ctx, path)
	default:
		err = r.mirror.Write(ctx, path, checked)
	}
	// Crash here: some pages are newer than others; the next run reads again what
	// doesn't hold together.
	if err == nil {
		err = r.mirror.Sync(ctx)
	}
	if err != nil {
		return fmt.Errorf("mirror: %w", err)
	}
	return nil
}

// chain is the chain of anchors as far as it was followed.
type chain struct {
	coin      calpe.Outpoint // that the next anchor must spend
	value     int64          // of the coin; 0 if it isn't known
	size      uint64         // of the newest anchor; 0 before the first
	height    uint32
	position  uint32
	spent     map[calpe.Outpoint]bool
	unchecked int              // anchors whose blocks the headers don't reach
	shown     int              // anchors that the log publishes
	breaks    []receipt.Break  // that the log publishes, and were not come to yet
	open      []*receipt.Break // those behind which no anchor was come to yet
	summary   Anchors
}

// followAnchors checks every anchor against the one before it, the log and the
// chain of headers, page by page: there may be more than fit into memory.
func (r *run) followAnchors(ctx context.Context, now tree, fresh bool) (*chain, error) {
	c := &chain{coin: *r.cfg.Identity.FirstOutpoint, spent: make(map[calpe.Outpoint]bool)}
	c.summary.Unanchored = now.size
	breaks, err := r.readBreaks(ctx, c, fresh)
	if err != nil {
		return nil, err
	}
	for n, more := uint64(0), true; more; n++ {
		if n == maxPages {
			return nil, fmt.Errorf("the log shows more than %d pages of anchors", maxPages)
		}
		p, err := r.anchorPage(ctx, n, fresh)
		if err != nil {
			return nil, err
		}
		if err := r.followPage(ctx, now, c, p.anchors); err != nil {
			return nil, err
		}
		if err := r.keepPage(ctx, n, p); err != nil {
			return nil, err
		}
		more = len(p.anchors) == receipt.AnchorsPerPage
		if !more && len(p.anchors) > 0 {
			err = r.keepPage(ctx, n+1, page{})
		}
		if err != nil {
			return nil, err
		}
	}
	if s := r.cfg.Scan; s != nil {
		c.value = s.FirstValue
		if err := r.followRun(ctx, now, c, s.Anchors); err != nil {
			return nil, err
		}
	}
	if err := r.lastBreaks(ctx, now, c); err != nil {
		return nil, err
	}
	return c, r.keepObject(ctx, receipt.BreaksPath, breaks, receipt.MaxBreaksSize)
}

// followPage checks some published anchors: themselves, or, after a scan, that
// they are what is in the blocks.
func (r *run) followPage(ctx context.Context, now tree, c *chain, anchors []receipt.Anchor) error {
	first := c.shown
	c.shown += len(anchors)
	if r.cfg.Scan != nil {
		return comparePublished(anchors, first, r.cfg.Scan)
	}
	return r.followRun(ctx, now, c, anchors)
}

func (r *run) followRun(ctx context.Context, now tree, c *chain, anchors []receipt.Anchor) error {
	for i := range anchors {
		if err := r.followBreaks(ctx, now, c); err != nil {
			return err
		}
		if err := r.followAnchor(ctx, now, c, anchors[i:]); err != nil {
			return err
		}
	}
	return nil
}

// comparePublished demands that the log publishes the chain that is in the
// blocks: all that it shows, in the same places. first is the number of the first
// of them.
func comparePublished(published []receipt.Anchor, first int, s *Scan) error {
	for i, a := range published {
		i += first
		if i >= len(s.Anchors) {
			if a.Height > s.Tip {
				return nil // mined since
			}
			return refuted(ReasonAnchorFork, "the log publishes the anchor %d in block %d, and the node's blocks up to %d hold no such spend of the coin before it", i, a.Height, s.Tip)
		}
		if b := s.Anchors[i]; a.Height != b.Height || !slices.Equal(a.Transaction, b.Transaction) || !slices.Equal(a.Header, b.Header) {
			return refuted(ReasonAnchorFork, "the log publishes another transaction or block as anchor %d than the one in the node's chain, in block %d", i, b.Height)
		}
	}
	return nil
}

// followAnchor checks the first of some anchors.
func (r *run) followAnchor(ctx context.Context, now tree, c *chain, anchors []receipt.Anchor) error {
	a, i := &anchors[0], c.summary.Count
	if id := r.cfg.Identity; a.Network != id.Network || a.Genesis != id.Genesis {
		return refuted(ReasonAnchorNetwork, "anchor %d is in %s, and %s is anchored in %s", i, a.Network, id.Origin, id.Network)
	}
	link, err := a.Link()
	if err != nil {
		return refuted(ReasonAnchorMalformed, "anchor %d: %v", i, err)
	}
	if err := c.checkLink(link, anchors); err != nil {
		return err
	}
	block, err := r.locate(c, a, fmt.Sprintf("anchor %d, %v", i, link.TxID))
	if err != nil {
		return err
	}
	if err := r.checkAnchoredRoot(ctx, now, *link.Payload, i); err != nil {
		return err
	}
	if err := r.closeBreaks(ctx, now, c, *link.Payload); err != nil {
		return err
	}
	c.add(a, link, block, now.size)
	return nil
}

// checkLink: the anchor spends the coin that the one before has made, comes after
// it, and doesn't take back what it covered.
func (c *chain) checkLink(link receipt.Link, anchors []receipt.Anchor) error {
	a, i := &anchors[0], c.summary.Count
	if link.Inputs[0] != c.coin {
		return c.brokenLink(link, anchors)
	}
	switch {
	case link.Payload == nil || len(link.Outputs) != 2 || link.Outputs[1] == 0:
		return refuted(ReasonForeignSpend, "the coin %v was spent by %v in block %d, which is no anchor: it carries no size and root, or makes no next coin", c.coin, link.TxID, a.Height)
	case a.Height < c.height || a.Height == c.height && a.Position <= c.position:
		return refuted(ReasonAnchorOrder, "anchor %d stands in block %d at place %d, not behind the one whose coin it spends", i, a.Height, a.Position)
	case link.Payload.Size < c.size:
		return refuted(ReasonAnchorShrank, "anchor %d covers %d entries, and the one before it %d", i, link.Payload.Size, c.size)
	}
	return nil
}

// brokenLink says how an anchor that doesn't spend the coin breaks the chain.
func (c *chain) brokenLink(link receipt.Link, anchors []receipt.Anchor) error {
	i := c.summary.Count
	if c.spent[link.Inputs[0]] {
		return refuted(ReasonAnchorFork, "anchor %d, %v, spends the coin %v, which an anchor before it spends, too", i, link.TxID, link.Inputs[0])
	}
	if slices.Contains(link.Inputs[1:], c.coin) {
		return refuted(ReasonForeignSpend, "the coin %v was spent by %v, which is no anchor: the coin isn't its first input", c.coin, link.TxID)
	}
	for j := 1; j < len(anchors); j++ { // of the page
		if later, err := anchors[j].Link(); err == nil && later.Inputs[0] == c.coin {
			return refuted(ReasonAnchorOrder, "anchor %d doesn't spend the coin %v, and anchor %d does: they aren't in order", i, c.coin, i+uint64(j))
		}
	}
	return refuted(ReasonAnchorGap, "anchor %d, %v, spends %v, and the coin of the anchor before it is %v: at least one anchor is missing", i, link.TxID, link.Inputs[0], c.coin)
}

// locate finds the block of an anchor, or of a break, in the headers. The block is nil if there are
// no headers, or they end before it.
func (r *run) locate(c *chain, a *receipt.Anchor, what string) (*receipt.Block, error) {
	if r.cfg.Headers == nil {
		return nil, nil
	}
	v, block := a.InChain(r.cfg.Headers, r.cfg.Depth)
	switch {
	case block != nil:
		return block, nil
	case v.Reason == receipt.ReasonHeadersEnd:
		c.unchecked++
		return nil, nil
	}
	tip, _ := r.cfg.Headers.Tip()
	if deep := tip - int(a.Height) + 1; deep < r.cfg.Depth {
		return nil, notYet(ReasonAnchorReorg, "the headers have another block at the height %d of %s, only %d deep: one of the two was reorganised away; fetch newer headers", a.Height, what, deep)
	}
	return nil, refuted(ReasonAnchorBlock, "%s: %s", what, v.Text)
}

// checkAnchoredRoot: what Bitcoin holds is the root of the log at that size.
func (r *run) checkAnchoredRoot(ctx context.Context, now tree, p calpe.Payload, i uint64) error {
	if p.Size > now.size {
		return notYet(ReasonAnchorAhead, "Bitcoin holds a root of %d entries (anchor %d), and the log shows %d: its checkpoint is an old one, or entries are withheld", p.Size, i, now.size)
	}
	root, err := r.rootAt(ctx, p, now)
	if err != nil {
		return fmt.Errorf("root of the first %d entries: %w", p.Size, err)
	}
	if root != p.Root {
		return refuted(ReasonAnchorRoot, "Bitcoin holds the root %v of the first %d entries (anchor %d), and the log that is shown has %v: it is another history", p.Root, p.Size, i, root)
	}
	return nil
}

// rootAt is the root of the log at the size of the payload. The mirror, which has
// been checked, gives it without asking anybody; it isn't believed if it differs
// from the payload's.
func (r *run) rootAt(ctx context.Context, p calpe.Payload, now tree) (calpe.Hash, error) {
	if p.Size == now.size {
		return now.root, nil
	}
	if r.cfg.Mirror != nil {
		root, err := merkle.RootFromTiles(p.Size, r.mirrored(ctx, now.size))
		if err == nil && root == p.Root {
			return root, nil
		}
	}
	return r.prefix(ctx, p.Size, now)
}

// add takes an anchor that holds into the chain.
func (c *chain) add(a *receipt.Anchor, link receipt.Link, block *receipt.Block, size uint64) {
	s := &c.summary
	s.Count++
	place := &Anchored{TxID: link.TxID, Height: a.Height, Size: link.Payload.Size, Root: link.Payload.Root}
	if block != nil {
		place.Time, place.Depth = &block.Time, block.Depth
		if block.Depth >= block.Asked {
			s.Final = place
		}
	}
	s.Newest, s.Unanchored = place, size-place.Size
	if c.value > 0 && len(link.Inputs) == 1 && link.Outputs[1] <= c.value {
		s.Cost.Anchors++
		s.Cost.Fees += c.value - link.Outputs[1]
		s.Cost.Entries += place.Size - c.size
	}
	c.spent[c.coin] = true
	c.coin, c.value, c.size = link.Next(), link.Outputs[1], place.Size
	c.height, c.position = a.Height, a.Position
}

// judgeAnchors says what follows from the whole chain.
func (r *run) judgeAnchors(ctx context.Context, c *chain) error {
	c.summary.Coin, c.summary.Headers = c.coin, r.cfg.Headers != nil
	r.report.Anchors = &c.summary
	if s := r.cfg.Scan; s != nil {
		c.summary.Scanned = s.Tip
		if s.Foreign != nil {
			return r.foreign(s.Foreign, c)
		}
		if missing := len(s.Anchors) - c.shown; missing > 0 {
			return notYet(ReasonAnchorWithheld, "the node's chain holds %d anchors, and the log publishes %d: it is late, or withholds them; each one agrees with the log", len(s.Anchors), c.shown)
		}
	}
	if c.unchecked > 0 {
		tip, _ := r.cfg.Headers.Tip()
		return notYet(ReasonHeadersEnd, "the headers end at block %d, before the blocks of the last %d anchors: fetch newer ones", tip, c.unchecked)
	}
	return r.askNode(ctx, c)
}

func (r *run) foreign(a *receipt.Anchor, c *chain) error {
	link, err := a.Link()
	if err != nil {
		return fmt.Errorf("the spender of %v: %w", c.coin, err)
	}
	return refuted(ReasonForeignSpend, "the coin %v was spent by %v in block %d, which is no anchor: the key may be stolen, and the chain of anchors ends here", c.coin, link.TxID, a.Height)
}

// askNode: nothing was withheld if the last coin is unspent, in the chain that
// has the newest anchor's block.
func (r *run) askNode(ctx context.Context, c *chain) error {
	if r.cfg.Coins == nil {
		return nil
	}
	if n := c.summary.Newest; n != nil && r.cfg.Headers != nil {
		hash, err := r.cfg.Coins.BlockHash(ctx, n.Height)
		if err != nil {
			return fmt.Errorf("ask the node for block %d, which holds the newest anchor: %w", n.Height, err)
		}
		if own, _ := r.cfg.Headers.At(int(n.Height)); calpe.BlockHash(own.Hash) != hash {
			return notYet(ReasonNodeDisagrees, "the node has the block %v at height %d, the headers have %v", hash, n.Height, own.Hash)
		}
	}
	unspent, err := r.cfg.Coins.Unspent(ctx, c.coin)
	if err != nil {
		return fmt.Errorf("ask the node for the coin %v: %w", c.coin, err)
	}
	if !unspent {
		return notYet(ReasonAnchorWithheld, "the last coin that the log shows, %v, is spent: a newer anchor is not published yet, or is withheld, or somebody else has spent the coin; a scan tells", c.coin)
	}
	c.summary.Fresh = true
	return nil
}
