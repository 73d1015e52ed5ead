package intake

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt/statement"
	"github.com/calpe/calpe/storage/keyring"
)

// Document is a document that the service keeps, with its personal fields open.
type Document struct {
	ID          calpe.DocumentID
	Index       uint64
	Owner       string
	Name        string
	MediaType   string
	Digest      calpe.Digest
	Salt        calpe.Salt
	Code        calpe.FindCode // finds the document without its receipt; zero: it is from before there were codes
	Size        int64          // bytes of the document
	Created     time.Time
	RetainUntil time.Time
	// Certification, if the document came with one.
	Certification *Certification
}

// Certification is an agency's statement over a document, an entry of its own.
type Certification struct {
	Agency    string // identifier
	Index     uint64
	Salt      calpe.Salt
	Statement statement.Signed
}

// sealedDocument is what lies under the document's key in its row.
type sealedDocument struct {
	Name      string       `json:"name"`
	MediaType string       `json:"media_type"`
	Digest    calpe.Digest `json:"digest"`
	Salt      calpe.Salt   `json:"salt"`
	// Code is here, and only its hash in the row: whoever reads the database can't
	// use it, and it goes when the document is erased.
	Code calpe.FindCode `json:"code,omitzero"`
}

// sealedCertification is what lies under the document's key in the row of its
// certification.
type sealedCertification struct {
	Statement json.RawMessage `json:"statement"`
	Salt      calpe.Salt      `json:"salt"`
}

// certificationID is what a sealed certification is bound to, so that it can't
// be put in the place of the document's own fields.
func certificationID(id calpe.DocumentID) string { return id.String() + "/certification" }

// draft is a document that is stored and not yet recorded.
type draft struct {
	id            calpe.DocumentID
	upload        Upload
	certification *certified
	key           keyring.DataKey
	wrapped       keyring.Wrapped
	object        calpe.Object
	digest        calpe.Digest
	created       time.Time
	pieces        bool // it came in pieces
}

// keyHash is what its submission is recorded under, so that it is recorded once.
// One that came in pieces always has it: its last piece may be sent again. The
// rest have it if they came with an Idempotency-Key.
func (d draft) keyHash() (hash calpe.Hash, ok bool) {
	switch {
	case d.upload.IdempotencyKey != "":
		return hashOf(d.upload.IdempotencyKey), true
	case d.pieces: // no Idempotency-Key has a zero byte
		return hashOf("pieces\x00" + d.id.String()), true
	}
	return calpe.Hash{}, false
}

// submission makes the rows of a draft, and the document as it will be, with
// indices relative to the submission.
func (s *Service) submission(d draft) (calpe.Submission, Document, error) {
	document := Document{
		ID: d.id, Owner: d.upload.Owner, Name: d.upload.Name, MediaType: d.upload.MediaType,
		Digest: d.digest, Salt: newSalt(), Code: newFindCode(), Size: d.object.PlainSize,
		Created: d.created, RetainUntil: d.created.Add(s.cfg.RetainFor),
	}
	sealed, err := seal(d.key, d.id.String(), sealedDocument{document.Name, document.MediaType, document.Digest, document.Salt, document.Code})
	if err != nil {
		return calpe.Submission{}, Document{}, err
	}
	submission := calpe.Submission{
		Owner:       d.upload.Owner,
		Commitments: []calpe.Commitment{calpe.Commit(d.digest, document.Salt)},
		Document: &calpe.Document{
			ID: d.id, Owner: d.upload.Owner, Object: d.object, Sealed: sealed, DigestTag: DigestTag(s.cfg.Keys, d.digest),
			CodeHash: document.Code.Hash(), RetainUntil: document.RetainUntil, Created: document.Created,
		},
		Key: &calpe.WrappedKey{Document: d.id, KeyID: d.wrapped.KeyID, Wrapped: d.wrapped.Bytes},
	}
	if keyHash, ok := d.keyHash(); ok {
		submission.Idempotency = &calpe.Idempotency{
			Owner: d.upload.Owner, KeyHash: keyHash, RequestTag: s.tag(d.upload, d.digest), Document: d.id,
		}
	}
	if d.certification == nil {
		return submission, document, nil
	}
	document.Certification, err = d.certify(&submission)
	return submission, document, err
}

// certify adds the certification to the submission, as an entry behind the document's.
func (d draft) certify(submission *calpe.Submission) (*Certification, error) {
	c := Certification{Agency: d.certification.body.Agency, Index: 1, Salt: newSalt(), Statement: d.certification.signed}
	sealed, err := seal(d.key, certificationID(d.id), sealedCertification{c.Statement.Bytes(), c.Salt})
	if err != nil {
		return nil, err
	}
	submission.Commitments = append(submission.Commitments, calpe.Commit(c.Statement.Digest(), c.Salt))
	submission.Document.Certification = c.Index
	submission.Certification = &calpe.Certification{Index: c.Index, Document: d.id, Agency: c.Agency, Sealed: sealed}
	return &c, nil
}

// seal encrypts fields under a document's key (I10).
func seal(key keyring.DataKey, id string, fields any) ([]byte, error) {
	data, err := json.Marshal(fields)
	if err != nil {
		return nil, fmt.Errorf("seal fields: %w", err)
	}
	return key.Seal(id, data)
}

// open is the inverse of seal.
func open(key keyring.DataKey, id string, sealed []byte, fields any) error {
	data, err := key.Open(id, sealed)
	if err != nil {
		return err
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	return decoder.Decode(fields)
}

// Document is a document of that owner. [calpe.CodeNotFound] if there is none,
// if it is somebody else's, or if it has been erased.
func (s *Service) Document(ctx context.Context, id calpe.DocumentID, owner string) (Document, error) {
	row, key, err := s.unlock(ctx, id, owner)
	if err != nil {
		return Document{}, err
	}
	var fields sealedDocument
	if err := open(key, id.String(), row.Sealed, &fields); err != nil {
		return Document{}, damaged(id, err)
	}
	document := Document{
		ID: id, Index: row.Index, Owner: row.Owner, Name: fields.Name, MediaType: fields.MediaType,
		Digest: fields.Digest, Salt: fields.Salt, Code: fields.Code, Size: row.Object.PlainSize, Created: row.Created, RetainUntil: row.RetainUntil,
	}
	if row.Certification > 0 {
		document.Certification, err = s.certification(ctx, row, key)
	}
	return document, err
}

// certification reads and opens a document's certification.
func (s *Service) certification(ctx context.Context, row calpe.Document, key keyring.DataKey) (*Certification, error) {
	c, err := s.cfg.Documents.Certification(ctx, row.Certification)
	if errors.Is(err, calpe.ErrNotFound) {
		return nil, damaged(row.ID, err)
	}
	if err != nil {
		return nil, unavailable(err)
	}
	opened, err := UnsealCertification(key, row.ID, c)
	if err != nil {
		return nil, damaged(row.ID, err)
	}
	return &opened, nil
}

// UnsealCertification opens the row of a certification with the data key of its
// document.
func UnsealCertification(key keyring.DataKey, document calpe.DocumentID, row calpe.Certification) (Certification, error) {
	var fields sealedCertification
	if err := open(key, certificationID(document), row.Sealed, &fields); err != nil {
		return Certification{}, err
	}
	signed, err := statement.Parse(fields.Statement)
	if err != nil {
		return Certification{}, err
	}
	return Certification{Agency: row.Agency, Index: row.Index, Salt: fields.Salt, Statement: signed}, nil
}

// Content gives length bytes of the document from offset, a negative length all
// to the end. What it gives is authenticated. The caller closes it. Errors are
// those of [Service.Document].
func (s *Service) Content(ctx context.Context, id calpe.DocumentID, owner string, offset, length int64) (io.ReadCloser, error) {
	row, key, err := s.unlock(ctx, id, owner)
	if err != nil {
		return nil, err
	}
	if offset < 0 || offset > row.Object.PlainSize {
		return nil, calpe.Errorf(calpe.CodeInvalidRequest, "offset %d is not in the document's %d bytes", offset, row.Object.PlainSize)
	}
	content, err := s.cfg.Objects.OpenDocument(ctx, row.Object, key.Content(), offset, length)
	if errors.Is(err, calpe.ErrNotFound) {
		return nil, damaged(id, err)
	}
	if err != nil {
		return nil, &calpe.Error{Code: calpe.CodeUnavailable, Message: "the document can't be read now; try again", Err: err}
	}
	return content, nil
}

// unlock reads the row of an owner's document and unwraps its key.
func (s *Service) unlock(ctx context.Context, id calpe.DocumentID, owner string) (calpe.Document, keyring.DataKey, error) {
	row, err := s.cfg.Documents.Document(ctx, id)
	if errors.Is(err, calpe.ErrNotFound) || err == nil && row.Owner != owner {
		return calpe.Document{}, keyring.DataKey{}, calpe.Errorf(calpe.CodeNotFound, "there is no document %v", id)
	}
	if err != nil {
		return calpe.Document{}, keyring.DataKey{}, unavailable(err)
	}
	wrapped, err := s.cfg.Documents.DocumentKey(ctx, id)
	if errors.Is(err, calpe.ErrNotFound) {
		return calpe.Document{}, keyring.DataKey{}, calpe.Errorf(calpe.CodeNotFound, "document %v was erased", id)
	}
	if err != nil {
		return calpe.Document{}, keyring.DataKey{}, unavailable(err)
	}
	key, err := s.cfg.Keys.Unwrap(id.String(), keyring.Wrapped{KeyID: wrapped.KeyID, Bytes: wrapped.Wrapped})
	if err != nil {
		return calpe.Document{}, keyring.DataKey{}, damaged(id, err)
	}
	return row, key, nil
}

// damaged is the error for a document that must be readable and isn't.
func damaged(id calpe.DocumentID, err error) error {
	return &calpe.Error{Code: calpe.CodeInternal, Message: fmt.Sprintf("document %v can't be opened", id), Err: err}
}
