package process

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

const lockName = "devstack.lock"

// Lock is a held lock on a folder. The kernel releases it when its holder dies.
type Lock struct{ file *os.File }

// ErrLocked says that another process uses the folder.
var ErrLocked = errors.New("in use by another devstack")

// LockDir takes the lock on a component's folder, which it makes if missing
// (mode 0700). It returns ErrLocked at once if another process holds it.
func LockDir(dir string) (*Lock, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder: %w", err)
	}
	return lockFile(filepath.Join(dir, lockName))
}

func lockFile(path string) (*Lock, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("%s: %w", path, ErrLocked)
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return &Lock{f}, nil
}

// WaitLock takes the lock at path, waiting for another holder as long as ctx
// lasts.
func WaitLock(ctx context.Context, path string) (*Lock, error) {
	for {
		l, err := lockFile(path)
		if !errors.Is(err, ErrLocked) {
			return l, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%w (%w)", err, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Unlock releases the lock. The file stays: removing it would let two holders
// in, one on the old file and one on a new one.
func (l *Lock) Unlock() { l.file.Close() }

// SweepDirs removes the folders prefix* in parent that no living devstack
// holds: what a stack that was killed left behind. A folder that changed after
// the time young stays, as it may just be being made. It is best effort.
func SweepDirs(parent, prefix string, young time.Time) {
	dirs, err := filepath.Glob(filepath.Join(parent, prefix+"*"))
	if err != nil {
		return
	}
	for _, dir := range dirs {
		if st, err := os.Stat(filepath.Join(dir, lockName)); err != nil || st.ModTime().After(young) {
			continue
		}
		if l, err := lockFile(filepath.Join(dir, lockName)); err == nil {
			os.RemoveAll(dir)
			l.Unlock()
		}
	}
}

// WithPort calls start with the port asked for; 0 means a free one of the
// loopback interface. A free port can be lost to another process before the
// server has it: then start is called again, a few times, with another one.
func WithPort(want int, start func(port int) error) error {
	if want != 0 {
		return start(want)
	}
	var err error
	for range 5 {
		var port int
		if port, err = FreePort(); err != nil {
			return err
		}
		if err = start(port); !errors.Is(err, ErrPortTaken) {
			return err
		}
	}
	return err
}

// FreePort returns a TCP port of 127.0.0.1 that nobody listens on now. It is
// below the ports that a system gives to connections and to those who ask for
// any, so that a server that is started again finds its port free.
func FreePort() (int, error) {
	var err error
	for range 100 {
		port := 20_000 + rand.IntN(10_000)
		var l net.Listener
		if l, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port))); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("find a free port: %w", err)
}
