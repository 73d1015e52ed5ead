// Package calendar asks OpenTimestamps calendars over HTTP: it submits a digest,
// and fetches the rest of the proof later. The format of what they answer is in
// receipt/ots.
//
// A calendar is somebody else's server. Its answers are bounded in size and time,
// read strictly, and never followed to another address; what they prove is for
// the caller to check.
package calendar

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/calpe/calpe/receipt/ots"
)

var (
	// ErrRefused is in the chain of errors that say: what the calendar answered
	// doesn't hold, or isn't what its protocol demands. Asking again doesn't help,
	// unless the calendar is mended.
	ErrRefused = errors.New("refused")
	// ErrNotYet is in the chain of errors that say: it is too early, or the calendar
	// doesn't know the message. Ask again later.
	ErrNotYet = errors.New("not yet")
)

// Config of a [Client]. Zero values take the default in brackets.
type Config struct {
	Timeout   time.Duration     // longest call, with its answer [30 s]
	Transport http.RoundTripper // [one with limits of its own]
}

// Client asks calendars. Each call is one request, with a time-out and a bound on
// its answer; it isn't repeated. It is safe for concurrent use.
type Client struct {
	http    *http.Client
	timeout time.Duration
}

// New makes a client. It contacts nobody.
func New(cfg Config) *Client {
	if cfg.Transport == nil {
		cfg.Transport = &http.Transport{
			Proxy:                  http.ProxyFromEnvironment,
			DialContext:            (&net.Dialer{Timeout: 15 * time.Second}).DialContext,
			TLSHandshakeTimeout:    15 * time.Second,
			IdleConnTimeout:        30 * time.Second,
			MaxResponseHeaderBytes: 16 << 10,
			DisableCompression:     true,
			ForceAttemptHTTP2:      true,
		}
	}
	return &Client{timeout: cmp.Or(cfg.Timeout, 30*time.Second), http: &http.Client{Transport: cfg.Transport,
		// Whoever named the calendar has allowed it: not where it sends on to.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// Close ends the connections that aren't in use.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// ParseURL reads the address of a calendar. Clients put nothing before the host
// and nothing behind the path, so one slash at the end doesn't matter.
func ParseURL(text string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimSuffix(text, "/"))
	if err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
		return nil, errors.New("it is not of the form https://host")
	}
	if u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "" {
		return nil, errors.New("it has a user, a query or a fragment in it")
	}
	u.Host = strings.ToLower(u.Host)
	return u, nil
}

// IsPublic reports whether u, from [ParseURL], is one of the public calendars
// that the reference's client asks: a host below those of opentimestamps.org,
// eternitywall.com and catallaxy.com, by HTTPS.
func IsPublic(u *url.URL) bool {
	return u.Scheme == "https" && u.Port() == "" && u.Path == "" &&
		slices.ContainsFunc([]string{".calendar.opentimestamps.org", ".calendar.eternitywall.com", ".calendar.catallaxy.com"},
			func(suffix string) bool {
				return strings.HasSuffix(u.Hostname(), suffix) && len(u.Hostname()) > len(suffix)
			})
}

// Submit gives a calendar a digest to stamp, and returns its promise: a timestamp
// of it that is pending somewhere, and names no block. The same digest may be
// submitted again. An answer that is no promise is an error with [ErrRefused] in
// its chain.
func (c *Client) Submit(ctx context.Context, base *url.URL, digest []byte) (ots.Timestamp, error) {
	data, err := c.ask(ctx, http.MethodPost, base.JoinPath("digest"), digest)
	if err != nil {
		return ots.Timestamp{}, err
	}
	t, err := ots.ParseTimestamp(digest, data)
	if err != nil {
		return ots.Timestamp{}, fmt.Errorf("%w: its answer: %w", ErrRefused, err)
	}
	if pending, blocks := contents(t); !pending || blocks {
		return ots.Timestamp{}, fmt.Errorf("%w: its answer is no promise to have the rest later", ErrRefused)
	}
	return t, nil
}

// Complete asks a calendar for the rest of what is pending at it: a timestamp of
// the message that names at least one Bitcoin block. That the block holds it is
// not checked. An error has [ErrNotYet] in its chain if the calendar has no such
// thing, and [ErrRefused] if it answers with something else.
func (c *Client) Complete(ctx context.Context, base *url.URL, message []byte) (ots.Timestamp, error) {
	data, err := c.ask(ctx, http.MethodGet, base.JoinPath("timestamp", hex.EncodeToString(message)), nil)
	if err != nil {
		return ots.Timestamp{}, err
	}
	t, err := ots.ParseTimestamp(message, data)
	if err != nil {
		return ots.Timestamp{}, fmt.Errorf("%w: its answer: %w", ErrRefused, err)
	}
	if _, blocks := contents(t); !blocks {
		return ots.Timestamp{}, fmt.Errorf("%w: its answer leads to no Bitcoin block", ErrRefused)
	}
	return t, nil
}

// contents tells which attestations a timestamp has.
func contents(t ots.Timestamp) (pending, blocks bool) {
	for _, a := range t.All() {
		_, isPending := a.Calendar()
		_, isBlock := a.Block()
		pending, blocks = pending || isPending, blocks || isBlock
	}
	return pending, blocks
}

// ask makes one request of a calendar's protocol.
func (c *Client) ask(ctx context.Context, method string, to *url.URL, body []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, c.timeout, fmt.Errorf("no answer within %v", c.timeout))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, to.String(), bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/vnd.opentimestamps.v1")
	req.Header.Set("User-Agent", "calpe")
	if body != nil {
		// What other clients send; the body is the digest's raw bytes all the same.
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, withoutURL(because(ctx, err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, refusal(method, resp)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, ots.MaxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("the answer ended before its end: %w", because(ctx, err))
	}
	if len(data) > ots.MaxAnswer {
		return nil, fmt.Errorf("%w: its answer has more than %d bytes", ErrRefused, ots.MaxAnswer)
	}
	return data, nil
}

// because prefers the reason for which ctx was cancelled.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// withoutURL leaves out the address that net/http puts before its errors: the
// caller names the calendar, and the rest of it is long.
func withoutURL(err error) error {
	if outer, ok := errors.AsType[*url.Error](err); ok {
		return outer.Err
	}
	return err
}

const (
	maxWords    = 160 // bytes of a calendar's words are shown, as by the reference's client
	maxLocation = 500 // bytes of an address are
)

func refusal(method string, resp *http.Response) error {
	if to := resp.Header.Get("Location"); resp.StatusCode/100 == 3 && to != "" {
		return fmt.Errorf("it sends on to %q, which isn't followed: name that one instead if you trust it", to[:min(len(to), maxLocation)])
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxWords))
	said := words(text)
	if err != nil || said == "" {
		said = http.StatusText(resp.StatusCode)
	}
	if resp.StatusCode == http.StatusNotFound && method == http.MethodGet {
		return fmt.Errorf("%w: it says: %s", ErrNotYet, said)
	}
	return fmt.Errorf("it refused: %s (HTTP %d)", said, resp.StatusCode)
}

// words keeps what the reference's client shows of a calendar's answer, so that
// no second line can pretend to be something else.
func words(text []byte) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("#-.,; ", r) {
			return r
		}
		return '_'
	}, strings.TrimRight(string(text), "\r\n")))
}
