// Package integration tests the whole of Calpe: the built server and client
// against real PostgreSQL, S3 and Bitcoin servers, as an operator would run them.
//
// The kill tests end the server, or the database, at the worst moments, and
// then hold everything that was ever acknowledged against what the log, object
// storage and the chain hold. What they find is named after the invariants I1 to
// I10 of docs/design.
package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// programs are the two binaries under test, built once in a run.
type programs struct {
	dir           string
	calped, calpe string // calped can be crashed at its commit points
}

var build = sync.OnceValues(func() (programs, error) {
	dir, err := os.MkdirTemp("", "calpe-integration-")
	if err != nil {
		return programs{}, err
	}
	p := programs{dir: dir, calped: filepath.Join(dir, "calped"), calpe: filepath.Join(dir, "calpe")}
	for _, args := range [][]string{
		{"-tags", "calpe_crashpoints", "-o", p.calped, "../cmd/calped"},
		{"-o", p.calpe, "../cmd/calpe"},
	} {
		args = append([]string{"build"}, args...)
		if raceEnabled {
			args = append(args[:1:1], append([]string{"-race"}, args[1:]...)...)
		}
		if out, err := exec.Command("go", args...).CombinedOutput(); err != nil {
			return p, fmt.Errorf("go %v: %w\n%s", args, err, out)
		}
	}
	return p, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if p, _ := build(); p.dir != "" {
		os.RemoveAll(p.dir)
	}
	os.Exit(code) //nolint:forbidigo // TestMain is a main
}

func built(t testing.TB) programs {
	t.Helper()
	p, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// setting is a variable that "make test" sets.
func setting(t testing.TB, name string) string {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		t.Fatalf("%s is not set: run \"make test\", which starts the servers that the tests need", name)
	}
	return value
}

// patience is for whatever must happen in the end. What takes a second on a
// machine that is idle may take a minute on one that isn't.
const patience = 4 * time.Minute

// eventually calls probe every so often until it gives nil. It fails the test
// when that takes more than patience, with the last error.
func eventually(t testing.TB, what string, probe func(ctx context.Context) error) {
	t.Helper()
	if err := poll(t.Context(), patience, probe); err != nil {
		t.Fatalf("%s: not within %v: %v", what, patience, err)
	}
}

// poll is eventually for those that may not end the test.
func poll(ctx context.Context, within time.Duration, probe func(ctx context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		err := probe(ctx)
		if err == nil {
			return nil
		}
		if last == nil || !errors.Is(err, context.DeadlineExceeded) {
			last = err
		}
		select {
		case <-ctx.Done():
			return last
		case <-tick.C:
		}
	}
}

// pause waits, unless ctx ends first.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// tail is the end of a log file, for messages, without the refusals that clients
// bring about all the time while something is down.
func tail(path string, lines int) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	var kept [][]byte
	for line := range bytes.Lines(text) {
		if !bytes.Contains(line, []byte(`"msg":"request failed"`)) || !bytes.Contains(line, []byte(`"code":"unavailable"`)) {
			kept = append(kept, line)
		}
	}
	return string(bytes.Join(kept[max(0, len(kept)-lines):], nil))
}
