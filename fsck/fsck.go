package fsck

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/bitcoin"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/batch"
	"github.com/calpe/calpe/intake"
	"github.com/calpe/calpe/receipt"
)

// Entries are the rows of the log.
type Entries interface {
	NextIndex(ctx context.Context) (uint64, error)
	Entry(ctx context.Context, index uint64) (calpe.Entry, error)
	// GroupsFrom lists groups by their first index, from the one that holds the
	// entry from, or else the first behind it; nothing is demanded of them.
	GroupsFrom(ctx context.Context, from uint64) ([]calpe.GroupRecord, error)
}

// Checkpoints are the rows of checkpoints.
type Checkpoints interface {
	CheckpointHead(ctx context.Context) (calpe.Checkpoint, error)
	CheckpointAt(ctx context.Context, size uint64) (calpe.Checkpoint, error)
	CheckpointsFrom(ctx context.Context, size uint64, limit int) ([]calpe.Checkpoint, error)
	CheckpointBefore(ctx context.Context, at time.Time) (calpe.Checkpoint, error)
}

// Documents are the rows of documents.
type Documents interface {
	DocumentsFrom(ctx context.Context, index uint64, limit int) ([]calpe.Document, error)
	DocumentKeys(ctx context.Context, ids []calpe.DocumentID) ([]calpe.WrappedKey, error)
	Certification(ctx context.Context, index uint64) (calpe.Certification, error)
	KnownObjects(ctx context.Context, names []string) ([]string, error)
}

// Records are the rows that stand beside entries.
type Records interface {
	Document(ctx context.Context, id calpe.DocumentID) (calpe.Document, error)
	StatementsFrom(ctx context.Context, index uint64, limit int) ([]calpe.Statement, error)
	CertificationsFrom(ctx context.Context, index uint64, limit int) ([]calpe.Certification, error)
	IdempotencyAfter(ctx context.Context, owner string, key calpe.Hash, limit int) ([]calpe.Idempotency, error)
	Agencies(ctx context.Context) ([]calpe.Agency, error)
}

// Anchors are the rows of coins and attempts.
type Anchors interface {
	batch.AnchorRows
	CoinsAfter(ctx context.Context, after calpe.Outpoint, limit int) ([]ledger.CoinRecord, error)
	AttemptsOfSize(ctx context.Context, size uint64, txid calpe.BlockHash, limit int) ([]ledger.Attempt, error)
	LiveCoin(ctx context.Context) (ledger.Coin, error)
	Restarts(ctx context.Context) ([]ledger.Break, error)
	Deposits(ctx context.Context) ([]ledger.Coin, error)
}

// Proofs are the rows of proofs by calendars, by size and calendar.
type Proofs interface {
	ProofsAfter(ctx context.Context, after ledger.ProofID, limit int) ([]ledger.Proof, error)
}

// Blocks are the rows of followed blocks: from a height downwards, and upwards.
type Blocks interface {
	Journal(ctx context.Context, from uint32, limit int) ([]ledger.Block, error)
	JournalFrom(ctx context.Context, from uint32, limit int) ([]ledger.Block, error)
}

// Objects is object storage.
type Objects interface {
	batch.ObjectReader
	// MendLogObject makes an object have these bytes, unless somebody else changes
	// it meanwhile, and reads it back.
	MendLogObject(ctx context.Context, path string, data []byte, contentType, cacheControl string) error
	ReadFence(ctx context.Context) (data []byte, etag string, err error)
}

// DocumentObjects is the bucket of documents.
type DocumentObjects interface {
	StoredDocument(ctx context.Context, object calpe.Object) (calpe.StoredObject, error)
	OpenDocument(ctx context.Context, object calpe.Object, key [32]byte, offset, length int64) (io.ReadCloser, error)
	DocumentsBucketAfter(ctx context.Context, startAfter string, yield func(name string, modified time.Time) error) error
}

// Node is a Bitcoin node.
type Node interface {
	Height(ctx context.Context) (uint32, error)
	BlockHash(ctx context.Context, height uint32) (calpe.BlockHash, error)
	TxOut(ctx context.Context, o calpe.Outpoint) (bitcoin.TxOut, bool, error)
}

// Keys unwraps data keys and makes keyed hashes: a keyring.
type Keys interface {
	intake.Opener
	intake.Tagger
}

// Config is what a check needs.
type Config struct {
	Identity    receipt.Identity
	Instance    func(ctx context.Context) (calpe.Instance, error)
	Entries     Entries
	Checkpoints Checkpoints
	Documents   Documents
	Records     Records
	Anchors     Anchors
	Blocks      Blocks
	Proofs      Proofs
	Objects     Objects
	Bucket      DocumentObjects
	Node        Node // nil: the chain isn't asked, and the report says so
	Keys        Keys // nil: nothing is unwrapped, and the report says so

	// Deep decrypts every document and compares its digest, and reads every partial
	// tile that is left.
	Deep bool
	// Since leaves out what was sealed in a checkpoint before; zero: nothing.
	Since time.Time
	// Rate bounds requests to object storage a second, and MiB of documents; 0: no bound.
	Rate float64
	// Readers is how many objects are read at the same time. Default 8.
	Readers int
	// Orphan is the age at which an object that no row names is one. Default 24 h.
	Orphan time.Duration
	// Grace is how long what a running server may be about to put right is given,
	// before it is looked at again. Default 30 s.
	Grace time.Duration
	// Repair writes again what follows from what is there.
	Repair bool
	// State is a file in which the run keeps how far it is; empty: none. A run that
	// was ended goes on with it.
	State string

	// Progress is told how far a phase is; a total of 0 isn't known. Nil is fine.
	Progress func(phase string, done, total uint64)
	Now      func() time.Time
	Logger   *slog.Logger
}

// run is one check.
type run struct {
	Config
	restarts []ledger.Break // of the chain of coins
	log      *batch.Log
	limit    *limiter
	state    *state
	saved    time.Time

	next   uint64           // entries in the database when the run began
	head   calpe.Checkpoint // newest row then; the empty log if there is none
	sealed uint64           // size of the newest signed checkpoint, row or copy
	rows   *rowReader
	tree   *builder
	// forked: a signed root isn't that of the entries, so that later ones aren't either.
	forked bool
	later  []check
	// seen is what rows had at a first look, which what follows them must have at a second.
	seen struct {
		head  uint64
		pages map[uint64][]byte
	}
	deep atomic.Uint64 // documents that were decrypted
}

// Run makes the check. The report says what was found, also beside an error,
// which says why it ended early: then it isn't known whether there is more. The
// state file goes when it has come to the end.
func Run(ctx context.Context, cfg Config) (Report, error) {
	r, err := newRun(cfg)
	if err != nil {
		return Report{}, err
	}
	if err := r.check(ctx); err != nil {
		return r.report(err), err // the state is that of the last whole page
	}
	return r.report(nil), r.finish()
}

func newRun(cfg Config) (*run, error) {
	if cfg.Entries == nil || cfg.Checkpoints == nil || cfg.Documents == nil || cfg.Records == nil || cfg.Anchors == nil || cfg.Blocks == nil || cfg.Proofs == nil ||
		cfg.Objects == nil || cfg.Bucket == nil || cfg.Instance == nil || cfg.Now == nil || cfg.Logger == nil {
		return nil, errors.New("fsck: all stores, Now and Logger must be set")
	}
	cfg.Readers = cmp.Or(cfg.Readers, 8)
	cfg.Orphan = cmp.Or(cfg.Orphan, 24*time.Hour)
	cfg.Grace = cmp.Or(cfg.Grace, 30*time.Second)
	if cfg.Readers < 1 || cfg.Rate < 0 || cfg.Orphan < 0 || cfg.Grace < 0 {
		return nil, errors.New("fsck: Readers, Rate, Orphan and Grace must be positive")
	}
	if cfg.Progress == nil {
		cfg.Progress = func(string, uint64, uint64) {}
	}
	r := &run{Config: cfg, limit: newLimiter(cfg.Rate)}
	r.seen.pages = map[uint64][]byte{}
	var err error
	if r.log, err = batch.NewLog(batch.LogConfig{
		Objects: limited{cfg.Objects, r.limit}, Readers: cfg.Readers,
		Open: func(note []byte) (calpe.Checkpoint, error) { return receipt.OpenCheckpoint(note, cfg.Identity) },
	}); err != nil {
		return nil, err
	}
	r.state, err = loadState(cfg)
	return r, err
}

// phase is a part of the check that begins where it was stopped.
type phase struct {
	name string
	run  func(ctx context.Context) error
}

func (r *run) phases() []phase {
	return []phase{
		{"entries", r.checkLog},
		{"tail", r.checkTail},
		{"documents", r.checkDocuments},
		{"records", r.checkRecords},
		{"objects", r.checkObjects},
		{"tiles", r.checkLogBucket},
		{"coins", r.checkCoins},
		{"blocks", r.checkJournal},
	}
}

// check goes through all phases. What is always quick, and may change at any
// time, is done in every run, last.
func (r *run) check(ctx context.Context) error {
	if err := r.begin(ctx); err != nil {
		return err
	}
	phases := r.phases()
	for r.state.Phase < len(phases) {
		p := phases[r.state.Phase]
		r.Logger.DebugContext(ctx, "fsck", slog.String("phase", p.name))
		if err := p.run(ctx); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		r.state.Phase++
		r.state.After = cursor{}
		if err := r.save(true); err != nil {
			return err
		}
	}
	for _, c := range []check{{"fence", r.checkFence}, {"published head", r.checkHead}, {"chain", r.checkChain}, {"published anchors", r.checkPublished}} {
		if err := r.once(ctx, c); err != nil {
			return err
		}
	}
	if err := r.lookAgain(ctx); err != nil {
		return err
	}
	if !r.Repair {
		return nil
	}
	return r.repair(ctx)
}

// begin reads how far the log is. The order matters beside a running server: what
// is read first is in what is read later.
func (r *run) begin(ctx context.Context) (err error) {
	r.head, err = r.Checkpoints.CheckpointHead(ctx)
	if err != nil && !errors.Is(err, calpe.ErrNotFound) {
		return err
	}
	r.sealed = r.head.Size
	newest, err := r.log.Newest(ctx, r.head.Size)
	switch {
	case err == nil:
		r.sealed = newest.Size
	case errors.Is(err, calpe.ErrNotFound):
	case ctx.Err() == nil && !isUnavailable(err):
		// A copy that doesn't open: it is named when its place comes, or below.
		r.found(Finding{Invariant: "I3", Thing: "newest copy of a checkpoint in object storage", Problem: err.Error(),
			Do: "find out who wrote it: nobody but the holder of the checkpoint key may sign checkpoints"})
	default:
		return err
	}
	if r.next, err = r.Entries.NextIndex(ctx); err != nil {
		return err
	}
	if r.sealed > r.next {
		r.note("a checkpoint of %d entries was signed, and the database has %d: it is an older copy of itself; start a server, which rolls it forward from the published log", r.sealed, r.next)
	} else if r.sealed > r.head.Size {
		r.note("a checkpoint of %d entries was signed and isn't recorded yet; a running server takes it up", r.sealed)
	}
	return nil
}

// isUnavailable: the store didn't answer as it should; that says nothing of what
// it holds.
func isUnavailable(err error) bool {
	e, ok := errors.AsType[*calpe.Error](err)
	return ok && e.Code == calpe.CodeUnavailable
}

// check is something that can be looked at again.
type check struct {
	name string
	run  func(ctx context.Context) ([]Finding, error)
}

// once makes a check. What it finds is looked at again at the end: a server that
// runs may have been in the middle of something.
func (r *run) once(ctx context.Context, c check) error {
	found, err := c.run(ctx)
	if err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	if len(found) > 0 {
		r.later = append(r.later, check{c.name, func(ctx context.Context) ([]Finding, error) {
			again, err := c.run(ctx)
			return both(found, again), err
		}})
	}
	return nil
}

// both are those of again that were found before.
func both(before, again []Finding) (same []Finding) {
	for _, f := range again {
		for _, b := range before {
			if b.Invariant == f.Invariant && b.Thing == f.Thing {
				same = append(same, f)
				break
			}
		}
	}
	return same
}

// lookAgain makes, after the grace time, the checks that found something.
func (r *run) lookAgain(ctx context.Context) error {
	if len(r.later) == 0 {
		return nil
	}
	timer := time.NewTimer(r.Grace)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
	}
	for _, c := range r.later {
		found, err := c.run(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
		r.found(found...)
	}
	return nil
}
