package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/internal/porttest"
)

// fullDisk puts a proxy before object storage that answers writes of documents
// as a server does whose disk is full, while full is set.
func (d *deployment) fullDisk() (full *atomic.Bool) {
	d.t.Helper()
	target, err := url.Parse(d.env["CALPE_S3_ENDPOINT"])
	if err != nil {
		d.t.Fatal(err)
	}
	full = new(atomic.Bool)
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { // the Host stays: the client has signed it
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = target.Scheme, target.Host, r.In.Host
		},
		Transport: &http.Transport{DisableCompression: true, DisableKeepAlives: true},
	}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if full.Load() && r.Method == http.MethodPut && strings.HasPrefix(r.URL.Path, "/"+d.env["CALPE_S3_DOCUMENTS_BUCKET"]+"/") {
			_, _ = io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, `<?xml version="1.0"?><Error><Code>InternalError</Code><Message>no space left on device</Message></Error>`)
			return
		}
		proxy.ServeHTTP(w, r)
	}))
	d.t.Cleanup(server.Close)
	d.env["CALPE_S3_ENDPOINT"] = server.URL
	return full
}

// TestFullDisk: object storage has no room. A client that writes all of a document
// before it reads is told so, and by a problem, not by a connection that is reset;
// readiness shows it; with room again everything goes on.
func TestFullDisk(t *testing.T) {
	d := prepare(t)
	full := d.fullDisk()
	d.create()
	s := d.serve(porttest.Address(t), map[string]string{"CALPE_DOCUMENT_MAX_SIZE": fmt.Sprint(200 << 20)})
	s.awaitReady()
	full.Store(true)
	size := uploadBuffers + socketBuffers(t) + 1<<20
	if p := s.isTold(size); p.Code != string(calpe.CodeUnavailable) || p.Status != http.StatusServiceUnavailable {
		t.Errorf("answered with %+v", p)
	}
	s.awaitReadiness(http.StatusServiceUnavailable, map[string]string{"s3": "down", "postgres": "ok"})
	full.Store(false)
	s.awaitReady()
	s.takes(newRequestOf(documentKind, 1, 6<<20))
	s.exitsCleanly()
}

const (
	// uploadBuffers is what the server takes of a document before the first part is
	// refused: two parts.
	uploadBuffers = 32 << 20
	// lingering is how long the server reads on behind an answer.
	lingering = 20 * time.Second
)

// socketBuffers is the most that the system keeps of a connection's bytes which
// the server doesn't read. The client's part of it is small, see writesThenReads.
func socketBuffers(t *testing.T) int {
	t.Helper()
	text, err := os.ReadFile("/proc/sys/net/ipv4/tcp_rmem")
	if err != nil {
		t.Fatal(err)
	}
	var least, usual, most int
	if _, err := fmt.Sscan(string(text), &least, &usual, &most); err != nil {
		t.Fatalf("tcp_rmem is %q: %v", text, err)
	}
	return most
}

// isTold gives the answer to a document that is written whole before it is read. A
// machine so slow that this takes longer than the server reads on shows nothing,
// and it is tried again.
func (s *server) isTold(size int) (p problemAnswer) {
	t := s.d.t
	t.Helper()
	eventually(t, "a document is written in time", func(ctx context.Context) (err error) {
		start := time.Now()
		if p, err = s.writesThenReads(ctx, size); err != nil && time.Since(start) < lingering {
			t.Fatalf("after %v of the %v for which the server reads on: %v", time.Since(start), lingering, err)
		}
		return err
	})
	return p
}

// writesThenReads sends a document whole and looks at the answer then.
func (s *server) writesThenReads(ctx context.Context, size int) (p problemAnswer, err error) {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		return p, err
	}
	defer conn.Close()
	if err := conn.(*net.TCPConn).SetWriteBuffer(64 << 10); err != nil {
		return p, err
	}
	_, err = fmt.Fprintf(conn, "POST /v1/documents HTTP/1.1\r\nHost: calpe\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n", s.d.token, size)
	chunk := make([]byte, 1<<20)
	for sent := 0; sent < size && err == nil; sent += len(chunk) {
		_, err = conn.Write(chunk[:min(len(chunk), size-sent)])
	}
	if err != nil {
		return p, fmt.Errorf("write a document: %w", err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return p, fmt.Errorf("read the answer: %w", err)
	}
	defer answer.Body.Close()
	if err := json.NewDecoder(answer.Body).Decode(&p); err != nil {
		return p, fmt.Errorf("answer %d: %w", answer.StatusCode, err)
	}
	return p, nil
}
