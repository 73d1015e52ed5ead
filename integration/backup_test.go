package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/minio/minio-go/v7"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/internal/porttest"
	"github.com/calpe/calpe/receipt/statement"
)

// backups is the machine that keeps them: it has the scripts of deploy/backup,
// and may receive the database's WAL, nothing else.
type backups struct {
	d       *deployment
	dir     string // CALPE_BACKUP
	scripts string
	env     map[string]string
	wal     *process
}

const backupRole = "calpe_backup"

func newBackups(d *deployment) *backups {
	t := d.t
	t.Helper()
	scripts, err := filepath.Abs("../deploy/backup")
	if err != nil {
		t.Fatal(err)
	}
	server, err := filepath.EvalSymlinks(filepath.Join(d.db.info.Binaries, "postgres"))
	if err != nil {
		t.Fatal(err)
	}
	programs := filepath.Dir(server) // of its version
	b := &backups{d: d, scripts: scripts, env: map[string]string{
		"PATH":       programs + ":" + os.Getenv("PATH"),
		"PGHOST":     "127.0.0.1",
		"PGUSER":     backupRole,
		"PGPASSFILE": filepath.Join(d.dir, "pgpass"),
	}}
	for _, program := range []string{"pg_basebackup", "pg_receivewal", "pg_verifybackup"} {
		if _, err := os.Stat(filepath.Join(programs, program)); err != nil {
			t.Fatalf("backups need PostgreSQL's own programs, as Debian's package postgresql has them: %v", err)
		}
	}
	conn := d.connect()
	if _, err := conn.Exec(t.Context(), `CREATE ROLE `+backupRole+` REPLICATION LOGIN PASSWORD 'kept in a file'`); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(b.env["PGPASSFILE"], []byte("*:*:*:"+backupRole+":kept in a file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b.begin("backup")
	return b
}

// begin takes an empty folder for the backups of the database as it is now.
func (b *backups) begin(name string) {
	b.d.t.Helper()
	b.dir = filepath.Join(b.d.dir, name)
	if err := os.Mkdir(b.dir, 0o700); err != nil {
		b.d.t.Fatal(err)
	}
	b.env["CALPE_BACKUP"], b.env["PGPORT"] = b.dir, b.d.db.port
}

// try runs a script to its end.
func (b *backups) try(script string, args ...string) (stdout string, err error) {
	ctx, cancel := context.WithTimeout(b.d.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(b.scripts, script), args...)
	var out, errs bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = b.environ(), &out, &errs
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w\n%s", script, errors.Join(err, ctx.Err()), errs.String())
	}
	return strings.TrimSpace(out.String()), nil
}

func (b *backups) environ() (env []string) {
	for name, value := range b.env {
		env = append(env, name+"="+value)
	}
	return env
}

func (b *backups) must(script string, args ...string) string {
	b.d.t.Helper()
	out, err := b.try(script, args...)
	if err != nil {
		b.d.t.Fatal(err)
	}
	return out
}

// refuses runs a script that must say why it doesn't.
func (b *backups) refuses(why, script string, args ...string) {
	b.d.t.Helper()
	if _, err := b.try(script, args...); err == nil || !strings.Contains(err.Error(), why) {
		b.d.t.Errorf("%s %q: %v, want %q", script, args, err, why)
	}
}

// receive starts to receive WAL, and returns when it comes.
func (b *backups) receive() {
	t := b.d.t
	t.Helper()
	var err error
	script := filepath.Join(b.scripts, "receive-wal")
	if b.wal, err = tryLaunch(t.Context(), "receive-wal", b.dir+".log", b.environ(), nil, script); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.wal.kill)
	conn := b.d.connect()
	eventually(t, "WAL is received", func(ctx context.Context) error {
		var streams bool
		err := conn.QueryRow(ctx, `SELECT count(*) = 1 FROM pg_stat_replication WHERE application_name = 'pg_receivewal' AND state = 'streaming'`).Scan(&streams)
		if err == nil && !streams {
			err = errors.New(tail(b.dir+".log", 10))
		}
		return err
	})
}

// awaitReceived waits until all that is committed now is in the archive.
func (b *backups) awaitReceived() {
	t := b.d.t
	t.Helper()
	conn := b.d.connect()
	var end string
	if err := conn.QueryRow(t.Context(), `SELECT pg_current_wal_flush_lsn()::text`).Scan(&end); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the archive has the WAL up to "+end, func(ctx context.Context) error {
		var has bool
		err := conn.QueryRow(ctx, `SELECT coalesce(bool_or(flush_lsn >= $1::text::pg_lsn), false) FROM pg_stat_replication WHERE application_name = 'pg_receivewal'`, end).Scan(&has)
		if err == nil && !has {
			err = errors.New("not yet")
		}
		return err
	})
}

// commitsWait lets COMMIT wait until the archive has it.
func (b *backups) commitsWait() {
	t := b.d.t
	t.Helper()
	conn := b.d.connect()
	for _, sql := range []string{`ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (pg_receivewal)'`, `SELECT pg_reload_conf()`} {
		if _, err := conn.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "COMMIT waits for the archive", func(ctx context.Context) error {
		var waits bool
		err := conn.QueryRow(ctx, `SELECT count(*) = 1 FROM pg_stat_replication WHERE application_name = 'pg_receivewal' AND sync_state = 'quorum'`).Scan(&waits)
		if err == nil && !waits {
			err = errors.New("it is asynchronous still")
		}
		return err
	})
}

func (b *backups) stopReceiving() {
	b.d.t.Helper()
	if _, err := b.wal.stop(b.d.t.Context()); err != nil {
		b.d.t.Fatal(err)
	}
}

// restore makes a database from a base backup and the WAL, in an empty place.
func (b *backups) restore(base, name string, until ...string) {
	d := b.d
	d.t.Helper()
	u, err := url.Parse(d.db.info.URL)
	if err != nil {
		d.t.Fatal(err)
	}
	dir := filepath.Join(d.dir, name)
	b.must("restore-database", append([]string{base, filepath.Join(dir, "postgres", "data")}, until...)...)
	// The launcher of the server asks it as its superuser, who is as he was.
	password, _ := u.User.Password()
	if err := os.WriteFile(filepath.Join(dir, "postgres", "password"), []byte(password), 0o600); err != nil {
		d.t.Fatal(err)
	}
	d.db = startDatabase(d.t, dir)
	d.env["CALPE_DATABASE_URL"] = d.db.info.URL
	eventually(d.t, "the database is restored", func(ctx context.Context) error {
		conn, err := pgx.Connect(ctx, d.db.info.URL)
		if err != nil {
			return err
		}
		defer conn.Close(ctx)
		var recovers bool
		err = conn.QueryRow(ctx, `SELECT pg_is_in_recovery()`).Scan(&recovers)
		if err == nil && recovers {
			err = errors.New("it still reads WAL")
		}
		return err
	})
}

// checkDeclared: each void entry is within a range that a signed statement
// declares, and each such statement is the log's entry at its index (I2, I7).
func (d *deployment) checkDeclared(conn *pgx.Conn, log published) {
	t := d.t
	t.Helper()
	rows, err := conn.Query(t.Context(), `SELECT index, body, salt FROM statement WHERE type = $1`, statement.TypeRecovery)
	if err != nil {
		t.Fatal(err)
	}
	declared := map[uint64]bool{}
	var index int64
	var body, salt []byte
	_, err = pgx.ForEachRow(rows, []any{&index, &body, &salt}, func() error {
		signed, err := statement.Parse(body)
		if err != nil {
			return err
		}
		if err := signed.Verify(d.identity.StatementKeys[0]); err != nil {
			return err
		}
		if got := calpe.Commit(signed.Digest(), calpe.Salt(salt)); log.commitments[index] != got {
			return fmt.Errorf("the statement of entry %d isn't that entry", index)
		}
		recovery := signed.Body().(statement.Recovery)
		for i := recovery.VoidFrom; i < recovery.VoidTo; i++ {
			declared[i] = true
		}
		return nil
	})
	if err != nil {
		t.Errorf("declarations: %v", err)
	}
	for i, c := range log.commitments {
		if c.IsVoid() != declared[uint64(i)] {
			t.Errorf("entry %d is void: %v, declared as such: %v", i, c.IsVoid(), declared[uint64(i)])
			return
		}
	}
}

// TestBackupDrill throws everything away but the backups and object storage, while
// clients go on, and restores it into an empty place: first to the end of a WAL
// that ends before the last acknowledgements, then, from the same backup, to a
// time before that. Every acknowledgement and receipt that was ever given out holds,
// or its index is void and declared so.
func TestBackupDrill(t *testing.T) {
	d := deploy(t)
	defer d.node.keepMining(600 * time.Millisecond)()
	b := newBackups(d)
	r := &restoration{d: d, address: porttest.Address(t)}
	r.s = d.serve(r.address, nil)
	r.s.awaitReady()
	r.l = d.load(clients(), r.s.url)
	r.l.awaitMore(20)

	keys := b.sealKeys()
	b.refuses("is receive-wal running?", "base-backup")
	b.receive()
	base := b.must("base-backup")
	r.l.awaitMore(40)
	b.checkRefusals(base)
	earlier, at := r.l.count(), d.databaseTime()
	r.l.awaitMore(40)
	last := r.l.count()
	b.awaitReceived()
	b.stopReceiving()

	// What comes now is in no backup.
	r.l.awaitMore(40)
	r.awaitSize(func(st status) uint64 { return st.Final })
	final := r.keepReceipts()
	r.l.awaitMore(20)
	r.lose(window{name: "to the last WAL that was received", from: last})
	b.openKeys(keys)
	b.restore(base, "restored")
	r.s = d.serve(r.address, nil)
	r.l.awaitMore(40)
	r.s.awaitReady()

	// The same backup again, to a time before what the first restored database had.
	b.env["PGPORT"] = d.db.port
	b.refuses("After a restore or a failover set CALPE_BACKUP to a new folder", "base-backup")
	r.awaitSize(func(st status) uint64 { return st.Checkpointed })
	r.lose(window{name: "to a time", from: r.windows[0].to}, window{name: "between that time and the last WAL", from: earlier, to: last})
	b.restore(base, "restored-again", at)
	r.s = d.serve(r.address, nil)
	r.l.awaitMore(40)
	r.s.awaitReady()

	// And the backups go on.
	b.begin("backup-again")
	b.receive()
	b.must("base-backup")
	r.l.stop()
	v := r.s.check(r.l.all(), r.lost)
	t.Logf("2 restorations, %d acknowledged (%d after repetition), %d entries of which %d void, %d recoveries, %d anchors",
		r.l.count(), r.l.retry, v.entries, v.voids, v.recoveries, v.anchors)
	r.checkWindows(v.log)
	d.checkDeclared(d.connect(), v.log)
	chain := d.node.headers()
	for _, k := range final {
		if err := d.verify(k.acknowledged, k.receipt, chain); err != nil {
			t.Errorf("a final receipt that was handed out before: %s: %v", k.key, err)
		}
	}
	r.s.exitsCleanly()
	d.fsck(0)
}

// checkRefusals: nothing is overwritten, and nothing that is damaged is restored.
func (b *backups) checkRefusals(base string) {
	t := b.d.t
	t.Helper()
	into := filepath.Join(b.d.dir, "into")
	b.refuses("isn't empty", "restore-database", base, b.scripts)
	b.refuses("not a time", "restore-database", base, into, "now'; DROP")
	b.refuses("usage", "restore-database", base)
	// A copy of the backup, with one byte of one table changed.
	elsewhere := filepath.Join(b.d.dir, "damaged")
	copyTree(t, b.dir, elsewhere)
	damaged := filepath.Join(elsewhere, "base", filepath.Base(base))
	file := filepath.Join(damaged, "global", "pg_control")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	data[100] ^= 1
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	b.refuses("pg_control", "restore-database", damaged, into)
	if err := os.RemoveAll(filepath.Join(elsewhere, "wal")); err != nil {
		t.Fatal(err)
	}
	b.refuses("no WAL", "restore-database", damaged, into)
	for _, left := range []string{into, into + ".restoring"} {
		if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left by what was refused: %v", left, err)
		}
	}
	folder := b.env["CALPE_BACKUP"]
	b.env["CALPE_BACKUP"] = into
	b.refuses("is it mounted?", "base-backup")
	b.refuses("is it mounted?", "receive-wal")
	b.env["CALPE_BACKUP"] = folder
	password := b.env["PGPASSFILE"]
	b.env["PGPASSFILE"] = into
	b.refuses("doesn't say which one it is", "base-backup")
	b.env["PGPASSFILE"] = password
}

// TestFetchWAL: PostgreSQL takes 1 for the end of the WAL, and stops at what is
// above 125. Only a file that isn't there may be taken for the end.
func TestFetchWAL(t *testing.T) {
	wal, to := t.TempDir(), filepath.Join(t.TempDir(), "RECOVERYXLOG")
	for name, content := range map[string]string{"whole": "whole", "both": "whole", "both.partial": "partial", "begun.partial": "partial"} {
		if err := os.WriteFile(filepath.Join(wal, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(wal, "unreadable"), 0o700); err != nil { // as a file on a broken disk
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		args []string
		code int
		want string
	}{
		"whole":              {[]string{wal, "whole", to}, 0, "whole"},
		"whole goes first":   {[]string{wal, "both", to}, 0, "whole"},
		"not finished":       {[]string{wal, "begun", to}, 0, "partial"},
		"there is none":      {[]string{wal, "none", to}, 1, ""},
		"can't be read":      {[]string{wal, "unreadable", to}, 200, ""},
		"can't be written":   {[]string{wal, "whole", filepath.Join(to, "x")}, 200, ""},
		"nothing mounted":    {[]string{t.TempDir(), "whole", to}, 200, ""},
		"folder not mounted": {[]string{filepath.Join(wal, "gone"), "whole", to}, 200, ""},
		"no arguments":       {nil, 200, ""},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.RemoveAll(to); err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), "../deploy/backup/fetch-wal", tt.args...)
			_ = cmd.Run() // its exit code is what counts
			got, _ := os.ReadFile(to)
			if code := cmd.ProcessState.ExitCode(); code != tt.code || string(got) != tt.want {
				t.Errorf("exit code %d and %q, want %d and %q", code, got, tt.code, tt.want)
			}
		})
	}
}

// databaseTime is the time as the database has it, for restore-database.
func (d *deployment) databaseTime() (at string) {
	d.t.Helper()
	if err := d.connect().QueryRow(d.t.Context(), `SELECT clock_timestamp()::timestamptz(6)::text`).Scan(&at); err != nil {
		d.t.Fatal(err)
	}
	return at
}

// lose throws the database and the server away. The first window is what was
// acknowledged from its start to this moment.
func (r *restoration) lose(windows ...window) {
	r.d.t.Helper()
	st, err := r.s.status(r.d.t.Context())
	if err != nil {
		r.d.t.Fatal(err)
	}
	r.s.kill()
	r.d.db.kill()
	r.l.settle()
	if err := os.RemoveAll(r.d.db.dir); err != nil {
		r.d.t.Fatal(err)
	}
	windows[0].to = r.l.count()
	for _, w := range windows {
		w.sealed = st.Checkpointed
		r.windows = append(r.windows, w)
	}
}

// sealKeys leaves the keys of the service in a sealed file only, and the
// passphrase of the wallet where it was kept apart.
func (b *backups) sealKeys() (sealed string) {
	t := b.d.t
	t.Helper()
	at := func(name string) string { return filepath.Join(b.d.dir, name) }
	if out, err := exec.CommandContext(t.Context(), "age-keygen", "-o", at("age-identity")).CombinedOutput(); err != nil {
		t.Fatalf("age-keygen: %v\n%s", err, out)
	}
	recipient, err := exec.CommandContext(t.Context(), "age-keygen", "-y", at("age-identity")).Output()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(at("age-recipients"), recipient, 0o600); err != nil {
		t.Fatal(err)
	}
	keys, sealed := b.d.env["CALPE_KEYS"], at("keys.age")
	b.must("seal-keys", keys, at("age-recipients"), sealed)
	b.refuses("is there already", "seal-keys", keys, at("age-recipients"), sealed)
	b.d.env["CALPE_WALLET_PASSPHRASE_FILE"] = at("safe")
	if err := os.Rename(filepath.Join(keys, "wallet.passphrase"), at("safe")); err != nil {
		t.Fatal(err)
	}
	return sealed
}

// openKeys replaces the folder of keys by what the sealed file has.
func (b *backups) openKeys(sealed string) {
	t, keys := b.d.t, b.d.env["CALPE_KEYS"]
	t.Helper()
	identity := filepath.Join(b.d.dir, "age-identity")
	b.refuses("isn't empty", "open-keys", sealed, identity, keys)
	if err := os.RemoveAll(keys); err != nil {
		t.Fatal(err)
	}
	b.must("open-keys", sealed, identity, keys)
	if _, err := os.Stat(filepath.Join(keys, "wallet.passphrase")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the passphrase was sealed with what it opens: %v", err)
	}
}

// TestObjectsFromMirror throws database and object storage away and restores both,
// the objects from a mirror of the gateway's folder: versions and locks are as they
// were, and the service goes on. As COMMIT waited for the archive, not one
// acknowledgement is lost. An older mirror under the newer database is refused.
func TestObjectsFromMirror(t *testing.T) {
	d := prepare(t)
	startS3 := d.ownS3()
	storage := startS3()
	d.create()
	defer d.node.keepMining(600 * time.Millisecond)()
	b := newBackups(d)
	r := &restoration{d: d, address: porttest.Address(t)}
	r.s = d.serve(r.address, nil)
	r.s.awaitReady()
	r.l = d.load(clients(), r.s.url)
	b.receive()
	b.commitsWait()
	base := b.must("base-backup")
	r.l.awaitMore(30)

	s3dir := filepath.Join(d.dir, "s3")
	older, mirror := filepath.Join(d.dir, "mirror-older"), filepath.Join(d.dir, "mirror")
	b.stops(storage)
	b.must("mirror-objects", s3dir, older)
	b.must("mirror-objects", s3dir, mirror)
	storage = startS3()
	r.l.awaitMore(40)
	r.awaitSize(func(st status) uint64 { return st.Checkpointed })
	r.lose(window{name: "nothing", from: r.l.count()})
	b.stops(storage)
	b.must("mirror-objects", s3dir, mirror)
	b.refuses("missing or empty", "mirror-objects", filepath.Join(d.dir, "not-mounted"), mirror)
	b.stopReceiving()
	b.restore(base, "restored")
	b.begin("backup-again") // nothing commits before somebody receives the WAL
	b.receive()
	b.must("base-backup")

	b.replaceObjects(s3dir, older)
	storage = startS3()
	d.refusesToServe("object storage that is older than the database", nil, "object storage is behind the log", "newest state")
	d.doctorFinds("FAILED  the log in object storage", "FAILED  the newest documents", "object storage is behind the database")
	b.stops(storage)

	b.replaceObjects(s3dir, mirror)
	startS3()
	if findings := d.must("doctor"); strings.Contains(findings, "FAILED") || !strings.Contains(findings, "all checks passed") {
		t.Errorf("doctor after the restoration:\n%s", findings)
	}
	r.s = d.serve(r.address, nil)
	r.s.awaitReady()
	r.l.awaitMore(40)
	r.l.stop()
	v := r.s.check(r.l.all(), nil)
	t.Logf("%d acknowledged (%d after repetition), %d entries of which %d void, %d recoveries", r.l.count(), r.l.retry, v.entries, v.voids, v.recoveries)
	d.checkDeclared(d.connect(), v.log)
	d.checkLocks()
	r.s.exitsCleanly()
	d.fsck(0, "--deep")
}

func (b *backups) stops(p *process) {
	b.d.t.Helper()
	if _, err := p.stop(b.d.t.Context()); err != nil {
		b.d.t.Fatal(err)
	}
}

// replaceObjects puts a mirror into an empty place.
func (b *backups) replaceObjects(dir, mirror string) {
	b.d.t.Helper()
	if err := os.RemoveAll(dir); err != nil {
		b.d.t.Fatal(err)
	}
	b.must("mirror-objects", mirror, dir)
}

// checkLocks: the versions that rows name can't be deleted, as before.
func (d *deployment) checkLocks() {
	t := d.t
	t.Helper()
	documents, err := d.rows().NewestDocuments(t.Context(), 1000)
	if err != nil || len(documents) == 0 {
		t.Fatalf("%d documents, %v", len(documents), err)
	}
	client, bucket := d.objectStorage(), d.env["CALPE_S3_DOCUMENTS_BUCKET"]
	for _, document := range documents {
		remove := minio.RemoveObjectOptions{VersionID: document.Object.VersionID}
		if err := client.RemoveObject(t.Context(), bucket, document.Object.Name, remove); err == nil {
			t.Errorf("the object of the document with index %d could be deleted", document.Index)
		}
	}
}
