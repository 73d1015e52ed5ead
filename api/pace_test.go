package api_test

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/api"
	"github.com/calpe/calpe/intake"
)

// pipes is a listener in memory: its connections have deadlines by the bubble's
// clock.
type pipes struct {
	conns chan net.Conn
	done  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { close(p.done); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// overPipes serves the world's API on a real http.Server, until the test ends.
func overPipes(t *testing.T, w *world) (dial func() net.Conn) {
	t.Helper()
	w.config.Now = time.Now
	w.serve()
	p := &pipes{conns: make(chan net.Conn), done: make(chan struct{})}
	server := &http.Server{Handler: w.server, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute}
	ended := make(chan error, 1)
	go func() { ended <- server.Serve(p) }()
	t.Cleanup(func() {
		server.Close()
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("serve: %v", err)
		}
	})
	return func() net.Conn {
		client, conn := net.Pipe()
		p.conns <- conn
		return client
	}
}

// slowStore takes its time after the last byte, as object storage does that
// puts a document of gigabytes together.
type slowStore struct {
	api.Intake
	takes time.Duration
	gone  error // of the request's context, meanwhile
}

func (s *slowStore) Upload(ctx context.Context, u intake.Upload) (intake.Uploaded, error) {
	data, err := io.ReadAll(u.Body)
	if err != nil {
		return intake.Uploaded{}, err
	}
	if n, err := u.Body.Read(make([]byte, 1)); n != 0 || err != io.EOF { // a reader may look again
		return intake.Uploaded{}, fmt.Errorf("%d bytes and %w behind the end", n, err)
	}
	select {
	case <-ctx.Done():
		s.gone = ctx.Err()
		return intake.Uploaded{}, ctx.Err()
	case <-time.After(s.takes):
	}
	u.Body = strings.NewReader(string(data))
	return s.Intake.Upload(ctx, u)
}

// The limits are on the client's sending. When the body is there, what follows
// may take as long as it takes.
func TestBodyThatHasComeIsNotCutOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		store := &slowStore{Intake: w, takes: 5 * time.Minute}
		w.config.Intake = store
		conn := overPipes(t, w)()
		defer conn.Close()
		fmt.Fprintf(conn, "POST /v1/documents HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer calpe_alice\r\nContent-Type: text/plain\r\nContent-Length: 8\r\n\r\ndocument")
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || answer.StatusCode != http.StatusCreated || store.gone != nil {
			t.Errorf("%v, %v; the request ended with %v", answer, err, store.gone)
		}
	})
}

// A client that isn't let in, and keeps its body back, has its answer and is rid
// of in a time that is bounded.
func TestBodyThatNobodyReadsDoesNotHoldTheConnection(t *testing.T) {
	t.Parallel()
	for name, request := range map[string]string{
		"without a token": "POST /v1/documents HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n",
		"no such address": "POST /nowhere HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
		"body of a GET":   "GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: 8\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				conn := overPipes(t, newWorld(t))()
				defer conn.Close()
				started := time.Now()
				io.WriteString(conn, request)
				reader := bufio.NewReader(conn)
				answer, err := http.ReadResponse(reader, nil)
				if err != nil {
					t.Fatal(err)
				}
				io.Copy(io.Discard, answer.Body)
				if _, err := reader.ReadByte(); err == nil {
					t.Error("something follows the answer")
				}
				if took := time.Since(started); took > 2*time.Minute {
					t.Errorf("the connection was held for %v", took)
				}
			})
		})
	}
}

// brokenStore takes a part of each document and then fails, as object storage
// does whose disk is full.
type brokenStore struct{ api.Intake }

func (brokenStore) Upload(_ context.Context, u intake.Upload) (intake.Uploaded, error) {
	if _, err := io.CopyN(io.Discard, u.Body, 1<<20); err != nil {
		return intake.Uploaded{}, err
	}
	return intake.Uploaded{}, calpe.Errorf(calpe.CodeUnavailable, "Object storage takes nothing now.")
}

// A client that writes all of its document before it reads gets the answer,
// though the upload has failed long before, and not a connection that is reset.
func TestAnswerBeforeTheEndOfTheBodyArrives(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.config.Intake, w.config.Now, w.config.MaxDocument = brokenStore{w}, time.Now, 1<<30
	w.config.Pace = api.Pace{Idle: 5 * time.Minute, Linger: 5 * time.Minute}
	w.serve()
	server := httptest.NewServer(w.server)
	defer server.Close()
	const size = 100 << 20
	for name, framing := range map[string]string{"length": fmt.Sprint("Content-Length: ", size), "chunked": "Transfer-Encoding: chunked"} {
		conn, err := net.Dial("tcp", server.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "POST /v1/documents HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer calpe_alice\r\nContent-Type: text/plain\r\n%s\r\n\r\n", framing)
		chunk := make([]byte, 1<<20)
		for sent := 0; sent < size; sent += len(chunk) {
			piece := chunk
			if name == "chunked" {
				piece = fmt.Appendf(nil, "%x\r\n%s\r\n", len(chunk), chunk)
			}
			if _, err := conn.Write(piece); err != nil {
				t.Fatalf("%s: after %d bytes: %v", name, sent, err)
			}
		}
		if name == "chunked" {
			if _, err := io.WriteString(conn, "0\r\n\r\n"); err != nil {
				t.Fatalf("%s: at the end: %v", name, err)
			}
		}
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		defer answer.Body.Close()
		var p struct{ Code calpe.Code }
		if err := json.NewDecoder(answer.Body).Decode(&p); err != nil || answer.StatusCode != http.StatusServiceUnavailable || p.Code != calpe.CodeUnavailable || !answer.Close {
			t.Errorf("%s: %d %s, close %v, %v", name, answer.StatusCode, p.Code, answer.Close, err)
		}
	}
}

// A client that has its answer and goes on sending for ever is rid of, and so is
// one that stops.
func TestLingeringEnds(t *testing.T) {
	t.Parallel()
	for name, send := range map[string]func(net.Conn) error{
		"for ever": func(conn net.Conn) error {
			chunk := make([]byte, 1<<20)
			for {
				<-time.After(time.Second) // of the bubble
				if _, err := conn.Write(chunk); err != nil {
					return err
				}
			}
		},
		"no more, and waits for the end of the connection": func(conn net.Conn) error {
			_, err := io.Copy(io.Discard, conn)
			return cmp.Or(err, io.EOF)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.config.Intake, w.config.MaxDocument = brokenStore{w}, 1<<40
				conn := overPipes(t, w)()
				defer conn.Close()
				started := time.Now()
				fmt.Fprintf(conn, "POST /v1/documents HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer calpe_alice\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n", 1<<40)
				if _, err := conn.Write(make([]byte, 1<<20)); err != nil {
					t.Fatal(err)
				}
				answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil || answer.StatusCode != http.StatusServiceUnavailable {
					t.Fatal(answer, err)
				}
				io.Copy(io.Discard, answer.Body)
				if err := send(conn); err == nil || time.Since(started) > time.Minute {
					t.Errorf("%v after %v", err, time.Since(started))
				}
			})
		})
	}
}

// A client that asks for a document and takes nothing of it holds a connection
// to object storage.
func TestAnswerThatNobodyTakesIsGivenUp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		dial := overPipes(t, w)
		if a := w.as("calpe_alice", "POST", "/v1/documents", strings.NewReader(strings.Repeat("x", 1<<20))); a.status != http.StatusCreated {
			t.Fatal(a.status)
		}
		ids := slices.Collect(maps.Keys(w.documents))
		conn := dial()
		defer conn.Close()
		started := time.Now()
		fmt.Fprintf(conn, "GET /v1/documents/%s/content HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer calpe_alice\r\n\r\n", ids[0])
		one := make([]byte, 1)
		if _, err := conn.Read(one); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Hour) // of the bubble
		if n, err := io.Copy(io.Discard, conn); err != nil || n > 1<<19 {
			t.Errorf("after %v there came %d bytes more, %v", time.Since(started), n, err)
		}
	})
}
