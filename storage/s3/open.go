package s3

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"github.com/calpe/calpe"
	"github.com/minio/minio-go/v7"
	"github.com/minio/sio"
)

// The chunks of DARE 2.0: 64 KiB of plaintext, with a 16-byte header and a
// 16-byte tag.
const (
	chunkSize     = 64 << 10
	chunkOverhead = 32
	sealedChunk   = chunkSize + chunkOverhead
)

// plainCapacity is how much plaintext fits into that many bytes of ciphertext.
func plainCapacity(size int64) int64 {
	return size/sealedChunk*chunkSize + max(0, size%sealedChunk-chunkOverhead)
}

// sealedSize is how many bytes that much plaintext has when encrypted.
func sealedSize(plain int64) int64 {
	return plain + (plain+chunkSize-1)/chunkSize*chunkOverhead
}

// OpenDocument reads length bytes of a document from offset on; a negative length
// means to its end. Of the object it needs name and plain size; it reads that
// version if there is one, else the current one.
//
// Only the chunks of 64 KiB that hold the range are fetched. Each is authenticated
// before a byte of it is returned. Whatever was changed, moved, cut off or stored
// for another document is [ErrCorrupt]; a Read that reaches the end of the
// document has verified that it is the end. A connection that breaks is taken up
// again where it broke, a bounded number of times without progress.
//
// A missing object is [calpe.ErrNotFound], here and not at the first Read. The reader
// holds a connection and about 128 KiB until it is closed, and ends with ctx. It
// is for one goroutine.
func (s *Store) OpenDocument(ctx context.Context, object calpe.Object, key [32]byte, offset, length int64) (io.ReadCloser, error) {
	if err := checkDocumentName(object.Name); err != nil {
		return nil, err
	}
	if object.PlainSize <= 0 || object.PlainSize > s.maxSize {
		return nil, fmt.Errorf("open %s: plain size %d is not that of a document", object.Name, object.PlainSize)
	}
	if length < 0 {
		length = object.PlainSize - offset
	}
	if offset < 0 || length < 0 || offset > object.PlainSize || length > object.PlainSize-offset {
		return nil, fmt.Errorf("open %s: range of %d bytes from %d is not within its %d bytes", object.Name, length, offset, object.PlainSize)
	}
	if length == 0 {
		return io.NopCloser(eofReader{}), nil
	}
	total := sealedSize(object.PlainSize)
	if object.Size != 0 && object.Size != total {
		return nil, fmt.Errorf("open %s: %d bytes can't be the ciphertext of %d bytes", object.Name, object.Size, object.PlainSize)
	}
	first, end := offset/chunkSize, (offset+length-1)/chunkSize+1
	ctx, cancel := context.WithCancel(ctx)
	sealed := &rangeReader{ctx: ctx, store: s, name: object.Name, version: object.VersionID,
		pos: first * sealedChunk, end: min(end*sealedChunk, total), total: total}
	r, err := openRange(sealed, object, key, offset, length)
	if err != nil {
		cancel()
		return nil, errors.Join(fmt.Errorf("open document: %w", err), sealed.Close())
	}
	return &documentReader{Reader: r, sealed: sealed, cancel: cancel}, nil
}

// openRange connects, and decrypts up to the first byte of the range.
func openRange(sealed *rangeReader, object calpe.Object, key [32]byte, offset, length int64) (io.Reader, error) {
	if err := sealed.connect(); err != nil {
		return nil, err
	}
	if object.PartSize == sealedPart {
		r := &partsReader{sealed: sealed, key: key, size: object.PlainSize, pos: offset, end: offset + length}
		return r, r.next()
	}
	r, err := decrypt(sealed, key, plainRange{offset: offset, length: length, size: object.PlainSize})
	if err != nil {
		return nil, err
	}
	return r, r.skip()
}

type eofReader struct{}

func (eofReader) Read([]byte) (int, error) { return 0, io.EOF }

type documentReader struct {
	io.Reader
	sealed *rangeReader
	cancel context.CancelFunc
}

// Close ends the request. Reads after it fail.
func (r *documentReader) Close() error {
	r.cancel()
	return r.sealed.Close()
}

// plainRange is a range of a document of that size.
type plainRange struct{ offset, length, size int64 }

// plainReader decrypts the chunks that hold a range and gives out the range.
type plainReader struct {
	dare  io.Reader
	ahead int64 // bytes of the first chunk before the range
	left  int64
	last  bool // the range ends where the document does
	err   error
}

// decrypt reads chunks from sealed, which begins with the chunk that holds the
// first byte of the range.
func decrypt(sealed io.Reader, key [32]byte, r plainRange) (*plainReader, error) {
	dare, err := sio.DecryptReader(sealed, dareConfig(key, uint32(r.offset/chunkSize)))
	if err != nil {
		return nil, fmt.Errorf("decrypt document: %w", err)
	}
	return &plainReader{dare: dare, ahead: r.offset % chunkSize, left: r.length, last: r.offset+r.length == r.size}, nil
}

// skip reads what is before the range in its first chunk.
func (r *plainReader) skip() error {
	_, err := io.CopyN(io.Discard, r.dare, r.ahead)
	if err != nil {
		r.err = translate(err)
		return r.err
	}
	return nil
}

func (r *plainReader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	if r.left == 0 {
		return 0, io.EOF
	}
	n, err := r.dare.Read(p[:min(int64(len(p)), r.left)])
	r.left -= int64(n)
	if err == nil && r.left == 0 && r.last {
		err = r.finish()
	}
	if err != nil {
		r.err = translate(err)
		return 0, r.err
	}
	return n, nil
}

// finish verifies that the last chunk was sealed as the last: the stated size may
// be wrong, and then the document would end too early without anyone noticing.
func (r *plainReader) finish() error {
	n, err := r.dare.Read(make([]byte, 1))
	if errors.Is(err, io.EOF) && n == 0 {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = errors.New("data follows its end")
	}
	return fmt.Errorf("%w: %w", ErrCorrupt, err)
}

// translate tells a ciphertext that isn't right from a storage that failed.
func translate(err error) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF { //nolint:errorlint // sio's own end; wrapped, it is the connection's
		return fmt.Errorf("%w: it ends too early", ErrCorrupt)
	}
	if _, ok := errors.AsType[sio.Error](err); ok && !errors.Is(err, ErrCorrupt) {
		return fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return err
}

// rangeReader reads bytes pos to end of an object, connecting again when a
// connection breaks. What comes from two connections fits together or doesn't
// authenticate.
type rangeReader struct {
	ctx      context.Context
	store    *Store
	name     string
	version  string
	pos, end int64
	total    int64 // size the object must have
	body     io.ReadCloser
	failures int // since the last byte, of requests and of their answers together
}

func (r *rangeReader) Read(p []byte) (int, error) {
	for {
		if r.pos >= r.end {
			return 0, io.EOF
		}
		if r.body == nil {
			if err := r.connect(); err != nil {
				return 0, err
			}
		}
		n, err := r.body.Read(p[:min(int64(len(p)), r.end-r.pos)])
		r.pos += int64(n)
		if n > 0 {
			r.failures = 0
			return n, nil
		}
		if err != nil {
			if err := r.broken(err); err != nil {
				return 0, err
			}
		}
	}
}

// broken decides whether to connect again after an answer that ended early.
func (r *rangeReader) broken(err error) error {
	closeErr := r.Close()
	if errors.Is(err, io.EOF) {
		err = errors.New("connection ended early")
	}
	return r.again(errors.Join(err, closeErr))
}

// again waits for the next attempt, or returns err if it was the last.
func (r *rangeReader) again(err error) error {
	r.failures++
	s := r.store
	if r.failures >= s.cfg.Attempts || r.ctx.Err() != nil {
		return describe("read", s.cfg.DocumentsBucket, r.name, err)
	}
	s.cfg.Logger.WarnContext(r.ctx, "reading a document broke off, going on",
		slog.String("object", r.name), slog.Int64("at", r.pos), slog.Any("error", err))
	return s.pause(r.ctx, r.failures)
}

// connect asks for what is left and checks that the answer is that.
func (r *rangeReader) connect() error {
	s := r.store
	opts := minio.GetObjectOptions{VersionID: r.version}
	if err := opts.SetRange(r.pos, r.end-1); err != nil {
		return fmt.Errorf("read %s: %w", r.name, err)
	}
	// No time-out of its own for the request: it would end the body too. Headers
	// and an idle body have theirs in the transport.
	for {
		body, _, header, err := s.core.GetObject(r.ctx, s.cfg.DocumentsBucket, r.name, opts)
		if err == nil {
			r.body = body
			return r.checkRange(header.Get("Content-Range"))
		}
		if !isTransient(r.ctx, err) {
			return describe("read", s.cfg.DocumentsBucket, r.name, err)
		}
		if err := r.again(err); err != nil {
			return err
		}
	}
}

func (r *rangeReader) checkRange(got string) error {
	if want := fmt.Sprintf("bytes %d-%d/%d", r.pos, r.end-1, r.total); got != want {
		return fmt.Errorf("read %s: asked for range %q, server sent %.60q: %w", r.name, want, got, ErrCorrupt)
	}
	return nil
}

// Close ends the request, if there is one.
func (r *rangeReader) Close() error {
	if r.body == nil {
		return nil
	}
	err := r.body.Close()
	r.body = nil
	return err
}
