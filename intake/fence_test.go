package intake_test

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/batch/batchtest"
	"github.com/calpe/calpe/intake"
	"github.com/google/go-cmp/cmp"
)

const goodFence = `{"type":"calpe/fence/v1","log":"0100000000000000000000000000000000000000000000000000000000000000","limit":500,` +
	`"instance":"7000000000000000001/2/2026-11-21T09:00:00.000000Z","epoch":3,` +
	`"claims":[{"rolled_from":10,"rolled_to":20,"void_from":20,"void_to":500}]}`

func TestParseFence(t *testing.T) {
	got, err := intake.ParseFence([]byte(goodFence))
	want := intake.Fence{
		Type: "calpe/fence/v1", Log: calpe.Hash{1}, Limit: 500, Epoch: 3,
		Instance: calpe.Instance{SystemIdentifier: "7000000000000000001", Timeline: 2, Started: time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC)},
		Claims:   []intake.Claim{{RolledFrom: 10, RolledTo: 20, VoidFrom: 20, VoidTo: 500}},
	}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Fatalf("%v\n%s", err, diff)
	}
	for name, edit := range map[string][2]string{
		"type":               {"fence/v1", "fence/v2"},
		"unknown member":     {`"epoch":3`, `"epoch":3,"x":1`},
		"duplicate member":   {`"epoch":3`, `"epoch":2,"epoch":3`},
		"case-folded member": {`"epoch"`, `"Epoch"`},
		"space":              {`"epoch":3`, `"epoch": 3`},
		"fraction":           {`"epoch":3`, `"epoch":3.0`},
		"negative limit":     {`"limit":500`, `"limit":-1`},
		"limit too large":    {`"limit":500`, `"limit":1099511627776`},
		"no instance":        {"7000000000000000001/2/2026-11-21T09:00:00.000000Z", ""},
		"instance spelling":  {"09:00:00.000000Z", "09:00:00Z"},
		"upper-case hash":    {`"log":"01`, `"log":"0A`},
		"claim above limit":  {`"void_to":500`, `"void_to":501`},
		"claim backwards":    {`"rolled_to":20`, `"rolled_to":9`},
		"trailing bytes":     {`}]}`, `}]}{}`},
		"too many claims":    {`"claims":[`, `"claims":[` + strings.Repeat(`{"rolled_from":0,"rolled_to":0,"void_from":0,"void_to":0},`, 128)},
		"too long":           {`"epoch":3`, `"epoch":3` + strings.Repeat(" ", 40000)},
	} {
		bad := strings.Replace(goodFence, edit[0], edit[1], 1)
		if bad == goodFence {
			t.Fatalf("%s: nothing was changed", name)
		}
		if f, err := intake.ParseFence([]byte(bad)); err == nil {
			t.Errorf("%s: read as %+v", name, f)
		}
	}
}

func FuzzParseFence(f *testing.F) {
	f.Add([]byte(goodFence))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		fence, err := intake.ParseFence(data)
		if err != nil {
			return
		}
		again, err := json.Marshal(fence)
		if err != nil || string(again) != string(data) {
			t.Errorf("read %q, which is written %q (%v)", data, again, err)
		}
		if fence.Limit > calpe.MaxLogSize {
			t.Errorf("limit %d", fence.Limit)
		}
	})
}

// TestBothWentBack: database and object storage are older than what was promised
// last, and nothing that is left says so. An operator who says how far promises can
// have gone keeps every index from a second commitment.
func TestBothWentBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.start(t, new(batchtest.Faults))
		p.mustSubmit(t, 10)
		older, fence, size := w.storage.Fence(), parsed(t, w), uint64(len(w.state.Commitments()))
		p.mustSubmit(t, 600)
		p.kill()
		promised := uint64(len(w.state.Commitments()))
		if fence.Limit >= promised {
			t.Fatalf("the older fence is at %d, the log had %d entries: the test isn't the one it should be", fence.Limit, promised)
		}
		w.state.GoBack(size)
		w.state.Restart()
		w.storage.SetFence(older)
		objects := batchtest.Objects{Storage: w.storage, Faults: new(batchtest.Faults)}
		was, err := intake.RaiseFence(t.Context(), objects, w.log.Identity.Hash(), promised+1000)
		if err != nil || was != fence.Limit {
			t.Fatalf("raised from %d, %v", was, err)
		}
		again := w.start(t, new(batchtest.Faults))
		batchtest.Pass(5 * time.Second)
		again.wantState(t, intake.StateOpen)
		again.mustSubmit(t, 3)
		w.check(t)
		if n := len(w.state.Commitments()); uint64(n) < promised+1000 {
			t.Errorf("%d entries, want void ones up to %d", n, promised+1000)
		}
	})
}

func TestRaiseFenceRefuses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.start(t, new(batchtest.Faults)).kill()
		was, good := parsed(t, w), w.storage.Fence()
		log := w.log.Identity.Hash()
		for name, tt := range map[string]struct {
			log   calpe.Hash
			limit uint64
			fault batchtest.Fault
			moved bool // whatever it says
		}{
			"lower":               {log, was.Limit - 1, batchtest.None, false},
			"as high":             {log, was.Limit, batchtest.None, false},
			"a digit too many":    {log, was.Limit + 10_000_001, batchtest.None, false},
			"above the largest":   {log, calpe.MaxLogSize + 1, batchtest.None, false},
			"another log":         {calpe.Hash{1}, was.Limit + 1, batchtest.None, false},
			"failed, not applied": {log, was.Limit + 1, batchtest.NotApplied, false},
			"failed, but applied": {log, was.Limit + 2, batchtest.Applied, true},
		} {
			w.storage.SetFence(good)
			objects := batchtest.Objects{Storage: w.storage, Faults: batchtest.At(1, tt.fault)}
			if _, err := intake.RaiseFence(t.Context(), objects, tt.log, tt.limit); err == nil {
				t.Errorf("%s: raised to %d", name, tt.limit)
			}
			if moved := parsed(t, w).Limit != was.Limit; moved != tt.moved {
				t.Errorf("%s: fence moved: %v", name, moved)
			}
		}
		empty := batchtest.Objects{Storage: batchtest.NewStorage(), Faults: new(batchtest.Faults)}
		if _, err := intake.RaiseFence(t.Context(), empty, log, 1000); !errors.Is(err, calpe.ErrNotFound) {
			t.Errorf("no fence: %v", err)
		}
	})
}
