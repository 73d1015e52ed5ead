//go:build !linux

package btcdtest

import "os/exec"

// dieWithParent can't be had here: a test process that is killed leaves its btcd behind.
func dieWithParent(*exec.Cmd) {}
