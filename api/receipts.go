package api

import (
	"cmp"
	"context"
	"errors"
	"mime"
	"net/http"
	"strconv"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/intake"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/ots"
)

// typeOTS is the media type of an .ots file. OpenTimestamps clients accept it
// from calendars; nobody has registered it.
const typeOTS = "application/vnd.opentimestamps.v1"

// getReceipt gives the receipt for the state that holds now: as JSON, or as the
// .ots file that every OpenTimestamps client verifies.
func (s *Server) getReceipt(w http.ResponseWriter, r *http.Request) error {
	d, _, err := s.ownDocument(r)
	if err != nil {
		return err
	}
	w.Header().Set("Vary", "Accept")
	mediaType := negotiate(r.Header.Values("Accept"), typeJSON, typeOTS)
	if mediaType == "" {
		return calpe.Errorf(calpe.CodeNotAcceptable, "A receipt is given as %s or %s.", typeJSON, typeOTS)
	}
	got, err := s.issuer.receipt(r.Context(), d)
	if err != nil {
		return err
	}
	var body []byte
	if mediaType == typeOTS {
		body, err = s.timestampFile(w, r, d, got)
	} else {
		body, err = got.Encode()
	}
	if err != nil {
		return err
	}
	writeTagged(w, r, mediaType, body)
	return nil
}

// timestampFile is the receipt as an .ots file, under the document's name as
// OpenTimestamps clients look for it.
func (s *Server) timestampFile(w http.ResponseWriter, r *http.Request, d intake.Document, got receipt.Receipt) ([]byte, error) {
	file, err := ots.FromReceipt(got, s.cfg.CalendarURI)
	if errors.Is(err, ots.ErrNotAnchored) {
		return nil, s.notAnchored(r.Context(), w, d.Index)
	}
	if err != nil {
		return nil, err
	}
	body, err := file.Serialize()
	if err != nil {
		return nil, err
	}
	name := cmp.Or(d.Name, d.ID.String()) + ".ots"
	w.Header().Set("Content-Disposition", mime.FormatMediaType("attachment", map[string]string{"filename": name}))
	return body, nil
}

// The bounds of Retry-After for what waits for a block.
const (
	leastWait   = 5 * time.Second
	longestWait = time.Hour
)

// notAnchored says that no block holds the entry yet, and when one will, as far
// as that can be reckoned.
func (s *Server) notAnchored(ctx context.Context, w http.ResponseWriter, index uint64) error {
	marks, err := s.cfg.Watermarks.Watermarks(ctx)
	if err != nil {
		return unavailable("The state of the log can't be read at the moment.", err)
	}
	outlook, stamping, err := s.outlook(ctx)
	if err != nil {
		return err
	}
	now := s.cfg.Now().UTC().Truncate(time.Second)
	wait, expected := leastWait, ""
	if at := s.forecast(now, outlook, stamping).confirmation(marks, index); at != nil {
		wait = min(max(at.Sub(now), leastWait), longestWait)
		expected = " One is expected at about " + at.Format(time.RFC3339) + "."
	}
	w.Header().Set("Retry-After", strconv.FormatInt(int64(wait/time.Second), 10))
	return calpe.Errorf(calpe.CodeNotAnchored, "No block of Bitcoin holds the document yet.%s The receipt as %s is there already.", expected, typeJSON)
}
