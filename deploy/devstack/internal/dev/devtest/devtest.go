// Package devtest gives tests Calpe's own programs and the local stack's.
package devtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/calpe/calpe/deploy/devstack/internal/tools"
	"github.com/calpe/calpe/deploy/devstack/internal/tools/toolstest"
)

// Programs builds calped and calpe from this repository. root is the path of the
// devstack module's folder from that of the test's package.
func Programs(t testing.TB, root string) (calped, calpe string) {
	t.Helper()
	dir := t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", dir+"/", "./cmd/calped", "./cmd/calpe")
	build.Dir = filepath.Join(root, "..", "..")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build Calpe: %v\n%s", err, out)
	}
	return filepath.Join(dir, "calped"), filepath.Join(dir, "calpe")
}

// Tools are the builder of the servers, and the folder in which they are kept.
func Tools(t testing.TB, root string) (*tools.Builder, string) {
	t.Helper()
	cache, err := tools.CacheDir(os.Getenv("CALPE_DEVSTACK_CACHE"))
	if err != nil {
		t.Fatal(err)
	}
	return toolstest.Builder(t, root), cache
}
