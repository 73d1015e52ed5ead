package batchtest

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt"
)

// Storage is the object storage that all processes share.
type Storage struct {
	mu         sync.Mutex
	objects    map[string][]byte
	fence      []byte
	fenceTag   int
	violations []string
}

// NewStorage is empty storage.
func NewStorage() *Storage { return &Storage{objects: make(map[string][]byte)} }

// Violations are the contracts that were broken, such as a tile replaced that a
// signed checkpoint covers.
func (s *Storage) Violations() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.violations)
}

// Object gives a stored object, nil if there is none.
func (s *Storage) Object(path string) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.objects[path])
}

// Set stores an object behind everybody's back; nil removes it.
func (s *Storage) Set(path string, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if data == nil {
		delete(s.objects, path)
		return
	}
	s.objects[path] = bytes.Clone(data)
}

// Paths are the paths of all objects under prefix, in order.
func (s *Storage) Paths(prefix string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	paths := slices.Sorted(maps.Keys(s.objects))
	return slices.DeleteFunc(paths, func(p string) bool { return !strings.HasPrefix(p, prefix) })
}

// SetFence replaces the fence behind everybody's back; nil removes it.
func (s *Storage) SetFence(data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fence = bytes.Clone(data)
	s.fenceTag++
}

// Fence gives the fence, nil if there is none.
func (s *Storage) Fence() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return bytes.Clone(s.fence)
}

// Objects is one process's view of the storage.
type Objects struct {
	*Storage
	Faults *Faults
}

// PutLogObject creates; the same again is fine, other bytes are [calpe.ErrExists].
func (o Objects) PutLogObject(ctx context.Context, path string, data []byte, _, _ string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return o.Faults.Write("put "+path, func() error {
		o.mu.Lock()
		defer o.mu.Unlock()
		if old, ok := o.objects[path]; ok && !bytes.Equal(old, data) {
			return fmt.Errorf("put %s: %w", path, calpe.ErrExists)
		}
		o.objects[path] = bytes.Clone(data)
		return nil
	})
}

// ReplaceLogObject overwrites. What a signed checkpoint covers must not change.
func (o Objects) ReplaceLogObject(ctx context.Context, path string, data []byte, _, _ string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return o.Faults.Write("replace "+path, func() error {
		o.mu.Lock()
		defer o.mu.Unlock()
		if path == headPath {
			o.checkHead(data)
		} else if !strings.HasPrefix(path, "anchors/") && o.covered(path) && !bytes.Equal(o.objects[path], data) {
			o.violations = append(o.violations, "replaced "+path+", which a signed checkpoint covers")
		}
		o.objects[path] = bytes.Clone(data)
		return nil
	})
}

// headPath is the one object that changes: the newest checkpoint.
const headPath = "checkpoint"

// checkHead demands that a log's head doesn't shrink. It needs mu.
func (s *Storage) checkHead(data []byte) {
	origin, next, err := receipt.ReadCheckpoint(data)
	if err != nil {
		s.violations = append(s.violations, fmt.Sprintf("the head is no checkpoint: %v", err))
	}
	if former, old, err := receipt.ReadCheckpoint(s.objects[headPath]); err == nil && former == origin && next.Size < old.Size {
		s.violations = append(s.violations, fmt.Sprintf("a head of size %d was replaced by one of size %d", old.Size, next.Size))
	}
}

// covered reports whether a checkpoint copy has at least as many entries as the
// tile or bundle reaches to. It needs mu.
func (s *Storage) covered(path string) bool {
	var end uint64
	if b, err := merkle.ParseEntryBundlePath(path); err == nil {
		end = b.First() + uint64(b.Width)
	} else if t, err := merkle.ParseTilePath(path); err == nil {
		end = (t.Index*merkle.TileWidth + uint64(t.Width)) << (merkle.TileHeight * t.Level)
	} else {
		return true // a checkpoint
	}
	for path := range s.objects {
		digits, ok := strings.CutPrefix(path, "checkpoints/")
		if size, err := strconv.ParseUint(strings.NewReplacer("x", "", "/", "").Replace(digits), 10, 64); ok && err == nil && size >= end {
			return true
		}
	}
	return false
}

// ReadLogObject reads up to maxBytes.
func (o Objects) ReadLogObject(ctx context.Context, path string, maxBytes int64) ([]byte, error) {
	if err := cmpErr(ctx.Err(), o.Faults.Read()); err != nil {
		return nil, err
	}
	data := o.Object(path)
	switch {
	case data == nil:
		return nil, fmt.Errorf("read %s: %w", path, calpe.ErrNotFound)
	case int64(len(data)) > maxBytes:
		return nil, fmt.Errorf("read %s: more than %d bytes", path, maxBytes)
	}
	return data, nil
}

// ListLog yields paths in order.
func (o Objects) ListLog(ctx context.Context, prefix, startAfter string, yield func(string) bool) error {
	if err := cmpErr(ctx.Err(), o.Faults.Read()); err != nil {
		return err
	}
	for _, path := range o.Paths(prefix) {
		if path > startAfter && !yield(path) {
			break
		}
	}
	return nil
}

// ReadFence gives the fence and its tag.
func (o Objects) ReadFence(ctx context.Context) ([]byte, string, error) {
	if err := cmpErr(ctx.Err(), o.Faults.Read()); err != nil {
		return nil, "", err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.fence == nil {
		return nil, "", fmt.Errorf("read fence: %w", calpe.ErrNotFound)
	}
	return bytes.Clone(o.fence), strconv.Itoa(o.fenceTag), nil
}

// ReplaceFence compares and swaps.
func (o Objects) ReplaceFence(ctx context.Context, data []byte, etag string) (newETag string, err error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	err = o.Faults.Write("fence", func() error {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.fence == nil && etag != "" {
			return fmt.Errorf("replace fence: %w", calpe.ErrNotFound)
		}
		if o.fence != nil && etag != strconv.Itoa(o.fenceTag) {
			return fmt.Errorf("replace fence: %w", calpe.ErrExists)
		}
		o.fence = bytes.Clone(data)
		o.fenceTag++
		newETag = strconv.Itoa(o.fenceTag)
		return nil
	})
	if err != nil {
		return "", err
	}
	return newETag, nil
}

// cmpErr is the first of two errors.
func cmpErr(a, b error) error {
	if a != nil {
		return a
	}
	return b
}
