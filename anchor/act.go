package anchor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/internal/commitpoint"
)

// act does what is due for the live coin: sign what a crash left unsigned, create
// an attempt if one is due, or a higher fee, and send. A failure to create or to
// sign doesn't keep it from sending again what is signed.
func (e *Engine) act(ctx context.Context, epoch uint64, snap ledger.Snapshot) error {
	switch {
	case snap.Foreign != nil:
		return fmt.Errorf("%w: %v by %v at height %d", ErrForeignSpend, snap.Foreign.Outpoint, snap.Foreign.SpentBy, snap.Foreign.SpentHeight)
	case snap.Live == nil:
		return fmt.Errorf("%w: the first coin is in no block", ErrNoCoin)
	}
	attempts, errSign := e.signNewest(ctx, epoch, snap.Attempts)
	if errSign != nil && !errors.Is(errSign, ErrUnsigned) {
		return errSign
	}
	next, errNext := e.next(ctx, snap, attempts)
	if next != nil {
		if err := e.create(ctx, epoch, *next); err != nil {
			return err
		}
		attempts, errSign = e.signNewest(ctx, epoch, append(attempts, *next))
		if errSign != nil && !errors.Is(errSign, ErrUnsigned) {
			return errSign
		}
	}
	return errors.Join(errSign, errNext, e.sendNewest(ctx, epoch, attempts, snap))
}

func (e *Engine) create(ctx context.Context, epoch uint64, a ledger.Attempt) error {
	if err := e.cfg.Store.CreateAttempt(ctx, epoch, a); err != nil {
		return fmt.Errorf("store attempt %v: %w", a.TxID, err)
	}
	// Crash here: the attempt is stored without a signature, and nobody else has
	// seen it. The next step signs the same bytes. If it is a bump, those that were
	// sent before wait for a block as they did.
	commitpoint.Reached(commitpoint.AttemptStored)
	e.cfg.Logger.InfoContext(ctx, "anchor attempt created", slog.Any("txid", a.TxID), slog.Int("attempt", a.N), slog.Uint64("size", a.Size),
		slog.Int64("fee_sat", a.Fee), slog.Float64("sat_per_vb", float64(a.Fee)/float64(a.VSize)), slog.Int("deposits", len(a.Inputs)-1))
	return nil
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

// signNewest signs the newest attempt if it isn't: the stored bytes, so that after
// a crash the same transaction comes out, and never a second one. The error is
// [ErrUnsigned] when the signer has none to give; the attempts are good then too.
func (e *Engine) signNewest(ctx context.Context, epoch uint64, attempts []ledger.Attempt) ([]ledger.Attempt, error) {
	last := len(attempts) - 1
	if last < 0 || attempts[last].State != ledger.Created {
		return attempts, nil
	}
	a := attempts[last]
	raw, err := e.cfg.Signer.Sign(ctx, a.Unsigned, a.Inputs)
	if err != nil {
		return attempts, fmt.Errorf("%w: %v: %w", ErrUnsigned, a.TxID, err)
	}
	if err := e.cfg.Store.StoreSigned(ctx, epoch, a.TxID, raw); err != nil {
		return nil, fmt.Errorf("store signature of %v: %w", a.TxID, err)
	}
	// Crash here: the signed transaction is stored (I5) and wasn't sent. The next
	// step sends it.
	commitpoint.Reached(commitpoint.AttemptSigned)
	a.Raw, a.State = raw, ledger.Signed
	return append(slices.Clone(attempts[:last]), a), nil
}

// sendIsDue: at each new block, every so often, and soon after a hand-over that
// got no answer, or that was in the future by a clock that was set back.
// Mempools forget: btcd's at each restart.
func (e *Engine) sendIsDue(a ledger.Attempt, tip ledger.Block) bool {
	age := e.cfg.Now().Sub(a.LastSent)
	return e.sentAt != tip.Hash || a.LastSent.IsZero() || a.Answer.Kind == ledger.Later || age >= e.cfg.Resend || age < 0
}

// sendNewest hands over the newest signed attempt, which pays the most. If the
// node refuses it, it gets the one that a node took before, which it may have lost.
func (e *Engine) sendNewest(ctx context.Context, epoch uint64, attempts []ledger.Attempt, snap ledger.Snapshot) error {
	a, ok := newest(attempts, func(a ledger.Attempt) bool { return a.State == ledger.Signed || a.State == ledger.Sent })
	if !ok || !e.sendIsDue(a, snap.Tip) {
		return nil
	}
	if err := e.checkCoin(ctx, *snap.Live); err != nil {
		return err
	}
	answer, err := e.send(ctx, epoch, a)
	if err != nil {
		return err
	}
	older, ok := newest(attempts, func(o ledger.Attempt) bool { return o.State == ledger.Sent && o.TxID != a.TxID })
	if ok && !answer.Kind.Taken() && answer.Kind != ledger.Later {
		if _, err := e.send(ctx, epoch, older); err != nil {
			return err
		}
	}
	e.sentAt = snap.Tip.Hash
	return e.judge(ctx, a, answer)
}

func newest(attempts []ledger.Attempt, is func(ledger.Attempt) bool) (ledger.Attempt, bool) {
	for _, a := range slices.Backward(attempts) {
		if is(a) {
			return a, true
		}
	}
	return ledger.Attempt{}, false
}

func (e *Engine) send(ctx context.Context, epoch uint64, a ledger.Attempt) (ledger.Answer, error) {
	answer, sendErr := e.cfg.Node.Send(ctx, a.Raw)
	// Crash here: the transaction may be with the node, and the rows say signed.
	// The next step sends it again, which does no harm.
	commitpoint.Reached(commitpoint.AttemptSent)
	if sendErr != nil {
		answer = ledger.Answer{Kind: ledger.Later, Text: clip(sendErr.Error())}
	}
	if err := e.cfg.Store.RecordAnswer(ctx, epoch, a.TxID, answer, e.cfg.Now()); err != nil {
		return answer, fmt.Errorf("record answer to %v: %w", a.TxID, err)
	}
	// Crash here: all is recorded; the next steps wait for a block.
	commitpoint.Reached(commitpoint.AnswerRecorded)
	if sendErr != nil {
		return answer, fmt.Errorf("send attempt %v: %w", a.TxID, sendErr)
	}
	return answer, nil
}

func (e *Engine) judge(ctx context.Context, a ledger.Attempt, answer ledger.Answer) error {
	if answer.Kind.Taken() {
		e.cfg.Logger.InfoContext(ctx, "anchor attempt sent", slog.Any("txid", a.TxID), slog.String("answer", string(answer.Kind)),
			slog.Duration("age", e.cfg.Now().Sub(a.Created).Round(time.Second)))
		return nil
	}
	switch answer.Kind {
	case ledger.InputsMissing, ledger.Conflict, ledger.FeeTooLow, ledger.Later:
		// The chain decides, or the next block brings a higher fee.
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
