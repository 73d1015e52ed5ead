package anchor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/anchor/wallet"
	"github.com/calpe/calpe/internal/commitpoint"
)

// act does what is due for the live coin: finish the attempt that is there, or
// create one.
func (e *Engine) act(ctx context.Context, epoch uint64, snap ledger.Snapshot) error {
	switch {
	case snap.Foreign != nil:
		return fmt.Errorf("%w: %v by %v at height %d", ErrForeignSpend, snap.Foreign.Outpoint, snap.Foreign.SpentBy, snap.Foreign.SpentHeight)
	case snap.Live == nil:
		return fmt.Errorf("%w: the first coin is in no block", ErrNoCoin)
	}
	a, ok := unmined(snap.Attempts)
	if !ok {
		due, err := e.due(ctx, snap)
		if err != nil || due == (calpe.Payload{}) {
			return err
		}
		if a, err = e.create(ctx, epoch, snap, due); err != nil {
			return err
		}
	}
	if a.State == ledger.Created {
		var err error
		if a, err = e.sign(ctx, epoch, a); err != nil {
			return err
		}
	}
	if !e.sendIsDue(a, snap.Tip) {
		return nil
	}
	return e.send(ctx, epoch, a, snap)
}

// unmined is the attempt that may still become the coin's anchor: the last one,
// which pays the most.
func unmined(attempts []ledger.Attempt) (ledger.Attempt, bool) {
	for i := len(attempts) - 1; i >= 0; i-- {
		if attempts[i].State.Unmined() {
			return attempts[i], true
		}
	}
	return ledger.Attempt{}, false
}

// due is the payload to anchor now; its zero value means that there is none. An
// attempt from the future (the clock was set back) doesn't hold anything up.
func (e *Engine) due(ctx context.Context, snap ledger.Snapshot) (calpe.Payload, error) {
	age := e.cfg.Now().Sub(snap.LastCreated)
	if !snap.LastCreated.IsZero() && age >= 0 && age < e.cfg.Interval {
		return calpe.Payload{}, nil
	}
	head, err := e.cfg.Log.CheckpointHead(ctx)
	if errors.Is(err, calpe.ErrNotFound) {
		return calpe.Payload{}, nil
	}
	if err != nil {
		return calpe.Payload{}, fmt.Errorf("read newest checkpoint: %w", err)
	}
	if head.Size <= snap.Anchored {
		return calpe.Payload{}, nil
	}
	return calpe.Payload{Size: head.Size, Root: head.Root}, nil
}

func (e *Engine) create(ctx context.Context, epoch uint64, snap ledger.Snapshot, payload calpe.Payload) (ledger.Attempt, error) {
	if err := e.checkCoin(ctx, *snap.Live); err != nil {
		return ledger.Attempt{}, err
	}
	rate, err := e.feeRate(ctx)
	if err != nil {
		return ledger.Attempt{}, err
	}
	a, err := wallet.BuildAttempt(wallet.Build{
		Coin:    ledger.Input{Outpoint: snap.Live.Outpoint, Output: snap.Live.Output},
		Change:  e.cfg.Signer.Script(),
		Payload: payload, FeeRate: rate, Caps: e.cfg.Caps,
	})
	if err != nil {
		return ledger.Attempt{}, fmt.Errorf("build attempt: %w", err)
	}
	a.N, a.Created = 1, e.cfg.Now()
	if n := len(snap.Attempts); n > 0 {
		a.N = snap.Attempts[n-1].N + 1
	}
	if err := e.cfg.Store.CreateAttempt(ctx, epoch, a); err != nil {
		return ledger.Attempt{}, fmt.Errorf("store attempt %v: %w", a.TxID, err)
	}
	// Crash here: the attempt is stored without a signature, and nobody else has
	// seen it. The next step signs the same bytes.
	commitpoint.Reached(commitpoint.AttemptStored)
	e.cfg.Logger.InfoContext(ctx, "anchor attempt created", slog.Any("txid", a.TxID), slog.Uint64("size", a.Size),
		slog.Int64("fee_sat", a.Fee), slog.Any("fee_rate", rate))
	return a, nil
}

// checkCoin asks the node whether the coin is unspent in its chain, with the
// value that we sign for. If it isn't, a block has come that the next step will
// follow.
func (e *Engine) checkCoin(ctx context.Context, coin ledger.Coin) error {
	out, ok, err := e.cfg.Node.TxOut(ctx, coin.Outpoint)
	if err != nil {
		return fmt.Errorf("look up coin %v: %w", coin.Outpoint, err)
	}
	if !ok {
		return fmt.Errorf("%w: coin %v is not an unspent output of it", ErrChainMoved, coin.Outpoint)
	}
	if out.Value != coin.Value || !bytes.Equal(out.Script, coin.Script) {
		return fmt.Errorf("%w: the node has coin %v with %d sat, stored are %d sat, or with another script", ErrUnknownChain, coin.Outpoint, out.Value, coin.Value)
	}
	return nil
}

// feeRate is the node's estimate, or the configured one, within 1 sat/vB and the cap.
func (e *Engine) feeRate(ctx context.Context) (ledger.FeeRate, error) {
	rate, ok, err := e.cfg.Node.FeeRate(ctx, e.cfg.Target)
	if err != nil {
		return 0, fmt.Errorf("estimate fee rate: %w", err)
	}
	if !ok {
		rate = e.cfg.Fallback
	}
	if rate > e.cfg.Caps.FeeRate {
		e.cfg.Logger.WarnContext(ctx, "fee rate is above the cap", slog.Any("fee_rate", rate), slog.Any("cap", e.cfg.Caps.FeeRate))
	}
	// The rate at which one attempt costs the cap in satoshis, rounded down.
	most := ledger.FeeRate(e.cfg.Caps.Fee * int64(ledger.SatPerVB) / int64(wallet.VSize(1)))
	return max(ledger.SatPerVB, min(rate, e.cfg.Caps.FeeRate, most)), nil
}

// sign signs the stored bytes: after a crash the same transaction comes out, and
// never a second one.
func (e *Engine) sign(ctx context.Context, epoch uint64, a ledger.Attempt) (ledger.Attempt, error) {
	raw, err := e.cfg.Signer.Sign(ctx, a.Unsigned, a.Inputs)
	if err != nil {
		return ledger.Attempt{}, fmt.Errorf("sign attempt %v: %w", a.TxID, err)
	}
	if err := e.cfg.Store.StoreSigned(ctx, epoch, a.TxID, raw); err != nil {
		return ledger.Attempt{}, fmt.Errorf("store signature of %v: %w", a.TxID, err)
	}
	// Crash here: the signed transaction is stored (I5) and wasn't sent. The next
	// step sends it.
	commitpoint.Reached(commitpoint.AttemptSigned)
	a.Raw, a.State = raw, ledger.Signed
	return a, nil
}

// sendIsDue: at each new block, every so often, and soon after a hand-over that
// got no answer, or that was in the future by a clock that was set back.
// Mempools forget: btcd's at each restart.
func (e *Engine) sendIsDue(a ledger.Attempt, tip ledger.Block) bool {
	age := e.cfg.Now().Sub(a.LastSent)
	return e.sentAt != tip.Hash || a.LastSent.IsZero() || a.Answer.Kind == ledger.Later || age >= e.cfg.Resend || age < 0
}

func (e *Engine) send(ctx context.Context, epoch uint64, a ledger.Attempt, snap ledger.Snapshot) error {
	if err := e.checkCoin(ctx, *snap.Live); err != nil {
		return err
	}
	answer, sendErr := e.cfg.Node.Send(ctx, a.Raw)
	// Crash here: the transaction may be with the node, and the rows say signed.
	// The next step sends it again, which does no harm.
	commitpoint.Reached(commitpoint.AttemptSent)
	if sendErr != nil {
		answer = ledger.Answer{Kind: ledger.Later, Text: clip(sendErr.Error())}
	}
	if err := e.cfg.Store.RecordAnswer(ctx, epoch, a.TxID, answer, e.cfg.Now()); err != nil {
		return fmt.Errorf("record answer to %v: %w", a.TxID, err)
	}
	// Crash here: all is recorded; the next steps wait for a block.
	commitpoint.Reached(commitpoint.AnswerRecorded)
	e.sentAt = snap.Tip.Hash
	if sendErr != nil {
		return fmt.Errorf("send attempt %v: %w", a.TxID, sendErr)
	}
	return e.judge(ctx, a, answer)
}

func (e *Engine) judge(ctx context.Context, a ledger.Attempt, answer ledger.Answer) error {
	if answer.Kind.Taken() {
		e.cfg.Logger.InfoContext(ctx, "anchor attempt sent", slog.Any("txid", a.TxID), slog.String("answer", string(answer.Kind)),
			slog.Duration("age", e.cfg.Now().Sub(a.Created).Round(time.Second)))
		return nil
	}
	switch answer.Kind {
	case ledger.InputsMissing, ledger.Conflict, ledger.FeeTooLow, ledger.Later:
		// The chain, or another fee market, will decide.
		e.cfg.Logger.WarnContext(ctx, "node doesn't take the anchor attempt at the moment", slog.Any("txid", a.TxID),
			slog.String("answer", string(answer.Kind)), slog.String("text", answer.Text))
		return nil
	default:
		return fmt.Errorf("%w: %v: %s: %s", ErrRefused, a.TxID, answer.Kind, answer.Text)
	}
}

// clip bounds the text of an answer that is stored, in whole characters.
func clip(text string) string {
	const longest = 300
	return strings.ToValidUTF8(text[:min(len(text), longest)], "")
}
