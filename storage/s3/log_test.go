package s3_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/storage/s3"
	"github.com/google/go-cmp/cmp"
	"github.com/minio/minio-go/v7"
)

const (
	tilePath = "tile/0/x001/234"
	tileType = "application/octet-stream"
	forever  = "max-age=31536000, immutable"
)

func putLog(t testing.TB, store *s3.Store, path, data string) error {
	t.Helper()
	return store.PutLogObject(t.Context(), path, []byte(data), tileType, forever)
}

func TestPutLogObject(t *testing.T) {
	store, srv := setup(t)
	ctx := t.Context()
	if _, err := store.ReadLogObject(ctx, tilePath, 100); !errors.Is(err, calpe.ErrNotFound) {
		t.Errorf("read before it is there: %v", err)
	}
	for range 3 {
		if err := putLog(t, store, tilePath, "tile"); err != nil {
			t.Fatal(err)
		}
	}
	for _, other := range []string{"TILE", "til", "tile+", ""} {
		err := putLog(t, store, tilePath, other)
		if !errors.Is(err, s3.ErrConflict) || !errors.Is(err, calpe.ErrExists) {
			t.Errorf("%q over it: %v", other, err)
		}
	}
	got, err := store.ReadLogObject(ctx, tilePath, 4)
	if err != nil || string(got) != "tile" {
		t.Errorf("read %q, %v", got, err)
	}
	if _, err := store.ReadLogObject(ctx, tilePath, 3); !errors.Is(err, s3.ErrCorrupt) {
		t.Errorf("more than maxBytes: %v", err)
	}
	info, err := srv.core.StatObject(ctx, srv.cfg.LogBucket, tilePath, minio.StatObjectOptions{Checksum: true})
	if err != nil {
		t.Fatal(err)
	}
	if info.ContentType != tileType || info.Metadata.Get("Cache-Control") != forever || info.ChecksumSHA256 == "" {
		t.Errorf("type %q, cache control %q, checksum %q", info.ContentType, info.Metadata.Get("Cache-Control"), info.ChecksumSHA256)
	}
	if err := store.ReplaceLogObject(ctx, tilePath, []byte("other"), tileType, forever); err != nil {
		t.Fatal(err)
	}
	if got, err := store.ReadLogObject(ctx, tilePath, 100); err != nil || string(got) != "other" {
		t.Errorf("after replacing: %q, %v", got, err)
	}
	if err := putLog(t, store, "empty", ""); err != nil {
		t.Errorf("an empty object: %v", err)
	}
	if got, err := store.ReadLogObject(ctx, "empty", 0); err != nil || len(got) != 0 {
		t.Errorf("an empty object: %q, %v", got, err)
	}
}

func TestLogPaths(t *testing.T) {
	store, _ := setup(t)
	for _, path := range []string{"", "/tile", "tile/", "a//b", "../x", "a/../b", "./a", "control/probe/x", strings.Repeat("a", 513)} {
		_, readErr := store.ReadLogObject(t.Context(), path, 10)
		for _, err := range []error{putLog(t, store, path, "x"), store.ReplaceLogObject(t.Context(), path, nil, "", ""), readErr} {
			if err == nil || errors.Is(err, calpe.ErrNotFound) {
				t.Errorf("path %q: %v", path, err)
			}
		}
	}
}

// Both outcomes of a write whose answer is lost: the object is there, once.
func TestLogFaults(t *testing.T) {
	for name, tt := range map[string]struct {
		f     fault
		n     int
		fails bool
	}{
		"not applied, once":    {cutBefore, 1, false},
		"applied, once":        {cutAfter, 1, false},
		"overloaded, thrice":   {overloaded, 3, false},
		"not applied, always":  {cutBefore, -1, true},
		"applied, always":      {cutAfter, -1, true},
		"overloaded, always":   {overloaded, -1, true},
		"applied, then caught": {cutAfter, 2, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, times(tt.n, tt.f, isPut))
			store, srv := setup(t, p.use)
			direct := newStore(t, srv.cfg)
			err := putLog(t, store, tilePath, "tile")
			if (err != nil) != tt.fails {
				t.Fatalf("error %v", err)
			}
			if errors.Is(err, calpe.ErrExists) {
				t.Errorf("own write taken for another's: %v", err)
			}
			if p.faults() == 0 || p.faults() > 4 {
				t.Errorf("%d requests were broken", p.faults())
			}
			// Whatever happened, the next attempt with a healthy server succeeds, and
			// other bytes don't get in.
			if err := putLog(t, direct, tilePath, "tile"); err != nil {
				t.Error(err)
			}
			if err := putLog(t, direct, tilePath, "other"); !errors.Is(err, s3.ErrConflict) {
				t.Errorf("other bytes: %v", err)
			}
		})
	}
	t.Run("somebody else's, answer lost", func(t *testing.T) {
		p := newProxy(t, times(1, cutBefore, isPut))
		store, srv := setup(t, p.use)
		if err := putLog(t, newStore(t, srv.cfg), tilePath, "theirs"); err != nil {
			t.Fatal(err)
		}
		if err := putLog(t, store, tilePath, "ours"); !errors.Is(err, s3.ErrConflict) {
			t.Errorf("error %v", err)
		}
	})
}

// Sixteen servers write the same tile at once: all agree, or the first decides.
func TestPutLogObjectRace(t *testing.T) {
	store, _ := setup(t)
	for name, same := range map[string]bool{"same bytes": true, "other bytes": false} {
		t.Run(name, func(t *testing.T) {
			path := "tile/" + strings.ReplaceAll(name, " ", "-")
			var wg sync.WaitGroup
			errs := make([]error, 16)
			for i := range errs {
				data := "tile"
				if !same {
					data = fmt.Sprintf("tile %2d", i)
				}
				wg.Go(func() { errs[i] = putLog(t, store, path, data) })
			}
			wg.Wait()
			won := 0
			for i, err := range errs {
				switch {
				case err == nil:
					won++
					got, err := store.ReadLogObject(t.Context(), path, 100)
					if err != nil || (!same && string(got) != fmt.Sprintf("tile %2d", i)) {
						t.Errorf("writer %d won, but %q is there, %v", i, got, err)
					}
				case !errors.Is(err, s3.ErrConflict):
					t.Error(err)
				}
			}
			if want := map[bool]int{true: 16, false: 1}[same]; won != want {
				t.Errorf("%d writers won, want %d", won, want)
			}
		})
	}
}

func TestListLog(t *testing.T) {
	store, _ := setup(t)
	want := []string{"checkpoint", "tile/0/000", "tile/0/x001/000", "tile/1/000", "tile/entries/000"}
	for _, path := range want {
		if err := putLog(t, store, path, path); err != nil {
			t.Fatal(err)
		}
	}
	list := func(prefix, after string, most int) (got []string) {
		t.Helper()
		err := store.ListLog(t.Context(), prefix, after, func(path string) bool {
			got = append(got, path)
			return len(got) < most
		})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	for _, tt := range []struct {
		prefix, after string
		most          int
		want          []string
	}{
		{"", "", 99, want},
		{"tile/0/", "", 99, want[1:3]},
		{"tile/0/", "tile/0/000", 99, want[2:3]},
		{"tile/", "tile/0/5", 99, want[2:]},
		{"", "tile/entries/000", 99, nil},
		{"none/", "", 99, nil},
		{"", "", 2, want[:2]},
	} {
		if diff := cmp.Diff(tt.want, list(tt.prefix, tt.after, tt.most)); diff != "" {
			t.Errorf("prefix %q after %q: %s", tt.prefix, tt.after, diff)
		}
	}
}

// More objects than one page of a listing.
func TestListLogPages(t *testing.T) {
	store, _ := setup(t)
	var want []string
	var wg sync.WaitGroup
	free := make(chan struct{}, 16)
	for i := range 1100 {
		path := fmt.Sprintf("tile/x%04d", i)
		want = append(want, path)
		free <- struct{}{}
		wg.Go(func() {
			defer func() { <-free }()
			if err := putLog(t, store, path, "x"); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	var got []string
	err := store.ListLog(t.Context(), "tile/", "", func(path string) bool { got = append(got, path); return true })
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%d paths, %v; want %d in order", len(got), err, len(want))
	}
}

// A read whose bytes aren't those of the stored checksum is an error.
func TestReadChecksum(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*http.Response)
		want   error
	}{
		"changed": {func(r *http.Response) { r.Body = swapBody{r.Body, bytes.NewReader([]byte("TILE"))} }, s3.ErrCorrupt},
		"short":   {func(r *http.Response) { r.Body = swapBody{r.Body, bytes.NewReader([]byte("til"))} }, nil},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, func(*http.Request) fault { return pass })
			p.body = func(r *http.Response) {
				if isGet(r.Request) {
					tt.change(r)
				}
			}
			store, _ := setup(t, p.use)
			if err := putLog(t, store, tilePath, "tile"); err != nil {
				t.Fatal(err)
			}
			got, err := store.ReadLogObject(t.Context(), tilePath, 100)
			if err == nil || (tt.want != nil && !errors.Is(err, tt.want)) {
				t.Errorf("%q, %v; want %v", got, err, tt.want)
			}
		})
	}
}

type swapBody struct {
	closer interface{ Close() error }
	*bytes.Reader
}

func (b swapBody) Close() error { return b.closer.Close() }

func TestFence(t *testing.T) {
	store, srv := setup(t)
	ctx := t.Context()
	if _, _, err := store.ReadFence(ctx); !errors.Is(err, calpe.ErrNotFound) {
		t.Errorf("read before it is there: %v", err)
	}
	if _, err := store.ReplaceFence(ctx, []byte("x"), "0123456789abcdef0123456789abcdef"); err == nil {
		t.Error("replaced a fence that isn't there")
	}
	first, err := store.ReplaceFence(ctx, []byte("one"), "")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.ReplaceFence(ctx, []byte("two"), ""); !errors.Is(err, s3.ErrConflict) {
		t.Errorf("created twice: %v", err)
	}
	second, err := store.ReplaceFence(ctx, []byte("two"), first)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.ReplaceFence(ctx, []byte("three"), first); !errors.Is(err, s3.ErrConflict) || !errors.Is(err, calpe.ErrExists) {
		t.Errorf("replaced with an old ETag: %v", err)
	}
	data, etag, err := store.ReadFence(ctx)
	if err != nil || string(data) != "two" || etag != second {
		t.Errorf("fence %q, ETag %q, %v; want %q", data, etag, err, second)
	}
	for _, bad := range [][]byte{nil, make([]byte, 1<<17)} {
		if _, err := store.ReplaceFence(ctx, bad, second); err == nil {
			t.Errorf("a fence of %d bytes was accepted", len(bad))
		}
	}
	if n := len(srv.versions(t, srv.cfg.DocumentsBucket, "control/fence")); n != 2 {
		t.Errorf("%d versions, want both that were written", n)
	}
}

// A fence that was deleted by its name has its versions still.
func TestUndeleteFence(t *testing.T) {
	store, srv := setup(t)
	ctx := t.Context()
	if found, err := store.UndeleteFence(ctx); err != nil || found {
		t.Errorf("before there is one: %v, %v", found, err)
	}
	etag, err := store.ReplaceFence(ctx, []byte("one"), "")
	if err != nil {
		t.Fatal(err)
	}
	if etag, err = store.ReplaceFence(ctx, []byte("two"), etag); err != nil {
		t.Fatal(err)
	}
	bucket := srv.cfg.DocumentsBucket
	if err := srv.core.RemoveObject(ctx, bucket, "control/fence", minio.RemoveObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := store.ReadFence(ctx); !errors.Is(err, calpe.ErrNotFound) {
		t.Fatalf("a deleted fence: %v", err)
	}
	for range 2 {
		if found, err := store.UndeleteFence(ctx); err != nil || !found {
			t.Fatalf("%v, %v", found, err)
		}
		if data, again, err := store.ReadFence(ctx); err != nil || string(data) != "two" || again != etag {
			t.Errorf("fence %q, ETag %q, %v; want the last one, %q", data, again, err, etag)
		}
	}
	for _, v := range srv.versions(t, bucket, "control/fence") {
		if err := srv.core.RemoveObject(ctx, bucket, "control/fence", minio.RemoveObjectOptions{VersionID: v.VersionID}); err != nil {
			t.Fatal(err)
		}
	}
	if found, err := store.UndeleteFence(ctx); err != nil || found {
		t.Errorf("nothing is left: %v, %v", found, err)
	}
}

// Of sixteen writers with one ETag exactly one wins, every time, and what is there
// afterwards is the winner's.
func TestFenceRace(t *testing.T) {
	store, _ := setup(t)
	etag := ""
	for round := range 8 {
		var wg sync.WaitGroup
		type result struct {
			etag string
			err  error
		}
		results := make([]result, 16)
		for i := range results {
			wg.Go(func() {
				newETag, err := store.ReplaceFence(t.Context(), fmt.Appendf(nil, "round %d writer %d", round, i), etag)
				results[i] = result{newETag, err}
			})
		}
		wg.Wait()
		winner := -1
		for i, r := range results {
			switch {
			case r.err == nil && winner >= 0:
				t.Fatalf("round %d: writers %d and %d both won", round, winner, i)
			case r.err == nil:
				winner = i
			case !errors.Is(r.err, s3.ErrConflict):
				t.Errorf("round %d: %v", round, r.err)
			}
		}
		if winner < 0 {
			t.Fatalf("round %d: nobody won", round)
		}
		data, now, err := store.ReadFence(t.Context())
		if err != nil || string(data) != fmt.Sprintf("round %d writer %d", round, winner) || now != results[winner].etag {
			t.Fatalf("round %d: winner %d, but %q is there, %v", round, winner, data, err)
		}
		etag = now
	}
}

// A lost answer is neither success nor conflict, and the request isn't repeated:
// the caller reads and knows.
func TestFenceFaults(t *testing.T) {
	for name, tt := range map[string]struct {
		f       fault
		applied bool
	}{"not applied": {cutBefore, false}, "applied": {cutAfter, true}, "overloaded": {overloaded, false}} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, func(*http.Request) fault { return pass })
			store, _ := setup(t, p.use)
			etag, err := store.ReplaceFence(t.Context(), []byte("old"), "")
			if err != nil {
				t.Fatal(err)
			}
			p.plan = times(-1, tt.f, isPut)
			_, err = store.ReplaceFence(t.Context(), []byte("new"), etag)
			if err == nil || errors.Is(err, s3.ErrConflict) || errors.Is(err, calpe.ErrNotFound) {
				t.Errorf("error %v, want one that says nobody knows", err)
			}
			if p.faults() != 1 {
				t.Errorf("sent %d times, want once", p.faults())
			}
			data, _, err := store.ReadFence(t.Context())
			if want := map[bool]string{true: "new", false: "old"}[tt.applied]; err != nil || string(data) != want {
				t.Errorf("fence %q, %v; want %q", data, err, want)
			}
		})
	}
}
