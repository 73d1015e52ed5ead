package audit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/audit"
	"github.com/calpe/calpe/batch/batchtest"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt"
)

// The sizes: around tiles, around steps, a third level.
var sizes = []uint64{1, 2, 255, 256, 257, 511, 512, 513, 1100, 2048, 2049, 3000}

// A log that grows passes at every size, and the mirror is the log.
func TestGrowing(t *testing.T) {
	s, mirror := serve(newLog(t)), newDisk()
	for i, size := range sizes {
		s.log.grow(size, 1)
		got := run(t, s, mirror)
		want := audit.Report{
			Status: receipt.Holds, Log: s.log.keys.Identity.Hash(), Origin: "log.example/audit",
			Checkpoint: &audit.Tree{Size: size, Root: s.log.root}, Previous: got.Previous, Text: got.Text, Checked: got.Checked,
		}
		if i > 0 {
			want.Previous = &audit.Tree{Size: sizes[i-1], Root: got.Previous.Root}
			want.Checked.Entries = size - sizes[i-1]
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
		mirror.isMirrorOf(t, s.log, sizes[:i+1]...)
		again := run(t, s, mirror)
		if again.Status != receipt.Holds || again.Checked != (audit.Checked{}) || !strings.Contains(again.Text, "same") {
			t.Fatalf("again: %+v", again)
		}
	}
}

// From nothing to any size, with and without a mirror; it can itself be audited.
func TestWhole(t *testing.T) {
	for _, size := range sizes {
		s, mirror := serve(newLog(t).grow(size, 1)), newDisk()
		withoutMirror := run(t, s, nil)
		if diff := cmp.Diff(withoutMirror, run(t, s, mirror)); diff != "" || withoutMirror.Status != receipt.Holds {
			t.Fatalf("%s\n%s", withoutMirror.Text, diff)
		}
		want := audit.Checked{Entries: size, Void: (size - 1) / 97, Bundles: (size + 255) / 256}
		for range merkle.NewTiles(0, size) {
			want.Tiles++
		}
		if diff := cmp.Diff(want, withoutMirror.Checked); diff != "" {
			t.Fatal(diff)
		}
		mirror.isMirrorOf(t, s.log, size)
		copied := serve(&testLog{t: t, keys: s.log.keys, objects: mirror.now})
		expect(t, copied, nil, receipt.Holds, "")
	}
}

// Every object is read once, except for the few that proofs need.
func TestReadsOnce(t *testing.T) {
	s, mirror := serve(newLog(t).grow(3000, 1)), newDisk()
	run(t, s, mirror)
	for path, n := range s.reads {
		if n > 1 && strings.HasPrefix(path, "tile/entries/") || n > 2 {
			t.Errorf("%s was read %d times", path, n)
		}
	}
	s.log.grow(3001, 1)
	clear(s.reads)
	run(t, s, mirror)
	if len(s.reads) > 8 {
		t.Errorf("one more entry took %v", s.reads)
	}
}

// A log may remove what is partial once the full one is there. The auditor's
// checkpoint is the older one here.
func TestPartialRemoved(t *testing.T) {
	l := newLog(t).grow(700, 1)
	old := l.objects["checkpoint"]
	l.grow(3000, 1)
	l.objects["checkpoint"] = old
	for path := range l.objects {
		if full, _, ok := strings.Cut(path, ".p/"); ok && l.objects[full] != nil {
			delete(l.objects, path)
		}
	}
	// At level 1 there is no full tile yet, and a log keeps the partial ones.
	l.objects[merkle.Tile{Level: 1, Width: 2}.Path()] = l.objects[merkle.Tile{Level: 1, Width: 11}.Path()][:64]
	expect(t, serve(l), newDisk(), receipt.Holds, "")
}

// Whatever is changed in whatever object that the checkpoint covers, it is found.
func TestEveryObjectCounts(t *testing.T) {
	for _, size := range []uint64{1, 256, 513, 2100} {
		everyObjectCounts(t, newLog(t).grow(size, 1))
	}
}

func everyObjectCounts(t *testing.T, l *testLog) {
	for _, path := range l.covered() {
		for name, spoil := range map[string]func([]byte) []byte{
			"first bit":  func(b []byte) []byte { b[0] ^= 1; return b },
			"middle bit": func(b []byte) []byte { b[len(b)/2] ^= 0x10; return b },
			"last bit":   func(b []byte) []byte { b[len(b)-1] ^= 1; return b },
			"cut":        func(b []byte) []byte { return b[:len(b)-1] },
			"longer":     func(b []byte) []byte { return append(b, 0) },
			"empty":      func([]byte) []byte { return nil },
		} {
			changed := l.clone()
			changed.objects[path] = spoil(bytes.Clone(l.objects[path]))
			mirror := newDisk()
			if r := run(t, serve(changed), mirror); r.Status != receipt.Refuted {
				t.Errorf("%s, %s: %s, %q: %s", path, name, r.Status, r.Reason, r.Text)
			}
			if mirror.now["checkpoint"] != nil {
				t.Errorf("%s, %s: the mirror has a checkpoint", path, name)
			}
			// When the log is put right, the audit goes on.
			expect(t, serve(l), mirror, receipt.Holds, "")
			mirror.isMirrorOf(t, l, l.size)
		}
	}
}

// What is withheld is no proof of anything, and no pass either.
func TestMissingObject(t *testing.T) {
	l := newLog(t).grow(2100, 1)
	for _, path := range l.covered() {
		changed := l.clone()
		delete(changed.objects, path)
		_, err := auditor(t, serve(changed), newDisk(), l.keys.Identity).Run(t.Context())
		if !errors.Is(err, calpe.ErrNotFound) || !strings.Contains(err.Error(), strings.Split(path, ".p/")[0]) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// A cache that serves what it should have forgotten raises no alarm.
func TestStaleCache(t *testing.T) {
	l := newLog(t).grow(2100, 1)
	for _, path := range append(l.covered(), "checkpoint") {
		s := serve(l)
		s.cached[path] = bytes.Repeat([]byte{7}, len(l.objects[path]))
		expect(t, s, newDisk(), receipt.Holds, "")
	}
	mirror := newDisk()
	expect(t, serve(l), mirror, receipt.Holds, "")
	l.grow(2200, 1)
	for _, path := range l.covered() {
		s := serve(l)
		s.cached[path] = bytes.Repeat([]byte{7}, len(l.objects[path]))
		expect(t, s, mirror.reboot(loseNothing), receipt.Holds, "")
	}
}

func TestCheckpoint(t *testing.T) {
	l := newLog(t).grow(300, 1)
	other := batchtest.NewLog(t, "log.example/other")
	sign := func(k batchtest.Log, size uint64, root calpe.Hash) []byte {
		note, err := k.Sign(size, root)
		if err != nil {
			t.Fatal(err)
		}
		return note
	}
	strange, err := receipt.SignCheckpoint(batchtest.Key(t, "x.example/log"), "x.example/log", 300, l.root)
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name   string
		note   []byte
		status receipt.Status
		reason audit.Reason
	}{
		{"another log's", sign(other, 300, l.root), receipt.Refuted, audit.ReasonSignature},
		{"another key", strange, receipt.Refuted, audit.ReasonSignature},
		{"changed size", bytes.Replace(l.objects["checkpoint"], []byte("\n300\n"), []byte("\n299\n"), 1), receipt.Refuted, ""},
		{"nonsense", []byte("hello"), receipt.Refuted, audit.ReasonMalformed},
		{"empty", []byte{}, receipt.Refuted, audit.ReasonMalformed},
		{"another root", sign(l.keys, 300, calpe.Hash{1}), receipt.Refuted, audit.ReasonRoot},
		{"no entries", sign(l.keys, 0, merkle.EmptyRoot()), receipt.NotYet, audit.ReasonNoCheckpoint},
		{"none", nil, receipt.NotYet, audit.ReasonNoCheckpoint},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			changed := l.clone()
			changed.objects["checkpoint"] = tt.note
			if tt.note == nil {
				delete(changed.objects, "checkpoint")
			}
			r := run(t, serve(changed), newDisk())
			if r.Status != tt.status || tt.reason != "" && r.Reason != tt.reason {
				t.Fatalf("%s, %q: %s", r.Status, r.Reason, r.Text)
			}
		})
	}
}

func TestIdentityEntry(t *testing.T) {
	l := newLog(t)
	l.entries[0].Commitment[3] ^= 1
	r := expect(t, serve(l.grow(300, 1)), nil, receipt.Refuted, audit.ReasonIdentity)
	if !strings.Contains(r.Text, "entry 0") {
		t.Error(r.Text)
	}
}

// The finding names the place.
func TestFindingsNameThePlace(t *testing.T) {
	tests := []struct {
		name   string
		spoil  func(l *testLog)
		reason audit.Reason
		text   string
	}{
		{"a hash of a tile", func(l *testLog) { l.objects["tile/0/003"][7*32] ^= 1 }, audit.ReasonBundle, "entry 775 in tile/entries/003"},
		{"a commitment", func(l *testLog) { l.objects["tile/entries/003"][7*42+41] ^= 1 }, audit.ReasonBundle, "entry 775 in tile/entries/003"},
		{"an index", func(l *testLog) { l.objects["tile/entries/003"][7*42+9] ^= 1 }, audit.ReasonBundle, "tile/entries/003: entry 7 has index"},
		{"a length", func(l *testLog) { l.objects["tile/entries/003"][7*42+1]++ }, audit.ReasonBundle, "entry 7 has length 41"},
		{"a hash of an upper tile", func(l *testLog) { l.objects["tile/1/000.p/8"][5*32] ^= 1 }, audit.ReasonRoot, "the tiles don't lead"},
		{"an entry in bundle and tile", func(l *testLog) {
			l.objects["tile/entries/003"][7*42+41] ^= 1
			leaf := merkle.LeafHash(l.objects["tile/entries/003"][7*42+2:][:40])
			copy(l.objects["tile/0/003"][7*32:], leaf[:])
		}, audit.ReasonRoot, "entries 512 to 1023"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l := newLog(t).grow(2100, 1)
			tt.spoil(l)
			r := expect(t, serve(l), nil, receipt.Refuted, tt.reason)
			if !strings.Contains(r.Text, tt.text) {
				t.Errorf("%q doesn't say %q", r.Text, tt.text)
			}
		})
	}
}

// A log that shows two histories is found out, at whatever size either was seen,
// and the notes that prove it are kept.
func TestSplitView(t *testing.T) {
	for _, common := range []uint64{1, 255, 256, 300, 600, 1024} {
		for _, seen := range []uint64{common + 1, common + 256, 1100} {
			for _, shown := range []uint64{common + 1, common + 256, seen, 1100, 2500} {
				t.Run(fmt.Sprintf("%d %d %d", common, seen, shown), func(t *testing.T) {
					l := newLog(t).grow(common, 1)
					other := l.clone().grow(shown, 2)
					l.grow(seen, 1)
					mirror := newDisk()
					expect(t, serve(l), mirror, receipt.Holds, "")
					for range 2 { // and it stays found out
						r := expect(t, serve(other), mirror, receipt.Refuted, audit.ReasonSplitView)
						want := []string{string(l.objects["checkpoint"]), string(other.objects["checkpoint"])}
						if diff := cmp.Diff(want, r.Evidence); diff != "" {
							t.Fatal(diff)
						}
						for _, x := range []*testLog{l, other} {
							path := fmt.Sprintf("conflicts/%013d-%v", x.size, x.root)
							if !bytes.Equal(mirror.durable[path], x.objects["checkpoint"]) {
								t.Fatalf("%s isn't kept", path)
							}
						}
					}
					expect(t, serve(l), mirror, receipt.Holds, "")
				})
			}
		}
	}
}

// An entry that is changed in a bundle that was partial when it was mirrored.
func TestChangedPast(t *testing.T) {
	l, mirror := newLog(t).grow(300, 1), newDisk()
	run(t, serve(l), mirror)
	l.grow(400, 1)
	path := merkle.EntryBundlePath(1, 144)
	l.objects[path][20*42+41] ^= 1
	leaf := merkle.LeafHash(l.objects[path][20*42+2:][:40])
	copy(l.objects["tile/0/001.p/144"][20*32:], leaf[:])
	r := run(t, serve(l), mirror)
	if r.Status != receipt.Refuted {
		t.Fatalf("%+v", r)
	}
	// The same, if the change is hidden from the proofs.
	s := serve(l)
	good := newLog(t).grow(300, 1).grow(400, 1)
	s.fail = func(p string) error {
		if n := s.reads[p]; p == "tile/0/001.p/144" && n == 1 {
			s.cached[p] = good.objects[p]
		} else if p == "tile/0/001.p/144" {
			delete(s.cached, p)
		}
		return nil
	}
	if r := run(t, s, mirror); r.Status != receipt.Refuted {
		t.Fatalf("%+v", r)
	}
}

// A checkpoint that is older than one seen before, of the same history.
func TestOlderCheckpoint(t *testing.T) {
	l := newLog(t).grow(300, 1)
	for _, seen := range []uint64{301, 600, 1100} {
		newer := l.clone().grow(seen, 1)
		mirror := newDisk()
		expect(t, serve(newer), mirror, receipt.Holds, "")
		before := maps.Clone(mirror.now)
		expect(t, serve(l), mirror, receipt.NotYet, audit.ReasonOlder)
		if diff := cmp.Diff(before, mirror.now); diff != "" {
			t.Error("the mirror was changed")
		}
	}
	mirror := newDisk()
	expect(t, serve(l), mirror, receipt.Holds, "")
	none := l.clone()
	none.objects["checkpoint"], _ = l.keys.Sign(0, merkle.EmptyRoot())
	expect(t, serve(none), mirror, receipt.NotYet, audit.ReasonNoCheckpoint)
	delete(none.objects, "checkpoint")
	if _, err := auditor(t, serve(none), mirror, l.keys.Identity).Run(t.Context()); !errors.Is(err, calpe.ErrNotFound) {
		t.Errorf("a checkpoint that is gone: %v", err)
	}
}

// A crash at any moment, whatever the disk keeps of it, costs at most a step.
func TestCrash(t *testing.T) {
	l := newLog(t).grow(300, 1)
	start := newDisk()
	run(t, serve(l), start)
	now := l.clone().grow(1700, 1)
	later := now.clone().grow(1900, 1)
	for n := 1; ; n++ {
		mirror := start.reboot(loseNothing)
		mirror.crashAt = n
		_, err := auditor(t, serve(now), mirror, l.keys.Identity).Run(t.Context())
		if err == nil {
			if n < 20 {
				t.Fatalf("only %d changes", n)
			}
			return
		}
		if !errors.Is(err, errCrashed) {
			t.Fatal(err)
		}
		for _, lost := range []loss{loseNothing, loseAll, loseWrites} {
			after := mirror.reboot(lost)
			s := serve(later)
			r := expect(t, s, after, receipt.Holds, "")
			if _, ok := after.now["progress.json"]; ok {
				t.Fatalf("change %d: progress is left", n)
			}
			if r.Previous == nil || r.Previous.Size != 300 && r.Previous.Size != 1700 {
				t.Fatalf("change %d: %+v", n, r.Previous)
			}
			expect(t, serve(&testLog{t: t, keys: l.keys, objects: after.now}), nil, receipt.Holds, "")
		}
	}
}

// An interrupted run is gone on with, and what its checkpoint said isn't
// forgotten.
func TestInterrupted(t *testing.T) {
	l := newLog(t).grow(2500, 1)
	interrupt := func(t *testing.T) *disk {
		mirror := newDisk()
		s := serve(l)
		s.fail = func(path string) error {
			if path == "tile/entries/007" {
				return errors.New("the network is down")
			}
			return nil
		}
		if _, err := auditor(t, s, mirror, l.keys.Identity).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "tile/entries/007") {
			t.Fatalf("got %v", err)
		}
		if mirror.now["progress.json"] == nil {
			t.Fatal("no progress")
		}
		return mirror
	}
	t.Run("gone on with", func(t *testing.T) {
		mirror := interrupt(t)
		s := serve(l.clone().grow(2600, 1))
		r := expect(t, s, mirror, receipt.Holds, "")
		if r.Checked.Entries != 2600-3*step || s.reads["tile/entries/000"] > 0 {
			t.Errorf("%+v", r.Checked)
		}
		mirror.isMirrorOf(t, s.log, 2600)
	})
	t.Run("older since", func(t *testing.T) {
		mirror := interrupt(t)
		expect(t, serve(newLog(t).grow(700, 1)), mirror, receipt.Holds, "")
		expect(t, serve(&testLog{t: t, keys: l.keys, objects: mirror.now}), nil, receipt.Holds, "")
		expect(t, serve(l), mirror, receipt.Holds, "")
		mirror.isMirrorOf(t, l, 700, 2500)
	})
	t.Run("another history since", func(t *testing.T) {
		for _, shown := range []uint64{3 * step, 2499, 2500, 2600} {
			mirror := interrupt(t)
			other := newLog(t).grow(400, 1).grow(shown, 2)
			r := expect(t, serve(other), mirror, receipt.Refuted, audit.ReasonSplitView)
			if r.Evidence[0] != string(l.objects["checkpoint"]) || r.Evidence[1] != string(other.objects["checkpoint"]) {
				t.Errorf("evidence %q", r.Evidence)
			}
		}
	})
	t.Run("another history behind what was checked", func(t *testing.T) {
		mirror := interrupt(t)
		other := newLog(t).grow(4*step, 1).grow(2600, 2)
		expect(t, serve(other), mirror, receipt.Refuted, audit.ReasonSplitView)
	})
}

func TestDamagedMirror(t *testing.T) {
	l := newLog(t).grow(300, 1)
	good := newDisk()
	run(t, serve(l), good)
	later := l.clone().grow(400, 1)
	note, err := batchtest.NewLog(t, "log.example/other").Sign(1, calpe.Hash{})
	if err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		path string
		data []byte
		show *testLog
	}{
		"cut tile":                 {"tile/0/001.p/44", l.objects["tile/0/001.p/44"][:32], later},
		"changed tile":             {"tile/0/001.p/44", make([]byte, 44*32), later},
		"no tile":                  {"tile/0/001.p/44", nil, later},
		"changed tile, older log":  {"tile/0/001.p/44", make([]byte, 44*32), newLog(t).grow(200, 1)},
		"checkpoint of another":    {"checkpoint", note, later},
		"nonsense for checkpoint":  {"checkpoint", []byte("x"), later},
		"nonsense for progress":    {"progress.json", []byte("x"), later},
		"progress of nothing":      {"progress.json", []byte(`{"size":0}`), later},
		"progress of another note": {"progress.json", []byte(`{"size":1,"checkpoint":"x"}`), later},
	} {
		t.Run(name, func(t *testing.T) {
			mirror := good.reboot(loseNothing)
			mirror.now[tc.path] = tc.data
			if tc.data == nil {
				delete(mirror.now, tc.path)
			}
			_, err := auditor(t, serve(tc.show), mirror, l.keys.Identity).Run(t.Context())
			if err == nil || !strings.Contains(err.Error(), "mirror") {
				t.Errorf("got %v", err)
			}
		})
	}
}

// Two runs that use one mirror at once don't overwrite what the other found.
func TestTwoAtOnce(t *testing.T) {
	l, mirror := newLog(t).grow(300, 1), newDisk()
	s := serve(l)
	s.fail = func(path string) error {
		if path == "tile/0/000" && mirror.now["checkpoint"] == nil {
			mirror.now["checkpoint"] = newLog(t).grow(20, 1).objects["checkpoint"]
		}
		return nil
	}
	if _, err := auditor(t, s, mirror, l.keys.Identity).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "one audit at a time") {
		t.Errorf("got %v", err)
	}
}

// A mirror that can't be written, a log that can't be read.
func TestFailures(t *testing.T) {
	l := newLog(t).grow(300, 1)
	s := serve(l)
	s.fail = func(string) error { return errors.New("no route") }
	if _, err := auditor(t, s, nil, l.keys.Identity).Run(t.Context()); err == nil || !strings.Contains(err.Error(), "no route") {
		t.Errorf("got %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := auditor(t, serve(l), nil, l.keys.Identity).Run(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	for n := 1; n < 8; n++ { // also where the evidence is kept
		mirror := newDisk()
		expect(t, serve(l), mirror, receipt.Holds, "")
		mirror.ops, mirror.crashAt = 0, n
		other := serve(newLog(t).grow(200, 1).grow(400, 2))
		if r, err := auditor(t, other, mirror, l.keys.Identity).Run(t.Context()); n <= 6 && !errors.Is(err, errCrashed) || n > 6 && (err != nil || r.Status != receipt.Refuted) {
			t.Errorf("change %d: %v, %v", n, r.Status, err)
		}
	}
}

func TestProgress(t *testing.T) {
	l := newLog(t).grow(700, 1)
	mirror := newDisk()
	var last, calls uint64
	follow := func() audit.Config {
		return audit.Config{Log: serve(l), Mirror: mirror, Identity: l.keys.Identity, Step: step, Progress: func(checked, size uint64) {
			calls++
			if checked <= last || checked > size || size != l.size {
				t.Errorf("%d after %d of %d", checked, last, size)
			}
			last = checked
		}}
	}
	for _, size := range []uint64{700, 2000} {
		l.grow(size, 1)
		a, err := audit.New(follow())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.Run(t.Context()); err != nil || last != size {
			t.Errorf("%d of %d, %v", last, size, err)
		}
	}
	if calls < 5 {
		t.Errorf("told %d times", calls)
	}
}

func TestConfig(t *testing.T) {
	l := newLog(t).grow(1, 1)
	good := audit.Config{Log: serve(l), Identity: l.keys.Identity}
	if _, err := audit.New(good); err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string]func(*audit.Config){
		"no log":           func(c *audit.Config) { c.Log = nil },
		"no identity":      func(c *audit.Config) { c.Identity = receipt.Identity{} },
		"uneven step":      func(c *audit.Config) { c.Step = 257 },
		"negative readers": func(c *audit.Config) { c.Readers = -1 },
	} {
		cfg := good
		edit(&cfg)
		if _, err := audit.New(cfg); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func TestReportText(t *testing.T) {
	l, mirror := newLog(t).grow(300, 1), newDisk()
	r := run(t, serve(l), mirror)
	var first, second strings.Builder
	if err := r.WriteText(&first); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"log.example/audit", "300 entries", "300 new entries (3 of them void)", "in 2 bundles, 3 tiles", "Answer: HOLDS"} {
		if !strings.Contains(first.String(), want) {
			t.Errorf("no %q in:\n%s", want, first.String())
		}
	}
	other := newLog(t).grow(200, 1).grow(400, 2)
	if err := run(t, serve(other), mirror).WriteText(&second); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"before      300", "Answer: REFUTED: the log has shown two histories", string(l.objects["checkpoint"]), string(other.objects["checkpoint"])} {
		if !strings.Contains(second.String(), want) {
			t.Errorf("no %q in:\n%s", want, second.String())
		}
	}
}

// FuzzObjects changes a published log anywhere: it never passes, and nothing panics.
func FuzzObjects(f *testing.F) {
	l := newLog(f).grow(1300, 1)
	paths := append(l.covered(), "checkpoint")
	f.Add(uint16(0), uint32(0), byte(1), uint8(0))
	f.Add(uint16(12), uint32(100), byte(0x80), uint8(1))
	f.Add(uint16(len(paths)-1), uint32(30), byte(1), uint8(2))
	f.Fuzz(func(t *testing.T, which uint16, at uint32, bits byte, how uint8) {
		changed := l.clone()
		path := paths[int(which)%len(paths)]
		data := bytes.Clone(l.objects[path])
		switch i := int(at) % len(data); how % 3 {
		case 0:
			data[i] ^= bits
		case 1:
			data = data[:i]
		case 2:
			data = append(data[:i:i], append([]byte{bits}, data[i:]...)...)
		}
		changed.objects[path] = data
		r, err := auditor(t, serve(changed), nil, l.keys.Identity).Run(t.Context())
		if same := bytes.Equal(data, l.objects[path]); err != nil || same != (r.Status == receipt.Holds) {
			if path == "checkpoint" && r.Status == receipt.Holds && bytes.HasPrefix(data, l.objects[path][:bytes.IndexByte(l.objects[path], 0xe2)]) {
				return // another line beside the signature
			}
			t.Errorf("%s changed at %d: %+v, %v", path, at, r, err)
		}
	})
}

// FuzzProgress reads the file of an unfinished run.
func FuzzProgress(f *testing.F) {
	l := newLog(f).grow(300, 1)
	f.Add([]byte(`{"size":1,"root":"` + l.root.String() + `","checkpoint":"x"}`))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, text []byte) {
		mirror := newDisk()
		mirror.now["progress.json"] = text
		if r, err := auditor(t, serve(l), mirror, l.keys.Identity).Run(t.Context()); err == nil {
			t.Errorf("%q was taken for progress: %+v", text, r)
		}
	})
}

// The reasons are documented.
func TestReasonsAreDocumented(t *testing.T) {
	page, err := os.ReadFile(filepath.Join("..", "docs", "audit.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, reason := range []audit.Reason{
		audit.ReasonMalformed, audit.ReasonSignature, audit.ReasonSplitView, audit.ReasonIdentity, audit.ReasonBundle,
		audit.ReasonTile, audit.ReasonRoot, audit.ReasonNoCheckpoint, audit.ReasonOlder,
	} {
		if !bytes.Contains(page, []byte("| `"+string(reason)+"` |")) {
			t.Errorf("docs/audit.md doesn't have %q", reason)
		}
	}
}
