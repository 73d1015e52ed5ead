package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"

	"github.com/calpe/calpe"
)

// Deployment says whose log the database holds; calpe.ErrNotFound if the log
// was not created yet.
func (db *DB) Deployment(ctx context.Context) (calpe.Deployment, error) {
	var d calpe.Deployment
	err := db.on(ctx).QueryRow(ctx, `SELECT identity, network, created_at FROM deployment`).Scan(&d.Identity, &d.Network, &d.Created)
	d.Created = d.Created.UTC()
	return d, translate("read deployment", err)
}

// CreateDeployment writes the deployment's row and entry 0 in one transaction. g
// is a group of one submission of one commitment, the SHA-256 of the identity,
// without any row. Time-outs and errors are those of [DB.CommitGroup];
// calpe.ErrExists if the database holds a log already, whose ever it is.
func (db *DB) CreateDeployment(ctx context.Context, d calpe.Deployment, g calpe.Group) (calpe.GroupResult, error) {
	if len(g.Submissions) != 1 || len(g.Submissions[0].Commitments) != 1 || g.Submissions[0].Document != nil ||
		g.Submissions[0].Statement != nil || g.Submissions[0].Idempotency != nil {
		return calpe.GroupResult{}, errors.New("create deployment: entry 0 is one commitment and nothing else")
	}
	if d.Created.IsZero() {
		return calpe.GroupResult{}, errors.New("create deployment: no time of creation")
	}
	c := newGroupCommit(g)
	c.empty = true
	c.also = func(b *pgx.Batch) {
		b.Queue(`INSERT INTO deployment (identity, network, created_at) VALUES ($1, $2, $3)`, d.Identity, d.Network, d.Created)
	}
	result, err := db.commitGroup(ctx, c)
	if err != nil {
		return result, fmt.Errorf("create deployment: %w", err)
	}
	return result, nil
}
