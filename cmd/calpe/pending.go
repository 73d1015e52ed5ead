package main

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt/statement"
)

// pendingType is the member "type" of a pending file.
const pendingType = "calpe/pending/v1"

// keySize random bytes make an Idempotency-Key.
const keySize = 16

// pending is a request that was begun: all that is needed to make the same one
// again and get the same answer, after a crash of either side. Its file lies
// beside the document until the receipt is there.
type pending struct {
	Type   string       `json:"type"`
	Server string       `json:"server"`
	Key    string       `json:"key"` // the Idempotency-Key
	Digest calpe.Digest `json:"digest"`
	// Salt of a commitment. It is nowhere else until the receipt is written, and
	// without it the entry would be worth nothing.
	Salt *calpe.Salt `json:"salt,omitempty"`
	// Certification is the digest of the statement that goes with a document.
	Certification *calpe.Digest `json:"certification,omitempty"`
	// Upload is the path at the service of a document that is sent in pieces.
	Upload string `json:"upload,omitempty"`

	path  string
	fresh bool // begun by this run
}

// begin makes the request's file durable before the request leaves, or finds
// the one of an earlier run. A file of another request is an error: that one may
// be in the log.
func begin(path string, want pending) (pending, error) {
	data, err := readFile(path, 4096)
	if errors.Is(err, fs.ErrNotExist) {
		return create(path, want)
	}
	if err != nil {
		return pending{}, err
	}
	var found pending
	if err := statement.Decode(data, &found); err != nil || found.Type != pendingType || !isKey(found.Key) || !isUpload(found.Upload) {
		return pending{}, fmt.Errorf("%s is not a file of this program: move it away", shown(path))
	}
	what := ""
	switch {
	case found.Server != want.Server:
		what = "with another service, " + found.Server
	case found.Digest != want.Digest:
		what = "with other contents: the file was changed since"
	case (found.Salt != nil) != (want.Salt != nil):
		what = "in another way"
	case (found.Certification == nil) != (want.Certification == nil),
		want.Certification != nil && *found.Certification != *want.Certification:
		what = "with another certification"
	}
	if what != "" {
		return pending{}, fmt.Errorf("%s says that a request was begun %s, and it may be in the log: finish that one, or move this file away to start anew", shown(path), what)
	}
	found.path = path
	return found, nil
}

// isKey reports whether text is a key as create draws it. A request without one
// would not be safe to repeat.
func isKey(text string) bool {
	raw, err := hex.DecodeString(text)
	return err == nil && len(raw) == keySize
}

// isUpload reports whether text is the path of an upload, or none.
func isUpload(text string) bool {
	id, ok := strings.CutPrefix(text, uploadsPath+"/")
	_, err := calpe.ParseDocumentID(id)
	return text == "" || ok && err == nil
}

func create(path string, p pending) (pending, error) {
	var key [keySize]byte
	_, _ = rand.Read(key[:]) // never fails, see crypto/rand
	p.Type, p.Key, p.path, p.fresh = pendingType, fmt.Sprintf("%x", key), path, true
	// Crash behind this: nothing was sent; the next run makes this request.
	return p, p.save()
}

// save makes the file say what p says, durably.
func (p pending) save() error {
	data, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	return replaceFile(p.path, privateFile, func(w io.Writer) error { _, err := w.Write(append(data, '\n')); return err })
}

// end removes the file, once the receipt is durable.
func (p pending) end() error {
	if err := os.Remove(p.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the receipt is written, but the pending file stays: %w", err)
	}
	return nil
}

// drop removes the file of a request of this run that was refused or never
// left, if it is certain that nothing of it was recorded.
func (p pending) drop(err error) error {
	refusal, ok := errors.AsType[*problem](err)
	refused := ok && !refusal.Doubt && refusal.Status/100 == 4
	if !p.fresh || !refused && !errors.Is(err, errUnsent) {
		return err
	}
	return errors.Join(err, p.end())
}

func newSalt() *calpe.Salt {
	var salt calpe.Salt
	_, _ = rand.Read(salt[:]) // never fails, see crypto/rand
	return &salt
}
