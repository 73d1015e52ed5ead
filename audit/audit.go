package audit

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/headers"
)

// Log is a published log, over HTTP or from wherever.
type Log interface {
	// Read gives the object of that path below the log's prefix, such as
	// "checkpoint" or "tile/0/000"; [calpe.ErrNotFound] if the log has none. More
	// than limit bytes are an error. With fresh no cache may answer. Time-outs and
	// retries are Read's own. It is called by several goroutines at once.
	Read(ctx context.Context, path string, limit int64, fresh bool) ([]byte, error)
}

// Mirror is where an audit keeps what it has checked. Paths are those of the log,
// and a few more. It is called by several goroutines at once.
type Mirror interface {
	// Read is as for [Log].
	Read(ctx context.Context, path string, limit int64) ([]byte, error)
	// Write puts the whole object there or, after a crash, leaves what was there.
	// It is durable once Sync has returned.
	Write(ctx context.Context, path string, data []byte) error
	// Remove takes an object away; one that isn't there is fine.
	Remove(ctx context.Context, path string) error
	// Sync makes what was written durable.
	Sync(ctx context.Context) error
}

// Config is what an [Auditor] needs.
type Config struct {
	Log Log
	// Identity is the pinned identity of the log: its keys, its origin, its entry 0.
	Identity receipt.Identity
	// Mirror keeps what was seen from one run to the next. Without one every run
	// starts with entry 0, and can't see that the log contradicts what it said before.
	Mirror Mirror
	// Readers is how many objects are read at the same time. Default 8.
	Readers int
	// Step is how many entries are fetched, checked and kept together, a multiple
	// of 256. An interrupted run loses one step; memory is about 150 bytes an
	// entry of it. Default 65536.
	Step uint64
	// Headers is a verified chain of Bitcoin's headers, against which anchors are
	// checked. Without it their blocks are taken to be in the chain.
	Headers *headers.Chain
	// Depth is how many blocks deep an anchor has to be to be final. Default
	// [receipt.DefaultDepth].
	Depth int
	// Coins, if set, is asked whether the last coin of the chain of anchors is
	// unspent: whether all anchors were published.
	Coins Coins
	// Scan, if set, is what a full node's blocks say of the chain of anchors. It is
	// checked in place of what the log publishes, which is compared with it.
	Scan *Scan
	// Progress, if set, is told how much of the log has been checked.
	Progress func(checked, size uint64)
}

// Auditor audits one log.
type Auditor struct{ cfg Config }

// New makes an Auditor. It reads nothing yet.
func New(cfg Config) (*Auditor, error) {
	if cfg.Log == nil {
		return nil, errors.New("audit: Log must be set")
	}
	if err := cfg.Identity.Validate(); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	cfg.Readers = cmp.Or(cfg.Readers, 8)
	cfg.Step = cmp.Or(cfg.Step, 1<<16)
	cfg.Depth = cmp.Or(cfg.Depth, receipt.DefaultDepth)
	if err := checkHeaders(cfg.Headers, cfg.Identity); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	if cfg.Readers < 0 || cfg.Step%merkle.TileWidth != 0 {
		return nil, fmt.Errorf("audit: Readers must be positive, Step a multiple of %d", merkle.TileWidth)
	}
	if cfg.Progress == nil {
		cfg.Progress = func(uint64, uint64) {}
	}
	return &Auditor{cfg}, nil
}

// Run reads the newest checkpoint and all that is new, and says what it found.
// An error is something that proves nothing against the log: it, or the mirror,
// can't be read or written, or the mirror is damaged. Then the next run goes on
// where this one ended.
//
// Two runs must not use a mirror at the same time.
func (a *Auditor) Run(ctx context.Context) (Report, error) {
	r := &run{cfg: a.cfg, mirror: a.cfg.Mirror, tiles: make(map[merkle.Tile][]byte)}
	if r.mirror == nil {
		r.mirror = newEdgeOnly()
	}
	r.report = Report{Status: receipt.Holds, Log: a.cfg.Identity.Hash(), Origin: a.cfg.Identity.Origin}
	now, err := r.audit(ctx)
	if err == nil {
		err = r.auditAnchors(ctx, now)
	}
	if f, ok := errors.AsType[*finding](err); ok {
		r.report.Status, r.report.Reason, r.report.Text, err = f.status, f.reason, f.text, nil
	} else if err == nil {
		r.report.Text = r.holds()
		if a := r.report.Anchors; a != nil && len(a.Breaks) > 0 {
			r.report.Reason = ReasonChainBroken
		}
	}
	if err != nil {
		return Report{}, err
	}
	return r.report, nil
}

// run is one audit.
type run struct {
	cfg    Config
	mirror Mirror
	report Report
	tiles  map[merkle.Tile][]byte // of the log, for proofs
	start  uint64                 // entries that had been checked before
	stale  []uint64               // sizes whose partial tiles nothing needs after the commit
}

// tree is a log of some size, whose root is known for certain.
type tree struct {
	size uint64
	root calpe.Hash
	note []byte // of the checkpoint that said so; of progress: that led to it
}

func (r *run) audit(ctx context.Context) (tree, error) {
	kept, err := r.load(ctx)
	if err != nil {
		return tree{}, err
	}
	if kept.checkpoint.size > 0 {
		r.report.Previous = &Tree{kept.checkpoint.size, kept.checkpoint.root}
	}
	now, err := r.head(ctx, kept)
	if err != nil {
		return tree{}, err
	}
	r.report.Checkpoint = &Tree{now.size, now.root}
	from, err := r.compare(ctx, kept, now)
	if err != nil {
		return tree{}, err
	}
	if now.size == kept.checkpoint.size {
		return now, nil
	}
	r.stale = []uint64{kept.checkpoint.size, kept.progress.size}
	if err := r.extend(ctx, from, now, kept.checkpoint.size); err != nil {
		return tree{}, err
	}
	return now, r.commit(ctx, kept.checkpoint, now)
}

// head is the log's newest checkpoint, if it is signed as the identity demands.
func (r *run) head(ctx context.Context, kept kept) (tree, error) {
	data, err := r.cfg.Log.Read(ctx, checkpointPath, maxObject, true)
	if errors.Is(err, calpe.ErrNotFound) && kept.checkpoint.size == 0 && kept.target.size == 0 {
		return tree{}, notYet(ReasonNoCheckpoint, "the log has no checkpoint yet")
	}
	if err != nil {
		return tree{}, fmt.Errorf("read the log's checkpoint: %w", err)
	}
	cp, err := receipt.OpenCheckpoint(data, r.cfg.Identity)
	if errors.Is(err, receipt.ErrSignature) {
		return tree{}, refuted(ReasonSignature, "the log's checkpoint: %v", err)
	}
	if err != nil {
		return tree{}, refuted(ReasonMalformed, "the log's checkpoint: %v", err)
	}
	if cp.Size == 0 {
		return tree{}, notYet(ReasonNoCheckpoint, "the log's checkpoint is about no entry yet")
	}
	return tree{cp.Size, cp.Root, data}, nil
}

// compare holds what the log says now against all that it said before. It gives
// the largest tree of the mirror from which the log has grown.
func (r *run) compare(ctx context.Context, kept kept, now tree) (from tree, err error) {
	if kept.checkpoint.size > now.size {
		return tree{}, r.shrunk(ctx, kept.checkpoint, now)
	}
	for _, before := range []tree{kept.checkpoint, kept.target, kept.progress} {
		if before.size > now.size {
			continue // an audit that was interrupted, and the log shows less since: nothing rests on it
		}
		if err := r.grown(ctx, before, now); err != nil {
			return tree{}, err
		}
	}
	if kept.progress.size > kept.checkpoint.size && kept.progress.size <= now.size {
		return kept.progress, nil
	}
	return kept.checkpoint, nil
}

// grown demands that the log begins with what it was before.
func (r *run) grown(ctx context.Context, before, now tree) error {
	root := now.root
	if before.size == 0 {
		return nil
	}
	if before.size < now.size {
		var err error
		if root, err = r.prefix(ctx, before.size, now); err != nil {
			return err
		}
	}
	if root != before.root {
		return r.splitView(ctx, before, now)
	}
	return nil
}

// shrunk judges a checkpoint that is older than the one seen before: a cache may
// have kept it, but it must be of the same history.
func (r *run) shrunk(ctx context.Context, before, now tree) error {
	root, err := prefixRoot(now.size, before, r.mirrored(ctx, before.size))
	if err != nil {
		return damagedMirror(before.size, err)
	}
	if root != now.root {
		return r.splitView(ctx, before, now)
	}
	return notYet(ReasonOlder, "the log shows a checkpoint of %d entries, and has shown one of %d before; it is of the same history", now.size, before.size)
}

// splitView keeps the two checkpoints, which prove it to everybody.
func (r *run) splitView(ctx context.Context, before, now tree) error {
	r.report.Evidence = []string{string(before.note), string(now.note)}
	for _, note := range [][]byte{before.note, now.note} {
		signed, err := r.open(note) // before may be a beginning of what its note is about
		if err == nil {
			err = r.writeNow(ctx, conflictPath(signed.size, signed.root), note)
		}
		if err != nil {
			return fmt.Errorf("keep the evidence of a split view: %w", err)
		}
	}
	return refuted(ReasonSplitView, "the log has shown two histories: of the first %d entries the root was %v, and in the log of %d entries that it shows now it is another",
		min(before.size, now.size), smallerRoot(before, now), now.size)
}

// smallerRoot is the root that the smaller tree was said to have.
func smallerRoot(a, b tree) calpe.Hash {
	if b.size < a.size {
		return b.root
	}
	return a.root
}
