package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/minio/minio-go/v7"
)

// CreateBuckets makes the two buckets if they aren't there: the documents bucket
// with versioning and Object Lock, the log bucket plain. It may be repeated. A
// documents bucket that exists without Object Lock is an error: most servers can't
// add it later, and a bucket with documents in it is left alone.
func (s *Store) CreateBuckets(ctx context.Context) error {
	if err := s.makeBucket(ctx, s.cfg.DocumentsBucket, true); err != nil {
		return err
	}
	if err := s.makeBucket(ctx, s.cfg.LogBucket, false); err != nil {
		return err
	}
	return s.checkDocumentsBucket(ctx)
}

func (s *Store) makeBucket(ctx context.Context, bucket string, locking bool) error {
	err := s.try(ctx, s.cfg.RequestTimeout, "make bucket", func(ctx context.Context) error {
		return s.core.MakeBucket(ctx, bucket, minio.MakeBucketOptions{Region: s.cfg.Region, ObjectLocking: locking})
	})
	if err != nil && code(err) != minio.BucketAlreadyOwnedByYou {
		return fmt.Errorf("make bucket %s: %w", bucket, err)
	}
	return nil
}

// checkDocumentsBucket demands versioning and Object Lock.
func (s *Store) checkDocumentsBucket(ctx context.Context) error {
	bucket := s.cfg.DocumentsBucket
	const how = "make a new bucket with Object Lock enabled at its creation " +
		"(aws s3api create-bucket --object-lock-enabled-for-bucket --bucket NAME), which turns versioning on too"
	var versioning minio.BucketVersioningConfiguration
	err := s.try(ctx, s.cfg.RequestTimeout, "get versioning", func(ctx context.Context) (err error) {
		versioning, err = s.core.GetBucketVersioning(ctx, bucket)
		return err
	})
	if err != nil {
		return fmt.Errorf("ask whether bucket %s is versioned: %w", bucket, err)
	}
	if !versioning.Enabled() {
		return fmt.Errorf("bucket %s isn't versioned, so a document can be overwritten; %s", bucket, how)
	}
	var objectLock string
	err = s.try(ctx, s.cfg.RequestTimeout, "get object lock", func(ctx context.Context) (err error) {
		objectLock, _, _, _, err = s.core.GetObjectLockConfig(ctx, bucket)
		return err
	})
	if r, ok := errors.AsType[minio.ErrorResponse](err); ok && r.StatusCode == http.StatusNotFound && r.Code != minio.NoSuchBucket {
		err, objectLock = nil, ""
	}
	if err != nil {
		return fmt.Errorf("ask whether bucket %s has Object Lock: %w", bucket, err)
	}
	if objectLock != "Enabled" {
		return fmt.Errorf("bucket %s has no Object Lock, so a document can be deleted; %s", bucket, how)
	}
	return nil
}
