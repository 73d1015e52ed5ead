package receipt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"math/big"
	"slices"
	"testing"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt/headers"
)

// headerVector is a file of headers and what a verifier says of it.
type headerVector struct {
	Name    string          `json:"name"`
	File    string          `json:"file"`
	Network calpe.Network   `json:"network"`
	Fault   string          `json:"fault,omitempty"` // none: the chain is valid
	Height  int             `json:"height"`          // of the header at fault, or of the tip
	Tip     calpe.BlockHash `json:"tip,omitzero"`    // of a valid chain
	Work    string          `json:"work,omitempty"`  // of a valid chain, hex
}

// headerFault is a valid chain with one fault.
type headerFault struct {
	name, fault string
	height      int
	raw         []byte
}

func (w *world) headerFaults() []headerFault {
	const h = 8 // the header that is changed is the last one, so that it is the only one at fault
	whole, short := w.raw, w.raw[:h*headers.HeaderSize]
	last := func(edit func(header []byte), good bool) []byte {
		header := bytes.Clone(whole[h*headers.HeaderSize:][:headers.HeaderSize])
		edit(header)
		return append(bytes.Clone(short), remine(header, good)...)
	}
	put := func(at int, value uint32) func([]byte) {
		return func(header []byte) { binary.LittleEndian.PutUint32(header[at:], value) }
	}
	const bitsAt, timeAt = 72, 68
	median := binary.LittleEndian.Uint32(whole[4*headers.HeaderSize+timeAt:]) // of the blocks 0 to 7: block 0 is from 2011
	return []headerFault{
		{"empty", "empty", 0, nil},
		{"half-a-header", "truncated", tipHeight, whole[:len(whole)-headers.HeaderSize/2]},
		{"one-byte-more", "truncated", tipHeight + 1, append(bytes.Clone(whole), 0)},
		{"no-genesis-block", "genesis", 0, whole[headers.HeaderSize:]},
		{"other-genesis-block", "genesis", 0, append(bytes.Repeat([]byte{1}, headers.HeaderSize), whole[headers.HeaderSize:]...)},
		{"left-out", "link", h, append(bytes.Clone(short), whole[(h+1)*headers.HeaderSize:]...)},
		{"twice", "link", h, append(bytes.Clone(short), whole[(h-1)*headers.HeaderSize:]...)},
		{"previous-block-changed", "link", h, last(func(header []byte) { header[4] ^= 1 }, true)},
		{"target-zero", "target", h, last(put(bitsAt, 0x20000000), true)},
		{"target-negative", "target", h, last(put(bitsAt, 0x20ffffff), true)},
		{"target-above-the-limit", "target", h, last(put(bitsAt, 0x2100ffff), true)},
		{"easier-than-demanded", "target", h, last(put(bitsAt, 0x207fffff+1), true)},
		{"harder-than-demanded", "difficulty", h, last(put(bitsAt, 0x207ffffe), true)},
		{"too-little-work", "work", h, last(func([]byte) {}, false)},
		{"time-of-the-median", "time", h, last(put(timeAt, median), true)},
	}
}

// remine looks for a nonce with which the header's hash is within the limit of
// regtest, or isn't.
func remine(header []byte, good bool) []byte {
	limit := new(big.Int).Lsh(big.NewInt(0x7fffff), 8*(0x20-3))
	for nonce := uint32(0); ; nonce++ {
		binary.LittleEndian.PutUint32(header[76:], nonce)
		hash := doubleHash(header)
		slices.Reverse(hash[:])
		if (new(big.Int).SetBytes(hash[:]).Cmp(limit) <= 0) == good {
			return header
		}
	}
}

// headerVectors are the valid chains of the receipts' vectors, and the faults.
func (w *world) headerVectors(f files) (list []headerVector) {
	w.tb.Helper()
	all := w.headerFiles()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		chain := readChainOf(w.tb, w.networkOf(name), all[name])
		height, hash := chain.Tip()
		v := headerVector{Name: name, File: name + ".bin", Network: chain.Network(), Height: height, Tip: calpe.BlockHash(hash), Work: chain.Work().Text(16)}
		if !chain.EnoughWork() {
			v.Fault = "minimum-work"
		}
		list = append(list, v)
	}
	for _, c := range w.headerFaults() {
		path := "headers/" + c.name + ".bin"
		f[path] = c.raw
		list = append(list, headerVector{Name: c.name, File: path, Network: calpe.Regtest, Fault: c.fault, Height: c.height})
	}
	return list
}

// TestHeaderVectorsAreRight holds each file to the fault that it has.
func TestHeaderVectorsAreRight(t *testing.T) {
	w := newWorld(t, testOrigin)
	f := files{}
	for name, raw := range w.headerFiles() {
		f[name+".bin"] = raw
	}
	for _, v := range w.headerVectors(f) {
		params, err := headers.ParamsFor(v.Network)
		if err != nil {
			t.Fatal(err)
		}
		_, err = headers.Read(bytes.NewReader(f[v.File]), params)
		rule, broken := errors.AsType[*headers.RuleError](err)
		switch sentinel := map[string]error{"": nil, "empty": headers.ErrEmpty, "truncated": headers.ErrTruncated, "minimum-work": headers.ErrTooLittleWork}[v.Fault]; {
		case broken:
			if string(rule.Rule) != v.Fault || rule.Height != v.Height {
				t.Errorf("%s: %v, want %q at height %d", v.Name, err, v.Fault, v.Height)
			}
		case !errors.Is(err, sentinel) || (err == nil) != (v.Fault == ""):
			t.Errorf("%s: %v, want %q", v.Name, err, v.Fault)
		}
	}
}
