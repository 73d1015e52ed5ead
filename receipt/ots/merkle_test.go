package ots

import (
	"bytes"
	"encoding/hex"
	"testing"
)

// The roots are those of the reference's make_merkle_tree for leaves of 32 bytes
// i, from 0 on.
func TestMerkleTree(t *testing.T) {
	for n, want := range map[int]string{
		0: "",
		1: "0000000000000000000000000000000000000000000000000000000000000000",
		2: "5c85955f709283ecce2b74f1b1552918819f390911816e7bb466805a38ab87f3",
		3: "a7f2fad943905535b10ccf63c832802ed84eaffb15e4fb6bee86a817c35eb833",
		5: "243937fe91b8afccf77951af4e946c993e21cfe134644fad15da302ef093ae68",
		7: "eb094e74c37828f22829f4678d5cc66f4f927ea675078ed54c43d5e21ca61f43",
	} {
		leaves := make([][]byte, n)
		for i := range leaves {
			leaves[i] = bytes.Repeat([]byte{byte(i)}, 32)
		}
		root, ways, err := MerkleTree(leaves)
		if err != nil || hex.EncodeToString(root) != want || len(ways) != n {
			t.Errorf("%d leaves: %x, %d ways, %v", n, root, len(ways), err)
		}
	}
}

// From every leaf its way leads to the root, and none is longer than it must be.
func TestMerkleWays(t *testing.T) {
	for n := 1; n <= 70; n++ {
		leaves := make([][]byte, n)
		for i := range leaves {
			h := some("leaf", i)
			leaves[i] = h[:]
		}
		root, ways, err := MerkleTree(leaves)
		if err != nil {
			t.Fatal(err)
		}
		for i, way := range ways {
			got, err := applyAll(leaves[i], way)
			if err != nil || !bytes.Equal(got, root) {
				t.Errorf("leaf %d of %d leads to %x, want %x: %v", i, n, got, root, err)
			}
			if len(way) > 2*7 {
				t.Errorf("leaf %d of %d: %d operations", i, n, len(way))
			}
		}
		if h := some("leaf", n-1); !bytes.Equal(leaves[n-1], h[:]) {
			t.Error("the leaves were changed")
		}
	}
	if _, _, err := MerkleTree([][]byte{make([]byte, MaxMessage), {1}}); err == nil {
		t.Error("leaves that are too long make a tree")
	}
}
