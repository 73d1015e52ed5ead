//go:build !linux

package process

import "syscall"

// setDeathSignal does nothing: only Linux has a parent-death signal. Elsewhere
// a server stays behind when devstack is killed with SIGKILL.
func setDeathSignal(*syscall.SysProcAttr, syscall.Signal) {}
