package integration

import (
	"bytes"
	"io"
	"net/http"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/api"
	"github.com/calpe/calpe/internal/porttest"
	"github.com/calpe/calpe/merkle"
)

// BenchmarkStream compares a stream of commitments over HTTP, durable and signed
// for group by group, with what the database alone takes for the same rows after
// the same hashing: one connection that makes the tree of each group, inserts the
// group's row into a table like the log's, and commits. Both are done in turn, on
// one server. Times of different machines say nothing; the ratio does.
func BenchmarkStream(b *testing.B) {
	const n = 64 * api.StreamGroup
	d := deploy(b)
	// Sealing isn't what is measured, and has the same two cores.
	s := d.serve(porttest.Address(b), map[string]string{"CALPE_SEAL_INTERVAL": "20m", "CALPE_SEAL_MAX_ENTRIES": "1000000000"})
	s.awaitReady()
	conn := d.connect()
	if _, err := conn.Exec(b.Context(), `CREATE TABLE raw_group (LIKE entry_group INCLUDING ALL)`); err != nil {
		b.Fatal(err)
	}
	body := make([]byte, 0, n*calpe.HashSize)
	for i := range uint64(n) {
		c := streamedCommitment(5, i)
		body = append(body, c[:]...)
	}
	var streaming, inserting time.Duration
	for round := 0; b.Loop(); round++ {
		begun := time.Now()
		postStream(b, s, body)
		streaming += time.Since(begun)
		begun = time.Now()
		insertGroups(b, conn, uint64(round)*n, body)
		inserting += time.Since(begun)
	}
	total := float64(b.N) * n
	b.ReportMetric(total/streaming.Seconds(), "streamed/s")
	b.ReportMetric(total/inserting.Seconds(), "inserted/s")
	b.ReportMetric(inserting.Seconds()/streaming.Seconds(), "x-of-insert")
	b.ReportMetric(float64(s.peakMemory()>>20), "calped-MiB")
}

func postStream(b *testing.B, s *server, body []byte) {
	b.Helper()
	r, err := http.NewRequestWithContext(b.Context(), http.MethodPost, s.url+"/v1/commitments", bytes.NewReader(body))
	if err != nil {
		b.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+s.d.token)
	r.Header.Set("Content-Type", "application/octet-stream")
	answer, err := s.d.http.Do(r)
	if err != nil {
		b.Fatal(err)
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusCreated || !bytes.Contains(text, []byte(`{"recorded":`)) {
		b.Fatalf("%d %v %.300s", answer.StatusCode, err, text[max(0, len(text)-300):])
	}
}

func insertGroups(b *testing.B, conn *pgx.Conn, first uint64, body []byte) {
	b.Helper()
	now := time.Now().UTC().Truncate(time.Second)
	leaves := make([]calpe.Hash, api.StreamGroup)
	for part := range len(body) / (api.StreamGroup * calpe.HashSize) {
		packed := body[part*api.StreamGroup*calpe.HashSize:][:api.StreamGroup*calpe.HashSize]
		for i := range leaves {
			entry := calpe.Entry{Index: first + uint64(i), Commitment: calpe.Commitment(packed[i*calpe.HashSize:])}.Bytes()
			leaves[i] = merkle.LeafHash(entry[:])
		}
		root := merkle.NewTree(leaves).Root()
		if _, err := conn.Exec(b.Context(), `INSERT INTO raw_group (first, count, commitments, group_id, origin, time, deadline)
			VALUES ($1, $2, $3, $4, 'intake', $5, $6)`, first, api.StreamGroup, packed, [16]byte(root[:16]), now, now.Add(time.Hour)); err != nil {
			b.Fatal(err)
		}
		first += api.StreamGroup
	}
}
