package api

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/go-chi/chi/v5"

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
	maxSmallBody     = 4 << 10  // a JSON request
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
	upload, err := s.readUpload(w, r)
	if err != nil {
		return err
	}
	upload.Owner, upload.IdempotencyKey = owner, key
	done, err := s.cfg.Intake.Upload(r.Context(), upload)
	if err != nil {
		return clientError(err)
	}
	answer := describe(done.Document, calpe.Received)
	if marks, err := s.cfg.Watermarks.Watermarks(r.Context()); err == nil {
		// An earlier request with the same key may have come further since.
		if state, ok := marks.State(done.Index); ok {
			answer.State = state
		}
	}
	answer.Acknowledgement = acknowledged(done.Acknowledgement)
	w.Header().Set("Location", "/v1/documents/"+done.ID.String())
	return writeJSON(w, http.StatusCreated, answer)
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
	body := &pacedBody{
		body:    http.MaxBytesReader(w, r.Body, s.cfg.MaxDocument+maxCertification+maxEnvelope),
		control: http.NewResponseController(w), now: s.cfg.Now, start: s.cfg.Now(), pace: s.cfg.Pace,
	}
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

// ownDocument is the document in the path, if it is the caller's.
func (s *Server) ownDocument(r *http.Request) (intake.Document, string, error) {
	owner, err := s.authenticate(r, ScopeDocuments)
	if err != nil {
		return intake.Document{}, "", err
	}
	id, err := calpe.ParseDocumentID(chi.URLParam(r, "id"))
	if err != nil {
		return intake.Document{}, "", calpe.Errorf(calpe.CodeNotFound, "There is no such document.")
	}
	d, err := s.cfg.Intake.Document(r.Context(), id, owner)
	return d, owner, err
}

func (s *Server) getDocument(w http.ResponseWriter, r *http.Request) error {
	d, _, err := s.ownDocument(r)
	if err != nil {
		return err
	}
	marks, err := s.cfg.Watermarks.Watermarks(r.Context())
	if err != nil {
		return unavailable("The state of the log can't be read at the moment.", err)
	}
	state, ok := marks.State(d.Index)
	if !ok {
		return unavailable("The document's entry isn't in the log; an operator has to look.", calpe.ErrNotDense)
	}
	answer := describe(d, state)
	ack, err := s.cfg.Acknowledgements.AcknowledgementOf(r.Context(), d.Index)
	if err != nil {
		return err
	}
	answer.Acknowledgement = acknowledged(ack)
	return writeJSON(w, http.StatusOK, answer)
}

func (s *Server) getReceipt(w http.ResponseWriter, r *http.Request) error {
	d, _, err := s.ownDocument(r)
	if err != nil {
		return err
	}
	got, err := s.issuer.receipt(r.Context(), d)
	if err != nil {
		return err
	}
	body, err := got.Encode()
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(body)
	return nil
}

// getContent sends the document, or the one range of bytes that is asked for
// (RFC 9110, 14.2). A range that can't be read as one is passed over, as the
// RFC allows.
func (s *Server) getContent(w http.ResponseWriter, r *http.Request) error {
	d, owner, err := s.ownDocument(r)
	if err != nil {
		return err
	}
	h := w.Header()
	h.Set("Accept-Ranges", "bytes")
	h.Set("ETag", strconv.Quote(d.Digest.String()))
	h.Set("Cache-Control", "private, no-cache")
	offset, length, partial := parseRange(r.Header.Get("Range"), d.Size)
	if partial && offset >= d.Size {
		h.Set("Content-Range", "bytes */"+strconv.FormatInt(d.Size, 10))
		w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
		return nil
	}
	content, err := s.cfg.Intake.Content(r.Context(), d.ID, owner, offset, length)
	if err != nil {
		return err
	}
	defer content.Close()
	// Uploaded bytes are never shown by a browser in this origin, whatever they claim to be.
	h.Set("Content-Type", d.MediaType)
	h.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": d.Name}))
	h.Set("Content-Length", strconv.FormatInt(length, 10))
	status := http.StatusOK
	if partial {
		h.Set("Content-Range", "bytes "+strconv.FormatInt(offset, 10)+"-"+strconv.FormatInt(offset+length-1, 10)+"/"+strconv.FormatInt(d.Size, 10))
		status = http.StatusPartialContent
	}
	w.WriteHeader(status)
	if _, err := io.Copy(w, content); err != nil {
		// The header is out. Only a broken connection tells the client that the rest isn't the document.
		panic(http.ErrAbortHandler)
	}
	return nil
}

// parseRange reads "bytes=a-b", "bytes=a-" and "bytes=-n"; whatever else it is
// is no range. The result is always inside the document, except an offset at or
// behind its end.
func parseRange(header string, size int64) (offset, length int64, partial bool) {
	spec, ok := strings.CutPrefix(header, "bytes=")
	from, to, dash := strings.Cut(spec, "-")
	if !ok || !dash || strings.Contains(spec, ",") {
		return 0, size, false
	}
	last := size - 1
	if from == "" {
		n, err := strconv.ParseUint(to, 10, 63)
		if err != nil || n == 0 {
			return 0, size, false
		}
		offset = max(0, size-int64(n))
		return offset, size - offset, true
	}
	first, err := strconv.ParseUint(from, 10, 63)
	if err != nil {
		return 0, size, false
	}
	if to != "" {
		n, err := strconv.ParseUint(to, 10, 63)
		if err != nil || n < first {
			return 0, size, false
		}
		last = min(last, int64(n))
	}
	offset = int64(first)
	return offset, max(0, last-offset+1), true
}

type commitmentRequest struct {
	Commitment calpe.Commitment `json:"commitment"`
}

type commitmentAnswer struct {
	Index           uint64                 `json:"index"`
	Commitment      calpe.Commitment       `json:"commitment"`
	State           calpe.State            `json:"state"`
	Acknowledgement *acknowledgementAnswer `json:"acknowledgement"`
}

func (s *Server) postCommitment(w http.ResponseWriter, r *http.Request) error {
	owner, err := s.authenticate(r, ScopeCommitments)
	if err != nil {
		return err
	}
	key, err := idempotencyKey(r)
	if err != nil {
		return err
	}
	var request commitmentRequest
	body := &pacedBody{
		body:    http.MaxBytesReader(w, r.Body, maxSmallBody),
		control: http.NewResponseController(w), now: s.cfg.Now, start: s.cfg.Now(), pace: s.cfg.Pace,
	}
	dec := json.NewDecoder(body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&request); err != nil {
		if coded := clientError(err); calpe.ErrorCode(coded) != calpe.CodeInternal {
			return coded
		}
		return calpe.Errorf(calpe.CodeInvalidRequest, "Send {\"commitment\": \"…\"} with 64 lower-case hexadecimal digits.")
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return calpe.Errorf(calpe.CodeInvalidRequest, "There is something behind the JSON object.")
	}
	recorded, err := s.cfg.Intake.Commit(r.Context(), intake.Commitments{
		Commitments: []calpe.Commitment{request.Commitment}, Owner: owner, IdempotencyKey: key,
	})
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/v1/entries/"+strconv.FormatUint(recorded.First, 10))
	return writeJSON(w, http.StatusCreated, commitmentAnswer{
		Index: recorded.First, Commitment: request.Commitment, State: calpe.Received,
		Acknowledgement: acknowledged(recorded.Acknowledgement),
	})
}
