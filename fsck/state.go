package fsck

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/calpe/calpe"
)

const stateType = "calpe/fsck-state/v1"

// maxState bounds what is read of a state file: findings, and an edge of 40 KiB.
const maxState = 64 << 20

// saveEvery is how much work a killed run loses at most.
const saveEvery = time.Second

// state is how far a run is. It is written at the end of a page, with what was
// found up to there, so that a run that is killed loses and doubles nothing.
type state struct {
	Type  string     `json:"type"`
	Log   calpe.Hash `json:"log"` // identity
	Deep  bool       `json:"deep"`
	Since time.Time  `json:"since"`

	Started time.Time `json:"started"`
	Resumed int       `json:"resumed"`
	Phase   int       `json:"phase"` // number of the phase that isn't done
	After   cursor    `json:"after"` // within it
	Edge    edge      `json:"edge"`  // of the tree over the entries that were checked
	Forked  bool      `json:"forked,omitempty"`
	// Altered are the entries, from one up to another, whose rows aren't what was sealed.
	Altered [][2]uint64 `json:"altered,omitempty"`

	Findings  []Finding         `json:"findings"`
	More      int               `json:"more,omitempty"`
	Notes     []string          `json:"notes,omitempty"`
	Unchecked []string          `json:"unchecked,omitempty"`
	Counts    map[string]uint64 `json:"counts"`
}

// cursor is the place in a phase up to which all was looked at. Each phase uses
// one of its fields.
type cursor struct {
	Index  uint64         `json:"index,omitempty"`  // of the next entry
	Part   int            `json:"part,omitempty"`   // of a phase that has several
	Name   string         `json:"name,omitempty"`   // of an object, or an owner
	Key    calpe.Hash     `json:"key,omitzero"`     // with the owner
	Coin   calpe.Outpoint `json:"coin,omitzero"`    //
	Height uint32         `json:"height,omitempty"` // of the next block
	Block  []byte         `json:"block,omitempty"`  // hash of the one before
}

// edge is the right edge of a tree: see merkle.LoadEdge.
type edge struct {
	Size  uint64           `json:"size"`
	Root  calpe.Hash       `json:"root"`
	Tiles map[uint8][]byte `json:"tiles,omitempty"` // the partial tile of each level
}

// altered reports whether the row of an entry was found not to be what was sealed:
// then whatever commits to it differs, too, and isn't named again.
func (s *state) altered(index uint64) bool {
	return slices.ContainsFunc(s.Altered, func(span [2]uint64) bool { return span[0] <= index && index < span[1] })
}

func (s *state) count(what string, n int) {
	s.Counts[what] += uint64(n)
}

// loadState reads the file, or begins anew if there is none.
func loadState(cfg Config) (*state, error) {
	fresh := &state{
		Type: stateType, Log: cfg.Identity.Hash(), Deep: cfg.Deep, Since: cfg.Since,
		Started: cfg.Now().UTC(), Counts: map[string]uint64{},
	}
	if cfg.State == "" {
		return fresh, nil
	}
	f, err := os.Open(cfg.State)
	if errors.Is(err, fs.ErrNotExist) {
		return fresh, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read state: %w", err)
	}
	if info.Size() > maxState {
		return nil, fmt.Errorf("%s has %d bytes: it is no state of fsck", cfg.State, info.Size())
	}
	s := &state{}
	d := json.NewDecoder(f)
	d.DisallowUnknownFields()
	if err := d.Decode(s); err != nil || s.Type != stateType {
		return nil, fmt.Errorf("%s is no state of fsck (%w): remove it, and the check begins anew", cfg.State, errors.Join(err, errOtherState))
	}
	if s.Log != fresh.Log || s.Deep != cfg.Deep || !s.Since.Equal(cfg.Since) {
		return nil, fmt.Errorf("%s is of another check (another log, --deep or --since): give the same, or remove it, and the check begins anew", cfg.State)
	}
	if s.Phase < 0 || s.After.Part < 0 {
		return nil, fmt.Errorf("%s is no state of fsck: it is at a place that there isn't; remove it, and the check begins anew", cfg.State)
	}
	if s.Counts == nil {
		s.Counts = map[string]uint64{}
	}
	// The chain is asked in every run.
	s.Unchecked = slices.DeleteFunc(s.Unchecked, func(text string) bool { return strings.HasPrefix(text, uncheckedChain) })
	s.Resumed++
	return s, nil
}

var errOtherState = errors.New("not its format")

// save writes the state, at once or if it is time.
func (r *run) save(must bool) error {
	if r.State == "" || !must && time.Since(r.saved) < saveEvery {
		return nil
	}
	data, err := json.Marshal(r.state)
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	// Crash here: the file of before is whole.
	temporary := r.State + ".new"
	if err := writeSynced(temporary, data); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	if err := os.Rename(temporary, r.State); err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	r.saved = time.Now()
	return syncFolder(filepath.Dir(r.State))
}

func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

func syncFolder(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("write state: %w", err)
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// finish removes the state of a run that has come to the end.
func (r *run) finish() error {
	if r.State == "" {
		return nil
	}
	if err := os.Remove(r.State); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove state: %w", err)
	}
	return nil
}
