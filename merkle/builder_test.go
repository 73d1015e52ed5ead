package merkle_test

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
)

// TestBuilderGrowth goes from every old to every new size around the borders of
// tiles: root and tiles are those of the definition, and exactly those that
// NewTiles lists.
func TestBuilderGrowth(t *testing.T) {
	sizes := []int{0, 1, 2, 3, 100, 255, 256, 257, 300, 511, 512, 513, 769}
	all := testLeaves(sizes[len(sizes)-1])
	for _, oldSize := range sizes {
		s := storeOf(t, all[:oldSize])
		for _, newSize := range sizes {
			if newSize < oldSize {
				continue
			}
			b := grow(t, s, uint64(oldSize), refRoot(all[:oldSize]), all[oldSize:newSize])
			checkBuilder(t, b, uint64(oldSize), all[:newSize])
		}
	}
}

// checkBuilder checks everything a Builder says of a log of the leaves that it
// took over at oldSize.
func checkBuilder(t testing.TB, b *merkle.Builder, oldSize uint64, leaves []calpe.Hash) {
	t.Helper()
	size := uint64(len(leaves))
	if b.Size() != size {
		t.Fatalf("Size = %d, want %d", b.Size(), size)
	}
	if got, want := b.Root(), refRoot(leaves); got != want {
		t.Fatalf("Root from %d to %d = %v, want %v", oldSize, size, got, want)
	}
	var names []merkle.Tile
	for _, tile := range b.Tiles() {
		names = append(names, tile.Tile)
		if !bytes.Equal(tile.Data, refTile(t, tile.Tile, leaves)) {
			t.Fatalf("from %d to %d: bytes of %v are wrong", oldSize, size, tile)
		}
	}
	if want := slices.Collect(merkle.NewTiles(oldSize, size)); !slices.Equal(names, want) {
		t.Fatalf("Tiles from %d to %d = %v, want %v", oldSize, size, names, want)
	}
}

// TestBuilderInSteps appends in pieces of many lengths, and looks in between.
func TestBuilderInSteps(t *testing.T) {
	all := testLeaves(1500)
	b, err := merkle.LoadEdge(0, merkle.EmptyRoot(), nil)
	if err != nil {
		t.Fatal(err)
	}
	checkBuilder(t, b, 0, nil)
	size, step := 0, 0
	for ; size < len(all); step = (step*3 + 1) % 401 {
		n := min(step, len(all)-size)
		if err := b.Append(all[size : size+n]); err != nil {
			t.Fatal(err)
		}
		size += n
		checkBuilder(t, b, 0, all[:size])
	}
}

func TestTilesStayAsTheyAre(t *testing.T) {
	all := testLeaves(700)
	b, err := merkle.LoadEdge(0, merkle.EmptyRoot(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Append(all[:300]); err != nil {
		t.Fatal(err)
	}
	early := b.Tiles()
	before := make([][]byte, len(early))
	for i, tile := range early {
		before[i] = bytes.Clone(tile.Data)
		if cap(tile.Data) != len(tile.Data) {
			t.Errorf("%v: appending to its bytes would write into the Builder", tile)
		}
	}
	if err := b.Append(all[300:]); err != nil {
		t.Fatal(err)
	}
	for i, tile := range early {
		if !bytes.Equal(tile.Data, before[i]) {
			t.Errorf("%v changed", tile)
		}
	}
}

// TestLoadEdgeKeepsNoSlice: what the source gave may be used again.
func TestLoadEdgeKeepsNoSlice(t *testing.T) {
	all := testLeaves(400)
	s := storeOf(t, all[:300])
	var given [][]byte
	b, err := merkle.LoadEdge(300, refRoot(all[:300]), func(tiles []merkle.Tile) ([][]byte, error) {
		data, err := s.source(300)(tiles)
		for i := range data {
			data[i] = bytes.Clone(data[i])
		}
		given = data
		return data, err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range given {
		clear(d)
	}
	if err := b.Append(all[300:]); err != nil {
		t.Fatal(err)
	}
	checkBuilder(t, b, 300, all)
}

func TestLoadEdgeRefusesOtherRoot(t *testing.T) {
	all := testLeaves(600)
	s := storeOf(t, all)
	root := refRoot(all)
	if _, err := merkle.LoadEdge(600, flip(root, 77), s.source(600)); !errors.Is(err, merkle.ErrRootMismatch) {
		t.Errorf("another root: %v", err)
	}
	for tile := range s.tiles {
		if tile.Width == merkle.TileWidth {
			continue
		}
		good := s.tiles[tile]
		bad := bytes.Clone(good)
		bad[len(bad)/2] ^= 4
		s.tiles[tile] = bad
		if _, err := merkle.LoadEdge(600, root, s.source(600)); !errors.Is(err, merkle.ErrRootMismatch) {
			t.Errorf("a bit of %v flipped: %v", tile, err)
		}
		s.tiles[tile] = good
	}
	if _, err := merkle.LoadEdge(600, root, s.source(600)); err != nil {
		t.Errorf("healed: %v", err)
	}
	if _, err := merkle.LoadEdge(0, root, nil); !errors.Is(err, merkle.ErrRootMismatch) {
		t.Errorf("empty log with a root: %v", err)
	}
}

// zeros gives tiles of zero bytes for a log of any size.
func zeros(tiles []merkle.Tile) ([][]byte, error) {
	data := make([][]byte, len(tiles))
	for i, tile := range tiles {
		data[i] = make([]byte, tile.ByteLen())
	}
	return data, nil
}

// TestLargestLog stands at the end of the largest log there can be. Its hashes
// are zeros; sizes, shapes and limits are what is tested.
func TestLargestLog(t *testing.T) {
	const size = calpe.MaxLogSize - 2
	root, err := merkle.RootFromTiles(size, zeros)
	if err != nil {
		t.Fatal(err)
	}
	b, err := merkle.LoadEdge(size, root, zeros)
	if err != nil {
		t.Fatal(err)
	}
	checkError(t, b.Append(make([]calpe.Hash, 3)), "append 3 leaves to a log of size 1099511627773: there is room for 2")
	if b.Size() != size || b.Root() != root || b.Tiles() != nil {
		t.Error("a refused Append changed something")
	}
	if err := b.Append(make([]calpe.Hash, 2)); err != nil {
		t.Fatal(err)
	}
	want := []merkle.Tile{{Level: 0, Index: 1<<32 - 1, Width: 255}}
	if tiles := b.Tiles(); len(tiles) != 1 || tiles[0].Tile != want[0] {
		t.Errorf("Tiles = %v, want %v", tiles, want)
	}
	if got, err := merkle.RootFromTiles(calpe.MaxLogSize, zeros); err != nil || got != b.Root() {
		t.Errorf("RootFromTiles = %v, %v, want %v", got, err, b.Root())
	}
	path, err := merkle.InclusionProof(0, calpe.MaxLogSize, zeros)
	if err != nil || len(path) != 40 {
		t.Errorf("InclusionProof has %d hashes, %v, want 40", len(path), err)
	}
	path, err = merkle.ConsistencyProof(size, calpe.MaxLogSize, zeros)
	if err != nil {
		t.Fatal(err)
	}
	if err := merkle.VerifyConsistency(size, calpe.MaxLogSize, root, b.Root(), path); err != nil {
		t.Error(err)
	}
}

// TestWrongSources: whatever a source gives back, each computation that needs
// tiles refuses it and says what was wrong.
func TestWrongSources(t *testing.T) {
	all := testLeaves(300)
	s := storeOf(t, all)
	root := refRoot(all)
	lost := errors.New("connection lost")
	change := func(f func([][]byte) [][]byte) merkle.TileSource {
		return func(tiles []merkle.Tile) ([][]byte, error) {
			data, err := s.source(300)(tiles)
			return f(data), err
		}
	}
	for _, c := range []struct {
		name string
		src  merkle.TileSource
		want string
	}{
		{"fails", func([]merkle.Tile) ([][]byte, error) { return nil, lost }, "read tiles: connection lost"},
		{"gives nothing", func([]merkle.Tile) ([][]byte, error) { return nil, nil }, "source gave 0 tiles, want "},
		{"one too few", change(func(d [][]byte) [][]byte { return d[1:] }), "read tiles: source gave "},
		{"one too many", change(func(d [][]byte) [][]byte { return append(d, nil) }), "read tiles: source gave "},
		{"truncated", change(func(d [][]byte) [][]byte { d[0] = d[0][1:]; return d }), " bytes, want "},
		{"too long", change(func(d [][]byte) [][]byte { d[0] = append(bytes.Clone(d[0]), 0); return d }), " bytes, want "},
		{"empty", change(func(d [][]byte) [][]byte { d[0] = nil; return d }), " has 0 bytes, want "},
		{"full for partial", change(func(d [][]byte) [][]byte { d[0] = make([]byte, 9000); return d }), " has 9000 bytes, want "},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := merkle.LoadEdge(300, root, c.src)
			checkError(t, err, c.want)
			_, err = merkle.RootFromTiles(300, c.src)
			checkError(t, err, c.want)
			_, err = merkle.InclusionProof(10, 300, c.src)
			checkError(t, err, c.want)
			_, err = merkle.ConsistencyProof(100, 300, c.src)
			checkError(t, err, c.want)
			if c.name == "fails" && !errors.Is(err, lost) {
				t.Error("the error of the source is not in the chain")
			}
		})
	}
}

func TestWrongTileIsNamed(t *testing.T) {
	_, err := merkle.InclusionProof(10, 300, func(tiles []merkle.Tile) ([][]byte, error) {
		data, err := zeros(tiles)
		data[1] = nil
		return data, err
	})
	checkError(t, err, "inclusion proof of index 10 in size 300: tile/0/001.p/44 has 0 bytes, want 1408")
}

// TestSizesAreChecked: no source is asked for anything about impossible sizes.
func TestSizesAreChecked(t *testing.T) {
	asked := func([]merkle.Tile) ([][]byte, error) {
		t.Error("the source was asked")
		return nil, nil
	}
	const over = calpe.MaxLogSize + 1
	_, err := merkle.RootFromTiles(over, asked)
	checkError(t, err, "log size 1099511627776 is above 1099511627775")
	_, err = merkle.LoadEdge(over, calpe.Hash{}, asked)
	checkError(t, err, "log size 1099511627776 is above 1099511627775")
	_, err = merkle.InclusionProof(0, over, asked)
	checkError(t, err, "log size 1099511627776 is above 1099511627775")
	_, err = merkle.InclusionProof(7, 7, asked)
	checkError(t, err, "index 7 is not below size 7")
	_, err = merkle.InclusionProof(0, 0, asked)
	checkError(t, err, "index 0 is not below size 0")
	_, err = merkle.ConsistencyProof(1, over, asked)
	checkError(t, err, "log size 1099511627776 is above 1099511627775")
	_, err = merkle.ConsistencyProof(9, 8, asked)
	checkError(t, err, "old size 9 is above new size 8")
}

// TestNothingToAsk: what follows from no tile asks for none.
func TestNothingToAsk(t *testing.T) {
	if root, err := merkle.RootFromTiles(0, nil); err != nil || root != merkle.EmptyRoot() {
		t.Errorf("RootFromTiles(0) = %v, %v", root, err)
	}
	if path, err := merkle.InclusionProof(0, 1, nil); err != nil || len(path) != 0 {
		t.Errorf("InclusionProof(0, 1) = %v, %v", path, err)
	}
	for _, size := range []uint64{0, 1, 300} {
		if path, err := merkle.ConsistencyProof(0, size, nil); err != nil || len(path) != 0 {
			t.Errorf("ConsistencyProof(0, %d) = %v, %v", size, path, err)
		}
		if path, err := merkle.ConsistencyProof(size, size, nil); err != nil || len(path) != 0 {
			t.Errorf("ConsistencyProof(%d, %d) = %v, %v", size, size, path, err)
		}
	}
}

// FuzzBuilderAgainstReference lets a log grow in the steps the fuzzer chooses,
// stored and loaded again between them or not.
func FuzzBuilderAgainstReference(f *testing.F) {
	f.Add([]byte{0, 1, 2, 255, 254, 253, 0, 128})
	f.Add(bytes.Repeat([]byte{128}, 6))
	f.Add([]byte{})
	const maxSteps = 8
	all := testLeaves(maxSteps * 2 * 255)
	f.Fuzz(func(t *testing.T, steps []byte) {
		s := newStore(t)
		b := grow(t, s, 0, merkle.EmptyRoot(), nil)
		var start, size uint64
		for _, step := range steps[:min(len(steps), maxSteps)] {
			n := uint64(step) * 2 // an even step is appended, an odd one after storing and loading
			if step%2 == 1 {
				s.put(b.Tiles())
				b, start = grow(t, s, size, b.Root(), nil), size
			}
			if err := b.Append(all[size : size+n]); err != nil {
				t.Fatal(err)
			}
			size += n
		}
		checkBuilder(t, b, start, all[:size])
		s.put(b.Tiles())
		if got, err := merkle.RootFromTiles(size, s.source(size)); err != nil || got != b.Root() {
			t.Fatalf("RootFromTiles(%d) = %v, %v, want %v", size, got, err, b.Root())
		}
	})
}

// The benchmarks of appending report ns/leaf; compare them in one run.
const benchLeaves = 1 << 18

func BenchmarkBuilderAppend(b *testing.B) {
	leaves := testLeaves(benchLeaves)
	b.ReportAllocs()
	for b.Loop() {
		builder, err := merkle.LoadEdge(0, merkle.EmptyRoot(), nil)
		if err != nil {
			b.Fatal(err)
		}
		if err := builder.Append(leaves); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchLeaves, "ns/leaf")
}

func BenchmarkTlogStoredHashes(b *testing.B) {
	leaves := testLeaves(benchLeaves)
	b.ReportAllocs()
	for b.Loop() {
		newTlog(b, leaves)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/benchLeaves, "ns/leaf")
}

func BenchmarkLeafHash(b *testing.B) {
	entry := make([]byte, calpe.EntrySize)
	for b.Loop() {
		merkle.LeafHash(entry)
	}
}

func BenchmarkVerifyInclusion(b *testing.B) {
	const size, index = 1 << 20, 123_456
	rnd := rand.New(rand.NewPCG(3, 4))
	path := make([]calpe.Hash, 20)
	for i := range path {
		path[i][0] = byte(rnd.Uint32())
	}
	root, err := merkle.RootFromInclusion(index, size, calpe.Hash{}, path)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("calpe", func(b *testing.B) {
		for b.Loop() {
			if err := merkle.VerifyInclusion(index, size, calpe.Hash{}, path, root); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("tlog", func(b *testing.B) {
		proof := tlog.RecordProof(toTlog(path))
		for b.Loop() {
			if err := tlog.CheckRecord(proof, size, tlog.Hash(root), index, tlog.Hash{}); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkInclusionProof(b *testing.B) {
	const size = 1<<24 + 12_345
	b.ReportAllocs()
	for b.Loop() {
		if _, err := merkle.InclusionProof(123_456, size, zeros); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkTree1000 is what a group commit of 1000 entries costs: the tree and
// the path of every entry.
func BenchmarkTree1000(b *testing.B) {
	leaves := testLeaves(1000)
	b.ReportAllocs()
	for b.Loop() {
		tree := merkle.NewTree(leaves)
		for i := range uint64(1000) {
			if _, err := tree.InclusionPath(i); err != nil {
				b.Fatal(err)
			}
		}
	}
}
