package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

const (
	maxAttempts = 6
	firstDelay  = 500 * time.Millisecond
	maxDelay    = 30 * time.Second
	// maxRetryAfter is the longest wait that a service may ask for before it is
	// reported instead.
	maxRetryAfter = 2 * time.Minute
	// idleTimeout ends an attempt in which nothing moves: no byte of the request
	// is taken, or no answer comes. A service stores the whole document before it
	// answers.
	idleTimeout = 2 * time.Minute

	maxAnswer  = 256 << 10
	smallBody  = 64 << 10
	maxProblem = 16 << 10
)

// connection is how to reach a service.
type connection struct {
	Server    string `help:"Address of the service, https://…" variable:"CALPE_SERVER" placeholder:"URL" group:"Service"`
	AllowHTTP bool   `help:"Send the token without encryption to a service on another machine." variable:"CALPE_ALLOW_HTTP" group:"Service"`
}

// credentials are a token, for what isn't public.
type credentials struct {
	Token     string `help:"Token for the service. Others on this machine can see a command line: use the variable or a file." variable:"CALPE_TOKEN" group:"Service"`
	TokenFile string `help:"File that holds the token." variable:"CALPE_TOKEN_FILE" placeholder:"FILE" group:"Service"`
}

// maxToken is far more than any token has.
const maxToken = 4096

// token is the token from wherever it is given.
func (c credentials) token() (string, error) {
	token := c.Token
	switch {
	case c.Token != "" && c.TokenFile != "":
		return "", errors.New("the token is given twice: as a value (--token, CALPE_TOKEN) and as a file (--token-file, CALPE_TOKEN_FILE)")
	case c.TokenFile != "":
		data, err := readFile(c.TokenFile, maxToken)
		if err != nil {
			return "", fmt.Errorf("token: %w", err)
		}
		token = strings.TrimRight(string(data), "\r\n")
	}
	if token == "" {
		return "", errors.New("no token: set CALPE_TOKEN, or CALPE_TOKEN_FILE to a file that holds it; the operator of the service gives you one")
	}
	if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return "", errors.New("the token has a character that no token has, such as a space or a line break")
	}
	return token, nil
}

// service is a Calpe service as its clients see it. Every call has a time-out
// and a bound on its answer, and is retried: each of them is safe to repeat,
// those that record something because of their Idempotency-Key.
type service struct {
	base   *url.URL
	token  string // empty: only what is public
	client *http.Client
	idle   time.Duration
	now    func() time.Time
	wait   func(context.Context, time.Duration) error
	notice func(format string, args ...any)
}

// open makes a service from the flags; it sends nothing. An empty token is for
// what is public.
func (c connection) open(a *app, token string) (*service, error) {
	if c.Server == "" {
		return nil, errors.New("no service: give --server URL or set CALPE_SERVER")
	}
	base, err := url.Parse(c.Server)
	if err != nil || base.Host == "" || base.Scheme != "https" && base.Scheme != "http" {
		return nil, errors.New("--server is not an address of the form https://host")
	}
	if base.User != nil || base.RawQuery != "" || base.Fragment != "" {
		return nil, errors.New("--server has a user, a query or a fragment in it: give only https://host and a path, if there is one")
	}
	if token != "" && base.Scheme == "http" && !isLoopback(base.Hostname()) && !c.AllowHTTP {
		return nil, fmt.Errorf("the token would go to %s without encryption: use https://, or --allow-http where the network is yours", base.Host)
	}
	transport := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:    15 * time.Second,
		ExpectContinueTimeout:  3 * time.Second,
		IdleConnTimeout:        30 * time.Second,
		MaxIdleConnsPerHost:    auditReaders,
		MaxResponseHeaderBytes: 64 << 10,
		ForceAttemptHTTP2:      true,
	}
	return &service{base: base, token: token, idle: idleTimeout, now: a.Now, wait: a.Wait, notice: a.notice,
		client: &http.Client{Transport: transport,
			// A redirect would carry the token and the document to somebody else.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}, nil
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// call is one request that may be made several times.
type call struct {
	what   string // for people: what failed if it fails
	method string
	path   string
	query  url.Values
	header http.Header
	// body opens the body anew for each attempt, and says its length; nil means
	// none.
	body  func() (io.ReadCloser, int64, error)
	limit int64
	got   func(http.Header) // if set, is given the header of the answer
}

// getJSON makes a public or private GET and decodes its answer. Members that
// aren't known are passed over: services grow.
func (s *service) getJSON(ctx context.Context, what, path string, query url.Values, answer any) error {
	data, err := s.do(ctx, call{what: what, method: http.MethodGet, path: path, query: query, limit: maxAnswer})
	if err != nil {
		return err
	}
	return decodeAnswer(what, data, answer)
}

func decodeAnswer(what string, data []byte, answer any) error {
	if err := json.Unmarshal(data, answer); err != nil {
		return fmt.Errorf("%s: the service's answer can't be read: %w", what, err)
	}
	return nil
}

// errUnsent is in the chain of errors that say: no connection was made, so
// nothing of the call can have been applied.
var errUnsent = errors.New("nothing was sent")

// unsent reports whether an attempt ended before there was a connection.
func unsent(err error) bool {
	op, ok := errors.AsType[*net.OpError](err)
	return ok && op.Op == "dial"
}

// do makes the call until there is an answer, or an error that no repetition
// would change, or maxAttempts are used up. A *problem says whether an earlier
// attempt may have been applied; errUnsent, that none was.
func (s *service) do(ctx context.Context, c call) ([]byte, error) {
	doubt := false
	for attempt := 1; ; attempt++ {
		data, err := s.once(ctx, c)
		if err == nil {
			return data, nil
		}
		p, refused := errors.AsType[*problem](err)
		if refused {
			p.Doubt = doubt || p.Status >= 500
		}
		doubt = doubt || !refused && !unsent(err) || refused && p.Doubt
		delay, again := s.retryDelay(err, attempt)
		if !again || ctx.Err() != nil {
			if !doubt && unsent(err) {
				err = fmt.Errorf("%w: %w", errUnsent, err)
			}
			return nil, fmt.Errorf("%s: %w", c.what, err)
		}
		s.notice("%s: %s; trying again in %v", c.what, briefly(err), delay.Round(100*time.Millisecond))
		if err := s.wait(ctx, delay); err != nil {
			return nil, fmt.Errorf("%s: %w", c.what, err)
		}
	}
}

// briefly leaves out what to do: it is being done.
func briefly(err error) string {
	if p, ok := errors.AsType[*problem](err); ok {
		return p.said()
	}
	return err.Error()
}

// retryDelay says whether trying again may help, and when.
func (s *service) retryDelay(err error, attempt int) (time.Duration, bool) {
	if attempt >= maxAttempts || errors.Is(err, errLocal) {
		return 0, false
	}
	backoff := min(firstDelay<<(attempt-1), maxDelay)
	// Spread, so that clients don't come back all at once.
	backoff = backoff/2 + rand.N(backoff/2) // nobody gains by guessing it
	p, ok := errors.AsType[*problem](err)
	if !ok {
		return backoff, true // there was no answer
	}
	switch p.Status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return max(backoff, p.RetryAfter), p.RetryAfter <= maxRetryAfter
	}
	return 0, false
}

// errLocal is in the chain of errors of this side, which no repetition mends.
var errLocal = errors.New("on this machine")

// errIdle is why an attempt in which nothing moved was given up.
var errIdle = errors.New("nothing moved on the connection")

// once makes one attempt.
func (s *service) once(ctx context.Context, c call) ([]byte, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	timer := time.AfterFunc(s.idle, func() { cancel(fmt.Errorf("%w for %v", errIdle, s.idle)) })
	defer timer.Stop()

	req, err := s.request(ctx, c, func() { timer.Reset(s.idle) })
	if err != nil {
		return nil, err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return nil, because(ctx, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return nil, s.readProblem(resp)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, c.limit+1))
	if err != nil {
		return nil, fmt.Errorf("the answer ended before its end: %w", because(ctx, err))
	}
	if int64(len(data)) > c.limit {
		return nil, fmt.Errorf("%w: the answer has more than %d bytes", errLocal, c.limit)
	}
	if c.got != nil {
		c.got(resp.Header)
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

func (s *service) request(ctx context.Context, c call, moved func()) (*http.Request, error) {
	target := s.base.JoinPath(c.path)
	target.RawQuery = c.query.Encode()
	req, err := http.NewRequestWithContext(ctx, c.method, target.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errLocal, err)
	}
	if c.header != nil {
		req.Header = c.header.Clone()
	}
	req.Header.Set("User-Agent", "calpe")
	if req.Header.Get("Accept") == "" {
		req.Header.Set("Accept", "application/json")
	}
	if s.token != "" {
		req.Header.Set("Authorization", "Bearer "+s.token)
	}
	if c.body == nil {
		return req, nil
	}
	body, size, err := c.body()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errLocal, err)
	}
	req.Body, req.ContentLength = &movingBody{body, moved}, size
	if size > smallBody {
		// A service that refuses says so before the document is sent.
		req.Header.Set("Expect", "100-continue")
	}
	return req, nil
}

// movingBody tells whenever the connection has taken some of the body.
type movingBody struct {
	io.ReadCloser
	moved func()
}

func (b *movingBody) Read(p []byte) (int, error) {
	b.moved()
	return b.ReadCloser.Read(p)
}

// retryAfter reads the header of that name: seconds, or a date (RFC 9110,
// 10.2.3).
func (s *service) retryAfter(h http.Header) time.Duration {
	text := h.Get("Retry-After")
	if n, err := strconv.ParseUint(text, 10, 31); err == nil {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(text); err == nil {
		return max(0, t.Sub(s.now()))
	}
	return 0
}
