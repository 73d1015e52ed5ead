package api

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"mime"
	"net/http"
	"strconv"
	"strings"

	"github.com/go-chi/chi/v5"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/intake"
)

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

// stateOf is the state of an entry that must be there.
func (s *Server) stateOf(r *http.Request, index uint64) (calpe.State, error) {
	marks, err := s.cfg.Watermarks.Watermarks(r.Context())
	if err != nil {
		return 0, unavailable("The state of the log can't be read at the moment.", err)
	}
	state, ok := marks.State(index)
	if !ok {
		return 0, unavailable("The document's entry isn't in the log; an operator has to look.", calpe.ErrNotDense)
	}
	return state, nil
}

func (s *Server) getDocument(w http.ResponseWriter, r *http.Request) error {
	d, _, err := s.ownDocument(r)
	if err != nil {
		return err
	}
	state, err := s.stateOf(r, d.Index)
	if err != nil {
		return err
	}
	answer := describe(d, state)
	ack, err := s.cfg.Acknowledgements.AcknowledgementOf(r.Context(), d.Index)
	if err != nil {
		return err
	}
	answer.Acknowledgement = acknowledged(ack)
	body, err := json.Marshal(answer)
	if err != nil {
		return err
	}
	writeTagged(w, r, "application/json", append(body, '\n'))
	return nil
}

// writeTagged answers with a body that only its owner may see and keep, unless
// the client has it already.
func writeTagged(w http.ResponseWriter, r *http.Request, mediaType string, body []byte) {
	w.Header().Set("Cache-Control", "private, no-cache")
	if notModified(w, r, bodyTag(body)) {
		return
	}
	w.Header().Set("Content-Type", mediaType)
	// The status is out: a client that is gone can't be told anything more.
	_, _ = w.Write(body)
}

// getContent sends the document, or the one range of bytes that is asked for
// (RFC 9110, 14.2). A range that can't be read as one is passed over, as the
// RFC allows.
func (s *Server) getContent(w http.ResponseWriter, r *http.Request) error {
	d, owner, err := s.ownDocument(r)
	if err != nil {
		return err
	}
	tag := strconv.Quote(d.Digest.String())
	offset, length, partial := int64(0), d.Size, false
	if rangeHolds(r, tag) {
		offset, length, partial = parseRange(r.Header.Get("Range"), d.Size)
	}
	h := w.Header()
	h.Set("Accept-Ranges", "bytes")
	h.Set("Cache-Control", "private, no-cache")
	if notModified(w, r, tag) {
		return nil
	}
	if partial && offset >= d.Size {
		h.Set("Content-Range", "bytes */"+strconv.FormatInt(d.Size, 10))
		return calpe.Errorf(calpe.CodeRange, "The document has %d bytes.", d.Size)
	}
	var content io.ReadCloser = http.NoBody
	if r.Method != http.MethodHead {
		if content, err = s.cfg.Intake.Content(r.Context(), d.ID, owner, offset, length); err != nil {
			return err
		}
		defer content.Close()
	}
	writeContentHeader(w, d, offset, length, partial)
	if _, err := io.Copy(s.pacedAnswer(w), content); err != nil {
		// The header is out. Only a broken connection tells the client that the rest isn't the document.
		panic(http.ErrAbortHandler)
	}
	return nil
}

func writeContentHeader(w http.ResponseWriter, d intake.Document, offset, length int64, partial bool) {
	h := w.Header()
	// Uploaded bytes are never shown by a browser in this origin, whatever they claim to be.
	h.Set("Content-Type", d.MediaType)
	h.Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": d.Name}))
	h.Set("Content-Length", strconv.FormatInt(length, 10))
	h.Set("Repr-Digest", "sha-256=:"+base64.StdEncoding.EncodeToString(d.Digest[:])+":") // RFC 9530: of the whole, also for a range
	if !partial {
		return
	}
	h.Set("Content-Range", "bytes "+strconv.FormatInt(offset, 10)+"-"+strconv.FormatInt(offset+length-1, 10)+"/"+strconv.FormatInt(d.Size, 10))
	w.WriteHeader(http.StatusPartialContent)
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
