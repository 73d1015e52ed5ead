package postgres

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/storage/postgres/postgrestest"
)

func checkpoint(size uint64, note string) calpe.Checkpoint {
	return calpe.Checkpoint{Size: size, Root: calpe.Hash{byte(size)}, Note: []byte(note), Time: testTime}
}

// lead runs fn as leader and returns what Lead returned.
func lead(t *testing.T, db *DB, role string, fn func(ctx context.Context, epoch uint64) error) error {
	t.Helper()
	return db.Lead(t.Context(), role, fn)
}

func TestLeadOneAtATime(t *testing.T) {
	t.Parallel()
	url := postgrestest.URL(t)
	var leading, most atomic.Int32
	epochs := make(chan uint64, 12)
	done := make(chan error)
	for range 4 {
		db := openURL(t, url)
		go func() {
			for range 3 {
				err := db.Lead(t.Context(), "batch", func(_ context.Context, epoch uint64) error {
					most.Store(max(most.Load(), leading.Add(1)))
					defer leading.Add(-1)
					epochs <- epoch
					return nil
				})
				if err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range 4 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	if most.Load() != 1 {
		t.Errorf("%d leaders at once", most.Load())
	}
	var before uint64
	for range 12 {
		epoch := <-epochs
		if epoch <= before {
			t.Errorf("epoch %d after %d", epoch, before)
		}
		before = epoch
	}
}

func TestLeadRolesAreIndependent(t *testing.T) {
	t.Parallel()
	db := open(t)
	err := lead(t, db, "batch", func(_ context.Context, _ uint64) error {
		return lead(t, db, "anchor", func(_ context.Context, epoch uint64) error {
			return db.fenced(t.Context(), "anchor", epoch, func(pgx.Tx) error { return nil })
		})
	})
	if err != nil {
		t.Error(err)
	}
	if err := lead(t, db, "king", func(context.Context, uint64) error { return nil }); err == nil {
		t.Error("lead in an unknown role")
	}
}

func TestLeadReturnsError(t *testing.T) {
	t.Parallel()
	mine := errors.New("mine")
	err := lead(t, open(t), "batch", func(context.Context, uint64) error { return mine })
	wantErr(t, "error of fn", err, mine)
	if errors.Is(err, calpe.ErrLostLeadership) {
		t.Errorf("leadership is said to be lost: %v", err)
	}
}

func TestLeadEndsWithContext(t *testing.T) {
	t.Parallel()
	url := postgrestest.URL(t)
	err := lead(t, openURL(t, url), "batch", func(ctx context.Context, _ uint64) error {
		waiting, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
		defer cancel()
		err := openURL(t, url).Lead(waiting, "batch", func(context.Context, uint64) error {
			t.Error("two leaders")
			return nil
		})
		wantErr(t, "waiting", err, context.DeadlineExceeded)
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err = openURL(t, url).Lead(ctx, "batch", func(ctx context.Context, _ uint64) error {
		cancel()
		<-ctx.Done()
		return ctx.Err()
	})
	wantErr(t, "leading", err, context.Canceled)
	if errors.Is(err, calpe.ErrLostLeadership) {
		t.Errorf("leadership is said to be lost: %v", err)
	}
}

// The leader's connection is killed: the other takes over with a higher epoch,
// the former leader is told, and what it still writes is refused.
func TestLeadTakeOver(t *testing.T) {
	t.Parallel()
	first := openLog(t)
	mustCommit(t, first, group(t, first, bare("a", 10)))
	second := openURL(t, first.cfg.URL)

	err := lead(t, first, "batch", func(ctx context.Context, epoch uint64) error {
		if err := first.InsertCheckpoint(ctx, epoch, checkpoint(2, "first")); err != nil {
			return err
		}
		terminateLeader(t, first)
		err := lead(t, second, "batch", func(ctx context.Context, later uint64) error {
			if later <= epoch {
				t.Errorf("epoch %d after %d", later, epoch)
			}
			return second.InsertCheckpoint(ctx, later, checkpoint(5, "second"))
		})
		if err != nil {
			t.Errorf("second leader: %v", err)
		}
		// Paused all the while, the first one now writes what it had prepared.
		late := context.WithoutCancel(ctx)
		wantErr(t, "late write", first.InsertCheckpoint(late, epoch, checkpoint(4, "late")), calpe.ErrLostLeadership)
		wantErr(t, "late larger write", first.InsertCheckpoint(late, epoch, checkpoint(9, "late")), calpe.ErrLostLeadership)
		<-ctx.Done()
		wantErr(t, "cause", context.Cause(ctx), calpe.ErrLostLeadership)
		return ctx.Err()
	})
	wantErr(t, "first leader", err, calpe.ErrLostLeadership)
	head, err := first.CheckpointHead(t.Context())
	if diff := cmp.Diff(checkpoint(5, "second"), head); diff != "" || err != nil {
		t.Errorf("head: %v (-want +got):\n%s", err, diff)
	}
}

// A leader's process is stopped, and nobody closes its connection: the server
// does, and another leads.
func TestLeadTakeOverFromStoppedProcess(t *testing.T) {
	t.Parallel()
	url := postgrestest.URL(t)
	stopped := openURL(t, url, func(c *Config) { c.LeaderTimeout = 2 * time.Second })
	conn, err := stopped.connectLeader(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer closeConn(t.Context(), conn)
	if err := stopped.awaitLead(t.Context(), conn, 1); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	led := false
	err = openURL(t, url).Lead(ctx, "batch", func(context.Context, uint64) error {
		led = true
		return nil
	})
	if err != nil || !led {
		t.Errorf("led: %v, %v", led, err)
	}
	if err := ping(conn, time.Second); calpe.ErrorCode(err) != calpe.CodeUnavailable {
		t.Errorf("the stopped process still has its connection: %v", err)
	}
}

// The database went back to before a leadership. Whoever had that one must not
// write as the next one.
func TestEpochsOfOlderCopyAreNotGivenAgain(t *testing.T) {
	t.Parallel()
	db := openLog(t)
	mustCommit(t, db, group(t, db, bare("a", 10)))
	var before int64
	if err := db.pool.QueryRow(t.Context(), `SELECT epoch FROM leader WHERE role = 'batch'`).Scan(&before); err != nil {
		t.Fatal(err)
	}
	var former uint64
	if err := lead(t, db, "batch", func(_ context.Context, epoch uint64) error { former = epoch; return db.LeadsBatch(t.Context(), epoch) }); err != nil {
		t.Fatal(err)
	}
	postgrestest.Exec(t, db.cfg.URL, `UPDATE leader SET epoch = $1 WHERE role = 'batch'`, before)
	err := lead(t, db, "batch", func(ctx context.Context, epoch uint64) error {
		wantErr(t, "the former leader", db.LeadsBatch(ctx, former), calpe.ErrLostLeadership)
		wantErr(t, "write of the former leader", db.InsertCheckpoint(ctx, former, checkpoint(2, "former")), calpe.ErrLostLeadership)
		return db.InsertCheckpoint(ctx, epoch, checkpoint(5, "newest"))
	})
	if err != nil {
		t.Error(err)
	}
}

// terminateLeader kills the session that holds a leader's lock.
func terminateLeader(t *testing.T, db *DB) {
	t.Helper()
	postgrestest.Exec(t, db.cfg.URL, `SELECT pg_terminate_backend(pid, 10000) FROM pg_locks
		WHERE locktype = 'advisory' AND objsubid = 2 AND classid::bigint = $1
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`, int64(leaderClass))
}

// fn returns without having looked at its context; the loss is reported all the same.
func TestLeadReportsLossAtTheEnd(t *testing.T) {
	t.Parallel()
	db := open(t)
	err := lead(t, db, "anchor", func(ctx context.Context, _ uint64) error {
		terminateLeader(t, db)
		<-ctx.Done()
		return nil
	})
	wantErr(t, "leader", err, calpe.ErrLostLeadership)
}

// A take-over waits for a write that is under way, and comes behind it.
func TestTakeOverWaitsForWrite(t *testing.T) {
	t.Parallel()
	db := openLog(t)
	conn, err := db.connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer closeConn(t.Context(), conn)
	first, err := takeOver(t.Context(), conn, "batch")
	if err != nil {
		t.Fatal(err)
	}
	took := make(chan uint64, 1)
	err = db.fenced(t.Context(), "batch", first, func(tx pgx.Tx) error {
		go func() {
			epoch, err := takeOver(t.Context(), conn, "batch")
			if err != nil {
				t.Error(err)
			}
			took <- epoch
		}()
		eventually(t, "the take-over waits", func() bool {
			var n int
			const sql = `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`
			if err := db.pool.QueryRow(t.Context(), sql).Scan(&n); err != nil {
				t.Fatal(err)
			}
			return n > 0
		})
		select {
		case epoch := <-took:
			t.Errorf("epoch %d began within a write of epoch %d", epoch, first)
		default:
		}
		_, err := tx.Exec(t.Context(), `INSERT INTO checkpoint (size, root, note, epoch, created_at)
			VALUES (1, decode(repeat('00', 32), 'hex'), 'note', $1, now())`, first)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if second := <-took; second <= first {
		t.Errorf("epoch %d after %d", second, first)
	}
}

func TestInsertCheckpoint(t *testing.T) {
	t.Parallel()
	db := openLog(t)
	mustCommit(t, db, group(t, db, bare("a", 9)))
	_, err := db.CheckpointHead(t.Context())
	wantErr(t, "head before the first", err, calpe.ErrNotFound)

	err = lead(t, db, "batch", func(ctx context.Context, epoch uint64) error {
		for _, step := range []struct {
			what string
			c    calpe.Checkpoint
			want error
		}{
			{"first", checkpoint(4, "a"), nil},
			{"the same again", checkpoint(4, "a"), nil},
			{"same size, other note", checkpoint(4, "b"), calpe.ErrCheckpointOrder},
			{"same size, other root", calpe.Checkpoint{Size: 4, Root: calpe.Hash{9}, Note: []byte("a"), Time: testTime}, calpe.ErrCheckpointOrder},
			{"smaller", checkpoint(3, "c"), calpe.ErrCheckpointOrder},
			{"larger than the log", checkpoint(11, "d"), calpe.ErrCheckpointOrder},
			{"the whole log", checkpoint(10, "e"), nil},
			{"an older one again", checkpoint(4, "a"), calpe.ErrCheckpointOrder},
		} {
			wantErr(t, step.what, db.InsertCheckpoint(ctx, epoch, step.c), step.want)
		}
		wantErr(t, "former epoch", db.InsertCheckpoint(ctx, epoch-1, checkpoint(10, "e")), calpe.ErrLostLeadership)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	head, err := db.CheckpointHead(t.Context())
	if diff := cmp.Diff(checkpoint(10, "e"), head); diff != "" || err != nil {
		t.Errorf("head: %v (-want +got):\n%s", err, diff)
	}
	older, err := db.CheckpointAt(t.Context(), 4)
	if diff := cmp.Diff(checkpoint(4, "a"), older); diff != "" || err != nil {
		t.Errorf("checkpoint of 4: %v (-want +got):\n%s", err, diff)
	}
	_, err = db.CheckpointAt(t.Context(), 5)
	wantErr(t, "checkpoint of 5", err, calpe.ErrNotFound)
}

func TestInsertCheckpointOnEmptyLog(t *testing.T) {
	t.Parallel()
	db := open(t)
	err := lead(t, db, "batch", func(ctx context.Context, epoch uint64) error {
		return db.InsertCheckpoint(ctx, epoch, checkpoint(1, "a"))
	})
	wantErr(t, "checkpoint of an empty log", err, calpe.ErrCheckpointOrder)
}

// The answer to the checkpoint's COMMIT is lost: sending it again is safe.
func TestInsertCheckpointWithoutAnswer(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]fault{"not applied": cutBefore, "applied": cutAfter} {
		direct := openLog(t)
		p, url := newProxy(t, direct.cfg.URL)
		db := openURL(t, url)
		err := lead(t, direct, "batch", func(ctx context.Context, epoch uint64) error {
			p.arm(f, 0)
			if err := db.InsertCheckpoint(ctx, epoch, checkpoint(1, "a")); err == nil {
				t.Errorf("%s: nil without an answer", name)
			}
			return db.InsertCheckpoint(ctx, epoch, checkpoint(1, "a"))
		})
		if err != nil {
			t.Errorf("%s: again: %v", name, err)
		}
		if head, err := direct.CheckpointHead(t.Context()); err != nil || head.Size != 1 {
			t.Errorf("%s: head %d, %v", name, head.Size, err)
		}
	}
}
