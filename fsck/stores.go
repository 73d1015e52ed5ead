package fsck

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/batch"
	"github.com/calpe/calpe/intake"
	"github.com/calpe/calpe/receipt"
)

// checkFence: the fence is there, of this log, and above all indices (I2).
func (r *run) checkFence(ctx context.Context) ([]Finding, error) {
	next, err := r.Entries.NextIndex(ctx) // before the fence, which only grows
	if err != nil {
		return nil, err
	}
	if err := r.limit.wait(ctx); err != nil {
		return nil, err
	}
	f := Finding{Invariant: "I2", Thing: "control/fence"}
	data, _, err := r.Objects.ReadFence(ctx)
	if object, err := broken(err); err != nil {
		return nil, err
	} else if errors.Is(object, calpe.ErrNotFound) {
		if next <= 1 {
			return nil, nil // the first server makes it
		}
		f.Problem, f.Do = "is not there", `stop the servers and run "calped log restore-fence"`
		return []Finding{f}, nil
	}
	fence, parseErr := intake.ParseFence(data)
	f.Do = "put back its newest version that can be read; the bucket keeps all of them"
	switch {
	case parseErr != nil:
		f.Problem = parseErr.Error()
	case fence.Log != r.Identity.Hash():
		f.Problem = fmt.Sprintf("is that of the log %v: is this the right bucket?", fence.Log)
	case fence.Limit < next:
		f.Problem = fmt.Sprintf("its limit is %d, and the log has %d entries: object storage went back in time", fence.Limit, next)
	default:
		return nil, r.noteInstance(ctx, fence)
	}
	return []Finding{f}, nil
}

func (r *run) noteInstance(ctx context.Context, fence intake.Fence) error {
	instance, err := r.Instance(ctx)
	if err != nil {
		return err
	}
	if !fence.Instance.Equal(instance) {
		r.note("the database was restarted, or is another one, since the last index was promised (limit %d): the next server to start compares, and declares what it can't tell", fence.Limit)
	} else if len(fence.Claims) > 0 {
		r.note("a recovery isn't declared yet; a running server does that before anything else")
	}
	return nil
}

// checkHead: the published newest checkpoint is not older than the newest row (I3);
// at a second look, than the newest row at the first.
func (r *run) checkHead(ctx context.Context) ([]Finding, error) {
	head, err := r.Checkpoints.CheckpointHead(ctx) // before the object, which follows it
	if errors.Is(err, calpe.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	data, err := limited{r.Objects, r.limit}.ReadLogObject(ctx, batch.HeadPath, maxNote)
	object, err := broken(err)
	if err != nil {
		return nil, err
	}
	f := Finding{Invariant: "I3", Thing: batch.HeadPath, Mend: MendHead, Do: "start a server, or run fsck with --repair: it is the note of the newest row"}
	shown, openErr := receipt.OpenCheckpoint(data, r.Identity)
	switch {
	case object != nil && errors.Is(object, calpe.ErrNotFound):
		f.Problem = "is not there"
	case object != nil:
		f.Problem = "is damaged: " + object.Error()
	case bytes.Equal(data, head.Note):
		return nil, nil
	case openErr != nil:
		f.Problem = "is no checkpoint of this log: " + openErr.Error()
	case shown.Size < head.Size && r.seen.head > 0 && shown.Size >= r.seen.head:
		return nil, nil
	case shown.Size < head.Size:
		// What a server leaves that ends between the row and the object.
		before, err := r.Checkpoints.CheckpointBefore(ctx, head.Time)
		if err == nil && before.Size == shown.Size && before.Root == shown.Root {
			r.note("the published head is one checkpoint behind the newest row; a running server puts it right")
			return nil, nil
		}
		r.seen.head = cmp.Or(r.seen.head, head.Size)
		f.Problem = fmt.Sprintf("shows %d entries, the newest checkpoint has %d", shown.Size, head.Size)
	case shown.Size == head.Size && shown.Root != head.Root:
		f.Mend, f.Do = "", forkedDo
		f.Problem = fmt.Sprintf("is signed for another root of %d entries than the newest row", head.Size)
	default:
		return nil, nil
	}
	return []Finding{f}, nil
}

// checkPublished compares the published pages of anchors with the rows. Where the
// rows are behind the node's chain, pages may be newer than they are.
func (r *run) checkPublished(ctx context.Context) (found []Finding, err error) {
	if _, ok, err := r.tip(ctx); err != nil || !ok {
		return nil, err // the check of the chain names it
	}
	if behind, err := r.behind(ctx); err != nil || behind {
		return nil, err
	}
	for page := uint64(0); ; page++ {
		problem, empty, err := r.judgePage(ctx, page)
		if err != nil {
			return nil, err
		}
		if problem != "" {
			found = append(found, Finding{Invariant: "I8", Thing: receipt.AnchorsPath(page), Problem: problem, Mend: MendAnchors,
				Do: "start a server, or run fsck with --repair: it follows from the rows"})
		}
		if empty {
			return found, nil
		}
	}
}

// judgePage compares a page with the rows of before and after it was read. A
// server publishes what is new a few seconds later: a page that lacks the newest
// anchors is right at a second look if it has those of the first.
func (r *run) judgePage(ctx context.Context, page uint64) (problem string, empty bool, err error) {
	before, err := batch.AnchorPage(ctx, r.Anchors, r.Identity, page)
	if err != nil {
		return "", false, err
	}
	got, err := limited{r.Objects, r.limit}.ReadLogObject(ctx, receipt.AnchorsPath(page), receipt.MaxAnchorsPage)
	object, err := broken(err)
	if err != nil {
		return "", false, err
	}
	empty = len(before) == 0
	if errors.Is(object, calpe.ErrNotFound) && empty || object == nil && bytes.Equal(got, before) {
		return "", empty, nil
	}
	after, err := batch.AnchorPage(ctx, r.Anchors, r.Identity, page)
	if err != nil {
		return "", false, err
	}
	first, looked := r.seen.pages[page]
	if !looked {
		r.seen.pages[page] = after
	}
	missing := errors.Is(object, calpe.ErrNotFound)
	switch {
	case missing && looked && len(first) == 0:
	case missing:
		problem = "is not there"
	case object != nil:
		problem = "is damaged: " + object.Error()
	case bytes.Equal(got, after) || looked && bytes.HasPrefix(after, got) && bytes.HasPrefix(got, first):
	default:
		problem = "is not what follows from the rows of attempts"
	}
	return problem, empty, nil
}
