package calpe

import "fmt"

// State is how far an entry has come. It is never stored: it follows from the
// entry's index and the log's watermarks, so one anchor moves a million entries.
type State int

// The states in the order in which an entry goes through them. Only a
// reorganisation of the chain can move an entry back, from Confirmed to
// Broadcast or Checkpointed; Final can move back only with a reorganisation
// deeper than the configured depth.
const (
	// Received: the entry is committed, and the service has signed for it.
	Received State = iota + 1
	// Checkpointed: its batch is in tiles in object storage; the root is fixed.
	Checkpointed
	// Broadcast: a transaction with a root that covers it has been sent.
	Broadcast
	// Confirmed: that transaction is in a block of the best chain.
	Confirmed
	// Final: the same, at least as deep as configured (6 by default).
	Final
)

var stateNames = [...]string{
	Received: "received", Checkpointed: "checkpointed", Broadcast: "broadcast",
	Confirmed: "confirmed", Final: "final",
}

// String is the name used in the API, in receipts and on the command line.
func (s State) String() string {
	if s < Received || s > Final {
		return fmt.Sprintf("State(%d)", int(s))
	}
	return stateNames[s]
}

// MarshalText implements [encoding.TextMarshaler]; an unknown state is an error.
func (s State) MarshalText() ([]byte, error) {
	if s < Received || s > Final {
		return nil, fmt.Errorf("no state has number %d", int(s))
	}
	return []byte(stateNames[s]), nil
}

// UnmarshalText implements [encoding.TextUnmarshaler], see [ParseState].
func (s *State) UnmarshalText(text []byte) (err error) {
	*s, err = ParseState(string(text))
	return err
}

// ParseState reads a name that [State.String] writes, and nothing else.
func ParseState(name string) (State, error) {
	for s := Received; s <= Final; s++ {
		if stateNames[s] == name {
			return s, nil
		}
	}
	return 0, fmt.Errorf("unknown state %q", name)
}

// Watermarks are the sizes up to which the log has reached each state: an entry
// has the last state whose size is above its index. Sizes never grow from one
// field to the next.
type Watermarks struct {
	Next         uint64 // the next index to be given: entries below are received
	Checkpointed uint64 // size of the newest checkpoint
	Broadcast    uint64 // size in the newest transaction that was sent
	Confirmed    uint64 // size in the newest transaction in a block
	Final        uint64 // the same, deep enough
}

// State of the entry with that index. The second result is false if there is no
// such entry.
func (w Watermarks) State(index uint64) (State, bool) {
	switch {
	case index < w.Final:
		return Final, true
	case index < w.Confirmed:
		return Confirmed, true
	case index < w.Broadcast:
		return Broadcast, true
	case index < w.Checkpointed:
		return Checkpointed, true
	case index < w.Next:
		return Received, true
	}
	return 0, false
}
