package postgres

import (
	"fmt"
	"testing"

	"github.com/calpe/calpe/storage/postgres/postgrestest"
)

// BenchmarkCommitGroup compares, within one run on one server, a group of 1000
// commitments with the same commitments as single-row INSERTs, and reports the
// ratio. Times of different machines say nothing.
func BenchmarkCommitGroup(b *testing.B) {
	db := openLog(b)
	postgrestest.Exec(b, db.cfg.URL, `CREATE TABLE single (index bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, commitment bytea NOT NULL)`)
	const size = 1000
	g := group(b, db, bare("bench", size))
	var grouped, single float64
	b.Run(fmt.Sprintf("group of %d", size), func(b *testing.B) {
		for b.Loop() {
			mustCommit(b, db, g)
		}
		grouped = perEntry(b, size)
	})
	b.Run("INSERT each", func(b *testing.B) {
		for b.Loop() {
			for i := range g.Submissions[0].Commitments {
				if _, err := db.pool.Exec(b.Context(), `INSERT INTO single (commitment) VALUES ($1)`, g.Submissions[0].Commitments[i][:]); err != nil {
					b.Fatal(err)
				}
			}
		}
		single = perEntry(b, size)
		if grouped > 0 {
			b.ReportMetric(single/grouped, "x-slower-than-group")
		}
	})
}

// perEntry reports and returns nanoseconds an entry.
func perEntry(b *testing.B, size int) float64 {
	ns := float64(b.Elapsed().Nanoseconds()) / float64(b.N) / float64(size)
	b.ReportMetric(ns, "ns/entry")
	return ns
}

// BenchmarkCommitOne is the latency of a group of one, at one connection.
func BenchmarkCommitOne(b *testing.B) {
	db := openLog(b)
	g := group(b, db, bare("bench", 1))
	for b.Loop() {
		mustCommit(b, db, g)
	}
}
