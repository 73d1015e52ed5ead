package postgres

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/storage/postgres/postgrestest"
)

func TestCommitGroupGivesDenseIndices(t *testing.T) {
	t.Parallel()
	db := openLog(t)
	a := mustCommit(t, db, group(t, db, bare("a", 1), bare("b", 3)))
	b := mustCommit(t, db, group(t, db, bare("c", 2)))

	if a.First != 1 || a.Count != 4 || b.First != 5 || b.Count != 2 {
		t.Errorf("groups at %d+%d and %d+%d, want 1+4 and 5+2", a.First, a.Count, b.First, b.Count)
	}
	want := []calpe.SubmissionResult{{First: 1}, {First: 2}}
	if diff := cmp.Diff(want, a.Submissions); diff != "" {
		t.Errorf("submissions (-want +got):\n%s", diff)
	}
	log := readAll(t, db)[1:]
	if diff := cmp.Diff(slices.Concat(commitments("a", 1), commitments("b", 3), commitments("c", 2)), log); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(log[:4], a.Commitments); diff != "" {
		t.Errorf("result (-want +got):\n%s", diff)
	}
}

func TestCommitGroupRefusesBadGroups(t *testing.T) {
	t.Parallel()
	db := openLog(t)
	for name, spoil := range map[string]func(*calpe.Group){
		"no id":             func(g *calpe.Group) { g.ID = calpe.GroupID{} },
		"no instance":       func(g *calpe.Group) { g.Instance = calpe.Instance{} },
		"no time":           func(g *calpe.Group) { g.Time = time.Time{} },
		"part of a second":  func(g *calpe.Group) { g.Time = g.Time.Add(time.Millisecond) },
		"deadline too soon": func(g *calpe.Group) { g.Deadline = g.Time },
		"no submission":     func(g *calpe.Group) { g.Submissions = nil },
		"no commitment":     func(g *calpe.Group) { g.Submissions[0].Commitments = nil },
		"void commitment":   func(g *calpe.Group) { g.Submissions[0].Commitments[1] = calpe.VoidCommitment },
		"too many":          func(g *calpe.Group) { g.Submissions = append(g.Submissions, bare("many", calpe.MaxGroup)) },
		"key only":          func(g *calpe.Group) { g.Submissions[0].Key = &calpe.WrappedKey{KeyID: "k", Wrapped: make([]byte, 48)} },
	} {
		g := group(t, db, bare(name, 2))
		spoil(&g)
		if _, err := db.CommitGroup(t.Context(), g); err == nil {
			t.Errorf("%s: committed", name)
		}
	}
	if next := mustNext(t, db); next != 1 {
		t.Errorf("next index %d, want 1: something was written", next)
	}
}

func TestCommitGroupNeedsEntryZero(t *testing.T) {
	t.Parallel()
	db := open(t)
	_, err := db.CommitGroup(t.Context(), group(t, db, bare("a", 1)))
	wantErr(t, "commit to a log that was not created", err, calpe.ErrNotDense)
	if next := mustNext(t, db); next != 0 {
		t.Errorf("next index %d, want 0", next)
	}
}

func TestCommitGroupStopsAtFence(t *testing.T) {
	t.Parallel()
	db := openLog(t)
	g := group(t, db, bare("a", 5))
	g.Limit = 5
	_, err := db.CommitGroup(t.Context(), g)
	wantErr(t, "a group that reaches above the fence", err, calpe.ErrFence)
	if next := mustNext(t, db); next != 1 {
		t.Fatalf("next index %d, want 1", next)
	}
	g.Limit = 6
	if r := mustCommit(t, db, g); r.First != 1 {
		t.Errorf("same group under a raised fence is at %d, want 1", r.First)
	}
	g = group(t, db, bare("b", 1))
	g.Limit = math.MaxUint64 // must not overflow
	mustCommit(t, db, g)
}

func TestCommitGroupStopsAtLargestLog(t *testing.T) {
	t.Parallel()
	db := open(t)
	postgrestest.Exec(t, db.cfg.URL, `INSERT INTO entry_group (first, count, commitments, group_id, origin, time)
		VALUES ($1, 1, decode(repeat('00', 32), 'hex'), gen_random_uuid(), 'void', '2026-01-01T00:00:00Z')`, calpe.MaxLogSize-3)
	g := group(t, db, bare("a", 3))
	g.Limit = math.MaxUint64
	_, err := db.CommitGroup(t.Context(), g)
	wantErr(t, "a group above the largest log", err, calpe.ErrFence)
	g.Submissions = []calpe.Submission{bare("a", 2)}
	if r := mustCommit(t, db, g); r.First != calpe.MaxLogSize-2 {
		t.Errorf("first %d", r.First)
	}
}

func TestCommitGroupOnAnotherInstance(t *testing.T) {
	t.Parallel()
	db := openLog(t)
	for name, change := range map[string]func(*calpe.Instance){
		"another cluster":  func(i *calpe.Instance) { i.SystemIdentifier += "0" },
		"another timeline": func(i *calpe.Instance) { i.Timeline++ },
		"restarted":        func(i *calpe.Instance) { i.Started = i.Started.Add(-time.Microsecond) },
	} {
		g := group(t, db, bare(name, 1))
		change(&g.Instance)
		_, err := db.CommitGroup(t.Context(), g)
		wantErr(t, name, err, calpe.ErrOtherInstance)
	}
	if next := mustNext(t, db); next != 1 {
		t.Errorf("next index %d, want 1", next)
	}
	mustCommit(t, db, group(t, db, bare("a", 1))) // the pool still works
}

// Every writer's answer is true, the log is dense and nothing is in it twice.
func TestCommitGroupConcurrently(t *testing.T) {
	t.Parallel()
	url := postgrestest.URL(t)
	const processes, writers, groups = 2, 4, 60
	dbs := make([]*DB, processes)
	for i := range dbs {
		dbs[i] = openURL(t, url)
	}
	createLog(t, dbs[0])
	instance, err := dbs[0].Instance(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var (
		mu      sync.Mutex
		answers = make(map[uint64]calpe.Commitment)
	)
	g, ctx := errgroup.WithContext(t.Context())
	for w := range processes * writers {
		g.Go(func() error {
			for n := range groups {
				seed := fmt.Sprintf("writer %d group %d", w, n)
				subs := []calpe.Submission{bare(seed+" a", 1+n%7), withKey(bare(seed+" b", 1), "owner", seed)}
				r, err := dbs[w%processes].CommitGroup(ctx, groupOn(instance, subs...))
				if err != nil {
					return err
				}
				mu.Lock()
				for s, sub := range subs {
					for i, c := range sub.Commitments {
						answers[r.Submissions[s].First+uint64(i)] = c
					}
				}
				mu.Unlock()
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	log := readAll(t, dbs[0])
	if len(log) != len(answers)+1 {
		t.Errorf("log has %d entries, %d were answered", len(log)-1, len(answers))
	}
	for i, c := range answers {
		if log[i] != c {
			t.Errorf("entry %d is %s, the answer was %s", i, log[i], c)
		}
	}
}

func TestCommitGroupWithRows(t *testing.T) {
	t.Parallel()
	db := openLog(t)
	mustCommit(t, db, group(t, db, agencySubmission("registry")))
	r := mustCommit(t, db, group(t, db,
		bare("bulk", 3),
		withKey(documentSubmission("doc", "ana", "registry"), "ana", "key"),
		documentSubmission("plain", "ben", "")))

	doc, err := db.DocumentAt(t.Context(), r.Submissions[1].First)
	if err != nil {
		t.Fatal(err)
	}
	want := *documentSubmission("doc", "ana", "registry").Document
	want.Index, want.Certification = 5, 6
	if diff := cmp.Diff(want, doc); diff != "" {
		t.Errorf("document (-want +got):\n%s", diff)
	}
	key, err := db.DocumentKey(t.Context(), doc.ID)
	wantKey := *documentSubmission("doc", "ana", "registry").Key
	wantKey.Document = doc.ID
	if diff := cmp.Diff(wantKey, key); diff != "" || err != nil {
		t.Errorf("key: %v (-want +got):\n%s", err, diff)
	}
	cert, err := db.Certification(t.Context(), 6)
	wantCert := calpe.Certification{Index: 6, Document: doc.ID, Agency: "registry", Sealed: []byte("sealed certification of doc")}
	if diff := cmp.Diff(wantCert, cert); diff != "" || err != nil {
		t.Errorf("certification: %v (-want +got):\n%s", err, diff)
	}
	agency, err := db.Agency(t.Context(), "registry")
	wantAgency := *agencySubmission("registry").Agency
	wantAgency.Statement = 1
	if diff := cmp.Diff(wantAgency, agency); diff != "" || err != nil {
		t.Errorf("agency: %v (-want +got):\n%s", err, diff)
	}
	statement, err := db.Statement(t.Context(), 1)
	wantStatement := *agencySubmission("registry").Statement
	wantStatement.Index = 1
	if diff := cmp.Diff(wantStatement, statement); diff != "" || err != nil {
		t.Errorf("statement: %v (-want +got):\n%s", err, diff)
	}
	plain, err := db.DocumentAt(t.Context(), r.Submissions[2].First)
	if err != nil || plain.Index != 7 || plain.Certification != 0 {
		t.Errorf("document without certification: %+v, %v", plain, err)
	}
}

// A row that can't be inserted takes the whole group with it.
func TestCommitGroupIsAllOrNothing(t *testing.T) {
	t.Parallel()
	db := openLog(t)
	mustCommit(t, db, group(t, db, agencySubmission("registry")))
	mustCommit(t, db, group(t, db, documentSubmission("doc", "ana", "")))
	before := readAll(t, db)

	again := documentSubmission("doc", "ana", "")
	again.Document.ID = calpe.DocumentID{9}
	for name, s := range map[string]calpe.Submission{
		"agency twice":   agencySubmission("registry"),
		"document twice": documentSubmission("doc", "ben", ""),
		"object twice":   again,
	} {
		_, err := db.CommitGroup(t.Context(), group(t, db, withKey(bare(name, 2), "ana", name), s))
		wantErr(t, name, err, calpe.ErrExists)
		_, err = db.Idempotency(t.Context(), "ana", withKey(s, "ana", name).Idempotency.KeyHash)
		wantErr(t, name+": key of the other submission", err, calpe.ErrNotFound)
	}
	_, err := db.CommitGroup(t.Context(), group(t, db, documentSubmission("other", "ben", "nobody")))
	if err == nil || errors.Is(err, calpe.ErrNotCommitted) {
		t.Errorf("certification of an unknown agency: %v; a retry can't help", err)
	}
	if diff := cmp.Diff(before, readAll(t, db)); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
}

func TestCommitGroupKnownKeys(t *testing.T) {
	t.Parallel()
	db := openLog(t)
	first := mustCommit(t, db, group(t, db, bare("x", 2), withKey(documentSubmission("doc", "ana", ""), "ana", "key")))
	row := *withKey(bare("", 1), "ana", "key").Idempotency
	row.First, row.Count, row.Document = 3, 1, documentSubmission("doc", "", "").Document.ID

	t.Run("all known", func(t *testing.T) {
		r := mustCommit(t, db, group(t, db, withKey(bare("other", 1), "ana", "key")))
		want := calpe.GroupResult{Submissions: []calpe.SubmissionResult{{First: 3, Existing: &row}}}
		if diff := cmp.Diff(want, r); diff != "" {
			t.Errorf("result (-want +got):\n%s", diff)
		}
	})
	t.Run("some known, some repeated", func(t *testing.T) {
		r := mustCommit(t, db, group(t, db,
			bare("a", 1),
			withKey(bare("b", 2), "ana", "key"), // known
			withKey(bare("c", 2), "ana", "new"), // new
			withKey(bare("d", 1), "ben", "key"), // another owner's key
			withKey(bare("e", 1), "ana", "new"), // repeated in the group
			withKey(bare("f", 1), "ana", "key"), // known, and repeated
		))
		repeated := *withKey(bare("", 1), "ana", "new").Idempotency
		repeated.First, repeated.Count = 5, 2
		want := calpe.GroupResult{
			First: 4, Count: 4,
			Commitments: slices.Concat(commitments("a", 1), commitments("c", 2), commitments("d", 1)),
			Submissions: []calpe.SubmissionResult{
				{First: 4},
				{First: 3, Existing: &row},
				{First: 5},
				{First: 7},
				{First: 5, Existing: &repeated},
				{First: 3, Existing: &row},
			},
		}
		if diff := cmp.Diff(want, r); diff != "" {
			t.Errorf("result (-want +got):\n%s", diff)
		}
		stored, err := db.Idempotency(t.Context(), "ana", repeated.KeyHash)
		if diff := cmp.Diff(repeated, stored); diff != "" || err != nil {
			t.Errorf("row: %v (-want +got):\n%s", err, diff)
		}
	})
	if first.First != 1 {
		t.Errorf("first group at %d", first.First)
	}
	if got := mustNext(t, db); got != 8 {
		t.Errorf("next index %d, want 8", got)
	}
}

// Many processes record the same requests at once: each is in the log once, and
// all are told the same index.
func TestCommitGroupKeyRaces(t *testing.T) {
	t.Parallel()
	db := openLog(t)
	const keys, writers = 20, 8
	instance, err := db.Instance(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var answers [writers][keys]uint64
	g, ctx := errgroup.WithContext(t.Context())
	for w := range writers {
		g.Go(func() error {
			for n := 0; n < keys; n += 2 {
				a, b := fmt.Sprint(n), fmt.Sprint(n+1)
				r, err := db.CommitGroup(ctx, groupOn(instance, withKey(bare(a, 1), "ana", a), withKey(bare(b, 1), "ana", b)))
				if err != nil {
					return err
				}
				answers[w][n], answers[w][n+1] = r.Submissions[0].First, r.Submissions[1].First
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for w := range writers {
		if answers[w] != answers[0] {
			t.Errorf("writer %d was told %v, writer 0 %v", w, answers[w], answers[0])
		}
	}
	if next := mustNext(t, db); next != 1+keys {
		t.Errorf("next index %d, want %d", next, 1+keys)
	}
	log := readAll(t, db)
	for n, index := range answers[0] {
		if log[index] != commitments(fmt.Sprint(n), 1)[0] {
			t.Errorf("entry %d isn't that of request %d", index, n)
		}
	}
}

func TestCommitGroupGivesUpOnTheLock(t *testing.T) {
	t.Parallel()
	db := openLog(t, func(c *Config) { c.LockTimeout = 50 * time.Millisecond })
	g := group(t, db, bare("a", 1))
	err := db.WithIntakeLock(t.Context(), func(context.Context) error {
		_, err := db.CommitGroup(t.Context(), g) // not with the lock's context
		wantErr(t, "while another holds the lock", err, calpe.ErrNotCommitted)
		if calpe.ErrorCode(err) != calpe.CodeUnavailable {
			t.Errorf("code %s, want %s", calpe.ErrorCode(err), calpe.CodeUnavailable)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if r := mustCommit(t, db, g); r.First != 1 {
		t.Errorf("retried group at %d, want 1", r.First)
	}
}

func TestGroupOf(t *testing.T) {
	t.Parallel()
	db := openLog(t)
	g := group(t, db, bare("a", 2), bare("b", 1))
	mustCommit(t, db, g)
	want := calpe.GroupRecord{
		ID: g.ID, First: 1, Commitments: slices.Concat(commitments("a", 2), commitments("b", 1)),
		Origin: calpe.OriginIntake, Time: g.Time, Deadline: g.Deadline,
	}
	for index := uint64(1); index <= 3; index++ {
		got, err := db.GroupOf(t.Context(), index)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("group of %d: %v (-want +got):\n%s", index, err, diff)
		}
		e, err := db.Entry(t.Context(), index)
		if diff := cmp.Diff(calpe.Entry{Index: index, Commitment: want.Commitments[index-1]}, e); diff != "" || err != nil {
			t.Errorf("entry %d: %v (-want +got):\n%s", index, err, diff)
		}
	}
	for _, index := range []uint64{4, 1 << 40, math.MaxUint64} {
		_, err := db.GroupOf(t.Context(), index)
		wantErr(t, fmt.Sprint("group of ", index), err, calpe.ErrNotFound)
		_, err = db.Entry(t.Context(), index)
		wantErr(t, fmt.Sprint("entry ", index), err, calpe.ErrNotFound)
	}
}

func TestReadEntriesRanges(t *testing.T) {
	t.Parallel()
	db := openLog(t)
	for n := range 6 {
		mustCommit(t, db, group(t, db, bare(fmt.Sprint(n), 1+3*n)))
	}
	log := readAll(t, db)
	for from := range len(log) + 1 {
		for to := range len(log) + 1 {
			var got []calpe.Commitment
			err := db.ReadEntries(t.Context(), uint64(from), uint64(to), func(first uint64, c []calpe.Commitment) error {
				if first != uint64(from+len(got)) || len(c) == 0 {
					t.Fatalf("%d to %d: chunk of %d at %d", from, to, len(c), first)
				}
				got = append(got, c...)
				return nil
			})
			if err != nil || !slices.Equal(got, log[from:max(from, to)]) {
				t.Fatalf("%d to %d: %d entries, %v", from, to, len(got), err)
			}
		}
	}
	stop := errors.New("enough")
	err := db.ReadEntries(t.Context(), 0, uint64(len(log)), func(uint64, []calpe.Commitment) error { return stop })
	wantErr(t, "error of fn", err, stop)
	err = db.ReadEntries(t.Context(), 5, uint64(len(log))+1, func(uint64, []calpe.Commitment) error { return nil })
	wantErr(t, "more than there are", err, calpe.ErrNotDense)
}

// Pages are cut by entries, not by rows.
func TestReadEntriesPages(t *testing.T) {
	t.Parallel()
	db := openLog(t)
	for n := range 3 {
		mustCommit(t, db, group(t, db, bare(fmt.Sprint(n), calpe.MaxGroup-10)))
	}
	page, err := db.readPage(t.Context(), 0, mustNext(t, db))
	if err != nil || len(page) != 3 { // entry 0, MaxGroup-10, and the one that reaches the bound
		t.Errorf("page of %d groups, %v, want 3", len(page), err)
	}
	if got := len(readAll(t, db)); got != 1+3*(calpe.MaxGroup-10) {
		t.Errorf("read %d entries", got)
	}
}

func TestReadEntriesNamesTheGap(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		firsts   []int // rows of 2 entries
		from, to uint64
		missing  string
	}{
		"gap":          {[]int{0, 4}, 0, 6, "entry 2 is missing"},
		"gap at start": {[]int{2, 4}, 0, 6, "entry 0 is missing"},
		"starts in it": {[]int{0, 4}, 3, 6, "entry 3 is missing"},
		"overlap":      {[]int{0, 1}, 0, 3, "entry 1 is in two groups"},
	} {
		db := open(t)
		for _, first := range test.firsts {
			postgrestest.Exec(t, db.cfg.URL, `INSERT INTO entry_group (first, count, commitments, group_id, origin, time)
				VALUES ($1, 2, decode(repeat('00', 64), 'hex'), gen_random_uuid(), 'void', '2026-01-01T00:00:00Z')`, first)
		}
		seen := test.from
		err := db.ReadEntries(t.Context(), test.from, test.to, func(first uint64, c []calpe.Commitment) error {
			if first != seen {
				t.Errorf("%s: chunk at %d, want %d", name, first, seen)
			}
			seen += uint64(len(c))
			return nil
		})
		if !errors.Is(err, calpe.ErrNotDense) || !strings.Contains(err.Error(), test.missing) {
			t.Errorf("%s: %v, want one with %q", name, err, test.missing)
		}
	}
}

// However many read, and however slowly, groups are committed and checkpoints
// recorded.
func TestReadersDoNotHoldUpWriters(t *testing.T) {
	t.Parallel()
	db := openLog(t, func(c *Config) { c.MaxConns = 3 })
	for range 3 {
		conn, err := db.pool.Acquire(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Release()
	}
	instance, err := db.Instance(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if r, err := db.CommitGroup(ctx, groupOn(instance, bare("a", 3))); err != nil || r.First != 1 {
		t.Errorf("group: %d, %v", r.First, err)
	}
	err = db.Lead(ctx, "batch", func(ctx context.Context, epoch uint64) error {
		return db.InsertCheckpoint(ctx, epoch, checkpoint(4, "a"))
	})
	if err != nil {
		t.Errorf("checkpoint: %v", err)
	}
}
