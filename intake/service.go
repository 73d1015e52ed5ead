package intake

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/storage/keyring"
)

// ObjectStore keeps encrypted documents.
type ObjectStore interface {
	// PutDocument encrypts what r gives and stores it under that name, durably. A
	// [calpe.Error] says what is wrong with the document; after any error nothing
	// is left as far as the storage could be reached.
	PutDocument(ctx context.Context, name string, key [32]byte, r io.Reader, limit int64) (calpe.Object, calpe.Digest, error)
	// OpenDocument decrypts length bytes from offset; negative: to the end.
	OpenDocument(ctx context.Context, object calpe.Object, key [32]byte, offset, length int64) (io.ReadCloser, error)
	// DeleteDocument removes an object for good, if nothing locks it.
	DeleteDocument(ctx context.Context, name string) error
}

// Documents are the rows of documents. All give [calpe.ErrNotFound].
type Documents interface {
	Document(ctx context.Context, id calpe.DocumentID) (calpe.Document, error)
	DocumentKey(ctx context.Context, id calpe.DocumentID) (calpe.WrappedKey, error)
	Certification(ctx context.Context, index uint64) (calpe.Certification, error)
	Idempotency(ctx context.Context, owner string, keyHash calpe.Hash) (calpe.Idempotency, error)
}

// Agencies are the rows of agencies; [calpe.ErrNotFound].
type Agencies interface {
	Agency(ctx context.Context, id string) (calpe.Agency, error)
}

// Keys are the key-encryption keys: a [keyring.Ring].
type Keys interface {
	NewDataKey(documentID string) (keyring.DataKey, keyring.Wrapped, error)
	Unwrap(documentID string, wrapped keyring.Wrapped) (keyring.DataKey, error)
	Tag(purpose string, data []byte) []byte
}

// ServiceConfig is what a [Service] needs.
type ServiceConfig struct {
	Recorder  *Recorder
	Objects   ObjectStore
	Documents Documents
	Agencies  Agencies
	Keys      Keys
	// NewName draws the name of an object: random, and never used before.
	NewName func() string
	// MaxDocument is the largest document in bytes. Default 5 GiB.
	MaxDocument int64
	// RetainFor is how long object storage must refuse to delete a document.
	// Default 10 years of 365 days.
	RetainFor time.Duration
	// DiscardTimeout bounds the removal of an object that nothing will name. Default 30 s.
	DiscardTimeout time.Duration
	Now            func() time.Time // default time.Now
	Logger         *slog.Logger     // default slog.Default
}

// Service is what the API offers: documents and commitments in, documents out.
// Errors are a [calpe.Error] with a code for the caller. Safe for concurrent use.
type Service struct {
	cfg ServiceConfig
	log *slog.Logger
}

// NewService makes a Service.
func NewService(cfg ServiceConfig) (*Service, error) {
	if cfg.Recorder == nil || cfg.Objects == nil || cfg.Documents == nil || cfg.Agencies == nil || cfg.Keys == nil || cfg.NewName == nil {
		return nil, errors.New("intake service: Recorder, Objects, Documents, Agencies, Keys and NewName must be set")
	}
	cfg.MaxDocument = cmp.Or(cfg.MaxDocument, 5<<30)
	cfg.RetainFor = cmp.Or(cfg.RetainFor, 10*365*24*time.Hour)
	cfg.DiscardTimeout = cmp.Or(cfg.DiscardTimeout, 30*time.Second)
	cfg.Logger = cmp.Or(cfg.Logger, slog.Default())
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.MaxDocument < 0 || cfg.RetainFor < 0 || cfg.DiscardTimeout < 0 {
		return nil, errors.New("intake service: MaxDocument, RetainFor and DiscardTimeout must be positive")
	}
	return &Service{cfg: cfg, log: cfg.Logger}, nil
}

// Limits of what comes with a document.
const (
	maxNameBytes      = 1024 // longer than any file system allows
	maxMediaTypeBytes = 255
	maxKeyBytes       = 255 // of an Idempotency-Key
)

// Upload is a document on its way in.
type Upload struct {
	// Body is read once, to its end. An error of it that is a [calpe.Error] is
	// passed on; any other is taken for a client that went away.
	Body      io.Reader
	Name      string // as the client calls the file; may be empty
	MediaType string // as the client says; may be empty
	Owner     string
	// IdempotencyKey, if not empty, makes a repeated request give the same answer.
	IdempotencyKey string
	// ExpectedDigest, if set, must be the digest of the body.
	ExpectedDigest *calpe.Digest
	// Certification, if not empty, is a signed statement calpe/certification/v1
	// over this document.
	Certification []byte
}

// Uploaded is a document that is stored, recorded and signed for.
type Uploaded struct {
	Document
	Acknowledgement Acknowledgement
	// Existing: this is the answer of an earlier request with the same Idempotency-Key.
	Existing bool
}

// Upload stores and records a document. When it returns nil the document is
// durable, its entry is in the log, and the service has signed for it.
//
// The same IdempotencyKey of the same owner with the same document, name, media
// type and certification gives the first answer again, also after a crash; with
// anything else [calpe.CodeIdempotencyMismatch]. Whatever fails leaves no object
// behind, as far as storage can be reached; the sweep gets the rest. After an
// error with [ErrMaybeRecorded] in its chain the document may be recorded.
//
// ctx ends the storing. Once recording has begun it is carried through.
func (s *Service) Upload(ctx context.Context, u Upload) (Uploaded, error) {
	if err := u.check(); err != nil {
		return Uploaded{}, err
	}
	if err := s.cfg.Recorder.ready(); err != nil {
		return Uploaded{}, err // before the client sends gigabytes for nothing
	}
	// Before the certification is judged: it may have ended since, and a repeated
	// request gets the answer of the first.
	earlier, err := s.earlier(ctx, u)
	if err != nil {
		return Uploaded{}, err
	}
	if earlier != nil {
		return s.repeat(ctx, u, *earlier)
	}
	certification, err := s.checkCertification(ctx, u.Certification)
	if err != nil {
		return Uploaded{}, err
	}
	return s.store(ctx, u, certification)
}

// check judges what can be judged before the body is read.
func (u Upload) check() error {
	switch {
	case u.Body == nil || u.Owner == "":
		return calpe.Errorf(calpe.CodeInternal, "an upload needs a body and an owner")
	}
	return u.checkFields()
}

func (u Upload) checkFields() error {
	switch {
	case len(u.Name) > maxNameBytes || !utf8.ValidString(u.Name):
		return calpe.Errorf(calpe.CodeInvalidRequest, "the document's name has more than %d bytes, or is not UTF-8", maxNameBytes)
	case len(u.MediaType) > maxMediaTypeBytes || !utf8.ValidString(u.MediaType):
		return calpe.Errorf(calpe.CodeInvalidRequest, "the media type has more than %d bytes, or is not UTF-8", maxMediaTypeBytes)
	}
	return checkIdempotencyKey(u.IdempotencyKey)
}

func checkIdempotencyKey(key string) error {
	if len(key) > maxKeyBytes || strings.ContainsFunc(key, func(r rune) bool { return r < '!' || r > '~' }) {
		return calpe.Errorf(calpe.CodeInvalidRequest, "the Idempotency-Key has more than %d bytes, or others than visible ASCII", maxKeyBytes)
	}
	return nil
}

// earlier looks whether the Idempotency-Key was used, so that a repeated upload
// isn't stored a second time. One that is still on its way isn't found; then the
// commit finds out.
func (s *Service) earlier(ctx context.Context, u Upload) (*calpe.Idempotency, error) {
	if u.IdempotencyKey == "" {
		return nil, nil
	}
	row, err := s.cfg.Documents.Idempotency(ctx, u.Owner, sha256.Sum256([]byte(u.IdempotencyKey)))
	if errors.Is(err, calpe.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, unavailable(err)
	}
	return &row, nil
}

// repeat answers a repeated request: the body is hashed, to see whether it is
// the same, and not stored.
func (s *Service) repeat(ctx context.Context, u Upload, earlier calpe.Idempotency) (Uploaded, error) {
	hash := sha256.New()
	n, err := io.Copy(hash, io.LimitReader(u.Body, s.cfg.MaxDocument+1))
	switch {
	case err != nil:
		return Uploaded{}, bodyError(err)
	case n > s.cfg.MaxDocument:
		return Uploaded{}, calpe.Errorf(calpe.CodeTooLarge, "the document has more than %d bytes", s.cfg.MaxDocument)
	}
	digest := calpe.Digest(hash.Sum(nil))
	if err := u.checkDigest(digest); err != nil {
		return Uploaded{}, err
	}
	recorded, err := s.cfg.Recorder.existing(ctx, s.tag(u, digest), earlier)
	if err != nil {
		return Uploaded{}, err
	}
	return s.uploaded(ctx, u.Owner, recorded)
}

// uploaded is the answer that an earlier request was given.
func (s *Service) uploaded(ctx context.Context, owner string, recorded Recorded) (Uploaded, error) {
	document, err := s.Document(ctx, recorded.Document, owner)
	if err != nil {
		return Uploaded{}, err
	}
	return Uploaded{document, recorded.Acknowledgement, true}, nil
}

func (u Upload) checkDigest(digest calpe.Digest) error {
	if u.ExpectedDigest != nil && *u.ExpectedDigest != digest {
		return calpe.Errorf(calpe.CodeDigestMismatch, "the body's SHA-256 is %v, the request says %v", digest, *u.ExpectedDigest)
	}
	return nil
}

// tag is the fingerprint of a request: all that its answer depends on. It is
// keyed, so that the row doesn't confirm a guess of the document.
func (s *Service) tag(u Upload, digest calpe.Digest) []byte {
	certification := sha256.Sum256(u.Certification)
	data := append(digest[:], certification[:]...)
	data = fmt.Appendf(data, "%d:%s%d:%s", len(u.Name), u.Name, len(u.MediaType), u.MediaType)
	return s.cfg.Keys.Tag("upload request", data)
}

// store streams the document into object storage, then records it. Every way
// out but success discards the object, unless it may have been recorded.
func (s *Service) store(ctx context.Context, u Upload, certification *certified) (_ Uploaded, err error) {
	d := draft{id: newDocumentID(), upload: u, certification: certification, created: s.cfg.Now().UTC().Truncate(time.Second)}
	if d.key, d.wrapped, err = s.cfg.Keys.NewDataKey(d.id.String()); err != nil {
		return Uploaded{}, &calpe.Error{Code: calpe.CodeInternal, Message: "no data key could be made", Err: err}
	}
	name := s.cfg.NewName()
	body := &bodyReader{r: u.Body}
	d.object, d.digest, err = s.cfg.Objects.PutDocument(ctx, name, d.key.Content(), body, s.cfg.MaxDocument)
	if err != nil {
		return Uploaded{}, storeError(err, body.err)
	}
	// Crash here (the adapter has reached ObjectStored): an object that no row
	// names. Its key is gone with this process, so nobody can ever read it, and the
	// sweep removes it.
	defer func() {
		if err != nil && !errors.Is(err, ErrMaybeRecorded) {
			s.discard(ctx, name)
		}
	}()
	if err := u.checkDigest(d.digest); err != nil {
		return Uploaded{}, err
	}
	if err := certification.checkDigest(d.digest); err != nil {
		return Uploaded{}, err
	}
	return s.record(ctx, d)
}

// record commits a stored document. It goes on if ctx ends: the client has sent
// everything, and may ask for the answer later with its Idempotency-Key.
func (s *Service) record(ctx context.Context, d draft) (Uploaded, error) {
	submission, document, err := s.submission(d)
	if err != nil {
		return Uploaded{}, err
	}
	recorded, err := s.cfg.Recorder.Record(context.WithoutCancel(ctx), submission)
	if err != nil {
		return Uploaded{}, err
	}
	if recorded.Existing { // the same request was faster
		if recorded.Document != d.id { // the object of one that came in pieces may be that document's
			s.discard(ctx, d.object.Name)
		}
		return s.uploaded(ctx, d.upload.Owner, recorded)
	}
	document.Index = recorded.First
	if document.Certification != nil {
		document.Certification.Index += recorded.First
	}
	return Uploaded{Document: document, Acknowledgement: recorded.Acknowledgement}, nil
}

// discard removes an object that no row names, and never will.
func (s *Service) discard(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.DiscardTimeout)
	defer cancel()
	if err := s.cfg.Objects.DeleteDocument(ctx, name); err != nil {
		s.log.WarnContext(ctx, "an object without a row is left to the sweep", slog.String("object", name), slog.Any("error", err))
	}
}

// bodyReader remembers the error of the client's body, to tell it from one of
// the storage.
type bodyReader struct {
	r   io.Reader
	err error
}

func (b *bodyReader) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err != nil && err != io.EOF {
		b.err = err
	}
	return n, err
}

// storeError is what a failed PutDocument means for the caller.
func storeError(err, body error) error {
	if body != nil {
		return bodyError(body)
	}
	if _, ok := errors.AsType[*calpe.Error](err); ok {
		return err
	}
	return &calpe.Error{Code: calpe.CodeUnavailable, Message: "the document could not be stored; nothing was recorded, try again", Err: err}
}

func bodyError(err error) error {
	if _, ok := errors.AsType[*calpe.Error](err); ok {
		return err
	}
	return &calpe.Error{Code: calpe.CodeSlowClient, Message: "the body did not come to its end", Err: err}
}

func unavailable(err error) error {
	return &calpe.Error{Code: calpe.CodeUnavailable, Message: "the database can't be read now; try again", Err: err}
}

func newDocumentID() (id calpe.DocumentID) {
	rand.Read(id[:]) // never fails: see crypto/rand
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80 // RFC 9562, version 4
	return id
}

// Commitments are commitments that a client made itself: the service sees
// neither documents nor salts.
type Commitments struct {
	Commitments []calpe.Commitment // 1 to calpe.MaxGroup, get indices in a row
	Owner       string
	// IdempotencyKey as in Upload. The groups of one upload share it, and are told
	// apart by Offset: how many commitments of the upload come before.
	IdempotencyKey string
	Offset         uint64
}

// Commit records commitments. More than one make a commit group of their own,
// so that the acknowledgement is about them and nothing else: the path of each
// can be computed from the request. Otherwise as [Recorder.Record].
func (s *Service) Commit(ctx context.Context, c Commitments) (Recorded, error) {
	if c.Owner == "" {
		return Recorded{}, calpe.Errorf(calpe.CodeInternal, "commitments need an owner")
	}
	if err := checkIdempotencyKey(c.IdempotencyKey); err != nil {
		return Recorded{}, err
	}
	submission := calpe.Submission{Owner: c.Owner, Commitments: c.Commitments}
	if c.IdempotencyKey != "" {
		hash := sha256.New()
		for _, commitment := range c.Commitments {
			hash.Write(commitment[:])
		}
		submission.Idempotency = &calpe.Idempotency{
			Owner: c.Owner, KeyHash: groupKey(c.IdempotencyKey, c.Offset),
			RequestTag: s.cfg.Keys.Tag("commitments request", hash.Sum(nil)),
		}
	}
	return s.cfg.Recorder.Record(ctx, submission)
}

// groupKey is what is stored of an Idempotency-Key for the group that begins at
// offset. A key has no zero byte, so no two have a hash in common.
func groupKey(key string, offset uint64) calpe.Hash {
	if offset == 0 {
		return hashOf(key)
	}
	return sha256.Sum256(fmt.Appendf(nil, "%s\x00%d", key, offset))
}

// Committed is the answer that Commit gave for the group at that offset of an
// upload; [calpe.CodeNotFound] if it isn't recorded.
func (s *Service) Committed(ctx context.Context, owner, key string, offset uint64) (Recorded, error) {
	if err := checkIdempotencyKey(key); err != nil {
		return Recorded{}, err
	}
	row, err := s.cfg.Documents.Idempotency(ctx, owner, groupKey(key, offset))
	switch {
	case errors.Is(err, calpe.ErrNotFound):
		return Recorded{}, calpe.Errorf(calpe.CodeNotFound, "nothing is recorded under this Idempotency-Key at offset %d", offset)
	case err != nil:
		return Recorded{}, unavailable(err)
	case !row.Document.IsZero():
		return Recorded{}, calpe.Errorf(calpe.CodeIdempotencyMismatch, "the Idempotency-Key was used for a document")
	}
	return s.cfg.Recorder.again(ctx, row)
}
