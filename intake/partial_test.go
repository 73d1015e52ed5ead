package intake_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/minio/minio-go/v7"
	"github.com/minio/minio-go/v7/pkg/credentials"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/batch/batchtest"
	"github.com/calpe/calpe/intake"
	"github.com/calpe/calpe/receipt/statement"
	"github.com/calpe/calpe/storage/postgres"
	"github.com/calpe/calpe/storage/postgres/postgrestest"
	"github.com/calpe/calpe/storage/s3"
)

var (
	_ intake.PartialRows = (*postgres.DB)(nil)
	_ intake.PartStore   = (*s3.Store)(nil)
)

// partials are those of one server of the site.
func (v *server) partials(t *testing.T, s *site, edit func(*intake.PartialsConfig)) *intake.Partials {
	t.Helper()
	cfg := intake.PartialsConfig{Service: v.Service, Rows: v.db, Parts: s.store, PartSize: s3.PartPlain}
	if edit != nil {
		edit(&cfg)
	}
	p, err := intake.NewPartials(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// marked is a document with a marker in each 4 KiB, so that plaintext shows
// wherever it is.
func marked(seed uint64, size int) []byte {
	data := make([]byte, size)
	random := rand.NewChaCha8([32]byte{byte(seed)})
	_, _ = random.Read(data)
	for i := 0; i+len(marker) <= size; i += 4096 {
		copy(data[i:], marker)
	}
	return data
}

const marker = "CALPE-PLAINTEXT-MARKER-32-BYTES!"

// brokenBody fails when it has given all that it has.
type brokenBody struct{ io.Reader }

func (b brokenBody) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// TestDocumentInPieces sends a document over lines that are cut again and again,
// to two servers in turn.
func TestDocumentInPieces(t *testing.T) {
	t.Parallel()
	s := newSite(t, postgrestest.URL(t))
	agency := batchtest.Key(t, "town-hall")
	servers := []*server{s.serve(t), s.serve(t)}
	if _, err := servers[0].RegisterAgency(t.Context(), statement.Agency{Agency: "town-hall", Name: "Town hall", Key: agency.Verifier()}); err != nil {
		t.Fatal(err)
	}
	both := []*intake.Partials{servers[0].partials(t, s, nil), servers[1].partials(t, s, nil)}
	random := rand.New(rand.NewPCG(1, 2))
	for i, size := range []int{1, 65536, 70000, s3.PartPlain, s3.PartPlain + 1, 2*s3.PartPlain + 300000} {
		data := marked(uint64(i), size)
		digest := calpe.Digest(sha256.Sum256(data))
		status, err := both[0].Begin(t.Context(), intake.NewPartial{
			Owner: "anna", Size: int64(size), Name: "deed.pdf", MediaType: "application/pdf", ExpectedDigest: &digest,
			Certification: certify(t, agency, string(data), nil), Metadata: "filename x",
		})
		if err != nil {
			t.Fatal(err)
		}
		cuts := 0
		for status.Document.IsZero() {
			p := both[random.IntN(2)]
			if status, err = p.Status(t.Context(), status.ID, "anna"); err != nil {
				t.Fatal(err)
			}
			rest := data[status.Received:]
			var body io.Reader = bytes.NewReader(rest)
			if n := random.IntN(250_000); n < len(rest) && cuts < 100 { // then the rest at once
				cuts++
				body = bytes.NewReader(rest[:max(n, 65536)]) // a piece that is short
				if cuts%2 == 0 {
					body = brokenBody{bytes.NewReader(rest[:n])}
				}
			}
			next, err := p.Append(t.Context(), intake.Piece{ID: status.ID, Owner: "anna", Offset: status.Received, Body: body})
			if next.Received < status.Received || next.Received%65536 != 0 && next.Received != int64(size) {
				t.Fatalf("from %d the upload has come to %d", status.Received, next.Received)
			}
			if err != nil && code(err) != calpe.CodeSlowClient {
				t.Fatal(err)
			}
			if err == nil {
				status = next
			}
			if cuts%4 == 0 || !status.Document.IsZero() {
				s.wantNoPlaintext(t)
			}
		}
		for _, p := range both {
			done, err := p.Recorded(t.Context(), status.ID, "anna")
			if err != nil {
				t.Fatal(err)
			}
			if done.ID != status.ID || done.Digest != digest || done.Size != int64(size) || done.Name != "deed.pdf" || done.Certification == nil || len(done.Acknowledgement.Note) == 0 {
				t.Errorf("document %+v", done.Document)
			}
		}
		content, err := servers[1].Content(t.Context(), status.ID, "anna", 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(content)
		if err := errors.Join(err, content.Close()); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("%d bytes come back, %v; want %d", len(got), err, size)
		}
		t.Logf("%d bytes, %d cuts", size, cuts)
	}
}

// wantNoPlaintext looks into every row of every table, and every object of the
// documents' bucket.
func (s *site) wantNoPlaintext(t *testing.T) {
	t.Helper()
	s.scan(t, func(where string, data []byte) {
		if bytes.Contains(data, []byte(marker)) || bytes.Contains(data, fmt.Appendf(nil, "%x", marker)) {
			t.Fatalf("plaintext of the document is in %s", where)
		}
	})
}

func TestPieces(t *testing.T) {
	t.Parallel()
	s := newSite(t, postgrestest.URL(t))
	v := s.serve(t)
	p := v.partials(t, s, func(cfg *intake.PartialsConfig) { cfg.MaxOpen = 7 })
	data := marked(1, 3*65536)
	begin := func(edit func(*intake.NewPartial)) calpe.DocumentID {
		t.Helper()
		n := intake.NewPartial{Owner: "anna", Size: int64(len(data))}
		if edit != nil {
			edit(&n)
		}
		status, err := p.Begin(t.Context(), n)
		if err != nil {
			t.Fatal(err)
		}
		return status.ID
	}
	send := func(id calpe.DocumentID, from, to int, edit func(*intake.Piece)) (intake.PartialStatus, error) {
		t.Helper()
		piece := intake.Piece{ID: id, Owner: "anna", Offset: int64(from), Body: bytes.NewReader(data[from:to])}
		if edit != nil {
			edit(&piece)
		}
		return p.Append(t.Context(), piece)
	}
	want := func(what string, id calpe.DocumentID, err error, wanted calpe.Code, received int64) {
		t.Helper()
		if code(err) != wanted {
			t.Errorf("%s: %v, want %q", what, err, wanted)
		}
		if status, err := p.Status(t.Context(), id, "anna"); err != nil || status.Received != received {
			t.Errorf("%s: it has come to %d, %v; want %d", what, status.Received, err, received)
		}
	}
	id := begin(nil)
	_, err := send(id, 5, 10, nil)
	want("a piece from behind", id, err, calpe.CodeOffset, 0)
	_, err = send(id, 0, 1000, nil)
	want("a piece below a step", id, err, calpe.CodeInvalidRequest, 0)
	_, err = send(id, 0, 0, nil)
	want("an empty piece", id, err, "", 0)
	sum := sha256.Sum256(data[:70000])
	checked := func(sum []byte) func(*intake.Piece) {
		return func(p *intake.Piece) { p.Hash, p.Sum = sha256.New(), sum }
	}
	_, err = send(id, 0, 80000, checked(sum[:]))
	want("a piece with another sum", id, err, calpe.CodeChecksum, 0)
	_, err = send(id, 0, 70000, func(p *intake.Piece) { checked(sum[:])(p); p.Body = brokenBody{p.Body} })
	want("a cut piece with a sum", id, err, calpe.CodeSlowClient, 0)
	_, err = send(id, 0, 70000, checked(sum[:]))
	want("a piece with a sum", id, err, "", 65536)
	_, err = send(id, 0, 70000, nil)
	want("a piece again", id, err, calpe.CodeOffset, 65536)
	_, err = p.Append(t.Context(), intake.Piece{ID: id, Owner: "bob", Offset: 65536, Body: bytes.NewReader(data)})
	want("a piece of somebody else", id, err, calpe.CodeNotFound, 65536)
	_, err = send(id, 65536, len(data), func(p *intake.Piece) { p.Body = io.MultiReader(p.Body, strings.NewReader("x")) })
	want("a piece that is too long", id, err, calpe.CodeTooLarge, 65536)

	held, entered, leave := begin(nil), make(chan struct{}), make(chan struct{})
	first := make(chan error)
	go func() {
		_, err := p.Append(t.Context(), intake.Piece{ID: held, Owner: "anna", Body: &gate{Reader: bytes.NewReader(data), entered: entered, leave: leave}})
		first <- err
	}()
	<-entered
	_, err = send(held, 0, len(data), nil)
	want("a second piece at a time", held, err, calpe.CodeLocked, 0)
	if err := p.Abandon(t.Context(), held, "anna"); code(err) != calpe.CodeLocked {
		t.Errorf("given up while a piece comes: %v", err)
	}
	close(leave)
	if err := <-first; err != nil {
		t.Error(err)
	}
	want("the first of two", held, nil, "", int64(len(data)))

	same := func(n *intake.NewPartial) { n.IdempotencyKey, n.Name = "k", "a" }
	one, two := begin(same), begin(same)
	status1, err1 := send(one, 0, len(data), nil)
	status2, err2 := send(two, 0, len(data), nil)
	if err := errors.Join(err1, err2); err != nil || status1.Document != one || status2.Document != one {
		t.Errorf("two uploads with one key became %v and %v, %v", status1.Document, status2.Document, err)
	}
	posted, err := v.Upload(t.Context(), intake.Upload{Body: bytes.NewReader(data), Owner: "anna", Name: "a", IdempotencyKey: "k"})
	if err != nil || posted.ID != one || !posted.Existing {
		t.Errorf("the same as one request: %v, %v", posted.ID, err)
	}
	if _, err := v.Content(t.Context(), one, "anna", 0, 10); err != nil {
		t.Errorf("the document of both can't be read: %v", err)
	}
	for _, refused := range []struct {
		edit func(*intake.NewPartial)
		code calpe.Code
	}{
		{func(n *intake.NewPartial) { n.ExpectedDigest = new(calpe.Digest) }, calpe.CodeDigestMismatch},
		{func(n *intake.NewPartial) { n.IdempotencyKey, n.Name = "k", "b" }, calpe.CodeIdempotencyMismatch},
	} {
		id := begin(refused.edit)
		if _, err := send(id, 0, len(data), nil); code(err) != refused.code {
			t.Errorf("%v, want %s", err, refused.code)
		}
		if _, err := p.Status(t.Context(), id, "anna"); code(err) != calpe.CodeNotFound {
			t.Errorf("what can't be recorded is kept: %v", err)
		}
	}
	for range 6 { // one is open
		id = begin(nil)
	}
	if _, err := p.Begin(t.Context(), intake.NewPartial{Owner: "anna", Size: 1}); code(err) != calpe.CodeTooManyRequests {
		t.Errorf("one more than an owner may have open: %v", err)
	}
	if err := p.Abandon(t.Context(), id, "anna"); err != nil {
		t.Error(err)
	}
	if _, err := send(id, 0, 10, nil); code(err) != calpe.CodeNotFound {
		t.Errorf("a piece of what was given up: %v", err)
	}
	old := v.partials(t, s, func(cfg *intake.PartialsConfig) { cfg.MaxAge = time.Nanosecond })
	gone, err := old.Begin(t.Context(), intake.NewPartial{Owner: "bob", Size: 5})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Status(t.Context(), gone.ID, "bob"); code(err) != calpe.CodeNotFound {
		t.Errorf("one whose time is over: %v", err)
	}
	if n, err := p.Sweep(t.Context()); n != 1 || err != nil {
		t.Errorf("%d were swept, %v", n, err)
	}
}

// gate tells when it is read, and waits.
type gate struct {
	io.Reader
	entered, leave chan struct{}
	open           bool
}

func (g *gate) Read(p []byte) (int, error) {
	if !g.open {
		g.open = true
		close(g.entered)
		<-g.leave
	}
	return g.Reader.Read(p)
}

// scan gives every row of every table as text, and the bytes of every object.
func (s *site) scan(t *testing.T, look func(where string, data []byte)) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.WithoutCancel(t.Context()))
	tables, err := queryText(t.Context(), conn, `SELECT tablename::text FROM pg_tables WHERE schemaname = 'public'`)
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		rows, err := queryText(t.Context(), conn, `SELECT r::text FROM `+pgx.Identifier{table}.Sanitize()+` r`)
		if err != nil {
			t.Fatal(err)
		}
		for _, row := range rows {
			look(table, []byte(row))
		}
	}
	core, err := minio.NewCore(strings.TrimPrefix(env(t, "CALPE_TEST_S3_ENDPOINT"), "http://"), &minio.Options{
		Creds: credentials.NewStaticV4(env(t, "CALPE_TEST_S3_ACCESS_KEY"), env(t, "CALPE_TEST_S3_SECRET_KEY"), ""),
	})
	if err != nil {
		t.Fatal(err)
	}
	for info := range core.Client.ListObjects(t.Context(), s.documents, minio.ListObjectsOptions{Recursive: true, WithVersions: true}) {
		if info.Err != nil {
			t.Fatal(info.Err)
		}
		if info.IsDeleteMarker || s.seen[info.Key+info.VersionID] {
			continue
		}
		s.seen[info.Key+info.VersionID] = true
		body, _, _, err := core.GetObject(t.Context(), s.documents, info.Key, minio.GetObjectOptions{VersionID: info.VersionID})
		if err != nil {
			continue // a tail that was replaced meanwhile
		}
		data, err := io.ReadAll(body)
		if err := errors.Join(err, body.Close()); err != nil {
			t.Fatal(err)
		}
		look(info.Key, data)
	}
}

func queryText(ctx context.Context, conn *pgx.Conn, sql string) ([]string, error) {
	rows, err := conn.Query(ctx, sql)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowTo[string])
}
