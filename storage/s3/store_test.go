package s3_test

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/calpe/calpe/storage/s3"
	"github.com/minio/minio-go/v7"
)

func TestConfig(t *testing.T) {
	good := s3.Config{Endpoint: "https://s3.example.org", AccessKey: "key", SecretKey: "hunter2", DocumentsBucket: "documents", LogBucket: "log"}
	if _, err := s3.New(good); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		want   string
		change func(*s3.Config)
	}{
		{"scheme", func(c *s3.Config) { c.Endpoint = "s3.example.org" }},
		{"scheme", func(c *s3.Config) { c.Endpoint = "ftp://s3.example.org" }},
		{"scheme", func(c *s3.Config) { c.Endpoint = "" }},
		{"URL", func(c *s3.Config) { c.Endpoint = "http://[hunter2" }},
		{"credentials", func(c *s3.Config) { c.Endpoint = "http://key:hunter2@s3.example.org" }},
		{"without path", func(c *s3.Config) { c.Endpoint = "http://s3.example.org/bucket" }},
		{"without path", func(c *s3.Config) { c.Endpoint = "http://s3.example.org/?x=1" }},
		{"without path", func(c *s3.Config) { c.Endpoint = "http://" }},
		{"access key", func(c *s3.Config) { c.AccessKey = "" }},
		{"secret key", func(c *s3.Config) { c.SecretKey = "" }},
		{"bucket", func(c *s3.Config) { c.DocumentsBucket = "" }},
		{"bucket", func(c *s3.Config) { c.LogBucket = "" }},
		{"same bucket", func(c *s3.Config) { c.LogBucket = "documents" }},
		{"part size", func(c *s3.Config) { c.PartSize = 5<<20 - 1 }},
		{"part size", func(c *s3.Config) { c.PartSize = 16<<20 + 1 }},
		{"part size", func(c *s3.Config) { c.PartSize = -1 }},
		{"upload memory", func(c *s3.Config) { c.UploadMemory = 16 << 20 }},
		{"attempts", func(c *s3.Config) { c.Attempts = -1 }},
		{"attempts", func(c *s3.Config) { c.Attempts = 1000 }},
		{"time-out", func(c *s3.Config) { c.RequestTimeout = -1 }},
	} {
		cfg := good
		tt.change(&cfg)
		_, err := s3.New(cfg)
		if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%v: error %v, want one with %q and no secret", cfg, err, tt.want)
		}
	}
}

func TestConfigHidesSecret(t *testing.T) {
	cfg := s3.Config{Endpoint: "https://s3.example.org", AccessKey: "AKIA", SecretKey: "hunter2"}
	var out bytes.Buffer
	slog.New(slog.NewJSONHandler(&out, nil)).Info("x", "config", cfg)
	slog.New(slog.NewTextHandler(&out, nil)).Info("x", "config", cfg)
	fmt.Fprintf(&out, "%v %+v %#v %s", cfg, cfg, cfg, cfg)
	if strings.Contains(out.String(), "hunter2") || !strings.Contains(out.String(), "s3.example.org") {
		t.Errorf("printed %s", out.String())
	}
}

func TestWrongSecret(t *testing.T) {
	store, _ := setup(t, func(cfg *s3.Config) { cfg.SecretKey = "wrong-and-secret" })
	err := store.SelfTest(t.Context())
	if err == nil || !strings.Contains(err.Error(), "credentials") || strings.Contains(err.Error(), "wrong-and-secret") {
		t.Errorf("error %v", err)
	}
	if err != nil && strings.Count(err.Error(), "write a probe") != 2 {
		t.Errorf("want it said once for each bucket: %v", err)
	}
}

func TestNoServer(t *testing.T) {
	p := newProxy(t, func(*http.Request) fault { return cutBefore })
	cfg := config(t)
	p.use(&cfg)
	cfg.Attempts = 2
	store := newStore(t, cfg)
	for _, err := range []error{store.SelfTest(t.Context()), store.CreateBuckets(t.Context())} {
		if err == nil {
			t.Error("no error without a server")
		}
	}
	if p.faults() > 10 {
		t.Errorf("%d requests to a server that isn't there", p.faults())
	}
}

func TestCreateBuckets(t *testing.T) {
	cfg := config(t)
	store := newStore(t, cfg)
	srv := &server{core: rawClient(t, cfg), cfg: cfg}
	t.Cleanup(func() { srv.empty(t) })
	if err := store.SelfTest(t.Context()); err == nil || !strings.Contains(err.Error(), cfg.DocumentsBucket) {
		t.Errorf("self-test without buckets: %v", err)
	}
	for range 2 {
		if err := store.CreateBuckets(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.SelfTest(t.Context()); err != nil {
		t.Error(err)
	}

	// A documents bucket that someone made without Object Lock.
	cfg.DocumentsBucket += "2"
	if err := srv.core.MakeBucket(t.Context(), cfg.DocumentsBucket, minio.MakeBucketOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { (&server{core: srv.core, cfg: cfg}).empty(t) })
	store = newStore(t, cfg)
	for _, err := range []error{store.CreateBuckets(t.Context()), store.SelfTest(t.Context())} {
		if err == nil || !strings.Contains(err.Error(), "--object-lock-enabled-for-bucket") {
			t.Errorf("error %v, want one that says how to make it", err)
		}
	}
}

func TestSelfTest(t *testing.T) {
	store, srv := setup(t)
	for range 2 {
		if err := store.SelfTest(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	left := srv.versions(t, srv.cfg.DocumentsBucket, "")
	if len(left) != 2 {
		t.Errorf("%d versions left in the documents bucket, want the locked probe of each run", len(left))
	}
	for _, v := range left {
		if !strings.HasPrefix(v.Key, "control/probe/") || !strings.HasSuffix(v.Key, "-lock") || v.IsDeleteMarker {
			t.Errorf("left %s", v.Key)
		}
	}
	if left := srv.versions(t, srv.cfg.LogBucket, ""); len(left) != 0 {
		t.Errorf("%d objects left in the log bucket", len(left))
	}
	srv.wantNothing(t)
}

// Probes of a run that crashed are removed by a later one.
func TestSelfTestCleansUp(t *testing.T) {
	store, srv := setup(t, func(cfg *s3.Config) { cfg.Now = func() time.Time { return time.Now().Add(time.Hour) } })
	for _, bucket := range []string{srv.cfg.DocumentsBucket, srv.cfg.LogBucket} {
		data := strings.NewReader("left by a crash")
		if _, err := srv.core.PutObject(t.Context(), bucket, "control/probe/00-create", data, data.Size(), "", "", minio.PutObjectOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if err := store.SelfTest(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, bucket := range []string{srv.cfg.DocumentsBucket, srv.cfg.LogBucket} {
		for _, v := range srv.versions(t, bucket, "control/probe/") {
			if !strings.HasSuffix(v.Key, "-lock") {
				t.Errorf("%s is still in %s", v.Key, bucket)
			}
		}
	}
}

// Each promise, broken by a proxy that answers in the server's place.
func TestSelfTestFindsBrokenPromises(t *testing.T) {
	has := func(header, value string) func(*http.Request) bool {
		return func(r *http.Request) bool { return isPut(r) && r.Header.Get(header) == value }
	}
	ends := func(method, suffix string) func(*http.Request) bool {
		return func(r *http.Request) bool { return r.Method == method && strings.HasSuffix(r.URL.Path, suffix) }
	}
	and := func(f, g func(*http.Request) bool) func(*http.Request) bool {
		return func(r *http.Request) bool { return f(r) && g(r) }
	}
	query := func(key string) func(*http.Request) bool {
		return func(r *http.Request) bool { return r.URL.Query().Has(key) }
	}
	retains, looks := 0, 0
	// lockedAs is a change of the probe's lock, to that mode, that must be refused.
	lockedAs := func(mode string) func(*http.Request) bool {
		return func(r *http.Request) bool {
			if r.Header.Get("X-Amz-Bypass-Governance-Retention") == "" || !r.URL.Query().Has("retention") {
				return false
			}
			body, err := io.ReadAll(r.Body)
			if err != nil {
				return false
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
			return bytes.Contains(body, []byte(mode))
		}
	}
	for name, tt := range map[string]struct {
		lie   func(*http.Request) bool
		claim int
		want  string
		body  string
	}{
		"checksum ignored":       {ends(http.MethodPut, "-checksum"), 200, "X-Amz-Checksum-Sha256 is wrong must be refused", ""},
		"part checksum ignored":  {isPart, 200, "a part whose X-Amz-Checksum-Sha256", ""},
		"If-None-Match ignored":  {has("If-None-Match", "*"), 200, "If-None-Match: * must be honoured", ""},
		"If-Match ignored":       {func(r *http.Request) bool { return isPut(r) && r.Header.Get("If-Match") != "" && r.ContentLength == 5 }, 200, "If-Match must be honoured", ""},
		"public":                 {func(r *http.Request) bool { return r.Header.Get("Authorization") == "" }, 200, "readable without credentials", ""},
		"locked version deleted": {and(ends(http.MethodDelete, "-lock"), query("versionId")), 204, "a locked version must not be deleted", ""},
		"deleted with bypass": {func(r *http.Request) bool {
			return r.Method == http.MethodDelete && r.Header.Get("X-Amz-Bypass-Governance-Retention") != ""
		}, 204, "must not be deleted by anyone", ""},
		"lock shortened": {lockedAs("COMPLIANCE"), 200, "must not be shortened", ""},
		"lock weakened":  {lockedAs("GOVERNANCE"), 200, "must not become a weaker one", ""},
		"deleted although it was refused": {func(r *http.Request) bool {
			if r.Method == http.MethodHead && strings.HasSuffix(r.URL.Path, "-lock") {
				looks++ // the first one is for the lock that was asked for
			}
			return r.Method == http.MethodHead && looks == 2
		}, 404, "was deleted although the server refused", ""},
		"range ignored":            {func(r *http.Request) bool { return isGet(r) && r.Header.Get("Range") != "" }, 200, "a Range must be honoured", "second"},
		"no Object Lock":           {query("object-lock"), 404, "has no Object Lock", "<Error><Code>ObjectLockConfigurationNotFoundError</Code></Error>"},
		"lock accepted, not there": {func(r *http.Request) bool { retains++; return r.URL.Query().Has("retention") }, 200, "server accepted COMPLIANCE", ""},
		"not versioned":            {query("versioning"), 200, "isn't versioned", "<VersioningConfiguration/>"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, times(-1, claimDone, tt.lie))
			p.claim, p.claims = tt.claim, tt.body
			store, _ := setup(t, p.use)
			findings := store.Examine(t.Context())
			broken := slices.DeleteFunc(slices.Clone(findings), func(f s3.Finding) bool { return f.Err == nil })
			if len(broken) == 0 || !strings.Contains(broken[0].Err.Error(), tt.want) {
				t.Errorf("findings %v, want one with %q", broken, tt.want)
			}
			if len(findings) < 11 || len(broken) > 2 { // for both buckets; one that isn't as it should be isn't tried further
				t.Errorf("%d findings, of which broken: %v", len(findings), broken)
			}
			if p.faults() == 0 {
				t.Error("the server never lied")
			}
		})
	}
}

func FuzzDecrypt(f *testing.F) {
	key := [32]byte{1}
	for _, size := range []int{1, 100, 65536, 65537} {
		sealed, err := s3.Seal(key, content(1, size))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(sealed, int64(0), int64(size), int64(size))
		f.Add(sealed[:len(sealed)/2], int64(size/2), int64(1), int64(size))
	}
	f.Add([]byte{0x20, 0, 0, 0, 0x80}, int64(0), int64(1), int64(1))
	f.Fuzz(func(t *testing.T, sealed []byte, offset, length, size int64) {
		if size <= 0 || size > 1<<40 || offset < 0 || offset > size || length <= 0 || length > size-offset {
			return
		}
		first := min(int64(len(sealed)), offset/65536*s3.SealedChunk)
		got, err := s3.Decrypt(key, bytes.NewReader(sealed[first:]), offset, length, size)
		if err == nil && int64(len(got)) != length {
			t.Fatalf("%d bytes without an error, want %d", len(got), length)
		}
		if int64(len(got)) > length {
			t.Fatalf("%d bytes, more than the %d asked for", len(got), length)
		}
	})
}

func TestSealedSize(t *testing.T) {
	for _, size := range []int{1, 100, 65535, 65536, 65537, 131072, 131073} {
		sealed, err := s3.Seal([32]byte{}, make([]byte, size))
		if err != nil {
			t.Fatal(err)
		}
		if got := s3.SealedSize(int64(size)); got != int64(len(sealed)) {
			t.Errorf("%d bytes are %d when sealed, sealedSize says %d", size, len(sealed), got)
		}
		if got := s3.PlainCapacity(int64(len(sealed))); got != int64(size) {
			t.Errorf("%d sealed bytes hold %d, plainCapacity says %d", len(sealed), size, got)
		}
	}
}

// BenchmarkPut compares PutDocument with the plain client storing the same bytes
// in the same way. Read the ratio, not the rates.
func BenchmarkPut(b *testing.B) {
	for _, size := range []int{10 << 10, 100 << 10, 10 << 20, 64 << 20} {
		b.Run(fmt.Sprintf("%dKiB", size>>10), func(b *testing.B) {
			store, srv := setup(b, func(cfg *s3.Config) { cfg.PartSize = 16 << 20; cfg.UploadMemory = 128 << 20; cfg.Logger = nil })
			data := content(1, size)
			var ours, plain time.Duration
			b.SetBytes(int64(size))
			for b.Loop() {
				start := time.Now()
				if _, _, err := store.PutDocument(b.Context(), s3.NewDocumentName(), newKey(), bytes.NewReader(data), limit); err != nil {
					b.Fatal(err)
				}
				ours += time.Since(start)
				start = time.Now()
				_, err := srv.core.Client.PutObject(b.Context(), srv.cfg.LogBucket, s3.NewDocumentName(), bytes.NewReader(data), int64(size),
					minio.PutObjectOptions{PartSize: 16 << 20, NumThreads: 1})
				if err != nil {
					b.Fatal(err)
				}
				plain += time.Since(start)
			}
			b.ReportMetric(float64(ours)/float64(plain), "ratio-to-plain")
		})
	}
}
