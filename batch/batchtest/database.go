package batchtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/calpe/calpe"
)

// State is the database that all processes share.
type State struct {
	lock chan struct{} // the intake lock

	mu          sync.Mutex
	instance    calpe.Instance
	groups      []calpe.GroupRecord
	checkpoints []calpe.Checkpoint
	epoch       uint64
	idempotency map[string]calpe.Idempotency
	documents   map[calpe.DocumentID]calpe.Document
	keys        map[calpe.DocumentID]calpe.WrappedKey
	certified   map[uint64]calpe.Certification
	statements  []calpe.Statement
	agencies    map[string]calpe.Agency
}

// NewState is a database with nothing but entry 0.
func NewState(identity calpe.Hash) *State {
	at := time.Date(2026, 11, 21, 9, 0, 0, 0, time.UTC)
	s := &State{lock: make(chan struct{}, 1), epoch: 1}
	s.instance = calpe.Instance{SystemIdentifier: "7000000000000000001", Timeline: 1, Started: at}
	s.clear()
	s.groups = []calpe.GroupRecord{{
		ID: calpe.GroupID{1}, Commitments: []calpe.Commitment{calpe.Commitment(identity)},
		Origin: calpe.OriginIntake, Time: at, Deadline: at.Add(time.Hour),
	}}
	return s
}

func (s *State) clear() {
	s.idempotency = make(map[string]calpe.Idempotency)
	s.documents = make(map[calpe.DocumentID]calpe.Document)
	s.keys = make(map[calpe.DocumentID]calpe.WrappedKey)
	s.certified = make(map[uint64]calpe.Certification)
	s.agencies = make(map[string]calpe.Agency)
}

// Restart makes the server another instance, as a restart, a failover or a
// restore does.
func (s *State) Restart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.instance.Started = s.instance.Started.Add(time.Minute)
}

// GoBack loses every group that reaches above size, with all that came after,
// as putting back an older copy does. The instance stays: also call Restart.
func (s *State) GoBack(size uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.groups = slices.DeleteFunc(s.groups, func(g calpe.GroupRecord) bool { return end(g) > size })
	next := s.next()
	s.checkpoints = slices.DeleteFunc(s.checkpoints, func(c calpe.Checkpoint) bool { return c.Size > next })
	s.statements = slices.DeleteFunc(s.statements, func(t calpe.Statement) bool { return t.Index >= next })
	for key, i := range s.idempotency {
		if i.First >= next {
			delete(s.idempotency, key)
		}
	}
	for id, d := range s.documents {
		if d.Index >= next {
			delete(s.documents, id)
			delete(s.keys, id)
		}
	}
	for id, a := range s.agencies {
		if a.Statement >= next {
			delete(s.agencies, id)
		}
	}
}

// TakeLead makes every earlier epoch lose leadership, and gives the new one.
func (s *State) TakeLead() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.epoch++
	return s.epoch
}

// Next is the number of entries.
func (s *State) Next() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.next()
}

// Groups are all groups, in order.
func (s *State) Groups() []calpe.GroupRecord {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.groups)
}

// Commitments are those of all entries, in order.
func (s *State) Commitments() []calpe.Commitment {
	var all []calpe.Commitment
	for _, g := range s.Groups() {
		all = append(all, g.Commitments...)
	}
	return all
}

// CheckpointRows are all checkpoint rows, in order.
func (s *State) CheckpointRows() []calpe.Checkpoint {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.checkpoints)
}

// SetCheckpoints replaces all checkpoint rows behind everybody's back.
func (s *State) SetCheckpoints(rows ...calpe.Checkpoint) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.checkpoints = rows
}

// Append adds a group behind everybody's back.
func (s *State) Append(origin calpe.Origin, commitments ...calpe.Commitment) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.append(calpe.GroupRecord{Commitments: commitments, Origin: origin})
}

// Statements are all statement rows, in order.
func (s *State) Statements() []calpe.Statement {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.statements)
}

// Objects names the objects of all documents.
func (s *State) Objects() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var names []string
	for _, d := range s.documents {
		names = append(names, d.Object.Name)
	}
	return names
}

func end(g calpe.GroupRecord) uint64 { return g.First + uint64(len(g.Commitments)) }

// next needs mu, as do the others below.
func (s *State) next() uint64 {
	if len(s.groups) == 0 {
		return 0
	}
	return end(s.groups[len(s.groups)-1])
}

func (s *State) append(g calpe.GroupRecord) {
	g.First = s.next()
	g.Commitments = slices.Clone(g.Commitments)
	s.groups = append(s.groups, g)
}

// Database is one process's view of the database. It satisfies every interface
// of batch and intake that postgres does.
type Database struct {
	*State
	Faults *Faults
}

type lockHeld struct{}

// withLock runs f under the intake lock, unless ctx says that it is held.
func (d Database) withLock(ctx context.Context, f func() error) error {
	if ctx.Value(lockHeld{}) != d.State {
		select {
		case d.lock <- struct{}{}:
			defer func() { <-d.lock }()
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return f()
}

// WithIntakeLock holds the lock while fn runs.
func (d Database) WithIntakeLock(ctx context.Context, fn func(ctx context.Context) error) error {
	if err := d.Faults.Read(); err != nil {
		return err
	}
	select {
	case d.lock <- struct{}{}:
		defer func() { <-d.lock }()
	case <-ctx.Done():
		return ctx.Err()
	}
	return fn(context.WithValue(ctx, lockHeld{}, d.State))
}

// Instance of now.
func (d Database) Instance(context.Context) (calpe.Instance, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.instance, d.Faults.Read()
}

// NextIndex is the number of entries.
func (d Database) NextIndex(context.Context) (uint64, error) { return d.Next(), d.Faults.Read() }

// GroupOf finds the group of an entry.
func (d Database) GroupOf(_ context.Context, index uint64) (calpe.GroupRecord, error) {
	if err := d.Faults.Read(); err != nil {
		return calpe.GroupRecord{}, err
	}
	for _, g := range d.Groups() {
		if index >= g.First && index < end(g) {
			return g, nil
		}
	}
	return calpe.GroupRecord{}, fmt.Errorf("group of entry %d: %w", index, calpe.ErrNotFound)
}

// ReadEntries gives entries in runs of at most 100, across groups.
func (d Database) ReadEntries(ctx context.Context, from, to uint64, fn func(first uint64, commitments []calpe.Commitment) error) error {
	if err := d.Faults.Read(); err != nil {
		return err
	}
	all := d.Commitments()
	for from < to {
		if from >= uint64(len(all)) {
			return fmt.Errorf("entry %d is missing: %w", from, calpe.ErrNotDense)
		}
		run := all[from:min(to, from+100, uint64(len(all)))]
		if err := cmpErr(ctx.Err(), fn(from, run)); err != nil {
			return err
		}
		from += uint64(len(run))
	}
	return nil
}

// AppendRolledForward needs the lock and the next index.
func (d Database) AppendRolledForward(ctx context.Context, first uint64, commitments []calpe.Commitment) error {
	if ctx.Value(lockHeld{}) != d.State {
		return errors.New("roll forward without the intake lock")
	}
	return d.Faults.Write("roll forward", func() error {
		return d.withLock(ctx, func() error {
			if first != d.next() || len(commitments) == 0 || len(commitments) > calpe.MaxGroup {
				return fmt.Errorf("roll forward %d entries at %d, next is %d", len(commitments), first, d.next())
			}
			d.append(calpe.GroupRecord{Commitments: commitments, Origin: calpe.OriginRolledForward})
			return nil
		})
	})
}

// AppendVoid needs the lock. It writes rows of at most 200 entries, each a write.
func (d Database) AppendVoid(ctx context.Context, upTo uint64) error {
	if ctx.Value(lockHeld{}) != d.State {
		return errors.New("void without the intake lock")
	}
	for d.Next() < upTo {
		err := d.Faults.Write("void", func() error {
			return d.withLock(ctx, func() error {
				n := min(upTo-d.next(), 200)
				d.append(calpe.GroupRecord{Commitments: make([]calpe.Commitment, n), Origin: calpe.OriginVoid})
				return nil
			})
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// CheckpointHead is the newest row.
func (d Database) CheckpointHead(context.Context) (calpe.Checkpoint, error) {
	rows := d.CheckpointRows()
	if err := d.Faults.Read(); err != nil || len(rows) == 0 {
		return calpe.Checkpoint{}, cmpErr(err, calpe.ErrNotFound)
	}
	return rows[len(rows)-1], nil
}

// LeadsBatch compares the epoch.
func (d Database) LeadsBatch(_ context.Context, epoch uint64) error {
	if err := d.Faults.Read(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if epoch != d.epoch {
		return fmt.Errorf("epoch %d: %w", epoch, calpe.ErrLostLeadership)
	}
	return nil
}

// InsertCheckpoint demands the epoch and growth; the newest again is fine.
func (d Database) InsertCheckpoint(_ context.Context, epoch uint64, cp calpe.Checkpoint) error {
	return d.Faults.Write("checkpoint row", func() error {
		d.mu.Lock()
		defer d.mu.Unlock()
		if epoch != d.epoch {
			return fmt.Errorf("epoch %d: %w", epoch, calpe.ErrLostLeadership)
		}
		if n := len(d.checkpoints); n > 0 && d.checkpoints[n-1].Size >= cp.Size {
			if last := d.checkpoints[n-1]; last.Size == cp.Size && last.Root == cp.Root && string(last.Note) == string(cp.Note) {
				return nil
			}
			return fmt.Errorf("checkpoint of size %d: %w", cp.Size, calpe.ErrCheckpointOrder)
		}
		if cp.Size > d.next() || cp.Size == 0 {
			return fmt.Errorf("checkpoint of size %d: %w", cp.Size, calpe.ErrCheckpointOrder)
		}
		d.checkpoints = append(d.checkpoints, cp)
		return nil
	})
}

// CommitGroup keeps to what its interface in intake promises.
func (d Database) CommitGroup(ctx context.Context, g calpe.Group) (result calpe.GroupResult, err error) {
	fault, err := d.Faults.next("commit")
	if err != nil {
		return result, fmt.Errorf("%w: %w", calpe.ErrNotCommitted, err)
	}
	if fault == NotApplied || fault == DieBefore {
		return result, fmt.Errorf("%w: %w", calpe.ErrNotCommitted, ErrInjected)
	}
	err = d.withLock(ctx, func() error {
		if err := d.check(g); err != nil {
			return err
		}
		result = d.place(g)
		if fault == Vanished {
			return nil
		}
		return d.insert(g, result)
	})
	if err == nil && fault != None {
		return result, fmt.Errorf("%w: %w", calpe.ErrUnknownOutcome, ErrInjected)
	}
	if err != nil {
		return calpe.GroupResult{}, err
	}
	return result, nil
}

func (d Database) check(g calpe.Group) error {
	if !g.Instance.Equal(d.instance) {
		return fmt.Errorf("group for %v: %w", g.Instance, calpe.ErrOtherInstance)
	}
	if (g.ID == calpe.GroupID{}) || g.Time.Nanosecond() != 0 || g.Deadline.Nanosecond() != 0 || !g.Deadline.After(g.Time) || len(g.Submissions) == 0 {
		return fmt.Errorf("group %v breaks a rule", g.ID)
	}
	for i, s := range g.Submissions {
		if err := s.Check(); err != nil {
			return fmt.Errorf("submission %d: %w", i, err)
		}
		if s.Agency != nil && d.agencies[s.Agency.ID].ID != "" {
			return fmt.Errorf("agency %s: %w", s.Agency.ID, calpe.ErrExists)
		}
		if s.Document != nil && (s.Document.Owner == "poison" || !d.documents[s.Document.ID].ID.IsZero()) {
			return fmt.Errorf("document %v: %w", s.Document.ID, calpe.ErrExists)
		}
	}
	return nil
}

func idempotencyKey(i *calpe.Idempotency) string { return i.Owner + "\x00" + i.KeyHash.String() }

// place says where every submission is or goes.
func (d Database) place(g calpe.Group) (result calpe.GroupResult) {
	result.First = d.next()
	here := make(map[string]calpe.Idempotency)
	for _, s := range g.Submissions {
		at := result.First + result.Count
		if i := s.Idempotency; i != nil {
			known, ok := d.idempotency[idempotencyKey(i)]
			if !ok {
				known, ok = here[idempotencyKey(i)]
			}
			if ok {
				result.Submissions = append(result.Submissions, calpe.SubmissionResult{First: known.First, Existing: &known})
				continue
			}
			row := *i
			row.First, row.Count = at, uint64(len(s.Commitments))
			here[idempotencyKey(i)] = row
		}
		result.Submissions = append(result.Submissions, calpe.SubmissionResult{First: at})
		result.Commitments = append(result.Commitments, s.Commitments...)
		result.Count += uint64(len(s.Commitments))
	}
	return result
}

func (d Database) insert(g calpe.Group, result calpe.GroupResult) error {
	if result.Count == 0 {
		return nil
	}
	for _, old := range d.groups {
		if old.ID == g.ID {
			return fmt.Errorf("group %v is in the log twice", g.ID)
		}
	}
	if result.First+result.Count > g.Limit {
		return fmt.Errorf("next %d, %d entries, limit %d: %w", result.First, result.Count, g.Limit, calpe.ErrFence)
	}
	d.append(calpe.GroupRecord{ID: g.ID, Commitments: result.Commitments, Origin: calpe.OriginIntake, Time: g.Time, Deadline: g.Deadline})
	for i, s := range g.Submissions {
		if result.Submissions[i].Existing == nil {
			d.insertRows(s, result.Submissions[i].First)
		}
	}
	return nil
}

func (d Database) insertRows(s calpe.Submission, first uint64) {
	if s.Idempotency != nil {
		row := *s.Idempotency
		row.First, row.Count = first, uint64(len(s.Commitments))
		if s.Document != nil {
			row.Document = s.Document.ID
		}
		d.idempotency[idempotencyKey(&row)] = row
	}
	if s.Document != nil {
		row, key := *s.Document, *s.Key
		row.Index += first
		if row.Certification > 0 {
			row.Certification += first
		}
		key.Document = row.ID
		d.documents[row.ID], d.keys[row.ID] = row, key
	}
	if s.Certification != nil {
		row := *s.Certification
		row.Index += first
		row.Document = s.Document.ID
		d.certified[row.Index] = row
	}
	if s.Statement != nil {
		row := *s.Statement
		row.Index += first
		d.statements = append(d.statements, row)
	}
	if s.Agency != nil {
		row := *s.Agency
		row.Statement = first + s.Statement.Index
		d.agencies[row.ID] = row
	}
}

func find[K comparable, V any](d Database, rows map[K]V, key K) (V, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	row, ok := rows[key]
	if !ok {
		return row, calpe.ErrNotFound
	}
	return row, d.Faults.Read()
}

// Document row.
func (d Database) Document(_ context.Context, id calpe.DocumentID) (calpe.Document, error) {
	return find(d, d.documents, id)
}

// DocumentKey row.
func (d Database) DocumentKey(_ context.Context, id calpe.DocumentID) (calpe.WrappedKey, error) {
	return find(d, d.keys, id)
}

// DestroyKey erases a document.
func (d Database) DestroyKey(id calpe.DocumentID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.keys, id)
}

// Certification row.
func (d Database) Certification(_ context.Context, index uint64) (calpe.Certification, error) {
	return find(d, d.certified, index)
}

// Agency row.
func (d Database) Agency(_ context.Context, id string) (calpe.Agency, error) {
	return find(d, d.agencies, id)
}

// Idempotency row.
func (d Database) Idempotency(_ context.Context, owner string, keyHash calpe.Hash) (calpe.Idempotency, error) {
	return find(d, d.idempotency, idempotencyKey(&calpe.Idempotency{Owner: owner, KeyHash: keyHash}))
}

// Unretained rows, by id.
func (d Database) Unretained(_ context.Context, after calpe.DocumentID, limit int) ([]calpe.Document, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var rows []calpe.Document
	for _, row := range d.documents {
		if row.RetainedAt.IsZero() && row.ID.String() > after.String() {
			rows = append(rows, row)
		}
	}
	slices.SortFunc(rows, func(a, b calpe.Document) int { return slices.Compare(a.ID[:], b.ID[:]) })
	return rows[:min(len(rows), limit)], d.Faults.Read()
}

// MarkRetained notes the time.
func (d Database) MarkRetained(_ context.Context, id calpe.DocumentID, at time.Time) error {
	return d.Faults.Write("mark retained", func() error {
		d.mu.Lock()
		defer d.mu.Unlock()
		row := d.documents[id]
		row.RetainedAt = at
		d.documents[id] = row
		return nil
	})
}

// KnownObjects are those of names that a document has.
func (d Database) KnownObjects(_ context.Context, names []string) ([]string, error) {
	known := d.Objects()
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return !slices.Contains(known, n) }), d.Faults.Read()
}
