package postgres

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/calpe/calpe"
)

// CreateToken stores a token's row; calpe.ErrExists if its id or hash is there
// already. Revoked is ignored: a token begins valid.
func (db *DB) CreateToken(ctx context.Context, t calpe.Token) error {
	scopes := t.Scopes
	if scopes == nil {
		scopes = []string{} // not null: no scope at all
	}
	_, err := db.on(ctx).Exec(ctx, `INSERT INTO token (id, owner, label, hash, scopes, created_at) VALUES ($1, $2, $3, $4, $5, $6)`,
		[16]byte(t.ID), t.Owner, t.Label, t.Hash[:], scopes, t.Created)
	return translate("create token", err)
}

const tokenColumns = `id, owner, label, hash, scopes, created_at, revoked_at` //nolint:gosec // names of columns, not a secret

func scanToken(row pgx.CollectableRow) (t calpe.Token, err error) {
	var (
		id      [16]byte
		hash    []byte
		revoked *time.Time
	)
	if err := row.Scan(&id, &t.Owner, &t.Label, &hash, &t.Scopes, &t.Created, &revoked); err != nil {
		return calpe.Token{}, err
	}
	t.ID, t.Created, t.Revoked = id, t.Created.UTC(), timeOf(revoked)
	t.Hash, err = hash32(hash)
	return t, err
}

// TokenByHash reads the token with that SHA-256; calpe.ErrNotFound if there is
// none. A revoked one is found too: look at Revoked.
func (db *DB) TokenByHash(ctx context.Context, hash calpe.Hash) (calpe.Token, error) {
	rows, err := db.on(ctx).Query(ctx, `SELECT `+tokenColumns+` FROM token WHERE hash = $1`, hash[:])
	if err != nil {
		return calpe.Token{}, translate("read token", err)
	}
	t, err := pgx.CollectExactlyOneRow(rows, scanToken)
	return t, translate("read token", err)
}

// RevokeToken ends a token's validity; the time of the first call stays.
// calpe.ErrNotFound if there is no such token.
func (db *DB) RevokeToken(ctx context.Context, id calpe.TokenID, at time.Time) error {
	const sql = `UPDATE token SET revoked_at = coalesce(revoked_at, $2) WHERE id = $1`
	return db.changeOne(ctx, "revoke token", sql, [16]byte(id), at)
}

// Tokens lists all tokens, the oldest first. There are few: an operator makes
// them.
func (db *DB) Tokens(ctx context.Context) ([]calpe.Token, error) {
	rows, err := db.on(ctx).Query(ctx, `SELECT `+tokenColumns+` FROM token ORDER BY created_at, id`)
	if err != nil {
		return nil, translate("list tokens", err)
	}
	list, err := pgx.CollectRows(rows, scanToken)
	return list, translate("list tokens", err)
}
