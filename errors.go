package calpe

import (
	"errors"
	"fmt"
)

// Code is a stable, machine-readable name of what went wrong. The set is
// closed; the API, the command line and the docs use the same names, and a code
// never changes its meaning.
type Code string

// The codes. docs/errors.md lists each with what to do about it.
const (
	CodeInvalidRequest      Code = "invalid-request"       // the request can't be read as what it must be
	CodeUnauthorized        Code = "unauthorized"          // no token, or one that isn't valid
	CodeForbidden           Code = "forbidden"             // the token may not do this
	CodeNotFound            Code = "not-found"             // no such thing, or not for this caller
	CodeMethodNotAllowed    Code = "method-not-allowed"    // the resource doesn't have this method
	CodeNotAcceptable       Code = "not-acceptable"        // no media type that the client accepts is written here
	CodeUnsupportedMedia    Code = "unsupported-media"     // a media type that the operation doesn't read
	CodeRange               Code = "range-not-satisfiable" // the range of bytes that is asked for begins behind the end
	CodeEmptyDocument       Code = "empty-document"        // a document of no bytes can't be notarized
	CodeTooLarge            Code = "too-large"             // above a size limit, which the message states
	CodeDigestMismatch      Code = "digest-mismatch"       // Content-Digest is not the digest of what arrived
	CodeSlowClient          Code = "slow-client"           // the body came below the minimum rate, or not to its end
	CodeCertification       Code = "certification-refused" // the certification statement doesn't hold; the message says why
	CodeIdempotencyMismatch Code = "idempotency-mismatch"  // the Idempotency-Key was used with another request
	CodeOffset              Code = "offset-mismatch"       // a piece that doesn't begin where the upload has come to
	CodeLocked              Code = "upload-locked"         // another request is adding to the upload
	CodeChecksum            Code = "checksum-mismatch"     // a piece isn't what its Upload-Checksum says; nothing of it is kept
	CodeTusVersion          Code = "tus-version"           // Tus-Resumable is missing, or another version of the protocol
	CodeNotYet              Code = "not-yet"               // it exists and will be there later
	CodeNotAnchored         Code = "not-anchored"          // what is asked for takes a block, and none holds it yet
	CodeIntakeStopped       Code = "intake-stopped"        // no new entries until an operator has looked; reading goes on
	CodeUnavailable         Code = "unavailable"           // a dependency is down; nothing was recorded, try again
	CodeTooManyRequests     Code = "too-many-requests"     // slow down; Retry-After says for how long
	CodeInternal            Code = "internal"              // our fault; the log has the rest
)

// Error is a failure that a client may see. Message is for people and never
// holds a secret, a path or the text of another system's error; what caused it
// is in Err, for the log.
type Error struct {
	Code    Code
	Message string
	Err     error
}

// Errorf makes an [Error] without a cause.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Error implements the error interface: message, then the cause.
func (e *Error) Error() string {
	if e.Err != nil {
		return fmt.Sprintf("%s: %v", e.Message, e.Err)
	}
	return e.Message
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// ErrorCode finds the code of err: that of the first [Error] in its chain, or
// [CodeInternal].
func ErrorCode(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return CodeInternal
}
