package batch

import (
	"bytes"
	"context"
	"fmt"
	"time"
)

// HeadPath is the newest checkpoint under the name that tlog-tiles gives it: with
// it the bucket is a whole log by itself, for a CDN or a mirror in front of it.
// (api serves the row instead, and so never an older one.)
const HeadPath = "checkpoint"

// headRecheck is how often the object is compared with the row while nothing
// changes. A leader that was paused between reading the row and writing the
// object may put an older checkpoint over a newer one when it wakes up, and so
// may a request that arrives late. Both are checkpoints of the same history;
// whoever leads puts the newest one back within this time.
const headRecheck = time.Minute

// keepHead makes sure of the object, if there is reason to doubt that it is the
// newest row's note.
func (s *Sealer) keepHead(ctx context.Context) error {
	since := s.cfg.Now().Sub(s.headAt)
	if !s.headStale && since >= 0 && since < headRecheck {
		return nil
	}
	return s.showHead(ctx)
}

// showHead puts the note of the newest row into the object, unless it is there.
// It never puts an older checkpoint over a newer one that it could know of: the
// row is read last of all, just before the write.
func (s *Sealer) showHead(ctx context.Context) error {
	shown, readErr := s.cfg.Objects.ReadLogObject(ctx, HeadPath, maxCheckpointBytes)
	head, err := s.head(ctx)
	if err != nil || head.Size == 0 {
		return err
	}
	if readErr != nil || !bytes.Equal(shown, head.Note) { // what can't be read is replaced
		if err := s.checkShown(shown, head.Size); err != nil {
			return err
		}
		// Crash here: the object is one checkpoint behind the row. Preflight of the
		// next leader puts it right; until then the bucket shows less than api does.
		if err := s.cfg.Objects.ReplaceLogObject(ctx, HeadPath, head.Note, typeCheckpoint, cacheHead); err != nil {
			return fmt.Errorf("publish %s of size %d: %w", HeadPath, head.Size, err)
		}
	}
	s.headStale, s.headAt = false, s.cfg.Now()
	return nil
}

// checkShown refuses to replace a checkpoint that we signed and that is newer.
func (s *Sealer) checkShown(shown []byte, size uint64) error {
	if cp, err := s.cfg.Log.cfg.Open(shown); err == nil && cp.Size > size {
		return fmt.Errorf("%w: the published head has %d entries, the newest row %d", ErrBehind, cp.Size, size)
	}
	return nil
}
