package intake

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/internal/commitpoint"
	"golang.org/x/mod/sumdb/note"
)

// Groups is the log in the database, for recording.
type Groups interface {
	// CommitGroup appends a group below its limit, on its instance, durably and
	// at once. Several callers may do so at the same time. [calpe.ErrFence],
	// [calpe.ErrOtherInstance] and [calpe.ErrNotCommitted] say that nothing was
	// written and the same group may be sent again; with [calpe.ErrUnknownOutcome]
	// the result says where the group stands if it was. After any other error
	// nothing was written, and the same group would be refused again.
	CommitGroup(ctx context.Context, group calpe.Group) (calpe.GroupResult, error)
	// GroupOf is the group that holds an entry, durable as CommitGroup makes it;
	// [calpe.ErrNotFound].
	GroupOf(ctx context.Context, index uint64) (calpe.GroupRecord, error)
	NextIndex(ctx context.Context) (uint64, error)
	// Instance says which running server the database is, now.
	Instance(ctx context.Context) (calpe.Instance, error)
}

// RecorderConfig is what a [Recorder] needs.
type RecorderConfig struct {
	Log         calpe.Hash // hash of the log's identity
	Groups      Groups
	Recovery    RecoveryStore  // the same database
	Checkpoints CheckpointHead // the same database
	Fence       FenceStore
	Published   Published
	// Anchored, if set, is the largest size of this log that is known to be in
	// Bitcoin. Intake halts if the log can't reach it.
	Anchored func(ctx context.Context) (uint64, error)
	// Trustworthy, if set, is nil if the database, as it runs now, keeps what it
	// commits. Intake asks before it goes on on another instance than the fence's,
	// which may be set up in another way than the one before.
	Trustworthy func(ctx context.Context) error
	// Acknowledge signs acknowledgements, Statements what recovery declares: keys
	// of the log's identity.
	Acknowledge note.Signer
	Statements  note.Signer
	// Promise is how long after its acknowledgement a checkpoint holds an entry
	// at the latest. It must be well above the sealing interval. Default 1 h.
	Promise time.Duration
	// GroupSize is how many entries of single submissions go into one group. Default 1024.
	GroupSize int
	// Queue is how many submissions may wait, of 2^20 entries at most. No owner has
	// more of the places than are free. Default 4096.
	Queue int
	// Committers is how many groups are on their way to the database at the same
	// time. Default 2: one collects while the other commits.
	Committers int
	// CommitTimeout bounds one attempt to commit. Default 10 s.
	CommitTimeout time.Duration
	// AnswerTimeout bounds all attempts. A submission that was accepted is
	// answered within it and a CommitTimeout or two. Default 30 s.
	AnswerTimeout time.Duration
	// RetryDelay is the pause after a failed attempt to join or to raise the fence. Default 1 s.
	RetryDelay time.Duration
	// WatchInterval is how often an idle Recorder looks whether the database is
	// still the same. Default 5 s.
	WatchInterval time.Duration
	// CreateFence makes a fence for a log that has entries and no fence: the
	// operator says that nothing was ever promised beyond what the database has.
	CreateFence bool
	Now         func() time.Time // default time.Now
	Logger      *slog.Logger     // default slog.Default
}

// Recorder gives submissions their indices and signs for them. Safe for
// concurrent use. Nothing is recorded until [Recorder.Run] runs.
type Recorder struct {
	cfg   RecorderConfig
	log   *slog.Logger
	gate  *gate
	queue *queue
	done  chan struct{} // closed when Run has ended
	ran   atomic.Bool   // Run was called, or never will be
}

// NewRecorder makes a Recorder. It reads and writes nothing yet.
func NewRecorder(cfg RecorderConfig) (*Recorder, error) {
	switch {
	case cfg.Groups == nil || cfg.Recovery == nil || cfg.Checkpoints == nil || cfg.Fence == nil || cfg.Published == nil:
		return nil, errors.New("recorder: Groups, Recovery, Checkpoints, Fence and Published must be set")
	case cfg.Acknowledge == nil || cfg.Statements == nil:
		return nil, errors.New("recorder: Acknowledge and Statements must be set")
	case cfg.Log == calpe.Hash{}:
		return nil, errors.New("recorder: Log must be set")
	}
	cfg.Promise = cmp.Or(cfg.Promise, time.Hour)
	cfg.GroupSize = cmp.Or(cfg.GroupSize, 1024)
	cfg.Queue = cmp.Or(cfg.Queue, 4096)
	cfg.Committers = cmp.Or(cfg.Committers, 2)
	cfg.CommitTimeout = cmp.Or(cfg.CommitTimeout, 10*time.Second)
	cfg.AnswerTimeout = cmp.Or(cfg.AnswerTimeout, 30*time.Second)
	cfg.RetryDelay = cmp.Or(cfg.RetryDelay, time.Second)
	cfg.WatchInterval = cmp.Or(cfg.WatchInterval, 5*time.Second)
	cfg.Logger = cmp.Or(cfg.Logger, slog.Default())
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.GroupSize < 2 || cfg.GroupSize > calpe.MaxGroup || cfg.Queue < 1 || cfg.Committers < 1 {
		return nil, fmt.Errorf("recorder: GroupSize %d, Queue %d or Committers %d is out of range", cfg.GroupSize, cfg.Queue, cfg.Committers)
	}
	if cfg.Promise < time.Second || cfg.CommitTimeout < 0 || cfg.AnswerTimeout < 0 || cfg.RetryDelay < 0 || cfg.WatchInterval < 0 {
		return nil, errors.New("recorder: Promise is below a second, or another duration is negative")
	}
	r := &Recorder{cfg: cfg, log: cfg.Logger, queue: newQueue(cfg.Queue), done: make(chan struct{})}
	r.gate = newGate(&r.cfg)
	return r, nil
}

// Run compares database and fence, recovers if need be, and records until ctx is
// done or [Recorder.Stop] has been called and what was accepted is recorded.
// When ctx is done, groups that are on their way are still finished and
// answered; whoever waits behind them gets [calpe.CodeUnavailable]. Run doesn't
// return when intake is halted: reading goes on, see [Recorder.Status]. It may be
// called once.
func (r *Recorder) Run(ctx context.Context) error {
	if !r.ran.CompareAndSwap(false, true) {
		return errors.New("recorder: Run was called before, or Stop")
	}
	defer close(r.done)
	loop, stop := context.WithCancel(ctx)
	defer stop()
	var gate, committers sync.WaitGroup
	gate.Go(func() { r.gate.run(loop) })
	for range r.cfg.Committers {
		committers.Go(func() { r.commitGroups(ctx) })
	}
	committers.Wait()
	stop()
	gate.Wait()
	r.queue.close()
	for done := false; !done; {
		var rest []*waiter
		rest, done = r.queue.take(r.cfg.GroupSize)
		r.fail(rest, refusal(errStopped))
	}
	return nil
}

// Stop accepts nothing new from now on, and returns when everything that was
// accepted has its answer and Run has ended, or when ctx is done.
func (r *Recorder) Stop(ctx context.Context) error {
	r.queue.close()
	if r.ran.CompareAndSwap(false, true) {
		close(r.done) // there is nothing to wait for
	}
	select {
	case <-r.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop recorder: %w", ctx.Err())
	}
}

// Halt stops intake until the process is started again, for a reason that an
// operator must look at. Groups that are already in the database's hands are
// still answered.
func (r *Recorder) Halt(reason error) { r.gate.halt(reason) }

// Recheck stops intake until the database has been compared with the fence, the
// published log and the anchors, as at the start: it is recovered if it has gone
// back, or intake is halted if that can't be. During such a comparison it does
// nothing, so whoever still has the reason afterwards calls it again.
func (r *Recorder) Recheck(reason error) { r.gate.doubtNow(reason) }

// Status is what the Recorder is doing, for a readiness check.
type Status struct {
	State  State
	Reason error  // why State isn't open
	Limit  uint64 // the fence
	Next   uint64 // no index below is free, as far as this process knows
	Epoch  uint64 // how many recoveries the log has had
	Queued int    // submissions that wait to be recorded
}

// Ready is nil if submissions are recorded, else why not.
func (s Status) Ready() error {
	if s.State == StateOpen {
		return nil
	}
	return fmt.Errorf("intake is %s: %w", s.State, s.Reason)
}

// Status of this moment.
func (r *Recorder) Status() Status {
	queued := r.queue.length()
	g := r.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	return Status{State: g.state, Reason: g.reason, Limit: g.fence.Limit, Next: g.seen, Epoch: g.fence.Epoch, Queued: queued}
}

// ErrMaybeRecorded is in the chain of an error after which the submission may be
// in the log all the same, or still get there: nothing that it names may be
// deleted. Asking again with the same Idempotency-Key tells.
var ErrMaybeRecorded = errors.New("the submission may have been recorded")

// Recorded is what became of a submission.
type Recorded struct {
	First    uint64 // index of its first entry; the others follow
	Count    uint64 // of its entries
	Existing bool   // it was recorded before, under the same Idempotency-Key
	// Document of the earlier request, if Existing.
	Document        calpe.DocumentID
	Acknowledgement Acknowledgement
}

// Record waits until the submission is in the log, durably, and signed for. The
// same Idempotency-Key with the same request gives the same answer, with
// another request [calpe.CodeIdempotencyMismatch].
//
// Errors are a [calpe.Error]: too-many-requests (the queue is full), unavailable,
// intake-stopped (halted), invalid-request. Unless [ErrMaybeRecorded] is in the
// chain the submission was not recorded. If ctx ends the caller has no answer,
// but the submission goes on.
func (r *Recorder) Record(ctx context.Context, submission calpe.Submission) (Recorded, error) {
	if err := submission.Check(); err != nil {
		return Recorded{}, &calpe.Error{Code: calpe.CodeInvalidRequest, Message: "the submission can't be recorded as it is: " + err.Error(), Err: err}
	}
	if err := r.ready(); err != nil {
		return Recorded{}, err
	}
	w := &waiter{submission: submission, answer: make(chan answer, 1)}
	switch full, closed := r.queue.push(w); {
	case full:
		return Recorded{}, calpe.Errorf(calpe.CodeTooManyRequests, "too many submissions are waiting already")
	case closed:
		return Recorded{}, refusal(errStopped)
	}
	select {
	case a := <-w.answer:
		return r.recorded(ctx, submission, a)
	case <-ctx.Done():
		return Recorded{}, maybe(context.Cause(ctx))
	}
}

// ready is nil while submissions are taken.
func (r *Recorder) ready() error {
	if _, _, err := r.gate.tryAdmit(); err != nil {
		return refusal(err)
	}
	return nil
}

// Wait returns nil as soon as submissions are taken, or why they won't be: for
// a program that records one thing and ends.
func (r *Recorder) Wait(ctx context.Context) error {
	if _, err := r.gate.admit(ctx); err != nil {
		return refusal(err)
	}
	return nil
}

// recorded turns an answer into what the caller gets.
func (r *Recorder) recorded(ctx context.Context, submission calpe.Submission, a answer) (Recorded, error) {
	if a.err != nil {
		return Recorded{}, a.err
	}
	if a.existing == nil {
		return Recorded{First: a.first, Count: uint64(len(submission.Commitments)), Acknowledgement: a.ack}, nil
	}
	return r.existing(ctx, submission.Idempotency.RequestTag, *a.existing)
}

// existing is the answer that an earlier request was given, if tag says that
// this is the same one.
func (r *Recorder) existing(ctx context.Context, tag []byte, earlier calpe.Idempotency) (Recorded, error) {
	if !bytes.Equal(tag, earlier.RequestTag) {
		return Recorded{}, calpe.Errorf(calpe.CodeIdempotencyMismatch, "the Idempotency-Key was used for another request before")
	}
	return r.again(ctx, earlier)
}

// again is the answer that an earlier request was given.
func (r *Recorder) again(ctx context.Context, earlier calpe.Idempotency) (Recorded, error) {
	ack, err := r.AcknowledgementOf(ctx, earlier.First)
	if err != nil {
		return Recorded{}, err
	}
	return Recorded{First: earlier.First, Count: earlier.Count, Existing: true, Document: earlier.Document, Acknowledgement: ack}, nil
}

// refusal is the error for a submission that was not recorded.
func refusal(reason error) *calpe.Error {
	switch {
	case haltsFor(reason):
		return &calpe.Error{Code: calpe.CodeIntakeStopped, Message: "nothing new is recorded until the operator has looked", Err: reason}
	case errors.Is(reason, errJoining):
		return &calpe.Error{Code: calpe.CodeUnavailable, Message: "the log is being checked after a restart of the database; try again in a moment", Err: reason}
	case errors.Is(reason, errStopped):
		return &calpe.Error{Code: calpe.CodeUnavailable, Message: "the server is shutting down; try again", Err: reason}
	}
	return &calpe.Error{Code: calpe.CodeUnavailable, Message: "the database can't record anything now; try again", Err: reason}
}

// maybe is the error for a submission of which nobody knows.
func maybe(reason error) *calpe.Error {
	return &calpe.Error{
		Code: calpe.CodeUnavailable, Message: "it isn't known whether the submission was recorded; try again with the same Idempotency-Key",
		Err: fmt.Errorf("%w: %w", ErrMaybeRecorded, reason),
	}
}

// fail answers waiters with an error.
func (r *Recorder) fail(waiters []*waiter, err error) {
	for _, w := range waiters {
		w.answer <- answer{err: err}
	}
}

// commitGroups takes and commits groups until ctx is done or nothing more comes.
func (r *Recorder) commitGroups(ctx context.Context) {
	for ctx.Err() == nil {
		waiters, done := r.queue.take(r.cfg.GroupSize)
		if len(waiters) > 0 {
			r.commit(ctx, waiters)
		}
		if done {
			return
		}
		if len(waiters) > 0 {
			continue
		}
		select {
		case <-ctx.Done():
		case <-r.queue.ready:
		}
	}
}

// commit records the waiters as one group and answers them. If the group breaks
// a rule of the database, each is tried alone: one bad submission harms nobody else.
func (r *Recorder) commit(ctx context.Context, waiters []*waiter) {
	group := r.newGroup(waiters)
	result, err := r.persist(ctx, group)
	if err == nil {
		r.answer(group, waiters, result)
		return
	}
	if _, told := errors.AsType[*calpe.Error](err); !told && len(waiters) > 1 {
		for i := range waiters {
			r.commit(ctx, waiters[i:i+1])
		}
		return
	}
	r.fail(waiters, r.refused(err))
}

// refused is what to tell the waiters after an error of persist.
func (r *Recorder) refused(err error) error {
	if _, told := errors.AsType[*calpe.Error](err); told {
		return err
	}
	if errors.Is(err, calpe.ErrExists) {
		return &calpe.Error{Code: calpe.CodeInvalidRequest, Message: "something of that name exists already", Err: err}
	}
	r.log.Error("the database refuses a submission", slog.Any("error", err))
	return &calpe.Error{Code: calpe.CodeInternal, Message: "the submission was refused by the database", Err: err}
}

func (r *Recorder) newGroup(waiters []*waiter) calpe.Group {
	now := r.cfg.Now().UTC().Truncate(time.Second)
	group := calpe.Group{ID: newGroupID(), Time: now, Deadline: now.Add(r.cfg.Promise).Truncate(time.Second)}
	for _, w := range waiters {
		group.Submissions = append(group.Submissions, w.submission)
	}
	return group
}

// persist brings the group into the log, once. It goes on when ctx is done, for
// a time that is bounded: the group may be in the log by then. A [calpe.Error] is
// what all waiters are to be told; any other error says that the database will
// never take this group.
func (r *Recorder) persist(ctx context.Context, group calpe.Group) (calpe.GroupResult, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), r.cfg.AnswerTimeout)
	defer cancel()
	for delay := 10 * time.Millisecond; ; delay = min(2*delay, r.cfg.RetryDelay) {
		p, err := r.gate.admit(ctx)
		if err != nil {
			return calpe.GroupResult{}, refusal(err)
		}
		group.Limit, group.Instance = p.limit, p.instance
		result, err := r.attempt(ctx, group)
		switch {
		case err == nil:
			return result, r.grew(p, result)
		case errors.Is(err, calpe.ErrUnknownOutcome):
			r.gate.doubt(p.generation, err)
			if found, err := r.find(ctx, group.ID, result.First); found || err != nil {
				return result, err
			}
		case errors.Is(err, calpe.ErrOtherInstance):
			r.gate.doubt(p.generation, err)
		case errors.Is(err, calpe.ErrFence):
			if err := r.gate.raise(ctx, p.limit, entriesOf(group)); err != nil {
				return calpe.GroupResult{}, r.halted(err)
			}
		case errors.Is(err, calpe.ErrNotCommitted):
			r.log.Warn("a group was not committed, trying again", slog.Any("error", err))
			if !pause(ctx, delay) {
				return calpe.GroupResult{}, refusal(err)
			}
		default:
			return calpe.GroupResult{}, err
		}
	}
}

// halted halts intake if err is a reason to, and gives what to tell the waiters.
func (r *Recorder) halted(err error) error {
	if haltsFor(err) {
		r.gate.halt(err)
	}
	return refusal(err)
}

// find learns what became of a group whose outcome is unknown, once the database
// has been compared with the fence again. It looks under the intake lock, where
// whatever transaction was still open is over. The error is for the waiters.
func (r *Recorder) find(ctx context.Context, id calpe.GroupID, first uint64) (found bool, err error) {
	if _, err := r.gate.admit(ctx); err != nil {
		return false, maybe(err)
	}
	err = r.cfg.Recovery.WithIntakeLock(ctx, func(ctx context.Context) error {
		record, err := r.cfg.Groups.GroupOf(ctx, first)
		if errors.Is(err, calpe.ErrNotFound) {
			return nil
		}
		found = err == nil && record.ID == id
		return err
	})
	if err != nil {
		return false, maybe(fmt.Errorf("look for the group: %w", err))
	}
	return found, nil
}

// attempt is one CommitGroup. The adapter reaches the commit points around COMMIT.
func (r *Recorder) attempt(ctx context.Context, group calpe.Group) (calpe.GroupResult, error) {
	ctx, cancel := context.WithTimeout(ctx, r.cfg.CommitTimeout)
	defer cancel()
	return r.cfg.Groups.CommitGroup(ctx, group)
}

// grew compares where the group went with what was seen before it was sent. On
// one instance the log can only grow: if it didn't, a machine was set back with
// all its memory, and the group's indices may have been promised already.
func (r *Recorder) grew(p pass, result calpe.GroupResult) error {
	if result.Count == 0 || result.First >= p.seen {
		r.gate.committed(result.First + result.Count)
		return nil
	}
	err := fmt.Errorf("%w: a group got index %d after the log had %d entries", ErrForked, result.First, p.seen)
	r.gate.halt(err)
	return &calpe.Error{Code: calpe.CodeIntakeStopped, Message: refusal(err).Message, Err: fmt.Errorf("%w: %w", ErrMaybeRecorded, err)}
}

func entriesOf(group calpe.Group) (n uint64) {
	for _, s := range group.Submissions {
		n += uint64(len(s.Commitments))
	}
	return n
}

// pause waits for d; false if ctx ends before.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// answer signs for the group and answers everybody in it.
func (r *Recorder) answer(group calpe.Group, waiters []*waiter, result calpe.GroupResult) {
	var ack signedGroup
	if result.Count > 0 {
		var err error
		if ack, err = r.sign(result.First, result.Commitments, group.Time, group.Deadline); err != nil {
			r.log.Error("the group is recorded, but can't be signed for", slog.Uint64("first", result.First), slog.Any("error", err))
			r.fail(waiters, maybe(err))
			return
		}
	}
	for i, w := range waiters {
		s := result.Submissions[i]
		if s.Existing != nil {
			w.answer <- answer{existing: s.Existing}
			continue
		}
		w.answer <- answer{first: s.First, ack: ack.of(s.First)}
	}
	// Crash here: recorded, and signed for towards some. The signatures can be
	// computed again from the group's row (AcknowledgementOf).
	commitpoint.Reached(commitpoint.GroupAnswered)
}
