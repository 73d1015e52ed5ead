package batch

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt"
)

// AnchorRows reads what the anchoring engine has found in blocks.
type AnchorRows interface {
	// Chain lists up to limit anchors in the order of the chain of coins, from the
	// one with the number first on.
	Chain(ctx context.Context, first uint64, limit int) ([]calpe.Anchor, error)
	// Breaks lists the breaks of the chain of coins, in its order.
	Breaks(ctx context.Context) ([]calpe.ChainBreak, error)
}

// AnchorPage is a page of the published chain of anchors as the rows have it:
// empty if there are no anchors with such numbers.
func AnchorPage(ctx context.Context, rows AnchorRows, identity receipt.Identity, page uint64) ([]byte, error) {
	data, _, err := anchorPage(ctx, rows, identity, page)
	return data, err
}

// anchorPage also says whether the page is for ever: full, and all of it final.
func anchorPage(ctx context.Context, rows AnchorRows, identity receipt.Identity, page uint64) (data []byte, final bool, err error) {
	list, err := rows.Chain(ctx, page*receipt.AnchorsPerPage, receipt.AnchorsPerPage)
	if err != nil {
		return nil, false, fmt.Errorf("read anchors: %w", err)
	}
	final = len(list) == receipt.AnchorsPerPage
	anchors := make([]receipt.Anchor, len(list))
	for i, a := range list {
		anchors[i] = *receipt.NewAnchor(identity, a)
		final = final && a.Final
	}
	if data, err = receipt.EncodeAnchors(anchors); err != nil {
		return nil, false, err
	}
	return data, final, nil
}

// AnchorPublisherConfig is what an [AnchorPublisher] needs.
type AnchorPublisherConfig struct {
	Rows     AnchorRows
	Objects  Objects
	Identity receipt.Identity
	Interval time.Duration // how often the rows are looked at. Default 5 s.
	Now      func() time.Time
	Logger   *slog.Logger
}

// AnchorPublisher puts the chain of anchors beside the tiles, so that the bucket
// alone is all that an auditor needs. It keeps nothing that a restart needs: the
// objects follow from the rows (I8). Run and Step must not be called concurrently.
type AnchorPublisher struct {
	cfg AnchorPublisherConfig
	// done is the number of pages at the front that are final, and known to be shown.
	done uint64
	// shown is the newest of each later page that is known to be shown, and since when.
	shown map[uint64]shownPage
	// breaks is the newest file of breaks that is known to be shown.
	breaks shownPage
}

type shownPage struct {
	data []byte
	at   time.Time
}

// NewAnchorPublisher makes one. It reads nothing yet.
func NewAnchorPublisher(cfg AnchorPublisherConfig) (*AnchorPublisher, error) {
	if cfg.Rows == nil || cfg.Objects == nil || cfg.Now == nil || cfg.Logger == nil {
		return nil, errors.New("anchor publisher: Rows, Objects, Now and Logger must be set")
	}
	cfg.Interval = cmp.Or(cfg.Interval, 5*time.Second)
	return &AnchorPublisher{cfg: cfg, shown: make(map[uint64]shownPage)}, nil
}

// Run publishes until ctx is done. What fails is logged and tried again.
func (p *AnchorPublisher) Run(ctx context.Context) error {
	// Another process may have led meanwhile.
	p.done, p.breaks = 0, shownPage{}
	clear(p.shown)
	ticker := time.NewTicker(p.cfg.Interval)
	defer ticker.Stop()
	for {
		if err := p.boundedStep(ctx); err != nil && ctx.Err() == nil {
			p.cfg.Logger.WarnContext(ctx, "anchors weren't published", slog.Any("error", err))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

func (p *AnchorPublisher) boundedStep(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	return p.Step(ctx)
}

// Step shows every page as the rows have it. The page behind the last is made
// empty if it is there: a reorganisation took it away. Breaks are never taken back,
// so that they are known although an older copy of the database was put back.
func (p *AnchorPublisher) Step(ctx context.Context) error {
	if err := p.showBreaks(ctx); err != nil {
		return err
	}
	for page := p.done; ; page++ {
		data, final, err := anchorPage(ctx, p.cfg.Rows, p.cfg.Identity, page)
		if err != nil {
			return fmt.Errorf("page %d of anchors: %w", page, err)
		}
		if err := p.show(ctx, page, data); err != nil {
			return err
		}
		if final && page == p.done {
			p.done++
			delete(p.shown, page)
		}
		if len(data) == 0 {
			return nil
		}
	}
}

// show puts the page into its object unless it is there. A leader that was paused
// may put an older one over it: it is looked at again every [headRecheck].
func (p *AnchorPublisher) show(ctx context.Context, page uint64, data []byte) error {
	before, known := p.shown[page]
	since := p.cfg.Now().Sub(before.at)
	if known && bytes.Equal(before.data, data) && since >= 0 && since < headRecheck {
		return nil
	}
	path := receipt.AnchorsPath(page)
	there, err := p.cfg.Objects.ReadLogObject(ctx, path, receipt.MaxAnchorsPage)
	missing := errors.Is(err, calpe.ErrNotFound)
	if same := err == nil && bytes.Equal(there, data) || missing && len(data) == 0; !same {
		// What can't be read is replaced. Crash here: the object is as old as the last
		// one that was put there, and the next step replaces it.
		if err := p.cfg.Objects.ReplaceLogObject(ctx, path, data, receipt.AnchorsMediaType, cacheHead); err != nil {
			return fmt.Errorf("publish %s: %w", path, err)
		}
	}
	p.shown[page] = shownPage{data, p.cfg.Now()}
	return nil
}
