package postgres

import (
	"context"
	"errors"
	"net"
	"testing"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/storage/postgres/postgrestest"
)

// A COMMIT whose answer doesn't come: whatever CommitGroup says about it must be
// what a second look at the log says.
func TestCommitWithoutAnswer(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fault     fault
		refuse    int // connections refused after the fault
		committed bool
		want      error
	}{
		"cut before the server had it":            {fault: cutBefore, want: calpe.ErrNotCommitted},
		"cut after it was applied":                {fault: cutAfter, committed: true},
		"cut before, server away for a while":     {fault: cutBefore, refuse: 3, want: calpe.ErrNotCommitted},
		"cut after, server away for a while":      {fault: cutAfter, refuse: 3, committed: true},
		"silence, the server never had it":        {fault: silentBefore, want: calpe.ErrNotCommitted},
		"silence after it was applied":            {fault: silentAfter, committed: true},
		"cut before, server away for too long":    {fault: cutBefore, refuse: -1, want: calpe.ErrUnknownOutcome},
		"cut after, server away for too long":     {fault: cutAfter, refuse: -1, committed: true, want: calpe.ErrUnknownOutcome},
		"silence after, server away for too long": {fault: silentAfter, refuse: -1, committed: true, want: calpe.ErrUnknownOutcome},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			direct := openLog(t)
			p, url := newProxy(t, direct.cfg.URL)
			db := openURL(t, url, func(c *Config) {
				if test.fault == silentBefore {
					c.IdleInTransactionTimeout = time.Second // the server ends what it waits for in vain
				}
				if test.refuse < 0 {
					c.ResolveTimeout = 500 * time.Millisecond
				}
			})
			g := group(t, db, withKey(bare("a", 2), "ana", "key"))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			if test.fault == silentBefore || test.fault == silentAfter {
				p.onStrike = func(net.Conn) { cancel() } // whoever called loses patience
			}
			p.arm(test.fault, test.refuse)
			r, err := db.CommitGroup(ctx, g)
			wantErr(t, "answer", err, test.want)
			p.close()

			stored, lookErr := direct.GroupOf(t.Context(), 1)
			if in := lookErr == nil && stored.ID == g.ID; in != test.committed {
				t.Errorf("group in the log: %v (%v), want %v", in, lookErr, test.committed)
			}
			if (test.committed || errors.Is(test.want, calpe.ErrUnknownOutcome)) && (r.First != 1 || r.Count != 2) {
				t.Errorf("result %d+%d, want 1+2", r.First, r.Count)
			}
			// The request comes again, through a connection that works.
			g2 := group(t, direct, withKey(bare("a", 2), "ana", "key"))
			again := mustCommit(t, direct, g2)
			if existing := again.Submissions[0].Existing != nil; existing != test.committed || again.Submissions[0].First != 1 {
				t.Errorf("repeated request: existing %v at %d, want %v at 1", existing, again.Submissions[0].First, test.committed)
			}
		})
	}
}

// While the answer is missing, somebody else's group goes in at the same index.
func TestCommitWithoutAnswerThenAnother(t *testing.T) {
	t.Parallel()
	direct := openLog(t)
	p, url := newProxy(t, direct.cfg.URL)
	db := openURL(t, url)
	g := group(t, db, bare("a", 1))
	other := group(t, direct, bare("b", 1))
	p.onStrike = func(upstream net.Conn) {
		upstream.Close() // the server notices, and rolls back
		if _, err := direct.CommitGroup(context.Background(), other); err != nil {
			t.Errorf("other group: %v", err)
		}
	}
	p.arm(cutBefore, 0)
	_, err := db.CommitGroup(t.Context(), g)
	wantErr(t, "answer", err, calpe.ErrNotCommitted)
	if r := mustCommit(t, db, g); r.First != 2 {
		t.Errorf("retried group at %d, want 2", r.First)
	}
}

// COMMIT is still on its way when its sender, cut off, looks on a new connection:
// the look-up must wait for the old backend, or it says "not there" too soon.
func TestCommitStillOnItsWay(t *testing.T) {
	t.Parallel()
	direct := openLog(t)
	p, url := newProxy(t, direct.cfg.URL)
	db := openURL(t, url)
	g := group(t, db, bare("a", 1))
	p.onStrike = func(net.Conn) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		for waiters := 0; waiters == 0 && wait(ctx, 5*time.Millisecond) == nil; {
			const sql = `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'advisory'`
			if err := direct.pool.QueryRow(ctx, sql).Scan(&waiters); err != nil {
				t.Errorf("look for waiters: %v", err)
			}
		}
	}
	p.arm(cutThenDeliver, 0)
	if r := mustCommit(t, db, g); r.First != 1 {
		t.Errorf("first %d, want 1", r.First)
	}
	if stored, err := direct.GroupOf(t.Context(), 1); err != nil || stored.ID != g.ID {
		t.Errorf("group in the log: %s, %v, want %s", stored.ID, err, g.ID)
	}
}

// The server answers COMMIT with an error: that is clear enough.
func TestCommitRefused(t *testing.T) {
	t.Parallel()
	for code, again := range map[string]bool{"serialization_failure": true, "raise_exception": false} {
		db := openLog(t)
		postgrestest.Exec(t, db.cfg.URL, `CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
			$$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '`+code+`'; END $$`)
		postgrestest.Exec(t, db.cfg.URL, `CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON entry_group
			DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION refuse()`)
		g := group(t, db, bare("a", 1))
		_, err := db.CommitGroup(t.Context(), g)
		if err == nil || errors.Is(err, calpe.ErrUnknownOutcome) || errors.Is(err, calpe.ErrNotCommitted) != again {
			t.Errorf("%s: %v", code, err)
		}
		postgrestest.Exec(t, db.cfg.URL, `DROP TRIGGER refuse ON entry_group`)
		if r := mustCommit(t, db, g); r.First != 1 {
			t.Errorf("%s: first %d, want 1", code, r.First)
		}
	}
}

// The connection breaks before COMMIT was sent: nothing is to be resolved.
func TestCommitGroupLosesConnectionBefore(t *testing.T) {
	t.Parallel()
	db := openLog(t)
	g := group(t, db, documentSubmission("doc", "ana", ""))
	done := make(chan error, 1)
	err := db.WithIntakeLock(t.Context(), func(context.Context) error {
		go func() {
			_, err := db.CommitGroup(t.Context(), g) // waits for the lock
			done <- err
		}()
		terminateWaiter(t, db)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	err = <-done
	wantErr(t, "answer", err, calpe.ErrNotCommitted)
	if calpe.ErrorCode(err) != calpe.CodeUnavailable {
		t.Errorf("code %s, want %s", calpe.ErrorCode(err), calpe.CodeUnavailable)
	}
	if r := mustCommit(t, db, g); r.First != 1 {
		t.Errorf("retried group at %d, want 1", r.First)
	}
}

// terminateWaiter waits until a backend of the database waits for an advisory
// lock, and ends it.
func terminateWaiter(t *testing.T, db *DB) {
	t.Helper()
	eventually(t, "a backend waits for the lock", func() bool {
		var n int
		const sql = `SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event = 'advisory'`
		if err := db.pool.QueryRow(t.Context(), sql).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n > 0
	})
}

// eventually asks until it is so; two minutes are for a busy machine.
func eventually(t *testing.T, what string, so func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for !so() {
		if wait(ctx, 5*time.Millisecond) != nil {
			t.Fatalf("not so after 2 minutes: %s", what)
		}
	}
}
