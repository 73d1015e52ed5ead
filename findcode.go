package calpe

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"unicode"
)

// FindCode is what a citizen reads to a clerk, or prints on a paper copy, so that
// the document's entry can be found: 18 random characters (90 bits, so it can't
// be guessed) and 2 that check them. It opens existence, time and state, and
// nothing of the document. docs/find.md defines it.
//
// The value is the 20 characters without hyphens, in Crockford's base 32 (digits
// and capitals without I, L, O and U). The zero value is no code.
type FindCode [findCodeSize]byte

const (
	findCodeSize   = 20
	findCodeRandom = 18
	findCodeGroup  = 4
	// findCodePrime is the largest prime of two characters. 32 and 31 are no
	// multiples of it, so one wrong character, or two neighbours in each other's
	// place, always change the remainder.
	findCodePrime    = 1021
	findCodeAlphabet = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
	maxFindCodeText  = 100 // bytes, with whatever stands between the characters
)

// NewFindCode makes a code of random bytes, of which it uses the low five bits each.
func NewFindCode(random [findCodeRandom]byte) FindCode {
	var c FindCode
	for i, b := range random {
		c[i] = findCodeAlphabet[b&31]
	}
	check := c.check()
	copy(c[findCodeRandom:], check[:])
	return c
}

// check are the two characters that the others demand: their number in base 32,
// modulo 1021.
func (c FindCode) check() [2]byte {
	n := 0
	for _, b := range c[:findCodeRandom] {
		n = (n*32 + strings.IndexByte(findCodeAlphabet, b)) % findCodePrime
	}
	return [2]byte{findCodeAlphabet[n/32], findCodeAlphabet[n%32]}
}

// ParseFindCode reads a code as people write it: upper or lower case, with or
// without hyphens and spaces, O for 0, I and L for 1. The error names the
// character that no code has (counted without hyphens and spaces), or says that
// the code as a whole was mistyped.
func ParseFindCode(text string) (FindCode, error) {
	if len(text) > maxFindCodeText {
		return FindCode{}, fmt.Errorf("code of %d bytes, far more than a code has", len(text))
	}
	var c FindCode
	n := 0
	for _, r := range text {
		if unicode.IsSpace(r) || unicode.Is(unicode.Pd, r) {
			continue
		}
		b, ok := findCodeCharacter(r)
		if !ok {
			return FindCode{}, fmt.Errorf("character %d of the code is %q, which is in no code", n+1, r)
		}
		if n < findCodeSize {
			c[n] = b
		}
		n++
	}
	if n != findCodeSize {
		return FindCode{}, fmt.Errorf("the code has %d characters without hyphens and spaces, not %d", n, findCodeSize)
	}
	if check := c.check(); [2]byte(c[findCodeRandom:]) != check {
		return FindCode{}, errors.New("the last two characters of the code don't fit the others: some character is wrong, or two are swapped")
	}
	return c, nil
}

// findCodeCharacter is the character of the alphabet that r stands for.
func findCodeCharacter(r rune) (byte, bool) {
	switch {
	case r >= 'a' && r <= 'z':
		r -= 'a' - 'A'
	case r > unicode.MaxASCII:
		return 0, false
	}
	switch r {
	case 'O':
		r = '0'
	case 'I', 'L':
		r = '1'
	}
	return byte(r), strings.ContainsRune(findCodeAlphabet, r)
}

// String is the form to print: groups of four with hyphens between them, as in
// K7QM-4TZP-9XHD-2V6R-WEW8. The zero code is empty.
func (c FindCode) String() string {
	if c.IsZero() {
		return ""
	}
	var s strings.Builder
	for i := 0; i < findCodeSize; i += findCodeGroup {
		if i > 0 {
			s.WriteByte('-')
		}
		s.Write(c[i : i+findCodeGroup])
	}
	return s.String()
}

// IsZero reports whether c is unset, as that of a document from before there were codes.
func (c FindCode) IsZero() bool { return c == FindCode{} }

// Hash is SHA-256 of the 20 characters: what a code is looked up by. Its 90
// random bits need neither salt nor cost.
func (c FindCode) Hash() Hash { return sha256.Sum256(c[:]) }

// MarshalText implements [encoding.TextMarshaler] with [FindCode.String].
func (c FindCode) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler], see [ParseFindCode].
func (c *FindCode) UnmarshalText(text []byte) (err error) {
	*c, err = ParseFindCode(string(text))
	return err
}
