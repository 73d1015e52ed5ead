package intake

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/internal/commitpoint"
)

// State is what intake is doing.
type State string

// The states.
const (
	StateJoining State = "joining" // comparing database and fence; nothing is recorded meanwhile
	StateOpen    State = "open"    // recording
	StateHalted  State = "halted"  // stopped for good: an operator must look
	StateStopped State = "stopped" // shut down
)

// Errors that halt intake until an operator has looked and the server is started again.
var (
	// ErrForked: the database and what was signed and published disagree on an
	// entry, so going on would give an index a second commitment (I2, I3).
	ErrForked = errors.New("the database and the published log disagree")
	// ErrAheadOfLog: Bitcoin holds an anchor over more entries than database and
	// published log have together.
	ErrAheadOfLog = errors.New("an anchor covers more entries than the log has")
	// ErrNoFence: the fence object is gone while the log has entries. What may
	// have been promised can't be told.
	ErrNoFence = errors.New("the fence is missing in object storage")
	// ErrFenceBack: the log reaches above the fence, so the fence is an older copy,
	// or another log's.
	ErrFenceBack = errors.New("the fence is older than the log")
	// ErrFull: the log has reached the largest size that a payload can state.
	ErrFull = errors.New("the log is full")
)

// haltsFor reports whether err is one that no retry mends.
func haltsFor(err error) bool {
	for _, halting := range []error{ErrForked, ErrAheadOfLog, ErrNoFence, ErrFenceBack, ErrFull, errFence, errOtherLog} {
		if errors.Is(err, halting) {
			return true
		}
	}
	return false
}

var (
	errOtherLog = errors.New("the fence is another log's")
	errStopped  = errors.New("intake is shut down")
	errJoining  = errors.New("intake is comparing the database with the fence")
)

// The step by which the fence is raised adapts to the load: it costs a write to
// object storage each time, and void entries after a restart of the database.
const (
	minStep   = 256
	maxStep   = 65536
	quickStep = time.Second      // raised again this soon: double the step
	slowStep  = 10 * time.Second // not raised for so long: halve it
)

// gate lets groups through to the database: below the fence's limit, on the
// fence's instance, and not while there is a doubt. Its loop, run, joins and
// keeps the limit ahead of need. Safe for concurrent use.
type gate struct {
	cfg  *RecorderConfig
	log  *slog.Logger
	work chan struct{} // capacity 1: the loop has something to do

	writing chan struct{} // capacity 1: full while somebody replaces the fence or joins

	mu         sync.Mutex // guards all below
	state      State
	reason     error // why it isn't open
	generation uint64
	fence      Fence
	etag       string
	seen       uint64 // no index below was free when last looked at
	step       uint64
	raised     time.Time
	changed    chan struct{} // closed when state changes
}

// pass is the right to commit one group.
type pass struct {
	limit      uint64
	instance   calpe.Instance
	generation uint64
	seen       uint64
}

func newGate(cfg *RecorderConfig) *gate {
	return &gate{
		cfg: cfg, log: cfg.Logger, work: make(chan struct{}, 1), writing: make(chan struct{}, 1),
		state: StateJoining, reason: errJoining, step: minStep, changed: make(chan struct{}),
	}
}

// run joins and raises until ctx is done. It also looks at the database from
// time to time, so that a server with nothing to record finds out too that the
// database is another one, and rolls it forward for those who read it.
func (g *gate) run(ctx context.Context) {
	look := time.NewTicker(g.cfg.WatchInterval)
	defer look.Stop()
	for {
		var again <-chan time.Time
		if err := g.turn(ctx); err != nil && ctx.Err() == nil {
			again = time.After(g.cfg.RetryDelay)
		}
		select {
		case <-ctx.Done():
			g.set(StateStopped, errStopped)
			return
		case <-g.work:
		case <-again:
		case <-look.C:
			g.watch(ctx)
		}
	}
}

// watch doubts if the database is another instance than the fence's. One that
// can't be reached is no news.
func (g *gate) watch(ctx context.Context) {
	p, wait, err := g.tryAdmit()
	if wait != nil || err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, g.cfg.CommitTimeout)
	defer cancel()
	if instance, err := g.cfg.Groups.Instance(ctx); err == nil && !instance.Equal(p.instance) {
		g.doubt(p.generation, fmt.Errorf("the database is another instance: %v, not %v", instance, p.instance))
	}
}

// turn does what there is to do. An error means: again after a while.
func (g *gate) turn(ctx context.Context) error {
	state, low := g.needs()
	var err error
	switch {
	case state == StateJoining:
		err = g.join(ctx)
	case state == StateOpen && low:
		err = g.raise(ctx, g.limit(), 0)
	}
	switch {
	case err == nil || ctx.Err() != nil:
		return nil //nolint:nilerr // what the end of the server interrupts is no failure
	case haltsFor(err):
		g.halt(err)
		return nil
	}
	g.log.WarnContext(ctx, "intake can't go on yet, will try again", slog.Any("state", state), slog.Any("error", err))
	g.explain(err)
	return err
}

// needs says what the loop has to look after.
func (g *gate) needs() (state State, low bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state, g.fence.Limit < g.seen+g.step/2
}

func (g *gate) limit() uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.fence.Limit
}

// admit waits until groups may be committed.
func (g *gate) admit(ctx context.Context) (pass, error) {
	for {
		p, wait, err := g.tryAdmit()
		if wait == nil {
			return p, err
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return pass{}, fmt.Errorf("%w: %w", err, ctx.Err())
		}
	}
}

// tryAdmit gives a pass, or what to wait for, or why there is no use waiting.
func (g *gate) tryAdmit() (p pass, wait <-chan struct{}, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch g.state {
	case StateOpen:
		return pass{g.fence.Limit, g.fence.Instance, g.generation, g.seen}, nil, nil
	case StateJoining:
		return pass{}, g.changed, g.reason
	default:
		return pass{}, nil, g.reason
	}
}

// committed notes that the log has reached end.
func (g *gate) committed(end uint64) {
	g.mu.Lock()
	g.seen = max(g.seen, end)
	low := g.fence.Limit < g.seen+g.step/2
	g.mu.Unlock()
	if low {
		g.wake()
	}
}

// doubt closes the gate for whoever comes, until the loop has joined again. A
// doubt about an earlier join than the last is settled already.
func (g *gate) doubt(generation uint64, reason error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.state != StateOpen || g.generation != generation {
		return
	}
	g.log.Warn("intake stops until database and fence have been compared", slog.Any("reason", reason))
	g.setLocked(StateJoining, fmt.Errorf("%w: %w", errJoining, reason))
	g.wake()
}

// doubtNow is doubt about whatever holds at the moment.
func (g *gate) doubtNow(reason error) {
	g.mu.Lock()
	generation := g.generation
	g.mu.Unlock()
	g.doubt(generation, reason)
}

// halt closes the gate for good.
func (g *gate) halt(reason error) {
	g.log.Error("intake is halted, an operator must look", slog.Any("reason", reason))
	g.set(StateHalted, reason)
}

func (g *gate) set(state State, reason error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.setLocked(state, reason)
}

// setLocked needs mu. A halt stays until the process ends.
func (g *gate) setLocked(state State, reason error) {
	if g.state == StateHalted || g.state == StateStopped {
		return
	}
	g.state, g.reason = state, reason
	close(g.changed)
	g.changed = make(chan struct{})
}

// explain notes why joining takes so long.
func (g *gate) explain(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.state == StateJoining {
		g.reason = fmt.Errorf("%w: %w", errJoining, err)
	}
}

// open lets groups through under a fence that has been compared with the log.
func (g *gate) open(fence Fence, etag string, next uint64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.fence, g.etag, g.seen = fence, etag, next
	g.generation++
	g.setLocked(StateOpen, nil)
	g.wake() // the limit may be near
}

func (g *gate) wake() {
	select {
	case g.work <- struct{}{}:
	default:
	}
}

// read gets the fence of this log.
func (g *gate) read(ctx context.Context) (Fence, string, error) {
	data, etag, err := g.cfg.Fence.ReadFence(ctx)
	if err != nil {
		return Fence{}, "", fmt.Errorf("read fence: %w", err)
	}
	fence, err := ParseFence(data)
	if err != nil {
		return Fence{}, "", err
	}
	if fence.Log != g.cfg.Log {
		return Fence{}, "", fmt.Errorf("%w: it is for %v, this log is %v", errOtherLog, fence.Log, g.cfg.Log)
	}
	return fence, etag, nil
}

// swap replaces the fence with that entity tag and gives what is there then:
// want, or what somebody else wrote first. After a failure that leaves open
// whether want was written it looks.
func (g *gate) swap(ctx context.Context, want Fence, etag string) (Fence, string, error) {
	want.Type = fenceType
	data, err := want.encode()
	if err != nil {
		return Fence{}, "", err
	}
	newTag, err := g.cfg.Fence.ReplaceFence(ctx, data, etag)
	if err == nil {
		return want, newTag, nil
	}
	now, nowTag, readErr := g.read(ctx)
	switch {
	case readErr != nil:
		return Fence{}, "", fmt.Errorf("replace fence: %w", errors.Join(err, readErr))
	case now.equal(want) || errors.Is(err, calpe.ErrExists):
		return now, nowTag, nil
	}
	return Fence{}, "", fmt.Errorf("replace fence: %w", err)
}

// lock waits for its turn to replace the fence or to join.
func (g *gate) lock(ctx context.Context) (unlock func(), err error) {
	select {
	case g.writing <- struct{}{}:
		return func() { <-g.writing }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the fence: %w", ctx.Err())
	}
}

// raise lifts the limit above low, which was too low for need entries more.
// There is nothing to do if somebody has done so already, or while a join is due.
func (g *gate) raise(ctx context.Context, low, need uint64) error {
	unlock, err := g.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	p, wait, err := g.tryAdmit()
	if wait != nil {
		return nil
	}
	if err != nil {
		return err
	}
	g.mu.Lock()
	fence, etag := g.fence, g.etag
	g.mu.Unlock()
	for fence.Limit <= low {
		want := fence
		want.Limit = min(fence.Limit+g.nextStep(need), calpe.MaxLogSize)
		if want.Limit == fence.Limit {
			return ErrFull
		}
		if fence, etag, err = g.swap(ctx, want, etag); err != nil {
			return err
		}
		if !fence.Instance.Equal(p.instance) || len(fence.Claims) > 0 {
			g.doubt(p.generation, errors.New("another server has recovered the log meanwhile"))
			return nil
		}
	}
	// Crash here: the fence is higher than need be. Nothing else has happened;
	// after a restart of the database there are more void entries.
	commitpoint.Reached(commitpoint.FenceRaised)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.generation == p.generation {
		g.fence, g.etag, g.raised = fence, etag, g.cfg.Now()
	}
	return nil
}

// nextStep adapts the step to how long the last one lasted.
func (g *gate) nextStep(need uint64) uint64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch lasted := g.cfg.Now().Sub(g.raised); {
	case lasted < quickStep:
		g.step = min(g.step*2, maxStep)
	case lasted > slowStep:
		g.step = max(g.step/2, minStep)
	}
	return max(g.step, 2*need)
}
