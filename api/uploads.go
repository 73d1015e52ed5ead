package api

import (
	"context"
	"crypto/sha1" //nolint:gosec // tus demands that it is offered; the document's digest is SHA-256
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"hash"
	"mime"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/intake"
)

// Partials take documents that come in pieces.
type Partials interface {
	Begin(ctx context.Context, n intake.NewPartial) (intake.PartialStatus, error)
	Append(ctx context.Context, piece intake.Piece) (intake.PartialStatus, error)
	Abandon(ctx context.Context, id calpe.DocumentID, owner string) error
	// Status and Recorded are CodeNotFound for another owner.
	Status(ctx context.Context, id calpe.DocumentID, owner string) (intake.PartialStatus, error)
	Recorded(ctx context.Context, id calpe.DocumentID, owner string) (intake.Uploaded, error)
}

// What of tus (https://tus.io/protocols/resumable-upload, 1.0) is spoken here.
const (
	tusVersion    = "1.0.0"
	tusExtensions = "creation,expiration,checksum,termination"
	tusChecksums  = "sha256,sha1"
	tusPieceType  = "application/offset+octet-stream"

	uploadsPath = "/v1/uploads"
	// maxMetadata is what of Upload-Metadata is read: a certification in base64, and
	// what a name and a media type may have.
	maxMetadata = 24 << 10
)

// uploadAnswer is what the API says of an upload that comes in pieces.
type uploadAnswer struct {
	ID       calpe.DocumentID `json:"id"`
	Size     int64            `json:"size"`
	Received int64            `json:"received"`
	Expires  time.Time        `json:"expires"`
	Document *documentAnswer  `json:"document,omitempty"` // when it is recorded
}

func (s *Server) routeUploads(mux chi.Router) {
	mux.Options(uploadsPath, s.tus(s.getProtocol))
	mux.Post(uploadsPath, s.tus(s.beginUpload))
	mux.Get(uploadsPath+"/{upload}", s.tus(s.getUploadState))
	mux.Patch(uploadsPath+"/{upload}", s.tus(s.patchUpload))
	mux.Delete(uploadsPath+"/{upload}", s.tus(s.deleteUpload))
}

// overrideMethod lets a client whose network knows GET and POST alone say which
// method it means, as tus has it.
func overrideMethod(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		method := r.Header.Get("X-HTTP-Method-Override")
		if r.Method == http.MethodPost && strings.HasPrefix(r.URL.Path, uploadsPath+"/") {
			switch method {
			case http.MethodPatch, http.MethodDelete, http.MethodHead:
				r.Method = method
			}
		}
		next.ServeHTTP(w, r)
	})
}

// tus answers with the protocol's version, and refuses another one. To look how
// far an upload has come, or what can be had here, none need be given.
func (s *Server) tus(h handlerFunc) http.HandlerFunc {
	return s.handle(func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("Tus-Resumable", tusVersion)
		version := r.Header.Values("Tus-Resumable")
		free := r.Method == http.MethodOptions || len(version) == 0 && (r.Method == http.MethodGet || r.Method == http.MethodHead)
		if !free && (len(version) != 1 || version[0] != tusVersion) {
			w.Header().Set("Tus-Version", tusVersion)
			return calpe.Errorf(calpe.CodeTusVersion, "Send the header Tus-Resumable: %s.", tusVersion)
		}
		return h(w, r)
	})
}

// getProtocol says what of tus can be had here.
func (s *Server) getProtocol(w http.ResponseWriter, _ *http.Request) error {
	h := w.Header()
	h.Set("Tus-Version", tusVersion)
	h.Set("Tus-Extension", tusExtensions)
	h.Set("Tus-Max-Size", strconv.FormatInt(s.cfg.MaxDocument, 10))
	h.Set("Tus-Checksum-Algorithm", tusChecksums)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) beginUpload(w http.ResponseWriter, r *http.Request) error {
	owner, err := s.authenticate(r, ScopeDocuments)
	if err != nil {
		return err
	}
	n := intake.NewPartial{Owner: owner}
	if n.IdempotencyKey, err = idempotencyKey(r); err != nil {
		return err
	}
	if n.Size, err = lengthIn(r.Header, "Upload-Length"); err != nil {
		return err
	}
	if n.Size > s.cfg.MaxDocument {
		return s.documentTooLarge()
	}
	if r.ContentLength != 0 {
		return calpe.Errorf(calpe.CodeInvalidRequest, "A new upload has no body: send the document with PATCH.")
	}
	if err := readMetadata(r.Header.Values("Upload-Metadata"), &n); err != nil {
		return err
	}
	if err := s.accounts.admit(owner, 1, n.Size); err != nil {
		return err
	}
	status, err := s.cfg.Partials.Begin(r.Context(), n)
	if err != nil {
		return err
	}
	w.Header().Set("Location", uploadsPath+"/"+status.ID.String())
	w.Header().Set("Upload-Expires", status.Expires.UTC().Format(http.TimeFormat))
	w.WriteHeader(http.StatusCreated)
	return nil
}

// lengthIn is a header with a number of bytes.
func lengthIn(h http.Header, name string) (int64, error) {
	values := h.Values(name)
	if len(values) == 1 {
		n, err := strconv.ParseInt(values[0], 10, 64)
		if err == nil && n >= 0 && strconv.FormatInt(n, 10) == values[0] {
			return n, nil
		}
	}
	return 0, calpe.Errorf(calpe.CodeInvalidRequest, "%s must be a number of bytes, once.", name)
}

// readMetadata reads Upload-Metadata: pairs of a key and a value in base64. Keys
// of others are passed over.
func readMetadata(values []string, n *intake.NewPartial) error {
	text := strings.Join(values, ",")
	if len(text) > maxMetadata {
		return calpe.Errorf(calpe.CodeTooLarge, "Upload-Metadata may have up to %d bytes.", maxMetadata)
	}
	n.Metadata, n.MediaType = text, shortMediaType("")
	seen := map[string]bool{}
	for pair := range strings.SplitSeq(text, ",") {
		if text == "" {
			break
		}
		key, encoded, _ := strings.Cut(strings.Trim(pair, " "), " ")
		value, err := base64.StdEncoding.Strict().DecodeString(encoded)
		if key == "" || seen[key] || err != nil {
			return calpe.Errorf(calpe.CodeInvalidRequest, "Upload-Metadata must be pairs of a key and a value in base64, each key once.")
		}
		seen[key] = true
		if err := setMetadata(n, key, value); err != nil {
			return err
		}
	}
	return nil
}

func setMetadata(n *intake.NewPartial, key string, value []byte) (err error) {
	switch key {
	case "filename":
		n.Name, err = checkName(string(value))
	case "filetype":
		mediaType, _, _ := mime.ParseMediaType(string(value)) // as of a whole document
		n.MediaType = shortMediaType(mediaType)
	case "sha256":
		digest, bad := calpe.ParseDigest(string(value))
		if bad != nil {
			return calpe.Errorf(calpe.CodeInvalidRequest, "Upload-Metadata: sha256 must be 64 lower-case hexadecimal digits.")
		}
		n.ExpectedDigest = &digest
	case "certification":
		if len(value) > maxCertification {
			return calpe.Errorf(calpe.CodeTooLarge, "A certification may have up to %d bytes.", maxCertification)
		}
		n.Certification = value
	}
	return err
}

// uploadID is the id in the path. One that can't be an id is of nothing.
func uploadID(r *http.Request) (calpe.DocumentID, error) {
	id, err := calpe.ParseDocumentID(chi.URLParam(r, "upload"))
	if err != nil {
		return id, calpe.Errorf(calpe.CodeNotFound, "There is no such upload.")
	}
	return id, nil
}

func (s *Server) getUploadState(w http.ResponseWriter, r *http.Request) error {
	owner, err := s.authenticate(r, ScopeDocuments)
	if err != nil {
		return err
	}
	id, err := uploadID(r)
	if err != nil {
		return err
	}
	status, err := s.cfg.Partials.Status(r.Context(), id, owner)
	if err != nil {
		return err
	}
	answer := uploadAnswer{ID: status.ID, Size: status.Size, Received: status.Received, Expires: status.Expires.UTC()}
	if !status.Document.IsZero() && r.Method == http.MethodGet {
		if answer.Document, err = s.recordedDocument(r.Context(), id, owner); err != nil {
			return err
		}
	}
	writeStatus(w.Header(), status)
	w.Header().Set("Upload-Length", strconv.FormatInt(status.Size, 10))
	if status.Metadata != "" {
		w.Header().Set("Upload-Metadata", status.Metadata)
	}
	return writeJSON(w, http.StatusOK, answer)
}

// recordedDocument is what POST /v1/documents would have answered.
func (s *Server) recordedDocument(ctx context.Context, id calpe.DocumentID, owner string) (*documentAnswer, error) {
	done, err := s.cfg.Partials.Recorded(ctx, id, owner)
	if err != nil {
		return nil, err
	}
	answer := s.describeUploaded(ctx, done)
	return &answer, nil
}

// writeStatus says how far an upload has come, and either where its document is
// or when it is given up.
func writeStatus(h http.Header, status intake.PartialStatus) {
	h.Set("Upload-Offset", strconv.FormatInt(status.Received, 10))
	if !status.Document.IsZero() {
		h.Set("Content-Location", "/v1/documents/"+status.Document.String())
		return
	}
	h.Set("Upload-Expires", status.Expires.UTC().Format(http.TimeFormat))
}

func (s *Server) patchUpload(w http.ResponseWriter, r *http.Request) error {
	owner, err := s.authenticate(r, ScopeDocuments)
	if err != nil {
		return err
	}
	piece := intake.Piece{Owner: owner}
	if piece.ID, err = uploadID(r); err != nil {
		return err
	}
	if r.Header.Get("Content-Type") != tusPieceType {
		return calpe.Errorf(calpe.CodeUnsupportedMedia, "A piece of a document has the Content-Type %s.", tusPieceType)
	}
	if piece.Offset, err = lengthIn(r.Header, "Upload-Offset"); err != nil {
		return err
	}
	if piece.Hash, piece.Sum, err = checksumIn(r.Header.Values("Upload-Checksum")); err != nil {
		return err
	}
	if err := s.accounts.admit(owner, 0, max(r.ContentLength, 1)); err != nil {
		return err
	}
	done, err := s.accounts.begin(owner)
	if err != nil {
		return err
	}
	defer done()
	piece.Body = &pieceBody{&chargedBody{s.paced(w, r, s.cfg.MaxDocument), s.accounts, owner}}
	status, err := s.cfg.Partials.Append(r.Context(), piece)
	if err != nil {
		return clientError(err)
	}
	if !status.Document.IsZero() && piece.Offset < status.Size {
		s.accounts.charge(owner, 1, 0)
	}
	writeStatus(w.Header(), status)
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// pieceBody doesn't say that nothing was kept: of a piece, much may be.
type pieceBody struct{ body *chargedBody }

func (b *pieceBody) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if e, ok := errors.AsType[*calpe.Error](err); ok {
		err = &calpe.Error{Code: e.Code, Message: strings.Replace(e.Message, nothingKept, "Upload-Offset says what was kept", 1), Err: e.Err}
	}
	return n, err
}

// checksumIn reads Upload-Checksum; nil if there is none.
func checksumIn(values []string) (hash.Hash, []byte, error) {
	if len(values) == 0 {
		return nil, nil, nil
	}
	algorithm, encoded, _ := strings.Cut(values[0], " ")
	var h hash.Hash
	switch algorithm {
	case "sha256":
		h = sha256.New()
	case "sha1":
		h = sha1.New() //nolint:gosec // see above
	default:
		return nil, nil, calpe.Errorf(calpe.CodeInvalidRequest, "Upload-Checksum must be of %s.", strings.ReplaceAll(tusChecksums, ",", " or "))
	}
	sum, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil || len(sum) != h.Size() || len(values) > 1 {
		return nil, nil, calpe.Errorf(calpe.CodeInvalidRequest, "Upload-Checksum must be an algorithm, a space, and its sum in base64, once.")
	}
	return h, sum, nil
}

func (s *Server) deleteUpload(w http.ResponseWriter, r *http.Request) error {
	owner, err := s.authenticate(r, ScopeDocuments)
	if err != nil {
		return err
	}
	id, err := uploadID(r)
	if err != nil {
		return err
	}
	if err := s.cfg.Partials.Abandon(r.Context(), id, owner); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}
