package api_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/api"
	"github.com/calpe/calpe/intake"
	"github.com/calpe/calpe/receipt/ots"
)

// The calendar's limits.
const (
	waitingStamps = 1024
	readersAtOnce = 4
	// calendarPatience is for how long a client is kept waiting.
	calendarPatience = 10 * time.Second
)

// unlimited is a calendar without quotas, so that the other limits show.
func unlimited(c *api.CalendarConfig) { c.PerMinute, c.Total = 1<<20, 1<<20 }

// answers collects those of many requests.
type answers struct {
	wg  sync.WaitGroup
	mu  sync.Mutex
	all []answer
}

func (a *answers) add(n int, ask func(i int) answer) {
	for i := range n {
		a.wg.Go(func() {
			got := ask(i)
			a.mu.Lock()
			defer a.mu.Unlock()
			a.all = append(a.all, got)
		})
	}
}

func (a *answers) count(status int) (n int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, got := range a.all {
		if got.status == status {
			n++
		}
	}
	return n
}

// TestFloodedCalendarDelaysNobody floods the calendar while the intake is slow:
// whoever submits with a token finds at most one of the calendar's groups before
// it, and the rest of the flood waits in the calendar's own queue or is told at
// once to come back.
func TestFloodedCalendarDelaysNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCalendarWorld(t, unlimited)
		w.slow = make(chan struct{})
		stop := w.run(t)
		var flood, clerks answers
		const stamps = 5000
		for round := range 3 {
			flood.add(stamps, func(i int) answer { return w.from(fmt.Sprintf("10.%d.%d.1:1", i>>8, i&255), fmt.Sprint(i)) })
			<-time.After(3 * time.Second) // of the bubble's clock: time for three groups
			synctest.Wait()
			if n := strings.Count(strings.Join(w.queued, " "), api.CalendarOwner); n > 1 {
				t.Fatalf("%d of the calendar's groups are in the intake's queue", n)
			}
			clerks.add(1, func(int) answer {
				_, err := w.Commit(t.Context(), intake.Commitments{Owner: "clerk", Commitments: []calpe.Commitment{{1}}})
				return answer{status: map[bool]int{true: http.StatusCreated, false: 0}[err == nil]}
			})
			synctest.Wait()
			if at := slices.Index(w.queued, "clerk"); at < 0 || at > 1 {
				t.Fatalf("round %d: the clerk stands at place %d in the intake's queue %v", round, at, w.queued)
			}
			w.slow <- struct{}{}
			w.slow <- struct{}{} // the clerk has passed, if the calendar's group came first
			synctest.Wait()
			if got := clerks.count(http.StatusCreated); got != round+1 {
				t.Fatalf("round %d: %d clerks were answered after two commits", round, got)
			}
		}
		// Who couldn't wait was told so, with a time to come back.
		if refused := flood.count(http.StatusServiceUnavailable); refused < stamps-waitingStamps-1 {
			t.Errorf("%d of %d were refused while nothing was recorded", refused, stamps)
		}
		close(w.slow)
		flood.wg.Wait()
		checkFlood(t, w, &flood)
		stop()
	})
}

func checkFlood(t *testing.T, w *calendarWorld, flood *answers) {
	t.Helper()
	seen := map[string]bool{}
	for _, a := range flood.all {
		switch a.status {
		case http.StatusOK:
			index := string(a.body[21:29])
			if seen[index] {
				t.Errorf("two clients were given index %x", index)
			}
			seen[index] = true
		case http.StatusServiceUnavailable:
			if a.header.Get("Retry-After") == "" || a.header.Get("Cache-Control") != "no-store" {
				t.Errorf("refused without a time to come back: %v", a.header)
			}
		default:
			t.Errorf("status %d: %s", a.status, a.body)
		}
	}
	for i, size := range w.sizes {
		if size > waitingStamps {
			t.Errorf("group %d has %d entries", i, size)
		}
	}
	if len(seen) < waitingStamps {
		t.Errorf("%d stamps in all", len(seen))
	}
}

// All who come within a second share a group; the first one after a silence
// doesn't wait.
func TestCalendarGroups(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCalendarWorld(t)
		defer w.run(t)()
		w.ask("POST", "/digest", "first")
		var many answers
		many.add(50, func(i int) answer { return w.ask("POST", "/digest", fmt.Sprint(i)) })
		many.wg.Wait()
		if !slices.Equal(w.sizes, []int{1, 50}) || many.count(http.StatusOK) != 50 {
			t.Errorf("groups of %v, %d answers", w.sizes, many.count(http.StatusOK))
		}
		for _, a := range many.all {
			if i := a.body[28]; w.entries[i].Index != uint64(i) {
				t.Errorf("index %d", i)
			}
		}
	})
}

// A group that can't be recorded is nobody's stamp, whether or not it is in the
// log in the end.
func TestCalendarIntakeFails(t *testing.T) {
	for name, after := range map[string]bool{"failed, not applied": false, "failed, but applied": true} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newCalendarWorld(t)
				defer w.run(t)()
				w.fail, w.after = &calpe.Error{Code: calpe.CodeUnavailable, Message: "secret-host is down"}, after
				var many answers
				many.add(20, func(int) answer { return w.ask("POST", "/digest", "x") })
				many.wg.Wait()
				entries := len(w.entries)
				if got := many.count(503); got == 0 || got+many.count(200) != 20 {
					t.Errorf("%d refused, %d stamped", got, many.count(200))
				}
				for _, a := range many.all {
					if strings.Contains(string(a.body), "secret") || a.status == 503 && a.header.Get("Retry-After") == "" {
						t.Errorf("%d %v %s", a.status, a.header, a.body)
					}
				}
				again := w.ask("POST", "/digest", "x")
				if again.status != 200 || int(again.body[28]) != entries {
					t.Errorf("after it: %d %x, want index %d", again.status, again.body, entries)
				}
			})
		})
	}
}

// A client that has gone before its digest was taken costs the log nothing.
func TestCalendarClientGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCalendarWorld(t)
		ctx, cancel := context.WithCancel(t.Context())
		var gone, waits answers
		gone.add(10, func(int) answer { return w.serve(calendarRequest("POST", "/digest", "x").WithContext(ctx)) })
		waits.add(3, func(int) answer { return w.ask("POST", "/digest", "y") })
		synctest.Wait()
		cancel()
		gone.wg.Wait()
		defer w.run(t)()
		waits.wg.Wait()
		if waits.count(200) != 3 || len(w.entries) != 4 {
			t.Errorf("%d stamps, %d entries; want 3 and 4", waits.count(200), len(w.entries))
		}
	})
}

// Nobody waits for ever: not while intake stands still, and not for a calendar
// that has ended.
func TestCalendarEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newCalendarWorld(t)
		if a := w.ask("POST", "/digest", "x"); a.status != 503 {
			t.Errorf("nobody records: %d", a.status)
		}
		w.run(t)()
		if a := w.ask("POST", "/digest", "x"); a.status != 503 {
			t.Errorf("it has ended: %d", a.status)
		}
	})
}

// Readers have a few places, so that they can't take all connections of the database.
func TestCalendarReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := &slowEntries{open: make(chan struct{})}
		w := newCalendarWorld(t, func(c *api.CalendarConfig) { r.Entries = c.Entries; c.Entries = r })
		w.seal()
		path := timestampPath(w.entries[0])
		var many answers
		many.add(100, func(int) answer { return w.ask("GET", path, "") })
		synctest.Wait()
		if r.inside != readersAtOnce {
			t.Errorf("%d read at once", r.inside)
		}
		<-time.After(calendarPatience) // of the bubble's clock: nobody waits
		synctest.Wait()
		if got := many.count(503); got != 100-readersAtOnce {
			t.Errorf("%d have no answer yet", 100-readersAtOnce-got)
		}
		close(r.open)
		many.wg.Wait()
		if got := many.count(404); got != readersAtOnce {
			t.Errorf("%d were answered", got)
		}
	})
}

type slowEntries struct {
	api.Entries
	mu     sync.Mutex
	inside int
	open   chan struct{}
}

func (s *slowEntries) Entry(ctx context.Context, index uint64) (calpe.Entry, error) {
	s.mu.Lock()
	s.inside++
	s.mu.Unlock()
	<-s.open
	return s.Entries.Entry(ctx, index)
}

// The database is down: no answer says what isn't known.
func TestCalendarDown(t *testing.T) {
	w := newCalendarWorld(t)
	w.seal()
	w.marks.Broadcast = w.head.Size
	w.down = errors.New("secret-host is down")
	for _, path := range []string{"/", "/tip"} {
		if a := w.ask("GET", path, ""); a.status != 503 || a.header.Get("Retry-After") == "" || strings.Contains(string(a.body), "secret") {
			t.Errorf("%s: %d %s", path, a.status, a.body)
		}
	}
	broken := unreadable{w.world}
	w = newCalendarWorld(t, func(c *api.CalendarConfig) { c.Entries, c.Anchors = broken, broken })
	if a := w.ask("GET", timestampPath(w.entries[0]), ""); a.status != 503 || a.header.Get("Cache-Control") != "no-store" {
		t.Errorf("entries: %d %s", a.status, a.body)
	}
	w = newCalendarWorld(t, func(c *api.CalendarConfig) { c.Anchors = broken })
	if a := w.ask("GET", timestampPath(w.entries[0]), ""); a.status != 503 {
		t.Errorf("anchors: %d %s", a.status, a.body)
	}
	// An anchor whose parts don't fit is no proof.
	w = newCalendarWorld(t)
	w.seal()
	w.mine(100, true)
	w.anchor.Header[40] ^= 1
	if a := w.ask("GET", timestampPath(w.entries[0]), ""); a.status != 503 {
		t.Errorf("a spoilt anchor: %d %x", a.status, a.body)
	}
	if !strings.Contains(w.logs.String(), "calendar request failed") {
		t.Error("the log says nothing")
	}
}

// unreadable is a database of which nothing can be read.
type unreadable struct{ *world }

func (unreadable) Entry(context.Context, uint64) (calpe.Entry, error) {
	return calpe.Entry{}, errors.New("down")
}

func (unreadable) AnchorFor(context.Context, uint64) (calpe.Anchor, error) {
	return calpe.Anchor{}, errors.New("down")
}

func TestNewCalendar(t *testing.T) {
	w := newWorld(t)
	good := api.CalendarConfig{
		Intake: w, Entries: w, Anchors: w, Proofs: w, Watermarks: w, Identity: w.identity, URI: calendarURI, PerMinute: 1, Total: 1, Depth: 1,
	}
	if _, err := api.NewCalendar(good); err != nil {
		t.Error(err)
	}
	for name, edit := range map[string]func(c *api.CalendarConfig){
		"no intake": func(c *api.CalendarConfig) { c.Intake = nil },
		"no proofs": func(c *api.CalendarConfig) { c.Proofs = nil },
		"no URI":    func(c *api.CalendarConfig) { c.URI = "" },
		"no quota":  func(c *api.CalendarConfig) { c.PerMinute = 0 },
		"no total":  func(c *api.CalendarConfig) { c.Total = -1 },
		"no depth":  func(c *api.CalendarConfig) { c.Depth = 0 },
	} {
		bad := good
		edit(&bad)
		if _, err := api.NewCalendar(bad); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestCheckCalendarURI(t *testing.T) {
	for _, uri := range []string{"https://calendar.example", "http://127.0.0.1:8421", "https://a.b-c.example:443"} {
		if err := api.CheckCalendarURI(uri); err != nil {
			t.Error(err)
		}
	}
	for _, uri := range []string{"", "calendar.example", "https://", "https://calendar.example/", "https://calendar.example/ots", "ftp://calendar.example",
		"https://user@calendar.example", "https://calendar.example?x", "https://ka lender.example", "https://kalender.exämple", "https://:80",
		"https://[::1]:80", "HTTPS://calendar.example", "https://" + strings.Repeat("a", 1000)} {
		if err := api.CheckCalendarURI(uri); err == nil {
			t.Errorf("%q: no error", uri)
		}
	}
}

// FuzzCalendarTimestamp: whatever is asked for, the answer is one of those that
// there are, and a proof is that of the entry that was asked for.
func FuzzCalendarTimestamp(f *testing.F) {
	for i := range 4 {
		e := calpe.Entry{Index: uint64(i), Commitment: calpe.Commitment{byte(i)}}
		f.Add(timestampPath(e)[len("/timestamp/"):])
	}
	f.Add("")
	f.Add("0")
	f.Add("zz")
	f.Add("%30")
	f.Add(strings.Repeat("F", 80))
	var w *calendarWorld
	f.Fuzz(func(t *testing.T, text string) {
		if w == nil {
			w = newCalendarWorld(t)
			w.add(calpe.Commitment{1})
			w.seal()
			w.mine(100, true)
			w.add(calpe.Commitment{2})
		}
		r := calendarRequest("GET", "/", "")
		r.URL.Path = "/timestamp/" + text
		a := w.serve(r)
		switch a.status {
		case http.StatusBadRequest, http.StatusNotFound:
			a.said(t)
		case http.StatusOK:
			message, err := hex.DecodeString(text)
			if err != nil {
				t.Fatalf("%q is answered with %x", text, a.body)
			}
			index := message[7]
			if e := w.entries[index].Bytes(); string(e[:]) != string(message) {
				t.Fatalf("%q isn't entry %d", text, index)
			}
			if _, err := ots.ParseTimestamp(message, a.body); err != nil {
				t.Fatal(err)
			}
		default:
			t.Fatalf("%q: status %d", text, a.status)
		}
	})
}

// FuzzCalendarDigest: any body of 0 to 64 bytes is stamped as it is, and no other.
func FuzzCalendarDigest(f *testing.F) {
	for _, n := range []int{0, 1, 32, 64, 65} {
		f.Add([]byte(strings.Repeat("d", n)))
	}
	var base *world
	f.Fuzz(func(t *testing.T, digest []byte) {
		if base == nil {
			base = newWorld(t)
		}
		synctest.Test(t, func(t *testing.T) {
			w := calendarOver(t, base)
			next := len(w.entries)
			defer w.run(t)()
			a := w.ask("POST", "/digest", string(digest))
			if len(digest) > 64 {
				if got := a.said(t); got.status != 400 {
					t.Fatalf("%d bytes: %+v", len(digest), got)
				}
				return
			}
			stamp, err := ots.ParseTimestamp(digest, a.body)
			if a.status != 200 || err != nil {
				t.Fatalf("%d bytes: %d, %v", len(digest), a.status, err)
			}
			for message, uri := range stamp.Pending() {
				if e := w.entries[next].Bytes(); string(e[:]) != string(message) || uri != calendarURI {
					t.Fatalf("pending at %s for %x, want the entry %x", uri, message, e)
				}
			}
		})
	})
}
