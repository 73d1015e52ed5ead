package merkle_test

import (
	"encoding/hex"
	"encoding/json"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
)

type vectors struct {
	Source    string
	Entries   []string
	Roots     []calpe.Hash
	Inclusion []struct {
		Index, Size uint64
		Path        []calpe.Hash
	}
	Consistency []struct {
		Old, New uint64
		Path     []calpe.Hash
	}
}

// readVectors gives the vectors, and the leaf hashes of their entries.
func readVectors(t *testing.T) (vectors, []calpe.Hash) {
	t.Helper()
	text, err := os.ReadFile("testdata/rfc6962.json")
	if err != nil {
		t.Fatal(err)
	}
	var v vectors
	if err := json.Unmarshal(text, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Entries) != 8 || len(v.Roots) != 9 || len(v.Inclusion) != 5 || len(v.Consistency) != 4 {
		t.Fatalf("vectors are not complete: %+v", v)
	}
	var leaves []calpe.Hash
	for _, e := range v.Entries {
		b, err := hex.DecodeString(e)
		if err != nil {
			t.Fatal(err)
		}
		leaves = append(leaves, merkle.LeafHash(b))
	}
	return v, leaves
}

func TestVectors(t *testing.T) {
	v, leaves := readVectors(t)
	for n, want := range v.Roots {
		if got := merkle.Root(leaves[:n]); got != want {
			t.Errorf("Root of %d leaves = %v, want %v", n, got, want)
		}
		if got := merkle.NewTree(leaves[:n]).Root(); got != want {
			t.Errorf("Tree.Root of %d leaves = %v, want %v", n, got, want)
		}
		if got, err := merkle.RootFromTiles(uint64(n), storeOf(t, leaves[:n]).source(uint64(n))); err != nil || got != want {
			t.Errorf("RootFromTiles of size %d = %v, %v, want %v", n, got, err, want)
		}
	}
	for _, p := range v.Inclusion {
		got, err := merkle.InclusionProof(p.Index, p.Size, storeOf(t, leaves[:p.Size]).source(p.Size))
		if err != nil || !slices.Equal(got, p.Path) {
			t.Errorf("InclusionProof(%d, %d) = %v, %v, want %v", p.Index, p.Size, got, err, p.Path)
		}
		if err := merkle.VerifyInclusion(p.Index, p.Size, leaves[p.Index], p.Path, v.Roots[p.Size]); err != nil {
			t.Error(err)
		}
	}
	for _, p := range v.Consistency {
		got, err := merkle.ConsistencyProof(p.Old, p.New, storeOf(t, leaves[:p.New]).source(p.New))
		if err != nil || !slices.Equal(got, p.Path) {
			t.Errorf("ConsistencyProof(%d, %d) = %v, %v, want %v", p.Old, p.New, got, err, p.Path)
		}
		if err := merkle.VerifyConsistency(p.Old, p.New, v.Roots[p.Old], v.Roots[p.New], p.Path); err != nil {
			t.Error(err)
		}
	}
}

func TestHashes(t *testing.T) {
	// printf '' | sha256sum, and of \x00, and of \x01 and 64 zero bytes.
	if got, want := merkle.EmptyRoot().String(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"; got != want {
		t.Errorf("EmptyRoot = %s, want %s", got, want)
	}
	if got, want := merkle.LeafHash(nil).String(), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"; got != want {
		t.Errorf("LeafHash of nothing = %s, want %s", got, want)
	}
	for _, n := range []int{0, 1, 39, 40, 41, 64, 1000} {
		entry := make([]byte, n)
		if got, want := merkle.LeafHash(entry), calpe.Hash(tlog.RecordHash(entry)); got != want {
			t.Errorf("LeafHash of %d bytes = %v, want %v", n, got, want)
		}
	}
	l, r := calpe.Hash{1}, calpe.Hash{2}
	if got, want := merkle.NodeHash(l, r), calpe.Hash(tlog.NodeHash(tlog.Hash(l), tlog.Hash(r))); got != want {
		t.Errorf("NodeHash = %v, want %v", got, want)
	}
	if merkle.NodeHash(l, r) == merkle.NodeHash(r, l) {
		t.Error("NodeHash doesn't depend on the order")
	}
}

func TestRootKeepsItsArgument(t *testing.T) {
	leaves := testLeaves(77)
	before := slices.Clone(leaves)
	merkle.Root(leaves)
	merkle.NewTree(leaves)
	if !slices.Equal(before, leaves) {
		t.Error("the leaves were changed")
	}
	tree := merkle.NewTree(leaves)
	root := tree.Root()
	leaves[3] = calpe.Hash{}
	if tree.Root() != root || root != merkle.Root(before) {
		t.Error("Tree shares memory with the leaves it was made from")
	}
}

// TestAllSizes compares every root and every proof of every size with the
// reference and with x/mod's tlog, in memory and from tiles.
func TestAllSizes(t *testing.T) {
	const most = 300
	all := testLeaves(most)
	ref := newTlog(t, all)
	for n := 1; n <= most; n++ {
		leaves, size := all[:n], uint64(n)
		src := storeOf(t, leaves).source(size)
		root := refRoot(leaves)
		if th, err := tlog.TreeHash(int64(n), ref); err != nil || calpe.Hash(th) != root {
			t.Fatalf("size %d: tlog and the reference disagree, %v", n, err)
		}
		if got := merkle.Root(leaves); got != root {
			t.Fatalf("Root of %d leaves = %v, want %v", n, got, root)
		}
		if got, err := merkle.RootFromTiles(size, src); err != nil || got != root {
			t.Fatalf("RootFromTiles(%d) = %v, %v, want %v", n, got, err, root)
		}
		checkInclusion(t, leaves, root, ref, src)
		checkConsistency(t, leaves, root, ref, src)
	}
}

// checkInclusion checks the proof of each index; beyond 130 of every 7th only.
func checkInclusion(t *testing.T, leaves []calpe.Hash, root calpe.Hash, ref tlogReader, src merkle.TileSource) {
	t.Helper()
	size := uint64(len(leaves))
	tree := merkle.NewTree(leaves)
	if tree.Root() != root {
		t.Fatalf("Tree.Root of %d leaves = %v, want %v", size, tree.Root(), root)
	}
	for index := uint64(0); index < size; index += 1 + 6*(size/131) {
		want, err := tlog.ProveRecord(int64(size), int64(index), ref)
		if err != nil {
			t.Fatal(err)
		}
		got, err := merkle.InclusionProof(index, size, src)
		if err != nil || !slices.Equal(got, fromTlog(want)) {
			t.Fatalf("InclusionProof(%d, %d) = %v, %v, want %v", index, size, got, err, want)
		}
		if path, err := tree.InclusionPath(index); err != nil || !slices.Equal(path, got) {
			t.Fatalf("Tree.InclusionPath(%d) of %d = %v, %v, want %v", index, size, path, err, got)
		}
		if err := merkle.VerifyInclusion(index, size, leaves[index], got, root); err != nil {
			t.Fatal(err)
		}
	}
}

func checkConsistency(t *testing.T, leaves []calpe.Hash, root calpe.Hash, ref tlogReader, src merkle.TileSource) {
	t.Helper()
	size := uint64(len(leaves))
	for old := uint64(1); old <= size; old += 1 + 6*(size/131) {
		want, err := tlog.ProveTree(int64(size), int64(old), ref)
		if err != nil {
			t.Fatal(err)
		}
		got, err := merkle.ConsistencyProof(old, size, src)
		if err != nil || !slices.Equal(got, fromTlog(want)) {
			t.Fatalf("ConsistencyProof(%d, %d) = %v, %v, want %v", old, size, got, err, want)
		}
		if err := merkle.VerifyConsistency(old, size, merkle.Root(leaves[:old]), root, got); err != nil {
			t.Fatal(err)
		}
	}
}

// TestReferenceAgrees holds the recursive definition against the tiles as well,
// so that not everything rests on tlog.
func TestReferenceAgrees(t *testing.T) {
	for _, n := range []int{1, 2, 3, 5, 8, 31, 33, 130, 256, 257, 600} {
		leaves := testLeaves(n)
		src := storeOf(t, leaves).source(uint64(n))
		for index := 0; index < n; index += 1 + n/40 {
			got, err := merkle.InclusionProof(uint64(index), uint64(n), src)
			if want := refPath(index, leaves); err != nil || !slices.Equal(got, want) {
				t.Errorf("InclusionProof(%d, %d) = %v, %v, want %v", index, n, got, err, want)
			}
			if path, err := merkle.InclusionPath(leaves, uint64(index)); err != nil || !slices.Equal(path, got) {
				t.Errorf("InclusionPath(%d) of %d = %v, %v, want %v", index, n, path, err, got)
			}
			if index == 0 {
				continue
			}
			got, err = merkle.ConsistencyProof(uint64(index), uint64(n), src)
			if want := refProof(index, leaves); err != nil || !slices.Equal(got, want) {
				t.Errorf("ConsistencyProof(%d, %d) = %v, %v, want %v", index, n, got, err, want)
			}
		}
	}
}

// TestLargeSizes takes random sizes of up to three tile levels.
func TestLargeSizes(t *testing.T) {
	const most = 1<<17 + 300
	all := testLeaves(most)
	ref := newTlog(t, all)
	rnd := rand.New(rand.NewPCG(1, 2))
	sizes := []int{1 << 16, 1<<16 + 1, 1<<16 - 1, 1 << 17, 1<<16 + 256, most}
	for range 6 {
		sizes = append(sizes, 1000+rnd.IntN(most-1000))
	}
	s := newStore(t)
	slices.Sort(sizes)
	var size uint64
	root := merkle.EmptyRoot()
	for _, n := range sizes { // one log that grows, so that the edge is loaded at each size
		b := grow(t, s, size, root, all[size:n])
		s.put(b.Tiles())
		old := size
		size, root = b.Size(), b.Root()
		if th, err := tlog.TreeHash(int64(n), ref); err != nil || calpe.Hash(th) != root || root != merkle.Root(all[:n]) {
			t.Fatalf("root of size %d = %v, %v, want %v", n, root, err, th)
		}
		src := s.source(size)
		if got, err := merkle.RootFromTiles(size, src); err != nil || got != root {
			t.Fatalf("RootFromTiles(%d) = %v, %v, want %v", n, got, err, root)
		}
		checkRandomProofs(t, rnd, all[:n], root, ref, src)
		path, err := merkle.ConsistencyProof(old, size, src)
		if err != nil {
			t.Fatal(err)
		}
		if err := merkle.VerifyConsistency(old, size, merkle.Root(all[:old]), root, path); err != nil {
			t.Fatal(err)
		}
	}
}

func checkRandomProofs(t *testing.T, rnd *rand.Rand, leaves []calpe.Hash, root calpe.Hash, ref tlogReader, src merkle.TileSource) {
	t.Helper()
	size := uint64(len(leaves))
	for _, index := range []uint64{0, 255, 256, rnd.Uint64N(size), rnd.Uint64N(size), size - 1} {
		got, err := merkle.InclusionProof(index, size, src)
		if err != nil {
			t.Fatal(err)
		}
		if err := merkle.VerifyInclusion(index, size, leaves[index], got, root); err != nil {
			t.Fatal(err)
		}
		if err := tlog.CheckRecord(toTlog(got), int64(size), tlog.Hash(root), int64(index), tlog.Hash(leaves[index])); err != nil {
			t.Fatal(err)
		}
		got, err = merkle.ConsistencyProof(index+1, size, src)
		if err != nil {
			t.Fatal(err)
		}
		want, err := tlog.ProveTree(int64(size), int64(index+1), ref)
		if err != nil || !slices.Equal(got, fromTlog(want)) {
			t.Fatalf("ConsistencyProof(%d, %d) = %v, want %v, %v", index+1, size, got, want, err)
		}
	}
}
