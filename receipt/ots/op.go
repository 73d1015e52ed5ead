package ots

import (
	"crypto/sha1" //nolint:gosec // foreign timestamps use it; being broken for collisions doesn't matter for what existed before
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"slices"
	"strings"

	"golang.org/x/crypto/ripemd160" //nolint:staticcheck,gosec // timestamps of the first years use it, and are to be verified for ever
	"golang.org/x/crypto/sha3"
)

// MaxMessage is the largest message in bytes, before or after an operation, and
// the largest argument of one.
const MaxMessage = 4096

// Tag names an operation. The numbers are those of the format, where the hashes
// have the ones of RFC 4880.
type Tag byte

// The operations. What is written for a receipt has only [SHA256], [Append] and
// [Prepend], which every reader knows.
const (
	SHA1      Tag = 0x02
	RIPEMD160 Tag = 0x03
	SHA256    Tag = 0x08
	Keccak256 Tag = 0x67 // as in Ethereum, with another padding than SHA3-256
	Append    Tag = 0xf0
	Prepend   Tag = 0xf1
	Reverse   Tag = 0xf2
	Hexlify   Tag = 0xf3 // to lower-case hexadecimal
)

// String is the reference's name of the operation; of an unknown one its number.
func (t Tag) String() string {
	switch t {
	case SHA1:
		return "sha1"
	case RIPEMD160:
		return "ripemd160"
	case SHA256:
		return "sha256"
	case Keccak256:
		return "keccak256"
	case Append:
		return "append"
	case Prepend:
		return "prepend"
	case Reverse:
		return "reverse"
	case Hexlify:
		return "hexlify"
	}
	return fmt.Sprintf("0x%02x", byte(t))
}

// NewHash returns the hash function that the operation is, ready for a whole
// document; nil if the operation isn't a hash.
func (t Tag) NewHash() hash.Hash {
	switch t {
	case SHA1:
		return sha1.New() //nolint:gosec // see the import
	case RIPEMD160:
		return ripemd160.New() //nolint:gosec // see the import
	case SHA256:
		return sha256.New()
	case Keccak256:
		return sha3.NewLegacyKeccak256()
	default:
		return nil
	}
}

func (t Tag) hasArg() bool { return t == Append || t == Prepend }

func (t Tag) isHash() bool { return t == SHA1 || t == RIPEMD160 || t == SHA256 || t == Keccak256 }

// Op is an operation on a message.
type Op struct {
	Tag Tag
	Arg string // bytes of [Append] and [Prepend], 1 to [MaxMessage]; else empty
}

// String is the operation as the reference shows it: its name, and hexadecimal
// of the argument.
func (o Op) String() string {
	if o.Arg == "" {
		return o.Tag.String()
	}
	return o.Tag.String() + " " + hex.EncodeToString([]byte(o.Arg))
}

// MarshalText implements [encoding.TextMarshaler] with [Op.String].
func (o Op) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// Apply returns the message that the operation makes of another one, in memory
// of its own. An operation that doesn't exist and messages or arguments beyond
// the format's limits are errors.
func (o Op) Apply(message []byte) ([]byte, error) {
	if err := o.check(len(message)); err != nil {
		return nil, err
	}
	return o.appendResult(nil, message), nil
}

var errEmptyMessage = errors.New("the message is empty") // its result would be too: a step that leads nowhere

// check tells whether the operation can be applied to a message of n bytes.
func (o Op) check(n int) error {
	if err := o.checkArg(); err != nil {
		return err
	}
	result := n
	switch o.Tag {
	case Reverse, Hexlify:
		if n == 0 {
			return fmt.Errorf("%s: %w", o.Tag, errEmptyMessage)
		}
		if o.Tag == Hexlify {
			result = 2 * n
		}
	case Append, Prepend:
		result += len(o.Arg)
	case SHA1, RIPEMD160, SHA256, Keccak256: // the result is shorter than the limit
	}
	if max(n, result) > MaxMessage {
		return fmt.Errorf("%s: a message of %d bytes, more than %d", o.Tag, max(n, result), MaxMessage)
	}
	return nil
}

func (o Op) checkArg() error {
	switch {
	case o.Tag.hasArg() && (len(o.Arg) == 0 || len(o.Arg) > MaxMessage):
		return fmt.Errorf("%s: argument has %d bytes, want 1 to %d", o.Tag, len(o.Arg), MaxMessage)
	case o.Tag.hasArg():
		return nil
	case o.Tag != Reverse && o.Tag != Hexlify && !o.Tag.isHash():
		return fmt.Errorf("unknown operation %s", o.Tag)
	case o.Arg != "":
		return fmt.Errorf("%s: it has no argument", o.Tag)
	}
	return nil
}

// appendResult appends to dst what a checked operation makes of message. The two
// don't overlap.
func (o Op) appendResult(dst, message []byte) []byte {
	switch o.Tag {
	case Append:
		return append(append(dst, message...), o.Arg...)
	case Prepend:
		return append(append(dst, o.Arg...), message...)
	case Reverse:
		start := len(dst)
		dst = append(dst, message...)
		slices.Reverse(dst[start:])
		return dst
	case Hexlify:
		return hex.AppendEncode(dst, message)
	case SHA256: // nearly all there are: without the allocation
		sum := sha256.Sum256(message)
		return append(dst, sum[:]...)
	case SHA1, RIPEMD160, Keccak256:
	}
	h := o.Tag.NewHash()
	h.Write(message) // a hash never returns an error
	return h.Sum(dst)
}

// compare orders operations as the reference's writer does.
func (o Op) compare(p Op) int {
	if o.Tag != p.Tag {
		return int(o.Tag) - int(p.Tag)
	}
	return strings.Compare(o.Arg, p.Arg)
}
