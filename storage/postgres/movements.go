package postgres

import (
	"context"
	"encoding/binary"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
)

// Movements lists all that blocks of the best chain did to the funds, oldest
// first. The sum of all amounts is what the live coin and the live deposits have.
func (s *Anchors) Movements(ctx context.Context) ([]ledger.Movement, error) {
	// What comes in stands before what a block's anchors take out of it. The
	// amount of an anchor is what it changes: minus its fee, also when the fee
	// isn't known because an input is no coin of ours.
	rows, err := s.db.on(ctx).Query(ctx, `
		SELECT 'deposit', c.txid, c.height, j.header, c.value, 0, 0, 0, false, 0 AS position
		FROM coin c JOIN tip_journal j ON j.height = c.height
		WHERE c.made_by IS NULL
		UNION ALL
		SELECT 'anchor', a.txid, s.height, s.header, a.change - (SELECT sum(value)::bigint FROM coin WHERE spent_by = a.txid),
		       coalesce(a.fee, 0), a.vsize, a.size, a.state = 'final', s.position
		FROM attempt a JOIN sighting s ON s.txid = a.txid AND s.orphaned_at IS NULL
		WHERE a.state IN ('mined', 'final')
		UNION ALL
		SELECT 'foreign', c.spent_by, c.spent_height, j.header, -c.value, 0, 0, 0, false, 4294967295
		FROM coin c JOIN tip_journal j ON j.height = c.spent_height
		WHERE c.state = 'foreign'
		ORDER BY 3, 10, 2`)
	if err != nil {
		return nil, translate("list movements", err)
	}
	all, err := pgx.CollectRows(rows, readMovement)
	return all, translate("list movements", err)
}

func readMovement(row pgx.CollectableRow) (m ledger.Movement, err error) {
	var (
		kind                   string
		txid, header           []byte
		height, size, position int64
	)
	if err := row.Scan(&kind, &txid, &height, &header, &m.Amount, &m.Fee, &m.VSize, &size, &m.Final, &position); err != nil {
		return ledger.Movement{}, err
	}
	m.Kind, m.TxID = ledger.MovementKind(kind), calpe.BlockHash(txid)
	m.Height, m.Size = uint32(height), uint64(size)
	m.Time = time.Unix(int64(binary.LittleEndian.Uint32(header[68:72])), 0).UTC()
	return m, nil
}
