package intake

import (
	"bytes"
	"context"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding"
	"errors"
	"fmt"
	"hash"
	"io"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/internal/commitpoint"
	"github.com/calpe/calpe/storage/keyring"
)

// sealedPartial is what lies under the document's key in the row of one that
// comes in pieces: what the client said of it.
type sealedPartial struct {
	Name           string        `json:"name"`
	MediaType      string        `json:"media_type"`
	IdempotencyKey string        `json:"idempotency_key"`
	ExpectedDigest *calpe.Digest `json:"expected_digest"`
	Certification  []byte        `json:"certification"`
	Metadata       string        `json:"metadata"`
}

// sealedState is the running hash. A part is a multiple of SHA-256's blocks, so
// it holds no byte of the document; it is a function of all of them all the same,
// which is why it is sealed.
type sealedState struct {
	Hash []byte `json:"hash"`
	// Digest of the document, once all of its parts are stored.
	Digest *calpe.Digest `json:"digest"`
}

// What the sealed texts are bound to, so that none can be put in another's place.
func requestID(id calpe.DocumentID) string { return id.String() + "/partial" }
func stateID(id calpe.DocumentID) string   { return id.String() + "/partial state" }

// running is a hash that can be saved.
type running interface {
	hash.Hash
	encoding.BinaryMarshaler
	encoding.BinaryUnmarshaler
}

func newRunning() running { return sha256.New().(running) } // as crypto/sha256 promises

func sealState(key keyring.DataKey, id calpe.DocumentID, h running, digest *calpe.Digest) ([]byte, error) {
	saved, err := h.MarshalBinary()
	if err != nil {
		return nil, fmt.Errorf("save hash: %w", err)
	}
	return seal(key, stateID(id), sealedState{saved, digest})
}

// tailKey is the key of one tail: each is an object of its own, and has a key of
// its own.
func tailKey(key keyring.DataKey, name string) (tail [32]byte, err error) {
	content := key.Content()
	derived, err := hkdf.Key(sha256.New, content[:], nil, "calpe/v1 tail "+name, len(tail))
	copy(tail[:], derived)
	return tail, err
}

// assembly adds one piece to a document.
type assembly struct {
	*Partials
	row   calpe.Partial // as it is stored
	lease calpe.Lease
	piece Piece
	body  *bodyReader

	key     keyring.DataKey
	request sealedPartial
	hash    running       // of the document's full parts, also of those in parts
	digest  *calpe.Digest // of the document, if all of it is stored already

	buf   []byte
	n     int          // bytes of the next part in buf
	parts []calpe.Part // stored, and not in the row yet
	at    int64        // bytes in full parts, also in parts
	read  bool         // the piece had a byte
}

// run reads the piece to its end.
func (a *assembly) run(ctx context.Context) error {
	if a.piece.Hash != nil {
		a.body.r = io.TeeReader(a.body.r, a.piece.Hash)
	}
	if err := a.open(ctx); err != nil {
		return err
	}
	for {
		want := int(min(int64(len(a.buf)), a.row.Size-a.at))
		n, err := io.ReadFull(a.body, a.buf[a.n:want])
		a.n += n
		a.read = a.read || n > 0
		switch {
		case context.Cause(ctx) != nil:
			return context.Cause(ctx)
		case err != nil:
			return a.pause(ctx)
		case a.at+int64(want) == a.row.Size:
			return a.last(ctx)
		}
		if err := a.part(ctx); err != nil {
			return err
		}
	}
}

// open unwraps the key, and takes up where the last piece ended.
func (a *assembly) open(ctx context.Context) (err error) {
	id := a.row.ID
	if a.key, err = a.service.cfg.Keys.Unwrap(id.String(), keyring.Wrapped{KeyID: a.row.KeyID, Bytes: a.row.Wrapped}); err != nil {
		return damaged(id, err)
	}
	var state sealedState
	if err := errors.Join(open(a.key, requestID(id), a.row.Sealed, &a.request), open(a.key, stateID(id), a.row.State, &state)); err != nil {
		return damaged(id, err)
	}
	a.hash, a.digest = newRunning(), state.Digest
	if err := a.hash.UnmarshalBinary(state.Hash); err != nil {
		return damaged(id, err)
	}
	tail := a.row.Received % int64(len(a.buf))
	a.at = a.row.Received - tail
	if tail > 0 {
		return a.readTail(ctx, tail)
	}
	return nil
}

func (a *assembly) readTail(ctx context.Context, size int64) error {
	key, err := tailKey(a.key, a.row.Tail)
	if err != nil {
		return damaged(a.row.ID, err)
	}
	r, err := a.service.cfg.Objects.OpenDocument(ctx, calpe.Object{Name: a.row.Tail, PlainSize: size}, key, 0, -1)
	if err != nil {
		return storeError(err, nil)
	}
	defer r.Close()
	if a.n, err = io.ReadFull(r, a.buf[:size]); err != nil {
		return storeError(err, nil)
	}
	// It must be the end, too: only then all of it is authenticated.
	if n, err := r.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		return storeError(fmt.Errorf("tail has more than %d bytes: %w", size, err), nil)
	}
	return nil
}

// put stores what is in buf as the next part.
func (a *assembly) put(ctx context.Context) (calpe.Part, error) {
	number := int(a.at/int64(len(a.buf))) + 1
	part, err := a.cfg.Parts.PutPart(ctx, a.row.Place, a.key.Content(), a.row.Size, number, a.buf[:a.n])
	if errors.Is(err, calpe.ErrNotFound) {
		return calpe.Part{}, partialError(a.row.ID, err)
	}
	if err != nil {
		return calpe.Part{}, storeError(err, nil)
	}
	return part, nil
}

// part stores a full part, and records it unless the whole piece has to be
// checked first.
func (a *assembly) part(ctx context.Context) error {
	part, err := a.put(ctx)
	if err != nil {
		return err
	}
	a.hash.Write(a.buf[:a.n])
	a.parts = append(a.parts, part)
	a.at, a.n = a.at+int64(a.n), 0
	if a.piece.Hash != nil {
		return nil
	}
	return a.advance(ctx, a.at, "")
}

// advance records what has become durable.
func (a *assembly) advance(ctx context.Context, received int64, tail string) error {
	state, err := sealState(a.key, a.row.ID, a.hash, a.digest)
	if err != nil {
		return err
	}
	progress := calpe.Progress{Received: received, Tail: tail, State: state, Parts: a.parts}
	if err := a.cfg.Rows.AdvancePartial(ctx, a.row.ID, a.lease, len(a.row.Parts), progress); err != nil {
		return leaseError(a.row.ID, err)
	}
	// Crash here: the former tail is an object without a row, for the sweep.
	commitpoint.Reached(commitpoint.PartialAdvanced)
	former := a.row.Tail
	a.row.Received, a.row.Tail, a.row.State, a.row.Parts = received, tail, state, append(a.row.Parts, a.parts...)
	a.parts = nil
	if former != "" && former != tail {
		a.service.discard(ctx, former)
	}
	return nil
}

// pause keeps what has come of a piece that ends before the document does.
func (a *assembly) pause(ctx context.Context) error {
	if err := a.check(); err != nil {
		return err
	}
	kept := a.n - a.n%pieceStep
	received := a.at + int64(kept)
	if received == a.row.Received || a.digest != nil { // there is nothing more to keep
		if a.body.err == nil && a.read && a.row.Received == a.piece.Offset {
			return calpe.Errorf(calpe.CodeInvalidRequest, "a piece must have %d bytes or more, or reach to the end of the document", pieceStep)
		}
		return a.cut()
	}
	tail := ""
	if kept > 0 {
		tail = a.service.cfg.NewName()
		if err := a.putTail(ctx, tail, a.buf[:kept]); err != nil {
			return err
		}
	}
	if err := a.advance(ctx, received, tail); err != nil {
		return err
	}
	return a.cut()
}

// cut is the error of a body that didn't come to its end.
func (a *assembly) cut() error {
	if a.body.err != nil {
		return bodyError(a.body.err)
	}
	return nil
}

func (a *assembly) putTail(ctx context.Context, name string, plain []byte) error {
	key, err := tailKey(a.key, name)
	if err != nil {
		return err
	}
	if _, _, err := a.service.cfg.Objects.PutDocument(ctx, name, key, bytes.NewReader(plain), int64(len(plain))); err != nil {
		return storeError(err, nil)
	}
	// Crash here: an object that no row names. The next piece begins before it, and
	// the sweep removes it.
	return nil
}

// check holds a piece against its sum. One that was cut can't be checked.
func (a *assembly) check() error {
	switch {
	case a.piece.Hash == nil:
		return nil
	case a.body.err != nil:
		return bodyError(a.body.err)
	case !bytes.Equal(a.piece.Hash.Sum(nil), a.piece.Sum):
		return calpe.Errorf(calpe.CodeChecksum, "the piece is not what its checksum says; nothing of it was kept")
	}
	return nil
}

// last stores the last part, which is in buf, and makes the document.
func (a *assembly) last(ctx context.Context) error {
	var more [1]byte
	if n, err := io.ReadFull(a.body, more[:]); n > 0 {
		return calpe.Errorf(calpe.CodeTooLarge, "the piece goes beyond the %d bytes of the document", a.row.Size)
	} else if !errors.Is(err, io.EOF) {
		a.n-- // the end must be sent again
		return a.pause(ctx)
	}
	if err := a.check(); err != nil {
		return err
	}
	whole, err := a.wholeDigest()
	if err != nil {
		return err
	}
	switch {
	case a.digest == nil:
		if err := a.store(ctx, whole); err != nil {
			return err
		}
	case *a.digest != whole:
		return calpe.Errorf(calpe.CodeDigestMismatch, "the end of the document isn't what was sent before")
	}
	return a.finish(ctx)
}

// wholeDigest is that of the document; the running hash stays where it is.
func (a *assembly) wholeDigest() (calpe.Digest, error) {
	saved, err := a.hash.MarshalBinary()
	if err != nil {
		return calpe.Digest{}, fmt.Errorf("save hash: %w", err)
	}
	h := newRunning()
	if err := h.UnmarshalBinary(saved); err != nil {
		return calpe.Digest{}, fmt.Errorf("copy hash: %w", err)
	}
	h.Write(a.buf[:a.n])
	return calpe.Digest(h.Sum(nil)), nil
}

// store makes the last part durable, and says so in the row; the document has
// come to its end, but isn't recorded.
func (a *assembly) store(ctx context.Context, digest calpe.Digest) error {
	if _, err := a.judge(ctx, digest); err != nil {
		return a.giveUp(ctx, err)
	}
	part, err := a.put(ctx)
	if err != nil {
		return err
	}
	received, tail := a.row.Received, a.row.Tail
	if len(a.parts) > 0 {
		received, tail = a.at, ""
	}
	a.parts, a.digest = append(a.parts, part), &digest
	return a.advance(ctx, received, tail)
}

// judge holds the document against what was said of it.
func (a *assembly) judge(ctx context.Context, digest calpe.Digest) (*certified, error) {
	u := Upload{ExpectedDigest: a.request.ExpectedDigest}
	if err := u.checkDigest(digest); err != nil {
		return nil, err
	}
	certification, err := a.service.checkCertification(ctx, a.request.Certification)
	if err == nil {
		err = certification.checkDigest(digest)
	}
	return certification, err
}

// giveUp removes a document that can't be recorded, whatever else is sent.
func (a *assembly) giveUp(ctx context.Context, reason error) error {
	if calpe.ErrorCode(reason) == calpe.CodeUnavailable {
		return reason
	}
	return errors.Join(reason, a.remove(ctx, a.row))
}

// finish makes the object and records the document. Everything is durable before
// it begins, and each step can be repeated.
func (a *assembly) finish(ctx context.Context) error {
	d := a.draft()
	keyHash, _ := d.keyHash()
	earlier, err := a.service.cfg.Documents.Idempotency(ctx, d.upload.Owner, keyHash)
	if err == nil { // this one was recorded, or the same document under the same key
		recorded, err := a.service.cfg.Recorder.existing(ctx, a.service.tag(d.upload, d.digest), earlier)
		if err != nil {
			return a.giveUp(ctx, err)
		}
		return a.done(ctx, recorded.Document)
	}
	if !errors.Is(err, calpe.ErrNotFound) {
		return unavailable(err)
	}
	if d.certification, err = a.judge(ctx, d.digest); err != nil {
		return a.giveUp(ctx, err)
	}
	d.object, err = a.cfg.Parts.CompleteParts(ctx, a.row.Place, a.row.Size, a.row.Parts)
	if err != nil {
		return storeError(err, nil)
	}
	// Crash here: an object that no document names. The row has all of its parts, and
	// whoever sends the end again comes here again.
	uploaded, err := a.service.record(ctx, d)
	if err != nil {
		return err
	}
	// Crash here: the document is in the log, and the row doesn't say so: see settle.
	commitpoint.Reached(commitpoint.PartialRecorded)
	return a.done(ctx, uploaded.ID)
}

func (a *assembly) draft() draft {
	r := a.request
	return draft{
		id: a.row.ID, key: a.key, wrapped: keyring.Wrapped{KeyID: a.row.KeyID, Bytes: a.row.Wrapped}, digest: *a.digest, pieces: true,
		created: a.service.cfg.Now().UTC().Truncate(time.Second),
		upload:  Upload{Owner: a.row.Owner, Name: r.Name, MediaType: r.MediaType, IdempotencyKey: r.IdempotencyKey, Certification: r.Certification},
	}
}

// done says in the row which document it has become.
func (a *assembly) done(ctx context.Context, document calpe.DocumentID) error {
	if err := a.cfg.Rows.FinishPartial(ctx, a.row.ID, document); err != nil {
		return unavailable(err)
	}
	if document != a.row.ID {
		a.discard(ctx, a.row)
	} else if a.row.Tail != "" {
		a.service.discard(ctx, a.row.Tail)
	}
	a.row.Document, a.row.Received = document, a.row.Size
	return nil
}
