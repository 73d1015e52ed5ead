package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/calpe/calpe"
)

// checkpointFile is what every log has from its first minute on.
const checkpointFile = "checkpoint"

// noLog is the error for an address, or a folder, without a checkpoint. Only the
// service itself can say that there is a log which has none yet.
func noLog(place string, err error) error {
	return fmt.Errorf("no log answers at %s: it has no file %q (a log that is just being made has one after its first entries): %w", shown(place), checkpointFile, err)
}

// httpLog is a public log behind an address.
type httpLog struct {
	s      *service
	prefix string
}

func newHTTPLog(s *service, prefix string) httpLog {
	var mu sync.Mutex
	notice := s.notice
	s.notice = func(format string, args ...any) { // several calls are under way at once
		mu.Lock()
		defer mu.Unlock()
		notice(format, args...)
	}
	return httpLog{s, prefix}
}

// Read implements audit.Log.
func (l httpLog) Read(ctx context.Context, path string, limit int64, fresh bool) ([]byte, error) {
	header := http.Header{"Accept": {"*/*"}}
	if fresh {
		header.Set("Cache-Control", "no-cache")
	}
	data, err := l.s.do(ctx, call{what: "read " + path, method: http.MethodGet, path: l.prefix + path, header: header, limit: limit})
	p, ok := errors.AsType[*problem](err)
	if ok && path == checkpointFile && p.Status == http.StatusNotFound && p.Code != calpe.CodeNotYet {
		return nil, noLog(l.s.base.JoinPath(l.prefix).Redacted(), err)
	}
	if ok && (p.Status == http.StatusNotFound || p.Status == http.StatusForbidden && path != checkpointFile) {
		// A bucket that may not be listed calls forbidden what it hasn't got.
		return nil, fmt.Errorf("%w: %w", calpe.ErrNotFound, err)
	}
	return data, err
}

// Close gives connections back.
func (l httpLog) Close() error {
	l.s.client.CloseIdleConnections()
	return nil
}

// folderLog is a public log in a folder.
type folderLog struct{ root *os.Root }

func openFolderLog(path string) (folderLog, error) {
	root, err := os.OpenRoot(path)
	return folderLog{root}, err
}

// Read implements audit.Log.
func (l folderLog) Read(_ context.Context, path string, limit int64, _ bool) ([]byte, error) {
	data, err := readObject(l.root, path, limit)
	if path == checkpointFile && errors.Is(err, fs.ErrNotExist) {
		return nil, noLog(l.root.Name(), errors.New("the folder doesn't have it"))
	}
	return data, err
}

// Close implements io.Closer.
func (l folderLog) Close() error { return l.root.Close() }

func readObject(root *os.Root, path string, limit int64) ([]byte, error) {
	f, err := root.Open(filepath.FromSlash(path))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", calpe.ErrNotFound, err)
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readLimited(f, path, limit)
}

// folderMirror is an audit.Mirror in a folder. Everything is durable as soon as
// it is written.
type folderMirror struct {
	path string
	root *os.Root
	mu   sync.Mutex // while folders are made
}

func openMirror(path string) (*folderMirror, error) {
	if err := os.MkdirAll(path, 0o755); err != nil { //nolint:gosec // a log is public
		return nil, fmt.Errorf("mirror: %w", err)
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("mirror: %w", err)
	}
	return &folderMirror{path: path, root: root}, nil
}

// Read implements audit.Mirror.
func (m *folderMirror) Read(_ context.Context, path string, limit int64) ([]byte, error) {
	return readObject(m.root, path, limit)
}

// Write implements audit.Mirror.
func (m *folderMirror) Write(ctx context.Context, path string, data []byte) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	name := filepath.Join(m.path, filepath.FromSlash(path))
	if err := m.makeFolder(filepath.Dir(name)); err != nil {
		return err
	}
	return replaceFile(name, publicFile, func(w io.Writer) error { _, err := w.Write(data); return err })
}

// makeFolder makes a folder within the mirror, and its name durable.
func (m *folderMirror) makeFolder(path string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var missing []string
	for p := path; ; p = filepath.Dir(p) {
		there, err := exists(p)
		if err != nil {
			return err
		}
		if there { // the mirror itself is
			break
		}
		missing = append(missing, p)
	}
	if err := os.MkdirAll(path, 0o755); err != nil { //nolint:gosec // a log is public
		return err
	}
	for _, p := range missing {
		if err := syncFolder(filepath.Dir(p)); err != nil {
			return err
		}
	}
	return nil
}

// Remove implements audit.Mirror. A folder of partial tiles that has become empty
// goes, too.
func (m *folderMirror) Remove(_ context.Context, path string) error {
	err := m.root.Remove(filepath.FromSlash(path))
	if folder, _, ok := strings.Cut(path, ".p/"); ok && err == nil {
		_ = m.root.Remove(filepath.FromSlash(folder + ".p")) // unless there is another one in it
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Sync implements audit.Mirror.
func (*folderMirror) Sync(context.Context) error { return nil }
