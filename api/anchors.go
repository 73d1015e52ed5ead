package api

import (
	"context"
	"encoding/binary"
	"errors"
	"math"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/batch"
	"github.com/calpe/calpe/receipt"
)

// anchorSummary is an anchor in a list.
type anchorSummary struct {
	TxID          calpe.BlockHash `json:"txid"`
	Size          uint64          `json:"size"`
	Root          calpe.Hash      `json:"root"`
	Block         calpe.BlockHash `json:"block"`
	Height        uint32          `json:"height"`
	Time          time.Time       `json:"time"` // of the block, as its miner states it
	Confirmations uint32          `json:"confirmations"`
	State         calpe.State     `json:"state"`
}

func summarize(a calpe.Anchor) anchorSummary {
	state := calpe.Confirmed
	if a.Final {
		state = calpe.Final
	}
	return anchorSummary{
		TxID: a.TxID, Size: a.Size, Root: a.Root, Block: a.Block, Height: a.Height,
		Time: blockTime(a.Header), Confirmations: a.Depth, State: state,
	}
}

// blockTime is the time field of a block header: seconds since 1970, at byte 68.
func blockTime(header [calpe.HeaderSize]byte) time.Time {
	return time.Unix(int64(binary.LittleEndian.Uint32(header[68:])), 0).UTC()
}

type anchorsAnswer struct {
	Anchors []anchorSummary `json:"anchors"`
	Next    string          `json:"next,omitempty"`
}

const anchorCursor = 'a'

// getAnchors lists the anchors that are in blocks, the newest first.
func (s *Server) getAnchors(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	if err := known(query, "limit", "cursor"); err != nil {
		return err
	}
	p, err := readPage(query, anchorCursor, 8)
	if err != nil {
		return err
	}
	height, position := uint32(math.MaxUint32), uint32(math.MaxUint32)
	if p.cursor != nil {
		height, position = binary.BigEndian.Uint32(p.cursor), binary.BigEndian.Uint32(p.cursor[4:])
	}
	list, err := s.cfg.Anchors.Before(r.Context(), height, position, p.limit+1)
	if err != nil {
		return unavailable("The anchors can't be read at the moment.", err)
	}
	answer := anchorsAnswer{Anchors: make([]anchorSummary, 0, len(list))}
	if len(list) > p.limit {
		last := list[p.limit-1]
		at := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, last.Height), last.Position)
		answer.Next, list = nextPage(w, r, encodeCursor(anchorCursor, at)), list[:p.limit]
	}
	for _, a := range list {
		answer.Anchors = append(answer.Anchors, summarize(a))
	}
	return writeJSON(w, http.StatusOK, answer)
}

type anchorAnswer struct {
	anchorSummary
	Checkpoint string          `json:"checkpoint"` // the signed note of that size
	Anchor     *receipt.Anchor `json:"anchor"`     // as in a receipt
}

// getAnchor gives all that a verifier needs to get from a checkpoint to a block.
func (s *Server) getAnchor(w http.ResponseWriter, r *http.Request) error {
	txid, err := calpe.ParseBlockHash(chi.URLParam(r, "txid"))
	if err != nil {
		return calpe.Errorf(calpe.CodeInvalidRequest, "A transaction id has 64 lower-case hexadecimal digits.")
	}
	a, err := s.cfg.Anchors.ByTxID(r.Context(), txid)
	if errors.Is(err, calpe.ErrNotFound) {
		return calpe.Errorf(calpe.CodeNotFound, "No block holds an anchor with that transaction id.")
	}
	if err != nil {
		return unavailable("The anchors can't be read at the moment.", err)
	}
	t, err := s.issuer.anchoredTree(r.Context(), &a, nil)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, anchorAnswer{
		anchorSummary: summarize(a), Checkpoint: string(t.checkpoint.Note), Anchor: receipt.NewAnchor(s.cfg.Identity, a),
	})
}

// getAnchorPage serves a page of the chain of anchors, or its breaks, for those who
// audit it. It is computed from the rows, and so is never older than they are.
func (s *Server) getAnchorPage(w http.ResponseWriter, r *http.Request) error {
	data, err := s.anchorPage(r.Context(), r.URL.Path[len("/log/"):])
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", receipt.AnchorsMediaType)
	w.Header().Set("Cache-Control", "public, max-age=5") // a reorganisation may change it
	_, _ = w.Write(data)
	return nil
}

func (s *Server) anchorPage(ctx context.Context, path string) (data []byte, err error) {
	missing := "There are no anchors with such numbers yet."
	if path == receipt.BreaksPath {
		missing = "The chain of anchors has no break."
		data, err = batch.BreaksFile(ctx, s.cfg.Anchors, s.cfg.Identity)
	} else {
		page, errPath := receipt.ParseAnchorsPath(path)
		if errPath != nil {
			return nil, calpe.Errorf(calpe.CodeNotFound, "This is not the path of a page of anchors.")
		}
		data, err = batch.AnchorPage(ctx, s.cfg.Anchors, s.cfg.Identity, page)
	}
	switch {
	case err != nil:
		return nil, unavailable("The anchors can't be read at the moment.", err)
	case len(data) == 0:
		return nil, calpe.Errorf(calpe.CodeNotFound, "%s", missing)
	}
	return data, nil
}
