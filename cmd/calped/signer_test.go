package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/signer"
)

// asCalped lets this test program be calped, for what needs a process of its own.
const asCalped = "CALPE_TEST_AS_CALPED"

func TestMain(m *testing.M) {
	if os.Getenv(asCalped) != "" {
		main()
		return
	}
	m.Run()
}

// signerFiles makes a keystore and a state, and gives the flags for them.
func signerFiles(t *testing.T) (flags []string, dir string) {
	t.Helper()
	dir = t.TempDir()
	flags = []string{"--network=regtest", "--keys=" + filepath.Join(dir, "keys")}
	mustCalped(t, append([]string{"wallet", "init"}, flags...)...)
	mustCalped(t, append([]string{"signer", "init", "--state=" + filepath.Join(dir, "state.json")}, flags...)...)
	return flags, dir
}

// waitFor asks the signer until it answers.
func waitFor(t *testing.T, socket string) signer.Status {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		s, err := signer.NewRemote(socket).Status(ctx)
		if err == nil {
			return s
		}
		select {
		case <-ctx.Done():
			t.Fatalf("the signer doesn't answer: %v", err)
		case <-tick.C:
		}
	}
}

func TestSignerCommands(t *testing.T) {
	flags, dir := signerFiles(t)
	socket, state := filepath.Join(dir, "socket"), "--state="+filepath.Join(dir, "state.json")
	address := strings.TrimSpace(mustCalped(t, append([]string{"wallet", "address"}, flags...)...))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan string, 1)
	go func() {
		var out, errs bytes.Buffer
		code := run(ctx, append([]string{"signer", "serve", state, "--signer-socket=" + socket}, flags...), &out, &errs)
		done <- fmt.Sprintf("exit %d: %s", code, errs.String())
	}()
	if s := waitFor(t, socket); s.Network != calpe.Regtest || s.Size != 0 || len(s.Scripts) != 1 || s.Budget != 100_000 {
		t.Errorf("status is %+v", s)
	}
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("socket: %v, %v", info.Mode(), err)
	}
	if out := mustCalped(t, "signer", "status", "--signer-socket="+socket); !strings.Contains(out, address) || !strings.Contains(out, "0 of 100000 sat") {
		t.Errorf("signer status:\n%s", out)
	}
	// With a signer, the engine's folder needs no anchor key at all.
	keys := filepath.Join(dir, "engine")
	engine := []string{"--network=regtest", "--keys=" + keys, "--signer-socket=" + socket}
	if out := mustCalped(t, append(engine, "init", "--origin=a.example/log")...); !strings.Contains(out, address) || strings.Contains(out, walletFile) {
		t.Errorf("init beside a signer:\n%s", out)
	}
	if got := strings.TrimSpace(mustCalped(t, append(engine, "wallet", "address")...)); got != address {
		t.Errorf("the signer's address is %s, and calped says %s", address, got)
	}
	for file, gone := range map[string]bool{walletFile: true, passphraseFile: true, keyringFile: false} {
		if _, err := os.Stat(filepath.Join(keys, file)); os.IsNotExist(err) != gone {
			t.Errorf("%s: %v", file, err)
		}
	}
	if code, _, stderr := calped(t, "wallet", "address", "--network=signet", "--signer-socket="+socket); code != exitFail || !strings.Contains(stderr, "regtest") {
		t.Errorf("a signer of another network: exit %d: %s", code, stderr)
	}
	// A second signer on the same state, and a new state under a running signer.
	if code, _, stderr := calped(t, append(flags, "signer", "serve", state, "--signer-socket="+socket+"2")...); code != exitFail || !strings.Contains(stderr, "another signer") {
		t.Errorf("two signers: exit %d: %s", code, stderr)
	}
	cancel()
	if got := <-done; !strings.HasPrefix(got, "exit 0") {
		t.Error(got)
	}
}

func TestSignerRefusesToStart(t *testing.T) {
	flags, dir := signerFiles(t)
	socket, state := "--signer-socket="+filepath.Join(dir, "socket"), "--state="+filepath.Join(dir, "state.json")
	root := strings.Repeat("ab12", 10) + "ab0="
	for name, c := range map[string]struct {
		args []string
		say  string
	}{
		"no state":       {[]string{"serve", socket, "--state=" + filepath.Join(dir, "none")}, "signer init"},
		"no socket":      {[]string{"serve", state}, "CALPE_SIGNER_SOCKET"},
		"no such user":   {[]string{"serve", state, socket, "--client-user=nobody-of-that-name"}, "nobody-of-that-name"},
		"low caps":       {[]string{"serve", state, socket, "--anchor-max-fee=10"}, "below"},
		"state is there": {[]string{"init", state}, "--replace"},
		"size alone":     {[]string{"init", state, "--size=5"}, "together"},
		"root alone":     {[]string{"init", state, "--root=" + root}, "together"},
		"half a root":    {[]string{"init", state, "--size=5", "--root=abab"}, "--root"},
		"status of none": {[]string{"status"}, "CALPE_SIGNER_SOCKET"},
	} {
		code, _, stderr := calped(t, append(append([]string{"signer"}, c.args...), flags...)...)
		if code != exitFail || !strings.Contains(stderr, c.say) {
			t.Errorf("%s: exit %d, want %q in: %s", name, code, c.say, stderr)
		}
	}
	out := mustCalped(t, append([]string{"signer", "init", state, "--size=5", "--root=" + root, "--replace"}, flags...)...)
	if !strings.Contains(out, "5 entries") {
		t.Errorf("signer init: %s", out)
	}
}

// As systemd starts it: the socket is there before the process, and is passed.
func TestSignerTakesPassedSocket(t *testing.T) {
	flags, dir := signerFiles(t)
	socket := filepath.Join(dir, "socket")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	passed, err := listener.File()
	if err != nil {
		t.Fatal(err)
	}
	defer passed.Close()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	start := func(count string) (*exec.Cmd, *bytes.Buffer) {
		// The shell is the process that becomes calped, and so knows its number.
		cmd := exec.CommandContext(t.Context(), "sh", append([]string{"-c", `LISTEN_PID=$$ LISTEN_FDS=` + count + ` exec "$0" "$@"`,
			program, "signer", "serve", "--state=" + filepath.Join(dir, "state.json")}, flags...)...)
		cmd.Env = append(os.Environ(), asCalped+"=1")
		cmd.ExtraFiles = []*os.File{passed}
		var errs bytes.Buffer
		cmd.Stderr = &errs
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, &errs
	}
	cmd, errs := start("1")
	if s := waitFor(t, socket); s.Network != calpe.Regtest {
		t.Errorf("status is %+v", s)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("signer: %v\n%s", err, errs)
	}
	cmd, errs = start("2")
	if err := cmd.Wait(); err == nil || !strings.Contains(errs.String(), "takes one") {
		t.Errorf("with two sockets: %v\n%s", err, errs)
	}
}
