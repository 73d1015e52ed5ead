package api

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/calpe/calpe"
)

// Finder finds documents for those who have no receipt.
type Finder interface {
	// FindByDigest lists up to limit documents, the newest first; none is no error.
	FindByDigest(ctx context.Context, digest calpe.Digest, limit int) ([]calpe.Found, error)
	// FindByCode gives CodeNotFound if there is none.
	FindByCode(ctx context.Context, code calpe.FindCode) (calpe.Found, error)
}

// The limits of [Config] on finding, if they aren't set.
const (
	defaultFindPerMinute = 30
	defaultFindTotal     = 600
)

// maxFound bounds the documents in one answer: one file may have been uploaded
// any number of times.
const maxFound = 20

// findAnswer is what anybody may know who has a document or its code. It has
// nothing of the document, its name, its owner or its id.
type findAnswer struct {
	Log     calpe.Hash    `json:"log"`
	Origin  string        `json:"origin"`
	Network calpe.Network `json:"network"`
	Found   []foundAnswer `json:"found"`
	More    bool          `json:"more,omitempty"` // there are older ones
}

type foundAnswer struct {
	Index       uint64       `json:"index"`
	State       calpe.State  `json:"state"`
	Received    time.Time    `json:"received"`
	CertifiedBy string       `json:"certified_by,omitempty"`
	Anchor      *foundAnchor `json:"anchor,omitempty"`
}

// foundAnchor is the block by which the entry is proved to have existed.
type foundAnchor struct {
	Height uint32          `json:"height"`
	Block  calpe.BlockHash `json:"block"`
	Time   time.Time       `json:"time"`          // as the block's header claims it
	TxID   calpe.BlockHash `json:"txid,omitzero"` // unknown if calendars anchor the log
}

// getFind answers who has a document or its code, but no receipt and no token.
// What isn't found costs as many look-ups of the same kind as what is, but for
// the anchor of the latter.
func (s *Server) getFind(w http.ResponseWriter, r *http.Request) error {
	if wait, ok := s.finds.take(network(clientAddress(r, s.cfg.TrustedProxies))); !ok {
		w.Header().Set("Retry-After", retryAfter(wait))
		return calpe.Errorf(calpe.CodeTooManyRequests, "There are too many look-ups from your network, or from everybody together.")
	}
	found, err := s.find(r.Context(), r.URL.RawQuery)
	if err != nil {
		return err
	}
	marks, err := s.cfg.Watermarks.Watermarks(r.Context()) // after the rows: every index found is below Next
	if err != nil {
		return unavailable("The state of the log can't be read at the moment.", err)
	}
	if len(found) == 0 {
		return calpe.Errorf(calpe.CodeNotFound, "Nothing here has that digest or code.")
	}
	answer := findAnswer{Log: s.cfg.Identity.Hash(), Origin: s.cfg.Identity.Origin, Network: s.cfg.Identity.Network, More: len(found) > maxFound}
	for _, f := range found[:min(len(found), maxFound)] {
		one, err := s.describeFound(r.Context(), f, marks)
		if err != nil {
			return err
		}
		answer.Found = append(answer.Found, one)
	}
	return writeJSON(w, http.StatusOK, answer)
}

// find reads ?digest= or ?code=, and looks for it. Whether there is none is for
// the caller to say, in the same words for both.
func (s *Server) find(ctx context.Context, rawQuery string) ([]calpe.Found, error) {
	query, err := url.ParseQuery(rawQuery)
	digests, codes := query["digest"], query["code"]
	if err != nil || len(digests)+len(codes) != 1 {
		return nil, calpe.Errorf(calpe.CodeInvalidRequest, "Ask for one digest (?digest=) or one code (?code=).")
	}
	if len(digests) == 1 {
		digest, err := calpe.ParseDigest(digests[0])
		if err != nil {
			return nil, calpe.Errorf(calpe.CodeInvalidRequest, "The digest must be 64 lower-case hexadecimal digits, the SHA-256 of the document.")
		}
		return s.cfg.Finder.FindByDigest(ctx, digest, maxFound+1)
	}
	code, err := calpe.ParseFindCode(codes[0])
	if err != nil {
		return nil, calpe.Errorf(calpe.CodeInvalidRequest, "It can't be the code of a document: %v.", err)
	}
	found, err := s.cfg.Finder.FindByCode(ctx, code)
	if calpe.ErrorCode(err) == calpe.CodeNotFound {
		return nil, nil
	}
	return []calpe.Found{found}, err
}

func (s *Server) describeFound(ctx context.Context, f calpe.Found, marks calpe.Watermarks) (foundAnswer, error) {
	state, ok := marks.State(f.Index)
	if !ok {
		return foundAnswer{}, unavailable("The document's entry isn't in the log; an operator has to look.", calpe.ErrNotDense)
	}
	answer := foundAnswer{Index: f.Index, State: state, Received: f.Received.UTC().Truncate(time.Second), CertifiedBy: f.Agency}
	anchor, stamp, err := s.issuer.best(ctx, f.Index)
	if err != nil {
		return foundAnswer{}, err
	}
	switch {
	case anchor != nil:
		answer.Anchor = &foundAnchor{Height: anchor.Height, Block: anchor.Block, Time: blockTime(anchor.Header), TxID: anchor.TxID}
	case stamp != nil && stamp.Checked():
		answer.Anchor = &foundAnchor{Height: stamp.Height, Block: stamp.Block, Time: blockTime(stamp.Header)}
	}
	return answer, nil
}
