package s3_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/calpe/calpe/storage/s3"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

const partSize = 5 << 20

// env is a setting that make test provides.
func env(t testing.TB, name string) string {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		t.Fatalf("%s is not set: run these tests with make test, which starts an S3 server", name)
	}
	return value
}

// bucketNames are two fresh names, so that every test has the server for itself.
func bucketNames() (documents, log string) {
	var b [6]byte
	rand.Read(b[:])
	id := hex.EncodeToString(b[:])
	return "t" + id + "-documents", "t" + id + "-log"
}

func config(t testing.TB) s3.Config {
	t.Helper()
	documents, log := bucketNames()
	return s3.Config{
		Endpoint:        env(t, "CALPE_TEST_S3_ENDPOINT"),
		AccessKey:       env(t, "CALPE_TEST_S3_ACCESS_KEY"),
		SecretKey:       env(t, "CALPE_TEST_S3_SECRET_KEY"),
		DocumentsBucket: documents,
		LogBucket:       log,
		PartSize:        partSize,
		UploadMemory:    32 << 20,
		RetryDelay:      time.Millisecond,
		Logger:          slog.New(slog.NewTextHandler(t.Output(), nil)),
	}
}

func newStore(t testing.TB, cfg s3.Config) *s3.Store {
	t.Helper()
	store, err := s3.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return store
}

// setup is a store on fresh buckets, and a plain client that sees what is really
// there.
func setup(t testing.TB, change ...func(*s3.Config)) (*s3.Store, *server) {
	t.Helper()
	cfg := config(t)
	if err := newStore(t, cfg).CreateBuckets(t.Context()); err != nil {
		t.Fatal(err)
	}
	raw := rawClient(t, cfg)
	srv := &server{core: raw, cfg: cfg}
	t.Cleanup(func() { srv.empty(t) })
	for _, f := range change {
		f(&cfg)
	}
	return newStore(t, cfg), srv
}

func rawClient(t testing.TB, cfg s3.Config) *minio.Core {
	t.Helper()
	endpoint, err := url.Parse(cfg.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	core, err := minio.NewCore(endpoint.Host, &minio.Options{
		Creds: credentials.NewStaticV4(cfg.AccessKey, cfg.SecretKey, ""), Region: "us-east-1", Secure: endpoint.Scheme == "https",
	})
	if err != nil {
		t.Fatal(err)
	}
	return core
}

// server looks at the buckets without the package under test.
type server struct {
	core *minio.Core
	cfg  s3.Config
}

// versions lists every version and delete marker with a prefix.
func (s *server) versions(t testing.TB, bucket, prefix string) []minio.ObjectInfo {
	t.Helper()
	var all []minio.ObjectInfo
	for info := range s.core.ListObjectsIter(context.WithoutCancel(t.Context()), bucket, minio.ListObjectsOptions{
		Prefix: prefix, Recursive: true, WithVersions: true,
	}) {
		if info.Err != nil {
			t.Fatal(info.Err)
		}
		all = append(all, info)
	}
	return all
}

// wantNothing fails if a document is in the bucket, or an unfinished upload that
// can't be given up. A part that was cut off may still be on its way through the
// server when its upload is aborted, and comes to lie there after it (S3's
// documentation of AbortMultipartUpload says that it may); the sweeper takes
// those, and so it does here.
func (s *server) wantNothing(t testing.TB) {
	t.Helper()
	for _, v := range s.versions(t, s.cfg.DocumentsBucket, "documents/") {
		t.Errorf("left behind: %s, %d bytes", v.Key, v.Size)
	}
	store := newStore(t, s.cfg)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	for s.unfinished(ctx, t) > 0 {
		if _, err := store.AbortStaleUploads(ctx, time.Now().Add(time.Hour)); err != nil {
			t.Fatalf("left behind: uploads that can't be aborted: %v", err)
		}
	}
}

// unfinished is how many uploads were begun and neither completed nor aborted.
func (s *server) unfinished(ctx context.Context, t testing.TB) int {
	t.Helper()
	uploads, err := s.core.ListMultipartUploads(ctx, s.cfg.DocumentsBucket, "documents/", "", "", "", 1000)
	if err != nil {
		t.Fatal(err)
	}
	return len(uploads.Uploads)
}

// overwrite replaces what is stored under a name, as a broken server would.
func (s *server) overwrite(t testing.TB, name string, data []byte) {
	t.Helper()
	_, err := s.core.PutObject(t.Context(), s.cfg.DocumentsBucket, name, bytes.NewReader(data), int64(len(data)), "", "", minio.PutObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// stored reads the object's bytes as they are on the server.
func (s *server) stored(t testing.TB, bucket, name string) []byte {
	t.Helper()
	body, _, _, err := s.core.GetObject(t.Context(), bucket, name, minio.GetObjectOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	data, err := io.ReadAll(body)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// empty removes what can be removed: the server is thrown away anyway.
func (s *server) empty(t testing.TB) {
	ctx := context.WithoutCancel(t.Context())
	for _, bucket := range []string{s.cfg.DocumentsBucket, s.cfg.LogBucket} {
		for info := range s.core.ListObjectsIter(ctx, bucket, minio.ListObjectsOptions{Recursive: true, WithVersions: true}) {
			if info.Err == nil {
				_ = s.core.RemoveObject(ctx, bucket, info.Key, minio.RemoveObjectOptions{VersionID: info.VersionID})
			}
		}
		_ = s.core.RemoveBucket(ctx, bucket)
	}
}

// fault is what a proxy does to one request.
type fault int

const (
	pass       fault = iota
	cutBefore        // the server never sees it: failed, not applied
	cutAfter         // the server does it, the answer is lost: failed, but applied
	cutBody          // the head of the answer arrives, nothing of its body
	overloaded       // answered with 503 SlowDown, not applied
	claimDone        // answered with success, not applied: a server that ignores what it was asked
	hang             // not answered until stop is closed
)

// proxy stands between the store and the server and breaks what plan says.
type proxy struct {
	mu      sync.Mutex
	plan    func(r *http.Request) fault
	body    func(r *http.Response) // changes answers, may be nil
	broken  int
	stop    chan struct{}
	claim   int    // the status that claimDone answers with
	claims  string // the body that claimDone answers with
	forward *httputil.ReverseProxy
	server  *httptest.Server
}

func newProxy(t testing.TB, plan func(*http.Request) fault) *proxy {
	t.Helper()
	target, err := url.Parse(env(t, "CALPE_TEST_S3_ENDPOINT"))
	if err != nil {
		t.Fatal(err)
	}
	p := &proxy{plan: plan, claim: http.StatusOK}
	p.forward = &httputil.ReverseProxy{
		// The Host stays as it is: the client has signed it.
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host = target.Scheme, target.Host
			r.Out.Host = r.In.Host
		},
		ModifyResponse: p.modify,
		FlushInterval:  -1,
		ErrorHandler:   func(w http.ResponseWriter, _ *http.Request, _ error) { panic(http.ErrAbortHandler) },
		ErrorLog:       slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo),
		Transport:      &http.Transport{DisableCompression: true, DisableKeepAlives: true},
	}
	p.server = httptest.NewUnstartedServer(p)
	p.server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)
	p.server.Start()
	t.Cleanup(p.server.Close)
	return p
}

// use makes a store talk to the proxy.
func (p *proxy) use(cfg *s3.Config) { cfg.Endpoint = p.server.URL }

func (p *proxy) modify(r *http.Response) error {
	if p.body != nil {
		p.body(r)
	}
	return nil
}

func (p *proxy) decide(r *http.Request) fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	f := p.plan(r)
	if f != pass {
		p.broken++
	}
	return f
}

// faults is how many requests were broken so far.
func (p *proxy) faults() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.broken
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch p.decide(r) {
	case pass:
		p.forward.ServeHTTP(w, r)
	case cutBefore:
		panic(http.ErrAbortHandler)
	case cutAfter:
		p.forward.ServeHTTP(discard{http.Header{}}, r)
		panic(http.ErrAbortHandler)
	case cutBody:
		p.forward.ServeHTTP(headOnly{w}, r)
	case hang:
		<-p.stop
	case overloaded:
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprint(w, `<?xml version="1.0"?><Error><Code>SlowDown</Code><Message>slow down</Message></Error>`)
	case claimDone:
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("ETag", `"claimed"`)
		w.Header().Set("Last-Modified", time.Now().UTC().Format(http.TimeFormat))
		w.WriteHeader(p.claim)
		_, _ = io.WriteString(w, p.claims)
	}
}

type discard struct{ header http.Header }

func (d discard) Header() http.Header         { return d.header }
func (d discard) Write(b []byte) (int, error) { return len(b), nil }
func (d discard) WriteHeader(int)             {}

// headOnly sends the head of an answer on its way and then cuts the connection.
// Unless the head arrives, the client's transport asks again by itself, once
// for each connection in its pool.
type headOnly struct{ http.ResponseWriter }

func (w headOnly) Write([]byte) (int, error) {
	if err := http.NewResponseController(w.ResponseWriter).Flush(); err != nil {
		panic(err)
	}
	panic(http.ErrAbortHandler)
}

// times breaks the first n requests for which match holds.
func times(n int, f fault, match func(*http.Request) bool) func(*http.Request) fault {
	return func(r *http.Request) fault {
		if n == 0 || !match(r) {
			return pass
		}
		n--
		return f
	}
}

func isPut(r *http.Request) bool {
	return r.Method == http.MethodPut && !isPart(r) && r.URL.RawQuery == ""
}
func isPart(r *http.Request) bool {
	return r.Method == http.MethodPut && r.URL.Query().Has("partNumber")
}
func isAbort(r *http.Request) bool {
	return r.Method == http.MethodDelete && r.URL.Query().Has("uploadId")
}
func isStart(r *http.Request) bool {
	return r.Method == http.MethodPost && r.URL.Query().Has("uploads")
}
func isComplete(r *http.Request) bool {
	return r.Method == http.MethodPost && r.URL.Query().Has("uploadId")
}
func isGet(r *http.Request) bool {
	return r.Method == http.MethodGet && r.URL.Query().Get("list-type") == ""
}

// content is n bytes that depend on seed and can be read again.
func content(seed uint64, n int) []byte {
	b := make([]byte, n)
	var s [32]byte
	s[0] = byte(seed)
	_, _ = mathrand.NewChaCha8(s).Read(b)
	return b
}

func newKey() (key [32]byte) {
	rand.Read(key[:])
	return key
}

var errBroken = errors.New("reader broke")

// brokenReader gives data, then err.
func brokenReader(data []byte, err error) io.Reader {
	return io.MultiReader(bytes.NewReader(data), failing{err})
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
