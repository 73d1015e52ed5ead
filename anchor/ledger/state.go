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
	// Replaced: a block holds another spend of its coin, or of a deposit that it
	// spends.
	Replaced AttemptState = "replaced"
	// Void: its coin, or a deposit that it spends, is void, so no block can hold it
	// for now.
	Void AttemptState = "void"
)

// Mover is the part of the service that makes a move.
type Mover string

// The movers.
const (
	// ByAct: the engine's own doing, with the live coin.
	ByAct Mover = "act"
	// ByFollow: a block was connected, or has become deep enough.
	ByFollow Mover = "follow"
	// ByRewind: a reorganisation took blocks away.
	ByRewind Mover = "rewind"
	// ByRecovery: a block holds an attempt of ours that this database doesn't
	// know, because it is an older copy of the one that does.
	ByRecovery Mover = "recovery"
	// ByOperator: a log is created.
	ByOperator Mover = "operator"
)

// Edge is one allowed move of an attempt or a coin. An empty From means that
// the move makes the row.
type Edge[S ~string] struct {
	From, To S
	By       Mover
	Cause    string
}

// AttemptEdges is the whole state table of attempts (I6). A move that isn't here
// is a bug, and a store refuses it. It is data so that documentation, the stores
// and the tests read the same table. It is drawn in docs/design/0004-anchor-states.md.
func AttemptEdges() []Edge[AttemptState] {
	const (
		held       = "a block holds it"
		other      = "a block holds another spend of its coin, or of its deposit"
		gone       = "its block is gone"
		otherGone  = "the block with the other spend is gone"
		coinGone   = "its coin, or its deposit, is void"
		coinIsBack = "its coin, or its deposit, is in a block again"
	)
	return []Edge[AttemptState]{
		{"", Created, ByAct, "an anchor is due, or a higher fee"},
		{"", Mined, ByRecovery, "a block holds one of ours that has no row"},
		{Created, Signed, ByAct, "the signature is stored"},
		{Signed, Sent, ByAct, "a node took it"},

		// Created and Signed lead to Mined too: a block may hold a transaction
		// whose signature or answer was lost with a crash or an older database.
		{Created, Mined, ByFollow, held},
		{Signed, Mined, ByFollow, held},
		{Sent, Mined, ByFollow, held},
		{Mined, Final, ByFollow, "its block is deep enough"},
		{Created, Replaced, ByFollow, other},
		{Signed, Replaced, ByFollow, other},
		{Sent, Replaced, ByFollow, other},

		{Mined, Sent, ByRewind, gone},
		{Final, Sent, ByRewind, gone}, // deeper than the configured depth: an alarm, but the chain decides
		{Replaced, Created, ByRewind, otherGone},
		{Replaced, Signed, ByRewind, otherGone},
		{Replaced, Sent, ByRewind, otherGone},
		{Created, Void, ByRewind, coinGone},
		{Signed, Void, ByRewind, coinGone},
		{Sent, Void, ByRewind, coinGone},
		{Replaced, Void, ByRewind, coinGone},

		{Void, Created, ByFollow, coinIsBack},
		{Void, Signed, ByFollow, coinIsBack},
		{Void, Sent, ByFollow, coinIsBack},
		{Void, Replaced, ByFollow, "its deposit is in a block again, and its coin is spent"},
	}
}

// CoinEdges is the whole state table of coins (I6), as [AttemptEdges] is that of
// attempts.
func CoinEdges() []Edge[CoinState] {
	const (
		gone    = "its block is gone"
		unspent = "the block that spends it is gone"
	)
	return []Edge[CoinState]{
		{"", CoinLive, ByOperator, "it is the first coin of a log"},
		{"", CoinLive, ByFollow, "it is the change of an attempt in a block, or a deposit"},
		{CoinLive, CoinSpent, ByFollow, "a block holds an attempt that spends it"},
		{CoinLive, CoinForeign, ByFollow, "a block holds a spend that isn't ours"},
		{CoinVoid, CoinLive, ByFollow, "its transaction is in a block again"},

		{CoinSpent, CoinLive, ByRewind, unspent},
		{CoinForeign, CoinLive, ByRewind, unspent},
		{CoinLive, CoinVoid, ByRewind, gone},
		{CoinSpent, CoinVoid, ByRewind, gone},
		{CoinForeign, CoinVoid, ByRewind, gone},
	}
}

// CanMove reports whether a table lets the mover make that move.
func CanMove[S ~string](table []Edge[S], by Mover, from, to S) bool {
	return slices.ContainsFunc(table, func(e Edge[S]) bool { return e.By == by && e.From == from && e.To == to })
}

// Sources lists, as text, the states from which a table lets the mover reach a
// state: what a compare-and-set compares with.
func Sources[S ~string](table []Edge[S], by Mover, to S) []string {
	var from []string
	for _, e := range table {
		if e.By == by && e.To == to && e.From != "" {
			from = append(from, string(e.From))
		}
	}
	return from
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

// CoinStates lists every state of a coin.
func CoinStates() []CoinState {
	return []CoinState{CoinLive, CoinSpent, CoinForeign, CoinVoid}
}

// ParseCoinState reads the text form; anything else is an error.
func ParseCoinState(text string) (CoinState, error) {
	if s := CoinState(text); slices.Contains(CoinStates(), s) {
		return s, nil
	}
	return "", fmt.Errorf("unknown coin state %q", text)
}

// Unmined reports whether the attempt could still become the anchor of its
// coin: created, signed or sent.
func (s AttemptState) Unmined() bool { return s == Created || s == Signed || s == Sent }

// InBlock reports whether a block of the best chain holds the attempt.
func (s AttemptState) InBlock() bool { return s == Mined || s == Final }
