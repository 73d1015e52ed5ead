package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
)

func mustCalped(t *testing.T, args ...string) string {
	t.Helper()
	code, stdout, stderr := calped(t, args...)
	if code != exitOK {
		t.Fatalf("calped %s: exit %d: %s", strings.Join(args, " "), code, stderr)
	}
	return stdout
}

// The keystore's commands, from the first key to the second, with a passphrase
// that was drawn and then moved to a systemd credential.
func TestWalletCommands(t *testing.T) {
	keys, credentials := filepath.Join(t.TempDir(), "keys"), t.TempDir()
	flags := []string{"--network=regtest", "--keys=" + keys}
	do := func(args ...string) string { return mustCalped(t, append(args, flags...)...) }
	made := do("wallet", "init")
	address := strings.TrimSpace(do("wallet", "address"))
	if !strings.Contains(made, address) || !strings.HasPrefix(address, "bcrt1q") {
		t.Errorf("address is %s after\n%s", address, made)
	}
	content, err := os.ReadFile(filepath.Join(keys, walletFile))
	if err != nil || !strings.HasPrefix(string(content), "-----BEGIN AGE ENCRYPTED FILE-----\n") {
		t.Errorf("keystore: %v\n%s", err, content)
	}
	if code, _, stderr := calped(t, append([]string{"wallet", "init"}, flags...)...); code != exitFail || !strings.Contains(stderr, "exists") {
		t.Errorf("a second keystore over the first: exit %d: %s", code, stderr)
	}
	drawn := filepath.Join(keys, passphraseFile)
	if info, err := os.Stat(drawn); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("passphrase: %v, %v", info, err)
	}
	if err := os.Rename(drawn, filepath.Join(credentials, "wallet-passphrase")); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := calped(t, append([]string{"wallet", "address"}, flags...)...); code != exitFail || !strings.Contains(stderr, passphraseFile) {
		t.Errorf("without a passphrase: exit %d: %s", code, stderr)
	}
	t.Setenv("CREDENTIALS_DIRECTORY", credentials)
	if got := strings.TrimSpace(do("wallet", "address")); got != address {
		t.Errorf("by credential the address is %s, was %s", got, address)
	}
	rotated := do("wallet", "rotate")
	current := strings.TrimSpace(do("wallet", "address"))
	if current == address || !strings.Contains(rotated, current) {
		t.Errorf("after a rotation the address is %s:\n%s", current, rotated)
	}
	var watch []watchOnly
	if err := json.Unmarshal([]byte(do("wallet", "export-watch")), &watch); err != nil || len(watch) != 2 {
		t.Fatalf("watch-only export of %d keys: %v", len(watch), err)
	}
	for i, want := range []string{address, current} {
		if w := watch[i]; w.Label != "calpe "+want || w.Timestamp < 1_700_000_000 || !strings.HasPrefix(w.Descriptor, "wpkh(0") || w.Descriptor[len(w.Descriptor)-9] != '#' {
			t.Errorf("export of %s is %+v", want, w)
		}
	}
}

func TestPassphraseFile(t *testing.T) {
	keys := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(keys, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := write("good", "a passphrase of the operator\n")
	flags := []string{"--network=regtest", "--keys=" + keys}
	mustCalped(t, append(flags, "wallet", "init", "--wallet-passphrase-file="+good)...)
	if _, err := os.Stat(filepath.Join(keys, passphraseFile)); err == nil {
		t.Error("a passphrase was drawn beside the operator's")
	}
	for name, c := range map[string]struct{ file, say string }{
		"right":   {good, ""},
		"wrong":   {write("wrong", "a passphrase of somebody else\n"), "doesn't open"},
		"empty":   {write("empty", "\n"), "is empty"},
		"missing": {filepath.Join(keys, "none"), "no such file"},
	} {
		code, _, stderr := calped(t, append(flags, "wallet", "address", "--wallet-passphrase-file="+c.file)...)
		if (code == exitOK) != (c.say == "") || !strings.Contains(stderr, c.say) || strings.Contains(stderr, "a passphrase of") {
			t.Errorf("%s: exit %d: %s", name, code, stderr)
		}
	}
	if code, _, stderr := calped(t, append(flags, "init", "--origin=a.example/log", "--wallet-passphrase-file="+write("short", "short"), "--keys="+t.TempDir())...); code != exitFail || !strings.Contains(stderr, "at least 16") {
		t.Errorf("a short passphrase: exit %d: %s", code, stderr)
	}
}
