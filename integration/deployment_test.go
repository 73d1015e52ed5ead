package integration

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/statement"
	"github.com/calpe/calpe/storage/postgres"
	"github.com/calpe/calpe/storage/s3"
)

// Settings under which a document becomes final in seconds.
const (
	testDepth  = 3
	testOrigin = "notary.example/log"
	testAgency = "registry-office"
)

// deployment is a Calpe service with servers of its own, set up as an operator
// does. Object storage is shared, the buckets are not.
type deployment struct {
	t        testing.TB
	dir      string
	bin      programs
	db       *database
	node     *node
	env      map[string]string // what all calped commands get
	token    string
	identity receipt.Identity
	agency   statement.Key
	http     *http.Client
	logs     []string // of every server that was started

	ownStorage bool // its folder goes with the test's
}

func deploy(t testing.TB) *deployment {
	t.Helper()
	d := prepare(t)
	d.create()
	return d
}

// prepare starts the servers and makes settings and keys: all that comes before
// the log exists.
func prepare(t testing.TB) *deployment {
	t.Helper()
	d := &deployment{t: t, dir: t.TempDir(), bin: built(t)}
	d.http = &http.Client{Timeout: patience, Transport: &http.Transport{MaxIdleConnsPerHost: 16, ExpectContinueTimeout: patience}}
	t.Cleanup(d.http.CloseIdleConnections)
	t.Cleanup(d.epilogue)
	started := make(chan struct{})
	go func() {
		defer close(started)
		d.node = startNode(t, d.dir)
	}()
	d.db = startDatabase(t, d.dir)
	<-started
	if d.node == nil {
		t.FailNow()
	}
	password, _ := d.node.user.Password()
	unique := make([]byte, 6)
	rand.Read(unique)
	d.env = map[string]string{
		"CALPE_DATABASE_URL":         d.db.info.URL,
		"CALPE_S3_ENDPOINT":          setting(t, "CALPE_TEST_S3_ENDPOINT"),
		"CALPE_S3_ACCESS_KEY":        setting(t, "CALPE_TEST_S3_ACCESS_KEY"),
		"CALPE_S3_SECRET_KEY":        setting(t, "CALPE_TEST_S3_SECRET_KEY"),
		"CALPE_S3_DOCUMENTS_BUCKET":  "documents-" + hex.EncodeToString(unique),
		"CALPE_S3_LOG_BUCKET":        "log-" + hex.EncodeToString(unique),
		"CALPE_BITCOIN_URL":          d.node.url.String(),
		"CALPE_BITCOIN_USER":         d.node.user.Username(),
		"CALPE_BITCOIN_PASSWORD":     password,
		"CALPE_KEYS":                 filepath.Join(d.dir, "keys"),
		"CALPE_NETWORK":              "regtest",
		"CALPE_LOG_LEVEL":            "info",
		"CALPE_SEAL_INTERVAL":        "300ms",
		"CALPE_ANCHOR_INTERVAL":      "1s",
		"CALPE_ANCHOR_POLL":          "300ms",
		"CALPE_ANCHOR_DEPTH":         fmt.Sprint(testDepth),
		"CALPE_DOCUMENT_RETAIN_FOR":  "1h",
		"CALPE_DOCUMENT_RETAIN_MODE": "governance",
		"CALPE_DOCUMENT_MAX_SIZE":    fmt.Sprint(64 << 20),
	}
	return d
}

// create does what comes before the first "calped serve".
func (d *deployment) create() {
	d.t.Helper()
	d.must("migrate")
	d.must("init", "--origin", testOrigin)
	address := strings.TrimSpace(d.must("wallet", "address"))
	d.node.fund(address, 20_000_000)
	d.must("log", "create", "--create-buckets")
	if !d.ownStorage {
		d.t.Cleanup(d.removeBuckets)
	}
	d.token = strings.TrimSpace(d.must("token", "create", "--owner", "citizen"))
	var err error
	if d.identity, err = receipt.ParseIdentity([]byte(d.must("log", "show"))); err != nil {
		d.t.Fatal(err)
	}
	if d.agency, err = statement.GenerateKey(rand.Reader, testAgency); err != nil {
		d.t.Fatal(err)
	}
	d.must("agency", "add", "--id", testAgency, "--name", "Registry Office", "--key", d.agency.Verifier())
}

func (d *deployment) environ(extra map[string]string) []string {
	all := maps.Clone(d.env)
	maps.Copy(all, extra)
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + d.dir, "TMPDIR=" + d.dir}
	for name, value := range all {
		env = append(env, name+"="+value)
	}
	slices.Sort(env)
	return env
}

// calped runs a command of the operator to its end.
func (d *deployment) calped(extra map[string]string, args ...string) (stdout, stderr string, code int) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, d.bin.calped, args...)
	var out, errs bytes.Buffer
	cmd.Env, cmd.Stdout, cmd.Stderr = d.environ(extra), &out, &errs
	err := cmd.Run()
	if cmd.ProcessState == nil || ctx.Err() != nil {
		d.t.Fatalf("calped %v: %v, %v\n%s", args, err, ctx.Err(), errs.String())
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// must is calped for commands that can't fail here.
func (d *deployment) must(args ...string) string {
	d.t.Helper()
	out, errs, code := d.calped(nil, args...)
	if code != 0 {
		d.t.Fatalf("calped %v: exit code %d\n%s", args, code, errs)
	}
	return out
}

// server is one "calped serve".
type server struct {
	*process
	d   *deployment
	url string
}

// serve starts a server on an address. Extra settings win over the deployment's.
func (d *deployment) serve(address string, extra map[string]string) *server {
	d.t.Helper()
	log := filepath.Join(d.dir, fmt.Sprintf("calped-%03d.log", len(d.logs)))
	d.logs = append(d.logs, log)
	env := map[string]string{"CALPE_LISTEN": address}
	maps.Copy(env, extra)
	p, err := tryLaunch(d.t.Context(), "calped", log, d.environ(env), nil, d.bin.calped, "serve")
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(p.kill)
	return &server{process: p, d: d, url: "http://" + address}
}

// awaitReady waits until every dependency of the server works.
func (s *server) awaitReady() {
	s.d.t.Helper()
	eventually(s.d.t, "server is ready", func(ctx context.Context) error {
		select {
		case <-s.done:
			s.d.t.Fatalf("calped ended with exit code %d:\n%s", s.cmd.ProcessState.ExitCode(), tail(s.log, 20))
		default:
		}
		status, body, err := s.d.get(ctx, s.url+"/readyz", "")
		if err != nil {
			return err
		}
		if status != http.StatusOK {
			return fmt.Errorf("%d %s", status, body)
		}
		return nil
	})
}

// get reads an address whole.
func (d *deployment) get(ctx context.Context, url, token string) (status int, body []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	if token != "" {
		request.Header.Set("Authorization", "Bearer "+token)
	}
	answer, err := d.http.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer answer.Body.Close()
	body, err = io.ReadAll(answer.Body)
	return answer.StatusCode, body, err
}

// getJSON reads an address that must answer 200.
func (d *deployment) getJSON(ctx context.Context, url string, into any) error {
	status, body, err := d.get(ctx, url, d.token)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("GET %s: %d %s", url, status, body)
	}
	return json.Unmarshal(body, into)
}

type status struct {
	Next, Checkpointed, Broadcast, Confirmed, Final uint64
}

func (s *server) status(ctx context.Context) (st status, err error) {
	return st, s.d.getJSON(ctx, s.url+"/v1/status", &st)
}

// awaitFinal waits until everything below size is final. Somebody must mine.
func (s *server) awaitFinal(size uint64) {
	s.d.t.Helper()
	eventually(s.d.t, "entries are final", func(ctx context.Context) error {
		st, err := s.status(ctx)
		if err == nil && st.Final < size {
			err = fmt.Errorf("want %d entries final: %+v", size, st)
		}
		return err
	})
}

// connect opens a connection to the database beside the server's.
func (d *deployment) connect() *pgx.Conn {
	d.t.Helper()
	conn, err := pgx.Connect(d.t.Context(), d.db.info.URL)
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() { conn.Close(context.WithoutCancel(d.t.Context())) })
	return conn
}

// store and rows are the product's own adapters, for the sweep.
func (d *deployment) store() *s3.Store {
	d.t.Helper()
	s, err := s3.New(s3.Config{
		Endpoint: d.env["CALPE_S3_ENDPOINT"], AccessKey: d.env["CALPE_S3_ACCESS_KEY"], SecretKey: d.env["CALPE_S3_SECRET_KEY"],
		DocumentsBucket: d.env["CALPE_S3_DOCUMENTS_BUCKET"], LogBucket: d.env["CALPE_S3_LOG_BUCKET"],
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return s
}

func (d *deployment) rows() *postgres.DB {
	d.t.Helper()
	db, err := postgres.Open(d.t.Context(), postgres.Config{URL: d.db.info.URL})
	if err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(db.Close)
	return db
}

// epilogue looks for data races in the servers' logs, and shows the last log of
// a test that failed.
func (d *deployment) epilogue() {
	for _, log := range d.logs {
		if text, err := os.ReadFile(log); err == nil && bytes.Contains(text, []byte("DATA RACE")) {
			d.t.Errorf("a server has a data race:\n%s", text[bytes.Index(text, []byte("WARNING: DATA RACE")):])
			return
		}
	}
	if d.t.Failed() {
		for _, log := range d.logs[max(0, len(d.logs)-3):] {
			d.t.Logf("the end of %s:\n%s", filepath.Base(log), tail(log, 40))
		}
	}
}
