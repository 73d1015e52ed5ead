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

// queue holds the waiters, bounded in number and in entries, and serves their
// owners in turn: whoever has nothing else waiting is in one of the next groups,
// however much others have brought. Safe for concurrent use.
type queue struct {
	limit int
	ready chan struct{} // capacity 1: there may be something to take, or the queue is closed

	mu      sync.Mutex
	lanes   map[string]*lane // by owner: those with something waiting
	turns   turns            // the same, in the order in which they are served
	count   int              // of all that wait
	entries int              // of all that wait
	closed  bool
}

// lane is what one owner has waiting, in the order in which it came.
type lane struct {
	owner   string
	waiting []*waiter
	next    *lane // in turns
}

// turns is a list of lanes, first come first served.
type turns struct{ first, last *lane }

func (t *turns) push(l *lane) {
	l.next = nil
	if t.first == nil {
		t.first = l
	} else {
		t.last.next = l
	}
	t.last = l
}

func (t *turns) pop() *lane {
	l := t.first
	t.first = l.next
	return l
}

// putFirst puts lanes before all others.
func (t *turns) putFirst(before turns) {
	if before.first == nil {
		return
	}
	if t.first != nil {
		before.last.next, before.last = t.first, t.last
	}
	*t = before
}

// maxWaitingEntries bounds the memory of bulk requests that wait, whose clients
// may have gone: 32 MiB. What isn't bulk is bounded by its number.
const maxWaitingEntries = 1 << 20

func newQueue(limit int) *queue {
	return &queue{limit: limit, ready: make(chan struct{}, 1), lanes: make(map[string]*lane)}
}

// push adds a waiter; full and closed say why it didn't.
func (q *queue) push(w *waiter) (full, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return false, true
	}
	n, l := len(w.submission.Commitments), q.lanes[w.submission.Owner]
	if q.fullFor(w.submission.Owner, l) || w.alone() && q.entries > 0 && q.entries+n > maxWaitingEntries {
		return true, false
	}
	if l == nil {
		l = &lane{owner: w.submission.Owner}
		q.lanes[l.owner] = l
		q.turns.push(l)
	}
	l.waiting = append(l.waiting, w)
	q.count++
	q.entries += n
	q.wake()
	return false, false
}

// fullFor reports whether an owner may have nothing more waiting: no owner has
// more than there is room left (the dynamic threshold of Choudhury and Hahne,
// IEEE/ACM ToN 1998). So one alone gets half of the places, two a third each, and
// a place is always left for who has none. The service itself has no limit but
// the queue's.
func (q *queue) fullFor(owner string, l *lane) bool {
	free := q.limit - q.count
	return free <= 0 || owner != "" && l != nil && len(l.waiting) >= free
}

// take removes the waiters of the next group, of up to most entries: one of each
// owner in turn, of each in the order in which they came. Who doesn't fit into the
// group is the first of the next one. Done says that nothing will come any more.
func (q *queue) take(most int) (group []*waiter, done bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var later turns
	for q.turns.first != nil {
		l := q.turns.pop()
		w := l.waiting[0]
		n := len(w.submission.Commitments)
		if len(group) > 0 && (n > most || w.alone()) {
			later.push(l)
			continue
		}
		group = append(group, w)
		most -= n
		q.remove(l, n)
		if w.alone() {
			break
		}
	}
	q.turns.putFirst(later)
	if q.count > 0 || q.closed {
		q.wake() // for the next committer
	}
	return group, q.closed && q.count == 0
}

// remove takes the first waiter, of n entries, out of a lane whose turn it was.
func (q *queue) remove(l *lane, n int) {
	l.waiting[0] = nil
	l.waiting = l.waiting[1:]
	q.count--
	q.entries -= n
	if len(l.waiting) == 0 {
		delete(q.lanes, l.owner)
		return
	}
	q.turns.push(l)
}

// length is how many wait.
func (q *queue) length() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.count
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
