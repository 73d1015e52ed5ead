package process

import (
	"bufio"
	"context"
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

// TestMain lets the test binary play the parts of other processes: one that
// starts a child and waits to be killed, and a guard.
func TestMain(m *testing.M) {
	switch os.Getenv("PROCESS_TEST_PART") {
	case "parent":
		p, err := Start(context.Background(), sleeper(os.Getenv("PROCESS_TEST_DIR")))
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(p.PID())
		<-p.Done()
	case "guard":
		code, err := Guard(context.Background(), os.Args[1:])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(code)
	default:
		os.Exit(m.Run())
	}
}

func sleeper(dir string) Config {
	return script(dir, "exec sleep 600")
}

func script(dir, text string) Config {
	return Config{
		Name: "testee", Path: "/bin/sh", Args: []string{"-c", text},
		Dir: dir, Env: Environment(dir), Log: filepath.Join(dir, "log"),
	}
}

func start(t *testing.T, cfg Config) *Process {
	t.Helper()
	p, err := Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	return p
}

// eventually polls, as the state of a foreign process gives no signal.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(2 * time.Minute)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not within 2 minutes: %s", what)
		case <-tick.C:
		}
	}
}

// gone reports whether no process has the id; a zombie has ended too.
func gone(pid int) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, state, _, ok := parseStat(string(line))
	return ok && state == "Z"
}

func fileHas(path, text string) func() bool {
	return func() bool {
		got, err := os.ReadFile(path)
		return err == nil && strings.Contains(string(got), text)
	}
}

func TestStopAsksFirst(t *testing.T) {
	cfg := script(t.TempDir(), `trap 'echo asked; exit 0' INT; echo up; while :; do sleep 0.01; done`)
	cfg.Stop = syscall.SIGINT
	p := start(t, cfg)
	eventually(t, "script is up", fileHas(cfg.Log, "up"))
	p.Stop()
	if got := Tail(cfg.Log); got != "up\nasked" {
		t.Errorf("log = %q, want the answer to the signal", got)
	}
	p.Stop() // may be called again
	if !gone(p.PID()) {
		t.Error("process is still there after Stop")
	}
}

func TestStopKillsTheDeaf(t *testing.T) {
	cfg := script(t.TempDir(), `trap '' TERM; echo up; while :; do sleep 0.01; done`)
	cfg.Grace = 50 * time.Millisecond
	p := start(t, cfg)
	eventually(t, "script is up", fileHas(cfg.Log, "up"))
	p.Stop()
	if !gone(p.PID()) {
		t.Error("process survived")
	}
}

func TestContextEndsProcess(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	p, err := Start(ctx, sleeper(t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	<-p.Done()
}

func TestStartFails(t *testing.T) {
	cfg := sleeper(t.TempDir())
	cfg.Path = "/nonexistent"
	if _, err := Start(t.Context(), cfg); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "testee") {
		t.Errorf("err = %v, want one that names the program and says that there is none", err)
	}
	cfg = sleeper(t.TempDir())
	cfg.Log = filepath.Join(cfg.Dir, "no", "log")
	if _, err := Start(t.Context(), cfg); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("err = %v, want that the log can't be made", err)
	}
}

func TestFailure(t *testing.T) {
	for _, tt := range []struct {
		name, script, want string
		portTaken          bool
	}{
		{"code", "echo broken; exit 3", "exit status 3", false},
		{"clean exit", "echo bye", "exit status 0", false},
		{"signal", "kill -9 $$", "signal: killed", false},
		{"port of Go", "echo 'listen tcp 127.0.0.1:1: bind: address already in use'; exit 1", "exit status 1", true},
		{"port of PostgreSQL", "echo 'could not bind: Address already in use'; exit 1", "exit status 1", true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := start(t, script(t.TempDir(), tt.script))
			err := p.WaitReady(t.Context(), func(context.Context) error { return errors.New("not yet") })
			if !errors.Is(err, ErrEnded) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("err = %v, want ErrEnded with %q", err, tt.want)
			}
			if got := errors.Is(err, ErrPortTaken); got != tt.portTaken {
				t.Errorf("ErrPortTaken is %v, want %v: %v", got, tt.portTaken, err)
			}
		})
	}
}

func TestWaitReady(t *testing.T) {
	p := start(t, sleeper(t.TempDir()))
	tries := 0
	err := p.WaitReady(t.Context(), func(context.Context) error {
		if tries++; tries < 3 {
			return errors.New("not yet")
		}
		return nil
	})
	if err != nil || tries != 3 {
		t.Errorf("err = %v after %d tries, want success at the third", err, tries)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	err = p.WaitReady(ctx, func(context.Context) error { return errors.New("refused by server") })
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "refused by server") {
		t.Errorf("err = %v, want the deadline and the last answer", err)
	}
}

// TestParentKilled kills a process that has a child, as kill -9 does.
func TestParentKilled(t *testing.T) {
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), "PROCESS_TEST_PART=parent", "PROCESS_TEST_DIR="+t.TempDir())
	pid := startAndReadPID(t, parent)
	if gone(pid) {
		t.Fatal("child isn't there")
	}
	parent.Process.Kill()
	parent.Wait()
	eventually(t, "child of a killed parent ends", func() bool { return gone(pid) })
}

func startAndReadPID(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("read pid: %v", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatalf("parse pid: %v", err)
	}
	return pid
}

func guarded(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), "PROCESS_TEST_PART=guard")
	return cmd
}

func TestGuardCode(t *testing.T) {
	for _, tt := range []struct {
		script string
		want   int
	}{
		{"exit 0", 0},
		{"exit 7", 7},
		{"kill -9 $$", 137},
		{"kill -TERM $$", 143},
	} {
		cmd := guarded("/bin/sh", "-c", tt.script)
		cmd.Run()
		if got := cmd.ProcessState.ExitCode(); got != tt.want {
			t.Errorf("%s: exit code %d, want %d", tt.script, got, tt.want)
		}
	}
}

// TestGuardLeavesNothing runs a command that leaves a process behind, in a
// session of its own and deaf to SIGTERM.
func TestGuardLeavesNothing(t *testing.T) {
	const leave = `setsid sh -c 'trap "" TERM; echo $$; exec >&-; while :; do sleep 0.01; done' & `
	t.Run("command ends", func(t *testing.T) {
		cmd := guarded("/bin/sh", "-c", leave+"sleep 0.2")
		pid := startAndReadPID(t, cmd)
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		if !gone(pid) {
			t.Error("process was left behind")
		}
	})
	t.Run("signal is passed on", func(t *testing.T) {
		cmd := guarded("/bin/sh", "-c", leave+"trap 'exit 9' TERM; while :; do sleep 0.01; done")
		pid := startAndReadPID(t, cmd)
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 9 || !gone(pid) {
			t.Errorf("exit code %d, want the command's 9; process gone: %v", code, gone(pid))
		}
	})
	t.Run("guard's parent is killed", func(t *testing.T) {
		self := os.Args[0]
		cmd := exec.Command("/bin/sh", "-c", `"$0" "$@"; true`, self, "/bin/sh", "-c", leave+"sleep 600")
		cmd.Env = append(os.Environ(), "PROCESS_TEST_PART=guard")
		pid := startAndReadPID(t, cmd)
		cmd.Process.Kill()
		eventually(t, "process below an orphaned guard ends", func() bool { return gone(pid) })
	})
}

func TestTail(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	var all strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&all, "line %d\n", i)
	}
	if err := os.WriteFile(path, []byte(all.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	got := strings.Split(Tail(path), "\n")
	if len(got) != tailLines || got[0] != "line 985" || got[tailLines-1] != "line 999" {
		t.Errorf("tail = %q", got)
	}
	if got := Tail(path + ".not"); !strings.Contains(got, "no such file") {
		t.Errorf("tail of no file = %q", got)
	}
}

func TestRun(t *testing.T) {
	out, err := Run(t.Context(), Command{Path: "/bin/sh", Args: []string{"-c", "pwd; echo $A"}, Dir: "/", Env: []string{"A=b"}})
	if err != nil || out != "/\nb\n" {
		t.Errorf("out %q, err %v", out, err)
	}
	out, err = Run(t.Context(), Command{Path: "/bin/sh", Args: []string{"-c", "echo why >&2; exit 4"}})
	if err == nil || !strings.Contains(err.Error(), "exit status 4\nwhy") || out != "why\n" {
		t.Errorf("out %q, err %v; want code and output", out, err)
	}
	var errs strings.Builder
	out, err = Run(t.Context(), Command{Path: "/bin/sh", Args: []string{"-c", "echo out; echo err >&2"}, Stderr: &errs})
	if err != nil || out != "out\n" || errs.String() != "err\n" {
		t.Errorf("out %q, standard error %q, %v; want them apart", out, &errs, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := Run(ctx, Command{Path: "/bin/sleep", Args: []string{"600"}}); err == nil {
		t.Error("command outlived its context")
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("PGDATA", "/elsewhere")
	env := strings.Join(Environment("/d", "X=1"), " ")
	if strings.Contains(env, "PGDATA") || !strings.Contains(env, "HOME=/d") || !strings.Contains(env, "X=1") {
		t.Errorf("environment = %s", env)
	}
}
