package integration

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/calpe/calpe/internal/porttest"
)

// ownS3 gives the deployment an S3 server that can be stopped.
func (d *deployment) ownS3() (start func() *process) {
	d.t.Helper()
	dir, port := filepath.Join(d.dir, "s3"), "0"
	d.ownStorage = true
	start = func() *process {
		d.t.Helper()
		var info struct {
			URL       string `json:"url"`
			AccessKey string `json:"access_key"`
			SecretKey string `json:"secret_key"`
		}
		p := launch(d.t, "versitygw", dir+".log", os.Environ(), &info, setting(d.t, "CALPE_TEST_DEVSTACK"), "s3", "--dir", dir, "--port", port)
		u, err := url.Parse(info.URL)
		if err != nil {
			d.t.Fatal(err)
		}
		port = u.Port()
		d.env["CALPE_S3_ENDPOINT"], d.env["CALPE_S3_ACCESS_KEY"], d.env["CALPE_S3_SECRET_KEY"] = info.URL, info.AccessKey, info.SecretKey
		return p
	}
	return start
}

// awaitReadiness waits until /readyz says of each dependency what it should.
func (s *server) awaitReadiness(status int, want map[string]string) {
	s.d.t.Helper()
	eventually(s.d.t, "readiness", func(ctx context.Context) error {
		got, body, err := s.d.get(ctx, s.url+"/readyz", "")
		if err != nil {
			return err
		}
		var answer struct {
			Checks map[string]string `json:"checks"`
		}
		if err := json.Unmarshal(body, &answer); err != nil {
			return err
		}
		for name, state := range want {
			if answer.Checks[name] != state {
				return fmt.Errorf("%d %s, want %s %s", got, body, name, state)
			}
		}
		if got != status {
			return fmt.Errorf("status %d, want %d: %s", got, status, body)
		}
		return nil
	})
}

// refuses sends a request that can't be recorded now. The answer is a problem
// that says so, and that it may be sent again.
func (s *server) refuses(r request) {
	t := s.d.t
	t.Helper()
	httpRequest, _, err := s.d.newRequest(t.Context(), s.url, r)
	if err != nil {
		t.Fatal(err)
	}
	httpRequest.Header.Set("Authorization", "Bearer "+s.d.token)
	httpRequest.Header.Set("Idempotency-Key", r.key)
	status, header, p := s.d.problem(httpRequest)
	if status != http.StatusServiceUnavailable || p.Code != "unavailable" || header.Get("Retry-After") == "" {
		t.Errorf("%s: status %d, code %q, Retry-After %q, want 503 unavailable", r.kind, status, p.Code, header.Get("Retry-After"))
	}
}

// takes sends a request that must be recorded at once.
func (s *server) takes(r request) acknowledged {
	s.d.t.Helper()
	got, err := s.d.send(s.d.t.Context(), s.url, r)
	if err != nil {
		s.d.t.Fatalf("%s: %v", r.kind, err)
	}
	return got
}

// TestDependenciesDown stops each server that Calpe needs: it says which one is
// down, refuses what it can't do, and goes on by itself afterwards.
func TestDependenciesDown(t *testing.T) {
	d := prepare(t)
	startS3 := d.ownS3()
	storage := startS3()
	d.create()
	defer d.node.keepMining(600 * time.Millisecond)()
	s := d.serve(porttest.Address(t), nil)
	s.awaitReady()
	seq := uint64(0)
	next := func(k kind) request {
		seq++
		return newRequestOf(k, seq, 5000)
	}
	acks := []acknowledged{s.takes(next(documentKind))}

	// Object storage: no document can be kept, a commitment needs none.
	if _, err := storage.stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.awaitReadiness(http.StatusServiceUnavailable, map[string]string{"s3": "down", "postgres": "ok", "bitcoin": "ok"})
	refused := next(documentKind)
	s.refuses(refused)
	acks = append(acks, s.takes(next(stampKind)))
	startS3()
	s.awaitReady()
	acks = append(acks, s.takes(refused), s.takes(next(certifiedKind)))

	// The database: nothing can be recorded.
	d.db.kill()
	s.awaitReadiness(http.StatusServiceUnavailable, map[string]string{"postgres": "down", "s3": "ok", "bitcoin": "ok"})
	refusedDocument, refusedStamp := next(documentKind), next(stampKind)
	s.refuses(refusedDocument)
	s.refuses(refusedStamp)
	d.db.start()
	s.awaitReady()
	acks = append(acks, s.takes(refusedDocument), s.takes(refusedStamp))

	// The node: everything goes on but anchoring.
	d.node.signal(syscall.SIGSTOP)
	s.awaitReadiness(http.StatusServiceUnavailable, map[string]string{"bitcoin": "down", "postgres": "ok", "s3": "ok", "intake": "ok"})
	acks = append(acks, s.takes(next(documentKind)), s.takes(next(stampKind)))
	d.node.signal(syscall.SIGCONT)
	s.awaitReady()

	s.check(acks, nil)
	s.exitsCleanly()
}

// signal stops or continues the node itself, not the program that started it.
func (n *node) signal(sig syscall.Signal) {
	n.t.Helper()
	if err := syscall.Kill(n.info.PID, sig); err != nil {
		n.t.Fatal(err)
	}
}

// problemAnswer is an error as RFC 9457 has it.
type problemAnswer struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Code   string `json:"code"`
}

// problem sends a request that must be answered with a problem.
func (d *deployment) problem(request *http.Request) (int, http.Header, problemAnswer) {
	d.t.Helper()
	answer, err := d.http.Do(request)
	if err != nil {
		d.t.Fatal(err)
	}
	defer answer.Body.Close()
	var p problemAnswer
	err = json.NewDecoder(answer.Body).Decode(&p)
	if got := answer.Header.Get("Content-Type"); got != "application/problem+json" {
		err = errors.Join(err, fmt.Errorf("Content-Type %q", got))
	}
	if p.Status != answer.StatusCode || p.Type != "urn:calpe:error:"+p.Code || p.Title == "" {
		err = errors.Join(err, fmt.Errorf("%+v with status %d", p, answer.StatusCode))
	}
	if err != nil {
		d.t.Fatalf("%s %s: not a problem: %v", request.Method, request.URL.Path, err)
	}
	return answer.StatusCode, answer.Header, p
}

// footprint is what a refused request must not change: rows and objects.
type footprint struct {
	next      int64
	documents int
	objects   int
	uploads   int
}

func (d *deployment) footprint(conn *pgx.Conn) (f footprint) {
	d.t.Helper()
	err := conn.QueryRow(d.t.Context(),
		"SELECT (SELECT max(first + count) FROM entry_group), (SELECT count(*) FROM document)").Scan(&f.next, &f.documents)
	if err != nil {
		d.t.Fatal(err)
	}
	f.objects, f.uploads = len(d.documentObjects()), d.unfinishedUploads()
	return f
}
