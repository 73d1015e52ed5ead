package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// terminate asks a process to end in order.
const terminate = syscall.SIGTERM

// process is a child that runs until it is ended.
type process struct {
	name string
	log  string // its standard error
	cmd  *exec.Cmd
	done chan struct{} // closed when it has ended
}

// launch starts a program. Its first line on standard output, if it is a JSON
// object, goes into ready.
func launch(t testing.TB, name, log string, env []string, ready any, argv ...string) *process {
	t.Helper()
	p, err := tryLaunch(t.Context(), name, log, env, ready, argv...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		_, _ = p.stop(ctx) // in order if possible
		p.kill()
	})
	return p
}

func tryLaunch(ctx context.Context, name, log string, env []string, ready any, argv ...string) (*process, error) {
	stderr, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer stderr.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env, cmd.Stderr = env, stderr
	var stdout *bufio.Reader
	if ready != nil {
		pipe, err := cmd.StdoutPipe()
		if err != nil {
			return nil, err
		}
		stdout = bufio.NewReader(pipe)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{name: name, log: log, cmd: cmd, done: make(chan struct{})}
	var line []byte
	if ready != nil {
		stop := context.AfterFunc(ctx, func() { _ = cmd.Process.Kill() })
		line, err = stdout.ReadBytes('\n')
		stop()
	}
	go func() {
		_ = cmd.Wait() // how it ended is in ProcessState
		close(p.done)
	}()
	if ready != nil {
		if err == nil {
			err = json.Unmarshal(line, ready)
		}
		if err != nil {
			p.kill()
			return nil, fmt.Errorf("%s didn't start: %w\n%s", name, err, tail(log, 15))
		}
	}
	return p, nil
}

// kill is SIGKILL; it returns when the process is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.done
}

// ended waits for the end of the process.
func (p *process) ended(ctx context.Context) error {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-p.done:
		return nil
	case <-timer.C:
		return fmt.Errorf("%s still runs after %v", p.name, patience)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// stop is SIGTERM; it returns the exit code.
func (p *process) stop(ctx context.Context) (int, error) {
	if err := p.cmd.Process.Signal(terminate); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return 0, err
	}
	if err := p.ended(ctx); err != nil {
		return 0, err
	}
	return p.cmd.ProcessState.ExitCode(), nil
}

// killed reports whether SIGKILL has ended the process. Call it after its end.
func (p *process) killed() bool {
	status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus)
	return ok && status.Signaled() && status.Signal() == syscall.SIGKILL
}

// killFamily ends a process and its children, all with SIGKILL, and returns when
// none is left. It is what a power cut is to a server of many processes.
func killFamily(ctx context.Context, pid int) error {
	// Stopped first, so that it can't make another child meanwhile.
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		return fmt.Errorf("stop process %d: %w", pid, err)
	}
	family := append(childrenOf(pid), pid)
	for _, p := range family {
		_ = syscall.Kill(p, syscall.SIGKILL) // a child may have ended by itself
	}
	return poll(ctx, patience, func(context.Context) error {
		for _, p := range family {
			if alive(p) {
				return fmt.Errorf("process %d is still there", p)
			}
		}
		return nil
	})
}

// childrenOf reads the process table. Without one (it is Linux's) there are no
// children: PostgreSQL's end by themselves when their parent is gone.
func childrenOf(pid int) (children []int) {
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range files {
		if state, parent := processState(file); state != "" && parent == pid {
			child, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			children = append(children, child)
		}
	}
	return children
}

// alive is false for a process that is gone, or waits for nothing but its parent.
func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	state, _ := processState(fmt.Sprintf("/proc/%d/stat", pid))
	return state != "Z" && state != "X"
}

// processState reads state and parent behind the last ")": a name may hold anything.
func processState(file string) (state string, parent int) {
	text, err := os.ReadFile(file)
	if err != nil {
		return "", 0
	}
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	if len(fields) < 2 {
		return "", 0
	}
	parent, _ = strconv.Atoi(fields[1])
	return fields[0], parent
}
