package s3

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	"github.com/calpe/calpe"
	"github.com/minio/minio-go/v7"
)

const documentsPrefix = "documents/"

// NewDocumentName draws an object name: "documents/", two hexadecimal digits, "/",
// thirty more. It is random, so nothing about the document, its owner or its
// order can be read from it.
func NewDocumentName() string {
	var b [16]byte
	rand.Read(b[:])
	text := hex.EncodeToString(b[:])
	return documentsPrefix + text[:2] + "/" + text[2:]
}

// checkDocumentName keeps every other object of the bucket out of reach of the
// methods for documents.
func checkDocumentName(name string) error {
	rest, ok := strings.CutPrefix(name, documentsPrefix)
	if !ok || len(rest) != 33 || rest[2] != '/' || strings.Trim(rest[:2]+rest[3:], "0123456789abcdef") != "" {
		return fmt.Errorf("%.80q is not the name of a document object", name)
	}
	return nil
}

// RetentionMode is a mode of S3 Object Lock.
type RetentionMode string

// The modes. Compliance can't be shortened or lifted by anyone; Governance can,
// by whoever has a special permission.
const (
	Compliance RetentionMode = "COMPLIANCE"
	Governance RetentionMode = "GOVERNANCE"
)

// RetainDocument puts a version of a document under Object Lock until at least
// that time, which is rounded up to a second, and returns when the server states
// that it is. An empty mode means [Compliance]. A version that is held at least as
// long and as strongly already is left as it is, so that a loop may call it again
// after any failure. A document that is gone is [calpe.ErrNotFound].
func (s *Store) RetainDocument(ctx context.Context, name, versionID string, until time.Time, mode RetentionMode) error {
	if err := checkDocumentName(name); err != nil {
		return err
	}
	return s.retain(ctx, name, versionID, until, mode)
}

func (s *Store) retain(ctx context.Context, name, versionID string, until time.Time, mode RetentionMode) error {
	if versionID == "" {
		return fmt.Errorf("retain %s: version is missing", name)
	}
	if mode == "" {
		mode = Compliance
	}
	lockMode := minio.RetentionMode(mode)
	if !lockMode.IsValid() {
		return fmt.Errorf("retain %s: unknown mode %.20q", name, mode)
	}
	until = until.UTC().Add(time.Second - time.Nanosecond).Truncate(time.Second)
	err := s.try(ctx, s.cfg.RequestTimeout, "retain object", func(ctx context.Context) error {
		return s.core.PutObjectRetention(ctx, s.cfg.DocumentsBucket, name, minio.PutObjectRetentionOptions{
			VersionID: versionID, Mode: &lockMode, RetainUntilDate: &until,
		})
	})
	// Refused or unanswered, it may be held all the same; and an answer that says
	// yes is not yet a lock on every server. The headers decide.
	info, statErr := s.stat(ctx, s.cfg.DocumentsBucket, name, versionID)
	if statErr != nil {
		return statErr
	}
	held := lockOf(info)
	if !held.until.Before(until) && (held.mode == string(mode) || held.mode == string(Compliance)) {
		return nil
	}
	if err != nil {
		return describe("retain", s.cfg.DocumentsBucket, name, err)
	}
	return fmt.Errorf("retain %s/%s: server accepted %s until %s but states %q until %s", s.cfg.DocumentsBucket, name,
		mode, until.Format(time.RFC3339), held.mode, held.until.Format(time.RFC3339))
}

// StatDocument checks that the server has a document's object, as that version and
// of that size; it reads none of its bytes. [calpe.ErrNotFound]: it isn't there, or
// not as that version. [ErrCorrupt]: it has another size.
func (s *Store) StatDocument(ctx context.Context, object calpe.Object) error {
	if err := checkDocumentName(object.Name); err != nil {
		return err
	}
	info, err := s.stat(ctx, s.cfg.DocumentsBucket, object.Name, object.VersionID)
	if err != nil {
		return err
	}
	if want := sealedSize(object.PlainSize); info.Size != want {
		return fmt.Errorf("%w: %s has %d bytes, want %d", ErrCorrupt, object.Name, info.Size, want)
	}
	return nil
}

// DeleteDocument removes all versions and delete markers of a document's object,
// for orphans and for erasure. One that isn't there is fine. What Object Lock
// holds stays, and the error is [ErrLocked] and has LockedUntil() time.Time; destroying the wrapped key is what
// erases such a document.
func (s *Store) DeleteDocument(ctx context.Context, name string) error {
	if err := checkDocumentName(name); err != nil {
		return err
	}
	return s.removeAll(ctx, s.cfg.DocumentsBucket, name)
}

// ListDocuments yields the names of all document objects that the server last
// modified before olderThan, with that time. The sweep of orphans compares them
// with the rows. olderThan must be older than any upload can last, or an upload
// that is about to be recorded looks like an orphan. An error of yield ends the
// listing and is returned.
func (s *Store) ListDocuments(ctx context.Context, olderThan time.Time, yield func(name string, modified time.Time) error) error {
	opts := minio.ListObjectsOptions{Prefix: documentsPrefix, Recursive: true}
	return s.list(ctx, s.cfg.DocumentsBucket, opts, func(info minio.ObjectInfo) error {
		if checkDocumentName(info.Key) != nil || !info.LastModified.Before(olderThan) {
			return nil //nolint:nilerr // not a document's name: not ours to list
		}
		return yield(info.Key, info.LastModified)
	})
}

// AbortStaleUploads gives up all multipart uploads of documents that began before
// olderThan, and returns how many. Nobody completes them any more: the process
// that began them is gone. olderThan must be older than any upload can last.
func (s *Store) AbortStaleUploads(ctx context.Context, olderThan time.Time) (aborted int, err error) {
	var keyMarker, idMarker string
	for {
		var page minio.ListMultipartUploadsResult
		err := s.try(ctx, s.cfg.RequestTimeout, "list uploads", func(ctx context.Context) (err error) {
			page, err = s.core.ListMultipartUploads(ctx, s.cfg.DocumentsBucket, documentsPrefix, keyMarker, idMarker, "", 1000)
			return err
		})
		if err != nil {
			return aborted, describe("list uploads in", s.cfg.DocumentsBucket, documentsPrefix, err)
		}
		for _, u := range page.Uploads {
			if !u.Initiated.Before(olderThan) || checkDocumentName(u.Key) != nil {
				continue
			}
			if err := s.abort(ctx, u.Key, u.UploadID); err != nil {
				return aborted, err
			}
			aborted++
		}
		if !page.IsTruncated || (page.NextKeyMarker == keyMarker && page.NextUploadIDMarker == idMarker) {
			return aborted, nil
		}
		keyMarker, idMarker = page.NextKeyMarker, page.NextUploadIDMarker
	}
}
