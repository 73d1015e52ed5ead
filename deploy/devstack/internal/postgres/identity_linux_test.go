package postgres

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// TestIdentity is about root, whom PostgreSQL refuses; for any other user there
// is nothing to do. That the server then runs, the other tests show.
func TestIdentity(t *testing.T) {
	bin := programs(t, "postgres (PostgreSQL) 15.1")
	as, err := identity(t.Context(), bin, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if root := os.Geteuid() == 0; root != (as != nil) {
		t.Errorf("root: %v, identity: %+v", root, as)
	}
}

// TestBecome gives a folder to nobody, as happens where user namespaces are
// forbidden. Only root can; anybody else must get an error.
func TestBecome(t *testing.T) {
	open := t.TempDir() // what is below it, anybody may enter
	if err := os.Chmod(filepath.Dir(open), 0o755); err != nil {
		t.Fatal(err)
	}
	bin, dir := filepath.Join(open, "bin"), filepath.Join(open, "pg")
	if err := os.CopyFS(bin, os.DirFS(programs(t, "postgres (PostgreSQL) 15.1"))); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "password")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	as, err := become(t.Context(), "nobody", bin, dir)
	if os.Geteuid() != 0 {
		if err == nil {
			t.Error("became nobody without being root")
		}
		return
	}
	if err != nil || as.Credential == nil || as.Credential.Uid == 0 {
		t.Fatalf("identity %+v, %v", as, err)
	}
	st, err := os.Stat(file)
	if err != nil || st.Sys().(*syscall.Stat_t).Uid != as.Credential.Uid {
		t.Errorf("%s was not given to nobody: %v", file, err)
	}
	closed := filepath.Join(open, "closed")
	if err := os.MkdirAll(filepath.Join(closed, "in"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := become(t.Context(), "nobody", bin, filepath.Join(closed, "in")); err == nil || !strings.Contains(err.Error(), "permission denied") {
		t.Errorf("in a folder that only root can enter: %v", err)
	}
	if _, err := become(t.Context(), "no-such-user", bin, dir); err == nil {
		t.Error("became a user that there isn't")
	}
}
