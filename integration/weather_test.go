package integration

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/calpe/calpe/anchor/bitcoin/nodetest"
)

// weather is a chain that is hard on anchors: some blocks hold what waits, some
// hold nothing, so that fees are raised, and now and then some are reorganised
// away. The test's own goroutine makes it, turn by turn, while it waits.
type weather struct {
	d       *deployment
	node    *nodetest.Node
	random  *rand.Rand
	turns   int
	least   uint32 // no block up to that height is reorganised away
	reorgs  int
	deepest int
}

// bumpy are settings under which an anchor that isn't in the next block is outbid.
func bumpy() map[string]string {
	return map[string]string{"CALPE_ANCHOR_PATIENCE": "1ms", "CALPE_ANCHOR_MAX_DAY": "10000000", "CALPE_ANCHOR_MAX_FEE_RATE": "100"}
}

func (d *deployment) weather(random *rand.Rand) *weather {
	d.t.Helper()
	password, _ := d.node.user.Password()
	w := &weather{d: d, random: random, node: nodetest.Attach(d.t, d.node.client, d.node.url.String(), d.node.user.Username(), password)}
	w.least = w.height() + 2
	return w
}

func (w *weather) height() uint32 {
	w.d.t.Helper()
	height, err := w.d.node.client.Height(w.d.t.Context())
	if err != nil {
		w.d.t.Fatal(err)
	}
	return height
}

// turn lets one thing happen, and time pass.
func (w *weather) turn() {
	w.d.t.Helper()
	w.turns++
	switch w.turns % 9 {
	case 1, 2, 5:
		w.node.Empty(1)
	case 8:
		w.reorganise(1 + w.random.IntN(4)) // an anchor is final at depth 3
	default:
		w.node.Generate(1)
	}
	pause(w.d.t.Context(), 350*time.Millisecond)
}

// reorganise takes blocks away and mines a longer branch without transactions.
func (w *weather) reorganise(depth int) {
	w.d.t.Helper()
	height := w.height()
	if height < w.least+uint32(depth) {
		return
	}
	hash, err := w.d.node.client.BlockHash(w.d.t.Context(), height-uint32(depth)+1)
	if err != nil {
		w.d.t.Fatal(err)
	}
	w.node.Invalidate(hash)
	w.node.Empty(depth + 1)
	w.reorgs++
	w.deepest = max(w.deepest, depth)
}

// until makes weather until probe gives nil.
func (w *weather) until(what string, probe func(ctx context.Context) error) {
	w.d.t.Helper()
	eventually(w.d.t, what, func(ctx context.Context) error {
		w.turn()
		return probe(ctx)
	})
}
