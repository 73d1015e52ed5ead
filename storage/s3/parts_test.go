package s3_test

import (
	"bytes"
	"errors"
	"slices"
	"testing"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/storage/s3"
)

// pieces stores a document part by part, the last one first, each twice.
func pieces(t *testing.T, store *s3.Store, key [32]byte, data []byte) (calpe.PartsPlace, calpe.Object) {
	t.Helper()
	at := calpe.PartsPlace{Object: s3.NewDocumentName()}
	var err error
	if at.Upload, err = store.StartParts(t.Context(), at.Object); err != nil {
		t.Fatal(err)
	}
	var parts []calpe.Part
	number := 0
	for plain := range slices.Chunk(data, s3.PartPlain) {
		number++
		var sums [2]calpe.Part
		for i, text := range [][]byte{bytes.Repeat([]byte("x"), len(plain)), plain} {
			if sums[i], err = store.PutPart(t.Context(), at, key, int64(len(data)), number, text); err != nil {
				t.Fatal(err)
			}
		}
		parts = append(parts, sums[1])
	}
	object, err := store.CompleteParts(t.Context(), at, int64(len(data)), parts)
	if err != nil {
		t.Fatal(err)
	}
	again, err := store.CompleteParts(t.Context(), at, int64(len(data)), parts)
	if err != nil || again != object {
		t.Fatalf("completed again: %+v, %v; want %+v", again, err, object)
	}
	return at, object
}

func TestDocumentInPieces(t *testing.T) {
	store, srv := setup(t)
	for _, size := range []int{1, 65536, s3.PartPlain - 1, s3.PartPlain, s3.PartPlain + 1, 2*s3.PartPlain + 70000} {
		key, data := newKey(), content(uint64(size), size)
		_, object := pieces(t, store, key, data)
		if object.PlainSize != int64(size) || object.Size != s3.SealedSize(int64(size)) || object.VersionID == "" {
			t.Errorf("object %+v of %d bytes", object, size)
		}
		if err := store.StatDocument(t.Context(), object); err != nil {
			t.Error(err)
		}
		stored := srv.stored(t, srv.cfg.DocumentsBucket, object.Name)
		if len(stored) != int(object.Size) || size > 16 && bytes.Contains(stored, data[size-16:]) {
			t.Errorf("%d bytes are stored, want %d, and none of the plaintext", len(stored), object.Size)
		}
		edges := []int{0, 1, 65535, 65536, s3.PartPlain - 1, s3.PartPlain, s3.PartPlain + 1, 2 * s3.PartPlain, size - 1, size}
		for _, from := range edges {
			for _, to := range edges {
				if from > to || to > size || from < 0 {
					continue
				}
				got, err := readRange(t.Context(), store, object, key, int64(from), int64(to-from))
				if err != nil || !bytes.Equal(got, data[from:to]) {
					t.Fatalf("bytes %d to %d of %d: %d bytes, %v", from, to, size, len(got), err)
				}
			}
		}
	}
	if n := store.Buffers(); n != 0 {
		t.Errorf("%d buffers are still held", n)
	}
}

// A part is bound to its place and to the size of the whole.
func TestMovedParts(t *testing.T) {
	store, _ := setup(t)
	key, size := newKey(), int64(2*s3.PartPlain)
	begin := func() (at calpe.PartsPlace) {
		at.Object = s3.NewDocumentName()
		var err error
		if at.Upload, err = store.StartParts(t.Context(), at.Object); err != nil {
			t.Fatal(err)
		}
		return at
	}
	part := func(at calpe.PartsPlace, whole int64, number int) calpe.Part {
		t.Helper()
		p, err := store.PutPart(t.Context(), at, key, whole, number, content(7, s3.PartPlain))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	// The parts of a document of three, without the last one: in the place of one of two.
	at := begin()
	object, err := store.CompleteParts(t.Context(), at, size, []calpe.Part{part(at, size+1, 1), part(at, size+1, 2)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readRange(t.Context(), store, object, key, 0, -1); !errors.Is(err, s3.ErrCorrupt) {
		t.Errorf("a document that was cut at a part reads as: %v", err)
	}
	if err := store.AbortParts(t.Context(), begin()); err != nil {
		t.Error(err)
	}
	gone := begin()
	for range 2 {
		if err := store.AbortParts(t.Context(), gone); err != nil {
			t.Error(err)
		}
	}
	if _, err := store.PutPart(t.Context(), gone, key, size, 1, content(1, s3.PartPlain)); !errors.Is(err, calpe.ErrNotFound) {
		t.Errorf("part of an upload that was given up: %v", err)
	}
	if _, err := store.CompleteParts(t.Context(), gone, 1, make([]calpe.Part, 1)); err == nil {
		t.Error("an upload that was given up became an object")
	}
	for name, number := range map[string]int{"0": 0, "behind the last": 3} {
		if _, err := store.PutPart(t.Context(), at, key, size, number, content(1, s3.PartPlain)); err == nil {
			t.Errorf("part %s was taken", name)
		}
	}
	if _, err := store.PutPart(t.Context(), at, key, size, 1, content(1, s3.PartPlain-1)); err == nil {
		t.Error("a short part in the middle was taken")
	}
}
