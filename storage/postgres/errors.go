package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/calpe/calpe"
)

// Error codes of PostgreSQL, appendix A of its manual.
const (
	codeUniqueViolation = "23505"
	codeLockTimeout     = "55P03"
	codeQueryCanceled   = "57014"
	codeReadOnly        = "25006"
	codeIdleTimeout     = "25P03"
)

// Classes of error codes in which the server can't serve, now.
var unavailableClasses = [...]string{"08", "40", "53", "57", "58"}

// translate is the only place that looks into the driver's errors, and never at
// their text: no row and a broken uniqueness become the errors of the root
// package; whatever says that the server can't be reached, is busy, going down
// or a standby becomes a [calpe.Error] with [calpe.CodeUnavailable]. The rest
// stays as it is. what completes "can't …"; errors of the root package that fn
// made on the way keep their identity.
func translate(what string, err error) error {
	if err == nil {
		return nil
	}
	if pe, ok := errors.AsType[*pgconn.PgError](err); ok {
		switch {
		case pe.Code == codeUniqueViolation:
			return fmt.Errorf("%s: %w: %s", what, calpe.ErrExists, pe.ConstraintName)
		case unavailable(pe.Code):
			return unavailableError(what, err)
		}
		return fmt.Errorf("%s: %w", what, err)
	}
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("%s: %w", what, calpe.ErrNotFound)
	case errors.Is(err, context.Canceled):
		return fmt.Errorf("%s: %w", what, err)
	case isTransport(err):
		return unavailableError(what, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

func unavailableError(what string, err error) error {
	if _, ok := errors.AsType[*calpe.Error](err); ok {
		return fmt.Errorf("%s: %w", what, err)
	}
	return &calpe.Error{Code: calpe.CodeUnavailable, Message: "the database is not available", Err: fmt.Errorf("%s: %w", what, err)}
}

func unavailable(code string) bool {
	switch code {
	case codeLockTimeout, codeQueryCanceled, codeReadOnly, codeIdleTimeout:
		return true
	}
	for _, class := range unavailableClasses {
		if strings.HasPrefix(code, class) {
			return true
		}
	}
	return false
}

// isTransport: the connection failed, or the time for it was over.
func isTransport(err error) bool {
	if _, ok := errors.AsType[*pgconn.ConnectError](err); ok {
		return true
	}
	if _, ok := errors.AsType[net.Error](err); ok {
		return true
	}
	return errors.Is(err, context.DeadlineExceeded) || errors.Is(err, io.EOF) ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, pgconn.ErrConnClosed) || pgconn.Timeout(err)
}
