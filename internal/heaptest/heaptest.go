// Package heaptest measures, in tests, how much memory untrusted input can make
// a function take.
package heaptest

import (
	"runtime"
	"runtime/metrics"
)

// Limit is what reading and verifying any single input may take: 64 MiB.
const Limit = 64 << 20

// Meter watches the heap of the whole process around calls. It belongs to one
// goroutine. What other goroutines do meanwhile counts, too: its figures are
// upper bounds, and a test that uses one doesn't run beside others.
type Meter struct {
	// Single is the most that was allocated in the course of one call, whether
	// it was freed in between or not: more than that it can't have held at once.
	Single uint64
	// Peak is the largest heap that was seen after a call: what is alive, and
	// what isn't collected yet.
	Peak uint64
}

// New makes a Meter. What earlier tests left on the heap is collected first.
func New() *Meter {
	runtime.GC()
	return &Meter{}
}

// Watch calls f.
func (m *Meter) Watch(f func()) {
	before, _ := read()
	f()
	after, heap := read()
	m.Single, m.Peak = max(m.Single, after-before), max(m.Peak, heap)
}

// read gives the bytes allocated since the process started, and those of the
// objects on the heap now.
func read() (allocated, heap uint64) {
	samples := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}, {Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(samples)
	return samples[0].Value.Uint64(), samples[1].Value.Uint64()
}
