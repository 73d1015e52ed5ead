package integration

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"
	"github.com/minio/minio-go/v7"

	"github.com/calpe/calpe/batch"
	"github.com/calpe/calpe/fsck"
	"github.com/calpe/calpe/internal/porttest"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/storage/keyring"
)

// checked is a deployment whose servers have stopped, to be falsified.
type checked struct {
	*deployment
	conn   *pgx.Conn
	tables []string
	size   uint64 // of the newest checkpoint
	config fsck.Config
}

// inProcess is what "calped fsck --repair" runs, without a process for each time.
func (c *checked) inProcess() fsck.Config {
	c.t.Helper()
	ring, err := keyring.Load(filepath.Join(c.env["CALPE_KEYS"], "keyring.json"))
	if err != nil {
		c.t.Fatal(err)
	}
	db, objects := c.rows(), c.store()
	return fsck.Config{
		Identity: c.identity, Instance: db.Instance, Entries: db, Checkpoints: db, Documents: db, Records: db,
		Anchors: db.Anchors(), Blocks: db.Anchors(), Proofs: db.Proofs(), Objects: objects, Bucket: objects, Node: c.node.client, Keys: ring,
		Grace: 10 * time.Millisecond, Repair: true, Now: time.Now, Logger: slog.New(slog.DiscardHandler),
	}
}

// fsck runs the check, and wants that exit code.
func (d *deployment) fsck(code int, args ...string) fsck.Report {
	d.t.Helper()
	out, errs, got := d.calped(nil, append([]string{"fsck", "--json"}, args...)...)
	var r fsck.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil || got != code {
		d.t.Fatalf("fsck %v: exit code %d, want %d: %v\n%s%s", args, got, code, err, errs, out)
	}
	return r
}

// named are the findings, as invariant and thing.
func named(r fsck.Report) (list []string) {
	for _, f := range r.Findings {
		list = append(list, f.Invariant+" "+f.Thing)
	}
	slices.Sort(list)
	return list
}

// quick is for what no server will put right.
var quick = []string{"--grace", "50ms"}

// settled makes a log of every kind of thing, all of it final, and stops the server.
func settled(t *testing.T) *checked {
	t.Helper()
	d := deploy(t)
	s := d.serve(porttest.Address(t), nil)
	s.awaitReady()
	mining := d.node.keepMining(400 * time.Millisecond)
	s.stampMany(1, 600)
	stamp := func(seq uint64) request { return newRequestOf(stampKind, seq, 0) }
	l := d.load([]client{
		{50 * time.Millisecond, stamp},
		{200 * time.Millisecond, func(seq uint64) request { return newRequestOf(documentKind, seq, 200+int(seq)) }},
		{400 * time.Millisecond, func(seq uint64) request { return newRequestOf(certifiedKind, seq, 100) }},
	}, s.url)
	for range 2 { // some anchors
		l.awaitMore(10)
		s.awaitFinal(l.highest())
	}
	l.stop()
	s.awaitFinal(l.highest())
	mining()
	c := &checked{deployment: d, conn: d.connect()}
	c.awaitQuiet(s)
	s.exitsCleanly()
	if err := c.conn.QueryRow(t.Context(), "SELECT max(size) FROM checkpoint").Scan(&c.size); err != nil {
		t.Fatal(err)
	}
	c.keepRows()
	c.config = c.inProcess()
	return c
}

// awaitQuiet waits until the server has nothing left to do.
func (c *checked) awaitQuiet(s *server) {
	c.t.Helper()
	s.sealed()
	eventually(c.t, "all is followed, locked and published", func(ctx context.Context) error {
		height, _, err := c.node.client.BestBlock(ctx)
		if err != nil {
			return err
		}
		var followed int64
		var waiting int
		if err := c.conn.QueryRow(ctx, "SELECT (SELECT max(height) FROM tip_journal), (SELECT count(*) FROM document WHERE retained_at IS NULL)").Scan(&followed, &waiting); err != nil {
			return err
		}
		if followed != int64(height) || waiting > 0 {
			return fmt.Errorf("followed %d of %d blocks, %d documents wait for their lock", followed, height, waiting)
		}
		want, err := batch.AnchorPage(ctx, c.rows().Anchors(), c.identity, 0)
		if err != nil {
			return err
		}
		got, err := c.store().ReadLogObject(ctx, receipt.AnchorsPath(0), receipt.MaxAnchorsPage)
		if err == nil && !bytes.Equal(want, got) {
			err = fmt.Errorf("anchors aren't published")
		}
		return err
	})
}

// keepRows copies all tables, to put their rows back after each falsification.
func (c *checked) keepRows() {
	c.t.Helper()
	rows, err := c.conn.Query(c.t.Context(), "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename NOT LIKE 'goose%'")
	if err != nil {
		c.t.Fatal(err)
	}
	if c.tables, err = pgx.CollectRows(rows, pgx.RowTo[string]); err != nil {
		c.t.Fatal(err)
	}
	sql := []string{"DROP SCHEMA IF EXISTS kept CASCADE", "CREATE SCHEMA kept"}
	for _, table := range c.tables {
		sql = append(sql, "CREATE TABLE kept."+table+" AS TABLE public."+table)
	}
	c.sql(sql...)
}

// putRowsBack undoes what a falsification did to the rows.
func (c *checked) putRowsBack() {
	c.t.Helper()
	var sql []string
	for _, table := range c.tables {
		sql = append(sql, "DELETE FROM "+table, "INSERT INTO "+table+" SELECT * FROM kept."+table)
	}
	c.sql(sql...)
}

// sql changes rows past the triggers that refuse it.
func (c *checked) sql(statements ...string) {
	c.t.Helper()
	err := pgx.BeginFunc(c.t.Context(), c.conn, func(tx pgx.Tx) error {
		for _, s := range append([]string{"SET LOCAL session_replication_role = replica"}, statements...) {
			if _, err := tx.Exec(c.t.Context(), s); err != nil {
				return fmt.Errorf("%s: %w", s, err)
			}
		}
		return nil
	})
	if err != nil {
		c.t.Fatal(err)
	}
}

// one reads a value as text.
func (c *checked) one(query string) (text string) {
	c.t.Helper()
	if err := c.conn.QueryRow(c.t.Context(), "SELECT ("+query+")::text").Scan(&text); err != nil {
		c.t.Fatalf("%s: %v", query, err)
	}
	return text
}

func (c *checked) readObject(bucket, name string) []byte {
	c.t.Helper()
	o, err := c.objectStorage().GetObject(c.t.Context(), bucket, name, minio.GetObjectOptions{})
	if err != nil {
		c.t.Fatal(err)
	}
	defer o.Close()
	data, err := io.ReadAll(o)
	if err != nil {
		c.t.Fatalf("%s: %v", name, err)
	}
	return data
}

// write puts an object past the product's rules; nil removes it.
func (c *checked) write(bucket, name string, data []byte) (version string) {
	c.t.Helper()
	if data == nil {
		if err := c.objectStorage().RemoveObject(c.t.Context(), bucket, name, minio.RemoveObjectOptions{}); err != nil {
			c.t.Fatal(err)
		}
		return ""
	}
	hash := sha256.Sum256(data)
	sum := base64.StdEncoding.EncodeToString(hash[:])
	info, err := c.objectStorage().PutObject(c.t.Context(), bucket, name, bytes.NewReader(data), int64(len(data)), minio.PutObjectOptions{
		UserMetadata: map[string]string{"X-Amz-Checksum-Sha256": sum},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return info.VersionID
}

func (c *checked) logBucket() string       { return c.env["CALPE_S3_LOG_BUCKET"] }
func (c *checked) documentsBucket() string { return c.env["CALPE_S3_DOCUMENTS_BUCKET"] }

// falsified is one thing that is changed, and what fsck must call it.
type falsified struct {
	name  string
	sql   []string
	path  string                   // of the log's bucket
	edit  func(data []byte) []byte // of that object; nil: it is removed
	want  []string
	mends bool // --repair puts it right
}

func flip(at int) func([]byte) []byte {
	return func(b []byte) []byte {
		b = bytes.Clone(b)
		b[(at+len(b))%len(b)] ^= 1
		return b
	}
}

func cut(b []byte) []byte { return b[:len(b)-42] }

// TestFsckNamesEachFalsification changes one thing at a time in one of the stores
// of a deployment. The check names just that, and the invariant that it breaks.
func TestFsckNamesEachFalsification(t *testing.T) {
	c := settled(t)
	clean := c.fsck(0, quick...)
	if clean.Status != fsck.Clean || len(clean.Findings)+len(clean.Notes)+len(clean.Unchecked) > 0 || clean.Counts["entries"] < c.size {
		t.Fatalf("nothing was changed, and fsck says %+v", clean)
	}
	for _, f := range c.falsifications() {
		t.Run(f.name, func(t *testing.T) { c.falsify(t, f) })
	}
	c.t, c.node.t = t, t
	c.fsck(0, append(quick, "--deep")...)
	t.Run("fence", c.falsifyFence)
	t.Run("killed and resumed", c.killFsck)
	t.Run("since", c.fsckSince)
	t.Run("older database", c.olderDatabase)
	c.t, c.node.t = t, t
	c.conn = c.connect() // that of the subtest is closed
	t.Run("documents' objects", c.falsifyObjects)
}

func (c *checked) falsify(t *testing.T, f falsified) {
	c.t, c.node.t = t, t
	c.sql(f.sql...)
	var right []byte
	if f.path != "" {
		if f.edit == nil || !strings.Contains(f.path, "stranger") {
			right = c.readObject(c.logBucket(), f.path)
		}
		var wrong []byte
		if f.edit != nil {
			wrong = f.edit(right)
		}
		c.write(c.logBucket(), f.path, wrong)
	}
	slices.Sort(f.want)
	r, err := fsck.Run(t.Context(), c.config)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(f.want, named(r)); diff != "" {
		t.Errorf("want, got:\n%s", diff)
	}
	if want := map[bool]fsck.Status{true: fsck.Clean, false: fsck.Broken}[f.mends]; r.Status != want {
		t.Errorf("%s, want %s; unchecked %q", r.Status, want, r.Unchecked)
	}
	for _, x := range r.Findings {
		if x.Repaired != f.mends {
			t.Errorf("--repair: %+v", x)
		}
	}
	if f.mends && !bytes.Equal(c.readObject(c.logBucket(), f.path), right) {
		t.Errorf("%s was mended to other bytes", f.path)
	}
	if len(f.sql) > 0 {
		c.putRowsBack()
	}
	if f.path != "" && !f.mends {
		c.write(c.logBucket(), f.path, right)
	}
}

// falsifications are those that can be undone.
func (c *checked) falsifications() []falsified {
	// The entry of a document, and a later one of nothing but itself.
	single := []string{c.one("SELECT min(index) FROM document d JOIN entry_group g ON g.first = d.index AND g.count = 1")}
	single = append(single, c.one("SELECT min(first) FROM entry_group g WHERE count = 1 AND first > "+single[0]+" + 1 AND NOT EXISTS (SELECT FROM document d WHERE d.index = g.first)"))
	group := "WHERE first = " + single[0]
	old := c.one("SELECT size FROM checkpoint WHERE size > 600 ORDER BY size LIMIT 1")
	newest := fmt.Sprint(c.size)
	document := "WHERE id = (SELECT id FROM document WHERE certification_index IS NULL ORDER BY index LIMIT 1)"
	key := strings.Replace(document, "WHERE id", "WHERE document_id", 1)
	doc := c.one("SELECT 'document ' || id || ' (entry ' || index || ')' FROM document " + document)
	object := doc + c.one("SELECT ', object ' || object FROM document "+document)
	two := strings.Split(c.one("SELECT string_agg(id::text, ' ' ORDER BY index) FROM (SELECT id, index FROM document ORDER BY index LIMIT 2) d"), " ")
	docs := []string{
		"I10 document " + c.one("SELECT id || ' (entry ' || index || ')' FROM document WHERE id = '"+two[0]+"'"),
		"I10 document " + c.one("SELECT id || ' (entry ' || index || ')' FROM document WHERE id = '"+two[1]+"'"),
	}
	certified := "WHERE id = (SELECT id FROM document WHERE certification_index IS NOT NULL ORDER BY index LIMIT 1)"
	certifiedDoc := c.one("SELECT 'document ' || id || ' (entry ' || index || ')' FROM document " + certified)
	certification := "WHERE index = (SELECT certification_index FROM document " + certified + ")"
	statement := c.one("SELECT min(index) FROM statement")
	attempt := "WHERE txid = (SELECT txid FROM attempt ORDER BY size LIMIT 1)"
	txid := "attempt " + c.one("SELECT string_agg(substr(encode(txid, 'hex'), 65 - 2 * i, 2), '' ORDER BY i) FROM attempt, generate_series(1, 32) i "+attempt)
	coin := "WHERE (txid, vout) = (SELECT coin_txid, coin_vout FROM attempt " + attempt + ")"
	coinName := "coin " + c.identity.FirstOutpoint.String()
	live := c.one("SELECT string_agg(substr(encode(txid, 'hex'), 65 - 2 * i, 2), '' ORDER BY i) FROM coin, generate_series(1, 32) i WHERE state = 'live' AND kind = 'chain'")
	quiet := c.one("SELECT j.height FROM tip_journal j WHERE j.height > (SELECT min(height) FROM tip_journal) + 1 AND j.height < (SELECT max(height) FROM tip_journal) AND NOT EXISTS (SELECT FROM sighting s WHERE s.height BETWEEN j.height AND j.height + 1) LIMIT 1")
	after := c.one(quiet + " + 1")
	page := "I8 " + receipt.AnchorsPath(0)
	edge := int(c.size % merkle.TileWidth)
	upper := merkle.Tile{Level: 1, Width: int(c.size / merkle.TileWidth)}.Path()
	edgeTile := merkle.Tile{Index: c.size / merkle.TileWidth, Width: edge}.Path()
	flipped := func(column string, at string) string {
		return fmt.Sprintf("%[1]s = set_byte(%[1]s, %[2]s, get_byte(%[1]s, %[2]s) # 1)", column, at)
	}
	var oldCheckpoint []byte
	if err := c.conn.QueryRow(c.t.Context(), "SELECT note FROM checkpoint WHERE size = "+old).Scan(&oldCheckpoint); err != nil {
		c.t.Fatal(err)
	}
	return []falsified{
		{name: "an entry is changed", sql: []string{"UPDATE entry_group SET " + flipped("commitments", "3") + group}, want: []string{"I2 entry " + single[0]}},
		{name: "a group is gone", sql: []string{"DELETE FROM entry_group " + group}, want: []string{"I2 entry " + single[0]}},
		{name: "two groups are swapped", sql: []string{
			"UPDATE entry_group SET commitments = k.commitments FROM kept.entry_group k WHERE k.first = " + single[1] + " AND entry_group.first = " + single[0],
			"UPDATE entry_group SET commitments = k.commitments FROM kept.entry_group k WHERE k.first = " + single[0] + " AND entry_group.first = " + single[1],
		}, want: []string{"I2 entry " + single[0], "I2 entry " + single[1]}},
		{name: "a root is changed", sql: []string{"UPDATE checkpoint SET " + flipped("root", "5") + "WHERE size = " + old}, want: []string{"I3 checkpoint of size " + old}},
		{name: "the newest root is changed", sql: []string{"UPDATE checkpoint SET " + flipped("root", "5") + "WHERE size = " + newest}, want: []string{"I3 checkpoint of size " + newest}},
		{name: "a note is changed", sql: []string{"UPDATE checkpoint SET " + flipped("note", "30") + "WHERE size = " + old}, want: []string{"I3 checkpoint of size " + old}},
		{name: "a tile is changed", path: "tile/0/001", edit: flip(100), want: []string{"I4 tile/0/001"}, mends: true},
		{name: "a tile is gone", path: "tile/0/000", want: []string{"I4 tile/0/000"}, mends: true},
		{name: "a tile of tiles is changed", path: upper, edit: flip(-1), want: []string{"I4 " + upper}, mends: true},
		{name: "a tile of tiles is gone", path: upper, want: []string{"I4 " + upper}, mends: true},
		{name: "the newest tile is changed", path: edgeTile, edit: flip(-1), want: []string{"I4 " + edgeTile}, mends: true},
		{name: "a bundle is cut", path: "tile/entries/000", edit: cut, want: []string{"I4 tile/entries/000"}, mends: true},
		{name: "a bundle is changed", path: "tile/entries/001", edit: flip(4210), want: []string{"I4 tile/entries/001"}, mends: true},
		{name: "a bundle is gone", path: "tile/entries/001", want: []string{"I4 tile/entries/001"}, mends: true},
		{name: "a copy of a checkpoint is gone", path: batch.CheckpointPath(number(c.t, old)), want: []string{"I4 " + batch.CheckpointPath(number(c.t, old))}, mends: true},
		{name: "a copy of a checkpoint is changed", path: batch.CheckpointPath(number(c.t, old)), edit: flip(40), want: []string{"I4 " + batch.CheckpointPath(number(c.t, old))}, mends: true},
		{name: "the published head is gone", path: batch.HeadPath, want: []string{"I3 checkpoint"}, mends: true},
		{name: "the published head is old", path: batch.HeadPath, edit: func([]byte) []byte { return oldCheckpoint }, want: []string{"I3 checkpoint"}, mends: true},
		{name: "the published anchors are gone", path: receipt.AnchorsPath(0), want: []string{page}, mends: true},
		{name: "the published anchors are changed", path: receipt.AnchorsPath(0), edit: flip(200), want: []string{page}, mends: true},
		{name: "an object of somebody else's", path: "tile/stranger", edit: func([]byte) []byte { return []byte("?") }, want: []string{"I3 tile/stranger"}},

		{name: "a wrapped key is gone", sql: []string{"DELETE FROM document_key " + key}, want: []string{"I10 " + doc}},
		{name: "a wrapped key is under an unknown key", sql: []string{"UPDATE document_key SET key_id = 'other' " + key}, want: []string{"I10 " + doc}},
		{name: "two wrapped keys are swapped", sql: []string{
			"UPDATE document_key SET wrapped = k.wrapped FROM kept.document_key k WHERE k.document_id = '" + two[1] + "' AND document_key.document_id = '" + two[0] + "'",
			"UPDATE document_key SET wrapped = k.wrapped FROM kept.document_key k WHERE k.document_id = '" + two[0] + "' AND document_key.document_id = '" + two[1] + "'",
		}, want: docs},
		{name: "sealed fields are changed", sql: []string{"UPDATE document SET " + flipped("sealed", "20") + document}, want: []string{"I10 " + doc}},
		{name: "a digest tag is changed", sql: []string{"UPDATE document SET " + flipped("digest_tag", "2") + document}, want: []string{"I2 " + doc}},
		{name: "the hash of a code is changed", sql: []string{"UPDATE document SET " + flipped("code_hash", "2") + document}, want: []string{"I2 " + doc}},
		{name: "a document is at another entry", sql: []string{"UPDATE document SET index = " + single[1] + " " + document},
			want: []string{"I2 " + strings.Replace(doc, doc[strings.Index(doc, "(entry"):], "(entry "+single[1]+")", 1), c.idempotencyOf(document)}},
		{name: "a version that isn't there", sql: []string{"UPDATE document SET object_version = '01JAAAAAAAAAAAAAAAAAAAAAAA' " + document}, want: []string{"I1 " + object}},
		{name: "another size", sql: []string{"UPDATE document SET object_size = object_size + 1 " + document}, want: []string{"I1 " + object}},
		{name: "another checksum", sql: []string{"UPDATE document SET object_checksum = 'AAAA' " + document}, want: []string{"I1 " + object}},
		{name: "a shorter lock than promised", sql: []string{"UPDATE document SET retain_until = retain_until + interval '1 year' " + document}, want: []string{"I1 " + object}},
		{name: "not locked for hours", sql: []string{"UPDATE document SET retained_at = NULL, created_at = created_at - interval '2 hours' " + document}, want: []string{"I1 " + object}},
		{name: "a certification has no row", sql: []string{"DELETE FROM certification " + certification}, want: []string{"I2 " + certifiedDoc}},
		{name: "a certification is changed", sql: []string{"UPDATE certification SET " + flipped("sealed", "20") + certification}, want: []string{"I10 " + certifiedDoc}},
		{name: "a certification of no document", sql: []string{"INSERT INTO certification SELECT " + single[0] + ", document_id, agency, sealed FROM certification LIMIT 1"}, want: []string{"I2 certification of entry " + single[0]}},
		{name: "the salt of a statement is changed", sql: []string{"UPDATE statement SET " + flipped("salt", "2") + "WHERE index = " + statement}, want: []string{"I2 statement of entry " + statement}},
		{name: "an agency's name is changed", sql: []string{"UPDATE agency SET name = 'Another Office'"}, want: []string{"I2 agency " + testAgency}},
		{name: "an idempotency key of entries to come", sql: []string{"UPDATE idempotency SET first_index = 1000000 WHERE document_id = (SELECT id FROM document " + document + ")"}, want: []string{c.idempotencyOf(document)}},
		{name: "an overdue promise", sql: []string{
			"INSERT INTO entry_group SELECT max(first + count), 1, decode(repeat('aa', 32), 'hex'), gen_random_uuid(), 'intake', '2026-01-01 00:00:00Z', '2026-01-01 01:00:00Z' FROM entry_group",
		}, want: []string{"I7 group at " + c.one("SELECT max(first + count) FROM entry_group")}},

		{name: "a signature is changed", sql: []string{"UPDATE attempt SET " + flipped("raw_tx", "length(raw_tx) - 60") + attempt}, want: []string{"I5 " + txid}},
		{name: "a signed transaction is gone", sql: []string{"ALTER TABLE attempt DROP CONSTRAINT attempt_signed_before_sent", "UPDATE attempt SET raw_tx = NULL " + attempt}, want: []string{"I5 " + txid}},
		{name: "a transaction is changed", sql: []string{"UPDATE attempt SET " + flipped("unsigned_tx", "length(unsigned_tx) - 1") + attempt}, want: []string{"I5 " + txid, page}},
		{name: "an anchored root is changed", sql: []string{"UPDATE attempt SET " + flipped("root", "2") + attempt}, want: []string{"I3 " + txid}},
		{name: "an input is gone", sql: []string{"DELETE FROM attempt_input " + attempt}, want: []string{"I5 " + txid}},
		{name: "an input's value is changed", sql: []string{"UPDATE attempt_input SET value = value + 1 " + attempt}, want: []string{"I5 " + txid}},
		{name: "a fee is changed", sql: []string{"UPDATE attempt SET fee = fee + 1 " + attempt}, want: []string{"I5 " + txid}},
		{name: "an attempt is gone", sql: []string{"DELETE FROM sighting " + attempt, "DELETE FROM attempt_input " + attempt, "DELETE FROM attempt " + attempt}, want: []string{"I5 " + coinName, page}},
		{name: "an earlier attempt is gone", sql: []string{"UPDATE attempt SET n = 2 " + attempt}, want: []string{"I5 " + coinName}},
		{name: "a state is changed", sql: []string{"UPDATE attempt SET state = 'sent' " + attempt}, want: []string{"I6 " + txid, page}},
		{name: "a sighting's header is changed", sql: []string{"UPDATE sighting SET " + flipped("header", "70") + attempt}, want: []string{"I6 " + txid, page}},
		{name: "a sighting's place is changed", sql: []string{"UPDATE sighting SET position = position + 1 " + attempt}, want: []string{"I6 " + txid, page}},
		{name: "a coin's value is changed", sql: []string{"UPDATE coin SET value = value + 1 WHERE state = 'live' AND kind = 'chain'"}, want: []string{"I6 coin " + live + ":1"}},
		{name: "a spent coin is foreign", sql: []string{"UPDATE coin SET state = 'foreign' " + coin}, want: []string{"I6 " + coinName}},
		{name: "the live coin is void", sql: []string{"UPDATE coin SET state = 'void', height = NULL WHERE state = 'live' AND kind = 'chain'"}, want: []string{"I6 coin " + live + ":1"}},
		{name: "a coin was made elsewhere", sql: []string{"UPDATE coin SET height = height - 1 WHERE state = 'live' AND kind = 'chain'"}, want: []string{"I6 coin " + live + ":1"}},
		{name: "a followed block is gone", sql: []string{"DELETE FROM tip_journal WHERE height = " + quiet}, want: []string{"I6 followed block " + after}},
		{name: "a followed block is another", sql: []string{"UPDATE tip_journal SET " + flipped("hash", "2") + "WHERE height = " + quiet}, want: []string{"I6 followed block " + quiet}},
		{name: "no block was followed", sql: []string{"DELETE FROM tip_journal"}, want: []string{"I8 followed blocks"}},
	}
}

// idempotencyOf names the key under which a document was uploaded.
func (c *checked) idempotencyOf(document string) string {
	return "I2 idempotency key with the hash " + c.one("SELECT encode(key_hash, 'hex') FROM idempotency WHERE document_id = (SELECT id FROM document "+document+")")
}

func number(t testing.TB, text string) (n uint64) {
	t.Helper()
	if _, err := fmt.Sscan(text, &n); err != nil {
		t.Fatal(err)
	}
	return n
}

// falsifyFence takes the fence away, and sets it back.
func (c *checked) falsifyFence(t *testing.T) {
	c.t, c.node.t = t, t
	right := c.readObject(c.documentsBucket(), "control/fence")
	low := bytes.Replace(right, []byte(fmt.Sprintf(`"limit":%d`, c.fenceLimit())), []byte(`"limit":7`), 1)
	for name, wrong := range map[string][]byte{"gone": nil, "set back": low, "not readable": right[:len(right)-1]} {
		c.write(c.documentsBucket(), "control/fence", wrong)
		if diff := cmp.Diff([]string{"I2 control/fence"}, named(c.fsck(3, quick...))); diff != "" {
			t.Errorf("%s: want, got:\n%s", name, diff)
		}
		c.write(c.documentsBucket(), "control/fence", right)
	}
	if r := c.fsck(0, quick...); len(r.Findings) > 0 {
		t.Errorf("it was put back, and fsck says %+v", r)
	}
}

// falsifyObjects does to documents what can't be undone, one after the other.
func (c *checked) falsifyObjects(t *testing.T) {
	c.t, c.node.t = t, t
	rows, err := c.conn.Query(t.Context(), "SELECT 'document ' || id || ' (entry ' || index || '), object ' || object, object, object_version, plain_size FROM document WHERE plain_size > 100 ORDER BY index LIMIT 4")
	if err != nil {
		t.Fatal(err)
	}
	type document struct {
		Name, Object, Version string
		Size                  int
	}
	documents, err := pgx.CollectRows(rows, pgx.RowToStructByPos[document])
	if err != nil || len(documents) < 4 {
		t.Fatal(documents, err)
	}
	known, all := []string(nil), append([]string{"--orphan-age", "1ns"}, quick...)
	finds := func(what, name string, args ...string) {
		t.Helper()
		known = append(known, name)
		slices.Sort(known)
		if diff := cmp.Diff(known, named(c.fsck(3, append(args, all...)...))); diff != "" {
			t.Errorf("%s: want, got:\n%s", what, diff)
		}
	}
	d := documents[0]
	remove := minio.RemoveObjectOptions{VersionID: d.Version, GovernanceBypass: true}
	if err := c.objectStorage().RemoveObject(t.Context(), c.documentsBucket(), d.Object, remove); err != nil {
		t.Fatal(err)
	}
	finds("removed", "I1 "+d.Name)
	orphan := "documents/ab/0123456789abcdef0123456789abcd"
	c.write(c.documentsBucket(), orphan, []byte("whose?"))
	finds("orphan", "I1 object "+orphan)

	// Another object in the place of the right one, to which the row was led.
	replace := func(d document, data []byte) {
		t.Helper()
		version := c.write(c.documentsBucket(), d.Object, data)
		info, err := c.objectStorage().StatObject(t.Context(), c.documentsBucket(), d.Object, minio.StatObjectOptions{VersionID: version, Checksum: true})
		if err != nil {
			t.Fatal(err)
		}
		mode, until := minio.Governance, time.Now().Add(2*time.Hour)
		if err := c.objectStorage().PutObjectRetention(t.Context(), c.documentsBucket(), d.Object, minio.PutObjectRetentionOptions{VersionID: version, Mode: &mode, RetainUntilDate: &until}); err != nil {
			t.Fatal(err)
		}
		c.sql(fmt.Sprintf("UPDATE document SET object_version = '%s', object_checksum = '%s' WHERE object = '%s'", version, info.ChecksumSHA256, d.Object))
	}
	d = documents[1]
	plain := bytes.Repeat([]byte("plain text "), d.Size)
	replace(d, plain[:len(c.readObject(c.documentsBucket(), d.Object))])
	finds("plain text", "I10 "+d.Name)

	d = documents[2]
	replace(d, flip(-20)(c.readObject(c.documentsBucket(), d.Object)))
	if diff := cmp.Diff(known, named(c.fsck(3, all...))); diff != "" {
		t.Errorf("a changed byte shows only under --deep; want, got:\n%s", diff)
	}
	finds("a byte of the ciphertext", "I1 "+d.Name, "--deep")
}

// killFsck kills the check in the middle, between two things that are broken. The
// second run goes on where the first was, and reports both.
func (c *checked) killFsck(t *testing.T) {
	c.t, c.node.t = t, t
	whole := c.fsck(0, quick...)
	statement := c.one("SELECT min(index) FROM statement")
	c.sql("UPDATE statement SET salt = decode(repeat('77', 16), 'hex') WHERE index = " + statement)
	right := c.readObject(c.logBucket(), "tile/0/001")
	c.write(c.logBucket(), "tile/0/001", flip(7)(right))
	state := filepath.Join(t.TempDir(), "fsck.state")
	p, err := tryLaunch(t.Context(), "fsck", state+".log", c.environ(nil), nil, c.bin.calped, "fsck", "--state", state, "--rate", "4")
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the entries are checked, and the rest isn't", func(context.Context) error {
		select {
		case <-p.done:
			t.Fatalf("fsck came to an end before it could be killed:\n%s", tail(state+".log", 10))
		default:
		}
		data, err := os.ReadFile(state)
		if err == nil && !bytes.Contains(data, []byte(`"phase":2`)) {
			err = fmt.Errorf("state: %.200s", data)
		}
		return err
	})
	p.kill()
	if code := c.fsckFails(append(quick, "--state", state, "--deep")...); code != 1 {
		t.Errorf("with other options than the run that was killed: exit code %d", code)
	}
	r := c.fsck(3, append(quick, "--state", state)...)
	if diff := cmp.Diff([]string{"I2 statement of entry " + statement, "I4 tile/0/001"}, named(r)); diff != "" || r.Resumed != 1 {
		t.Errorf("resumed %d times; want, got:\n%s", r.Resumed, diff)
	}
	if diff := cmp.Diff(whole.Counts, r.Counts); diff != "" {
		t.Errorf("two halves aren't the whole:\n%s", diff)
	}
	if _, err := os.Stat(state); !os.IsNotExist(err) {
		t.Errorf("the state is still there: %v", err)
	}
	c.putRowsBack()
	c.write(c.logBucket(), "tile/0/001", right)
}

// fsckFails runs the check without looking at its report.
func (c *checked) fsckFails(args ...string) (code int) {
	c.t.Helper()
	_, _, code = c.calped(nil, append([]string{"fsck"}, args...)...)
	return code
}

// fsckSince: what was sealed before isn't looked at, what came after is.
func (c *checked) fsckSince(t *testing.T) {
	c.t, c.node.t = t, t
	at := c.one("SELECT to_char(created_at, 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"') FROM checkpoint WHERE size > 602 AND size < " + fmt.Sprint(c.size) + " ORDER BY size DESC LIMIT 1")
	from := number(t, c.one("SELECT max(size) FROM checkpoint WHERE created_at < '"+at+"'"))
	first := c.one(fmt.Sprintf("SELECT max(first) FROM entry_group WHERE first < %d", min(from, 600)))
	last := c.one(fmt.Sprintf("SELECT max(first) FROM entry_group WHERE first >= %d AND first < %d", from, c.size))
	args := append([]string{"--since", at}, quick...)
	if r := c.fsck(0, args...); r.Counts["entries"] != c.size-from {
		t.Errorf("%d entries were looked at, %d came since %s", r.Counts["entries"], c.size-from, at)
	}
	change := "UPDATE entry_group SET commitments = set_byte(commitments, 3, get_byte(commitments, 3) # 1) WHERE first = "
	c.sql(change+first, change+last)
	r := c.fsck(3, args...)
	if len(r.Findings) != 1 || !strings.HasPrefix(r.Findings[0].Thing, "entr") || !strings.Contains(r.Findings[0].Thing, last) {
		t.Errorf("changed were %s and %s; found %v", first, last, named(r))
	}
	c.putRowsBack()
}

// olderDatabase puts a copy back that is older than the newest checkpoint. A server
// mends it; then nothing is broken any more.
func (c *checked) olderDatabase(t *testing.T) {
	c.t, c.node.t = t, t
	c.conn.Close(t.Context())
	c.db.stop()
	c.db.copyTo("older")
	c.db.start()
	s := c.serve(porttest.Address(t), nil)
	s.awaitReady()
	s.stampMany(2, 300)
	s.sealed()
	s.exitsCleanly()
	c.db.stop()
	c.db.putBack("older")
	c.db.start()
	c.conn = c.connect()
	sealed, err := receipt.OpenCheckpoint(c.readObject(c.logBucket(), batch.HeadPath), c.identity)
	if err != nil {
		t.Fatal(err)
	}
	r := c.fsck(3, quick...)
	if diff := cmp.Diff([]string{fmt.Sprintf("I2 entries %d to %d", c.size, sealed.Size-1)}, named(r)); diff != "" || len(r.Notes) == 0 {
		t.Errorf("notes %q; want, got:\n%s", r.Notes, diff)
	}
	s = c.serve(porttest.Address(t), nil)
	s.awaitReady()
	s.sealed()
	s.exitsCleanly()
	c.fsck(0, append(quick, "--deep")...)
}

// TestFsckBesideServer runs the check again and again while a server takes what
// clients send, seals, anchors and follows blocks: nothing is broken.
func TestFsckBesideServer(t *testing.T) {
	d := deploy(t)
	s := d.serve(porttest.Address(t), map[string]string{"CALPE_ANCHOR_PATIENCE": "1s"})
	s.awaitReady()
	defer d.node.keepMining(700 * time.Millisecond)()
	l := d.load([]client{
		{20 * time.Millisecond, func(seq uint64) request { return newRequestOf(stampKind, seq, 0) }},
		{100 * time.Millisecond, func(seq uint64) request { return newRequestOf(documentKind, seq, 1+int(seq)) }},
		{200 * time.Millisecond, func(seq uint64) request { return newRequestOf(certifiedKind, seq, 100) }},
	}, s.url)
	var entries uint64
	for i := range 4 {
		l.awaitMore(20)
		args := []string{"--grace", "20s"}
		if i == 2 {
			args = append(args, "--deep", "--repair")
		}
		r := d.fsck(0, args...)
		if r.Status != fsck.Clean || len(r.Findings) > 0 || r.Counts["entries"] < entries {
			t.Errorf("run %d: %+v", i, r)
		}
		entries = r.Counts["entries"]
	}
	l.stop()
	s.exitsCleanly()
}
