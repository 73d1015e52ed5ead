package s3

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

var (
	errNoAnswer = errors.New("server didn't begin to answer in time")
	errIdle     = errors.New("server stopped sending")
)

// transport adds to http.Transport the time-outs it lacks. A read must be
// answered sooner than a write, for which a server may have to move gigabytes. And a
// server may stop in the middle of an answer's body; a reader who is slow to ask
// for more doesn't count.
type transport struct {
	base   http.RoundTripper
	answer time.Duration // until the headers of the answer to a read
	idle   time.Duration

	observe func(method string, outcome Outcome, took time.Duration) // nil: nobody looks
}

// Outcome says how a request to object storage ended.
type Outcome string

// The outcomes. The first three are ordinary: a missing object is asked for, and a
// create-only write finds its object there.
const (
	OutcomeOK           Outcome = "ok"
	OutcomeNotFound     Outcome = "not-found"
	OutcomePrecondition Outcome = "precondition" // 409, 412, 304: the condition of a write or read doesn't hold
	OutcomeRefused      Outcome = "refused"      // another 4xx
	OutcomeServerError  Outcome = "server-error" // 5xx
	OutcomeNoAnswer     Outcome = "no-answer"    // in time, or at all
	OutcomeCancelled    Outcome = "cancelled"    // by whoever asked
)

// Outcomes lists all of them.
func Outcomes() []Outcome {
	return []Outcome{
		OutcomeOK, OutcomeNotFound, OutcomePrecondition, OutcomeRefused, OutcomeServerError, OutcomeNoAnswer, OutcomeCancelled,
	}
}

func outcomeOf(status int) Outcome {
	switch {
	case status == http.StatusNotFound:
		return OutcomeNotFound
	case status == http.StatusConflict || status == http.StatusPreconditionFailed || status == http.StatusNotModified:
		return OutcomePrecondition
	case status >= 500:
		return OutcomeServerError
	case status >= 400:
		return OutcomeRefused
	}
	return OutcomeOK
}

func newTransport(cfg Config) http.RoundTripper {
	return &transport{answer: cfg.RequestTimeout, idle: cfg.IdleTimeout, observe: cfg.Observe, base: &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           (&net.Dialer{Timeout: 10 * time.Second, KeepAlive: 30 * time.Second}).DialContext,
		TLSHandshakeTimeout:   10 * time.Second,
		TLSClientConfig:       &tls.Config{MinVersion: tls.VersionTLS12},
		ResponseHeaderTimeout: cfg.TransferTimeout,
		IdleConnTimeout:       time.Minute,
		MaxIdleConns:          128,
		MaxIdleConnsPerHost:   128,
		WriteBufferSize:       64 << 10,
		ReadBufferSize:        64 << 10,
		DisableCompression:    true, // a range of an object is a range of its own bytes
	}}
}

// RoundTrip implements [http.RoundTripper].
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if t.observe == nil {
		return t.exchange(req)
	}
	start := time.Now()
	resp, err := t.exchange(req)
	outcome := OutcomeNoAnswer
	switch {
	case err == nil:
		outcome = outcomeOf(resp.StatusCode)
	case req.Context().Err() != nil:
		outcome = OutcomeCancelled
	}
	t.observe(req.Method, outcome, time.Since(start))
	return resp, err
}

func (t *transport) exchange(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	if req.Method == http.MethodGet || req.Method == http.MethodHead {
		timer := time.AfterFunc(t.answer, func() { cancel(errNoAnswer) })
		defer timer.Stop()
	}
	resp, err := t.base.RoundTrip(req.WithContext(ctx))
	if err != nil {
		if errors.Is(context.Cause(ctx), errNoAnswer) {
			err = errNoAnswer
		}
		cancel(err)
		return nil, err
	}
	resp.Body = &idleBody{ReadCloser: resp.Body, idle: t.idle, cancel: cancel}
	return resp, nil
}

// idleBody ends the request if one Read takes longer than idle.
type idleBody struct {
	io.ReadCloser
	idle   time.Duration
	cancel context.CancelCauseFunc
}

func (b *idleBody) Read(p []byte) (int, error) {
	timer := time.AfterFunc(b.idle, func() { b.cancel(errIdle) })
	n, err := b.ReadCloser.Read(p)
	if !timer.Stop() && err != nil && err != io.EOF {
		err = errIdle
	}
	return n, err
}

func (b *idleBody) Close() error {
	err := b.ReadCloser.Close()
	b.cancel(nil)
	return err
}

// requestBody is the body of one attempt of one request. net/http may go on
// reading a body after the request has failed, which must not meet a buffer that
// is in use for something else by then: after revoke, it reads nothing more.
type requestBody struct {
	mu   sync.Mutex
	data *bytes.Reader // nil when revoked
}

func newRequestBody(data []byte) *requestBody { return &requestBody{data: bytes.NewReader(data)} }

func (b *requestBody) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.data == nil {
		return 0, errors.New("request is over")
	}
	return b.data.Read(p)
}

func (b *requestBody) revoke() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.data = nil
}
