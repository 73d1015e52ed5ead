package s3

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"time"

	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"
)

// Sizes in bytes that S3 or the stored format fix.
const (
	minPartSize = 5 << 20  // S3 refuses smaller parts, but for the last one
	maxPartSize = 16 << 20 // what one upload may hold in memory at a time, twice
	maxParts    = 10000    // S3's limit of parts in one object
	smallBuffer = 256 << 10
)

// Config says where the storage is and what it may cost. The zero value of a
// field with a default means the default.
type Config struct {
	Endpoint        string // http://host:port or https://host, without path
	Region          string // us-east-1 by default
	AccessKey       string
	SecretKey       string // never printed
	DocumentsBucket string // private, versioned, with Object Lock
	LogBucket       string // the public log; another bucket

	PartSize     int64 // size of an upload's parts, 5 MiB to 16 MiB, 16 MiB by default
	UploadMemory int64 // bytes of buffers for all uploads together, 256 MiB by default

	RequestTimeout  time.Duration // one attempt of a request without much of a body, 30 s by default
	TransferTimeout time.Duration // one attempt to send or put together parts, 2 min by default
	IdleTimeout     time.Duration // the server sends nothing of an answer's body, 30 s by default
	Attempts        int           // how often a request is sent at most, 4 by default
	RetryDelay      time.Duration // pause before the second attempt, doubled for each further; 100 ms by default

	// Observe, if set, is told of each request when the headers of its answer are
	// there, or none came. It must not block.
	Observe func(method string, outcome Outcome, took time.Duration)

	Logger *slog.Logger     // discards by default
	Now    func() time.Time // time.Now by default
}

// String hides the credentials.
func (c Config) String() string {
	return fmt.Sprintf("s3 %s, documents in %s, log in %s", c.Endpoint, c.DocumentsBucket, c.LogBucket)
}

// GoString hides the credentials.
func (c Config) GoString() string { return c.String() }

// LogValue hides the credentials.
func (c Config) LogValue() slog.Value { return slog.StringValue(c.String()) }

// Store is the object storage of one deployment. Its methods are safe for
// concurrent use.
type Store struct {
	cfg   Config
	core  minio.Core
	anon  minio.Core // the same server without credentials, for the self-test
	small *buffers
	parts *buffers
	// sealedParts are for documents that come in pieces, see PutPart.
	sealedParts *buffers
	maxSize     int64 // plaintext bytes that fit into maxParts parts
	probe       *writeProbe
}

// New checks the configuration and makes a Store. It doesn't connect: that is
// [Store.SelfTest], which must have passed before anything is stored.
func New(cfg Config) (*Store, error) {
	cfg.Region = cmp.Or(cfg.Region, "us-east-1")
	cfg.PartSize = cmp.Or(cfg.PartSize, maxPartSize)
	cfg.UploadMemory = cmp.Or(cfg.UploadMemory, 256<<20)
	cfg.RequestTimeout = cmp.Or(cfg.RequestTimeout, 30*time.Second)
	cfg.TransferTimeout = cmp.Or(cfg.TransferTimeout, 2*time.Minute)
	cfg.IdleTimeout = cmp.Or(cfg.IdleTimeout, 30*time.Second)
	cfg.Attempts = cmp.Or(cfg.Attempts, 4)
	cfg.RetryDelay = cmp.Or(cfg.RetryDelay, 100*time.Millisecond)
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	endpoint, err := cfg.check()
	if err != nil {
		return nil, fmt.Errorf("s3 configuration: %w", err)
	}
	transport := newTransport(cfg)
	core, err := newCore(endpoint, cfg.Region, transport, credentials.NewStaticV4(cfg.AccessKey, cfg.SecretKey, ""))
	if err != nil {
		return nil, fmt.Errorf("s3 client: %w", err)
	}
	anon, err := newCore(endpoint, cfg.Region, transport, credentials.NewStatic("", "", "", credentials.SignatureAnonymous))
	if err != nil {
		return nil, fmt.Errorf("s3 client: %w", err)
	}
	return &Store{
		probe: newWriteProbe(),

		cfg:  cfg,
		core: *core,
		anon: *anon,
		// An eighth of the memory for the beginnings of documents, the rest for
		// those that turn out to be large.
		small:   newBuffers(smallBuffer, int(cfg.UploadMemory/8/smallBuffer)),
		parts:   newBuffers(int(cfg.PartSize), int(cfg.UploadMemory*7/8/cfg.PartSize)),
		maxSize: plainCapacity(maxParts * cfg.PartSize),

		sealedParts: newBuffers(sealedPart, partBuffers),
	}, nil
}

func newCore(endpoint *url.URL, region string, transport http.RoundTripper, creds *credentials.Credentials) (*minio.Core, error) {
	return minio.NewCore(endpoint.Host, &minio.Options{
		Creds:     creds,
		Secure:    endpoint.Scheme == "https",
		Region:    region,
		Transport: transport,
		// The library's own retries would hide which attempt a refusal belongs to:
		// a create-only PUT that was applied and then repeated is refused.
		MaxRetries: 1,
		// Checksums go into headers. As trailers, versitygw over plain http refuses them.
		TrailingHeaders: false,
	})
}

func (c Config) check() (*url.URL, error) {
	endpoint, err := url.Parse(c.Endpoint)
	if err != nil {
		return nil, errors.New("endpoint is not a URL") // the text may hold a password
	}
	switch {
	case endpoint.Scheme != "http" && endpoint.Scheme != "https":
		return nil, fmt.Errorf("endpoint has scheme %q, want http or https", endpoint.Scheme)
	case endpoint.User != nil:
		return nil, errors.New("endpoint holds credentials; set access key and secret key instead")
	case endpoint.Host == "" || (endpoint.Path != "" && endpoint.Path != "/") || endpoint.RawQuery != "" || endpoint.Fragment != "":
		return nil, errors.New("endpoint must be scheme and host, without path or query")
	case c.AccessKey == "" || c.SecretKey == "":
		return nil, errors.New("access key or secret key is missing")
	case c.DocumentsBucket == "" || c.LogBucket == "":
		return nil, errors.New("name of documents bucket or log bucket is missing")
	case c.DocumentsBucket == c.LogBucket:
		return nil, fmt.Errorf("documents and log are the same bucket %q; the log may become public, the documents never", c.LogBucket)
	case c.PartSize < minPartSize || c.PartSize > maxPartSize:
		return nil, fmt.Errorf("part size is %d bytes, want %d to %d", c.PartSize, minPartSize, maxPartSize)
	case c.PartSize == sealedPart:
		return nil, fmt.Errorf("part size is %d bytes, which is that of documents that come in pieces; take another", c.PartSize)
	case c.UploadMemory*7/8 < c.PartSize:
		return nil, fmt.Errorf("upload memory is %d bytes, too little for one part of %d bytes", c.UploadMemory, c.PartSize)
	case c.Attempts < 1 || c.Attempts > 20:
		return nil, fmt.Errorf("attempts is %d, want 1 to 20", c.Attempts)
	case c.RequestTimeout < 0 || c.TransferTimeout < 0 || c.IdleTimeout < 0 || c.RetryDelay < 0:
		return nil, errors.New("a time-out is negative")
	}
	return endpoint, nil
}

// maxRetryDelay keeps the pause between attempts short enough that a request
// which someone waits for is answered.
const maxRetryDelay = 5 * time.Second

// try runs f until it succeeds or fails for good, at most cfg.Attempts times,
// each time with a context that ends after timeout.
func (s *Store) try(ctx context.Context, timeout time.Duration, op string, f func(context.Context) error) error {
	for attempt := 1; ; attempt++ {
		err := once(ctx, timeout, f)
		if err == nil || attempt >= s.cfg.Attempts || !isTransient(ctx, err) {
			return err
		}
		s.cfg.Logger.WarnContext(ctx, "object storage request failed, trying again",
			slog.String("op", op), slog.Int("attempt", attempt), slog.Any("error", err))
		if waitErr := s.pause(ctx, attempt); waitErr != nil {
			return fmt.Errorf("%w (last failure: %w)", waitErr, err)
		}
	}
}

func once(ctx context.Context, timeout time.Duration, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return f(ctx)
}

// pause waits before the attempt after the given one, between half and all of a
// delay that doubles each time.
func (s *Store) pause(ctx context.Context, attempt int) error {
	delay := min(s.cfg.RetryDelay<<(attempt-1), maxRetryDelay)
	if delay > 1 {
		delay = delay/2 + rand.N(delay/2)
	}
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// cleanupContext outlives the caller's, for work that must be done because the
// caller's work failed.
func (s *Store) cleanupContext(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), s.cfg.RequestTimeout)
}
