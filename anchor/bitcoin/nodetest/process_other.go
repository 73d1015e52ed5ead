//go:build !linux

package nodetest

import "os/exec"

// dieWithParent can't be had here: a test process that is killed leaves its node behind.
func dieWithParent(*exec.Cmd) {}
