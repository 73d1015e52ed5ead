package progress_test

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/calpe/calpe/internal/progress"
)

func TestMeter(t *testing.T) {
	var out bytes.Buffer
	m := progress.New(&out, "entries", 1000, false)
	m.Set(400)
	m.Add(600)
	m.Done()
	if !strings.Contains(out.String(), "entries") || !strings.Contains(out.String(), "400/1000") {
		t.Errorf("bar is %q", out.String())
	}
	var none progress.Meter
	none.Add(1)
	none.Set(2)
	none.Done()
}

func TestIsTerminal(t *testing.T) {
	if progress.IsTerminal(&bytes.Buffer{}) || progress.IsTerminal(io.Discard) {
		t.Error("a buffer is a terminal")
	}
}
