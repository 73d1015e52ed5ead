package anchor

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"slices"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/anchor/wallet"
)

// joining picks the deposits that the next attempt spends besides the coin, and
// asks the node whether they are unspent in its chain. What an attempt wasn't
// signed with isn't tried again with the same coin: whoever pays us must not be
// able to stop anchoring with a payment that the signer refuses.
func (e *Engine) joining(ctx context.Context, snap ledger.Snapshot, attempts []ledger.Attempt, rate ledger.FeeRate) ([]ledger.Input, error) {
	refused := map[calpe.Outpoint]bool{}
	for _, a := range attempts {
		for _, in := range a.Inputs {
			refused[in.Outpoint] = refused[in.Outpoint] || a.Raw == nil
		}
	}
	live := slices.DeleteFunc(slices.Clone(snap.Deposits), func(d ledger.Coin) bool {
		return d.State != ledger.CoinLive || refused[d.Outpoint] || givenUp(snap, d) || !e.cfg.Signer.Owns(d.Script) // of a key that was taken out of the keystore
	})
	var inputs []ledger.Input
	for _, d := range e.cfg.Caps.Join(*snap.Live, live, rate) {
		if err := e.checkCoin(ctx, d); err != nil {
			return nil, err
		}
		inputs = append(inputs, ledger.Input{Outpoint: d.Outpoint, Output: d.Output})
	}
	return inputs, nil
}

// givenUp: whoever broke the chain may have the key to the deposit, and could
// replace every attempt that it joins.
func givenUp(snap ledger.Snapshot, d ledger.Coin) bool {
	return slices.ContainsFunc(snap.Breaks, func(b ledger.Break) bool { return b.GivenUp(d.Script) })
}

// build builds an attempt with as many of the deposits as the caps and the budget
// allow. If it takes deposits to pay for the attempt at all, then at a lower rate
// rather than not.
func (e *Engine) build(b wallet.Build, budget int64) (ledger.Attempt, error) {
	deposits, rate := b.Extra, b.FeeRate
	var a ledger.Attempt
	err := wallet.ErrOutOfFunds
	for n := len(deposits); n >= 0; n-- {
		b.Extra = deposits[:n]
		affordable := ledger.FeeRate(budget * int64(ledger.SatPerVB) / int64(wallet.VSize(1+n)))
		b.FeeRate = max(ledger.SatPerVB, min(affordable, e.cfg.Caps.Fit(rate, 1+n)))
		fewer, errFewer := wallet.BuildAttempt(b)
		if n < len(deposits) && errors.Is(errFewer, wallet.ErrOutOfFunds) {
			break // what was in the way before is the reason
		}
		if a, err = fewer, errFewer; err == nil && a.Fee <= budget || err != nil && !errors.Is(err, wallet.ErrCap) {
			break
		}
	}
	return a, err
}

// reckon says what the funds pay for, and once in the log when that changes.
func (e *Engine) reckon(ctx context.Context, snap ledger.Snapshot) wallet.Funds {
	deposits := slices.DeleteFunc(slices.Clone(snap.Deposits), func(d ledger.Coin) bool { return givenUp(snap, d) })
	funds := e.cfg.Caps.Funds(snap.Live, deposits, cmp.Or(snap.LastRate, e.cfg.Fallback))
	state := funds.State(e.cfg.LowFunds)
	if snap.Live == nil || state == e.funds { // without a coin there are graver news
		return funds
	}
	attrs := []any{
		slog.Int64("value_sat", funds.Value), slog.Int64("anchors_left", funds.Left),
		slog.Int64("anchors_left_at_cap", funds.LeftAtCap), slog.Any("fee_rate", funds.Rate),
	}
	switch state {
	case wallet.FundsAmple:
		e.cfg.Logger.InfoContext(ctx, "funds are ample", attrs...)
	case wallet.FundsLow:
		e.cfg.Logger.WarnContext(ctx, "funds are low: pay to the anchor address", attrs...)
	case wallet.FundsOut:
		e.cfg.Logger.ErrorContext(ctx, "out of funds: no anchor is made until a deposit is in a block", attrs...)
	}
	e.funds = state
	return funds
}
