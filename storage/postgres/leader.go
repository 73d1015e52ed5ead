package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/calpe/calpe"
)

// leaderClass is the first half of the advisory lock of a role. Keys of two
// halves never meet those of one, such as intakeLock.
const leaderClass int32 = 0x63616c70 // "calp"

// roleKey is the second half. The numbers are for ever, as intakeLock's.
func roleKey(role string) (int32, error) {
	switch role {
	case roleBatch:
		return 1, nil
	case "anchor":
		return 2, nil
	}
	return 0, fmt.Errorf("no process leads in %q", role)
}

// Lead waits until this process is the only one with that role ("batch" or
// "anchor"), then runs fn once with the epoch of its leadership, and returns what
// fn returns. It is for a loop that calls it again.
//
// Leadership is a session advisory lock on a connection of its own, straight to
// the server: a pooler in transaction mode would give it to somebody else. The
// epoch grows at each take-over, and every write compares it, so that a leader
// that was paused and doesn't know that it was replaced can't write. No epoch
// comes twice, also if an older copy of the database is put back.
//
// If the connection fails while fn runs, fn's context is cancelled with the
// cause calpe.ErrLostLeadership, and Lead returns that error once fn is back. If
// it fails while waiting, or ctx is done, that is returned.
func (db *DB) Lead(ctx context.Context, role string, fn func(ctx context.Context, epoch uint64) error) error {
	key, err := roleKey(role)
	if err != nil {
		return err
	}
	conn, err := db.connectLeader(ctx)
	if err != nil {
		return fmt.Errorf("lead %s: %w", role, err)
	}
	defer closeConn(ctx, conn) // which releases the lock
	if err := db.awaitLead(ctx, conn, key); err != nil {
		return fmt.Errorf("lead %s: %w", role, err)
	}
	epoch, err := takeOver(ctx, conn, role)
	if err != nil {
		return fmt.Errorf("lead %s: %w", role, err)
	}
	db.log.InfoContext(ctx, "leading", slog.String("role", role), slog.Uint64("epoch", epoch))
	if err := db.whileAlive(ctx, conn, func(ctx context.Context) error { return fn(ctx, epoch) }); err != nil {
		return fmt.Errorf("lead %s: %w", role, err)
	}
	return nil
}

// connectLeader opens a connection that the server ends when nothing is heard
// for longer than a leader may be silent. A process that is stopped, and whose
// machine runs on, would else keep the lock for ever.
func (db *DB) connectLeader(ctx context.Context) (*pgx.Conn, error) {
	conn, err := db.connect(ctx)
	if err != nil {
		return nil, err
	}
	silence := max(db.cfg.LeaderPoll, db.cfg.LeaderPing) + db.cfg.LeaderTimeout
	if err := boundSilence(ctx, conn, silence); err != nil {
		closeConn(ctx, conn)
		return nil, err
	}
	return conn, nil
}

// boundSilence makes the server end the connection, and give up its locks, when
// nothing is heard for so long.
func boundSilence(ctx context.Context, conn *pgx.Conn, silence time.Duration) error {
	_, err := conn.Exec(ctx, `SELECT set_config('idle_session_timeout', $1, false)`, milliseconds(silence))
	return translate("bound the silence of a session", err)
}

// awaitLead asks for the lock until it is given. Asking, and not waiting in the
// server, keeps no snapshot open and notices a dead connection.
func (db *DB) awaitLead(ctx context.Context, conn *pgx.Conn, key int32) error {
	for {
		var got bool
		if err := conn.QueryRow(ctx, `SELECT pg_try_advisory_lock($1, $2)`, leaderClass, key).Scan(&got); err != nil {
			return translate("ask for leadership", err)
		}
		if got {
			return nil
		}
		if err := wait(ctx, db.cfg.LeaderPoll); err != nil {
			return err
		}
	}
}

// takeOver starts a new epoch. It waits for a write of the former leader that is
// under way: that one still holds the row, and comes before the new epoch.
func takeOver(ctx context.Context, conn *pgx.Conn, role string) (epoch uint64, err error) {
	// Crash after this: an epoch in which nothing was written. Epochs need not be
	// dense: they are the time in milliseconds, for a counter that went back with
	// the database would give an epoch again that a former leader still has.
	const sql = `UPDATE leader SET epoch = greatest(epoch + 1, (extract(epoch FROM clock_timestamp()) * 1000)::bigint) WHERE role = $1 RETURNING epoch`
	err = conn.QueryRow(ctx, sql, role).Scan(&epoch)
	return epoch, translate("start epoch", err)
}

// whileAlive runs fn with a context that ends when the connection does.
func (db *DB) whileAlive(ctx context.Context, conn *pgx.Conn, fn func(ctx context.Context) error) error {
	led, cancel := context.WithCancelCause(ctx)
	lost := make(chan error, 1)
	go func() { lost <- db.watch(led, conn, cancel) }()
	err := fn(led)
	cancel(nil)
	if cause := <-lost; cause != nil {
		return fmt.Errorf("%w: %w", calpe.ErrLostLeadership, errors.Join(cause, err))
	}
	return err
}

// watch pings the connection until ctx is done (nil), or until an answer fails
// or is late: then it cancels.
func (db *DB) watch(ctx context.Context, conn *pgx.Conn, cancel context.CancelCauseFunc) error {
	for wait(ctx, db.cfg.LeaderPing) == nil {
		if err := ping(conn, db.cfg.LeaderTimeout); err != nil {
			cancel(calpe.ErrLostLeadership)
			return err
		}
	}
	return nil
}

// ping has a context of its own: the end of fn must not look like a dead server.
func ping(conn *pgx.Conn, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return translate("reach database", conn.Ping(ctx))
}

// fenced runs fn in a transaction that commits only if epoch is the newest of
// the role, else nothing is written and the error is calpe.ErrLostLeadership.
// The leader's row stays locked to the end, so that a take-over comes before or
// after the whole transaction, and two fenced writes of one leader don't meet.
func (db *DB) fenced(ctx context.Context, role string, epoch uint64, fn func(tx pgx.Tx) error) error {
	return db.inTx(ctx, "write as leader", func(tx pgx.Tx) error {
		if err := compareEpoch(ctx, tx, role, epoch, "FOR NO KEY UPDATE"); err != nil {
			return err
		}
		return fn(tx)
	})
}

// compareEpoch is calpe.ErrLostLeadership if epoch isn't the newest of the role.
func compareEpoch(ctx context.Context, q querier, role string, epoch uint64, lock string) error {
	var newest uint64
	if err := q.QueryRow(ctx, `SELECT epoch FROM leader WHERE role = $1 `+lock, role).Scan(&newest); err != nil {
		return translate("read epoch", err)
	}
	if newest != epoch {
		return fmt.Errorf("%w: %s epoch %d, the newest is %d", calpe.ErrLostLeadership, role, epoch, newest)
	}
	return nil
}

// noRows: the query found nothing.
func noRows(err error) bool { return errors.Is(err, pgx.ErrNoRows) }
