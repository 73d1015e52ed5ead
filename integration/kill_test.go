package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/calpe/calpe/internal/commitpoint"
	"github.com/calpe/calpe/internal/porttest"
)

// leastKills is how often the server is killed at least.
const leastKills = 54

// crash is one death at a commit point: the n-th time that it is reached.
type crash struct {
	point commitpoint.Point
	n     int
}

// crashes are all points, and some of them again, later in the server's life.
func crashes() (all []crash) {
	for _, p := range commitpoint.All() {
		switch p {
		case commitpoint.RecoveryRolled: // needs an older database: TestOlderDatabasePutBack
		case commitpoint.PartialAdvanced, commitpoint.PartialRecorded: // need pieces: TestKillWhileADocumentComesInPieces
		case commitpoint.AnchorRewound: // needs a reorganisation: TestKillWhileAnchoring
		case commitpoint.ProofWanted, commitpoint.ProofSubmitted, commitpoint.ProofPromised, commitpoint.ProofAnswered,
			commitpoint.ProofConfirmed, commitpoint.ProofFinal: // need calendars: TestAnchoredByCalendars
		case commitpoint.BreakDeclared, commitpoint.BreakPublished, commitpoint.ChainRestarted: // of a command: TestChainIsRestarted
		case commitpoint.ObjectStored, commitpoint.GroupInserted, commitpoint.GroupCommitted, commitpoint.GroupAnswered,
			commitpoint.TileStored, commitpoint.CheckpointRow, commitpoint.AttemptSent:
			all = append(all, crash{p, 1}, crash{p, 3})
		default:
			all = append(all, crash{p, 1})
		}
	}
	return all
}

// inRecovery reports whether a server comes to p only behind a restarted database.
func inRecovery(p commitpoint.Point) bool {
	switch p {
	case commitpoint.RecoveryFilled, commitpoint.RecoveryRolled, commitpoint.RecoveryFenced, commitpoint.RecoveryClaimed:
		return true
	}
	return false
}

func (c crash) setting() map[string]string {
	return map[string]string{"CALPE_CRASH_AT": fmt.Sprintf("%s:%d", c.point, c.n)}
}

// dies waits until SIGKILL has ended the server.
func (s *server) dies(c crash) {
	s.d.t.Helper()
	if err := s.ended(s.d.t.Context()); err != nil {
		s.d.t.Fatalf("%s (%d) is never reached: %v", c.point, c.n, err)
	}
	if !s.killed() {
		s.d.t.Fatalf("the server was to die at %s, and ended with exit code %d:\n%s", c.point, s.cmd.ProcessState.ExitCode(), tail(s.log, 20))
	}
}

// TestKillAtEachCommitPoint kills the server under load at every named point and
// at random moments in between. Whatever was acknowledged before, between and
// after must be there in the end.
func TestKillAtEachCommitPoint(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	d := deploy(t)
	defer d.node.keepMining(600 * time.Millisecond)()
	address := porttest.Address(t)
	clean := d.serve(address, nil)
	clean.awaitReady()
	l := d.load(clients(), clean.url)
	l.awaitMore(20)
	kills := 0
	for _, c := range crashes() {
		clean.kill()
		kills++
		if inRecovery(c.point) {
			d.db.kill()
			d.db.start()
		}
		d.serve(address, c.setting()).dies(c)
		kills++
		clean = d.serve(address, nil)
		l.awaitMore(5)
		pause(t.Context(), time.Duration(random.IntN(500))*time.Millisecond)
	}
	for ; kills < leastKills; kills++ {
		clean.kill()
		clean = d.serve(address, nil)
		pause(t.Context(), time.Duration(random.IntN(1500))*time.Millisecond)
	}
	clean.awaitReady()
	l.awaitMore(20)
	l.stop()
	v := clean.check(l.all(), nil)
	t.Logf("seed %d: %d kills, %d acknowledged (%d after repetition), %d entries of which %d void, %d recoveries, %d anchors",
		seed, kills, l.count(), l.retry, v.entries, v.voids, v.recoveries, v.anchors)
	clean.exitsCleanly()
}

// exitsCleanly is the end of a server that nobody kills.
func (s *server) exitsCleanly() {
	s.d.t.Helper()
	code, err := s.stop(context.WithoutCancel(s.d.t.Context()))
	if err != nil || code != 0 {
		s.d.t.Errorf("SIGTERM: exit code %d, %v\n%s", code, err, tail(s.log, 20))
	}
}
