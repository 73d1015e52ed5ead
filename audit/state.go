package audit

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt"
)

const (
	checkpointPath = "checkpoint"
	progressPath   = "progress.json"
	// maxObject bounds whatever is read: four times the largest bundle, and more
	// than a note may have.
	maxObject = 64 << 10
)

// seenPath is where a checkpoint is kept that held.
func seenPath(size uint64) string { return fmt.Sprintf("checkpoints/%013d", size) }

// conflictPath is where a checkpoint is kept that contradicts another.
func conflictPath(size uint64, root calpe.Hash) string {
	return fmt.Sprintf("conflicts/%013d-%v", size, root)
}

// kept is what earlier runs have left in the mirror.
type kept struct {
	checkpoint tree // the newest that held; all of its tiles and bundles are there
	progress   tree // of a run that was interrupted: as much of target as was checked
	target     tree
}

// progress is the file of an unfinished run. Its tree is a checked beginning of
// the tree of the checkpoint.
type progress struct {
	Size       uint64     `json:"size"`
	Root       calpe.Hash `json:"root"`
	Checkpoint string     `json:"checkpoint"` // the note
}

// load reads what earlier runs have left.
func (r *run) load(ctx context.Context) (k kept, err error) {
	k.checkpoint.root = merkle.EmptyRoot()
	note, err := r.mirror.Read(ctx, checkpointPath, maxObject)
	if err == nil {
		k.checkpoint, err = r.open(note)
	}
	if err != nil && !errors.Is(err, calpe.ErrNotFound) {
		return kept{}, fmt.Errorf("the mirror's checkpoint: %w", err)
	}
	text, err := r.mirror.Read(ctx, progressPath, maxObject)
	if errors.Is(err, calpe.ErrNotFound) {
		return k, nil
	}
	if err != nil {
		return kept{}, fmt.Errorf("the mirror's %s: %w", progressPath, err)
	}
	if k.progress, k.target, err = r.parseProgress(text); err != nil {
		return kept{}, fmt.Errorf("the mirror's %s, which may be removed: %w", progressPath, err)
	}
	return k, nil
}

// open reads a note of the mirror.
func (r *run) open(note []byte) (tree, error) {
	cp, err := receipt.OpenCheckpoint(note, r.cfg.Identity)
	if err != nil {
		return tree{}, fmt.Errorf("is it the mirror of another log? %w", err)
	}
	return tree{cp.Size, cp.Root, note}, nil
}

func (r *run) parseProgress(text []byte) (done, target tree, err error) {
	var p progress
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&p); err != nil {
		return tree{}, tree{}, err
	}
	if target, err = r.open([]byte(p.Checkpoint)); err != nil {
		return tree{}, tree{}, err
	}
	if p.Size == 0 || p.Size > target.size {
		return tree{}, tree{}, fmt.Errorf("size %d isn't within the %d entries of its checkpoint", p.Size, target.size)
	}
	return tree{p.Size, p.Root, target.note}, target, nil
}

// saveProgress lets the next run go on from done.
func (r *run) saveProgress(ctx context.Context, done, target tree) error {
	text, err := json.Marshal(progress{done.size, done.root, string(target.note)})
	if err != nil {
		return err
	}
	// Crash here: tiles that nothing names; the next run writes them again.
	if err := r.writeNow(ctx, progressPath, text); err != nil {
		return err
	}
	// Crash here: the next run goes on from done.
	return nil
}

// commit makes a checkpoint the mirror's, now that everything that it covers has
// been checked and is there.
func (r *run) commit(ctx context.Context, before, now tree) error {
	note, err := r.mirror.Read(ctx, checkpointPath, maxObject)
	if err != nil && !errors.Is(err, calpe.ErrNotFound) {
		return fmt.Errorf("the mirror's checkpoint: %w", err)
	}
	if !bytes.Equal(note, before.note) {
		return errors.New("the mirror's checkpoint was replaced meanwhile: only one audit at a time may use a mirror")
	}
	if err := r.writeNow(ctx, seenPath(now.size), now.note); err != nil {
		return err
	}
	// Crash here: the mirror is that of the former checkpoint, and the next run
	// goes on from there, or from the last step.
	if err := r.writeNow(ctx, checkpointPath, now.note); err != nil {
		return err
	}
	// Crash here: progress and partial tiles are left that nothing needs any more.
	if err := r.mirror.Remove(ctx, progressPath); err != nil {
		return fmt.Errorf("mirror: %w", err)
	}
	for _, size := range r.stale {
		if err := r.removePartial(ctx, size, now.size); err != nil {
			return err
		}
	}
	return nil
}

// writeNow writes an object that names what was written before: first that, then
// the object is durable.
func (r *run) writeNow(ctx context.Context, path string, data []byte) error {
	err := r.mirror.Sync(ctx)
	if err == nil {
		err = r.mirror.Write(ctx, path, data)
	}
	if err == nil {
		err = r.mirror.Sync(ctx)
	}
	if err != nil {
		return fmt.Errorf("mirror: %w", err)
	}
	return nil
}

// removePartial takes away the partial tiles and bundles of the log of a size,
// but not those that a log of one of the other sizes has, too.
func (r *run) removePartial(ctx context.Context, size uint64, others ...uint64) error {
	needed := make(map[string]bool)
	for _, other := range others {
		for _, path := range partial(other) {
			needed[path] = true
		}
	}
	for _, path := range partial(size) {
		if needed[path] {
			continue
		}
		if err := r.mirror.Remove(ctx, path); err != nil {
			return fmt.Errorf("mirror: %w", err)
		}
	}
	return nil
}

// partial are the paths of the partial tiles and of the partial bundle of a log.
func partial(size uint64) (paths []string) {
	if width := int(size % merkle.TileWidth); width > 0 {
		paths = append(paths, merkle.EntryBundlePath(size/merkle.TileWidth, width))
	}
	for _, t := range partialTiles(size) {
		paths = append(paths, t.Path())
	}
	return paths
}

func partialTiles(size uint64) (tiles []merkle.Tile) {
	for level := uint8(0); size > 0; level, size = level+1, size/merkle.TileWidth {
		if width := int(size % merkle.TileWidth); width > 0 {
			tiles = append(tiles, merkle.Tile{Level: level, Index: size / merkle.TileWidth, Width: width})
		}
	}
	return tiles
}

func damagedMirror(size uint64, err error) error {
	return fmt.Errorf("the mirror of %d entries is damaged; move it away to start anew: %w", size, err)
}

// edgeOnly is a mirror in memory that keeps no more than what is needed to append
// to the log: its partial tiles.
type edgeOnly struct {
	mu      sync.Mutex
	objects map[string][]byte
}

func newEdgeOnly() *edgeOnly { return &edgeOnly{objects: make(map[string][]byte)} }

func (m *edgeOnly) Read(_ context.Context, path string, _ int64) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	data, ok := m.objects[path]
	if !ok {
		return nil, fmt.Errorf("%s: %w", path, calpe.ErrNotFound)
	}
	return data, nil
}

func (m *edgeOnly) Write(_ context.Context, path string, data []byte) error {
	if !strings.Contains(path, ".p/") {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.objects[path] = bytes.Clone(data)
	return nil
}

func (m *edgeOnly) Remove(_ context.Context, path string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.objects, path)
	return nil
}

func (m *edgeOnly) Sync(context.Context) error { return nil }
