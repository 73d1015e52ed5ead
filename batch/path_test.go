package batch

import (
	"testing"

	"github.com/calpe/calpe"
)

func FuzzCheckpointPath(f *testing.F) {
	for _, path := range []string{"", "checkpoints/x000/x000/x001/x234/567", "checkpoints/x000/x000/x001/x234/567.p/1", "checkpoints/x999/x999/x999/x999/999", "checkpoints/567"} {
		f.Add(path, uint64(567))
	}
	f.Fuzz(func(t *testing.T, path string, size uint64) {
		if n, err := ParseCheckpointPath(path); err == nil && (CheckpointPath(n) != path || n > calpe.MaxLogSize) {
			t.Errorf("%q was read as %d", path, n)
		}
		size %= calpe.MaxLogSize + 1
		if n, err := ParseCheckpointPath(CheckpointPath(size)); err != nil || n != size {
			t.Errorf("size %d was read as %d, %v", size, n, err)
		}
	})
}
