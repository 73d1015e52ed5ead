package merkle

import (
	"encoding/binary"
	"fmt"

	"github.com/calpe/calpe"
)

// bundleRecord is the length in bytes of one entry in a bundle: a length of two
// bytes, big-endian, then the entry. All entries of the log are equally long.
const bundleRecord = 2 + calpe.EntrySize

// ByteLen is the length in bytes of the encoded bundle: 42 for each entry.
func (b Bundle) ByteLen() int { return b.Width * bundleRecord }

// check refuses a bundle that no log can have.
func (b Bundle) check() error {
	if err := b.tile().check(); err != nil {
		return fmt.Errorf("entry bundle: %w", err)
	}
	return nil
}

// EncodeEntryBundle writes the entries of one bundle in the form of tlog-tiles:
// each with its length in front. It refuses entries that aren't exactly those of
// the bundle, so that a wrong index can't get into the public log (I2).
func EncodeEntryBundle(b Bundle, entries []calpe.Entry) ([]byte, error) {
	if err := b.check(); err != nil {
		return nil, err
	}
	path := EntryBundlePath(b.Index, b.Width)
	if len(entries) != b.Width {
		return nil, fmt.Errorf("encode %s: %d entries, want %d", path, len(entries), b.Width)
	}
	data := make([]byte, 0, b.ByteLen())
	for i, e := range entries {
		if want := b.First() + uint64(i); e.Index != want {
			return nil, fmt.Errorf("encode %s: entry %d has index %d, want %d", path, i, e.Index, want)
		}
		entry := e.Bytes()
		data = binary.BigEndian.AppendUint16(data, calpe.EntrySize)
		data = append(data, entry[:]...)
	}
	return data, nil
}

// ParseEntryBundle reads the bundle b from data. Every length must be that of a
// [calpe.Entry], every index the one that follows from b, and nothing may be
// missing or left over.
func ParseEntryBundle(b Bundle, data []byte) ([]calpe.Entry, error) {
	if err := b.check(); err != nil {
		return nil, err
	}
	path := EntryBundlePath(b.Index, b.Width)
	if len(data) != b.ByteLen() {
		return nil, fmt.Errorf("%s has %d bytes, want %d", path, len(data), b.ByteLen())
	}
	entries := make([]calpe.Entry, b.Width)
	for i := range entries {
		record := data[i*bundleRecord:][:bundleRecord]
		if n := binary.BigEndian.Uint16(record); n != calpe.EntrySize {
			return nil, fmt.Errorf("%s: entry %d has length %d, want %d", path, i, n, calpe.EntrySize)
		}
		e, err := calpe.ParseEntry(record[2:])
		if err != nil {
			return nil, fmt.Errorf("%s: entry %d: %w", path, i, err)
		}
		if want := b.First() + uint64(i); e.Index != want {
			return nil, fmt.Errorf("%s: entry %d has index %d, want %d", path, i, e.Index, want)
		}
		entries[i] = e
	}
	return entries, nil
}
