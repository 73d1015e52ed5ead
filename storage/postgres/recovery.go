package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/internal/commitpoint"
)

// errNoIntakeLock is a mistake of the caller.
var errNoIntakeLock = errors.New("the intake lock is not held: call within WithIntakeLock, with its context")

// WithIntakeLock runs fn while no process can commit a group. It waits for the
// group that is being committed, and no longer than Config.LockTimeout
// (calpe.CodeUnavailable). All that fn sees in the log is durable and on the
// synchronous standbys.
//
// The lock belongs to one connection, which fn's context carries: within fn,
// every method that is called with that context works on that connection, one
// call at a time. CommitGroup does so too. If the connection breaks, the lock is
// gone and with it every further call fails, so nothing is ever appended
// without the lock; the caller starts again. So it is when nothing is heard for
// Config.IntakeSilence, as of a process that is stopped: others must go on.
func (db *DB) WithIntakeLock(ctx context.Context, fn func(ctx context.Context) error) error {
	if heldBy(ctx, db) != nil {
		return errors.New("lock intake: the lock is held already")
	}
	conn, err := db.connect(ctx)
	if err != nil {
		return fmt.Errorf("lock intake: %w", err)
	}
	defer closeConn(ctx, conn) // which releases the lock
	if err := boundSilence(ctx, conn, db.cfg.IntakeSilence); err != nil {
		return fmt.Errorf("lock intake: %w", err)
	}
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock($1)`, intakeLock); err != nil {
		return translate("lock intake", err)
	}
	if err := passBarrier(ctx, conn, "lock intake"); err != nil {
		return err
	}
	return fn(context.WithValue(ctx, heldConn{db}, conn))
}

// AppendRolledForward puts entries back that a signed checkpoint covers and the
// database lost: 1 to calpe.MaxGroup, at first, which must be the log's next
// index. Only within [DB.WithIntakeLock]. On an error nothing can be said about
// the entries: read the next index, and go on from there.
func (db *DB) AppendRolledForward(ctx context.Context, first uint64, commitments []calpe.Commitment) error {
	err := db.appendRow(ctx, first, calpe.OriginRolledForward, commitments)
	if err != nil {
		return fmt.Errorf("roll forward: %w", err)
	}
	// Crash here: the next start rolls forward from behind these entries.
	commitpoint.Reached(commitpoint.RecoveryRolled)
	return nil
}

// AppendVoid fills the log with void entries from its next index to upTo - 1. If
// the log has reached upTo it does nothing. Only within [DB.WithIntakeLock]. On
// an error a part of them may have been written; calling again does the rest.
func (db *DB) AppendVoid(ctx context.Context, upTo uint64) error {
	for {
		next, err := db.NextIndex(ctx)
		if err != nil {
			return fmt.Errorf("fill with void entries: %w", err)
		}
		if next >= upTo {
			return nil
		}
		row := make([]calpe.Commitment, min(upTo-next, calpe.MaxGroup))
		if err := db.appendRow(ctx, next, calpe.OriginVoid, row); err != nil {
			return fmt.Errorf("fill with void entries: %w", err)
		}
		// Crash here: the fence still is where it was, so the next start fills the rest.
		commitpoint.Reached(commitpoint.RecoveryFilled)
	}
}

// appendRow is one transaction of recovery. The advisory lock is taken once
// more, by the same session: that can't block, and fails if the session is gone.
func (db *DB) appendRow(ctx context.Context, first uint64, origin calpe.Origin, commitments []calpe.Commitment) error {
	conn := heldBy(ctx, db)
	if conn == nil {
		return errNoIntakeLock
	}
	if n := len(commitments); n < 1 || n > calpe.MaxGroup || first > calpe.MaxLogSize-uint64(n) {
		return fmt.Errorf("%d entries at %d, want 1 to %d below %d", n, first, calpe.MaxGroup, uint64(calpe.MaxLogSize))
	}
	var id [16]byte
	_, _ = rand.Read(id[:]) // never fails, see its documentation
	return translate("append entries", pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			INSERT INTO entry_group (first, count, commitments, group_id, origin, time)
			SELECT next.first, $2::int, $3::bytea, $4::uuid, $5::text, date_trunc('second', $6::timestamptz)
			FROM (SELECT coalesce((SELECT first + count FROM entry_group ORDER BY first DESC LIMIT 1), 0) AS first) next
			WHERE next.first = $1`,
			first, len(commitments), pack(commitments), id, origin, db.now())
		if err == nil && tag.RowsAffected() != 1 {
			return fmt.Errorf("%w: %d is not the next index", calpe.ErrNotDense, first)
		}
		return err
	}))
}
