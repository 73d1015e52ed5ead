package s3_test

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/minio/minio-go/v7"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/storage/s3"
)

func TestMendLogObject(t *testing.T) {
	store, _ := setup(t)
	ctx := t.Context()
	mend := func(data string) error {
		return store.MendLogObject(ctx, tilePath, []byte(data), tileType, forever)
	}
	for _, data := range []string{"tile", "tile", "another"} {
		if err := mend(data); err != nil {
			t.Fatal(err)
		}
		if got, err := store.ReadLogObject(ctx, tilePath, 100); err != nil || string(got) != data {
			t.Errorf("mended to %q: %q, %v", data, got, err)
		}
	}
	if err := store.MendLogObject(ctx, "../x", nil, tileType, forever); err == nil {
		t.Error("what is no path of the log was written")
	}
	// Of several at once at most one mends what it looked at; the others say so, or
	// that others were faster than their reading it back.
	var wg sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		wg.Go(func() { errs[i] = mend(fmt.Sprintf("tile %d", i)) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil && !errors.Is(err, s3.ErrConflict) && !errors.Is(err, s3.ErrCorrupt) {
			t.Error(err)
		}
	}
	if got, err := store.ReadLogObject(ctx, tilePath, 100); err != nil || !bytes.HasPrefix(got, []byte("tile ")) {
		t.Errorf("%q, %v", got, err)
	}
}

func TestStoredDocument(t *testing.T) {
	store, srv := setup(t)
	ctx := t.Context()
	for _, size := range []int{1, 1000, 64 << 10, 64<<10 + 1, oneshot + 1} {
		object, _, err := store.PutDocument(ctx, s3.NewDocumentName(), newKey(), bytes.NewReader(content(1, size)), 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		got, err := store.StoredDocument(ctx, object)
		if err != nil || got.Size != object.Size || got.Checksum != object.Checksum || !got.Encrypted || !got.LockedUntil.IsZero() {
			t.Errorf("%d bytes: %+v, %v", size, got, err)
		}
		until := time.Now().Add(time.Minute).UTC().Truncate(time.Second)
		if err := store.RetainDocument(ctx, object.Name, object.VersionID, until, s3.Governance); err != nil {
			t.Fatal(err)
		}
		if got, err := store.StoredDocument(ctx, object); err != nil || got.LockedUntil.Before(until) {
			t.Errorf("locked: %+v, %v", got, err)
		}
		object.PlainSize++
		if got, err := store.StoredDocument(ctx, object); err != nil || got.Encrypted != (size >= 64<<10) {
			t.Errorf("a header of another size than %d: %+v, %v", object.PlainSize, got, err)
		}
		object.VersionID = "01KXXXXXXXXXXXXXXXXXXXXXXX"
		if _, err := store.StoredDocument(ctx, object); !errors.Is(err, calpe.ErrNotFound) {
			t.Errorf("another version: %v", err)
		}
	}
	name := s3.NewDocumentName()
	for _, plain := range []string{"plain text, and no header of a chunk", "short"} {
		if _, err := srv.core.PutObject(ctx, srv.cfg.DocumentsBucket, name, bytes.NewReader([]byte(plain)), int64(len(plain)), "", "", minio.PutObjectOptions{}); err != nil {
			t.Fatal(err)
		}
		got, err := store.StoredDocument(ctx, calpe.Object{Name: name, PlainSize: int64(len(plain))})
		if err != nil || got.Encrypted || got.Size != int64(len(plain)) {
			t.Errorf("%q: %+v, %v", plain, got, err)
		}
	}
	var names []string
	err := store.DocumentsBucketAfter(ctx, "", func(name string, _ time.Time) error {
		names = append(names, name)
		return nil
	})
	if err != nil || len(names) != 6 || !slices.IsSorted(names) || !slices.Contains(names, name) {
		t.Errorf("listed %q, %v", names, err)
	}
	var rest []string
	if err := store.DocumentsBucketAfter(ctx, names[2], func(name string, _ time.Time) error {
		rest = append(rest, name)
		return nil
	}); err != nil || !slices.Equal(rest, names[3:]) {
		t.Errorf("behind %s: %q, %v", names[2], rest, err)
	}
}
