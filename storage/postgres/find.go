package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/calpe/calpe"
)

// Whoever destroyed a document's key has erased it (I10): then it isn't found
// any more either, though its row is there.
const foundSQL = `SELECT d.index, d.created_at, coalesce(c.agency, '')
	FROM document d JOIN document_key k ON k.document_id = d.id LEFT JOIN certification c ON c.index = d.certification_index `

func scanFound(row pgx.CollectableRow) (f calpe.Found, err error) {
	err = row.Scan(&f.Index, &f.Received, &f.Agency)
	f.Received = f.Received.UTC()
	return f, err
}

// FindByDigestTag lists the documents whose digest has that tag, whoever's they
// are, the newest first, up to limit (1 to 1000). None is no error. Documents
// that were erased are none.
func (db *DB) FindByDigestTag(ctx context.Context, tag []byte, limit int) ([]calpe.Found, error) {
	if err := checkLimit(limit); err != nil {
		return nil, fmt.Errorf("find documents by digest: %w", err)
	}
	return db.find(ctx, "find documents by digest", `WHERE d.digest_tag = $1 ORDER BY d.index DESC LIMIT $2`, tag, limit)
}

// FindByCode is the document whose code has that hash. calpe.ErrNotFound if there
// is none, or it was erased.
func (db *DB) FindByCode(ctx context.Context, hash calpe.Hash) (calpe.Found, error) {
	found, err := db.find(ctx, "find document by code", `WHERE d.code_hash = $1`, hash[:])
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("find document by code: %w", calpe.ErrNotFound)
	}
	if err != nil {
		return calpe.Found{}, err
	}
	return found[0], nil // the column is unique
}

func (db *DB) find(ctx context.Context, what, where string, args ...any) ([]calpe.Found, error) {
	rows, err := db.on(ctx).Query(ctx, foundSQL+where, args...)
	if err != nil {
		return nil, translate(what, err)
	}
	found, err := pgx.CollectRows(rows, scanFound)
	return found, translate(what, err)
}
