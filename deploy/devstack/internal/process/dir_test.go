package process

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestLockDir(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	first, err := LockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := LockDir(dir); !errors.Is(err, ErrLocked) {
		t.Errorf("second lock: %v, want ErrLocked", err)
	}
	first.Unlock()
	second, err := LockDir(dir)
	if err != nil {
		t.Fatalf("after unlock: %v", err)
	}
	second.Unlock()
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("folder: %v, %v; want it private", st.Mode(), err)
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LockDir(file); err == nil {
		t.Error("locked a file as a folder")
	}
}

func TestWaitLock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	held, err := WaitLock(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := WaitLock(ctx, path); !errors.Is(err, ErrLocked) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("err = %v, want that it was locked till the deadline", err)
	}
	got := make(chan error)
	go func() {
		l, err := WaitLock(t.Context(), path)
		if err == nil {
			l.Unlock()
		}
		got <- err
	}()
	held.Unlock()
	if err := <-got; err != nil {
		t.Errorf("after unlock: %v", err)
	}
}

func TestSweepDirs(t *testing.T) {
	parent := t.TempDir()
	lock := func(name string) *Lock {
		l, err := LockDir(filepath.Join(parent, name))
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	lock("calpe-dead").Unlock()
	lock("other-dead").Unlock()
	defer lock("calpe-alive").Unlock()
	if err := os.Mkdir(filepath.Join(parent, "calpe-nolock"), 0o700); err != nil {
		t.Fatal(err)
	}
	left := func() string {
		entries, err := os.ReadDir(parent)
		if err != nil {
			t.Fatal(err)
		}
		var names string
		for _, e := range entries {
			names += e.Name() + " "
		}
		return names
	}
	SweepDirs(parent, "calpe-", time.Now().Add(-time.Hour))
	if got := left(); got != "calpe-alive calpe-dead calpe-nolock other-dead " {
		t.Errorf("young folders swept: %s", got)
	}
	SweepDirs(parent, "calpe-", time.Now().Add(time.Hour))
	if got := left(); got != "calpe-alive calpe-nolock other-dead " {
		t.Errorf("left: %s", got)
	}
}

func TestWithPort(t *testing.T) {
	taken := fmt.Errorf("log: %w", ErrPortTaken)
	var ports []int
	err := WithPort(0, func(port int) error {
		ports = append(ports, port)
		if len(ports) < 3 {
			return taken
		}
		return nil
	})
	if err != nil || len(ports) != 3 || ports[0] == 0 {
		t.Errorf("ports %v, err %v; want success with the third port", ports, err)
	}
	calls := 0
	if err := WithPort(0, func(int) error { calls++; return taken }); !errors.Is(err, ErrPortTaken) || calls != 5 {
		t.Errorf("%d calls, err %v; want to give up", calls, err)
	}
	calls = 0
	if err := WithPort(0, func(int) error { calls++; return os.ErrInvalid }); !errors.Is(err, os.ErrInvalid) || calls != 1 {
		t.Errorf("%d calls, err %v; want no second try after another failure", calls, err)
	}
	calls = 0
	err = WithPort(7, func(port int) error { calls += port; return taken })
	if !errors.Is(err, ErrPortTaken) || calls != 7 {
		t.Errorf("a port asked for: calls %d, err %v; want one try with it", calls, err)
	}
}

func TestFreePort(t *testing.T) {
	port, err := FreePort()
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
}
