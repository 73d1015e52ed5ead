package fsck

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestLimiter(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, start := newLimiter(10), time.Now()
		for range 21 {
			if err := l.wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if took := time.Since(start); took != 2*time.Second {
			t.Errorf("21 requests at 10 a second took %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := l.wait(ctx); err == nil {
			t.Error("it waits longer than its caller")
		}
		free := newLimiter(0)
		for range 1000 {
			if err := free.wait(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	})
}
