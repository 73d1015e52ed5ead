package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/internal/commitpoint"
	"github.com/calpe/calpe/internal/porttest"
)

// keyed is a kind of request that records count entries, with a body that
// follows from its number.
type keyed struct {
	name, path string
	count      uint64
	body       func(seq uint64) (mediaType string, body []byte)
}

func (d *deployment) keyedRequests() []keyed {
	line := func(seq uint64) string {
		return fmt.Sprintf("{\"commitment\":\"%s\"}\n", newRequestOf(stampKind, seq, 0).commitment())
	}
	packed := func(seq, n uint64) (body []byte) {
		for i := range n {
			c := newRequestOf(stampKind, seq<<8+i, 0).commitment()
			body = append(body, c[:]...)
		}
		return body
	}
	return []keyed{
		{"document", "/v1/documents", 1, func(seq uint64) (string, []byte) {
			return "application/pdf", newRequestOf(documentKind, seq, 2000).content()
		}},
		{"certified document", "/v1/documents", 2, func(seq uint64) (string, []byte) {
			content := newRequestOf(certifiedKind, seq, 2000).content()
			mediaType, body, err := d.certified(sha256.Sum256(content), content)
			if err != nil {
				d.t.Fatal(err)
			}
			return mediaType, body
		}},
		{"commitment", "/v1/commitments", 1, func(seq uint64) (string, []byte) { return "application/json", []byte(line(seq)) }},
		{"lines", "/v1/commitments", 2, func(seq uint64) (string, []byte) {
			return "application/x-ndjson", []byte(line(2*seq) + line(2*seq+1))
		}},
		{"packed", "/v1/commitments", 100, func(seq uint64) (string, []byte) { return "application/octet-stream", packed(seq, 100) }},
		{"one packed", "/v1/commitments", 1, func(seq uint64) (string, []byte) { return "application/octet-stream", packed(seq, 1) }},
	}
}

var stateMember = regexp.MustCompile(`"state":"[a-z]+",?`)

// ask sends a request once. The body comes without its state, which goes on.
func (s *server) ask(ctx context.Context, token, key string, k keyed, seq uint64) (status int, body string, err error) {
	mediaType, content := k.body(seq)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+k.path, bytes.NewReader(content))
	if err != nil {
		return 0, "", err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", mediaType)
	r.Header.Set("Idempotency-Key", key)
	answer, err := s.d.http.Do(r)
	if err != nil {
		return 0, "", err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	return answer.StatusCode, stateMember.ReplaceAllString(string(text), ""), err
}

// records is ask for what must succeed.
func (s *server) records(token, key string, k keyed, seq uint64) string {
	s.d.t.Helper()
	status, body, err := s.ask(s.d.t.Context(), token, key, k, seq)
	if err != nil || status != http.StatusCreated {
		s.d.t.Fatalf("%s: %d %v %s", k.name, status, err, body)
	}
	return body
}

// grows demands that the log has just so many entries more after do.
func (s *server) grows(what string, by uint64, do func()) {
	s.d.t.Helper()
	before, err := s.status(s.d.t.Context())
	if err != nil {
		s.d.t.Fatal(err)
	}
	do()
	after, err := s.status(s.d.t.Context())
	if err != nil {
		s.d.t.Fatal(err)
	}
	if got := after.Next - before.Next; got != by {
		s.d.t.Errorf("%s: the log has %d more entries, want %d", what, got, by)
	}
}

// TestIdempotency sends each kind of request again: to the same server, to
// another one, to both at once, and after a server that had recorded it died
// before it could answer. It is recorded once, and answered with the same bytes.
func TestIdempotency(t *testing.T) {
	d := deploy(t)
	addresses := []string{porttest.Address(t), porttest.Address(t)}
	servers := []*server{d.serve(addresses[0], nil), d.serve(addresses[1], nil)}
	for _, s := range servers {
		s.awaitReady()
	}
	other := strings.TrimSpace(d.must("token", "create", "--owner", "somebody-else"))
	for i, k := range d.keyedRequests() {
		repeats(servers, k, uint64(i))
		ownersKeep(servers, other, k, uint64(i))
		atOnce(servers, k, uint64(i))
	}
	servers[0].exitsCleanly()
	for i, k := range d.keyedRequests() {
		// Crash here: the rows are committed, and nobody was told.
		dying := d.serve(addresses[0], crash{commitpoint.GroupCommitted, 1}.setting())
		dying.awaitReady()
		servers[1].grows(k.name+" of a server that died", k.count, func() {
			seq := uint64(200 + i)
			if status, body, err := dying.ask(t.Context(), d.token, fmt.Sprint("crash-", i), k, seq); err == nil {
				t.Fatalf("%s: a dying server answered %d %s", k.name, status, body)
			}
			dying.dies(crash{commitpoint.GroupCommitted, 1})
			first := servers[1].records(d.token, fmt.Sprint("crash-", i), k, seq)
			if again := servers[1].records(d.token, fmt.Sprint("crash-", i), k, seq); again != first {
				t.Errorf("%s: answered with\n%s\nand then with\n%s", k.name, first, again)
			}
		})
	}
	servers[1].exitsCleanly()
}

// repeats: the same from both servers; another request is refused by both.
func repeats(servers []*server, k keyed, seq uint64) {
	d, key := servers[0].d, fmt.Sprintf("key-%d", seq)
	d.t.Helper()
	servers[0].grows(k.name, k.count, func() {
		first := servers[0].records(d.token, key, k, seq)
		for _, s := range []*server{servers[0], servers[1], servers[0]} {
			if again := s.records(d.token, key, k, seq); again != first {
				d.t.Errorf("%s: answered with\n%s\nand then with\n%s", k.name, first, again)
			}
			if status, body, err := s.ask(d.t.Context(), d.token, key, k, seq+100); err != nil || status != http.StatusUnprocessableEntity ||
				!strings.Contains(body, string(calpe.CodeIdempotencyMismatch)) {
				d.t.Errorf("%s, another request with its key: %d %v %s", k.name, status, err, body)
			}
		}
	})
}

// ownersKeep: a key is its owner's.
func ownersKeep(servers []*server, token string, k keyed, seq uint64) {
	d, key := servers[0].d, fmt.Sprintf("key-%d", seq)
	d.t.Helper()
	servers[0].grows(k.name+" of another owner", k.count, func() {
		if theirs := servers[1].records(token, key, k, seq); theirs == servers[0].records(d.token, key, k, seq) {
			d.t.Errorf("%s: two owners share an answer", k.name)
		}
	})
}

// atOnce: both servers are asked at the same time.
func atOnce(servers []*server, k keyed, seq uint64) {
	const rounds, copies = 5, 4
	d := servers[0].d
	d.t.Helper()
	servers[0].grows(k.name+" at once", rounds*k.count, func() {
		for round := range uint64(rounds) {
			answers := make([]string, copies)
			var asking sync.WaitGroup
			for i := range copies {
				asking.Go(func() {
					status, body, err := servers[i%len(servers)].ask(d.t.Context(), d.token, fmt.Sprintf("at-once-%d-%d", seq, round), k, 1000+10*seq+round)
					answers[i] = fmt.Sprint(status, err, body)
				})
			}
			asking.Wait()
			for _, a := range answers {
				if !strings.HasPrefix(a, "201 ") || a != answers[0] {
					d.t.Errorf("%s: at once answered with\n%s\nand with\n%s", k.name, answers[0], a)
				}
			}
		}
	})
}
