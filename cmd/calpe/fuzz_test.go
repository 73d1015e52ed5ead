package main

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt"
)

// oneAnswer is a connection that gives the same answer to whatever is asked.
type oneAnswer struct {
	status      int
	contentType string
	body        []byte
}

func (o oneAnswer) RoundTrip(r *http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: o.status, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: http.Header{"Content-Type": {o.contentType}}, Body: io.NopCloser(bytes.NewReader(o.body)), ContentLength: -1}, nil
}

func answering(t testing.TB, o oneAnswer) *service {
	t.Helper()
	wait := func(context.Context, time.Duration) error { return nil }
	s, err := connection{Server: "https://calpe.example"}.open(&app{System: System{Stderr: io.Discard, Now: time.Now, Wait: wait}}, "")
	if err != nil {
		t.Fatal(err)
	}
	s.client.Transport = o
	return s
}

// Whatever a service says of an entry: no panic, and what is taken over verifies.
func FuzzEntryAnswer(f *testing.F) {
	fake := newService(f)
	salt := *newSalt()
	digest := calpe.Digest{1}
	fake.record(calpe.Commit(digest, salt))
	old := receipt.Receipt{Type: receipt.ReceiptType, Log: fake.id.Hash(), Digest: digest, Salt: salt, Index: 1, Acknowledgement: fake.promise(1)}
	add := func() {
		var w recorder
		fake.getEntry(&w, must(http.NewRequest(http.MethodGet, "/v1/entries/1", nil)), "1")
		f.Add(w.Bytes())
	}
	add()
	fake.checkpoint()
	add()
	fake.anchor()
	add()
	f.Fuzz(func(t *testing.T, body []byte) {
		s := answering(t, oneAnswer{200, "application/json", body})
		r, state, err := s.current(t.Context(), old, fake.id)
		if err != nil {
			return
		}
		if _, err := state.MarshalText(); err != nil {
			t.Errorf("state is %d", state)
		}
		if err := check(r, digest, fake.id); err != nil {
			t.Errorf("a receipt was taken over that doesn't verify: %v", err)
		}
	})
}

// recorder keeps a body and nothing else.
type recorder struct{ bytes.Buffer }

func (*recorder) Header() http.Header { return http.Header{} }
func (*recorder) WriteHeader(int)     {}

// Whatever a service or a proxy says instead of an answer: one line that a
// terminal can show, of bounded length.
func FuzzProblem(f *testing.F) {
	f.Add(503, "application/problem+json", []byte(`{"title":"x","detail":"y","code":"unavailable"}`))
	f.Add(400, "application/problem+json", []byte(`{"title":"\u001b[2J\n","detail":"y"}`))
	f.Add(302, "text/html", []byte("<html>"))
	f.Fuzz(func(t *testing.T, status int, contentType string, body []byte) {
		if status < 300 || status > 599 {
			return
		}
		s := answering(t, oneAnswer{status, contentType, body})
		err := s.getJSON(t.Context(), "ask", "v1/identity", nil, nil)
		if err == nil {
			t.Fatal("a refusal is no error")
		}
		text := clean(err.Error())
		if bytes.ContainsAny([]byte(text), "\n\x1b") || len(text) > 8000 {
			t.Errorf("says %q", text)
		}
	})
}

// Whatever lies where a pending file should: an error, or the request that was begun.
func FuzzPending(f *testing.F) {
	want := pending{Type: pendingType, Server: "https://calpe.example", Digest: calpe.Digest{1}, Salt: newSalt()}
	dir := f.TempDir()
	made, err := begin(dir+"/seed", want)
	if err != nil {
		f.Fatal(err)
	}
	seed, err := readFile(dir+"/seed", 4096)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := t.TempDir() + "/pending"
		if err := replaceFile(path, privateFile, func(w io.Writer) error { _, err := w.Write(data); return err }); err != nil {
			t.Fatal(err)
		}
		p, err := begin(path, want)
		if err != nil {
			return
		}
		if p.fresh || p.Salt == nil || p.Digest != want.Digest || p.Server != want.Server || p.Type != made.Type || !isKey(p.Key) {
			t.Errorf("took %+v from %q", p, data)
		}
	})
}
