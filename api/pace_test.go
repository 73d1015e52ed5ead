package api_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

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
