package postgres

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/storage/postgres/postgrestest"
)

func TestRecoveryAppends(t *testing.T) {
	t.Parallel()
	db := openLog(t)
	mustCommit(t, db, group(t, db, bare("a", 2)))
	lost := commitments("lost", 3)
	err := db.WithIntakeLock(t.Context(), func(ctx context.Context) error {
		if err := db.AppendRolledForward(ctx, 3, lost); err != nil {
			return err
		}
		if err := db.AppendVoid(ctx, 10); err != nil {
			return err
		}
		if err := db.AppendVoid(ctx, 4); err != nil { // reached long ago
			return err
		}
		i, err := db.Instance(ctx)
		if err != nil {
			return err
		}
		_, err = db.CommitGroup(ctx, groupOn(i, withKey(bare("declaration", 1), "calpe/recovery", "1")))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	want := slices.Concat(commitments("a", 2), lost, make([]calpe.Commitment, 4), commitments("declaration", 1))
	if diff := cmp.Diff(want, readAll(t, db)[1:]); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	for index, origin := range map[uint64]calpe.Origin{
		2: calpe.OriginIntake, 3: calpe.OriginRolledForward, 5: calpe.OriginRolledForward,
		6: calpe.OriginVoid, 9: calpe.OriginVoid, 10: calpe.OriginIntake,
	} {
		g, err := db.GroupOf(t.Context(), index)
		if err != nil || g.Origin != origin || g.Deadline.IsZero() != (origin != calpe.OriginIntake) {
			t.Errorf("entry %d is of %q with deadline %s (%v), want %q", index, g.Origin, g.Deadline, err, origin)
		}
	}
	mustCommit(t, db, group(t, db, bare("b", 1))) // the lock is free
}

func TestRecoveryOfEmptyDatabase(t *testing.T) {
	t.Parallel()
	db := open(t)
	err := db.WithIntakeLock(t.Context(), func(ctx context.Context) error {
		return db.AppendRolledForward(ctx, 0, commitments("lost", 2))
	})
	if err != nil {
		t.Fatal(err)
	}
	if next := mustNext(t, db); next != 2 {
		t.Errorf("next index %d, want 2", next)
	}
}

func TestAppendVoidInManyRows(t *testing.T) {
	t.Parallel()
	db := openLog(t)
	const upTo = 2*calpe.MaxGroup + 10
	err := db.WithIntakeLock(t.Context(), func(ctx context.Context) error { return db.AppendVoid(ctx, upTo) })
	if err != nil {
		t.Fatal(err)
	}
	log := readAll(t, db)
	if len(log) != upTo || slices.ContainsFunc(log[1:], func(c calpe.Commitment) bool { return !c.IsVoid() }) {
		t.Errorf("log of %d entries, want %d, all but the first void", len(log), upTo)
	}
}

func TestRecoveryRefuses(t *testing.T) {
	t.Parallel()
	db := openLog(t)
	wantErr(t, "roll forward without the lock", db.AppendRolledForward(t.Context(), 1, commitments("a", 1)), errNoIntakeLock)
	wantErr(t, "void without the lock", db.AppendVoid(t.Context(), 2), errNoIntakeLock)
	err := db.WithIntakeLock(t.Context(), func(ctx context.Context) error {
		wantErr(t, "behind a gap", db.AppendRolledForward(ctx, 2, commitments("a", 1)), calpe.ErrNotDense)
		wantErr(t, "over an entry", db.AppendRolledForward(ctx, 0, commitments("a", 1)), calpe.ErrNotDense)
		for name, err := range map[string]error{
			"none":              db.AppendRolledForward(ctx, 1, nil),
			"too many":          db.AppendRolledForward(ctx, 1, make([]calpe.Commitment, calpe.MaxGroup+1)),
			"above the largest": db.AppendRolledForward(ctx, calpe.MaxLogSize, commitments("a", 1)),
			"lock twice":        db.WithIntakeLock(ctx, func(context.Context) error { return nil }),
		} {
			if err == nil {
				t.Errorf("%s: accepted", name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if next := mustNext(t, db); next != 1 {
		t.Errorf("next index %d, want 1", next)
	}
}

// The lock is a session's: when its connection breaks, nothing is appended any
// more, and others may go on.
func TestRecoveryLosesTheLock(t *testing.T) {
	t.Parallel()
	db := openLog(t)
	err := db.WithIntakeLock(t.Context(), func(ctx context.Context) error {
		pid := heldBy(ctx, db).PgConn().PID()
		postgrestest.Exec(t, db.cfg.URL, `SELECT pg_terminate_backend($1, 10000)`, int(pid))
		mustCommit(t, db, group(t, db, bare("a", 1)))
		return db.AppendVoid(ctx, 5)
	})
	if calpe.ErrorCode(err) != calpe.CodeUnavailable {
		t.Errorf("append on a broken connection: %v", err)
	}
	if next := mustNext(t, db); next != 2 {
		t.Errorf("next index %d, want 2", next)
	}
}

// A group within the lock whose COMMIT gets no answer: the connection is given
// up, so that the look-up can have the lock, and recovery starts again.
func TestRecoveryCommitWithoutAnswer(t *testing.T) {
	t.Parallel()
	p, url := newProxy(t, openLog(t).cfg.URL)
	db := openURL(t, url)
	g := group(t, db, bare("a", 1))
	err := db.WithIntakeLock(t.Context(), func(ctx context.Context) error {
		p.arm(cutAfter, 0)
		if _, err := db.CommitGroup(ctx, g); err != nil {
			return err
		}
		return db.AppendVoid(ctx, 5)
	})
	if calpe.ErrorCode(err) != calpe.CodeUnavailable {
		t.Errorf("append after the connection was given up: %v", err)
	}
	if next := mustNext(t, db); next != 2 {
		t.Errorf("next index %d, want 2", next)
	}
}

func TestWithIntakeLockReturnsError(t *testing.T) {
	t.Parallel()
	db := openLog(t)
	mine := errors.New("mine")
	wantErr(t, "error of fn", db.WithIntakeLock(t.Context(), func(context.Context) error { return mine }), mine)
}

// A process is stopped while it holds the intake lock, and nobody closes its
// connection: the server does, another goes on, and the first one, awake again,
// writes nothing.
func TestIntakeLockOfStoppedProcess(t *testing.T) {
	t.Parallel()
	stopped := openLog(t, func(c *Config) { c.IntakeSilence = 2 * time.Second })
	other := openURL(t, stopped.cfg.URL)
	err := stopped.WithIntakeLock(t.Context(), func(ctx context.Context) error {
		if err := other.WithIntakeLock(t.Context(), func(ctx context.Context) error { return other.AppendVoid(ctx, 5) }); err != nil {
			t.Errorf("another process: %v", err)
		}
		return stopped.AppendVoid(ctx, 9)
	})
	if calpe.ErrorCode(err) != calpe.CodeUnavailable {
		t.Errorf("the stopped process goes on: %v", err)
	}
	if next := mustNext(t, other); next != 5 {
		t.Errorf("next index %d, want 5", next)
	}
}
