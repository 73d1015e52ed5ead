package s3

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/sio"

	"github.com/calpe/calpe"
)

// StoredDocument says what the server has of a document's object, of just that
// version: [calpe.ErrNotFound] if there is none. It reads headers and the first
// bytes, not the document.
func (s *Store) StoredDocument(ctx context.Context, object calpe.Object) (calpe.StoredObject, error) {
	if err := checkDocumentName(object.Name); err != nil {
		return calpe.StoredObject{}, fmt.Errorf("%w: %w", calpe.ErrNotFound, err)
	}
	info, err := s.stat(ctx, s.cfg.DocumentsBucket, object.Name, object.VersionID)
	if err != nil {
		return calpe.StoredObject{}, err
	}
	stored := calpe.StoredObject{Size: info.Size, Checksum: info.ChecksumSHA256}
	if held := lockOf(info); held.mode != "" {
		stored.LockedUntil = held.until
	}
	stored.Encrypted, err = s.beginsEncrypted(ctx, object)
	return stored, err
}

// dareHeader is the header of each chunk of DARE 2.0: version, cipher, length - 1
// (2 bytes, little-endian), nonce.
const dareHeader = 16

// beginsEncrypted reports whether the object begins with the header that the
// first chunk of a document of that size has.
func (s *Store) beginsEncrypted(ctx context.Context, object calpe.Object) (is bool, err error) {
	var start []byte
	err = s.try(ctx, s.cfg.RequestTimeout, "read start of object", func(ctx context.Context) error {
		opts := minio.GetObjectOptions{VersionID: object.VersionID}
		if err := opts.SetRange(0, dareHeader-1); err != nil {
			return err
		}
		body, _, _, err := s.core.GetObject(ctx, s.cfg.DocumentsBucket, object.Name, opts)
		if err != nil {
			return err
		}
		defer body.Close()
		start, err = io.ReadAll(io.LimitReader(body, dareHeader))
		return err
	})
	if err != nil {
		return false, describe("read", s.cfg.DocumentsBucket, object.Name, err)
	}
	return len(start) == dareHeader && start[0] == sio.Version20 && start[1] == sio.AES_256_GCM &&
		int64(binary.LittleEndian.Uint16(start[2:]))+1 == min(object.PlainSize, chunkSize), nil
}

// DocumentsBucketAfter yields the names of all objects in the documents bucket
// that sort after startAfter ("": all), with the time of their last change, until
// yield fails, which is returned. Probes of the self-test aren't among them.
func (s *Store) DocumentsBucketAfter(ctx context.Context, startAfter string, yield func(name string, modified time.Time) error) error {
	opts := minio.ListObjectsOptions{StartAfter: startAfter, Recursive: true}
	return s.list(ctx, s.cfg.DocumentsBucket, opts, func(info minio.ObjectInfo) error {
		if strings.HasPrefix(info.Key, probePrefix) || info.Key == fenceName {
			return nil
		}
		return yield(info.Key, info.LastModified)
	})
}

// MendLogObject makes an object of the log have these bytes, if nobody else
// changes it meanwhile: one that is missing is created, one that differs is
// replaced only while it is the one that was looked at ([ErrConflict]: it isn't).
// When it returns nil the object was read back, and is what it should be.
func (s *Store) MendLogObject(ctx context.Context, path string, data []byte, contentType, cacheControl string) error {
	if err := checkLogPath(path); err != nil {
		return err
	}
	o := putOptions{contentType: contentType, cacheControl: cacheControl}
	info, err := s.stat(ctx, s.cfg.LogBucket, path, "")
	switch {
	case err == nil:
		o.match = info.ETag
	case isNotFound(err):
		o.createOnly = true
	default:
		return err
	}
	// Crash here, or no answer: it was mended or not, and the next check tells.
	_, err = s.putOnce(ctx, s.cfg.LogBucket, path, data, sha256.Sum256(data), o)
	if isPrecondition(err) || isRace(err) {
		return fmt.Errorf("mend %s/%s: %w (%w)", s.cfg.LogBucket, path, ErrConflict, err)
	}
	if err != nil {
		return describe("mend", s.cfg.LogBucket, path, err)
	}
	stored, _, err := s.read(ctx, s.cfg.LogBucket, path, int64(len(data)))
	if err != nil {
		return err
	}
	if !bytes.Equal(stored, data) {
		return fmt.Errorf("mend %s/%s: %w: it was written, and other bytes are read", s.cfg.LogBucket, path, ErrCorrupt)
	}
	return nil
}
