package anchor_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
)

// An anchor is watched when it has long been final. A reorganisation of many more
// blocks than make it final moves its evidence all the same, to another block of
// the same attempt or to that of another one: a receipt that is asked for then has
// the new block. It is told as what it is, an alarm.
func TestDeepReorganisation(t *testing.T) {
	for _, depth := range []int{7, 99} {
		for _, flips := range []bool{false, true} {
			t.Run(fmt.Sprintf("depth=%d/flips=%v", depth, flips), func(t *testing.T) {
				pg, _ := pgStore(t)
				w := newWorld(t, pg)
				w.target = 2
				w.restart()
				w.log.grow(2)
				w.mustStep()
				older := w.only()
				w.node.empty(2)
				w.mustStep()
				newer := w.snapshot().Attempts[1]
				evidence := func() calpe.Anchor {
					t.Helper()
					a, err := pg.AnchorFor(t.Context(), 1)
					if err != nil {
						t.Fatalf("evidence: %v", err)
					}
					checkEvidence(t, a)
					return a
				}
				w.node.mine(txOf(t, newer))
				w.node.empty(depth - 1)
				w.mustStep()
				was := evidence()
				w.wantState(newer.TxID, ledger.Final)
				if was.TxID != newer.TxID || !was.Final || was.Depth != uint32(depth) {
					t.Fatalf("before: %+v", was)
				}

				after := newer
				if flips {
					after = older
				}
				w.node.cut(depth, false)
				w.node.empty(1)
				w.node.mine(txOf(t, after))
				w.node.empty(depth - 1)
				w.mustStep()
				is := evidence()
				if is.TxID != after.TxID || is.Block == was.Block || is.Height != was.Height+1 || !is.Final {
					t.Fatalf("after: %+v", is)
				}
				if !strings.Contains(w.logged.String(), fmt.Sprintf(`level=ERROR msg="bitcoin chain was reorganised deeper than what counts as final" depth=%d `, depth)) {
					t.Error("it was no alarm")
				}
				w.settle()
			})
		}
	}
}
