package anchor

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"math/big"
	"slices"

	"github.com/btcsuite/btcd/wire/v2"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/bitcoin"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/internal/commitpoint"
)

// watch is what a block is searched for. It moves along while blocks connect.
type watch struct {
	live     *ledger.Coin                   // whose spender is looked for
	void     *ledger.Coin                   // whose transaction is looked for
	deposits map[calpe.Outpoint]ledger.Coin // spenders of live ones are looked for, and transactions of void ones
}

func newWatch(snap ledger.Snapshot) *watch {
	w := &watch{live: snap.Live, void: snap.Void, deposits: map[calpe.Outpoint]ledger.Coin{}}
	for _, d := range snap.Deposits {
		w.deposits[d.Outpoint] = d
	}
	return w
}

// follow brings the journal to the node's tip.
func (e *Engine) follow(ctx context.Context, epoch uint64, snap ledger.Snapshot) error {
	height, _, err := e.cfg.Node.BestBlock(ctx)
	if err != nil {
		return fmt.Errorf("read the node's tip: %w", err)
	}
	fork, err := e.findFork(ctx, snap.Tip, height)
	if err != nil {
		return err
	}
	if fork != snap.Tip {
		if err := checkSettled(snap.Breaks, fork); err != nil {
			return err
		}
		if snap, err = e.rewind(ctx, epoch, snap.Tip, fork); err != nil {
			return err
		}
	}
	w, tip := newWatch(snap), snap.Tip
	for tip.Height < height {
		if tip, err = e.connect(ctx, epoch, tip, w); err != nil {
			return err
		}
	}
	return nil
}

// checkSettled refuses a reorganisation of blocks up to which the chain of coins
// was broken and restarted. Nothing is written then, so that no coin of the chain is
// live beside another, and all goes on when the branch comes back.
func checkSettled(breaks []ledger.Break, fork ledger.Block) error {
	for _, b := range breaks {
		if b.Height > fork.Height {
			return fmt.Errorf("%w: %v of the coin %v in block %d; the chains part at %d", ErrBreakUndone, b.SpentBy, b.Coin, b.Height, fork.Height)
		}
	}
	return nil
}

func (e *Engine) rewind(ctx context.Context, epoch uint64, tip, fork ledger.Block) (ledger.Snapshot, error) {
	depth := tip.Height - fork.Height
	attrs := []any{slog.Uint64("depth", uint64(depth)), slog.Any("fork", fork.Hash), slog.Any("tip", tip.Hash)}
	if depth < e.cfg.Depth {
		e.cfg.Logger.WarnContext(ctx, "bitcoin chain was reorganised", attrs...)
	} else {
		e.cfg.Logger.ErrorContext(ctx, "bitcoin chain was reorganised deeper than what counts as final", attrs...)
	}
	if err := e.cfg.Store.Rewind(ctx, epoch, tip, fork); err != nil {
		return ledger.Snapshot{}, fmt.Errorf("rewind to block %d: %w", fork.Height, err)
	}
	// Crash here: the journal ends at the fork, and the next step connects the
	// new branch from there.
	commitpoint.Reached(commitpoint.AnchorRewound)
	if e.cfg.Reorganised != nil {
		e.cfg.Reorganised(depth)
	}
	e.sentAt = calpe.BlockHash{} // nodes don't announce again what a reorganisation gave back
	snap, err := e.cfg.Store.Snapshot(ctx)
	if err != nil {
		return ledger.Snapshot{}, fmt.Errorf("read anchor state: %w", err)
	}
	return snap, nil
}

// findFork is the newest journal block that the node's chain holds: the tip, in
// the ordinary case. It gives [ErrNodeBehind] unless the node has as much work
// above that block as the journal.
func (e *Engine) findFork(ctx context.Context, tip ledger.Block, height uint32) (ledger.Block, error) {
	const chunk = 100
	var ours []ledger.Block // journal blocks above the fork, newest first
	for from, more := tip.Height, true; more; {
		blocks, err := e.cfg.Store.Journal(ctx, from, chunk)
		if err != nil {
			return ledger.Block{}, fmt.Errorf("read tip journal: %w", err)
		}
		for _, b := range blocks {
			if held, err := e.holds(ctx, b, height); err != nil {
				return ledger.Block{}, err
			} else if held {
				return b, e.compareWork(ctx, b, ours, height)
			}
			ours = append(ours, b)
		}
		more = len(blocks) == chunk && blocks[chunk-1].Height > 0
		if more {
			from = blocks[chunk-1].Height - 1
		}
	}
	return ledger.Block{}, fmt.Errorf("%w: its tip is at height %d, and none of the %d blocks in the journal up to height %d is in its chain",
		ErrUnknownChain, height, len(ours), tip.Height)
}

func (e *Engine) holds(ctx context.Context, b ledger.Block, height uint32) (bool, error) {
	if b.Height > height {
		return false, nil
	}
	hash, err := e.cfg.Node.BlockHash(ctx, b.Height)
	if err != nil {
		return false, fmt.Errorf("read hash of block %d: %w", b.Height, err)
	}
	return hash == b.Hash, nil
}

// compareWork lets a reorganisation happen only for a branch with at least the
// work of ours. A node that was restored, or that lost the end of its chain in
// a crash, has less.
func (e *Engine) compareWork(ctx context.Context, fork ledger.Block, ours []ledger.Block, height uint32) error {
	if len(ours) == 0 {
		return nil
	}
	need, have := new(big.Int), new(big.Int)
	for _, b := range ours {
		need.Add(need, bitcoin.Work(b.Header))
	}
	prev := fork.Hash
	for h := fork.Height + 1; h <= height && have.Cmp(need) < 0; h++ {
		hash, err := e.cfg.Node.BlockHash(ctx, h)
		if err != nil {
			return fmt.Errorf("read hash of block %d: %w", h, err)
		}
		header, err := e.cfg.Node.Header(ctx, hash)
		if err != nil {
			return fmt.Errorf("read header of block %d: %w", h, err)
		}
		b := ledger.Block{Height: h, Hash: hash, Header: header}
		if b.Prev() != prev {
			return fmt.Errorf("%w: block %d doesn't follow block %d", ErrChainMoved, h, h-1)
		}
		have.Add(have, bitcoin.Work(header))
		prev = hash
	}
	if have.Cmp(need) < 0 {
		return fmt.Errorf("%w: its tip is at height %d, followed was %d, and they part at %d", ErrNodeBehind, height, ours[0].Height, fork.Height)
	}
	return nil
}

// connect takes the block after tip into the journal with all that it does to
// our coins.
func (e *Engine) connect(ctx context.Context, epoch uint64, tip ledger.Block, w *watch) (ledger.Block, error) {
	height := tip.Height + 1
	hash, err := e.cfg.Node.BlockHash(ctx, height)
	if err != nil {
		return ledger.Block{}, fmt.Errorf("read hash of block %d: %w", height, err)
	}
	msg, err := e.cfg.Node.Block(ctx, hash)
	if err != nil {
		return ledger.Block{}, fmt.Errorf("read block %d: %w", height, err)
	}
	b, err := newBlock(height, hash, msg)
	if err != nil {
		return ledger.Block{}, err
	}
	if b.Prev() != tip.Hash {
		return ledger.Block{}, fmt.Errorf("%w: block %d doesn't follow block %d", ErrChainMoved, height, tip.Height)
	}
	events, err := e.scan(ctx, b, msg, w)
	if err != nil {
		return ledger.Block{}, err
	}
	if err := e.cfg.Store.ConnectBlock(ctx, epoch, b, events); err != nil {
		return ledger.Block{}, fmt.Errorf("connect block %d: %w", height, err)
	}
	if len(events) > 0 {
		// Crash here: journal, evidence and coins agree with the block; the next
		// step goes on with the block after it.
		commitpoint.Reached(commitpoint.AnchorMined)
		e.report(ctx, b, events)
	}
	return b, nil
}

func newBlock(height uint32, hash calpe.BlockHash, msg *wire.MsgBlock) (ledger.Block, error) {
	var buf bytes.Buffer
	if err := msg.Header.Serialize(&buf); err != nil {
		return ledger.Block{}, fmt.Errorf("serialize header of block %d: %w", height, err)
	}
	return ledger.Block{Height: height, Hash: hash, Header: [calpe.HeaderSize]byte(buf.Bytes())}, nil
}

// scan goes through a block's transactions in their order, because one block
// can hold several links of the chain of coins.
func (e *Engine) scan(ctx context.Context, b ledger.Block, msg *wire.MsgBlock, w *watch) ([]ledger.Event, error) {
	var events []ledger.Event
	for i, txid := range bitcoin.TxIDs(msg) {
		tx := msg.Transactions[i]
		if w.void != nil && txid == w.void.Outpoint.TxID {
			coin := *w.void
			coin.State, coin.Height = ledger.CoinLive, b.Height
			w.live, w.void = &coin, nil
			events = append(events, ledger.Event{Found: &ledger.FoundCoin{Coin: coin.Outpoint}})
		}
		deposits := w.takeDeposits(tx)
		if w.live != nil && spends(tx, w.live.Outpoint) {
			ev, err := e.spend(ctx, b, msg, uint32(i), *w.live, deposits)
			if err != nil {
				return nil, err
			}
			w.live = nil
			if ev.Mined != nil {
				w.live, deposits = &ev.Mined.Next, nil
			}
			events = append(events, ev)
		}
		for _, d := range deposits {
			events = append(events, ledger.Event{Foreign: &ledger.ForeignSpend{Coin: d.Outpoint, TxID: txid}})
		}
		if i > 0 { // a coinbase can't be spent for 100 blocks: it is no deposit
			events = append(events, e.findDeposits(b, tx, txid, w)...)
		}
	}
	return events, nil
}

// takeDeposits takes the live deposits that a transaction spends out of the watch.
func (w *watch) takeDeposits(tx *wire.MsgTx) (taken []ledger.Coin) {
	for _, in := range tx.TxIn {
		o := calpe.Outpoint{TxID: calpe.BlockHash(in.PreviousOutPoint.Hash), Vout: in.PreviousOutPoint.Index}
		if d, ok := w.deposits[o]; ok && d.State == ledger.CoinLive {
			taken = append(taken, d)
			delete(w.deposits, o)
		}
	}
	return taken
}

// findDeposits finds what a transaction pays to a key of ours: every output that is
// large enough, or that was noticed before a reorganisation, and is no coin of
// the chain.
func (e *Engine) findDeposits(b ledger.Block, tx *wire.MsgTx, txid calpe.BlockHash, w *watch) (events []ledger.Event) {
	for vout, out := range tx.TxOut {
		o := calpe.Outpoint{TxID: txid, Vout: uint32(vout)}
		_, known := w.deposits[o]
		if !known && out.Value < e.cfg.MinDeposit || w.live != nil && w.live.Outpoint == o || !e.cfg.Signer.Owns(out.PkScript) {
			continue
		}
		d := ledger.Coin{
			Outpoint: o, Output: ledger.Output{Value: out.Value, Script: slices.Clone(out.PkScript)},
			Kind: ledger.DepositCoin, State: ledger.CoinLive, Height: b.Height,
		}
		w.deposits[o] = d
		events = append(events, ledger.Event{Deposit: &d})
	}
	return events
}

func spends(tx *wire.MsgTx, o calpe.Outpoint) bool {
	return slices.ContainsFunc(tx.TxIn, func(in *wire.TxIn) bool {
		return in.PreviousOutPoint.Index == o.Vout && calpe.BlockHash(in.PreviousOutPoint.Hash) == o.TxID
	})
}

// spend says what the spender of the live coin is: an attempt; a transaction of
// ours that this database has no row of, because it is an older copy; or
// somebody else's. The deposits are those that it spends, too.
func (e *Engine) spend(ctx context.Context, b ledger.Block, msg *wire.MsgBlock, position uint32, coin ledger.Coin, deposits []ledger.Coin) (ledger.Event, error) {
	tx := msg.Transactions[position]
	txid := calpe.BlockHash(tx.TxHash())
	_, known, err := e.cfg.Store.Attempt(ctx, txid)
	if err != nil {
		return ledger.Event{}, fmt.Errorf("look for attempt %v: %w", txid, err)
	}
	// An attempt that we stored is ours whatever key its change goes to: another
	// server may know of a rotation already that this one doesn't.
	payload, ours := readAnchor(tx, coin.Outpoint)
	if !ours || !known && !e.cfg.Signer.Owns(tx.TxOut[1].PkScript) {
		return ledger.Event{Foreign: &ledger.ForeignSpend{Coin: coin.Outpoint, TxID: txid}}, nil
	}
	evidence, err := newEvidence(b, msg, position, payload)
	if err != nil {
		return ledger.Event{}, err
	}
	var raw bytes.Buffer
	if err := tx.Serialize(&raw); err != nil {
		return ledger.Event{}, fmt.Errorf("serialize transaction %v: %w", txid, err)
	}
	mined := &ledger.MinedAttempt{Coin: coin.Outpoint, Raw: raw.Bytes(), Evidence: evidence, Next: ledger.Coin{
		Outpoint: calpe.Outpoint{TxID: txid, Vout: 1},
		Output:   ledger.Output{Value: tx.TxOut[1].Value, Script: slices.Clone(tx.TxOut[1].PkScript)},
		Kind:     ledger.ChainCoin, State: ledger.CoinLive, MadeBy: txid, Height: b.Height,
	}}
	for _, d := range deposits {
		mined.Deposits = append(mined.Deposits, d.Outpoint)
	}
	if !known {
		mined.Import = e.importAttempt(tx, coin, deposits, mined)
	}
	return ledger.Event{Mined: mined}, nil
}

// readAnchor reads a transaction of our form: input 0 the coin, output 0 a
// payload of value 0, output 1 change, nothing else.
func readAnchor(tx *wire.MsgTx, coin calpe.Outpoint) (calpe.Payload, bool) {
	if len(tx.TxOut) != 2 || !spends(&wire.MsgTx{TxIn: tx.TxIn[:1]}, coin) {
		return calpe.Payload{}, false
	}
	payload, err := calpe.ParsePayloadScript(tx.TxOut[0].PkScript)
	return payload, err == nil && payload.Size > 0 && tx.TxOut[0].Value == 0 && tx.TxOut[1].Value > 0
}

// importAttempt makes the row that a restored database lacks. If an input is
// neither the coin nor a deposit, its value isn't known, so the fee isn't either:
// it is 0 then.
func (e *Engine) importAttempt(tx *wire.MsgTx, coin ledger.Coin, deposits []ledger.Coin, m *ledger.MinedAttempt) *ledger.Attempt {
	a := &ledger.Attempt{
		TxID: m.Evidence.TxID, Coin: coin.Outpoint, Payload: m.Evidence.Payload, State: ledger.Mined,
		Inputs: []ledger.Input{{Outpoint: coin.Outpoint, Output: coin.Output}}, Unsigned: m.Evidence.Tx, Raw: m.Raw,
		VSize:  (3*tx.SerializeSizeStripped() + tx.SerializeSize() + 3) / 4,
		Change: m.Next.Value, Imported: true, Created: e.cfg.Now(), Tip: m.Evidence.Height, Height: m.Evidence.Height,
	}
	total := coin.Value
	for _, d := range deposits {
		a.Inputs = append(a.Inputs, ledger.Input{Outpoint: d.Outpoint, Output: d.Output})
		total += d.Value
	}
	if len(tx.TxIn) == len(a.Inputs) {
		a.Fee = total - m.Next.Value
	}
	return a
}

// newEvidence collects what leads from a transaction to the header, and checks
// it before it is stored.
func newEvidence(b ledger.Block, msg *wire.MsgBlock, position uint32, payload calpe.Payload) (calpe.Anchor, error) {
	txids := bitcoin.TxIDs(msg)
	var tx, coinbase bytes.Buffer
	if err := msg.Transactions[position].SerializeNoWitness(&tx); err != nil {
		return calpe.Anchor{}, fmt.Errorf("serialize transaction: %w", err)
	}
	if err := msg.Transactions[0].SerializeNoWitness(&coinbase); err != nil {
		return calpe.Anchor{}, fmt.Errorf("serialize coinbase: %w", err)
	}
	a := calpe.Anchor{
		Payload: payload, Tx: tx.Bytes(), TxID: txids[position], Height: b.Height, Block: b.Hash, Header: b.Header,
		Position: position, Coinbase: coinbase.Bytes(), Depth: 1,
	}
	var err error
	if a.Branch, err = checkedBranch(b, txids, position); err != nil {
		return calpe.Anchor{}, err
	}
	a.CoinbaseBranch, err = checkedBranch(b, txids, 0)
	return a, err
}

func checkedBranch(b ledger.Block, txids []calpe.BlockHash, position uint32) ([]calpe.BlockHash, error) {
	branch, _, err := bitcoin.MerkleBranch(txids, position)
	if err != nil {
		return nil, fmt.Errorf("block %d: %w", b.Height, err)
	}
	root, ok := bitcoin.MerkleRootFromBranch(txids[position], position, branch)
	if want := calpe.BlockHash(b.Header[36:68]); !ok || root != want {
		return nil, fmt.Errorf("branch of transaction %d in block %d leads to %v, not to the header's root %v", position, b.Height, root, want)
	}
	return branch, nil
}

func (e *Engine) report(ctx context.Context, b ledger.Block, events []ledger.Event) {
	for _, ev := range events {
		at := slog.Uint64("height", uint64(b.Height))
		switch {
		case ev.Mined != nil && ev.Mined.Import != nil:
			e.cfg.Logger.WarnContext(ctx, "found an anchor of ours that this database doesn't know: it is an older copy", at,
				slog.Any("txid", ev.Mined.Evidence.TxID), slog.Uint64("size", ev.Mined.Evidence.Size))
		case ev.Mined != nil:
			e.cfg.Logger.InfoContext(ctx, "anchor is in a block", at,
				slog.Any("txid", ev.Mined.Evidence.TxID), slog.Uint64("size", ev.Mined.Evidence.Size))
		case ev.Foreign != nil:
			e.cfg.Logger.ErrorContext(ctx, "a coin of the anchor key was spent by a transaction that isn't ours", at,
				slog.Any("coin", ev.Foreign.Coin), slog.Any("txid", ev.Foreign.TxID))
		case ev.Found != nil:
			e.cfg.Logger.InfoContext(ctx, "first coin is in a block again", at, slog.Any("coin", ev.Found.Coin))
		case ev.Deposit != nil:
			e.cfg.Logger.InfoContext(ctx, "deposit is in a block", at, slog.Any("coin", ev.Deposit.Outpoint), slog.Int64("value_sat", ev.Deposit.Value))
		}
	}
}
