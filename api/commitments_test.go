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

// wantRecorded demands that the log ends with these commitments, and that the
// answer's note and the paths prove each.
func (w *world) wantRecorded(first uint64, list []calpe.Commitment, note string, path func(i int) receipt.Path) {
	w.t.Helper()
	if first+uint64(len(list)) != uint64(len(w.entries)) {
		w.t.Fatalf("%d commitments from %d in a log of %d", len(list), first, len(w.entries))
	}
	for i, c := range list {
		entry := calpe.Entry{Index: first + uint64(i), Commitment: c}
		if w.entries[entry.Index] != entry {
			w.t.Fatalf("entry %d is %v, want %v", entry.Index, w.entries[entry.Index].Commitment, c)
		}
		if _, err := receipt.VerifyAcknowledged(entry, []byte(note), path(i), w.identity); err != nil {
			w.t.Fatalf("commitment %d: %v", i, err)
		}
	}
}

type bulk struct {
	First           uint64
	Count           int
	Acknowledgement struct {
		Note string
		Path *receipt.Path
	}
}

func TestLinesOfCommitments(t *testing.T) {
	for _, n := range []int{1, 2, 7, 300} {
		w := newWorld(t)
		list, lines, _ := someCommitments(n)
		a := w.as("calpe_alice", "POST", "/v1/commitments", bytes.NewReader(lines), "Content-Type", "application/x-ndjson")
		if a.status != 201 || a.header.Get("Content-Type") != "application/x-ndjson" || a.header.Get("Location") != "/v1/entries/1" {
			t.Fatalf("%d %v %.200s", a.status, a.header, a.body)
		}
		dec := json.NewDecoder(bytes.NewReader(a.body))
		var all bulk
		if err := dec.Decode(&all); err != nil || all.Count != n {
			t.Fatalf("first line %+v, %v", all, err)
		}
		paths := make([]receipt.Path, n)
		for i := range paths {
			var line struct {
				Index uint64
				Path  receipt.Path
			}
			if err := dec.Decode(&line); err != nil || line.Index != all.First+uint64(i) {
				t.Fatalf("line %d: %+v, %v", i, line, err)
			}
			paths[i] = line.Path
		}
		if dec.More() {
			t.Errorf("more lines than commitments")
		}
		w.wantRecorded(all.First, list, all.Acknowledgement.Note, func(i int) receipt.Path { return paths[i] })
	}
}

// Of a packed request the paths follow from the request, as the page says.
func TestPackedCommitments(t *testing.T) {
	for _, n := range []int{1, 2, 5, 1000} {
		w := newWorld(t)
		list, _, packed := someCommitments(n)
		a := w.as("calpe_alice", "POST", "/v1/commitments", bytes.NewReader(packed), "Content-Type", "application/octet-stream")
		var all bulk
		if err := json.Unmarshal(a.body, &all); err != nil || a.status != 201 || all.Count != n || (all.Acknowledgement.Path != nil) != (n == 1) {
			t.Fatalf("%d %s", a.status, a.body)
		}
		leaves := make([]calpe.Hash, n)
		for i, c := range list {
			b := calpe.Entry{Index: all.First + uint64(i), Commitment: c}.Bytes()
			leaves[i] = merkle.LeafHash(b[:])
		}
		w.wantRecorded(all.First, list, all.Acknowledgement.Note, func(i int) receipt.Path {
			path, err := merkle.InclusionPath(leaves, uint64(i))
			if err != nil {
				t.Fatal(err)
			}
			return path
		})
	}
}

func TestRepeatedCommitments(t *testing.T) {
	w := newWorld(t)
	_, lines, packed := someCommitments(20)
	for mediaType, body := range map[string][]byte{"application/x-ndjson": lines, "application/octet-stream": packed} {
		send := func(body []byte) answer {
			return w.as("calpe_alice", "POST", "/v1/commitments", bytes.NewReader(body), "Content-Type", mediaType, "Idempotency-Key", mediaType)
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

// Either all are recorded or none.
func TestCommitmentsRefused(t *testing.T) {
	_, lines, packed := someCommitments(3)
	_, manyLines, manyPacked := someCommitments(calpe.MaxGroup + 1)
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
		"too many lines":     {"application/x-ndjson", manyLines, calpe.CodeTooLarge, "65536"},
		"nothing packed":     {"application/octet-stream", nil, calpe.CodeInvalidRequest, "no commitment"},
		"half a commitment":  {"application/octet-stream", packed[:80], calpe.CodeInvalidRequest, "80 bytes"},
		"a void one":         {"application/octet-stream", append(packed[:64:64], void...), calpe.CodeInvalidRequest, "Commitment 2"},
		"too many":           {"application/octet-stream", manyPacked, calpe.CodeTooLarge, "larger"},
		"another media type": {"text/plain", packed, calpe.CodeUnsupportedMedia, "application/x-ndjson"},
		"an unreadable one":  {"application/", packed, calpe.CodeUnsupportedMedia, "application/x-ndjson"},
	} {
		w := newWorld(t)
		a := w.as("calpe_alice", "POST", "/v1/commitments", bytes.NewReader(c.body), "Content-Type", c.mediaType)
		if a.code(t) != string(c.want) || !strings.Contains(string(a.body), c.says) {
			t.Errorf("%s: %s", name, a.body)
		}
		if len(w.entries) != 1 {
			t.Errorf("%s: %d entries", name, len(w.entries))
		}
	}
}

// As many as there are may be in one request.
func TestMostCommitments(t *testing.T) {
	w := newWorld(t)
	list, _, packed := someCommitments(calpe.MaxGroup)
	a := w.as("calpe_alice", "POST", "/v1/commitments", bytes.NewReader(packed), "Content-Type", "application/octet-stream")
	if a.status != 201 || len(w.entries) != 1+len(list) {
		t.Errorf("%d %.200s, %d entries", a.status, a.body, len(w.entries))
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

// Requests with many commitments take memory: only some are read at a time, and
// one commitment needs no place among them.
func TestPlacesForManyCommitments(t *testing.T) {
	w := newWorld(t)
	_, lines, packed := someCommitments(1)
	var reading, answered sync.WaitGroup
	open := make(chan struct{})
	for range 16 {
		reading.Add(1)
		answered.Go(func() {
			a := w.as("calpe_alice", "POST", "/v1/commitments", &gate{sync.OnceFunc(reading.Done), open}, "Content-Type", "application/octet-stream")
			if a.status != 400 {
				t.Errorf("an empty body: %d", a.status)
			}
		})
	}
	reading.Wait()
	a := w.as("calpe_alice", "POST", "/v1/commitments", bytes.NewReader(packed), "Content-Type", "application/octet-stream")
	if a.code(t) != string(calpe.CodeTooManyRequests) || a.header.Get("Retry-After") == "" {
		t.Errorf("one more: %d %s", a.status, a.body)
	}
	if a := w.as("calpe_alice", "POST", "/v1/commitments", bytes.NewReader(lines)); a.status != 201 {
		t.Errorf("a single commitment: %d %s", a.status, a.body)
	}
	close(open)
	answered.Wait()
	if a := w.as("calpe_alice", "POST", "/v1/commitments", bytes.NewReader(packed), "Content-Type", "application/octet-stream"); a.status != 201 {
		t.Errorf("when the others are done: %d %s", a.status, a.body)
	}
}
