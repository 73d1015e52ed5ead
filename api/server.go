// Package api is Calpe's HTTP interface: routes, limits, authentication, error
// answers, and the read side of the public log. What an upload means is in
// package intake; here is only how it is said over HTTP.
//
// Every answer that isn't a success is problem+json with a stable code
// (docs/errors.md). Every body is bounded in size and time.
package api

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/intake"
	"github.com/calpe/calpe/receipt"
)

// Intake takes documents and commitments, and gives documents back.
type Intake interface {
	Upload(ctx context.Context, u intake.Upload) (intake.Uploaded, error)
	Commit(ctx context.Context, c intake.Commitments) (intake.Recorded, error)
	// Committed is the answer that Commit gave under an owner's Idempotency-Key for
	// the group at that offset; CodeNotFound if there was none.
	Committed(ctx context.Context, owner, key string, offset uint64) (intake.Recorded, error)
	// Document gives a document to its owner; for anybody else it is
	// CodeNotFound, as if there were none.
	Document(ctx context.Context, id calpe.DocumentID, owner string) (intake.Document, error)
	Content(ctx context.Context, id calpe.DocumentID, owner string, offset, length int64) (io.ReadCloser, error)
}

// Dependency is something that the server needs in order to work.
type Dependency struct {
	Name string
	// Check returns nil while the dependency works. It must respect ctx. While it
	// has yet to start, the error is an [ErrStarting].
	Check func(ctx context.Context) error
}

// ErrStarting is in the chain of the error of a [Dependency] that is at what it
// does at each start: it isn't ready, and nothing is wrong.
var ErrStarting = errors.New("starting")

// Config is what a [Server] needs. All fields are required, unless they say
// what stands in for them.
type Config struct {
	Intake           Intake
	Partials         Partials
	Catalog          Catalog
	Tokens           Tokens
	Entries          Entries
	Anchors          Anchors
	Proofs           Proofs
	Acknowledgements Acknowledgements
	Agencies         Agencies
	Watermarks       Watermarks
	Timestamps       Timestamps // nil: there are none
	Treasury         Treasury   // nil: the log has no coins, and nothing is said of funds
	Stamping         Stamper    // nil: no calendars anchor the log
	Objects          LogObjects
	Identity         receipt.Identity
	Ready            []Dependency
	MaxDocument      int64    // bytes
	Pace             Pace     // defaults where it is zero
	Streams          Streams  // defaults where it is zero
	Schedule         Schedule // what is zero isn't spoken of
	// CalendarURI is where OpenTimestamps clients can ask for the rest of a
	// timestamp whose entry no block holds yet: it stands in .ots files from before.
	// Empty: there are none from before.
	CalendarURI string
	// Finder is behind /v1/find; nil: there is no /v1/find. FindPerMinute is what one
	// client network may ask of it (default 30), FindTotal what all may (default 600).
	Finder        Finder
	FindPerMinute int
	FindTotal     int
	// Uploads is how many requests with many commitments are read at a time; each
	// takes up to 5 MiB. Default 64. Accounts bounds each owner.
	Uploads  int
	Accounts AccountLimits
	// TrustedProxies are the reverse proxies whose X-Forwarded-For is believed.
	TrustedProxies []netip.Prefix
	// Observe, if set, is told of each request when it has its answer. It must not block.
	Observe func(Answered)
	Now     func() time.Time
	Logger  *slog.Logger
}

// Server answers HTTP requests. It is safe for concurrent use.
type Server struct {
	cfg      Config
	log      *slog.Logger
	issuer   issuer
	finds    *quota
	follower *follower
	accounts *accounts
	uploads  chan struct{} // a place for each request with many commitments
	docs     []byte        // the page of openapi.json
	home     home
	up       upLog
	routes   *chi.Mux
}

// New checks cfg and makes the handler.
func New(cfg Config) (*Server, error) {
	for _, part := range []any{cfg.Intake, cfg.Partials, cfg.Catalog, cfg.Tokens, cfg.Entries, cfg.Anchors, cfg.Proofs,
		cfg.Acknowledgements, cfg.Agencies, cfg.Watermarks, cfg.Objects} {
		if part == nil {
			return nil, errors.New("api: a part of the server is missing in its Config")
		}
	}
	if cfg.MaxDocument <= 0 {
		return nil, errors.New("api: MaxDocument must be positive")
	}
	if cfg.FindPerMinute < 0 || cfg.FindTotal < 0 {
		return nil, errors.New("api: FindPerMinute and FindTotal must be positive")
	}
	if a := cfg.Accounts; cfg.Uploads < 0 || min(a.EntriesPerSecond, a.EntriesPerDay, a.BytesPerSecond, a.BytesPerDay, int64(a.Uploads)) < 0 {
		return nil, errors.New("api: Uploads and the limits of accounts can't be negative")
	}
	if cfg.CalendarURI != "" {
		if err := CheckCalendarURI(cfg.CalendarURI); err != nil {
			return nil, fmt.Errorf("api: %w", err)
		}
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	cfg.Uploads, cfg.Accounts.Uploads = cmp.Or(cfg.Uploads, 64), cmp.Or(cfg.Accounts.Uploads, 4)
	cfg.Pace, cfg.Streams = cfg.Pace.withDefaults(), cfg.Streams.withDefaults()
	if err := cfg.Identity.Validate(); err != nil {
		return nil, err
	}
	s := &Server{cfg: cfg, log: cfg.Logger, uploads: make(chan struct{}, cfg.Uploads), accounts: newAccounts(cfg.Accounts, cfg.Now)}
	s.follower = newFollower(cfg.Watermarks, cfg.Streams, cfg.Logger)
	s.issuer = issuer{
		entries: cfg.Entries, anchors: cfg.Anchors, stamps: cfg.Timestamps, proofs: cfg.Proofs, acks: cfg.Acknowledgements,
		agencies: cfg.Agencies, identity: cfg.Identity,
	}
	s.finds = newQuota(cmp.Or(cfg.FindPerMinute, defaultFindPerMinute), cmp.Or(cfg.FindTotal, defaultFindTotal), cfg.Now)
	var err error
	if s.docs, err = renderDocs(openAPI); err != nil {
		return nil, err
	}
	if s.home, err = renderHome(cfg.Identity); err != nil {
		return nil, err
	}
	s.up = upLog{since: cfg.Now(), seen: map[string]bool{}}
	s.routes = s.route()
	return s, nil
}

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.routes.ServeHTTP(w, r) }

// route says what is where. openapi.json describes the same; a test compares
// them. Whatever has a GET has a HEAD.
func (s *Server) route() *chi.Mux {
	mux := chi.NewRouter()
	mux.Use(s.observe, s.recoverPanic, s.secureHeaders, s.boundBodies, overrideMethod, middleware.GetHead)
	mux.NotFound(s.handle(func(http.ResponseWriter, *http.Request) error {
		return calpe.Errorf(calpe.CodeNotFound, "There is nothing at this address.")
	}))
	mux.MethodNotAllowed(s.handle(func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("Allow", allowed(mux, r.URL.Path))
		return calpe.Errorf(calpe.CodeMethodNotAllowed, "This resource doesn't have that method.")
	}))

	mux.Get("/", s.handle(s.getHome))
	mux.Get("/livez", s.handle(s.live))
	mux.Get("/readyz", s.handle(s.ready))
	mux.Get("/openapi.json", s.handle(s.getDescription))
	mux.Get("/docs", s.handle(s.getDocs))
	mux.Get("/docs/style.css", s.handle(s.getStyle))

	mux.Get("/v1/documents", s.handle(s.getDocuments))
	mux.Post("/v1/documents", s.handle(s.postDocument))
	mux.Get("/v1/documents/{id}", s.handle(s.getDocument))
	mux.Get("/v1/documents/{id}/receipt", s.handle(s.getReceipt))
	mux.Get("/v1/documents/{id}/content", s.handle(s.getContent))
	mux.Get("/v1/documents/{id}/events", s.handle(s.getDocumentEvents))
	s.routeUploads(mux)
	mux.Get("/v1/commitments", s.handle(s.getCommitments))
	mux.Post("/v1/commitments", s.handle(s.postCommitments))
	mux.Get("/v1/entries/{index}", s.handle(s.getEntry))
	mux.Get("/v1/entries/{index}/events", s.handle(s.getEntryEvents))
	if s.cfg.Finder != nil {
		mux.Get("/v1/find", s.handle(s.getFind))
	}
	mux.Get("/v1/anchors", s.handle(s.getAnchors))
	mux.Get("/v1/anchors/{txid}", s.handle(s.getAnchor))
	mux.Get("/v1/identity", s.handle(s.getIdentity))
	mux.Get("/v1/status", s.handle(s.getStatus))

	mux.Get("/log/checkpoint", s.handle(s.getCheckpoint))
	mux.Get("/log/tile/*", s.handle(s.getTile))
	mux.Get("/log/anchors/*", s.handle(s.getAnchorPage))
	return mux
}

// allowed is the Allow header of a path (RFC 9110, 10.2.1).
func allowed(mux *chi.Mux, path string) string {
	var methods []string
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPatch, http.MethodDelete, http.MethodOptions} {
		if !mux.Match(chi.NewRouteContext(), method, path) {
			continue
		}
		methods = append(methods, method)
		if method == http.MethodGet {
			methods = append(methods, http.MethodHead)
		}
	}
	return strings.Join(methods, ", ")
}

// handlerFunc answers the request, or returns why it can't. It must not have
// written anything when it returns an error.
type handlerFunc func(w http.ResponseWriter, r *http.Request) error

func (s *Server) handle(h handlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if err := h(w, r); err != nil {
			s.fail(w, r, err)
		}
	}
}

// recoverPanic keeps one request's defect from being everybody's. A handler
// that aborts on purpose (a body that broke off after its header) passes.
func (s *Server) recoverPanic(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if err, ok := v.(error); ok && errors.Is(err, http.ErrAbortHandler) {
				panic(v)
			}
			s.log.ErrorContext(r.Context(), "request panicked", slog.String("route", routeOf(r)),
				slog.Any("panic", v), slog.String("stack", string(debug.Stack())))
			s.fail(w, r, calpe.Errorf(calpe.CodeInternal, ""))
		}()
		next.ServeHTTP(w, r)
	})
}

// secureHeaders says on every answer what nobody should do with it.
func (s *Server) secureHeaders(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'")
		h.Set("Referrer-Policy", "no-referrer")
		next.ServeHTTP(w, r)
	})
}

// routeOf is the pattern that the request matched: a log line must not hold
// what a client put into the path.
func routeOf(r *http.Request) string {
	if c := chi.RouteContext(r.Context()); c != nil {
		return c.RoutePattern()
	}
	return ""
}

func writeJSON(w http.ResponseWriter, status int, v any) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	if w.Header().Get("Cache-Control") == "" {
		w.Header().Set("Cache-Control", "no-store")
	}
	w.WriteHeader(status)
	// The status is out: a client that is gone can't be told anything more.
	_, _ = w.Write(append(body, '\n'))
	return nil
}

// maxReadyCheck bounds each dependency's check: a load balancer asks often.
const maxReadyCheck = 3 * time.Second

// live says that the process runs; it asks nobody else.
func (s *Server) live(w http.ResponseWriter, _ *http.Request) error {
	return writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}

type readiness struct {
	Status string            `json:"status"`
	Checks map[string]string `json:"checks"`
}

// ready names each dependency and whether it works. Why one doesn't is in the
// log: an error's text may name hosts.
func (s *Server) ready(w http.ResponseWriter, r *http.Request) error {
	answer := readiness{Status: "ok", Checks: map[string]string{}}
	status := http.StatusOK
	type result struct {
		name string
		err  error
	}
	results := make(chan result, len(s.cfg.Ready))
	for _, d := range s.cfg.Ready {
		go func() {
			ctx, cancel := context.WithTimeout(r.Context(), maxReadyCheck)
			defer cancel()
			results <- result{d.Name, d.Check(ctx)}
		}()
	}
	for range s.cfg.Ready {
		got := <-results
		answer.Checks[got.name] = "ok"
		if got.err != nil {
			answer.Checks[got.name], answer.Status, status = "down", "down", http.StatusServiceUnavailable
		}
		s.up.note(r.Context(), s.log, s.cfg.Now(), got.name, got.err)
	}
	return writeJSON(w, status, answer)
}

// startGrace is how long after the server's own start a dependency may be
// starting before that is a warning.
const startGrace = time.Minute

// upLog writes down which dependencies don't work. Safe for concurrent use.
type upLog struct {
	since time.Time // the server's start
	mu    sync.Mutex
	seen  map[string]bool // those that have worked since
}

func (l *upLog) note(ctx context.Context, log *slog.Logger, now time.Time, name string, err error) {
	l.mu.Lock()
	wasUp := l.seen[name]
	if err == nil {
		l.seen[name] = true
	}
	l.mu.Unlock()
	attrs := []slog.Attr{slog.String("dependency", name), slog.Any("error", err)}
	switch {
	case err == nil:
	case errors.Is(err, ErrStarting) && !wasUp && now.Sub(l.since) < startGrace:
		log.LogAttrs(ctx, slog.LevelInfo, "dependency is starting", attrs...)
	default:
		log.LogAttrs(ctx, slog.LevelWarn, "dependency is down", attrs...)
	}
}

func (s *Server) getIdentity(w http.ResponseWriter, _ *http.Request) error {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "public, max-age=3600")
	_, _ = w.Write(s.cfg.Identity.Canonical())
	return nil
}
