package integration

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

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

// TestFullDisk: object storage has no room. A client that writes 100 MB before
// it reads is told so, and by a problem, not by a connection that is reset;
// readiness shows it; with room again everything goes on.
func TestFullDisk(t *testing.T) {
	d := prepare(t)
	full := d.fullDisk()
	d.create()
	s := d.serve(porttest.Address(t), map[string]string{"CALPE_DOCUMENT_MAX_SIZE": fmt.Sprint(200 << 20)})
	s.awaitReady()
	full.Store(true)
	if p := s.writesThenReads(100 << 20); p.Code != string(calpe.CodeUnavailable) || p.Status != http.StatusServiceUnavailable {
		t.Errorf("answered with %+v", p)
	}
	s.awaitReadiness(http.StatusServiceUnavailable, map[string]string{"s3": "down", "postgres": "ok"})
	full.Store(false)
	s.awaitReady()
	s.takes(newRequestOf(documentKind, 1, 6<<20))
	s.exitsCleanly()
}

// writesThenReads sends a document whole and looks at the answer then.
func (s *server) writesThenReads(size int) (p problemAnswer) {
	t := s.d.t
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = fmt.Fprintf(conn, "POST /v1/documents HTTP/1.1\r\nHost: calpe\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n", s.d.token, size)
	chunk := make([]byte, 1<<20)
	for sent := 0; sent < size && err == nil; sent += len(chunk) {
		_, err = conn.Write(chunk)
	}
	if err != nil {
		t.Fatalf("write a document: %v", err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("read the answer: %v", err)
	}
	defer answer.Body.Close()
	if err := json.NewDecoder(answer.Body).Decode(&p); err != nil {
		t.Fatalf("answer %d: %v", answer.StatusCode, err)
	}
	return p
}
