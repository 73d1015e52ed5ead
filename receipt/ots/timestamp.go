package ots

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"slices"
)

const (
	// MaxSize is the largest timestamp in bytes, as it is written. The format has no
	// such limit; a file with ten calendars has a few thousand bytes.
	MaxSize = 1 << 18
	// MaxAnswer is the largest answer of a calendar in bytes that clients take.
	MaxAnswer = 10_000
)

var (
	// ErrOtherMessage says that timestamps of two messages can't be merged.
	ErrOtherMessage = errors.New("the timestamps are of different messages")
	// ErrNotPending says that a timestamp isn't waiting for this answer.
	ErrNotPending = errors.New("no pending attestation of this message is in the timestamp")

	errNoTimestamp   = errors.New("the timestamp is empty")
	errNoAttestation = errors.New("there is no attestation")
)

// Timestamp is a message with all that is said of it. Its zero value is empty,
// which no file can be. It never changes.
type Timestamp struct {
	message string
	root    *node // nil only in the zero value
}

// node is what is said of one message. Neither slice is changed once
// normalize has made it ready, so timestamps share nodes.
type node struct {
	attestations []Attestation // in the order of the writer, none twice
	steps        []step        // in the order of the writer, no operation twice
}

// step leads to the message that op makes. Messages aren't kept: a hostile file
// would make 4096 bytes of each of its own.
type step struct {
	op   Op
	next *node
}

// scratch holds the messages on the way from the root to a node, one for each
// depth, so that a walk makes no garbage.
type scratch [MaxDepth][]byte

// apply returns what a checked operation makes of the message at a depth. It
// stays until the next call with that depth.
func (s *scratch) apply(op Op, message []byte, depth int) []byte {
	s[depth] = op.appendResult(s[depth][:0], message)
	return s[depth]
}

// normalize brings a new node into the order in which it is written. The same
// operation twice, as some writers do, leads to one message: it becomes one.
func (n *node) normalize() {
	slices.SortFunc(n.attestations, Attestation.compare)
	n.attestations = slices.Compact(n.attestations)
	slices.SortFunc(n.steps, func(a, b step) int { return a.op.compare(b.op) })
	once := n.steps[:0]
	for rest := n.steps; len(rest) > 0; {
		same := 1
		for same < len(rest) && rest[same].op == rest[0].op {
			same++
		}
		s := rest[0]
		if same > 1 {
			s.next = join(rest[:same])
		}
		once, rest = append(once, s), rest[same:]
	}
	n.steps = once
}

// join makes one node of all to which steps with one operation lead. All at
// once: one after another would take quadratic time.
func join(same []step) *node {
	n := &node{}
	for _, s := range same {
		n.attestations = append(n.attestations, s.next.attestations...)
		n.steps = append(n.steps, s.next.steps...)
	}
	n.normalize()
	return n
}

// appendTo writes the node in the format.
func (n *node) appendTo(b []byte) []byte {
	items := len(n.attestations) + len(n.steps)
	mark := func() {
		if items--; items > 0 {
			b = append(b, forkMark)
		}
	}
	for _, a := range n.attestations {
		mark()
		b = append(append(b, attestationMark), a.notary...)
		b = appendVarbytes(b, a.payload)
	}
	for _, s := range n.steps {
		mark()
		b = append(b, byte(s.op.Tag))
		if s.op.Tag.hasArg() {
			b = appendVarbytes(b, s.op.Arg)
		}
		b = s.next.appendTo(b)
	}
	return b
}

func appendVarbytes(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// height is the number of operations on the longest way down.
func (n *node) height() int {
	most := 0
	for _, s := range n.steps {
		most = max(most, 1+s.next.height())
	}
	return most
}

// NewTimestamp makes a timestamp that is one line: operations one after another,
// and an attestation of the last message.
//
// There may be [MaxDepth] operations. None may make, and the message may not be,
// more than [MaxMessage] bytes.
func NewTimestamp(message []byte, ops []Op, a Attestation) (Timestamp, error) {
	if a == (Attestation{}) {
		return Timestamp{}, fmt.Errorf("make timestamp: %w", errNoAttestation)
	}
	if _, err := applyAll(message, ops); err != nil {
		return Timestamp{}, fmt.Errorf("make timestamp: %w", err)
	}
	t := Timestamp{string(message), line(ops, &node{attestations: []Attestation{a}})}
	if err := t.check(); err != nil {
		return Timestamp{}, fmt.Errorf("make timestamp: %w", err)
	}
	return t, nil
}

// ParseTimestamp reads a timestamp without its message, as a calendar answers,
// of at most [MaxAnswer] bytes. The message is what was asked for, at most
// [MaxMessage] bytes. What is read is well formed, and proves nothing: see [Check].
func ParseTimestamp(message, data []byte) (Timestamp, error) {
	if err := checkMessage(message); err != nil {
		return Timestamp{}, fmt.Errorf("read timestamp: %w", err)
	}
	if len(data) > MaxAnswer {
		return Timestamp{}, fmt.Errorf("read timestamp: %d bytes, more than %d", len(data), MaxAnswer)
	}
	d := decoder{data: string(data)}
	t, err := d.timestamp(string(message))
	if err != nil {
		return Timestamp{}, fmt.Errorf("read timestamp: %w", err)
	}
	return t, nil
}

func checkMessage(message []byte) error {
	if len(message) > MaxMessage {
		return fmt.Errorf("message has %d bytes, more than %d", len(message), MaxMessage)
	}
	return nil
}

// From returns the timestamp of a message from which operations lead to the one
// that t is about: that of a document's digest, say, whose hash with a nonce was
// sent to a calendar. An error has [ErrOtherMessage] in its chain if they lead to
// another one.
func (t Timestamp) From(message []byte, ops []Op) (Timestamp, error) {
	if t.root == nil {
		return Timestamp{}, fmt.Errorf("lead to timestamp: %w", errNoTimestamp)
	}
	last, err := applyAll(message, ops)
	if err != nil {
		return Timestamp{}, fmt.Errorf("lead to timestamp: %w", err)
	}
	if string(last) != t.message {
		return Timestamp{}, fmt.Errorf("lead to timestamp: %w", ErrOtherMessage)
	}
	from := Timestamp{string(message), line(ops, t.root)}
	if err := from.check(); err != nil {
		return Timestamp{}, fmt.Errorf("lead to timestamp: %w", err)
	}
	return from, nil
}

// applyAll returns the message that the operations make one after another.
func applyAll(message []byte, ops []Op) ([]byte, error) {
	if err := checkMessage(message); err != nil {
		return nil, err
	}
	for i, op := range ops {
		var err error
		if message, err = op.Apply(message); err != nil {
			return nil, fmt.Errorf("operation %d: %w", i, err)
		}
	}
	return message, nil
}

// line is the node from which operations lead to n.
func line(ops []Op, n *node) *node {
	for _, op := range slices.Backward(ops) {
		n = &node{steps: []step{{op, n}}}
	}
	return n
}

// check refuses what no reader would take.
func (t Timestamp) check() error {
	if t.root == nil {
		return errNoTimestamp
	}
	if t.root.height() > MaxDepth {
		return errTooDeep
	}
	if size := len(t.root.appendTo(nil)); size > MaxSize {
		return fmt.Errorf("the timestamp has %d bytes, more than %d", size, MaxSize)
	}
	return nil
}

// Message is a copy of what is timestamped.
func (t Timestamp) Message() []byte { return []byte(t.message) }

// Serialize writes the timestamp without its message, as a calendar answers. The
// bytes are those that the reference writes. The only error is that of the zero
// value.
func (t Timestamp) Serialize() ([]byte, error) {
	if t.root == nil {
		return nil, fmt.Errorf("write timestamp: %w", errNoTimestamp)
	}
	return t.root.appendTo(nil), nil
}

// All yields each attestation with a copy of the message it is about, in the
// order in which they are written.
func (t Timestamp) All() iter.Seq2[[]byte, Attestation] {
	return func(yield func([]byte, Attestation) bool) {
		t.walk(func(n *node, message []byte) bool {
			for _, a := range n.attestations {
				if !yield(bytes.Clone(message), a) {
					return false
				}
			}
			return true
		})
	}
}

// Pending yields the message and the calendar's URI of each pending attestation
// that isn't answered yet: below its node there is no Bitcoin attestation. For
// the answer see [Timestamp.Upgrade].
func (t Timestamp) Pending() iter.Seq2[[]byte, string] {
	return func(yield func([]byte, string) bool) {
		t.walk(func(n *node, message []byte) bool {
			for _, a := range n.attestations {
				if uri, ok := a.Calendar(); ok && !n.confirmed() && !yield(bytes.Clone(message), uri) {
					return false
				}
			}
			return true
		})
	}
}

// confirmed reports whether there is a Bitcoin attestation at the node or below.
func (n *node) confirmed() bool {
	return slices.ContainsFunc(n.attestations, func(a Attestation) bool { return a.notary == bitcoinNotary }) ||
		slices.ContainsFunc(n.steps, func(s step) bool { return s.next.confirmed() })
}

// walk visits the nodes with their messages, which stay only during the visit,
// until visit returns false.
func (t Timestamp) walk(visit func(*node, []byte) bool) {
	if t.root != nil {
		t.root.walk(&scratch{}, []byte(t.message), 0, visit)
	}
}

func (n *node) walk(s *scratch, message []byte, depth int, visit func(*node, []byte) bool) bool {
	if !visit(n, message) {
		return false
	}
	for _, st := range n.steps {
		if !st.next.walk(s, s.apply(st.op, message, depth), depth+1, visit) {
			return false
		}
	}
	return true
}

// Merge returns all that either timestamp says. An error has [ErrOtherMessage]
// in its chain if they are of two messages.
func (t Timestamp) Merge(u Timestamp) (Timestamp, error) {
	if t.root == nil || u.root == nil {
		return Timestamp{}, fmt.Errorf("merge timestamps: %w", errNoTimestamp)
	}
	if t.message != u.message {
		return Timestamp{}, fmt.Errorf("merge timestamps: %w", ErrOtherMessage)
	}
	merged := Timestamp{t.message, join([]step{{next: t.root}, {next: u.root}})}
	if err := merged.check(); err != nil {
		return Timestamp{}, fmt.Errorf("merge timestamps: %w", err)
	}
	return merged, nil
}

// Upgrade returns the timestamp with a calendar's answer wherever a pending
// attestation waits for it: [ErrNotPending] is in the error's chain if none does.
// The pending attestation stays, as with the reference, so that another calendar
// can be asked again.
//
// Nothing is verified. An answer that names a block which doesn't hold spoils the
// file for the reference's client, which looks at the lowest height alone:
// [Check] the answer first.
func (t Timestamp) Upgrade(answer Timestamp) (Timestamp, error) {
	if t.root == nil || answer.root == nil {
		return Timestamp{}, fmt.Errorf("upgrade timestamp: %w", errNoTimestamp)
	}
	root, found := t.root.graft(&scratch{}, []byte(t.message), 0, answer)
	if !found {
		return Timestamp{}, fmt.Errorf("upgrade timestamp: %w", ErrNotPending)
	}
	upgraded := Timestamp{t.message, root}
	if err := upgraded.check(); err != nil {
		return Timestamp{}, fmt.Errorf("upgrade timestamp: %w", err)
	}
	return upgraded, nil
}

// graft returns the node with the answer, and whether it belongs there; if not,
// the node itself.
func (n *node) graft(s *scratch, message []byte, depth int, answer Timestamp) (*node, bool) {
	var steps []step // a copy, once there is a change
	for i, st := range n.steps {
		next, ok := st.next.graft(s, s.apply(st.op, message, depth), depth+1, answer)
		if !ok {
			continue
		}
		if steps == nil {
			steps = slices.Clone(n.steps)
		}
		steps[i].next = next
	}
	grafted := n
	if steps != nil {
		grafted = &node{n.attestations, steps}
	}
	if n.pending() && string(message) == answer.message {
		return join([]step{{next: grafted}, {next: answer.root}}), true
	}
	return grafted, steps != nil
}

func (n *node) pending() bool {
	return slices.ContainsFunc(n.attestations, func(a Attestation) bool { return a.notary == pendingNotary })
}
