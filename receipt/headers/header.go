package headers

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/btcsuite/btcd/chainhash/v2"
)

// HeaderSize is the size of a raw block header in bytes.
const HeaderSize = 80

// Header is one block header. Raw is what it is made from; the rest is read
// from it. The text form of the hashes is byte-reversed hex, as Bitcoin shows them.
type Header struct {
	Raw        [HeaderSize]byte
	Hash       chainhash.Hash // double SHA-256 of Raw
	Version    int32
	PrevBlock  chainhash.Hash
	MerkleRoot chainhash.Hash
	Time       time.Time // UTC, whole seconds; the miner's claim, not a measurement
	Bits       uint32    // the target in compact form
	Nonce      uint32
}

// Parse takes one raw header apart. It checks nothing but the length: a
// header that stands alone proves nothing, whatever work it shows.
func Parse(raw []byte) (Header, error) {
	if len(raw) != HeaderSize {
		return Header{}, fmt.Errorf("parse block header: %d bytes, want %d", len(raw), HeaderSize)
	}
	return parse(raw), nil
}

// The fields of a raw header: version 4, previous hash 32, Merkle root 32,
// time 4, bits 4, nonce 4; the numbers little-endian.
func parse(raw []byte) Header {
	h := Header{
		Raw:     [HeaderSize]byte(raw),
		Hash:    chainhash.DoubleHashH(raw),
		Version: version(raw),
		Time:    time.Unix(int64(seconds(raw)), 0).UTC(),
		Bits:    bits(raw),
		Nonce:   binary.LittleEndian.Uint32(raw[76:80]),
	}
	copy(h.PrevBlock[:], prevBlock(raw))
	copy(h.MerkleRoot[:], raw[36:68])
	return h
}

func version(raw []byte) int32    { return int32(binary.LittleEndian.Uint32(raw[0:4])) }
func prevBlock(raw []byte) []byte { return raw[4:36] }
func seconds(raw []byte) uint32   { return binary.LittleEndian.Uint32(raw[68:72]) }
func bits(raw []byte) uint32      { return binary.LittleEndian.Uint32(raw[72:76]) }
