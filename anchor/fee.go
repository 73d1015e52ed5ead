package anchor

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/anchor/wallet"
)

// Limit names what keeps an anchor's fee below what it should be. The newest
// attempt is kept and sent again, entries accumulate, and the next anchor covers
// them: nothing is lost but time.
type Limit string

// The limits.
const (
	NoLimit      Limit = ""
	LimitFeeRate Limit = "fee-rate" // Caps.FeeRate
	LimitFee     Limit = "fee"      // Caps.Fee
	LimitDay     Limit = "day"      // Caps.Day
	LimitFunds   Limit = "funds"    // the coin doesn't pay for more
)

// day is the time over which Caps.Day counts.
const day = 24 * time.Hour

// setLimit tells once when a limit begins or ends to hold.
func (e *Engine) setLimit(ctx context.Context, limit Limit) {
	if limit == e.limit {
		return
	}
	e.limit = limit
	if limit == NoLimit {
		e.cfg.Logger.InfoContext(ctx, "anchor fee is within its limits again")
		return
	}
	e.cfg.Logger.ErrorContext(ctx, "anchor fee is held at a limit: what was sent is sent again, entries wait",
		slog.String("limit", string(limit)), slog.Any("cap_rate", e.cfg.Caps.FeeRate),
		slog.Int64("cap_sat", e.cfg.Caps.Fee), slog.Int64("cap_day_sat", e.cfg.Caps.Day))
}

// next is the attempt to create now, which nobody has stored yet; nil if there is none.
func (e *Engine) next(ctx context.Context, snap ledger.Snapshot, attempts []ledger.Attempt) (*ledger.Attempt, error) {
	if len(attempts) > 0 && !e.bumpIsDue(attempts, snap.Tip) {
		return nil, nil //nolint:nilnil // nothing to do isn't an error
	}
	payload, err := e.payload(ctx, snap, attempts)
	if err != nil {
		return nil, err
	}
	if payload == (calpe.Payload{}) {
		e.setLimit(ctx, NoLimit)
		return nil, nil //nolint:nilnil // nothing to do isn't an error
	}
	a, limit, err := e.offer(ctx, snap, attempts, payload)
	if err != nil {
		return nil, err
	}
	e.setLimit(ctx, limit)
	if a == nil {
		e.offeredAt = snap.Tip.Hash
	}
	return a, nil
}

// bumpIsDue says whether the coin wants another attempt: once a block, when the
// goal is missed, when the node asks for more, when the newest couldn't be signed,
// or when a reorganisation took the deposits of all of them away.
func (e *Engine) bumpIsDue(attempts []ledger.Attempt, tip ledger.Block) bool {
	first, newest := attempts[0], attempts[len(attempts)-1]
	if newest.Tip >= tip.Height || e.offeredAt == tip.Hash {
		return false
	}
	late := int64(tip.Height)-int64(first.Tip) >= int64(e.cfg.Target) || e.cfg.Now().Sub(first.Created) >= e.cfg.Patience
	none := !slices.ContainsFunc(attempts, func(a ledger.Attempt) bool { return a.State.Unmined() })
	return late || none || newest.Answer.Kind == ledger.FeeTooLow || newest.Raw == nil
}

// payload is what to anchor now: the newest root. A first attempt waits for its
// time and for a log that has grown, and after a break for a root that covers its
// statement; a bump never covers less than what it bumps.
func (e *Engine) payload(ctx context.Context, snap ledger.Snapshot, attempts []ledger.Attempt) (calpe.Payload, error) {
	if len(attempts) == 0 && !e.intervalIsOver(snap) {
		return calpe.Payload{}, nil
	}
	var least calpe.Payload
	for _, a := range attempts {
		if a.Size > least.Size {
			least = a.Payload
		}
	}
	head, err := e.cfg.Log.CheckpointHead(ctx)
	if errors.Is(err, calpe.ErrNotFound) {
		return least, nil
	}
	if err != nil {
		return calpe.Payload{}, fmt.Errorf("read newest checkpoint: %w", err)
	}
	if head.Size <= max(snap.Anchored, least.Size) || head.Size < snap.LeastSize() {
		return least, nil
	}
	return calpe.Payload{Size: head.Size, Root: head.Root}, nil
}

// intervalIsOver: an attempt from the future (the clock was set back) doesn't
// hold anything up.
func (e *Engine) intervalIsOver(snap ledger.Snapshot) bool {
	age := e.cfg.Now().Sub(snap.LastCreated)
	return snap.LastCreated.IsZero() || age < 0 || age >= e.cfg.Interval
}

// offer builds the attempt at the market's rate, above whatever was sent of the
// coin, and within the caps. The attempt is nil when the caps, or the coin, don't
// allow one, or when it is there already. The limit is what binds the fee.
func (e *Engine) offer(ctx context.Context, snap ledger.Snapshot, attempts []ledger.Attempt, payload calpe.Payload) (*ledger.Attempt, Limit, error) {
	if err := e.checkCoin(ctx, *snap.Live); err != nil {
		return nil, NoLimit, err
	}
	budget, err := e.budget(ctx)
	if err != nil {
		return nil, NoLimit, err
	}
	market, err := e.marketRate(ctx)
	if err != nil {
		return nil, NoLimit, err
	}
	rate, limit := e.clamp(market, budget)
	if rate < ledger.SatPerVB {
		return nil, limit, nil
	}
	bid := wallet.Outbid(attempts, e.cfg.Raise)
	deposits, err := e.joining(ctx, snap, attempts, rate)
	if err != nil {
		return nil, NoLimit, err
	}
	a, err := e.build(wallet.Build{
		Coin:  ledger.Input{Outpoint: snap.Live.Outpoint, Output: snap.Live.Output},
		Extra: deposits, Change: e.cfg.Signer.Script(),
		Payload: payload, FeeRate: rate, Bid: bid, Caps: e.cfg.Caps,
	}, budget)
	switch {
	case errors.Is(err, wallet.ErrOutOfFunds):
		if len(attempts) > 0 {
			return nil, LimitFunds, nil
		}
		e.setLimit(ctx, LimitFunds)
		return nil, LimitFunds, fmt.Errorf("build attempt: %w", err)
	case errors.Is(err, wallet.ErrCap) && bid.Least(wallet.VSize(1)) > e.cfg.Caps.Fee:
		return nil, LimitFee, nil
	case errors.Is(err, wallet.ErrCap):
		return nil, LimitFeeRate, nil
	case err != nil:
		return nil, NoLimit, fmt.Errorf("build attempt: %w", err)
	case a.Fee > budget:
		return nil, LimitDay, nil
	case slices.ContainsFunc(attempts, func(o ledger.Attempt) bool { return o.TxID == a.TxID }):
		return nil, limit, nil // of an attempt that wasn't signed
	}
	a.N, a.Created, a.Tip = 1, e.cfg.Now(), snap.Tip.Height
	if n := len(attempts); n > 0 {
		a.N = attempts[n-1].N + 1
	}
	return &a, limit, nil
}

// budget is how many satoshis the attempts of the live coin may cost, by what
// other coins cost within a day, or may still cost. Times ahead of the clock
// count up to a day, because the clock can have been set back.
func (e *Engine) budget(ctx context.Context) (int64, error) {
	now := e.cfg.Now()
	spent, err := e.cfg.Store.Spent(ctx, now.Add(-day), now.Add(day))
	if err != nil {
		return 0, fmt.Errorf("read the day's fees: %w", err)
	}
	return e.cfg.Caps.Day - spent, nil
}

// marketRate is the node's estimate, or the configured rate if it has none. It
// is at least what every node relays.
func (e *Engine) marketRate(ctx context.Context) (ledger.FeeRate, error) {
	rate, ok, err := e.cfg.Node.FeeRate(ctx, e.cfg.Target)
	if err != nil {
		return 0, fmt.Errorf("estimate fee rate: %w", err)
	}
	if !ok {
		rate = e.cfg.Fallback
	}
	return max(ledger.SatPerVB, rate), nil
}

// clamp takes a rate down to what the caps and the day's budget allow an attempt
// of one input.
func (e *Engine) clamp(rate ledger.FeeRate, budget int64) (ledger.FeeRate, Limit) {
	limit := NoLimit
	for _, c := range [...]struct {
		limit Limit
		most  ledger.FeeRate
	}{
		{LimitFeeRate, e.cfg.Caps.FeeRate}, {LimitFee, rateOf(e.cfg.Caps.Fee)}, {LimitDay, rateOf(budget)},
	} {
		if c.most < rate {
			rate, limit = c.most, c.limit
		}
	}
	return rate, limit
}

// rateOf is the rate at which an attempt of one input costs that fee, rounded down.
func rateOf(fee int64) ledger.FeeRate {
	return ledger.FeeRate(fee * int64(ledger.SatPerVB) / int64(wallet.VSize(1)))
}
