package anchor

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"strings"

	"github.com/calpe/calpe/anchor/bitcoin"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/anchor/wallet"
)

// Cause says in a word why a step failed.
type Cause string

// The causes. Those up to CauseUnauthorized are for an operator to look at; the
// others heal by themselves, or with the server that is down.
const (
	CauseForeignSpend  Cause = "foreign-spend"
	CauseBreakUndone   Cause = "break-undone" // the chain was restarted behind a foreign spend that a reorganisation took back
	CauseAheadOfLog    Cause = "ahead-of-log"
	CauseRefused       Cause = "refused" // by the node, for a reason that waiting doesn't cure
	CauseUnknownChain  Cause = "unknown-chain"
	CauseNodesDisagree Cause = "nodes-disagree"
	CauseOutOfFunds    Cause = "out-of-funds"
	CauseCap           Cause = "cap"
	CausePolicy        Cause = "policy" // of the signer
	CauseWrongNetwork  Cause = "wrong-network"
	CauseUnauthorized  Cause = "unauthorized"
	CauseUnsigned      Cause = "unsigned"
	CauseNoCoin        Cause = "no-coin"
	CauseNodeBehind    Cause = "node-behind"
	CauseChainMoved    Cause = "chain-moved"
	CauseNodeDown      Cause = "node-down"
	CauseOther         Cause = "other" // the database is down, as a rule
)

// causes says which error is which cause; the grave ones come first.
func causes() []struct {
	cause Cause
	is    error
	grave bool
} {
	return []struct {
		cause Cause
		is    error
		grave bool
	}{
		{CauseForeignSpend, ErrForeignSpend, true},
		{CauseBreakUndone, ErrBreakUndone, true},
		{CauseAheadOfLog, ErrAheadOfLog, true},
		{CauseRefused, ErrRefused, true},
		{CauseUnknownChain, ErrUnknownChain, true},
		{CauseNodesDisagree, ErrNodesDisagree, true},
		{CauseOutOfFunds, wallet.ErrOutOfFunds, true},
		{CauseCap, wallet.ErrCap, true},
		{CausePolicy, wallet.ErrPolicy, true},
		{CauseWrongNetwork, bitcoin.ErrWrongNetwork, true},
		{CauseUnauthorized, bitcoin.ErrUnauthorized, true},
		{CauseUnsigned, ErrUnsigned, false},
		{CauseNoCoin, ErrNoCoin, false},
		{CauseNodeBehind, ErrNodeBehind, false},
		{CauseChainMoved, ErrChainMoved, false},
		{CauseNodeDown, bitcoin.ErrUnavailable, false},
		{CauseNodeDown, bitcoin.ErrWarmingUp, false},
	}
}

// Causes lists all causes, once each.
func Causes() (all []Cause) {
	for _, c := range causes() {
		all = append(all, c.cause)
	}
	return append(slices.Compact(all), CauseOther)
}

// CausesOf says why a step failed: nothing of nil, and at least one cause of any
// other error. There can be several, because a step goes on as far as it can.
func CausesOf(err error) (found []Cause) {
	if err == nil {
		return nil
	}
	for _, c := range causes() {
		if errors.Is(err, c.is) && !slices.Contains(found, c.cause) {
			found = append(found, c.cause)
		}
	}
	if len(found) == 0 {
		found = []Cause{CauseOther}
	}
	return found
}

// severity of a failed step: what an operator must look at is an error, what
// heals by itself is a warning.
func severity(err error) slog.Level {
	for _, c := range causes() {
		if c.grave && errors.Is(err, c.is) {
			return slog.LevelError
		}
	}
	return slog.LevelWarn
}

// tell says once in the log what has changed for an operator: a failure that goes
// on for hours is one line, not one a step.
func (e *Engine) tell(ctx context.Context, snap ledger.Snapshot, err error) {
	if ctx.Err() != nil || isFatal(err) { // whoever ended the engine says why
		return
	}
	e.tellFailure(ctx, err)
	if snap.Tip != (ledger.Block{}) {
		e.tellStuck(ctx, snap)
	}
}

func (e *Engine) tellFailure(ctx context.Context, err error) {
	var words []string
	for _, c := range CausesOf(err) {
		words = append(words, string(c))
	}
	failing := strings.Join(words, ",")
	if failing == e.failing {
		return
	}
	e.failing = failing
	if err == nil {
		e.cfg.Logger.InfoContext(ctx, "anchor steps succeed again")
		return
	}
	e.cfg.Logger.LogAttrs(ctx, severity(err), "anchor step failed", slog.String("causes", failing), slog.Any("err", err))
}

// tellStuck tells of an anchor that no block takes: its first attempt waits for
// twice the blocks of the goal.
func (e *Engine) tellStuck(ctx context.Context, snap ledger.Snapshot) {
	var waited uint32
	if n := len(snap.Attempts); n > 0 && snap.Tip.Height > snap.Attempts[0].Tip {
		waited = snap.Tip.Height - snap.Attempts[0].Tip
	}
	stuck := int64(waited) >= 2*int64(e.cfg.Target)
	if stuck == e.stuck {
		return
	}
	e.stuck = stuck
	if !stuck {
		e.cfg.Logger.InfoContext(ctx, "anchor is not stuck any more")
		return
	}
	newest := snap.Attempts[len(snap.Attempts)-1]
	e.cfg.Logger.WarnContext(ctx, "anchor is stuck: no block takes any of its attempts", slog.Uint64("blocks", uint64(waited)),
		slog.Int("attempts", len(snap.Attempts)), slog.Any("txid", newest.TxID), slog.Uint64("size", newest.Size), slog.Any("fee_rate", newest.FeeRate()))
}
