package api

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/intake"
)

// Committer records commitments.
type Committer interface {
	// Commit records all of them durably, with indices in a row, or none; after an
	// error they may be recorded all the same.
	Commit(ctx context.Context, c intake.Commitments) (intake.Recorded, error)
}

// CalendarOwner is whose the commitments are that anybody had stamped without a token.
const CalendarOwner = "opentimestamps"

// The pace of stamping. The reference server records what has come in a second,
// too; clients wait for five.
const (
	stampInterval  = time.Second
	maxStampsAtOne = 1024 // waiting at a time, and in one group: a kilobyte each
)

// errBusy says that a request was turned away before anything was done for it.
var errBusy = errors.New("too many requests to the calendar are waiting")

// stampQueue brings what anybody sends into the log, without a say in how fast
// that of others gets there: at most one of its groups is on its way to the
// database at a time, one a second, however many digests come. An authenticated
// request waits for one such group at the longest.
type stampQueue struct {
	intake  Committer
	log     *slog.Logger
	waiting chan *stampRequest
	done    chan struct{} // closed when run has ended
}

// stampRequest is a commitment that waits for its index.
type stampRequest struct {
	gone       <-chan struct{} // closed when nobody waits for it any more
	commitment calpe.Commitment
	answer     chan stampAnswer // capacity 1, so that answering never blocks
}

type stampAnswer struct {
	index uint64
	err   error
}

func newStampQueue(committer Committer, log *slog.Logger) stampQueue {
	return stampQueue{intake: committer, log: log, waiting: make(chan *stampRequest, maxStampsAtOne), done: make(chan struct{})}
}

// record gives the commitment its index once it is in the log, durably; errBusy
// at once if there is no place to wait. After another error it may be in the log.
func (q stampQueue) record(ctx context.Context, c calpe.Commitment) (uint64, error) {
	s := &stampRequest{gone: ctx.Done(), commitment: c, answer: make(chan stampAnswer, 1)}
	select {
	case q.waiting <- s:
	default:
		return 0, errBusy
	}
	select {
	case a := <-s.answer:
		return a.index, a.err
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-q.done:
		return 0, errors.New("the calendar has ended")
	}
}

// run records what waits, in groups, until ctx is done.
func (q stampQueue) run(ctx context.Context) error {
	defer close(q.done)
	for {
		select {
		case <-ctx.Done():
			return nil
		case first := <-q.waiting:
			q.commit(ctx, q.group(first))
		}
		// The first one after a silence is answered at once; under load all who
		// come in a second share a group.
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(stampInterval):
		}
	}
}

// group takes everything that waits, but for those who have gone.
func (q stampQueue) group(first *stampRequest) (group []*stampRequest) {
	for next := first; len(group) < maxStampsAtOne; {
		select {
		case <-next.gone:
		default:
			group = append(group, next)
		}
		select {
		case next = <-q.waiting:
		default:
			return group
		}
	}
	return group
}

func (q stampQueue) commit(ctx context.Context, group []*stampRequest) {
	if len(group) == 0 {
		return
	}
	commitments := make([]calpe.Commitment, len(group))
	for i, s := range group {
		commitments[i] = s.commitment
	}
	recorded, err := q.intake.Commit(ctx, intake.Commitments{Commitments: commitments, Owner: CalendarOwner})
	// Crash here: recorded, and nobody knows their entries. Clients ask again, and
	// get others.
	if err != nil {
		q.log.WarnContext(ctx, "digests were not recorded", slog.Int("count", len(group)), slog.Any("error", err))
	}
	for i, s := range group {
		s.answer <- stampAnswer{index: recorded.First + uint64(i), err: err}
	}
}
