package calpe

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
)

// Sizes in bytes of the things the log is made of.
const (
	HashSize  = sha256.Size
	SaltSize  = 16
	EntrySize = 8 + HashSize
)

// Hash is a SHA-256 value that is neither a digest of a document nor a
// commitment: a leaf, a node, a root, a log identity.
// Its text form is 64 lower-case hexadecimal digits, in byte order.
type Hash [HashSize]byte

// Digest is SHA-256 of the whole document, as uploaded, before encryption.
// It identifies the content to whoever has the content; it is never public.
type Digest [HashSize]byte

// Salt blinds a commitment: 16 bytes from a cryptographic random source, drawn
// anew for every entry and known only to those who hold the receipt.
type Salt [SaltSize]byte

// Commitment is what the public log shows of a document:
// SHA-256(digest || salt). See [Commit].
type Commitment [HashSize]byte

// Commit blinds a digest: SHA-256(digest || salt). Without the salt nobody can
// confirm a guess of the document, and once digest and salt are erased the
// commitment says nothing about a person.
func Commit(digest Digest, salt Salt) Commitment {
	var b [HashSize + SaltSize]byte
	copy(b[:], digest[:])
	copy(b[HashSize:], salt[:])
	return sha256.Sum256(b[:])
}

// VoidCommitment is the commitment of an entry that stands for nothing: 32 zero
// bytes. Recovery fills indices with it that may have been promised and then
// lost (docs/formats.md, "Void entries"); no client may submit it.
var VoidCommitment = Commitment{}

// IsVoid reports whether c is [VoidCommitment].
func (c Commitment) IsVoid() bool { return c == VoidCommitment }

// Entry is one record of the log. Its index is its position, from 0, and is
// part of what is hashed. An entry never changes (I2).
type Entry struct {
	Index      uint64
	Commitment Commitment
}

// Bytes is the entry as the log holds it: index as 8 bytes big-endian, then the
// 32 bytes of the commitment.
func (e Entry) Bytes() [EntrySize]byte {
	var b [EntrySize]byte
	binary.BigEndian.PutUint64(b[:8], e.Index)
	copy(b[8:], e.Commitment[:])
	return b
}

// ParseEntry is the inverse of [Entry.Bytes]. Any other length than
// [EntrySize] is an error.
func ParseEntry(b []byte) (Entry, error) {
	if len(b) != EntrySize {
		return Entry{}, fmt.Errorf("entry has %d bytes, want %d", len(b), EntrySize)
	}
	e := Entry{Index: binary.BigEndian.Uint64(b)}
	copy(e.Commitment[:], b[8:])
	return e, nil
}

var errNotLowerHex = errors.New("not lower-case hexadecimal")

// parseHex fills dst from text that must be exactly 2*len(dst) lower-case
// hexadecimal digits. One spelling only: a receipt has one text.
func parseHex(what string, dst []byte, text string) error {
	if len(text) != 2*len(dst) {
		return fmt.Errorf("%s has %d characters, want %d hexadecimal digits", what, len(text), 2*len(dst))
	}
	for i := range len(text) {
		if c := text[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return fmt.Errorf("%s: %w at character %d", what, errNotLowerHex, i)
		}
	}
	_, err := hex.Decode(dst, []byte(text))
	return err
}

// String is the text form, 64 lower-case hexadecimal digits.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText implements [encoding.TextMarshaler] with [Hash.String].
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler], see [ParseHash].
func (h *Hash) UnmarshalText(text []byte) error { return parseHex("hash", h[:], string(text)) }

// ParseHash reads exactly 64 lower-case hexadecimal digits.
func ParseHash(text string) (h Hash, err error) {
	err = parseHex("hash", h[:], text)
	return h, err
}

// String is the text form, 64 lower-case hexadecimal digits.
func (d Digest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText implements [encoding.TextMarshaler] with [Digest.String].
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler], see [ParseDigest].
func (d *Digest) UnmarshalText(text []byte) error { return parseHex("digest", d[:], string(text)) }

// ParseDigest reads exactly 64 lower-case hexadecimal digits.
func ParseDigest(text string) (d Digest, err error) {
	err = parseHex("digest", d[:], text)
	return d, err
}

// String is the text form, 32 lower-case hexadecimal digits.
func (s Salt) String() string { return hex.EncodeToString(s[:]) }

// MarshalText implements [encoding.TextMarshaler] with [Salt.String].
func (s Salt) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler], see [ParseSalt].
func (s *Salt) UnmarshalText(text []byte) error { return parseHex("salt", s[:], string(text)) }

// ParseSalt reads exactly 32 lower-case hexadecimal digits.
func ParseSalt(text string) (s Salt, err error) {
	err = parseHex("salt", s[:], text)
	return s, err
}

// String is the text form, 64 lower-case hexadecimal digits.
func (c Commitment) String() string { return hex.EncodeToString(c[:]) }

// MarshalText implements [encoding.TextMarshaler] with [Commitment.String].
func (c Commitment) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler], see [ParseCommitment].
func (c *Commitment) UnmarshalText(text []byte) error {
	return parseHex("commitment", c[:], string(text))
}

// ParseCommitment reads exactly 64 lower-case hexadecimal digits.
func ParseCommitment(text string) (c Commitment, err error) {
	err = parseHex("commitment", c[:], text)
	return c, err
}
