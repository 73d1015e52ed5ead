package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"mime/multipart"
	"net/http"
	"net/textproto"
	"slices"
	"sync"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/statement"
)

// kind is what a client sends.
type kind string

const (
	stampKind     kind = "commitment"
	documentKind  kind = "document"
	certifiedKind kind = "certified document"
	largeKind     kind = "large document" // more than one part in object storage
)

// request is one upload. It is sent with the same Idempotency-Key until it is
// acknowledged. What it sends follows from its number, so nothing is kept.
type request struct {
	kind kind
	key  string
	seed uint64
	size int
}

// content is the document.
func (r request) content() []byte {
	var seed [32]byte
	binary.BigEndian.PutUint64(seed[:], r.seed)
	data := make([]byte, r.size)
	rand.NewChaCha8(seed).Read(data)
	return data
}

// commitment is what a client that keeps its document sends.
func (r request) commitment() calpe.Commitment {
	var salt calpe.Salt
	binary.BigEndian.PutUint64(salt[:], r.seed)
	return calpe.Commit(sha256.Sum256([]byte(r.key)), salt)
}

// acknowledged is a request that the service has signed for.
type acknowledged struct {
	request
	index      uint64
	id         string           // of a document
	digest     calpe.Digest     // of a document
	commitment calpe.Commitment // of a stamp; that of a document is found out later
	note       string
	path       receipt.Path
}

// refusedError is an answer that no repetition will change.
type refusedError struct {
	status int
	body   string
}

func (e *refusedError) Error() string { return fmt.Sprintf("refused with %d %s", e.status, e.body) }

// answer is the union of what the two requests are answered with.
type answer struct {
	ID              string       `json:"id"`
	Index           uint64       `json:"index"`
	State           string       `json:"state"`
	Digest          calpe.Digest `json:"digest"`
	Size            int          `json:"size"`
	CertifiedBy     string       `json:"certified_by"`
	Commitment      calpe.Commitment
	Acknowledgement struct {
		Note string       `json:"note"`
		Path receipt.Path `json:"path"`
	} `json:"acknowledgement"`
}

// send makes one try. A [refusedError] is a verdict; after any other error
// nobody knows, and the same request is sent again.
func (d *deployment) send(ctx context.Context, base string, r request) (acknowledged, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	request, digest, err := d.newRequest(ctx, base, r)
	if err != nil {
		return acknowledged{}, err
	}
	request.Header.Set("Authorization", "Bearer "+d.token)
	request.Header.Set("Idempotency-Key", r.key)
	return d.do(request, r, digest)
}

// do sends a request that is ready, and reads the answer.
func (d *deployment) do(request *http.Request, r request, digest calpe.Digest) (acknowledged, error) {
	response, err := d.http.Do(request)
	if err != nil {
		return acknowledged{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 1<<20))
	if err != nil {
		return acknowledged{}, err
	}
	switch response.StatusCode {
	case http.StatusCreated:
	case http.StatusServiceUnavailable, http.StatusTooManyRequests:
		return acknowledged{}, fmt.Errorf("%d %s", response.StatusCode, body)
	default:
		return acknowledged{}, &refusedError{response.StatusCode, string(body)}
	}
	var a answer
	if err := json.Unmarshal(body, &a); err != nil {
		return acknowledged{}, &refusedError{response.StatusCode, string(body)}
	}
	got := acknowledged{request: r, index: a.Index, id: a.ID, digest: digest, note: a.Acknowledgement.Note, path: a.Acknowledgement.Path}
	return got, d.holds(&got, a)
}

// holds checks an answer as far as that goes without a further question.
func (d *deployment) holds(got *acknowledged, a answer) error {
	wrong := func(what string) error { return &refusedError{http.StatusCreated, "answer with wrong " + what} }
	if got.kind == stampKind {
		got.commitment = got.request.commitment()
		entry := calpe.Entry{Index: a.Index, Commitment: got.commitment}
		if _, err := receipt.VerifyAcknowledged(entry, []byte(got.note), got.path, d.identity); err != nil {
			return wrong("acknowledgement: " + err.Error())
		}
		return nil
	}
	promise, err := receipt.OpenAcknowledgement([]byte(got.note), d.identity)
	switch {
	case err != nil:
		return wrong("acknowledgement: " + err.Error())
	case a.Index < promise.First || a.Index >= promise.First+promise.Count:
		return wrong("index")
	case a.Digest != got.digest:
		return wrong("digest")
	case a.Size != got.size:
		return wrong("size")
	case (a.CertifiedBy == testAgency) != (got.kind == certifiedKind):
		return wrong("agency")
	}
	return nil
}

func (d *deployment) newRequest(ctx context.Context, base string, r request) (*http.Request, calpe.Digest, error) {
	if r.kind == stampKind {
		body := fmt.Sprintf(`{"commitment":"%s"}`, r.commitment())
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/v1/commitments", bytes.NewReader([]byte(body)))
		if err == nil {
			request.Header.Set("Content-Type", "application/json")
		}
		return request, calpe.Digest{}, err
	}
	content := r.content()
	digest := calpe.Digest(sha256.Sum256(content))
	mediaType, body := "application/octet-stream", content
	if r.kind == certifiedKind {
		var err error
		if mediaType, body, err = d.certified(digest, content); err != nil {
			return nil, digest, err
		}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, base+"/v1/documents", bytes.NewReader(body))
	if err == nil {
		request.Header.Set("Content-Type", mediaType)
		if r.kind != certifiedKind {
			request.Header.Set("Content-Disposition", fmt.Sprintf(`attachment; filename="%s.bin"`, r.key))
		}
	}
	return request, digest, err
}

// certify is what an agency says of a document.
func (d *deployment) certify(digest calpe.Digest) ([]byte, error) {
	signed, err := statement.Sign(d.agency, statement.Certification{
		Agency: testAgency, Digest: digest, DocumentType: "birth certificate", Subject: "registry 2026/1", Issued: "2026-11-01",
	})
	if err != nil {
		return nil, err
	}
	return signed.Bytes(), nil
}

// certified is the form with a certification and its document.
func (d *deployment) certified(digest calpe.Digest, content []byte) (mediaType string, body []byte, err error) {
	certification, err := d.certify(digest)
	if err != nil {
		return "", nil, err
	}
	return form(certification, content)
}

func form(certification, content []byte) (mediaType string, body []byte, err error) {
	var buf bytes.Buffer
	w := multipart.NewWriter(&buf)
	for _, part := range []struct {
		header textproto.MIMEHeader
		data   []byte
	}{
		{textproto.MIMEHeader{
			"Content-Disposition": {`form-data; name="certification"`}, "Content-Type": {"application/json"},
		}, certification},
		{textproto.MIMEHeader{
			"Content-Disposition": {`form-data; name="document"; filename="certificate.bin"`}, "Content-Type": {"application/octet-stream"},
		}, content},
	} {
		if part.data == nil {
			continue
		}
		p, err := w.CreatePart(part.header)
		if err != nil {
			return "", nil, err
		}
		if _, err := p.Write(part.data); err != nil {
			return "", nil, err
		}
	}
	if err := w.Close(); err != nil {
		return "", nil, err
	}
	return w.FormDataContentType(), buf.Bytes(), nil
}

// load is clients that send one request after the other, through crashes, and
// keep what they were acknowledged.
type load struct {
	d    *deployment
	urls []string // of the servers; a client goes to the next one after a failure
	stop func()

	mu    sync.Mutex
	seq   uint64
	acks  []acknowledged
	retry int   // requests that were sent more than once
	tries []int // that have ended, of each client
}

// client says what one client sends.
type client struct {
	pause time.Duration // between two requests
	next  func(seq uint64) request
}

// clients are the usual mix.
func clients() []client {
	stamp := func(seq uint64) request { return newRequestOf(stampKind, seq, 0) }
	return []client{
		{5 * time.Millisecond, stamp},
		{10 * time.Millisecond, stamp},
		{20 * time.Millisecond, func(seq uint64) request { return newRequestOf(documentKind, seq, 1+int(seq*7919%100_000)) }},
		{30 * time.Millisecond, func(seq uint64) request { return newRequestOf(certifiedKind, seq, 1+int(seq*104729%5_000)) }},
		{1500 * time.Millisecond, func(seq uint64) request { return newRequestOf(largeKind, seq, 17<<20+int(seq%1000)) }},
	}
}

func newRequestOf(k kind, seq uint64, size int) request {
	return request{kind: k, key: fmt.Sprintf("request-%d", seq), seed: seq, size: size}
}

// run starts the clients. They go on until stop.
func (d *deployment) load(all []client, urls ...string) *load {
	ctx, cancel := context.WithCancel(d.t.Context())
	l := &load{d: d, urls: urls, tries: make([]int, len(all))}
	var running sync.WaitGroup
	for i, c := range all {
		running.Go(func() { l.run(ctx, i, c) })
	}
	l.stop = func() { cancel(); running.Wait() }
	return l
}

func (l *load) run(ctx context.Context, i int, c client) {
	for ctx.Err() == nil {
		l.mu.Lock()
		l.seq++
		r := c.next(l.seq)
		l.mu.Unlock()
		got, err := l.deliver(ctx, i, r)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			l.d.t.Errorf("%s %s: %v", r.kind, r.key, err)
			return
		}
		l.mu.Lock()
		l.acks = append(l.acks, got)
		l.tries[i]++
		l.mu.Unlock()
		pause(ctx, c.pause)
	}
}

// deliver sends a request of a client until it is acknowledged.
func (l *load) deliver(ctx context.Context, i int, r request) (acknowledged, error) {
	for try := 0; ; try++ {
		got, err := l.d.send(ctx, l.urls[(int(r.seed)+try)%len(l.urls)], r)
		if refused := (*refusedError)(nil); err == nil || errors.As(err, &refused) {
			return got, err
		}
		l.mu.Lock()
		l.tries[i]++
		if try == 0 {
			l.retry++
		}
		l.mu.Unlock()
		if pause(ctx, 30*time.Millisecond); ctx.Err() != nil {
			return acknowledged{}, err
		}
	}
}

func (l *load) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.acks)
}

// settle waits until every client knows how the request ended that it was at:
// what was acknowledged before is counted then.
func (l *load) settle() {
	l.d.t.Helper()
	l.mu.Lock()
	before := slices.Clone(l.tries)
	l.mu.Unlock()
	eventually(l.d.t, "requests end", func(context.Context) error {
		l.mu.Lock()
		defer l.mu.Unlock()
		for i, n := range before {
			if l.tries[i] == n {
				return fmt.Errorf("client %d still waits for an answer", i)
			}
		}
		return nil
	})
}

// all is what was acknowledged so far.
func (l *load) all() []acknowledged {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]acknowledged(nil), l.acks...)
}

// highest is the size that the log must have for what was acknowledged so far.
func (l *load) highest() (size uint64) {
	for _, a := range l.all() {
		size = max(size, a.index+1)
	}
	return size
}

// awaitMore waits for n further acknowledgements.
func (l *load) awaitMore(n int) {
	l.d.t.Helper()
	want := l.count() + n
	eventually(l.d.t, "requests are acknowledged", func(context.Context) error {
		if have := l.count(); have < want {
			return fmt.Errorf("%d acknowledgements, want %d", have, want)
		}
		return nil
	})
}
