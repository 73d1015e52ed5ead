package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/storage/postgres/postgrestest"
)

func TestOutcomeOf(t *testing.T) {
	refusal := func(code string) error { return fmt.Errorf("x: %w", &pgconn.PgError{Code: code}) }
	for _, c := range []struct {
		err  error
		want Outcome
	}{
		{nil, OutcomeOK}, {pgx.ErrNoRows, OutcomeOK}, {refusal("23505"), OutcomeConstraint}, {refusal("40001"), OutcomeConflict},
		{refusal("40P01"), OutcomeConflict}, {refusal("55P03"), OutcomeConflict}, {refusal("57014"), OutcomeTimeout}, {refusal("53100"), OutcomeResources},
		{refusal("57P01"), OutcomeConnection}, {refusal("08006"), OutcomeConnection}, {refusal("42501"), OutcomeRefused}, {refusal(""), OutcomeConnection},
		{io.ErrUnexpectedEOF, OutcomeConnection}, {errors.New("x"), OutcomeConnection},
		{context.Canceled, OutcomeCancelled}, {fmt.Errorf("x: %w", context.DeadlineExceeded), OutcomeCancelled},
	} {
		if got := outcomeOf(c.err); got != c.want {
			t.Errorf("%v is %s, want %s", c.err, got, c.want)
		}
	}
}

// seen counts what the hook is told.
type seen struct {
	mu sync.Mutex
	n  map[string]int
}

func (s *seen) tell(operation Operation, outcome Outcome, took time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.n[string(operation)+" "+string(outcome)]++
	if took < 0 {
		s.n["negative"]++
	}
}

func (s *seen) count(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.n[what]
}

func TestObserve(t *testing.T) {
	t.Parallel()
	s := &seen{n: map[string]int{}}
	db := openLog(t, func(c *Config) { c.Observe = s.tell })
	if s.count("connect ok") == 0 || s.count("query ok") == 0 {
		t.Errorf("opening gave %v", s.n)
	}
	batches := s.count("batch ok")
	mustCommit(t, db, group(t, db, bare("a", 1)))
	if s.count("batch ok") <= batches {
		t.Errorf("a commit gave %v", s.n)
	}
	if _, err := db.pool.Exec(t.Context(), `SELECT 1 / 0`); err == nil || s.count("query refused") != 1 {
		t.Errorf("a division by zero: %v, %v", err, s.n)
	}
	b := &pgx.Batch{}
	b.Queue(`SELECT 1`)
	b.Queue(`INSERT INTO leader (role, epoch) VALUES ('batch', 1)`)
	if err := db.pool.SendBatch(t.Context(), b).Close(); err == nil || s.count("batch constraint") != 1 {
		t.Errorf("a row that exists: %v, %v", err, s.n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := db.pool.Exec(ctx, `SELECT 1`); err == nil {
		t.Error("a statement without its context succeeded")
	}
	if s.count("negative") != 0 {
		t.Errorf("something took less than no time: %v", s.n)
	}
}

func TestEntryTime(t *testing.T) {
	t.Parallel()
	db := openLog(t)
	later := group(t, db, bare("a", 3))
	later.Time, later.Deadline = testTime.Add(time.Hour), testTime.Add(2*time.Hour)
	mustCommit(t, db, later)
	for index, want := range []time.Time{testTime, later.Time, later.Time, later.Time} {
		if got, err := db.EntryTime(t.Context(), uint64(index)); err != nil || !got.Equal(want) || got.Location() != time.UTC {
			t.Errorf("entry %d: %v, %v; want %v", index, got, err, want)
		}
	}
	for _, index := range []uint64{4, calpe.MaxLogSize, 1 << 63} {
		if _, err := db.EntryTime(t.Context(), index); !errors.Is(err, calpe.ErrNotFound) {
			t.Errorf("entry %d: %v, want not found", index, err)
		}
	}
}

func TestPaid(t *testing.T) {
	t.Parallel()
	db, url := openAnchors(t)
	wantPaid := func(anchors, fees int64) {
		t.Helper()
		if n, sum, err := db.Anchors().Paid(t.Context()); err != nil || n != anchors || sum != fees {
			t.Errorf("%d anchors for %d sat, %v; want %d for %d", n, sum, err, anchors, fees)
		}
	}
	wantPaid(0, 0)
	postgrestest.Exec(t, url, `UPDATE attempt SET state = 'mined', taken_at = now()`)
	wantPaid(0, 0) // a block can still lose it
	postgrestest.Exec(t, url, `UPDATE attempt SET state = 'final'`)
	wantPaid(1, 161)
	postgrestest.Exec(t, url, `UPDATE attempt SET fee = NULL, imported = true`)
	wantPaid(1, 0)
}
