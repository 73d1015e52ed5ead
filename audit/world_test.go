package audit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/audit"
	"github.com/calpe/calpe/batch/batchtest"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt"
)

const step = 512

// testLog is a log as it is published. Its copies may go on differently.
type testLog struct {
	t       testing.TB
	keys    batchtest.Log
	entries []calpe.Entry
	size    uint64
	root    calpe.Hash
	objects map[string][]byte
}

func newLog(t testing.TB) *testLog {
	t.Helper()
	l := &testLog{t: t, keys: batchtest.NewLog(t, "log.example/audit"), root: merkle.EmptyRoot(), objects: map[string][]byte{}}
	l.entries = []calpe.Entry{l.keys.Identity.Entry()}
	return l
}

func (l *testLog) clone() *testLog {
	c := *l
	c.entries, c.objects = slices.Clone(l.entries), maps.Clone(l.objects)
	return &c
}

// grow publishes a checkpoint of that size. The seed makes histories differ.
func (l *testLog) grow(size uint64, seed uint64) *testLog {
	l.t.Helper()
	for n := uint64(len(l.entries)); n < size; n++ {
		c := batchtest.Commitment(seed<<24 + n)
		if n%97 == 0 {
			c = calpe.VoidCommitment
		}
		l.entries = append(l.entries, calpe.Entry{Index: n, Commitment: c})
	}
	b, err := merkle.LoadEdge(l.size, l.root, l.source)
	l.no(err)
	var leaves []calpe.Hash
	for _, e := range l.entries[l.size:size] {
		entry := e.Bytes()
		leaves = append(leaves, merkle.LeafHash(entry[:]))
	}
	l.no(b.Append(leaves))
	for _, t := range b.Tiles() {
		l.objects[t.Path()] = bytes.Clone(t.Data)
	}
	for bundle := range merkle.BundlesFor(l.size, size) {
		data, err := merkle.EncodeEntryBundle(bundle, l.entries[bundle.First():][:bundle.Width])
		l.no(err)
		l.objects[merkle.EntryBundlePath(bundle.Index, bundle.Width)] = data
	}
	l.size, l.root = b.Size(), b.Root()
	l.objects["checkpoint"], err = l.keys.Sign(l.size, l.root)
	l.no(err)
	return l
}

func (l *testLog) source(tiles []merkle.Tile) ([][]byte, error) {
	var all [][]byte
	for _, t := range tiles {
		all = append(all, l.objects[t.Path()])
	}
	return all, nil
}

func (l *testLog) no(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

// covered are the paths of everything that the checkpoint covers, as a log has it
// that has removed what is partial.
func (l *testLog) covered() (paths []string) {
	for t := range merkle.NewTiles(0, l.size) {
		paths = append(paths, t.Path())
	}
	for b := range merkle.BundlesFor(0, l.size) {
		paths = append(paths, merkle.EntryBundlePath(b.Index, b.Width))
	}
	return paths
}

// server serves a log, through a cache that may be out of date.
type server struct {
	mu     sync.Mutex
	log    *testLog
	cached map[string][]byte
	reads  map[string]int
	fail   func(path string) error
}

func serve(l *testLog) *server {
	return &server{log: l, cached: map[string][]byte{}, reads: map[string]int{}}
}

func (s *server) Read(ctx context.Context, path string, limit int64, fresh bool) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reads[path]++
	if s.fail != nil {
		if err := s.fail(path); err != nil {
			return nil, err
		}
	}
	data, ok := s.log.objects[path]
	if old, isOld := s.cached[path]; isOld && !fresh {
		data, ok = old, true
	}
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case !ok:
		return nil, fmt.Errorf("%s: %w", path, calpe.ErrNotFound)
	case int64(len(data)) > limit:
		return nil, errors.New("too large")
	}
	return bytes.Clone(data), nil
}

// loss is what a crash does to what was not synced yet.
type loss int

const (
	loseNothing loss = iota
	loseAll
	loseWrites // but not what was removed
)

// disk is a mirror on a disk. What is synced outlives a crash; it crashes at the
// n-th operation that changes something.
type disk struct {
	mu      sync.Mutex
	durable map[string][]byte
	now     map[string][]byte
	ops     int
	crashAt int // 0: never
}

var errCrashed = errors.New("the machine crashed")

func newDisk() *disk { return &disk{durable: map[string][]byte{}, now: map[string][]byte{}} }

func (d *disk) change(apply func()) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.ops++
	if d.crashAt > 0 && d.ops >= d.crashAt {
		return errCrashed
	}
	apply()
	return nil
}

func (d *disk) Read(_ context.Context, path string, limit int64) ([]byte, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	data, ok := d.now[path]
	if !ok || int64(len(data)) > limit {
		return nil, fmt.Errorf("%s: %w", path, calpe.ErrNotFound)
	}
	return bytes.Clone(data), nil
}

func (d *disk) Write(_ context.Context, path string, data []byte) error {
	return d.change(func() { d.now[path] = bytes.Clone(data) })
}

func (d *disk) Remove(_ context.Context, path string) error {
	return d.change(func() { delete(d.now, path) })
}

func (d *disk) Sync(context.Context) error {
	return d.change(func() { d.durable = maps.Clone(d.now) })
}

// reboot is what is there after a crash.
func (d *disk) reboot(l loss) *disk {
	after := maps.Clone(d.durable)
	switch l {
	case loseNothing:
		after = maps.Clone(d.now)
	case loseWrites:
		for path := range after {
			if _, ok := d.now[path]; !ok {
				delete(after, path)
			}
		}
	case loseAll:
	}
	return &disk{durable: after, now: maps.Clone(after)}
}

// isMirrorOf demands that the disk holds the log, whole and nothing else.
func (d *disk) isMirrorOf(t *testing.T, l *testLog, sizes ...uint64) {
	t.Helper()
	want := map[string]bool{"checkpoint": true}
	for _, path := range l.covered() {
		want[path] = true
	}
	for _, size := range sizes {
		want[fmt.Sprintf("checkpoints/%013d", size)] = true
	}
	for path := range want {
		if data, ok := d.now[path]; !ok || !strings.HasPrefix(path, "checkpoints/") && !bytes.Equal(data, l.objects[path]) {
			t.Errorf("%s is missing or another one", path)
		}
	}
	for path := range d.now {
		if !want[path] {
			t.Errorf("%s is left over", path)
		}
	}
}

func auditor(t testing.TB, log audit.Log, mirror audit.Mirror, identity receipt.Identity) *audit.Auditor {
	t.Helper()
	a, err := audit.New(audit.Config{Log: log, Mirror: mirror, Identity: identity, Step: step, Readers: 3})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// run audits the log into the mirror.
func run(t testing.TB, s *server, mirror audit.Mirror) audit.Report {
	t.Helper()
	r, err := auditor(t, s, mirror, s.log.keys.Identity).Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// expect runs and demands a verdict.
func expect(t testing.TB, s *server, mirror audit.Mirror, status receipt.Status, reason audit.Reason) audit.Report {
	t.Helper()
	r := run(t, s, mirror)
	if r.Status != status || r.Reason != reason {
		t.Fatalf("%s, %q: %s; want %s, %q", r.Status, r.Reason, r.Text, status, reason)
	}
	return r
}
