package integration

import (
	"math/rand/v2"
	"testing"
	"time"
)

// TestPostgresKilled kills the database server, all its processes at once, under
// load. Calped isn't restarted: it must notice, compare, and go on by itself.
func TestPostgresKilled(t *testing.T) {
	const kills = 6
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	d := deploy(t)
	defer d.node.keepMining(600 * time.Millisecond)()
	s := d.serve(freeAddress(t), nil)
	s.awaitReady()
	l := d.load(clients(), s.url)
	for range kills {
		l.awaitMore(20)
		pause(t.Context(), time.Duration(random.IntN(1500))*time.Millisecond)
		d.db.kill()
		pause(t.Context(), time.Duration(random.IntN(500))*time.Millisecond)
		d.db.start()
	}
	l.awaitMore(20)
	s.awaitReady()
	l.stop()
	v := s.check(l.all(), nothingLost)
	t.Logf("seed %d: %d kills of PostgreSQL, %d acknowledged (%d after repetition), %d entries of which %d void, %d recoveries, %d anchors",
		seed, kills, l.count(), l.retry, v.entries, v.voids, v.recoveries, v.anchors)
	if v.recoveries != kills {
		t.Errorf("%d recoveries are declared in the log, the database was killed %d times", v.recoveries, kills)
	}
	if most := uint64(kills * largestFenceStep); v.voids > most {
		t.Errorf("%d entries are void, more than %d times the fence's step", v.voids, kills)
	}
	s.exitsCleanly()
}

// largestFenceStep is how far the fence may be above the log at this load: the
// least step of 256, doubled once.
const largestFenceStep = 512
