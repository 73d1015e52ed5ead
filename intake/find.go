package intake

import (
	"context"
	"crypto/rand"
	"errors"

	"github.com/calpe/calpe"
)

// FoundRows are the rows by which documents are found. Erased documents are in
// none of its answers.
type FoundRows interface {
	// FindByDigestTag lists up to limit documents, the newest first.
	FindByDigestTag(ctx context.Context, tag []byte, limit int) ([]calpe.Found, error)
	// FindByCode gives [calpe.ErrNotFound] if there is none.
	FindByCode(ctx context.Context, hash calpe.Hash) (calpe.Found, error)
}

// Tagger makes the keyed hash by which a digest is looked up: a [keyring.Ring].
type Tagger interface {
	Tag(purpose string, data []byte) []byte
}

// FinderConfig is what a [Finder] needs.
type FinderConfig struct {
	Rows FoundRows
	Keys Tagger // of the keyring that the [Service] has
}

// Finder answers who has a document, or its code, and no receipt. It tells
// nothing that is the owner's. Safe for concurrent use.
type Finder struct{ cfg FinderConfig }

// NewFinder makes a Finder.
func NewFinder(cfg FinderConfig) (*Finder, error) {
	if cfg.Rows == nil || cfg.Keys == nil {
		return nil, errors.New("finder: Rows and Keys must be set")
	}
	return &Finder{cfg}, nil
}

// FindByDigest lists the documents with that digest, whoever uploaded them, the
// newest first, up to limit (1 to 1000). None is no error. Documents of which
// only a commitment was sent aren't among them: the service never saw their digest.
func (f *Finder) FindByDigest(ctx context.Context, digest calpe.Digest, limit int) ([]calpe.Found, error) {
	found, err := f.cfg.Rows.FindByDigestTag(ctx, DigestTag(f.cfg.Keys, digest), limit)
	if err != nil {
		return nil, unavailable(err)
	}
	return found, nil
}

// FindByCode is the document that was given the code; [calpe.CodeNotFound] if
// there is none, or it has been erased.
func (f *Finder) FindByCode(ctx context.Context, code calpe.FindCode) (calpe.Found, error) {
	found, err := f.cfg.Rows.FindByCode(ctx, code.Hash())
	if errors.Is(err, calpe.ErrNotFound) {
		return calpe.Found{}, calpe.Errorf(calpe.CodeNotFound, "no document here has that code")
	}
	if err != nil {
		return calpe.Found{}, unavailable(err)
	}
	return found, nil
}

// DigestTag is what a document's row holds of its digest. A plain hash would let
// whoever reads the database try documents.
func DigestTag(keys Tagger, digest calpe.Digest) []byte { return keys.Tag("digest", digest[:]) }

func newFindCode() calpe.FindCode {
	var random [18]byte
	rand.Read(random[:]) // never fails: see crypto/rand
	return calpe.NewFindCode(random)
}
