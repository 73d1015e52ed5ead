package batch_test

import (
	"context"
	"errors"
	"log/slog"
	"testing"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/batch"
	"github.com/calpe/calpe/batch/batchtest"
	"github.com/calpe/calpe/receipt"
)

// anchorRows are the rows of an engine.
type anchorRows struct {
	anchors []calpe.Anchor
	breaks  []calpe.ChainBreak
	err     error
	reads   int
}

func (r *anchorRows) Chain(_ context.Context, first uint64, limit int) ([]calpe.Anchor, error) {
	r.reads++
	rest := r.anchors[min(first, uint64(len(r.anchors))):]
	return rest[:min(limit, len(rest))], r.err
}

func (r *anchorRows) Breaks(context.Context) ([]calpe.ChainBreak, error) { return r.breaks, r.err }

type publisherWorld struct {
	*batch.AnchorPublisher
	t       *testing.T
	rows    *anchorRows
	chain   *batchtest.Chain
	log     batchtest.Log
	objects batchtest.Objects
	now     time.Time
}

func newPublisher(t *testing.T) *publisherWorld {
	t.Helper()
	w := &publisherWorld{t: t, rows: &anchorRows{}, chain: batchtest.NewChain(t, 1), log: batchtest.NewLog(t, "log.example/x"),
		objects: batchtest.Objects{Storage: batchtest.NewStorage(), Faults: &batchtest.Faults{}}, now: time.Unix(1_700_000_000, 0)}
	w.restart()
	return w
}

func (w *publisherWorld) restart() {
	w.t.Helper()
	var err error
	w.AnchorPublisher, err = batch.NewAnchorPublisher(batch.AnchorPublisherConfig{
		Rows: w.rows, Objects: w.objects, Identity: w.log.Identity, Now: func() time.Time { return w.now }, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		w.t.Fatal(err)
	}
}

// mine adds n anchors, and makes all but the newest six final.
func (w *publisherWorld) mine(n int) {
	w.t.Helper()
	for range n {
		p := calpe.Payload{Size: uint64(w.chain.Tip() + 1)}
		w.chain.Mine(batchtest.AnchorTx(p, 1000, calpe.Outpoint{Vout: uint32(w.chain.Tip())}))
		w.rows.anchors = append(w.rows.anchors, w.chain.Anchor(w.chain.Tip(), 1, p))
	}
	for i := range max(0, len(w.rows.anchors)-6) {
		w.rows.anchors[i].Final = true
	}
}

func (w *publisherWorld) step() {
	w.t.Helper()
	if err := w.Step(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	w.shows()
}

// shows demands that the objects are the rows, all of them.
func (w *publisherWorld) shows() {
	w.t.Helper()
	var got []receipt.Anchor
	for page := uint64(0); ; page++ {
		anchors, err := receipt.DecodeAnchors(w.objects.Object(receipt.AnchorsPath(page)))
		if err != nil {
			w.t.Fatal(err)
		}
		got = append(got, anchors...)
		if len(anchors) < receipt.AnchorsPerPage {
			break
		}
	}
	if len(got) != len(w.rows.anchors) {
		w.t.Fatalf("%d anchors are published, want %d", len(got), len(w.rows.anchors))
	}
	for i, a := range w.rows.anchors {
		if link, err := got[i].Link(); err != nil || link.TxID != a.TxID || got[i].Height != a.Height {
			w.t.Fatalf("anchor %d is %v at height %d, want %v at %d: %v", i, link.TxID, got[i].Height, a.TxID, a.Height, err)
		}
	}
	if v := w.objects.Violations(); len(v) > 0 {
		w.t.Fatal(v)
	}
}

func TestAnchorsArePublished(t *testing.T) {
	w := newPublisher(t)
	w.step()
	for _, n := range []int{1, 5, 25, 1, 1, 40, 0, 30} {
		w.mine(n)
		w.step()
		w.restart()
		w.step()
	}
	// Full pages whose anchors are final aren't looked at any more.
	w.rows.reads = 0
	w.step()
	if pages := len(w.rows.anchors)/receipt.AnchorsPerPage + 1; w.rows.reads > 2 || pages < 4 {
		t.Errorf("%d reads for %d pages", w.rows.reads, pages)
	}
}

// A reorganisation takes away anchors, and a whole page.
func TestReorganisedAnchorsArePublished(t *testing.T) {
	w := newPublisher(t)
	w.mine(receipt.AnchorsPerPage + 2)
	w.step()
	for _, left := range []int{receipt.AnchorsPerPage + 1, receipt.AnchorsPerPage, receipt.AnchorsPerPage - 3} {
		w.rows.anchors = w.rows.anchors[:left]
		w.step()
	}
	w.chain = w.chain.Fork(receipt.AnchorsPerPage-3, 2)
	w.mine(8)
	w.step()
}

// What somebody else put there is mended within a minute, and by a new process at once.
func TestPublishedAnchorsAreMended(t *testing.T) {
	w := newPublisher(t)
	w.mine(3)
	w.step()
	path := receipt.AnchorsPath(0)
	for _, spoilt := range [][]byte{[]byte("an older page\n"), nil} {
		w.objects.Set(path, spoilt)
		w.now = w.now.Add(time.Minute)
		w.step()
		w.objects.Set(path, spoilt)
		w.restart()
		w.step()
		w.objects.Set(path, spoilt)
		w.now = w.now.Add(-time.Hour) // a clock that was set back
		w.step()
	}
}

// Failures of either store are left to the next step.
func TestAnchorsArePublishedAfterFaults(t *testing.T) {
	w := newPublisher(t)
	w.mine(2)
	down := errors.New("down")
	w.rows.err = down
	if err := w.Step(t.Context()); !errors.Is(err, down) {
		t.Errorf("rows that can't be read: %v", err)
	}
	w.rows.err = nil
	w.step()
	w.mine(1)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := w.Step(canceled); !errors.Is(err, context.Canceled) {
		t.Errorf("storage that can't be written: %v", err)
	}
	w.step()
	if err := w.Run(canceled); err != nil {
		t.Errorf("the end of Run: %v", err)
	}
	if _, err := batch.NewAnchorPublisher(batch.AnchorPublisherConfig{}); err == nil {
		t.Error("a publisher of nothing")
	}
}
