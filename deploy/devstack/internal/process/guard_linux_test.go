package process

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestParseStat(t *testing.T) {
	for _, tt := range []struct {
		line        string
		pid, parent int
		state       string
		ok          bool
	}{
		{"12 (cat) S 7 12 12 0", 12, 7, "S", true},
		{"12 (a) R 9) Z 7 1", 12, 7, "Z", true}, // a name can hold anything
		{"12 (with space) R 1 2", 12, 1, "R", true},
		{"", 0, 0, "", false},
		{"12", 0, 0, "", false},
		{"12 (cat)", 0, 0, "", false},
		{"12 (cat) S", 0, 0, "", false},
		{"x (cat) S 7", 0, 7, "S", false},
		{"12 (cat) S x", 12, 0, "S", false},
		{") 12 (", 0, 0, "", false},
	} {
		pid, state, parent, ok := parseStat(tt.line)
		if pid != tt.pid || state != tt.state || parent != tt.parent || ok != tt.ok {
			t.Errorf("%q: %d %q %d %v", tt.line, pid, state, parent, ok)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add("12 (cat) S 7 12")
	f.Add(") (")
	f.Fuzz(func(t *testing.T, line string) {
		if _, state, _, ok := parseStat(line); ok && state == "" {
			t.Errorf("%q: a process without a state", line)
		}
	})
}

func TestDescend(t *testing.T) {
	parents := map[int]int{2: 1, 3: 2, 4: 3, 5: 1, 6: 5, 7: 7, 8: 9}
	got := descend(2, parents)
	slices.Sort(got)
	if diff := cmp.Diff([]int{3, 4}, got); diff != "" {
		t.Error(diff)
	}
	if got := descend(42, parents); got != nil {
		t.Errorf("below nothing: %v", got)
	}
}
