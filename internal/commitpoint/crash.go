//go:build calpe_crashpoints

package commitpoint

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

var left = func() *atomic.Int64 {
	var n atomic.Int64
	n.Store(1)
	if _, times, ok := strings.Cut(os.Getenv("CALPE_CRASH_AT"), ":"); ok {
		if k, err := strconv.ParseInt(times, 10, 64); err == nil {
			n.Store(k)
		}
	}
	return &n
}()

// Reached kills this process with SIGKILL if p is the point, and this the time,
// that CALPE_CRASH_AT names. Nothing is flushed, no deferred call runs: it is
// what a power cut of the process looks like.
func Reached(p Point) {
	name, _, _ := strings.Cut(os.Getenv("CALPE_CRASH_AT"), ":")
	if name != string(p) || left.Add(-1) != 0 {
		return
	}
	_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
	select {} // the signal is on its way; nothing may happen after the point
}
