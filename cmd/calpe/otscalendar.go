package main

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/calpe/calpe/receipt/ots"
)

// calendars asks OpenTimestamps calendars. Each call is one request, with a
// time-out and a bound on its answer; it isn't repeated.
type calendars struct {
	client  *http.Client
	timeout time.Duration
}

func openCalendars(timeout time.Duration) calendars {
	transport := &http.Transport{
		Proxy:                  http.ProxyFromEnvironment,
		DialContext:            (&net.Dialer{Timeout: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:    15 * time.Second,
		IdleConnTimeout:        30 * time.Second,
		MaxResponseHeaderBytes: 16 << 10,
		DisableCompression:     true,
		ForceAttemptHTTP2:      true,
	}
	return calendars{timeout: timeout, client: &http.Client{Transport: transport,
		// A file names a calendar, and the user allows it: not where it sends on to.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

// calendarURL reads the address of a calendar. Clients put nothing before the
// host and nothing behind the path, so one slash at the end doesn't matter.
func calendarURL(text string) (*url.URL, error) {
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

// submit gives a calendar a digest to stamp, and returns its promise: a
// timestamp of it that is pending.
func (c calendars) submit(ctx context.Context, base *url.URL, digest []byte) (ots.Timestamp, error) {
	data, err := c.ask(ctx, http.MethodPost, base.JoinPath("digest"), digest)
	if err != nil {
		return ots.Timestamp{}, err
	}
	t, err := ots.ParseTimestamp(digest, data)
	if err != nil {
		return ots.Timestamp{}, fmt.Errorf("%w: its answer: %w", errRefuted, err)
	}
	if len(pendingAt(t)) == 0 || len(blocksOf(t)) > 0 {
		return ots.Timestamp{}, fmt.Errorf("%w: its answer is no promise to have the rest later", errRefuted)
	}
	return t, nil
}

// complete asks a calendar for the rest of what is pending at it: a timestamp
// that leads to a Bitcoin block. An error has errNotYet in its chain if it is too
// early, or if the calendar doesn't know the message.
func (c calendars) complete(ctx context.Context, base *url.URL, message []byte) (ots.Timestamp, error) {
	data, err := c.ask(ctx, http.MethodGet, base.JoinPath("timestamp", hex.EncodeToString(message)), nil)
	if err != nil {
		return ots.Timestamp{}, err
	}
	t, err := ots.ParseTimestamp(message, data)
	if err != nil {
		return ots.Timestamp{}, fmt.Errorf("%w: its answer: %w", errRefuted, err)
	}
	if len(blocksOf(t)) == 0 {
		return ots.Timestamp{}, fmt.Errorf("%w: its answer leads to no Bitcoin block", errRefuted)
	}
	return t, nil
}

// ask makes one request of a calendar's protocol.
func (c calendars) ask(ctx context.Context, method string, to *url.URL, body []byte) ([]byte, error) {
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
	resp, err := c.client.Do(req)
	if err != nil {
		return nil, withoutURL(because(ctx, err))
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, calendarRefusal(method, resp)
	}
	data, err := io.ReadAll(io.LimitReader(resp.Body, ots.MaxAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("the answer ended before its end: %w", because(ctx, err))
	}
	if len(data) > ots.MaxAnswer {
		return nil, fmt.Errorf("%w: its answer has more than %d bytes", errRefuted, ots.MaxAnswer)
	}
	return data, nil
}

// withoutURL leaves out the address that net/http puts before its errors: the
// caller names the calendar, and the rest of it is long.
func withoutURL(err error) error {
	if outer, ok := errors.AsType[*url.Error](err); ok {
		return outer.Err
	}
	return err
}

// maxRefusal bytes of a calendar's words are shown, as by the reference's client.
const maxRefusal = 160

func calendarRefusal(method string, resp *http.Response) error {
	if to := resp.Header.Get("Location"); resp.StatusCode/100 == 3 && to != "" {
		return fmt.Errorf("it sends on to %s, which isn't followed: give that as --calendar if you trust it", clip(to))
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxRefusal))
	words := calendarWords(text)
	if err != nil || words == "" {
		words = http.StatusText(resp.StatusCode)
	}
	if resp.StatusCode == http.StatusNotFound && method == http.MethodGet {
		return fmt.Errorf("%w: it says: %s", errNotYet, words)
	}
	return fmt.Errorf("it refused: %s (HTTP %d)", words, resp.StatusCode)
}

// calendarWords keeps what the reference's client shows of a calendar's answer,
// so that no second line can pretend to be something else.
func calendarWords(text []byte) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("#-.,; ", r) {
			return r
		}
		return '_'
	}, strings.TrimRight(string(text), "\r\n")))
}
