package keyring

import (
	"bytes"
	"cmp"
	"crypto/cipher"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// Limits of a keyring file. They are far above any real one and keep a wrong
// path (a disk image, a log) from being read into memory.
const (
	maxFileSize = 1 << 20
	maxKeys     = 1000
	maxIDLength = 64
)

// file is the JSON text of a ring. The order of the keys is part of it: the
// first one is the root of all tags.
type file struct {
	Primary string    `json:"primary"`
	Keys    []fileKey `json:"keys"`
}

type fileKey struct {
	ID      string    `json:"id"`
	Created time.Time `json:"created"`
	Key     []byte    `json:"key"` // base64, KeySize bytes
}

// Create writes a new ring with one key to path, mode 0600, and returns when it
// is durable. It never overwrites: an existing file is an error for which
// errors.Is(err, fs.ErrExist) holds.
func Create(path string, now time.Time) error {
	key := newFileKey(now)
	data, err := encode(file{Primary: key.ID, Keys: []fileKey{key}})
	if err != nil {
		return fmt.Errorf("create keyring %s: %w", path, err)
	}
	// Crash here or below: the file is there in part or not at all. A part isn't
	// accepted by Load, and nothing was encrypted with it: remove it and start again.
	if err := writeNew(path, data); err != nil {
		return fmt.Errorf("create keyring: %w", err)
	}
	return nil
}

// Load reads a ring from path. The file must be readable by its owner alone, and
// must be exactly what [Create] and [Rotate] write: unknown, duplicate or
// missing members are an error that names them, and never shows a key.
func Load(path string) (*Ring, error) {
	f, err := readFile(path)
	if err != nil {
		return nil, fmt.Errorf("load keyring %s: %w", path, err)
	}
	ring, err := newRing(f)
	if err != nil {
		return nil, fmt.Errorf("load keyring %s: %w", path, err)
	}
	return ring, nil
}

// Rotate adds a fresh key to the ring at path and makes it the primary. All
// older keys stay, in their order. When it returns, the new file is durable; when
// it fails, the old one is untouched. Servers that run use the old primary until
// they load the file again, which is harmless.
//
// Two rotations at once would lose the key of one of them, with all that it
// wrapped meanwhile; so the new text is written to path + ".new", which may not
// exist before.
func Rotate(path string, now time.Time) error {
	if err := rotate(path, now); err != nil {
		return fmt.Errorf("rotate keyring %s: %w", path, err)
	}
	return nil
}

func rotate(path string, now time.Time) error {
	next := path + ".new"
	lock, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%s exists: another rotation is running, or one was interrupted; if none is running, remove that file, nothing was encrypted with it: %w", next, err)
	}
	if err != nil {
		return err
	}
	// Crash before the rename: path is as it was, next stays behind and blocks the
	// next rotation until someone has looked. Nobody has used its new key.
	if err := addKey(path, lock, now); err != nil {
		return errors.Join(err, lock.Close(), os.Remove(next))
	}
	if err := lock.Close(); err != nil {
		return errors.Join(err, os.Remove(next))
	}
	if err := os.Rename(next, path); err != nil {
		return errors.Join(err, os.Remove(next))
	}
	// Crash here: a power cut may bring either file back; both are complete, and
	// the caller was not told that the rotation is done.
	return syncDir(filepath.Dir(path))
}

// addKey writes the ring at path with one more key to next, durably.
func addKey(path string, next *os.File, now time.Time) error {
	f, err := readFile(path)
	if err != nil {
		return err
	}
	if _, err := newRing(f); err != nil {
		return err
	}
	if len(f.Keys) >= maxKeys {
		return fmt.Errorf("it has %d keys already, the limit is %d", len(f.Keys), maxKeys)
	}
	key := newFileKey(now)
	f.Keys = append(f.Keys, key)
	f.Primary = key.ID
	data, err := encode(f)
	if err != nil {
		return err
	}
	if err := keepOwner(path, next); err != nil {
		return err
	}
	if _, err := next.Write(data); err != nil {
		return err
	}
	return next.Sync()
}

// newFileKey draws a key. Its id is random and not derived from it.
func newFileKey(now time.Time) fileKey {
	key, id := make([]byte, KeySize), make([]byte, 8)
	rand.Read(key)
	rand.Read(id)
	return fileKey{ID: hex.EncodeToString(id), Created: now.UTC().Truncate(time.Second), Key: key}
}

func encode(f file) ([]byte, error) {
	data, err := json.Marshal(f, jsontext.WithIndent("  "))
	if err != nil {
		return nil, err
	}
	return append(data, '\n'), nil
}

// writeNew creates path, which must not exist, with data, and makes both the
// file and its directory entry durable.
func writeNew(path string, data []byte) (err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = cmp.Or(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	return syncDir(filepath.Dir(path))
}

// syncDir makes the names in a directory durable, which fsync of a file doesn't.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = d.Sync()
	return cmp.Or(err, d.Close())
}

func readFile(path string) (file, error) {
	f, err := os.Open(path)
	if err != nil {
		return file{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return file{}, err
	}
	if !info.Mode().IsRegular() {
		return file{}, fmt.Errorf("it is not a regular file but %s", info.Mode().Type())
	}
	if err := checkMode(info); err != nil {
		return file{}, err
	}
	data, err := io.ReadAll(io.LimitReader(f, maxFileSize+1))
	if err != nil {
		return file{}, err
	}
	return decode(data)
}

// decode parses the text of a ring, strictly. Errors of the JSON decoder name the
// place, not the value, so that no key gets into a log.
func decode(data []byte) (file, error) {
	if len(data) > maxFileSize {
		return file{}, fmt.Errorf("it has more than %d bytes", maxFileSize)
	}
	var f file
	if err := json.Unmarshal(data, &f, json.RejectUnknownMembers(true)); err != nil {
		return file{}, describe(err)
	}
	return f, nil
}

// describe keeps the position of a JSON error and leaves out the text that it
// quotes, which may be key material.
func describe(err error) error {
	if e, ok := errors.AsType[*jsontext.SyntacticError](err); ok {
		return fmt.Errorf("not strict JSON at byte %d, in %q", e.ByteOffset, e.JSONPointer)
	}
	if e, ok := errors.AsType[*json.SemanticError](err); ok {
		return fmt.Errorf("unexpected or malformed value at byte %d, in %q", e.ByteOffset, e.JSONPointer)
	}
	return errors.New("not strict JSON")
}

func newRing(f file) (*Ring, error) {
	if len(f.Keys) == 0 || len(f.Keys) > maxKeys {
		return nil, fmt.Errorf("it has %d keys, want 1 to %d", len(f.Keys), maxKeys)
	}
	ring := &Ring{primary: f.Primary, keys: make(map[string]cipher.AEAD, len(f.Keys))}
	for i, key := range f.Keys {
		if err := checkKey(key); err != nil {
			return nil, fmt.Errorf("keys[%d]: %w", i, err)
		}
		if _, twice := ring.keys[key.ID]; twice {
			return nil, fmt.Errorf("keys[%d]: id %q is there twice", i, key.ID)
		}
		aead, err := newAEAD([KeySize]byte(key.Key))
		if err != nil {
			return nil, fmt.Errorf("keys[%d]: %w", i, err)
		}
		ring.keys[key.ID] = aead
	}
	if _, ok := ring.keys[f.Primary]; !ok {
		return nil, fmt.Errorf("primary %.64q is not among the keys", f.Primary)
	}
	ring.tagRoot = [KeySize]byte(f.Keys[0].Key)
	return ring, nil
}

func checkKey(key fileKey) error {
	if key.ID == "" || len(key.ID) > maxIDLength {
		return fmt.Errorf("id has %d characters, want 1 to %d", len(key.ID), maxIDLength)
	}
	for i, c := range []byte(key.ID) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return fmt.Errorf("id has a character at %d that is not a-z, 0-9 or -", i)
		}
	}
	if key.Created.IsZero() {
		return errors.New("created is missing")
	}
	if len(key.Key) != KeySize {
		return fmt.Errorf("key has %d bytes, want %d", len(key.Key), KeySize)
	}
	if bytes.Equal(key.Key, make([]byte, KeySize)) {
		return errors.New("key is all zero bytes")
	}
	return nil
}
