package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
)

// Anchors keeps coins, attempts and the tip journal: it is the store of the
// anchoring engine, and what receipts and the status read of anchors. Every
// write is one transaction that locks the leader's row and compares the epoch,
// and refuses with [calpe.ErrLostLeadership] if another leads; every change of a
// state is a compare-and-set that refuses with [ledger.ErrConflict] when the row
// isn't in the expected state (I6). Either way nothing is written. It is safe
// for concurrent use.
type Anchors struct{ db *DB }

// Anchors gives the anchoring part of the database.
func (db *DB) Anchors() *Anchors { return &Anchors{db: db} }

const anchorRole = "anchor"

// write runs fn in a fenced transaction. A constraint that refuses is a
// conflict: the rows aren't what the caller takes them for.
func (s *Anchors) write(ctx context.Context, epoch uint64, fn func(tx pgx.Tx) error) error {
	err := s.db.fenced(ctx, anchorRole, epoch, fn)
	if errors.Is(err, calpe.ErrExists) {
		return fmt.Errorf("%w: %w", ledger.ErrConflict, err)
	}
	return err
}

// execOne runs a statement that must change exactly one row.
func execOne(ctx context.Context, tx pgx.Tx, what, sql string, args ...any) error {
	tag, err := tx.Exec(ctx, sql, args...)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if n := tag.RowsAffected(); n != 1 {
		return fmt.Errorf("%w: %s changed %d rows instead of one", ledger.ErrConflict, what, n)
	}
	return nil
}

// InsertFirstCoin begins the chain of coins: the first coin, and the blocks with
// which the tip journal begins, oldest first, the last one holding the coin's
// transaction. The same coin a second time is nil and changes nothing; another
// one is [ledger.ErrRootExists]. It needs no epoch: there is one first coin, and
// no engine writes before it.
func (s *Anchors) InsertFirstCoin(ctx context.Context, coin ledger.Coin, blocks []ledger.Block) error {
	if len(blocks) == 0 || blocks[len(blocks)-1].Height != coin.Height {
		return errors.New("insert first coin: the journal doesn't end with the coin's block")
	}
	return s.db.inTx(ctx, "insert first coin", func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `LOCK TABLE coin IN EXCLUSIVE MODE`); err != nil {
			return err
		}
		first, err := readCoin(tx.QueryRow(ctx, selectCoin+` WHERE kind = 'chain' AND made_by IS NULL AND NOT restarts`))
		switch {
		case err == nil && first.Outpoint == coin.Outpoint:
			return nil
		case err == nil:
			return fmt.Errorf("%w: %v", ledger.ErrRootExists, first.Outpoint)
		case !noRows(err):
			return err
		}
		if err := insertBlocks(ctx, tx, blocks); err != nil {
			return err
		}
		return insertCoin(ctx, tx, coin)
	})
}

func insertBlocks(ctx context.Context, tx pgx.Tx, blocks []ledger.Block) error {
	batch := &pgx.Batch{}
	for i, b := range blocks {
		if i > 0 && (b.Height != blocks[i-1].Height+1 || b.Prev() != blocks[i-1].Hash) {
			return fmt.Errorf("block %d doesn't follow block %d", b.Height, blocks[i-1].Height)
		}
		batch.Queue(`INSERT INTO tip_journal (height, hash, header, connected_at) VALUES ($1, $2, $3, now())`,
			int64(b.Height), b.Hash[:], b.Header[:])
	}
	return tx.SendBatch(ctx, batch).Close()
}

func insertCoin(ctx context.Context, tx pgx.Tx, c ledger.Coin) error {
	return execOne(ctx, tx, "insert coin", `
		INSERT INTO coin (txid, vout, value, script, kind, state, made_by, height)
		VALUES ($1, $2, $3, $4, $5, 'live', $6, $7)`,
		c.Outpoint.TxID[:], int64(c.Outpoint.Vout), c.Value, c.Script, string(c.Kind), orNil(c.MadeBy), int64(c.Height))
}

// attemptsFrom lists the states from which the table lets the mover take an
// attempt to a state.
func attemptsFrom(by ledger.Mover, to ledger.AttemptState) []string {
	return ledger.Sources(ledger.AttemptEdges(), by, to)
}

// coinsFrom does the same for coins.
func coinsFrom(by ledger.Mover, to ledger.CoinState) []string {
	return ledger.Sources(ledger.CoinEdges(), by, to)
}

// orNil is SQL's NULL for the hash that stands for none.
func orNil(h calpe.BlockHash) []byte {
	if h == (calpe.BlockHash{}) {
		return nil
	}
	return h[:]
}

// CreateAttempt stores an unsigned attempt of the live coin, with its inputs.
func (s *Anchors) CreateAttempt(ctx context.Context, epoch uint64, a ledger.Attempt) error {
	if a.State != ledger.Created || len(a.Inputs) == 0 || a.Inputs[0].Outpoint != a.Coin {
		return errors.New("create attempt: it isn't new, or its first input isn't the coin")
	}
	return s.write(ctx, epoch, func(tx pgx.Tx) error {
		if err := execOne(ctx, tx, "find the live coin", `
			SELECT FROM coin WHERE txid = $1 AND vout = $2 AND kind = 'chain' AND state = 'live' FOR UPDATE`,
			a.Coin.TxID[:], int64(a.Coin.Vout)); err != nil {
			return err
		}
		return insertAttempt(ctx, tx, epoch, a)
	})
}

func insertAttempt(ctx context.Context, tx pgx.Tx, epoch uint64, a ledger.Attempt) error {
	err := execOne(ctx, tx, "insert attempt", `
		INSERT INTO attempt (txid, coin_txid, coin_vout, n, state, size, root, unsigned_tx, raw_tx, fee, vsize, change, imported, epoch, created_at, taken_at, tip)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, NULLIF($10::bigint, 0), $11, $12, $13, $14, $15, CASE WHEN $13 THEN $15::timestamptz END, $16)`,
		a.TxID[:], a.Coin.TxID[:], int64(a.Coin.Vout), a.N, string(a.State), int64(a.Size), a.Root[:], a.Unsigned, a.Raw,
		a.Fee, a.VSize, a.Change, a.Imported, int64(epoch), a.Created, int64(a.Tip))
	if err != nil {
		return err
	}
	batch := &pgx.Batch{}
	for i, in := range a.Inputs {
		batch.Queue(`INSERT INTO attempt_input (txid, position, prev_txid, prev_vout, value, script) VALUES ($1, $2, $3, $4, $5, $6)`,
			a.TxID[:], i, in.Outpoint.TxID[:], int64(in.Outpoint.Vout), in.Value, in.Script)
	}
	return tx.SendBatch(ctx, batch).Close()
}

// StoreSigned keeps the signed transaction of a created attempt (I5).
func (s *Anchors) StoreSigned(ctx context.Context, epoch uint64, txid calpe.BlockHash, raw []byte) error {
	return s.write(ctx, epoch, func(tx pgx.Tx) error {
		return execOne(ctx, tx, "store signature", `UPDATE attempt SET state = 'signed', raw_tx = $2 WHERE txid = $1 AND state = ANY($3)`,
			txid[:], raw, attemptsFrom(ledger.ByAct, ledger.Signed))
	})
}

// RecordAnswer keeps what a node said to a signed or sent attempt.
func (s *Anchors) RecordAnswer(ctx context.Context, epoch uint64, txid calpe.BlockHash, answer ledger.Answer, at time.Time) error {
	return s.write(ctx, epoch, func(tx pgx.Tx) error {
		return execOne(ctx, tx, "record answer", `
			UPDATE attempt SET state = CASE WHEN $4 THEN 'sent' ELSE state END, sends = sends + 1, sent_at = $5, answer = $2, answer_text = $3,
				taken_at = CASE WHEN $4 THEN coalesce(taken_at, $5) ELSE taken_at END
			WHERE txid = $1 AND state = ANY($6)`,
			txid[:], string(answer.Kind), answer.Text, answer.Kind.Taken(), at,
			append(attemptsFrom(ledger.ByAct, ledger.Sent), string(ledger.Sent)))
	})
}

// MarkFinal moves an attempt from mined to final.
func (s *Anchors) MarkFinal(ctx context.Context, epoch uint64, txid calpe.BlockHash) error {
	return s.write(ctx, epoch, func(tx pgx.Tx) error {
		return execOne(ctx, tx, "make final", `UPDATE attempt SET state = 'final' WHERE txid = $1 AND state = ANY($2)`,
			txid[:], attemptsFrom(ledger.ByFollow, ledger.Final))
	})
}

// ConnectBlock appends a block to the journal and applies its events.
func (s *Anchors) ConnectBlock(ctx context.Context, epoch uint64, b ledger.Block, events []ledger.Event) error {
	prev := b.Prev()
	return s.write(ctx, epoch, func(tx pgx.Tx) error {
		if err := execOne(ctx, tx, "append block", `
			INSERT INTO tip_journal (height, hash, header, connected_at)
			SELECT $1::bigint, $2::bytea, $3::bytea, now() FROM (SELECT height, hash FROM tip_journal ORDER BY height DESC LIMIT 1) tip
			WHERE tip.height = $1::bigint - 1 AND tip.hash = $4`,
			int64(b.Height), b.Hash[:], b.Header[:], prev[:]); err != nil {
			return err
		}
		for _, ev := range events {
			if err := applyEvent(ctx, tx, epoch, b, ev); err != nil {
				return err
			}
		}
		return nil
	})
}

func applyEvent(ctx context.Context, tx pgx.Tx, epoch uint64, b ledger.Block, ev ledger.Event) error {
	switch {
	case ev.Mined != nil:
		return applyMined(ctx, tx, epoch, b, *ev.Mined)
	case ev.Foreign != nil:
		if err := spendCoin(ctx, tx, ev.Foreign.Coin, ledger.CoinForeign, ev.Foreign.TxID, b.Height); err != nil {
			return err
		}
		return settleAttempts(ctx, tx, ledger.ByFollow, []calpe.Outpoint{ev.Foreign.Coin})
	case ev.Found != nil:
		return reviveCoin(ctx, tx, ev.Found.Coin, b.Height)
	case ev.Deposit != nil:
		return makeCoin(ctx, tx, *ev.Deposit, b.Height)
	}
	return errors.New("connect block: an event without content")
}

func applyMined(ctx context.Context, tx pgx.Tx, epoch uint64, b ledger.Block, m ledger.MinedAttempt) error {
	if err := markMined(ctx, tx, epoch, m); err != nil {
		return err
	}
	spent := append([]calpe.Outpoint{m.Coin}, m.Deposits...)
	for _, o := range spent {
		if err := spendCoin(ctx, tx, o, ledger.CoinSpent, m.Evidence.TxID, b.Height); err != nil {
			return err
		}
	}
	if err := settleAttempts(ctx, tx, ledger.ByFollow, spent); err != nil {
		return err
	}
	if err := insertSighting(ctx, tx, b, m.Evidence); err != nil {
		return err
	}
	return makeCoin(ctx, tx, m.Next, b.Height)
}

// makeCoin inserts a coin that a block makes, or makes it live again. What an older
// copy of the database took for a deposit, because it didn't know of a restart,
// becomes a coin of the chain.
func makeCoin(ctx context.Context, tx pgx.Tx, c ledger.Coin, height uint32) error {
	var exists bool
	err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM coin WHERE txid = $1 AND vout = $2)`,
		c.Outpoint.TxID[:], int64(c.Outpoint.Vout)).Scan(&exists)
	switch {
	case err != nil:
		return fmt.Errorf("look for coin: %w", err)
	case !exists:
		return insertCoin(ctx, tx, c)
	}
	if err := reviveCoin(ctx, tx, c.Outpoint, height); err != nil || c.Kind != ledger.ChainCoin {
		return err
	}
	return execOne(ctx, tx, "take coin into the chain", `UPDATE coin SET kind = 'chain', made_by = $3 WHERE txid = $1 AND vout = $2`,
		c.Outpoint.TxID[:], int64(c.Outpoint.Vout), orNil(c.MadeBy))
}

func markMined(ctx context.Context, tx pgx.Tx, epoch uint64, m ledger.MinedAttempt) error {
	if a := m.Import; a != nil {
		var n int
		if err := tx.QueryRow(ctx, `SELECT coalesce(max(n), 0) + 1 FROM attempt WHERE coin_txid = $1 AND coin_vout = $2`,
			m.Coin.TxID[:], int64(m.Coin.Vout)).Scan(&n); err != nil {
			return fmt.Errorf("number attempt: %w", err)
		}
		row := *a
		row.N = n
		return insertAttempt(ctx, tx, epoch, row)
	}
	// The signature of the block's copy, if the stored one was lost with a crash.
	return execOne(ctx, tx, "mark attempt mined", `
		UPDATE attempt SET state = 'mined', raw_tx = coalesce(raw_tx, $2), taken_at = coalesce(taken_at, now())
		WHERE txid = $1 AND coin_txid = $3 AND coin_vout = $4 AND state = ANY($5)`,
		m.Evidence.TxID[:], m.Raw, m.Coin.TxID[:], int64(m.Coin.Vout), attemptsFrom(ledger.ByFollow, ledger.Mined))
}

func spendCoin(ctx context.Context, tx pgx.Tx, o calpe.Outpoint, state ledger.CoinState, by calpe.BlockHash, height uint32) error {
	return execOne(ctx, tx, "spend coin", `
		UPDATE coin SET state = $3, spent_by = $4, spent_height = $5 WHERE txid = $1 AND vout = $2 AND state = ANY($6)`,
		o.TxID[:], int64(o.Vout), string(state), by[:], int64(height), coinsFrom(ledger.ByFollow, state))
}

// settleAttempts gives the attempts that spend one of these coins the state that
// follows from all coins that each spends: void if one is void, else replaced if
// one is spent, else what their columns tell. Attempts in a block are in it.
func settleAttempts(ctx context.Context, tx pgx.Tx, by ledger.Mover, coins []calpe.Outpoint) error {
	txids, vouts := make([][]byte, len(coins)), make([]int64, len(coins))
	for i, o := range coins {
		txids[i], vouts[i] = o.TxID[:], int64(o.Vout)
	}
	rows, err := tx.Query(ctx, `
		SELECT txid, settled FROM (
			SELECT a.txid, a.state, CASE
				WHEN bool_or(c.state = 'void') THEN 'void'
				WHEN bool_or(c.state <> 'live') THEN 'replaced'
				WHEN a.raw_tx IS NULL THEN 'created'
				WHEN a.taken_at IS NULL THEN 'signed'
				ELSE 'sent' END AS settled
			FROM attempt a
			JOIN attempt_input i ON i.txid = a.txid
			JOIN coin c ON c.txid = i.prev_txid AND c.vout = i.prev_vout
			WHERE a.state NOT IN ('mined', 'final') AND a.txid IN (
				SELECT s.txid FROM attempt_input s
				JOIN unnest($1::bytea[], $2::bigint[]) AS changed (txid, vout) ON s.prev_txid = changed.txid AND s.prev_vout = changed.vout)
			GROUP BY a.txid) attempts
		WHERE settled <> state`, txids, vouts)
	if err != nil {
		return fmt.Errorf("look for attempts of spent and void coins: %w", err)
	}
	type move struct {
		TxID []byte
		To   ledger.AttemptState
	}
	moves, err := pgx.CollectRows(rows, pgx.RowToStructByPos[move])
	if err != nil {
		return fmt.Errorf("look for attempts of spent and void coins: %w", err)
	}
	for _, m := range moves {
		if err := execOne(ctx, tx, "make attempt "+string(m.To), `UPDATE attempt SET state = $2 WHERE txid = $1 AND state = ANY($3)`,
			m.TxID, string(m.To), attemptsFrom(by, m.To)); err != nil {
			return err
		}
	}
	return nil
}

// reviveCoin makes a void coin live, and its attempts what they were.
func reviveCoin(ctx context.Context, tx pgx.Tx, o calpe.Outpoint, height uint32) error {
	if err := execOne(ctx, tx, "revive coin", `UPDATE coin SET state = 'live', height = $3 WHERE txid = $1 AND vout = $2 AND state = ANY($4)`,
		o.TxID[:], int64(o.Vout), int64(height), coinsFrom(ledger.ByFollow, ledger.CoinLive)); err != nil {
		return err
	}
	return settleAttempts(ctx, tx, ledger.ByFollow, []calpe.Outpoint{o})
}

func insertSighting(ctx context.Context, tx pgx.Tx, b ledger.Block, e calpe.Anchor) error {
	// A block that comes back after a reorganisation finds its row.
	return execOne(ctx, tx, "insert sighting", `
		INSERT INTO sighting (txid, block, height, position, header, branch, coinbase, coinbase_branch, seen_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, now())
		ON CONFLICT (txid, block) DO UPDATE SET orphaned_at = NULL, seen_at = now() WHERE sighting.orphaned_at IS NOT NULL`,
		e.TxID[:], b.Hash[:], int64(b.Height), int64(e.Position), b.Header[:], flatten(e.Branch), e.Coinbase, flatten(e.CoinbaseBranch))
}

func flatten(branch []calpe.BlockHash) []byte {
	flat := make([]byte, 0, len(branch)*calpe.HashSize)
	for _, h := range branch {
		flat = append(flat, h[:]...)
	}
	return flat
}

// Rewind undoes all that the blocks above fork did. Attempts that were in them
// are sent again, coins that were made in them are void with what hangs on
// them, and coins that were spent in them are live. Blocks up to a break are
// never taken back.
func (s *Anchors) Rewind(ctx context.Context, epoch uint64, tip, fork ledger.Block) error {
	return s.write(ctx, epoch, func(tx pgx.Tx) error {
		if err := execOne(ctx, tx, "find tip and fork", `
			SELECT FROM tip_journal tip, tip_journal fork
			WHERE tip.height = (SELECT max(height) FROM tip_journal) AND tip.height = $1 AND tip.hash = $2 AND fork.height = $3 AND fork.hash = $4 AND $3::bigint < $1::bigint`,
			int64(tip.Height), tip.Hash[:], int64(fork.Height), fork.Hash[:]); err != nil {
			return err
		}
		if err := checkSettled(ctx, tx, fork.Height); err != nil {
			return err
		}
		return undoBlocks(ctx, tx, fork.Height)
	})
}

// undoBlocks takes the journal back to a height, with all that the blocks above did.
func undoBlocks(ctx context.Context, tx pgx.Tx, height uint32) error {
	changed, err := coinsAbove(ctx, tx, height)
	if err != nil {
		return err
	}
	for _, step := range [...]string{
		`UPDATE attempt SET state = 'sent' WHERE state IN ('mined', 'final')
		 AND txid IN (SELECT txid FROM sighting WHERE height > $1 AND orphaned_at IS NULL)`,
		`UPDATE sighting SET orphaned_at = now() WHERE height > $1 AND orphaned_at IS NULL`,
		// Void before live: at no moment may two coins of the chain be live.
		`UPDATE coin SET state = 'void', height = NULL, spent_by = NULL, spent_height = NULL WHERE height > $1`,
		`UPDATE coin SET state = 'live', spent_by = NULL, spent_height = NULL WHERE spent_height > $1`,
		`DELETE FROM tip_journal WHERE height > $1`,
	} {
		if _, err := tx.Exec(ctx, step, int64(height)); err != nil {
			return fmt.Errorf("undo blocks: %w", err)
		}
	}
	return settleAttempts(ctx, tx, ledger.ByRewind, changed)
}

// coinsAbove lists the coins that blocks above a height make or spend.
func coinsAbove(ctx context.Context, tx pgx.Tx, height uint32) ([]calpe.Outpoint, error) {
	rows, err := tx.Query(ctx, selectCoin+` WHERE height > $1 OR spent_height > $1`, int64(height))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (calpe.Outpoint, error) {
		c, err := readCoin(row)
		return c.Outpoint, err
	})
}

// Journal lists up to limit followed blocks from a height downwards.
func (s *Anchors) Journal(ctx context.Context, from uint32, limit int) ([]ledger.Block, error) {
	rows, err := s.db.on(ctx).Query(ctx, `SELECT height, hash, header FROM tip_journal WHERE height <= $1 ORDER BY height DESC LIMIT $2`, int64(from), limit)
	if err != nil {
		return nil, translate("read tip journal", err)
	}
	blocks, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (ledger.Block, error) { return readBlock(row) })
	return blocks, translate("read tip journal", err)
}

// Snapshot reads what a step of the engine acts on, at one point in time.
func (s *Anchors) Snapshot(ctx context.Context) (snap ledger.Snapshot, err error) {
	conn, release, err := s.db.acquire(ctx, s.db.pool)
	if err != nil {
		return ledger.Snapshot{}, err
	}
	defer release()
	options := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err = pgx.BeginTxFunc(ctx, conn, options, func(tx pgx.Tx) error {
		snap, err = readSnapshot(ctx, tx)
		return err
	})
	return snap, translate("read anchor state", err)
}

func readSnapshot(ctx context.Context, tx pgx.Tx) (snap ledger.Snapshot, err error) {
	snap.Tip, err = readBlock(tx.QueryRow(ctx, `SELECT height, hash, header FROM tip_journal ORDER BY height DESC LIMIT 1`))
	if noRows(err) {
		return ledger.Snapshot{}, nil
	}
	if err != nil {
		return ledger.Snapshot{}, err
	}
	if snap.Breaks, err = readBreaks(ctx, tx); err != nil {
		return ledger.Snapshot{}, err
	}
	if err := readCoins(ctx, tx, &snap); err != nil {
		return ledger.Snapshot{}, err
	}
	if snap.Live != nil {
		if err := readLive(ctx, tx, &snap); err != nil {
			return ledger.Snapshot{}, err
		}
	}
	if snap.Mined, err = readAttempts(ctx, tx, `WHERE a.state = 'mined' ORDER BY s.height, s.position`); err != nil {
		return ledger.Snapshot{}, err
	}
	snap.Anchored, err = readAnchored(ctx, tx)
	return snap, err
}

// readLive reads what was done with the live coin, and of the attempt that made
// it when it was created and what it pays.
func readLive(ctx context.Context, tx pgx.Tx, snap *ledger.Snapshot) (err error) {
	o := snap.Live.Outpoint
	if snap.Attempts, err = readAttempts(ctx, tx, `WHERE a.coin_txid = $1 AND a.coin_vout = $2 ORDER BY a.n`, o.TxID[:], int64(o.Vout)); err != nil {
		return err
	}
	makers, err := readAttempts(ctx, tx, `WHERE a.txid = $1`, snap.Live.MadeBy[:])
	if err != nil {
		return err
	}
	for _, maker := range makers { // one, or none of the first coin
		if snap.LastRate = maker.FeeRate(); !maker.Imported {
			snap.LastCreated = maker.Created
		}
	}
	if n := len(snap.Attempts); n > 0 {
		snap.LastRate = snap.Attempts[n-1].FeeRate()
	}
	return nil
}

func readCoins(ctx context.Context, q querier, snap *ledger.Snapshot) error {
	coins, err := listCoins(ctx, q, `state <> 'spent' AND (state <> 'void' OR made_by IS NULL)`)
	for _, c := range coins {
		switch {
		case c.State == ledger.CoinForeign:
			settled := slices.ContainsFunc(snap.Breaks, func(b ledger.Break) bool { return b.Settles(c) })
			if !settled && (snap.Foreign == nil || c.Kind == ledger.ChainCoin) {
				snap.Foreign = &c
			}
		case c.Kind == ledger.DepositCoin:
			snap.Deposits = append(snap.Deposits, c)
		case c.State == ledger.CoinLive:
			snap.Live = &c
		case c.State == ledger.CoinVoid:
			snap.Void = &c
		}
	}
	return err
}

// listCoins reads the coins of a condition, the largest first.
func listCoins(ctx context.Context, q querier, where string) ([]ledger.Coin, error) {
	rows, err := q.Query(ctx, selectCoin+` WHERE `+where+` ORDER BY value DESC, txid, vout`)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (ledger.Coin, error) { return readCoin(row) })
}

const selectCoin = `SELECT txid, vout, value, script, kind, state, made_by, height, spent_by, spent_height FROM coin`

func readCoin(row pgx.Row) (c ledger.Coin, err error) {
	var (
		txid, madeBy, spentBy []byte
		vout                  int64
		kind, state           string
		height, spentHeight   *int64
	)
	if err := row.Scan(&txid, &vout, &c.Value, &c.Script, &kind, &state, &madeBy, &height, &spentBy, &spentHeight); err != nil {
		return ledger.Coin{}, err
	}
	if c.State, err = ledger.ParseCoinState(state); err != nil {
		return ledger.Coin{}, err
	}
	copy(c.Outpoint.TxID[:], txid)
	copy(c.MadeBy[:], madeBy)
	copy(c.SpentBy[:], spentBy)
	c.Outpoint.Vout, c.Kind = uint32(vout), ledger.CoinKind(kind)
	if height != nil {
		c.Height = uint32(*height)
	}
	if spentHeight != nil {
		c.SpentHeight = uint32(*spentHeight)
	}
	return c, nil
}

func readBlock(row pgx.Row) (b ledger.Block, err error) {
	var height int64
	var hash, header []byte
	if err := row.Scan(&height, &hash, &header); err != nil {
		return ledger.Block{}, err
	}
	b.Height = uint32(height)
	copy(b.Hash[:], hash)
	copy(b.Header[:], header)
	return b, nil
}

const selectAttempt = `
	SELECT a.txid, a.coin_txid, a.coin_vout, a.n, a.state, a.size, a.root, a.unsigned_tx, a.raw_tx, coalesce(a.fee, 0), a.vsize, a.change,
	       a.imported, a.created_at, a.tip, a.sent_at, coalesce(a.answer, ''), coalesce(a.answer_text, ''), coalesce(s.height, 0)
	FROM attempt a LEFT JOIN sighting s ON s.txid = a.txid AND s.orphaned_at IS NULL `

func readAttempts(ctx context.Context, q querier, where string, args ...any) ([]ledger.Attempt, error) {
	rows, err := q.Query(ctx, selectAttempt+where, args...)
	if err != nil {
		return nil, err
	}
	attempts, err := pgx.CollectRows(rows, readAttempt)
	if err != nil {
		return nil, err
	}
	for i := range attempts {
		if attempts[i].Inputs, err = readInputs(ctx, q, attempts[i].TxID); err != nil {
			return nil, err
		}
	}
	return attempts, nil
}

func readAttempt(row pgx.CollectableRow) (a ledger.Attempt, err error) {
	var (
		txid, coin, root   []byte
		vout, size, height int64
		tip                int64
		state, answer      string
		sent               *time.Time
	)
	if err := row.Scan(&txid, &coin, &vout, &a.N, &state, &size, &root, &a.Unsigned, &a.Raw, &a.Fee, &a.VSize, &a.Change,
		&a.Imported, &a.Created, &tip, &sent, &answer, &a.Answer.Text, &height); err != nil {
		return ledger.Attempt{}, err
	}
	if a.State, err = ledger.ParseAttemptState(state); err != nil {
		return ledger.Attempt{}, err
	}
	copy(a.TxID[:], txid)
	copy(a.Coin.TxID[:], coin)
	copy(a.Root[:], root)
	a.Coin.Vout, a.Size, a.Height, a.Tip = uint32(vout), uint64(size), uint32(height), uint32(tip)
	a.Answer.Kind = ledger.AnswerKind(answer)
	if sent != nil {
		a.LastSent = *sent
	}
	return a, nil
}

func readInputs(ctx context.Context, q querier, txid calpe.BlockHash) ([]ledger.Input, error) {
	rows, err := q.Query(ctx, `SELECT prev_txid, prev_vout, value, script FROM attempt_input WHERE txid = $1 ORDER BY position`, txid[:])
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (in ledger.Input, err error) {
		var prev []byte
		var vout int64
		err = row.Scan(&prev, &vout, &in.Value, &in.Script)
		copy(in.Outpoint.TxID[:], prev)
		in.Outpoint.Vout = uint32(vout)
		return in, err
	})
}

// Attempt looks an attempt up. The second result is false if there is none.
func (s *Anchors) Attempt(ctx context.Context, txid calpe.BlockHash) (ledger.Attempt, bool, error) {
	attempts, err := readAttempts(ctx, s.db.on(ctx), `WHERE a.txid = $1`, txid[:])
	if err != nil || len(attempts) == 0 {
		return ledger.Attempt{}, false, translate("look attempt up", err)
	}
	return attempts[0], true, nil
}

// Paid is how many anchors are final, and what they cost in satoshis. Fees that
// aren't known (of imported ones) count as 0.
func (s *Anchors) Paid(ctx context.Context) (anchors, fees int64, err error) {
	err = s.db.on(ctx).QueryRow(ctx, `SELECT count(*), coalesce(sum(fee), 0)::bigint FROM attempt WHERE state = 'final'`).Scan(&anchors, &fees)
	return anchors, fees, translate("read the fees of all anchors", err)
}

// Spent is what coins other than the live one cost, or may still cost, of which
// an attempt was created or last sent within those times, in satoshis. A replaced
// attempt counts until another is final: a reorganisation can put it in its place.
func (s *Anchors) Spent(ctx context.Context, from, to time.Time) (sum int64, err error) {
	err = s.db.on(ctx).QueryRow(ctx, `
		SELECT coalesce(sum(cost), 0)::bigint FROM (
			SELECT coalesce(max(a.fee) FILTER (WHERE a.state = 'final'), max(a.fee)) AS cost
			FROM attempt a JOIN coin c ON c.txid = a.coin_txid AND c.vout = a.coin_vout
			WHERE a.raw_tx IS NOT NULL AND c.state <> 'live'
			GROUP BY c.txid, c.vout
			HAVING bool_or(a.created_at BETWEEN $1 AND $2 OR a.sent_at BETWEEN $1 AND $2)) coins`, from, to).Scan(&sum)
	return sum, translate("read the fees of a day", err)
}

// Attempts lists the newest attempts in any state, newest first.
func (s *Anchors) Attempts(ctx context.Context, limit int) ([]ledger.Attempt, error) {
	attempts, err := readAttempts(ctx, s.db.on(ctx), `ORDER BY a.created_at DESC, a.n DESC LIMIT $1`, limit)
	return attempts, translate("list attempts", err)
}

// LiveCoin is the coin that the next attempt spends, or [calpe.ErrNotFound].
func (s *Anchors) LiveCoin(ctx context.Context) (ledger.Coin, error) {
	c, err := readCoin(s.db.on(ctx).QueryRow(ctx, selectCoin+` WHERE kind = 'chain' AND state = 'live'`))
	return c, translate("read the live coin", err)
}

// Deposits lists the live coins of kind deposit, largest first.
func (s *Anchors) Deposits(ctx context.Context) ([]ledger.Coin, error) {
	coins, err := listCoins(ctx, s.db.on(ctx), `kind = 'deposit' AND state = 'live'`)
	return coins, translate("list deposits", err)
}

const selectAnchor = `
	SELECT a.txid, a.size, a.root, a.unsigned_tx, a.state = 'final', s.block, s.height, s.position, s.header, s.branch, s.coinbase, s.coinbase_branch,
	       (SELECT max(height) FROM tip_journal) - s.height + 1
	FROM attempt a JOIN sighting s ON s.txid = a.txid AND s.orphaned_at IS NULL `

func readAnchor(row pgx.Row) (a calpe.Anchor, err error) {
	var (
		txid, root, block, header, branch, coinbaseBranch []byte
		size, height, position, depth                     int64
	)
	if err := row.Scan(&txid, &size, &root, &a.Tx, &a.Final, &block, &height, &position, &header, &branch, &a.Coinbase, &coinbaseBranch, &depth); err != nil {
		return calpe.Anchor{}, err
	}
	copy(a.TxID[:], txid)
	copy(a.Root[:], root)
	copy(a.Block[:], block)
	copy(a.Header[:], header)
	a.Size, a.Height, a.Position, a.Depth = uint64(size), uint32(height), uint32(position), uint32(depth)
	a.Branch, a.CoinbaseBranch = unflatten(branch), unflatten(coinbaseBranch)
	return a, nil
}

func unflatten(flat []byte) []calpe.BlockHash {
	branch := make([]calpe.BlockHash, 0, len(flat)/calpe.HashSize)
	for h := range slices.Chunk(flat, calpe.HashSize) {
		branch = append(branch, calpe.BlockHash(h))
	}
	return branch
}

// AnchorFor is the anchor that a receipt of the entry takes: the first final one
// that covers its index, else the first that is in a block, else
// [calpe.ErrNotFound].
func (s *Anchors) AnchorFor(ctx context.Context, index uint64) (calpe.Anchor, error) {
	if index >= calpe.MaxLogSize {
		return calpe.Anchor{}, fmt.Errorf("anchor of entry %d: %w", index, calpe.ErrNotFound)
	}
	for _, state := range [...]ledger.AttemptState{ledger.Final, ledger.Mined} {
		a, err := readAnchor(s.db.on(ctx).QueryRow(ctx, selectAnchor+`WHERE a.state = $1 AND a.size > $2 ORDER BY a.size LIMIT 1`, string(state), int64(index)))
		if !noRows(err) {
			return a, translate("look for an anchor", err)
		}
	}
	return calpe.Anchor{}, fmt.Errorf("anchor of entry %d: %w", index, calpe.ErrNotFound)
}

// AnchorOfSize is the anchor of exactly that log size, a final one before
// others, or [calpe.ErrNotFound].
func (s *Anchors) AnchorOfSize(ctx context.Context, size uint64) (calpe.Anchor, error) {
	a, err := readAnchor(s.db.on(ctx).QueryRow(ctx, selectAnchor+`
		WHERE a.state IN ('mined', 'final') AND a.size = $1 ORDER BY a.state = 'final' DESC, s.height LIMIT 1`, int64(size)))
	return a, translate("look for an anchor of that size", err)
}

// List gives up to limit anchors in blocks below a height, newest first.
func (s *Anchors) List(ctx context.Context, below uint32, limit int) ([]calpe.Anchor, error) {
	rows, err := s.db.on(ctx).Query(ctx, selectAnchor+`WHERE a.state IN ('mined', 'final') AND s.height < $1 ORDER BY s.height DESC, s.position DESC LIMIT $2`, int64(below), limit)
	if err != nil {
		return nil, translate("list anchors", err)
	}
	anchors, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (calpe.Anchor, error) { return readAnchor(row) })
	return anchors, translate("list anchors", err)
}

// Anchored is the largest log size in a block of the best chain, 0 if none is.
func (s *Anchors) Anchored(ctx context.Context) (uint64, error) {
	size, err := readAnchored(ctx, s.db.on(ctx))
	return size, translate("read the anchored size", err)
}

func readAnchored(ctx context.Context, q querier) (uint64, error) {
	var size int64
	err := q.QueryRow(ctx, `SELECT greatest(
		(SELECT max(size) FROM attempt WHERE state = 'mined'), (SELECT max(size) FROM attempt WHERE state = 'final'), 0)`).Scan(&size)
	return uint64(size), err
}

// Watermarks fills the fields of anchoring: the sizes up to which the log was
// sent, is in a block, and is final. They never grow from one to the next.
func (s *Anchors) Watermarks(ctx context.Context, w *calpe.Watermarks) error {
	var sent, mined, final int64
	err := s.db.on(ctx).QueryRow(ctx, `SELECT
		coalesce((SELECT max(size) FROM attempt WHERE state = 'sent'), 0),
		coalesce((SELECT max(size) FROM attempt WHERE state = 'mined'), 0),
		coalesce((SELECT max(size) FROM attempt WHERE state = 'final'), 0)`).Scan(&sent, &mined, &final)
	if err != nil {
		return translate("read the anchored sizes", err)
	}
	w.Final = uint64(final)
	w.Confirmed = uint64(max(mined, final))
	w.Broadcast = uint64(max(sent, mined, final))
	return nil
}
