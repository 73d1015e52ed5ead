package intake

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt"
)

// Acknowledgement is what the service signed for an entry (docs/formats.md,
// "Acknowledgement"): the note, which is the same for the whole commit group, and
// the entry's path in it.
type Acknowledgement struct {
	Note []byte
	Path []calpe.Hash // of one entry, the lowest sibling first
	// The same as the note says.
	First, Count uint64
	Time         time.Time
	Deadline     time.Time
}

// signedGroup is the acknowledgement of a whole group.
type signedGroup struct {
	ack  Acknowledgement // without a path
	tree groupTree
}

// of is the acknowledgement of one entry.
func (s signedGroup) of(index uint64) Acknowledgement {
	ack := s.ack
	ack.Path = s.tree.path(index - ack.First)
	return ack
}

// sign makes the acknowledgement of a group that is durable. The same group
// gives the same bytes, as long as the key is the same.
func (r *Recorder) sign(first uint64, commitments []calpe.Commitment, at, deadline time.Time) (signedGroup, error) {
	tree := newGroupTree(first, commitments)
	count := uint64(len(commitments))
	text, err := receipt.SignAcknowledgement(r.cfg.Acknowledge, receipt.Acknowledgement{
		Log: r.cfg.Log, First: first, Count: count, Root: tree.root(), Time: at, Deadline: deadline,
	})
	if err != nil {
		return signedGroup{}, fmt.Errorf("sign for entries %d to %d: %w", first, first+count-1, err)
	}
	return signedGroup{Acknowledgement{Note: text, First: first, Count: count, Time: at, Deadline: deadline}, tree}, nil
}

// AcknowledgementOf computes again what was signed for an entry, from the row of
// its group. [calpe.CodeNotFound] if there is no such entry, or if it came in by
// recovery: the service doesn't sign twice for what it had lost.
func (r *Recorder) AcknowledgementOf(ctx context.Context, index uint64) (Acknowledgement, error) {
	record, err := r.cfg.Groups.GroupOf(ctx, index)
	if errors.Is(err, calpe.ErrNotFound) {
		return Acknowledgement{}, calpe.Errorf(calpe.CodeNotFound, "the log has no entry %d", index)
	}
	if err != nil {
		return Acknowledgement{}, &calpe.Error{Code: calpe.CodeUnavailable, Message: "the database can't be read now; try again", Err: err}
	}
	if record.Origin != calpe.OriginIntake {
		return Acknowledgement{}, calpe.Errorf(calpe.CodeNotFound, "entry %d came back by recovery and has no acknowledgement", index)
	}
	group, err := r.sign(record.First, record.Commitments, record.Time, record.Deadline)
	if err != nil {
		return Acknowledgement{}, err
	}
	return group.of(index), nil
}
