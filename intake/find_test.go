package intake_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/batch/batchtest"
	"github.com/calpe/calpe/intake"
	"github.com/calpe/calpe/storage/keyring"
	"github.com/calpe/calpe/storage/postgres"
)

var (
	_ intake.FoundRows = (*postgres.DB)(nil)
	_ intake.Tagger    = (*keyring.Ring)(nil)
)

// foundRows finds in the rows of some documents, which are in the order of their indices.
type foundRows struct {
	rows []calpe.Document
	down error
}

func (r foundRows) FindByDigestTag(_ context.Context, tag []byte, limit int) ([]calpe.Found, error) {
	var found []calpe.Found
	for _, d := range slices.Backward(r.rows) {
		if slices.Equal(d.DigestTag, tag) && len(found) < limit {
			found = append(found, calpe.Found{Index: d.Index, Received: d.Created})
		}
	}
	return found, r.down
}

func (r foundRows) FindByCode(_ context.Context, hash calpe.Hash) (calpe.Found, error) {
	if r.down != nil {
		return calpe.Found{}, r.down
	}
	for _, d := range r.rows {
		if d.CodeHash == hash {
			return calpe.Found{Index: d.Index, Received: d.Created}, nil
		}
	}
	return calpe.Found{}, calpe.ErrNotFound
}

// What an upload writes is what a finder looks for.
func TestUploadedIsFound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		d := newDesk(t, w, new(batchtest.Faults))
		var rows foundRows
		var uploads []intake.Uploaded
		for _, text := range []string{"deed", "other", "deed"} {
			got, err := d.Upload(t.Context(), upload(text))
			if err != nil {
				t.Fatal(err)
			}
			row, err := batchtest.Database{State: w.state, Faults: d.faults}.Document(t.Context(), got.ID)
			if err != nil {
				t.Fatal(err)
			}
			uploads, rows.rows = append(uploads, got), append(rows.rows, row)
		}
		finder, err := intake.NewFinder(intake.FinderConfig{Rows: rows, Keys: d.cfg.Keys})
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now().UTC().Truncate(time.Second)
		for _, u := range uploads {
			got, err := finder.FindByCode(t.Context(), u.Code)
			if want := (calpe.Found{Index: u.Index, Received: now}); err != nil || got != want {
				t.Errorf("by code %v: %+v, %v; want %+v", u.Code, got, err, want)
			}
		}
		got, err := finder.FindByDigest(t.Context(), sha256.Sum256([]byte("deed")), 10)
		want := []calpe.Found{{Index: uploads[2].Index, Received: now}, {Index: uploads[0].Index, Received: now}}
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("by digest: %v (-want +got):\n%s", err, diff)
		}
		if _, err := finder.FindByCode(t.Context(), calpe.NewFindCode([18]byte{})); code(err) != calpe.CodeNotFound {
			t.Errorf("a code that nobody has: %v", err)
		}
		if got, err := finder.FindByDigest(t.Context(), calpe.Digest{}, 10); err != nil || len(got) != 0 {
			t.Errorf("a digest that nobody has: %+v, %v", got, err)
		}
	})
}

func TestFinderFaults(t *testing.T) {
	t.Parallel()
	down := errors.New("connection refused")
	finder, err := intake.NewFinder(intake.FinderConfig{Rows: foundRows{down: down}, Keys: plainTags{}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := finder.FindByDigest(t.Context(), calpe.Digest{}, 1); code(err) != calpe.CodeUnavailable || !errors.Is(err, down) {
		t.Errorf("by digest: %v", err)
	}
	if _, err := finder.FindByCode(t.Context(), calpe.FindCode{}); code(err) != calpe.CodeUnavailable || !errors.Is(err, down) {
		t.Errorf("by code: %v", err)
	}
	for _, cfg := range []intake.FinderConfig{{}, {Rows: foundRows{}}, {Keys: plainTags{}}} {
		if _, err := intake.NewFinder(cfg); err == nil {
			t.Errorf("made of %+v", cfg)
		}
	}
}

type plainTags struct{}

func (plainTags) Tag(purpose string, data []byte) []byte { return append([]byte(purpose), data...) }
