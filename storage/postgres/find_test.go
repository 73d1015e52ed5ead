package postgres

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/calpe/calpe"
)

// sameDigest is a document like another, uploaded later by somebody else.
func sameDigest(seed, of, owner string, later time.Duration) calpe.Submission {
	s := documentSubmission(seed, owner, "")
	s.Document.DigestTag = documentSubmission(of, "", "").Document.DigestTag
	s.Document.Created = s.Document.Created.Add(later)
	return s
}

func TestFindByDigestTag(t *testing.T) {
	t.Parallel()
	db := openLog(t)
	ctx := t.Context()
	mustCommit(t, db, group(t, db, agencySubmission("registry")))
	deed := documentSubmission("deed", "ana", "registry") // entries 2 and 3
	mustCommit(t, db, group(t, db, deed, documentSubmission("other", "ana", ""), sameDigest("copy", "deed", "ben", time.Hour)))

	copied := calpe.Found{Index: 5, Received: testTime.Add(time.Hour)}
	first := calpe.Found{Index: 2, Received: testTime, Agency: "registry"}
	for limit, want := range map[int][]calpe.Found{10: {copied, first}, 2: {copied, first}, 1: {copied}} {
		got, err := db.FindByDigestTag(ctx, deed.Document.DigestTag, limit)
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("limit %d: %v (-want +got):\n%s", limit, err, diff)
		}
	}
	unknown := documentSubmission("unknown", "ana", "").Document.DigestTag
	for _, tag := range [][]byte{unknown, nil, deed.Document.DigestTag[:31]} {
		if got, err := db.FindByDigestTag(ctx, tag, 10); err != nil || len(got) != 0 {
			t.Errorf("tag %x: found %+v, %v", tag, got, err)
		}
	}
	for _, limit := range []int{0, -1, 1001} {
		if _, err := db.FindByDigestTag(ctx, unknown, limit); err == nil {
			t.Errorf("limit of %d accepted", limit)
		}
	}
}

func TestFindByCode(t *testing.T) {
	t.Parallel()
	db := openLog(t)
	ctx := t.Context()
	mustCommit(t, db, group(t, db, agencySubmission("registry")))
	old, older := documentSubmission("old", "ana", ""), documentSubmission("older", "ana", "")
	old.Document.CodeHash, older.Document.CodeHash = calpe.Hash{}, calpe.Hash{} // from before there were codes
	deed := documentSubmission("deed", "ana", "registry")
	mustCommit(t, db, group(t, db, old, older, deed, documentSubmission("other", "ben", "")))

	got, err := db.FindByCode(ctx, deed.Document.CodeHash)
	if diff := cmp.Diff(calpe.Found{Index: 4, Received: testTime, Agency: "registry"}, got); diff != "" || err != nil {
		t.Errorf("found: %v (-want +got):\n%s", err, diff)
	}
	for _, hash := range []calpe.Hash{{}, {1}, calpe.Hash(deed.Document.DigestTag)} {
		_, err := db.FindByCode(ctx, hash)
		wantErr(t, "hash "+hash.String(), err, calpe.ErrNotFound)
	}
	if d, err := db.Document(ctx, old.Document.ID); err != nil || d.CodeHash != (calpe.Hash{}) {
		t.Errorf("a document without a code has %v, %v", d.CodeHash, err)
	}
	twice := documentSubmission("twice", "ana", "")
	twice.Document.CodeHash = deed.Document.CodeHash
	_, err = db.CommitGroup(ctx, group(t, db, twice))
	wantErr(t, "a code given twice", err, calpe.ErrExists)
}

// Whoever asks about an erased document must learn as much as of one that never was.
func TestErasedIsNotFound(t *testing.T) {
	t.Parallel()
	db := openLog(t)
	ctx := t.Context()
	deed := documentSubmission("deed", "ana", "")
	mustCommit(t, db, group(t, db, deed, sameDigest("copy", "deed", "ben", 0)))
	if err := db.DestroyKey(ctx, deed.Document.ID); err != nil {
		t.Fatal(err)
	}
	_, err := db.FindByCode(ctx, deed.Document.CodeHash)
	wantErr(t, "the code of an erased document", err, calpe.ErrNotFound)
	got, err := db.FindByDigestTag(ctx, deed.Document.DigestTag, 10)
	if err != nil || len(got) != 1 || got[0].Index != 2 {
		t.Errorf("by digest: %+v, %v, want the copy alone", got, err)
	}
}

// Anybody may ask, so no question may read the whole table.
func TestFindUsesIndexes(t *testing.T) {
	t.Parallel()
	db := openLog(t)
	conn, err := pgx.Connect(t.Context(), db.cfg.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	// An empty table is read from end to end unless that is made dear.
	if _, err := conn.Exec(t.Context(), `SET enable_seqscan = off`); err != nil {
		t.Fatal(err)
	}
	for index, where := range map[string]string{
		"document_of_digest": `WHERE d.digest_tag = '\x00' ORDER BY d.index DESC LIMIT 20`,
		"document_code_hash": `WHERE d.code_hash = '\x00'`,
	} {
		rows, err := conn.Query(t.Context(), fmt.Sprint("EXPLAIN ", foundSQL, where))
		if err != nil {
			t.Fatal(err)
		}
		plan, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if text := strings.Join(plan, "\n"); err != nil || !strings.Contains(text, index) || strings.Contains(text, "Seq Scan") {
			t.Errorf("plan without %s: %v\n%s", index, err, text)
		}
	}
}
