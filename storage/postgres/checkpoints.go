package postgres

import (
	"bytes"
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/calpe/calpe"
)

// roleBatch seals; see [DB.Lead].
const roleBatch = "batch"

// LeadsBatch is nil if the batch leader of that epoch is the newest, at this
// moment; else calpe.ErrLostLeadership. Only a write that compares by itself can
// rely on it.
func (db *DB) LeadsBatch(ctx context.Context, epoch uint64) error {
	return compareEpoch(ctx, db.on(ctx), roleBatch, epoch, "")
}

// InsertCheckpoint records a checkpoint whose tiles and note are durable
// already (I4), on behalf of the batch leader of that epoch. When it returns nil
// the row is durable, and it is the newest.
//
// calpe.ErrLostLeadership: another leader took over; nothing was written.
// calpe.ErrCheckpointOrder: not larger than the newest, or larger than the log
// (I3); nothing was written. After any other error the row may be there or not:
// calling again with the same checkpoint is safe, as the newest one, unchanged,
// is accepted a second time.
func (db *DB) InsertCheckpoint(ctx context.Context, epoch uint64, c calpe.Checkpoint) error {
	return db.fenced(ctx, roleBatch, epoch, func(tx pgx.Tx) error {
		head, err := scanCheckpoint(tx.QueryRow(ctx, headSQL))
		switch {
		case err != nil && !noRows(err):
			return translate("read newest checkpoint", err)
		case err == nil && sameCheckpoint(head, c):
			return nil
		case err == nil && c.Size <= head.Size:
			return fmt.Errorf("%w: size %d behind one of size %d", calpe.ErrCheckpointOrder, c.Size, head.Size)
		}
		tag, err := tx.Exec(ctx, `INSERT INTO checkpoint (size, root, note, epoch, created_at)
			SELECT $1::bigint, $2, $3, $4, $5 WHERE $1::bigint <= (SELECT first + count FROM entry_group ORDER BY first DESC LIMIT 1)`,
			c.Size, c.Root[:], c.Note, epoch, c.Time)
		if err == nil && tag.RowsAffected() != 1 {
			return fmt.Errorf("%w: size %d is larger than the log", calpe.ErrCheckpointOrder, c.Size)
		}
		return translate("insert checkpoint", err)
	})
}

func sameCheckpoint(a, b calpe.Checkpoint) bool {
	return a.Size == b.Size && a.Root == b.Root && bytes.Equal(a.Note, b.Note)
}

const (
	checkpointColumns = `size, root, note, created_at`
	headSQL           = `SELECT ` + checkpointColumns + ` FROM checkpoint ORDER BY size DESC LIMIT 1`
)

func scanCheckpoint(row pgx.Row) (c calpe.Checkpoint, err error) {
	var root []byte
	if err := row.Scan(&c.Size, &root, &c.Note, &c.Time); err != nil {
		return calpe.Checkpoint{}, err
	}
	c.Time = c.Time.UTC()
	c.Root, err = hash32(root)
	return c, err
}

// CheckpointHead is the newest checkpoint, the one that is served;
// calpe.ErrNotFound before the first one.
func (db *DB) CheckpointHead(ctx context.Context) (calpe.Checkpoint, error) {
	c, err := scanCheckpoint(db.on(ctx).QueryRow(ctx, headSQL))
	return c, translate("read newest checkpoint", err)
}

// CheckpointAt is the checkpoint of exactly that size; calpe.ErrNotFound if none
// was made.
func (db *DB) CheckpointAt(ctx context.Context, size uint64) (calpe.Checkpoint, error) {
	c, err := scanCheckpoint(db.on(ctx).QueryRow(ctx, `SELECT `+checkpointColumns+` FROM checkpoint WHERE size = $1`, clampIndex(size)))
	return c, translate("read checkpoint", err)
}
