package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/internal/porttest"
)

// TestTwoServers kills one of two servers of a log after the other, and once the
// database of both. What one leaves the other takes up.
func TestTwoServers(t *testing.T) {
	const kills = 8
	d := deploy(t)
	defer d.node.keepMining(600 * time.Millisecond)()
	addresses := []string{porttest.Address(t), porttest.Address(t)}
	servers := []*server{d.serve(addresses[0], nil), d.serve(addresses[1], nil)}
	for _, s := range servers {
		s.awaitReady()
	}
	l := d.load(clients(), servers[0].url, servers[1].url)
	for i := range kills {
		l.awaitMore(20)
		victim, other := i%2, (i+1)%2
		servers[victim].kill()
		l.awaitMore(20)
		servers[other].awaitCheckpoint(l.highest()) // it leads now, or has before
		if i == kills/2 {
			d.db.kill()
			d.db.start()
		}
		servers[victim] = d.serve(addresses[victim], nil)
		servers[victim].awaitReady()
	}
	l.awaitMore(20)
	l.stop()
	v := servers[0].check(l.all(), nil)
	t.Logf("%d kills of one of two servers and 1 of PostgreSQL, %d acknowledged (%d after repetition), %d entries of which %d void, %d recoveries, %d anchors",
		kills, l.count(), l.retry, v.entries, v.voids, v.recoveries, v.anchors)
	if v.recoveries != 1 {
		t.Errorf("%d recoveries are declared, the database was killed once: two servers recovered", v.recoveries)
	}
	conn := d.connect()
	for table, least := range map[string]int{"checkpoint": kills/2 + 1, "attempt": 2} {
		var epochs int
		if err := conn.QueryRow(t.Context(), "SELECT count(DISTINCT epoch) FROM "+table).Scan(&epochs); err != nil {
			t.Fatal(err)
		}
		if epochs < least {
			t.Errorf("%d leaders wrote the rows of %s in %d kills, want at least %d", epochs, table, kills, least)
		}
	}
	for _, s := range servers {
		s.exitsCleanly()
	}
}

// awaitCheckpoint waits until a checkpoint covers size.
func (s *server) awaitCheckpoint(size uint64) {
	s.d.t.Helper()
	eventually(s.d.t, "entries are sealed", func(ctx context.Context) error {
		st, err := s.status(ctx)
		if err == nil && st.Checkpointed < size {
			err = fmt.Errorf("want %d: %+v", size, st)
		}
		return err
	})
}

// TestShutdown ends servers in order under load. Requests that run are answered,
// others find no listener, and nothing that was acknowledged is missing.
func TestShutdown(t *testing.T) {
	const stops = 5
	d := deploy(t)
	defer d.node.keepMining(600 * time.Millisecond)()
	address := porttest.Address(t)
	s := d.serve(address, nil)
	s.awaitReady()
	l := d.load(clients(), s.url)
	var slow []acknowledged
	for i := range stops {
		l.awaitMore(20)
		slow = append(slow, s.stopDuringUpload(newRequestOf(documentKind, uint64(1_000_000+i), 200_000)))
		s = d.serve(address, nil)
		s.awaitReady()
	}
	l.awaitMore(10)
	l.stop()
	v := s.check(append(l.all(), slow...), nil)
	t.Logf("%d shutdowns, %d acknowledged (%d after repetition), %d entries, %d anchors", stops, l.count(), l.retry, v.entries, v.anchors)
	if v.voids != 0 {
		t.Errorf("%d entries are void", v.voids)
	}
	s.exitsCleanly()
}

// gatedBody gives the first half at once, and the rest when the gate opens.
type gatedBody struct {
	first, rest io.Reader
	half        chan struct{} // closed when the first half was read
	gate        chan struct{}
}

func newGatedBody(content []byte) *gatedBody {
	half := len(content) / 2
	return &gatedBody{bytes.NewReader(content[:half]), bytes.NewReader(content[half:]), make(chan struct{}), make(chan struct{})}
}

func (b *gatedBody) Read(p []byte) (int, error) {
	if n, err := b.first.Read(p); !errors.Is(err, io.EOF) {
		return n, err
	}
	select {
	case <-b.half:
	default:
		close(b.half)
	}
	<-b.gate
	return b.rest.Read(p)
}

// stopDuringUpload asks the server to end when it has half of a document, and
// sends the other half then. The document is acknowledged all the same.
func (s *server) stopDuringUpload(r request) acknowledged {
	t := s.d.t
	t.Helper()
	content := r.content()
	body := newGatedBody(content)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.url+"/v1/documents", body)
	if err != nil {
		t.Fatal(err)
	}
	request.ContentLength = int64(len(content))
	request.Header.Set("Authorization", "Bearer "+s.d.token)
	request.Header.Set("Idempotency-Key", r.key)
	request.Header.Set("Content-Disposition", fmt.Sprintf(`attachment; filename="%s.bin"`, r.key))
	request.Header.Set("Expect", "100-continue") // the body is sent when the server asks for it, so it has the request by then
	go func() {
		<-body.half
		_ = s.cmd.Process.Signal(terminate)
		_ = poll(t.Context(), patience, s.refusesConnections)
		close(body.gate)
	}()
	got, err := s.d.do(request, r, calpe.Digest(sha256.Sum256(content)))
	if err != nil {
		t.Fatalf("an upload during the shutdown: %v", err)
	}
	if err := s.ended(t.Context()); err != nil {
		t.Fatal(err)
	}
	if code := s.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("SIGTERM: exit code %d\n%s", code, tail(s.log, 20))
	}
	return got
}

// refusesConnections is nil when nobody listens any more.
func (s *server) refusesConnections(ctx context.Context) error {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.url+"/livez", nil)
	if err != nil {
		return err
	}
	answer, err := client.Do(request)
	if err != nil {
		return nil //nolint:nilerr // the failure is what is waited for
	}
	answer.Body.Close()
	return errors.New("the server still listens")
}
