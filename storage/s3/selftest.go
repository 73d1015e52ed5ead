package s3

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"

	"github.com/calpe/calpe"
	"github.com/minio/minio-go/v7"
)

const (
	probePrefix = "control/probe/"
	// probeLock is how long the probe of Object Lock is held. It must outlast the
	// few requests that try to break it.
	probeLock = time.Minute
	// probeAge is when a probe is certainly nobody's any more.
	probeAge = 10 * time.Minute
)

// SelfTest is [Store.Examine], as one error that lists each promise that is broken,
// and what to do. Nothing may be stored before it is nil.
func (s *Store) SelfTest(ctx context.Context) error {
	var failed error
	for _, f := range s.Examine(ctx) {
		failed = errors.Join(failed, f.Err)
	}
	if failed != nil {
		return fmt.Errorf("object storage self-test: %w", failed)
	}
	return nil
}

// Finding is what the server made of one promise.
type Finding struct {
	Bucket  string
	Promise string // for people
	Err     error  // nil: it is kept; else what isn't, and what to do
}

// Examine tries, on both buckets, every promise of the server that Calpe's own
// promises stand on, with probe objects under "control/probe/": that a wrong
// checksum is refused, for an object and for a part; that a create-only and a
// conditional write are honoured; that a range is a range; on the documents bucket
// also that strangers can't read it, and that a version under Object Lock can be
// neither deleted nor released.
//
// Where the server or the bucket can't be reached at all, what follows isn't tried.
// It leaves one probe behind that is locked for a minute; a later examination
// removes it. Several processes may run it at once.
func (s *Store) Examine(ctx context.Context) (findings []Finding) {
	var id [16]byte
	rand.Read(id[:])
	for _, bucket := range []string{s.cfg.DocumentsBucket, s.cfg.LogBucket} {
		t := &probe{store: s, bucket: bucket, name: probePrefix + hex.EncodeToString(id[:])}
		findings = append(findings, t.run(ctx)...)
	}
	return findings
}

// probe is the self-test of one bucket.
type probe struct {
	store  *Store
	bucket string
	name   string
}

type promise struct {
	text string
	keep func(context.Context) error
}

func (t *probe) promises() []promise {
	all := []promise{
		{"an upload with a wrong checksum is refused", t.wrongChecksum},
		{"a part with a wrong checksum is refused", t.wrongPartChecksum},
		{"create-only writes don't overwrite", t.createOnly},
		{"conditional writes don't overwrite what is newer", t.conditional},
		{"what was written is read, whole and in part", t.readBack},
	}
	if t.bucket == t.store.cfg.DocumentsBucket {
		all = append(all, []promise{
			{"versioning and Object Lock are on", t.store.checkDocumentsBucket},
			{"strangers can't read it", t.private},
			{"a locked version can't be deleted, bypassed, shortened or weakened", t.objectLock},
		}...)
	}
	return all
}

func (t *probe) run(ctx context.Context) (findings []Finding) {
	defer t.clean(ctx)
	for _, p := range t.promises() {
		err := p.keep(ctx)
		findings = append(findings, Finding{t.bucket, p.text, err})
		// Without bucket, server or valid credentials, the other checks would say the same again.
		if err != nil && (ctx.Err() != nil || status(err) == 0 || code(err) == minio.NoSuchBucket || badCredentials(err)) && !errors.Is(err, errBroken) {
			return findings
		}
	}
	return findings
}

// errBroken marks what the server answered against its promise, as opposed to
// what it couldn't be asked.
var errBroken = errors.New("the server breaks a promise that Calpe needs")

func (t *probe) broken(promise, remedy string) error {
	return fmt.Errorf("bucket %s: %w: %s; %s", t.bucket, errBroken, promise, remedy)
}

// put is one PUT of a probe, with one attempt unless the connection fails.
func (t *probe) put(ctx context.Context, suffix, data string, o putOptions) (minio.UploadInfo, error) {
	return t.store.put(ctx, t.bucket, t.name+suffix, []byte(data), sha256.Sum256([]byte(data)), o)
}

// refused turns the outcome of a request that must be refused into a verdict.
func (t *probe) refused(err error, promise, remedy string) error {
	switch st := status(err); {
	case err == nil:
		return t.broken(promise, remedy)
	case st == http.StatusBadRequest || st == http.StatusForbidden || st == http.StatusPreconditionFailed ||
		st == http.StatusMethodNotAllowed || st == http.StatusConflict:
		return nil
	}
	return fmt.Errorf("bucket %s: test that %s: %w", t.bucket, promise, err)
}

// badCredentials reports whether the server knows no such key, or another secret
// for it: it will refuse every request.
func badCredentials(err error) bool {
	return code(err) == "SignatureDoesNotMatch" || code(err) == "InvalidAccessKeyId"
}

const otherServer = "use a server that does (docs/operations.md lists tested ones)"

func (t *probe) wrongChecksum(ctx context.Context) error {
	wrong := sha256.Sum256([]byte("other bytes"))
	_, err := t.put(ctx, "-checksum", "probe", putOptions{checksum: base64.StdEncoding.EncodeToString(wrong[:])})
	if code(err) == minio.AccessDenied || badCredentials(err) {
		return fmt.Errorf("bucket %s: write a probe: check the credentials and their permissions: %w", t.bucket, err)
	}
	return t.refused(err, "an upload whose X-Amz-Checksum-Sha256 is wrong must be refused, or damaged documents are accepted", otherServer)
}

func (t *probe) wrongPartChecksum(ctx context.Context) error {
	s, name, data := t.store, t.name+"-part", []byte("probe")
	id, err := s.core.NewMultipartUpload(ctx, t.bucket, name, minio.PutObjectOptions{
		UserMetadata: map[string]string{headerChecksumAlgorithm: "SHA256"},
	})
	if err != nil {
		return fmt.Errorf("bucket %s: start an upload in parts: %w", t.bucket, err)
	}
	right, wrong := sha256.Sum256(data), sha256.Sum256([]byte("other bytes"))
	err = once(ctx, s.cfg.RequestTimeout, func(ctx context.Context) error {
		body := newRequestBody(data)
		defer body.revoke()
		_, err := s.core.PutObjectPart(ctx, t.bucket, name, id, 1, body, int64(len(data)), minio.PutObjectPartOptions{
			Sha256Hex: hex.EncodeToString(right[:]), DisableContentSha256: true,
			CustomHeader: http.Header{headerChecksum: {base64.StdEncoding.EncodeToString(wrong[:])}},
		})
		return err
	})
	verdict := t.refused(err, "a part whose X-Amz-Checksum-Sha256 is wrong must be refused, or damaged documents are accepted", otherServer)
	ctx, cancel := s.cleanupContext(ctx)
	defer cancel()
	if err := s.core.AbortMultipartUpload(ctx, t.bucket, name, id); err != nil {
		return errors.Join(verdict, fmt.Errorf("bucket %s: abort an upload in parts: %w", t.bucket, err))
	}
	return verdict
}

func (t *probe) createOnly(ctx context.Context) error {
	if _, err := t.put(ctx, "-create", "first", putOptions{}); err != nil {
		return fmt.Errorf("bucket %s: write a probe: %w", t.bucket, err)
	}
	_, err := t.put(ctx, "-create", "second", putOptions{createOnly: true})
	return t.refused(err, "If-None-Match: * must be honoured, or two servers overwrite each other's log", otherServer)
}

func (t *probe) conditional(ctx context.Context) error {
	first, err := t.put(ctx, "-match", "first", putOptions{})
	if err != nil {
		return fmt.Errorf("bucket %s: write a probe: %w", t.bucket, err)
	}
	if _, err := t.put(ctx, "-match", "second", putOptions{match: first.ETag}); err != nil {
		return fmt.Errorf("bucket %s: replace a probe with If-Match and its current ETag: %w", t.bucket, err)
	}
	_, err = t.put(ctx, "-match", "third", putOptions{match: first.ETag})
	return t.refused(err, "If-Match must be honoured, or a database that went back in time can't be told", otherServer)
}

// readBack reads what conditional left: whole with its checksum, and a range.
func (t *probe) readBack(ctx context.Context) error {
	s, name := t.store, t.name+"-match"
	data, info, err := s.read(ctx, t.bucket, name, 100)
	if err != nil {
		return fmt.Errorf("bucket %s: %w", t.bucket, err)
	}
	if string(data) != "second" {
		return t.broken("a read after a write must see it", otherServer)
	}
	if info.ChecksumSHA256 == "" {
		return t.broken("the checksum of an upload must be kept and stated again", otherServer)
	}
	opts := minio.GetObjectOptions{}
	if err := opts.SetRange(1, 3); err != nil {
		return err
	}
	return once(ctx, s.cfg.RequestTimeout, func(ctx context.Context) error {
		body, _, header, err := s.core.GetObject(ctx, t.bucket, name, opts)
		if err != nil {
			return fmt.Errorf("bucket %s: read a range: %w", t.bucket, err)
		}
		defer body.Close()
		part, err := io.ReadAll(io.LimitReader(body, 100))
		if err != nil {
			return fmt.Errorf("bucket %s: read a range: %w", t.bucket, err)
		}
		if string(part) != "eco" || header.Get("Content-Range") != "bytes 1-3/6" {
			return t.broken("a Range must be honoured, with Content-Range", otherServer)
		}
		return nil
	})
}

// private demands that a request without credentials gets nothing.
func (t *probe) private(ctx context.Context) error {
	s := t.store
	err := once(ctx, s.cfg.RequestTimeout, func(ctx context.Context) error {
		body, _, _, err := s.anon.GetObject(ctx, t.bucket, t.name+"-match", minio.GetObjectOptions{})
		if err != nil {
			return err
		}
		return body.Close()
	})
	return t.refused(err, "documents must not be readable without credentials", "remove the bucket's public policy")
}

// objectLock tries to get rid of a version that is locked for a minute.
func (t *probe) objectLock(ctx context.Context) error {
	s, name := t.store, t.name+"-lock"
	until := s.cfg.Now().UTC().Truncate(time.Second).Add(probeLock)
	info, err := t.put(ctx, "-lock", "locked", putOptions{})
	if err != nil {
		return fmt.Errorf("bucket %s: write a probe: %w", t.bucket, err)
	}
	if info.VersionID == "" {
		return t.broken("each write must make a version and state its id", otherServer)
	}
	// The same request that holds documents.
	if err := s.retain(ctx, name, info.VersionID, until, Compliance); err != nil {
		return fmt.Errorf("bucket %s: lock a probe for a minute; if the server calls the date past, compare its clock with this machine's: %w", t.bucket, err)
	}
	const remedy = "it can't hold documents against deletion; " + otherServer
	plain := minio.RemoveObjectOptions{VersionID: info.VersionID}
	bypass := minio.RemoveObjectOptions{VersionID: info.VersionID, GovernanceBypass: true}
	return errors.Join(
		t.refused(s.core.RemoveObject(ctx, t.bucket, name, plain), "a locked version must not be deleted", remedy),
		t.refused(s.core.RemoveObject(ctx, t.bucket, name, bypass), "a version locked in compliance mode must not be deleted by anyone", remedy),
		t.refused(t.shorten(ctx, name, info.VersionID, minio.Compliance, until.Add(-30*time.Second)), "a lock in compliance mode must not be shortened", remedy),
		t.refused(t.shorten(ctx, name, info.VersionID, minio.Governance, until), "a lock in compliance mode must not become a weaker one", remedy),
		t.stillThere(ctx, name, info.VersionID),
	)
}

func (t *probe) shorten(ctx context.Context, name, version string, mode minio.RetentionMode, until time.Time) error {
	return t.store.core.PutObjectRetention(ctx, t.bucket, name, minio.PutObjectRetentionOptions{
		VersionID: version, Mode: &mode, RetainUntilDate: &until, GovernanceBypass: true,
	})
}

// stillThere looks at the probe itself: a refusal is only worth something if the
// version is still there.
func (t *probe) stillThere(ctx context.Context, name, version string) error {
	info, err := t.store.stat(ctx, t.bucket, name, version)
	if errors.Is(err, calpe.ErrNotFound) {
		return t.broken("a locked version was deleted although the server refused to", otherServer)
	}
	if err != nil {
		return fmt.Errorf("bucket %s: %w", t.bucket, err)
	}
	if lockOf(info).mode != string(Compliance) {
		return t.broken("the lock of a version must be stated in its headers", otherServer)
	}
	return nil
}

// clean removes the probes of this run, and those of earlier ones that are not
// locked any more. What it can't remove is for the next self-test.
func (t *probe) clean(ctx context.Context) {
	s := t.store
	ctx, cancel := s.cleanupContext(ctx)
	defer cancel()
	old := s.cfg.Now().Add(-probeAge)
	var failed error
	err := s.versions(ctx, t.bucket, probePrefix, func(v minio.ObjectInfo) error {
		own := len(v.Key) > len(t.name) && v.Key[:len(t.name)] == t.name
		if !own && !v.LastModified.Before(old) {
			return nil
		}
		if err := s.removeVersion(ctx, t.bucket, v.Key, v.VersionID); err != nil && !errors.Is(err, ErrLocked) {
			failed = errors.Join(failed, err)
		}
		return nil
	})
	if err := errors.Join(err, failed); err != nil {
		s.cfg.Logger.WarnContext(ctx, "could not remove self-test probes", slog.String("bucket", t.bucket), slog.Any("error", err))
	}
}
