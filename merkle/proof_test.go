package merkle_test

import (
	"errors"
	"math"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
)

// flip gives h with one bit changed; bit counts through the whole hash.
func flip(h calpe.Hash, bit int) calpe.Hash {
	bit %= 8 * calpe.HashSize
	h[bit/8] ^= 1 << (bit % 8)
	return h
}

// mutants are all paths that differ from path in one bit, of which every
// stride-th bit is taken, or in length.
func mutants(path []calpe.Hash, stride int) [][]calpe.Hash {
	var out [][]calpe.Hash
	for i := range path {
		for bit := 0; bit < 8*calpe.HashSize; bit += stride {
			m := slices.Clone(path)
			m[i] = flip(m[i], bit+i)
			out = append(out, m)
		}
		out = append(out, slices.Delete(slices.Clone(path), i, i+1))
	}
	for i := range len(path) - 1 {
		m := slices.Clone(path)
		m[i], m[i+1] = m[i+1], m[i]
		out = append(out, m)
	}
	return append(out,
		append(slices.Clone(path), calpe.Hash{}),
		append([]calpe.Hash{{}}, path...),
		make([]calpe.Hash, 65))
}

// TestInclusionRefusesOtherProofs goes through all (index, size) up to 130: the
// proof verifies, and no proof that differs in anything does.
func TestInclusionRefusesOtherProofs(t *testing.T) {
	const most = 130
	all := testLeaves(most + 1)
	for size := uint64(1); size <= most; size++ {
		tree := merkle.NewTree(all[:size])
		root := tree.Root()
		for index := range size {
			path, err := tree.InclusionPath(index)
			if err != nil {
				t.Fatal(err)
			}
			if err := merkle.VerifyInclusion(index, size, all[index], path, root); err != nil {
				t.Fatal(err)
			}
			refuseInclusion(t, index, size, all, path, root)
		}
	}
}

func refuseInclusion(t *testing.T, index, size uint64, all, path []calpe.Hash, root calpe.Hash) {
	t.Helper()
	leaf := all[index]
	stride := 8 * calpe.HashSize // every bit of every hash for small trees, one bit for the others
	if size <= 17 {
		stride = 1
	}
	for bit := 0; bit < 8*calpe.HashSize; bit += stride {
		if err := merkle.VerifyInclusion(index, size, flip(leaf, bit), path, root); !errors.Is(err, merkle.ErrRootMismatch) {
			t.Fatalf("(%d, %d) with a bit of the leaf flipped: %v", index, size, err)
		}
		if err := merkle.VerifyInclusion(index, size, leaf, path, flip(root, bit)); !errors.Is(err, merkle.ErrRootMismatch) {
			t.Fatalf("(%d, %d) with a bit of the root flipped: %v", index, size, err)
		}
	}
	for _, m := range mutants(path, stride) {
		if merkle.VerifyInclusion(index, size, leaf, m, root) == nil {
			t.Fatalf("(%d, %d) accepts path %v, the right one is %v", index, size, m, path)
		}
	}
	for other := range size + 2 {
		if other != index && merkle.VerifyInclusion(other, size, leaf, path, root) == nil {
			t.Fatalf("(%d, %d) accepted at index %d", index, size, other)
		}
	}
}

// TestInclusionDoesNotBindSize shows why a root is never trusted without its
// size: a path can fit a log of another size with the same root. The payload of
// an anchor has both (docs/formats.md).
func TestInclusionDoesNotBindSize(t *testing.T) {
	leaves := testLeaves(8)
	tree := merkle.NewTree(leaves)
	path, err := tree.InclusionPath(0)
	if err != nil {
		t.Fatal(err)
	}
	for size := uint64(5); size <= 8; size++ {
		if err := merkle.VerifyInclusion(0, size, leaves[0], path, tree.Root()); err != nil {
			t.Errorf("size %d: %v", size, err)
		}
	}
	if merkle.VerifyInclusion(0, 9, leaves[0], path, tree.Root()) == nil {
		t.Error("size 9 is accepted, though its paths are longer")
	}
}

// TestConsistencyRefusesOtherProofs does for consistency what
// TestInclusionRefusesOtherProofs does for inclusion.
func TestConsistencyRefusesOtherProofs(t *testing.T) {
	const most = 130
	all := testLeaves(most)
	ref := newTlog(t, all)
	roots := make([]calpe.Hash, most+1)
	for size := range roots {
		roots[size] = merkle.Root(all[:size])
	}
	for newSize := 1; newSize <= most; newSize++ {
		for oldSize := 1; oldSize <= newSize; oldSize++ {
			proof, err := tlog.ProveTree(int64(newSize), int64(oldSize), ref)
			if err != nil {
				t.Fatal(err)
			}
			refuseConsistency(t, uint64(oldSize), uint64(newSize), roots, fromTlog(proof))
		}
	}
}

func refuseConsistency(t *testing.T, oldSize, newSize uint64, roots, path []calpe.Hash) {
	t.Helper()
	oldRoot, newRoot := roots[oldSize], roots[newSize]
	if err := merkle.VerifyConsistency(oldSize, newSize, oldRoot, newRoot, path); err != nil {
		t.Fatal(err)
	}
	stride := 8 * calpe.HashSize
	if newSize <= 17 {
		stride = 1
	}
	for bit := 0; bit < 8*calpe.HashSize; bit += stride {
		if err := merkle.VerifyConsistency(oldSize, newSize, flip(oldRoot, bit), newRoot, path); !errors.Is(err, merkle.ErrRootMismatch) {
			t.Fatalf("(%d, %d) with a bit of the old root flipped: %v", oldSize, newSize, err)
		}
		if err := merkle.VerifyConsistency(oldSize, newSize, oldRoot, flip(newRoot, bit), path); !errors.Is(err, merkle.ErrRootMismatch) {
			t.Fatalf("(%d, %d) with a bit of the new root flipped: %v", oldSize, newSize, err)
		}
	}
	for _, m := range mutants(path, stride) {
		if merkle.VerifyConsistency(oldSize, newSize, oldRoot, newRoot, m) == nil {
			t.Fatalf("(%d, %d) accepts path %v, the right one is %v", oldSize, newSize, m, path)
		}
	}
	for other := range uint64(len(roots)) {
		if other != oldSize && merkle.VerifyConsistency(other, newSize, oldRoot, newRoot, path) == nil {
			t.Fatalf("(%d, %d) accepted from size %d", oldSize, newSize, other)
		}
	}
	if merkle.VerifyConsistency(oldSize, newSize, oldRoot, roots[newSize-1], path) == nil {
		t.Fatalf("(%d, %d) accepted with the new root of one entry less", oldSize, newSize)
	}
}

func TestVerifyConsistencyEdges(t *testing.T) {
	empty, root := merkle.EmptyRoot(), merkle.Root(testLeaves(5))
	for _, c := range []struct {
		name             string
		oldSize, newSize uint64
		oldRoot, newRoot calpe.Hash
		path             []calpe.Hash
		want             string // part of the error; "" for none
	}{
		{"empty to empty", 0, 0, empty, empty, nil, ""},
		{"empty to some", 0, 5, empty, root, nil, ""},
		{"same", 5, 5, root, root, nil, ""},
		{"same size, other root", 5, 5, root, empty, nil, "root of new size 5"},
		{"empty to empty, other new root", 0, 0, empty, root, nil, "root of new size 0"},
		{"empty with another root", 0, 5, root, root, nil, "root of size 0"},
		{"empty with a path", 0, 5, empty, root, []calpe.Hash{{}}, "path has 1 hashes, want 0"},
		{"same with a path", 5, 5, root, root, []calpe.Hash{{}}, "path has 1 hashes, want 0"},
		{"shrinks", 5, 4, root, root, nil, "old size 5 is above new size 4"},
		{"too large", 5, calpe.MaxLogSize + 1, root, root, nil, "is above 1099511627775"},
		{"as large as a number", 1, math.MaxUint64, root, root, make([]calpe.Hash, 64), "is above 1099511627775"},
		{"no path", 3, 5, root, root, nil, "path has 0 hashes, want 4"},
	} {
		t.Run(c.name, func(t *testing.T) {
			checkError(t, merkle.VerifyConsistency(c.oldSize, c.newSize, c.oldRoot, c.newRoot, c.path), c.want)
		})
	}
}

func TestVerifyInclusionEdges(t *testing.T) {
	leaf := testLeaves(1)[0]
	long := make([]calpe.Hash, 40)
	root, err := merkle.RootFromInclusion(0, calpe.MaxLogSize, leaf, long)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name        string
		index, size uint64
		path        []calpe.Hash
		root        calpe.Hash
		want        string
	}{
		{"one entry", 0, 1, nil, leaf, ""},
		{"one entry, other root", 0, 1, nil, calpe.Hash{}, "root does not match"},
		{"the largest log", 0, calpe.MaxLogSize, long, root, ""},
		{"empty log", 0, 0, nil, leaf, "index 0 is not below size 0"},
		{"index is size", 1, 1, nil, leaf, "index 1 is not below size 1"},
		{"huge index", math.MaxUint64, 1, nil, leaf, "is not below size 1"},
		{"too large", 0, calpe.MaxLogSize + 1, long, root, "is above 1099511627775"},
		{"as large as a number", 0, math.MaxUint64, make([]calpe.Hash, 64), root, "is above 1099511627775"},
		{"last of the largest log", calpe.MaxLogSize - 1, calpe.MaxLogSize, long, root, "path has 40 hashes, want 39"},
		{"a path beyond any log", 0, 8, make([]calpe.Hash, 1<<16), root, "path has 65536 hashes, want 3"},
	} {
		t.Run(c.name, func(t *testing.T) {
			checkError(t, merkle.VerifyInclusion(c.index, c.size, leaf, c.path, c.root), c.want)
		})
	}
}

// checkError wants an error with that text in it, or none if want is empty.
func checkError(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("error %q, want none", err)
	case want != "" && err == nil:
		t.Errorf("no error, want %q", want)
	case want != "" && !strings.Contains(err.Error(), want):
		t.Errorf("error %q, want %q in it", err, want)
	}
}

func TestInclusionPathOutsideTheTree(t *testing.T) {
	_, err := merkle.InclusionPath(testLeaves(3), 3)
	checkError(t, err, "index 3 is not below size 3")
	_, err = merkle.InclusionPath(nil, 0)
	checkError(t, err, "index 0 is not below size 0")
}

func TestVerifyAllocatesNothing(t *testing.T) {
	leaves := testLeaves(1000)
	tree := merkle.NewTree(leaves)
	path, err := tree.InclusionPath(567)
	if err != nil {
		t.Fatal(err)
	}
	root, entry := tree.Root(), make([]byte, calpe.EntrySize)
	if n := testing.AllocsPerRun(10, func() {
		err = errors.Join(err, merkle.VerifyInclusion(567, 1000, leaves[567], path, root))
	}); n != 0 || err != nil {
		t.Errorf("VerifyInclusion: %v allocations, %v", n, err)
	}
	if n := testing.AllocsPerRun(10, func() { merkle.LeafHash(entry) }); n != 0 {
		t.Errorf("LeafHash of an entry: %v allocations", n)
	}
	if n := testing.AllocsPerRun(10, func() { merkle.Root(leaves) }); n != 0 {
		t.Errorf("Root: %v allocations", n)
	}
}

// FuzzVerifyInclusion takes any input: nothing panics, and the verdict is that
// of the loop in RFC 9162 and, where it has one, that of x/mod's tlog.
func FuzzVerifyInclusion(f *testing.F) {
	leaves := testLeaves(13)
	tree := merkle.NewTree(leaves)
	root := tree.Root()
	for index := range uint64(13) {
		path, err := tree.InclusionPath(index)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(index, uint64(13), leaves[index][:], join(path), root[:])
	}
	f.Add(uint64(0), uint64(calpe.MaxLogSize), make([]byte, 32), make([]byte, 40*32), make([]byte, 32))
	f.Add(uint64(math.MaxUint64), uint64(math.MaxUint64), []byte{}, []byte{}, []byte{})
	f.Fuzz(func(t *testing.T, index, size uint64, leafBytes, pathBytes, rootBytes []byte) {
		leaf, path, root := padHash(leafBytes), cut(pathBytes), padHash(rootBytes)
		err := merkle.VerifyInclusion(index, size, leaf, path, root)
		want := size <= calpe.MaxLogSize && refVerifyInclusion(index, size, leaf, path, root)
		if (err == nil) != want {
			t.Fatalf("verdict %v, RFC 9162 says %v", err, want)
		}
		if size == 0 || index >= size || size > calpe.MaxLogSize {
			return
		}
		err2 := tlog.CheckRecord(toTlog(path), int64(size), tlog.Hash(root), int64(index), tlog.Hash(leaf))
		if (err2 == nil) != want {
			t.Fatalf("verdict %v, tlog says %v", err, err2)
		}
		// Whatever root an acceptable path leads to is accepted, and no other.
		if got, err := merkle.RootFromInclusion(index, size, leaf, path); err == nil {
			if !refVerifyInclusion(index, size, leaf, path, got) {
				t.Fatalf("computed root %v is not that of RFC 9162", got)
			}
		}
	})
}

// FuzzVerifyConsistency does the same for consistency proofs.
func FuzzVerifyConsistency(f *testing.F) {
	leaves := testLeaves(13)
	newRoot := merkle.Root(leaves)
	for old := 1; old < 13; old++ {
		oldRoot := merkle.Root(leaves[:old])
		f.Add(uint64(old), uint64(13), oldRoot[:], newRoot[:], join(refProof(old, leaves)))
	}
	f.Add(uint64(0), uint64(13), []byte{}, newRoot[:], []byte{})
	f.Add(uint64(13), uint64(13), newRoot[:], newRoot[:], []byte{})
	f.Add(uint64(1), uint64(math.MaxUint64), []byte{}, []byte{}, make([]byte, 64*32))
	f.Fuzz(func(t *testing.T, oldSize, newSize uint64, oldBytes, newBytes, pathBytes []byte) {
		oldRoot, newRoot, path := padHash(oldBytes), padHash(newBytes), cut(pathBytes)
		err := merkle.VerifyConsistency(oldSize, newSize, oldRoot, newRoot, path)
		var want bool
		switch {
		case oldSize > newSize || newSize > calpe.MaxLogSize:
		case oldSize == newSize:
			want = len(path) == 0 && oldRoot == newRoot && (newSize > 0 || newRoot == merkle.EmptyRoot())
		case oldSize == 0:
			want = len(path) == 0 && oldRoot == merkle.EmptyRoot()
		default:
			want = refVerifyConsistency(oldSize, newSize, oldRoot, newRoot, path)
			err := tlog.CheckTree(toTlog(path), int64(newSize), tlog.Hash(newRoot), int64(oldSize), tlog.Hash(oldRoot))
			if (err == nil) != want {
				t.Fatalf("tlog says %v, RFC 9162 %v", err, want)
			}
		}
		if (err == nil) != want {
			t.Fatalf("verdict %v, want %v", err, want)
		}
	})
}

// padHash makes a hash of any bytes.
func padHash(b []byte) (h calpe.Hash) {
	copy(h[:], b)
	return h
}

// cut makes hashes of any bytes, leaving out what is short of a hash.
func cut(b []byte) []calpe.Hash {
	var path []calpe.Hash
	for chunk := range slices.Chunk(b, calpe.HashSize) {
		if len(chunk) == calpe.HashSize {
			path = append(path, calpe.Hash(chunk))
		}
	}
	return path
}

func join(path []calpe.Hash) []byte {
	var b []byte
	for _, h := range path {
		b = append(b, h[:]...)
	}
	return b
}
