package process

import "syscall"

// setDeathSignal makes the kernel send sig to the child when the thread that
// forks it ends (prctl(2), PR_SET_PDEATHSIG).
func setDeathSignal(sys *syscall.SysProcAttr, sig syscall.Signal) { sys.Pdeathsig = sig }
