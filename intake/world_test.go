package intake_test

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/batch"
	"github.com/calpe/calpe/batch/batchtest"
	"github.com/calpe/calpe/intake"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/statement"
)

// world is a database and object storage, with what clients were promised.
type world struct {
	log     batchtest.Log
	state   *batchtest.State
	storage *batchtest.Storage

	mu       sync.Mutex
	promised map[uint64]calpe.Commitment // by index, from acknowledgements
	next     uint64
}

func newWorld(t *testing.T) *world {
	t.Helper()
	l := batchtest.NewLog(t, "log.example/test")
	return &world{
		log: l, state: batchtest.NewState(l.Identity.Hash()), storage: batchtest.NewStorage(),
		promised: make(map[uint64]calpe.Commitment), next: 1,
	}
}

// process is a server with a recorder.
type process struct {
	*intake.Recorder
	world  *world
	faults *batchtest.Faults
	cancel context.CancelFunc
	ended  chan struct{}
}

func (w *world) config(faults *batchtest.Faults, edit ...func(*intake.RecorderConfig)) intake.RecorderConfig {
	objects := batchtest.Objects{Storage: w.storage, Faults: faults}
	database := batchtest.Database{State: w.state, Faults: faults}
	published, err := batch.NewLog(batch.LogConfig{Objects: objects, Open: w.log.Open})
	if err != nil {
		panic(err)
	}
	cfg := intake.RecorderConfig{
		Log: w.log.Identity.Hash(), Groups: database, Recovery: database, Checkpoints: database,
		Fence: objects, Published: published, Acknowledge: w.log.Acknowledge, Statements: w.log.Statement,
		Logger: slog.New(slog.DiscardHandler),
	}
	for _, e := range edit {
		e(&cfg)
	}
	return cfg
}

// start runs a server until the test ends, or it is killed. Call it in a synctest bubble.
func (w *world) start(t *testing.T, faults *batchtest.Faults, edit ...func(*intake.RecorderConfig)) *process {
	t.Helper()
	r, err := intake.NewRecorder(w.config(faults, edit...))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	p := &process{Recorder: r, world: w, faults: faults, cancel: cancel, ended: make(chan struct{})}
	go func() {
		defer close(p.ended)
		if err := r.Run(ctx); err != nil {
			t.Errorf("run: %v", err)
		}
	}()
	t.Cleanup(p.kill)
	synctest.Wait()
	return p
}

// kill ends the server without letting it do anything more.
func (p *process) kill() {
	p.faults.Kill()
	p.cancel()
	<-p.ended
}

// submit records the next commitment, and notes the promise.
func (p *process) submit(t *testing.T) (intake.Recorded, error) {
	t.Helper()
	p.world.mu.Lock()
	c := batchtest.Commitment(p.world.next)
	p.world.next++
	p.world.mu.Unlock()
	r, err := p.Record(t.Context(), calpe.Submission{Commitments: []calpe.Commitment{c}})
	if err == nil {
		p.world.promise(t, r, c)
	}
	return r, err
}

func (p *process) mustSubmit(t *testing.T, n int) {
	t.Helper()
	for range n {
		if _, err := p.submit(t); err != nil {
			t.Fatal(err)
		}
	}
}

// promise verifies an acknowledgement as a client does, and keeps it.
func (w *world) promise(t *testing.T, r intake.Recorded, commitments ...calpe.Commitment) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, c := range commitments {
		index := r.First + uint64(i)
		if i == 0 {
			ack := r.Acknowledgement
			got, err := receipt.VerifyAcknowledged(calpe.Entry{Index: index, Commitment: c}, ack.Note, ack.Path, w.log.Identity)
			if err != nil {
				t.Errorf("acknowledgement of entry %d: %v", index, err)
			}
			if !got.Deadline.Equal(ack.Deadline) || got.First != ack.First || got.Count != ack.Count {
				t.Errorf("acknowledgement says %+v, its note %+v", ack, got)
			}
		}
		if old, ok := w.promised[index]; ok && old != c {
			t.Errorf("index %d was given twice", index)
		}
		w.promised[index] = c
	}
}

// seal makes a checkpoint of everything.
func (w *world) seal(t *testing.T) {
	t.Helper()
	faults := new(batchtest.Faults)
	objects := batchtest.Objects{Storage: w.storage, Faults: faults}
	database := batchtest.Database{State: w.state, Faults: faults}
	published, err := batch.NewLog(batch.LogConfig{Objects: objects, Open: w.log.Open})
	if err != nil {
		t.Fatal(err)
	}
	s, err := batch.NewSealer(batch.SealerConfig{
		Entries: database, Checkpoints: database, Objects: objects, Log: published, Sign: w.log.Sign,
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Seal(t.Context(), w.state.TakeLead()); err != nil {
		t.Fatal(err)
	}
}

// recoveries are the recovery statements in the log, verified.
func (w *world) recoveries(t *testing.T) []statement.Recovery {
	t.Helper()
	commitments := w.state.Commitments()
	var all []statement.Recovery
	for _, row := range w.state.Statements() {
		signed, err := statement.Parse(row.Body)
		if err != nil || w.log.Identity.VerifyStatement(signed) != nil {
			t.Fatalf("statement %d: %v", row.Index, err)
		}
		if commitments[row.Index] != calpe.Commit(signed.Digest(), row.Salt) {
			t.Fatalf("entry %d is not that of its statement", row.Index)
		}
		if body, ok := signed.Body().(statement.Recovery); ok {
			if body.Log != w.log.Identity.Hash() {
				t.Fatalf("statement about log %v", body.Log)
			}
			all = append(all, body)
		}
	}
	return all
}

// check is the whole-state checker: promises are kept or declared lost, every
// signed checkpoint is about the log's entries, the fence is above the log.
func (w *world) check(t *testing.T) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	commitments := w.state.Commitments()
	recoveries := w.recoveries(t)
	declared := func(index uint64) bool {
		for _, r := range recoveries {
			if index >= r.VoidFrom && index < r.VoidTo {
				return true
			}
		}
		return false
	}
	for index, c := range w.promised {
		switch {
		case index >= uint64(len(commitments)):
			t.Errorf("promised entry %d is not in the log of %d", index, len(commitments))
		case commitments[index] == c:
		case !commitments[index].IsVoid():
			t.Errorf("promised entry %d has another commitment", index)
		case !declared(index):
			t.Errorf("promised entry %d is void, and no statement says so", index)
		}
	}
	for i, c := range commitments {
		if c.IsVoid() && !declared(uint64(i)) {
			t.Errorf("entry %d is void, and no statement says so", i)
		}
	}
	w.checkSigned(t, commitments)
	w.checkFence(t, uint64(len(commitments)))
	if t.Failed() {
		t.FailNow()
	}
}

func (w *world) checkSigned(t *testing.T, commitments []calpe.Commitment) {
	t.Helper()
	leaves := make([]calpe.Hash, len(commitments))
	for i, c := range commitments {
		b := calpe.Entry{Index: uint64(i), Commitment: c}.Bytes()
		leaves[i] = merkle.LeafHash(b[:])
	}
	for _, path := range w.storage.Paths("checkpoints/") {
		cp, err := w.log.Open(w.storage.Object(path))
		if err != nil || cp.Size > uint64(len(leaves)) || merkle.Root(leaves[:cp.Size]) != cp.Root {
			t.Errorf("the log is not that of the signed checkpoint %s: %v", path, err)
		}
	}
}

func (w *world) checkFence(t *testing.T, next uint64) {
	t.Helper()
	f, err := intake.ParseFence(w.storage.Fence())
	if err != nil || f.Limit < next || len(f.Claims) > 0 {
		t.Errorf("fence %+v with %d entries: %v", f, next, err)
	}
}

// wantState waits for the state.
func (p *process) wantState(t *testing.T, want intake.State) {
	t.Helper()
	synctest.Wait()
	if s := p.Status(); s.State != want || (want == intake.StateOpen) != (s.Ready() == nil) {
		t.Fatalf("intake is %s (%v), want %s", s.State, s.Reason, want)
	}
}

func code(err error) calpe.Code {
	if err == nil {
		return ""
	}
	return calpe.ErrorCode(err)
}

func countWrites(faults *batchtest.Faults, prefix string) (n int) {
	for _, name := range faults.Writes() {
		if strings.HasPrefix(name, prefix) {
			n++
		}
	}
	return n
}
