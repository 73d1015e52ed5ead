package s3_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/storage/s3"
)

// observed notes what the hook is told.
type observed struct {
	mu  sync.Mutex
	all []string
}

func (o *observed) tell(method string, outcome s3.Outcome, _ time.Duration) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all = append(o.all, method+" "+string(outcome))
}

func (o *observed) has(what string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Contains(o.all, what)
}

// Each kind of answer has its outcome.
func TestObserveOutcomes(t *testing.T) {
	for _, c := range []struct {
		status int
		want   s3.Outcome
	}{
		{200, s3.OutcomeOK}, {206, s3.OutcomeOK}, {404, s3.OutcomeNotFound}, {412, s3.OutcomePrecondition}, {409, s3.OutcomePrecondition},
		{403, s3.OutcomeRefused}, {500, s3.OutcomeServerError}, {503, s3.OutcomeServerError}, {0, s3.OutcomeNoAnswer},
	} {
		server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			if c.status == 0 {
				panic(http.ErrAbortHandler)
			}
			w.WriteHeader(c.status)
		}))
		o := &observed{}
		store := newStore(t, s3.Config{
			Endpoint: server.URL, AccessKey: "a", SecretKey: "b", DocumentsBucket: "documents", LogBucket: "log",
			Attempts: 1, Observe: o.tell,
		})
		_, _ = store.ReadLogObject(t.Context(), "checkpoint", 100)
		if !o.has("GET " + string(c.want)) {
			t.Errorf("status %d: %v, want %s", c.status, o.all, c.want)
		}
		if !slices.Contains(s3.Outcomes(), c.want) {
			t.Errorf("%s isn't in the list of outcomes", c.want)
		}
		server.Close()
	}
}

// Who gives up is told apart from a server that doesn't answer.
func TestObserveCancelled(t *testing.T) {
	asked, stop := make(chan struct{}), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(asked)
		<-stop
	}))
	defer server.Close()
	defer close(stop)
	o := &observed{}
	store := newStore(t, s3.Config{
		Endpoint: server.URL, AccessKey: "a", SecretKey: "b", DocumentsBucket: "documents", LogBucket: "log", Attempts: 1, Observe: o.tell,
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-asked; cancel() }()
	if _, err := store.ReadLogObject(ctx, "checkpoint", 100); err == nil {
		t.Error("a request without an answer succeeded")
	}
	if !o.has("GET " + string(s3.OutcomeCancelled)) {
		t.Errorf("told was %v", o.all)
	}
}

// On a real server: what is ordinary is no error.
func TestObserve(t *testing.T) {
	o := &observed{}
	store, _ := setup(t, func(c *s3.Config) { c.Observe = o.tell })
	if err := store.PutLogObject(t.Context(), "x", []byte("x"), "text/plain", ""); err != nil {
		t.Fatal(err)
	}
	if err := store.PutLogObject(t.Context(), "x", []byte("y"), "text/plain", ""); !errors.Is(err, calpe.ErrExists) {
		t.Errorf("a second one: %v", err)
	}
	if _, err := store.ReadLogObject(t.Context(), "y", 100); !errors.Is(err, calpe.ErrNotFound) {
		t.Errorf("a missing one: %v", err)
	}
	for _, want := range []string{"PUT ok", "PUT precondition", "GET not-found"} {
		if !o.has(want) {
			t.Errorf("%v lacks %q", o.all, want)
		}
	}
}
