package fsck_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/batch"
	"github.com/calpe/calpe/batch/batchtest"
	"github.com/calpe/calpe/fsck"
	"github.com/calpe/calpe/intake"
	"github.com/calpe/calpe/merkle"
)

// world is a deployment in memory that has nothing but a log: groups, checkpoints,
// and what is published of them.
type world struct {
	t   *testing.T
	log batchtest.Log
	now time.Time

	mu          sync.Mutex
	groups      []calpe.GroupRecord
	checkpoints []calpe.Checkpoint
	proofs      []ledger.Proof
	objects     map[string][]byte
	fence       []byte
	reads       int
	// fail is the outcome of reading an object; nil: it is read.
	fail func(path string) error
	// mend is the outcome of mending an object: applied or not, and the error.
	mend func(path string) (apply bool, err error)
}

// groupSize is not a divisor of anything.
const groupSize = 777

// newWorld makes a log with checkpoints of these sizes, sealed by nobody's code but
// this, and entries up to next.
func newWorld(t *testing.T, next uint64, sizes ...uint64) *world {
	t.Helper()
	w := &world{t: t, log: batchtest.NewLog(t, "fsck.example/log"), objects: map[string][]byte{}, now: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)}
	for first := uint64(0); first < next; {
		count := min(groupSize, next-first)
		if first == 0 {
			count = 1
		}
		g := calpe.GroupRecord{First: first, Origin: calpe.OriginIntake, Time: w.now, Deadline: w.now.Add(time.Hour)}
		for i := range count {
			g.Commitments = append(g.Commitments, batchtest.Commitment(first+i))
		}
		if first == 0 {
			g.Commitments[0] = w.log.Identity.Entry().Commitment
		}
		w.groups = append(w.groups, g)
		first += count
	}
	w.seal(sizes)
	instance := calpe.Instance{SystemIdentifier: "7", Timeline: 1, Started: w.now}
	w.fence = fmt.Appendf(nil, `{"type":"calpe/fence/v1","log":"%v","limit":%d,"instance":"%v","epoch":0}`, w.log.Identity.Hash(), next+100, instance)
	if _, err := intake.ParseFence(w.fence); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) commitment(index uint64) calpe.Commitment {
	i := sort.Search(len(w.groups), func(i int) bool { return w.groups[i].First > index }) - 1
	return w.groups[i].Commitments[index-w.groups[i].First]
}

func (w *world) seal(sizes []uint64) {
	w.t.Helper()
	tree, err := merkle.LoadEdge(0, merkle.EmptyRoot(), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	var size uint64
	for _, to := range sizes {
		var leaves []calpe.Hash
		for i := size; i < to; i++ {
			e := calpe.Entry{Index: i, Commitment: w.commitment(i)}.Bytes()
			leaves = append(leaves, merkle.LeafHash(e[:]))
		}
		if err := tree.Append(leaves); err != nil {
			w.t.Fatal(err)
		}
		for b := range merkle.BundlesFor(size, to) {
			entries := make([]calpe.Entry, b.Width)
			for i := range entries {
				index := b.First() + uint64(i)
				entries[i] = calpe.Entry{Index: index, Commitment: w.commitment(index)}
			}
			if w.objects[merkle.EntryBundlePath(b.Index, b.Width)], err = merkle.EncodeEntryBundle(b, entries); err != nil {
				w.t.Fatal(err)
			}
		}
		for _, tile := range tree.Tiles() {
			w.objects[tile.Path()] = bytes.Clone(tile.Data)
		}
		note, err := w.log.Sign(to, tree.Root())
		if err != nil {
			w.t.Fatal(err)
		}
		w.checkpoints = append(w.checkpoints, calpe.Checkpoint{Size: to, Root: tree.Root(), Note: note, Time: w.now})
		w.objects[batch.CheckpointPath(to)], w.objects[batch.HeadPath] = note, note
		size = to
	}
}

func (w *world) config() fsck.Config {
	return fsck.Config{
		Identity: w.log.Identity, Entries: w, Checkpoints: w, Documents: w, Records: w, Anchors: w, Blocks: w, Proofs: w, Objects: w, Bucket: w,
		Instance: func(context.Context) (calpe.Instance, error) {
			return calpe.Instance{SystemIdentifier: "7", Timeline: 1, Started: w.now}, nil
		},
		Grace: time.Millisecond, Now: func() time.Time { return w.now }, Logger: slog.New(slog.DiscardHandler),
	}
}

// check runs fsck and gives invariant and thing of what it found. The world has no
// keys, which is always said.
func (w *world) check(edit ...func(*fsck.Config)) (fsck.Report, []string) {
	w.t.Helper()
	c := w.config()
	for _, e := range edit {
		e(&c)
	}
	r, err := fsck.Run(w.t.Context(), c)
	if err != nil {
		w.t.Fatal(err)
	}
	return r, names(r)
}

func names(r fsck.Report) (list []string) {
	for _, f := range r.Findings {
		list = append(list, f.Invariant+" "+f.Thing)
	}
	slices.Sort(list)
	return list
}

func repair(c *fsck.Config) { c.Repair = true }
func deep(c *fsck.Config)   { c.Deep = true }

func (w *world) NextIndex(context.Context) (uint64, error) {
	last := w.groups[len(w.groups)-1]
	return last.First + uint64(len(last.Commitments)), nil
}

func (w *world) Entry(_ context.Context, index uint64) (calpe.Entry, error) {
	return calpe.Entry{Index: index, Commitment: w.commitment(index)}, nil
}

func (w *world) GroupsFrom(_ context.Context, from uint64) ([]calpe.GroupRecord, error) {
	i := sort.Search(len(w.groups), func(i int) bool { return w.groups[i].First > from })
	if i > 0 && from < w.groups[i-1].First+uint64(len(w.groups[i-1].Commitments)) {
		i--
	}
	return slices.Clone(w.groups[i:min(i+10, len(w.groups))]), nil
}

func (w *world) CheckpointHead(context.Context) (calpe.Checkpoint, error) {
	if len(w.checkpoints) == 0 {
		return calpe.Checkpoint{}, calpe.ErrNotFound
	}
	return w.checkpoints[len(w.checkpoints)-1], nil
}

func (w *world) CheckpointAt(_ context.Context, size uint64) (calpe.Checkpoint, error) {
	for _, c := range w.checkpoints {
		if c.Size == size {
			return c, nil
		}
	}
	return calpe.Checkpoint{}, calpe.ErrNotFound
}

func (w *world) CheckpointsFrom(_ context.Context, size uint64, limit int) (list []calpe.Checkpoint, _ error) {
	for _, c := range w.checkpoints {
		if c.Size >= size && len(list) < limit {
			list = append(list, c)
		}
	}
	return list, nil
}

func (w *world) CheckpointBefore(_ context.Context, at time.Time) (calpe.Checkpoint, error) {
	for _, c := range slices.Backward(w.checkpoints) {
		if c.Time.Before(at) {
			return c, nil
		}
	}
	return calpe.Checkpoint{}, calpe.ErrNotFound
}

func (w *world) ReadLogObject(_ context.Context, path string, maxBytes int64) ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reads++
	if w.fail != nil {
		if err := w.fail(path); err != nil {
			return nil, err
		}
	}
	data, ok := w.objects[path]
	if !ok {
		return nil, calpe.ErrNotFound
	}
	if int64(len(data)) > maxBytes {
		return nil, calpe.ErrDamaged
	}
	return bytes.Clone(data), nil
}

func (w *world) ListLog(_ context.Context, prefix, startAfter string, yield func(path string) bool) error {
	w.mu.Lock()
	var paths []string
	for path := range w.objects {
		if strings.HasPrefix(path, prefix) && path > startAfter {
			paths = append(paths, path)
		}
	}
	w.mu.Unlock()
	slices.Sort(paths)
	for _, path := range paths {
		if !yield(path) {
			return nil
		}
	}
	return nil
}

func (w *world) MendLogObject(_ context.Context, path string, data []byte, _, _ string) (err error) {
	apply := true
	if w.mend != nil {
		apply, err = w.mend(path)
	}
	if apply {
		w.objects[path] = bytes.Clone(data)
	}
	return err
}

func (w *world) ProofsAfter(_ context.Context, after ledger.ProofID, limit int) (list []ledger.Proof, _ error) {
	for _, p := range w.proofs {
		if p.Size > after.Size || p.Size == after.Size && p.Calendar > after.Calendar {
			list = append(list, p)
		}
	}
	return list[:min(len(list), limit)], nil
}

func (w *world) ReadFence(context.Context) ([]byte, string, error) {
	if w.fence == nil {
		return nil, "", calpe.ErrNotFound
	}
	return w.fence, "tag", nil
}

// What the world has none of.

func (w *world) DocumentsFrom(context.Context, uint64, int) ([]calpe.Document, error) {
	return nil, nil
}
func (w *world) DocumentKeys(context.Context, []calpe.DocumentID) ([]calpe.WrappedKey, error) {
	return nil, nil
}
func (w *world) Certification(context.Context, uint64) (calpe.Certification, error) {
	return calpe.Certification{}, calpe.ErrNotFound
}
func (w *world) KnownObjects(context.Context, []string) ([]string, error) { return nil, nil }
func (w *world) Document(context.Context, calpe.DocumentID) (calpe.Document, error) {
	return calpe.Document{}, calpe.ErrNotFound
}
func (w *world) StatementsFrom(context.Context, uint64, int) ([]calpe.Statement, error) {
	return nil, nil
}
func (w *world) CertificationsFrom(context.Context, uint64, int) ([]calpe.Certification, error) {
	return nil, nil
}
func (w *world) IdempotencyAfter(context.Context, string, calpe.Hash, int) ([]calpe.Idempotency, error) {
	return nil, nil
}
func (w *world) Agencies(context.Context) ([]calpe.Agency, error) { return nil, nil }
func (w *world) Chain(context.Context, uint64, int) ([]calpe.Anchor, error) {
	return nil, nil
}
func (w *world) CoinsAfter(context.Context, calpe.Outpoint, int) ([]ledger.CoinRecord, error) {
	return nil, nil
}
func (w *world) AttemptsOfSize(context.Context, uint64, calpe.BlockHash, int) ([]ledger.Attempt, error) {
	return nil, nil
}
func (w *world) LiveCoin(context.Context) (ledger.Coin, error) {
	return ledger.Coin{}, calpe.ErrNotFound
}
func (w *world) Restarts(context.Context) ([]ledger.Break, error)   { return nil, nil }
func (w *world) Breaks(context.Context) ([]calpe.ChainBreak, error) { return nil, nil }
func (w *world) Deposits(context.Context) ([]ledger.Coin, error)    { return nil, nil }
func (w *world) Journal(context.Context, uint32, int) ([]ledger.Block, error) {
	return nil, nil
}
func (w *world) JournalFrom(context.Context, uint32, int) ([]ledger.Block, error) {
	return nil, nil
}
func (w *world) StoredDocument(context.Context, calpe.Object) (calpe.StoredObject, error) {
	return calpe.StoredObject{}, calpe.ErrNotFound
}
func (w *world) OpenDocument(context.Context, calpe.Object, [32]byte, int64, int64) (io.ReadCloser, error) {
	return nil, errors.New("there are no documents")
}
func (w *world) DocumentsBucketAfter(context.Context, string, func(string, time.Time) error) error {
	return nil
}
