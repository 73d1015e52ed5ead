package s3_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/storage/s3"
	"github.com/google/go-cmp/cmp"
	"github.com/minio/minio-go/v7"
)

const limit = 1 << 30

func put(t testing.TB, store *s3.Store, key [32]byte, data []byte) calpe.Object {
	t.Helper()
	object, digest, err := store.PutDocument(t.Context(), s3.NewDocumentName(), key, bytes.NewReader(data), limit)
	if err != nil {
		t.Fatal(err)
	}
	if digest != sha256.Sum256(data) {
		t.Fatalf("digest %s is not that of the document", digest)
	}
	return object
}

func readRange(ctx context.Context, store *s3.Store, object calpe.Object, key [32]byte, offset, length int64) ([]byte, error) {
	r, err := store.OpenDocument(ctx, object, key, offset, length)
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(r)
	return data, errors.Join(err, r.Close())
}

// oneshot is the largest document whose ciphertext fits one part.
var oneshot = int(s3.PlainCapacity(partSize))

func TestRoundTrip(t *testing.T) {
	store, srv := setup(t)
	small := int(s3.PlainCapacity(256 << 10))
	for _, size := range []int{
		1, 2, 65535, 65536, 65537, 2 * 65536, small - 1, small, small + 1, 256 << 10,
		oneshot - 1, oneshot, oneshot + 1, partSize, 2 * oneshot, 2*oneshot + 200, 3*partSize + 17,
	} {
		t.Run(fmt.Sprint(size), func(t *testing.T) {
			key, data := newKey(), content(uint64(size), size)
			object := put(t, store, key, data)
			if object.PlainSize != int64(size) || object.Size != s3.SealedSize(int64(size)) || object.PartSize != partSize || object.VersionID == "" {
				t.Errorf("object %+v", object)
			}
			stored := srv.stored(t, srv.cfg.DocumentsBucket, object.Name)
			if len(stored) != int(object.Size) {
				t.Errorf("%d bytes stored, the object says %d", len(stored), object.Size)
			}
			if len(data) > 16 && bytes.Contains(stored, data[:16]) {
				t.Error("plaintext is stored")
			}
			if parts := (len(stored) + partSize - 1) / partSize; (parts > 1) != strings.HasSuffix(object.Checksum, fmt.Sprintf("-%d", parts)) {
				t.Errorf("checksum %q of %d parts", object.Checksum, parts)
			}
			got, err := readRange(t.Context(), store, object, key, 0, -1)
			if err != nil || !bytes.Equal(got, data) {
				t.Fatalf("read %d bytes back, %v; want %d", len(got), err, len(data))
			}
		})
	}
	if n := store.Buffers(); n != 0 {
		t.Errorf("%d buffers are still held", n)
	}
}

// The object must not say whose document it is.
func TestObjectHasNoMetadata(t *testing.T) {
	store, srv := setup(t)
	for _, size := range []int{10, oneshot + 1} {
		object := put(t, store, newKey(), content(1, size))
		info, err := srv.core.StatObject(t.Context(), srv.cfg.DocumentsBucket, object.Name, minio.StatObjectOptions{Checksum: true})
		if err != nil {
			t.Fatal(err)
		}
		if info.ContentType != "application/octet-stream" || len(info.UserMetadata) != 0 || info.UserTagCount != 0 {
			t.Errorf("type %q, metadata %v, %d tags", info.ContentType, info.UserMetadata, info.UserTagCount)
		}
		if info.ChecksumSHA256 != object.Checksum || info.VersionID != object.VersionID {
			t.Errorf("server states %q version %q, object %+v", info.ChecksumSHA256, info.VersionID, object)
		}
	}
}

func TestDocumentNames(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		name := s3.NewDocumentName()
		if seen[name] {
			t.Fatal("a name came twice")
		}
		seen[name] = true
	}
	store, _ := setup(t)
	good := s3.NewDocumentName()
	for _, name := range []string{"", "control/fence", "documents/", good + "x", good[:len(good)-1], strings.ToUpper(good),
		"documents/../control/fence/aaaaaaaaaaaaaaaaaaa", "Documents" + good[9:], strings.Replace(good, "/", "_", 2)} {
		_, _, putErr := store.PutDocument(t.Context(), name, newKey(), strings.NewReader("x"), limit)
		_, openErr := store.OpenDocument(t.Context(), calpe.Object{Name: name, PlainSize: 1}, newKey(), 0, 1)
		for _, err := range []error{putErr, openErr, store.DeleteDocument(t.Context(), name),
			store.RetainDocument(t.Context(), name, "v", time.Now(), "")} {
			if err == nil {
				t.Errorf("%q was accepted as the name of a document", name)
			}
		}
	}
}

func TestRanges(t *testing.T) {
	store, _ := setup(t)
	key := newKey()
	const chunk = 65536
	for _, size := range []int{1, chunk - 1, chunk, chunk + 1, 3 * chunk, 3*chunk + 1} {
		data := content(9, size)
		object := put(t, store, key, data)
		var edges []int
		for _, edge := range []int{0, 1, chunk - 1, chunk, chunk + 1, 2*chunk - 1, 2 * chunk, 2*chunk + 1, size - chunk, size - 1, size} {
			if edge >= 0 && edge <= size && !slices.Contains(edges, edge) {
				edges = append(edges, edge)
			}
		}
		for _, from := range edges {
			for _, to := range edges {
				if to < from {
					continue
				}
				got, err := readRange(t.Context(), store, object, key, int64(from), int64(to-from))
				if err != nil || !bytes.Equal(got, data[from:to]) {
					t.Fatalf("size %d, bytes %d to %d: got %d bytes, %v", size, from, to, len(got), err)
				}
			}
			got, err := readRange(t.Context(), store, object, key, int64(from), -1)
			if err != nil || !bytes.Equal(got, data[from:]) {
				t.Fatalf("size %d, from %d: got %d bytes, %v", size, from, len(got), err)
			}
		}
		for _, bad := range [][2]int64{{-1, 1}, {0, int64(size) + 1}, {int64(size), 1}, {int64(size) + 1, 0}, {int64(size) + 1, -1}, {1, 1<<63 - 1}} {
			if _, err := readRange(t.Context(), store, object, key, bad[0], bad[1]); err == nil {
				t.Errorf("size %d: range %v was accepted", size, bad)
			}
		}
	}
}

// Reading the tail must not fetch the head.
func TestTailOnly(t *testing.T) {
	var fetched atomic.Int64
	p := newProxy(t, func(*http.Request) fault { return pass })
	p.body = func(r *http.Response) {
		if isGet(r.Request) {
			fetched.Add(r.ContentLength)
		}
	}
	store, _ := setup(t, p.use)
	key, data := newKey(), content(3, 2*partSize)
	object := put(t, store, key, data)
	got, err := readRange(t.Context(), store, object, key, int64(len(data)-10), 10)
	if err != nil || !bytes.Equal(got, data[len(data)-10:]) {
		t.Fatalf("got %d bytes, %v", len(got), err)
	}
	if n := fetched.Load(); n > s3.SealedChunk {
		t.Errorf("%d bytes were fetched for 10", n)
	}
}

// The whole way of a large document stays in a few buffers. Small reads, as from
// a network.
func TestMemoryIsBounded(t *testing.T) {
	store, _ := setup(t, func(cfg *s3.Config) { cfg.UploadMemory = 12 << 20 })
	const size = 96 << 20
	base := heap()
	var peak uint64
	hash := sha256.New()
	src := &pattern{left: size, each: func(n int64) {
		if n%(4<<20) == 0 {
			peak = max(peak, heap())
		}
	}}
	key := newKey()
	object, digest, err := store.PutDocument(t.Context(), s3.NewDocumentName(), key, io.TeeReader(src, hash), limit)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(hash.Sum(nil), digest[:]) {
		t.Error("digest is wrong")
	}
	if grown := int64(peak) - int64(base); grown > 24<<20 {
		t.Errorf("the heap grew by %d MiB while %d MiB were uploaded", grown>>20, size>>20)
	}

	base, peak = heap(), 0
	r, err := store.OpenDocument(t.Context(), object, key, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	hash.Reset()
	buf := make([]byte, 1<<20)
	for n := int64(0); ; {
		m, err := io.ReadFull(r, buf)
		hash.Write(buf[:m])
		if n += int64(m); n%(8<<20) == 0 {
			peak = max(peak, heap())
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(hash.Sum(nil), digest[:]) {
		t.Error("what was read is not what was written")
	}
	if grown := int64(peak) - int64(base); grown > 8<<20 {
		t.Errorf("the heap grew by %d MiB while %d MiB were read", grown>>20, size>>20)
	}
}

// heap is what is in use after a collection.
func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapInuse
}

// pattern is left bytes, 32 KiB at a time.
type pattern struct {
	left, read int64
	each       func(read int64)
}

func (p *pattern) Read(b []byte) (int, error) {
	if p.left == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(b)), p.left, 32<<10-p.read%(32<<10))
	for i := range b[:n] {
		b[i] = byte((p.read + int64(i)) * 31 >> 3)
	}
	p.left -= n
	p.read += n
	p.each(p.read)
	return int(n), nil
}

func TestLimits(t *testing.T) {
	store, srv := setup(t)
	for _, tt := range []struct {
		name  string
		size  int
		limit int64
		want  calpe.Code
	}{
		{"empty", 0, 10, calpe.CodeEmptyDocument},
		{"one above", 11, 10, calpe.CodeTooLarge},
		{"above, in one chunk more", 65537, 65536, calpe.CodeTooLarge},
		{"above, in parts", 2*oneshot + 1, int64(2 * oneshot), calpe.CodeTooLarge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, _, err := store.PutDocument(t.Context(), s3.NewDocumentName(), newKey(), bytes.NewReader(content(1, tt.size)), tt.limit)
			if e, ok := errors.AsType[*calpe.Error](err); !ok || e.Code != tt.want {
				t.Errorf("error %v, want code %s", err, tt.want)
			}
		})
	}
	srv.wantNothing(t)
	for _, bad := range []int64{0, -1} {
		if _, _, err := store.PutDocument(t.Context(), s3.NewDocumentName(), newKey(), strings.NewReader("x"), bad); err == nil {
			t.Errorf("limit %d was accepted", bad)
		}
	}
	for _, size := range []int{10, 2 * oneshot} {
		if _, _, err := store.PutDocument(t.Context(), s3.NewDocumentName(), newKey(), bytes.NewReader(content(1, size)), int64(size)); err != nil {
			t.Errorf("a document of exactly the limit: %v", err)
		}
	}
}

// A reader that fails anywhere leaves nothing, and its own error comes back. One
// that ends with io.ErrUnexpectedEOF, as a request body does when the client is
// gone, must not become a complete, shorter document.
func TestReaderFails(t *testing.T) {
	var starts, aborts atomic.Int32
	p := newProxy(t, func(r *http.Request) fault {
		switch {
		case isStart(r):
			starts.Add(1)
		case isAbort(r):
			aborts.Add(1)
		}
		return pass
	})
	store, srv := setup(t, p.use)
	for _, readErr := range []error{errBroken, io.ErrUnexpectedEOF, context.DeadlineExceeded, http.ErrBodyReadAfterClose} {
		for _, at := range []int{0, 1, 65535, 65536, 65537, 300 << 10, oneshot, oneshot + 1, 2*oneshot + 5} {
			for name, wrap := range map[string]func(io.Reader) io.Reader{
				"plain": func(r io.Reader) io.Reader { return r }, "with the last data": iotest.DataErrReader,
			} {
				t.Run(fmt.Sprintf("%v at %d %s", readErr, at, name), func(t *testing.T) {
					r := wrap(brokenReader(content(1, at), readErr))
					_, _, err := store.PutDocument(t.Context(), s3.NewDocumentName(), newKey(), r, limit)
					if e, ok := errors.AsType[*s3.ReadError](err); !ok || !errors.Is(e, readErr) {
						t.Errorf("error %v, want a ReadError of %v", err, readErr)
					}
				})
			}
		}
	}
	if _, _, err := store.PutDocument(t.Context(), s3.NewDocumentName(), newKey(), failing{nil}, limit); !errors.Is(err, io.ErrNoProgress) {
		t.Errorf("a reader that never gives anything: %v", err)
	}
	if starts.Load() == 0 || aborts.Load() < starts.Load() {
		t.Errorf("%d uploads in parts were begun, %d given up", starts.Load(), aborts.Load())
	}
	srv.wantNothing(t)
	if n := store.Buffers(); n != 0 {
		t.Errorf("%d buffers are still held", n)
	}
}

func TestCancelLeavesNothing(t *testing.T) {
	store, srv := setup(t)
	gone := errors.New("client is gone")
	for _, at := range []int64{1, 64 << 10, 1 << 20, partSize, partSize + partSize/2, 3 * partSize} {
		t.Run(fmt.Sprint(at), func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			r := &pattern{left: 20 << 20, each: func(n int64) {
				if n >= at {
					cancel(gone)
				}
			}}
			_, _, err := store.PutDocument(ctx, s3.NewDocumentName(), newKey(), r, limit)
			if !errors.Is(err, gone) && !errors.Is(err, context.Canceled) {
				t.Errorf("error %v", err)
			}
		})
	}
	srv.wantNothing(t)
	if n := store.Buffers(); n != 0 {
		t.Errorf("%d buffers are still held", n)
	}
}

// With memory for one part only, uploads wait for each other and all get through;
// who is tired of waiting gives up.
func TestUploadsShareMemory(t *testing.T) {
	store, srv := setup(t, func(cfg *s3.Config) { cfg.UploadMemory = 6 << 20 })
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			key, data := newKey(), content(uint64(i), 2*oneshot+i)
			object, _, err := store.PutDocument(t.Context(), s3.NewDocumentName(), key, bytes.NewReader(data), limit)
			if err != nil {
				t.Error(err)
				return
			}
			if got, err := readRange(t.Context(), store, object, key, 0, -1); err != nil || !bytes.Equal(got, data) {
				t.Errorf("read back %d bytes, %v", len(got), err)
			}
		})
	}
	wg.Wait()
	before := len(srv.versions(t, srv.cfg.DocumentsBucket, "documents/"))

	// One upload holds the only part buffer, and stops reading.
	holding, letGo := make(chan struct{}), make(chan struct{})
	held := make(chan error, 1)
	go func() {
		r := &pattern{left: int64(oneshot) + 10, each: func(n int64) {
			if n == partSize/2 {
				close(holding)
				<-letGo
			}
		}}
		_, _, err := store.PutDocument(t.Context(), s3.NewDocumentName(), newKey(), r, limit)
		held <- err
	}()
	<-holding
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, _, err := store.PutDocument(ctx, s3.NewDocumentName(), newKey(), bytes.NewReader(content(1, oneshot)), limit)
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("waiting for memory: %v", err)
	}
	close(letGo)
	if err := <-held; err != nil {
		t.Error(err)
	}
	if n := len(srv.versions(t, srv.cfg.DocumentsBucket, "documents/")); n != before+1 {
		t.Errorf("%d objects, want %d", n, before+1)
	}
	if n := store.Buffers(); n != 0 {
		t.Errorf("%d buffers are still held", n)
	}
}

// Every request of an upload fails in each way: the document is stored in the end,
// once, or nothing is.
func TestUploadFaults(t *testing.T) {
	for _, tt := range []struct {
		name  string
		size  int
		match func(*http.Request) bool
	}{
		{"put", 1000, isPut},
		{"start", 2 * oneshot, isStart},
		{"part", 2 * oneshot, isPart},
		{"complete", 2 * oneshot, isComplete},
	} {
		for fname, f := range map[string]fault{"before": cutBefore, "after": cutAfter, "overloaded": overloaded} {
			t.Run(tt.name+" cut "+fname+" twice", func(t *testing.T) {
				p := newProxy(t, times(2, f, tt.match))
				store, srv := setup(t, p.use)
				key, data := newKey(), content(4, tt.size)
				object := put(t, store, key, data)
				if p.faults() != 2 {
					t.Errorf("%d requests were broken, want 2", p.faults())
				}
				if got, err := readRange(t.Context(), store, object, key, 0, -1); err != nil || !bytes.Equal(got, data) {
					t.Errorf("read %d bytes back, %v", len(got), err)
				}
				if v := srv.versions(t, srv.cfg.DocumentsBucket, "documents/"); len(v) != 1 || v[0].VersionID != object.VersionID {
					t.Errorf("versions %v, want the one that was returned", v)
				}
			})
			t.Run(tt.name+" cut "+fname+" always", func(t *testing.T) {
				p := newProxy(t, times(-1, f, tt.match))
				store, srv := setup(t, p.use)
				_, _, err := store.PutDocument(t.Context(), s3.NewDocumentName(), newKey(), bytes.NewReader(content(4, tt.size)), limit)
				if f == cutAfter && (tt.name == "put" || tt.name == "complete") {
					// Applied, and found to be.
					if err != nil {
						t.Error(err)
					}
					return
				}
				if err == nil {
					t.Fatal("no error")
				}
				if f == cutAfter && tt.name == "start" {
					// Its id is lost with the answer: this is what the sweep is for.
					n, err := store.AbortStaleUploads(t.Context(), time.Now().Add(time.Hour))
					if err != nil || n != p.faults() {
						t.Errorf("swept %d uploads, %v; want %d", n, err, p.faults())
					}
				}
				srv.wantNothing(t)
			})
		}
	}
}

// A server that says done and has nothing is found out.
func TestServerLiesAboutStoring(t *testing.T) {
	for _, match := range []func(*http.Request) bool{isPut} {
		p := newProxy(t, times(-1, claimDone, match))
		store, srv := setup(t, p.use)
		_, _, err := store.PutDocument(t.Context(), s3.NewDocumentName(), newKey(), strings.NewReader("document"), limit)
		if !errors.Is(err, calpe.ErrNotFound) {
			t.Errorf("error %v", err)
		}
		srv.wantNothing(t)
	}
}

// What isn't exactly what was stored is an error and never plaintext.
func TestTamperedObjects(t *testing.T) {
	store, srv := setup(t)
	key := newKey()
	const c = s3.SealedChunk
	data := content(5, 3*65536+100)
	sealed, err := s3.Seal(key, data)
	if err != nil {
		t.Fatal(err)
	}
	again, err := s3.Seal(key, data)
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := s3.Seal(newKey(), data)
	if err != nil {
		t.Fatal(err)
	}
	flip := func(at int) []byte {
		b := bytes.Clone(sealed)
		b[at] ^= 1
		return b
	}
	cut := content(5, 2*65536)
	cutSealed, err := s3.Seal(key, cut)
	if err != nil {
		t.Fatal(err)
	}
	for name, stored := range map[string][]byte{
		"first header":           flip(0),
		"first nonce":            flip(7),
		"first byte":             flip(16),
		"tag of the second":      flip(2*c - 1),
		"last byte":              flip(len(sealed) - 1),
		"cut at a chunk":         sealed[:2*c],
		"cut in a chunk":         sealed[:2*c+50],
		"cut to a byte":          sealed[:1],
		"longer":                 append(bytes.Clone(sealed), 0),
		"chunks swapped":         slices.Concat(sealed[c:2*c], sealed[:c], sealed[2*c:]),
		"chunk repeated":         slices.Concat(sealed[:c], sealed[:c], sealed[2*c:]),
		"chunk of another write": slices.Concat(sealed[:c], again[c:2*c], sealed[2*c:]),
		"another key":            foreign,
		"random":                 content(6, len(sealed)),
		"shorter document":       cutSealed,
	} {
		t.Run(name, func(t *testing.T) {
			object := put(t, store, key, data)
			srv.overwrite(t, object.Name, stored)
			object.VersionID = "" // the current version, which is the tampered one
			got, err := readRange(t.Context(), store, object, key, 0, -1)
			if !errors.Is(err, s3.ErrCorrupt) {
				t.Errorf("error %v, want ErrCorrupt", err)
			}
			if !bytes.HasPrefix(data, got) || len(got) == len(data) {
				t.Errorf("%d bytes were given out that aren't the document's", len(got))
			}
		})
	}
	t.Run("the recorded version is unharmed", func(t *testing.T) {
		object := put(t, store, key, data)
		srv.overwrite(t, object.Name, foreign)
		if got, err := readRange(t.Context(), store, object, key, 0, -1); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
	t.Run("wrong size in the row", func(t *testing.T) {
		object := put(t, store, key, data)
		for _, size := range []int64{1, 65536, 2 * 65536, int64(len(data)) - 1, int64(len(data)) + 1, 0, -1, 1 << 62} {
			wrong := calpe.Object{Name: object.Name, PlainSize: size}
			if got, err := readRange(t.Context(), store, wrong, key, 0, -1); err == nil {
				t.Errorf("size %d: %d bytes and no error", size, len(got))
			}
		}
		object.Size++
		if _, err := store.OpenDocument(t.Context(), object, key, 0, -1); err == nil {
			t.Error("a ciphertext size that doesn't fit was accepted")
		}
	})
}

func TestMissingDocument(t *testing.T) {
	store, _ := setup(t)
	object := calpe.Object{Name: s3.NewDocumentName(), PlainSize: 100}
	if _, err := store.OpenDocument(t.Context(), object, newKey(), 0, -1); !errors.Is(err, calpe.ErrNotFound) {
		t.Errorf("open: %v", err)
	}
	if err := store.RetainDocument(t.Context(), object.Name, "00000000-0000-0000-0000-000000000000", time.Now().Add(time.Hour), ""); err == nil {
		t.Error("retained a document that isn't there")
	}
	if err := store.DeleteDocument(t.Context(), object.Name); err != nil {
		t.Errorf("delete: %v", err)
	}
}

// Connections that break in the middle of a download are taken up where they broke.
func TestDownloadResumes(t *testing.T) {
	var cuts atomic.Int32
	p := newProxy(t, func(*http.Request) fault { return pass })
	p.body = func(r *http.Response) {
		if isGet(r.Request) && cuts.Add(1) <= 3 {
			r.Body = struct {
				io.Reader
				io.Closer
			}{io.MultiReader(io.LimitReader(r.Body, 100_000), failing{errBroken}), r.Body}
		}
	}
	store, _ := setup(t, p.use)
	key, data := newKey(), content(7, 600_000)
	object := put(t, store, key, data)
	got, err := readRange(t.Context(), store, object, key, 0, -1)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if n := cuts.Load(); n != 4 {
		t.Errorf("%d requests, want 3 that broke and 1", n)
	}
}

// However a read fails, at the request or in its answer, it is tried four times
// and not four times four.
func TestDownloadGivesUp(t *testing.T) {
	for _, plan := range [][]fault{{cutBody}, {overloaded}, {cutBody, overloaded}} {
		t.Run(fmt.Sprint(plan), func(t *testing.T) {
			var gets atomic.Int32
			p := newProxy(t, func(r *http.Request) fault {
				if !isGet(r) {
					return pass
				}
				return plan[int(gets.Add(1))%len(plan)]
			})
			store, _ := setup(t, p.use)
			key := newKey()
			object := put(t, store, key, content(7, 600_000))
			if got, err := readRange(t.Context(), store, object, key, 0, -1); err == nil || errors.Is(err, s3.ErrCorrupt) || len(got) != 0 {
				t.Errorf("%d bytes, %v; want a failure of the storage", len(got), err)
			}
			if n := gets.Load(); n != 4 {
				t.Errorf("%d requests for one read, want 4", n)
			}
		})
	}
}

// A server that stops in the middle of an answer doesn't hold a reader for ever.
func TestStalledDownload(t *testing.T) {
	stop := make(chan struct{})
	p := newProxy(t, func(*http.Request) fault { return pass })
	p.body = func(r *http.Response) {
		if isGet(r.Request) {
			r.Body = struct {
				io.Reader
				io.Closer
			}{io.MultiReader(io.LimitReader(r.Body, 1000), stalling{stop}), r.Body}
		}
	}
	t.Cleanup(func() { close(stop) })
	store, srv := setup(t)
	key := newKey()
	object := put(t, store, key, content(7, 600_000))
	cfg := srv.cfg
	p.use(&cfg)
	cfg.IdleTimeout, cfg.Attempts = 30*time.Millisecond, 1
	if _, err := readRange(t.Context(), newStore(t, cfg), object, key, 0, -1); err == nil || !strings.Contains(err.Error(), "stopped sending") {
		t.Errorf("error %v", err)
	}
}

// Nor does one that takes the request and never answers.
func TestNoAnswer(t *testing.T) {
	stop := make(chan struct{})
	p := newProxy(t, func(r *http.Request) fault {
		if isGet(r) {
			return hang
		}
		return pass
	})
	p.stop = stop
	t.Cleanup(func() { close(stop) })
	store, srv := setup(t)
	key := newKey()
	object := put(t, store, key, content(7, 100))
	cfg := srv.cfg
	p.use(&cfg)
	cfg.RequestTimeout, cfg.Attempts = 50*time.Millisecond, 2
	if _, err := readRange(t.Context(), newStore(t, cfg), object, key, 0, -1); err == nil || !strings.Contains(err.Error(), "begin to answer") {
		t.Errorf("error %v", err)
	}
	if p.faults() != 2 {
		t.Errorf("%d requests, want 2", p.faults())
	}
}

type stalling struct{ stop chan struct{} }

func (s stalling) Read([]byte) (int, error) {
	<-s.stop
	return 0, io.EOF
}

func TestCloseEndsReading(t *testing.T) {
	store, _ := setup(t)
	key := newKey()
	object := put(t, store, key, content(7, 600_000))
	r, err := store.OpenDocument(t.Context(), object, key, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if n, err := io.Copy(io.Discard, r); err == nil || n > 200_000 {
		t.Errorf("read %d bytes after Close, %v", n, err)
	}
	if err := r.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

func TestRetention(t *testing.T) {
	store, srv := setup(t)
	key, data := newKey(), content(8, 1000)
	object := put(t, store, key, data)
	ctx := t.Context()
	until := time.Now().Add(time.Hour)
	for range 2 { // idempotent
		if err := store.RetainDocument(ctx, object.Name, object.VersionID, until, ""); err != nil {
			t.Fatal(err)
		}
	}
	info, err := srv.core.StatObject(ctx, srv.cfg.DocumentsBucket, object.Name, minio.StatObjectOptions{VersionID: object.VersionID})
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Metadata.Get("X-Amz-Object-Lock-Mode"); mode != "COMPLIANCE" {
		t.Errorf("mode %q", mode)
	}
	stated, err := time.Parse(time.RFC3339, info.Metadata.Get("X-Amz-Object-Lock-Retain-Until-Date"))
	if err != nil || stated.Before(until) || stated.After(until.Add(time.Second)) {
		t.Errorf("held until %v, %v; want %v", stated, err, until)
	}
	// Shorter, or weaker, is satisfied by what there is.
	for _, mode := range []s3.RetentionMode{s3.Compliance, s3.Governance} {
		if err := store.RetainDocument(ctx, object.Name, object.VersionID, until.Add(-30*time.Second), mode); err != nil {
			t.Errorf("%s, shorter: %v", mode, err)
		}
	}
	if err := store.RetainDocument(ctx, object.Name, object.VersionID, until.Add(5*time.Second), s3.Compliance); err != nil {
		t.Errorf("longer: %v", err)
	}
	err = store.DeleteDocument(ctx, object.Name)
	var locked interface{ LockedUntil() time.Time }
	if !errors.Is(err, s3.ErrLocked) || !errors.As(err, &locked) || locked.LockedUntil().Before(until.Add(5*time.Second)) || locked.LockedUntil().After(until.Add(6*time.Second)) {
		t.Errorf("delete: %v, want ErrLocked until %v", err, until.Add(5*time.Second))
	}
	if got, err := readRange(ctx, store, object, key, 0, -1); err != nil || !bytes.Equal(got, data) {
		t.Errorf("after the attempt to delete it: %d bytes, %v", len(got), err)
	}

	other := put(t, store, key, data)
	for _, bad := range []struct {
		version string
		until   time.Time
		mode    s3.RetentionMode
	}{
		{"", until, ""}, {other.VersionID, until, "FOREVER"}, {other.VersionID, time.Now().Add(-time.Hour), ""},
		{other.VersionID, time.Time{}, ""}, {"00000000-0000-0000-0000-000000000000", until, ""},
	} {
		if err := store.RetainDocument(ctx, other.Name, bad.version, bad.until, bad.mode); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
	if err := store.DeleteDocument(ctx, other.Name); err != nil {
		t.Errorf("delete what isn't locked: %v", err)
	}
}

// A server that accepts a lock and doesn't hold it is found out.
func TestRetentionIsConfirmed(t *testing.T) {
	p := newProxy(t, times(-1, claimDone, func(r *http.Request) bool { return r.URL.Query().Has("retention") }))
	store, _ := setup(t, p.use)
	object := put(t, store, newKey(), content(8, 1000))
	err := store.RetainDocument(t.Context(), object.Name, object.VersionID, time.Now().Add(time.Hour), "")
	if err == nil || !strings.Contains(err.Error(), "server accepted") {
		t.Errorf("error %v", err)
	}
}

// The answer to the lock is lost: the lock is found.
func TestRetentionFaults(t *testing.T) {
	isRetain := func(r *http.Request) bool { return r.URL.Query().Has("retention") }
	for name, tt := range map[string]struct {
		f    fault
		n    int
		fail bool
	}{
		"before, once": {cutBefore, 1, false}, "after, once": {cutAfter, 1, false},
		"before, always": {cutBefore, -1, true}, "after, always": {cutAfter, -1, false},
	} {
		t.Run(name, func(t *testing.T) {
			p := newProxy(t, times(tt.n, tt.f, isRetain))
			store, _ := setup(t, p.use)
			object := put(t, store, newKey(), content(8, 1000))
			err := store.RetainDocument(t.Context(), object.Name, object.VersionID, time.Now().Add(time.Hour), "")
			if (err != nil) != tt.fail {
				t.Errorf("error %v", err)
			}
		})
	}
}

func TestDeleteAndList(t *testing.T) {
	store, srv := setup(t)
	ctx := t.Context()
	var names []string
	for i := range 5 {
		names = append(names, put(t, store, newKey(), content(uint64(i), 10)).Name)
	}
	slices.Sort(names)
	// What isn't a document is nobody's orphan.
	if _, err := store.ReplaceFence(ctx, []byte("fence"), ""); err != nil {
		t.Fatal(err)
	}
	srv.overwrite(t, "documents/readme", []byte("x"))
	list := func(olderThan time.Time) (found []string) {
		t.Helper()
		err := store.ListDocuments(ctx, olderThan, func(name string, modified time.Time) error {
			if d := time.Since(modified); d < -10*time.Minute || d > time.Hour {
				t.Errorf("%s modified at %v", name, modified)
			}
			found = append(found, name)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		slices.Sort(found)
		return found
	}
	if diff := cmp.Diff(names, list(time.Now().Add(time.Hour))); diff != "" {
		t.Error(diff)
	}
	if got := list(time.Now().Add(-time.Hour)); len(got) != 0 {
		t.Errorf("%d objects an hour old", len(got))
	}
	stop := errors.New("stop")
	calls := 0
	err := store.ListDocuments(ctx, time.Now().Add(time.Hour), func(string, time.Time) error { calls++; return stop })
	if !errors.Is(err, stop) || calls != 1 {
		t.Errorf("%d calls, %v", calls, err)
	}

	// Several versions and a delete marker: all go.
	srv.overwrite(t, names[0], []byte("second"))
	if err := srv.core.RemoveObject(ctx, srv.cfg.DocumentsBucket, names[0], minio.RemoveObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	if n := len(srv.versions(t, srv.cfg.DocumentsBucket, names[0])); n != 3 {
		t.Fatalf("%d versions, want 2 and a marker", n)
	}
	for _, name := range names[:2] {
		if err := store.DeleteDocument(ctx, name); err != nil {
			t.Error(err)
		}
		if n := len(srv.versions(t, srv.cfg.DocumentsBucket, name)); n != 0 {
			t.Errorf("%d versions left", n)
		}
	}
	if diff := cmp.Diff(names[2:], list(time.Now().Add(time.Hour))); diff != "" {
		t.Error(diff)
	}
}

func TestAbortStaleUploads(t *testing.T) {
	store, srv := setup(t)
	ctx := t.Context()
	for range 3 {
		if _, err := srv.core.NewMultipartUpload(ctx, srv.cfg.DocumentsBucket, s3.NewDocumentName(), minio.PutObjectOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	if n, err := store.AbortStaleUploads(ctx, time.Now().Add(-time.Hour)); err != nil || n != 0 {
		t.Errorf("aborted %d young uploads, %v", n, err)
	}
	if n, err := store.AbortStaleUploads(ctx, time.Now().Add(time.Hour)); err != nil || n != 3 {
		t.Errorf("aborted %d uploads, %v; want 3", n, err)
	}
	srv.wantNothing(t)
}

func TestStatDocument(t *testing.T) {
	store, srv := setup(t)
	object, _, err := store.PutDocument(t.Context(), s3.NewDocumentName(), newKey(), bytes.NewReader(content(1, 1000)), 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	for name, tt := range map[string]struct {
		change func(*calpe.Object)
		want   error
	}{
		"there":           {func(*calpe.Object) {}, nil},
		"current version": {func(o *calpe.Object) { o.VersionID = "" }, nil},
		"another version": {func(o *calpe.Object) { o.VersionID = "01KXXXXXXXXXXXXXXXXXXXXXXX" }, calpe.ErrNotFound},
		"another name":    {func(o *calpe.Object) { o.Name = s3.NewDocumentName() }, calpe.ErrNotFound},
		"another size":    {func(o *calpe.Object) { o.PlainSize++ }, s3.ErrCorrupt},
	} {
		changed := object
		tt.change(&changed)
		if err := store.StatDocument(t.Context(), changed); !errors.Is(err, tt.want) || tt.want == nil && err != nil {
			t.Errorf("%s: %v, want %v", name, err, tt.want)
		}
	}
	if err := store.StatDocument(t.Context(), calpe.Object{Name: "control/fence", PlainSize: 10}); err == nil {
		t.Error("what is no document was looked for")
	}
	// Deleted without naming a version: what the row names is still there.
	if err := srv.core.RemoveObject(t.Context(), srv.cfg.DocumentsBucket, object.Name, minio.RemoveObjectOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := store.StatDocument(t.Context(), object); err != nil {
		t.Errorf("under a delete marker: %v", err)
	}
}
