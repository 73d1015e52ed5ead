package api_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/api"
	"github.com/calpe/calpe/intake"
	"github.com/calpe/calpe/receipt/ots"
)

const calendarURI = "https://calendar.example"

// calendarWorld is a world with a calendar. Its intake records one submission
// after the other, in the order in which they came, as the real one does.
type calendarWorld struct {
	*world
	calendar *api.Calendar

	mu     sync.Mutex    // held by the submission that is being recorded; guards the world
	slow   chan struct{} // if not nil, each submission takes one out before it is recorded
	fail   error         // of the next submission
	after  bool          // it is recorded before it fails
	owners []string      // of the submissions as they came
	sizes  []int         // of the submissions as they were recorded
	queued []string      // owners of those that wait
	queue  sync.Mutex    // guards owners and queued
}

func newCalendarWorld(t *testing.T, edit ...func(*api.CalendarConfig)) *calendarWorld {
	t.Helper()
	return calendarOver(t, newWorld(t), edit...)
}

// calendarOver puts a calendar into a world that is there.
func calendarOver(t *testing.T, base *world, edit ...func(*api.CalendarConfig)) *calendarWorld {
	t.Helper()
	w := &calendarWorld{world: base}
	cfg := api.CalendarConfig{
		Intake: w, Entries: w, Anchors: w, Proofs: w, Watermarks: w, Identity: w.identity, URI: calendarURI,
		PerMinute: 60, Total: 600, Depth: 6, Now: time.Now, Logger: w.config.Logger,
	}
	for _, e := range edit {
		e(&cfg)
	}
	var err error
	if w.calendar, err = api.NewCalendar(cfg); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *calendarWorld) Commit(ctx context.Context, c intake.Commitments) (intake.Recorded, error) {
	w.queue.Lock()
	w.owners, w.queued = append(w.owners, c.Owner), append(w.queued, c.Owner)
	w.queue.Unlock()
	if w.slow != nil {
		<-w.slow
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue.Lock()
	w.queued = w.queued[1:]
	w.queue.Unlock()
	err := w.fail
	w.fail = nil
	if err != nil && !w.after {
		return intake.Recorded{}, err
	}
	w.sizes = append(w.sizes, len(c.Commitments))
	recorded, _ := w.world.Commit(ctx, c)
	if err != nil {
		return intake.Recorded{}, err
	}
	return recorded, nil
}

// Entry demands what a database can be asked.
func (w *calendarWorld) Entry(ctx context.Context, index uint64) (calpe.Entry, error) {
	if index >= calpe.MaxLogSize {
		return calpe.Entry{}, errors.New("no log has that index")
	}
	return w.world.Entry(ctx, index)
}

// run has the calendar record, until the test's end.
func (w *calendarWorld) run(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.calendar.Run(ctx) }()
	return func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
}

func calendarRequest(method, target, body string) *http.Request {
	r := httptest.NewRequest(method, target, strings.NewReader(body))
	r.Header.Set("Content-Length", fmt.Sprint(len(body))) // as a server's request has it
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return r
}

func (w *calendarWorld) serve(r *http.Request) answer {
	rec := httptest.NewRecorder()
	w.calendar.ServeHTTP(rec, r)
	return answer{rec.Code, rec.Header(), rec.Body.Bytes()}
}

func (w *calendarWorld) ask(method, target, body string) answer {
	return w.serve(calendarRequest(method, target, body))
}

func (w *calendarWorld) from(address, body string) answer {
	r := calendarRequest("POST", "/digest", body)
	r.RemoteAddr = address
	return w.serve(r)
}

// stampBytes is what a calendar answers, written out.
func stampBytes(salt []byte, index uint64) []byte {
	b := append([]byte{0xf0, 16}, salt...)
	b = append(b, 0x08, 0xf1, 8)
	b = binary.BigEndian.AppendUint64(b, index)
	b = append(b, 0x00, 0x83, 0xdf, 0xe3, 0x0d, 0x2e, 0xf9, 0x0c, 0x8e, byte(len(calendarURI)+1), byte(len(calendarURI)))
	return append(b, calendarURI...)
}

func TestCalendarStamps(t *testing.T) {
	for _, size := range []int{0, 1, 20, 32, 64} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newCalendarWorld(t)
				defer w.run(t)()
				digest := strings.Repeat("\xa5", size)
				a := w.ask("POST", "/digest", digest)
				if a.status != http.StatusOK || len(a.body) < 18 {
					t.Fatalf("%d %q", a.status, a.body)
				}
				salt := a.body[2:18]
				if diff := cmp.Diff(stampBytes(salt, 1), a.body); diff != "" {
					t.Errorf("the answer (-want +got):\n%s", diff)
				}
				if want := calpe.Commitment(sha256.Sum256(append([]byte(digest), salt...))); w.entries[1].Commitment != want {
					t.Errorf("the log holds %v, want SHA-256(digest || salt)", w.entries[1].Commitment)
				}
				if _, err := ots.ParseTimestamp([]byte(digest), a.body); err != nil {
					t.Error(err)
				}
				want := http.Header{
					"Content-Type": {"application/octet-stream"}, "Content-Length": {fmt.Sprint(len(a.body))}, "X-Content-Type-Options": {"nosniff"},
					"Access-Control-Allow-Origin": {"*"}, "Access-Control-Allow-Methods": {"POST, GET"},
				}
				if diff := cmp.Diff(want, a.header); diff != "" {
					t.Errorf("headers (-want +got):\n%s", diff)
				}
				if diff := cmp.Diff([]string{api.CalendarOwner}, w.owners); diff != "" {
					t.Errorf("owners: %s", diff)
				}
			})
		})
	}
}

// The same digest gets another entry each time: nobody can tell from the log
// that it is the same.
func TestCalendarSalts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCalendarWorld(t)
		defer w.run(t)()
		one, two := w.ask("POST", "/digest", "same"), w.ask("POST", "/digest", "same")
		if one.status != 200 || two.status != 200 || bytes.Equal(one.body[2:18], two.body[2:18]) || w.entries[1].Commitment == w.entries[2].Commitment {
			t.Errorf("%d %x, %d %x", one.status, one.body, two.status, two.body)
		}
	})
}

// said is all that a client sees of an answer in words.
type said struct {
	status int
	cache  string
	body   string
}

func (a answer) said(t *testing.T) said {
	t.Helper()
	if got := a.header.Get("Content-Type"); got != "text/plain" {
		t.Errorf("Content-Type %q", got)
	}
	if got := a.header.Get("Content-Length"); got != fmt.Sprint(len(a.body)) {
		t.Errorf("Content-Length %s of %d bytes", got, len(a.body))
	}
	if a.header.Get("Access-Control-Allow-Origin") != "*" {
		t.Error("a web page may not read the answer")
	}
	return said{a.status, a.header.Get("Cache-Control"), string(a.body)}
}

func TestCalendarWords(t *testing.T) {
	const hour, year = "public, max-age=3600", "public, max-age=31536000"
	notHex := said{400, year, "commitment must be hex-encoded bytes"}
	entry := "/timestamp/" + strings.Repeat("00", 40)
	for _, c := range []struct {
		method, target, body string
		want                 said
	}{
		{"POST", "/digest", strings.Repeat("x", 65), said{400, "", "digest too long"}},
		{"POST", "/digest", strings.Repeat("x", 1<<20), said{400, "", "digest too long"}},
		{"POST", "/digest/", "x", said{404, hour, "not found"}},
		{"POST", "/digest?x", "x", said{404, hour, "not found"}},
		{"POST", "/digest?", "x", said{404, hour, "not found"}},
		{"POST", "//digest", "x", said{404, hour, "not found"}},
		{"POST", "/%64igest", "x", said{404, hour, "not found"}},
		{"POST", "/", "x", said{404, hour, "not found"}},
		{"GET", "/digest", "", said{404, hour, "Not found"}},
		{"GET", "/nowhere", "", said{404, hour, "Not found"}},
		{"GET", "/timestamp", "", said{404, hour, "Not found"}},
		{"GET", "/tip?x=1", "", said{404, hour, "Not found"}},
		{"GET", "/?x=1", "", said{404, hour, "Not found"}},
		{"GET", "/experimental/backup/0", "", said{404, hour, "Not found"}},
		{"GET", "/timestamp/0g", "", notHex},
		{"GET", "/timestamp/abc", "", notHex},
		{"GET", "/timestamp/00/00", "", notHex},
		{"GET", "/timestamp/%30%30", "", notHex},
		{"GET", entry + "?x=1", "", notHex},
		{"GET", entry + "?", "", notHex},
		{"PUT", "/digest", "x", said{405, "", "method not allowed"}},
		{"DELETE", entry, "", said{405, "", "method not allowed"}},
	} {
		w := newCalendarWorld(t)
		a := w.ask(c.method, c.target, c.body)
		if got := a.said(t); got != c.want {
			t.Errorf("%s %s: %+v, want %+v", c.method, c.target, got, c.want)
		}
		if c.want.status == 405 && a.header.Get("Allow") != "GET, HEAD, OPTIONS, POST" {
			t.Errorf("Allow: %q", a.header.Get("Allow"))
		}
		if len(w.owners) > 0 {
			t.Errorf("%s %s: something was recorded", c.method, c.target)
		}
	}
}

func TestCalendarPreflight(t *testing.T) {
	a := newCalendarWorld(t).ask("OPTIONS", "/digest", "")
	if a.status != http.StatusNoContent || len(a.body) > 0 || a.header.Get("Access-Control-Allow-Headers") != "Accept, Content-Type" ||
		a.header.Get("Access-Control-Allow-Methods") != "POST, GET" || a.header.Get("Access-Control-Allow-Origin") != "*" {
		t.Errorf("%d %v", a.status, a.header)
	}
}

// What only a socket can show: how a body's length is said.
func TestCalendarContentLength(t *testing.T) {
	w := newCalendarWorld(t)
	defer w.run(t)()
	server := httptest.NewServer(w.calendar)
	defer server.Close()
	for _, c := range []struct {
		name, header, body string
		status             int
		text               string // empty: net/http's own, or a stamp
	}{
		{"none", "", "", 400, "invalid Content-Length"},
		{"chunked", "Transfer-Encoding: chunked\r\n", "2\r\nab\r\n0\r\n\r\n", 400, "invalid Content-Length"},
		{"negative", "Content-Length: -1\r\n", "ab", 400, ""},
		{"no number", "Content-Length: two\r\n", "ab", 400, ""},
		{"two of them", "Content-Length: 2\r\nContent-Length: 3\r\n", "abc", 400, ""},
		{"too long", "Content-Length: 65\r\n", strings.Repeat("x", 65), 400, "digest too long"},
		{"far too long", "Content-Length: 99999999999\r\n", "", 400, "digest too long"},
		{"zero", "Content-Length: 0\r\n", "", 200, ""},
		{"32", "Content-Length: 32\r\nContent-Type: multipart/form-data\r\n", strings.Repeat("x", 32), 200, ""},
	} {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "POST /digest HTTP/1.1\r\nHost: calendar.example\r\n%s\r\n%s", c.header, c.body)
		got, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		body, err := io.ReadAll(got.Body)
		conn.Close()
		if err != nil || got.StatusCode != c.status || c.text != "" && string(body) != c.text {
			t.Errorf("%s: %d %q, %v; want %d %q", c.name, got.StatusCode, body, err, c.status, c.text)
		}
		if c.status == 400 && !strings.HasPrefix(got.Header.Get("Content-Type"), "text/plain") {
			t.Errorf("%s: Content-Type %q", c.name, got.Header.Get("Content-Type"))
		}
	}
}

func timestampPath(e calpe.Entry) string {
	b := e.Bytes()
	return "/timestamp/" + hex.EncodeToString(b[:])
}

// An entry goes its way: each state has its answer, and only a final anchor is a proof.
func TestCalendarTimestamp(t *testing.T) {
	w := newCalendarWorld(t)
	var mine calpe.Entry
	for i := range 5 {
		w.add(calpe.Commitment{byte(i), 1})
	}
	mine = w.entries[3]
	const minute = "public, max-age=60"
	pending := said{404, minute, "Pending confirmation in Bitcoin blockchain"}
	expect := func(when string, want said) {
		t.Helper()
		if got := w.ask("GET", timestampPath(mine), "").said(t); got != want {
			t.Errorf("%s: %+v, want %+v", when, got, want)
		}
	}
	expect("received", pending)
	w.seal()
	expect("checkpointed", pending)
	a := w.mine(100, false)
	expect("mined", said{404, minute, "Timestamped by transaction " + a.TxID.String() + "; waiting for 4 confirmations"})
	w.anchor.Depth = 7
	expect("deep, but not final yet", said{404, minute, "Timestamped by transaction " + a.TxID.String() + "; waiting for 1 confirmations"})
	for range 300 {
		w.add(calpe.Commitment{9})
	}
	w.seal() // a later, larger tree: the proof is in the anchor's
	w.anchor.Final = true

	got := w.ask("GET", timestampPath(mine), "")
	want := http.Header{
		"Content-Type": {"application/octet-stream"}, "Content-Length": {fmt.Sprint(len(got.body))}, "X-Content-Type-Options": {"nosniff"},
		"Cache-Control": {"public, max-age=31536000"}, "Access-Control-Allow-Origin": {"*"}, "Access-Control-Allow-Methods": {"POST, GET"},
	}
	if diff := cmp.Diff(want, got.header); got.status != 200 || diff != "" {
		t.Fatalf("%d %s\nheaders (-want +got):\n%s", got.status, got.body, diff)
	}
	checkProof(t, mine, got.body, a)
	if upper := w.ask("GET", "/timestamp/"+strings.ToUpper(timestampPath(mine)[11:]), ""); !bytes.Equal(upper.body, got.body) {
		t.Errorf("upper case: %d %q", upper.status, upper.body)
	}
	if head := w.ask("HEAD", timestampPath(mine), ""); head.status != 200 || head.header.Get("Content-Length") != fmt.Sprint(len(got.body)) {
		t.Errorf("HEAD: %d %v", head.status, head.header)
	}

	for name, e := range map[string]calpe.Entry{
		"other commitment": {Index: 3, Commitment: calpe.Commitment{1}},
		"other index":      {Index: 4, Commitment: mine.Commitment},
		"behind the log":   {Index: uint64(len(w.entries)), Commitment: mine.Commitment},
		"far behind":       {Index: calpe.MaxLogSize, Commitment: mine.Commitment},
		"no index":         {Index: 1<<64 - 1, Commitment: mine.Commitment},
	} {
		if got := w.ask("GET", timestampPath(e), "").said(t); got != (said{404, minute, "Not found"}) {
			t.Errorf("%s: %+v", name, got)
		}
	}
	for _, short := range []string{"/timestamp/", "/timestamp/00", timestampPath(mine) + "00", "/timestamp/" + strings.Repeat("00", 2000)} {
		if got := w.ask("GET", short, "").said(t); got != (said{404, minute, "Not found"}) {
			t.Errorf("%s: %+v", short, got)
		}
	}
}

// checkProof: the first operation is that of the leaf, the line has no fork, and
// it ends at the Merkle root of the block.
func checkProof(t *testing.T, e calpe.Entry, body []byte, a calpe.Anchor) {
	t.Helper()
	if !bytes.HasPrefix(body, []byte{0xf1, 1, 0x00, 0x08}) {
		t.Errorf("the proof starts with %x", body[:min(8, len(body))])
	}
	message := e.Bytes()
	proof, err := ots.ParseTimestamp(message[:], body)
	if err != nil {
		t.Fatal(err)
	}
	ends := 0
	for message, attestation := range proof.All() {
		ends++
		if height, ok := attestation.Block(); !ok || height != uint64(a.Height) || !bytes.Equal(message, a.Header[36:68]) {
			t.Errorf("attestation %v of %x, want block %d with the root %x", attestation, message, a.Height, a.Header[36:68])
		}
	}
	if ends != 1 || len(body) > ots.MaxAnswer {
		t.Errorf("%d attestations in %d bytes", ends, len(body))
	}
}

func TestCalendarTip(t *testing.T) {
	w := newCalendarWorld(t)
	none := said{404, "", ""}
	if got := w.ask("GET", "/tip", "").said(t); got != none {
		t.Errorf("nothing was sent: %+v", got)
	}
	w.seal()
	w.marks.Broadcast = w.head.Size
	a := w.ask("GET", "/tip", "")
	if a.status != 200 || !bytes.Equal(a.body, w.head.Root[:]) || a.header.Get("Cache-Control") != "public, max-age=10" ||
		a.header.Get("Content-Type") != "application/octet-stream" {
		t.Errorf("sent: %d %x %v", a.status, a.body, a.header)
	}
	w.marks.Broadcast = 77 // whose row was lost
	if got := w.ask("GET", "/tip", "").said(t); got != none {
		t.Errorf("its row is lost: %+v", got)
	}
	w.marks.Broadcast = w.head.Size
	w.mine(100, false)
	if got := w.ask("GET", "/tip", "").said(t); got != none {
		t.Errorf("all is in blocks: %+v", got)
	}
}

func TestCalendarHome(t *testing.T) {
	a := newCalendarWorld(t).ask("GET", "/", "")
	for _, want := range []string{calendarURI, "test.calpe.example/log", "regtest", "no evidential value", "entries    1"} {
		if !strings.Contains(string(a.body), want) {
			t.Errorf("%q isn't there:\n%s", want, a.body)
		}
	}
	if a.status != 200 || a.header.Get("Content-Type") != "text/plain; charset=utf-8" || a.header.Get("Cache-Control") != "public, max-age=10" {
		t.Errorf("%d %v", a.status, a.header)
	}
}

func TestCalendarQuota(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		w := newCalendarWorld(t, func(c *api.CalendarConfig) {
			c.PerMinute, c.Total = 3, 5
			c.TrustedProxies = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
			c.Now = func() time.Time { return now }
		})
		defer w.run(t)()
		expect := func(address string, status int) {
			t.Helper()
			a := w.from(address, "x")
			if a.status != status {
				t.Fatalf("%s: %d %q, want %d", address, a.status, a.body, status)
			}
			if status == 429 && (a.header.Get("Retry-After") == "" || a.header.Get("Cache-Control") != "no-store") {
				t.Errorf("%s: %v", address, a.header)
			}
		}
		for i := range 3 {
			expect(fmt.Sprintf("192.0.2.%d:1000", i), 200)
		}
		expect("192.0.2.200:1", 429) // the same /24
		recorded := len(w.entries)
		// What is refused is neither counted nor recorded.
		expect("[2001:db8::1]:1", 200)
		proxied := calendarRequest("POST", "/digest", "x")
		proxied.RemoteAddr = "127.0.0.1:1"
		proxied.Header.Set("X-Forwarded-For", "192.0.2.7")
		if a := w.serve(proxied); a.status != 429 {
			t.Errorf("behind the proxy: %d", a.status)
		}
		expect("198.51.100.1:1", 200)
		expect("203.0.113.1:1", 429) // everybody's limit
		if got := len(w.entries) - recorded; got != 2 {
			t.Errorf("%d entries, want 2", got)
		}
		if a := w.ask("GET", timestampPath(w.entries[1]), ""); a.status != 404 || !strings.HasPrefix(string(a.body), "Pending") {
			t.Errorf("reading is limited, too: %d %s", a.status, a.body)
		}
		now = now.Add(time.Minute)
		expect("192.0.2.200:1", 200)
	})
}
