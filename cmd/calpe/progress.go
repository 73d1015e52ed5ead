package main

import (
	"context"
	"io"
	"time"

	"github.com/schollz/progressbar/v3"
)

// meter is a progress bar on a terminal, and nothing elsewhere.
type meter struct{ bar *progressbar.ProgressBar }

// meter begins a bar over bytes; a negative size is an unknown one.
func (a *app) meter(label string, size int64) meter { return a.newMeter(label, size, true) }

func (a *app) newMeter(label string, total int64, bytes bool) meter {
	if !a.terminal {
		return meter{}
	}
	return meter{progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(a.Stderr), progressbar.OptionSetDescription(shown(label)),
		progressbar.OptionShowBytes(bytes), progressbar.OptionShowCount(), progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionClearOnFinish(), progressbar.OptionFullWidth())}
}

// Errors of a bar are those of the terminal, and change nothing of the work.

func (m meter) add(n int) {
	if m.bar != nil {
		_ = m.bar.Add(n)
	}
}

func (m meter) done() {
	if m.bar != nil {
		_ = m.bar.Finish()
		_ = m.bar.Exit()
	}
}

// meteredReader shows what is read, and ends with ctx.
type meteredReader struct {
	ctx   context.Context
	r     io.Reader
	meter meter
}

func (m *meteredReader) Read(p []byte) (int, error) {
	if err := context.Cause(m.ctx); err != nil {
		return 0, err
	}
	n, err := m.r.Read(p)
	m.meter.add(n)
	return n, err
}
