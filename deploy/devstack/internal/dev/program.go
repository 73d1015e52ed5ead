package dev

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/calpe/calpe/deploy/devstack/internal/process"
)

// Program is calped or calpe, to be run to its end.
type Program struct {
	Path string
	Dir  string   // where it runs
	Env  []string // CALPE_… variables; it gets none of ours
}

// Result is how a program ended.
type Result struct {
	Code           int
	Stdout, Stderr string
}

// Run runs the program. The error says that it couldn't be run, or that a signal
// or ctx ended it; that it failed is only in the exit code.
func (p Program) Run(ctx context.Context, args ...string) (Result, error) {
	var stderr bytes.Buffer
	stdout, err := process.Run(ctx, process.Command{
		Path: p.Path, Args: args, Dir: p.Dir, Env: process.Environment(p.Dir, p.Env...), Stderr: &stderr,
	})
	r := Result{Stdout: stdout, Stderr: stderr.String()}
	if ctx.Err() != nil {
		return r, fmt.Errorf("%s: %w", p.name(args), ctx.Err())
	}
	if ended := (*exec.ExitError)(nil); errors.As(err, &ended) && ended.Exited() {
		r.Code, err = ended.ExitCode(), nil
	}
	return r, err
}

// Do runs the program and returns its standard output. Every exit code but 0 is
// an error that holds what the program said.
func (p Program) Do(ctx context.Context, args ...string) (string, error) {
	r, err := p.Run(ctx, args...)
	if err == nil && r.Code != 0 {
		err = fmt.Errorf("%s: exit code %d: %s", p.name(args), r.Code, strings.TrimSpace(r.Stderr+r.Stdout))
	}
	return r.Stdout, err
}

// name is the program with the words before its flags and files.
func (p Program) name(args []string) string {
	words := []string{filepath.Base(p.Path)}
	for _, arg := range args {
		if len(words) == 3 || strings.ContainsAny(arg, "-./") {
			break
		}
		words = append(words, arg)
	}
	return strings.Join(words, " ")
}
