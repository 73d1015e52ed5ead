package headers

import "slices"

// chunkHeaders is how many headers share one allocation. A chain that is
// extended shares its full chunks with the one it came from, so a sync in
// small steps doesn't copy 77 MB at each of them.
const chunkHeaders = 1024

// store holds raw headers by height. Bytes that were appended never change.
type store struct {
	chunks [][]byte
	n      int
}

// at returns the raw header at a height below n. The caller must not write to it.
func (s *store) at(height int) []byte {
	chunk, at := s.chunks[height/chunkHeaders], height%chunkHeaders*HeaderSize
	return chunk[at : at+HeaderSize : at+HeaderSize]
}

func (s *store) append(raw []byte) {
	if s.n%chunkHeaders == 0 {
		s.chunks = append(s.chunks, make([]byte, 0, chunkHeaders*HeaderSize))
	}
	last := &s.chunks[len(s.chunks)-1]
	*last = append(*last, raw...)
	s.n++
}

// prefix returns the first n headers as a store that can grow on its own: full
// chunks are shared, as they are never written again, the last one is copied.
func (s *store) prefix(n int) store {
	full := n / chunkHeaders
	p := store{chunks: slices.Clone(s.chunks[:full]), n: n}
	if rest := n % chunkHeaders * HeaderSize; rest > 0 {
		last := make([]byte, 0, chunkHeaders*HeaderSize)
		p.chunks = append(p.chunks, append(last, s.chunks[full][:rest]...))
	}
	return p
}

// medianSpan is the number of blocks whose median time counts (BIP113).
const medianSpan = 11

// medianTime returns the median of the times of the block at a height and of
// the ten before it, or of as many as there are. Of an even number it is the
// later of the two in the middle, as all nodes have it.
func (s *store) medianTime(height int) uint32 {
	var buf [medianSpan]uint32
	times := buf[:0]
	for h := max(0, height-medianSpan+1); h <= height; h++ {
		times = append(times, seconds(s.at(h)))
	}
	slices.Sort(times)
	return times[len(times)/2]
}
