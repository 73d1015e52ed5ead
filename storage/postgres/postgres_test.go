package postgres

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/storage/postgres/postgrestest"
)

// testTime is a time for rows that need one.
var testTime = time.Date(2026, 11, 21, 9, 30, 0, 0, time.UTC)

// open gives a DB on a database of the test's own, migrated, without a log.
func open(t testing.TB, change ...func(*Config)) *DB {
	t.Helper()
	return openURL(t, postgrestest.URL(t), change...)
}

func openURL(t testing.TB, url string, change ...func(*Config)) *DB {
	t.Helper()
	cfg := Config{
		URL:            url,
		ConnectTimeout: time.Minute,
		LockTimeout:    time.Minute, // the machine may be busy; tests of time-outs set their own
		LeaderPoll:     10 * time.Millisecond,
		LeaderPing:     20 * time.Millisecond,
		LeaderTimeout:  time.Minute,
		Now:            func() time.Time { return testTime.Add(123 * time.Millisecond) },
	}
	for _, c := range change {
		c(&cfg)
	}
	db, err := Open(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

// openLog is open, with entry 0 in the log.
func openLog(t testing.TB, change ...func(*Config)) *DB {
	t.Helper()
	db := open(t, change...)
	createLog(t, db)
	return db
}

func createLog(t testing.TB, db *DB) {
	t.Helper()
	identity := []byte(`{"type":"calpe/identity/v1"}`)
	g := group(t, db, calpe.Submission{Commitments: []calpe.Commitment{sha256.Sum256(identity)}})
	d := calpe.Deployment{Identity: identity, Network: calpe.Regtest, Created: testTime}
	if _, err := db.CreateDeployment(t.Context(), d, g); err != nil {
		t.Fatal(err)
	}
}

// group makes a group for the instance that db is on, without a fence.
func group(t testing.TB, db *DB, submissions ...calpe.Submission) calpe.Group {
	t.Helper()
	i, err := db.Instance(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return groupOn(i, submissions...)
}

func groupOn(i calpe.Instance, submissions ...calpe.Submission) calpe.Group {
	g := calpe.Group{
		Time: testTime, Deadline: testTime.Add(time.Hour),
		Limit: calpe.MaxLogSize, Instance: i, Submissions: submissions,
	}
	rand.Read(g.ID[:])
	return g
}

// commitments makes n that nobody else makes from another seed.
func commitments(seed string, n int) []calpe.Commitment {
	list := make([]calpe.Commitment, n)
	for i := range list {
		list[i] = sha256.Sum256(binary.BigEndian.AppendUint64([]byte(seed), uint64(i)))
	}
	return list
}

func bare(seed string, n int) calpe.Submission {
	return calpe.Submission{Commitments: commitments(seed, n)}
}

// withKey gives a submission an Idempotency-Key.
func withKey(s calpe.Submission, owner, key string) calpe.Submission {
	tag := sha256.Sum256([]byte("tag of " + key))
	s.Idempotency = &calpe.Idempotency{Owner: owner, KeyHash: sha256.Sum256([]byte(key)), RequestTag: tag[:]}
	return s
}

// documentSubmission is an uploaded document, with a certification if agency isn't empty.
func documentSubmission(seed, owner, agency string) calpe.Submission {
	tag := sha256.Sum256([]byte("digest of " + seed))
	id := sha256.Sum256([]byte("id of " + seed))
	s := bare(seed, 1)
	s.Document = &calpe.Document{
		ID: calpe.DocumentID(id[:16]), Owner: owner,
		Object: calpe.Object{
			Name: "documents/" + seed, VersionID: "v-" + seed, PlainSize: 1000, Size: 1064, PartSize: 16 << 20,
			Checksum: "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=",
		},
		Sealed: []byte("sealed " + seed), DigestTag: tag[:], CodeHash: sha256.Sum256([]byte("code of " + seed)),
		RetainUntil: testTime.AddDate(10, 0, 0), Created: testTime,
	}
	s.Key = &calpe.WrappedKey{KeyID: "kek-1", Wrapped: []byte("wrapped key of " + seed + " ....")}
	if agency != "" {
		s.Commitments = append(s.Commitments, commitments("certification of "+seed, 1)...)
		s.Document.Certification = 1
		s.Certification = &calpe.Certification{Index: 1, Agency: agency, Sealed: []byte("sealed certification of " + seed)}
	}
	return s
}

// agencySubmission registers an agency by a statement.
func agencySubmission(id string) calpe.Submission {
	s := bare("agency "+id, 1)
	s.Statement = &calpe.Statement{Type: "calpe/agency/v1", Body: []byte(`{"agency":"` + id + `"}`), Salt: calpe.Salt{1, 2, 3}}
	s.Agency = &calpe.Agency{ID: id, Name: "Agency " + id, Key: id + "+00000000+AQ==", Added: testTime}
	return s
}

func mustCommit(t testing.TB, db *DB, g calpe.Group) calpe.GroupResult {
	t.Helper()
	r, err := db.CommitGroup(t.Context(), g)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func mustNext(t testing.TB, db *DB) uint64 {
	t.Helper()
	next, err := db.NextIndex(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return next
}

// readAll reads the whole log, which must be dense.
func readAll(t testing.TB, db *DB) []calpe.Commitment {
	t.Helper()
	var log []calpe.Commitment
	err := db.ReadEntries(t.Context(), 0, mustNext(t, db), func(first uint64, c []calpe.Commitment) error {
		if first != uint64(len(log)) {
			t.Fatalf("chunk at %d, want %d", first, len(log))
		}
		log = append(log, c...)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return log
}

// wantErr fails the test unless err is want (nil included).
func wantErr(t testing.TB, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

func TestOpenSetsTheSession(t *testing.T) {
	t.Parallel()
	u := postgrestest.URL(t)
	parsed, err := url.Parse(u)
	if err != nil {
		t.Fatal(err)
	}
	database := parsed.Path[1:]
	// What an administrator, or a URL, may have set goes behind.
	postgrestest.Exec(t, u, `ALTER DATABASE `+database+` SET synchronous_commit = off`)
	postgrestest.Exec(t, u, `ALTER DATABASE `+database+` SET default_transaction_isolation = 'serializable'`)
	db := openURL(t, u+"&options=-c%20synchronous_commit%3Doff", func(c *Config) {
		c.StatementTimeout, c.LockTimeout = 7*time.Second, 20*time.Second
	})

	want := map[string]string{
		"synchronous_commit": "on", "application_name": "calped", "statement_timeout": "7s", "lock_timeout": "20s",
		"idle_in_transaction_session_timeout": "5s", "default_transaction_isolation": "read committed", "TimeZone": "UTC",
	}
	for name, value := range want {
		var got string
		if err := db.pool.QueryRow(t.Context(), `SELECT current_setting($1)`, name).Scan(&got); err != nil {
			t.Fatal(err)
		}
		if got != value {
			t.Errorf("%s is %q, want %q", name, got, value)
		}
	}
}

func TestOpenFailsWithoutSecret(t *testing.T) {
	t.Parallel()
	for name, u := range map[string]string{
		"no server": "postgres://calpe:hunter2secret@127.0.0.1:1/calpe",
		"bad URL":   "postgres://calpe:hunter2secret@127.0.0.1:port/calpe",
	} {
		_, err := Open(t.Context(), Config{URL: u, ConnectTimeout: time.Second})
		if err == nil {
			t.Fatalf("%s: opened", name)
		}
		if s := err.Error(); len(s) == 0 || strings.Contains(s, "hunter2secret") {
			t.Errorf("%s: error shows the password: %v", name, err)
		}
	}
	_, err := Open(t.Context(), Config{URL: "postgres://calpe@127.0.0.1:1/calpe", ConnectTimeout: time.Second})
	if calpe.ErrorCode(err) != calpe.CodeUnavailable {
		t.Errorf("unreachable server: %v has code %s, want %s", err, calpe.ErrorCode(err), calpe.CodeUnavailable)
	}
}

func TestCheckSchema(t *testing.T) {
	t.Parallel()
	if err := openURL(t, postgrestest.Empty(t)).CheckSchema(t.Context()); err == nil {
		t.Error("an unmigrated database passes")
	}
	if err := open(t).CheckSchema(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestInstance(t *testing.T) {
	t.Parallel()
	db := open(t)
	i, err := db.Instance(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if i.Timeline == 0 || i.SystemIdentifier == "" || i.Started.IsZero() {
		t.Errorf("instance %+v has a part unset", i)
	}
	parsed, err := calpe.ParseInstance(i.String())
	if err != nil || !parsed.Equal(i) {
		t.Errorf("instance %s comes back as %s, %v", i, parsed, err)
	}
	again, err := open(t).Instance(t.Context())
	if err != nil || !again.Equal(i) {
		t.Errorf("another database of the server is on instance %s, want %s (%v)", again, i, err)
	}
}

// A user with no right but on the tables can run the service.
func TestInstanceNeedsNoPrivilege(t *testing.T) {
	t.Parallel()
	u := postgrestest.URL(t)
	conn, err := pgx.Connect(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	tx, err := conn.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.Background())
	if _, err := tx.Exec(t.Context(), `CREATE ROLE calpe_test_plain`); err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec(t.Context(), `SET LOCAL ROLE calpe_test_plain`); err != nil {
		t.Fatal(err)
	}
	if _, err := readInstance(t.Context(), tx); err != nil {
		t.Error(err)
	}
	var s settings
	if err := tx.QueryRow(t.Context(), settingsSQL).Scan(s.columns()...); err != nil {
		t.Error(err)
	}
}
