package keyring

import (
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
)

// Ring is the key-encryption keys of a deployment, as read from its file. It is
// immutable and safe for concurrent use; after a rotation, [Load] it again.
type Ring struct {
	primary string
	keys    map[string]cipher.AEAD
	tagRoot [KeySize]byte // the first key of the file, see Tag
}

// Wrapped is a data key encrypted by a key-encryption key. It is what the
// database stores, and safe to store: without the ring it is noise.
type Wrapped struct {
	KeyID string // the key-encryption key's id in the ring
	Bytes []byte // WrappedSize bytes: nonce, encrypted data key, tag
}

// WrappedSize is the length of [Wrapped.Bytes].
const WrappedSize = KeySize + SealOverhead

// ErrUnknownKey says that the ring has no key with the id that something was
// wrapped under: an older copy of the keyring file, or another deployment's.
var ErrUnknownKey = errors.New("key-encryption key is not in the keyring")

// Primary is the id of the key that wraps new data keys.
func (r *Ring) Primary() string { return r.primary }

// NewDataKey draws a data key from the system's cryptographic random source and
// wraps it under the primary key for the document with that id.
func (r *Ring) NewDataKey(documentID string) (DataKey, Wrapped, error) {
	var key DataKey
	rand.Read(key.key[:]) // never fails: see crypto/rand
	wrapped, err := r.Wrap(documentID, key)
	if err != nil {
		return DataKey{}, Wrapped{}, err
	}
	return key, wrapped, nil
}

// Wrap encrypts a data key under the primary key. Document id and key id are
// authenticated with it: a wrapped key copied to another document doesn't open.
func (r *Ring) Wrap(documentID string, key DataKey) (Wrapped, error) {
	if documentID == "" {
		return Wrapped{}, errNoDocumentID
	}
	sealed := r.keys[r.primary].Seal(nil, nil, key.key[:], bind("data key", documentID, r.primary))
	return Wrapped{KeyID: r.primary, Bytes: sealed}, nil
}

// Unwrap is the inverse of [Ring.Wrap]. It gives [ErrUnknownKey] if the ring
// doesn't hold the key, and [ErrAuthentication] if the wrapped key was made for
// another document or was changed.
func (r *Ring) Unwrap(documentID string, w Wrapped) (DataKey, error) {
	if documentID == "" {
		return DataKey{}, errNoDocumentID
	}
	aead, ok := r.keys[w.KeyID]
	if !ok {
		return DataKey{}, fmt.Errorf("unwrap data key of document %q: %w: %.64q", documentID, ErrUnknownKey, w.KeyID)
	}
	if len(w.Bytes) != WrappedSize {
		return DataKey{}, fmt.Errorf("unwrap data key of document %q: %d bytes, want %d: %w",
			documentID, len(w.Bytes), WrappedSize, ErrAuthentication)
	}
	plain, err := aead.Open(nil, nil, w.Bytes, bind("data key", documentID, w.KeyID))
	if err != nil {
		return DataKey{}, fmt.Errorf("unwrap data key of document %q with key %q: %w", documentID, w.KeyID, ErrAuthentication)
	}
	return DataKey{key: [KeySize]byte(plain)}, nil
}

// Rewrap moves a wrapped key to the primary key. It reports false, and gives w
// back as it is, if it is there already; a loop over all documents after a
// rotation may stop and start anywhere.
func (r *Ring) Rewrap(documentID string, w Wrapped) (Wrapped, bool, error) {
	if w.KeyID == r.primary {
		return w, false, nil
	}
	key, err := r.Unwrap(documentID, w)
	if err != nil {
		return Wrapped{}, false, err
	}
	moved, err := r.Wrap(documentID, key)
	if err != nil {
		return Wrapped{}, false, err
	}
	return moved, true, nil
}

// Tag is HMAC-SHA256 of data, 32 bytes, under a key for that purpose: an
// equality test for whoever holds the ring, and noise for whoever doesn't. A
// digest is looked up by its tag, an idempotent request recognised by one.
//
// The key comes from the first key of the ring, so that a tag stays the same
// through every rotation: a tag can't be unwrapped and computed anew, because
// the data it was made from isn't kept. The price is that the first key must
// stay in the file for as long as stored tags shall be found.
func (r *Ring) Tag(purpose string, data []byte) []byte {
	key := deriveKey(r.tagRoot[:], "calpe/v1 tag "+purpose)
	mac := hmac.New(sha256.New, key[:])
	mac.Write(data)
	return mac.Sum(nil)
}

// String implements [fmt.Stringer] without showing a key.
func (*Ring) String() string { return redacted }

// GoString implements [fmt.GoStringer] without showing a key.
func (*Ring) GoString() string { return redacted }

// Format implements [fmt.Formatter] without showing a key, for verbs that would
// look into the struct otherwise.
func (*Ring) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// LogValue implements [slog.LogValuer] without showing a key.
func (*Ring) LogValue() slog.Value { return slog.StringValue(redacted) }
