package api_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/api"
)

// following is an event stream that runs.
type following struct {
	rec  *streamRecorder
	stop context.CancelFunc
	done chan struct{}
}

// streamRecorder is a recorder that is read while it is written.
type streamRecorder struct {
	*httptest.ResponseRecorder
	mu sync.Mutex
}

func (r *streamRecorder) Write(data []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ResponseRecorder.Write(data)
}

func (r *streamRecorder) body() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.Body.String()
}

// follow opens an event stream, and waits until it has said what there is to say.
func (w *world) follow(target string, header ...string) *following {
	ctx, cancel := context.WithCancel(context.Background())
	f := &following{&streamRecorder{ResponseRecorder: httptest.NewRecorder()}, cancel, make(chan struct{})}
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	r.Header.Set("Authorization", "Bearer calpe_alice")
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	go func() {
		defer close(f.done)
		w.server.ServeHTTP(f.rec, r)
	}()
	synctest.Wait()
	return f
}

// said is the stream until now.
func (f *following) said() string {
	synctest.Wait()
	return f.rec.body()
}

func (f *following) ended() bool {
	synctest.Wait()
	select {
	case <-f.done:
		return true
	default:
		return false
	}
}

// run lets the server follow the log until the test is over.
func (w *world) run() (shutdown func()) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- w.server.Run(ctx) }()
	return func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	}
}

// change alters the log while streams read it.
func (w *world) change(edit func(m *calpe.Watermarks)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	edit(&w.marks)
}

func event(index uint64, state string) string {
	return fmt.Sprintf("event: state\nid: %s\ndata: {\"index\":%d,\"state\":\"%s\"}\n\n", state, index, state)
}

// A stream says the state that holds, then each change, and ends with the last.
func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.run()()
		at := w.upload("deed", "deed.pdf")
		f := w.follow(at + "/events")
		public := w.follow("/v1/entries/1/events")
		want := event(1, "received")
		w.mu.Lock()
		w.seal()
		w.mu.Unlock()
		for _, step := range []struct {
			state string
			edit  func(m *calpe.Watermarks)
		}{
			{"checkpointed", func(*calpe.Watermarks) {}},
			{"broadcast", func(m *calpe.Watermarks) { m.Broadcast = 2 }},
			{"confirmed", func(m *calpe.Watermarks) { m.Confirmed = 2 }},
			{"broadcast", func(m *calpe.Watermarks) { m.Confirmed = 0 }}, // reorganised away
			{"confirmed", func(m *calpe.Watermarks) { m.Confirmed = 2 }},
			{"final", func(m *calpe.Watermarks) { m.Final = 2 }},
		} {
			w.change(step.edit)
			<-time.After(2 * time.Second)
			want += event(1, step.state)
		}
		for name, f := range map[string]*following{"the owner's": f, "the public": public} {
			if !f.ended() {
				t.Fatalf("%s stream goes on after the last state", name)
			}
			if got := f.rec.body(); got != want {
				t.Errorf("%s stream:\n%s\nwant\n%s", name, got, want)
			}
		}
		if got := f.rec.Header(); got.Get("Content-Type") != "text/event-stream" || got.Get("Cache-Control") != "no-store" || got.Get("X-Accel-Buffering") != "no" {
			t.Errorf("header %v", got)
		}
		if again := w.follow(at+"/events", "Last-Event-ID", "final"); !again.ended() || again.rec.Code != http.StatusNoContent {
			t.Errorf("who had the last event: %d", again.rec.Code)
		}
		if again := w.follow(at+"/events", "Last-Event-ID", "confirmed"); !again.ended() || again.rec.body() != event(1, "final") {
			t.Errorf("who missed the last event: %q", again.rec.body())
		}
	})
}

func TestEventsWhileNothingHappens(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.config.Streams = api.Streams{Heartbeat: 15 * time.Second, Longest: time.Minute}
		w.serve()
		defer w.run()()
		w.add(calpe.Commitment{1})
		f := w.follow("/v1/entries/1/events")
		<-time.After(40 * time.Second)
		if got, want := f.said(), event(1, "received")+strings.Repeat(": still received\n\n", 2); got != want {
			t.Errorf("after 40 s: %q, want %q", got, want)
		}
		<-time.After(21 * time.Second)
		if !f.ended() {
			t.Error("the stream is longer than the longest")
		}
		w.mu.Lock()
		before := w.looks
		w.mu.Unlock()
		<-time.After(time.Minute)
		synctest.Wait()
		if w.looks != before {
			t.Errorf("the log was read %d times for nobody", w.looks-before)
		}
	})
}

// What can't be read for a while isn't said, and the stream goes on.
func TestEventsWhileTheDatabaseIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.run()()
		w.add(calpe.Commitment{1})
		f := w.follow("/v1/entries/1/events")
		w.change(func(m *calpe.Watermarks) { m.Broadcast, w.down = 2, errors.New("down") })
		<-time.After(5 * time.Second)
		late := w.follow("/v1/entries/1/events")
		if !late.ended() || late.rec.Code != http.StatusServiceUnavailable {
			t.Errorf("a stream without a state begins with %d", late.rec.Code)
		}
		w.change(func(*calpe.Watermarks) { w.down = nil })
		<-time.After(5 * time.Second)
		if got, want := f.said(), event(1, "received")+event(1, "broadcast"); got != want {
			t.Errorf("%q, want %q", got, want)
		}
		f.stop()
		if !f.ended() {
			t.Error("the stream goes on without its client")
		}
	})
}

// Places are limited, half of them for who has a token, and given back.
func TestEventsPlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.config.Streams.Most = 4
		w.serve()
		shutdown := w.run()
		at := w.upload("deed", "deed.pdf")
		for round := range 3 {
			var open []*following
			for i := range 5 {
				target := "/v1/entries/1/events"
				if i > 2 {
					target = at + "/events"
				}
				f := w.follow(target)
				if refused := f.ended(); refused != (i == 2) {
					t.Errorf("round %d: stream %d is refused: %v (%d)", round, i, refused, f.rec.Code)
				}
				open = append(open, f)
			}
			if f := w.follow(at + "/events"); !f.ended() || f.rec.Code != http.StatusTooManyRequests {
				t.Errorf("round %d: one more than all places: %d", round, f.rec.Code)
			}
			if round == 2 {
				shutdown()
			}
			for i, f := range open {
				if round < 2 {
					f.stop()
				}
				if !f.ended() {
					t.Errorf("round %d: stream %d goes on", round, i)
				}
			}
		}
		if f := w.follow(at + "/events"); !f.ended() || f.rec.Code != http.StatusServiceUnavailable {
			t.Errorf("a stream of a server that is shutting down: %d", f.rec.Code)
		}
	})
}

func TestEventsOfNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer w.run()()
		for target, want := range map[string]int{"/v1/entries/9/events": 404, "/v1/entries/x/events": 400, "/v1/documents/x/events": 404} {
			if f := w.follow(target); !f.ended() || f.rec.Code != want {
				t.Errorf("GET %s: %d, want %d", target, f.rec.Code, want)
			}
		}
	})
}
