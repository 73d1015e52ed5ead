package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write docs/settings.md")

// calped runs the command line in this process, with nothing from the
// environment.
func calped(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	for _, variable := range os.Environ() {
		if name, _, _ := strings.Cut(variable, "="); strings.HasPrefix(name, "CALPE_") && !strings.HasPrefix(name, "CALPE_TEST_") {
			t.Setenv(name, "")
			os.Unsetenv(name)
		}
	}
	var out, errs bytes.Buffer
	code = run(t.Context(), args, &out, &errs)
	return code, out.String(), errs.String()
}

func TestHelpNamesEveryCommand(t *testing.T) {
	code, stdout, _ := calped(t, "--help")
	if code != exitOK {
		t.Errorf("exit %d", code)
	}
	for _, command := range []string{"serve", "doctor", "fsck", "migrate", "init", "wallet", "log", "agency", "token", "keyring", "signer"} {
		if !strings.Contains(stdout, command) {
			t.Errorf("help doesn't name %q:\n%s", command, stdout)
		}
	}
}

func TestVersion(t *testing.T) {
	if code, stdout, _ := calped(t, "--version"); code != exitOK || !strings.HasPrefix(stdout, "calped ") || strings.Count(stdout, "\n") != 1 {
		t.Errorf("exit %d: %q", code, stdout)
	}
}

func TestUsageErrors(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		want int
		say  string
	}{
		"no command":       {nil, exitUsage, "expected one of"},
		"unknown command":  {[]string{"dance"}, exitUsage, "dance"},
		"unknown flag":     {[]string{"migrate", "--dance"}, exitUsage, "dance"},
		"no database":      {[]string{"migrate"}, exitFail, "CALPE_DATABASE_URL"},
		"two secrets":      {[]string{"migrate", "--database-url=x", "--database-url-file=y"}, exitFail, "twice"},
		"missing file":     {[]string{"migrate", "--database-url-file=/nonexistent/url"}, exitFail, "/nonexistent/url"},
		"bad network":      {[]string{"init", "--origin=a.example/log", "--network=moon", "--keys=" + t.TempDir()}, exitFail, "moon"},
		"bad origin":       {[]string{"init", "--origin=https://A", "--network=regtest", "--keys=" + t.TempDir()}, exitFail, "origin"},
		"bad mode":         {[]string{"serve", "--document-retain-mode=forever"}, exitUsage, "retain-mode"},
		"missing keys":     {[]string{"serve", "--keys=" + t.TempDir()}, exitFail, "calped init"},
		"endless owner":    {[]string{"token", "create", "--owner=" + strings.Repeat("x", 201)}, exitFail, "owner"},
		"owner of ours":    {[]string{"token", "create", "--owner=calpe/recovery"}, exitFail, "service's own"},
		"revoke no id":     {[]string{"token", "revoke", "12"}, exitFail, "calped token list"},
		"missing wallet":   {[]string{"wallet", "address", "--network=regtest", "--keys=" + t.TempDir()}, exitFail, "wallet.age"},
		"scope not known":  {[]string{"token", "create", "--owner=a", "--scope=everything"}, exitUsage, "scope"},
		"keyring not here": {[]string{"keyring", "rotate", "--keys=" + t.TempDir()}, exitFail, "keyring.json"},
	} {
		t.Run(name, func(t *testing.T) {
			code, _, stderr := calped(t, c.args...)
			if code != c.want || !strings.Contains(stderr, c.say) {
				t.Errorf("exit %d, want %d, with %q in:\n%s", code, c.want, c.say, stderr)
			}
		})
	}
}

func TestInitMakesKeysOnce(t *testing.T) {
	keys := filepath.Join(t.TempDir(), "keys")
	args := []string{"init", "--origin=notary.gov.example/log", "--network=regtest", "--keys=" + keys}
	code, stdout, stderr := calped(t, args...)
	if code != exitOK || !strings.Contains(stdout, "bcrt1") {
		t.Fatalf("exit %d: %s%s", code, stdout, stderr)
	}
	first := map[string]string{}
	for _, file := range []string{keyringFile, checkpointFile, acknowledgementFile, statementFile, walletFile} {
		path := filepath.Join(keys, file)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", file, info.Mode())
		}
		first[file] = string(b)
	}
	if err := os.Remove(filepath.Join(keys, statementFile)); err != nil {
		t.Fatal(err)
	}
	if code, stdout, _ := calped(t, args...); code != exitOK || strings.Count(stdout, "kept") != 4 || strings.Count(stdout, "made") != 1 {
		t.Errorf("the second time: exit %d\n%s", code, stdout)
	}
	other := []string{"init", "--origin=other.gov.example/log", "--network=regtest", "--keys=" + keys}
	if code, _, stderr := calped(t, other...); code != exitFail || !strings.Contains(stderr, "of the log notary.gov.example/log") {
		t.Errorf("init for another log: exit %d: %s", code, stderr)
	}
	for file, was := range first {
		if b, _ := os.ReadFile(filepath.Join(keys, file)); (string(b) == was) == (file == statementFile) {
			t.Errorf("%s was changed, or not made anew", file)
		}
	}
	if code, stdout, _ := calped(t, "wallet", "address", "--network=regtest", "--keys="+keys); code != exitOK || !strings.HasPrefix(stdout, "bcrt1") {
		t.Errorf("wallet address: exit %d: %s", code, stdout)
	}
	if code, _, stderr := calped(t, "wallet", "address", "--network=mainnet", "--keys="+keys); code != exitFail || !strings.Contains(stderr, "regtest") {
		t.Errorf("a regtest wallet on mainnet: exit %d: %s", code, stderr)
	}
}

func TestPrivateKeyOfOthersIsRefused(t *testing.T) {
	keys := t.TempDir()
	if code, _, stderr := calped(t, "init", "--origin=a.example/log", "--network=regtest", "--keys="+keys); code != exitOK {
		t.Fatal(stderr)
	}
	path := filepath.Join(keys, checkpointFile)
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	code, _, stderr := calped(t, "serve", "--keys="+keys, "--network=regtest")
	if code != exitFail || !strings.Contains(stderr, "chmod 600") || strings.Contains(stderr, "PRIVATE") {
		t.Errorf("exit %d: %s", code, stderr)
	}
}

func TestSecret(t *testing.T) {
	dir, credentials := t.TempDir(), t.TempDir()
	t.Setenv("CREDENTIALS_DIRECTORY", credentials)
	if err := os.WriteFile(filepath.Join(credentials, "bitcoin-password"), []byte("credential\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := secret("bitcoin-password", "", ""); got != "credential" || err != nil {
		t.Errorf("systemd credential: %q, %v", got, err)
	}
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for _, c := range []struct{ name, value, file, want, fail string }{
		{"neither", "", "", "", ""},
		{"value", "s", "", "s", ""},
		{"file", "", write("a", "from file\r\n"), "from file", ""},
		{"empty file", "", write("b", ""), "", ""},
		{"both", "s", write("c", "t"), "", "twice"},
		{"huge", "", write("d", strings.Repeat("x", 5000)), "", "longer than"},
		{"folder", "", dir, "", "directory"},
	} {
		got, err := secret("password", c.value, c.file)
		if got != c.want || (err != nil) != (c.fail != "") || err != nil && !strings.Contains(err.Error(), c.fail) {
			t.Errorf("%s: %q, %v; want %q and %q", c.name, got, err, c.want, c.fail)
		}
	}
}

// settings are the flags of serve, by group, as kong knows them.
func settings(t *testing.T) map[string][]*kong.Flag {
	t.Helper()
	parser, err := kong.New(&cli{})
	if err != nil {
		t.Fatal(err)
	}
	path, err := parser.Parse([]string{"serve"})
	if err != nil {
		t.Fatal(err)
	}
	groups := map[string][]*kong.Flag{}
	for _, f := range path.Flags() {
		if f.Name == "help" || f.Name == "version" {
			continue
		}
		group := "Server"
		if f.Group != nil {
			group = f.Group.Title
		}
		groups[group] = append(groups[group], f)
	}
	return groups
}

// Who knows a flag's name must be able to guess its variable.
func TestVariablesAreNamedAsTheirFlags(t *testing.T) {
	for _, flags := range settings(t) {
		for _, f := range flags {
			want := "CALPE_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
			if !slices.Equal(f.Envs, []string{want}) {
				t.Errorf("--%s has the variables %v, want %s", f.Name, f.Envs, want)
			}
			if f.Help == "" {
				t.Errorf("--%s has no help", f.Name)
			}
		}
	}
}

// docs/settings.md is made from the flags; -update writes it.
func TestSettingsPage(t *testing.T) {
	var page strings.Builder
	page.WriteString("# Settings of calped\n\nEach is a flag of `calped serve` (most are flags of the other commands too) or the variable beside it.\n" +
		"This page is made from the code: `go test ./cmd/calped -run SettingsPage -update`.\n")
	groups := settings(t)
	for _, title := range []string{"Server", "PostgreSQL", "Object storage", "Bitcoin node", "Second Bitcoin node", "Anchor keys", "Documents", "Accounts", "Finding", "OpenTimestamps calendar", "Sealing", "Anchoring", "Anchoring by calendars", "Log output"} {
		fmt.Fprintf(&page, "\n## %s\n\n| variable | flag | default | meaning |\n|---|---|---|---|\n", title)
		for _, f := range groups[title] {
			value := f.Default
			if value != "" {
				value = "`" + value + "`"
			}
			fmt.Fprintf(&page, "| `%s` | `--%s` | %s | %s |\n", f.Envs[0], f.Name, value, f.Help)
		}
		delete(groups, title)
	}
	for title := range groups {
		t.Errorf("group %q has no place on the page", title)
	}
	const path = "../../docs/settings.md"
	if *update {
		if err := os.WriteFile(path, []byte(page.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(page.String(), string(got)); diff != "" {
		t.Errorf("docs/settings.md isn't what the code says; run with -update:\n%s", diff)
	}
}
