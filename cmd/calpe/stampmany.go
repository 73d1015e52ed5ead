package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"unicode/utf8"

	"golang.org/x/sync/errgroup"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/statement"
)

// manifestName is the file that remembers an upload of many commitments until
// all of its receipts are durable. It lies in the folder with the receipts.
const manifestName = "calpe.stamp-pending.ndjson"

// manifestType is the member "type" of its first line.
const manifestType = "calpe/stamp-pending/v1"

// seedSize random bytes make all salts of an upload.
const seedSize = 32

// manifestHead is the first line of a manifest.
type manifestHead struct {
	Type   string `json:"type"`
	Server string `json:"server"`
	Key    string `json:"key"` // the Idempotency-Key
	// Seed of the salts. It is nowhere else until the receipts are written, and
	// without it the entries would be worth nothing.
	Seed   receipt.Hex  `json:"seed"`
	Count  uint64       `json:"count"`
	Source calpe.Digest `json:"source"` // of the list; zeros: a folder
}

// manifestItem is each further line: a commitment to be made.
type manifestItem struct {
	Digest  calpe.Digest `json:"digest"`
	Receipt string       `json:"receipt"` // where it goes, from the manifest's folder, with slashes
}

// manifest is an upload that was begun.
type manifest struct {
	manifestHead
	path  string
	fresh bool // begun by this run
}

// saltOf the i-th commitment, from 0. Who has one salt learns nothing of another.
func (m *manifest) saltOf(i uint64) (salt calpe.Salt) {
	mac := hmac.New(sha256.New, m.Seed)
	_ = binary.Write(mac, binary.BigEndian, i) // a hash takes everything
	copy(salt[:], mac.Sum(nil))
	return salt
}

// beginMany makes the manifest durable before anything is sent.
func beginMany(path string, head manifestHead, items func(yield func(manifestItem) error) error) (*manifest, error) {
	random := make([]byte, keySize+seedSize)
	_, _ = rand.Read(random) // never fails, see crypto/rand
	head.Type, head.Key, head.Seed = manifestType, hex.EncodeToString(random[:keySize]), random[keySize:]
	err := replaceFile(path, privateFile, func(w io.Writer) error {
		lines := bufio.NewWriterSize(w, 1<<20)
		enc := json.NewEncoder(lines)
		if err := enc.Encode(head); err != nil {
			return err
		}
		if err := items(func(item manifestItem) error { return enc.Encode(item) }); err != nil {
			return err
		}
		return lines.Flush()
	})
	// Crash here: nothing was sent; the next run makes this upload.
	return &manifest{head, path, true}, err
}

// resumeMany finds the manifest of an earlier run; nil if there is none.
func resumeMany(path string) (*manifest, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	m := &manifest{path: path}
	line, err := bufio.NewReader(io.LimitReader(f, 4096)).ReadBytes('\n')
	if err != nil || statement.Decode(line, &m.manifestHead) != nil || m.Type != manifestType || !isKey(m.Key) || len(m.Seed) != seedSize {
		return nil, fmt.Errorf("%s is not a file of this program: move it away", shown(path))
	}
	return m, nil
}

// end removes the manifest, once the receipts are durable.
func (m *manifest) end() error {
	if err := os.Remove(m.path); err != nil {
		return fmt.Errorf("the receipts are written, but the pending file stays: %w", err)
	}
	return nil
}

// itemReader reads a manifest's items.
type itemReader struct {
	file  *os.File
	lines *bufio.Scanner
	m     *manifest
	next  uint64 // the number of the next item
}

// read opens the manifest at an item.
func (m *manifest) read(from uint64) (*itemReader, error) {
	f, err := os.Open(m.path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errLocal, err)
	}
	r := &itemReader{file: f, lines: bufio.NewScanner(bufio.NewReaderSize(f, 1<<20)), m: m}
	r.lines.Buffer(make([]byte, 0, 4096), 64<<10)
	r.lines.Scan() // the head
	for r.next < from && r.lines.Scan() {
		r.next++
	}
	return r, nil
}

// stampItem is a commitment with all that its receipt needs.
type stampItem struct {
	manifestItem
	salt       calpe.Salt
	commitment calpe.Commitment
}

// item gives the next one.
func (r *itemReader) item() (stampItem, error) {
	var i stampItem
	if !r.lines.Scan() {
		return stampItem{}, fmt.Errorf("%w: %s: it ends before item %d of %d: %w", errLocal, shown(r.m.path), r.next, r.m.Count, cmp.Or(r.lines.Err(), io.ErrUnexpectedEOF))
	}
	if err := statement.Decode(r.lines.Bytes(), &i.manifestItem); err != nil {
		return stampItem{}, fmt.Errorf("%w: %s: item %d: %w", errLocal, shown(r.m.path), r.next, err)
	}
	if !filepath.IsLocal(filepath.FromSlash(i.Receipt)) {
		return stampItem{}, fmt.Errorf("%w: %s: item %d has its receipt outside of the folder", errLocal, shown(r.m.path), r.next)
	}
	i.salt = r.m.saltOf(r.next)
	i.commitment = calpe.Commit(i.Digest, i.salt)
	r.next++
	return i, nil
}

// many is an upload of many commitments.
type many struct {
	a      *app
	s      *service
	id     receipt.Identity
	folder string
	worst  int // of the files that can't be stamped
}

func (c *stampCommand) runMany(ctx context.Context, a *app) error {
	if c.Dir != "" && c.FromFile != "" || c.Digest != "" || len(c.Files) > 0 {
		return errors.New("give files, or one --digest, or one --dir, or one --from-file")
	}
	if c.Wait != 0 {
		return errors.New("--wait is for files and --digest: bring the receipts up to date later with \"calpe receipt\"")
	}
	if c.Output != "" && c.Dir != "" {
		return errors.New("--output is for --digest and --from-file: the receipts of --dir lie beside the files")
	}
	token, err := c.token()
	if err != nil {
		return err
	}
	s, err := c.open(a, token)
	if err != nil {
		return err
	}
	m := &many{a: a, s: s, folder: c.Dir}
	if m.id, err = c.identity(ctx, s); err != nil {
		return err
	}
	if c.Dir != "" {
		return m.run(ctx, calpe.Digest{}, m.walk)
	}
	if m.folder = c.Output; m.folder == "" {
		m.folder = c.FromFile + ".receipts"
	}
	if err := os.MkdirAll(m.folder, 0o700); err != nil {
		return err
	}
	source, err := a.hashInput(ctx, c.FromFile)
	if err != nil {
		return err
	}
	return m.run(ctx, source, func(ctx context.Context) ([]manifestItem, error) { return m.list(c.FromFile) })
}

// run goes on with the upload that was begun in the folder, or begins one.
func (m *many) run(ctx context.Context, source calpe.Digest, plan func(context.Context) ([]manifestItem, error)) error {
	path := filepath.Join(m.folder, manifestName)
	begun, err := resumeMany(path)
	if err != nil {
		return err
	}
	switch {
	case begun == nil:
		items, err := plan(ctx)
		if err != nil {
			return err
		}
		if len(items) == 0 {
			return m.done(0)
		}
		begun, err = beginMany(path, manifestHead{Server: m.s.base.String(), Count: uint64(len(items)), Source: source},
			func(yield func(manifestItem) error) error {
				for _, item := range items {
					if err := yield(item); err != nil {
						return err
					}
				}
				return nil
			})
		if err != nil {
			return err
		}
	case begun.Server != m.s.base.String():
		return fmt.Errorf("%s says that an upload was begun with another service, %s, and it may be in the log: finish that one, or move this file away to start anew", shown(path), begun.Server)
	case begun.Source != source:
		return fmt.Errorf("%s says that an upload of another list was begun, and it may be in the log: finish that one, or move this file away to start anew", shown(path))
	default:
		m.a.notice("%s: going on with the upload that was begun; what has been added since is for the next run", shown(path))
	}
	if err := m.upload(ctx, begun); err != nil {
		return err
	}
	return m.done(begun.Count)
}

func (m *many) done(n uint64) error {
	if _, err := fmt.Fprintf(m.a.Stdout, "%d stamped; receipts in %s\n", n, shown(m.folder)); err != nil {
		return err
	}
	if n > 0 {
		m.a.notice("\"calpe receipt\" brings the receipts up to date when the log has been anchored")
	}
	if m.worst != exitOK {
		return reported(m.worst)
	}
	return nil
}

// refuse says why one of the files can't be stamped; the others are.
func (m *many) refuse(name string, err error) {
	m.worst = worse(m.worst, m.a.fail(fmt.Errorf("%s: %w", shown(name), err)))
}

// isOurs tells what stamp and upload write beside documents.
func isOurs(name string) bool {
	for _, ending := range []string{receiptEnding, receiptEnding + ".former", pendingEnding, ".upload-pending.json"} {
		if strings.HasSuffix(name, ending) {
			return true
		}
	}
	return name == manifestName || strings.HasPrefix(name, ".calpe-") && strings.HasSuffix(name, ".tmp")
}

// walk hashes all files in the folder and those below, with all cores. What has
// a receipt is left out.
func (m *many) walk(ctx context.Context) ([]manifestItem, error) {
	var paths []string
	var total int64
	err := filepath.WalkDir(m.folder, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() || isOurs(entry.Name()):
			return context.Cause(ctx)
		case !entry.Type().IsRegular():
			m.a.notice("%s: it is not a regular file, and is left out", shown(path))
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		total += info.Size()
		paths = append(paths, path)
		return nil
	})
	if err != nil {
		return nil, err
	}
	bar := m.a.meter("hash", total)
	defer bar.done()
	digests, errs := make([]calpe.Digest, len(paths)), make([]error, len(paths))
	var hashing errgroup.Group
	hashing.SetLimit(runtime.GOMAXPROCS(0))
	for i, path := range paths {
		hashing.Go(func() error {
			digests[i], errs[i] = hashOne(ctx, path, bar)
			return nil
		})
	}
	_ = hashing.Wait() // each error is kept apart
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return m.items(paths, digests, errs)
}

func hashOne(ctx context.Context, path string, bar meter) (calpe.Digest, error) {
	f, _, err := openDocument(path)
	if err != nil {
		return calpe.Digest{}, err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, &meteredReader{ctx: ctx, r: f, meter: bar}); err != nil {
		return calpe.Digest{}, fmt.Errorf("read it: %w", err)
	}
	return calpe.Digest(h.Sum(nil)), nil
}

// items are the files that are to be stamped.
func (m *many) items(paths []string, digests []calpe.Digest, errs []error) ([]manifestItem, error) {
	var items []manifestItem
	for i, path := range paths {
		name, err := filepath.Rel(m.folder, path)
		if err != nil {
			return nil, err
		}
		item, there := manifestItem{digests[i], filepath.ToSlash(name) + receiptEnding}, false
		if err = errs[i]; err == nil {
			there, err = m.has(item)
		}
		if err != nil {
			m.refuse(path, err)
		} else if !there {
			items = append(items, item)
		}
	}
	return items, nil
}

const (
	receiptEnding = ".receipt.json"
	pendingEnding = ".stamp-pending.json"
)

// has reports whether there is the receipt of an earlier run. It is an error if
// that is of another document or log, which would be lost, or if the file was
// begun by itself and may be in the log.
func (m *many) has(item manifestItem) (bool, error) {
	if !utf8.ValidString(item.Receipt) {
		return false, errors.New("its name is not UTF-8: stamp it by itself")
	}
	f := &receiptFile{path: filepath.Join(m.folder, filepath.FromSlash(item.Receipt)), id: m.id}
	pendingPath := strings.TrimSuffix(f.path, receiptEnding) + pendingEnding
	there, err := f.resume(item.Digest, nil, pendingPath)
	if there || err != nil {
		return there, err
	}
	begun, err := exists(pendingPath)
	if err == nil && begun {
		err = fmt.Errorf("%s says that it was begun by itself: finish that first, with \"calpe stamp\" and its name", shown(pendingPath))
	}
	return false, err
}

// list reads digests: 64 hexadecimal digits a line, or 32 bytes each. A file is
// taken for lines if it begins as one.
func (m *many) list(path string) ([]manifestItem, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<20)
	head, err := r.Peek(2*calpe.HashSize + 1)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	next := packedDigests(r)
	if isHexLine(head) {
		next = hexDigests(r)
	}
	var items []manifestItem
	for n := 1; ; n++ {
		digest, err := next()
		if errors.Is(err, io.EOF) {
			return items, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: digest %d: %w", shown(path), n, err)
		}
		item := manifestItem{digest, digest.String() + receiptEnding}
		if there, err := m.has(item); err != nil {
			m.refuse(digest.String(), err)
		} else if !there {
			items = append(items, item)
		}
	}
}

func isHexLine(head []byte) bool {
	line, _, _ := bytes.Cut(head, []byte("\n"))
	_, err := calpe.ParseDigest(strings.TrimSuffix(string(line), "\r"))
	return err == nil
}

func hexDigests(r *bufio.Reader) func() (calpe.Digest, error) {
	lines := bufio.NewScanner(r)
	lines.Buffer(make([]byte, 0, 256), 256)
	return func() (calpe.Digest, error) {
		if !lines.Scan() {
			if err := lines.Err(); err != nil {
				return calpe.Digest{}, err
			}
			return calpe.Digest{}, io.EOF
		}
		return calpe.ParseDigest(lines.Text())
	}
}

func packedDigests(r io.Reader) func() (calpe.Digest, error) {
	return func() (d calpe.Digest, err error) {
		_, err = io.ReadFull(r, d[:])
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = errors.New("the file is neither lines of 64 hexadecimal digits nor 32 bytes for each digest")
		}
		return d, err
	}
}

// keep writes the receipts of a group, several at a time. They are durable when
// it returns.
func (m *many) keep(receipts []receipt.Receipt, items []stampItem) error {
	var writing errgroup.Group
	writing.SetLimit(8 * runtime.GOMAXPROCS(0)) // they wait for the disk
	var mu sync.Mutex
	folders := map[string]bool{}
	for i, item := range items {
		path := filepath.Join(m.folder, filepath.FromSlash(item.Receipt))
		writing.Go(func() error {
			mu.Lock()
			folders[filepath.Dir(path)] = true
			mu.Unlock()
			if there, err := exists(path); there || err != nil {
				return err // written by a run before this one, never by half; its name may not be durable yet
			}
			data, err := receipts[i].Encode()
			if err != nil {
				return err
			}
			return putFile(path, privateFile, func(w io.Writer) error { _, err := w.Write(data); return err })
		})
	}
	if err := writing.Wait(); err != nil {
		return fmt.Errorf("%w: %w", errLocal, err)
	}
	for folder := range folders {
		if err := syncFolder(folder); err != nil {
			return fmt.Errorf("%w: %w", errLocal, err)
		}
	}
	return nil
}
