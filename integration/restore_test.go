package integration

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/internal/commitpoint"
	"github.com/calpe/calpe/internal/porttest"
	"github.com/calpe/calpe/receipt"
)

// restoration is a test of an older database put back: clients upload all the
// time, and the windows are what was acknowledged between each copy and the end
// of the database from which it was taken.
type restoration struct {
	d       *deployment
	s       *server
	address string
	l       *load
	windows []window
}

type window struct {
	name     string
	from, to int    // of the acknowledgements
	sealed   uint64 // size of a checkpoint that was published before the end
}

// TestOlderDatabasePutBack replaces the database by an older copy of itself, when
// what was acknowledged since is only acknowledged, checkpointed, in a transaction
// that waits for a block, or final. No index may get a second commitment.
func TestOlderDatabasePutBack(t *testing.T) {
	d := deploy(t)
	mining := d.node.keepMining(600 * time.Millisecond)
	r := &restoration{d: d, address: porttest.Address(t)}
	r.s = d.serve(r.address, nil)
	r.s.awaitReady()
	r.l = d.load(clients(), r.s.url)
	r.l.awaitMore(30)

	r.restore("checkpointed", func() { r.awaitSize(func(st status) uint64 { return st.Checkpointed }) }, nil)
	r.l.awaitMore(20)

	// Without a checkpoint: the server that makes none runs already when the copy is taken.
	r.restart(map[string]string{"CALPE_SEAL_INTERVAL": "1h"})
	r.l.awaitMore(20)
	r.restore("acknowledged", func() { r.l.awaitMore(50) }, nil)
	r.restart(nil)
	r.l.awaitMore(20)

	var final []kept
	r.restore("final", func() {
		r.awaitSize(func(st status) uint64 { return st.Final })
		final = r.keepReceipts()
	}, nil)
	r.l.awaitMore(20)

	r.restore("broadcast", func() {
		r.awaitSize(func(st status) uint64 { return st.Confirmed })
		mining() // ends: the next anchor waits in the mempool, and the copy knows nothing of it
		eventually(t, "an anchor is broadcast", func(ctx context.Context) error {
			st, err := r.s.status(ctx)
			if err == nil && st.Broadcast <= st.Confirmed {
				err = fmt.Errorf("no attempt is out: %+v", st)
			}
			return err
		})
	}, nil)
	defer d.node.keepMining(600 * time.Millisecond)()
	r.l.awaitMore(20)

	r.restore("checkpointed, with a crash at each point of recovery",
		func() { r.awaitSize(func(st status) uint64 { return st.Checkpointed }) }, r.crashInRecovery)
	r.l.awaitMore(20)
	r.s.awaitReady()
	r.l.stop()

	v := r.s.check(r.l.all(), r.lost)
	t.Logf("%d restorations, %d acknowledged (%d after repetition), %d entries of which %d void, %d recoveries, %d anchors",
		len(r.windows), r.l.count(), r.l.retry, v.entries, v.voids, v.recoveries, v.anchors)
	r.checkWindows(v.log)
	chain := d.node.headers()
	for _, k := range final {
		if err := d.verify(k.acknowledged, k.receipt, chain); err != nil {
			t.Errorf("a final receipt that was handed out before: %s: %v", k.key, err)
		}
	}
	r.s.exitsCleanly()
}

// restore copies the database, lets things happen, and puts the copy back. What
// comes before the start, if there is something, runs when the copy is in place.
func (r *restoration) restore(name string, happens func(), beforeLoad func()) {
	t, d := r.d.t, r.d
	t.Helper()
	copied := fmt.Sprintf("copy-%d", len(r.windows))
	d.db.stop()
	r.l.settle()
	w := window{name: name, from: r.l.count()}
	d.db.copyTo(copied)
	d.db.start()
	r.l.awaitMore(40)
	happens()
	st, err := r.s.status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.sealed = st.Checkpointed
	if beforeLoad != nil {
		r.s.kill()
	}
	d.db.kill()
	r.l.settle()
	w.to = r.l.count()
	r.windows = append(r.windows, w)
	d.db.putBack(copied)
	d.db.start()
	if beforeLoad != nil {
		beforeLoad()
	}
	r.l.awaitMore(10)
}

// awaitSize waits until all that is acknowledged now has come so far.
func (r *restoration) awaitSize(of func(status) uint64) {
	r.d.t.Helper()
	want := r.l.highest()
	eventually(r.d.t, "acknowledged entries go on", func(ctx context.Context) error {
		st, err := r.s.status(ctx)
		if err == nil && of(st) < want {
			err = fmt.Errorf("want %d: %+v", want, st)
		}
		return err
	})
}

func (r *restoration) restart(extra map[string]string) {
	r.d.t.Helper()
	r.s.kill()
	r.s = r.d.serve(r.address, extra)
	r.s.awaitReady()
}

// crashInRecovery lets one server after the other die in the same recovery.
func (r *restoration) crashInRecovery() {
	r.d.t.Helper()
	for _, p := range []commitpoint.Point{
		commitpoint.RecoveryRolled, commitpoint.RecoveryFilled, commitpoint.RecoveryFenced, commitpoint.RecoveryClaimed,
	} {
		c := crash{p, 1}
		r.d.serve(r.address, c.setting()).dies(c)
	}
	r.s = r.d.serve(r.address, nil)
}

// kept is a receipt in a citizen's hands.
type kept struct {
	acknowledged
	receipt receipt.Receipt
}

// keepReceipts fetches final receipts of the newest documents.
func (r *restoration) keepReceipts() (receipts []kept) {
	t := r.d.t
	t.Helper()
	st, err := r.s.status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	all := r.l.all()
	for i := len(all) - 1; i >= 0 && len(receipts) < 20; i-- {
		if all[i].kind == stampKind || all[i].index+2 > st.Final {
			continue
		}
		got, err := r.s.fetchReceipt(t.Context(), all[i])
		if err != nil {
			t.Fatal(err)
		}
		if got.Anchor == nil {
			t.Fatalf("index %d is final, and its receipt has no anchor", all[i].index)
		}
		receipts = append(receipts, kept{all[i], got})
	}
	if len(receipts) == 0 {
		t.Fatal("no document is final")
	}
	return receipts
}

// lost reports whether an acknowledgement fell into a window.
func (r *restoration) lost(a acknowledged) bool {
	all := r.l.acks // nobody appends any more
	for _, w := range r.windows {
		for _, x := range all[w.from:w.to] {
			if x.key == a.key {
				return true
			}
		}
	}
	return false
}

// checkWindows: what was published comes back, what wasn't is void (I2).
func (r *restoration) checkWindows(log published) {
	t := r.d.t
	t.Helper()
	for _, w := range r.windows {
		back, void := 0, 0
		for _, a := range r.l.acks[w.from:w.to] {
			switch log.commitments[a.index] {
			case calpe.VoidCommitment:
				void++
				if a.index < w.sealed {
					t.Errorf("%s: index %d is void, a checkpoint of size %d was published", w.name, a.index, w.sealed)
				}
			default: // check has seen that it is the same
				back++
			}
		}
		t.Logf("%s: %d lost with the database, of which %d came back from the published log and %d are void", w.name, w.to-w.from, back, void)
		if unsealed := w.name == "acknowledged"; unsealed && (void == 0 || back > 0) || !unsealed && back == 0 {
			t.Errorf("%s: %d came back and %d are void: the test isn't the one it should be", w.name, back, void)
		}
	}
}
