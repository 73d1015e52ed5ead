package batch

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/internal/commitpoint"
	"github.com/calpe/calpe/merkle"
	"golang.org/x/sync/errgroup"
)

// Entries is the log in the database.
type Entries interface {
	NextIndex(ctx context.Context) (uint64, error)
	// ReadEntries calls fn with runs of the entries from up to, and not
	// including, to, in order and without a gap ([calpe.ErrNotDense]).
	ReadEntries(ctx context.Context, from, to uint64, fn func(first uint64, commitments []calpe.Commitment) error) error
}

// Checkpoints are the rows of checkpoints in the database.
type Checkpoints interface {
	// CheckpointHead is the newest; [calpe.ErrNotFound] if there is none yet.
	CheckpointHead(ctx context.Context) (calpe.Checkpoint, error)
	// InsertCheckpoint records the newest, durably, if epoch still leads, else
	// [calpe.ErrLostLeadership].
	InsertCheckpoint(ctx context.Context, epoch uint64, cp calpe.Checkpoint) error
	// LeadsBatch is nil if epoch leads at this moment, else
	// [calpe.ErrLostLeadership].
	LeadsBatch(ctx context.Context, epoch uint64) error
}

// ErrForked says that the database and what was signed and published disagree on
// an entry, a tile or a root. Going on would publish a second history (I2, I3),
// so whoever gets it stops for good: an operator must look.
var ErrForked = errors.New("the database and the published log disagree")

// ErrBehind says that the database lacks entries of a checkpoint that was signed
// and published: it went back in time. Nothing can be sealed until intake has
// rolled it forward.
var ErrBehind = errors.New("the database is behind the published log")

// ErrObjectsBehind says that object storage lacks tiles of a checkpoint. They
// were durable before it was recorded or signed (I4), so object storage went back
// in time, or is another one. Nothing is sealed on it.
var ErrObjectsBehind = errors.New("object storage is behind the log: put its newest state back, an older copy can't be gone on with")

// SealerConfig is what a [Sealer] needs.
type SealerConfig struct {
	Entries     Entries
	Checkpoints Checkpoints
	Objects     Objects
	Log         *Log
	// Sign makes the checkpoint note for a size and root (receipt.SignCheckpoint).
	Sign func(size uint64, root calpe.Hash) ([]byte, error)
	// Interval is the longest an entry waits for its checkpoint. Default 10 s.
	Interval time.Duration
	// MaxEntries waiting are sealed before the interval has passed. Default 65536.
	MaxEntries uint64
	// StepEntries bounds one step, and so its memory: 106 bytes an entry. Default 2^18.
	StepEntries uint64
	// Writers is how many objects are written at the same time. Default 8.
	Writers int
	// StepTimeout bounds one step. Default 2 min.
	StepTimeout time.Duration
	// Sealed, if set, is told of each checkpoint that was made: how many entries it
	// added, and how long that took. It must not block.
	Sealed func(entries uint64, took time.Duration)
	// Wake may tell that there are new entries; nil is fine, a ticker looks too.
	Wake   <-chan struct{}
	Now    func() time.Time // default time.Now
	Logger *slog.Logger     // default slog.Default
}

// Sealer makes checkpoints. One Sealer at a time may write, under leadership;
// its methods must not be called at the same time.
type Sealer struct {
	cfg SealerConfig
	log *slog.Logger
	// The object "checkpoint" may not be the newest row's note; when it last was.
	headStale bool
	headAt    time.Time
}

// NewSealer makes a Sealer. It reads and writes nothing yet.
func NewSealer(cfg SealerConfig) (*Sealer, error) {
	if cfg.Entries == nil || cfg.Checkpoints == nil || cfg.Objects == nil || cfg.Log == nil || cfg.Sign == nil {
		return nil, errors.New("sealer: Entries, Checkpoints, Objects, Log and Sign must be set")
	}
	cfg.Interval = cmp.Or(cfg.Interval, 10*time.Second)
	cfg.MaxEntries = cmp.Or(cfg.MaxEntries, 1<<16)
	cfg.StepEntries = cmp.Or(cfg.StepEntries, 1<<18)
	cfg.Writers = cmp.Or(cfg.Writers, 8)
	cfg.StepTimeout = cmp.Or(cfg.StepTimeout, 2*time.Minute)
	cfg.Logger = cmp.Or(cfg.Logger, slog.Default())
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Interval < 0 || cfg.Writers < 0 || cfg.StepTimeout < 0 {
		return nil, errors.New("sealer: Interval, Writers and StepTimeout must be positive")
	}
	return &Sealer{cfg: cfg, log: cfg.Logger, headStale: true}, nil
}

// Run seals until ctx is done, which gives nil, or until going on would do harm:
// [ErrForked], or [calpe.ErrLostLeadership]. Every other failure is logged and
// tried again at the next tick. Call it with the epoch of a fresh leadership.
func (s *Sealer) Run(ctx context.Context, epoch uint64) error {
	ticker := time.NewTicker(min(s.cfg.Interval, time.Second))
	defer ticker.Stop()
	compared := false
	for {
		more, err := s.tick(ctx, epoch, &compared)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrForked) || errors.Is(err, calpe.ErrLostLeadership):
			return err
		case err != nil:
			s.log.ErrorContext(ctx, "sealing failed, will be tried again", slog.Any("error", err))
		case more:
			continue
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-s.cfg.Wake:
		}
	}
}

// tick compares the stores once, then seals if it is time. It reports whether
// there is more to seal at once.
func (s *Sealer) tick(ctx context.Context, epoch uint64, compared *bool) (more bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.StepTimeout)
	defer cancel()
	if !*compared {
		if err := s.Preflight(ctx, epoch); err != nil {
			return false, err
		}
		*compared = true
	}
	due, err := s.due(ctx)
	if err != nil {
		return false, err
	}
	if !due {
		return false, s.keepHead(ctx)
	}
	if _, err := s.Seal(ctx, epoch); err != nil {
		return false, err
	}
	return s.due(ctx)
}

// due reports whether entries have waited long enough, or are enough. A newest
// checkpoint from the future (the clock was set back) doesn't hold anything up.
func (s *Sealer) due(ctx context.Context) (bool, error) {
	head, err := s.head(ctx)
	if err != nil {
		return false, err
	}
	next, err := s.cfg.Entries.NextIndex(ctx)
	if err != nil {
		return false, fmt.Errorf("next index: %w", err)
	}
	if next <= head.Size {
		return false, nil
	}
	age := s.cfg.Now().Sub(head.Time)
	return next-head.Size >= s.cfg.MaxEntries || age >= s.cfg.Interval || age < 0, nil
}

// head is the newest checkpoint row, or the empty log.
func (s *Sealer) head(ctx context.Context) (calpe.Checkpoint, error) {
	head, err := s.cfg.Checkpoints.CheckpointHead(ctx)
	if errors.Is(err, calpe.ErrNotFound) {
		return calpe.Checkpoint{Root: merkle.EmptyRoot()}, nil
	}
	if err != nil {
		return calpe.Checkpoint{}, fmt.Errorf("read newest checkpoint: %w", err)
	}
	return head, nil
}

// nextAfter is the next index of the database in which head was read just now.
// [ErrForked]: the row has more entries than the log. But the two may have been
// read from two servers, before and after a failover: then the row is gone when
// it is read again, and [ErrBehind] says that intake has something to recover.
func (s *Sealer) nextAfter(ctx context.Context, head calpe.Checkpoint) (uint64, error) {
	next, err := s.cfg.Entries.NextIndex(ctx)
	if err != nil {
		return 0, fmt.Errorf("next index: %w", err)
	}
	if next >= head.Size {
		return next, nil
	}
	again, err := s.head(ctx)
	switch {
	case err != nil:
		return 0, err
	case again.Size > next:
		return 0, fmt.Errorf("%w: the newest checkpoint row has %d entries, the database only %d", ErrForked, again.Size, next)
	}
	return 0, fmt.Errorf("%w: the newest checkpoint row had %d entries a moment ago, now the database has %d", ErrBehind, head.Size, next)
}

// Seal makes one checkpoint over what is new, up to StepEntries entries, and
// gives it when its row is durable and it is the head of the log in object
// storage. Without new entries it gives the newest checkpoint and writes at most
// that head. After any error it may be called again.
func (s *Sealer) Seal(ctx context.Context, epoch uint64) (calpe.Checkpoint, error) {
	head, err := s.takeUp(ctx, epoch)
	if err != nil {
		return calpe.Checkpoint{}, err
	}
	next, err := s.nextAfter(ctx, head)
	if err != nil {
		return calpe.Checkpoint{}, err
	}
	size := min(next, head.Size+s.cfg.StepEntries)
	if size == head.Size {
		return head, s.keepHead(ctx)
	}
	start := time.Now()
	b, err := s.load(ctx, head, size)
	if err != nil {
		return calpe.Checkpoint{}, err
	}
	if err := s.store(ctx, epoch, b, head.Size); err != nil {
		return calpe.Checkpoint{}, err
	}
	// Crash here: tiles without a checkpoint. Nobody has been told of them; the
	// next step writes the same bytes to the same names.
	commitpoint.Reached(commitpoint.TilesStored)
	cp, err := s.publish(ctx, epoch, b.tree.Size(), b.tree.Root())
	if err == nil && s.cfg.Sealed != nil {
		s.cfg.Sealed(cp.Size-head.Size, time.Since(start))
	}
	return cp, err
}

// grown is the log with the entries of one step appended.
type grown struct {
	tree *merkle.Builder
	// commitments from the first entry of the first bundle that changes, which
	// may lie before the newest checkpoint.
	first       uint64
	commitments []calpe.Commitment
}

// load appends the entries from head to size to the published edge.
func (s *Sealer) load(ctx context.Context, head calpe.Checkpoint, size uint64) (grown, error) {
	tree, err := s.edge(ctx, head)
	if err != nil {
		return grown{}, err
	}
	g := grown{tree: tree, first: head.Size / merkle.TileWidth * merkle.TileWidth}
	g.commitments = make([]calpe.Commitment, 0, size-g.first)
	err = s.cfg.Entries.ReadEntries(ctx, g.first, size, func(_ uint64, run []calpe.Commitment) error {
		g.commitments = append(g.commitments, run...)
		return nil
	})
	if err != nil {
		return grown{}, fmt.Errorf("read entries %d to %d: %w", g.first, size, err)
	}
	if got := g.first + uint64(len(g.commitments)); got != size {
		return grown{}, fmt.Errorf("read entries %d to %d: got them only to %d", g.first, size, got)
	}
	if err := tree.Append(leaves(head.Size, g.commitments[head.Size-g.first:])); err != nil {
		return grown{}, err
	}
	return g, g.checkOverlap(head.Size)
}

// checkOverlap compares the entries of the database below size with the
// published tile that they are in.
func (g grown) checkOverlap(size uint64) error {
	tile := g.tree.Tiles()[0].Data // level 0, from g.first
	for i, hash := range leaves(g.first, g.commitments[:size-g.first]) {
		if !bytes.Equal(hash[:], tile[i*calpe.HashSize:][:calpe.HashSize]) {
			return fmt.Errorf("%w: entry %d is another one in the published tiles", ErrForked, g.first+uint64(i))
		}
	}
	return nil
}

// edge loads the right edge of a signed checkpoint.
func (s *Sealer) edge(ctx context.Context, cp calpe.Checkpoint) (*merkle.Builder, error) {
	tree, err := s.cfg.Log.Edge(ctx, cp)
	if errors.Is(err, merkle.ErrRootMismatch) {
		return nil, fmt.Errorf("%w: tiles and the checkpoint of size %d: %w", ErrForked, cp.Size, err)
	}
	if errors.Is(err, calpe.ErrNotFound) {
		return nil, fmt.Errorf("%w: tiles of the checkpoint over %d entries are missing: %w", ErrObjectsBehind, cp.Size, err)
	}
	if err != nil {
		return nil, fmt.Errorf("load the log's edge: %w", err)
	}
	return tree, nil
}

// store writes the bundles and tiles that changed since the log had oldSize
// entries. They are durable when it returns nil (I4).
func (s *Sealer) store(ctx context.Context, epoch uint64, g grown, oldSize uint64) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(s.cfg.Writers)
	for b := range merkle.BundlesFor(oldSize, g.tree.Size()) {
		group.Go(func() error {
			data, err := g.bundle(b)
			if err != nil {
				return err
			}
			return s.put(ctx, epoch, merkle.EntryBundlePath(b.Index, b.Width), data)
		})
	}
	for _, t := range g.tree.Tiles() {
		group.Go(func() error { return s.put(ctx, epoch, t.Path(), t.Data) })
	}
	return group.Wait()
}

// bundle encodes one entry bundle.
func (g grown) bundle(b merkle.Bundle) ([]byte, error) {
	entries := make([]calpe.Entry, b.Width)
	for i := range entries {
		index := b.First() + uint64(i)
		entries[i] = calpe.Entry{Index: index, Commitment: g.commitments[index-g.first]}
	}
	return merkle.EncodeEntryBundle(b, entries)
}

// put writes a tile or bundle that ends above every signed checkpoint. What is
// there with other bytes is left over from a step that crashed before it signed
// anything, and whose entries were then lost with the database: nobody was ever
// told of it, so it is replaced. Unless this is the step of old: a leader that
// was paused in it must not put what was lost over what has been signed since.
func (s *Sealer) put(ctx context.Context, epoch uint64, path string, data []byte) error {
	err := s.cfg.Objects.PutLogObject(ctx, path, data, typeTile, cacheForEver)
	if errors.Is(err, calpe.ErrExists) {
		if err := s.cfg.Checkpoints.LeadsBatch(ctx, epoch); err != nil {
			return fmt.Errorf("before replacing %s: %w", path, err)
		}
		s.log.WarnContext(ctx, "replacing a tile that no checkpoint covers, left over from before a recovery", slog.String("path", path))
		err = s.cfg.Objects.ReplaceLogObject(ctx, path, data, typeTile, cacheForEver)
	}
	if err != nil {
		return fmt.Errorf("store %s: %w", path, err)
	}
	// Crash here: some tiles without a checkpoint, as at TilesStored.
	commitpoint.Reached(commitpoint.TileStored)
	return nil
}

// publish signs the checkpoint and makes its copy and then its row durable. A
// leader that was paused while it wrote tiles signs nothing any more: a database
// that went back meanwhile may have given its last indices to something else,
// and a signature over what they were can't be taken back.
func (s *Sealer) publish(ctx context.Context, epoch uint64, size uint64, root calpe.Hash) (calpe.Checkpoint, error) {
	if err := s.cfg.Checkpoints.LeadsBatch(ctx, epoch); err != nil {
		return calpe.Checkpoint{}, fmt.Errorf("before signing for %d entries: %w", size, err)
	}
	note, err := s.cfg.Sign(size, root)
	if err != nil {
		return calpe.Checkpoint{}, fmt.Errorf("sign checkpoint of size %d: %w", size, err)
	}
	cp := calpe.Checkpoint{Size: size, Root: root, Note: note, Time: s.cfg.Now().UTC().Truncate(time.Microsecond)}
	if cp, err = s.storeCopy(ctx, cp); err != nil {
		return calpe.Checkpoint{}, err
	}
	// Crash here: a signed checkpoint that the database doesn't know, and that
	// somebody may have read. The next step, or the next leader, takes it up.
	commitpoint.Reached(commitpoint.CheckpointStored)
	if err := s.record(ctx, epoch, cp); err != nil {
		return calpe.Checkpoint{}, err
	}
	return cp, s.showHead(ctx)
}

// storeCopy writes the immutable copy of a checkpoint. If one of that size is
// there with other bytes but the same root (it was signed with a key that has
// been replaced since), that one is the checkpoint.
func (s *Sealer) storeCopy(ctx context.Context, cp calpe.Checkpoint) (calpe.Checkpoint, error) {
	path := CheckpointPath(cp.Size)
	err := s.cfg.Objects.PutLogObject(ctx, path, cp.Note, typeCheckpoint, cacheForEver)
	if err == nil {
		return cp, nil
	}
	if !errors.Is(err, calpe.ErrExists) {
		return calpe.Checkpoint{}, fmt.Errorf("store %s: %w", path, err)
	}
	old, err := s.cfg.Log.Checkpoint(ctx, cp.Size)
	if err != nil {
		return calpe.Checkpoint{}, err
	}
	if old.Root != cp.Root {
		return calpe.Checkpoint{}, forkedRoot(cp.Size, cp.Root, old.Root)
	}
	old.Time = cp.Time
	return old, nil
}

// forkedRoot is the error for two roots of one size.
func forkedRoot(size uint64, database, published calpe.Hash) error {
	return fmt.Errorf("%w: the root of the first %d entries is %v by the database and %v in a signed checkpoint", ErrForked, size, database, published)
}

// record inserts the row of a checkpoint whose tiles and copy are durable.
func (s *Sealer) record(ctx context.Context, epoch uint64, cp calpe.Checkpoint) error {
	if err := s.cfg.Checkpoints.InsertCheckpoint(ctx, epoch, cp); err != nil {
		return fmt.Errorf("record checkpoint of size %d: %w", cp.Size, err)
	}
	s.headStale = true
	// Crash here: nothing is lost; the checkpoint is the head, though the object
	// of that name is older until the next leader's preflight.
	commitpoint.Reached(commitpoint.CheckpointRow)
	s.log.InfoContext(ctx, "checkpoint sealed", slog.Uint64("size", cp.Size), slog.Any("root", cp.Root))
	return nil
}
