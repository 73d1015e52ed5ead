package merkle_test

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"log"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
)

// leavesOf are those of a log with an entry for each text.
func leavesOf(documents ...string) (leaves []calpe.Hash) {
	for i, document := range documents {
		entry := calpe.Entry{Index: uint64(i), Commitment: calpe.Commit(sha256.Sum256([]byte(document)), calpe.Salt{})}.Bytes()
		leaves = append(leaves, merkle.LeafHash(entry[:]))
	}
	return leaves
}

// Who has a root, and knows that it is right, checks with a few hashes that an
// entry is in the log, and where.
func ExampleVerifyInclusion() {
	leaves := leavesOf("birth", "deed", "marriage", "will", "patent")
	root := merkle.Root(leaves)

	path, err := merkle.InclusionPath(leaves, 3)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(len(path), "hashes for one of", len(leaves), "entries:", merkle.VerifyInclusion(3, 5, leaves[3], path, root))

	err = merkle.VerifyInclusion(2, 5, leaves[3], path, root)
	fmt.Println("in another place:", errors.Is(err, merkle.ErrRootMismatch))
	// Output:
	// 3 hashes for one of 5 entries: <nil>
	// in another place: true
}

// A log that grows is appended to from its edge alone, and its tiles are enough
// to prove that it still begins with what it was.
func ExampleConsistencyProof() {
	leaves := leavesOf("birth", "deed", "marriage", "will", "patent")
	builder, err := merkle.LoadEdge(0, merkle.EmptyRoot(), nil)
	if err != nil {
		log.Fatal(err)
	}
	if err := builder.Append(leaves); err != nil {
		log.Fatal(err)
	}
	stored := map[string][]byte{}
	for _, tile := range builder.Tiles() {
		stored[tile.Path()] = tile.Data
		fmt.Println(tile.Path(), len(tile.Data), "bytes")
	}
	path, err := merkle.ConsistencyProof(3, 5, func(tiles []merkle.Tile) (data [][]byte, err error) {
		for _, t := range tiles {
			data = append(data, stored[t.Path()])
		}
		return data, nil
	})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("begins with the first three:", merkle.VerifyConsistency(3, 5, merkle.Root(leaves[:3]), builder.Root(), path) == nil)
	other := merkle.Root(leavesOf("birth", "another deed", "marriage"))
	fmt.Println("begins with others:", merkle.VerifyConsistency(3, 5, other, builder.Root(), path) == nil)
	// Output:
	// tile/0/000.p/5 160 bytes
	// begins with the first three: true
	// begins with others: false
}
