package main

import (
	"context"
	"fmt"
	"net/url"
	"strconv"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt"
)

// entryAnswer is what the public part of a service says of an entry.
type entryAnswer struct {
	Index      uint64             `json:"index"`
	Commitment calpe.Commitment   `json:"commitment"`
	State      calpe.State        `json:"state"`
	Checkpoint string             `json:"checkpoint"`
	Path       *receipt.Path      `json:"path"`
	Anchor     *receipt.Anchor    `json:"anchor"`
	Timestamp  *receipt.Timestamp `json:"timestamp"`
}

// entry asks for the proof of an entry: in the tree of its best anchor, or with
// a size in the checkpoint of just that size. It must be the entry that is meant.
func (s *service) entry(ctx context.Context, want calpe.Entry, size uint64) (entryAnswer, error) {
	what := fmt.Sprintf("get the proof of entry %d", want.Index)
	query := url.Values{}
	if size > 0 {
		query.Set("size", strconv.FormatUint(size, 10))
	}
	var a entryAnswer
	if err := s.getJSON(ctx, what, "v1/entries/"+strconv.FormatUint(want.Index, 10), query, &a); err != nil {
		return entryAnswer{}, err
	}
	if a.Index != want.Index || a.Commitment != want.Commitment {
		return entryAnswer{}, fmt.Errorf("%s: %w: the service says that entry %d commits to %s, the receipt leads to %s: keep the receipt, one of them is wrong",
			what, errRefuted, a.Index, a.Commitment, want.Commitment)
	}
	if (a.Checkpoint == "") != (a.Path == nil) || a.Checkpoint == "" && (size > 0 || a.Anchor != nil || a.Timestamp != nil) {
		return entryAnswer{}, fmt.Errorf("%s: the service's answer has not checkpoint, path and anchor or timestamp as they go together", what)
	}
	return a, nil
}

// entryOf is the entry that a receipt, or a part of it, is about.
func entryOf(index uint64, digest calpe.Digest, salt calpe.Salt) calpe.Entry {
	return calpe.Entry{Index: index, Commitment: calpe.Commit(digest, salt)}
}

// current asks the public part of the service how far a receipt's entries have
// come, and gives the receipt that holds now, verified but for the headers. All
// entries are proved in the tree that covers the last of them.
func (s *service) current(ctx context.Context, old receipt.Receipt, id receipt.Identity) (receipt.Receipt, calpe.State, error) {
	own := entryOf(old.Index, old.Digest, old.Salt)
	last := own
	if c := old.Certification; c != nil && c.Index > last.Index {
		last = entryOf(c.Index, c.Statement.Digest(), c.Salt)
	}
	a, err := s.entry(ctx, last, 0)
	if err != nil {
		return receipt.Receipt{}, 0, err
	}
	if a.Checkpoint == "" {
		return old, a.State, nil
	}
	r := old
	r.Acknowledgement, r.Checkpoint, r.Anchor, r.Timestamp = nil, a.Checkpoint, a.Anchor, a.Timestamp
	_, cp, err := receipt.ReadCheckpoint([]byte(a.Checkpoint))
	if err != nil {
		return receipt.Receipt{}, 0, fmt.Errorf("%w: the service's checkpoint: %w", errRefuted, err)
	}
	tree := treeOf{s, cp.Size, last, *a.Path}
	if r.Path, err = tree.path(ctx, own); err != nil {
		return receipt.Receipt{}, 0, err
	}
	if r.Certification, err = tree.certification(ctx, old.Certification); err != nil {
		return receipt.Receipt{}, 0, err
	}
	return r, a.State, check(r, r.Digest, id)
}

// treeOf gives paths in the tree of one size; that of one entry is known.
type treeOf struct {
	s     *service
	size  uint64
	known calpe.Entry
	path0 receipt.Path
}

func (t treeOf) path(ctx context.Context, e calpe.Entry) (receipt.Path, error) {
	if e == t.known {
		return t.path0, nil
	}
	a, err := t.s.entry(ctx, e, t.size)
	if err != nil {
		return nil, err
	}
	return *a.Path, nil
}

func (t treeOf) certification(ctx context.Context, old *receipt.Certification) (*receipt.Certification, error) {
	if old == nil {
		return nil, nil
	}
	c := *old
	var err error
	if c.Path, err = t.path(ctx, entryOf(c.Index, c.Statement.Digest(), c.Salt)); err != nil {
		return nil, err
	}
	g := &c.Agency
	g.Path, err = t.path(ctx, entryOf(g.Index, g.Statement.Digest(), g.Salt))
	return &c, err
}

// check demands that the receipt is about the document and in the log of id, and
// that nothing in it is refuted by the rest. Whether its block is in the chain
// takes headers: that is for verify.
func check(r receipt.Receipt, digest calpe.Digest, id receipt.Identity) error {
	if _, err := r.Encode(); err != nil {
		return fmt.Errorf("%w: %w", errRefuted, err)
	}
	report := receipt.Verify(receipt.Input{Digest: digest, Receipt: r, Identity: &id})
	for _, v := range []receipt.Verdict{report.Existed, report.InLog, report.Certified} {
		if v.Status == receipt.Refuted {
			return fmt.Errorf("%w: the service's receipt doesn't hold: %s", errRefuted, v.Text)
		}
	}
	return nil
}

// evidence is how much a receipt has: 0 a promise, 1 a checkpoint, 2 an anchor or
// a timestamp.
func evidence(r receipt.Receipt) int {
	switch {
	case r.Anchor != nil || r.Timestamp != nil:
		return 2
	case r.Checkpoint != "":
		return 1
	}
	return 0
}

// holds reports whether the receipt has what belongs to a state.
func holds(r receipt.Receipt, s calpe.State) bool {
	switch {
	case s >= calpe.Confirmed:
		return evidence(r) == 2
	case s >= calpe.Checkpointed:
		return evidence(r) >= 1
	}
	return true
}
