package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
)

// Proofs keeps what calendars were asked and have proved: it is the store of
// anchoring by calendars, and what receipts and the status read of that. Writes
// are fenced and compare-and-set as those of [Anchors]: a refusal is
// [calpe.ErrLostLeadership] or [ledger.ErrConflict], and nothing is written. It
// is safe for concurrent use.
type Proofs struct{ anchors *Anchors }

// Proofs gives the part of the database for anchoring by calendars.
func (db *DB) Proofs() *Proofs { return &Proofs{db.Anchors()} }

func (s *Proofs) on(ctx context.Context) querier { return s.anchors.db.on(ctx) }

// proofsFrom lists the states from which the table lets the mover take a proof to a state.
func proofsFrom(by ledger.Mover, to ledger.ProofState) []string {
	return ledger.Sources(ledger.ProofEdges(), by, to)
}

// WantProofs makes a row for each calendar, before anything is submitted. No row
// may have a larger size, or that one with another root or for one of the calendars.
func (s *Proofs) WantProofs(ctx context.Context, epoch uint64, p calpe.Payload, calendars []string, at time.Time) error {
	return s.anchors.write(ctx, epoch, func(tx pgx.Tx) error {
		var refused bool
		if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM proof WHERE size > $1) OR EXISTS (SELECT FROM proof WHERE size = $1 AND root <> $2)`,
			int64(p.Size), p.Root[:]).Scan(&refused); err != nil {
			return fmt.Errorf("read the newest proof: %w", err)
		}
		if refused {
			return fmt.Errorf("%w: proofs of size %d are wanted, and there is a larger one, or one with another root", ledger.ErrConflict, p.Size)
		}
		batch := &pgx.Batch{}
		for _, calendar := range calendars {
			batch.Queue(`INSERT INTO proof (size, calendar, root, state, epoch, created_at) VALUES ($1, $2, $3, 'wanted', $4, $5)`,
				int64(p.Size), calendar, p.Root[:], int64(epoch), at)
		}
		return tx.SendBatch(ctx, batch).Close()
	})
}

// StorePromise moves a proof from wanted to pending.
func (s *Proofs) StorePromise(ctx context.Context, epoch uint64, id ledger.ProofID, promise []byte, at time.Time) error {
	return s.anchors.write(ctx, epoch, func(tx pgx.Tx) error {
		return execOne(ctx, tx, "store promise", `
			UPDATE proof SET state = 'pending', promise = $3, submitted_at = $4 WHERE size = $1 AND calendar = $2 AND state = ANY($5)`,
			int64(id.Size), id.Calendar, promise, at, proofsFrom(ledger.ByAct, ledger.ProofPending))
	})
}

// MarkAsked keeps when the calendar of a pending proof was asked for the rest.
func (s *Proofs) MarkAsked(ctx context.Context, epoch uint64, id ledger.ProofID, at time.Time) error {
	return s.anchors.write(ctx, epoch, func(tx pgx.Tx) error {
		return execOne(ctx, tx, "mark proof as asked", `
			UPDATE proof SET asked_at = $3 WHERE size = $1 AND calendar = $2 AND state = 'pending'`, int64(id.Size), id.Calendar, at)
	})
}

// StoreWay keeps the rest of a pending proof, and moves it to confirmed, or to
// attested if its header isn't known.
func (s *Proofs) StoreWay(ctx context.Context, epoch uint64, id ledger.ProofID, way ledger.Attestation, at time.Time) error {
	to := ledger.ProofAttested
	var header []byte
	if way.Checked() {
		to, header = ledger.ProofConfirmed, way.Header[:]
	}
	return s.anchors.write(ctx, epoch, func(tx pgx.Tx) error {
		return execOne(ctx, tx, "store the way of a proof", `
			UPDATE proof SET state = $3, operations = $4, height = $5, block = $6, header = $7, attested_at = $8, asked_at = $8
			WHERE size = $1 AND calendar = $2 AND state = ANY($9)`,
			int64(id.Size), id.Calendar, string(to), way.Operations, int64(way.Height), orNil(way.Block), header, at, proofsFrom(ledger.ByAct, to))
	})
}

// ConfirmProof moves an attested proof to confirmed: the header has become known.
func (s *Proofs) ConfirmProof(ctx context.Context, epoch uint64, id ledger.ProofID, block calpe.BlockHash, header [calpe.HeaderSize]byte) error {
	return s.anchors.write(ctx, epoch, func(tx pgx.Tx) error {
		return execOne(ctx, tx, "confirm proof", `
			UPDATE proof SET state = 'confirmed', block = $3, header = $4 WHERE size = $1 AND calendar = $2 AND state = ANY($5)`,
			int64(id.Size), id.Calendar, block[:], header[:], proofsFrom(ledger.ByFollow, ledger.ProofConfirmed))
	})
}

// MakeProofFinal moves a proof from confirmed to final.
func (s *Proofs) MakeProofFinal(ctx context.Context, epoch uint64, id ledger.ProofID) error {
	return s.anchors.write(ctx, epoch, func(tx pgx.Tx) error {
		return execOne(ctx, tx, "make proof final", `UPDATE proof SET state = 'final' WHERE size = $1 AND calendar = $2 AND state = ANY($3)`,
			int64(id.Size), id.Calendar, proofsFrom(ledger.ByFollow, ledger.ProofFinal))
	})
}

// TakeProofBack makes a proof pending whose block isn't in the chain, so that
// its calendar is asked anew.
func (s *Proofs) TakeProofBack(ctx context.Context, epoch uint64, id ledger.ProofID) error {
	return s.anchors.write(ctx, epoch, func(tx pgx.Tx) error {
		return execOne(ctx, tx, "take proof back", `
			UPDATE proof SET state = 'pending', operations = NULL, height = NULL, block = NULL, header = NULL, attested_at = NULL, asked_at = NULL
			WHERE size = $1 AND calendar = $2 AND state = ANY($3)`,
			int64(id.Size), id.Calendar, proofsFrom(ledger.ByRewind, ledger.ProofPending))
	})
}

const selectProof = `
	SELECT size, calendar, root, state, promise, operations, coalesce(height, 0), block, header, created_at, submitted_at, asked_at FROM proof `

func readProof(row pgx.CollectableRow) (p ledger.Proof, err error) {
	var (
		size, height        int64
		root, block, header []byte
		state               string
		submitted, asked    *time.Time
	)
	if err := row.Scan(&size, &p.Calendar, &root, &state, &p.Promise, &p.Way.Operations, &height, &block, &header, &p.Created, &submitted, &asked); err != nil {
		return ledger.Proof{}, err
	}
	if p.State, err = ledger.ParseProofState(state); err != nil {
		return ledger.Proof{}, err
	}
	p.Size, p.Way.Height = uint64(size), uint32(height)
	copy(p.Root[:], root)
	copy(p.Way.Block[:], block)
	copy(p.Way.Header[:], header)
	if submitted != nil {
		p.Submitted = *submitted
	}
	if asked != nil {
		p.Asked = *asked
	}
	return p, nil
}

func (s *Proofs) list(ctx context.Context, what, where string, args ...any) ([]ledger.Proof, error) {
	rows, err := s.on(ctx).Query(ctx, selectProof+where, args...)
	if err != nil {
		return nil, translate(what, err)
	}
	list, err := pgx.CollectRows(rows, readProof)
	return list, translate(what, err)
}

// NewestProofs lists the proofs of the largest size that was ever wanted; none
// if nothing was.
func (s *Proofs) NewestProofs(ctx context.Context) ([]ledger.Proof, error) {
	return s.list(ctx, "list the newest proofs", `WHERE size = (SELECT max(size) FROM proof) ORDER BY calendar`)
}

// OpenProofs lists pending proofs whose calendars are to be asked now, the longest
// unasked first, up to limit of each calendar. A proof is asked at once when it was promised or
// taken back, then least after it was last asked, and the older it gets the more
// rarely: after an eighth of its age.
func (s *Proofs) OpenProofs(ctx context.Context, now time.Time, least time.Duration, limit int) ([]ledger.Proof, error) {
	return s.list(ctx, "list open proofs", `
		WHERE (size, calendar) IN (
			SELECT size, calendar FROM (
				SELECT size, calendar, row_number() OVER (PARTITION BY calendar ORDER BY coalesce(asked_at, submitted_at), size) AS turn
				FROM proof WHERE state = 'pending' AND coalesce(asked_at, submitted_at) + greatest(
					CASE WHEN asked_at IS NULL THEN '0' ELSE make_interval(secs => $2) END, (coalesce(asked_at, submitted_at) - submitted_at) / 8) <= $1
			) AS due WHERE turn <= $3)
		ORDER BY coalesce(asked_at, submitted_at), size, calendar`, now, least.Seconds(), limit)
}

// LedProofs lists what was led to a block and may still be taken back: whatever
// isn't final, and what is final above a height.
func (s *Proofs) LedProofs(ctx context.Context, above uint32, limit int) ([]ledger.Proof, error) {
	return s.list(ctx, "list proofs in blocks", `
		WHERE state IN ('attested', 'confirmed') OR state = 'final' AND height > $1
		ORDER BY state = 'final', size DESC, calendar LIMIT $2`, int64(above), limit)
}

// ProofSummary says how anchoring by calendars stands, by all of them together.
func (s *Proofs) ProofSummary(ctx context.Context) (ledger.ProofSummary, error) {
	row := s.on(ctx).QueryRow(ctx, `
		WITH newest AS (SELECT s.state, (SELECT max(size) FROM proof WHERE proof.state = s.state) AS size
			FROM unnest(ARRAY['pending', 'attested', 'confirmed', 'final']) AS s (state)),
		reached AS (SELECT coalesce(max(size), 0) AS promised, coalesce(max(size) FILTER (WHERE state <> 'pending'), 0) AS led FROM newest)
		SELECT `+selectSummary+` FROM reached r LEFT JOIN proof p ON p.size >= r.led GROUP BY r.promised, r.led`)
	sum, err := readSummary(row)
	return sum, translate("sum proofs up", err)
}

// ProofSummaries says of each of some calendars how anchoring by that one alone
// stands, in their order.
func (s *Proofs) ProofSummaries(ctx context.Context, calendars []string) ([]ledger.ProofSummary, error) {
	rows, err := s.on(ctx).Query(ctx, `
		WITH reached AS (SELECT c.calendar, c.turn,
			coalesce((SELECT size FROM proof WHERE proof.calendar = c.calendar AND state <> 'wanted' ORDER BY size DESC LIMIT 1), 0) AS promised,
			coalesce((SELECT size FROM proof WHERE proof.calendar = c.calendar AND state NOT IN ('wanted', 'pending') ORDER BY size DESC LIMIT 1), 0) AS led
			FROM unnest($1::text[]) WITH ORDINALITY AS c (calendar, turn))
		SELECT `+selectSummary+` FROM reached r LEFT JOIN proof p ON p.calendar = r.calendar AND p.size >= r.led
		GROUP BY r.turn, r.promised, r.led ORDER BY r.turn`, calendars)
	if err != nil {
		return nil, translate("sum proofs up by calendar", err)
	}
	list, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (ledger.ProofSummary, error) { return readSummary(row) })
	return list, translate("sum proofs up by calendar", err)
}

// selectSummary is of the proofs p from the largest size r.led that was led to a
// block; r.promised is the largest that was promised.
const selectSummary = `
	r.promised, r.led, max(p.submitted_at) FILTER (WHERE p.size = r.promised), max(p.attested_at) FILTER (WHERE p.size = r.led),
	min(p.created_at) FILTER (WHERE p.size > r.promised),
	min(p.submitted_at) FILTER (WHERE p.state = 'pending' AND p.size > r.led),
	count(*) FILTER (WHERE p.state = 'pending' AND p.size > r.led)`

func readSummary(row pgx.Row) (sum ledger.ProofSummary, err error) {
	var promised, led int64
	var promisedAt, ledAt, unpromised, waiting *time.Time
	if err := row.Scan(&promised, &led, &promisedAt, &ledAt, &unpromised, &waiting, &sum.Pending); err != nil {
		return ledger.ProofSummary{}, err
	}
	sum.Promised, sum.Led = uint64(promised), uint64(led)
	for _, t := range []struct {
		to   *time.Time
		from *time.Time
	}{{&sum.PromisedAt, promisedAt}, {&sum.LedAt, ledAt}, {&sum.Unpromised, unpromised}, {&sum.Waiting, waiting}} {
		if t.from != nil {
			*t.to = *t.from
		}
	}
	return sum, nil
}

// TimestampFor is the timestamp that a receipt of the entry takes, if no anchor
// is better: the first final one that covers its index, else the first
// confirmed, else the first attested, else [calpe.ErrNotFound]. Of one size, it
// is the one that came first.
func (s *Proofs) TimestampFor(ctx context.Context, index uint64) (calpe.Timestamp, error) {
	if index >= calpe.MaxLogSize {
		return calpe.Timestamp{}, fmt.Errorf("timestamp of entry %d: %w", index, calpe.ErrNotFound)
	}
	for _, state := range [...]ledger.ProofState{ledger.ProofFinal, ledger.ProofConfirmed, ledger.ProofAttested} {
		list, err := s.list(ctx, "look for a timestamp", `WHERE state = $1 AND size > $2 ORDER BY size, attested_at, calendar LIMIT 1`, string(state), int64(index))
		if err != nil || len(list) > 0 {
			return timestampOf(list, err)
		}
	}
	return calpe.Timestamp{}, fmt.Errorf("timestamp of entry %d: %w", index, calpe.ErrNotFound)
}

// TimestampOfSize is the timestamp of exactly that log size, the best as in
// TimestampFor, or [calpe.ErrNotFound].
func (s *Proofs) TimestampOfSize(ctx context.Context, size uint64) (calpe.Timestamp, error) {
	list, err := s.list(ctx, "look for a timestamp of that size", `
		WHERE state IN ('attested', 'confirmed', 'final') AND size = $1
		ORDER BY array_position(ARRAY['final', 'confirmed', 'attested'], state), attested_at, calendar LIMIT 1`, int64(size))
	if err == nil && len(list) == 0 {
		err = fmt.Errorf("timestamp of size %d: %w", size, calpe.ErrNotFound)
	}
	return timestampOf(list, err)
}

func timestampOf(list []ledger.Proof, err error) (calpe.Timestamp, error) {
	if err != nil {
		return calpe.Timestamp{}, err
	}
	p := list[0]
	return calpe.Timestamp{
		Payload: p.Payload, Calendar: p.Calendar, Operations: p.Way.Operations, Height: p.Way.Height,
		Block: p.Way.Block, Header: p.Way.Header, Final: p.State == ledger.ProofFinal,
	}, nil
}

// Watermarks raises the sizes up to which the log was sent, is in a block, and is
// final, to what calendars have done. What no header was compared with isn't
// confirmed.
func (s *Proofs) Watermarks(ctx context.Context, w *calpe.Watermarks) error {
	var sent, confirmed, final int64
	err := s.on(ctx).QueryRow(ctx, `SELECT
		coalesce((SELECT max(size) FROM proof WHERE state IN ('pending', 'attested', 'confirmed', 'final')), 0),
		coalesce((SELECT max(size) FROM proof WHERE state = 'confirmed'), 0),
		coalesce((SELECT max(size) FROM proof WHERE state = 'final'), 0)`).Scan(&sent, &confirmed, &final)
	if err != nil {
		return translate("read the sizes that calendars prove", err)
	}
	w.Final = max(w.Final, uint64(final))
	w.Confirmed = max(w.Confirmed, w.Final, uint64(confirmed))
	w.Broadcast = max(w.Broadcast, w.Confirmed, uint64(sent))
	return nil
}
