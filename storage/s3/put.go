package s3

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"net/http"
	"strconv"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/internal/commitpoint"
	"github.com/minio/minio-go/v7"
	"github.com/minio/sio"
)

const (
	headerChecksum          = "X-Amz-Checksum-Sha256"
	headerChecksumAlgorithm = "X-Amz-Checksum-Algorithm"
	contentTypeBytes        = "application/octet-stream"
)

// PutDocument reads a document from r to its end, hashing and encrypting on the
// way, and stores the ciphertext under name. When it returns nil the object is
// complete and the server has stated the checksum that was computed here (I1). It
// returns what must be kept to read the object again and to prove that the server
// still has it, and the SHA-256 of the document.
//
// Name and key must be fresh, from [NewDocumentName] and a new data key, for every
// call, also for a second attempt after an error: after an ambiguous failure an
// object under the old name may still appear, and nobody will know it. It is an
// orphan, found by [Store.ListDocuments]. The object says nothing about whose
// document it is: no file name, no media type, no metadata.
//
// The document is never held whole. A short one takes a small buffer, a longer
// one at most two parts, from pools that bound what all uploads use together;
// waiting for a buffer ends with ctx. Reading from r can't be interrupted by ctx:
// r must end by itself when the client is gone or too slow.
//
// Errors: a [calpe.Error] with code too-large (more than limit bytes) or
// empty-document; a [ReadError] if r failed; everything else is the storage's.
// After any of them, parts and object have been removed again as far as the
// server could be reached, also if ctx has ended.
func (s *Store) PutDocument(ctx context.Context, name string, key [32]byte, r io.Reader, limit int64) (calpe.Object, calpe.Digest, error) {
	if err := checkDocumentName(name); err != nil {
		return calpe.Object{}, calpe.Digest{}, err
	}
	if limit <= 0 {
		return calpe.Object{}, calpe.Digest{}, fmt.Errorf("limit of document is %d bytes, want more than 0", limit)
	}
	src := &source{ctx: ctx, r: r, hash: sha256.New(), limit: min(limit, s.maxSize)}
	encrypted, err := sio.EncryptReader(src, dareConfig(key, 0))
	if err != nil {
		return calpe.Object{}, calpe.Digest{}, fmt.Errorf("encrypt document: %w", err)
	}
	u := &upload{store: s, name: name, parts: partReader{r: encrypted}}
	defer u.release()
	if err := u.run(ctx); err != nil {
		u.remove(ctx)
		return calpe.Object{}, calpe.Digest{}, fmt.Errorf("put document: %w", err)
	}
	commitpoint.Reached(commitpoint.ObjectStored)
	u.object.PlainSize = src.size
	u.object.PartSize = s.cfg.PartSize
	return u.object, calpe.Digest(src.hash.Sum(nil)), nil
}

// dareConfig is the stored format: DARE 2.0 with AES-256-GCM, and no other.
func dareConfig(key [32]byte, firstChunk uint32) sio.Config {
	return sio.Config{
		MinVersion:     sio.Version20,
		MaxVersion:     sio.Version20,
		CipherSuites:   []byte{sio.AES_256_GCM},
		Key:            key[:],
		SequenceNumber: firstChunk,
	}
}

// source is the plaintext on its way into encryption: counted, hashed, limited.
//
// It turns every error but io.EOF into one of its own types. sio takes
// io.ErrUnexpectedEOF for the end of the document, and that is exactly what
// net/http returns when a client hangs up in the middle of a body.
type source struct {
	ctx   context.Context
	r     io.Reader
	hash  hash.Hash
	size  int64
	limit int64
	err   error // sticky
}

func (s *source) Read(p []byte) (int, error) {
	for range 100 {
		if s.err != nil {
			return 0, s.err
		}
		if s.ctx.Err() != nil {
			s.err = fmt.Errorf("canceled: %w", context.Cause(s.ctx))
			return 0, s.err
		}
		n, err := s.r.Read(p)
		s.hash.Write(p[:n])
		s.size += int64(n)
		switch {
		case s.size > s.limit:
			s.err = calpe.Errorf(calpe.CodeTooLarge, "the document is larger than %d bytes", s.limit)
			return 0, s.err
		case err == io.EOF && s.size == 0:
			s.err = calpe.Errorf(calpe.CodeEmptyDocument, "the document is empty")
			return 0, s.err
		case err != nil && err != io.EOF:
			s.err = &ReadError{Err: err}
			return 0, s.err
		case n > 0 || err == io.EOF || len(p) == 0:
			return n, err
		}
	}
	s.err = &ReadError{Err: io.ErrNoProgress}
	return 0, s.err
}

// partReader cuts a stream into parts and knows of each whether it is the last,
// by reading one byte ahead.
type partReader struct {
	r     io.Reader
	ahead [1]byte
	have  bool // ahead holds a byte
}

// fill continues buf at n until it is full or the stream ends. It returns how
// much of buf is filled, and whether nothing follows.
func (p *partReader) fill(buf []byte, n int) (int, bool, error) {
	if p.have {
		buf[n] = p.ahead[0]
		n++
		p.have = false
	}
	m, err := io.ReadFull(p.r, buf[n:])
	n += m
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return n, true, nil
	}
	if err != nil {
		return n, false, err
	}
	switch _, err = io.ReadFull(p.r, p.ahead[:]); err {
	case nil:
		p.have = true
		return n, false, nil
	case io.EOF:
		return n, true, nil
	}
	return n, false, err
}

// sentPart is the outcome of sending one part.
type sentPart struct {
	part minio.CompletePart
	err  error
}

// upload is one document on its way to the server. It belongs to the goroutine
// that runs it; what a part's own goroutine needs is passed to it.
type upload struct {
	store  *Store
	name   string
	parts  partReader
	object calpe.Object

	small   []byte        // held, or nil
	part    []byte        // held, or nil: the part buffer being filled
	spare   []byte        // held, or nil: the part buffer not in use, or being sent
	sending chan sentPart // of the part being sent, or nil

	uploadID string
	done     []minio.CompletePart
	sums     []byte // the parts' SHA-256, one after the other
	tried    bool   // the server may have made the object
}

func (u *upload) run(ctx context.Context) error {
	var err error
	if u.small, err = u.store.small.get(ctx); err != nil {
		return err
	}
	n, last, err := u.parts.fill(u.small, 0)
	if err != nil {
		return err
	}
	if last {
		return u.putWhole(ctx, u.small[:n])
	}
	// An upload that waits here holds a small buffer, and one that holds a part
	// buffer never waits for another: so there is no deadlock.
	if u.part, err = u.store.parts.get(ctx); err != nil {
		return err
	}
	copy(u.part, u.small[:n])
	u.store.small.put(u.small)
	u.small = nil
	if n, last, err = u.parts.fill(u.part, n); err != nil {
		return err
	}
	if last {
		return u.putWhole(ctx, u.part[:n])
	}
	return u.putParts(ctx, n)
}

// release gives the buffers back.
func (u *upload) release() {
	if u.small != nil {
		u.store.small.put(u.small)
	}
	for _, buf := range [][]byte{u.part, u.spare} {
		if buf != nil {
			u.store.parts.put(buf)
		}
	}
}

// putWhole stores the ciphertext with one request.
func (u *upload) putWhole(ctx context.Context, data []byte) error {
	s, sum := u.store, sha256.Sum256(data)
	u.object = calpe.Object{Name: u.name, Size: int64(len(data)), Checksum: base64.StdEncoding.EncodeToString(sum[:])}
	u.tried = true
	// Crash here or before the caller's record: an object that no row names. The
	// orphan sweep removes it.
	info, err := s.put(ctx, s.cfg.DocumentsBucket, u.name, data, sum, putOptions{createOnly: true})
	return u.settle(ctx, info, err)
}

// putParts stores the ciphertext as a multipart upload; n bytes of the first part
// are in u.part already. While one part is sent the next one is filled, if there
// is a second buffer; otherwise one after the other.
func (u *upload) putParts(ctx context.Context, n int) (err error) {
	if u.uploadID, err = u.store.startMultipart(ctx, u.name); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	last := false
	for number := 1; ; number++ {
		if number > maxParts {
			return fmt.Errorf("document needs more than %d parts", maxParts)
		}
		u.object.Size += int64(n)
		u.send(ctx, number, n)
		if last {
			break
		}
		if u.part == nil {
			if u.part = u.store.parts.tryGet(); u.part == nil {
				if err := u.sent(); err != nil {
					return err
				}
				u.part, u.spare = u.spare, nil
			}
		}
		if n, last, err = u.parts.fill(u.part, 0); err != nil {
			cancel()
			return errors.Join(err, ignoreCanceled(u.sent()))
		}
		if err := u.sent(); err != nil {
			return err
		}
	}
	if err := u.sent(); err != nil {
		return err
	}
	return u.complete(ctx)
}

// ignoreCanceled drops the failure of a part that was given up because of another.
func ignoreCanceled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

// send starts sending the first n bytes of u.part as that part. The buffer
// becomes u.spare, which is in use until sent returns; the former spare, if any,
// is next to be filled.
func (u *upload) send(ctx context.Context, number, n int) {
	data := u.part[:n]
	u.part, u.spare = u.spare, u.part
	sum := sha256.Sum256(data)
	u.sums = append(u.sums, sum[:]...)
	name, id, s := u.name, u.uploadID, u.store
	sending := make(chan sentPart, 1)
	u.sending = sending
	go func() {
		etag, err := s.putPart(ctx, name, id, number, data, sum)
		part := minio.CompletePart{PartNumber: number, ETag: etag, ChecksumSHA256: base64.StdEncoding.EncodeToString(sum[:])}
		sending <- sentPart{part, err}
	}()
}

// sent waits for the part that is being sent, if any.
func (u *upload) sent() error {
	if u.sending == nil {
		return nil
	}
	result := <-u.sending
	u.sending = nil
	if result.err != nil {
		return result.err
	}
	u.done = append(u.done, result.part)
	// Crash here: parts of an upload that nobody will complete. They are aborted by
	// the sweep of stale uploads.
	commitpoint.Reached(commitpoint.ObjectPartStored)
	return nil
}

func (u *upload) complete(ctx context.Context) error {
	s, sum := u.store, sha256.Sum256(u.sums)
	u.object.Name = u.name
	u.object.Checksum = base64.StdEncoding.EncodeToString(sum[:]) + "-" + strconv.Itoa(len(u.done))
	u.tried = true
	var info minio.UploadInfo
	err := s.try(ctx, s.cfg.TransferTimeout, "complete upload", func(ctx context.Context) (err error) {
		opts := minio.PutObjectOptions{}
		opts.SetMatchETagExcept("*")
		info, err = s.core.CompleteMultipartUpload(ctx, s.cfg.DocumentsBucket, u.name, u.uploadID, u.done, opts)
		return err
	})
	return u.settle(ctx, info, err)
}

// settle decides whether the object is stored. The name is used once, so an
// object under it with our size and checksum is ours, even if the answer to the
// request that made it was lost, or a repetition of it was refused because the
// object was there already.
func (u *upload) settle(ctx context.Context, info minio.UploadInfo, err error) error {
	if err == nil && info.ChecksumSHA256 == u.object.Checksum && info.VersionID != "" {
		u.object.VersionID = info.VersionID
		return nil
	}
	s := u.store
	stat, statErr := s.stat(ctx, s.cfg.DocumentsBucket, u.name, "")
	switch {
	case statErr != nil && err != nil:
		return describe("store", s.cfg.DocumentsBucket, u.name, err)
	case statErr != nil:
		return statErr
	case stat.Size != u.object.Size || stat.ChecksumSHA256 != u.object.Checksum:
		return fmt.Errorf("store %s/%s: server states %d bytes with checksum %q, want %d bytes with %q: %w", s.cfg.DocumentsBucket,
			u.name, stat.Size, stat.ChecksumSHA256, u.object.Size, u.object.Checksum, ErrCorrupt)
	case stat.VersionID == "":
		return fmt.Errorf("store %s/%s: object has no version, the bucket isn't versioned", s.cfg.DocumentsBucket, u.name)
	}
	u.object.VersionID = stat.VersionID
	return nil
}

// remove takes back what a failed upload has left on the server, on a context of
// its own: the caller's may be what failed.
func (u *upload) remove(ctx context.Context) {
	s := u.store
	ctx, cancel := s.cleanupContext(ctx)
	defer cancel()
	var err error
	if u.uploadID != "" {
		err = s.abort(ctx, u.name, u.uploadID)
	}
	if u.tried {
		err = errors.Join(err, s.DeleteDocument(ctx, u.name))
	}
	if err != nil {
		s.cfg.Logger.WarnContext(ctx, "could not remove failed upload, the sweep will",
			slog.String("object", u.name), slog.Any("error", err))
	}
}

// startMultipart begins an upload. A lost answer leaves an upload without parts
// behind, for the sweep.
func (s *Store) startMultipart(ctx context.Context, name string) (id string, err error) {
	err = s.try(ctx, s.cfg.RequestTimeout, "start upload", func(ctx context.Context) (err error) {
		id, err = s.core.NewMultipartUpload(ctx, s.cfg.DocumentsBucket, name, minio.PutObjectOptions{
			ContentType:  contentTypeBytes,
			UserMetadata: map[string]string{headerChecksumAlgorithm: "SHA256"},
		})
		return err
	})
	return id, describe("start upload", s.cfg.DocumentsBucket, name, err)
}

// putPart sends one part; sending it again replaces it.
func (s *Store) putPart(ctx context.Context, name, id string, number int, data []byte, sum [32]byte) (etag string, err error) {
	err = s.try(ctx, s.cfg.TransferTimeout, "put part", func(ctx context.Context) error {
		body := newRequestBody(data)
		defer body.revoke()
		part, err := s.core.PutObjectPart(ctx, s.cfg.DocumentsBucket, name, id, number, body, int64(len(data)), minio.PutObjectPartOptions{
			Sha256Hex:            hex.EncodeToString(sum[:]),
			DisableContentSha256: true, // it is given: no second hashing, no chunked signature
			CustomHeader:         http.Header{headerChecksum: {base64.StdEncoding.EncodeToString(sum[:])}},
		})
		etag = part.ETag
		return err
	})
	return etag, describe(fmt.Sprintf("put part %d of", number), s.cfg.DocumentsBucket, name, err)
}

// abort gives up a multipart upload; one that is gone already is fine.
func (s *Store) abort(ctx context.Context, name, id string) error {
	err := s.try(ctx, s.cfg.RequestTimeout, "abort upload", func(ctx context.Context) error {
		return s.core.AbortMultipartUpload(ctx, s.cfg.DocumentsBucket, name, id)
	})
	if code(err) == minio.NoSuchUpload {
		return nil
	}
	return describe("abort upload", s.cfg.DocumentsBucket, name, err)
}
