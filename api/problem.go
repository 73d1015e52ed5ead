package api

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"strconv"

	"github.com/calpe/calpe"
)

// problem is the body of every error answer, RFC 9457. Code repeats the last
// part of Type, for those who'd rather compare a word.
type problem struct {
	Type   string     `json:"type"`
	Title  string     `json:"title"`
	Status int        `json:"status"`
	Detail string     `json:"detail,omitempty"`
	Code   calpe.Code `json:"code"`
}

// statusChecksum is what tus says when Upload-Checksum doesn't hold.
const statusChecksum = 460

// answerOf is the one place where an error code becomes an HTTP answer.
// docs/errors.md has the same table for clients; a test compares them.
var answerOf = map[calpe.Code]struct {
	status     int
	title      string
	retryAfter int // seconds; 0: the header isn't sent
}{
	calpe.CodeInvalidRequest:      {http.StatusBadRequest, "The request can't be read", 0},
	calpe.CodeUnauthorized:        {http.StatusUnauthorized, "A valid token is needed", 0},
	calpe.CodeForbidden:           {http.StatusForbidden, "The token may not do this", 0},
	calpe.CodeNotFound:            {http.StatusNotFound, "There is no such thing", 0},
	calpe.CodeMethodNotAllowed:    {http.StatusMethodNotAllowed, "This resource doesn't have that method", 0},
	calpe.CodeNotAcceptable:       {http.StatusNotAcceptable, "The answer can't be given in that media type", 0},
	calpe.CodeRange:               {http.StatusRequestedRangeNotSatisfiable, "The range is behind the end", 0},
	calpe.CodeUnsupportedMedia:    {http.StatusUnsupportedMediaType, "The media type isn't read here", 0},
	calpe.CodeEmptyDocument:       {http.StatusBadRequest, "The document is empty", 0},
	calpe.CodeTooLarge:            {http.StatusRequestEntityTooLarge, "The request is too large", 0},
	calpe.CodeDigestMismatch:      {http.StatusBadRequest, "What arrived isn't what the digest says", 0},
	calpe.CodeSlowClient:          {http.StatusRequestTimeout, "The request didn't arrive in time", 0},
	calpe.CodeCertification:       {http.StatusUnprocessableEntity, "The certification doesn't hold", 0},
	calpe.CodeIdempotencyMismatch: {http.StatusUnprocessableEntity, "The Idempotency-Key belongs to another request", 0},
	calpe.CodeOffset:              {http.StatusConflict, "The upload has come to another place", 0},
	calpe.CodeLocked:              {http.StatusLocked, "Another request is adding to the upload", 5},
	calpe.CodeChecksum:            {statusChecksum, "The piece isn't what its checksum says", 0},
	calpe.CodeTusVersion:          {http.StatusPreconditionFailed, "Another version of tus is spoken here", 0},
	calpe.CodeNotYet:              {http.StatusNotFound, "It isn't there yet", 5},
	calpe.CodeNotAnchored:         {http.StatusConflict, "No block holds it yet", 5},
	calpe.CodeIntakeStopped:       {http.StatusServiceUnavailable, "No new entries are taken at the moment", 60},
	calpe.CodeUnavailable:         {http.StatusServiceUnavailable, "The service can't do this right now", 5},
	calpe.CodeTooManyRequests:     {http.StatusTooManyRequests, "Too many requests", 1},
	calpe.CodeInternal:            {http.StatusInternalServerError, "Something went wrong on our side", 0},
}

// problemOf is what err means to a client, and how many seconds later another try
// makes sense; 0: never, or nobody knows. Whatever isn't a [calpe.Error] is our
// own fault: the client learns only that, the log gets the rest.
func (s *Server) problemOf(r *http.Request, err error) (problem, int) {
	p := problem{Code: calpe.ErrorCode(err)}
	if e, ok := errors.AsType[*calpe.Error](err); ok {
		p.Detail = e.Message
	}
	a, ok := answerOf[p.Code]
	if !ok {
		p.Code, p.Detail = calpe.CodeInternal, ""
		a = answerOf[p.Code]
	}
	p.Type, p.Title, p.Status = "urn:calpe:error:"+string(p.Code), a.title, a.status
	if later, ok := errors.AsType[*laterError](err); ok {
		a.retryAfter = wholeSeconds(later.after)
	}
	level := slog.LevelInfo
	if p.Status >= 500 {
		level = slog.LevelError
	}
	s.log.LogAttrs(r.Context(), level, "request failed", slog.String("method", r.Method), slog.String("route", routeOf(r)),
		slog.String("code", string(p.Code)), slog.Any("error", err))
	return p, a.retryAfter
}

// fail answers with what err means to a client.
func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	p, retryAfter := s.problemOf(r, err)
	h := w.Header()
	h.Del("ETag") // of what was asked for, which this isn't
	h.Set("Content-Type", "application/problem+json")
	h.Set("Cache-Control", "no-store")
	if p.Status == http.StatusUnauthorized {
		h.Set("WWW-Authenticate", `Bearer realm="calpe"`)
	}
	if retryAfter > 0 && h.Get("Retry-After") == "" { // the handler may know better
		h.Set("Retry-After", strconv.Itoa(retryAfter))
	}
	body, _ := json.Marshal(p) // strings and numbers
	body = append(body, '\n')
	// A client that is still sending sees by its length that this is the whole answer.
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(p.Status)
	// The status is out: a client that is gone can't be told anything more.
	_, _ = w.Write(body)
}
