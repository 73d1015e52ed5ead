package s3

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/internal/commitpoint"
	"github.com/minio/minio-go/v7"
	"github.com/minio/sio"
)

// PartPlain is how many bytes of a document that comes in pieces are in each of
// its parts but the last: 80 chunks, which encrypted are just more than the
// smallest part that S3 takes.
const PartPlain = 80 * chunkSize

// sealedPart is such a part when encrypted. As the part size of an object it says
// that each part is a ciphertext of its own, see [Store.PutPart].
const sealedPart = 80 * sealedChunk

// partBuffers is how many parts are encrypted and sent at a time, each of 5 MiB.
const partBuffers = 4

// partsOf is the number of parts of a document.
func partsOf(size int64) int { return int((size + PartPlain - 1) / PartPlain) }

// partKey is the key of one part, from the document's. It holds the part to its
// place in a document of that size: parts that were moved, or left out at the end,
// don't authenticate.
func partKey(key [32]byte, size int64, number int) (part [32]byte, err error) {
	derived, err := hkdf.Key(sha256.New, key[:], nil, fmt.Sprintf("calpe/v1 part %d of document of %d bytes", number, size), len(part))
	copy(part[:], derived)
	return part, err
}

// StartParts begins an object that is made from parts, which may come from several
// processes. A lost answer leaves an upload without parts, for the sweep of stale
// uploads, which also takes one that nobody has completed: [Store.AbortStaleUploads].
func (s *Store) StartParts(ctx context.Context, name string) (uploadID string, err error) {
	if err := checkDocumentName(name); err != nil {
		return "", err
	}
	return s.startMultipart(ctx, name)
}

// PutPart encrypts and stores a part of a document of size bytes: the number-th
// from 1, [PartPlain] bytes, or what is left for the last one. When it returns nil
// the part is durable. Storing it again replaces it, and is encrypted with another
// nonce: two different plaintexts under one number give nothing away.
// [calpe.ErrNotFound]: the upload is gone, and its parts with it.
func (s *Store) PutPart(ctx context.Context, at calpe.PartsPlace, key [32]byte, size int64, number int, plain []byte) (calpe.Part, error) {
	if err := checkPart(at, size, number, int64(len(plain))); err != nil {
		return calpe.Part{}, err
	}
	sealed, err := s.sealedParts.get(ctx)
	if err != nil {
		return calpe.Part{}, err
	}
	defer s.sealedParts.put(sealed)
	n, err := sealPart(sealed, key, size, number, plain)
	if err != nil {
		return calpe.Part{}, fmt.Errorf("encrypt part %d: %w", number, err)
	}
	sum := sha256.Sum256(sealed[:n])
	etag, err := s.putPart(ctx, at.Object, at.Upload, number, sealed[:n], sum)
	if err != nil {
		return calpe.Part{}, goneUpload(err)
	}
	// Crash here: a part that no row names. Whoever goes on replaces it.
	commitpoint.Reached(commitpoint.ObjectPartStored)
	return calpe.Part{ETag: etag, Sum: sum}, nil
}

func checkPart(at calpe.PartsPlace, size int64, number int, plain int64) error {
	if err := checkDocumentName(at.Object); err != nil {
		return err
	}
	if size < 1 || number < 1 || number > min(partsOf(size), maxParts) || plain != min(PartPlain, size-int64(number-1)*PartPlain) {
		return fmt.Errorf("%d bytes can't be part %d of a document of %d bytes", plain, number, size)
	}
	return nil
}

func sealPart(sealed []byte, key [32]byte, size int64, number int, plain []byte) (int, error) {
	derived, err := partKey(key, size, number)
	if err != nil {
		return 0, err
	}
	r, err := sio.EncryptReader(bytes.NewReader(plain), dareConfig(derived, 0))
	if err != nil {
		return 0, err
	}
	return io.ReadFull(r, sealed[:sealedSize(int64(len(plain)))])
}

// goneUpload gives an upload that isn't there its sentinel.
func goneUpload(err error) error {
	if code(err) == minio.NoSuchUpload {
		return fmt.Errorf("%w: %w", calpe.ErrNotFound, err)
	}
	return err
}

// CompleteParts makes the object of all the parts, in their order. When it returns
// nil the object is complete and the server has stated the checksum that was
// computed here (I1). It may be repeated after any failure, and after success.
func (s *Store) CompleteParts(ctx context.Context, at calpe.PartsPlace, size int64, parts []calpe.Part) (calpe.Object, error) {
	if err := checkDocumentName(at.Object); err != nil {
		return calpe.Object{}, err
	}
	if len(parts) != partsOf(size) {
		return calpe.Object{}, fmt.Errorf("%d parts of a document of %d bytes, want %d", len(parts), size, partsOf(size))
	}
	u := &upload{store: s, name: at.Object, uploadID: at.Upload}
	for i, p := range parts {
		u.sums = append(u.sums, p.Sum[:]...)
		u.done = append(u.done, minio.CompletePart{PartNumber: i + 1, ETag: p.ETag, ChecksumSHA256: base64.StdEncoding.EncodeToString(p.Sum[:])})
	}
	u.object = calpe.Object{Size: sealedSize(size), PlainSize: size, PartSize: sealedPart}
	if err := u.complete(ctx); err != nil {
		return calpe.Object{}, goneUpload(err)
	}
	commitpoint.Reached(commitpoint.ObjectStored)
	return u.object, nil
}

// AbortParts gives up an object that was begun with [Store.StartParts], and removes
// its parts. One that is gone already is fine.
func (s *Store) AbortParts(ctx context.Context, at calpe.PartsPlace) error {
	if err := checkDocumentName(at.Object); err != nil {
		return err
	}
	return s.abort(ctx, at.Object, at.Upload)
}

// partsReader decrypts a range of a document whose parts are ciphertexts of their
// own, one behind the other.
type partsReader struct {
	sealed io.Reader // from the chunk that holds the first byte of the range
	key    [32]byte
	size   int64 // of the document
	pos    int64
	end    int64
	part   *plainReader // that pos is in, or nil
	err    error
}

func (r *partsReader) Read(p []byte) (int, error) {
	for r.err == nil {
		if r.part == nil {
			if r.pos == r.end {
				r.err = io.EOF
			} else {
				r.err = r.next()
			}
			continue
		}
		n, err := r.part.Read(p)
		r.pos += int64(n)
		if errors.Is(err, io.EOF) && n == 0 {
			r.part = nil
			continue
		}
		r.err = err
		return n, err
	}
	return 0, r.err
}

// next opens the part that pos is in.
func (r *partsReader) next() error {
	number := r.pos / PartPlain
	start := number * PartPlain
	length := min(PartPlain, r.size-start)
	offset := r.pos - start
	key, err := partKey(r.key, r.size, int(number)+1)
	if err != nil {
		return err
	}
	sealed := io.LimitReader(r.sealed, sealedSize(length)-offset/chunkSize*sealedChunk)
	r.part, err = decrypt(sealed, key, plainRange{offset: offset, length: min(r.end, start+length) - r.pos, size: length})
	if err != nil {
		return err
	}
	return r.part.skip()
}
