//go:build unix

package wallet

import (
	"fmt"
	"io/fs"
)

func checkMode(mode fs.FileMode) error {
	if !mode.IsRegular() {
		return fmt.Errorf("it is not a regular file")
	}
	if mode.Perm()&0o077 != 0 {
		return fmt.Errorf("others can read or write it (mode %04o): run chmod 600 on it, and think about who may have a copy", mode.Perm())
	}
	return nil
}
