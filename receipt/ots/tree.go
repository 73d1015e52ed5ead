package ots

import "slices"

// Tree is a timestamp as it is shown to programs: a line of operations, and what
// is said of the message at its end.
type Tree struct {
	Operations   []Op          `json:"operations,omitempty"`
	Attestations []Attestation `json:"attestations,omitempty"`
	// Branches go on from the end of the line: more than one, or one where there are
	// attestations too.
	Branches []Tree `json:"branches,omitempty"`
}

// Tree is the whole timestamp, in the order in which it is written.
func (t Timestamp) Tree() Tree {
	if t.root == nil {
		return Tree{}
	}
	return t.root.tree()
}

func (n *node) tree() Tree {
	var t Tree
	for len(n.attestations) == 0 && len(n.steps) == 1 {
		t.Operations = append(t.Operations, n.steps[0].op)
		n = n.steps[0].next
	}
	t.Attestations = slices.Clone(n.attestations)
	for _, s := range n.steps {
		branch := s.next.tree()
		branch.Operations = append([]Op{s.op}, branch.Operations...)
		t.Branches = append(t.Branches, branch)
	}
	return t
}
