package api

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/ots"
)

// CalendarConfig is what a [Calendar] needs. All fields are required, unless
// they say what stands in for them.
type CalendarConfig struct {
	Intake     Committer
	Entries    Entries
	Anchors    Anchors
	Timestamps Timestamps // nil: there are none
	Proofs     Proofs
	Watermarks Watermarks
	Identity   receipt.Identity
	// URI is the calendar's public address: see [CheckCalendarURI].
	URI string
	// PerMinute is how many digests one client network may have stamped in a
	// minute, Total how many all may.
	PerMinute int
	Total     int
	// Depth is from how many confirmations an anchor is final, for the words in
	// which clients are told to wait.
	Depth uint32
	// TrustedProxies are the reverse proxies whose X-Forwarded-For is believed.
	TrustedProxies []netip.Prefix
	// Observe, if set, is told of each request when it has its answer. It must not block.
	Observe func(Answered)
	Now     func() time.Time // default time.Now
	Logger  *slog.Logger     // default: nothing is logged
}

// The calendar's limits. What clients may cost the database is bounded by the
// number of requests that reach it, not by how many come.
const (
	maxStampedDigest  = 64   // bytes, as the reference server takes
	maxCalendarAtOnce = 2048 // requests that are being answered, some kilobytes each; more than stamps can wait
	maxCalendarReads  = 4    // of them reading from database and object storage: a fraction of the pool
	calendarWait      = 10 * time.Second
)

// Calendar is an OpenTimestamps calendar server over the log: anybody may have
// a digest stamped, without a token, and come back for the rest of the proof.
// It answers as the reference server (opentimestamps-server) does, byte for byte
// as far as clients look; receipt/ots has the format.
//
// It belongs on a listener of its own, at the root of its own host name: clients
// append paths to the host. It is safe for concurrent use. Stamps are answered
// while [Calendar.Run] runs.
type Calendar struct {
	cfg      CalendarConfig
	log      *slog.Logger
	issuer   issuer
	quota    *quota
	requests chan struct{} // a place for each request that is being answered
	reads    chan struct{} // a place for each that reads
	stamps   stampQueue
}

// NewCalendar checks cfg and makes the handler.
func NewCalendar(cfg CalendarConfig) (*Calendar, error) {
	for _, part := range []any{cfg.Intake, cfg.Entries, cfg.Anchors, cfg.Proofs, cfg.Watermarks} {
		if part == nil {
			return nil, errors.New("calendar: a part is missing in its Config")
		}
	}
	if cfg.PerMinute < 1 || cfg.Total < 1 || cfg.Depth < 1 {
		return nil, fmt.Errorf("calendar: %d digests a minute by each network, %d by all, %d confirmations: each must be at least 1", cfg.PerMinute, cfg.Total, cfg.Depth)
	}
	if err := CheckCalendarURI(cfg.URI); err != nil {
		return nil, err
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	return &Calendar{
		cfg: cfg, log: cfg.Logger,
		issuer:   issuer{entries: cfg.Entries, anchors: cfg.Anchors, stamps: cfg.Timestamps, proofs: cfg.Proofs, identity: cfg.Identity},
		quota:    newQuota(cfg.PerMinute, cfg.Total, cfg.Now),
		requests: make(chan struct{}, maxCalendarAtOnce), reads: make(chan struct{}, maxCalendarReads),
		stamps: newStampQueue(cfg.Intake, cfg.Logger),
	}, nil
}

// CheckCalendarURI says what is wrong with the public address of a calendar. It
// is http or https, a host and perhaps a port, and nothing behind: some clients
// drop a path, and others take a slash at the end for another calendar.
func CheckCalendarURI(uri string) error {
	if _, err := ots.PendingAt(uri); err != nil {
		return fmt.Errorf("calendar URI %q: %w", uri, err)
	}
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "" || uri != u.Scheme+"://"+u.Host {
		return fmt.Errorf("calendar URI %q: give the address of a host alone, as https://calendar.example, without a path or a slash at the end", uri)
	}
	return nil
}

// Run records what clients have stamped until ctx is done. It may be called once.
func (c *Calendar) Run(ctx context.Context) error { return c.stamps.run(ctx) }

// ServeHTTP implements [http.Handler]. Paths are compared as they were sent: to
// a client of this protocol an address has one spelling.
func (c *Calendar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	observed(c.cfg.Observe, http.HandlerFunc(c.serve), calendarRoute).ServeHTTP(w, r)
}

// calendarRoute is the kind of address that a request is for.
func calendarRoute(r *http.Request) string {
	switch path := r.URL.EscapedPath(); {
	case path == "/" || path == "/tip" || path == "/digest":
		return path
	case strings.HasPrefix(path, "/timestamp/"):
		return "/timestamp/{entry}"
	}
	return ""
}

func (c *Calendar) serve(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Access-Control-Allow-Origin", "*") // web pages are clients, too
	h.Set("Access-Control-Allow-Methods", "POST, GET")
	select {
	case c.requests <- struct{}{}:
		defer func() { <-c.requests }()
	default:
		busy(w, "1")
		return
	}
	switch r.Method {
	case http.MethodPost:
		c.post(w, r)
	case http.MethodGet, http.MethodHead:
		c.get(w, r)
	case http.MethodOptions: // a browser's preflight
		h.Set("Access-Control-Allow-Headers", "Accept, Content-Type")
		h.Set("Access-Control-Max-Age", "86400")
		w.WriteHeader(http.StatusNoContent)
	default:
		h.Set("Allow", "GET, HEAD, OPTIONS, POST")
		say(w, http.StatusMethodNotAllowed, "", "method not allowed")
	}
}

func (c *Calendar) post(w http.ResponseWriter, r *http.Request) {
	if r.URL.EscapedPath() != "/digest" || hasQuery(r) {
		say(w, http.StatusNotFound, cacheHour, "not found")
		return
	}
	c.postDigest(w, r)
}

func (c *Calendar) get(w http.ResponseWriter, r *http.Request) {
	path := r.URL.EscapedPath()
	entry, isTimestamp := strings.CutPrefix(path, "/timestamp/")
	switch {
	case isTimestamp && hasQuery(r):
		c.getTimestamp(w, r, "?") // which is no hexadecimal digit
	case isTimestamp:
		c.getTimestamp(w, r, entry)
	case path == "/tip" && !hasQuery(r):
		c.getTip(w, r)
	case path == "/" && !hasQuery(r):
		c.getHome(w, r)
	default:
		say(w, http.StatusNotFound, cacheHour, "Not found")
	}
}

func hasQuery(r *http.Request) bool { return r.URL.RawQuery != "" || r.URL.ForceQuery }

// The Cache-Control headers of the reference server. An address that isn't there
// will only be after an update; what is final, or can never be, is so for ever.
const (
	cacheSeconds = "public, max-age=10"
	cacheMinute  = "public, max-age=60"
	cacheHour    = "public, max-age=3600"
	cacheForever = "public, max-age=31536000"
)

// say answers with words. Clients show 160 bytes of them at most, and of those
// letters, digits and "#-.,; " only.
func say(w http.ResponseWriter, status int, cache, text string) {
	write(w, status, "text/plain", cache, []byte(text))
}

func write(w http.ResponseWriter, status int, mediaType, cache string, body []byte) {
	h := w.Header()
	h.Set("Content-Type", mediaType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	if cache != "" {
		h.Set("Cache-Control", cache)
	}
	w.WriteHeader(status)
	// The status is out: a client that is gone can't be told anything more.
	_, _ = w.Write(body)
}

const typeOctets = "application/octet-stream"

// busy says that the calendar can't answer now.
func busy(w http.ResponseWriter, retryAfter string) {
	w.Header().Set("Retry-After", retryAfter)
	say(w, http.StatusServiceUnavailable, "no-store", "The calendar can not answer now; try again later")
}

// fail is for what isn't the client's fault. The log gets the reason, unless it
// is that too many ask, or that the client has gone.
func (c *Calendar) fail(w http.ResponseWriter, r *http.Request, err error) {
	if !errors.Is(err, errBusy) && r.Context().Err() == nil {
		c.log.ErrorContext(r.Context(), "calendar request failed", slog.String("method", r.Method), slog.Any("error", err))
	}
	busy(w, "5")
}

// postDigest has the body, of any media type, stamped. The answer comes when
// the entry is in the log, durably.
func (c *Calendar) postDigest(w http.ResponseWriter, r *http.Request) {
	// A chunked body has -1, a request without the header 0; what is no number
	// at all net/http refuses with 400 itself.
	if r.ContentLength < 0 || r.Header.Get("Content-Length") == "" {
		say(w, http.StatusBadRequest, "", "invalid Content-Length")
		return
	}
	if r.ContentLength > maxStampedDigest {
		say(w, http.StatusBadRequest, "", "digest too long")
		return
	}
	if wait, ok := c.quota.take(network(clientAddress(r, c.cfg.TrustedProxies))); !ok {
		w.Header().Set("Retry-After", retryAfter(wait))
		say(w, http.StatusTooManyRequests, "no-store", "Too many digests from your network, or from everybody together; try again later")
		return
	}
	digest := make([]byte, r.ContentLength)
	if _, err := io.ReadFull(r.Body, digest); err != nil {
		say(w, http.StatusBadRequest, "", "invalid Content-Length")
		return
	}
	body, err := c.stamp(r.Context(), digest)
	if err != nil {
		c.fail(w, r, err)
		return
	}
	write(w, http.StatusOK, typeOctets, "", body)
}

// stamp records a digest and makes the answer. Its salt, which the client
// can't choose, hides from the public log who had the same digest stamped.
func (c *Calendar) stamp(ctx context.Context, digest []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, calendarWait)
	defer cancel()
	var salt calpe.Salt
	rand.Read(salt[:]) // never fails: see crypto/rand
	commitment := calpe.Commitment(sha256.Sum256(append(digest, salt[:]...)))
	index, err := c.stamps.record(ctx, commitment)
	if err != nil {
		return nil, err
	}
	t, err := ots.Stamp(digest, salt, index, c.cfg.URI)
	if err != nil {
		return nil, err
	}
	return t.Serialize()
}

// entrySize is that of an entry as the log has it: the message that clients
// come back with.
const entrySize = 8 + calpe.HashSize

// getTimestamp gives the rest of the way from an entry to its block. Any entry
// of the log has one, whoever submitted it.
func (c *Calendar) getTimestamp(w http.ResponseWriter, r *http.Request, text string) {
	message, err := hex.DecodeString(text)
	if err != nil {
		say(w, http.StatusBadRequest, cacheForever, "commitment must be hex-encoded bytes")
		return
	}
	leave, err := c.enter(r.Context())
	if err != nil {
		c.fail(w, r, err)
		return
	}
	defer leave()
	body, wait, err := c.timestamp(r.Context(), message)
	switch {
	case err != nil:
		c.fail(w, r, err)
	case wait != "":
		say(w, http.StatusNotFound, cacheMinute, wait)
	default:
		write(w, http.StatusOK, typeOctets, cacheForever, body)
	}
}

// enter waits for a place among those who read.
func (c *Calendar) enter(ctx context.Context) (leave func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, calendarWait)
	defer cancel()
	select {
	case c.reads <- struct{}{}:
		return func() { <-c.reads }, nil
	case <-ctx.Done():
		return nil, errBusy
	}
}

// timestamp is the proof of an entry, or why there is none to be had, in the
// words of the reference server.
func (c *Calendar) timestamp(ctx context.Context, message []byte) (body []byte, wait string, err error) {
	entry, ok, err := c.entry(ctx, message)
	if err != nil {
		return nil, "", err
	}
	if !ok {
		return nil, "Not found", nil
	}
	a, stamp, err := c.issuer.best(ctx, entry.Index)
	switch {
	case err != nil:
		return nil, "", err
	case stamp != nil && stamp.Final:
		body, err = c.complete(ctx, entry, nil, stamp)
		return body, "", err
	case a == nil:
		return nil, "Pending confirmation in Bitcoin blockchain", nil
	case !a.Final:
		more := 1
		if a.Depth < c.cfg.Depth {
			more = int(c.cfg.Depth - a.Depth)
		}
		return nil, fmt.Sprintf("Timestamped by transaction %s; waiting for %d confirmations", a.TxID, more), nil
	}
	body, err = c.complete(ctx, entry, a, nil)
	return body, "", err
}

// entry is the entry that the message is, if the log has it.
func (c *Calendar) entry(ctx context.Context, message []byte) (calpe.Entry, bool, error) {
	if len(message) != entrySize || binary.BigEndian.Uint64(message) >= calpe.MaxLogSize {
		return calpe.Entry{}, false, nil
	}
	asked := calpe.Entry{Index: binary.BigEndian.Uint64(message), Commitment: calpe.Commitment(message[8:])}
	found, err := c.cfg.Entries.Entry(ctx, asked.Index)
	if errors.Is(err, calpe.ErrNotFound) {
		return calpe.Entry{}, false, nil
	}
	return found, err == nil && found == asked, err
}

// complete is the way from an entry to the block of a final anchor or timestamp.
func (c *Calendar) complete(ctx context.Context, entry calpe.Entry, a *calpe.Anchor, stamp *calpe.Timestamp) ([]byte, error) {
	t, err := c.issuer.anchoredTree(ctx, a, stamp)
	if err != nil {
		return nil, err
	}
	path, err := c.issuer.path(ctx, entry, t)
	if err != nil {
		return nil, err
	}
	var proof ots.Timestamp
	if a != nil {
		proof, err = ots.Complete(entry, path, *a)
	} else {
		proof, err = ots.CompleteBy(entry, path, *stamp)
	}
	if err != nil {
		return nil, err
	}
	body, err := proof.Serialize()
	if err == nil && len(body) > ots.MaxAnswer {
		err = fmt.Errorf("the proof of entry %d has %d bytes, clients take %d", entry.Index, len(body), ots.MaxAnswer)
	}
	return body, err
}

// getTip gives the root of the newest tree that was sent to Bitcoin and isn't in
// a block yet.
func (c *Calendar) getTip(w http.ResponseWriter, r *http.Request) {
	leave, err := c.enter(r.Context())
	if err != nil {
		c.fail(w, r, err)
		return
	}
	defer leave()
	marks, err := c.cfg.Watermarks.Watermarks(r.Context())
	if err != nil {
		c.fail(w, r, err)
		return
	}
	if marks.Broadcast <= marks.Confirmed {
		say(w, http.StatusNotFound, "", "")
		return
	}
	cp, err := c.cfg.Entries.CheckpointAt(r.Context(), marks.Broadcast)
	switch {
	case errors.Is(err, calpe.ErrNotFound): // the database was restored, and its rows are from before
		say(w, http.StatusNotFound, "", "")
	case err != nil:
		c.fail(w, r, err)
	default:
		write(w, http.StatusOK, typeOctets, cacheSeconds, cp.Root[:])
	}
}

// getHome tells people what this is.
func (c *Calendar) getHome(w http.ResponseWriter, r *http.Request) {
	leave, err := c.enter(r.Context())
	if err != nil {
		c.fail(w, r, err)
		return
	}
	defer leave()
	marks, err := c.cfg.Watermarks.Watermarks(r.Context())
	if err != nil {
		c.fail(w, r, err)
		return
	}
	text := fmt.Sprintf("This is an OpenTimestamps calendar, https://opentimestamps.org.\n\n"+
		"address    %s\nlog        %s\nidentity   %s\nnetwork    %s\nentries    %d\nfinal      %d\n\n"+
		"To stamp a file:     ots stamp -c %s -m 1 FILE\nand an hour later:   ots -l %s upgrade FILE.ots\n",
		c.cfg.URI, c.cfg.Identity.Origin, c.cfg.Identity.Hash(), c.cfg.Identity.Network, marks.Next, marks.Final, c.cfg.URI, c.cfg.URI)
	if c.cfg.Identity.Network != calpe.Mainnet {
		text += "\nThis is a test network: its timestamps have no evidential value.\n"
	}
	write(w, http.StatusOK, "text/plain; charset=utf-8", cacheSeconds, []byte(text))
}
