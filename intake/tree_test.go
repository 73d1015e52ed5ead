package intake

import (
	"slices"
	"testing"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
)

// TestGroupTree compares with package merkle for every entry of every small group.
func TestGroupTree(t *testing.T) {
	var commitments []calpe.Commitment
	for n := 1; n <= 70; n++ {
		commitments = append(commitments, calpe.Commitment{byte(n)})
		const first = 1 << 33
		leaves := leafHashes(first, commitments)
		tree := newGroupTree(first, commitments)
		if tree.root() != merkle.Root(leaves) {
			t.Fatalf("root of %d entries", n)
		}
		for i := range uint64(n) {
			want, err := merkle.InclusionPath(leaves, i)
			if got := tree.path(i); err != nil || !slices.Equal(got, want) {
				t.Fatalf("path of entry %d of %d: %v", i, n, err)
			}
		}
	}
}

func BenchmarkGroupTree(b *testing.B) {
	commitments := make([]calpe.Commitment, 1024)
	for b.Loop() {
		tree := newGroupTree(0, commitments)
		for i := range uint64(len(commitments)) {
			_ = tree.path(i)
		}
	}
}
