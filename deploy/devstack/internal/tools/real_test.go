package tools_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"github.com/calpe/calpe/deploy/devstack/internal/process"
	"github.com/calpe/calpe/deploy/devstack/internal/tools/toolstest"
)

// TestReal builds what this module pins, if the cache doesn't hold it, and asks
// both programs for their version (versitygw built this way has a poor answer).
func TestReal(t *testing.T) {
	b := toolstest.Builder(t, "../..")
	for _, tt := range []struct {
		name, says string
		build      func(context.Context) (string, error)
	}{
		{"btcd", "0.26.2", b.Btcd},
		{"versitygw", "version", b.Versitygw},
	} {
		path, err := tt.build(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		out, err := process.Run(t.Context(), process.Command{
			Path: path, Args: []string{"--version"}, Env: process.Environment(t.TempDir()),
		})
		if err != nil || filepath.Base(path) != tt.name || !strings.Contains(strings.ToLower(out), tt.says) {
			t.Errorf("%s says %q, %v", path, out, err)
		}
	}
}
