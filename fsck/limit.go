package fsck

import (
	"context"
	"sync"
	"time"

	"github.com/calpe/calpe/batch"
)

// limiter lets so many requests a second pass, evenly.
type limiter struct {
	every time.Duration // 0: no limit

	mu   sync.Mutex
	free time.Time // when the next may pass
}

func newLimiter(rate float64) *limiter {
	if rate <= 0 {
		return &limiter{}
	}
	return &limiter{every: time.Duration(float64(time.Second) / rate)}
}

// wait until the next request may pass, or ctx ends.
func (l *limiter) wait(ctx context.Context) error {
	if l.every == 0 {
		return ctx.Err()
	}
	l.mu.Lock()
	now := time.Now()
	if l.free.Before(now) {
		l.free = now
	}
	pause := l.free.Sub(now)
	l.free = l.free.Add(l.every)
	l.mu.Unlock()
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// limited is object storage behind a limiter.
type limited struct {
	batch.ObjectReader
	limit *limiter
}

func (l limited) ReadLogObject(ctx context.Context, path string, maxBytes int64) ([]byte, error) {
	if err := l.limit.wait(ctx); err != nil {
		return nil, err
	}
	return l.ObjectReader.ReadLogObject(ctx, path, maxBytes)
}

func (l limited) ListLog(ctx context.Context, prefix, startAfter string, yield func(path string) bool) error {
	if err := l.limit.wait(ctx); err != nil {
		return err
	}
	return l.ObjectReader.ListLog(ctx, prefix, startAfter, yield)
}
