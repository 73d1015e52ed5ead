package batch

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/statement"
)

// NewBreak is b as it is published.
func NewBreak(identity receipt.Identity, b calpe.ChainBreak) (receipt.Break, error) {
	signed, err := statement.Parse(b.Statement.Body)
	if err != nil {
		return receipt.Break{}, fmt.Errorf("break statement, entry %d: %w", b.Statement.Index, err)
	}
	return receipt.Break{
		After: b.After, Spend: *receipt.NewAnchor(identity, b.Spend),
		Statement: signed, Salt: b.Statement.Salt, Index: b.Statement.Index,
	}, nil
}

// BreaksFile is the published file of breaks as the rows have it: empty if there
// are none.
func BreaksFile(ctx context.Context, rows AnchorRows, identity receipt.Identity) ([]byte, error) {
	all, err := rows.Breaks(ctx)
	if err != nil {
		return nil, fmt.Errorf("read breaks: %w", err)
	}
	list := make([]receipt.Break, len(all))
	for i, b := range all {
		if list[i], err = NewBreak(identity, b); err != nil {
			return nil, err
		}
	}
	return receipt.EncodeBreaks(list)
}

// PublishedBreaks reads the file of breaks in object storage: what it names is known
// also to an older copy of the database.
func PublishedBreaks(ctx context.Context, objects ObjectReader) ([]receipt.Break, error) {
	data, err := objects.ReadLogObject(ctx, receipt.BreaksPath, receipt.MaxBreaksSize)
	if errors.Is(err, calpe.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", receipt.BreaksPath, err)
	}
	return receipt.DecodeBreaks(data)
}

// PublishBreak adds a break to the published file, unless it is there. When it
// returns nil, that is durable.
func PublishBreak(ctx context.Context, objects Objects, b receipt.Break) error {
	list, err := PublishedBreaks(ctx, objects)
	if err != nil {
		return err
	}
	for _, there := range list {
		if there.Statement.Digest() == b.Statement.Digest() {
			return nil
		}
	}
	data, err := receipt.EncodeBreaks(append(list, b))
	if err != nil {
		return err
	}
	return replaceBreaks(ctx, objects, data)
}

func replaceBreaks(ctx context.Context, objects Objects, data []byte) error {
	if err := objects.ReplaceLogObject(ctx, receipt.BreaksPath, data, receipt.AnchorsMediaType, cacheHead); err != nil {
		return fmt.Errorf("publish %s: %w", receipt.BreaksPath, err)
	}
	return nil
}

// showBreaks puts the breaks of the rows into their object, unless it begins with
// them: a break that is about to be recorded, or that an older copy of the database
// doesn't know of, stands behind them.
func (p *AnchorPublisher) showBreaks(ctx context.Context) error {
	data, err := BreaksFile(ctx, p.cfg.Rows, p.cfg.Identity)
	if err != nil {
		return err
	}
	since := p.cfg.Now().Sub(p.breaks.at)
	if len(data) == 0 || bytes.Equal(p.breaks.data, data) && since >= 0 && since < headRecheck {
		return nil
	}
	there, err := p.cfg.Objects.ReadLogObject(ctx, receipt.BreaksPath, receipt.MaxBreaksSize)
	if err != nil || !bytes.HasPrefix(there, data) {
		// Crash here: as in show.
		if err := replaceBreaks(ctx, p.cfg.Objects, data); err != nil {
			return err
		}
	}
	p.breaks = shownPage{data, p.cfg.Now()}
	return nil
}
