package migrations_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"golang.org/x/sync/errgroup"

	"github.com/calpe/calpe/migrations"
	"github.com/calpe/calpe/storage/postgres/postgrestest"
)

func connect(t *testing.T, url string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// schema is a fingerprint of everything that a migration can make.
func schema(t *testing.T, conn *pgx.Conn) string {
	t.Helper()
	const sql = `
		SELECT string_agg(line, E'\n' ORDER BY line) FROM (
			SELECT 'column ' || table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable || ' ' || coalesce(column_default, '') AS line
			FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> $1
			UNION ALL SELECT 'constraint ' || conname || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
			WHERE connamespace = 'public'::regnamespace AND conrelid <> to_regclass($1)
			UNION ALL SELECT 'index ' || indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> $1
			UNION ALL SELECT 'trigger ' || pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
			UNION ALL SELECT 'function ' || proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace
			UNION ALL SELECT 'type ' || typname FROM pg_type WHERE typnamespace = 'public'::regnamespace AND typtype IN ('e', 'd')
		) s`
	var text *string
	if err := conn.QueryRow(t.Context(), sql, migrations.Table).Scan(&text); err != nil {
		t.Fatal(err)
	}
	if text == nil {
		return ""
	}
	return *text
}

// Each migration is taken back and applied again, one by one: the way down must
// undo exactly the way up.
func TestUpDownEach(t *testing.T) {
	t.Parallel()
	url := postgrestest.Empty(t)
	ctx := t.Context()
	if err := migrations.Up(ctx, url, nil); err != nil {
		t.Fatal(err)
	}
	conn := connect(t, url)
	up := schema(t, conn)
	if !strings.Contains(up, "entry_group.commitments") {
		t.Fatalf("schema after Up has no entry_group:\n%s", up)
	}
	for v := migrations.Latest() - 1; v >= 0; v-- {
		if err := migrations.DownTo(ctx, url, v, nil); err != nil {
			t.Fatalf("down to %d: %v", v, err)
		}
		if got, err := migrations.Version(ctx, url); err != nil || got != v {
			t.Fatalf("version after down to %d: %d, %v", v, got, err)
		}
	}
	if left := schema(t, conn); left != "" {
		t.Errorf("down to 0 left:\n%s", left)
	}
	if err := migrations.Up(ctx, url, nil); err != nil {
		t.Fatal(err)
	}
	if again := schema(t, conn); again != up {
		t.Errorf("schema after up, down, up:\n%s\nwant:\n%s", again, up)
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	url := postgrestest.Empty(t)
	ctx := t.Context()
	conn := connect(t, url)
	if err := migrations.Check(ctx, conn); !errors.Is(err, migrations.ErrPending) {
		t.Errorf("empty database: %v, want ErrPending", err)
	}
	if tables := schema(t, conn); tables != "" {
		t.Errorf("Check made something:\n%s", tables)
	}
	if n, err := migrations.Pending(ctx, url); err != nil || n != int(migrations.Latest()) {
		t.Errorf("pending: %d, %v, want %d", n, err, migrations.Latest())
	}
	if err := migrations.Up(ctx, url, nil); err != nil {
		t.Fatal(err)
	}
	if err := migrations.Check(ctx, conn); err != nil {
		t.Errorf("migrated database: %v", err)
	}
	if n, err := migrations.Pending(ctx, url); err != nil || n != 0 {
		t.Errorf("pending: %d, %v, want 0", n, err)
	}
	if _, err := conn.Exec(ctx, `INSERT INTO schema_version (version_id, is_applied) VALUES ($1, true)`, migrations.Latest()+1); err != nil {
		t.Fatal(err)
	}
	if err := migrations.Check(ctx, conn); !errors.Is(err, migrations.ErrNewer) {
		t.Errorf("newer database: %v, want ErrNewer", err)
	}
}

// Several servers start at once on a new database.
func TestUpConcurrently(t *testing.T) {
	t.Parallel()
	url := postgrestest.Empty(t)
	g, ctx := errgroup.WithContext(t.Context())
	for range 4 {
		g.Go(func() error { return migrations.Up(ctx, url, nil) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if v, err := migrations.Version(t.Context(), url); err != nil || v != migrations.Latest() {
		t.Errorf("version %d, %v, want %d", v, err, migrations.Latest())
	}
}

func TestDownRefusesLogWithEntries(t *testing.T) {
	t.Parallel()
	url := postgrestest.URL(t)
	postgrestest.Exec(t, url, `INSERT INTO entry_group (first, count, commitments, group_id, origin, time, deadline)
		VALUES (0, 1, decode(repeat('ab', 32), 'hex'), gen_random_uuid(), 'intake', '2026-01-01T00:00:00Z', '2026-01-01T01:00:00Z')`)
	before := schema(t, connect(t, url))
	if err := migrations.DownTo(t.Context(), url, 0, nil); err == nil {
		t.Fatal("the tables of a log with entries were dropped")
	}
	if err := migrations.Up(t.Context(), url, nil); err != nil {
		t.Fatal(err)
	}
	if after := schema(t, connect(t, url)); after != before {
		t.Errorf("schema changed:\n%s\nwant:\n%s", after, before)
	}
}

// Documents from before there were codes have none, and are found by digest.
func TestFindIsAddedToATableWithRows(t *testing.T) {
	t.Parallel()
	url := postgrestest.URL(t)
	if err := migrations.DownTo(t.Context(), url, 2, nil); err != nil {
		t.Fatal(err)
	}
	const insert = `INSERT INTO document (id, index, owner, object, object_version, plain_size, object_size, part_size,
			object_checksum, sealed, digest_tag, retain_until, created_at)
		SELECT gen_random_uuid(), i, 'ana', 'documents/' || i, 'v', 1, 1, 1, 'c', 's', decode(repeat('ab', 32), 'hex'), now(), now()
		FROM generate_series(1, 3) AS i`
	postgrestest.Exec(t, url, insert)
	if err := migrations.Up(t.Context(), url, nil); err != nil {
		t.Fatal(err)
	}
	var documents, codes int
	conn := connect(t, url)
	if err := conn.QueryRow(t.Context(), `SELECT count(*), count(code_hash) FROM document`).Scan(&documents, &codes); err != nil || documents != 3 || codes != 0 {
		t.Errorf("%d documents with %d codes, %v; want 3 with none", documents, codes, err)
	}
	if err := migrations.DownTo(t.Context(), url, 2, nil); err != nil {
		t.Errorf("without a code nothing is lost on the way back: %v", err)
	}
	if err := migrations.Up(t.Context(), url, nil); err != nil {
		t.Fatal(err)
	}
	postgrestest.Exec(t, url, `UPDATE document SET code_hash = decode(repeat('cd', 32), 'hex') WHERE index = 2`)
	if err := migrations.DownTo(t.Context(), url, 2, nil); err == nil {
		t.Error("the column of codes that were given out was dropped")
	}
}

// Every table and column says what it is.
func TestEverythingIsCommented(t *testing.T) {
	t.Parallel()
	conn := connect(t, postgrestest.URL(t))
	const sql = `
		SELECT c.relname || coalesce('.' || a.attname, '')
		FROM pg_class c LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
		WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r' AND c.relname <> $1
		AND (obj_description(c.oid, 'pg_class') IS NULL OR col_description(c.oid, a.attnum) IS NULL)`
	rows, err := conn.Query(t.Context(), sql, migrations.Table)
	if err != nil {
		t.Fatal(err)
	}
	silent, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	if len(silent) > 0 {
		t.Errorf("without a comment: %v", silent)
	}
}
