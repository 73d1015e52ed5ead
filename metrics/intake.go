package metrics

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/api"
	"github.com/calpe/calpe/intake"
)

type intakeMetrics struct {
	groups, entries prometheus.Counter
	failed          prometheus.Counter
	seconds, sizes  prometheus.Histogram
	submissions     *prometheus.CounterVec
	uploaded        prometheus.Counter
	stamps          *prometheus.CounterVec
	sealed          prometheus.Histogram
	sealSeconds     prometheus.Histogram
}

// What becomes of a submission, beside the error codes.
const (
	recorded = "recorded"
	existing = "existing" // it was recorded before, under the same Idempotency-Key
	failed   = "failed"
)

// Kinds of submissions.
const (
	kindDocument    = "document"
	kindCommitments = "commitments"
)

func (m *Metrics) newIntake() {
	m.intake = intakeMetrics{
		groups:      m.counter("calpe_intake_groups_total", "Groups that this server has committed."),
		entries:     m.counter("calpe_intake_entries_total", "Entries that this server has recorded."),
		failed:      m.counter("calpe_intake_commit_errors_total", "Attempts to commit a group that gave an error; most are made again."),
		seconds:     m.histogram("calpe_intake_commit_duration_seconds", "How long it took to commit a group.", callSeconds()),
		sizes:       m.histogram("calpe_intake_group_entries", "Entries in a group.", entryCounts()),
		submissions: m.counterVec("calpe_intake_submissions_total", "Documents, and groups of commitments, by what became of them: recorded, existing, or an error code.", "kind", "result"),
		uploaded:    m.counter("calpe_upload_bytes_total", "Bytes of documents that clients have sent, also of those that were refused."),
		stamps:      m.counterVec("calpe_calendar_stamps_total", "Digests that OpenTimestamps clients had stamped, or wanted to.", "result"),
		sealed:      m.histogram("calpe_seal_entries", "Entries that a checkpoint added.", entryCounts()),
		sealSeconds: m.histogram("calpe_seal_duration_seconds", "How long it took to make a checkpoint.", callSeconds()),
	}
	for _, kind := range []string{kindDocument, kindCommitments} {
		present([]string{recorded, existing, string(calpe.CodeUnavailable), string(calpe.CodeIntakeStopped), string(calpe.CodeTooManyRequests), string(calpe.CodeInternal)},
			func(result string) { m.intake.submissions.WithLabelValues(kind, result) })
	}
	present([]string{recorded, failed}, func(result string) { m.intake.stamps.WithLabelValues(result) })
}

type countedGroups struct {
	intake.Groups
	m *Metrics
}

// Groups counts what is committed.
func (m *Metrics) Groups(g intake.Groups) intake.Groups { return countedGroups{g, m} }

// CommitGroup implements [intake.Groups].
func (g countedGroups) CommitGroup(ctx context.Context, group calpe.Group) (calpe.GroupResult, error) {
	start := time.Now()
	result, err := g.Groups.CommitGroup(ctx, group)
	if err != nil {
		g.m.intake.failed.Inc()
		return result, err
	}
	g.m.intake.seconds.Observe(time.Since(start).Seconds())
	g.m.intake.groups.Inc()
	g.m.intake.sizes.Observe(float64(result.Count))
	g.m.intake.entries.Add(float64(result.Count))
	return result, nil
}

// Sealed is for [batch.SealerConfig.Sealed].
func (m *Metrics) Sealed(entries uint64, took time.Duration) {
	m.intake.sealed.Observe(float64(entries))
	m.intake.sealSeconds.Observe(took.Seconds())
}

type countedIntake struct {
	api.Intake
	m *Metrics
}

// Intake counts submissions.
func (m *Metrics) Intake(i api.Intake) api.Intake { return countedIntake{i, m} }

// Upload implements [api.Intake].
func (i countedIntake) Upload(ctx context.Context, u intake.Upload) (intake.Uploaded, error) {
	if u.Body != nil {
		u.Body = countedReader{u.Body, i.m.intake.uploaded}
	}
	done, err := i.Intake.Upload(ctx, u)
	i.m.submission(kindDocument, done.Existing, err)
	return done, err
}

// Commit implements [api.Intake].
func (i countedIntake) Commit(ctx context.Context, c intake.Commitments) (intake.Recorded, error) {
	done, err := i.Intake.Commit(ctx, c)
	i.m.submission(kindCommitments, done.Existing, err)
	return done, err
}

func (m *Metrics) submission(kind string, before bool, err error) {
	result := recorded
	switch {
	case err != nil:
		result = string(calpe.ErrorCode(err))
	case before:
		result = existing
	}
	m.intake.submissions.WithLabelValues(kind, result).Inc()
}

type countedReader struct {
	io.Reader
	bytes prometheus.Counter
}

// Read implements [io.Reader].
func (r countedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.bytes.Add(float64(n))
	return n, err
}

type countedStamps struct {
	api.Committer
	m *Metrics
}

// Stamps counts what the calendar records.
func (m *Metrics) Stamps(c api.Committer) api.Committer { return countedStamps{c, m} }

// Commit implements [api.Committer].
func (s countedStamps) Commit(ctx context.Context, c intake.Commitments) (intake.Recorded, error) {
	done, err := s.Committer.Commit(ctx, c)
	result := recorded
	if err != nil {
		result = failed
	}
	if !errors.Is(err, context.Canceled) { // the server ends
		s.m.intake.stamps.WithLabelValues(result).Add(float64(len(c.Commitments)))
	}
	return done, err
}

type countedPartials struct {
	api.Partials
	m *Metrics
}

// Partials counts what comes in pieces: bytes, and documents when they are recorded.
func (m *Metrics) Partials(p api.Partials) api.Partials { return countedPartials{p, m} }

// Append implements [api.Partials].
func (p countedPartials) Append(ctx context.Context, piece intake.Piece) (intake.PartialStatus, error) {
	if piece.Body != nil {
		piece.Body = countedReader{piece.Body, p.m.intake.uploaded}
	}
	status, err := p.Partials.Append(ctx, piece)
	if err == nil && !status.Document.IsZero() {
		p.m.submission(kindDocument, status.Document != status.ID, nil)
	}
	return status, err
}
