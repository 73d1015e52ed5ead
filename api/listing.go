package api

import (
	"context"
	"encoding/base64"
	"encoding/binary"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/intake"
	"github.com/calpe/calpe/receipt/statement"
)

// Catalog lists documents.
type Catalog interface {
	// List gives the documents that match, the newest first. If there are more,
	// they are below the index next, else next is 0.
	List(ctx context.Context, q intake.Query) (list []intake.Listed, next uint64, err error)
}

const defaultLimit = 20

// page is what a request says of the page that it wants.
type page struct {
	limit  int
	cursor []byte // nil: the first page
}

// readPage reads limit and cursor. A cursor is size bytes behind a byte that
// says of what list: it holds nothing that a client may not know, and one that
// is made up leads to another page of the same list.
func readPage(query url.Values, kind byte, size int) (page, error) {
	p := page{limit: defaultLimit}
	if text := query.Get("limit"); text != "" {
		n, err := plainNumber(text)
		if err != nil || n < 1 || n > intake.MaxListed {
			return page{}, calpe.Errorf(calpe.CodeInvalidRequest, "limit must be a number from 1 to %d.", intake.MaxListed)
		}
		p.limit = int(n)
	}
	if text := query.Get("cursor"); text != "" {
		raw, err := base64.RawURLEncoding.Strict().DecodeString(text)
		if err != nil || len(raw) != 1+size || raw[0] != kind {
			return page{}, calpe.Errorf(calpe.CodeInvalidRequest, "cursor is not one that this list has given; take it from \"next\".")
		}
		p.cursor = raw[1:]
	}
	return p, nil
}

func encodeCursor(kind byte, position []byte) string {
	return base64.RawURLEncoding.EncodeToString(append([]byte{kind}, position...))
}

// known refuses parameters that a list doesn't have: a filter with a typing
// error would else list everything.
func known(query url.Values, names ...string) error {
	for name, values := range query {
		found := false
		for _, n := range names {
			found = found || n == name
		}
		if !found || len(values) > 1 {
			return calpe.Errorf(calpe.CodeInvalidRequest, "The query may have each of %v once, and nothing else.", names)
		}
	}
	return nil
}

// nextPage is the address of the next page: the same request with another
// cursor. It also stands in the Link header (RFC 8288).
func nextPage(w http.ResponseWriter, r *http.Request, cursor string) string {
	query := r.URL.Query()
	query.Set("cursor", cursor)
	next := (&url.URL{Path: r.URL.Path, RawQuery: query.Encode()}).String()
	w.Header().Set("Link", "<"+next+`>; rel="next"`)
	return next
}

const documentCursor = 'd'

type documentsAnswer struct {
	Documents []documentAnswer `json:"documents"`
	Next      string           `json:"next,omitempty"`
}

// getDocuments lists the caller's documents, the newest first.
func (s *Server) getDocuments(w http.ResponseWriter, r *http.Request) error {
	owner, err := s.authenticate(r, ScopeDocuments)
	if err != nil {
		return err
	}
	marks, err := s.cfg.Watermarks.Watermarks(r.Context())
	if err != nil {
		return unavailable("The state of the log can't be read at the moment.", err)
	}
	q, err := documentQuery(r.URL.Query(), marks)
	if err != nil {
		return err
	}
	q.Owner = owner
	list, next, err := s.cfg.Catalog.List(r.Context(), q)
	if err != nil {
		return err
	}
	answer := documentsAnswer{Documents: make([]documentAnswer, 0, len(list))}
	for _, d := range list {
		state, ok := marks.State(d.Index)
		if !ok {
			state = calpe.Received // recorded since the watermarks were read
		}
		a := describe(d.Document, state)
		a.CertifiedBy = d.CertifiedBy
		answer.Documents = append(answer.Documents, a)
	}
	if next > 0 {
		answer.Next = nextPage(w, r, encodeCursor(documentCursor, binary.BigEndian.AppendUint64(nil, next)))
	}
	return writeJSON(w, http.StatusOK, answer)
}

// documentQuery reads the filters. A state is a range of indices, because it
// follows from the watermarks.
func documentQuery(query url.Values, marks calpe.Watermarks) (q intake.Query, err error) {
	if err := known(query, "limit", "cursor", "state", "certified_by", "created_from", "created_to"); err != nil {
		return q, err
	}
	p, err := readPage(query, documentCursor, 8)
	if err != nil {
		return q, err
	}
	q.Limit, q.Indices = p.limit, [2]uint64{0, calpe.MaxLogSize}
	if text := query.Get("state"); text != "" {
		state, err := calpe.ParseState(text)
		if err != nil {
			return q, calpe.Errorf(calpe.CodeInvalidRequest, "state must be one of received, checkpointed, broadcast, confirmed, final.")
		}
		q.Indices = indicesOf(state, marks)
	}
	if p.cursor != nil {
		q.Indices[1] = min(q.Indices[1], binary.BigEndian.Uint64(p.cursor))
	}
	if q.Agency = query.Get("certified_by"); q.Agency != "" && statement.CheckAgencyID(q.Agency) != nil {
		return q, calpe.Errorf(calpe.CodeInvalidRequest, "certified_by must be the identifier of an agency.")
	}
	for i, name := range []string{"created_from", "created_to"} {
		if q.Created[i], err = readTime(query.Get(name)); err != nil {
			return q, calpe.Errorf(calpe.CodeInvalidRequest, "%s must be a date (2026-11-21) or a time (2026-11-21T09:30:00Z), from year 1 to 9999.", name)
		}
	}
	return q, nil
}

// indicesOf is the range of indices that are in that state.
func indicesOf(state calpe.State, m calpe.Watermarks) [2]uint64 {
	switch state {
	case calpe.Received:
		return [2]uint64{m.Checkpointed, calpe.MaxLogSize} // and those that came since
	case calpe.Checkpointed:
		return [2]uint64{m.Broadcast, m.Checkpointed}
	case calpe.Broadcast:
		return [2]uint64{m.Confirmed, m.Broadcast}
	case calpe.Confirmed:
		return [2]uint64{m.Final, m.Confirmed}
	default:
		return [2]uint64{0, m.Final}
	}
}

// readTime reads a day, which begins at midnight UTC, or a time (RFC 3339); the
// zero time for no text.
func readTime(text string) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	t, err := time.Parse(time.DateOnly, text)
	if err != nil {
		t, err = time.Parse(time.RFC3339, text)
	}
	if err == nil && (t.UTC().Year() < 1 || t.UTC().Year() > 9999) {
		err = strconv.ErrRange
	}
	return t.UTC(), err
}
