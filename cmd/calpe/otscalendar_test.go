package main

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/calendar"
	"github.com/calpe/calpe/receipt/ots"
)

// fakeCalendar is an OpenTimestamps calendar in memory, as the reference's server
// speaks: it promises at once, and has the rest after anchor. It keeps the
// protocol, demands that of its client, and can break it once at a time.
type fakeCalendar struct {
	t     testing.TB
	url   string
	chain *testChain

	mu       sync.Mutex
	pending  [][]byte          // messages that it has promised to complete
	complete map[string][]byte // answers by message in hexadecimal
	faults   []http.HandlerFunc
	asked    []string // method and path of each request
}

func newCalendar(t testing.TB, chain *testChain) *fakeCalendar {
	c := &fakeCalendar{t: t, chain: chain, complete: map[string][]byte{}}
	server := httptest.NewServer(c)
	t.Cleanup(server.Close)
	c.url = server.URL
	return c
}

func (c *fakeCalendar) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if fault := c.next(r); fault != nil {
		fault(w, r)
		return
	}
	if r.Header.Get("Accept") != "application/vnd.opentimestamps.v1" || r.Header.Get("User-Agent") != "calpe" {
		c.t.Errorf("headers are %v", r.Header)
	}
	message, get := strings.CutPrefix(r.URL.Path, "/timestamp/")
	switch {
	case r.Method == http.MethodPost && r.URL.Path == "/digest":
		c.digest(w, r)
	case r.Method == http.MethodGet && get && r.URL.RawQuery == "":
		c.timestamp(w, message)
	default:
		c.t.Errorf("%s %s isn't in the protocol", r.Method, r.URL)
		http.NotFound(w, r)
	}
}

func (c *fakeCalendar) next(r *http.Request) (fault http.HandlerFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = append(c.asked, r.Method+" "+r.URL.Path)
	if len(c.faults) > 0 {
		fault, c.faults = c.faults[0], c.faults[1:]
	}
	return fault
}

func (c *fakeCalendar) fail(faults ...http.HandlerFunc) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.faults = append(c.faults, faults...)
}

func (c *fakeCalendar) digest(w http.ResponseWriter, r *http.Request) {
	if r.ContentLength < 0 || r.ContentLength > 64 || len(r.TransferEncoding) > 0 {
		c.t.Errorf("length %d, %v", r.ContentLength, r.TransferEncoding)
	}
	if got := r.Header.Get("Content-Type"); got != "application/x-www-form-urlencoded" {
		c.t.Errorf("media type %q", got)
	}
	digest, err := io.ReadAll(r.Body)
	if err != nil || len(digest) != 32 {
		c.t.Errorf("digest is %x: %v", digest, err)
	}
	writeTimestamp(w, c.promise(digest))
}

// promise records a digest, and gives the way to its commitment.
func (c *fakeCalendar) promise(digest []byte) ots.Timestamp {
	c.mu.Lock()
	defer c.mu.Unlock()
	nonce := sha256.Sum256(fmt.Appendf(nil, "%s %d", c.url, len(c.pending)))
	ops := []ots.Op{{Tag: ots.Append, Arg: string(nonce[:16])}, {Tag: ots.SHA256},
		{Tag: ots.Prepend, Arg: string(binary.BigEndian.AppendUint32(nil, 1_790_000_000))}, {Tag: ots.Append, Arg: string(nonce[16:24])}}
	a, err := ots.PendingAt(c.url)
	if err != nil {
		c.t.Error(err)
	}
	t, err := ots.NewTimestamp(digest, ops, a)
	if err != nil {
		c.t.Error(err)
	}
	for message := range t.All() {
		c.pending = append(c.pending, message)
	}
	return t
}

// anchor mines a block for each promise that has none, and five behind it.
func (c *fakeCalendar) anchor() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, message := range c.pending {
		root := sha256.Sum256(append(message, "in a block"...))
		c.chain.add(calpe.BlockHash(root))
		c.complete[hex.EncodeToString(message)] = c.rest(message, "in a block", uint64(c.chain.tip()))
	}
	c.pending = nil
	c.chain.mine(5, 7)
}

func (c *fakeCalendar) rest(message []byte, arg string, height uint64) []byte {
	t, err := ots.NewTimestamp(message, []ots.Op{{Tag: ots.Append, Arg: arg}, {Tag: ots.SHA256}}, ots.BitcoinBlock(height))
	if err != nil {
		c.t.Error(err)
	}
	data, err := t.Serialize()
	if err != nil {
		c.t.Error(err)
	}
	return data
}

func (c *fakeCalendar) timestamp(w http.ResponseWriter, message string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if raw, err := hex.DecodeString(message); err != nil || len(raw) != 44 {
		c.t.Errorf("asked for %q", message)
	}
	if answer, ok := c.complete[message]; ok {
		_, _ = w.Write(answer)
		return
	}
	w.Header().Set("Content-Type", "text/plain")
	w.WriteHeader(http.StatusNotFound)
	_, _ = io.WriteString(w, "Pending confirmation in Bitcoin blockchain")
}

func writeTimestamp(w io.Writer, t ots.Timestamp) {
	if data, err := t.Serialize(); err == nil {
		_, _ = w.Write(data)
	}
}

// requests gives what was asked since the last call.
func (c *fakeCalendar) requests() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	asked := c.asked
	c.asked = nil
	return asked
}

// The ways in which a calendar, or what is in between, breaks.

func says(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}

// cutOff drops the connection before an answer: nothing was recorded.
func cutOff(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// recordedThenCutOff drops the connection after the digest was recorded.
func (c *fakeCalendar) recordedThenCutOff(_ http.ResponseWriter, r *http.Request) {
	digest, _ := io.ReadAll(r.Body)
	c.promise(digest)
	panic(http.ErrAbortHandler)
}

// halfAnswer announces more than it sends.
func halfAnswer(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Length", "100")
	_, _ = io.WriteString(w, "\xf0\x10")
}

// slow never answers.
func slow(_ http.ResponseWriter, r *http.Request) {
	_, _ = io.ReadAll(r.Body) // else the server doesn't see the client leave
	<-r.Context().Done()
}

// endless sends for as long as it is read.
func endless(w http.ResponseWriter, r *http.Request) {
	for r.Context().Err() == nil {
		if _, err := w.Write([]byte(strings.Repeat("\xff\x08", 4096))); err != nil {
			return
		}
	}
}

func sendsTo(url string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, url, http.StatusFound) }
}

// The reference's rules of which calendars to ask, and ours.
func TestCalendarPolicy(t *testing.T) {
	t.Parallel()
	id := newService(t).id
	h := &harness{t: t, dir: t.TempDir()}
	h.write("identity.json", id.Canonical())
	none := otsUpgradeCommand{}
	given := otsUpgradeCommand{Calendars: []string{"https://ots.example/", "http://10.0.0.1:14788", "https://ots.example/deep/path"}}
	server := otsUpgradeCommand{Server: "https://notary.gov.example/api"}
	local := otsUpgradeCommand{Server: "http://127.0.0.1:8080"}
	pinned := otsUpgradeCommand{pinning: pinning{Identity: h.path("identity.json")}}
	for _, tc := range []struct {
		c     otsUpgradeCommand
		uri   string
		allow bool
	}{
		{none, "https://alice.btc.calendar.opentimestamps.org", true},
		{none, "https://alice.btc.calendar.opentimestamps.org/", true},
		{none, "https://Finney.Calendar.EternityWall.com", true},
		{none, "https://btc.calendar.catallaxy.com", true},
		{none, "http://alice.btc.calendar.opentimestamps.org", false},
		{none, "https://calendar.opentimestamps.org", false},
		{none, "https://.calendar.opentimestamps.org", false},
		{none, "https://alice.btc.calendar.opentimestamps.org:8443", false},
		{none, "https://alice.btc.calendar.opentimestamps.org/path", false},
		{none, "https://evil.example/.calendar.opentimestamps.org", false},
		{none, "https://evil.example:x.calendar.opentimestamps.org", false},
		{none, "https://calendar.opentimestamps.org.evil.example", false},
		{none, "https://xcalendar.opentimestamps.org", false},
		{none, "file:///etc/passwd", false},
		{none, "http://127.0.0.1:8080", false},
		{none, "", false},
		{none, "//alice.btc.calendar.opentimestamps.org", false},
		{given, "https://ots.example", true},
		{given, "https://ots.example/deep/path", true},
		{given, "https://ots.example/deep", false},
		{given, "http://ots.example", false},
		{given, "https://sub.ots.example", false},
		{given, "http://10.0.0.1:14788/", true},
		{given, "http://10.0.0.1", false},
		{server, "https://notary.gov.example", true},
		{server, "https://notary.gov.example:14788", true},
		{server, "https://ots.notary.gov.example", true},
		{server, "http://notary.gov.example", false},
		{server, "https://gov.example", false},
		{server, "https://notary.gov.example/x", false},
		{server, "https://xnotary.gov.example", false},
		{local, "http://127.0.0.1:14788", true},
		{local, "http://x.127.0.0.1", false},
		{pinned, "https://ots.log.calpe.example", true},
		{pinned, "http://ots.log.calpe.example", false},
		{pinned, "https://ots.calpe.example", false},
		{none, "https://ots.log.calpe.example", false},
	} {
		p, err := tc.c.policy()
		if err != nil {
			t.Fatal(err)
		}
		if _, got := p.allows(tc.uri); got != tc.allow {
			t.Errorf("%q is allowed: %v; given %v, server %q", tc.uri, got, tc.c.Calendars, tc.c.Server)
		}
	}
	top := calendarPolicy{hosts: []trustedHost{{"https", "example"}}}
	if _, ok := top.allows("https://ots.example"); ok {
		t.Error("a host below a top level is allowed")
	}
	for _, text := range []string{"", "ots.example", "ftp://ots.example", "https://", "https://u@ots.example", "https://ots.example?x", "https://ots.example?", "https://ots.example#x", "https://[", "https://ots.example/\x1b"} {
		if u, err := calendar.ParseURL(text); err == nil {
			t.Errorf("%q is taken as %s", text, u)
		}
	}
}
