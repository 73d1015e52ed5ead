package fsck_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"runtime"
	"runtime/metrics"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/batch"
	"github.com/calpe/calpe/batch/batchtest"
	"github.com/calpe/calpe/fsck"
)

// large has full tiles at level 1, and a tile at level 2.
const large = 2*65536 + 3*256 + 17

func TestLargeLogIsClean(t *testing.T) {
	w := newWorld(t, large+50, 1, 300, 256*200, 65536, large)
	r, found := w.check(deep)
	if len(found) > 0 || r.Counts["entries"] != large+50 || r.Counts["checkpoints"] != 5 {
		t.Errorf("%v, %v", found, r.Counts)
	}
	if len(r.Unchecked) != 1 || r.Status != fsck.Incomplete { // there are no keys
		t.Errorf("%s, unchecked %q", r.Status, r.Unchecked)
	}
}

// What is alive must not grow with the entries that were checked.
func TestMemoryIsFlat(t *testing.T) {
	w := newWorld(t, large, large)
	var alive []uint64
	w.check(func(c *fsck.Config) {
		c.Progress = func(phase string, _, _ uint64) {
			if phase == "entries" {
				runtime.GC()
				s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
				metrics.Read(s)
				alive = append(alive, s[0].Value.Uint64())
			}
		}
	})
	if len(alive) < 8 {
		t.Fatalf("%d windows", len(alive))
	}
	if first, last := alive[0], alive[len(alive)-1]; last > first+2<<20 {
		t.Errorf("%d bytes were alive after the first window, %d after the last", first, last)
	}
}

func TestRepairFromTheBottomUp(t *testing.T) {
	w := newWorld(t, large, 65536, large)
	right := maps.Clone(w.objects)
	broken := []string{
		"tile/0/000", "tile/0/511", "tile/1/000", "tile/1/001", "tile/1/002.p/3", "tile/2/000.p/2", "tile/0/515.p/17",
		"tile/entries/000", "tile/entries/515.p/17", batch.CheckpointPath(65536), batch.HeadPath,
	}
	for i, path := range broken {
		if i%2 == 0 {
			delete(w.objects, path)
		} else {
			w.objects[path] = append([]byte{^w.objects[path][0]}, w.objects[path][1:]...)
		}
	}
	r, found := w.check(repair)
	if len(found) != len(broken) {
		t.Errorf("%d things were broken, found %v", len(broken), found)
	}
	for _, f := range r.Findings {
		if !f.Repaired {
			t.Errorf("not mended: %+v, notes %q", f, r.Notes)
		}
	}
	sameObjects(t, right, w.objects)
	if _, found := w.check(deep); len(found) > 0 {
		t.Errorf("mended, and found %v", found)
	}
}

func sameObjects(t *testing.T, want, got map[string][]byte) {
	t.Helper()
	if len(got) != len(want) {
		t.Errorf("%d objects, want %d", len(got), len(want))
	}
	for path, data := range want {
		if !bytes.Equal(got[path], data) {
			t.Errorf("%s has other bytes", path)
		}
	}
}

// An old partial tile is served to whoever has an old checkpoint.
func TestPartialTilesAreDeep(t *testing.T) {
	w := newWorld(t, 2000, 300, 600, 2000)
	right := maps.Clone(w.objects)
	for _, path := range []string{"tile/0/001.p/44", "tile/entries/002.p/88"} {
		w.objects[path] = append(bytes.Clone(w.objects[path][:40]), make([]byte, len(w.objects[path])-40)...)
	}
	if _, found := w.check(); len(found) > 0 {
		t.Errorf("without Deep: %v", found)
	}
	if _, found := w.check(deep, repair); !slices.Equal(found, []string{"I4 tile/0/001.p/44", "I4 tile/entries/002.p/88"}) {
		t.Errorf("found %v", found)
	}
	sameObjects(t, right, w.objects)
}

// Rows that don't lead to the signed root mend nothing, whatever is missing.
func TestNothingIsMendedFromChangedRows(t *testing.T) {
	w := newWorld(t, 2000, 300, 1000, 2000)
	delete(w.objects, "tile/0/000")
	delete(w.objects, "tile/entries/000")
	w.groups[1].Commitments[5] = batchtest.Commitment(99999)
	before := maps.Clone(w.objects)
	r, found := w.check(repair)
	want := []string{"I3 checkpoint of size 300", "I4 tile/0/000", "I4 tile/entries/000"}
	// Above it, what the rows lead to isn't what was published.
	for _, f := range found {
		if !slices.Contains(want, f) && !strings.HasPrefix(f, "I4 tile/1/") {
			t.Errorf("found %s", f)
		}
	}
	if !slices.Contains(found, want[0]) || !slices.Contains(found, want[1]) {
		t.Errorf("found %v", found)
	}
	for _, f := range r.Findings {
		if f.Repaired {
			t.Errorf("mended: %+v", f)
		}
	}
	sameObjects(t, before, w.objects)
}

func TestMendThatFails(t *testing.T) {
	for name, apply := range map[string]bool{"not applied": false, "applied": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2000, 2000)
			delete(w.objects, "tile/0/001")
			w.mend = func(string) (bool, error) { return apply, calpe.ErrExists }
			r, found := w.check(repair)
			if len(found) != 1 || r.Findings[len(r.Findings)-1].Repaired || len(r.Notes) != 1 {
				t.Errorf("%+v, %q", r.Findings, r.Notes)
			}
			if _, found := w.check(); (len(found) == 0) != apply {
				t.Errorf("the next run finds %v", found)
			}
		})
	}
}

func TestRows(t *testing.T) {
	group := func(first uint64, n int) calpe.GroupRecord {
		g := calpe.GroupRecord{First: first, Origin: calpe.OriginVoid, Commitments: make([]calpe.Commitment, n)}
		return g
	}
	for name, c := range map[string]struct {
		edit func(w *world)
		want []string
	}{
		"dense":                {func(*world) {}, nil},
		"the last group":       {func(w *world) { w.groups = w.groups[:len(w.groups)-1] }, []string{"I2 entries 1555 to 1999"}},
		"one in the middle":    {func(w *world) { w.groups = slices.Delete(w.groups, 1, 2) }, []string{"I2 entries 1 to 777"}},
		"entry 0":              {func(w *world) { w.groups = w.groups[1:] }, []string{"I2 entry 0"}},
		"one entry of a group": {func(w *world) { w.groups[1].Commitments = w.groups[1].Commitments[:776] }, []string{"I2 entry 777"}},
		"one entry twice":      {func(w *world) { w.groups[1].Commitments = append(w.groups[1].Commitments, batchtest.Commitment(778)) }, []string{"I2 group at 778"}},
		"a void tail":          {func(w *world) { w.groups = append(w.groups, group(2000, 5)) }, nil},
		"void of intake": {func(w *world) {
			g := group(2000, 5)
			g.Origin = calpe.OriginIntake
			w.groups = append(w.groups, g)
		}, []string{"I2 group at 2000"}},
		"a gap in the tail": {func(w *world) { w.groups = append(w.groups, group(2001, 5)) }, []string{"I2 entry 2000"}},
		"an overdue tail": {func(w *world) {
			w.groups = append(w.groups, calpe.GroupRecord{First: 2000, Origin: calpe.OriginIntake, Commitments: []calpe.Commitment{{1}}, Deadline: w.now.Add(-time.Minute)})
		}, []string{"I7 group at 2000"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, 2000, 2000)
			c.edit(w)
			if _, found := w.check(); !slices.Equal(found, c.want) {
				t.Errorf("found %q, want %q", found, c.want)
			}
		})
	}
}

// A run that is stopped after each window, and taken up again, finds what one run does.
func TestResume(t *testing.T) {
	w := newWorld(t, large, 300, 65536, large)
	delete(w.objects, "tile/0/002")
	delete(w.objects, "tile/0/400")
	delete(w.objects, "tile/2/000.p/2")
	whole, want := w.check()
	state := filepath.Join(t.TempDir(), "state")
	for stops := 0; ; stops++ {
		ctx, cancel := context.WithCancel(t.Context())
		c := w.config()
		c.State = state
		c.Progress = func(phase string, done, total uint64) {
			if phase == "entries" && done < total {
				cancel()
			}
		}
		r, err := fsck.Run(ctx, c)
		cancel()
		if err == nil {
			if diff := cmp.Diff(want, names(r)); diff != "" || r.Resumed != stops || stops < 8 {
				t.Errorf("%d stops, resumed %d times: %s", stops, r.Resumed, diff)
			}
			if diff := cmp.Diff(whole.Counts, r.Counts); diff != "" {
				t.Error(diff)
			}
			break
		}
		if !errors.Is(err, context.Canceled) || r.Status == fsck.Clean {
			t.Fatalf("%s: %v", r.Status, err)
		}
	}
	if _, err := os.Stat(state); !os.IsNotExist(err) {
		t.Errorf("the state is still there: %v", err)
	}
}

func TestRootsOfProofs(t *testing.T) {
	w := newWorld(t, 2000, 300, 2000)
	for _, c := range w.checkpoints {
		for _, calendar := range []string{"https://a.example", "https://b.example"} {
			w.proofs = append(w.proofs, ledger.Proof{Payload: calpe.Payload{Size: c.Size, Root: c.Root}, Calendar: calendar})
		}
	}
	if r, found := w.check(); len(found) > 0 || r.Counts["proofs by calendars"] != 4 {
		t.Errorf("%v, %v", found, r.Counts)
	}
	w.proofs[1].Root[3] ^= 1
	if _, found := w.check(); !slices.Equal(found, []string{"I3 proof of size 300 by https://b.example"}) {
		t.Errorf("found %v", found)
	}
}

// A store that fails is no finding: not everything could be looked at.
func TestStoreThatFails(t *testing.T) {
	w := newWorld(t, 2000, 2000)
	down := errors.New("503")
	for _, path := range []string{"tile/0/001", "tile/entries/000", "tile/1/000.p/7", batch.CheckpointPath(2000), batch.HeadPath} {
		w.fail = func(p string) error {
			if p == path {
				return down
			}
			return nil
		}
		r, err := fsck.Run(t.Context(), w.config())
		if !errors.Is(err, down) || len(names(r)) > 0 || r.Status == fsck.Clean || len(r.Unchecked) == 0 {
			t.Errorf("%s: %s %v, %v", path, r.Status, names(r), err)
		}
	}
}

func TestStateOfAnotherCheckIsRefused(t *testing.T) {
	w := newWorld(t, 2000, 2000)
	dir := t.TempDir()
	state := filepath.Join(dir, "state")
	stop := errors.New("stop")
	w.fail = func(p string) error {
		if p == batch.HeadPath {
			return stop
		}
		return nil
	}
	c := w.config()
	c.State = state
	if _, err := fsck.Run(t.Context(), c); !errors.Is(err, stop) {
		t.Fatal(err)
	}
	kept, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(state); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	w.fail = nil
	for name, x := range map[string]struct {
		data []byte
		edit func(*fsck.Config)
		say  string
	}{
		"deep":        {kept, deep, "another check"},
		"since":       {kept, func(c *fsck.Config) { c.Since = w.now }, "another check"},
		"another log": {kept, func(c *fsck.Config) { c.Identity = batchtest.NewLog(t, "other.example/log").Identity }, "another check"},
		"cut":         {kept[:len(kept)/2], func(*fsck.Config) {}, "no state of fsck"},
		"other JSON":  {[]byte(`{"type":"x"}`), func(*fsck.Config) {}, "no state of fsck"},
		"empty":       {nil, func(*fsck.Config) {}, "no state of fsck"},
	} {
		c := w.config()
		c.State = filepath.Join(dir, name)
		if err := os.WriteFile(c.State, x.data, 0o600); err != nil {
			t.Fatal(err)
		}
		x.edit(&c)
		if _, err := fsck.Run(t.Context(), c); err == nil || !strings.Contains(err.Error(), x.say) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFence(t *testing.T) {
	for name, edit := range map[string]func(w *world){
		"missing": func(w *world) { w.fence = nil },
		"low": func(w *world) {
			w.fence = bytes.Replace(w.fence, []byte(`"limit":2100`), []byte(`"limit":1999`), 1)
		},
		"cut": func(w *world) { w.fence = w.fence[1:] },
		"of another log": func(w *world) {
			w.fence = bytes.Replace(w.fence, []byte(w.log.Identity.Hash().String()), []byte(calpe.Hash{1}.String()), 1)
		},
	} {
		w := newWorld(t, 2000, 2000)
		edit(w)
		if _, found := w.check(); !slices.Equal(found, []string{"I2 control/fence"}) {
			t.Errorf("%s: %v", name, found)
		}
	}
	w := newWorld(t, 2000, 2000)
	w.fence = bytes.Replace(w.fence, []byte(`"7/1/`), []byte(`"7/2/`), 1)
	if r, found := w.check(); len(found) > 0 || len(r.Notes) != 1 {
		t.Errorf("a restarted database: %v, notes %q", found, r.Notes)
	}
}

// FuzzState: whatever is in the file, the check runs or says what is wrong.
func FuzzState(f *testing.F) {
	f.Add([]byte(`{"type":"calpe/fsck-state/v1","log":"","edge":{"size":257,"root":"0101010101010101010101010101010101010101010101010101010101010101","tiles":{"0":"AAAA"}}}`))
	f.Add([]byte(`{"type":"calpe/fsck-state/v1","log":"","phase":-1}`))
	f.Add([]byte(`{"type":"calpe/fsck-state/v1","log":"","phase":3,"after":{"part":-1}}`))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		w := newWorld(t, 600, 600)
		data = bytes.ReplaceAll(data, []byte(`"log":""`), fmt.Appendf(nil, `"log":"%v"`, w.log.Identity.Hash()))
		c := w.config()
		c.State = filepath.Join(t.TempDir(), "state")
		if err := os.WriteFile(c.State, data, 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, _ = fsck.Run(ctx, c)
	})
}
