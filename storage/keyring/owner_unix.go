//go:build unix

package keyring

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
)

// checkMode refuses a file that anyone but its owner can read or write.
func checkMode(info fs.FileInfo) error {
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("its mode is %04o, so others than its owner can read or change it; run chmod 600 on it", mode)
	}
	return nil
}

// keepOwner gives next the owner of path: a rotation by root must not lock the
// server's own user out of the keyring.
func keepOwner(path string, next *os.File) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || int(stat.Uid) == os.Geteuid() {
		return nil
	}
	if err := next.Chown(int(stat.Uid), int(stat.Gid)); err != nil {
		return fmt.Errorf("keep its owner %d:%d: %w", stat.Uid, stat.Gid, err)
	}
	return nil
}
