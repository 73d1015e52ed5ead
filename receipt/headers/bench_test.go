package headers

import (
	"bytes"
	"testing"

	"github.com/btcsuite/btcd/chainhash/v2"

	"github.com/calpe/calpe"
)

// One operation is one header.
func BenchmarkRead(b *testing.B) {
	p := mustParams(b, calpe.Regtest)
	raw := rawOf(b, chainOf(b, p, 9_999))
	b.SetBytes(HeaderSize)
	b.ReportAllocs()
	b.ResetTimer()
	for left := b.N; left > 0; left -= 10_000 {
		if _, err := Read(bytes.NewReader(raw[:min(left, 10_000)*HeaderSize]), p); err != nil {
			b.Fatal(err)
		}
	}
}

// The furthest that a look-up by hash goes, in a chain of ten thousand.
func BenchmarkHeight(b *testing.B) {
	c := chainOf(b, mustParams(b, calpe.Regtest), 9_999)
	b.ResetTimer()
	for range b.N {
		if _, ok := c.Height(chainhash.Hash{}); ok {
			b.Fatal("found a block that isn't there")
		}
	}
}
