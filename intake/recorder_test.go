package intake_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/batch/batchtest"
	"github.com/calpe/calpe/intake"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/statement"
	"github.com/google/go-cmp/cmp"
)

func TestRecordTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		started, goOn := make(chan struct{}), make(chan struct{})
		p := w.start(t, new(batchtest.Faults), func(c *intake.RecorderConfig) {
			c.GroupSize, c.Committers = 50, 1
			c.Groups = slow{c.Groups.(batchtest.Database), started, goOn}
		})
		var wg sync.WaitGroup
		wg.Go(func() { p.mustSubmit(t, 1) })
		<-started
		for range 500 {
			wg.Go(func() {
				if _, err := p.submit(t); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		close(goOn)
		wg.Wait()
		w.check(t)
		if got := w.state.Next(); got != 502 {
			t.Errorf("%d entries, want 502", got)
		}
		for _, g := range w.state.Groups() {
			if len(g.Commitments) > 50 {
				t.Errorf("a group has %d entries", len(g.Commitments))
			}
		}
		if n := len(w.state.Groups()); n != 2+10 { // entry 0, the one in front, 500 in groups of 50
			t.Errorf("%d groups for 500 submissions at once", n)
		}
	})
}

func TestAcknowledgement(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.start(t, new(batchtest.Faults), func(c *intake.RecorderConfig) { c.Promise = 90 * time.Minute })
		bulk := calpe.Submission{}
		for i := range uint64(1000) {
			bulk.Commitments = append(bulk.Commitments, batchtest.Commitment(1000+i))
		}
		var answers []intake.Recorded
		var mu sync.Mutex
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				_, _ = p.submit(t)
				r, err := p.Record(t.Context(), bulk)
				if err != nil {
					t.Error(err)
					return
				}
				w.promise(t, r, bulk.Commitments...)
				mu.Lock()
				answers = append(answers, r)
				mu.Unlock()
			})
		}
		wg.Wait()
		for _, r := range answers {
			if r.Acknowledgement.First != r.First || r.Acknowledgement.Count != 1000 {
				t.Errorf("a bulk request at %d shares its group: %d entries from %d", r.First, r.Acknowledgement.Count, r.Acknowledgement.First)
			}
			for _, i := range []uint64{0, 1, 511, 999} {
				again, err := p.AcknowledgementOf(t.Context(), r.First+i)
				if err != nil {
					t.Fatal(err)
				}
				if string(again.Note) != string(r.Acknowledgement.Note) {
					t.Errorf("another note for entry %d than was given", r.First+i)
				}
				ack, err := receipt.VerifyAcknowledged(calpe.Entry{Index: r.First + i, Commitment: bulk.Commitments[i]}, again.Note, again.Path, w.log.Identity)
				if err != nil || ack.Deadline.Sub(ack.Time) != 90*time.Minute {
					t.Errorf("acknowledgement %+v: %v", ack, err)
				}
			}
		}
		if _, err := p.AcknowledgementOf(t.Context(), w.state.Next()); code(err) != calpe.CodeNotFound {
			t.Errorf("acknowledgement of an entry that isn't there: %v", err)
		}
		w.check(t)
	})
}

// TestBulkBetweenOthers: whatever waits beside it, a bulk request is alone.
func TestBulkBetweenOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		started, goOn := make(chan struct{}), make(chan struct{})
		p := w.start(t, new(batchtest.Faults), func(c *intake.RecorderConfig) {
			c.Committers = 1
			c.Groups = slow{c.Groups.(batchtest.Database), started, goOn}
		})
		var wg sync.WaitGroup
		wg.Go(func() { p.mustSubmit(t, 1) })
		<-started
		for _, n := range []int{1, 1, 5, 1} {
			wg.Go(func() {
				commitments := make([]calpe.Commitment, n)
				for i := range commitments {
					commitments[i] = batchtest.Commitment(uint64(100*n + i))
				}
				if _, err := p.Record(t.Context(), calpe.Submission{Commitments: commitments}); err != nil {
					t.Error(err)
				}
			})
			synctest.Wait() // keeps the order
		}
		close(goOn)
		wg.Wait()
		var got []int
		for _, g := range w.state.Groups()[2:] {
			got = append(got, len(g.Commitments))
		}
		if want := []int{2, 5, 1}; !slices.Equal(got, want) {
			t.Errorf("groups of %v, want %v", got, want)
		}
	})
}

// TestFenceWrittenWithoutAnswer: the fence was replaced, and the answer lost. That
// is seen at once, not after a pause.
func TestFenceWrittenWithoutAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.start(t, batchtest.At(1, batchtest.Applied))
		p.wantState(t, intake.StateOpen)
		w.check(t)
	})
}

func TestRefusedSubmissions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.start(t, new(batchtest.Faults))
		for name, commitments := range map[string][]calpe.Commitment{
			"none": nil, "void": {calpe.VoidCommitment}, "one of them void": {batchtest.Commitment(1), calpe.VoidCommitment},
			"too many": make([]calpe.Commitment, calpe.MaxGroup+1),
		} {
			if _, err := p.Record(t.Context(), calpe.Submission{Commitments: commitments}); code(err) != calpe.CodeInvalidRequest {
				t.Errorf("%s: %v", name, err)
			}
		}
		if got := w.state.Next(); got != 1 {
			t.Errorf("%d entries", got)
		}
	})
}

func TestIdempotency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.start(t, new(batchtest.Faults))
		submission := func(owner, tag string, n uint64) calpe.Submission {
			return calpe.Submission{
				Commitments: []calpe.Commitment{batchtest.Commitment(n)},
				Idempotency: &calpe.Idempotency{Owner: owner, KeyHash: calpe.Hash{7}, RequestTag: []byte(tag + "0123456789abcdef")},
			}
		}
		first, err := p.Record(t.Context(), submission("a", "x", 1))
		if err != nil {
			t.Fatal(err)
		}
		w.promise(t, first, batchtest.Commitment(1))
		p.mustSubmit(t, 3)
		again, err := p.Record(t.Context(), submission("a", "x", 2)) // another salt, so another commitment
		if err != nil || !again.Existing {
			t.Fatalf("%+v, %v", again, err)
		}
		first.Existing = true
		if diff := cmp.Diff(first, again); diff != "" {
			t.Error(diff)
		}
		if _, err := p.Record(t.Context(), submission("a", "y", 1)); code(err) != calpe.CodeIdempotencyMismatch {
			t.Errorf("another request with the same key: %v", err)
		}
		other, err := p.Record(t.Context(), submission("b", "y", 5))
		if err != nil || other.Existing {
			t.Errorf("another owner: %+v, %v", other, err)
		}
		// Many at the same time: one wins, all get its answer.
		var mu sync.Mutex
		indices := make(map[uint64]bool)
		var wg sync.WaitGroup
		for i := range uint64(20) {
			wg.Go(func() {
				r, err := p.Record(t.Context(), submission("c", "z", 100+i))
				if err != nil {
					t.Error(err)
				}
				mu.Lock()
				indices[r.First] = true
				mu.Unlock()
			})
		}
		wg.Wait()
		if len(indices) != 1 {
			t.Errorf("one request has the indices %v", indices)
		}
		w.check(t)
	})
}

// TestWriteFaults spoils every write of a server that starts, records and raises
// the fence, in every way, and lets it go on or starts the next.
func TestWriteFaults(t *testing.T) {
	const entries = 300 // more than the first step of the fence
	run := func(t *testing.T, n int, fault batchtest.Fault) (writes []string) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			p := w.start(t, batchtest.At(n, fault))
			batchtest.Pass(2 * time.Second) // if the fence could not be written at first
			for range entries {
				if _, err := p.submit(t); err != nil && code(err) != calpe.CodeUnavailable {
					t.Fatal(err)
				}
			}
			writes = p.faults.Writes()
			if fault != batchtest.DieBefore && fault != batchtest.DieAfter {
				p.wantState(t, intake.StateOpen)
				p.mustSubmit(t, 1)
				w.check(t)
			}
			p.kill()
			next := w.start(t, new(batchtest.Faults))
			next.wantState(t, intake.StateOpen)
			next.mustSubmit(t, 3)
			w.check(t)
			if r := w.recoveries(t); len(r) > 0 {
				t.Errorf("the instance was the same, and there is a recovery: %+v", r)
			}
			seen := make(map[calpe.Commitment]int)
			for i, c := range w.state.Commitments() {
				if at, ok := seen[c]; ok {
					t.Errorf("commitment of entry %d is also entry %d", at, i)
				}
				seen[c] = i
			}
		})
		return writes
	}
	writes := run(t, 0, batchtest.None)
	if len(writes) < entries+2 { // the fence, the commits, and the fence again
		t.Fatalf("%d writes", len(writes))
	}
	tried := make(map[string]int)
	for i, name := range writes {
		if tried[name]++; name == "commit" && tried[name] > 3 && writes[i-1] == "commit" {
			continue // like those before
		}
		for _, fault := range []batchtest.Fault{batchtest.NotApplied, batchtest.Applied, batchtest.Vanished, batchtest.DieBefore, batchtest.DieAfter} {
			t.Run(fmt.Sprintf("%d %s fault %d", i+1, name, fault), func(t *testing.T) { run(t, i+1, fault) })
		}
	}
}

// TestUnknownOutcome: the answer to COMMIT is lost together with the server. What
// was committed is answered, what was not is committed once more.
func TestUnknownOutcome(t *testing.T) {
	for _, tt := range []struct {
		name    string
		fault   batchtest.Fault
		restart bool
		back    uint64 // unless 0: the size that the database goes back to
	}{
		{"committed", batchtest.Applied, false, 0},
		{"not committed", batchtest.Vanished, false, 0},
		{"committed, server restarted", batchtest.Applied, true, 0},
		{"not committed, server restarted", batchtest.Vanished, true, 0},
		{"committed and lost", batchtest.Applied, true, 3},
		{"committed and lost with another", batchtest.Applied, true, 2},
		{"committed and lost with another, on the same instance", batchtest.Applied, false, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				faults := batchtest.At(4, tt.fault) // fence, two commits, this one
				p := w.start(t, faults, func(c *intake.RecorderConfig) {
					c.Groups = spoiling{c.Groups.(batchtest.Database), func(err error) {
						if !errors.Is(err, calpe.ErrUnknownOutcome) {
							return
						}
						if tt.back > 0 {
							w.state.GoBack(tt.back)
						}
						if tt.restart {
							w.state.Restart()
						}
					}}
				})
				p.mustSubmit(t, 2)
				r, err := p.submit(t)
				if err != nil {
					t.Fatal(err)
				}
				if committed := tt.fault == batchtest.Applied && tt.back == 0; committed && r.First != 3 {
					t.Errorf("committed as entry 3, answered %d", r.First)
				}
				p.wantState(t, intake.StateOpen)
				p.mustSubmit(t, 2)
				w.check(t)
			})
		})
	}
}

// spoiling calls a function with the error of every commit.
type spoiling struct {
	batchtest.Database
	after func(error)
}

func (s spoiling) CommitGroup(ctx context.Context, g calpe.Group) (calpe.GroupResult, error) {
	r, err := s.Database.CommitGroup(ctx, g)
	s.after(err)
	return r, err
}

// TestUnansweredUnknown: as long as nobody knows, nobody is told an index.
func TestUnansweredUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.start(t, batchtest.At(2, batchtest.DieAfter))
		_, err := p.submit(t)
		if code(err) != calpe.CodeUnavailable || !errors.Is(err, intake.ErrMaybeRecorded) {
			t.Fatalf("got %v", err)
		}
		if w.state.Next() != 2 {
			t.Fatal("the commit was not applied")
		}
		if _, err := p.submit(t); code(err) != calpe.CodeUnavailable || errors.Is(err, intake.ErrMaybeRecorded) {
			t.Fatalf("while joining: %v", err)
		}
	})
}

// TestClientHangsUp harms nobody, and what was sent is recorded.
func TestClientHangsUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		started, goOn := make(chan struct{}), make(chan struct{})
		p := w.start(t, new(batchtest.Faults), func(c *intake.RecorderConfig) {
			c.Committers = 1
			c.Groups = slow{c.Groups.(batchtest.Database), started, goOn}
		})
		ctx, hangUp := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() {
			_, err := p.Record(ctx, calpe.Submission{Commitments: []calpe.Commitment{batchtest.Commitment(77)}})
			ended <- err
		}()
		<-started
		hangUp()
		if err := <-ended; !errors.Is(err, intake.ErrMaybeRecorded) || !errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		close(goOn)
		p.mustSubmit(t, 1)
		if c := w.state.Commitments(); !slices.Contains(c, batchtest.Commitment(77)) {
			t.Error("what was sent is not recorded")
		}
		w.check(t)
	})
}

// slow says when a commit has started and waits before it goes on.
type slow struct {
	batchtest.Database
	started chan struct{}
	goOn    chan struct{}
}

func (s slow) CommitGroup(ctx context.Context, g calpe.Group) (calpe.GroupResult, error) {
	select {
	case s.started <- struct{}{}:
	case <-s.goOn:
	}
	<-s.goOn
	return s.Database.CommitGroup(ctx, g)
}

func TestQueueIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		started, goOn := make(chan struct{}), make(chan struct{})
		p := w.start(t, new(batchtest.Faults), func(c *intake.RecorderConfig) {
			c.Committers, c.Queue = 1, 3
			c.Groups = slow{c.Groups.(batchtest.Database), started, goOn}
		})
		var wg sync.WaitGroup
		wg.Go(func() { p.mustSubmit(t, 1) })
		<-started
		for range 3 {
			wg.Go(func() { p.mustSubmit(t, 1) })
		}
		synctest.Wait()
		if got := p.Status().Queued; got != 3 {
			t.Errorf("%d are said to wait", got)
		}
		if _, err := p.submit(t); code(err) != calpe.CodeTooManyRequests {
			t.Errorf("got %v", err)
		}
		close(goOn)
		wg.Wait()
		w.check(t)
	})
}

// TestBulkIsBounded: requests with many commitments wait in the queue even when
// their clients have gone, so their number alone bounds nothing.
func TestBulkIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		started, goOn := make(chan struct{}), make(chan struct{})
		p := w.start(t, new(batchtest.Faults), func(c *intake.RecorderConfig) {
			c.Committers, c.AnswerTimeout = 1, time.Hour
			c.Groups = slow{c.Groups.(batchtest.Database), started, goOn}
		})
		var wg sync.WaitGroup
		wg.Go(func() { p.mustSubmit(t, 1) })
		<-started
		bulk := calpe.Submission{Commitments: make([]calpe.Commitment, calpe.MaxGroup)}
		for i := range bulk.Commitments {
			bulk.Commitments[i] = calpe.Commitment{1}
		}
		ctx, cancel := context.WithCancel(t.Context())
		taken := 0
		for range 20 {
			gone := make(chan error)
			go func() {
				_, err := p.Record(ctx, bulk)
				gone <- err
			}()
			synctest.Wait()
			select {
			case err := <-gone:
				if code(err) != calpe.CodeTooManyRequests {
					t.Errorf("bulk %d: %v", taken, err)
				}
			default:
				taken++
				wg.Go(func() { <-gone })
			}
		}
		if taken != 16 {
			t.Errorf("%d requests of %d commitments wait, want 16", taken, calpe.MaxGroup)
		}
		wg.Go(func() { p.mustSubmit(t, 1) }) // there is a place for a small one all the same
		synctest.Wait()
		cancel()
		close(goOn)
		wg.Wait()
	})
}

func TestStopDrains(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		started, goOn := make(chan struct{}), make(chan struct{})
		p := w.start(t, new(batchtest.Faults), func(c *intake.RecorderConfig) {
			c.Committers = 1
			c.Groups = slow{c.Groups.(batchtest.Database), started, goOn}
		})
		var wg sync.WaitGroup
		wg.Go(func() { p.mustSubmit(t, 1) })
		<-started
		for range 5 {
			wg.Go(func() { p.mustSubmit(t, 1) })
		}
		synctest.Wait()
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.Stop(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("stop with work left: %v", err)
		}
		if _, err := p.submit(t); code(err) != calpe.CodeUnavailable || errors.Is(err, intake.ErrMaybeRecorded) {
			t.Errorf("after stop: %v", err)
		}
		close(goOn)
		if err := p.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		wg.Wait()
		if w.state.Next() != 7 {
			t.Errorf("%d entries", w.state.Next())
		}
		w.check(t)
		p.wantState(t, intake.StateStopped)
		if err := p.Run(t.Context()); err == nil {
			t.Error("Run ran a second time")
		}
	})
}

// TestContextEnds: the group on its way is answered, who waits behind it is told
// that nothing was recorded.
func TestContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		started, goOn := make(chan struct{}), make(chan struct{})
		p := w.start(t, new(batchtest.Faults), func(c *intake.RecorderConfig) {
			c.Committers = 1
			c.Groups = slow{c.Groups.(batchtest.Database), started, goOn}
		})
		var wg sync.WaitGroup
		wg.Go(func() { p.mustSubmit(t, 1) })
		<-started
		for range 5 {
			wg.Go(func() {
				if _, err := p.submit(t); code(err) != calpe.CodeUnavailable || errors.Is(err, intake.ErrMaybeRecorded) {
					t.Errorf("waiter behind: %v", err)
				}
			})
		}
		synctest.Wait()
		p.cancel()
		close(goOn)
		wg.Wait()
		<-p.ended
		if w.state.Next() != 2 {
			t.Errorf("%d entries", w.state.Next())
		}
	})
}

func TestNeverRun(t *testing.T) {
	w := newWorld(t)
	r, err := intake.NewRecorder(w.config(new(batchtest.Faults)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Record(t.Context(), calpe.Submission{Commitments: []calpe.Commitment{{1}}}); code(err) != calpe.CodeUnavailable {
		t.Errorf("record: %v", err)
	}
	if err := r.Stop(t.Context()); err != nil {
		t.Errorf("stop: %v", err)
	}
}

func TestHalt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.start(t, new(batchtest.Faults))
		p.mustSubmit(t, 2)
		p.Halt(fmt.Errorf("sealer: %w", intake.ErrForked))
		if _, err := p.submit(t); code(err) != calpe.CodeIntakeStopped {
			t.Errorf("record: %v", err)
		}
		if err := p.Wait(t.Context()); code(err) != calpe.CodeIntakeStopped {
			t.Errorf("wait: %v", err)
		}
		w.state.Restart()
		p.wantState(t, intake.StateHalted)
		if _, err := p.AcknowledgementOf(t.Context(), 1); err != nil {
			t.Errorf("reading: %v", err)
		}
	})
}

// TestRecheck: who finds an anchor above the log's head makes intake compare. A
// database that has gone back is recovered, and halts nothing for good.
func TestRecheck(t *testing.T) {
	reason := errors.New("a block holds an anchor of 31 entries")
	for _, tt := range []struct {
		name     string
		size     uint64 // of the older database
		anchored uint64
		want     intake.State
	}{
		{"nothing is missing", 41, 31, intake.StateOpen},
		{"older database", 20, 31, intake.StateOpen},
		{"older database, more anchored than is published", 20, 32, intake.StateHalted},
		{"more anchored than there ever was", 41, 42, intake.StateHalted},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := before(t, true)
				var anchored atomic.Uint64
				p := w.start(t, new(batchtest.Faults), func(c *intake.RecorderConfig) {
					c.Anchored = func(context.Context) (uint64, error) { return anchored.Load(), nil }
				})
				p.wantState(t, intake.StateOpen)
				w.state.GoBack(tt.size)
				anchored.Store(tt.anchored)
				p.Recheck(reason)
				if r, err := p.submit(t); err == nil && r.First < 41 {
					t.Fatalf("index %d was handed out twice", r.First)
				}
				synctest.Wait()
				p.wantState(t, tt.want)
				if tt.want == intake.StateHalted {
					if err := p.Status().Reason; !errors.Is(err, intake.ErrAheadOfLog) {
						t.Errorf("halted for %v", err)
					}
					return
				}
				p.mustSubmit(t, 3)
				w.check(t)
			})
		})
	}
}

// TestBadSubmissionHarmsNobody: one that the database refuses is in a group with others.
func TestBadSubmissionHarmsNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		started, goOn := make(chan struct{}), make(chan struct{})
		p := w.start(t, new(batchtest.Faults), func(c *intake.RecorderConfig) {
			c.Committers = 1
			c.Groups = slow{c.Groups.(batchtest.Database), started, goOn}
		})
		var wg sync.WaitGroup
		wg.Go(func() { p.mustSubmit(t, 1) })
		<-started
		bad := calpe.Submission{
			Commitments: []calpe.Commitment{{1}},
			Document: &calpe.Document{
				ID: calpe.DocumentID{1}, Owner: "poison", Sealed: []byte{1}, DigestTag: make([]byte, 16), Created: time.Now(), RetainUntil: time.Now(),
				Object: calpe.Object{Name: "x", VersionID: "v", PlainSize: 1, Size: 1, PartSize: 1, Checksum: "c"},
			},
			Key: &calpe.WrappedKey{KeyID: "k", Wrapped: make([]byte, 32)},
		}
		wg.Go(func() {
			if _, err := p.Record(t.Context(), bad); code(err) != calpe.CodeInvalidRequest || errors.Is(err, intake.ErrMaybeRecorded) {
				t.Errorf("bad submission: %v", err)
			}
		})
		for range 5 {
			wg.Go(func() { p.mustSubmit(t, 1) })
		}
		synctest.Wait()
		close(goOn)
		wg.Wait()
		w.check(t)
		if w.state.Next() != 7 {
			t.Errorf("%d entries", w.state.Next())
		}
	})
}

func TestRegisterAgency(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.start(t, new(batchtest.Faults))
		if err := p.Wait(t.Context()); err != nil {
			t.Fatal(err)
		}
		body := statement.Agency{Agency: "town-hall", Name: "Town hall", Key: batchtest.Key(t, "town-hall").Verifier()}
		r, err := p.RegisterAgency(t.Context(), body)
		if err != nil {
			t.Fatal(err)
		}
		agency, err := batchtest.Database{State: w.state, Faults: p.faults}.Agency(t.Context(), "town-hall")
		if err != nil || agency.Statement != r.First || agency.Key != body.Key || agency.Name != body.Name {
			t.Errorf("agency %+v, %v", agency, err)
		}
		w.recoveries(t) // verifies every statement
		if n := len(w.state.Statements()); n != 1 {
			t.Errorf("%d statements", n)
		}
		if _, err := p.RegisterAgency(t.Context(), body); code(err) != calpe.CodeInvalidRequest {
			t.Errorf("again: %v", err)
		}
		body.Agency = "Town Hall"
		if _, err := p.RegisterAgency(t.Context(), body); code(err) != calpe.CodeInvalidRequest {
			t.Errorf("bad identifier: %v", err)
		}
	})
}

// TestStepAdapts: the fence is raised ahead of need, in steps that follow the load.
func TestStepAdapts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.start(t, new(batchtest.Faults))
		room := func() uint64 { s := p.Status(); return s.Limit - s.Next }
		synctest.Wait()
		p.mustSubmit(t, 2000) // no time passes: every raise doubles
		synctest.Wait()
		if n := countWrites(p.faults, "fence"); n > 8 {
			t.Errorf("the fence was written %d times for 2000 entries", n)
		}
		if room() < 500 {
			t.Errorf("room for %d entries only under load", room())
		}
		ten := make([]calpe.Commitment, 10)
		for i := range ten {
			ten[i] = batchtest.Commitment(1 << 20)
		}
		for range 1000 {
			batchtest.Pass(time.Second)
			if _, err := p.Record(t.Context(), calpe.Submission{Commitments: ten}); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if room() > 4*256 {
			t.Errorf("room for %d entries when there is no load", room())
		}
		if n := countWrites(p.faults, "commit"); n != 3000 {
			t.Errorf("%d commits: the fence was in the way", n)
		}
		w.check(t)
	})
}

func TestRecorderConfig(t *testing.T) {
	w := newWorld(t)
	for name, edit := range map[string]func(*intake.RecorderConfig){
		"no groups": func(c *intake.RecorderConfig) { c.Groups = nil }, "no fence": func(c *intake.RecorderConfig) { c.Fence = nil },
		"no keys": func(c *intake.RecorderConfig) { c.Acknowledge = nil }, "no log": func(c *intake.RecorderConfig) { c.Log = calpe.Hash{} },
		"group of one": func(c *intake.RecorderConfig) { c.GroupSize = 1 }, "negative queue": func(c *intake.RecorderConfig) { c.Queue = -1 },
		"short promise": func(c *intake.RecorderConfig) { c.Promise = time.Millisecond },
	} {
		if _, err := intake.NewRecorder(w.config(new(batchtest.Faults), edit)); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}
