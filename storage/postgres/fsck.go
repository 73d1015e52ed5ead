package postgres

import (
	"context"
	"crypto/sha256"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
)

// This file reads rows as they are, for a check of all of them, page by page. No
// page holds a snapshot open: a check may take hours, and rows of the log never
// change.

// GroupsFrom lists groups as the rows have them, by their first index: from the
// one that holds the entry from, or else the first behind it, until about
// [calpe.MaxGroup] entries are together. Nothing is demanded of them.
func (db *DB) GroupsFrom(ctx context.Context, from uint64) ([]calpe.GroupRecord, error) {
	const sql = `
		SELECT first, commitments, group_id, origin, time, deadline FROM (
			SELECT *, sum(octet_length(commitments)) OVER (ORDER BY first) - octet_length(commitments) AS before FROM (
				SELECT * FROM entry_group
				WHERE first >= coalesce((SELECT first FROM entry_group WHERE first <= $1 AND $1 < first + octet_length(commitments) / 32 ORDER BY first DESC LIMIT 1), $1)
				ORDER BY first LIMIT 4096) near) page
		WHERE before < $2 ORDER BY first`
	rows, err := db.on(ctx).Query(ctx, sql, clampIndex(from), int64(calpe.MaxGroup*calpe.HashSize))
	if err != nil {
		return nil, translate("read groups", err)
	}
	groups, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (g calpe.GroupRecord, err error) {
		var (
			id       [16]byte
			packed   []byte
			deadline *time.Time
		)
		if err := row.Scan(&g.First, &packed, &id, &g.Origin, &g.Time, &deadline); err != nil {
			return g, err
		}
		g.ID, g.Time, g.Deadline = id, g.Time.UTC(), timeOf(deadline)
		g.Commitments, err = unpack(packed)
		return g, err
	})
	return groups, translate("read groups", err)
}

// CheckpointsFrom lists checkpoints of at least that size, the smallest first, up
// to limit (1 to 1000).
func (db *DB) CheckpointsFrom(ctx context.Context, size uint64, limit int) ([]calpe.Checkpoint, error) {
	if err := checkLimit(limit); err != nil {
		return nil, fmt.Errorf("list checkpoints: %w", err)
	}
	rows, err := db.on(ctx).Query(ctx, `SELECT `+checkpointColumns+` FROM checkpoint WHERE size >= $1 ORDER BY size LIMIT $2`, clampIndex(size), limit)
	if err != nil {
		return nil, translate("list checkpoints", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (calpe.Checkpoint, error) { return scanCheckpoint(row) })
	return list, translate("list checkpoints", err)
}

// CheckpointBefore is the newest checkpoint that was signed before that time;
// calpe.ErrNotFound if there is none.
func (db *DB) CheckpointBefore(ctx context.Context, at time.Time) (calpe.Checkpoint, error) {
	const sql = `SELECT ` + checkpointColumns + ` FROM checkpoint WHERE created_at < $1 ORDER BY size DESC LIMIT 1`
	c, err := scanCheckpoint(db.on(ctx).QueryRow(ctx, sql, at))
	return c, translate("read checkpoint", err)
}

// DocumentsFrom lists documents with an index of at least that, by index, up to
// limit (1 to 1000).
func (db *DB) DocumentsFrom(ctx context.Context, index uint64, limit int) ([]calpe.Document, error) {
	return db.documents(ctx, "list documents", limit, ` FROM document WHERE index >= $1 ORDER BY index LIMIT $2`, clampIndex(index), limit)
}

// StatementsFrom lists public statements with an index of at least that, by
// index, up to limit (1 to 1000).
func (db *DB) StatementsFrom(ctx context.Context, index uint64, limit int) ([]calpe.Statement, error) {
	if err := checkLimit(limit); err != nil {
		return nil, fmt.Errorf("list statements: %w", err)
	}
	rows, err := db.on(ctx).Query(ctx, `SELECT index, type, body, salt FROM statement WHERE index >= $1 ORDER BY index LIMIT $2`, clampIndex(index), limit)
	if err != nil {
		return nil, translate("list statements", err)
	}
	list, err := pgx.CollectRows(rows, scanStatement)
	return list, translate("list statements", err)
}

// CertificationsFrom lists certifications with an index of at least that, by
// index, up to limit (1 to 1000).
func (db *DB) CertificationsFrom(ctx context.Context, index uint64, limit int) ([]calpe.Certification, error) {
	if err := checkLimit(limit); err != nil {
		return nil, fmt.Errorf("list certifications: %w", err)
	}
	rows, err := db.on(ctx).Query(ctx, `SELECT index, document_id, agency, sealed FROM certification WHERE index >= $1 ORDER BY index LIMIT $2`, clampIndex(index), limit)
	if err != nil {
		return nil, translate("list certifications", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (c calpe.Certification, err error) {
		var document [16]byte
		err = row.Scan(&c.Index, &document, &c.Agency, &c.Sealed)
		c.Document = document
		return c, err
	})
	return list, translate("list certifications", err)
}

// IdempotencyAfter lists what repeated requests get, by owner and hashed key,
// from behind those two, up to limit (1 to 1000). RequestTag is left out.
func (db *DB) IdempotencyAfter(ctx context.Context, owner string, key calpe.Hash, limit int) ([]calpe.Idempotency, error) {
	if err := checkLimit(limit); err != nil {
		return nil, fmt.Errorf("list idempotency keys: %w", err)
	}
	rows, err := db.on(ctx).Query(ctx, `SELECT owner, key_hash, first_index, count, document_id FROM idempotency
		WHERE (owner, key_hash) > ($1, $2) ORDER BY owner, key_hash LIMIT $3`, owner, key[:], limit)
	if err != nil {
		return nil, translate("list idempotency keys", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (i calpe.Idempotency, err error) {
		var (
			hash     []byte
			document *[16]byte
		)
		if err := row.Scan(&i.Owner, &hash, &i.First, &i.Count, &document); err != nil {
			return i, err
		}
		if document != nil {
			i.Document = *document
		}
		i.KeyHash, err = hash32(hash)
		return i, err
	})
	return list, translate("list idempotency keys", err)
}

// AttemptsOfSize lists attempts by log size and id, from behind those two, up to
// limit (1 to 1000), without their inputs.
func (s *Anchors) AttemptsOfSize(ctx context.Context, size uint64, txid calpe.BlockHash, limit int) ([]ledger.Attempt, error) {
	if err := checkLimit(limit); err != nil {
		return nil, fmt.Errorf("list attempts: %w", err)
	}
	rows, err := s.db.on(ctx).Query(ctx, selectAttempt+`WHERE (a.size, a.txid) > ($1, $2) ORDER BY a.size, a.txid LIMIT $3`, clampIndex(size), txid[:], limit)
	if err != nil {
		return nil, translate("list attempts", err)
	}
	list, err := pgx.CollectRows(rows, readAttempt)
	return list, translate("list attempts", err)
}

// ProofsAfter lists proofs by calendars by size and calendar, from behind those
// two, up to limit (1 to 1000).
func (s *Proofs) ProofsAfter(ctx context.Context, after ledger.ProofID, limit int) ([]ledger.Proof, error) {
	if err := checkLimit(limit); err != nil {
		return nil, fmt.Errorf("list proofs: %w", err)
	}
	return s.list(ctx, "list proofs", `WHERE (size, calendar) > ($1, $2) ORDER BY size, calendar LIMIT $3`, clampIndex(after.Size), after.Calendar, limit)
}

// JournalFrom lists up to limit followed blocks from a height upwards.
func (s *Anchors) JournalFrom(ctx context.Context, from uint32, limit int) ([]ledger.Block, error) {
	rows, err := s.db.on(ctx).Query(ctx, `SELECT height, hash, header FROM tip_journal WHERE height >= $1 ORDER BY height LIMIT $2`, int64(from), limit)
	if err != nil {
		return nil, translate("read tip journal", err)
	}
	blocks, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (ledger.Block, error) { return readBlock(row) })
	return blocks, translate("read tip journal", err)
}

// CoinsAfter lists coins by outpoint, from behind one (the zero outpoint: from
// the first), up to limit (1 to 1000), with all that is said of them at one point
// in time.
func (s *Anchors) CoinsAfter(ctx context.Context, after calpe.Outpoint, limit int) (coins []ledger.CoinRecord, err error) {
	if err := checkLimit(limit); err != nil {
		return nil, fmt.Errorf("list coins: %w", err)
	}
	conn, release, err := s.db.acquire(ctx, s.db.pool)
	if err != nil {
		return nil, err
	}
	defer release()
	options := pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}
	err = pgx.BeginTxFunc(ctx, conn, options, func(tx pgx.Tx) error {
		coins, err = readCoinRecords(ctx, tx, after, limit)
		return err
	})
	return coins, translate("list coins", err)
}

func readCoinRecords(ctx context.Context, tx pgx.Tx, after calpe.Outpoint, limit int) ([]ledger.CoinRecord, error) {
	list, err := collectCoins(ctx, tx, ` WHERE (txid, vout) > ($1, $2) ORDER BY txid, vout LIMIT $3`, after.TxID[:], int64(after.Vout), limit)
	if err != nil {
		return nil, err
	}
	records := make([]ledger.CoinRecord, len(list))
	for i, c := range list {
		r := &records[i]
		r.Coin = c
		if r.Attempts, err = readAttemptRecords(ctx, tx, `WHERE a.coin_txid = $1 AND a.coin_vout = $2 ORDER BY a.n`, c.Outpoint.TxID[:], int64(c.Outpoint.Vout)); err != nil {
			return nil, err
		}
		if r.Maker, err = readAttemptRecord(ctx, tx, c.MadeBy); err != nil {
			return nil, err
		}
		if r.Spender, err = readAttemptRecord(ctx, tx, c.SpentBy); err != nil {
			return nil, err
		}
	}
	return records, nil
}

func collectCoins(ctx context.Context, q querier, where string, args ...any) ([]ledger.Coin, error) {
	rows, err := q.Query(ctx, selectCoin+where, args...)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (ledger.Coin, error) { return readCoin(row) })
}

// readAttemptRecord gives nil if there is no attempt with that id.
func readAttemptRecord(ctx context.Context, q querier, txid calpe.BlockHash) (*ledger.AttemptRecord, error) {
	list, err := readAttemptRecords(ctx, q, `WHERE a.txid = $1`, txid[:])
	if err != nil || len(list) == 0 {
		return nil, err
	}
	return &list[0], nil
}

func readAttemptRecords(ctx context.Context, q querier, where string, args ...any) ([]ledger.AttemptRecord, error) {
	attempts, err := readAttempts(ctx, q, where, args...)
	if err != nil {
		return nil, err
	}
	records := make([]ledger.AttemptRecord, len(attempts))
	for i, a := range attempts {
		r := &records[i]
		r.Attempt = a
		if err := q.QueryRow(ctx, `SELECT taken_at IS NOT NULL FROM attempt WHERE txid = $1`, a.TxID[:]).Scan(&r.Taken); err != nil {
			return nil, err
		}
		for _, in := range a.Inputs {
			coins, err := collectCoins(ctx, q, ` WHERE txid = $1 AND vout = $2`, in.Outpoint.TxID[:], int64(in.Outpoint.Vout))
			if err != nil {
				return nil, err
			}
			r.Coins = append(r.Coins, coins...)
		}
		next, err := collectCoins(ctx, q, ` WHERE txid = $1 AND vout = 1`, a.TxID[:])
		if err != nil {
			return nil, err
		}
		if len(next) > 0 {
			r.Next = &next[0]
		}
		if r.Sightings, err = readSightings(ctx, q, a); err != nil {
			return nil, err
		}
	}
	return records, nil
}

func readSightings(ctx context.Context, q querier, a ledger.Attempt) ([]ledger.Sighting, error) {
	rows, err := q.Query(ctx, `
		SELECT s.block, s.height, s.position, s.header, s.branch, s.coinbase, s.coinbase_branch, s.orphaned_at IS NOT NULL, j.header
		FROM sighting s LEFT JOIN tip_journal j ON j.height = s.height WHERE s.txid = $1 ORDER BY s.height, s.block`, a.TxID[:])
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (s ledger.Sighting, err error) {
		var (
			block, header, branch, coinbaseBranch, journal []byte
			height, position                               int64
		)
		if err := row.Scan(&block, &height, &position, &header, &branch, &s.Coinbase, &coinbaseBranch, &s.Orphaned, &journal); err != nil {
			return s, err
		}
		copy(s.Block[:], block)
		copy(s.Header[:], header)
		if journal != nil {
			once := sha256.Sum256(journal)
			s.Journal = sha256.Sum256(once[:])
		}
		s.Payload, s.Tx, s.TxID = a.Payload, a.Unsigned, a.TxID
		s.Height, s.Position = uint32(height), uint32(position)
		s.Branch, s.CoinbaseBranch = unflatten(branch), unflatten(coinbaseBranch)
		return s, nil
	})
}
