package postgres

import (
	"bufio"
	"context"
	"encoding/json"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/migrations"
	"github.com/calpe/calpe/storage/postgres/postgrestest"
)

// server is a PostgreSQL server of the test's own.
type server struct {
	dir string
	url string
	cmd *exec.Cmd
}

// startServer runs a durable server on dir until the test ends.
func startServer(t *testing.T, dir string) *server {
	t.Helper()
	devstack := os.Getenv("CALPE_TEST_DEVSTACK")
	if devstack == "" {
		t.Fatal("CALPE_TEST_DEVSTACK is not set: run `make test`, which builds the launcher of the tests' servers")
	}
	s := &server{dir: dir}
	s.cmd = exec.Command(devstack, "postgres", "--durable", "--dir", dir)
	s.cmd.Stderr = os.Stderr
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		t.Fatalf("the server said nothing: %v", err)
	}
	var info struct{ URL string }
	if err := json.Unmarshal(line, &info); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	s.url = info.URL
	return s
}

// stop shuts the server down and waits until it is gone.
func (s *server) stop() {
	if s.cmd.ProcessState != nil {
		return
	}
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	_ = s.cmd.Wait()
}

// migrated gives the server's own database the schema.
func (s *server) migrated(t *testing.T) string {
	t.Helper()
	if err := migrations.Up(t.Context(), s.url, nil); err != nil {
		t.Fatal(err)
	}
	return s.url
}

func TestCheckSettings(t *testing.T) {
	t.Parallel()
	good := settings{version: 170002, versionText: "17.2", fsync: true, fullPageWrites: true, synchronousCommit: "on"}
	for name, test := range map[string]struct {
		change func(*settings)
		allow  bool
		want   []string // parts of the refusals; none: accepted
	}{
		"good":                       {change: func(*settings) {}},
		"old":                        {change: func(s *settings) { s.version, s.versionText = 130014, "13.14" }, want: []string{"13.14"}},
		"oldest":                     {change: func(s *settings) { s.version = 140000 }},
		"standby":                    {change: func(s *settings) { s.standby = true }, want: []string{"connect to the primary"}},
		"no fsync":                   {change: func(s *settings) { s.fsync = false }, want: []string{"fsync = on"}},
		"no full pages":              {change: func(s *settings) { s.fullPageWrites = false }, want: []string{"full_page_writes = on"}},
		"session not as asked":       {change: func(s *settings) { s.synchronousCommit = "off" }, want: []string{"synchronous_commit is off"}},
		"asynchronous standby":       {change: func(s *settings) { s.standbys = 2 }, want: []string{"2 standbys"}},
		"accepted":                   {change: func(s *settings) { s.standbys = 2 }, allow: true},
		"synchronous standby":        {change: func(s *settings) { s.standbys, s.synchronousNames = 2, "first" }},
		"accepting doesn't help all": {change: func(s *settings) { s.fsync = false }, allow: true, want: []string{"fsync"}},
		"all at once": {
			change: func(s *settings) { s.fsync, s.fullPageWrites, s.standby = false, false, true },
			want:   []string{"fsync is off", "full_page_writes is off", "standby"},
		},
	} {
		s := good
		test.change(&s)
		err := s.check(test.allow)
		if (err != nil) != (len(test.want) > 0) {
			t.Errorf("%s: %v, want %q", name, err, test.want)
			continue
		}
		for _, part := range test.want {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v lacks %q", name, err, part)
			}
		}
	}
}

// The server of the other tests is fast and may lose commits: just what must be refused.
func TestCheckSettingsRefusesTestServer(t *testing.T) {
	t.Parallel()
	var fsync bool
	db := open(t)
	if err := db.pool.QueryRow(t.Context(), `SELECT current_setting('fsync')::bool`).Scan(&fsync); err != nil {
		t.Fatal(err)
	}
	if err := db.CheckSettings(t.Context(), true); (err != nil) == fsync {
		t.Errorf("server with fsync=%v: %v", fsync, err)
	}
}

func TestCheckSettingsOnDurableServer(t *testing.T) {
	t.Parallel()
	s := startServer(t, t.TempDir())
	db := openURL(t, s.url)
	if err := db.CheckSettings(t.Context(), false); err != nil {
		t.Errorf("durable server refused: %v", err)
	}
	// What makes backups receives WAL as well, and is no standby. An ordinary role
	// sees less of it than a superuser.
	postgrestest.Exec(t, s.url, `CREATE ROLE ordinary LOGIN PASSWORD 'secret'`)
	u := mustParse(t, s.url)
	u.User = url.UserPassword("ordinary", "secret")
	for _, name := range []string{"pg_basebackup", "pg_receivewal"} {
		walsender(t, s.url, name)
	}
	for _, db := range []*DB{db, openURL(t, u.String())} {
		if err := db.CheckSettings(t.Context(), false); err != nil {
			t.Errorf("a base backup and an archive: %v", err)
		}
	}
	// COMMIT waiting for the archive doesn't make a standby synchronous.
	walsender(t, s.url, "walreceiver")
	setNames := func(names string) {
		postgrestest.Exec(t, s.url, `ALTER SYSTEM SET synchronous_standby_names = '`+names+`'`)
		postgrestest.Exec(t, s.url, `SELECT pg_reload_conf()`)
		eventually(t, "the setting is read", func() (is bool) {
			err := db.pool.QueryRow(t.Context(), `SELECT current_setting('synchronous_standby_names') = $1`, names).Scan(&is)
			return err == nil && is
		})
	}
	for names, refused := range map[string]bool{
		"pg_receivewal": true, "FIRST 1 (pg_receivewal)": true, `ANY 1 ("pg_receivewal")`: true, "1 (pg_receivewal)": true,
		"*": false, "FIRST 2 (pg_receivewal, berlin)": false, "any_one": false,
	} {
		setNames(names)
		ordinary := openURL(t, u.String()) // older connections may not have read the setting yet
		if err := ordinary.CheckSettings(t.Context(), false); (err != nil) != refused {
			t.Errorf("a standby, and synchronous_standby_names = '%s': %v", names, err)
		}
	}
	setNames("")
	if err := db.CheckSettings(t.Context(), false); err == nil || !strings.Contains(err.Error(), "synchronous_standby_names") {
		t.Errorf("asynchronous standby: %v", err)
	}
	if err := db.CheckSettings(t.Context(), true); err != nil {
		t.Errorf("asynchronous standby that was allowed: %v", err)
	}
	postgrestest.Exec(t, s.url, `ALTER SYSTEM SET full_page_writes = off`)
	postgrestest.Exec(t, s.url, `SELECT pg_reload_conf()`)
	if err := db.CheckSettings(t.Context(), true); err != nil {
		t.Errorf("a command line setting goes before ALTER SYSTEM: %v", err)
	}
}

// walsender is a connection that receives WAL, until the test ends.
func walsender(t *testing.T, dsn, name string) {
	t.Helper()
	cc, err := pgconn.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	cc.RuntimeParams["replication"], cc.RuntimeParams["application_name"] = "true", name
	conn, err := pgconn.ConnectConfig(t.Context(), cc)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.WithoutCancel(t.Context())) })
}

// A restarted server may have lost what it had committed, for all we know.
func TestRestartIsAnotherInstance(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startServer(t, dir)
	before := openURL(t, s.migrated(t))
	createLog(t, before)
	first, err := before.Instance(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	mustCommit(t, before, groupOn(first, bare("a", 1)))
	before.Close()
	s.stop()

	again := openURL(t, startServer(t, dir).url)
	second, err := again.Instance(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if second.Equal(first) || second.SystemIdentifier != first.SystemIdentifier || second.Timeline != first.Timeline {
		t.Errorf("instance %s after restart, %s before", second, first)
	}
	_, err = again.CommitGroup(t.Context(), groupOn(first, bare("b", 1)))
	wantErr(t, "a group for the server before the restart", err, calpe.ErrOtherInstance)
	if r := mustCommit(t, again, groupOn(second, bare("b", 1))); r.First != 2 {
		t.Errorf("first %d, want 2", r.First)
	}
}

// A copy of the data that comes up as a standby and is promoted is another
// instance, on another timeline; connections from before know nothing of it.
func TestPromotionIsAnotherInstance(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startServer(t, dir)
	primary := openURL(t, s.migrated(t))
	createLog(t, primary)
	first, err := primary.Instance(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	primary.Close()
	s.stop()
	signal := filepath.Join(dir, "data", "standby.signal")
	if err := os.WriteFile(signal, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	db := openURL(t, startServer(t, dir).url)
	other := openURL(t, db.cfg.URL)
	standby, err := db.Instance(t.Context())
	if err != nil || standby.Timeline != 0 {
		t.Errorf("standby is instance %s, %v, want timeline 0", standby, err)
	}
	if err := db.CheckSettings(t.Context(), true); err == nil || !strings.Contains(err.Error(), "standby") {
		t.Errorf("standby: %v", err)
	}
	for _, process := range []*DB{db, other} {
		_, err = process.CommitGroup(t.Context(), groupOn(standby, bare("a", 1)))
		wantErr(t, "group on a standby", err, calpe.ErrNotCommitted)
	}

	postgrestest.Exec(t, db.cfg.URL, `SELECT pg_promote()`)
	_, err = db.CommitGroup(t.Context(), groupOn(first, bare("a", 1)))
	wantErr(t, "group for the former primary", err, calpe.ErrOtherInstance)
	promoted, err := db.Instance(t.Context())
	if err != nil || promoted.Timeline != first.Timeline+1 {
		t.Errorf("promoted server is instance %s, %v; the primary was %s", promoted, err, first)
	}
	if r := mustCommit(t, db, groupOn(promoted, bare("a", 1))); r.First != 1 {
		t.Errorf("first %d, want 1", r.First)
	}
	// A process that never asked has a connection from before, and gets rid of it.
	_, err = other.CommitGroup(t.Context(), groupOn(promoted, bare("b", 1)))
	wantErr(t, "group on a connection to the standby", err, calpe.ErrOtherInstance)
	if r := mustCommit(t, other, groupOn(promoted, bare("b", 1))); r.First != 2 {
		t.Errorf("first %d, want 2", r.First)
	}
}

// The answer to COMMIT is lost, and the next connection ends on another server:
// nobody can tell what the first one did.
func TestCommitWithoutAnswerThenOtherInstance(t *testing.T) {
	t.Parallel()
	direct := openLog(t)
	u := mustParse(t, direct.cfg.URL)
	if _, ok := u.User.Password(); !ok { // a server that trusts everybody takes any
		u.User = url.UserPassword(u.User.Username(), "anything")
	}
	other := startServer(t, t.TempDir())
	letIn(t, other, u)
	elsewhere := *u
	elsewhere.Host = mustParse(t, other.url).Host
	if err := migrations.Up(t.Context(), elsewhere.String(), nil); err != nil {
		t.Fatal(err)
	}
	createLog(t, openURL(t, elsewhere.String())) // so that it could answer, wrongly

	p, proxied := newProxy(t, u.String())
	db := openURL(t, proxied)
	g := group(t, db, bare("a", 1))
	p.arm(cutAfter, 0)
	p.mu.Lock()
	p.next = elsewhere.Host
	p.mu.Unlock()
	r, err := db.CommitGroup(t.Context(), g)
	wantErr(t, "answer", err, calpe.ErrUnknownOutcome)
	if r.First != 1 {
		t.Errorf("the group would stand at %d, want 1", r.First)
	}
	if stored, err := direct.GroupOf(t.Context(), r.First); err != nil || stored.ID != g.ID {
		t.Errorf("group in the log: %s, %v", stored.ID, err)
	}
}

// letIn makes the server accept the user, password and database of u.
func letIn(t *testing.T, s *server, u *url.URL) {
	t.Helper()
	name := u.User.Username()
	password, _ := u.User.Password()
	postgrestest.Exec(t, s.url, "CREATE DATABASE "+strings.TrimPrefix(u.Path, "/"))
	admin := mustParse(t, s.url).User.Username()
	if name != admin {
		postgrestest.Exec(t, s.url, "CREATE ROLE "+name+" SUPERUSER LOGIN")
	}
	postgrestest.Exec(t, s.url, "ALTER ROLE "+name+" PASSWORD '"+password+"'")
}

func mustParse(t *testing.T, raw string) *url.URL {
	t.Helper()
	u, err := url.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// The synchronous standby is away: the server commits and doesn't answer. Giving
// up the wait makes the commit visible, but not safe: it must not count as done.
func TestCommitWithoutSynchronousStandby(t *testing.T) {
	t.Parallel()
	s := startServer(t, t.TempDir())
	db := openURL(t, s.migrated(t), func(c *Config) { c.ResolveTimeout = time.Second })
	createLog(t, db)
	g := group(t, db, withKey(bare("a", 1), "ana", "key"))
	setStandby := func(name string) {
		postgrestest.Exec(t, s.url, `ALTER SYSTEM SET synchronous_standby_names = '`+name+`'`)
		postgrestest.Exec(t, s.url, `SELECT pg_reload_conf()`)
	}
	setStandby("nobody")
	eventually(t, "commits wait for the standby", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		return db.barrier(ctx, "try") != nil
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() {
		defer cancel() // whoever called loses patience when COMMIT waits
		for waiting := 0; waiting == 0 && wait(ctx, 5*time.Millisecond) == nil; {
			const sql = `SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query = 'commit'`
			if err := db.pool.QueryRow(ctx, sql).Scan(&waiting); err != nil && ctx.Err() == nil {
				t.Errorf("look for the commit: %v", err)
			}
		}
	}()
	r, err := db.CommitGroup(ctx, g)
	wantErr(t, "answer", err, calpe.ErrUnknownOutcome)
	if stored, err := db.Entry(t.Context(), r.First); err != nil || stored.Commitment != g.Submissions[0].Commitments[0] {
		t.Errorf("group is not visible: %v", err)
	}
	// Whoever repeats the request must not be told before it is safe, either.
	for what, ask := range map[string]func(ctx context.Context) error{
		"the key": func(ctx context.Context) error {
			_, err := db.Idempotency(ctx, "ana", g.Submissions[0].Idempotency.KeyHash)
			return err
		},
		"the request again": func(ctx context.Context) error {
			_, err := db.CommitGroup(ctx, group(t, db, withKey(bare("a", 1), "ana", "key")))
			return err
		},
		"what was to be acknowledged": func(ctx context.Context) error {
			_, err := db.GroupOf(ctx, r.First)
			return err
		},
		"the intake lock": func(ctx context.Context) error {
			return db.WithIntakeLock(ctx, func(context.Context) error { return nil })
		},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		if err := ask(ctx); calpe.ErrorCode(err) != calpe.CodeUnavailable {
			t.Errorf("%s, before the standby is back: %v", what, err)
		}
		cancel()
	}
	// The wait is ended from outside, with a warning that comes with COMMIT's answer.
	for what, ask := range map[string]struct {
		call func() error
		want error
	}{
		"a new group": {func() error {
			_, err := db.CommitGroup(t.Context(), group(t, db, bare("b", 1)))
			return err
		}, calpe.ErrUnknownOutcome},
		"the request again": {func() error {
			_, err := db.CommitGroup(t.Context(), group(t, db, withKey(bare("a", 1), "ana", "key")))
			return err
		}, calpe.ErrNotCommitted},
	} {
		done := make(chan error, 1)
		go func() { done <- ask.call() }()
		eventually(t, "every wait for the standby is cancelled, and the call gives up", func() bool {
			const sql = `SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'`
			if _, err := db.pool.Exec(t.Context(), sql); err != nil {
				t.Fatal(err)
			}
			return len(done) > 0
		})
		wantErr(t, what+" after a cancelled wait", <-done, ask.want)
	}
	setStandby("")
	if r := mustCommit(t, db, group(t, db, bare("c", 1))); r.First != 3 {
		t.Errorf("first %d, want 3", r.First)
	}
}
