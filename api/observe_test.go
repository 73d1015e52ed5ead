package api_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe/api"
)

// told notes what the hook is told.
type told struct {
	mu  sync.Mutex
	all []string
}

func (o *told) tell(a api.Answered) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all = append(o.all, fmt.Sprintf("%s %s %d", a.Method, a.Route, a.Status))
	if a.Took < 0 {
		o.all = append(o.all, "negative")
	}
}

// take gives what was told since the last time.
func (o *told) take() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	all := o.all
	o.all = nil
	return all
}

// What a client makes up is in no route and in no method.
func TestAnswered(t *testing.T) {
	w, o := newWorld(t), &told{}
	w.config.Observe = o.tell
	w.serve()
	for _, c := range []struct{ method, target, want string }{
		{"GET", "/livez", "GET /livez 200"},
		{"HEAD", "/livez", "HEAD /livez 200"},
		{"GET", "/v1/entries/0", "GET /v1/entries/{index} 200"},
		{"GET", "/v1/entries/31337", "GET /v1/entries/{index} 404"},
		{"GET", "/log/tile/entries/x999/secret", "GET /log/tile/* 404"},
		{"GET", "/wp-admin/secret", "GET none 404"},
		{"GET", "/v1/secret?token=secret", "GET none 404"},
		{"DELETE", "/v1/status", "other none 405"},
		{"SECRET", "/v1/status", "other none 405"},
		{"POST", "/v1/documents", "POST /v1/documents 401"},
	} {
		w.server.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(c.method, c.target, nil))
		if diff := cmp.Diff([]string{c.want}, o.take()); diff != "" {
			t.Errorf("%s %s (-want +got):\n%s", c.method, c.target, diff)
		}
	}
}

// defective is a part with a defect.
type defective struct{ with any }

func (p defective) Outlook(context.Context) (api.Outlook, error) { panic(p.with) }

// An answer that is broken off is told, and so is one that a panic has changed.
func TestAnsweredAfterPanic(t *testing.T) {
	for with, want := range map[any]string{"defect": "GET /v1/status 500", http.ErrAbortHandler: "GET /v1/status 0"} {
		w, o := newWorld(t), &told{}
		w.config.Observe, w.config.Treasury = o.tell, defective{with}
		w.serve()
		func() {
			defer func() { _ = recover() }()
			w.server.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodGet, "/v1/status", nil))
		}()
		if diff := cmp.Diff([]string{want}, o.take()); diff != "" {
			t.Errorf("%v (-want +got):\n%s", with, diff)
		}
	}
}

// The hook is in the way of nothing: deadlines, streams and limits of bodies work
// as without it.
func TestAnsweredOnAConnection(t *testing.T) {
	w, o := newWorld(t), &told{}
	done := make(chan struct{}, 1)
	w.config.Observe, w.config.Now = func(a api.Answered) { o.tell(a); done <- struct{}{} }, time.Now
	w.serve()
	server := httptest.NewServer(w.server)
	defer server.Close()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL+"/v1/commitments", strings.NewReader(strings.Repeat(" ", 100<<10)))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer calpe_alice")
	r.Header.Set("Content-Type", "application/json")
	answer, err := server.Client().Do(r)
	if err != nil {
		t.Fatal(err)
	}
	answer.Body.Close()
	if answer.StatusCode != http.StatusRequestEntityTooLarge || !answer.Close {
		t.Errorf("status %d, closes %v: a body above the limit must end the connection", answer.StatusCode, answer.Close)
	}
	<-done
	if diff := cmp.Diff([]string{"POST /v1/commitments 413"}, o.take()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestCalendarAnswered(t *testing.T) {
	o := &told{}
	w := newCalendarWorld(t, func(c *api.CalendarConfig) { c.Observe = o.tell })
	defer w.run(t)()
	for _, c := range []struct{ method, target, body, want string }{
		{"POST", "/digest", "12345678901234567890123456789012", "POST /digest 200"},
		{"POST", "/digest", strings.Repeat("x", 65), "POST /digest 400"},
		{"GET", "/timestamp/00", "", "GET /timestamp/{entry} 404"},
		{"GET", "/timestamp/secret", "", "GET /timestamp/{entry} 400"},
		{"GET", "/secret", "", "GET none 404"},
		{"GET", "/tip", "", "GET /tip 404"},
		{"GET", "/", "", "GET / 200"},
		{"DELETE", "/", "", "other none 405"},
		{"OPTIONS", "/digest", "", "OPTIONS /digest 204"},
	} {
		w.ask(c.method, c.target, c.body)
		got := o.take()
		if !slices.Equal(got, []string{c.want}) {
			t.Errorf("%s %s: %v, want %s", c.method, c.target, got, c.want)
		}
	}
	w.mu.Lock()
	w.fail = errors.New("database is down")
	w.mu.Unlock()
	w.ask("POST", "/digest", strings.Repeat("y", 32))
	if got := o.take(); !slices.Equal(got, []string{"POST /digest 503"}) {
		t.Errorf("without a database: %v", got)
	}
}
