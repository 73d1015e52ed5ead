package integration

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
)

// vectors are receipts, headers and an identity as anybody finds them.
const vectors = "../docs/vectors/"

// offline runs a program in a network namespace of its own, in which there is
// nothing, not even the loopback interface.
func offline(t testing.TB, argv ...string) (stdout, stderr string, code int) {
	t.Helper()
	args := []string{"--net"}
	if os.Geteuid() != 0 {
		args = append(args, "--map-root-user") // a user may make namespaces within one of users only
	}
	return inNetwork(t, append(append([]string{"unshare"}, args...), append([]string{"--"}, argv...)...))
}

// inNetwork runs a program as it is, without variables.
func inNetwork(t testing.TB, argv []string) (stdout, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var out, errs bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = []string{"PATH=" + os.Getenv("PATH")}, &out, &errs
	err := cmd.Run()
	if cmd.ProcessState == nil || ctx.Err() != nil {
		t.Fatalf("%v: %v, %v\n%s", argv, err, ctx.Err(), errs.String())
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// isOffline shows that the same program, run in the same way, reaches a server
// on this machine outside the namespace and none inside.
func isOffline(t testing.TB, calpe string) {
	t.Helper()
	if _, errs, code := offline(t, "true"); code != 0 {
		t.Fatalf("this machine gives no network namespace (exit code %d: %s). Run the tests as root, or allow users to make namespaces; in a container that takes CAP_SYS_ADMIN", code, strings.TrimSpace(errs))
	}
	var calls atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		calls.Add(1)
		http.Error(w, "I am no Bitcoin node.", http.StatusNotFound)
	}))
	defer server.Close()
	ask := []string{calpe, "verify", vectors + "document.txt", vectors + "receipts/certified.json", "--node", server.URL}
	if _, errs, code := inNetwork(t, ask); code != 2 || calls.Load() == 0 {
		t.Fatalf("outside, %d calls, exit code %d: %s", calls.Load(), code, errs)
	}
	before := calls.Load()
	if _, errs, code := offline(t, ask...); code != 2 || !strings.Contains(errs, "network is unreachable") {
		t.Fatalf("inside, exit code %d: %s", code, errs)
	}
	if calls.Load() != before {
		t.Fatal("inside, the server was reached")
	}
}

// TestVerifyWithoutNetwork: document, receipt, headers and identity, from files
// alone, are enough, and a forgery is found out in the same place.
func TestVerifyWithoutNetwork(t *testing.T) {
	calpe := built(t).calpe
	isOffline(t, calpe)
	for _, tc := range []struct {
		receipt string
		code    int
		says    string
	}{
		{"certified", 0, "Answer: HOLDS (asked: existence, log, certification)"},
		{"certification-changed-subject", 1, "Answer: REFUTED"},
		{"changed-height", 1, "Answer: REFUTED"},
		{"checkpointed", 1, "Answer: REFUTED"}, // another document's
	} {
		argv := []string{calpe, "verify", vectors + "document.txt", vectors + "receipts/" + tc.receipt + ".json",
			"--headers", vectors + "headers.bin", "--identity", vectors + "identity.json"}
		out, errs, code := offline(t, argv...)
		if code != tc.code || !strings.Contains(out, tc.says) {
			t.Errorf("%s: exit code %d, want %d and %q\n%s%s", tc.receipt, code, tc.code, tc.says, out, errs)
		}
	}
}

// TestTimestampFileWithoutNetwork: a receipt becomes an .ots file, and that is
// verified, in the same place.
func TestTimestampFileWithoutNetwork(t *testing.T) {
	calpe := built(t).calpe
	isOffline(t, calpe)
	file := filepath.Join(t.TempDir(), "document.txt.ots")
	if out, errs, code := offline(t, calpe, "ots", "export", vectors+"receipts/certified.json", "-o", file); code != 0 {
		t.Fatalf("export: exit code %d: %s%s", code, out, errs)
	}
	for document, want := range map[string]int{"document.txt": 0, "identity.json": 1} {
		out, errs, code := offline(t, calpe, "ots", "verify", vectors+document, file, "--headers", vectors+"headers.bin")
		if code != want || !strings.Contains(out, "Answer: ") {
			t.Errorf("%s: exit code %d, want %d\n%s%s", document, code, want, out, errs)
		}
	}
}
