package ots

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

const (
	// MaxPayload is the largest payload of an attestation in bytes.
	MaxPayload = 8192
	// MaxURI is the longest URI of a calendar in bytes.
	MaxURI = 1000

	notarySize = 8

	bitcoinNotary  = "\x05\x88\x96\x0d\x73\xd7\x19\x01"
	litecoinNotary = "\x06\x86\x9a\x0d\x73\xd7\x1b\x45"
	ethereumNotary = "\x30\xfe\x80\x87\xb5\xc7\xea\xd7"
	pendingNotary  = "\x83\xdf\xe3\x0d\x2e\xf9\x0c\x8e"
)

// Attestation says of a message that it was there at some time. It is made by
// [BitcoinBlock] and [PendingAt] or read from a file; equal ones are ==.
type Attestation struct {
	notary  string // 8 bytes: who says it
	payload string // for notaries that we know in its only spelling, else verbatim
}

// BitcoinBlock attests that a message is the Merkle root, in internal byte
// order, of the block at a height of Bitcoin's chain.
func BitcoinBlock(height uint64) Attestation {
	return Attestation{bitcoinNotary, string(binary.AppendUvarint(nil, height))}
}

// PendingAt attests that a calendar has taken a message and will have the rest
// of the timestamp later. The URI has 1 to [MaxURI] characters out of
// A-Za-z0-9-._/: and, for the sake of how clients join paths, should be that of
// a host, without a slash at its end.
func PendingAt(uri string) (Attestation, error) {
	if uri == "" {
		return Attestation{}, errors.New("calendar URI is empty")
	}
	if err := checkURI(uri); err != nil {
		return Attestation{}, err
	}
	return Attestation{pendingNotary, spellURI(uri)}, nil
}

// Block is the height that a Bitcoin attestation names; false for any other.
func (a Attestation) Block() (height uint64, ok bool) {
	if a.notary != bitcoinNotary {
		return 0, false
	}
	return a.height(), true
}

// Calendar is the URI of a pending attestation; false for any other. Whoever
// wrote the file has chosen it: contact only calendars that you know.
func (a Attestation) Calendar() (uri string, ok bool) {
	if a.notary != pendingNotary {
		return "", false
	}
	return a.uri(), true
}

// String shows the attestation to people, in one line of printable ASCII.
func (a Attestation) String() string {
	switch a.notary {
	case bitcoinNotary:
		return fmt.Sprintf("Bitcoin block %d", a.height())
	case litecoinNotary:
		return fmt.Sprintf("Litecoin block %d", a.height())
	case ethereumNotary:
		return fmt.Sprintf("Ethereum block %d", a.height())
	case pendingNotary:
		return "pending at " + a.uri()
	}
	return fmt.Sprintf("unknown notary %x, %d bytes", a.notary, len(a.payload))
}

// MarshalText implements [encoding.TextMarshaler] with [Attestation.String].
func (a Attestation) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

func (a Attestation) namesBlock() bool {
	return a.notary == bitcoinNotary || a.notary == litecoinNotary || a.notary == ethereumNotary
}

// height needs an attestation that names a block.
func (a Attestation) height() uint64 {
	d := decoder{data: a.payload}
	return d.varuint()
}

// uri needs a pending attestation.
func (a Attestation) uri() string {
	d := decoder{data: a.payload}
	return d.varbytes("URI", 0, MaxURI)
}

// compare orders attestations as the reference's writer does.
func (a Attestation) compare(b Attestation) int {
	switch {
	case a.notary != b.notary:
		return strings.Compare(a.notary, b.notary)
	case a.namesBlock():
		return cmp.Compare(a.height(), b.height())
	case a.notary == pendingNotary:
		return strings.Compare(a.uri(), b.uri())
	}
	return strings.Compare(a.payload, b.payload)
}

func spellURI(uri string) string {
	return string(binary.AppendUvarint(nil, uint64(len(uri)))) + uri
}

// checkURI admits what the reference does: nothing that takes parameters, names
// a user or hides a character.
func checkURI(uri string) error {
	if len(uri) > MaxURI {
		return fmt.Errorf("calendar URI has %d characters, more than %d", len(uri), MaxURI)
	}
	for i := range len(uri) {
		c := uri[i]
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && !strings.ContainsRune("-._/:", rune(c)) {
			return fmt.Errorf("calendar URI has %q as character %d; only A-Za-z0-9-._/: may be there", c, i)
		}
	}
	return nil
}
