package process

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// adoptOrphans makes us the parent of every descendant whose own parent dies,
// so that none can slip out of our sight (prctl(2), PR_SET_CHILD_SUBREAPER).
func adoptOrphans() error { return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }

// descendants lists the living processes below root; zombies don't count.
func descendants(root int) []int {
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	parents := make(map[int]int, len(stats))
	for _, path := range stats {
		line, err := os.ReadFile(path)
		if err != nil {
			continue // it ended while we looked
		}
		if pid, state, parent, ok := parseStat(string(line)); ok && state != "Z" && state != "X" {
			parents[pid] = parent
		}
	}
	return descend(root, parents)
}

// parseStat reads the start of /proc/PID/stat (proc(5)): pid (name) state ppid.
// The name may hold anything, brackets and spaces too.
func parseStat(line string) (pid int, state string, parent int, ok bool) {
	open, end := strings.Index(line, " ("), strings.LastIndex(line, ") ")
	if open < 0 || end < open {
		return 0, "", 0, false
	}
	rest := strings.Fields(line[end+2:])
	if len(rest) < 2 {
		return 0, "", 0, false
	}
	pid, err1 := strconv.Atoi(line[:open])
	parent, err2 := strconv.Atoi(rest[1])
	return pid, rest[0], parent, err1 == nil && err2 == nil
}
