//go:build !linux

package process

import (
	"os/exec"
	"strconv"
	"strings"
)

// adoptOrphans does nothing: only Linux lets a process adopt its descendants'
// orphans. Elsewhere a process whose parent died first escapes descendants.
func adoptOrphans() error { return nil }

// descendants lists the living processes below root; zombies don't count.
func descendants(root int) []int {
	out, err := exec.Command("ps", "-axo", "pid=,ppid=,stat=").Output()
	if err != nil {
		return nil
	}
	parents := map[int]int{}
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) < 3 || strings.HasPrefix(f[2], "Z") {
			continue
		}
		pid, err1 := strconv.Atoi(f[0])
		parent, err2 := strconv.Atoi(f[1])
		if err1 == nil && err2 == nil {
			parents[pid] = parent
		}
	}
	return descend(root, parents)
}
