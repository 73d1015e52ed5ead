package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
)

// RestartChain makes a deposit the coin with which the chain of coins goes on
// behind one that others have spent; r is what is published of it. When it returns
// nil, that is durable. The same break a second time is nil and changes nothing. It
// is [ledger.ErrConflict], and nothing is changed, when the rows aren't what the
// break says: another restart from that coin, a coin that isn't foreign, a block
// that was reorganised away, a deposit that no block makes.
//
// A deposit that was spent meanwhile is taken all the same, and the blocks from
// there on are to be followed again: an older copy of the database that was put
// back finds its own anchors behind the break so.
//
// It needs no epoch: it waits for the engine's write that is under way, and the
// engine makes nothing while the coin is foreign.
func (s *Anchors) RestartChain(ctx context.Context, b ledger.Break, r calpe.ChainBreak) error {
	err := s.db.inTx(ctx, "restart chain", func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `SELECT FROM leader WHERE role = $1 FOR NO KEY UPDATE`, anchorRole); err != nil {
			return err
		}
		switch there, err := findBreak(ctx, tx, b); {
		case err != nil || there:
			return err
		}
		if err := checkBroken(ctx, tx, b, r.Spend); err != nil {
			return err
		}
		if err := takeDeposit(ctx, tx, b); err != nil {
			return err
		}
		return insertBreak(ctx, tx, b, r)
	})
	if errors.Is(err, calpe.ErrExists) {
		return fmt.Errorf("%w: %w", ledger.ErrConflict, err)
	}
	return err
}

// takeDeposit makes the deposit a coin of the chain. No other one is live
// (coin_one_live).
func takeDeposit(ctx context.Context, tx pgx.Tx, b ledger.Break) error {
	first, err := readCoin(tx.QueryRow(ctx, selectCoin+` WHERE txid = $1 AND vout = $2 AND kind = 'deposit' AND state IN ('live', 'foreign') FOR UPDATE`,
		b.First.TxID[:], int64(b.First.Vout)))
	if noRows(err) {
		return fmt.Errorf("%w: %v is no deposit in a block", ledger.ErrConflict, b.First)
	}
	if err != nil {
		return err
	}
	if first.State == ledger.CoinForeign {
		if first.SpentHeight <= b.Height {
			return fmt.Errorf("%w: the deposit %v was spent before the coin was", ledger.ErrConflict, b.First)
		}
		if err := undoBlocks(ctx, tx, first.SpentHeight-1); err != nil {
			return err
		}
	}
	return execOne(ctx, tx, "take the deposit", `UPDATE coin SET kind = 'chain', restarts = true WHERE txid = $1 AND vout = $2 AND state = 'live'`,
		b.First.TxID[:], int64(b.First.Vout))
}

// findBreak finds the same break; another one of that coin is a conflict.
func findBreak(ctx context.Context, tx pgx.Tx, b ledger.Break) (bool, error) {
	all, err := readBreaks(ctx, tx)
	if err != nil {
		return false, err
	}
	for _, o := range all {
		switch {
		case o.Coin != b.Coin:
		case o.First == b.First && o.Statement == b.Statement:
			return true, nil
		default:
			return false, fmt.Errorf("%w: from the coin %v the chain was restarted with %v", ledger.ErrConflict, o.Coin, o.First)
		}
	}
	return false, nil
}

// checkBroken: the rows say what the break says.
func checkBroken(ctx context.Context, tx pgx.Tx, b ledger.Break, spend calpe.Anchor) error {
	if err := execOne(ctx, tx, "find the foreign coin", `
		SELECT FROM coin WHERE txid = $1 AND vout = $2 AND kind = 'chain' AND state = 'foreign' AND spent_by = $3 AND spent_height = $4`,
		b.Coin.TxID[:], int64(b.Coin.Vout), b.SpentBy[:], int64(b.Height)); err != nil {
		return err
	}
	return execOne(ctx, tx, "find the block of its spend", `SELECT FROM tip_journal WHERE height = $1 AND hash = $2`, int64(b.Height), spend.Block[:])
}

func insertBreak(ctx context.Context, tx pgx.Tx, b ledger.Break, r calpe.ChainBreak) error {
	a := r.Spend
	return execOne(ctx, tx, "insert break", `
		INSERT INTO chain_break (coin_txid, coin_vout, first_txid, first_vout, statement_index, statement, salt, tip, spent_by, tx, block, height, position,
			header, branch, coinbase, coinbase_branch, recorded_at)
		SELECT $1, $2, $3, $4, $5, $6, $7, max(height), $8, $9, $10, $11, $12, $13, $14, $15, $16, now() FROM tip_journal`,
		b.Coin.TxID[:], int64(b.Coin.Vout), b.First.TxID[:], int64(b.First.Vout), int64(b.Statement), r.Statement.Body, r.Statement.Salt[:],
		b.SpentBy[:], a.Tx, a.Block[:], int64(b.Height), int64(a.Position), a.Header[:], flatten(a.Branch), a.Coinbase, flatten(a.CoinbaseBranch))
}

// checkSettled refuses to take blocks back up to which the chain of coins was
// broken and restarted: its former coin would be live again beside the new one.
func checkSettled(ctx context.Context, tx pgx.Tx, height uint32) error {
	var settled bool
	if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM chain_break WHERE height > $1)`, int64(height)).Scan(&settled); err != nil {
		return fmt.Errorf("look for breaks: %w", err)
	}
	if settled {
		return fmt.Errorf("%w: the chain of coins was restarted behind a spend above block %d", ledger.ErrConflict, height)
	}
	return nil
}

func readBreaks(ctx context.Context, q querier) ([]ledger.Break, error) {
	rows, err := q.Query(ctx, `
		SELECT b.coin_txid, b.coin_vout, b.spent_by, b.height, b.first_txid, b.first_vout, b.statement_index, b.tip,
		       ARRAY(SELECT DISTINCT c.script FROM coin c, coin f
		             WHERE c.kind = 'chain' AND c.height <= b.height AND f.txid = b.first_txid AND f.vout = b.first_vout
		               AND NOT (c.txid = f.txid AND c.vout = f.vout) AND c.script <> f.script ORDER BY 1)
		FROM chain_break b ORDER BY b.height, b.position`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (b ledger.Break, err error) {
		var coin, spentBy, first []byte
		var coinVout, height, firstVout, index, tip int64
		err = row.Scan(&coin, &coinVout, &spentBy, &height, &first, &firstVout, &index, &tip, &b.Former)
		copy(b.Coin.TxID[:], coin)
		copy(b.SpentBy[:], spentBy)
		copy(b.First.TxID[:], first)
		b.Coin.Vout, b.First.Vout, b.Height, b.Tip, b.Statement = uint32(coinVout), uint32(firstVout), uint32(height), uint32(tip), uint64(index)
		return b, err
	})
}

// typeBreak is the type of break statements (docs/formats.md).
const typeBreak = "calpe/break/v1"

// Restarts lists the breaks of the chain of coins, in its order.
func (s *Anchors) Restarts(ctx context.Context) ([]ledger.Break, error) {
	all, err := readBreaks(ctx, s.db.on(ctx))
	return all, translate("list restarts of the chain", err)
}

const anchorsBefore = `FROM attempt a JOIN sighting s ON s.txid = a.txid AND s.orphaned_at IS NULL
	WHERE a.state IN ('mined', 'final') AND (s.height, s.position) < `

// CountBefore is how many anchors stand in the chain before the transaction at
// that position of the block at that height.
func (s *Anchors) CountBefore(ctx context.Context, height, position uint32) (n uint64, err error) {
	err = s.db.on(ctx).QueryRow(ctx, `SELECT count(*) `+anchorsBefore+`($1::bigint, $2::bigint)`, int64(height), int64(position)).Scan(&n)
	return n, translate("count anchors", err)
}

// Breaks lists what is published of the breaks of the chain of coins, in its order.
func (s *Anchors) Breaks(ctx context.Context) ([]calpe.ChainBreak, error) {
	rows, err := s.db.on(ctx).Query(ctx, `
		SELECT b.spent_by, b.tx, b.block, b.height, b.position, b.header, b.branch, b.coinbase, b.coinbase_branch, b.statement_index, b.statement, b.salt,
		       (SELECT count(*) `+anchorsBefore+`(b.height, b.position))
		FROM chain_break b ORDER BY b.height, b.position`)
	if err != nil {
		return nil, translate("list breaks of the chain", err)
	}
	all, err := pgx.CollectRows(rows, readChainBreak)
	return all, translate("list breaks of the chain", err)
}

func readChainBreak(row pgx.CollectableRow) (b calpe.ChainBreak, err error) {
	var txid, block, header, branch, coinbaseBranch, salt []byte
	var height, position, after int64
	a, st := &b.Spend, &b.Statement
	if err := row.Scan(&txid, &a.Tx, &block, &height, &position, &header, &branch, &a.Coinbase, &coinbaseBranch,
		&st.Index, &st.Body, &salt, &after); err != nil {
		return calpe.ChainBreak{}, err
	}
	copy(a.TxID[:], txid)
	copy(a.Block[:], block)
	copy(a.Header[:], header)
	copy(st.Salt[:], salt)
	st.Type = typeBreak
	a.Height, a.Position, b.After = uint32(height), uint32(position), uint64(after)
	a.Branch, a.CoinbaseBranch = unflatten(branch), unflatten(coinbaseBranch)
	return b, nil
}
