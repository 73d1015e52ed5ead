package integration

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/calpe/calpe/internal/commitpoint"
	"github.com/calpe/calpe/internal/porttest"
)

// stampClients send commitments only: what is anchored doesn't matter to anchors.
func stampClients(offset uint64) []client {
	stamp := func(seq uint64) request { return newRequestOf(stampKind, offset+seq, 0) }
	return []client{{20 * time.Millisecond, stamp}, {30 * time.Millisecond, stamp}}
}

// anchorCrashes are all commit points of an anchor, and the risky ones again, later
// in the server's life.
func anchorCrashes() []crash {
	return []crash{
		{commitpoint.AttemptStored, 1}, {commitpoint.AttemptSigned, 1}, {commitpoint.AttemptSent, 1}, {commitpoint.AnswerRecorded, 1},
		{commitpoint.AnchorMined, 1}, {commitpoint.AnchorFinal, 1}, {commitpoint.AnchorRewound, 1},
		{commitpoint.AttemptSigned, 2}, {commitpoint.AttemptSent, 2}, {commitpoint.AnchorMined, 2},
	}
}

// TestKillWhileAnchoring kills the server at each commit point of an anchor, while
// fees are raised, blocks are reorganised away, deposits join and the key is
// changed. In the end each coin has one spender, the rows have the fees that the
// chain has, and all that was acknowledged is final.
func TestKillWhileAnchoring(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	d := deploy(t)
	for name, value := range bumpy() {
		d.env[name] = value
	}
	sky := d.weather(rand.New(rand.NewPCG(seed, 2)))
	address := porttest.Address(t)
	s := d.serve(address, nil)
	s.awaitReady()
	l := d.load(stampClients(0), s.url)
	l.awaitMore(5)
	kills := 0
	for _, c := range anchorCrashes() {
		s.kill()
		switch kills {
		case 4, 14:
			d.node.fund(strings.TrimSpace(d.must("wallet", "address")), 300_000)
		case 10:
			d.must("wallet", "rotate")
		}
		dying := d.serve(address, c.setting())
		sky.until("the server dies at "+string(c.point), func(context.Context) error {
			select {
			case <-dying.done:
				return nil
			default:
				return errors.New("it runs")
			}
		})
		dying.dies(c)
		s = d.serve(address, nil)
		s.awaitReady()
		kills += 2
	}
	conn := d.connect()
	var bumps, joined, orphaned, scripts int
	sky.until("fees were raised, a deposit joined, an anchor was reorganised away, and the key was changed", func(ctx context.Context) error {
		if err := conn.QueryRow(ctx, `SELECT
			(SELECT count(*) FROM attempt WHERE n > 1),
			(SELECT count(*) FROM coin WHERE kind = 'deposit' AND state = 'spent'),
			(SELECT count(*) FROM sighting WHERE orphaned_at IS NOT NULL),
			(SELECT count(DISTINCT script) FROM coin)`).Scan(&bumps, &joined, &orphaned, &scripts); err != nil {
			return err
		}
		if bumps == 0 || joined == 0 || orphaned == 0 || scripts != 2 {
			return fmt.Errorf("%d dearer attempts, %d deposits joined, %d anchors orphaned, %d scripts", bumps, joined, orphaned, scripts)
		}
		return nil
	})
	l.awaitMore(5)
	l.stop()
	defer d.node.keepMining(400 * time.Millisecond)()
	v := s.check(l.all(), nil)
	t.Logf("seed %d: %d kills, %d acknowledged, %d anchors, %d dearer attempts, %d deposits joined, %d reorganisations of up to %d blocks with %d anchors",
		seed, kills, l.count(), v.anchors, bumps, joined, sky.reorgs, sky.deepest, orphaned)
	s.exitsCleanly()
}
