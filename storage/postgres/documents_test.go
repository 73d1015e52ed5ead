package postgres

import (
	"fmt"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
)

func TestDocumentNotFound(t *testing.T) {
	t.Parallel()
	db := openLog(t)
	ctx := t.Context()
	id := calpe.DocumentID{1}
	_, err := db.Document(ctx, id)
	wantErr(t, "document", err, calpe.ErrNotFound)
	_, err = db.DocumentAt(ctx, 1)
	wantErr(t, "document at", err, calpe.ErrNotFound)
	_, err = db.DocumentAt(ctx, math.MaxUint64)
	wantErr(t, "document at the largest number", err, calpe.ErrNotFound)
	_, err = db.DocumentKey(ctx, id)
	wantErr(t, "key", err, calpe.ErrNotFound)
	_, err = db.Certification(ctx, 1)
	wantErr(t, "certification", err, calpe.ErrNotFound)
	_, err = db.Statement(ctx, 1)
	wantErr(t, "statement", err, calpe.ErrNotFound)
	_, err = db.Agency(ctx, "nobody")
	wantErr(t, "agency", err, calpe.ErrNotFound)
	_, err = db.TokenByHash(ctx, calpe.Hash{1})
	wantErr(t, "token", err, calpe.ErrNotFound)
	wantErr(t, "revoke token", db.RevokeToken(ctx, id, testTime), calpe.ErrNotFound)
	wantErr(t, "mark retained", db.MarkRetained(ctx, id, testTime), calpe.ErrNotFound)
	_, err = db.Idempotency(ctx, "ana", calpe.Hash{1})
	wantErr(t, "idempotency key", err, calpe.ErrNotFound)
}

func TestDocumentsOfOwner(t *testing.T) {
	t.Parallel()
	db := openLog(t)
	var subs []calpe.Submission
	for n := range 5 {
		subs = append(subs, documentSubmission(fmt.Sprint("ana", n), "ana", ""), documentSubmission(fmt.Sprint("ben", n), "ben", ""))
	}
	mustCommit(t, db, group(t, db, subs...))
	var got []uint64
	for before := uint64(math.MaxUint64); ; {
		page, err := db.DocumentsOf(t.Context(), "ana", before, 2)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		for _, d := range page {
			if d.Owner != "ana" {
				t.Errorf("document of %s", d.Owner)
			}
			got = append(got, d.Index)
		}
		before = page[len(page)-1].Index
	}
	if want := []uint64{9, 7, 5, 3, 1}; !slices.Equal(got, want) {
		t.Errorf("indices %v, want %v", got, want)
	}
	for _, limit := range []int{0, -1, 1001} {
		if _, err := db.DocumentsOf(t.Context(), "ana", 9, limit); err == nil {
			t.Errorf("limit of %d accepted", limit)
		}
	}
}

func TestRetention(t *testing.T) {
	t.Parallel()
	db := openLog(t)
	mustCommit(t, db, group(t, db, documentSubmission("a", "ana", ""), documentSubmission("b", "ana", ""), documentSubmission("c", "ana", "")))
	first, err := db.Unretained(t.Context(), calpe.DocumentID{}, 2)
	if err != nil || len(first) != 2 {
		t.Fatalf("page of %d, %v", len(first), err)
	}
	rest, err := db.Unretained(t.Context(), first[1].ID, 2)
	if err != nil || len(rest) != 1 {
		t.Fatalf("page of %d, %v", len(rest), err)
	}
	for range 2 { // a restart repeats it
		if err := db.MarkRetained(t.Context(), first[0].ID, testTime); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.MarkRetained(t.Context(), first[0].ID, testTime.Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	d, err := db.Document(t.Context(), first[0].ID)
	if err != nil || !d.RetainedAt.Equal(testTime) {
		t.Errorf("retained at %s, %v, want the first time, %s", d.RetainedAt, err, testTime)
	}
	left, err := db.Unretained(t.Context(), calpe.DocumentID{}, 10)
	if err != nil || len(left) != 2 || left[0].ID == first[0].ID || left[1].ID == first[0].ID {
		t.Errorf("left: %d, %v", len(left), err)
	}
}

func TestKnownObjects(t *testing.T) {
	t.Parallel()
	db := openLog(t)
	mustCommit(t, db, group(t, db, documentSubmission("a", "ana", ""), documentSubmission("b", "ana", "")))
	known, err := db.KnownObjects(t.Context(), []string{"documents/b", "documents/orphan", "documents/a"})
	slices.Sort(known)
	if want := []string{"documents/a", "documents/b"}; err != nil || !slices.Equal(known, want) {
		t.Errorf("known %v, %v, want %v", known, err, want)
	}
	if known, err := db.KnownObjects(t.Context(), nil); err != nil || len(known) != 0 {
		t.Errorf("known of none: %v, %v", known, err)
	}
	if _, err := db.KnownObjects(t.Context(), make([]string, maxObjectNames+1)); err == nil {
		t.Error("too many names accepted")
	}
}

func TestDocumentKeys(t *testing.T) {
	t.Parallel()
	db := openLog(t)
	ctx := t.Context()
	mustCommit(t, db, group(t, db, documentSubmission("a", "ana", ""), documentSubmission("b", "ana", "")))
	old, err := db.KeysNotUnder(ctx, "kek-2", calpe.DocumentID{}, 10)
	if err != nil || len(old) != 2 {
		t.Fatalf("%d keys, %v", len(old), err)
	}
	rewrapped := calpe.WrappedKey{Document: old[0].Document, KeyID: "kek-2", Wrapped: []byte("wrapped anew, and long enough")}
	if err := db.RewrapKey(ctx, old[0], rewrapped); err != nil {
		t.Fatal(err)
	}
	wantErr(t, "rewrap what was rewrapped", db.RewrapKey(ctx, old[0], rewrapped), calpe.ErrNotFound)
	if err := db.RewrapKey(ctx, old[0], old[1]); err == nil {
		t.Error("another document's key accepted")
	}
	got, err := db.DocumentKey(ctx, old[0].Document)
	if diff := cmp.Diff(rewrapped, got); diff != "" || err != nil {
		t.Errorf("key: %v (-want +got):\n%s", err, diff)
	}
	left, err := db.KeysNotUnder(ctx, "kek-2", calpe.DocumentID{}, 10)
	if diff := cmp.Diff(old[1:], left); diff != "" || err != nil {
		t.Errorf("left: %v (-want +got):\n%s", err, diff)
	}
	for range 2 {
		if err := db.DestroyKey(ctx, old[1].Document); err != nil {
			t.Fatal(err)
		}
	}
	_, err = db.DocumentKey(ctx, old[1].Document)
	wantErr(t, "destroyed key", err, calpe.ErrNotFound)
	wantErr(t, "rewrap a destroyed key", db.RewrapKey(ctx, old[1], calpe.WrappedKey{
		Document: old[1].Document, KeyID: "kek-2", Wrapped: rewrapped.Wrapped,
	}), calpe.ErrNotFound)
	if _, err := db.Document(ctx, old[1].Document); err != nil {
		t.Errorf("the row of an erased document is gone: %v", err)
	}
}

func TestAgenciesAndStatements(t *testing.T) {
	t.Parallel()
	db := openLog(t)
	mustCommit(t, db, group(t, db, agencySubmission("registry")))
	mustCommit(t, db, group(t, db, agencySubmission("academy")))
	recovery := bare("recovery", 1)
	recovery.Statement = &calpe.Statement{Type: "calpe/recovery/v1", Body: []byte(`{}`)}
	mustCommit(t, db, group(t, db, recovery))

	agencies, err := db.Agencies(t.Context())
	if err != nil || len(agencies) != 2 || agencies[0].ID != "academy" || agencies[1].Statement != 1 {
		t.Errorf("agencies %+v, %v", agencies, err)
	}
	statements, err := db.Statements(t.Context(), "calpe/agency/v1")
	if err != nil || len(statements) != 2 || statements[0].Index != 1 || statements[1].Index != 2 {
		t.Errorf("statements %+v, %v", statements, err)
	}
	if none, err := db.Statements(t.Context(), "calpe/other/v1"); err != nil || len(none) != 0 {
		t.Errorf("statements of no type: %+v, %v", none, err)
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	db := open(t)
	ctx := t.Context()
	a := calpe.Token{ID: calpe.TokenID{1}, Owner: "ana", Label: "laptop", Hash: calpe.Hash{1}, Scopes: []string{"upload", "read"}, Created: testTime}
	b := calpe.Token{ID: calpe.TokenID{2}, Owner: "ben", Hash: calpe.Hash{2}, Scopes: []string{}, Created: testTime.Add(time.Second)}
	for _, token := range []calpe.Token{b, a} {
		if err := db.CreateToken(ctx, token); err != nil {
			t.Fatal(err)
		}
	}
	same := a
	same.ID = calpe.TokenID{3}
	wantErr(t, "hash twice", db.CreateToken(ctx, same), calpe.ErrExists)
	for range 2 {
		if err := db.RevokeToken(ctx, a.ID, testTime.Add(time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	if err := db.RevokeToken(ctx, a.ID, testTime.Add(2*time.Hour)); err != nil {
		t.Fatal(err)
	}
	a.Revoked = testTime.Add(time.Hour)
	got, err := db.TokenByHash(ctx, a.Hash)
	if diff := cmp.Diff(a, got); diff != "" || err != nil {
		t.Errorf("token: %v (-want +got):\n%s", err, diff)
	}
	list, err := db.Tokens(ctx)
	if diff := cmp.Diff([]calpe.Token{a, b}, list); diff != "" || err != nil {
		t.Errorf("tokens: %v (-want +got):\n%s", err, diff)
	}
	if err := db.CreateToken(ctx, calpe.Token{ID: calpe.TokenID{4}, Owner: "ana", Hash: calpe.Hash{4}, Created: testTime}); err != nil {
		t.Errorf("token without scopes: %v", err)
	}
}

func TestCreateDeployment(t *testing.T) {
	t.Parallel()
	db := open(t)
	_, err := db.Deployment(t.Context())
	wantErr(t, "deployment before it is created", err, calpe.ErrNotFound)
	createLog(t, db)
	want := calpe.Deployment{Identity: []byte(`{"type":"calpe/identity/v1"}`), Network: calpe.Regtest, Created: testTime}
	got, err := db.Deployment(t.Context())
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("deployment: %v (-want +got):\n%s", err, diff)
	}
	other := want
	other.Identity = []byte(`{"other":1}`)
	_, err = db.CreateDeployment(t.Context(), other, group(t, db, bare("other", 1)))
	wantErr(t, "a second log", err, calpe.ErrExists)
	for name, s := range map[string]calpe.Submission{
		"two commitments": bare("a", 2),
		"a document":      documentSubmission("a", "ana", ""),
		"a key":           withKey(bare("a", 1), "ana", "key"),
	} {
		if _, err := open(t).CreateDeployment(t.Context(), want, group(t, db, s)); err == nil {
			t.Errorf("entry 0 with %s accepted", name)
		}
	}
	if next := mustNext(t, db); next != 1 {
		t.Errorf("next index %d, want 1", next)
	}
}

// The schema itself refuses what no code should try.
func TestSchemaKeepsInvariants(t *testing.T) {
	t.Parallel()
	db := openLog(t)
	mustCommit(t, db, group(t, db, agencySubmission("registry")))
	for name, sql := range map[string]string{
		"change an entry":                `UPDATE entry_group SET time = now()`,
		"delete an entry":                `DELETE FROM entry_group`,
		"truncate the log":               `TRUNCATE entry_group`,
		"change a checkpoint":            `UPDATE checkpoint SET note = 'x'`,
		"delete the deployment":          `DELETE FROM deployment`,
		"a second deployment":            `INSERT INTO deployment (identity, network, created_at) VALUES ('{}', 'regtest', now())`,
		"a row of the wrong length":      `INSERT INTO entry_group VALUES (2, 2, '\x00', gen_random_uuid(), 'void', date_trunc('second', now()))`,
		"a void row that isn't void":     `INSERT INTO entry_group VALUES (2, 1, decode(repeat('01', 32), 'hex'), gen_random_uuid(), 'void', date_trunc('second', now()))`,
		"intake without a deadline":      `INSERT INTO entry_group VALUES (2, 1, decode(repeat('01', 32), 'hex'), gen_random_uuid(), 'intake', date_trunc('second', now()))`,
		"a row above the largest log":    `INSERT INTO entry_group VALUES (1099511627775, 1, decode(repeat('00', 32), 'hex'), gen_random_uuid(), 'void', date_trunc('second', now()))`,
		"the same index twice":           `INSERT INTO entry_group VALUES (1, 1, decode(repeat('00', 32), 'hex'), gen_random_uuid(), 'void', date_trunc('second', now()))`,
		"an unknown role":                `INSERT INTO leader VALUES ('king', 0)`,
		"an agency that isn't a name":    `INSERT INTO agency VALUES ('-x', 'X', 'key', 1, now())`,
		"a checkpoint of another length": `INSERT INTO checkpoint VALUES (1, '\x00', 'note', 1, now())`,
	} {
		if _, err := db.pool.Exec(t.Context(), sql); err == nil {
			t.Errorf("accepted: %s", name)
		}
	}
	if next := mustNext(t, db); next != 2 {
		t.Errorf("next index %d, want 2", next)
	}
}
