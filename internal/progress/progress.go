// Package progress shows a person at a terminal how far a command is.
package progress

import (
	"io"
	"os"
	"time"

	"github.com/schollz/progressbar/v3"
)

// Meter is a progress bar. The zero Meter shows nothing. It is for one goroutine.
type Meter struct{ bar *progressbar.ProgressBar }

// New begins a bar on w over that many things, or bytes; a negative total is an
// unknown one. The label must be one that a terminal can show.
func New(w io.Writer, label string, total int64, bytes bool) Meter {
	return Meter{progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(w), progressbar.OptionSetDescription(label),
		progressbar.OptionShowBytes(bytes), progressbar.OptionShowCount(), progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish(), progressbar.OptionFullWidth())}
}

// Errors of a bar are those of the terminal, and change nothing of the work.

// Add shows that n more are done.
func (m Meter) Add(n int) {
	if m.bar != nil {
		_ = m.bar.Add(n)
	}
}

// Set shows that n are done.
func (m Meter) Set(n int64) {
	if m.bar != nil {
		_ = m.bar.Set64(n)
	}
}

// Done takes the bar away.
func (m Meter) Done() {
	if m.bar != nil {
		_ = m.bar.Finish()
		_ = m.bar.Exit()
	}
}

// IsTerminal reports whether w is one.
func IsTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
