package demo

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// The documents, by their names in the folder of documents.
const (
	birthCertificate = "birth-certificate.pdf"
	surveyScan       = "land-survey.bin"
	shortNote        = "note.txt"
	privateContract  = "private-contract.txt"
	elsewhereNote    = "note-elsewhere.txt"
)

const (
	noteText     = "I, the undersigned, leave my bicycle to my niece.\n"
	contractText = "A contract between two parties who show it to nobody.\n"
)

// writeDocuments makes them, the same bytes every time.
func writeDocuments(dir string, bigSize int64) error {
	for name, text := range map[string][]byte{
		birthCertificate: certificate(), shortNote: []byte(noteText),
		privateContract: []byte(contractText), elsewhereNote: []byte(noteText),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
			return fmt.Errorf("write document: %w", err)
		}
	}
	f, err := os.OpenFile(filepath.Join(dir, surveyScan), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("write document: %w", err)
	}
	_, err = io.CopyN(f, rand.NewChaCha8([32]byte([]byte("calpe demo: a scan of land plans"))), bigSize)
	return errors.Join(err, f.Close())
}

// flipByte writes a copy of a document in which one byte is another, and says
// which one.
func flipByte(from, to string) (string, error) {
	text, err := os.ReadFile(from)
	if err != nil {
		return "", err
	}
	at := len(text) / 2
	old := text[at]
	text[at] ^= 1
	return fmt.Sprintf("byte %d of %d: %q became %q", at, len(text), old, text[at]), os.WriteFile(to, text, 0o600)
}

// changeSalt writes a copy of a receipt with one hex digit of its salt changed,
// and says which one.
func changeSalt(from, to string) (string, error) {
	text, err := os.ReadFile(from)
	if err != nil {
		return "", err
	}
	member := bytes.Index(text, []byte(`"salt"`))
	if member < 0 {
		return "", fmt.Errorf("%s has no salt", from)
	}
	colon := member + bytes.IndexByte(text[member:], ':')
	at := colon + bytes.IndexByte(text[colon:], '"') + 1
	old := text[at]
	text[at] = '0'
	if old == '0' {
		text[at] = '1'
	}
	return fmt.Sprintf("the first hex digit of the salt: %c became %c", old, text[at]), os.WriteFile(to, text, 0o600)
}

func sizeText(n int64) string {
	switch {
	case n >= 1<<20:
		return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20))
	case n >= 1<<10:
		return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
	}
	return fmt.Sprintf("%d bytes", n)
}
