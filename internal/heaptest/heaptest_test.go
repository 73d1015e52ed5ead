package heaptest_test

import (
	"testing"

	"github.com/calpe/calpe/internal/heaptest"
)

var sink []byte

// What is allocated and dropped at once is seen, and only where it happens.
func TestMeter(t *testing.T) {
	m := heaptest.New()
	m.Watch(func() {})
	if m.Single > 1<<20 || m.Peak == 0 {
		t.Errorf("nothing took %d bytes, of %d", m.Single, m.Peak)
	}
	m.Watch(func() {
		for range 20 {
			sink = make([]byte, heaptest.Limit/16)
		}
		sink = nil
	})
	if m.Single < heaptest.Limit {
		t.Errorf("80 MiB took %d bytes", m.Single)
	}
}
