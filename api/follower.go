package api

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/calpe/calpe"
)

// follower reads how far the log is, once for all event streams of the process,
// and only while there are any.
type follower struct {
	marks   Watermarks
	every   time.Duration
	most    int // streams at a time
	public  int // of them, those that need no token
	log     *slog.Logger
	wake    chan struct{} // capacity 1: a stream has joined
	stopped chan struct{} // closed when run has ended, and with it every stream

	mu        sync.Mutex
	joined    int
	strangers int    // joined without a token
	begun     uint64 // readings begun
	newest    reading
	replaced  chan struct{} // closed when newest is replaced
}

// reading is what one look at the log gave.
type reading struct {
	number uint64 // from 1
	marks  calpe.Watermarks
	err    error
}

// readTimeout bounds one reading.
const readTimeout = 10 * time.Second

func newFollower(marks Watermarks, limits Streams, log *slog.Logger) *follower {
	return &follower{
		marks: marks, every: limits.Poll, most: limits.Most, public: limits.Most / 2, log: log,
		wake: make(chan struct{}, 1), stopped: make(chan struct{}), replaced: make(chan struct{}),
	}
}

// run reads until ctx is done. It must be called once.
func (f *follower) run(ctx context.Context) {
	defer close(f.stopped)
	ticker := time.NewTicker(f.every)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-f.wake:
		}
		f.read(ctx)
	}
}

// read looks once, and tells all streams.
func (f *follower) read(ctx context.Context) {
	f.mu.Lock()
	idle := f.joined == 0
	f.begun++
	r := reading{number: f.begun}
	f.mu.Unlock()
	if idle {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	if r.marks, r.err = f.marks.Watermarks(ctx); r.err != nil {
		f.log.WarnContext(ctx, "event streams can't be told the state of the log", slog.Any("error", r.err))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.newest = r
	close(f.replaced)
	f.replaced = make(chan struct{})
}

// join takes a place among the streams; the caller must give it back with leave.
// The reading is one that was begun after the call: an entry that was
// acknowledged before is in it.
func (f *follower) join(ctx context.Context, stranger bool) (reading, error) {
	before, err := f.enter(stranger)
	if err != nil {
		return reading{}, err
	}
	select {
	case f.wake <- struct{}{}:
	default:
	}
	for {
		r, replaced := f.look()
		if r.number > before {
			if r.err != nil {
				err = unavailable("The state of the log can't be read at the moment.", r.err)
			}
			return r, f.leaveIf(err, stranger)
		}
		select {
		case <-replaced:
		case <-f.stopped:
			return reading{}, f.leaveIf(errStreamsEnded, stranger)
		case <-ctx.Done():
			return reading{}, f.leaveIf(unavailable("The client went away.", ctx.Err()), stranger)
		}
	}
}

var errStreamsEnded = calpe.Errorf(calpe.CodeUnavailable, "The server is shutting down.")

// enter counts a stream in, and says which readings are too old for it.
func (f *follower) enter(stranger bool) (before uint64, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.joined >= f.most || stranger && f.strangers >= f.public {
		return 0, calpe.Errorf(calpe.CodeTooManyRequests, "As many event streams are open as this server keeps; ask for the state itself now and then.")
	}
	f.joined++
	if stranger {
		f.strangers++
	}
	return f.begun, nil
}

func (f *follower) leave(stranger bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.joined--
	if stranger {
		f.strangers--
	}
}

func (f *follower) leaveIf(err error, stranger bool) error {
	if err != nil {
		f.leave(stranger)
	}
	return err
}

// look gives the newest reading, and what is closed when there is a newer one.
func (f *follower) look() (reading, <-chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.newest, f.replaced
}

// Run does what goes on beside requests: it follows the log for the event
// streams. It returns nil when ctx is done, and ends all streams then, so that a
// shutdown needn't wait for them; ctx must end before the HTTP server shuts
// down. It must be called once.
func (s *Server) Run(ctx context.Context) error {
	s.follower.run(ctx)
	return nil
}
