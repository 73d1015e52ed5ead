package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	"github.com/calpe/calpe"
	"github.com/minio/minio-go/v7"
)

// What a caller can act on, beside [calpe.ErrNotFound] for an object that isn't
// there. All other errors mean that the server didn't do what
// it was asked, or that nobody knows; the method's comment says what to do then.
var (
	// ErrConflict: the object is there with other bytes, or was changed since the
	// caller read it. Nothing was written. Trying again without reading doesn't help.
	// It is a [calpe.ErrExists].
	ErrConflict = fmt.Errorf("object was written by someone else: %w", calpe.ErrExists)
	// ErrLocked: Object Lock keeps the object; it can't be deleted yet.
	ErrLocked = errors.New("object is under Object Lock")
	// ErrCorrupt: what the server gave or stated isn't what was stored. Plaintext
	// that doesn't authenticate is never returned. Look at the storage. It is a
	// [calpe.ErrDamaged].
	ErrCorrupt = fmt.Errorf("object is %w", calpe.ErrDamaged)
)

// ReadError says that the caller's reader failed, not the storage. Nothing of the
// document is left in the bucket, unless the clean-up failed too, which is logged.
type ReadError struct{ Err error }

// Error implements the error interface.
func (e *ReadError) Error() string { return "read document: " + e.Err.Error() }

// Unwrap gives what the reader returned.
func (e *ReadError) Unwrap() error { return e.Err }

// status is the HTTP status of a refusal, or 0 if the server gave no answer that
// could be read.
func status(err error) int {
	if r, ok := errors.AsType[minio.ErrorResponse](err); ok {
		return r.StatusCode
	}
	return 0
}

// code is the S3 error code of a refusal, or "".
func code(err error) string {
	if r, ok := errors.AsType[minio.ErrorResponse](err); ok {
		return r.Code
	}
	return ""
}

func isNotFound(err error) bool {
	switch code(err) {
	case minio.NoSuchKey, minio.NoSuchVersion:
		return true
	}
	return false
}

// isPrecondition reports that If-Match or If-None-Match didn't hold: nothing was
// written by this request.
func isPrecondition(err error) bool { return status(err) == http.StatusPreconditionFailed }

// isRace reports that the server saw two conditional writes at once and refused
// this one (S3's ConditionalRequestConflict): nothing was written by this request.
func isRace(err error) bool { return status(err) == http.StatusConflict }

// isTransient reports whether the same request may succeed a moment later.
func isTransient(ctx context.Context, err error) bool {
	if ctx.Err() != nil || errors.Is(err, ErrCorrupt) {
		return false
	}
	switch code(err) {
	case "RequestTimeout": // S3 sends it with status 400
		return true
	case "ConditionalRequestConflict", "OperationAborted": // two writes met; S3 says: again
		return true
	}
	switch status(err) {
	case 0, http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// describe puts operation and object before an error, and gives a missing object
// its sentinel.
func describe(op, bucket, object string, err error) error {
	if err == nil {
		return nil
	}
	if isNotFound(err) {
		return fmt.Errorf("%s %s/%s: %w (%w)", op, bucket, object, calpe.ErrNotFound, err)
	}
	return fmt.Errorf("%s %s/%s: %w", op, bucket, object, err)
}
