package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"github.com/minio/minio-go/v7"
)

// PutLogObject stores an object of the log that will never change, a full tile or
// an old checkpoint. When it returns nil the server has exactly these bytes under
// that path, whether this call or an earlier one put them there: it may be
// repeated after any failure. Other bytes under the path are [ErrConflict], and
// stay. Content type and cache control are those of the first writer.
func (s *Store) PutLogObject(ctx context.Context, path string, data []byte, contentType, cacheControl string) error {
	if err := checkLogPath(path); err != nil {
		return err
	}
	o := putOptions{createOnly: true, contentType: contentType, cacheControl: cacheControl}
	_, err := s.put(ctx, s.cfg.LogBucket, path, data, sha256.Sum256(data), o)
	if !isPrecondition(err) {
		return describe("put", s.cfg.LogBucket, path, err)
	}
	stored, _, readErr := s.read(ctx, s.cfg.LogBucket, path, int64(len(data)))
	switch {
	case readErr == nil && bytes.Equal(stored, data):
		return nil
	case readErr == nil || errors.Is(readErr, ErrCorrupt):
		return fmt.Errorf("put %s/%s: %w: other bytes are there", s.cfg.LogBucket, path, ErrConflict)
	}
	return readErr
}

// ReplaceLogObject stores an object of the log whatever was there. It is only for
// what no signed checkpoint covers yet: tiles that a crashed batch left behind.
// Repeating it with the same bytes is harmless. After an error the request may
// still be on its way and be applied late, over what was written meanwhile.
func (s *Store) ReplaceLogObject(ctx context.Context, path string, data []byte, contentType, cacheControl string) error {
	if err := checkLogPath(path); err != nil {
		return err
	}
	o := putOptions{contentType: contentType, cacheControl: cacheControl}
	_, err := s.put(ctx, s.cfg.LogBucket, path, data, sha256.Sum256(data), o)
	return describe("replace", s.cfg.LogBucket, path, err)
}

// ReadLogObject reads an object of the log whole: [calpe.ErrNotFound] if there is none,
// [ErrCorrupt] if it has more than maxBytes bytes or not the checksum that the
// server keeps for it.
func (s *Store) ReadLogObject(ctx context.Context, path string, maxBytes int64) ([]byte, error) {
	if err := checkLogPath(path); err != nil {
		return nil, err
	}
	data, _, err := s.read(ctx, s.cfg.LogBucket, path, maxBytes)
	return data, err
}

// ListLog yields the paths of the log's objects that begin with prefix and sort
// after startAfter ("": all of them), in the order of their bytes, until yield
// returns false.
func (s *Store) ListLog(ctx context.Context, prefix, startAfter string, yield func(path string) bool) error {
	opts := minio.ListObjectsOptions{Prefix: prefix, StartAfter: startAfter, Recursive: true}
	err := s.list(ctx, s.cfg.LogBucket, opts, func(info minio.ObjectInfo) error {
		if !strings.HasPrefix(info.Key, probePrefix) && !yield(info.Key) {
			return errEnough
		}
		return nil
	})
	if errors.Is(err, errEnough) {
		return nil
	}
	return err
}

// errEnough ends a listing without a failure.
var errEnough = errors.New("enough")

// checkLogPath refuses what a file system, a proxy or another server would take
// for a different path.
func checkLogPath(path string) error {
	if path == "" || len(path) > 512 || strings.HasPrefix(path, probePrefix) {
		return fmt.Errorf("%.80q is not a path of the log", path)
	}
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part == "." || part == ".." {
			return fmt.Errorf("%.80q is not a path of the log", path)
		}
	}
	return nil
}
