package keyring

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// KeySize is the length in bytes of every key in this package.
const KeySize = 32

// The HKDF info strings of a data key's sub-keys. They are frozen: another
// string is another key, and the document can't be read any more.
const (
	infoContent  = "calpe/v1 document content"
	infoMetadata = "calpe/v1 document metadata"
)

// DataKey is the secret of one document: everything of that document is
// encrypted under keys derived from it. It is a value without pointers; copies
// vanish with the stack frame or object that holds them. It prints as
// "[secret]" with every verb that applies to a value, so that no log line can
// hold it (I10); only %p, which go vet refuses here, would look inside.
//
// The zero DataKey is not a key: it is what a failed call returns beside its error.
type DataKey struct{ key [KeySize]byte }

// Content is the key that encrypts the document's bytes. It must be used for one
// stored object only: the format of stored objects proves that a piece belongs
// to its key, not which of two objects under the same key it comes from.
func (k DataKey) Content() [KeySize]byte { return k.derive(infoContent) }

// Metadata is the key under which [DataKey.Seal] encrypts.
func (k DataKey) Metadata() [KeySize]byte { return k.derive(infoMetadata) }

func (k DataKey) derive(info string) [KeySize]byte { return deriveKey(k.key[:], info) }

// deriveKey is HKDF-SHA256 without salt: the input is uniformly random already
// (RFC 5869 section 3.1).
func deriveKey(secret []byte, info string) (sub [KeySize]byte) {
	b, err := hkdf.Key(sha256.New, secret, nil, info, KeySize)
	if err != nil {
		panic("keyring: HKDF refuses a 32-byte output: " + err.Error()) // can't: the limit is 255 hashes
	}
	copy(sub[:], b)
	return sub
}

// Seal encrypts a document's personal fields (name, digest, salt) for the
// database: nonce, ciphertext, tag; [SealOverhead] bytes longer than the input.
// The document's id is authenticated with it, so that a blob moved to another
// row doesn't open.
func (k DataKey) Seal(documentID string, metadata []byte) ([]byte, error) {
	if documentID == "" {
		return nil, errNoDocumentID
	}
	aead, err := newAEAD(k.Metadata())
	if err != nil {
		return nil, err
	}
	return aead.Seal(nil, nil, metadata, bind("metadata", documentID)), nil
}

// Open is the inverse of [DataKey.Seal]. Another key, another document id or a
// changed byte give [ErrAuthentication].
func (k DataKey) Open(documentID string, sealed []byte) ([]byte, error) {
	if documentID == "" {
		return nil, errNoDocumentID
	}
	aead, err := newAEAD(k.Metadata())
	if err != nil {
		return nil, err
	}
	plain, err := aead.Open(nil, nil, sealed, bind("metadata", documentID))
	if err != nil {
		return nil, fmt.Errorf("open metadata of document %q (%d bytes): %w", documentID, len(sealed), ErrAuthentication)
	}
	return plain, nil
}

// SealOverhead is what encryption adds: a 12-byte nonce and a 16-byte tag.
const SealOverhead = 12 + 16

// ErrAuthentication says that a ciphertext was not made with this key for this
// document, or was changed since. Trying again doesn't help.
var ErrAuthentication = errors.New("ciphertext is not authentic for this key and document")

var errNoDocumentID = errors.New("document id is empty")

func newAEAD(key [KeySize]byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key[:])
	if err != nil {
		return nil, fmt.Errorf("make AES-256 cipher: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("make GCM: %w", err)
	}
	return aead, nil
}

// bind encodes what a ciphertext belongs to as additional data. Each part is
// preceded by its length, so that no two different lists give the same bytes.
func bind(purpose string, parts ...string) []byte {
	var b []byte
	for _, part := range append([]string{"calpe/v1 " + purpose}, parts...) {
		b = binary.BigEndian.AppendUint64(b, uint64(len(part)))
		b = append(b, part...)
	}
	return b
}

const redacted = "[secret]"

// String implements [fmt.Stringer] without showing the key.
func (DataKey) String() string { return redacted }

// GoString implements [fmt.GoStringer] without showing the key.
func (DataKey) GoString() string { return redacted }

// Format implements [fmt.Formatter] without showing the key, for verbs that
// would look into the struct otherwise.
func (DataKey) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue implements [slog.LogValuer] without showing the key.
func (DataKey) LogValue() slog.Value { return slog.StringValue(redacted) }
