package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// killGrace is what a command's processes have from SIGTERM to SIGKILL.
const killGrace = 3 * time.Second

// WatchParent returns a channel that is closed when the process that started
// us has ended. It watches the parent's id and not a parent-death signal: that
// one fires when the parent's *thread* ends, which a Go parent does at will.
func WatchParent(ctx context.Context) <-chan struct{} {
	gone, parent := make(chan struct{}), os.Getppid()
	go func() {
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				if os.Getppid() != parent {
					close(gone)
					return
				}
			}
		}
	}()
	return gone
}

// Guard runs a command with our standard streams, passes signals on to it, and
// returns its exit code (128 + signal number if a signal ended it). When it
// returns, no process that the command started is left, whether the command
// ended by itself or our own parent died. Run it in a process of its own.
func Guard(ctx context.Context, argv []string) (int, error) {
	if err := adoptOrphans(); err != nil {
		return 0, fmt.Errorf("adopt orphans: %w", err)
	}
	orphaned := WatchParent(ctx)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	sys := &syscall.SysProcAttr{}
	setDeathSignal(sys, syscall.SIGKILL)
	cmd.SysProcAttr = sys

	signals := CatchSignals()
	defer signals.Stop()
	// The thread that forks must live as long as the command: see Process.run.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("start command: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer killDescendants(killGrace)

	signals.ForwardTo(cmd.Process)
	select {
	case err := <-ended:
		return ExitCode(cmd.ProcessState), exitError(err)
	case <-orphaned:
		return 128 + int(syscall.SIGKILL), errors.New("the process that started the command has died")
	case <-ctx.Done():
		return 128 + int(syscall.SIGTERM), ctx.Err()
	}
}

// exitError keeps what went wrong in waiting; a command's own failure is told
// by its exit code.
func exitError(err error) error {
	if ee := (*exec.ExitError)(nil); errors.As(err, &ee) {
		return nil
	}
	return err
}

// ExitCode is the code a shell would report for an ended process.
func ExitCode(st *os.ProcessState) int {
	if ws, ok := st.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return st.ExitCode()
}

// Signals holds the signals that ask us to end, until they can be passed on to
// the command that they are meant for.
type Signals struct {
	caught chan os.Signal
	quit   chan struct{}
}

// CatchSignals begins to hold SIGTERM, SIGHUP, SIGINT and SIGQUIT. Call Stop
// in the end.
func CatchSignals() *Signals {
	s := &Signals{caught: make(chan os.Signal, 8), quit: make(chan struct{})}
	signal.Notify(s.caught, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT)
	return s
}

// ForwardTo passes the signals on to child, those caught already too. A SIGINT
// or SIGQUIT is not passed on when we are in the terminal's foreground: then
// the terminal has sent it to the whole group, and to many programs a second
// Ctrl-C means "at once".
func (s *Signals) ForwardTo(child *os.Process) {
	go func() {
		for {
			select {
			case <-s.quit:
				return
			case sig := <-s.caught:
				if keyboard := sig == syscall.SIGINT || sig == syscall.SIGQUIT; keyboard && inForeground() {
					continue
				}
				child.Signal(sig)
			}
		}
	}()
}

// Stop ends the catching. Call it once.
func (s *Signals) Stop() {
	signal.Stop(s.caught)
	close(s.quit)
}

func inForeground() bool {
	tty, err := os.Open("/dev/tty")
	if err != nil {
		return false
	}
	defer tty.Close()
	group, err := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	return err == nil && group == unix.Getpgrp()
}

// killDescendants ends every process below us: SIGTERM, and after grace
// SIGKILL, until none is left.
func killDescendants(grace time.Duration) {
	sig, deadline := syscall.SIGTERM, time.Now().Add(grace)
	told := map[int]bool{}
	for {
		alive := descendants(os.Getpid())
		if len(alive) == 0 {
			return
		}
		if time.Now().After(deadline) && sig == syscall.SIGTERM {
			sig = syscall.SIGKILL
			clear(told)
		}
		for _, pid := range alive {
			if !told[pid] {
				syscall.Kill(pid, sig)
				told[pid] = true
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// descend returns all pids below root, given each living process's parent.
func descend(root int, parents map[int]int) []int {
	var found []int
	below := map[int]bool{root: true}
	for grew := true; grew; {
		grew = false
		for pid, parent := range parents {
			if below[parent] && !below[pid] {
				below[pid], grew = true, true
				found = append(found, pid)
			}
		}
	}
	return found
}
