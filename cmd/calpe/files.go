package main

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt"
)

// The modes of files that are written anew. A receipt tells what a document is,
// to whoever can guess it; block headers are for everybody.
const (
	privateFile fs.FileMode = 0o600
	publicFile  fs.FileMode = 0o644
)

// replaceFile writes a file so that at every moment there is either the former
// one or the whole new one, also after a crash. It is durable when it returns.
// The mode is for a new file: one that is replaced keeps its own.
func replaceFile(path string, mode fs.FileMode, write func(io.Writer) error) error {
	if err := putFile(path, mode, write); err != nil {
		return err
	}
	// Crash here: the new file is there whole; whether its name is durable is the next line's matter.
	if err := syncFolder(filepath.Dir(path)); err != nil {
		return fmt.Errorf("write %s: %w", shown(path), err)
	}
	return nil
}

// putFile is replaceFile without making the name durable: for many files in one
// folder, see syncFolder.
func putFile(path string, mode fs.FileMode, write func(io.Writer) error) (err error) {
	if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() {
		mode = info.Mode().Perm()
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".calpe-*.tmp")
	if err != nil {
		return fmt.Errorf("write %s: %w", shown(path), err)
	}
	// Crash here, or anywhere before the rename: a .calpe-*.tmp is left behind, and the former file is as it was.
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // err says more
			err = fmt.Errorf("write %s: %w", shown(path), err)
		}
	}()
	if err = f.Chmod(mode); err != nil {
		return errors.Join(err, f.Close())
	}
	if err = finish(f, write); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

func finish(f *os.File, write func(io.Writer) error) error {
	err := write(f)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// createFile writes a file that must not exist yet, readable by its owner only.
// It is durable when it returns, and not there after an error.
func createFile(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, privateFile)
	if err != nil {
		return fmt.Errorf("create file: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("create file: %w", err)
	}
	// Crash here: an empty file is left, which its reader refuses.
	err = replaceFile(path, privateFile, func(w io.Writer) error { _, err := w.Write(data); return err })
	if err != nil {
		_ = os.Remove(path) // err says more
	}
	return err
}

// syncFolder makes the names in a folder durable. Windows has no such call.
func syncFolder(path string) error {
	if runtime.GOOS == "windows" {
		return nil
	}
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// readFile reads a file that may have up to limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readLimited(f, path, limit)
}

func readLimited(r io.Reader, name string, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", shown(name), err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s has more than the %d bytes that such a file may have", shown(name), limit)
	}
	return data, nil
}

// exists reports whether there is something at path.
func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// document is a file that is to be notarized.
type document struct {
	path   string
	size   int64
	digest calpe.Digest
}

// openDocument opens a file that can be read twice: a regular one that isn't empty.
func openDocument(path string) (*os.File, int64, error) {
	info, err := os.Stat(path) // before opening it: a FIFO would block
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() {
		return nil, 0, errors.New("it is not a regular file")
	}
	if info.Size() == 0 {
		return nil, 0, errors.New("it is empty, and a document of no bytes can't be notarized")
	}
	f, err := os.Open(path)
	return f, info.Size(), err
}

// hashDocument reads a file once, as a stream. Its errors leave it to the caller
// to name the file.
func (a *app) hashDocument(ctx context.Context, path string) (document, error) {
	f, size, err := openDocument(path)
	if err != nil {
		return document{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := a.hash(ctx, h, f, "hash "+filepath.Base(path), size)
	if err != nil {
		return document{}, fmt.Errorf("read it: %w", err)
	}
	return document{path: path, size: n, digest: calpe.Digest(h.Sum(nil))}, nil
}

// hashInput is the digest of a file of any kind, or of Stdin if path is "-".
func (a *app) hashInput(ctx context.Context, path string) (calpe.Digest, error) {
	sum, err := a.hashInputBy(ctx, path, sha256.New())
	if err != nil {
		return calpe.Digest{}, err
	}
	return calpe.Digest(sum), nil
}

// hashInputBy is hashInput by another hash function.
func (a *app) hashInputBy(ctx context.Context, path string, h hash.Hash) ([]byte, error) {
	in, size := a.Stdin, int64(-1)
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
			size = info.Size()
		}
		in = f
	}
	if _, err := a.hash(ctx, h, in, "hash "+filepath.Base(path), size); err != nil {
		return nil, fmt.Errorf("read %s: %w", shown(path), err)
	}
	return h.Sum(nil), nil
}

func (a *app) hash(ctx context.Context, h hash.Hash, r io.Reader, label string, size int64) (int64, error) {
	meter := a.meter(label, size)
	defer meter.done()
	return io.Copy(h, &meteredReader{ctx: ctx, r: r, meter: meter})
}

func readReceipt(path string) (receipt.Receipt, error) {
	data, err := readFile(path, receipt.MaxSize)
	if err != nil {
		return receipt.Receipt{}, err
	}
	r, err := receipt.Decode(data)
	if err != nil && !claimsToBeReceipt(data) {
		return receipt.Receipt{}, unreadable(path, err)
	}
	if err != nil {
		return receipt.Receipt{}, fmt.Errorf("%w: %s: %w", errRefuted, shown(path), err)
	}
	return r, nil
}

func writeReceipt(path string, r receipt.Receipt) error {
	data, err := r.Encode()
	if err != nil {
		return err
	}
	return replaceFile(path, privateFile, func(w io.Writer) error { _, err := w.Write(data); return err })
}
