package ots

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/calpe/calpe"
)

const (
	magic   = "\x00OpenTimestamps\x00\x00Proof\x00\xbf\x89\xe2\xe8\x84\xe8\x92\x94"
	version = 1

	// MaxFile is the largest file in bytes: magic, version, hash and digest before
	// the timestamp.
	MaxFile = len(magic) + 1 + 1 + calpe.HashSize + MaxSize
)

var (
	// ErrOtherDocument says that files about two documents can't be merged.
	ErrOtherDocument = errors.New("the files are about different documents, or hash them differently")

	errNotOTS = errors.New("this is not an OpenTimestamps file")
)

// DetachedFile is a .ots file: the timestamp of a document's digest, detached
// from the document. It is made by [NewDetachedFile], [FromReceipt] or [Parse].
type DetachedFile struct {
	hash      Tag
	timestamp Timestamp
}

// NewDetachedFile says that the message of the timestamp is the digest of a
// document by a hash.
func NewDetachedFile(hash Tag, t Timestamp) (DetachedFile, error) {
	h := hash.NewHash()
	if h == nil {
		return DetachedFile{}, fmt.Errorf("make OpenTimestamps file: %s is not a hash", hash)
	}
	if len(t.message) != h.Size() {
		return DetachedFile{}, fmt.Errorf("make OpenTimestamps file: digest has %d bytes, want the %d of %s", len(t.message), h.Size(), hash)
	}
	if t.root == nil {
		return DetachedFile{}, fmt.Errorf("make OpenTimestamps file: %w", errNoTimestamp)
	}
	return DetachedFile{hash, t}, nil
}

// IsFile reports whether data begins as every .ots file does, and nothing else.
func IsFile(data []byte) bool {
	return strings.HasPrefix(string(data[:min(len(data), len(magic))]), magic)
}

// Parse reads a file of at most [MaxFile] bytes. Nothing may follow it. An
// unknown operation is an error, as what it makes isn't known; an unknown
// attestation is kept. The error names the place. What is read is well formed,
// and proves nothing: see [Verify].
func Parse(data []byte) (DetachedFile, error) {
	if len(data) > MaxFile {
		return DetachedFile{}, fmt.Errorf("read OpenTimestamps file: %d bytes, more than %d", len(data), MaxFile)
	}
	f, err := parse(string(data))
	if err != nil {
		return DetachedFile{}, fmt.Errorf("read OpenTimestamps file: %w", err)
	}
	return f, nil
}

func parse(data string) (DetachedFile, error) {
	rest, ok := strings.CutPrefix(data, magic)
	if !ok {
		return DetachedFile{}, errNotOTS
	}
	d := decoder{data: data, at: len(data) - len(rest)}
	if v := d.varuint(); d.err == nil && v != version {
		return DetachedFile{}, fmt.Errorf("version is %d, want %d", v, version)
	}
	at := d.at
	hash := Tag(d.byte())
	h := hash.NewHash()
	if d.err == nil && h == nil {
		d.fail(at, fmt.Errorf("%s is not a hash of documents", hash))
	}
	if d.err != nil {
		return DetachedFile{}, d.err
	}
	t, err := d.timestamp(d.take(h.Size()))
	return DetachedFile{hash, t}, err
}

// Hash is the hash function by which the document has its digest.
func (f DetachedFile) Hash() Tag { return f.hash }

// Digest is a copy of the document's digest.
func (f DetachedFile) Digest() []byte { return f.timestamp.Message() }

// Timestamp is the timestamp of the digest.
func (f DetachedFile) Timestamp() Timestamp { return f.timestamp }

// Serialize writes the file, with the bytes that the reference writes. The only
// error is that of the zero value.
func (f DetachedFile) Serialize() ([]byte, error) {
	if f.timestamp.root == nil {
		return nil, fmt.Errorf("write OpenTimestamps file: %w", errNoTimestamp)
	}
	b := append([]byte(magic), version, byte(f.hash))
	b = append(b, f.timestamp.message...)
	return f.timestamp.root.appendTo(b), nil
}

// Merge returns all that either file says. An error has [ErrOtherDocument] in
// its chain if they have another digest or hash.
func (f DetachedFile) Merge(g DetachedFile) (DetachedFile, error) {
	if f.hash != g.hash || f.timestamp.message != g.timestamp.message {
		return DetachedFile{}, fmt.Errorf("merge OpenTimestamps files: %w", ErrOtherDocument)
	}
	t, err := f.timestamp.Merge(g.timestamp)
	return DetachedFile{f.hash, t}, err
}

// Upgrade is [Timestamp.Upgrade] of the file's timestamp.
func (f DetachedFile) Upgrade(answer Timestamp) (DetachedFile, error) {
	t, err := f.timestamp.Upgrade(answer)
	return DetachedFile{f.hash, t}, err
}

// WriteText writes the file for people: the digest, then each operation and
// attestation in a line of printable ASCII. Where the way forks, each branch
// starts with "->" and is indented.
func (f DetachedFile) WriteText(w io.Writer) error {
	b := bufio.NewWriter(w)
	fmt.Fprintf(b, "%s %x\n", f.hash, f.timestamp.message)
	if f.timestamp.root != nil {
		f.timestamp.root.writeText(b, "")
	}
	return b.Flush()
}

func (n *node) writeText(w io.Writer, indent string) {
	for _, a := range n.attestations {
		fmt.Fprintf(w, "%s%s\n", indent, a)
	}
	if len(n.steps) == 1 {
		fmt.Fprintf(w, "%s%s\n", indent, n.steps[0].op)
		n.steps[0].next.writeText(w, indent)
		return
	}
	for _, s := range n.steps {
		fmt.Fprintf(w, "%s-> %s\n", indent, s.op)
		s.next.writeText(w, indent+"   ")
	}
}
