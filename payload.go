package calpe

import (
	"bytes"
	"fmt"
)

// PayloadSize is the length in bytes of what an anchor writes into Bitcoin.
// 40 bytes pass every relay policy that was ever deployed.
const PayloadSize = 3 + 5 + HashSize

// MaxLogSize is the largest number of entries a payload can state: 2^40 - 1.
const MaxLogSize = 1<<40 - 1

// payloadTag opens every payload. Another version of the payload is another
// tag, never another meaning of this one.
var payloadTag = [3]byte{'C', 'L', 'P'}

// Payload is what an anchor commits to: the size of the log and the RFC 6962
// root of exactly that many entries (I3). The size is in it because a root
// alone doesn't bind it.
type Payload struct {
	Size uint64
	Root Hash
}

// Bytes is "CLP", the size as 5 bytes big-endian, the root: 40 bytes.
// It panics if p.Size is above [MaxLogSize], which no log can reach: intake
// refuses to hand out such an index.
func (p Payload) Bytes() [PayloadSize]byte {
	if p.Size > MaxLogSize {
		panic(fmt.Sprintf("calpe: log size %d above %d", p.Size, uint64(MaxLogSize)))
	}
	var b [PayloadSize]byte
	copy(b[:], payloadTag[:])
	for i := range 5 {
		b[3+i] = byte(p.Size >> (8 * (4 - i)))
	}
	copy(b[8:], p.Root[:])
	return b
}

// ParsePayload is the inverse of [Payload.Bytes].
func ParsePayload(b []byte) (Payload, error) {
	if len(b) != PayloadSize {
		return Payload{}, fmt.Errorf("payload has %d bytes, want %d", len(b), PayloadSize)
	}
	if !bytes.Equal(b[:3], payloadTag[:]) {
		return Payload{}, fmt.Errorf("payload starts with %x, want %x (%q)", b[:3], payloadTag, payloadTag)
	}
	var p Payload
	for _, c := range b[3:8] {
		p.Size = p.Size<<8 | uint64(c)
	}
	copy(p.Root[:], b[8:])
	return p, nil
}

// OP_RETURN and the direct push of 40 bytes, as in Bitcoin's script.
const (
	opReturn = 0x6a
	opPush40 = PayloadSize
)

// Script is the output script that carries the payload: OP_RETURN, one push of
// 40 bytes, the payload. 42 bytes.
func (p Payload) Script() []byte {
	b := p.Bytes()
	return append([]byte{opReturn, opPush40}, b[:]...)
}

// ParsePayloadScript reads the script of a transaction output. Only the exact
// form that [Payload.Script] writes is a payload.
func ParsePayloadScript(script []byte) (Payload, error) {
	if len(script) != 2+PayloadSize || script[0] != opReturn || script[1] != opPush40 {
		return Payload{}, fmt.Errorf("output script of %d bytes is not OP_RETURN with one push of %d bytes", len(script), PayloadSize)
	}
	return ParsePayload(script[2:])
}
