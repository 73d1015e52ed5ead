package receipt

import (
	"bytes"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/calpe/calpe"
	"golang.org/x/mod/sumdb/note"
)

// MaxNoteSize is the largest signed note in bytes: a checkpoint with 100
// cosignatures of witnesses.
const MaxNoteSize = 32768

// ErrSignature is in the chain of an error that says: the note can be read, but
// none of the keys that may sign it has, or a signature in their name is wrong.
var ErrSignature = errors.New("not signed by a key of the identity")

// openNote returns the text of a note that at least one of the keys signed.
func openNote(msg []byte, keys note.Verifiers) (string, error) {
	if err := checkNote(msg); err != nil {
		return "", err
	}
	n, err := note.Open(msg, keys)
	if err == nil {
		return n.Text, nil
	}
	if _, ok := errors.AsType[*note.UnverifiedNoteError](err); ok {
		return "", ErrSignature
	}
	if wrong, ok := errors.AsType[*note.InvalidSignatureError](err); ok {
		return "", fmt.Errorf("%w: the signature of %s+%08x is wrong", ErrSignature, wrong.Name, wrong.Hash)
	}
	return "", err
}

// readNote returns the text of a note that nobody has verified.
func readNote(msg []byte) (string, error) {
	if err := checkNote(msg); err != nil {
		return "", err
	}
	_, err := note.Open(msg, note.VerifierList())
	if n, ok := errors.AsType[*note.UnverifiedNoteError](err); ok {
		return n.Note.Text, nil
	}
	return "", err
}

// checkNote demands what package note leaves open: a bounded size, and base64
// without stray bits.
func checkNote(msg []byte) error {
	if len(msg) > MaxNoteSize {
		return fmt.Errorf("note has %d bytes, more than %d", len(msg), MaxNoteSize)
	}
	end := bytes.LastIndex(msg, []byte("\n\n"))
	if end < 0 {
		return errors.New("note has no empty line before its signatures")
	}
	for line := range strings.Lines(string(msg[end+2:])) {
		encoded := strings.TrimSuffix(line[strings.LastIndexByte(line, ' ')+1:], "\n")
		if _, err := base64.StdEncoding.Strict().DecodeString(encoded); err != nil {
			return fmt.Errorf("note: base64 of a signature: %w", err)
		}
	}
	return nil
}

// noteLines takes the text of a note apart into exactly n lines.
func noteLines(text string, n int) ([]string, error) {
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if len(lines) != n {
		return nil, fmt.Errorf("text has %d lines, want %d", len(lines), n)
	}
	return lines, nil
}

// parseDecimal reads a number up to limit, without sign and leading zero.
func parseDecimal(what, text string, limit uint64) (uint64, error) {
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || strconv.FormatUint(n, 10) != text || n > limit {
		return 0, fmt.Errorf("%s %.32q is not a plain decimal number up to %d", what, text, limit)
	}
	return n, nil
}

func encodeRoot(root calpe.Hash) string { return base64.StdEncoding.EncodeToString(root[:]) }

// parseRoot reads the base64 of 32 bytes in its only spelling.
func parseRoot(what, text string) (root calpe.Hash, err error) {
	raw, err := base64.StdEncoding.Strict().DecodeString(text)
	if err != nil || len(raw) != calpe.HashSize || base64.StdEncoding.EncodeToString(raw) != text {
		return calpe.Hash{}, fmt.Errorf("%s %.64q is not the base64 of %d bytes", what, text, calpe.HashSize)
	}
	return calpe.Hash(raw), nil
}
