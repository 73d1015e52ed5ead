package api

import (
	"context"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/intake"
	"github.com/calpe/calpe/receipt"
)

// Limits on what stands around a document. Each is far above what an honest
// client sends.
const (
	maxCertification = 16 << 10 // as docs/formats.md limits a signed statement
	maxEnvelope      = 64 << 10 // multipart headers and boundaries
	maxName          = 255      // bytes; as file systems have it
	maxMediaType     = 127      // RFC 6838, section 4.2
)

// documentAnswer is what the API says of a document.
type documentAnswer struct {
	ID              calpe.DocumentID       `json:"id"`
	Index           uint64                 `json:"index"`
	State           calpe.State            `json:"state"`
	Name            string                 `json:"name,omitempty"`
	MediaType       string                 `json:"media_type,omitempty"`
	Size            int64                  `json:"size"`
	Digest          calpe.Digest           `json:"digest"`
	Created         time.Time              `json:"created"`
	Code            calpe.FindCode         `json:"code,omitzero"`
	CertifiedBy     string                 `json:"certified_by,omitempty"`
	Acknowledgement *acknowledgementAnswer `json:"acknowledgement,omitempty"`
}

type acknowledgementAnswer struct {
	Note string       `json:"note"`
	Path receipt.Path `json:"path"`
}

func acknowledged(a intake.Acknowledgement) *acknowledgementAnswer {
	return &acknowledgementAnswer{Note: string(a.Note), Path: receipt.Path(a.Path)}
}

func (s *Server) postDocument(w http.ResponseWriter, r *http.Request) error {
	owner, err := s.authenticate(r, ScopeDocuments)
	if err != nil {
		return err
	}
	key, err := idempotencyKey(r)
	if err != nil {
		return err
	}
	if err := s.accounts.admit(owner, 1, max(r.ContentLength, 1)); err != nil {
		return err
	}
	upload, err := s.readUpload(w, r)
	if err != nil {
		return err
	}
	upload.Owner, upload.IdempotencyKey = owner, key
	upload.Body = &chargedBody{upload.Body, s.accounts, owner}
	done, err := s.cfg.Intake.Upload(r.Context(), upload)
	if err != nil {
		return clientError(err)
	}
	if !done.Existing {
		s.accounts.charge(owner, 1, 0)
	}
	w.Header().Set("Location", "/v1/documents/"+done.ID.String())
	return writeJSON(w, http.StatusCreated, s.describeUploaded(r.Context(), done))
}

func (s *Server) describeUploaded(ctx context.Context, done intake.Uploaded) documentAnswer {
	answer := describe(done.Document, calpe.Received)
	if marks, err := s.cfg.Watermarks.Watermarks(ctx); err == nil {
		// An earlier request with the same key may have come further since.
		if state, ok := marks.State(done.Index); ok {
			answer.State = state
		}
	}
	answer.Acknowledgement = acknowledged(done.Acknowledgement)
	return answer
}

func describe(d intake.Document, state calpe.State) documentAnswer {
	answer := documentAnswer{
		ID: d.ID, Index: d.Index, State: state, Name: d.Name, MediaType: d.MediaType, Size: d.Size,
		Digest: d.Digest, Created: d.Created.UTC().Truncate(time.Second), Code: d.Code,
	}
	if d.Certification != nil {
		answer.CertifiedBy = d.Certification.Agency
	}
	return answer
}

// readUpload finds the document in the request: its only body, or a part of a
// form. The body isn't read further than to the document's first byte.
func (s *Server) readUpload(w http.ResponseWriter, r *http.Request) (intake.Upload, error) {
	digest, err := parseContentDigest(append(r.Header.Values("Content-Digest"), r.Header.Values("Repr-Digest")...))
	if err != nil {
		return intake.Upload{}, err
	}
	if r.ContentLength > s.cfg.MaxDocument+maxCertification+maxEnvelope {
		return intake.Upload{}, s.documentTooLarge()
	}
	body := s.paced(w, r, s.cfg.MaxDocument+maxCertification+maxEnvelope)
	mediaType, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err == nil && mediaType == "multipart/form-data" {
		if digest != nil {
			return intake.Upload{}, calpe.Errorf(calpe.CodeInvalidRequest,
				"With multipart/form-data the Content-Digest stands in the header of the document's part.")
		}
		return readForm(multipart.NewReader(body, params["boundary"]))
	}
	if strings.HasPrefix(mediaType, "multipart/") {
		return intake.Upload{}, calpe.Errorf(calpe.CodeUnsupportedMedia, "Of the multipart types only multipart/form-data is read.")
	}
	name, err := fileName(r.Header.Get("Content-Disposition"))
	return intake.Upload{Body: body, Name: name, MediaType: shortMediaType(mediaType), ExpectedDigest: digest}, err
}

func (s *Server) documentTooLarge() error {
	return calpe.Errorf(calpe.CodeTooLarge, "A document may have up to %d bytes here.", s.cfg.MaxDocument)
}

// readForm reads the parts up to the document: an optional certification, then
// the document, and nothing behind it. It streams, so their order matters.
func readForm(form *multipart.Reader) (intake.Upload, error) {
	var upload intake.Upload
	for {
		part, err := form.NextRawPart()
		if errors.Is(err, io.EOF) {
			return intake.Upload{}, calpe.Errorf(calpe.CodeInvalidRequest, "The form has no part named \"document\".")
		}
		if err != nil {
			return intake.Upload{}, formError(err)
		}
		switch part.FormName() {
		case "certification":
			if upload.Certification != nil {
				return intake.Upload{}, calpe.Errorf(calpe.CodeInvalidRequest, "The form has two parts named \"certification\".")
			}
			upload.Certification, err = io.ReadAll(io.LimitReader(part, maxCertification+1))
			if err != nil {
				return intake.Upload{}, formError(err)
			}
			if len(upload.Certification) > maxCertification {
				return intake.Upload{}, calpe.Errorf(calpe.CodeTooLarge, "A certification may have up to %d bytes.", maxCertification)
			}
		case "document":
			return documentPart(form, part, upload)
		default:
			return intake.Upload{}, calpe.Errorf(calpe.CodeInvalidRequest,
				"The form may have a part \"certification\" and then one \"document\"; it has another.")
		}
	}
}

func documentPart(form *multipart.Reader, part *multipart.Part, upload intake.Upload) (intake.Upload, error) {
	var err error
	if upload.ExpectedDigest, err = parseContentDigest(part.Header["Content-Digest"]); err != nil {
		return intake.Upload{}, err
	}
	if upload.Name, err = checkName(part.FileName()); err != nil {
		return intake.Upload{}, err
	}
	mediaType, _, _ := mime.ParseMediaType(part.Header.Get("Content-Type"))
	upload.MediaType = shortMediaType(mediaType)
	upload.Body = &lastPart{form: form, part: part}
	return upload, nil
}

// lastPart is the document's part. Its end is the end of the form, or the
// request isn't what it says: a truncated body must not pass for a document.
type lastPart struct {
	form *multipart.Reader
	part io.Reader
}

func (p *lastPart) Read(b []byte) (int, error) {
	n, err := p.part.Read(b)
	if !errors.Is(err, io.EOF) {
		return n, formError(err)
	}
	_, next := p.form.NextRawPart()
	switch {
	case next == nil:
		return n, calpe.Errorf(calpe.CodeInvalidRequest, "The part \"document\" must be the last of the form.")
	case errors.Is(next, io.EOF):
		return n, io.EOF
	}
	return n, formError(next)
}

// formError passes errors that have a code, and takes any other for a form that
// isn't one.
func formError(err error) error {
	if err == nil {
		return nil
	}
	if coded := clientError(err); calpe.ErrorCode(coded) != calpe.CodeInternal {
		return coded
	}
	return &calpe.Error{Code: calpe.CodeInvalidRequest, Message: "The form can't be read, or ended before its end.", Err: err}
}

// fileName is the name in a Content-Disposition header (RFC 6266), if any.
func fileName(header string) (string, error) {
	if header == "" {
		return "", nil
	}
	_, params, err := mime.ParseMediaType(header)
	if err != nil {
		return "", calpe.Errorf(calpe.CodeInvalidRequest, "Content-Disposition can't be read (RFC 6266).")
	}
	return checkName(params["filename"])
}

// checkName takes the last element of a path, as browsers may send one, and
// refuses what no file system would have.
func checkName(name string) (string, error) {
	name = name[strings.LastIndexAny(name, `/\`)+1:]
	if len(name) > maxName || !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", calpe.Errorf(calpe.CodeInvalidRequest,
			"The file name must be UTF-8 without control characters, of up to %d bytes.", maxName)
	}
	return name, nil
}

func shortMediaType(t string) string {
	if t == "" || len(t) > maxMediaType {
		return "application/octet-stream"
	}
	return t
}

// idempotencyKey is the header of the same name: 1 to 255 visible ASCII
// characters, or none.
func idempotencyKey(r *http.Request) (string, error) {
	values := r.Header.Values("Idempotency-Key")
	if len(values) == 0 {
		return "", nil
	}
	key := values[0]
	bad := strings.ContainsFunc(key, func(r rune) bool { return r < '!' || r > '~' })
	if len(values) > 1 || bad || len(key) == 0 || len(key) > 255 {
		return "", calpe.Errorf(calpe.CodeInvalidRequest, "Idempotency-Key must be 1 to 255 visible ASCII characters, once.")
	}
	return key, nil
}
