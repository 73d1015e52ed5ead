package api_test

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"hash"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/intake"
)

// partials keep what comes in pieces, as the intake does: up to a multiple of
// 64 KiB, and all of it with the document.
type partials struct {
	w  *world
	of map[calpe.DocumentID]*partial
}

type partial struct {
	intake.NewPartial
	status intake.PartialStatus
	data   []byte
}

func (p partials) Begin(_ context.Context, n intake.NewPartial) (intake.PartialStatus, error) {
	if err := p.failure(); err != nil {
		return intake.PartialStatus{}, err
	}
	if n.Size == 0 {
		return intake.PartialStatus{}, calpe.Errorf(calpe.CodeEmptyDocument, "Empty.")
	}
	id := documentID(uint64(1<<40 + len(p.of)))
	p.of[id] = &partial{NewPartial: n, status: intake.PartialStatus{ID: id, Size: n.Size, Expires: p.w.now.Add(time.Hour), Metadata: n.Metadata}}
	return p.of[id].status, nil
}

func (p partials) failure() error {
	if p.w.uploadErr != nil {
		return p.w.uploadErr
	}
	return p.w.unavailable()
}

func (p partials) find(id calpe.DocumentID, owner string) (*partial, error) {
	if err := p.failure(); err != nil {
		return nil, err
	}
	if found := p.of[id]; found != nil && found.Owner == owner {
		return found, nil
	}
	return nil, calpe.Errorf(calpe.CodeNotFound, "There is no such upload.")
}

func (p partials) Status(_ context.Context, id calpe.DocumentID, owner string) (intake.PartialStatus, error) {
	found, err := p.find(id, owner)
	if err != nil {
		return intake.PartialStatus{}, err
	}
	return found.status, nil
}

func (p partials) Abandon(_ context.Context, id calpe.DocumentID, owner string) error {
	_, err := p.find(id, owner)
	if err == nil {
		delete(p.of, id)
	}
	return err
}

func (p partials) Recorded(ctx context.Context, id calpe.DocumentID, owner string) (intake.Uploaded, error) {
	found, err := p.find(id, owner)
	if err != nil {
		return intake.Uploaded{}, err
	}
	document, err := p.w.Document(ctx, found.status.Document, owner)
	if err != nil {
		return intake.Uploaded{}, err
	}
	ack, err := p.w.AcknowledgementOf(ctx, document.Index)
	return intake.Uploaded{Document: document, Acknowledgement: ack}, err
}

func (p partials) Append(ctx context.Context, piece intake.Piece) (intake.PartialStatus, error) {
	found, err := p.find(piece.ID, piece.Owner)
	if err != nil {
		return intake.PartialStatus{}, err
	}
	if piece.Offset != found.status.Received {
		return intake.PartialStatus{}, calpe.Errorf(calpe.CodeOffset, "It has come to another place.")
	}
	if piece.Hash != nil {
		piece.Body = io.TeeReader(piece.Body, piece.Hash)
	}
	data, err := io.ReadAll(piece.Body)
	if err != nil && piece.Hash != nil {
		return intake.PartialStatus{}, err
	}
	if piece.Hash != nil && !bytes.Equal(piece.Hash.Sum(nil), piece.Sum) {
		return intake.PartialStatus{}, calpe.Errorf(calpe.CodeChecksum, "It has another sum.")
	}
	all := append(found.data[:found.status.Received], data...)
	if int64(len(all)) > found.Size {
		return intake.PartialStatus{}, calpe.Errorf(calpe.CodeTooLarge, "It is too long.")
	}
	if int64(len(all)) < found.Size {
		found.data, found.status.Received = all, int64(len(all)/65536*65536)
		return found.status, err
	}
	done, err := p.w.Upload(ctx, intake.Upload{Body: bytes.NewReader(all), Owner: found.Owner, Name: found.Name, MediaType: found.MediaType,
		IdempotencyKey: found.IdempotencyKey, ExpectedDigest: found.ExpectedDigest})
	if err != nil {
		return intake.PartialStatus{}, err
	}
	found.status.Document, found.status.Received = done.ID, found.Size
	return found.status, nil
}

func metadata(pairs ...string) string {
	var text []string
	for i := 0; i < len(pairs); i += 2 {
		text = append(text, pairs[i]+" "+base64.StdEncoding.EncodeToString([]byte(pairs[i+1])))
	}
	return strings.Join(text, ",")
}

func checksum(name string, data []byte) string {
	h := map[string]hash.Hash{"sha1": sha1.New(), "sha256": sha256.New()}[name]
	h.Write(data)
	return name + " " + base64.StdEncoding.EncodeToString(h.Sum(nil))
}

// The protocol's own course: creation, HEAD, pieces, the document.
func TestTus(t *testing.T) {
	w := newWorld(t)
	data := bytes.Repeat([]byte("calpe"), 30000) // 150,000 bytes
	do := func(method, path string, body []byte, header ...string) answer {
		t.Helper()
		a := w.do(method, path, bytes.NewReader(body), append([]string{"Authorization", "Bearer calpe_alice", "Tus-Resumable", "1.0.0"}, header...)...)
		if a.header.Get("Tus-Resumable") != "1.0.0" {
			t.Errorf("%s %s: Tus-Resumable %q", method, path, a.header.Get("Tus-Resumable"))
		}
		return a
	}
	said := metadata("filename", "will é.pdf", "filetype", "application/pdf", "sha256", fmt.Sprintf("%x", sha256.Sum256(data)), "other", "")
	made := do("POST", "/v1/uploads", nil, "Upload-Length", strconv.Itoa(len(data)), "Upload-Metadata", said, "Idempotency-Key", "k")
	at := made.header.Get("Location")
	if made.status != http.StatusCreated || !strings.HasPrefix(at, "/v1/uploads/") || made.header.Get("Upload-Expires") == "" {
		t.Fatalf("creation: %d %v %s", made.status, made.header, made.body)
	}
	wantOffset := func(what string, a answer, status int, offset string) {
		t.Helper()
		if a.status != status || a.header.Get("Upload-Offset") != offset {
			t.Errorf("%s: %d, offset %q, want %d, %q: %s", what, a.status, a.header.Get("Upload-Offset"), status, offset, a.body)
		}
	}
	piece := []string{"Content-Type", "application/offset+octet-stream", "Upload-Offset"}
	head := do("HEAD", at, nil)
	wantOffset("before the first piece", head, 200, "0")
	if head.header.Get("Upload-Length") != "150000" || head.header.Get("Upload-Metadata") != said || head.header.Get("Cache-Control") != "no-store" {
		t.Errorf("HEAD: %v", head.header)
	}
	wantOffset("a piece", do("PATCH", at, data[:70000], append(piece, "0", "Upload-Checksum", checksum("sha1", data[:70000]))...), 204, "65536")
	wantOffset("the piece again", do("PATCH", at, data[:70000], append(piece, "0")...), 409, "")
	wantOffset("a piece with another sum", do("PATCH", at, data[65536:], append(piece, "65536", "Upload-Checksum", checksum("sha256", data))...), 460, "")
	wantOffset("behind it", do("HEAD", at, nil), 200, "65536")
	last := do("POST", at, data[65536:], append(piece, "65536", "Upload-Checksum", checksum("sha256", data[65536:]), "X-HTTP-Method-Override", "PATCH")...)
	wantOffset("the last piece", last, 204, "150000")
	got := do("GET", at, nil)
	var state struct {
		Received int64
		Document struct {
			ID, Name        string
			Acknowledgement *struct{ Note string }
		}
	}
	if err := json.Unmarshal(got.body, &state); err != nil {
		t.Fatal(err)
	}
	if d := state.Document; d.Name != "will é.pdf" || d.Acknowledgement == nil || last.header.Get("Content-Location") != "/v1/documents/"+d.ID || state.Received != 150000 {
		t.Errorf("the document: %s, at %q", got.body, last.header.Get("Content-Location"))
	}
	if a := do("DELETE", at, nil); a.status != 204 {
		t.Errorf("DELETE: %d %s", a.status, a.body)
	}
	if a := do("HEAD", at, nil); a.status != 404 {
		t.Errorf("HEAD behind DELETE: %d", a.status)
	}
	options := w.do("OPTIONS", "/v1/uploads", nil)
	if options.status != 204 || options.header.Get("Tus-Version") != "1.0.0" || options.header.Get("Tus-Max-Size") != "1048576" || options.header.Get("Tus-Extension") != "creation,expiration,checksum,termination" {
		t.Errorf("OPTIONS: %d %v", options.status, options.header)
	}
}

func TestTusRefuses(t *testing.T) {
	w := newWorld(t)
	w.token("calpe_bob", "bob", "documents")
	begin := func(header ...string) answer {
		return w.do("POST", "/v1/uploads", nil, append([]string{"Authorization", "Bearer calpe_alice"}, header...)...)
	}
	at := begin("Tus-Resumable", "1.0.0", "Upload-Length", "5").header.Get("Location")
	tus := []string{"Tus-Resumable", "1.0.0", "Upload-Length"}
	for name, c := range map[string]struct {
		header []string
		want   calpe.Code
	}{
		"no version":             {[]string{"Upload-Length", "5"}, calpe.CodeTusVersion},
		"another version":        {[]string{"Upload-Length", "5", "Tus-Resumable", "0.2.2"}, calpe.CodeTusVersion},
		"no length":              {[]string{"Tus-Resumable", "1.0.0"}, calpe.CodeInvalidRequest},
		"a length to come":       {[]string{"Tus-Resumable", "1.0.0", "Upload-Defer-Length", "1"}, calpe.CodeInvalidRequest},
		"a negative length":      {append(tus, "-1"), calpe.CodeInvalidRequest},
		"a length with a sign":   {append(tus, "+1"), calpe.CodeInvalidRequest},
		"an empty document":      {append(tus, "0"), calpe.CodeEmptyDocument},
		"a large document":       {append(tus, "1048577"), calpe.CodeTooLarge},
		"metadata not in base64": {append(tus, "5", "Upload-Metadata", "filename x"), calpe.CodeInvalidRequest},
		"metadata twice":         {append(tus, "5", "Upload-Metadata", "a,a"), calpe.CodeInvalidRequest},
		"metadata without key":   {append(tus, "5", "Upload-Metadata", "a,,b"), calpe.CodeInvalidRequest},
		"a bad name":             {append(tus, "5", "Upload-Metadata", metadata("filename", "a\nb")), calpe.CodeInvalidRequest},
		"a bad digest":           {append(tus, "5", "Upload-Metadata", metadata("sha256", "00")), calpe.CodeInvalidRequest},
		"a large certification":  {append(tus, "5", "Upload-Metadata", metadata("certification", strings.Repeat(" ", 16<<10+1))), calpe.CodeTooLarge},
		"large metadata":         {append(tus, "5", "Upload-Metadata", metadata("x", strings.Repeat(" ", 24<<10))), calpe.CodeTooLarge},
	} {
		if got := begin(c.header...).code(t); got != string(c.want) {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	if got := w.do("POST", "/v1/uploads", strings.NewReader("x"), append(tus, "5", "Authorization", "Bearer calpe_alice")...).code(t); got != string(calpe.CodeInvalidRequest) {
		t.Errorf("creation with a body: %s", got)
	}
	patch := func(body string, header ...string) string {
		t.Helper()
		return w.do("PATCH", at, strings.NewReader(body), append([]string{"Tus-Resumable", "1.0.0"}, header...)...).code(t)
	}
	alice := []string{"Authorization", "Bearer calpe_alice", "Content-Type", "application/offset+octet-stream"}
	for name, c := range map[string]struct {
		header []string
		want   calpe.Code
	}{
		"no token":          {nil, calpe.CodeUnauthorized},
		"another's upload":  {[]string{"Authorization", "Bearer calpe_bob", "Content-Type", "application/offset+octet-stream", "Upload-Offset", "0"}, calpe.CodeNotFound},
		"another type":      {[]string{"Authorization", "Bearer calpe_alice", "Content-Type", "application/pdf"}, calpe.CodeUnsupportedMedia},
		"no offset":         {alice, calpe.CodeInvalidRequest},
		"another offset":    {append(alice, "Upload-Offset", "1"), calpe.CodeOffset},
		"another algorithm": {append(alice, "Upload-Offset", "0", "Upload-Checksum", "md5 AAAA"), calpe.CodeInvalidRequest},
		"a short checksum":  {append(alice, "Upload-Offset", "0", "Upload-Checksum", "sha256 AAAA"), calpe.CodeInvalidRequest},
		"another checksum":  {append(alice, "Upload-Offset", "0", "Upload-Checksum", checksum("sha256", nil)), calpe.CodeChecksum},
	} {
		if got := patch("hello", c.header...); got != string(c.want) {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	if got := patch("hello!", append(alice, "Upload-Offset", "0")...); got != string(calpe.CodeTooLarge) {
		t.Errorf("a piece that is too long: %s", got)
	}
	for _, path := range []string{"/v1/uploads/x", "/v1/uploads/00000000-0000-0000-0000-000000000000"} {
		if a := w.do("GET", path, nil, "Authorization", "Bearer calpe_alice"); a.code(t) != string(calpe.CodeNotFound) {
			t.Errorf("%s: %d", path, a.status)
		}
	}
}

// An account's limits hold for pieces as for whole documents.
func TestPiecesCount(t *testing.T) {
	w := newWorld(t)
	w.config.Accounts.EntriesPerDay, w.config.Accounts.BytesPerDay = 2, 1000
	w.serve()
	header := []string{"Authorization", "Bearer calpe_alice", "Tus-Resumable", "1.0.0"}
	begin := func(size string) answer {
		return w.do("POST", "/v1/uploads", nil, append(header, "Upload-Length", size)...)
	}
	first, second := begin("600"), begin("600")
	if first.status != 201 || second.status != 201 {
		t.Fatalf("%d, %d", first.status, second.status)
	}
	send := func(at string) answer {
		return w.do("PATCH", at, bytes.NewReader(make([]byte, 600)), append(header, "Content-Type", "application/offset+octet-stream", "Upload-Offset", "0")...)
	}
	if a := send(first.header.Get("Location")); a.status != 204 {
		t.Fatalf("%d %s", a.status, a.body)
	}
	if a := send(second.header.Get("Location")); a.code(t) != string(calpe.CodeTooManyRequests) || a.header.Get("Retry-After") == "" {
		t.Errorf("more bytes than the account may have: %d %v", a.status, a.header)
	}
	if a := begin("600"); a.code(t) != string(calpe.CodeTooManyRequests) {
		t.Errorf("a document that is larger than what is left: %d", a.status)
	}
}

// newUpload begins one for a request of the walk.
func (k *walk) newUpload() string {
	at, err := k.w.config.Partials.(partials).Begin(context.Background(), intake.NewPartial{Owner: "alice", Size: 70000})
	if err != nil { // it is down: the request finds nothing
		return "/v1/uploads/" + documentID(0).String()
	}
	return "/v1/uploads/" + at.ID.String()
}

// piece is a body for the upload that the request is of.
func (k *walk) piece(a *attempt, bad bool) {
	size := []int{70000, 65536, 0}[k.rng.IntN(3)]
	body := bytes.Repeat([]byte{byte(k.sent)}, size)
	k.setBody(a, "application/offset+octet-stream", body)
	a.header.Del("Upload-Checksum")
	if k.rng.IntN(2) == 0 {
		a.header.Set("Upload-Checksum", checksum(k.pick("sha256", "sha1"), body))
	}
	if !bad {
		return
	}
	a.doubt = append(a.doubt, "body")
	switch k.rng.IntN(10) {
	case 6:
		a.header.Set("Upload-Offset", "1")
	case 0:
		a.header.Set("Content-Type", k.pick("application/pdf", "", k.junkHeader()))
	case 1, 7, 8, 9:
		a.header.Set("Upload-Checksum", k.pick(checksum("sha256", []byte("other")), checksum("sha1", []byte("other")), "md5 AAAA"))
	case 2:
		k.setBody(a, "", make([]byte, 70001))
		a.header.Del("Upload-Checksum")
	case 3:
		a.body = io.MultiReader(bytes.NewReader(body), failing{os.ErrDeadlineExceeded})
	case 4:
		a.body = io.MultiReader(bytes.NewReader(body), failing{io.ErrUnexpectedEOF})
	case 5:
		k.setBody(a, "", []byte(k.junk()))
	}
}
