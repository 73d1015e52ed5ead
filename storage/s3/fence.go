package s3

import (
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/minio/minio-go/v7"
)

const (
	fenceName    = "control/fence"
	maxFenceSize = 64 << 10
)

// ReadFence reads the fence and its ETag, which [Store.ReplaceFence] takes.
// [calpe.ErrNotFound]: nobody has written one yet. What the bytes mean is the caller's.
func (s *Store) ReadFence(ctx context.Context) (data []byte, etag string, err error) {
	data, info, err := s.read(ctx, s.cfg.DocumentsBucket, fenceName, maxFenceSize)
	if err != nil {
		return nil, "", err
	}
	if info.ETag == "" {
		return nil, "", fmt.Errorf("read %s/%s: server gave no ETag", s.cfg.DocumentsBucket, fenceName)
	}
	return data, info.ETag, nil
}

// ReplaceFence writes the fence if its ETag is still etag, or, if etag is empty, if
// there is none; of many writers with the same etag exactly one wins. The others
// get [ErrConflict] and have written nothing. A fence that has vanished is
// [calpe.ErrNotFound]. On many servers the ETag is a hash of the content: data must
// differ from all that the fence ever held, or an old ETag comes back to life.
//
// It is sent once and never again by itself: after any other error nobody knows
// whether it was applied, and the caller must read the fence before it goes on.
// Earlier versions stay in the bucket: they are a few bytes each, and evidence.
func (s *Store) ReplaceFence(ctx context.Context, data []byte, etag string) (string, error) {
	if len(data) == 0 || len(data) > maxFenceSize {
		return "", fmt.Errorf("fence has %d bytes, want 1 to %d", len(data), maxFenceSize)
	}
	o := putOptions{createOnly: etag == "", match: etag, contentType: contentTypeBytes}
	var newETag string
	err := once(ctx, s.cfg.RequestTimeout, func(ctx context.Context) error {
		info, err := s.putOnce(ctx, s.cfg.DocumentsBucket, fenceName, data, sha256.Sum256(data), o)
		newETag = info.ETag
		return err
	})
	if isPrecondition(err) || isRace(err) {
		return "", fmt.Errorf("replace %s/%s: %w (%w)", s.cfg.DocumentsBucket, fenceName, ErrConflict, err)
	}
	if err != nil {
		return "", describe("replace", s.cfg.DocumentsBucket, fenceName, err)
	}
	if newETag == "" {
		return "", fmt.Errorf("replace %s/%s: server gave no ETag", s.cfg.DocumentsBucket, fenceName)
	}
	return newETag, nil
}

// UndeleteFence brings a fence back that was deleted without naming a version,
// as people and tools delete: its last version is under a delete marker, and
// holds what it held. It reports whether there is such a version; if not,
// nothing is changed. It may be repeated.
func (s *Store) UndeleteFence(ctx context.Context) (found bool, err error) {
	var markers []string
	err = s.versions(ctx, s.cfg.DocumentsBucket, fenceName, func(v minio.ObjectInfo) error {
		switch {
		case v.Key != fenceName:
		case v.IsDeleteMarker:
			markers = append(markers, v.VersionID)
		default:
			found = true
		}
		return nil
	})
	if err != nil || !found {
		return false, err
	}
	for _, version := range markers {
		// Crash here: some markers are left, and hide the fence still.
		if err := s.removeVersion(ctx, s.cfg.DocumentsBucket, fenceName, version); err != nil {
			return false, err
		}
	}
	return true, nil
}
