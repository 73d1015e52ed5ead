package command_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/calpe/calpe/deploy/devstack/internal/postgres"
	"github.com/google/go-cmp/cmp"
)

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "devstack-test-")
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "devstack"), "../..")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Printf("build devstack: %v\n%s", err, out)
		os.Exit(1)
	}
	os.Setenv("DEVSTACK_UNDER_TEST", filepath.Join(dir, "devstack"))
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

// command is devstack with a folder of its own for temporary files.
func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Getenv("DEVSTACK_UNDER_TEST"), args...)
	for _, v := range os.Environ() {
		if name, _, _ := strings.Cut(v, "="); name != "DATABASE_URL" && !strings.HasPrefix(name, "CALPE_TEST_") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.Env = append(cmd.Env, "TMPDIR="+t.TempDir())
	return cmd
}

// result runs a command to its end.
func result(cmd *exec.Cmd) (stdout, stderr string, code int) {
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Run()
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// server starts one of the server commands and reads its line.
func server(t *testing.T, args ...string) (*exec.Cmd, map[string]any) {
	t.Helper()
	cmd := command(t, args...)
	line := firstLine(t, cmd)
	var info map[string]any
	if err := json.Unmarshal([]byte(line), &info); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	return cmd, info
}

// firstLine starts cmd and returns the first line it prints.
func firstLine(t *testing.T, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if cmd.Stderr == nil {
		cmd.Stderr = os.Stderr
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("read first line: %v", err)
	}
	return line
}

func pid(info map[string]any) int { return int(info["pid"].(float64)) }

func gone(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return err != nil || strings.Contains(string(text), "State:\tZ")
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(2 * time.Minute)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("not within 2 minutes: %s", what)
		case <-tick.C:
		}
	}
}

// below lists the processes that have pid as their ancestor.
func below(t *testing.T, pid int) (pids []int) {
	t.Helper()
	children, err := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range children {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		for _, field := range strings.Fields(string(text)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(append(pids, child), below(t, child)...)
		}
	}
	return pids
}

const showEnvironment = `env | grep ^CALPE_TEST_ | sort`

func TestExecEnvironment(t *testing.T) {
	cmd := command(t, "exec", "--bitcoin", "--", "sh", "-c", showEnvironment)
	cmd.Env = append(cmd.Env, "CALPE_TEST_OUTER=1")
	out, errs, code := result(cmd)
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, errs)
	}
	got := map[string]string{}
	for line := range strings.Lines(out) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		got[name] = value
	}
	for name, prefix := range map[string]string{
		"CALPE_TEST_DATABASE_URL":  "postgres://calpe:",
		"CALPE_TEST_S3_ENDPOINT":   "http://127.0.0.1:",
		"CALPE_TEST_S3_ACCESS_KEY": "",
		"CALPE_TEST_S3_SECRET_KEY": "",
		"CALPE_TEST_BITCOIN_URL":   "http://calpe:",
		"CALPE_TEST_BTCD":          "/",
		"CALPE_TEST_DEVSTACK":      os.Getenv("DEVSTACK_UNDER_TEST"),
	} {
		if value := got[name]; value == "" || !strings.HasPrefix(value, prefix) {
			t.Errorf("%s=%q, want %q…", name, value, prefix)
		}
	}
	if len(got) != 7 {
		t.Errorf("variables: %v", got)
	}
}

func TestExecUsesDatabaseURL(t *testing.T) {
	_, info := server(t, "postgres", "--dir", t.TempDir())
	url := info["url"].(string)
	cmd := command(t, "exec", "--", "sh", "-c", "echo $CALPE_TEST_DATABASE_URL")
	cmd.Env = append(cmd.Env, "DATABASE_URL="+url)
	if out, errs, code := result(cmd); code != 0 || strings.TrimSpace(out) != url {
		t.Errorf("database %q, code %d; want %q\n%s", out, code, url, errs)
	}
	cmd = command(t, "exec", "--", "true")
	cmd.Env = append(cmd.Env, "DATABASE_URL="+strings.Replace(url, "calpe:", "nobody:", 1))
	if _, errs, code := result(cmd); code != 1 || !strings.Contains(errs, "DATABASE_URL") {
		t.Errorf("code %d: %s; want that DATABASE_URL doesn't work", code, errs)
	}
}

func TestExecCode(t *testing.T) {
	for script, want := range map[string]int{"exit 0": 0, "exit 42": 42, "kill -9 $$": 137} {
		t.Run(script, func(t *testing.T) {
			cmd := command(t, "exec", "--", "sh", "-c", script)
			if _, errs, code := result(cmd); code != want {
				t.Errorf("code %d, want %d; %s", code, want, errs)
			}
			tmp := strings.TrimPrefix(cmd.Env[len(cmd.Env)-1], "TMPDIR=")
			if left, err := os.ReadDir(tmp); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
	if _, errs, code := result(command(t, "exec", "--", "no-such-command")); code != 1 || !strings.Contains(errs, "no-such-command") {
		t.Errorf("code %d: %s", code, errs)
	}
}

// TestExecServerDied: a command can't be trusted whose server died under it.
func TestExecServerDied(t *testing.T) {
	cmd := command(t, "exec", "--", "sh", "-c", "echo up; read line")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	firstLine(t, cmd)
	killed := 0
	for _, pid := range running("versitygw --port") {
		if slices.Contains(below(t, cmd.Process.Pid), pid) {
			syscall.Kill(pid, syscall.SIGKILL)
			eventually(t, "versitygw is dead", func() bool { return gone(pid) })
			killed++
		}
	}
	io.WriteString(stdin, "end\n")
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); killed != 1 || code != 1 || !strings.Contains(errs.String(), "versitygw: server ended by itself") {
		t.Errorf("killed %d, code %d: %s", killed, code, &errs)
	}
}

// running lists the processes whose command line contains text.
func running(text string) (pids []int) {
	paths, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range paths {
		line, err := os.ReadFile(path)
		if err != nil || !strings.Contains(strings.ReplaceAll(string(line), "\x00", " "), text) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// TestExecKilled kills devstack as kill -9 does; a process in a session of its
// own must not escape.
func TestExecKilled(t *testing.T) {
	cmd := command(t, "exec", "--bitcoin", "--", "sh", "-c", "setsid sleep 601 & echo up; sleep 602")
	firstLine(t, cmd)
	all := below(t, cmd.Process.Pid)
	// Guard, sh, two sleeps, versitygw, btcd, postgres and its own processes.
	if len(all) < 8 {
		t.Fatalf("only %d processes below devstack", len(all))
	}
	cmd.Process.Kill()
	eventually(t, "no process is left", func() bool {
		for _, pid := range all {
			if !gone(pid) {
				return false
			}
		}
		return true
	})
}

func TestExecPassesSignalsOn(t *testing.T) {
	cmd := command(t, "exec", "--", "sh", "-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.01; done")
	firstLine(t, cmd)
	all := below(t, cmd.Process.Pid)
	cmd.Process.Signal(syscall.SIGTERM)
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 5 {
		t.Errorf("exit code %d, want the command's 5", code)
	}
	for _, pid := range all {
		if !gone(pid) {
			t.Errorf("process %d is left", pid)
		}
	}
}

func TestTwoAtOnce(t *testing.T) {
	var both sync.WaitGroup
	outs := make([]string, 2)
	for i := range outs {
		cmd := command(t, "exec", "--", "sh", "-c", showEnvironment)
		both.Go(func() {
			out, errs, code := result(cmd)
			if code != 0 {
				t.Errorf("code %d: %s", code, errs)
			}
			outs[i] = out
		})
	}
	both.Wait()
	if outs[0] == outs[1] {
		t.Errorf("two stacks share servers: %s", outs[0])
	}
}

// TestServers holds the lines to the contract in README.md, runs each server
// until SIGTERM, and sees that it is gone with devstack.
func TestServers(t *testing.T) {
	for _, tt := range []struct {
		args []string
		keys []string
	}{
		{[]string{"postgres"}, []string{"component", "pid", "url", "version", "durable", "binaries", "dir", "log"}},
		{[]string{"s3"}, []string{"component", "pid", "url", "region", "access_key", "secret_key", "sidecar", "dir", "log"}},
		{[]string{"bitcoin"}, []string{"component", "pid", "url", "p2p", "network", "genesis", "miner_address", "height", "tip", "dir", "log"}},
	} {
		t.Run(tt.args[0], func(t *testing.T) {
			cmd, info := server(t, append(tt.args, "--dir", t.TempDir())...)
			if info["component"] != tt.args[0] {
				t.Errorf("component %v", info["component"])
			}
			want := map[string]bool{}
			for _, key := range tt.keys {
				want[key] = true
			}
			got := map[string]bool{}
			for key := range maps.Keys(info) {
				got[key] = true
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("keys: %s", diff)
			}
			if gone(pid(info)) {
				t.Fatal("the server isn't there")
			}
			cmd.Process.Signal(syscall.SIGTERM)
			if err := cmd.Wait(); err != nil {
				t.Errorf("exit: %v", err)
			}
			if !gone(pid(info)) {
				t.Error("the server outlived devstack")
			}
		})
	}
}

// TestServerEnds: devstack tells when the server under it dies, and a server
// ends when devstack is killed, or when whoever started devstack dies.
func TestServerEnds(t *testing.T) {
	t.Run("server killed", func(t *testing.T) {
		cmd := command(t, "postgres", "--dir", t.TempDir())
		var errs bytes.Buffer
		cmd.Stderr = &errs
		var info map[string]any
		if err := json.Unmarshal([]byte(firstLine(t, cmd)), &info); err != nil {
			t.Fatal(err)
		}
		syscall.Kill(pid(info), syscall.SIGKILL)
		cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 1 || !strings.Contains(errs.String(), "ended by itself") || !strings.Contains(errs.String(), "database system is ready") {
			t.Errorf("code %d, %s; want 1 and the end of the log", code, &errs)
		}
	})
	t.Run("devstack killed", func(t *testing.T) {
		cmd, info := server(t, "postgres", "--dir", t.TempDir())
		cmd.Process.Kill()
		eventually(t, "server ends", func() bool { return gone(pid(info)) })
	})
	t.Run("parent killed", func(t *testing.T) {
		inner := command(t, "s3", "--dir", t.TempDir())
		shell := exec.Command("sh", append([]string{"-c", `"$0" "$@"; true`, inner.Path}, inner.Args[1:]...)...)
		shell.Env = inner.Env
		var info map[string]any
		if err := json.Unmarshal([]byte(firstLine(t, shell)), &info); err != nil {
			t.Fatal(err)
		}
		shell.Process.Kill()
		eventually(t, "server ends", func() bool { return gone(pid(info)) })
	})
}

func TestSameFolder(t *testing.T) {
	dir := t.TempDir()
	_, first := server(t, "postgres", "--dir", dir)
	if _, errs, code := result(command(t, "postgres", "--dir", dir)); code != 1 || !strings.Contains(errs, "in use by another devstack") {
		t.Errorf("code %d: %s", code, errs)
	}
	if err := postgres.Ping(t.Context(), first["url"].(string)); err != nil {
		t.Errorf("the first server suffered: %v", err)
	}
}

func TestFaucet(t *testing.T) {
	_, info := server(t, "bitcoin", "--dir", t.TempDir())
	url := info["url"].(string)
	var block struct {
		Blocks []string
		Height int
	}
	out, errs, code := result(command(t, "mine", "--rpc", url, "2"))
	if err := json.Unmarshal([]byte(out), &block); err != nil || code != 0 || len(block.Blocks) != 2 || block.Height != 122 {
		t.Errorf("code %d, %s%s", code, out, errs)
	}
	var paid map[string]any
	out, errs, code = result(command(t, "fund", "--rpc", url, info["miner_address"].(string), "12345"))
	if err := json.Unmarshal([]byte(out), &paid); err != nil || code != 0 || len(paid["txid"].(string)) != 64 || paid["vout"] != 0.0 || paid["value"] != 12345.0 {
		t.Errorf("code %d, %s%s", code, out, errs)
	}
	for _, args := range [][]string{
		{"mine", "--rpc", url, "0"},
		{"mine", "--rpc", url, "100000"},
		{"mine", "--rpc", "http://127.0.0.1:1", "1"},
		{"fund", "--rpc", url, "hello", "1000"},
		{"fund", "--rpc", url, info["miner_address"].(string), "1"},
	} {
		if out, errs, code := result(command(t, args...)); code != 1 || errs == "" || out != "" {
			t.Errorf("%v: code %d, %q, %q", args, code, out, errs)
		}
	}
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{
		{}, {"nothing"}, {"postgres"}, {"exec"}, {"fund", "--rpc", "x", "a"}, {"mine", "1"},
		{"bitcoin", "--dir", "x", "--network", "mainnet"}, {"mine", "--rpc", "x", "many"},
	} {
		if _, errs, code := result(command(t, args...)); code != 2 || !strings.Contains(errs, "devstack:") {
			t.Errorf("%v: code %d, %q", args, code, errs)
		}
	}
	if out, _, code := result(command(t, "--help")); code != 0 || !strings.Contains(out, "throw-away stack") || strings.Contains(out, "guard") {
		t.Errorf("help: code %d, %s", code, out)
	}
}

// TestNoReader closes the pipe that the line goes to: devstack must not leave
// a server behind.
func TestNoReader(t *testing.T) {
	dir := t.TempDir()
	cmd := command(t, "s3", "--dir", dir)
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = w, io.Discard
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r.Close()
	w.Close()
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code == 0 {
		t.Error("exit code 0 without a reader")
	}
	eventually(t, "no versitygw on the folder", func() bool {
		return len(running(dir)) == 0
	})
}
