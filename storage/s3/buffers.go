package s3

import (
	"context"
	"fmt"
)

// buffers is a bounded set of equal buffers. They are made when first needed and
// kept: their number times their size is the most that uploads can hold.
type buffers struct {
	slots chan struct{} // one token for each buffer in use
	free  chan []byte
	size  int
}

func newBuffers(size, count int) *buffers {
	return &buffers{slots: make(chan struct{}, count), free: make(chan []byte, count), size: size}
}

// get waits for a buffer, or for ctx.
func (b *buffers) get(ctx context.Context) ([]byte, error) {
	select {
	case b.slots <- struct{}{}:
		return b.take(), nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for an upload buffer: %w", context.Cause(ctx))
	}
}

// tryGet gives nil instead of waiting.
func (b *buffers) tryGet() []byte {
	select {
	case b.slots <- struct{}{}:
		return b.take()
	default:
		return nil
	}
}

func (b *buffers) take() []byte {
	select {
	case buf := <-b.free:
		return buf
	default:
		return make([]byte, b.size)
	}
}

// put gives a buffer back. Nobody may use it after that.
func (b *buffers) put(buf []byte) {
	b.free <- buf[:b.size]
	<-b.slots
}
