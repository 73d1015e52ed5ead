//go:build unix

package signer

import (
	"errors"
	"fmt"
	"os"
	"syscall"
)

// lockState keeps two signers from one state. The kernel lets go of the lock when
// the process ends, however it ends.
func lockState(path string) (*os.File, error) {
	f, err := os.OpenFile(path+".lock", os.O_RDWR|os.O_CREATE, stateMode)
	if err != nil {
		return nil, fmt.Errorf("lock signer state: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock signer state %s, which another signer uses: %w", path, err), f.Close())
	}
	return f, nil
}
