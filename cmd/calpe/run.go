package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"github.com/calpe/calpe/anchor/calendar"
	"github.com/calpe/calpe/internal/buildinfo"
	"github.com/calpe/calpe/internal/progress"
)

// Exit codes of calpe. Of several files, the worst counts: in the order 1, 2, 3, 0.
const (
	exitOK      = 0 // done; or all verdicts that were asked for hold
	exitRefuted = 1 // a proof, a signature or an answer doesn't hold
	exitUsage   = 2 // the command line is wrong, or a file, the service or the node failed
	exitNotYet  = 3 // nothing is wrong, but it isn't anchored yet, or not deep enough
)

var (
	// errRefuted is in the chain of errors that say: what came doesn't hold.
	errRefuted = errors.New("refused")
	// errNotYet is in the chain of errors that say: wait.
	errNotYet = errors.New("not yet")
)

// reported is an exit code whose reason has been printed already.
type reported int

func (r reported) Error() string { return fmt.Sprintf("exit code %d", int(r)) }

func exitCode(err error) int {
	if code, ok := errors.AsType[reported](err); ok {
		return int(code)
	}
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errRefuted), errors.Is(err, calendar.ErrRefused):
		return exitRefuted
	case errors.Is(err, errNotYet), errors.Is(err, calendar.ErrNotYet):
		return exitNotYet
	}
	return exitUsage
}

// worse is the exit code that stands for both.
func worse(a, b int) int {
	rank := [...]int{exitOK: 0, exitNotYet: 1, exitUsage: 2, exitRefuted: 3}
	if rank[a] > rank[b] {
		return a
	}
	return b
}

// System is the world outside the program. The zero values of Wait and Now
// mean the real clock.
type System struct {
	Stdin     io.Reader
	Stdout    io.Writer
	Stderr    io.Writer
	LookupEnv func(name string) (string, bool)
	Wait      func(ctx context.Context, d time.Duration) error
	Now       func() time.Time
}

const description = `Notarize documents with a Calpe service, and verify receipts without one.

A receipt (FILE.receipt.json) proves that a document existed before a Bitcoin block, and in whose log it was recorded. Keep the document and the receipt together: nothing else is needed to verify it, for ever, but Bitcoin's block headers.

Exit codes: 0 done, or all verdicts that were asked for hold; 1 refuted; 2 wrong usage, or a file, the service or the node failed; 3 not anchored yet, or not deep enough.`

type cli struct {
	Version kong.VersionFlag `help:"Print the version."`

	Upload   uploadCommand   `cmd:"" help:"Notarize files: the service keeps them, encrypted. Writes FILE.receipt.json."`
	Stamp    stampCommand    `cmd:"" help:"Notarize files by hash only: neither they nor their hash leave this machine. Writes FILE.receipt.json."`
	Receipt  receiptCommand  `cmd:"" help:"Bring a receipt up to date with what the log has proved since."`
	Verify   verifyCommand   `cmd:"" help:"Verify a receipt. Never asks the service."`
	Find     findCommand     `cmd:"" help:"Ask a service about a document, or the code of one, without a receipt."`
	Headers  headersCommand  `cmd:"" help:"Fetch Bitcoin's block headers from a node into a file, for verify."`
	Identity identityCommand `cmd:"" help:"Print the identity of a service's log, to be pinned."`
	OTS      otsCommand      `cmd:"" name:"ots" help:"OpenTimestamps files: stamp, upgrade, merge, verify; a receipt as one."`
	Audit    auditCommand    `cmd:"" help:"Mirror the public log of a service, and check all of it."`
	Certify  certifyCommand  `cmd:"" help:"For agencies: sign a certification of a document."`
	Keygen   keygenCommand   `cmd:"" help:"For agencies: make the key that signs certifications."`
}

// app is what commands work with.
type app struct {
	System
	terminal bool // messages go to a person who sees progress bars
}

// Run parses args, runs the command and returns the process's exit code.
// Results go to Stdout; messages, and progress on a terminal, to Stderr. A
// cancelled ctx ends it soon; whatever was begun can be gone on with by running
// the same command again.
func Run(ctx context.Context, args []string, sys System) int {
	if sys.Wait == nil {
		sys.Wait = pause
	}
	if sys.Now == nil {
		sys.Now = time.Now
	}
	a := &app{System: sys, terminal: progress.IsTerminal(sys.Stderr)}
	var c cli
	exited := -1
	parser, err := kong.New(&c,
		kong.Name("calpe"), kong.Description(description), kong.Vars{"version": buildinfo.Version("calpe")},
		kong.Writers(sys.Stdout, sys.Stderr), kong.Exit(func(code int) { exited = code }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.Resolvers(variables(sys.LookupEnv)), kong.ValueFormatter(describeFlag),
		kong.KindMapper(reflect.String, kong.MapperFunc(takeText)),
	)
	if err != nil {
		return a.fail(fmt.Errorf("command line: %w", err))
	}
	command, err := parser.Parse(args)
	if exited >= 0 { // --help, --version
		return exited
	}
	if err != nil {
		return a.fail(fmt.Errorf("%w; see %s --help", err, commandOf(err)))
	}
	command.BindTo(ctx, (*context.Context)(nil))
	if err := command.Run(a); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("interrupted; run the same command again to go on: %w", err)
		}
		return a.fail(err)
	}
	return exitOK
}

// commandOf is how far the command line could be read: "calpe verify".
func commandOf(err error) string {
	if wrong, ok := errors.AsType[*kong.ParseError](err); ok && wrong.Context.Selected() != nil {
		return wrong.Context.Selected().FullPath()
	}
	return "calpe"
}

// variables resolves flags that aren't on the command line from the variable in
// their tag. (kong's own tag would read the process's environment.)
func variables(lookup func(string) (string, bool)) kong.ResolverFunc {
	return func(_ *kong.Context, _ *kong.Path, flag *kong.Flag) (any, error) {
		name := flag.Tag.Get("variable")
		if name == "" || lookup == nil {
			return nil, nil
		}
		if value, ok := lookup(name); ok && value != "" {
			return value, nil
		}
		return nil, nil
	}
}

// takeText takes a string byte for byte. (kong's own way is through JSON, which
// spoils the name of a file that isn't UTF-8.)
func takeText(ctx *kong.DecodeContext, target reflect.Value) error {
	token, err := ctx.Scan.PopValue("string")
	if err != nil {
		return err
	}
	text, ok := token.Value.(string)
	if !ok {
		return fmt.Errorf("expected a text, not a %T", token.Value)
	}
	target.SetString(text)
	return nil
}

func describeFlag(v *kong.Value) string {
	if name := v.Tag.Get("variable"); name != "" {
		return fmt.Sprintf("%s ($%s)", strings.TrimSuffix(v.Help, "."), name)
	}
	return v.Help
}

// fail prints what went wrong, unless that has been done, and gives the exit code.
func (a *app) fail(err error) int {
	if _, ok := errors.AsType[reported](err); !ok {
		fmt.Fprintf(a.Stderr, "calpe: %s\n", clean(err.Error()))
	}
	return exitCode(err)
}

// notice tells a person something that isn't a result.
func (a *app) notice(format string, args ...any) {
	fmt.Fprintf(a.Stderr, "%s\n", clean(fmt.Sprintf(format, args...)))
}

// each runs f for every item, prints each failure, and reports the worst.
func each[T any](ctx context.Context, a *app, items []T, f func(T) error) error {
	worst := exitOK
	for _, item := range items {
		if err := f(item); err != nil {
			worst = worse(worst, a.fail(err))
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	if worst != exitOK {
		return reported(worst)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
