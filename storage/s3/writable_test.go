package s3_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/calpe/calpe/storage/s3"
)

// Reads are answered and nothing can be written, as on a full disk: that is
// noticed, remembered for a while and no longer, and nothing is left behind.
func TestWritable(t *testing.T) {
	var full atomic.Bool
	var writes atomic.Int32
	p := newProxy(t, func(r *http.Request) fault {
		if r.Method != http.MethodPut || !strings.Contains(r.URL.Path, "/control/probe/") {
			return pass
		}
		writes.Add(1)
		if full.Load() {
			return overloaded
		}
		return pass
	})
	now := time.Now()
	var mu sync.Mutex
	store, srv := setup(t, p.use, func(cfg *s3.Config) {
		cfg.Now = func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	})
	for _, step := range []struct {
		what   string
		after  time.Duration
		full   bool
		writes bool
		fails  bool
	}{
		{"at first", 0, false, true, false},
		{"still believed", s3.ProbeEvery - time.Second, true, false, false},
		{"the disk is full", time.Second, true, true, true},
		{"room again, still believed to be full", s3.ProbeAgain - time.Second, false, false, true},
		{"room again", time.Second, false, true, false},
	} {
		mu.Lock()
		now = now.Add(step.after)
		mu.Unlock()
		full.Store(step.full)
		before := writes.Load()
		var all sync.WaitGroup
		for range 5 {
			all.Go(func() {
				if err := store.Writable(t.Context()); (err != nil) != step.fails {
					t.Errorf("%s: %v", step.what, err)
				}
			})
		}
		all.Wait()
		if tried := writes.Load() > before; tried != step.writes {
			t.Errorf("%s: tried to write: %v", step.what, tried)
		}
		if left := srv.versions(t, srv.cfg.DocumentsBucket, "control/probe/"); len(left) > 0 {
			t.Errorf("%s: %d versions of probes are left", step.what, len(left))
		}
	}
}

// A caller who gives up says nothing of the server.
func TestWritableOfImpatientCaller(t *testing.T) {
	stop, asked := make(chan struct{}), make(chan struct{}, 100)
	var hung atomic.Bool
	hung.Store(true)
	p := newProxy(t, func(r *http.Request) fault {
		if r.Method != http.MethodPut || !hung.Load() || !strings.Contains(r.URL.Path, "/control/probe/") {
			return pass
		}
		asked <- struct{}{}
		return hang
	})
	p.stop = stop
	t.Cleanup(func() { close(stop) })
	store, _ := setup(t, p.use)
	ctx, cancel := context.WithCancelCause(t.Context())
	impatient := errors.New("no patience")
	first := make(chan error)
	go func() { first <- store.Writable(ctx) }()
	<-asked
	second := make(chan error)
	go func() { second <- store.Writable(ctx) }() // waits for the first one
	cancel(impatient)
	for _, done := range []chan error{first, second} {
		if err := <-done; err == nil {
			t.Error("nil without an answer")
		}
	}
	hung.Store(false)
	if err := store.Writable(t.Context()); err != nil {
		t.Errorf("the next one: %v", err)
	}
}
