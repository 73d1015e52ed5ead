package main

import (
	"context"
	"io"

	"github.com/calpe/calpe/internal/progress"
)

// meter is a progress bar on a terminal, and nothing elsewhere.
type meter struct{ progress.Meter }

// meter begins a bar over bytes; a negative size is an unknown one.
func (a *app) meter(label string, size int64) meter { return a.newMeter(label, size, true) }

func (a *app) newMeter(label string, total int64, bytes bool) meter {
	if !a.terminal {
		return meter{}
	}
	return meter{progress.New(a.Stderr, shown(label), total, bytes)}
}

func (m meter) add(n int) { m.Add(n) }

func (m meter) done() { m.Done() }

// meteredReader shows what is read, and ends with ctx.
type meteredReader struct {
	ctx   context.Context
	r     io.Reader
	meter meter
	read  *int64 // counts what is read, too, if it is set
}

func (m *meteredReader) Read(p []byte) (int, error) {
	if err := context.Cause(m.ctx); err != nil {
		return 0, err
	}
	n, err := m.r.Read(p)
	m.meter.add(n)
	if m.read != nil {
		*m.read += int64(n)
	}
	return n, err
}
