package calendar

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/calpe/calpe/receipt/ots"
)

func TestWords(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"Pending confirmation in Bitcoin blockchain":                   "Pending confirmation in Bitcoin blockchain",
		"Timestamped by transaction ab12; waiting for 3 confirmations": "Timestamped by transaction ab12; waiting for 3 confirmations",
		"Not found\n":          "Not found",
		"a\nb\r\x1b[2Jc\u202e": "a_b___2Jc_",
		"<html>/é\xff":         "_html____",
		"":                     "",
	} {
		if got := words([]byte(text)); got != want {
			t.Errorf("%q is shown as %q, want %q", text, got, want)
		}
	}
}

func TestParseURL(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "ots.example", "ftp://ots.example", "https://", "https://u@ots.example", "https://ots.example?x", "https://ots.example?", "https://ots.example#x", "https://[", "https://ots.example/\x1b"} {
		if u, err := ParseURL(text); err == nil {
			t.Errorf("%q is taken as %s", text, u)
		}
	}
	for text, want := range map[string]bool{
		"https://alice.btc.calendar.opentimestamps.org": true, "https://finney.calendar.EternityWall.com/": true,
		"http://alice.btc.calendar.opentimestamps.org": false, "https://.calendar.opentimestamps.org": false,
		"https://alice.btc.calendar.opentimestamps.org:8443": false, "https://alice.btc.calendar.opentimestamps.org/x": false,
		"https://calendar.opentimestamps.org.example": false,
	} {
		u, err := ParseURL(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := IsPublic(u); got != want {
			t.Errorf("%s is public: %v", text, got)
		}
	}
}

// endless writes until the client goes.
func endless(w http.ResponseWriter, r *http.Request) {
	chunk := make([]byte, 1<<10)
	for r.Context().Err() == nil {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
}

func says(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

func serialize(t *testing.T, message []byte, a ots.Attestation) string {
	t.Helper()
	stamp, err := ots.NewTimestamp(message, nil, a)
	if err != nil {
		t.Fatal(err)
	}
	data, err := stamp.Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// TestAnswers: what hostile and broken calendars answer is an error that says so,
// and none of it is taken.
func TestAnswers(t *testing.T) {
	t.Parallel()
	message := []byte(strings.Repeat("m", 32))
	pending, err := ots.PendingAt("https://calendar.example")
	if err != nil {
		t.Fatal(err)
	}
	promise, block := serialize(t, message, pending), serialize(t, message, ots.BitcoinBlock(7))
	for name, tc := range map[string]struct {
		handler          http.HandlerFunc
		submit, complete error // in the chain; nil: it is taken
		text             string
	}{
		"promise":        {says(200, promise), nil, ErrRefused, "leads to no Bitcoin block"},
		"block":          {says(200, block), ErrRefused, nil, "no promise"},
		"garbage":        {says(200, "garbage"), ErrRefused, ErrRefused, "its answer"},
		"empty":          {says(200, ""), ErrRefused, ErrRefused, "its answer"},
		"trailing":       {says(200, promise+"x"), ErrRefused, ErrRefused, "its answer"},
		"endless":        {endless, ErrRefused, ErrRefused, "more than 10000 bytes"},
		"not found":      {says(404, "Pending confirmation"), errAny, ErrNotYet, ""},
		"internal error": {says(500, "<b>\x1b"), errAny, errAny, "_b__ (HTTP 500)"},
		"too many":       {says(429, ""), errAny, errAny, "Too Many Requests"},
		"sent elsewhere": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.1:1/", http.StatusFound)
		}, errAny, errAny, "isn't followed"},
		"connection cut": {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, errAny, errAny, ""},
		"cut in the body": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "99")
			_, _ = io.WriteString(w, promise)
		}, errAny, errAny, "ended before its end"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := httptest.NewServer(tc.handler)
			defer server.Close()
			base, err := ParseURL(server.URL)
			if err != nil {
				t.Fatal(err)
			}
			c := New(Config{Timeout: time.Minute})
			defer c.Close()
			_, err = c.Submit(t.Context(), base, message)
			judge(t, "submit", err, tc.submit, tc.text)
			_, err = c.Complete(t.Context(), base, message)
			judge(t, "complete", err, tc.complete, tc.text)
		})
	}
}

var errAny = errors.New("any error that is neither of the two")

func judge(t *testing.T, what string, got, want error, text string) {
	t.Helper()
	switch {
	case want == nil && got == nil:
	case got == nil, want == nil:
		t.Errorf("%s: %v, want %v", what, got, want)
	case !strings.Contains(got.Error(), text) || strings.ContainsAny(got.Error(), "\x1b\n"):
		t.Errorf("%s: says %q, want %q in it", what, got, text)
	case want == errAny && (errors.Is(got, ErrRefused) || errors.Is(got, ErrNotYet)), want != errAny && !errors.Is(got, want):
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// TestSilence: a calendar that takes the request and says nothing is left alone.
func TestSilence(t *testing.T) {
	t.Parallel()
	over := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-over }))
	defer server.Close()
	defer close(over)
	base, err := ParseURL(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	c := New(Config{Timeout: 50 * time.Millisecond})
	defer c.Close()
	if _, err := c.Submit(t.Context(), base, []byte("m")); err == nil || !strings.Contains(err.Error(), "no answer within 50ms") {
		t.Errorf("Submit = %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.Complete(ctx, base, []byte("m")); !errors.Is(err, context.Canceled) {
		t.Errorf("Complete = %v", err)
	}
}
