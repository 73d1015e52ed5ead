package intake_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/batch"
	"github.com/calpe/calpe/batch/batchtest"
	"github.com/calpe/calpe/intake"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/migrations"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/statement"
	"github.com/calpe/calpe/storage/keyring"
	"github.com/calpe/calpe/storage/postgres"
	"github.com/calpe/calpe/storage/postgres/postgrestest"
	"github.com/calpe/calpe/storage/s3"
)

// The adapters satisfy what their consumers declare.
var (
	_ intake.Groups         = (*postgres.DB)(nil)
	_ intake.RecoveryStore  = (*postgres.DB)(nil)
	_ intake.CheckpointHead = (*postgres.DB)(nil)
	_ intake.Documents      = (*postgres.DB)(nil)
	_ intake.Agencies       = (*postgres.DB)(nil)
	_ intake.RetentionRows  = (*postgres.DB)(nil)
	_ intake.KnownObjects   = (*postgres.DB)(nil)
	_ batch.Entries         = (*postgres.DB)(nil)
	_ batch.Checkpoints     = (*postgres.DB)(nil)
	_ intake.FenceStore     = (*s3.Store)(nil)
	_ intake.ObjectStore    = (*s3.Store)(nil)
	_ intake.OrphanStore    = (*s3.Store)(nil)
	_ batch.Objects         = (*s3.Store)(nil)
	_ intake.Published      = (*batch.Log)(nil)
	_ intake.Keys           = (*keyring.Ring)(nil)
)

func env(t *testing.T, name string) string {
	t.Helper()
	value := os.Getenv(name)
	if value == "" {
		t.Fatalf("%s is not set: run `make test`, which starts the servers of the tests", name)
	}
	return value
}

// site is a deployment on real stores.
type site struct {
	log   batchtest.Log
	url   string
	store *s3.Store
	ring  *keyring.Ring

	documents string          // bucket
	seen      map[string]bool // versions of objects that a scan has read
}

func newSite(t *testing.T, url string) *site {
	t.Helper()
	id := strings.ToLower(rand.Text())
	store, err := s3.New(s3.Config{
		Endpoint: env(t, "CALPE_TEST_S3_ENDPOINT"), AccessKey: env(t, "CALPE_TEST_S3_ACCESS_KEY"), SecretKey: env(t, "CALPE_TEST_S3_SECRET_KEY"),
		DocumentsBucket: "t" + id + "-documents", LogBucket: "t" + id + "-log", UploadMemory: 64 << 20, RetryDelay: time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := store.CreateBuckets(t.Context()); err != nil {
		t.Fatal(err)
	}
	path := t.TempDir() + "/keyring"
	if err := keyring.Create(path, time.Now()); err != nil {
		t.Fatal(err)
	}
	ring, err := keyring.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	s := &site{log: batchtest.NewLog(t, "log.example/"+id), url: url, store: store, ring: ring, documents: "t" + id + "-documents", seen: map[string]bool{}}
	s.create(t)
	return s
}

// create writes entry 0.
func (s *site) create(t *testing.T) {
	t.Helper()
	db := s.open(t)
	instance, err := db.Instance(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC().Truncate(time.Second)
	_, err = db.CreateDeployment(t.Context(), calpe.Deployment{Identity: s.log.Identity.Canonical(), Network: calpe.Regtest, Created: now}, calpe.Group{
		ID: calpe.GroupID{1}, Time: now, Deadline: now.Add(time.Hour), Limit: 1, Instance: instance,
		Submissions: []calpe.Submission{{Commitments: []calpe.Commitment{s.log.Identity.Entry().Commitment}}},
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (s *site) open(t *testing.T) *postgres.DB {
	t.Helper()
	db, err := postgres.Open(t.Context(), postgres.Config{URL: s.url, Logger: quiet(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(db.Close)
	return db
}

func quiet(t *testing.T) *slog.Logger { return slog.New(slog.NewTextHandler(t.Output(), nil)) }

// server is one server process of the site, within this one.
type server struct {
	*intake.Recorder
	*intake.Service
	db     *postgres.DB
	log    *batch.Log
	sealer *batch.Sealer
}

func (s *site) serve(t *testing.T) *server {
	t.Helper()
	v := &server{db: s.open(t)}
	var err error
	if v.log, err = batch.NewLog(batch.LogConfig{Objects: s.store, Open: s.log.Open}); err != nil {
		t.Fatal(err)
	}
	v.Recorder, err = intake.NewRecorder(intake.RecorderConfig{
		Log: s.log.Identity.Hash(), Groups: v.db, Recovery: v.db, Checkpoints: v.db, Fence: s.store, Published: v.log,
		Acknowledge: s.log.Acknowledge, Statements: s.log.Statement, RetryDelay: 50 * time.Millisecond, Logger: quiet(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	v.Service, err = intake.NewService(intake.ServiceConfig{
		Recorder: v.Recorder, Objects: s.store, Documents: v.db, Agencies: v.db, Keys: s.ring, NewName: s3.NewDocumentName, Logger: quiet(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	v.sealer, err = batch.NewSealer(batch.SealerConfig{
		Entries: v.db, Checkpoints: v.db, Objects: s.store, Log: v.log, Sign: s.log.Sign, Logger: quiet(t),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- v.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	if err := v.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	return v
}

// sealAll leads, seals everything, and gives the checkpoint.
func (v *server) sealAll(t *testing.T) (cp calpe.Checkpoint) {
	t.Helper()
	sealed := errors.New("sealed")
	err := v.db.Lead(t.Context(), "batch", func(ctx context.Context, epoch uint64) (err error) {
		if err := v.sealer.Preflight(ctx, epoch); err != nil {
			return err
		}
		if cp, err = v.sealer.Seal(ctx, epoch); err != nil {
			return err
		}
		return sealed
	})
	if !errors.Is(err, sealed) {
		t.Fatal(err)
	}
	return cp
}

// TestRealStores takes documents and commitments in on two servers at once, on a
// real database and real object storage, and proves every entry.
func TestRealStores(t *testing.T) {
	t.Parallel()
	s := newSite(t, postgrestest.URL(t))
	servers := []*server{s.serve(t), s.serve(t)}
	agency := batchtest.Key(t, "town-hall")
	if _, err := servers[0].RegisterAgency(t.Context(), statement.Agency{Agency: "town-hall", Name: "Town hall", Key: agency.Verifier()}); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	uploads := make(map[string]intake.Uploaded)
	commitments := make(map[uint64]calpe.Commitment)
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			text := strings.Repeat(fmt.Sprint("document ", i), 1+i*2000)
			u := upload(text)
			u.IdempotencyKey = fmt.Sprint("key-", i)
			if i%3 == 0 {
				u.Certification = certify(t, agency, text, nil)
			}
			got, err := servers[i%2].Upload(t.Context(), u)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			uploads[text] = got
			mu.Unlock()
		})
	}
	for i := range uint64(600) {
		wg.Go(func() {
			c := batchtest.Commitment(i)
			r, err := servers[i%2].Commit(t.Context(), intake.Commitments{Commitments: []calpe.Commitment{c}, Owner: "anna"})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			commitments[r.First] = c
			mu.Unlock()
		})
	}
	wg.Wait()
	if len(uploads) != 24 || len(commitments) != 600 {
		t.Fatalf("%d uploads, %d commitments", len(uploads), len(commitments))
	}
	cp := servers[1].sealAll(t)
	if err := servers[0].sealer.CheckStores(t.Context()); err != nil {
		t.Error(err)
	}
	for text, got := range uploads {
		s.verify(t, servers[0], cp, got, text)
	}
	for index, c := range commitments {
		if _, err := servers[0].log.Proof(t.Context(), calpe.Entry{Index: index, Commitment: c}, cp); err != nil {
			t.Error(err)
		}
	}
	s.again(t, servers[1], uploads)
	s.upkeep(t, servers[0], uploads)
}

// verify proves an upload and reads it back, on another server than it may have come in.
func (s *site) verify(t *testing.T, v *server, cp calpe.Checkpoint, got intake.Uploaded, text string) {
	t.Helper()
	entry := calpe.Entry{Index: got.Index, Commitment: calpe.Commit(got.Digest, got.Salt)}
	if _, err := receipt.VerifyAcknowledged(entry, got.Acknowledgement.Note, got.Acknowledgement.Path, s.log.Identity); err != nil {
		t.Error(err)
	}
	path, err := v.log.Proof(t.Context(), entry, cp)
	b := entry.Bytes()
	if err != nil || merkle.VerifyInclusion(entry.Index, cp.Size, merkle.LeafHash(b[:]), path, cp.Root) != nil {
		t.Errorf("proof of entry %d: %v", entry.Index, err)
	}
	if c := got.Certification; c != nil {
		if _, err := v.log.Proof(t.Context(), calpe.Entry{Index: c.Index, Commitment: calpe.Commit(c.Statement.Digest(), c.Salt)}, cp); err != nil {
			t.Errorf("proof of certification: %v", err)
		}
	}
	document, err := v.Document(t.Context(), got.ID, "anna")
	if err != nil || document.Digest != got.Digest || document.Salt != got.Salt || (document.Certification == nil) != (got.Certification == nil) {
		t.Errorf("document %+v, %v", document, err)
	}
	offset := int64(len(text) / 2)
	content, err := v.Content(t.Context(), got.ID, "anna", offset, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	if data, err := io.ReadAll(content); err != nil || string(data) != text[offset:] {
		t.Errorf("second half of %d bytes: got %d, %v", len(text), len(data), err)
	}
}

// again repeats every upload.
func (s *site) again(t *testing.T, v *server, uploads map[string]intake.Uploaded) {
	t.Helper()
	for i := range 24 {
		text := strings.Repeat(fmt.Sprint("document ", i), 1+i*2000)
		u := upload(text)
		u.IdempotencyKey = fmt.Sprint("key-", i)
		first := uploads[text]
		if first.Certification != nil {
			u.Certification = first.Certification.Statement.Bytes()
		}
		got, err := v.Upload(t.Context(), u)
		if err != nil || !got.Existing || got.ID != first.ID || got.Index != first.Index || string(got.Acknowledgement.Note) != string(first.Acknowledgement.Note) {
			t.Errorf("again: %+v, %v", got, err)
		}
	}
}

// upkeep locks the objects, and sweeps one orphan.
func (s *site) upkeep(t *testing.T, v *server, uploads map[string]intake.Uploaded) {
	t.Helper()
	retain := func(ctx context.Context, o calpe.Object, _ time.Time) error {
		return s.store.RetainDocument(ctx, o.Name, o.VersionID, time.Now().Add(time.Hour), s3.Governance)
	}
	r, err := intake.NewRetainer(intake.RetainerConfig{Rows: v.db, Retain: retain})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := r.Step(t.Context()); err != nil || n != len(uploads) {
		t.Errorf("locked %d, %v", n, err)
	}
	if n, err := r.Step(t.Context()); err != nil || n != 0 {
		t.Errorf("locked %d again, %v", n, err)
	}
	orphan := s3.NewDocumentName()
	if _, _, err := s.store.PutDocument(t.Context(), orphan, [32]byte{1}, strings.NewReader("orphan"), 100); err != nil {
		t.Fatal(err)
	}
	sweeper, err := intake.NewSweeper(intake.SweeperConfig{
		Objects: s.store, Rows: v.db, Now: func() time.Time { return time.Now().Add(25 * time.Hour) },
	})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := sweeper.Step(t.Context()); err != nil || n != 1 {
		t.Errorf("swept %d, %v", n, err)
	}
}

// cluster is a PostgreSQL server of the test's own, on the port of its first
// start again at each further one.
type cluster struct {
	dir, port string
	cmd       *exec.Cmd
}

func (c *cluster) start(t *testing.T) (address string) {
	t.Helper()
	c.cmd = exec.Command(env(t, "CALPE_TEST_DEVSTACK"), "postgres", "--durable", "--dir", c.dir, "--port", c.port)
	c.cmd.Stderr = os.Stderr
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		t.Fatalf("the server said nothing: %v", err)
	}
	var info struct{ URL string }
	if err := json.Unmarshal(line, &info); err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	u, err := url.Parse(info.URL)
	if err != nil {
		t.Fatal(err)
	}
	c.port = u.Port()
	return info.URL
}

func (c *cluster) stop() {
	if c.cmd.ProcessState == nil {
		_ = c.cmd.Process.Signal(syscall.SIGTERM)
		_ = c.cmd.Wait()
	}
}

// copyDir is what an operator does with a stopped server.
func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if err := os.RemoveAll(to); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("copy: %v: %s", err, out)
	}
}

// TestRealDatabasePutBack restarts a real server, and puts back an older copy of
// it, under a recorder that goes on running.
func TestRealDatabasePutBack(t *testing.T) {
	t.Parallel()
	base, err := os.MkdirTemp("", "calpe-intake-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	if err := os.Chmod(base, 0o755); err != nil { // the server may run as another user
		t.Fatal(err)
	}
	c := &cluster{dir: base + "/data", port: "0"}
	url := c.start(t)
	t.Cleanup(c.stop)
	if err := migrations.Up(t.Context(), url, nil); err != nil {
		t.Fatal(err)
	}
	s := newSite(t, url)
	v := s.serve(t)
	promised := make(map[uint64]calpe.Commitment)
	record := func(n int) {
		t.Helper()
		for range n {
			commitment := batchtest.Commitment(uint64(len(promised)))
			promised[eventually(t, v, commitment)] = commitment
		}
	}
	record(30)
	c.stop()
	copyDir(t, c.dir, base+"/copy")
	c.start(t) // a clean restart: nothing is lost
	record(10)
	v.sealAll(t)
	record(10) // these will be in no checkpoint
	limit := v.Status().Limit
	c.stop()
	copyDir(t, base+"/copy", c.dir)
	c.start(t)
	record(10)
	cp := v.sealAll(t)
	s.checkPromises(t, v, promised, limit)
	if cp.Size <= limit || v.Status().Epoch != 2 {
		t.Errorf("sealed %d entries, old limit %d, epoch %d", cp.Size, limit, v.Status().Epoch)
	}
}

// eventually records a commitment, over what failures there are.
func eventually(t *testing.T, v *server, c calpe.Commitment) uint64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		r, err := v.Record(ctx, calpe.Submission{Commitments: []calpe.Commitment{c}})
		if err == nil {
			return r.First
		}
		if code(err) != calpe.CodeUnavailable {
			t.Fatal(err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("nothing can be recorded any more: %v", err)
		}
	}
}

// checkPromises: every promised entry is there, or void and declared.
func (s *site) checkPromises(t *testing.T, v *server, promised map[uint64]calpe.Commitment, limit uint64) {
	t.Helper()
	rows, err := v.db.Statements(t.Context(), statement.TypeRecovery)
	if err != nil {
		t.Fatal(err)
	}
	var declared []statement.Recovery
	for _, row := range rows {
		signed, err := statement.Parse(row.Body)
		if err != nil || s.log.Identity.VerifyStatement(signed) != nil {
			t.Fatalf("statement %d: %v", row.Index, err)
		}
		declared = append(declared, signed.Body().(statement.Recovery))
	}
	lost := 0
	for index, want := range promised {
		entry, err := v.db.Entry(t.Context(), index)
		switch {
		case err != nil:
			t.Errorf("promised entry %d: %v", index, err)
		case entry.Commitment == want:
		case !entry.Commitment.IsVoid() || !slices.ContainsFunc(declared, func(r statement.Recovery) bool { return r.VoidFrom <= index && index < r.VoidTo }):
			t.Errorf("promised entry %d is %v, and nothing declares it lost", index, entry.Commitment)
		default:
			lost++
		}
	}
	if lost != 10 { // those behind the last checkpoint
		t.Errorf("%d promised entries are lost, want the 10 that were in no checkpoint", lost)
	}
	last := declared[len(declared)-1]
	if last.RolledFrom >= last.RolledTo || last.VoidTo != limit {
		t.Errorf("declared %+v, old limit %d", last, limit)
	}
}
