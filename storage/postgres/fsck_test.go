package postgres

import (
	"bytes"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
)

func TestGroupsFrom(t *testing.T) {
	t.Parallel()
	db, at := openDocuments(t)
	all, err := db.GroupsFrom(t.Context(), 0)
	if err != nil || len(all) != 8 || all[0].First != 0 {
		t.Fatalf("%d groups, %v", len(all), err)
	}
	for _, g := range all {
		record, err := db.GroupOf(t.Context(), g.First)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(record, g); diff != "" {
			t.Errorf("group at %d:\n%s", g.First, diff)
		}
	}
	certified := at[1] // its certification is in the same group
	for from, want := range map[uint64]uint64{certified: certified, certified + 1: certified, certified + 2: certified + 2} {
		page, err := db.GroupsFrom(t.Context(), from)
		if err != nil || len(page) == 0 || page[0].First != want {
			t.Errorf("from %d: %v, %v; want the group at %d first", from, page, err, want)
		}
	}
	last := all[len(all)-1]
	for _, from := range []uint64{last.First + uint64(len(last.Commitments)), calpe.MaxLogSize, 1 << 63} {
		if page, err := db.GroupsFrom(t.Context(), from); err != nil || len(page) > 0 {
			t.Errorf("from %d: %v, %v", from, page, err)
		}
	}
}

// Every list that is read page by page gives each row once, whatever the page.
func TestPagesOfAllRows(t *testing.T) {
	t.Parallel()
	db, at := openDocuments(t)
	ctx := t.Context()
	var documents, statements, certifications []uint64
	for next := uint64(0); ; {
		page, err := db.DocumentsFrom(ctx, next, 2)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range page {
			documents, next = append(documents, d.Index), d.Index+1
		}
		if len(page) < 2 {
			break
		}
	}
	if len(documents) != 5 || documents[0] != at[0] || documents[3] != at[3] {
		t.Errorf("documents %v, want those of %v and one more", documents, at)
	}
	for next := uint64(0); ; {
		page, err := db.StatementsFrom(ctx, next, 1)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		statements, next = append(statements, page[0].Index), page[0].Index+1
	}
	if diff := cmp.Diff([]uint64{1, 2}, statements); diff != "" {
		t.Error(diff)
	}
	for next := uint64(0); ; {
		page, err := db.CertificationsFrom(ctx, next, 1)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		c, err := db.Certification(ctx, page[0].Index)
		if diff := cmp.Diff(c, page[0]); diff != "" || err != nil {
			t.Errorf("%v\n%s", err, diff)
		}
		certifications, next = append(certifications, page[0].Index), page[0].Index+1
	}
	if diff := cmp.Diff([]uint64{at[1] + 1, at[2] + 1}, certifications); diff != "" {
		t.Error(diff)
	}
	for name, err := range map[string]error{
		"documents":      second(db.DocumentsFrom(ctx, 0, 0)),
		"statements":     second(db.StatementsFrom(ctx, 0, 1001)),
		"certifications": second(db.CertificationsFrom(ctx, 0, 0)),
		"checkpoints":    second(db.CheckpointsFrom(ctx, 0, 0)),
		"idempotency":    second(db.IdempotencyAfter(ctx, "", calpe.Hash{}, 0)),
		"coins":          second(db.Anchors().CoinsAfter(ctx, calpe.Outpoint{}, 0)),
		"attempts":       second(db.Anchors().AttemptsOfSize(ctx, 0, calpe.BlockHash{}, 0)),
	} {
		if err == nil {
			t.Errorf("%s: a page of no size was read", name)
		}
	}
}

func TestIdempotencyAfter(t *testing.T) {
	t.Parallel()
	db := openLog(t)
	for n, owner := range []string{"ana", "ana", "ben"} {
		s := documentSubmission(string(rune('a'+n)), owner, "")
		s.Idempotency = &calpe.Idempotency{Owner: owner, KeyHash: calpe.Hash{byte(9 - n)}, RequestTag: bytes.Repeat([]byte{1}, 32), Document: s.Document.ID}
		mustCommit(t, db, group(t, db, s))
	}
	owner, key, got := "", calpe.Hash{}, []string{}
	for {
		page, err := db.IdempotencyAfter(t.Context(), owner, key, 1)
		if err != nil {
			t.Fatal(err)
		}
		if len(page) == 0 {
			break
		}
		d, err := db.Document(t.Context(), page[0].Document)
		if err != nil || d.Index != page[0].First || page[0].Count != 1 {
			t.Errorf("%+v stands for %+v, %v", page[0], d, err)
		}
		owner, key = page[0].Owner, page[0].KeyHash
		got = append(got, owner+string('0'+rune(key[0])))
	}
	if diff := cmp.Diff([]string{"ana8", "ana9", "ben7"}, got); diff != "" {
		t.Error(diff)
	}
}
