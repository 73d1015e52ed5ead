package intake

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/internal/commitpoint"
)

// RetentionRows are the rows of documents whose objects are not locked yet.
type RetentionRows interface {
	// Unretained gives up to limit of them, by id, with ids above after.
	Unretained(ctx context.Context, after calpe.DocumentID, limit int) ([]calpe.Document, error)
	MarkRetained(ctx context.Context, id calpe.DocumentID, at time.Time) error
}

// RetainerConfig is what a [Retainer] needs.
type RetainerConfig struct {
	Rows RetentionRows
	// Retain puts the object under Object Lock until that time; again is fine.
	Retain   func(ctx context.Context, object calpe.Object, until time.Time) error
	Interval time.Duration    // default 10 s
	Now      func() time.Time // default time.Now
	Logger   *slog.Logger     // default slog.Default
}

// Retainer locks the objects of recorded documents. It restarts from the rows
// alone (I8), and several may run at once: both steps can be repeated.
type Retainer struct{ cfg RetainerConfig }

// NewRetainer makes a Retainer.
func NewRetainer(cfg RetainerConfig) (*Retainer, error) {
	if cfg.Rows == nil || cfg.Retain == nil {
		return nil, errors.New("retainer: Rows and Retain must be set")
	}
	cfg.Interval = cmp.Or(cfg.Interval, 10*time.Second)
	cfg.Logger = cmp.Or(cfg.Logger, slog.Default())
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Interval < 0 {
		return nil, errors.New("retainer: Interval is negative")
	}
	return &Retainer{cfg}, nil
}

// Run steps at every interval until ctx is done, which gives nil. Failures are
// logged and tried again.
func (r *Retainer) Run(ctx context.Context) error {
	every(ctx, r.cfg.Interval, func() {
		if _, err := r.Step(ctx); err != nil && ctx.Err() == nil {
			r.cfg.Logger.WarnContext(ctx, "some documents could not be locked, will be tried again", slog.Any("error", err))
		}
	})
	return nil
}

// Step locks what isn't, and gives how many it locked. One document that can't
// be locked doesn't hold up the others.
func (r *Retainer) Step(ctx context.Context) (locked int, err error) {
	const page = 100
	var after calpe.DocumentID
	var failed error
	for {
		documents, err := r.cfg.Rows.Unretained(ctx, after, page)
		if err != nil {
			return locked, errors.Join(failed, fmt.Errorf("list documents that are not locked: %w", err))
		}
		for _, d := range documents {
			after = d.ID
			if err := r.retain(ctx, d); err != nil {
				failed = cmp.Or(failed, err)
				continue
			}
			locked++
		}
		if len(documents) < page || ctx.Err() != nil {
			return locked, cmp.Or(failed, ctx.Err())
		}
	}
}

func (r *Retainer) retain(ctx context.Context, d calpe.Document) error {
	if err := r.cfg.Retain(ctx, d.Object, d.RetainUntil); err != nil {
		return fmt.Errorf("lock object of document %v: %w", d.ID, err)
	}
	// Crash here: the object is locked and the row doesn't say so. The next step
	// locks it again, until the same time.
	commitpoint.Reached(commitpoint.ObjectRetained)
	if err := r.cfg.Rows.MarkRetained(ctx, d.ID, r.cfg.Now()); err != nil {
		return fmt.Errorf("mark document %v as locked: %w", d.ID, err)
	}
	// Crash here: nothing is left to do for this document.
	commitpoint.Reached(commitpoint.RetainRecorded)
	return nil
}

// every calls f now and then at each interval, until ctx is done.
func every(ctx context.Context, interval time.Duration, f func()) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for ctx.Err() == nil {
		f()
		select {
		case <-ctx.Done():
		case <-ticker.C:
		}
	}
}

// OrphanStore is object storage, for the sweep.
type OrphanStore interface {
	// ListDocuments yields the objects that were last modified before olderThan.
	ListDocuments(ctx context.Context, olderThan time.Time, yield func(name string, modified time.Time) error) error
	// DeleteDocument's error for one under a lock has LockedUntil() time.Time.
	DeleteDocument(ctx context.Context, name string) error
	// AbortStaleUploads gives up multipart uploads that began before olderThan.
	AbortStaleUploads(ctx context.Context, olderThan time.Time) (aborted int, err error)
}

// KnownObjects are the objects that rows name.
type KnownObjects interface {
	// KnownObjects gives those of names that a row names.
	KnownObjects(ctx context.Context, names []string) ([]string, error)
}

// SweeperConfig is what a [Sweeper] needs.
type SweeperConfig struct {
	Objects OrphanStore
	Rows    KnownObjects
	// MaxAge is how old an object without a row must be. It must be well above
	// the time that an upload may take, from its first byte to its row. Default 24 h.
	MaxAge   time.Duration
	Interval time.Duration    // default 1 h
	Now      func() time.Time // default time.Now
	Logger   *slog.Logger     // default slog.Default
}

// Sweeper removes what uploads that never came to a row have left: objects, and
// parts of objects. Nobody can read them, since the key of an object exists in
// its row only. That is also true of documents whose rows are lost because an
// older copy of the database was put back; those are under Object Lock, and stay.
type Sweeper struct {
	cfg  SweeperConfig
	held map[string]time.Time // orphans under Object Lock, and until when; of Step alone
}

// maxHeld is how many orphans under Object Lock are remembered. What is
// forgotten is tried in vain at each step.
const maxHeld = 100_000

// locked is the error of an [OrphanStore] for an object that is under a lock.
type locked interface {
	error
	LockedUntil() time.Time
}

// minSweepAge is below what any sensible upload time-out is above.
const minSweepAge = 10 * time.Minute

// NewSweeper makes a Sweeper.
func NewSweeper(cfg SweeperConfig) (*Sweeper, error) {
	if cfg.Objects == nil || cfg.Rows == nil {
		return nil, errors.New("sweeper: Objects and Rows must be set")
	}
	cfg.MaxAge = cmp.Or(cfg.MaxAge, 24*time.Hour)
	cfg.Interval = cmp.Or(cfg.Interval, time.Hour)
	cfg.Logger = cmp.Or(cfg.Logger, slog.Default())
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.MaxAge < minSweepAge || cfg.Interval < 0 {
		return nil, fmt.Errorf("sweeper: MaxAge is below %v, or Interval negative", minSweepAge)
	}
	return &Sweeper{cfg: cfg, held: map[string]time.Time{}}, nil
}

// Run steps at every interval until ctx is done, which gives nil. Failures are
// logged and tried again.
func (s *Sweeper) Run(ctx context.Context) error {
	every(ctx, s.cfg.Interval, func() {
		removed, err := s.Step(ctx)
		if err != nil && ctx.Err() == nil {
			s.cfg.Logger.WarnContext(ctx, "some orphans could not be removed, will be tried again", slog.Any("error", err))
		}
		if removed > 0 {
			s.cfg.Logger.InfoContext(ctx, "removed objects and uploads that no document names", slog.Int("count", removed))
		}
	})
	return nil
}

// Step removes the orphans of now, and gives how many objects and unfinished
// uploads that were. An orphan under Object Lock is no failure: it is tried again
// when its lock is over. Steps must not overlap.
func (s *Sweeper) Step(ctx context.Context) (removed int, err error) {
	now := s.cfg.Now()
	olderThan := now.Add(-s.cfg.MaxAge)
	maps.DeleteFunc(s.held, func(_ string, until time.Time) bool { return !now.Before(until) })
	before := len(s.held)
	removed, failed := s.cfg.Objects.AbortStaleUploads(ctx, olderThan)
	const page = 500
	var names []string
	sweep := func() {
		n, err := s.sweep(ctx, names)
		removed, failed = removed+n, cmp.Or(failed, err)
		names = names[:0]
	}
	err = s.cfg.Objects.ListDocuments(ctx, olderThan, func(name string, _ time.Time) error {
		if names = append(names, name); len(names) == page {
			sweep()
		}
		return ctx.Err()
	})
	if len(names) > 0 {
		sweep()
	}
	if n := len(s.held) - before; n > 0 {
		s.cfg.Logger.InfoContext(ctx, "objects that no document names are under Object Lock, and are removed when that is over", slog.Int("count", n))
	}
	return removed, errors.Join(failed, err)
}

// sweep removes those of names that no row names. They are old enough that no
// row can come any more.
func (s *Sweeper) sweep(ctx context.Context, names []string) (removed int, failed error) {
	known, err := s.cfg.Rows.KnownObjects(ctx, names)
	if err != nil {
		return 0, fmt.Errorf("compare objects with rows: %w", err)
	}
	named := make(map[string]bool, len(known))
	for _, name := range known {
		named[name] = true
	}
	for _, name := range names {
		if _, held := s.held[name]; held || named[name] {
			continue
		}
		err := s.cfg.Objects.DeleteDocument(ctx, name)
		if lock, ok := errors.AsType[locked](err); ok && lock.LockedUntil().After(s.cfg.Now()) && len(s.held) < maxHeld {
			s.held[name] = lock.LockedUntil()
			continue
		}
		if err != nil {
			failed = cmp.Or(failed, fmt.Errorf("remove orphan: %w", err))
			continue
		}
		removed++
	}
	return removed, failed
}
