package intake_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/batch/batchtest"
	"github.com/calpe/calpe/intake"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/statement"
	"github.com/calpe/calpe/storage/keyring"
	"github.com/google/go-cmp/cmp"
)

// bucket is object storage for documents. "Encryption" is remembering the key.
type bucket struct {
	mu      sync.Mutex
	objects map[string]bucketObject
	names   int
	faults  *batchtest.Faults
	puts    int
	refused int // deletions of what is under a lock
}

type bucketObject struct {
	key      [32]byte
	data     []byte
	modified time.Time
	locked   time.Time
}

func newBucket() *bucket {
	return &bucket{objects: make(map[string]bucketObject), faults: new(batchtest.Faults)}
}

func (b *bucket) newName() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.names++
	return fmt.Sprintf("documents/%d", b.names)
}

func (b *bucket) stored() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Sorted(maps.Keys(b.objects))
}

func (b *bucket) PutDocument(ctx context.Context, name string, key [32]byte, r io.Reader, limit int64) (calpe.Object, calpe.Digest, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	switch {
	case err != nil:
		return calpe.Object{}, calpe.Digest{}, fmt.Errorf("read document: %w", err)
	case int64(len(data)) > limit:
		return calpe.Object{}, calpe.Digest{}, calpe.Errorf(calpe.CodeTooLarge, "more than %d bytes", limit)
	case len(data) == 0:
		return calpe.Object{}, calpe.Digest{}, calpe.Errorf(calpe.CodeEmptyDocument, "empty")
	case ctx.Err() != nil:
		return calpe.Object{}, calpe.Digest{}, ctx.Err()
	}
	err = b.faults.Write("put document", func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.puts++
		if _, ok := b.objects[name]; ok {
			return errors.New("the name was used before")
		}
		b.objects[name] = bucketObject{key: key, data: data, modified: time.Now()}
		return nil
	})
	if err != nil {
		return calpe.Object{}, calpe.Digest{}, err
	}
	size := int64(len(data))
	return calpe.Object{Name: name, VersionID: "v1", PlainSize: size, Size: size + 32, PartSize: 5 << 20, Checksum: "c"}, sha256.Sum256(data), nil
}

func (b *bucket) OpenDocument(_ context.Context, o calpe.Object, key [32]byte, offset, length int64) (io.ReadCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	object, ok := b.objects[o.Name]
	if !ok {
		return nil, calpe.ErrNotFound
	}
	if object.key != key {
		return nil, errors.New("another key")
	}
	data := object.data[offset:]
	if length >= 0 {
		data = data[:length]
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// lockedError is that of an object under Object Lock.
type lockedError struct{ until time.Time }

func (lockedError) Error() string            { return "locked" }
func (e lockedError) LockedUntil() time.Time { return e.until }

func (b *bucket) DeleteDocument(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return b.faults.Write("delete document", func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		if until := b.objects[name].locked; until.After(time.Now()) {
			b.refused++
			return fmt.Errorf("delete: %w", lockedError{until})
		}
		delete(b.objects, name)
		return nil
	})
}

func (b *bucket) ListDocuments(_ context.Context, olderThan time.Time, yield func(string, time.Time) error) error {
	for _, name := range b.stored() {
		b.mu.Lock()
		modified := b.objects[name].modified
		b.mu.Unlock()
		if modified.Before(olderThan) {
			if err := yield(name, modified); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bucket) AbortStaleUploads(context.Context, time.Time) (int, error) {
	return 0, b.faults.Read()
}

func (b *bucket) retain(_ context.Context, o calpe.Object, until time.Time) error {
	return b.faults.Write("retain", func() error {
		b.mu.Lock()
		defer b.mu.Unlock()
		object, ok := b.objects[o.Name]
		if !ok {
			return calpe.ErrNotFound
		}
		object.locked = until
		b.objects[o.Name] = object
		return nil
	})
}

// desk is a service with an agency.
type desk struct {
	*intake.Service
	*process
	bucket *bucket
	agency statement.Key
	cfg    intake.ServiceConfig
}

func newDesk(t *testing.T, w *world, faults *batchtest.Faults, edit ...func(*intake.RecorderConfig)) *desk {
	t.Helper()
	d := &desk{process: w.start(t, faults, edit...), bucket: newBucket(), agency: batchtest.Key(t, "town-hall")}
	path := t.TempDir() + "/keyring"
	if err := keyring.Create(path, time.Now()); err != nil {
		t.Fatal(err)
	}
	ring, err := keyring.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	database := batchtest.Database{State: w.state, Faults: faults}
	d.cfg = intake.ServiceConfig{
		Recorder: d.Recorder, Objects: d.bucket, Documents: database, Agencies: database, Keys: ring, NewName: d.bucket.newName,
		MaxDocument: 1000,
	}
	if d.Service, err = intake.NewService(d.cfg); err != nil {
		t.Fatal(err)
	}
	body := statement.Agency{Agency: "town-hall", Name: "Town hall", Key: d.agency.Verifier()}
	if _, err := d.RegisterAgency(t.Context(), body); err != nil {
		t.Fatal(err)
	}
	return d
}

func upload(text string) intake.Upload {
	return intake.Upload{Body: strings.NewReader(text), Name: "a.pdf", MediaType: "application/pdf", Owner: "anna"}
}

// certify makes a certification of a document by a key.
func certify(t *testing.T, key statement.Key, text string, edit func(*statement.Certification)) []byte {
	t.Helper()
	body := statement.Certification{
		Agency: "town-hall", Digest: sha256.Sum256([]byte(text)), DocumentType: "birth certificate", Subject: "2026/17",
		Issued: statement.DateOf(time.Now()),
	}
	if edit != nil {
		edit(&body)
	}
	signed, err := statement.Sign(key, body)
	if err != nil {
		t.Fatal(err)
	}
	return signed.Bytes()
}

// verify holds an upload against the log, as a receipt's reader would.
func (d *desk) verify(t *testing.T, got intake.Uploaded, text string) {
	t.Helper()
	digest := calpe.Digest(sha256.Sum256([]byte(text)))
	commitments := d.world.state.Commitments()
	if got.Digest != digest || commitments[got.Index] != calpe.Commit(digest, got.Salt) {
		t.Errorf("entry %d is not the document's", got.Index)
	}
	entry := calpe.Entry{Index: got.Index, Commitment: commitments[got.Index]}
	ack := got.Acknowledgement
	if _, err := receipt.VerifyAcknowledged(entry, ack.Note, ack.Path, d.world.log.Identity); err != nil {
		t.Error(err)
	}
	if c := got.Certification; c != nil && commitments[c.Index] != calpe.Commit(c.Statement.Digest(), c.Salt) {
		t.Errorf("entry %d is not the certification's", c.Index)
	}
	stored, err := d.Document(t.Context(), got.ID, got.Owner)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(got.Document, stored, cmp.Comparer(func(a, b statement.Signed) bool { return a.Digest() == b.Digest() })); diff != "" {
		t.Errorf("read back: %s", diff)
	}
	content, err := d.Content(t.Context(), got.ID, got.Owner, 0, -1)
	if err != nil {
		t.Fatal(err)
	}
	defer content.Close()
	if data, err := io.ReadAll(content); err != nil || string(data) != text {
		t.Errorf("content %q, %v", data, err)
	}
}

// checkObjects: every object has its row, and every row its object.
func (d *desk) checkObjects(t *testing.T) {
	t.Helper()
	named := d.world.state.Objects()
	slices.Sort(named)
	if stored := d.bucket.stored(); !slices.Equal(named, stored) {
		t.Errorf("rows name %v, stored are %v", named, stored)
	}
}

func TestUpload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		d := newDesk(t, w, new(batchtest.Faults))
		got, err := d.Upload(t.Context(), upload("hello"))
		if err != nil {
			t.Fatal(err)
		}
		d.verify(t, got, "hello")
		certified := upload("certified")
		certified.Certification = certify(t, d.agency, "certified", nil)
		digest := calpe.Digest(sha256.Sum256([]byte("certified")))
		certified.ExpectedDigest = &digest
		got, err = d.Upload(t.Context(), certified)
		if err != nil {
			t.Fatal(err)
		}
		d.verify(t, got, "certified")
		if c := got.Certification; c == nil || c.Index != got.Index+1 || c.Agency != "town-hall" || c.Statement.Verify(d.agency.Verifier()) != nil {
			t.Errorf("certification %+v", c)
		}
		d.checkObjects(t)
		w.check(t)
	})
}

func TestReadDocument(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		d := newDesk(t, w, new(batchtest.Faults))
		got, err := d.Upload(t.Context(), upload("hello"))
		if err != nil {
			t.Fatal(err)
		}
		r, err := d.Content(t.Context(), got.ID, "anna", 1, 3)
		if err != nil {
			t.Fatal(err)
		}
		if data, _ := io.ReadAll(r); string(data) != "ell" {
			t.Errorf("range %q", data)
		}
		if _, err := d.Content(t.Context(), got.ID, "anna", 6, -1); code(err) != calpe.CodeInvalidRequest {
			t.Errorf("offset behind the end: %v", err)
		}
		if _, err := d.Document(t.Context(), got.ID, "bert"); code(err) != calpe.CodeNotFound {
			t.Errorf("somebody else's document: %v", err)
		}
		if _, err := d.Content(t.Context(), got.ID, "bert", 0, -1); code(err) != calpe.CodeNotFound {
			t.Errorf("somebody else's content: %v", err)
		}
		if _, err := d.Document(t.Context(), calpe.DocumentID{1}, "anna"); code(err) != calpe.CodeNotFound {
			t.Errorf("no such document: %v", err)
		}
		batchtest.Database{State: w.state}.DestroyKey(got.ID)
		if _, err := d.Document(t.Context(), got.ID, "anna"); code(err) != calpe.CodeNotFound {
			t.Errorf("an erased document: %v", err)
		}
	})
}

type brokenReader struct{ err error }

func (b brokenReader) Read(p []byte) (int, error) { return copy(p, "x"), b.err }

// TestRefusedUploads: a clear code, and nothing left behind.
func TestRefusedUploads(t *testing.T) {
	future := func(days int) statement.Date { return statement.DateOf(time.Now().AddDate(0, 0, days)) }
	tests := []struct {
		name string
		edit func(t *testing.T, d *desk, u *intake.Upload)
		want calpe.Code
	}{
		{"too large", func(_ *testing.T, _ *desk, u *intake.Upload) { u.Body = strings.NewReader(strings.Repeat("x", 1001)) }, calpe.CodeTooLarge},
		{"empty", func(_ *testing.T, _ *desk, u *intake.Upload) { u.Body = strings.NewReader("") }, calpe.CodeEmptyDocument},
		{"client hung up", func(_ *testing.T, _ *desk, u *intake.Upload) { u.Body = brokenReader{io.ErrUnexpectedEOF} }, calpe.CodeSlowClient},
		{"body says why", func(_ *testing.T, _ *desk, u *intake.Upload) {
			u.Body = brokenReader{calpe.Errorf(calpe.CodeUnsupportedMedia, "no")}
		}, calpe.CodeUnsupportedMedia},
		{"other digest", func(_ *testing.T, _ *desk, u *intake.Upload) { u.ExpectedDigest = &calpe.Digest{1} }, calpe.CodeDigestMismatch},
		{"long name", func(_ *testing.T, _ *desk, u *intake.Upload) { u.Name = strings.Repeat("x", 1025) }, calpe.CodeInvalidRequest},
		{"name not UTF-8", func(_ *testing.T, _ *desk, u *intake.Upload) { u.Name = "\xff" }, calpe.CodeInvalidRequest},
		{"long media type", func(_ *testing.T, _ *desk, u *intake.Upload) { u.MediaType = strings.Repeat("x", 256) }, calpe.CodeInvalidRequest},
		{"long key", func(_ *testing.T, _ *desk, u *intake.Upload) { u.IdempotencyKey = strings.Repeat("x", 256) }, calpe.CodeInvalidRequest},
		{"key with a space", func(_ *testing.T, _ *desk, u *intake.Upload) { u.IdempotencyKey = "a b" }, calpe.CodeInvalidRequest},
		{"storage down", func(_ *testing.T, d *desk, _ *intake.Upload) { d.bucket.faults = batchtest.At(1, batchtest.NotApplied) }, calpe.CodeUnavailable},
		{"certification garbage", func(_ *testing.T, _ *desk, u *intake.Upload) { u.Certification = []byte("{") }, calpe.CodeCertification},
		{"certification of another type", func(t *testing.T, d *desk, u *intake.Upload) {
			signed, err := statement.Sign(d.world.log.Statement, statement.Recovery{Reason: "x", Time: time.Now()})
			if err != nil {
				t.Fatal(err)
			}
			u.Certification = signed.Bytes()
		}, calpe.CodeCertification},
		{"certification of another document", func(t *testing.T, d *desk, u *intake.Upload) {
			u.Certification = certify(t, d.agency, "other", nil)
		}, calpe.CodeCertification},
		{"certification by nobody we know", func(t *testing.T, d *desk, u *intake.Upload) {
			u.Certification = certify(t, batchtest.Key(t, "nobody"), "hello", func(c *statement.Certification) { c.Agency = "nobody" })
		}, calpe.CodeCertification},
		{"certification in another's name", func(t *testing.T, _ *desk, u *intake.Upload) {
			u.Certification = certify(t, batchtest.Key(t, "nobody"), "hello", nil)
		}, calpe.CodeCertification},
		{"certification changed", func(t *testing.T, d *desk, u *intake.Upload) {
			u.Certification = bytes.Replace(certify(t, d.agency, "hello", nil), []byte("2026/17"), []byte("2026/18"), 1)
		}, calpe.CodeCertification},
		{"certification from the future", func(t *testing.T, d *desk, u *intake.Upload) {
			u.Certification = certify(t, d.agency, "hello", func(c *statement.Certification) { c.Issued = future(3) })
		}, calpe.CodeCertification},
		{"certification expired", func(t *testing.T, d *desk, u *intake.Upload) {
			u.Certification = certify(t, d.agency, "hello", func(c *statement.Certification) { c.Issued, c.ValidUntil = future(-9), future(-3) })
		}, calpe.CodeCertification},
		{"halted", func(_ *testing.T, d *desk, _ *intake.Upload) { d.Halt(intake.ErrForked) }, calpe.CodeIntakeStopped},
		{"poison", func(_ *testing.T, _ *desk, u *intake.Upload) { u.Owner = "poison" }, calpe.CodeInvalidRequest},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				d := newDesk(t, w, new(batchtest.Faults))
				u := upload("hello")
				tt.edit(t, d, &u)
				before := w.state.Next()
				if got, err := d.Upload(t.Context(), u); code(err) != tt.want || errors.Is(err, intake.ErrMaybeRecorded) {
					t.Errorf("got %+v, %v; want %s", got, err, tt.want)
				}
				if n := w.state.Next(); n != before {
					t.Errorf("%d entries were recorded", n-before)
				}
				d.checkObjects(t)
			})
		})
	}
}

func TestUploadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		d := newDesk(t, w, new(batchtest.Faults))
		certificate := certify(t, d.agency, "certified", func(c *statement.Certification) { c.ValidUntil = c.Issued })
		keyed := func(edit func(*intake.Upload)) intake.Upload {
			u := upload("certified")
			u.IdempotencyKey = "key-1"
			u.Certification = certificate
			if edit != nil {
				edit(&u)
			}
			return u
		}
		first, err := d.Upload(t.Context(), keyed(nil))
		if err != nil || first.Existing {
			t.Fatal(err)
		}
		batchtest.Pass(7 * 24 * time.Hour) // the certification has ended since
		again, err := d.Upload(t.Context(), keyed(nil))
		if err != nil || !again.Existing {
			t.Fatalf("again: %+v, %v", again, err)
		}
		again.Existing = false
		if diff := cmp.Diff(first, again, cmp.Comparer(func(a, b statement.Signed) bool { return a.Digest() == b.Digest() })); diff != "" {
			t.Error(diff)
		}
		if d.bucket.puts != 1 {
			t.Errorf("the document was stored %d times", d.bucket.puts)
		}
		for name, edit := range map[string]func(*intake.Upload){
			"body":             func(u *intake.Upload) { u.Body = strings.NewReader("other"); u.Certification = nil },
			"name":             func(u *intake.Upload) { u.Name = "b.pdf" },
			"media type":       func(u *intake.Upload) { u.MediaType = "text/plain" },
			"name as type":     func(u *intake.Upload) { u.Name, u.MediaType = "a.pdfapplication/pdf", "" },
			"no certification": func(u *intake.Upload) { u.Certification = nil },
			"certification":    func(u *intake.Upload) { u.Certification = certify(t, d.agency, "certified", nil) },
		} {
			if _, err := d.Upload(t.Context(), keyed(edit)); code(err) != calpe.CodeIdempotencyMismatch {
				t.Errorf("another %s: %v", name, err)
			}
		}
		for name, tt := range map[string]struct {
			edit func(*intake.Upload)
			want calpe.Code
		}{
			"too large":    {func(u *intake.Upload) { u.Body = strings.NewReader(strings.Repeat("x", 2000)) }, calpe.CodeTooLarge},
			"hung up":      {func(u *intake.Upload) { u.Body = brokenReader{io.ErrUnexpectedEOF} }, calpe.CodeSlowClient},
			"wrong digest": {func(u *intake.Upload) { u.ExpectedDigest = &calpe.Digest{} }, calpe.CodeDigestMismatch},
		} {
			if _, err := d.Upload(t.Context(), keyed(tt.edit)); code(err) != tt.want {
				t.Errorf("%s: %v", name, err)
			}
		}
		other, err := d.Upload(t.Context(), keyed(func(u *intake.Upload) { u.Owner, u.Certification = "bert", nil }))
		if err != nil || other.ID == first.ID {
			t.Errorf("another owner with the same key: %v", err)
		}
		d.checkObjects(t)
		w.check(t)
	})
}

// TestUploadTwins: the same request many times at once. One is recorded, all get
// its answer, the objects of the others are gone.
func TestUploadTwins(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		d := newDesk(t, w, new(batchtest.Faults))
		var mu sync.Mutex
		ids := make(map[calpe.DocumentID]int)
		var wg sync.WaitGroup
		for range 30 {
			wg.Go(func() {
				u := upload("hello")
				u.IdempotencyKey = "twin"
				got, err := d.Upload(t.Context(), u)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				ids[got.ID]++
				mu.Unlock()
			})
		}
		wg.Wait()
		if len(ids) != 1 {
			t.Errorf("%d documents", len(ids))
		}
		d.checkObjects(t)
		w.check(t)
	})
}

// TestUploadFaults: the commit and the storage fail in every way. A client that
// asks again gets one document; what failed for sure leaves no object.
func TestUploadFaults(t *testing.T) {
	for _, fault := range []batchtest.Fault{batchtest.NotApplied, batchtest.Applied, batchtest.Vanished, batchtest.DieBefore, batchtest.DieAfter} {
		t.Run(fmt.Sprintf("commit fault %d", fault), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				d := newDesk(t, w, batchtest.At(3, fault)) // the fence, the agency, this
				u := upload("hello")
				u.IdempotencyKey = "k"
				got, err := d.Upload(t.Context(), u)
				if err != nil && code(err) != calpe.CodeUnavailable {
					t.Fatal(err)
				}
				if err == nil {
					d.checkObjects(t)
				} else if objects := d.bucket.stored(); errors.Is(err, intake.ErrMaybeRecorded) != (len(objects) == 1) {
					t.Errorf("%v, and stored are %v", err, objects)
				}
				d.kill()
				next := newProcessOn(t, d)
				u = upload("hello")
				u.IdempotencyKey = "k"
				again, err := next.Upload(t.Context(), u)
				if err != nil || got.ID != (calpe.DocumentID{}) && again.ID != got.ID {
					t.Fatalf("again: %v, %v", again.ID, err)
				}
				if n := len(w.state.Objects()); n != 1 {
					t.Errorf("%d documents", n)
				}
				sweep(t, next)
				next.checkObjects(t)
				next.verify(t, again, "hello")
				w.check(t)
			})
		})
	}
}

// newProcessOn starts another server on the stores of d.
func newProcessOn(t *testing.T, d *desk) *desk {
	t.Helper()
	faults := new(batchtest.Faults)
	next := &desk{process: d.world.start(t, faults), bucket: d.bucket, agency: d.agency, cfg: d.cfg}
	database := batchtest.Database{State: d.world.state, Faults: faults}
	next.cfg.Recorder, next.cfg.Documents, next.cfg.Agencies = next.Recorder, database, database
	var err error
	if next.Service, err = intake.NewService(next.cfg); err != nil {
		t.Fatal(err)
	}
	return next
}

// TestClientGone: the body has arrived, and the client is gone before the commit.
func TestClientGone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		d := newDesk(t, w, new(batchtest.Faults))
		ctx, cancel := context.WithCancel(t.Context())
		u := upload("hello")
		u.Body = io.MultiReader(strings.NewReader("hello"), cancelling{cancel})
		if _, err := d.Upload(ctx, u); err == nil {
			t.Fatal("stored after the context had ended")
		}
		d.checkObjects(t)
		w.check(t)
	})
}

// TestClientGoneDuringCommit: everything has arrived, so it is recorded.
func TestClientGoneDuringCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		var hangUp atomic.Pointer[context.CancelFunc]
		d := newDesk(t, w, new(batchtest.Faults), func(c *intake.RecorderConfig) {
			c.Groups = spoiling{c.Groups.(batchtest.Database), func(error) {
				if cancel := hangUp.Load(); cancel != nil {
					(*cancel)()
					batchtest.Pass(time.Second) // the answer comes later than the end of the context
				}
			}}
		})
		ctx, cancel := context.WithCancel(t.Context())
		hangUp.Store(&cancel)
		got, err := d.Upload(ctx, upload("hello"))
		if err != nil {
			t.Fatal(err)
		}
		d.verify(t, got, "hello")
		d.checkObjects(t)
		w.check(t)
	})
}

type cancelling struct{ cancel func() }

func (c cancelling) Read([]byte) (int, error) { c.cancel(); return 0, io.EOF }

func TestCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		d := newDesk(t, w, new(batchtest.Faults))
		commitments := []calpe.Commitment{batchtest.Commitment(1), batchtest.Commitment(2), batchtest.Commitment(3)}
		first, err := d.Commit(t.Context(), intake.Commitments{Commitments: commitments, Owner: "anna", IdempotencyKey: "k"})
		if err != nil {
			t.Fatal(err)
		}
		w.promise(t, first, commitments...)
		again, err := d.Commit(t.Context(), intake.Commitments{Commitments: commitments, Owner: "anna", IdempotencyKey: "k"})
		if err != nil || again.First != first.First || !again.Existing {
			t.Errorf("again: %+v, %v", again, err)
		}
		if _, err := d.Commit(t.Context(), intake.Commitments{Commitments: commitments[:2], Owner: "anna", IdempotencyKey: "k"}); code(err) != calpe.CodeIdempotencyMismatch {
			t.Errorf("fewer: %v", err)
		}
		u := upload("hello")
		u.IdempotencyKey = "k"
		if _, err := d.Upload(t.Context(), u); code(err) != calpe.CodeIdempotencyMismatch {
			t.Errorf("an upload with the key of commitments: %v", err)
		}
		if _, err := d.Commit(t.Context(), intake.Commitments{Commitments: []calpe.Commitment{{}}, Owner: "anna"}); code(err) != calpe.CodeInvalidRequest {
			t.Errorf("void: %v", err)
		}
		if _, err := d.Commit(t.Context(), intake.Commitments{Commitments: commitments, Owner: "anna", IdempotencyKey: "ü"}); code(err) != calpe.CodeInvalidRequest {
			t.Errorf("key: %v", err)
		}
		plain, err := d.Commit(t.Context(), intake.Commitments{Commitments: commitments[:1], Owner: "anna"})
		if err != nil || plain.First == first.First {
			t.Errorf("without a key: %+v, %v", plain, err)
		}
		w.check(t)
	})
}

// TestNothingPersonal: what a database dump shows of a document tells nobody its
// name or digest (I10).
func TestNothingPersonal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		d := newDesk(t, w, new(batchtest.Faults))
		u := upload("hello")
		u.Certification = certify(t, d.agency, "hello", nil)
		u.IdempotencyKey = "k"
		got, err := d.Upload(t.Context(), u)
		if err != nil {
			t.Fatal(err)
		}
		database := batchtest.Database{State: w.state, Faults: new(batchtest.Faults)}
		row, err := database.Document(t.Context(), got.ID)
		if err != nil {
			t.Fatal(err)
		}
		certification, err := database.Certification(t.Context(), row.Certification)
		if err != nil {
			t.Fatal(err)
		}
		dump := fmt.Appendf(nil, "%+v %+v", row, certification)
		dump = append(append(append(dump, row.Sealed...), row.DigestTag...), certification.Sealed...)
		for what, secret := range map[string][]byte{
			"name": []byte("a.pdf"), "digest": got.Digest[:], "digest as text": []byte(got.Digest.String()),
			"salt": got.Salt[:], "salt as text": []byte(got.Salt.String()), "subject": []byte("2026/17"), "code": []byte(got.Code.String()), "code without hyphens": got.Code[:],
		} {
			if bytes.Contains(dump, secret) {
				t.Errorf("the rows show the %s", what)
			}
		}
	})
}

func sweep(t *testing.T, d *desk) int {
	t.Helper()
	s, err := intake.NewSweeper(intake.SweeperConfig{
		Objects: d.bucket, Rows: batchtest.Database{State: d.world.state, Faults: d.faults},
		Now: func() time.Time { return time.Now().Add(25 * time.Hour) },
	})
	if err != nil {
		t.Fatal(err)
	}
	n, err := s.Step(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func TestSweep(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		d := newDesk(t, w, new(batchtest.Faults))
		for i := range 3 {
			if _, err := d.Upload(t.Context(), upload(fmt.Sprint("hello", i))); err != nil {
				t.Fatal(err)
			}
		}
		orphan := func(name string, age time.Duration, locked bool) {
			o := bucketObject{modified: time.Now().Add(-age)}
			if locked {
				o.locked = time.Now().Add(150 * time.Minute)
			}
			d.bucket.objects[name] = o
		}
		for i := range 1200 { // more than two pages
			orphan(fmt.Sprintf("documents/orphan-%d", i), 25*time.Hour, false)
		}
		orphan("documents/locked", 25*time.Hour, true)
		orphan("documents/young", 23*time.Hour, false)
		ctx, cancel := context.WithCancel(t.Context())
		database := batchtest.Database{State: w.state, Faults: new(batchtest.Faults)}
		s, err := intake.NewSweeper(intake.SweeperConfig{Objects: d.bucket, Rows: database, Logger: slog.New(slog.DiscardHandler)})
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error)
		go func() { ended <- s.Run(ctx) }()
		synctest.Wait()
		want := append(w.state.Objects(), "documents/locked", "documents/young")
		slices.Sort(want)
		if got := d.bucket.stored(); !slices.Equal(got, want) {
			t.Errorf("%d objects are left, want %v", len(got), want)
		}
		batchtest.Pass(2*time.Hour + time.Second) // the young one is old now, and the lock isn't over
		synctest.Wait()
		if want := append(w.state.Objects(), "documents/locked"); len(d.bucket.stored()) != len(want) || d.bucket.refused != 1 {
			t.Errorf("%d objects are left, want %d; what is locked was tried %d times", len(d.bucket.stored()), len(want), d.bucket.refused)
		}
		batchtest.Pass(time.Hour) // now it is
		synctest.Wait()
		if d.bucket.refused != 1 {
			t.Errorf("what is locked was tried %d times", d.bucket.refused)
		}
		d.checkObjects(t)
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if _, err := intake.NewSweeper(intake.SweeperConfig{Objects: d.bucket, Rows: database, MaxAge: time.Minute}); err == nil {
			t.Error("a sweep of objects that may still be uploads was accepted")
		}
	})
}

// TestSweepWithoutRows: if the rows can't be read, nothing is an orphan.
func TestSweepWithoutRows(t *testing.T) {
	b := newBucket()
	b.objects["documents/a"] = bucketObject{}
	faults := new(batchtest.Faults)
	faults.Kill()
	s, err := intake.NewSweeper(intake.SweeperConfig{Objects: b, Rows: batchtest.Database{State: batchtest.NewState(calpe.Hash{1}), Faults: faults}})
	if err != nil {
		t.Fatal(err)
	}
	if n, err := s.Step(t.Context()); err == nil || n != 0 || len(b.stored()) != 1 {
		t.Errorf("removed %d, %v", n, err)
	}
}

func TestRetain(t *testing.T) {
	for n := range 8 {
		for _, fault := range []batchtest.Fault{batchtest.NotApplied, batchtest.Applied, batchtest.DieBefore, batchtest.DieAfter} {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				d := newDesk(t, w, new(batchtest.Faults))
				for i := range 3 {
					if _, err := d.Upload(t.Context(), upload(fmt.Sprint("hello", i))); err != nil {
						t.Fatal(err)
					}
				}
				faults := batchtest.At(n, fault) // 0: none
				d.bucket.faults = faults
				r, err := intake.NewRetainer(intake.RetainerConfig{Rows: batchtest.Database{State: w.state, Faults: faults}, Retain: d.bucket.retain})
				if err != nil {
					t.Fatal(err)
				}
				if locked, err := r.Step(t.Context()); (err == nil) != (n == 0 || n > 6) || err == nil && locked != 3 {
					t.Fatalf("write %d fault %d: locked %d, %v", n, fault, locked, err)
				}
				database := batchtest.Database{State: w.state, Faults: new(batchtest.Faults)}
				d.bucket.faults = database.Faults
				next, err := intake.NewRetainer(intake.RetainerConfig{Rows: database, Retain: d.bucket.retain})
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(t.Context())
				ended := make(chan error)
				go func() { ended <- next.Run(ctx) }()
				synctest.Wait()
				cancel()
				if err := <-ended; err != nil {
					t.Error(err)
				}
				if rows, err := database.Unretained(t.Context(), calpe.DocumentID{}, 100); err != nil || len(rows) > 0 {
					t.Errorf("%d documents are not locked, %v", len(rows), err)
				}
				for name, o := range d.bucket.objects {
					if o.locked.Before(time.Now().AddDate(9, 11, 0)) {
						t.Errorf("%s is locked until %v", name, o.locked)
					}
				}
			})
		}
	}
}

func TestServiceConfig(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newDesk(t, newWorld(t), new(batchtest.Faults))
		for name, edit := range map[string]func(*intake.ServiceConfig){
			"no recorder": func(c *intake.ServiceConfig) { c.Recorder = nil }, "no keys": func(c *intake.ServiceConfig) { c.Keys = nil },
			"no names": func(c *intake.ServiceConfig) { c.NewName = nil }, "negative size": func(c *intake.ServiceConfig) { c.MaxDocument = -1 },
		} {
			cfg := d.cfg
			edit(&cfg)
			if _, err := intake.NewService(cfg); err == nil {
				t.Errorf("%s was accepted", name)
			}
		}
	})
}
