package merkle_test

import (
	"encoding/binary"
	"iter"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
)

func TestTilePath(t *testing.T) {
	for _, c := range []struct {
		tile merkle.Tile
		path string
	}{
		{merkle.Tile{Level: 0, Index: 0, Width: 256}, "tile/0/000"},
		{merkle.Tile{Level: 0, Index: 0, Width: 1}, "tile/0/000.p/1"},
		{merkle.Tile{Level: 0, Index: 999, Width: 255}, "tile/0/999.p/255"},
		{merkle.Tile{Level: 0, Index: 1000, Width: 256}, "tile/0/x001/000"},
		{merkle.Tile{Level: 0, Index: 1234, Width: 5}, "tile/0/x001/234.p/5"},
		{merkle.Tile{Level: 1, Index: 1234067, Width: 256}, "tile/1/x001/x234/067"}, // the example in tlog-tiles
		{merkle.Tile{Level: 0, Index: 1<<32 - 1, Width: 255}, "tile/0/x004/x294/x967/295.p/255"},
		{merkle.Tile{Level: 4, Index: 0, Width: 255}, "tile/4/000.p/255"},
	} {
		if got := c.tile.Path(); got != c.path {
			t.Errorf("Path of %#v = %q, want %q", c.tile, got, c.path)
		}
		if got, err := merkle.ParseTilePath(c.path); err != nil || got != c.tile {
			t.Errorf("ParseTilePath(%q) = %#v, %v, want %#v", c.path, got, err, c.tile)
		}
		if want := len(make([]byte, 32*c.tile.Width)); c.tile.ByteLen() != want {
			t.Errorf("ByteLen of %v = %d, want %d", c.tile, c.tile.ByteLen(), want)
		}
		entries := "tile/entries/" + strings.SplitN(c.path, "/", 3)[2]
		if got := merkle.EntryBundlePath(c.tile.Index, c.tile.Width); got != entries {
			t.Errorf("EntryBundlePath(%d, %d) = %q, want %q", c.tile.Index, c.tile.Width, got, entries)
		}
	}
}

func TestParseTilePathRefuses(t *testing.T) {
	for _, c := range []struct{ path, want string }{
		{"", `does not start with "tile/"`},
		{"/tile/0/000", `does not start with "tile/"`},
		{"Tile/0/000", `does not start with "tile/"`},
		{"tile/", "has no index"},
		{"tile/0", "has no index"},
		{"tile//000", "level is not a number"},
		{"tile/64/000", "level is not a number"},
		{"tile/-1/000", "level is not a number"},
		{"tile/+1/000", "level is not a number"},
		{"tile/entries/000", "level is not a number"},
		{"tile/5/000.p/1", "level 5 is above 4"},
		{"tile/63/000.p/1", "level 63 is above 4"},
		{"tile/00/000", `not the one spelling of "tile/0/000"`},
		{"tile/0/", "an index group is not three digits"},
		{"tile/0/0", "an index group is not three digits"},
		{"tile/0/0000", "an index group is not three digits"},
		{"tile/0/x00", "an index group is not three digits"},
		{"tile/0/x000", "an index group is not three digits"},
		{"tile/0/+00", "an index group is not three digits"},
		{"tile/0/0_0", "an index group is not three digits"},
		{"tile/0/x001/", "an index group is not three digits"},
		{"tile/0/001/234", "has no x"},
		{"tile/0//234", "has no x"},
		{"tile/0/../000", "has no x"},
		{"tile/0/xx01/234", "an index group is not three digits"},
		{"tile/0/x000/234", `not the one spelling of "tile/0/234"`},
		{"tile/0/x004/x294/x967/296", "beyond the largest log"},
		{"tile/0/x004/x294/x967/295", "beyond the largest log"}, // full, one entry above the limit
		{"tile/4/000", "beyond the largest log"},
		{"tile/4/001.p/1", "beyond the largest log"},
		{"tile/0/x999/x999/x999/999", "beyond the largest log"},
		{"tile/0/" + strings.Repeat("x999/", 200) + "999", "... of 1010 bytes: index is beyond the largest log"},
		{"tile/0/000.p/0", "width 0 is not in 1 to 256"},
		{"tile/0/000.p/256", "width is not a number from 1 to 255"},
		{"tile/0/000.p/-1", "width is not a number from 1 to 255"},
		{"tile/0/000.p/", "width is not a number from 1 to 255"},
		{"tile/0/000.p/1/", "width is not a number from 1 to 255"},
		{"tile/0/000.p/01", `not the one spelling of "tile/0/000.p/1"`},
		{"tile/0/000.p/1.p/1", "width is not a number from 1 to 255"},
		{"tile/0/000.p", "an index group is not three digits"},
		{"tile/0/000\x00", "an index group is not three digits"},
	} {
		tile, err := merkle.ParseTilePath(c.path)
		if tile != (merkle.Tile{}) {
			t.Errorf("ParseTilePath(%q) gives %v with its error", c.path, tile)
		}
		checkError(t, err, c.want)
	}
}

func TestParseEntryBundlePath(t *testing.T) {
	for _, c := range []struct {
		path   string
		bundle merkle.Bundle
		want   string
	}{
		{"tile/entries/000", merkle.Bundle{Index: 0, Width: 256}, ""},
		{"tile/entries/x001/234.p/5", merkle.Bundle{Index: 1234, Width: 5}, ""},
		{"tile/entries/x004/x294/x967/295.p/255", merkle.Bundle{Index: 1<<32 - 1, Width: 255}, ""},
		{"tile/0/000", merkle.Bundle{}, `does not start with "tile/entries/"`},
		{"tile/entries/", merkle.Bundle{}, "an index group is not three digits"},
		{"tile/entries/000.p/0", merkle.Bundle{}, "width 0 is not in 1 to 256"},
		{"tile/entries/x000/000", merkle.Bundle{}, `not the one spelling of "tile/entries/000"`},
		{"tile/entries/x004/x294/x967/295", merkle.Bundle{}, "beyond the largest log"},
	} {
		got, err := merkle.ParseEntryBundlePath(c.path)
		if got != c.bundle {
			t.Errorf("ParseEntryBundlePath(%q) = %v, want %v", c.path, got, c.bundle)
		}
		checkError(t, err, c.want)
	}
}

// TestPathsAsTlog compares the names with those of x/mod's tlog, which has the
// height in them in addition.
func TestPathsAsTlog(t *testing.T) {
	for tile := range merkle.NewTiles(0, 70_000) {
		want := tlog.Tile{H: 8, L: int(tile.Level), N: int64(tile.Index), W: tile.Width}.Path()
		if got := strings.Replace(tile.Path(), "tile/", "tile/8/", 1); got != want {
			t.Fatalf("Path = %q, want %q", got, want)
		}
	}
}

// TestNewTilesExample is the example in tlog-tiles, section Partial Tiles.
func TestNewTilesExample(t *testing.T) {
	type key struct {
		level uint8
		width int
	}
	got := make(map[key]int)
	for tile := range merkle.NewTiles(0, 70_000) {
		got[key{tile.Level, tile.Width}]++
	}
	want := map[key]int{{0, 256}: 273, {0, 112}: 1, {1, 256}: 1, {1, 17}: 1, {2, 1}: 1}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestNewTiles compares each growth with x/mod's tlog, and with the definition:
// the tiles of the new log that the old one doesn't have.
func TestNewTiles(t *testing.T) {
	sizes := []uint64{0, 1, 2, 255, 256, 257, 511, 512, 513, 1000, 65535, 65536, 65537, 65792, 66000, 131072, 131073}
	for _, newSize := range sizes {
		for _, oldSize := range sizes {
			got := slices.Collect(merkle.NewTiles(oldSize, newSize))
			if oldSize >= newSize {
				if len(got) > 0 {
					t.Errorf("NewTiles(%d, %d) = %v, want none", oldSize, newSize, got)
				}
				continue
			}
			var want []merkle.Tile
			for _, tile := range tlog.NewTiles(8, int64(oldSize), int64(newSize)) {
				want = append(want, merkle.Tile{Level: uint8(tile.L), Index: uint64(tile.N), Width: tile.W})
			}
			if !slices.Equal(got, want) {
				t.Errorf("NewTiles(%d, %d) = %v, want %v", oldSize, newSize, got, want)
			}
			if oldSize < 70_000 && newSize < 70_000 {
				checkNewTilesComplete(t, oldSize, newSize, got)
			}
		}
	}
}

func checkNewTilesComplete(t *testing.T, oldSize, newSize uint64, got []merkle.Tile) {
	t.Helper()
	have := make(map[merkle.Tile]bool)
	for tile := range merkle.NewTiles(0, oldSize) {
		have[tile] = true
	}
	for _, tile := range got {
		if have[tile] {
			t.Errorf("NewTiles(%d, %d) has %v, which is unchanged", oldSize, newSize, tile)
		}
		have[tile] = true
	}
	for tile := range merkle.NewTiles(0, newSize) {
		if !have[tile] {
			t.Errorf("NewTiles(%d, %d) lacks %v", oldSize, newSize, tile)
		}
	}
}

func TestBundlesFor(t *testing.T) {
	for _, c := range []struct {
		oldSize, newSize uint64
		want             []merkle.Bundle
	}{
		{0, 0, nil},
		{7, 7, nil},
		{8, 7, nil},
		{0, 1, []merkle.Bundle{{Index: 0, Width: 1}}},
		{1, 256, []merkle.Bundle{{Index: 0, Width: 256}}},
		{256, 257, []merkle.Bundle{{Index: 1, Width: 1}}},
		{255, 600, []merkle.Bundle{{Index: 0, Width: 256}, {Index: 1, Width: 256}, {Index: 2, Width: 88}}},
		{calpe.MaxLogSize - 1, calpe.MaxLogSize, []merkle.Bundle{{Index: 1<<32 - 1, Width: 255}}},
	} {
		if got := slices.Collect(merkle.BundlesFor(c.oldSize, c.newSize)); !slices.Equal(got, c.want) {
			t.Errorf("BundlesFor(%d, %d) = %v, want %v", c.oldSize, c.newSize, got, c.want)
		}
	}
}

// TestIterationEnds takes the largest numbers there are, and stops early.
func TestIterationEnds(t *testing.T) {
	if n := len(slices.Collect(merkle.NewTiles(math.MaxUint64-1, math.MaxUint64))); n != 1 {
		t.Errorf("%d tiles, want 1: the last one grows from width 254 to 255", n)
	}
	if got, want := first(merkle.NewTiles(0, math.MaxUint64)), (merkle.Tile{Width: 256}); got != want {
		t.Errorf("first tile %v, want %v", got, want)
	}
	if got, want := first(merkle.BundlesFor(300, math.MaxUint64)), (merkle.Bundle{Index: 1, Width: 256}); got != want {
		t.Errorf("first bundle %v, want %v", got, want)
	}
}

func first[T any](seq iter.Seq[T]) (v T) {
	for v = range seq {
		break
	}
	return v
}

// testEntries are the entries of a bundle, each with another commitment.
func testEntries(b merkle.Bundle) []calpe.Entry {
	entries := make([]calpe.Entry, b.Width)
	for i := range entries {
		entries[i] = calpe.Entry{Index: b.First() + uint64(i), Commitment: calpe.Commitment{byte(i), byte(b.Index)}}
	}
	return entries
}

func TestEntryBundle(t *testing.T) {
	for _, b := range []merkle.Bundle{{0, 1}, {0, 256}, {3, 17}, {1<<32 - 1, 255}} {
		entries := testEntries(b)
		data, err := merkle.EncodeEntryBundle(b, entries)
		if err != nil {
			t.Fatal(err)
		}
		if len(data) != b.ByteLen() || len(data) != 42*b.Width {
			t.Errorf("%v: %d bytes, ByteLen says %d", b, len(data), b.ByteLen())
		}
		got, err := merkle.ParseEntryBundle(b, data)
		if err != nil || !slices.Equal(got, entries) {
			t.Errorf("%v: parsed %v, %v, want %v", b, got, err, entries)
		}
	}
	data, err := merkle.EncodeEntryBundle(merkle.Bundle{Index: 1, Width: 1},
		[]calpe.Entry{{Index: 256, Commitment: calpe.Commitment{0xab}}})
	want := "\x00\x28" + "\x00\x00\x00\x00\x00\x00\x01\x00" + "\xab" + strings.Repeat("\x00", 31)
	if err != nil || string(data) != want {
		t.Errorf("bytes %q, %v, want %q", data, err, want)
	}
}

func TestEncodeEntryBundleRefuses(t *testing.T) {
	b := merkle.Bundle{Index: 2, Width: 3}
	for _, c := range []struct {
		name    string
		b       merkle.Bundle
		entries []calpe.Entry
		want    string
	}{
		{"too few", b, testEntries(b)[:2], "tile/entries/002.p/3: 2 entries, want 3"},
		{"too many", b, append(testEntries(b), calpe.Entry{}), "4 entries, want 3"},
		{"out of order", b, []calpe.Entry{{Index: 512}, {Index: 514}, {Index: 513}}, "entry 1 has index 514, want 513"},
		{"of another bundle", b, testEntries(merkle.Bundle{Index: 1, Width: 3}), "entry 0 has index 256, want 512"},
		{"no width", merkle.Bundle{Index: 2}, nil, "width 0 is not in 1 to 256"},
		{"negative width", merkle.Bundle{Width: -1}, nil, "width -1 is not in 1 to 256"},
		{"too wide", merkle.Bundle{Width: 257}, make([]calpe.Entry, 257), "width 257 is not in 1 to 256"},
		{"beyond any log", merkle.Bundle{Index: math.MaxUint64, Width: 1}, make([]calpe.Entry, 1), "beyond the largest log"},
		{"first entry beyond uint64", merkle.Bundle{Index: 1 << 56, Width: 1}, make([]calpe.Entry, 1), "beyond the largest log"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := merkle.EncodeEntryBundle(c.b, c.entries)
			checkError(t, err, c.want)
		})
	}
}

func TestParseEntryBundleRefuses(t *testing.T) {
	b := merkle.Bundle{Index: 2, Width: 3}
	good, err := merkle.EncodeEntryBundle(b, testEntries(b))
	if err != nil {
		t.Fatal(err)
	}
	changed := func(at int, value byte) []byte {
		data := slices.Clone(good)
		data[at] = value
		return data
	}
	swapped := slices.Concat(good[42:84], good[:42], good[84:])
	for _, c := range []struct {
		name string
		b    merkle.Bundle
		data []byte
		want string
	}{
		{"nothing", b, nil, "tile/entries/002.p/3 has 0 bytes, want 126"},
		{"truncated", b, good[:125], "has 125 bytes, want 126"},
		{"one byte more", b, append(slices.Clone(good), 0), "has 127 bytes, want 126"},
		{"another width", merkle.Bundle{Index: 2, Width: 2}, good, "has 126 bytes, want 84"},
		{"another bundle", merkle.Bundle{Index: 1, Width: 3}, good, "entry 0 has index 512, want 256"},
		{"length, low byte", b, changed(43, 41), "entry 1 has length 41, want 40"},
		{"length, high byte", b, changed(84, 1), "entry 2 has length 296, want 40"},
		{"length zero", b, changed(1, 0), "entry 0 has length 0, want 40"},
		{"index", b, changed(51, 9), "entry 1 has index 521, want 513"},
		{"index, highest byte", b, changed(2, 0x80), "entry 0 has index 9223372036854776320, want 512"},
		{"reordered", b, swapped, "entry 0 has index 513, want 512"},
		{"no bundle", merkle.Bundle{Index: 2}, nil, "width 0 is not in 1 to 256"},
	} {
		t.Run(c.name, func(t *testing.T) {
			entries, err := merkle.ParseEntryBundle(c.b, c.data)
			if entries != nil {
				t.Errorf("gives %v with its error", entries)
			}
			checkError(t, err, c.want)
		})
	}
}

// TestBundleMatchesTile: each entry of a bundle hashes to the hash in the tile.
func TestBundleMatchesTile(t *testing.T) {
	b := merkle.Bundle{Width: 200}
	var leaves []calpe.Hash
	for _, e := range testEntries(b) {
		entry := e.Bytes()
		leaves = append(leaves, merkle.LeafHash(entry[:]))
	}
	tile := storeOf(t, leaves).tiles[merkle.Tile{Width: 200}]
	for i, e := range testEntries(b) {
		text := binary.BigEndian.AppendUint64(nil, e.Index)
		text = append(text, e.Commitment[:]...)
		if want := tlog.RecordHash(text); calpe.Hash(tile[32*i:][:32]) != calpe.Hash(want) {
			t.Errorf("hash %d of the tile is not that of entry %d", i, i)
		}
	}
}

func FuzzParseTilePath(f *testing.F) {
	for _, seed := range []string{
		"tile/0/000", "tile/1/x001/x234/067", "tile/0/x001/234.p/5", "tile/entries/x001/234.p/5",
		"tile/4/000.p/255", "tile/0/x004/x294/x967/295.p/255", "tile/0/x000/000", "tile/00/000", "",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, path string) {
		tile, err := merkle.ParseTilePath(path)
		if err == nil && tile.Path() != path {
			t.Fatalf("ParseTilePath accepts %q, a spelling of %q", path, tile.Path())
		}
		bundle, err2 := merkle.ParseEntryBundlePath(path)
		if err2 == nil && merkle.EntryBundlePath(bundle.Index, bundle.Width) != path {
			t.Fatalf("ParseEntryBundlePath accepts %q", path)
		}
		if err == nil && err2 == nil {
			t.Fatalf("%q is a tile and a bundle", path)
		}
		if err == nil {
			checkExists(t, tile)
		}
		for _, err := range []error{err, err2} {
			if err != nil && len(err.Error()) > 1000 {
				t.Fatalf("error of %d bytes", len(err.Error()))
			}
		}
		// tlog has the height in the path as well, and no upper limit.
		rest, ok := strings.CutPrefix(path, "tile/")
		ref, err3 := tlog.ParseTilePath("tile/8/" + rest)
		if ok && err == nil && (err3 != nil || ref != (tlog.Tile{H: 8, L: int(tile.Level), N: int64(tile.Index), W: tile.Width})) {
			t.Fatalf("ParseTilePath(%q) = %v, tlog says %v, %v", path, tile, ref, err3)
		}
	})
}

// checkExists fails unless a log of some size has the tile: it must be among
// the last ones that the smallest such log needs.
func checkExists(t *testing.T, tile merkle.Tile) {
	t.Helper()
	size := (tile.Index*merkle.TileWidth + uint64(tile.Width)) << (8 * tile.Level)
	if size > calpe.MaxLogSize {
		t.Fatalf("%v is beyond the largest log", tile)
	}
	for got := range merkle.NewTiles(size-1, size) {
		if got == tile {
			return
		}
	}
	t.Fatalf("no log of size %d has %v", size, tile)
}

func FuzzParseEntryBundle(f *testing.F) {
	for _, b := range []merkle.Bundle{{0, 1}, {0, 256}, {7, 3}, {1<<32 - 1, 255}} {
		data, err := merkle.EncodeEntryBundle(b, testEntries(b))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b.Index, b.Width, data)
	}
	f.Add(uint64(0), 0, []byte{})
	f.Add(uint64(math.MaxUint64), math.MinInt, []byte{0, 40})
	f.Fuzz(func(t *testing.T, index uint64, width int, data []byte) {
		b := merkle.Bundle{Index: index, Width: width}
		entries, err := merkle.ParseEntryBundle(b, data)
		if err != nil {
			return
		}
		for i, e := range entries {
			if e.Index != index*256+uint64(i) {
				t.Fatalf("entry %d has index %d", i, e.Index)
			}
		}
		if again, err := merkle.EncodeEntryBundle(b, entries); err != nil || string(again) != string(data) {
			t.Fatalf("encodes to %x, %v, was %x", again, err, data)
		}
	})
}
