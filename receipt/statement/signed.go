package statement

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/calpe/calpe"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"golang.org/x/mod/sumdb/note"
)

// MaxSize is the largest signed statement in bytes, as it is written.
const MaxSize = 16384

// ErrSignature is in the chain of the errors of [Signed.Verify]: the statement
// can be read, but isn't by that key.
var ErrSignature = errors.New("signature does not verify")

// signedText opens what a key signs, so that a signature of a statement is never
// one of something else.
const signedText = "calpe/statement/v1\n"

// Signed is a statement with its signature, in canonical form. Nobody has
// checked the signature until [Signed.Verify] has. It never changes. The zero
// Signed is no statement.
type Signed struct {
	body      Body
	key       string
	signature []byte
	message   []byte // what is signed
	canonical []byte
}

type signedJSON struct {
	Statement jsontext.Value `json:"statement"`
	Key       string         `json:"key"`
	Signature []byte         `json:"signature"`
}

// Sign checks the body and signs it. Times in it lose what is below a second.
// The signer's signature must be Ed25519, as that of a [Key] is.
func Sign(signer note.Signer, body Body) (Signed, error) {
	if err := body.Validate(); err != nil {
		return Signed{}, fmt.Errorf("sign %s: %w", body.Type(), err)
	}
	text, err := json.Marshal(body.wire())
	if err != nil {
		return Signed{}, fmt.Errorf("sign %s: %w", body.Type(), err)
	}
	if text, err = Canonical(text); err != nil {
		return Signed{}, fmt.Errorf("sign %s: %w", body.Type(), err)
	}
	signature, err := signer.Sign(append([]byte(signedText), text...))
	if err != nil {
		return Signed{}, fmt.Errorf("sign %s with %s: %w", body.Type(), signer.Name(), err)
	}
	data, err := json.Marshal(signedJSON{text, keyID(signer.Name(), signer.KeyHash()), signature})
	if err != nil {
		return Signed{}, fmt.Errorf("sign %s: %w", body.Type(), err)
	}
	return Parse(data) // the same rules for what we write as for what we read
}

// Parse reads a signed statement, however it is spaced, and makes it canonical.
// It demands every rule of docs/formats.md, "Statement", except that the
// signature verifies: that takes the right key, see [Signed.Verify].
func Parse(data []byte) (Signed, error) {
	if len(data) > MaxSize {
		return Signed{}, fmt.Errorf("signed statement has %d bytes, more than %d", len(data), MaxSize)
	}
	s, err := parse(data)
	if err != nil {
		return Signed{}, fmt.Errorf("signed statement: %w", err)
	}
	return s, nil
}

func parse(data []byte) (Signed, error) {
	var w signedJSON
	if err := Decode(data, &w); err != nil {
		return Signed{}, err
	}
	if err := checkKeyID(w.Key); err != nil {
		return Signed{}, err
	}
	if len(w.Signature) != ed25519.SignatureSize {
		return Signed{}, fmt.Errorf("signature has %d bytes, want %d", len(w.Signature), ed25519.SignatureSize)
	}
	text, err := Canonical(w.Statement)
	if err != nil {
		return Signed{}, err
	}
	body, err := parseBody(typeOf(text), text)
	if err != nil {
		return Signed{}, fmt.Errorf("member statement: %w", err)
	}
	canonical, err := Canonical(data)
	if err != nil {
		return Signed{}, err
	}
	return Signed{body, w.Key, w.Signature, append([]byte(signedText), text...), canonical}, nil
}

// typeOf is the member "type" of an object, or "".
func typeOf(text []byte) string {
	var w struct {
		Type string `json:"type"`
	}
	if json.Unmarshal(text, &w) != nil {
		return ""
	}
	return w.Type
}

// Body is what the statement says; nil for the zero Signed.
func (s Signed) Body() Body { return s.body }

// KeyID names the key that is said to have signed: "<name>+<hex of key id>".
func (s Signed) KeyID() string { return s.key }

// Bytes is the signed statement as canonical JSON: what is kept, sent and hashed.
func (s Signed) Bytes() []byte { return bytes.Clone(s.canonical) }

// Digest takes the place of a document's digest: SHA-256 of [Signed.Bytes].
func (s Signed) Digest() calpe.Digest { return sha256.Sum256(s.canonical) }

// Verify checks that the statement was signed by the key of vkey. The error has
// [ErrSignature] in its chain unless vkey itself can't be read.
func (s Signed) Verify(vkey string) error {
	v, err := ParseVerifierKey(vkey)
	if err != nil {
		return err
	}
	if id := VerifierID(v); id != s.key {
		return fmt.Errorf("%w: signed by key %q, not by %q", ErrSignature, s.key, id)
	}
	if !v.Verify(s.message, s.signature) {
		return fmt.Errorf("%w with key %q", ErrSignature, s.key)
	}
	return nil
}

// MarshalJSON implements [encoding/json.Marshaler] with the canonical form.
func (s Signed) MarshalJSON() ([]byte, error) {
	if s.body == nil {
		return nil, errors.New("no signed statement to write")
	}
	return s.Bytes(), nil
}

// UnmarshalJSON implements [encoding/json.Unmarshaler], see [Parse].
func (s *Signed) UnmarshalJSON(data []byte) (err error) {
	*s, err = Parse(data)
	return err
}
