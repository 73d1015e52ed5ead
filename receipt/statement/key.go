package statement

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/mod/sumdb/note"
)

// maxKeyText bounds the text of a key: a name of up to 256 bytes and what the
// form adds to it.
const maxKeyText = 512

// Key is a private Ed25519 key with a name, in the signed-note form of C2SP. It
// is a [note.Signer], safe for concurrent use. Whatever prints or logs a Key
// shows its name and id only; [Key.Secret] is the one way to the rest.
// The zero Key can't sign.
type Key struct {
	name     string
	id       uint32
	private  ed25519.PrivateKey
	verifier string
}

var _ note.Signer = Key{}

// GenerateKey draws a new key from random (crypto/rand.Reader) under that name.
func GenerateKey(random io.Reader, name string) (Key, error) {
	secret, _, err := note.GenerateKey(random, name)
	if err != nil {
		return Key{}, fmt.Errorf("generate key %q: %w", name, err)
	}
	return ParseKey(secret)
}

// ParseKey reads what [Key.Secret] writes, with or without one newline at the
// end, as in a file. The error never holds any of the text.
func ParseKey(secret string) (Key, error) {
	secret = strings.TrimSuffix(secret, "\n")
	if len(secret) > maxKeyText {
		return Key{}, fmt.Errorf("private key is longer than %d bytes", maxKeyText)
	}
	signer, err := note.NewSigner(secret)
	if err != nil {
		return Key{}, errors.New("private key is not of the form PRIVATE+KEY+<name>+<id>+<base64>, with an Ed25519 key")
	}
	// The last part is base64, whose alphabet has a plus sign too: split from the front.
	raw, err := base64.StdEncoding.DecodeString(strings.SplitN(secret, "+", 5)[4])
	if err != nil || len(raw) != 1+ed25519.SeedSize {
		return Key{}, errors.New("private key is not a 32-byte seed behind the type of key")
	}
	k, err := newKey(signer.Name(), ed25519.NewKeyFromSeed(raw[1:]))
	if err != nil {
		return Key{}, err
	}
	if k.Secret() != secret { // base64 with line breaks, an id in capitals
		return Key{}, errors.New("private key is not in its only spelling")
	}
	return k, nil
}

func newKey(name string, private ed25519.PrivateKey) (Key, error) {
	text, err := note.NewEd25519VerifierKey(name, private.Public().(ed25519.PublicKey))
	if err != nil {
		return Key{}, fmt.Errorf("verifier key of %q: %w", name, err)
	}
	v, err := ParseVerifierKey(text)
	if err != nil {
		return Key{}, err
	}
	return Key{name: name, id: v.KeyHash(), private: private, verifier: text}, nil
}

// Name is the name that is part of every signature by the key.
func (k Key) Name() string { return k.name }

// KeyHash is the key id as a number, in the words of [note.Signer].
func (k Key) KeyHash() uint32 { return k.id }

// ID names the key in a signed statement: "<name>+<hex of key id>".
func (k Key) ID() string { return keyID(k.name, k.id) }

// Sign returns the 64-byte Ed25519 signature (RFC 8032) of msg.
func (k Key) Sign(msg []byte) ([]byte, error) {
	if k.private == nil {
		return nil, errors.New("no private key to sign with")
	}
	return ed25519.Sign(k.private, msg), nil
}

// Verifier is the public half, a vkey: what may be published and pinned.
func (k Key) Verifier() string { return k.verifier }

// Secret is the private key as text, for its file and nothing else.
func (k Key) Secret() string {
	if k.private == nil {
		return ""
	}
	raw := append([]byte{1}, k.private.Seed()...)
	return fmt.Sprintf("PRIVATE+KEY+%s+%08x+%s", k.name, k.id, base64.StdEncoding.EncodeToString(raw))
}

// Format implements [fmt.Formatter] for every verb without the private part.
func (k Key) Format(f fmt.State, _ rune) { fmt.Fprintf(f, "[private key %s]", k.ID()) }

// LogValue implements [slog.LogValuer] without the private part.
func (k Key) LogValue() slog.Value { return slog.StringValue(k.ID()) }

func keyID(name string, id uint32) string { return fmt.Sprintf("%s+%08x", name, id) }

// checkKeyID demands the form that keyID writes; names are as in signed notes.
func checkKeyID(text string) error {
	name, id, _ := strings.Cut(text, "+")
	n, err := strconv.ParseUint(id, 16, 32)
	if err != nil || keyID(name, uint32(n)) != text || name == "" || len(text) > maxKeyText ||
		!utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsSpace) {
		return fmt.Errorf("key %.64q is not <name>+<8 hexadecimal digits>", text)
	}
	return nil
}

// VerifierID names the key of v in a signed statement: "<name>+<hex of key id>".
func VerifierID(v note.Verifier) string { return keyID(v.Name(), v.KeyHash()) }

// ParseVerifierKey reads a vkey (docs/formats.md, "Conventions"): an Ed25519
// public key in the signed-note form of C2SP, in its only spelling. The error
// shows nothing of the text, which by mistake may be a private key.
func ParseVerifierKey(vkey string) (note.Verifier, error) {
	if len(vkey) > maxKeyText {
		return nil, fmt.Errorf("vkey is longer than %d bytes", maxKeyText)
	}
	v, err := note.NewVerifier(vkey)
	if err != nil {
		return nil, fmt.Errorf("vkey is not of the form <name>+<id>+<base64>: %w", err)
	}
	raw, err := base64.StdEncoding.DecodeString(strings.SplitN(vkey, "+", 3)[2])
	if err != nil || len(raw) != 1+ed25519.PublicKeySize {
		return nil, fmt.Errorf("vkey of %q is not an Ed25519 key", v.Name())
	}
	text, err := note.NewEd25519VerifierKey(v.Name(), raw[1:])
	if err != nil || text != vkey {
		return nil, fmt.Errorf("vkey of %q is not in its only spelling", v.Name())
	}
	return v, nil
}
