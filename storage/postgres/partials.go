package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/calpe/calpe"
)

// CreatePartial stores a document of which nothing has come yet, and its key.
// [calpe.ErrExists]: that owner has most of them open already.
func (db *DB) CreatePartial(ctx context.Context, p calpe.Partial, most int) error {
	return db.inTx(ctx, "create partial document", func(tx pgx.Tx) error {
		// Two at once may both see the last place: one more than most is no harm.
		tag, err := tx.Exec(ctx, `INSERT INTO partial (id, owner, size, object, multipart, received, sealed, state, created_at, expires_at)
			SELECT $1, $2, $3, $4, $5, 0, $6, $7, $8, $9
			WHERE (SELECT count(*) FROM partial WHERE owner = $2 AND document_id IS NULL) < $10`,
			[16]byte(p.ID), p.Owner, p.Size, p.Place.Object, p.Place.Upload, p.Sealed, p.State, p.Created, p.Expires, most)
		if err != nil {
			return err
		}
		if tag.RowsAffected() != 1 {
			return calpe.ErrExists
		}
		_, err = tx.Exec(ctx, `INSERT INTO partial_key (partial_id, key_id, wrapped) VALUES ($1, $2, $3)`, [16]byte(p.ID), p.KeyID, p.Wrapped)
		return err
	})
}

const partialSQL = `SELECT p.id, p.owner, p.size, p.object, p.multipart, p.received, coalesce(p.tail, ''), p.sealed, p.state, p.document_id,
	p.created_at, p.expires_at, coalesce(k.key_id, ''), k.wrapped FROM partial p LEFT JOIN partial_key k ON k.partial_id = p.id `

func scanPartial(row pgx.CollectableRow) (p calpe.Partial, err error) {
	var (
		id       [16]byte
		document *[16]byte
	)
	err = row.Scan(&id, &p.Owner, &p.Size, &p.Place.Object, &p.Place.Upload, &p.Received, &p.Tail, &p.Sealed, &p.State, &document,
		&p.Created, &p.Expires, &p.KeyID, &p.Wrapped)
	if document != nil {
		p.Document = *document
	}
	p.ID, p.Created, p.Expires = id, p.Created.UTC(), p.Expires.UTC()
	return p, err
}

// Partial reads the row of a document that comes in pieces, without its parts;
// [calpe.ErrNotFound].
func (db *DB) Partial(ctx context.Context, id calpe.DocumentID) (calpe.Partial, error) {
	return db.partial(ctx, db.on(ctx), id)
}

func (db *DB) partial(ctx context.Context, q querier, id calpe.DocumentID) (calpe.Partial, error) {
	rows, err := q.Query(ctx, partialSQL+`WHERE p.id = $1`, [16]byte(id))
	if err != nil {
		return calpe.Partial{}, translate("read partial document", err)
	}
	p, err := pgx.CollectExactlyOneRow(rows, scanPartial)
	return p, translate("read partial document", err)
}

// LeasePartial makes lease the only one who may change the row, for that long by
// the database's clock, and reads it with its parts. held: somebody else is.
// [calpe.ErrNotFound]: that owner has none with this id.
func (db *DB) LeasePartial(ctx context.Context, id calpe.DocumentID, owner string, lease calpe.Lease, term time.Duration) (p calpe.Partial, held bool, err error) {
	err = db.inTx(ctx, "lease partial document", func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `UPDATE partial SET lease = $3, leased_until = now() + $4
			WHERE id = $1 AND owner = $2 AND (leased_until IS NULL OR leased_until < now())`, [16]byte(id), owner, [16]byte(lease), term)
		if err != nil {
			return err
		}
		if p, err = db.partial(ctx, tx, id); err != nil {
			return err
		}
		if held = tag.RowsAffected() == 0; held {
			if p.Owner != owner {
				return pgx.ErrNoRows
			}
			return nil
		}
		p.Parts, err = partsOf(ctx, tx, id)
		return err
	})
	return p, held, err
}

func partsOf(ctx context.Context, q querier, id calpe.DocumentID) ([]calpe.Part, error) {
	rows, err := q.Query(ctx, `SELECT etag, sum FROM partial_part WHERE partial_id = $1 ORDER BY number`, [16]byte(id))
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, func(row pgx.CollectableRow) (part calpe.Part, err error) {
		var sum []byte
		if err := row.Scan(&part.ETag, &sum); err != nil {
			return part, err
		}
		part.Sum, err = hash32(sum)
		return part, err
	})
}

// RenewPartial lets a lease last for that long from now; [calpe.ErrNotFound]: it
// isn't lease's any more.
func (db *DB) RenewPartial(ctx context.Context, id calpe.DocumentID, lease calpe.Lease, term time.Duration) error {
	return db.changeOne(ctx, "renew lease of partial document", `UPDATE partial SET leased_until = now() + $3 WHERE id = $1 AND lease = $2`,
		[16]byte(id), [16]byte(lease), term)
}

// ReleasePartial ends a lease; one that is lost is fine.
func (db *DB) ReleasePartial(ctx context.Context, id calpe.DocumentID, lease calpe.Lease) error {
	_, err := db.on(ctx).Exec(ctx, `UPDATE partial SET lease = NULL, leased_until = NULL WHERE id = $1 AND lease = $2`, [16]byte(id), [16]byte(lease))
	return translate("release partial document", err)
}

// AdvancePartial records what has become durable. have is how many parts the row
// has. [calpe.ErrNotFound], and nothing was written: the lease is lost.
func (db *DB) AdvancePartial(ctx context.Context, id calpe.DocumentID, lease calpe.Lease, have int, p calpe.Progress) error {
	return db.inTx(ctx, "advance partial document", func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `UPDATE partial SET received = $3, tail = nullif($4, ''), state = $5 WHERE id = $1 AND lease = $2`,
			[16]byte(id), [16]byte(lease), p.Received, p.Tail, p.State)
		if err != nil {
			return err
		}
		if tag.RowsAffected() != 1 {
			return pgx.ErrNoRows
		}
		for i, part := range p.Parts {
			if _, err := tx.Exec(ctx, `INSERT INTO partial_part (partial_id, number, etag, sum) VALUES ($1, $2, $3, $4)`,
				[16]byte(id), have+i+1, part.ETag, part.Sum[:]); err != nil {
				return err
			}
		}
		return nil
	})
}

// FinishPartial records that the document is in the log, and forgets its key: the
// document has it.
func (db *DB) FinishPartial(ctx context.Context, id, document calpe.DocumentID) error {
	return db.inTx(ctx, "finish partial document", func(tx pgx.Tx) error {
		for _, table := range []string{"partial_key", "partial_part"} {
			if _, err := tx.Exec(ctx, `DELETE FROM `+table+` WHERE partial_id = $1`, [16]byte(id)); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, `UPDATE partial SET document_id = $2, received = size, tail = NULL, sealed = NULL, state = NULL WHERE id = $1`,
			[16]byte(id), [16]byte(document))
		return err
	})
}

// DeletePartial forgets it, and destroys its key: what it has in object storage
// can't be read by anybody any more. One that isn't there is fine.
func (db *DB) DeletePartial(ctx context.Context, id calpe.DocumentID) error {
	_, err := db.on(ctx).Exec(ctx, `DELETE FROM partial WHERE id = $1`, [16]byte(id))
	return translate("delete partial document", err)
}

// ExpiredPartials lists up to limit (1 to 1000) whose time was over at now, and
// that nobody is adding to, without their parts.
func (db *DB) ExpiredPartials(ctx context.Context, now time.Time, limit int) ([]calpe.Partial, error) {
	if err := checkLimit(limit); err != nil {
		return nil, fmt.Errorf("list expired partial documents: %w", err)
	}
	rows, err := db.on(ctx).Query(ctx, partialSQL+`WHERE p.expires_at <= $1 AND (p.leased_until IS NULL OR p.leased_until < now())
		ORDER BY p.expires_at LIMIT $2`, now, limit)
	if err != nil {
		return nil, translate("list expired partial documents", err)
	}
	list, err := pgx.CollectRows(rows, scanPartial)
	return list, translate("list expired partial documents", err)
}
