package postgres

import (
	"context"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Operation is what was asked of the server.
type Operation string

// The operations.
const (
	OperationQuery   Operation = "query"
	OperationBatch   Operation = "batch" // several statements in one round trip
	OperationConnect Operation = "connect"
)

// Operations lists all of them.
func Operations() []Operation {
	return []Operation{OperationQuery, OperationBatch, OperationConnect}
}

// Outcome says how an operation ended.
type Outcome string

// The outcomes. A constraint that refuses is ordinary: it is how a name that is
// taken is found out.
const (
	OutcomeOK         Outcome = "ok"
	OutcomeConstraint Outcome = "constraint" // SQLSTATE class 23
	OutcomeConflict   Outcome = "conflict"   // serialization, deadlock, lock time-out
	OutcomeTimeout    Outcome = "timeout"    // statement time-out
	OutcomeResources  Outcome = "resources"  // disk full, too many connections (class 53)
	OutcomeRefused    Outcome = "refused"    // anything else that the server says
	OutcomeConnection Outcome = "connection" // no answer: the connection failed
	OutcomeCancelled  Outcome = "cancelled"  // by whoever asked, or by a time-out of his
)

// Outcomes lists all of them.
func Outcomes() []Outcome {
	return []Outcome{
		OutcomeOK, OutcomeConstraint, OutcomeConflict, OutcomeTimeout, OutcomeResources, OutcomeRefused, OutcomeConnection, OutcomeCancelled,
	}
}

// outcomeOf classifies an error of pgx (PostgreSQL, appendix A, for the codes).
func outcomeOf(err error) Outcome {
	refusal, told := errors.AsType[*pgconn.PgError](err)
	switch {
	case err == nil || errors.Is(err, pgx.ErrNoRows):
		return OutcomeOK
	case !told && (errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)):
		return OutcomeCancelled
	case !told || len(refusal.Code) != 5:
		return OutcomeConnection
	case refusal.Code == "57014":
		return OutcomeTimeout
	case refusal.Code == "55P03":
		return OutcomeConflict
	}
	switch refusal.Code[:2] {
	case "23":
		return OutcomeConstraint
	case "40":
		return OutcomeConflict
	case "53":
		return OutcomeResources
	case "08", "57": // 57: the server shuts down or crashed
		return OutcomeConnection
	}
	return OutcomeRefused
}

// tracer tells of each operation. It looks at no statement and no argument.
type tracer struct {
	observe func(operation Operation, outcome Outcome, took time.Duration)
}

// traced is the context key of an operation that runs.
type traced struct{}

type running struct {
	start time.Time
	err   error // the first, of a batch
}

func begin(ctx context.Context) context.Context {
	return context.WithValue(ctx, traced{}, &running{start: time.Now()})
}

func (t *tracer) end(ctx context.Context, operation Operation, err error) {
	r, ok := ctx.Value(traced{}).(*running)
	if !ok {
		return
	}
	if r.err != nil {
		err = r.err
	}
	t.observe(operation, outcomeOf(err), time.Since(r.start))
}

// TraceQueryStart implements [pgx.QueryTracer].
func (t *tracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return begin(ctx)
}

// TraceQueryEnd implements [pgx.QueryTracer].
func (t *tracer) TraceQueryEnd(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryEndData) {
	t.end(ctx, OperationQuery, data.Err)
}

// TraceBatchStart implements [pgx.BatchTracer].
func (t *tracer) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return begin(ctx)
}

// TraceBatchQuery implements [pgx.BatchTracer].
func (t *tracer) TraceBatchQuery(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchQueryData) {
	if r, ok := ctx.Value(traced{}).(*running); ok && r.err == nil {
		r.err = data.Err
	}
}

// TraceBatchEnd implements [pgx.BatchTracer].
func (t *tracer) TraceBatchEnd(ctx context.Context, _ *pgx.Conn, data pgx.TraceBatchEndData) {
	t.end(ctx, OperationBatch, data.Err)
}

// TraceConnectStart implements [pgx.ConnectTracer].
func (t *tracer) TraceConnectStart(ctx context.Context, _ pgx.TraceConnectStartData) context.Context {
	return begin(ctx)
}

// TraceConnectEnd implements [pgx.ConnectTracer].
func (t *tracer) TraceConnectEnd(ctx context.Context, data pgx.TraceConnectEndData) {
	t.end(ctx, OperationConnect, data.Err)
}

var (
	_ pgx.QueryTracer   = (*tracer)(nil)
	_ pgx.BatchTracer   = (*tracer)(nil)
	_ pgx.ConnectTracer = (*tracer)(nil)
)
