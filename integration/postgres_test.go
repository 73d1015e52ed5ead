package integration

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/calpe/calpe/intake"
	"github.com/calpe/calpe/internal/porttest"
)

// TestPostgresKilled kills the database server, all its processes at once, under
// load. Calped isn't restarted: it must notice, compare, and go on by itself.
func TestPostgresKilled(t *testing.T) {
	const kills = 6
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	d := deploy(t)
	defer d.node.keepMining(600 * time.Millisecond)()
	s := d.serve(porttest.Address(t), nil)
	s.awaitReady()
	l := d.load(clients(), s.url)
	var room uint64 // between the log and the fence at each kill
	for range kills {
		l.awaitMore(20)
		pause(t.Context(), time.Duration(random.IntN(1500))*time.Millisecond)
		d.db.kill()
		l.settle()
		room += d.fenceLimit() - l.highest()
		d.db.start()
	}
	l.awaitMore(20)
	s.awaitReady()
	l.stop()
	v := s.check(l.all(), nil)
	t.Logf("seed %d: %d kills of PostgreSQL, %d acknowledged (%d after repetition), %d entries of which %d void, %d recoveries, %d anchors",
		seed, kills, l.count(), l.retry, v.entries, v.voids, v.recoveries, v.anchors)
	if v.recoveries != kills {
		t.Errorf("%d recoveries are declared in the log, the database was killed %d times", v.recoveries, kills)
	}
	if v.voids == 0 || v.voids > room {
		t.Errorf("%d entries are void, there were %d below the fence that nobody had", v.voids, room)
	}
	if room > kills*largestRoom {
		t.Errorf("the fence was %d entries above the log in %d kills, far more than this load needs", room, kills)
	}
	s.exitsCleanly()
}

// largestRoom is what the fence may be above the log at this load: the least
// step is 256, and it doubles while a step doesn't last a second.
const largestRoom = 2048

// fenceLimit reads the fence that the servers keep in object storage.
func (d *deployment) fenceLimit() uint64 {
	d.t.Helper()
	data, _, err := d.store().ReadFence(d.t.Context())
	if err != nil {
		d.t.Fatal(err)
	}
	fence, err := intake.ParseFence(data)
	if err != nil {
		d.t.Fatal(err)
	}
	return fence.Limit
}
