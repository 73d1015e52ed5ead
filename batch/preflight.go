package batch

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
)

// relation is how the newest checkpoint row and the newest checkpoint copy in
// object storage stand to each other.
type relation int

const (
	agree      relation = iota // one checkpoint in both, or none in either
	rowOnly                    // the row's copy is missing
	copyNewer                  // a copy was signed and stored, and its row never written
	copyDiffer                 // a copy of the row's size has another root
)

// stores is what a comparison of the two stores found.
type stores struct {
	relation relation
	row      calpe.Checkpoint // the empty log if there is no row
	copy     calpe.Checkpoint // the newest one at or above the row, if there is one
	next     uint64           // entries in the database
}

// compare reads the newest of both stores and checks each against its own tiles
// and entries. It writes nothing.
func (s *Sealer) compare(ctx context.Context) (found stores, err error) {
	if found.row, err = s.head(ctx); err != nil {
		return found, err
	}
	if found.next, err = s.nextAfter(ctx, found.row); err != nil {
		return found, err
	}
	if _, err := s.edge(ctx, found.row); err != nil {
		return found, err
	}
	found.relation, found.copy, err = s.relate(ctx, found.row)
	return found, err
}

// relate finds the newest copy at or above the row.
func (s *Sealer) relate(ctx context.Context, row calpe.Checkpoint) (relation, calpe.Checkpoint, error) {
	newer, err := s.cfg.Log.Newest(ctx, row.Size)
	if err == nil {
		return copyNewer, newer, nil
	}
	if !errors.Is(err, calpe.ErrNotFound) {
		return agree, calpe.Checkpoint{}, err
	}
	if row.Size == 0 {
		return agree, calpe.Checkpoint{}, nil
	}
	same, err := s.cfg.Log.Checkpoint(ctx, row.Size)
	switch {
	case errors.Is(err, calpe.ErrNotFound):
		return rowOnly, calpe.Checkpoint{}, nil
	case err != nil:
		return agree, calpe.Checkpoint{}, err
	case same.Root != row.Root:
		return copyDiffer, same, nil
	}
	return agree, same, nil
}

// CheckStores compares the checkpoint row with what is published, and writes
// nothing: for a server before it takes requests, and for a doctor. The error
// says in a sentence what is wrong: [ErrForked] needs an operator, [ErrBehind] is
// mended by intake's recovery, [ErrObjectsBehind] by bringing back the newest state
// of object storage. What a Sealer mends by itself is no error.
func (s *Sealer) CheckStores(ctx context.Context) error {
	found, err := s.compare(ctx)
	if err != nil {
		return err
	}
	if err := found.check(); err != nil || found.relation != copyNewer {
		return err
	}
	return s.verify(ctx, found.row, found.copy)
}

// check judges what a Sealer can't mend.
func (f stores) check() error {
	switch {
	case f.relation == copyDiffer:
		return forkedRoot(f.row.Size, f.row.Root, f.copy.Root)
	case f.relation == copyNewer && f.next < f.copy.Size:
		return fmt.Errorf("%w: a checkpoint over %d entries was signed, the database has %d", ErrBehind, f.copy.Size, f.next)
	}
	return nil
}

// Preflight compares the stores and mends what a crash of a Sealer leaves: a
// missing copy is written again, a signed checkpoint without a row is taken up
// if the database's entries agree with it, and the head in object storage is
// made the newest row. Everything else is an error, as from
// [Sealer.CheckStores]. It may be called again at any time by the leader.
func (s *Sealer) Preflight(ctx context.Context, epoch uint64) error {
	found, err := s.compare(ctx)
	if err != nil {
		return err
	}
	if err := found.check(); err != nil {
		return err
	}
	if err := s.mend(ctx, epoch, found); err != nil {
		return err
	}
	return s.showHead(ctx)
}

// mend writes what a crash has kept from being written.
func (s *Sealer) mend(ctx context.Context, epoch uint64, found stores) (err error) {
	switch found.relation {
	case agree:
		return nil
	case rowOnly:
		s.log.WarnContext(ctx, "the copy of the newest checkpoint is missing in object storage, writing it again", slog.Uint64("size", found.row.Size))
		_, err = s.storeCopy(ctx, found.row)
		return err
	case copyNewer:
		_, err = s.adopt(ctx, epoch, found.row, found.copy)
		return err
	default:
		return fmt.Errorf("stores relate in a way that has no number: %d", found.relation)
	}
}

// takeUp gives the newest checkpoint, after it has taken up one that was signed
// and not recorded: by a step that crashed, or by a leader that was paused and
// woke up late. Nothing may be signed past such a one.
func (s *Sealer) takeUp(ctx context.Context, epoch uint64) (calpe.Checkpoint, error) {
	head, err := s.head(ctx)
	if err != nil {
		return calpe.Checkpoint{}, err
	}
	newer, err := s.cfg.Log.Newest(ctx, head.Size)
	if errors.Is(err, calpe.ErrNotFound) {
		return head, nil
	}
	if err != nil {
		return calpe.Checkpoint{}, err
	}
	return s.adopt(ctx, epoch, head, newer)
}

// adopt records a signed checkpoint that has no row, once it has been verified.
func (s *Sealer) adopt(ctx context.Context, epoch uint64, head, signed calpe.Checkpoint) (calpe.Checkpoint, error) {
	next, err := s.cfg.Entries.NextIndex(ctx)
	if err != nil {
		return calpe.Checkpoint{}, fmt.Errorf("next index: %w", err)
	}
	if err := (stores{relation: copyNewer, copy: signed, next: next}).check(); err != nil {
		return calpe.Checkpoint{}, err
	}
	if err := s.verify(ctx, head, signed); err != nil {
		return calpe.Checkpoint{}, err
	}
	s.log.WarnContext(ctx, "taking up a checkpoint that was signed and not recorded", slog.Uint64("size", signed.Size))
	signed.Time = s.cfg.Now().UTC().Truncate(time.Microsecond)
	if err := s.record(ctx, epoch, signed); err != nil {
		return calpe.Checkpoint{}, err
	}
	return signed, nil
}

// verify checks that the tiles of a signed checkpoint are there, and that the
// entries of the database give its root.
func (s *Sealer) verify(ctx context.Context, head, signed calpe.Checkpoint) error {
	if _, err := s.edge(ctx, signed); err != nil {
		return err
	}
	tree, err := s.edge(ctx, head)
	if err != nil {
		return err
	}
	if err := s.extend(ctx, tree, signed.Size); err != nil {
		return err
	}
	if tree.Root() != signed.Root {
		return forkedRoot(signed.Size, tree.Root(), signed.Root)
	}
	return nil
}

// extend appends the database's entries up to size.
func (s *Sealer) extend(ctx context.Context, tree *merkle.Builder, size uint64) error {
	from := tree.Size()
	err := s.cfg.Entries.ReadEntries(ctx, from, size, func(first uint64, run []calpe.Commitment) error {
		return tree.Append(leaves(first, run))
	})
	if err != nil {
		return fmt.Errorf("read entries %d to %d: %w", from, size, err)
	}
	return nil
}
