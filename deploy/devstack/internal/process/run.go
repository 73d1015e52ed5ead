package process

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"runtime"
	"syscall"
	"time"
)

// Command describes a program that runs to its end.
type Command struct {
	Path   string
	Args   []string
	Dir    string
	Env    []string // the whole environment; nil is our own
	Sys    *syscall.SysProcAttr
	Stderr io.Writer // standard error; nil: Run returns it among the output
}

// Run runs a program to its end and returns what it printed. It ends with ctx,
// and on Linux with us. The error holds the end of what it printed.
func Run(ctx context.Context, c Command) (string, error) {
	cmd := exec.CommandContext(ctx, c.Path, c.Args...)
	cmd.Dir, cmd.Env = c.Dir, c.Env
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 5 * time.Second
	sys := syscall.SysProcAttr{}
	if c.Sys != nil {
		sys = *c.Sys
	}
	setDeathSignal(&sys, syscall.SIGTERM)
	cmd.SysProcAttr = &sys

	// The thread that forks must live as long as the child: see Process.run.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if c.Stderr != nil {
		cmd.Stderr = c.Stderr
	}
	err := cmd.Run()
	text := out.Bytes()
	if err != nil {
		if len(text) == 0 {
			return "", fmt.Errorf("%s: %w", c.Path, err)
		}
		return string(text), fmt.Errorf("%s: %w\n%s", c.Path, err, text[max(0, len(text)-tailBytes):])
	}
	return string(text), nil
}
