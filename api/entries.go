package api

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	"github.com/go-chi/chi/v5"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt"
)

// entryAnswer is what the public may know of an entry: the same members as in a
// receipt, without digest and salt.
type entryAnswer struct {
	Index      uint64             `json:"index"`
	Commitment calpe.Commitment   `json:"commitment"`
	State      calpe.State        `json:"state"`
	Checkpoint string             `json:"checkpoint,omitempty"`
	Path       *receipt.Path      `json:"path,omitempty"`
	Anchor     *receipt.Anchor    `json:"anchor,omitempty"`
	Timestamp  *receipt.Timestamp `json:"timestamp,omitempty"`
}

// getEntry proves an entry in the tree of its best anchor, or with ?size in the
// checkpoint of just that size, so that a client can bring several entries into
// one tree.
func (s *Server) getEntry(w http.ResponseWriter, r *http.Request) error {
	index, err := plainNumber(chi.URLParam(r, "index"))
	if err != nil {
		return calpe.Errorf(calpe.CodeInvalidRequest, "The index must be a decimal number without sign and leading zero.")
	}
	marks, err := s.cfg.Watermarks.Watermarks(r.Context())
	if err != nil {
		return unavailable("The state of the log can't be read at the moment.", err)
	}
	state, ok := marks.State(index)
	if !ok {
		return calpe.Errorf(calpe.CodeNotFound, "The log has no entry %d.", index)
	}
	entry, err := s.cfg.Entries.Entry(r.Context(), index)
	if err != nil {
		return unavailable("The entry can't be read at the moment.", err)
	}
	t, err := s.treeAsked(r.Context(), r.URL.Query().Get("size"), index)
	if err != nil {
		return err
	}
	answer := entryAnswer{Index: index, Commitment: entry.Commitment, State: state}
	if t.checkpoint != nil {
		path, err := s.issuer.path(r.Context(), entry, t)
		if err != nil {
			return err
		}
		answer.Checkpoint, answer.Path = string(t.checkpoint.Note), (*receipt.Path)(&path)
	}
	if t.anchor != nil {
		answer.Anchor = receipt.NewAnchor(s.cfg.Identity, *t.anchor)
	}
	if t.timestamp != nil {
		answer.Timestamp = receipt.NewTimestamp(s.cfg.Identity, *t.timestamp)
	}
	return writeJSON(w, http.StatusOK, answer)
}

func (s *Server) treeAsked(ctx context.Context, size string, index uint64) (tree, error) {
	if size == "" {
		return s.issuer.treeFor(ctx, index)
	}
	n, err := plainNumber(size)
	if err != nil || n <= index {
		return tree{}, calpe.Errorf(calpe.CodeInvalidRequest, "size must be a decimal number above the index.")
	}
	return s.issuer.treeOf(ctx, n)
}

// plainNumber reads a number that has one spelling.
func plainNumber(text string) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 40)
	if err == nil && strconv.FormatUint(n, 10) != text {
		err = strconv.ErrSyntax
	}
	return n, err
}

// LogObjects reads the objects of the public log.
type LogObjects interface {
	// ReadLogObject gives the object, or [calpe.ErrNotFound]; one larger than
	// maxBytes is an error.
	ReadLogObject(ctx context.Context, path string, maxBytes int64) ([]byte, error)
}

// getCheckpoint serves the newest checkpoint from its row: a leader that was
// paused may write objects late, but its row is refused.
func (s *Server) getCheckpoint(w http.ResponseWriter, r *http.Request) error {
	cp, err := s.cfg.Entries.CheckpointHead(r.Context())
	if errors.Is(err, calpe.ErrNotFound) {
		return calpe.Errorf(calpe.CodeNotYet, "There is no checkpoint yet.")
	}
	if err != nil {
		return unavailable("The newest checkpoint can't be read at the moment.", err)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache")
	_, _ = w.Write(cp.Note)
	return nil
}
