package postgres

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/calpe/calpe"
)

func queueStatement(b *pgx.Batch, first uint64, s *calpe.Statement) {
	b.Queue(`INSERT INTO statement (index, type, body, salt) VALUES ($1, $2, $3, $4)`, first+s.Index, s.Type, s.Body, s.Salt[:])
}

func queueAgency(b *pgx.Batch, statement uint64, a *calpe.Agency) {
	b.Queue(`INSERT INTO agency (id, name, key, statement_index, added_at) VALUES ($1, $2, $3, $4, $5)`,
		a.ID, a.Name, a.Key, statement, a.Added)
}

func scanStatement(row pgx.CollectableRow) (s calpe.Statement, err error) {
	var salt []byte
	if err := row.Scan(&s.Index, &s.Type, &s.Body, &salt); err != nil {
		return calpe.Statement{}, err
	}
	if len(salt) != len(s.Salt) {
		return calpe.Statement{}, fmt.Errorf("salt of %d bytes, want %d", len(salt), len(s.Salt))
	}
	copy(s.Salt[:], salt)
	return s, nil
}

// Statement reads the public statement that is the entry with that index;
// calpe.ErrNotFound if the entry is none.
func (db *DB) Statement(ctx context.Context, index uint64) (calpe.Statement, error) {
	rows, err := db.on(ctx).Query(ctx, `SELECT index, type, body, salt FROM statement WHERE index = $1`, clampIndex(index))
	if err != nil {
		return calpe.Statement{}, translate("read statement", err)
	}
	s, err := pgx.CollectExactlyOneRow(rows, scanStatement)
	return s, translate("read statement", err)
}

// Statements lists the public statements of one type, such as
// "calpe/recovery/v1", by index. There are few: an operator makes them.
func (db *DB) Statements(ctx context.Context, typ string) ([]calpe.Statement, error) {
	rows, err := db.on(ctx).Query(ctx, `SELECT index, type, body, salt FROM statement WHERE type = $1 ORDER BY index`, typ)
	if err != nil {
		return nil, translate("list statements", err)
	}
	list, err := pgx.CollectRows(rows, scanStatement)
	return list, translate("list statements", err)
}

func scanAgency(row pgx.CollectableRow) (a calpe.Agency, err error) {
	err = row.Scan(&a.ID, &a.Name, &a.Key, &a.Statement, &a.Added)
	a.Added = a.Added.UTC()
	return a, err
}

// Agency reads a registered agency; calpe.ErrNotFound if there is none with
// that id. Agencies are added by [DB.CommitGroup], with their statement.
func (db *DB) Agency(ctx context.Context, id string) (calpe.Agency, error) {
	rows, err := db.on(ctx).Query(ctx, `SELECT id, name, key, statement_index, added_at FROM agency WHERE id = $1`, id)
	if err != nil {
		return calpe.Agency{}, translate("read agency", err)
	}
	a, err := pgx.CollectExactlyOneRow(rows, scanAgency)
	return a, translate("read agency", err)
}

// Agencies lists all agencies by id.
func (db *DB) Agencies(ctx context.Context) ([]calpe.Agency, error) {
	rows, err := db.on(ctx).Query(ctx, `SELECT id, name, key, statement_index, added_at FROM agency ORDER BY id`)
	if err != nil {
		return nil, translate("list agencies", err)
	}
	list, err := pgx.CollectRows(rows, scanAgency)
	return list, translate("list agencies", err)
}
