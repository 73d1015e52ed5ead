package fsck

import (
	"context"
	"fmt"

	"github.com/calpe/calpe"
)

// slot is what the rows have at an index.
type slot struct {
	there      bool
	commitment calpe.Commitment
}

// rowReader reads the groups in the order of their indices, and finds where they
// aren't dense. It holds a page of them.
type rowReader struct {
	entries Entries
	next    uint64 // index that comes next
	page    []calpe.GroupRecord
	begun   bool // something was read: next is where a group ended, unless inside
	inside  bool // next is in page[0], which was looked at
	// each sees every group once, when its first entry is read.
	each func(g calpe.GroupRecord)
}

// read gives the entries up to, and not including, to.
func (r *rowReader) read(ctx context.Context, to uint64) (slots []slot, found []Finding, err error) {
	for r.next < to {
		if len(r.page) == 0 {
			if r.page, err = r.entries.GroupsFrom(ctx, r.next); err != nil {
				return nil, nil, err
			}
		}
		if len(r.page) == 0 || !r.inside && r.page[0].First > r.next {
			gap := to
			if len(r.page) > 0 {
				gap = min(gap, r.page[0].First)
			}
			found = append(found, missingRows(r.next, gap))
			slots = append(slots, make([]slot, gap-r.next)...)
			r.next, r.begun = gap, true
			continue
		}
		found = append(found, r.enter()...)
		slots = r.take(slots, to)
	}
	return slots, found, nil
}

// enter looks at the group in which next is, or before next.
func (r *rowReader) enter() (found []Finding) {
	if r.inside {
		return nil
	}
	g := r.page[0]
	if r.begun && g.First < r.next {
		found = append(found, Finding{Invariant: "I2", Thing: fmt.Sprintf("group at %d", g.First),
			Problem: fmt.Sprintf("entry %d is in the group before it, too", g.First), Do: restoreRows})
	}
	if r.inside, r.begun = true, true; r.each != nil {
		r.each(g)
	}
	return found
}

// take gives out what the group has below to.
func (r *rowReader) take(slots []slot, to uint64) []slot {
	g := r.page[0]
	end := g.First + uint64(len(g.Commitments))
	if until := min(end, to); until > r.next {
		for _, c := range g.Commitments[r.next-g.First : until-g.First] {
			slots = append(slots, slot{true, c})
		}
		r.next = until
	}
	if r.next >= end {
		r.page, r.inside = r.page[1:], false
	}
	return slots
}

const restoreRows = "rows of the log are never changed or deleted: find out who did, and restore the database; a server that starts on the copy rolls it forward from the published log"

func missingRows(from, to uint64) Finding {
	return Finding{Invariant: "I2", Thing: span(from, to), Problem: "no row of the database has it", Do: restoreRows}
}

// span names entries from one up to, and not including, another.
func span(from, to uint64) string {
	if to-from == 1 {
		return fmt.Sprintf("entry %d", from)
	}
	return fmt.Sprintf("entries %d to %d", from, to-1)
}
