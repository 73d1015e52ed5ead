package api

import (
	"errors"
	"net/http"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
)

// maxTileObject is above the largest tile (256 hashes) and entry bundle (256
// entries behind their lengths).
const maxTileObject = 16 << 10

// getTile serves tiles and entry bundles of the newest checkpoint (C2SP
// tlog-tiles). What no checkpoint covers isn't there: a batch that isn't sealed
// may still be replaced.
func (s *Server) getTile(w http.ResponseWriter, r *http.Request) error {
	path := r.URL.Path[len("/log/"):]
	end, err := tileEnd(path)
	if err != nil {
		return calpe.Errorf(calpe.CodeNotFound, "This is not the path of a tile or of an entry bundle (C2SP tlog-tiles).")
	}
	head, err := s.cfg.Entries.CheckpointHead(r.Context())
	if errors.Is(err, calpe.ErrNotFound) || err == nil && end > head.Size {
		return calpe.Errorf(calpe.CodeNotFound, "No checkpoint covers this tile.")
	}
	if err != nil {
		return unavailable("The newest checkpoint can't be read at the moment.", err)
	}
	data, err := s.cfg.Objects.ReadLogObject(r.Context(), path, maxTileObject)
	if errors.Is(err, calpe.ErrNotFound) {
		return calpe.Errorf(calpe.CodeNotFound, "The log has no such tile.")
	}
	if err != nil {
		return unavailable("The tile can't be read at the moment.", err)
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	_, _ = w.Write(data)
	return nil
}

// tileEnd is the size that a log must have for the tile to be fixed.
func tileEnd(path string) (uint64, error) {
	if b, err := merkle.ParseEntryBundlePath(path); err == nil {
		return b.First() + uint64(b.Width), nil
	}
	t, err := merkle.ParseTilePath(path)
	if err != nil {
		return 0, err
	}
	hashes, each := t.Index*merkle.TileWidth+uint64(t.Width), merkle.TileHeight*uint(t.Level)
	if t.Index > calpe.MaxLogSize || each >= 40 || hashes > calpe.MaxLogSize>>each {
		return 0, errors.New("no log is as large")
	}
	return hashes << each, nil
}
