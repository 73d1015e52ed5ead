// Package toolstest gives tests the real programs of the local stack.
package toolstest

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/calpe/calpe/deploy/devstack/internal/tools"
)

// Builder builds what this module's go.mod pins, with the user's cache. root is the
// path of the module's folder from that of the test's package.
func Builder(t testing.TB, root string) *tools.Builder {
	t.Helper()
	cache, err := tools.CacheDir(os.Getenv("CALPE_DEVSTACK_CACHE"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := tools.New(tools.Config{
		GoMod: read(t, filepath.Join(root, "go.mod")), GoSum: read(t, filepath.Join(root, "go.sum")),
		CacheDir: cache, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return text
}
