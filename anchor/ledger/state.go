package ledger

import (
	"fmt"
	"slices"
)

// CoinState says what is known of a coin on the best chain as far as it was
// followed. Mempools have no say in it.
type CoinState string

// The states of a coin.
const (
	// CoinLive: in a block, and no block spends it. The next attempt spends it;
	// at most one coin of the chain is live at any time.
	CoinLive CoinState = "live"
	// CoinSpent: a block holds an attempt of ours that spends it.
	CoinSpent CoinState = "spent"
	// CoinForeign: a block holds a spend that we didn't make. Either the key is
	// in other hands, or an engine that we know nothing of uses it; nothing more
	// is created until an operator has looked.
	CoinForeign CoinState = "foreign"
	// CoinVoid: the transaction that makes it is in no block of the best chain,
	// after a reorganisation. It comes back if that transaction does.
	CoinVoid CoinState = "void"
)

// AttemptState says how far an attempt has come.
type AttemptState string

// The states of an attempt.
const (
	// Created: the unsigned transaction and its id are stored, so whatever
	// happens next, a block that holds it is recognised.
	Created AttemptState = "created"
	// Signed: the signed transaction is stored (I5), and may have been sent.
	Signed AttemptState = "signed"
	// Sent: a node has taken it.
	Sent AttemptState = "sent"
	// Mined: a block of the best chain holds it.
	Mined AttemptState = "mined"
	// Final: the same, as deep as configured.
	Final AttemptState = "final"
	// Replaced: a block holds another spend of its coin.
	Replaced AttemptState = "replaced"
	// Void: its coin is void, so no block can hold it for now.
	Void AttemptState = "void"
)

// Edge is one allowed move of an attempt.
type Edge struct {
	From, To AttemptState
	Cause    string // what moves it
}

// Edges is the whole state table of attempts (I6). A move that isn't here is a
// bug, and a store refuses it. It is data so that documentation, the store and
// the tests read the same table.
func Edges() []Edge {
	const (
		engine  = "engine"
		block   = "block connected"
		reorg   = "reorganisation"
		restore = "reorganisation brings its coin back"
	)
	return []Edge{
		{Created, Signed, engine},
		{Signed, Sent, engine},
		{Mined, Final, engine},

		// Created and Signed lead to Mined too: a block may hold a transaction
		// whose signature or answer was lost with a crash or an older database.
		{Created, Mined, block},
		{Signed, Mined, block},
		{Sent, Mined, block},
		{Created, Replaced, block},
		{Signed, Replaced, block},
		{Sent, Replaced, block},

		{Mined, Sent, reorg},
		{Mined, Void, reorg},
		{Final, Sent, reorg}, // deeper than the configured depth: an alarm, but the chain decides
		{Final, Void, reorg},
		{Created, Void, reorg},
		{Signed, Void, reorg},
		{Sent, Void, reorg},
		{Replaced, Void, reorg},
		{Replaced, Created, reorg},
		{Replaced, Signed, reorg},
		{Replaced, Sent, reorg},

		{Void, Created, restore},
		{Void, Signed, restore},
		{Void, Sent, restore},
	}
}

// CanMove reports whether the table has an edge between the two states.
func CanMove(from, to AttemptState) bool {
	return slices.ContainsFunc(Edges(), func(e Edge) bool { return e.From == from && e.To == to })
}

// AttemptStates lists every state of an attempt, in the order of its life.
func AttemptStates() []AttemptState {
	return []AttemptState{Created, Signed, Sent, Mined, Final, Replaced, Void}
}

// ParseAttemptState reads the text form; anything else is an error.
func ParseAttemptState(text string) (AttemptState, error) {
	if s := AttemptState(text); slices.Contains(AttemptStates(), s) {
		return s, nil
	}
	return "", fmt.Errorf("unknown attempt state %q", text)
}

// ParseCoinState reads the text form; anything else is an error.
func ParseCoinState(text string) (CoinState, error) {
	switch s := CoinState(text); s {
	case CoinLive, CoinSpent, CoinForeign, CoinVoid:
		return s, nil
	}
	return "", fmt.Errorf("unknown coin state %q", text)
}

// Unmined reports whether the attempt could still become the anchor of its
// coin: created, signed or sent.
func (s AttemptState) Unmined() bool { return s == Created || s == Signed || s == Sent }

// InBlock reports whether a block of the best chain holds the attempt.
func (s AttemptState) InBlock() bool { return s == Mined || s == Final }
