package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/internal/commitpoint"
)

// intakeLock is the advisory lock of everything that appends to the log. Its
// key is for ever: two versions of the server must exclude each other.
const intakeLock int64 = 0x63616c70_6c6f6731 // "calplog1"

// CommitGroup adds the group's entries to the log, and the rows that go with
// them, in one transaction: all of it or nothing. Entries get the indices from
// the log's next one, in the order of the submissions (I2). When it returns nil
// the group is durable: flushed, and on the synchronous standbys if there are
// any. Several processes may call it at once.
//
// ctx must not be a request's: a client that hangs up must not break the commit
// of a whole group. Give it a time limit of its own, of some seconds. If the
// answer to COMMIT doesn't come, the call takes up to Config.ResolveTimeout
// longer, whatever ctx says, to find out on new connections.
//
// A submission whose Idempotency-Key is known already, or was used by an earlier
// one of the group, is left out and comes back as Existing.
//
//	nil                      the group is in the log. Count is 0 if all submissions were Existing
//	calpe.ErrFence           nothing was written: the group would reach above Limit
//	calpe.ErrOtherInstance   nothing was written: the database isn't Group.Instance (any more)
//	calpe.ErrExists          nothing was written: a document, object or agency of that name is there
//	calpe.ErrNotCommitted    nothing was written, nor will be: the same group may be sent again
//	calpe.ErrUnknownOutcome  not to be told. The result says how the group would stand; compare
//	                         GroupOf(First).ID with Group.ID when the database is trusted again
//
// Any other error is a group that breaks a rule, and nothing was written.
func (db *DB) CommitGroup(ctx context.Context, g calpe.Group) (calpe.GroupResult, error) {
	return db.commitGroup(ctx, newGroupCommit(g))
}

func (db *DB) commitGroup(ctx context.Context, c *groupCommit) (calpe.GroupResult, error) {
	if err := c.check(); err != nil {
		return calpe.GroupResult{}, fmt.Errorf("commit group: %w", err)
	}
	c.markRepeated()
	for {
		c.arrange()
		var err error
		if len(c.fresh) > 0 {
			err = db.tryGroup(ctx, c)
		} else if err = db.barrier(ctx, "see that the known submissions are safe"); err != nil {
			err = notCommitted(err)
		}
		switch {
		case errors.Is(err, errKnownKeys): // each round leaves out at least one submission
		case errors.Is(err, calpe.ErrUnknownOutcome):
			return c.finish(), fmt.Errorf("commit group: %w", err)
		case err != nil:
			return calpe.GroupResult{}, fmt.Errorf("commit group: %w", err)
		default:
			return c.finish(), nil
		}
	}
}

// errKnownKeys: some of the group's Idempotency-Keys are in the table; the
// transaction was rolled back and the submissions are marked.
var errKnownKeys = errors.New("some submissions are known")

// tryGroup is one transaction. Its locks are held for two or three round trips
// and one flush.
func (db *DB) tryGroup(ctx context.Context, c *groupCommit) error {
	conn, release, err := db.acquire(ctx, db.writes)
	if err != nil {
		return notCommitted(err)
	}
	defer release()
	if at := sessionOf(conn).instance; !at.Equal(c.group.Instance) {
		closeConn(ctx, conn) // one of the two is outdated, and it may be this one
		return fmt.Errorf("%w: connected to %s, the group is for %s", calpe.ErrOtherInstance, at, c.group.Instance)
	}
	if err := c.write(ctx, conn); err != nil {
		// COMMIT was not sent, so nothing of this can come into the log any more.
		rollback(ctx, conn)
		return notCommitted(err)
	}
	// Crash here: the server rolls the transaction back. Nothing was promised,
	// and the objects of its documents are orphans for the sweep.
	commitpoint.Reached(commitpoint.GroupInserted)
	return db.commit(ctx, conn, c)
}

// notCommitted keeps the errors that say more than "not committed".
func notCommitted(err error) error {
	for _, known := range []error{errKnownKeys, calpe.ErrFence, calpe.ErrExists, calpe.ErrNotDense} {
		if errors.Is(err, known) {
			return err
		}
	}
	if pe, ok := errors.AsType[*pgconn.PgError](err); ok && !unavailable(pe.Code) {
		return err // a rule of the schema: the same group will be refused again
	}
	return fmt.Errorf("%w: %w", calpe.ErrNotCommitted, err)
}

// rollback ends the transaction; a connection on which that fails is closed.
func rollback(ctx context.Context, conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	if _, err := conn.Exec(ctx, "rollback"); err != nil {
		closeConn(ctx, conn)
	}
}

// commit sends COMMIT, and finds out what happened if the answer doesn't say.
func (db *DB) commit(ctx context.Context, conn *pgx.Conn, c *groupCommit) error {
	if err := ctx.Err(); err != nil {
		rollback(ctx, conn)
		return notCommitted(translate("commit", err))
	}
	s := sessionOf(conn)
	s.warned = false
	tag, err := conn.Exec(ctx, "commit")
	if err == nil && tag.String() == "COMMIT" && !s.warned {
		// Crash here: the group is in the log and nobody knows. A repeated request
		// with an Idempotency-Key finds it; the entries harm nobody.
		commitpoint.Reached(commitpoint.GroupCommitted)
		return nil
	}
	if refused(tag, err) {
		rollback(ctx, conn)
		return notCommitted(translate("commit", errors.Join(errRolledBack, err)))
	}
	// The old backend may still be at it. It holds the lock until it is done, one
	// way or the other, so whoever gets the lock sees what it did.
	closeConn(ctx, conn)
	db.log.WarnContext(ctx, "COMMIT had no clear answer, looking on a new connection",
		slog.String("group", c.group.ID.String()), slog.Uint64("first", c.result.First), slog.Bool("warning", s.warned), slog.Any("error", err))
	return db.resolve(ctx, c)
}

var errRolledBack = errors.New("the server rolled the transaction back")

// refused: the answer says that the transaction was rolled back. FATAL and
// PANIC say only that the connection is over. pgconn.SafeToRetry is no help: when
// the connection breaks after COMMIT was sent, pgx v5.12 reports a closed
// connection, which claims that nothing was.
func refused(tag pgconn.CommandTag, err error) bool {
	if err == nil {
		return tag.String() == "ROLLBACK"
	}
	if pe, ok := errors.AsType[*pgconn.PgError](err); ok {
		return pe.SeverityUnlocalized == "ERROR"
	}
	return false
}

// resolve learns what became of a COMMIT without an answer: nil if the group is
// in the log, and durable.
func (db *DB) resolve(ctx context.Context, c *groupCommit) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), db.cfg.ResolveTimeout)
	defer cancel()
	for {
		found, err := db.lookUpGroup(ctx, c)
		switch {
		case err == nil && found:
			commitpoint.Reached(commitpoint.GroupCommitted) // as above
			return nil
		case err == nil:
			return fmt.Errorf("%w: COMMIT had no answer, and the group is not in the log", calpe.ErrNotCommitted)
		case errors.Is(err, calpe.ErrOtherInstance):
			return fmt.Errorf("%w: %w", calpe.ErrUnknownOutcome, err)
		}
		if wait(ctx, 100*time.Millisecond) != nil {
			return fmt.Errorf("%w: gave up after %s: %w", calpe.ErrUnknownOutcome, db.cfg.ResolveTimeout, err)
		}
	}
}

// lookUpGroup reports whether the group stands in the log where it was put, on a
// new connection to the same instance, under the intake lock. It also commits a
// transaction of its own: that one's record lies behind the group's, so once it
// is flushed and replicated, so is the group. The message is there to be written
// to the WAL: COMMIT waits for nothing if its transaction wrote none, even if it
// has an id.
func (db *DB) lookUpGroup(ctx context.Context, c *groupCommit) (found bool, err error) {
	conn, err := db.connect(ctx)
	if err != nil {
		return false, err
	}
	defer closeConn(ctx, conn)
	s := sessionOf(conn)
	if !s.instance.Equal(c.group.Instance) {
		return false, fmt.Errorf("%w: connected to %s, the group was sent to %s", calpe.ErrOtherInstance, s.instance, c.group.Instance)
	}
	err = pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT pg_advisory_xact_lock($1)", intakeLock); err != nil {
			return err
		}
		const sql = barrierSQL + ` AND EXISTS (SELECT FROM entry_group WHERE first = $1 AND group_id = $2)`
		return tx.QueryRow(ctx, sql, c.result.First, [16]byte(c.group.ID)).Scan(&found)
	})
	if err == nil && s.warned {
		err = errStandby
	}
	return found, translate("look for the group", err)
}

// barrierSQL writes something to the WAL, so that COMMIT has something to wait for.
const barrierSQL = `SELECT pg_logical_emit_message(true, 'calpe', 'commit barrier') IS NOT NULL`

// barrier returns nil when all that can be seen now is also on the synchronous
// standbys. A commit of which the wait was given up can be seen before.
func (db *DB) barrier(ctx context.Context, what string) error {
	conn, release, err := db.acquire(ctx, db.pool)
	if err != nil {
		return err
	}
	defer release()
	return passBarrier(ctx, conn, what)
}

func passBarrier(ctx context.Context, conn *pgx.Conn, what string) error {
	s := sessionOf(conn)
	s.warned = false
	if _, err := conn.Exec(ctx, barrierSQL); err != nil {
		return translate(what, err)
	}
	if s.warned {
		return unavailableError(what, errStandby)
	}
	return nil
}

var errStandby = errors.New("the wait for the synchronous standby was given up")

// wait returns nil after d, or ctx's error before.
func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// NextIndex is the index that the next entry will get: the number of entries.
func (db *DB) NextIndex(ctx context.Context) (next uint64, err error) {
	const sql = `SELECT coalesce((SELECT first + count FROM entry_group ORDER BY first DESC LIMIT 1), 0)`
	err = db.on(ctx).QueryRow(ctx, sql).Scan(&next)
	return next, translate("read next index", err)
}

// GroupOf is the commit group that holds the entry, as it was committed; what
// was acknowledged is computed from it, and may be signed for once more: what it
// finds is durable and on the synchronous standbys. calpe.ErrNotFound if there
// is no such entry.
func (db *DB) GroupOf(ctx context.Context, index uint64) (calpe.GroupRecord, error) {
	var (
		g        calpe.GroupRecord
		id       [16]byte
		packed   []byte
		deadline *time.Time
	)
	const sql = `SELECT first, commitments, group_id, origin, time, deadline
		FROM (SELECT * FROM entry_group WHERE first <= $1 ORDER BY first DESC LIMIT 1) g WHERE $1 < first + count`
	err := db.on(ctx).QueryRow(ctx, sql, clampIndex(index)).Scan(&g.First, &packed, &id, &g.Origin, &g.Time, &deadline)
	if err != nil {
		return calpe.GroupRecord{}, translate("read group of entry", err)
	}
	g.ID, g.Time, g.Deadline = id, g.Time.UTC(), timeOf(deadline)
	if g.Commitments, err = unpack(packed); err != nil {
		return calpe.GroupRecord{}, err
	}
	return g, db.barrier(ctx, "read group of entry")
}

// EntryTime is when an entry was recorded, to the second, as its acknowledgement
// says; calpe.ErrNotFound.
func (db *DB) EntryTime(ctx context.Context, index uint64) (time.Time, error) {
	const sql = `SELECT time FROM (SELECT * FROM entry_group WHERE first <= $1 ORDER BY first DESC LIMIT 1) g WHERE $1 < first + count`
	var at time.Time
	err := db.on(ctx).QueryRow(ctx, sql, clampIndex(index)).Scan(&at)
	return at.UTC(), translate("read time of entry", err)
}

// Entry reads one entry; calpe.ErrNotFound if there is none with that index.
func (db *DB) Entry(ctx context.Context, index uint64) (calpe.Entry, error) {
	const sql = `SELECT substring(commitments FROM (32 * ($1 - first) + 1)::int FOR 32)
		FROM (SELECT * FROM entry_group WHERE first <= $1 ORDER BY first DESC LIMIT 1) g WHERE $1 < first + count`
	var c []byte
	if err := db.on(ctx).QueryRow(ctx, sql, clampIndex(index)).Scan(&c); err != nil {
		return calpe.Entry{}, translate("read entry", err)
	}
	return calpe.Entry{Index: index, Commitment: calpe.Commitment(c)}, nil
}

// clampIndex makes any index one that fits the column: there is no entry above
// the largest log anyway.
func clampIndex(index uint64) uint64 { return min(index, calpe.MaxLogSize) }

// readPage bounds what ReadEntries holds at a time: it stops a page at the first
// group that reaches this many entries, so 2 * 2 MiB at most.
const readPage = calpe.MaxGroup

// ReadEntries calls fn with the entries from index from to to-1, in order and
// without a gap, in chunks: commitments[i] is that of entry first+i, and the
// slice is fn's only until it returns. Memory is bounded by 4 MiB, and no
// transaction is open while fn works, so fn may take its time; entries never
// change (I2). An error of fn ends the reading and is returned as it is.
// calpe.ErrNotDense names the first index that should be there and isn't, or is
// there twice.
func (db *DB) ReadEntries(ctx context.Context, from, to uint64, fn func(first uint64, commitments []calpe.Commitment) error) error {
	if to > calpe.MaxLogSize {
		return fmt.Errorf("read entries: up to %d, but the largest log has %d", to, uint64(calpe.MaxLogSize))
	}
	var begun bool // so every further group begins just where the last one ended
	for next := from; next < to; {
		page, err := db.readPage(ctx, next, to)
		if err != nil {
			return err
		}
		if len(page) == 0 {
			return fmt.Errorf("read entries: %w: entry %d is missing", calpe.ErrNotDense, next)
		}
		for _, g := range page {
			chunk, err := g.between(next, to)
			if err != nil {
				return fmt.Errorf("read entries: %w", err)
			}
			if begun && g.First != next {
				return fmt.Errorf("read entries: %w: entry %d is in two groups", calpe.ErrNotDense, g.First)
			}
			begun = true
			if err := fn(next, chunk); err != nil {
				return err
			}
			next += uint64(len(chunk))
		}
	}
	return nil
}

// storedGroup is what reading needs of a row of entry_group.
type storedGroup struct {
	First  uint64
	Packed []byte
}

// between gives the group's entries from next up to to; next must be in it.
func (g storedGroup) between(next, to uint64) ([]calpe.Commitment, error) {
	commitments, err := unpack(g.Packed)
	if err != nil {
		return nil, fmt.Errorf("group at %d: %w", g.First, err)
	}
	end := g.First + uint64(len(commitments))
	if next < g.First || next >= end {
		return nil, fmt.Errorf("%w: entry %d is missing, the next group has %d to %d", calpe.ErrNotDense, next, g.First, end-1)
	}
	return commitments[next-g.First : min(end, to)-g.First], nil
}

func (db *DB) readPage(ctx context.Context, from, to uint64) ([]storedGroup, error) {
	const sql = `
		SELECT first, commitments FROM (
			SELECT first, commitments, sum(count) OVER (ORDER BY first) - count AS before FROM (
				SELECT first, count, commitments FROM entry_group
				WHERE first >= coalesce((SELECT max(first) FROM entry_group WHERE first <= $1), 0) AND first < $2
				ORDER BY first LIMIT 4096) near) page
		WHERE before < $3 ORDER BY first`
	rows, err := db.on(ctx).Query(ctx, sql, from, to, readPage)
	if err != nil {
		return nil, translate("read entries", err)
	}
	page, err := pgx.CollectRows(rows, pgx.RowToStructByPos[storedGroup])
	return page, translate("read entries", err)
}

// pack joins commitments as the table holds them.
func pack(commitments []calpe.Commitment) []byte {
	b := make([]byte, 0, calpe.HashSize*len(commitments))
	for i := range commitments {
		b = append(b, commitments[i][:]...)
	}
	return b
}

func unpack(b []byte) ([]calpe.Commitment, error) {
	if len(b)%calpe.HashSize != 0 {
		return nil, fmt.Errorf("%d bytes of commitments are not a multiple of %d", len(b), calpe.HashSize)
	}
	commitments := make([]calpe.Commitment, len(b)/calpe.HashSize)
	for i := range commitments {
		copy(commitments[i][:], b[calpe.HashSize*i:])
	}
	return commitments, nil
}

// timeOf is the time behind a nullable column, UTC; zero for null.
func timeOf(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.UTC()
}
