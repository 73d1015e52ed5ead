package intake

import (
	"sync"

	"github.com/calpe/calpe"
)

// waiter is a submission that waits for its answer.
type waiter struct {
	submission calpe.Submission
	answer     chan answer // capacity 1, so that answering never blocks
}

// answer is what became of a waiter.
type answer struct {
	first    uint64
	existing *calpe.Idempotency
	ack      Acknowledgement // unless existing
	err      error
}

// alone reports whether the submission must be a group of its own: a bulk
// request, so that its acknowledgement covers it and nothing else, and an agency,
// whose name may be taken, so that nobody else's entry fails with it.
func (w *waiter) alone() bool {
	s := w.submission
	return s.Agency != nil || s.Document == nil && len(s.Commitments) > 1
}

// queue holds the waiters, bounded in number and in entries. Safe for concurrent use.
type queue struct {
	limit int
	ready chan struct{} // capacity 1: there may be something to take, or the queue is closed

	mu      sync.Mutex
	waiting []*waiter
	entries int // of all that wait
	closed  bool
}

// maxWaitingEntries bounds the memory of bulk requests that wait, whose clients
// may have gone: 32 MiB. What isn't bulk is bounded by its number.
const maxWaitingEntries = 1 << 20

func newQueue(limit int) *queue {
	return &queue{limit: limit, ready: make(chan struct{}, 1)}
}

// push adds a waiter; full and closed say why it didn't.
func (q *queue) push(w *waiter) (full, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false, true
	}
	n := len(w.submission.Commitments)
	if len(q.waiting) >= q.limit || w.alone() && q.entries > 0 && q.entries+n > maxWaitingEntries {
		return true, false
	}
	q.waiting = append(q.waiting, w)
	q.entries += n
	q.wake()
	return false, false
}

// take removes the waiters of the next group, of up to most entries, in the
// order in which they came. Done says that nothing will come any more.
func (q *queue) take(most int) (group []*waiter, done bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	entries := 0
	for i, w := range q.waiting {
		entries += len(w.submission.Commitments)
		if i > 0 && (entries > most || w.alone()) {
			break
		}
		group = append(group, w)
		if w.alone() {
			break
		}
	}
	for _, w := range group {
		q.entries -= len(w.submission.Commitments)
	}
	clear(q.waiting[:len(group)])
	q.waiting = q.waiting[len(group):]
	if len(q.waiting) > 0 || q.closed {
		q.wake() // for the next committer
	}
	return group, q.closed && len(q.waiting) == 0
}

// length is how many wait.
func (q *queue) length() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting)
}

// close refuses further waiters. Those inside can still be taken.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.wake()
}

func (q *queue) wake() {
	select {
	case q.ready <- struct{}{}:
	default:
	}
}
