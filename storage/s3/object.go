package s3

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
)

// putOptions are the differences between one PUT and another.
type putOptions struct {
	createOnly   bool   // If-None-Match: *
	match        string // If-Match: this ETag, unless empty
	contentType  string
	cacheControl string
	checksum     string // stated instead of the true one, for the self-test
	lockMode     minio.RetentionMode
	lockUntil    time.Time
}

func (o putOptions) minio(sum [32]byte) minio.PutObjectOptions {
	checksum := o.checksum
	if checksum == "" {
		checksum = base64.StdEncoding.EncodeToString(sum[:])
	}
	opts := minio.PutObjectOptions{
		ContentType:          o.contentType,
		CacheControl:         o.cacheControl,
		Mode:                 o.lockMode,
		RetainUntilDate:      o.lockUntil,
		UserMetadata:         map[string]string{headerChecksum: checksum},
		DisableContentSha256: true, // it is given: no second hashing, no chunked signature
	}
	if o.createOnly {
		opts.SetMatchETagExcept("*")
	}
	if o.match != "" {
		opts.SetMatchETag(o.match)
	}
	return opts
}

// putOnce is one PUT with one attempt.
func (s *Store) putOnce(ctx context.Context, bucket, name string, data []byte, sum [32]byte, o putOptions) (minio.UploadInfo, error) {
	body := newRequestBody(data)
	defer body.revoke()
	return s.core.PutObject(ctx, bucket, name, body, int64(len(data)), "", hex.EncodeToString(sum[:]), o.minio(sum))
}

// put is one PUT with several attempts. If it is conditional, a refusal may come
// from an earlier attempt of its own, which was applied: the caller must look.
func (s *Store) put(ctx context.Context, bucket, name string, data []byte, sum [32]byte, o putOptions) (info minio.UploadInfo, err error) {
	err = s.try(ctx, s.cfg.TransferTimeout, "put object", func(ctx context.Context) (err error) {
		info, err = s.putOnce(ctx, bucket, name, data, sum, o)
		return err
	})
	return info, err
}

// stat asks for an object's headers, its checksum and lock among them. An empty
// version is the current one.
func (s *Store) stat(ctx context.Context, bucket, name, version string) (info minio.ObjectInfo, err error) {
	err = s.try(ctx, s.cfg.RequestTimeout, "stat object", func(ctx context.Context) (err error) {
		info, err = s.core.StatObject(ctx, bucket, name, minio.StatObjectOptions{VersionID: version, Checksum: true})
		return err
	})
	return info, describe("stat", bucket, name, err)
}

// read gets a small object whole and checks it against the checksum that the
// server keeps for it, if it states one.
func (s *Store) read(ctx context.Context, bucket, name string, maxBytes int64) (data []byte, info minio.ObjectInfo, err error) {
	err = s.try(ctx, s.cfg.RequestTimeout, "read object", func(ctx context.Context) (err error) {
		data, info, err = s.readOnce(ctx, bucket, name, maxBytes)
		return err
	})
	return data, info, describe("read", bucket, name, err)
}

func (s *Store) readOnce(ctx context.Context, bucket, name string, maxBytes int64) ([]byte, minio.ObjectInfo, error) {
	opts := minio.GetObjectOptions{}
	opts.Set("X-Amz-Checksum-Mode", "ENABLED") // the library's own check gives an error that can't be told from others
	body, info, _, err := s.core.GetObject(ctx, bucket, name, opts)
	if err != nil {
		return nil, info, err
	}
	defer body.Close()
	if info.Size > maxBytes {
		return nil, info, fmt.Errorf("%w: %d bytes, more than %d", ErrCorrupt, info.Size, maxBytes)
	}
	data, err := io.ReadAll(io.LimitReader(body, maxBytes+1))
	if err != nil {
		return nil, info, err
	}
	if int64(len(data)) != info.Size {
		return nil, info, fmt.Errorf("%d bytes arrived of %d: %w", len(data), info.Size, io.ErrUnexpectedEOF)
	}
	// The checksum of an object stored in parts ("…-3") isn't that of its bytes.
	if want := info.ChecksumSHA256; want != "" && !strings.Contains(want, "-") {
		if sum := sha256.Sum256(data); base64.StdEncoding.EncodeToString(sum[:]) != want {
			return nil, info, fmt.Errorf("%w: SHA-256 of its bytes is not the stored checksum", ErrCorrupt)
		}
	}
	return data, info, nil
}

// removeAll deletes every version and delete marker of an object.
func (s *Store) removeAll(ctx context.Context, bucket, name string) error {
	var failed error
	err := s.versions(ctx, bucket, name, func(v minio.ObjectInfo) error {
		if v.Key == name {
			failed = errors.Join(failed, s.removeVersion(ctx, bucket, name, v.VersionID))
		}
		return nil
	})
	return errors.Join(err, failed)
}

func (s *Store) removeVersion(ctx context.Context, bucket, name, version string) error {
	err := s.try(ctx, s.cfg.RequestTimeout, "remove object", func(ctx context.Context) error {
		return s.core.RemoveObject(ctx, bucket, name, minio.RemoveObjectOptions{VersionID: version})
	})
	if err == nil || isNotFound(err) {
		return nil
	}
	// A locked version is refused with 403 by S3 and 400 by others; so is much else.
	if st := status(err); st == http.StatusForbidden || st == http.StatusBadRequest {
		if info, statErr := s.stat(ctx, bucket, name, version); statErr == nil && lockOf(info).holds(s.cfg.Now()) {
			return &lockedError{lockOf(info).until, fmt.Errorf("remove %s/%s: %w (%w)", bucket, name, ErrLocked, err)}
		}
	}
	return describe("remove", bucket, name, err)
}

// lockedError is an [ErrLocked] that knows when it is over.
type lockedError struct {
	until time.Time
	err   error
}

func (e *lockedError) Error() string { return e.err.Error() }
func (e *lockedError) Unwrap() error { return e.err }

// LockedUntil is until when the object is held; zero for one on legal hold.
func (e *lockedError) LockedUntil() time.Time { return e.until }

// versions yields all versions and delete markers with a prefix.
func (s *Store) versions(ctx context.Context, bucket, prefix string, yield func(minio.ObjectInfo) error) error {
	return s.list(ctx, bucket, minio.ListObjectsOptions{Prefix: prefix, Recursive: true, WithVersions: true}, yield)
}

// list yields objects until yield fails. It isn't repeated when the server fails
// in the middle: whoever lists comes again.
func (s *Store) list(ctx context.Context, bucket string, opts minio.ListObjectsOptions, yield func(minio.ObjectInfo) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for info := range s.core.ListObjectsIter(ctx, bucket, opts) {
		if info.Err != nil {
			return describe("list", bucket, opts.Prefix, info.Err)
		}
		if err := yield(info); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return describe("list", bucket, opts.Prefix, context.Cause(ctx))
	}
	return nil
}

// lock is the Object Lock state of one version, from the headers of a HEAD: of
// the ways to ask, this is the one that all servers answer alike.
type lock struct {
	mode  string
	until time.Time
	legal bool
}

func lockOf(info minio.ObjectInfo) lock {
	until, err := time.Parse(time.RFC3339, info.Metadata.Get("X-Amz-Object-Lock-Retain-Until-Date"))
	if err != nil {
		until = time.Time{}
	}
	return lock{
		mode:  info.Metadata.Get("X-Amz-Object-Lock-Mode"),
		until: until,
		legal: info.Metadata.Get("X-Amz-Object-Lock-Legal-Hold") == "ON",
	}
}

func (l lock) holds(now time.Time) bool { return l.legal || (l.mode != "" && l.until.After(now)) }
