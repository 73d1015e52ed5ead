// Package process runs servers as child processes that do not outlive the
// process that started them, however that one ends.
package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// ErrEnded says that a server ended by itself. The error that wraps it holds
// the last lines of the server's log.
var ErrEnded = errors.New("server ended by itself")

// ErrPortTaken says that a server ended because another process has its port.
var ErrPortTaken = errors.New("port is taken")

// Limits on what is shown of a server's log.
const (
	tailBytes = 4096
	tailLines = 15
)

// Config describes one child process.
type Config struct {
	Name string   // what messages call it
	Path string   // the executable
	Args []string // without the executable's own name
	Dir  string   // working directory
	Env  []string // the whole environment
	Log  string   // file that standard output and error are appended to

	Sys   *syscall.SysProcAttr // as whom it runs; nil is as ourselves
	Stop  syscall.Signal       // asks it to end, sent also when we die; default SIGTERM
	Grace time.Duration        // from Stop to SIGKILL; default 10 s
}

// Process is a running child. Its methods may be called concurrently.
type Process struct {
	cfg    Config
	pid    int
	cancel context.CancelFunc
	done   chan struct{}
	err    error // how it ended; valid once done is closed
}

// Start starts a process in a process group of its own, so that Ctrl-C on our
// terminal reaches it only through us. ctx bounds its whole life: when ctx ends
// the process gets cfg.Stop, and after cfg.Grace SIGKILL. On Linux the kernel
// sends it cfg.Stop when we die.
func Start(ctx context.Context, cfg Config) (*Process, error) {
	if cfg.Stop == 0 {
		cfg.Stop = syscall.SIGTERM
	}
	if cfg.Grace == 0 {
		cfg.Grace = 10 * time.Second
	}
	log, err := os.OpenFile(cfg.Log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log of %s: %w", cfg.Name, err)
	}
	defer log.Close()

	ctx, cancel := context.WithCancel(ctx)
	p := &Process{cfg: cfg, cancel: cancel, done: make(chan struct{})}
	started := make(chan error, 1)
	go p.run(p.command(ctx, log), started)
	if err := <-started; err != nil {
		cancel()
		return nil, fmt.Errorf("start %s (%s): %w", cfg.Name, cfg.Path, err)
	}
	return p, nil
}

func (p *Process) command(ctx context.Context, log *os.File) *exec.Cmd {
	cmd := exec.CommandContext(ctx, p.cfg.Path, p.cfg.Args...)
	cmd.Dir, cmd.Env = p.cfg.Dir, p.cfg.Env
	cmd.Stdout, cmd.Stderr = log, log
	cmd.Cancel = func() error { return cmd.Process.Signal(p.cfg.Stop) }
	cmd.WaitDelay = p.cfg.Grace
	sys := syscall.SysProcAttr{}
	if p.cfg.Sys != nil {
		sys = *p.cfg.Sys
	}
	sys.Setpgid = true
	setDeathSignal(&sys, p.cfg.Stop)
	cmd.SysProcAttr = &sys
	return cmd
}

// run holds one OS thread from the fork to the end of the child, because the
// kernel's parent-death signal fires when the *thread* that forked ends, and
// the Go runtime may end an idle one at any time.
func (p *Process) run(cmd *exec.Cmd, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := cmd.Start(); err != nil {
		started <- err
		return
	}
	p.pid = cmd.Process.Pid
	started <- nil
	p.err = cmd.Wait()
	close(p.done)
}

// PID is the process id of the server itself.
func (p *Process) PID() int { return p.pid }

// Done is closed when the process has ended and was reaped.
func (p *Process) Done() <-chan struct{} { return p.done }

// Failure describes the end of a process that nobody asked to end: it wraps
// ErrEnded, and ErrPortTaken where the log says so. Call it after Done.
func (p *Process) Failure() error {
	<-p.done
	state := "exit status 0"
	if p.err != nil {
		state = p.err.Error()
	}
	tail := Tail(p.cfg.Log)
	err := fmt.Errorf("%s: %w (%s); the end of %s:\n%s", p.cfg.Name, ErrEnded, state, p.cfg.Log, tail)
	if strings.Contains(strings.ToLower(tail), "address already in use") {
		err = fmt.Errorf("%w: %w", ErrPortTaken, err)
	}
	return err
}

// Stop ends the process (cfg.Stop, then SIGKILL after cfg.Grace) and returns
// when it is gone. It may be called again, and after the process ended.
func (p *Process) Stop() {
	p.cancel()
	<-p.done
}

// WaitReady calls probe until it succeeds. It gives up when the process ends
// (see Failure) or ctx does; the last answer of probe is then in the error.
func (p *Process) WaitReady(ctx context.Context, probe func(context.Context) error) error {
	for {
		err := attempt(ctx, probe)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return p.Failure()
		case <-ctx.Done():
			return fmt.Errorf("wait for %s to answer: %w (last answer: %w)", p.cfg.Name, ctx.Err(), err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func attempt(ctx context.Context, probe func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	return probe(ctx)
}

// Tail returns the last lines of a log file, or why it can't be read.
func Tail(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	if st, err := f.Stat(); err == nil && st.Size() > tailBytes {
		f.Seek(-tailBytes, io.SeekEnd)
	}
	text, err := io.ReadAll(io.LimitReader(f, tailBytes))
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-tailLines):], "\n")
}

// Environment is the environment of a server: no variable of the caller's that
// could change what the server does, and dir as its home.
func Environment(dir string, extra ...string) []string {
	return append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "LANG=C", "LC_ALL=C", "TZ=UTC"}, extra...)
}
