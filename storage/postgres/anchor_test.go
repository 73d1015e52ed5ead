package postgres

import (
	"bytes"
	"errors"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/migrations"
	"github.com/calpe/calpe/storage/postgres/postgrestest"
)

// The engine's use of this store, its refusals, and its equality with a model
// are tested in package anchor. Here is what only Postgres does.

// anchorBlock is block number n of a made-up chain.
func anchorBlock(n uint32) ledger.Block {
	b := ledger.Block{Height: n, Hash: calpe.BlockHash{byte(n), 0xbb}}
	prev := calpe.BlockHash{byte(n - 1), 0xbb}
	copy(b.Header[4:], prev[:])
	return b
}

var firstCoin = calpe.Outpoint{TxID: calpe.BlockHash{1}, Vout: 2}

func anchorAttempt(n int) ledger.Attempt {
	return ledger.Attempt{
		TxID: calpe.BlockHash{byte(n), 0xcc}, Coin: firstCoin, N: n, Payload: calpe.Payload{Size: 7, Root: calpe.Hash{7}}, State: ledger.Created,
		Inputs:   []ledger.Input{{Outpoint: firstCoin, Output: ledger.Output{Value: 1000, Script: []byte{1}}}},
		Unsigned: bytes.Repeat([]byte{byte(n)}, 100), Fee: 161, VSize: 161, Change: 839, Created: testTime,
	}
}

// openAnchors has a first coin in block 2, and one signed attempt. Epoch 1 leads.
func openAnchors(t *testing.T) (*DB, string) {
	t.Helper()
	url := postgrestest.URL(t)
	db := openURL(t, url)
	postgrestest.Exec(t, url, `UPDATE leader SET epoch = 1 WHERE role = 'anchor'`)
	coin := ledger.Coin{Outpoint: firstCoin, Output: ledger.Output{Value: 1000, Script: []byte{1}}, Kind: ledger.ChainCoin, State: ledger.CoinLive, Height: 2}
	s := db.Anchors()
	if err := s.InsertFirstCoin(t.Context(), coin, []ledger.Block{anchorBlock(1), anchorBlock(2)}); err != nil {
		t.Fatal(err)
	}
	a := anchorAttempt(1)
	if err := s.CreateAttempt(t.Context(), 1, a); err != nil {
		t.Fatal(err)
	}
	if err := s.StoreSigned(t.Context(), 1, a.TxID, bytes.Repeat([]byte{9}, 200)); err != nil {
		t.Fatal(err)
	}
	return db, url
}

// What the code never does, the schema refuses too, by the constraint that is
// meant for it.
func TestAnchorConstraints(t *testing.T) {
	db, _ := openAnchors(t)
	const hash = `decode(repeat('ab', 32), 'hex')`
	const sighting = `INSERT INTO sighting SELECT txid, ` + hash + `, 3, 1, decode(repeat('00', 80), 'hex'), ` + hash + `, decode(repeat('00', 60), 'hex'), `
	for name, row := range map[string]struct{ sql, constraint string }{
		"a second live coin": {
			`INSERT INTO coin (txid, vout, value, script, kind, state, made_by, height) SELECT txid, 1, 5, '\x01', 'chain', 'live', txid, 3 FROM attempt`, "coin_one_live"},
		"a second first coin": {
			`INSERT INTO coin (txid, vout, value, script, kind, state) VALUES (` + hash + `, 1, 5, '\x01', 'chain', 'void')`, "coin_one_first"},
		"a coin of another attempt": {
			`INSERT INTO coin (txid, vout, value, script, kind, state, made_by) SELECT ` + hash + `, 1, 5, '\x01', 'chain', 'void', txid FROM attempt`, "coin_made_by_its_transaction"},
		"a deposit that we made": {
			`INSERT INTO coin (txid, vout, value, script, kind, state, made_by) SELECT txid, 1, 5, '\x01', 'deposit', 'void', txid FROM attempt`, "coin_deposit_is_not_ours"},
		"void at a height":          {`UPDATE coin SET state = 'void'`, "coin_void_is_in_no_block"},
		"spent by nobody":           {`UPDATE coin SET state = 'spent'`, "coin_spent_has_spender"},
		"live and spent":            {`UPDATE coin SET spent_by = ` + hash + `, spent_height = 9`, "coin_spent_has_spender"},
		"spent before it was there": {`UPDATE coin SET state = 'spent', spent_by = ` + hash + `, spent_height = 1`, "coin_check"},
		"no value":                  {`UPDATE coin SET value = 0`, "coin_value_check"},
		"sent without being taken":  {`UPDATE attempt SET state = 'sent'`, "attempt_sent_was_taken"},
		"signed without signature":  {`UPDATE attempt SET raw_tx = NULL`, "attempt_signed_before_sent"},
		"half an answer":            {`UPDATE attempt SET answer = 'accepted'`, "attempt_answer_is_whole"},
		"ours without a fee":        {`UPDATE attempt SET fee = NULL`, "attempt_ours_has_a_fee"},
		"an unknown state":          {`UPDATE attempt SET state = 'lost'`, "attempt_state_check"},
		"a forgotten attempt":       {`DELETE FROM attempt`, ""},
		"all attempts forgotten":    {`TRUNCATE attempt CASCADE`, ""},
		"another coin's number":     {`UPDATE attempt SET coin_vout = 3`, "attempt_coin_txid_coin_vout_fkey"},
		"two spenders in blocks": {
			`WITH one AS (UPDATE attempt SET state = 'mined', taken_at = now() RETURNING *)
			 INSERT INTO attempt (txid, coin_txid, coin_vout, n, state, size, root, unsigned_tx, raw_tx, fee, vsize, change, epoch, created_at, taken_at, tip)
			 SELECT ` + hash + `, coin_txid, coin_vout, 2, 'mined', size, root, unsigned_tx, raw_tx, fee, vsize, change, epoch, created_at, now(), tip FROM one`, "attempt_one_mined"},
		"branches of two depths": {sighting + `decode(repeat('ab', 64), 'hex'), now(), NULL FROM attempt`, "sighting_branches_equally_deep"},
		"an input twice":         {`INSERT INTO attempt_input SELECT txid, 1, prev_txid, prev_vout, value, script FROM attempt_input`, "attempt_input_txid_prev_txid_prev_vout_key"},
		"a block twice":          {`INSERT INTO tip_journal SELECT 3, hash, header, now() FROM tip_journal WHERE height = 2`, "tip_journal_hash_key"},
	} {
		_, err := db.pool.Exec(t.Context(), row.sql)
		refusal, ok := errors.AsType[*pgconn.PgError](err)
		if !ok || refusal.ConstraintName != row.constraint || row.constraint == "" && refusal.Code != "23001" { // restrict_violation, by the trigger
			t.Errorf("%s: %v, want a refusal by %q", name, err, row.constraint)
		}
	}
	// Two sightings of one attempt are two blocks of which one is orphaned.
	for i, sql := range []string{sighting + hash + `, now(), now() FROM attempt`, `UPDATE sighting SET orphaned_at = NULL`} {
		if _, err := db.pool.Exec(t.Context(), sql); err != nil {
			t.Fatalf("sighting %d: %v", i, err)
		}
	}
	_, err := db.pool.Exec(t.Context(), `INSERT INTO sighting SELECT txid, decode(repeat('cd', 32), 'hex'), 3, 1, header, branch, coinbase, coinbase_branch, now(), NULL FROM sighting`)
	if refusal, ok := errors.AsType[*pgconn.PgError](err); !ok || refusal.ConstraintName != "sighting_one_at_a_time" {
		t.Errorf("two sightings at a time: %v", err)
	}
}

// After a take-over has committed, no write of the former leader lands, however
// many are on their way.
func TestAnchorTakeOverRace(t *testing.T) {
	db, url := openAnchors(t)
	s := db.Anchors()
	txid := anchorAttempt(1).TxID
	var writers sync.WaitGroup
	started := make(chan struct{}, 64)
	for range 8 {
		writers.Go(func() {
			for {
				err := s.RecordAnswer(t.Context(), 1, txid, ledger.Answer{Kind: ledger.Accepted}, testTime)
				if errors.Is(err, calpe.ErrLostLeadership) {
					return
				}
				if err != nil {
					t.Errorf("record answer: %v", err)
					return
				}
				select {
				case started <- struct{}{}:
				default:
				}
			}
		})
	}
	for range 20 {
		<-started
	}
	postgrestest.Exec(t, url, `UPDATE leader SET epoch = 2 WHERE role = 'anchor'`)
	sends := func() (n int) {
		if err := db.pool.QueryRow(t.Context(), `SELECT sends FROM attempt`).Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	atTakeOver := sends()
	writers.Wait()
	if n := sends(); n != atTakeOver || n < 20 {
		t.Errorf("%d writes landed after the take-over, %d before", n-atTakeOver, atTakeOver)
	}
}

// The migration goes back as long as nothing would be forgotten (I5).
func TestAnchorMigrationDown(t *testing.T) {
	_, url := openAnchors(t)
	if err := migrations.DownTo(t.Context(), url, 1, nil); err == nil {
		t.Error("the tables were dropped with an attempt in them")
	}
	if version, err := migrations.Version(t.Context(), url); err != nil || version < 2 {
		t.Errorf("version is %d, %v", version, err)
	}
	empty := postgrestest.URL(t)
	if err := migrations.DownTo(t.Context(), empty, 1, nil); err != nil {
		t.Errorf("down: %v", err)
	}
	if err := migrations.Up(t.Context(), empty, nil); err != nil {
		t.Errorf("up again: %v", err)
	}
}

// A first coin whose journal isn't a chain that ends with its block is refused.
func TestInsertFirstCoinRefuses(t *testing.T) {
	db := open(t)
	coin := ledger.Coin{Outpoint: firstCoin, Output: ledger.Output{Value: 1000, Script: []byte{1}}, Kind: ledger.ChainCoin, State: ledger.CoinLive, Height: 2}
	for name, blocks := range map[string][]ledger.Block{
		"no block":      {},
		"another block": {anchorBlock(3)},
		"a gap":         {anchorBlock(0), anchorBlock(2)},
		"not linked":    {{Height: 1, Hash: calpe.BlockHash{5}}, anchorBlock(2)},
	} {
		if err := db.Anchors().InsertFirstCoin(t.Context(), coin, blocks); err == nil {
			t.Errorf("%s: inserted", name)
		}
	}
	snap, err := db.Anchors().Snapshot(t.Context())
	if err != nil || snap.Tip != (ledger.Block{}) {
		t.Errorf("something stayed: %+v, %v", snap, err)
	}
	var wm calpe.Watermarks
	if err := db.Anchors().Watermarks(t.Context(), &wm); err != nil || wm != (calpe.Watermarks{}) {
		t.Errorf("watermarks of nothing: %+v, %v", wm, err)
	}
	if _, err := db.Anchors().LiveCoin(t.Context()); !errors.Is(err, calpe.ErrNotFound) {
		t.Errorf("live coin of nothing: %v", err)
	}
}

// Several callers may begin the chain of coins: one does.
func TestInsertFirstCoinRace(t *testing.T) {
	db := open(t)
	var callers sync.WaitGroup
	results := make(chan error, 6)
	for n := range 6 {
		callers.Go(func() {
			o := firstCoin
			o.Vout = uint32(n % 2)
			coin := ledger.Coin{Outpoint: o, Output: ledger.Output{Value: 1000, Script: []byte{1}}, Kind: ledger.ChainCoin, State: ledger.CoinLive, Height: 2}
			results <- db.Anchors().InsertFirstCoin(t.Context(), coin, []ledger.Block{anchorBlock(1), anchorBlock(2)})
		})
	}
	callers.Wait()
	close(results)
	fine := 0
	for err := range results {
		switch {
		case err == nil:
			fine++
		case !errors.Is(err, ledger.ErrRootExists):
			t.Errorf("insert: %v", err)
		}
	}
	if fine != 3 {
		t.Errorf("%d of 6 callers were told that their coin is the first, want the 3 that name it", fine)
	}
}
