package postgres

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/calpe/calpe"
)

// ListDocuments lists an owner's documents, the newest first, up to limit (1 to
// 1000): those with an index from indices[0] to below indices[1], that were
// created from created[0] to before created[1] (a zero time is no bound), and
// that agency has certified (empty: any, or none). Erased documents aren't in
// the list. The next page is below the last one's index.
//
// The index on owner and index bounds the work for indices; agency and created
// are looked at row by row, so a filter that few of very many documents pass can
// take until the statement's time-out.
func (db *DB) ListDocuments(ctx context.Context, owner, agency string, indices [2]uint64, created [2]time.Time, limit int) ([]calpe.Document, error) {
	const where = ` FROM document WHERE owner = $1 AND index >= $2 AND index < $3
		AND ($4 = '' OR EXISTS (SELECT FROM certification c WHERE c.index = document.certification_index AND c.agency = $4))
		AND ($5::timestamptz IS NULL OR created_at >= $5) AND ($6::timestamptz IS NULL OR created_at < $6)
		AND EXISTS (SELECT FROM document_key k WHERE k.document_id = document.id)
		ORDER BY index DESC LIMIT $7`
	return db.documents(ctx, "list documents", limit, where, owner, clampIndex(indices[0]), clampIndex(indices[1]), agency,
		orNever(created[0]), orNever(created[1]), limit)
}

// NewestDocuments lists up to limit documents (1 to 1000) of all owners, the newest
// first. Erased documents aren't in the list.
func (db *DB) NewestDocuments(ctx context.Context, limit int) ([]calpe.Document, error) {
	const where = ` FROM document WHERE EXISTS (SELECT FROM document_key k WHERE k.document_id = document.id)
		ORDER BY index DESC LIMIT $1`
	return db.documents(ctx, "list the newest documents", limit, where, limit)
}

// orNever is SQL's NULL for the time that stands for none.
func orNever(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// DocumentKeys reads the wrapped keys of up to 1000 documents, in any order.
// Those of erased documents are missing.
func (db *DB) DocumentKeys(ctx context.Context, ids []calpe.DocumentID) ([]calpe.WrappedKey, error) {
	if len(ids) > maxPage {
		return nil, fmt.Errorf("read document keys: %d documents, more than %d", len(ids), maxPage)
	}
	raw := make([][16]byte, len(ids))
	for i, id := range ids {
		raw[i] = id
	}
	rows, err := db.on(ctx).Query(ctx, `SELECT document_id, key_id, wrapped FROM document_key WHERE document_id = ANY ($1::uuid[])`, raw)
	if err != nil {
		return nil, translate("read document keys", err)
	}
	keys, err := pgx.CollectRows(rows, scanKey)
	return keys, translate("read document keys", err)
}

// Certifiers says which agency certified, for the indices of up to 1000
// certifications. Indices that are none are missing.
func (db *DB) Certifiers(ctx context.Context, indices []uint64) (map[uint64]string, error) {
	if len(indices) > maxPage {
		return nil, fmt.Errorf("read certifiers: %d indices, more than %d", len(indices), maxPage)
	}
	clamped := make([]uint64, len(indices))
	for i, index := range indices {
		clamped[i] = clampIndex(index)
	}
	rows, err := db.on(ctx).Query(ctx, `SELECT index, agency FROM certification WHERE index = ANY ($1::bigint[])`, clamped)
	if err != nil {
		return nil, translate("read certifiers", err)
	}
	agencies := make(map[uint64]string, len(indices))
	var (
		index  uint64
		agency string
	)
	_, err = pgx.ForEachRow(rows, []any{&index, &agency}, func() error {
		agencies[index] = agency
		return nil
	})
	return agencies, translate("read certifiers", err)
}

// Before lists up to limit anchors (1 to 1000), the newest first, that stand in
// the chain before the transaction at that position of the block at that height.
func (s *Anchors) Before(ctx context.Context, height, position uint32, limit int) ([]calpe.Anchor, error) {
	if err := checkLimit(limit); err != nil {
		return nil, fmt.Errorf("list anchors: %w", err)
	}
	rows, err := s.db.on(ctx).Query(ctx, selectAnchor+`WHERE a.state IN ('mined', 'final') AND (s.height, s.position) < ($1, $2)
		ORDER BY s.height DESC, s.position DESC LIMIT $3`, int64(height), int64(position), limit)
	if err != nil {
		return nil, translate("list anchors", err)
	}
	anchors, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (calpe.Anchor, error) { return readAnchor(row) })
	return anchors, translate("list anchors", err)
}

// Chain lists up to limit anchors (1 to 1000) in the order of the chain of coins,
// which is that of the blocks, from the one with the number first on; none if there
// are fewer.
func (s *Anchors) Chain(ctx context.Context, first uint64, limit int) ([]calpe.Anchor, error) {
	if err := checkLimit(limit); err != nil {
		return nil, fmt.Errorf("list the chain of anchors: %w", err)
	}
	if first > math.MaxInt64 {
		return nil, nil
	}
	rows, err := s.db.on(ctx).Query(ctx, selectAnchor+`WHERE a.state IN ('mined', 'final')
		ORDER BY s.height, s.position OFFSET $1 LIMIT $2`, int64(first), limit)
	if err != nil {
		return nil, translate("list the chain of anchors", err)
	}
	anchors, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (calpe.Anchor, error) { return readAnchor(row) })
	return anchors, translate("list the chain of anchors", err)
}

// ByTxID is the anchor with that transaction id, or [calpe.ErrNotFound] if no
// block of the best chain holds one.
func (s *Anchors) ByTxID(ctx context.Context, txid calpe.BlockHash) (calpe.Anchor, error) {
	a, err := readAnchor(s.db.on(ctx).QueryRow(ctx, selectAnchor+`WHERE a.state IN ('mined', 'final') AND a.txid = $1`, txid[:]))
	return a, translate("look for an anchor with that transaction id", err)
}
