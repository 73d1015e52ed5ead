package api_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/api"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt"
)

// someCommitments are n of them, and how each media type writes them.
func someCommitments(n int) (list []calpe.Commitment, lines, packed []byte) {
	for i := range n {
		c := calpe.Commitment{1, byte(i), byte(i >> 8), byte(i >> 16)}
		list = append(list, c)
		lines = fmt.Appendf(lines, "{\"commitment\":\"%s\"}\n", c)
		packed = append(packed, c[:]...)
	}
	return list, lines, packed
}

// streamed is the answer to a stream of commitments.
type streamed struct {
	Groups   []group
	Recorded *uint64
	Error    *struct{ Code, Detail string }
	Offset   uint64 // of the error
	RetryIn  int
}

type group struct {
	Offset, First, Count uint64
	Note                 string
	Path                 *receipt.Path  // of a group of one
	Paths                []receipt.Path // behind it
}

// readStreamed reads an answer's lines, each of which must be one of the four
// kinds at its place.
func readStreamed(t testing.TB, body []byte) (got streamed) {
	t.Helper()
	for line := range bytes.Lines(body) {
		last := len(got.Groups) - 1
		var path struct { // most lines are such
			Index uint64
			Path  receipt.Path
		}
		if bytes.HasPrefix(line, []byte(`{"index":`)) && last >= 0 && json.Unmarshal(line, &path) == nil &&
			path.Index == got.Groups[last].First+uint64(len(got.Groups[last].Paths)) {
			got.Groups[last].Paths = append(got.Groups[last].Paths, path.Path)
			continue
		}
		var l struct {
			Offset, First, Count *uint64
			Acknowledgement      *struct {
				Note string
				Path *receipt.Path
			}
			Recorded   *uint64
			Error      *struct{ Code, Detail string }
			RetryAfter int `json:"retry_after"`
		}
		if err := json.Unmarshal(line, &l); err != nil || got.Recorded != nil || got.Error != nil {
			t.Fatalf("line %.300s: %v, or something behind the end", line, err)
		}
		switch {
		case l.Acknowledgement != nil:
			got.Groups = append(got.Groups, group{*l.Offset, *l.First, *l.Count, l.Acknowledgement.Note, l.Acknowledgement.Path, nil})
		case l.Recorded != nil:
			got.Recorded = l.Recorded
		case l.Error != nil:
			got.Error, got.Offset, got.RetryIn = l.Error, *l.Offset, l.RetryAfter
		default:
			t.Fatalf("line %.300s", line)
		}
	}
	return got
}

// wantGroups demands that the commitments are in the log at the indices of the
// groups, and that each group's note and paths prove it. Without paths they follow
// from the request, as docs/api.md says.
func (w *world) wantGroups(list []calpe.Commitment, groups []group) {
	w.t.Helper()
	w.committing.Lock()
	defer w.committing.Unlock()
	for i, g := range groups {
		if g.Offset+g.Count > uint64(len(list)) || i+1 < len(groups) && g.Count != api.StreamGroup {
			w.t.Fatalf("group %d is %d commitments from %d", i, g.Count, g.Offset)
		}
		part := list[g.Offset : g.Offset+g.Count]
		leaves := make([]calpe.Hash, len(part))
		for j, c := range part {
			entry := calpe.Entry{Index: g.First + uint64(j), Commitment: c}
			if entry.Index >= uint64(len(w.entries)) || w.entries[entry.Index] != entry {
				w.t.Fatalf("commitment %d of group %d isn't entry %d", j, i, entry.Index)
			}
			b := entry.Bytes()
			leaves[j] = merkle.LeafHash(b[:])
		}
		tree := merkle.NewTree(leaves)
		for j, c := range part {
			path, err := tree.InclusionPath(uint64(j))
			if err != nil {
				w.t.Fatal(err)
			}
			if g.Path != nil {
				path = *g.Path
			}
			if g.Paths != nil {
				path = g.Paths[j]
			}
			if j > 3 && j < len(part)-3 && j%97 != 0 { // a signature is dear
				continue
			}
			if _, err := receipt.VerifyAcknowledged(calpe.Entry{Index: g.First + uint64(j), Commitment: c}, []byte(g.Note), path, w.identity); err != nil {
				w.t.Fatalf("commitment %d of group %d: %v", j, i, err)
			}
		}
	}
}

func (w *world) stream(mediaType string, body []byte, target string, headers ...string) answer {
	return w.as("calpe_alice", "POST", target, bytes.NewReader(body), append([]string{"Content-Type", mediaType}, headers...)...)
}

func TestStreamsOfCommitments(t *testing.T) {
	for _, n := range []int{1, 2, 7, 300, api.StreamGroup, api.StreamGroup + 1, 2*api.StreamGroup + 5} {
		list, lines, packed := someCommitments(n)
		for mediaType, body := range map[string][]byte{"application/x-ndjson": lines, "application/octet-stream": packed} {
			if mediaType == "application/x-ndjson" && n > api.StreamGroup+1 {
				continue // paths take their time
			}
			w := newWorld(t)
			a := w.stream(mediaType, body, "/v1/commitments")
			if a.status != 201 || a.header.Get("Content-Type") != "application/x-ndjson" || a.header.Get("Location") == "" {
				t.Fatalf("%d %v %.200s", a.status, a.header, a.body)
			}
			got := readStreamed(t, a.body)
			if got.Recorded == nil || *got.Recorded != uint64(n) || len(w.entries) != 1+n || len(got.Groups) != (n+api.StreamGroup-1)/api.StreamGroup {
				t.Fatalf("%d of %s: %d entries, %d groups, recorded %v", n, mediaType, len(w.entries), len(got.Groups), got.Recorded)
			}
			for _, g := range got.Groups {
				if (mediaType == "application/x-ndjson") != (uint64(len(g.Paths)) == g.Count) || (g.Path != nil) != (g.Count == 1) {
					t.Errorf("a group of %d has %d paths, and one of its own: %v", g.Count, len(g.Paths), g.Path != nil)
				}
			}
			w.wantGroups(list, got.Groups)
		}
	}
}

func TestRepeatedCommitments(t *testing.T) {
	w := newWorld(t)
	_, lines, packed := someCommitments(20)
	for mediaType, body := range map[string][]byte{"application/x-ndjson": lines, "application/octet-stream": packed} {
		send := func(body []byte) answer {
			return w.stream(mediaType, body, "/v1/commitments", "Idempotency-Key", mediaType)
		}
		first, again := send(body), send(body)
		if first.status != 201 || !bytes.Equal(first.body, again.body) {
			t.Errorf("%s: %s\nand then %s", mediaType, first.body, again.body)
		}
		if other := send(body[:len(body)/2]); other.code(t) != string(calpe.CodeIdempotencyMismatch) {
			t.Errorf("%s, another request: %s", mediaType, other.body)
		}
	}
	if len(w.entries) != 41 {
		t.Errorf("%d entries", len(w.entries))
	}
}

// The group in which something is wrong is refused whole, and the answer names
// the place. As long as no group is answered, that is the status.
func TestCommitmentsRefused(t *testing.T) {
	_, lines, packed := someCommitments(3)
	void := make([]byte, 32)
	for name, c := range map[string]struct {
		mediaType string
		body      []byte
		want      calpe.Code
		says      string
	}{
		"an empty line":      {"application/x-ndjson", bytes.Replace(lines, []byte("\n"), []byte("\n\n"), 1), calpe.CodeInvalidRequest, "Line 2 "},
		"no line":            {"application/x-ndjson", nil, calpe.CodeInvalidRequest, "no commitment"},
		"half a line":        {"application/x-ndjson", lines[:len(lines)-20], calpe.CodeInvalidRequest, "Line 3 "},
		"a line too long":    {"application/x-ndjson", append(lines[:len(lines):len(lines)], bytes.Repeat([]byte(" "), 600)...), calpe.CodeTooLarge, "Line 4 "},
		"a void line":        {"application/x-ndjson", fmt.Appendf(nil, "%s{\"commitment\":\"%064x\"}\n", lines, 0), calpe.CodeInvalidRequest, "Line 4 "},
		"capitals":           {"application/x-ndjson", bytes.Replace(lines, []byte("010000"), []byte("A10000"), 1), calpe.CodeInvalidRequest, "Line 1 "},
		"nothing packed":     {"application/octet-stream", nil, calpe.CodeInvalidRequest, "no commitment"},
		"half a commitment":  {"application/octet-stream", packed[:80], calpe.CodeInvalidRequest, "16 bytes more"},
		"a void one":         {"application/octet-stream", append(packed[:64:64], void...), calpe.CodeInvalidRequest, "Commitment 2"},
		"another media type": {"text/plain", packed, calpe.CodeUnsupportedMedia, "application/x-ndjson"},
		"an unreadable one":  {"application/", packed, calpe.CodeUnsupportedMedia, "application/x-ndjson"},
	} {
		w := newWorld(t)
		a := w.stream(c.mediaType, c.body, "/v1/commitments")
		if a.code(t) != string(c.want) || !strings.Contains(string(a.body), c.says) {
			t.Errorf("%s: %s", name, a.body)
		}
		if len(w.entries) != 1 {
			t.Errorf("%s: %d entries", name, len(w.entries))
		}
	}
}

// What is wrong in a later group leaves those before it, and the upload is gone
// on with where it broke off.
func TestStreamIsGoneOnWith(t *testing.T) {
	const n = api.StreamGroup + 100
	list, lines, packed := someCommitments(n)
	garbage := bytes.Clone(lines)
	garbage[82*(api.StreamGroup+10)] = '['
	void := bytes.Clone(packed)
	clear(void[32*(api.StreamGroup+10):][:32])
	for name, c := range map[string]struct {
		mediaType   string
		broken, all []byte
		size        int // of one
		says        string
	}{
		"garbage in a line": {"application/x-ndjson", garbage, lines, 82, fmt.Sprintf("Line %d ", api.StreamGroup+11)},
		"a void one":        {"application/octet-stream", void, packed, 32, fmt.Sprintf("Commitment %d ", api.StreamGroup+10)},
		"half a commitment": {"application/octet-stream", packed[:32*api.StreamGroup+16], packed, 32, fmt.Sprintf("Behind %d commitments", api.StreamGroup)},
		"a line too long":   {"application/x-ndjson", append(lines[:82*api.StreamGroup:82*api.StreamGroup], bytes.Repeat([]byte("x"), 1000)...), lines, 82, fmt.Sprintf("Line %d ", api.StreamGroup+1)},
	} {
		w := newWorld(t)
		first := readStreamed(t, w.stream(c.mediaType, c.broken, "/v1/commitments", "Idempotency-Key", "k").body)
		if first.Error == nil || !strings.Contains(first.Error.Detail, c.says) || first.Offset != api.StreamGroup || len(first.Groups) != 1 || len(w.entries) != 1+api.StreamGroup {
			t.Fatalf("%s: %+v, at %d, %d entries", name, first.Error, first.Offset, len(w.entries))
		}
		told := readStreamed(t, w.as("calpe_alice", "GET", "/v1/commitments", nil, "Idempotency-Key", "k").body)
		if told.Recorded == nil || *told.Recorded != api.StreamGroup || len(told.Groups) != 1 || told.Groups[0].Note != first.Groups[0].Note {
			t.Errorf("%s: the upload stands at %+v", name, told)
		}
		rest := readStreamed(t, w.stream(c.mediaType, c.all[c.size*api.StreamGroup:], fmt.Sprint("/v1/commitments?offset=", api.StreamGroup), "Idempotency-Key", "k").body)
		if rest.Recorded == nil || *rest.Recorded != n || len(w.entries) != 1+n {
			t.Fatalf("%s: %+v, %d entries", name, rest.Error, len(w.entries))
		}
		w.wantGroups(list, append(first.Groups, rest.Groups...))
		// The whole again, and only its end, record nothing.
		all := readStreamed(t, w.stream(c.mediaType, c.all, "/v1/commitments", "Idempotency-Key", "k").body)
		end := w.stream(c.mediaType, c.all[c.size*api.StreamGroup:], fmt.Sprint("/v1/commitments?offset=", api.StreamGroup), "Idempotency-Key", "k")
		if all.Recorded == nil || len(all.Groups) != 2 || end.status != 201 || len(w.entries) != 1+n {
			t.Errorf("%s: again: %+v, %d, %d entries", name, all.Error, end.status, len(w.entries))
		}
		told = readStreamed(t, w.as("calpe_alice", "GET", fmt.Sprint("/v1/commitments?offset=", api.StreamGroup), nil, "Idempotency-Key", "k").body)
		if told.Recorded == nil || *told.Recorded != n || len(told.Groups) != 1 {
			t.Errorf("%s: the upload stands at %+v", name, told)
		}
	}
}

func TestOffsets(t *testing.T) {
	w := newWorld(t)
	_, _, packed := someCommitments(api.StreamGroup)
	for _, c := range []struct {
		target, key, says string
	}{
		{"/v1/commitments?offset=1", "k", "multiple of 8192"},
		{"/v1/commitments?offset=-8192", "k", "multiple of 8192"},
		{"/v1/commitments?offset=", "k", "multiple of 8192"},
		{"/v1/commitments?offset=8192", "", "Idempotency-Key"},
		{"/v1/commitments?offset=8192", "k", "less is recorded"},
		{"/v1/commitments?from=8192", "k", "offset"},
	} {
		headers := []string{"Idempotency-Key", c.key}
		if c.key == "" {
			headers = nil
		}
		if a := w.stream("application/octet-stream", packed, c.target, headers...); a.code(t) != string(calpe.CodeInvalidRequest) || !strings.Contains(string(a.body), c.says) {
			t.Errorf("%s: %s", c.target, a.body)
		}
	}
	if a := w.stream("application/json", nil, "/v1/commitments?offset=8192", "Idempotency-Key", "k"); a.code(t) != string(calpe.CodeInvalidRequest) {
		t.Errorf("a single one at an offset: %s", a.body)
	}
	if a := w.as("calpe_alice", "GET", "/v1/commitments", nil); a.code(t) != string(calpe.CodeInvalidRequest) {
		t.Errorf("of no upload: %s", a.body)
	}
	if a := w.stream("application/octet-stream", packed, "/v1/commitments", "Idempotency-Key", "k"); a.status != 201 {
		t.Fatal(a.status)
	}
	// An upload may end between two groups.
	a := w.stream("application/octet-stream", nil, "/v1/commitments?offset=8192", "Idempotency-Key", "k")
	if got := readStreamed(t, a.body); a.status != 201 || got.Recorded == nil || *got.Recorded != api.StreamGroup || len(got.Groups) != 0 {
		t.Errorf("nothing more: %d %s", a.status, a.body)
	}
	w.token("calpe_bob", "bob", "commitments")
	if got := readStreamed(t, w.as("calpe_bob", "GET", "/v1/commitments", nil, "Idempotency-Key", "k").body); got.Recorded == nil || *got.Recorded != 0 {
		t.Errorf("another owner sees %+v", got)
	}
}

// gate is a body that comes when the gate opens.
type gate struct {
	asked func()
	open  chan struct{}
}

func (g *gate) Read([]byte) (int, error) {
	g.asked()
	<-g.open
	return 0, io.EOF
}

// Requests with many commitments take memory: only some are read at a time, of
// one owner fewer, and one commitment needs no place among them.
func TestPlacesForManyCommitments(t *testing.T) {
	w := newWorld(t)
	w.config.Uploads, w.config.Accounts.Uploads = 5, 3
	w.serve()
	w.token("calpe_bob", "bob", "commitments")
	w.token("calpe_carol", "carol", "commitments")
	_, lines, packed := someCommitments(1)
	var reading, answered sync.WaitGroup
	open := make(chan struct{})
	for _, token := range []string{"calpe_alice", "calpe_alice", "calpe_alice", "calpe_bob", "calpe_bob"} {
		reading.Add(1)
		answered.Go(func() {
			a := w.as(token, "POST", "/v1/commitments", &gate{sync.OnceFunc(reading.Done), open}, "Content-Type", "application/octet-stream")
			if a.status != 400 {
				t.Errorf("an empty body: %d", a.status)
			}
		})
	}
	reading.Wait()
	for token, says := range map[string]string{"calpe_alice": "of this account", "calpe_carol": "5 requests"} {
		a := w.as(token, "POST", "/v1/commitments", bytes.NewReader(packed), "Content-Type", "application/octet-stream")
		if a.code(t) != string(calpe.CodeTooManyRequests) || a.header.Get("Retry-After") == "" || !strings.Contains(string(a.body), says) {
			t.Errorf("one more of %s: %d %s", token, a.status, a.body)
		}
	}
	if a := w.as("calpe_alice", "POST", "/v1/commitments", bytes.NewReader(lines)); a.status != 201 {
		t.Errorf("a single commitment: %d %s", a.status, a.body)
	}
	close(open)
	answered.Wait()
	for _, token := range []string{"calpe_alice", "calpe_carol"} {
		if a := w.as(token, "POST", "/v1/commitments", bytes.NewReader(packed), "Content-Type", "application/octet-stream"); a.status != 201 {
			t.Errorf("when the others are done: %d %s", a.status, a.body)
		}
	}
}
