package api

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/calpe/calpe"
)

// The scopes that a token can have.
const (
	ScopeDocuments   = "documents"   // upload documents, and read those of its owner
	ScopeCommitments = "commitments" // submit commitments
)

// TokenPrefix opens every token, so that scanners for leaked secrets find it.
const TokenPrefix = "calpe_"

const maxTokenLength = 128

// Tokens looks tokens up.
type Tokens interface {
	// TokenByHash gives the token with that SHA-256, revoked or not, or
	// [calpe.ErrNotFound].
	TokenByHash(ctx context.Context, hash calpe.Hash) (calpe.Token, error)
}

// HashToken is what is stored of a token. A token has 256 random bits, so a
// plain SHA-256 can't be guessed backwards and needs neither salt nor cost.
func HashToken(token string) calpe.Hash { return sha256.Sum256([]byte(token)) }

// authenticate finds whose request it is. Whatever is wrong, the answer is the
// same: who tries tokens learns nothing.
func (s *Server) authenticate(r *http.Request, scope string) (owner string, err error) {
	refused := calpe.Errorf(calpe.CodeUnauthorized, "Send a valid token as \"Authorization: Bearer …\".")
	scheme, token, ok := strings.Cut(r.Header.Get("Authorization"), " ")
	if !ok || !strings.EqualFold(scheme, "Bearer") || len(token) > maxTokenLength || !strings.HasPrefix(token, TokenPrefix) {
		return "", refused
	}
	hash := HashToken(token)
	t, err := s.cfg.Tokens.TokenByHash(r.Context(), hash)
	if errors.Is(err, calpe.ErrNotFound) {
		return "", refused
	}
	if err != nil {
		return "", unavailable("The tokens can't be read at the moment.", err)
	}
	// The index found it by comparing hashes; this comparison, in constant time,
	// is the one that counts.
	if subtle.ConstantTimeCompare(t.Hash[:], hash[:]) != 1 || !t.Revoked.IsZero() {
		return "", refused
	}
	if !slices.Contains(t.Scopes, scope) {
		return "", calpe.Errorf(calpe.CodeForbidden, "This token doesn't have the scope %q.", scope)
	}
	return t.Owner, nil
}

// unavailable says that a dependency failed, which isn't the client's business
// beyond trying again.
func unavailable(message string, cause error) error {
	return &calpe.Error{Code: calpe.CodeUnavailable, Message: message, Err: cause}
}
