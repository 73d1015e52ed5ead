package ledger

import (
	"fmt"
	"slices"
	"time"

	"github.com/calpe/calpe"
)

// ProofState is the state of a [Proof].
type ProofState string

// The states of a proof, in the order of its life.
const (
	ProofWanted    ProofState = "wanted"    // the calendar is to be asked, or was asked and its answer is lost
	ProofPending   ProofState = "pending"   // it has promised, and the promise is stored
	ProofAttested  ProofState = "attested"  // it names a block, but no headers are known here to compare
	ProofConfirmed ProofState = "confirmed" // the header at that height has the Merkle root
	ProofFinal     ProofState = "final"     // the same, deep enough
)

// ProofStates lists every state, in the order of a proof's life.
func ProofStates() []ProofState {
	return []ProofState{ProofWanted, ProofPending, ProofAttested, ProofConfirmed, ProofFinal}
}

// ParseProofState reads the text form; anything else is an error.
func ParseProofState(text string) (ProofState, error) {
	if s := ProofState(text); slices.Contains(ProofStates(), s) {
		return s, nil
	}
	return "", fmt.Errorf("unknown proof state %q", text)
}

// ProofEdges are the only moves of a proof (I6). docs/design/0006-calendars.md
// draws them.
func ProofEdges() []Edge[ProofState] {
	return []Edge[ProofState]{
		{"", ProofWanted, ByAct, "a payload is due"},
		{ProofWanted, ProofPending, ByAct, "the calendar's promise is stored"},
		{ProofPending, ProofAttested, ByAct, "the calendar names a block, and no headers are known here"},
		{ProofPending, ProofConfirmed, ByAct, "the calendar names a block whose header has the Merkle root"},
		{ProofAttested, ProofConfirmed, ByFollow, "the header of its height is known now, and has the Merkle root"},
		{ProofConfirmed, ProofFinal, ByFollow, "its block is deep enough"},
		{ProofAttested, ProofPending, ByRewind, "the header of its height is known now, and has another Merkle root"},
		{ProofConfirmed, ProofPending, ByRewind, "its block is gone"},
		{ProofFinal, ProofPending, ByRewind, "its block is gone"}, // deeper than the configured depth: an alarm, but the chain decides
	}
}

// ProofID names a proof: there is one for each size and calendar.
type ProofID struct {
	Size     uint64
	Calendar string // address, as configured
}

// Proof is what one calendar was asked, and has proved, of one payload.
type Proof struct {
	calpe.Payload
	Calendar  string // address, as configured
	State     ProofState
	Promise   []byte      // the calendar's answer to SHA-256 of the payload; nil while wanted
	Created   time.Time   // when it was wanted
	Submitted time.Time   // when the calendar promised; zero while wanted
	Asked     time.Time   // when it was last asked for the rest; zero: not yet
	Way       Attestation // zero until it is attested
}

// ID names the proof.
func (p Proof) ID() ProofID { return ProofID{p.Size, p.Calendar} }

// Attestation is the way from SHA-256 of a payload to a block.
type Attestation struct {
	Operations []byte // as in a receipt
	Height     uint32
	// The block at that height, with the Merkle root that the operations lead to.
	// Both are zero if no header of that height was known.
	Block  calpe.BlockHash
	Header [calpe.HeaderSize]byte
}

// Checked reports whether the header was known.
func (a Attestation) Checked() bool { return a.Block != calpe.BlockHash{} }

// ProofSummary is how anchoring by calendars stands.
type ProofSummary struct {
	Promised   uint64    // largest size that a calendar has promised to anchor; 0: none
	PromisedAt time.Time // when a calendar last promised that
	Led        uint64    // largest size that was led to a block, checked or not
	LedAt      time.Time // when that last happened
	Pending    int       // promises above that size that are still open
	// Unpromised is since when something above Promised is wanted; zero: nothing is.
	Unpromised time.Time
	// Waiting is since when the oldest promise above Led is open; zero: none is.
	Waiting time.Time
}
