package ots

import (
	"encoding/binary"
	"errors"
	"fmt"
)

const (
	// MaxDepth is how many operations may stand behind one another. The reference
	// reads no more; one other reader counts forks too.
	MaxDepth = 255

	forkMark        = 0xff // before each item of a node but the last
	attestationMark = 0x00
)

var (
	errShort    = errors.New("the data end too early")
	errTooDeep  = fmt.Errorf("more than %d operations behind one another", MaxDepth)
	errOverflow = errors.New("a number has more than 64 bits or 10 bytes")
)

// decoder takes bytes from data. After the first error it gives nothing but
// zeros and empty strings, so that callers check once.
type decoder struct {
	data string // what is read shares its memory
	at   int
	err  error // the first, with its place
}

func (d *decoder) fail(at int, err error) {
	if d.err == nil {
		d.err = fmt.Errorf("at byte %d: %w", at, err)
	}
}

func (d *decoder) take(n int) string {
	if d.err == nil && n > len(d.data)-d.at {
		d.fail(d.at, errShort)
	}
	if d.err != nil {
		return ""
	}
	d.at += n
	return d.data[d.at-n : d.at]
}

func (d *decoder) byte() byte {
	if b := d.take(1); b != "" {
		return b[0]
	}
	return 0
}

// varuint reads an unsigned LEB128 number. Like the reference it takes longer
// spellings than the shortest, but none of more bytes than a 64-bit number needs.
func (d *decoder) varuint() uint64 {
	start := d.at
	var b [binary.MaxVarintLen64]byte
	for i := range b {
		b[i] = d.byte()
		if b[i] < 0x80 {
			break // also after an error, which gives zeros
		}
	}
	n, size := binary.Uvarint(b[:])
	if size <= 0 {
		d.fail(start, errOverflow)
		return 0
	}
	return n
}

func (d *decoder) varbytes(what string, least, most int) string {
	start := d.at
	n := d.varuint()
	if d.err == nil && (n < uint64(least) || n > uint64(most)) {
		d.fail(start, fmt.Errorf("%s has %d bytes, want %d to %d", what, n, least, most))
	}
	if d.err != nil {
		return ""
	}
	return d.take(int(n))
}

// end demands that nothing is left.
func (d *decoder) end() error {
	if d.err == nil && d.at != len(d.data) {
		d.fail(d.at, fmt.Errorf("%d bytes follow the end", len(d.data)-d.at))
	}
	return d.err
}

// timestamp reads a timestamp of a message up to the end of the data.
func (d *decoder) timestamp(message string) (Timestamp, error) {
	if rest := len(d.data) - d.at; d.err == nil && rest > MaxSize {
		d.fail(d.at, fmt.Errorf("the timestamp has %d bytes, more than %d", rest, MaxSize))
	}
	if d.err != nil {
		return Timestamp{}, d.err
	}
	root := d.node(&scratch{}, []byte(message), 0)
	if err := d.end(); err != nil {
		return Timestamp{}, err
	}
	return Timestamp{message: message, root: root}, nil
}

// node reads what is said of a message, depth operations below the root.
func (d *decoder) node(s *scratch, message []byte, depth int) *node {
	n := &node{}
	for more := true; more && d.err == nil; {
		mark := d.byte()
		if more = mark == forkMark; more {
			mark = d.byte()
		}
		if mark == attestationMark {
			n.attestations = append(n.attestations, d.attestation())
		} else {
			n.steps = append(n.steps, d.step(Tag(mark), s, message, depth))
		}
	}
	n.normalize()
	return n
}

func (d *decoder) step(tag Tag, s *scratch, message []byte, depth int) step {
	start := d.at - 1
	op := Op{Tag: tag}
	if tag.hasArg() {
		op.Arg = d.varbytes("argument of "+tag.String(), 1, MaxMessage)
	}
	if d.err == nil && depth == MaxDepth {
		d.fail(start, errTooDeep)
	}
	if d.err == nil {
		if err := op.check(len(message)); err != nil {
			d.fail(start, err)
		}
	}
	if d.err != nil {
		return step{op, &node{}}
	}
	return step{op, d.node(s, s.apply(op, message, depth), depth+1)}
}

// attestation reads one. For notaries that we know, nothing may follow in the
// payload; others are kept as they are.
func (d *decoder) attestation() Attestation {
	start := d.at
	a := Attestation{notary: d.take(notarySize), payload: d.varbytes("payload", 0, MaxPayload)}
	inner := decoder{data: a.payload}
	switch {
	case d.err != nil:
		return Attestation{}
	case a.namesBlock():
		a.payload = string(binary.AppendUvarint(nil, inner.varuint()))
	case a.notary == pendingNotary:
		uri := inner.varbytes("URI", 0, MaxURI)
		if err := checkURI(uri); err != nil {
			inner.fail(0, err)
		}
		a.payload = spellURI(uri)
	default:
		return a
	}
	if err := inner.end(); err != nil {
		d.fail(start, fmt.Errorf("payload of the attestation, %w", err))
	}
	return a
}
