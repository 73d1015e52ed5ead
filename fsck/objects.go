package fsck

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/batch"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt"
)

// objectPage is how many names are compared with the rows at a time.
const objectPage = 1000

// checkObjects looks for objects in the bucket of documents that no row names. The
// servers remove them by themselves, but for those under a lock.
func (r *run) checkObjects(ctx context.Context) error {
	old := r.Now().Add(-r.Orphan)
	var names []string
	last := r.state.After.Name
	flush := func() error {
		if err := r.checkNames(ctx, names); err != nil {
			return err
		}
		names, r.state.After.Name = names[:0], last
		return r.save(false)
	}
	if err := r.limit.wait(ctx); err != nil {
		return err
	}
	err := r.Bucket.DocumentsBucketAfter(ctx, last, func(name string, modified time.Time) error {
		last = name
		if modified.Before(old) && !modified.Before(r.Since) {
			names = append(names, name)
		}
		r.state.count("objects", 1)
		if len(names) < objectPage {
			return nil
		}
		if err := r.limit.wait(ctx); err != nil {
			return err
		}
		return flush()
	})
	if err != nil {
		return err
	}
	return flush()
}

func (r *run) checkNames(ctx context.Context, names []string) error {
	known, err := r.Documents.KnownObjects(ctx, names)
	if err != nil {
		return err
	}
	named := make(map[string]bool, len(known))
	for _, name := range known {
		named[name] = true
	}
	for _, name := range names {
		if !named[name] {
			r.found(Finding{Invariant: "I1", Thing: "object " + name, Problem: "no row names it",
				Do: "nothing, if an older copy of the database was put back: its key is lost with its row, and the servers remove it when its lock ends; else see in their log why it wasn't swept"})
		}
	}
	return nil
}

// checkLogBucket looks for objects in the bucket of the log that are none of its
// objects; with Deep it compares every partial tile that is left with what became
// of it.
func (r *run) checkLogBucket(ctx context.Context) error {
	objects := limited{r.Objects, r.limit}
	var failed error
	err := objects.ListLog(ctx, "", r.state.After.Name, func(path string) bool {
		if failed = r.checkLogObject(ctx, path); failed == nil {
			r.state.After.Name = path
			failed = r.save(false)
		}
		return failed == nil
	})
	return errors.Join(failed, err)
}

func (r *run) checkLogObject(ctx context.Context, path string) error {
	r.state.count("log objects", 1)
	if path == batch.HeadPath || path == receipt.BreaksPath {
		return nil
	}
	if _, err := batch.ParseCheckpointPath(path); err == nil {
		return nil
	}
	if _, err := receipt.ParseAnchorsPath(path); err == nil {
		return nil
	}
	if b, err := merkle.ParseEntryBundlePath(path); err == nil {
		return r.checkPartial(ctx, path, b.First()+uint64(b.Width), b.Width, func(ctx context.Context) ([]byte, error) {
			b.Width = int(min(merkle.TileWidth, r.sealed-b.First()))
			return r.log.Bundle(ctx, b)
		})
	}
	if t, err := merkle.ParseTilePath(path); err == nil {
		hashes := r.sealed >> (merkle.TileHeight * t.Level)
		return r.checkPartial(ctx, path, (t.Index*merkle.TileWidth+uint64(t.Width))<<(merkle.TileHeight*t.Level), t.Width, func(ctx context.Context) ([]byte, error) {
			t.Width = int(min(merkle.TileWidth, hashes-t.Index*merkle.TileWidth))
			return r.log.Tile(ctx, t)
		})
	}
	r.found(Finding{Invariant: "I3", Thing: path, Problem: "is no object of a log",
		Do: "find out who put it into the bucket of the log, to which the servers alone write, and remove it"})
	return nil
}

// checkPartial compares a partial tile or bundle that ends at that entry with the
// beginning of what it has become. One above what is sealed is left over from a
// batch that was never signed.
func (r *run) checkPartial(ctx context.Context, path string, end uint64, width int, whole func(context.Context) ([]byte, error)) error {
	if !r.Deep || width == merkle.TileWidth || end > r.sealed || !strings.Contains(path, ".p/") {
		return nil
	}
	want, err := whole(ctx)
	if object, err := broken(err); object != nil || err != nil {
		return err // the check of entries names it
	}
	got, err := limited{r.Objects, r.limit}.ReadLogObject(ctx, path, int64(len(want)))
	object, err := broken(err)
	if err != nil {
		return err
	}
	if errors.Is(object, calpe.ErrNotFound) || len(want) == len(got) || object == nil && bytes.HasPrefix(want, got) {
		return nil // removed since, which is allowed; or at the edge, where it was compared already
	}
	mend := MendTile
	if strings.HasPrefix(path, merkle.EntryBundlePath(0, 1)[:len("tile/entries/")]) {
		mend = MendBundle
	}
	r.found(judgeObject(path, mend, object, []int{0}, end-uint64(width))...)
	return nil
}
