package api_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime/multipart"
	"net/http"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/api"
	"github.com/calpe/calpe/batch/batchtest"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/statement"
)

func TestUploadRaw(t *testing.T) {
	w := newWorld(t)
	a := w.as("calpe_alice", "POST", "/v1/documents", strings.NewReader("deed"), "Content-Type", "text/plain; charset=utf-8",
		"Content-Disposition", `attachment; filename*=UTF-8''T%C3%ADtulo.txt`, "Content-Digest", contentDigest("deed"), "Idempotency-Key", "k-1")
	if a.status != http.StatusCreated {
		t.Fatalf("status %d: %s", a.status, a.body)
	}
	got := w.uploads[0]
	if got.Name != "Título.txt" || got.MediaType != "text/plain" || got.Owner != "alice" || got.IdempotencyKey != "k-1" || got.ExpectedDigest == nil {
		t.Errorf("intake got %+v", got)
	}
	var d struct {
		ID              calpe.DocumentID
		Index           uint64
		State           calpe.State
		Name            string
		Digest          calpe.Digest
		Acknowledgement struct {
			Note string
			Path receipt.Path
		}
	}
	if err := json.Unmarshal(a.body, &d); err != nil {
		t.Fatal(err)
	}
	if a.header.Get("Location") != "/v1/documents/"+d.ID.String() || d.State != calpe.Received || d.Index != 1 || d.Name != "Título.txt" {
		t.Errorf("answer %s at %q", a.body, a.header.Get("Location"))
	}
	if _, err := receipt.VerifyAcknowledged(w.entries[1], []byte(d.Acknowledgement.Note), d.Acknowledgement.Path, w.identity); err != nil {
		t.Errorf("acknowledgement: %v", err)
	}
}

func TestUploadForm(t *testing.T) {
	w := newWorld(t)
	body, contentType := form(t, formPart("certification", "", "{}"),
		formPart("document", `C:\deeds\deed.pdf`, "deed", "Content-Type", "application/pdf", "Content-Digest", contentDigest("deed")))
	a := w.as("calpe_alice", "POST", "/v1/documents", bytes.NewReader(body), "Content-Type", contentType)
	if a.status != http.StatusCreated {
		t.Fatalf("status %d: %s", a.status, a.body)
	}
	got := w.uploads[0]
	if got.Name != "deed.pdf" || got.MediaType != "application/pdf" || string(got.Certification) != "{}" || got.ExpectedDigest == nil {
		t.Errorf("intake got %+v", got)
	}
}

// Every request that isn't what it must be gets a code, and leaves no upload.
func TestUploadRefused(t *testing.T) {
	long := strings.Repeat("x", 300)
	certified, certifiedType := form(t, formPart("certification", "", "{}"), formPart("document", "a", "deed"))
	for name, c := range map[string]struct {
		parts  []part
		raw    io.Reader
		header []string
		want   calpe.Code
	}{
		"no document":       {parts: []part{formPart("certification", "", "{}")}, want: calpe.CodeInvalidRequest},
		"behind document":   {parts: []part{formPart("document", "a", "deed"), formPart("certification", "", "{}")}, want: calpe.CodeInvalidRequest},
		"two certificates":  {parts: []part{formPart("certification", "", "{}"), formPart("certification", "", "{}"), formPart("document", "a", "d")}, want: calpe.CodeInvalidRequest},
		"foreign part":      {parts: []part{formPart("comment", "", "hi"), formPart("document", "a", "deed")}, want: calpe.CodeInvalidRequest},
		"huge certificate":  {parts: []part{formPart("certification", "", strings.Repeat("x", 17<<10)), formPart("document", "a", "d")}, want: calpe.CodeTooLarge},
		"bad part digest":   {parts: []part{formPart("document", "a", "deed", "Content-Digest", "sha-256=x")}, want: calpe.CodeInvalidRequest},
		"wrong part digest": {parts: []part{formPart("document", "a", "deed", "Content-Digest", contentDigest("dead"))}, want: calpe.CodeDigestMismatch},
		"long name":         {parts: []part{formPart("document", long, "deed")}, want: calpe.CodeInvalidRequest},
		"form, head digest": {parts: []part{formPart("document", "a", "deed")}, header: []string{"Content-Digest", contentDigest("deed")}, want: calpe.CodeInvalidRequest},
		"truncated form":    {raw: bytes.NewReader(certified[:len(certified)-20]), header: []string{"Content-Type", certifiedType}, want: calpe.CodeInvalidRequest},
		"no boundary":       {raw: strings.NewReader("x"), header: []string{"Content-Type", "multipart/form-data"}, want: calpe.CodeInvalidRequest},
		"other multipart":   {raw: strings.NewReader("x"), header: []string{"Content-Type", "multipart/mixed; boundary=x"}, want: calpe.CodeUnsupportedMedia},
		"wrong digest":      {raw: strings.NewReader("deed"), header: []string{"Content-Digest", contentDigest("dead")}, want: calpe.CodeDigestMismatch},
		"unreadable digest": {raw: strings.NewReader("deed"), header: []string{"Repr-Digest", "sha-256=:AAAA:"}, want: calpe.CodeInvalidRequest},
		"bad disposition":   {raw: strings.NewReader("deed"), header: []string{"Content-Disposition", `attachment; filename="`}, want: calpe.CodeInvalidRequest},
		"control in name":   {raw: strings.NewReader("deed"), header: []string{"Content-Disposition", `attachment; filename*=UTF-8''a%0Ab`}, want: calpe.CodeInvalidRequest},
		"too large":         {raw: bytes.NewReader(make([]byte, 2<<20)), want: calpe.CodeTooLarge},
		"larger than said":  {raw: io.MultiReader(bytes.NewReader(make([]byte, 2<<20))), want: calpe.CodeTooLarge},
		"broken off":        {raw: io.MultiReader(strings.NewReader("de"), failing{io.ErrUnexpectedEOF}), want: calpe.CodeInvalidRequest},
		"silent":            {raw: io.MultiReader(strings.NewReader("de"), failing{os.ErrDeadlineExceeded}), want: calpe.CodeSlowClient},
		"key with space":    {raw: strings.NewReader("deed"), header: []string{"Idempotency-Key", "a b"}, want: calpe.CodeInvalidRequest},
		"long key":          {raw: strings.NewReader("deed"), header: []string{"Idempotency-Key", long}, want: calpe.CodeInvalidRequest},
		"two keys":          {raw: strings.NewReader("deed"), header: []string{"Idempotency-Key", "a", "Idempotency-Key", "b"}, want: calpe.CodeInvalidRequest},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			body, header := c.raw, c.header
			if c.parts != nil {
				b, contentType := form(t, c.parts...)
				body, header = bytes.NewReader(b), append(header, "Content-Type", contentType)
			}
			a := w.as("calpe_alice", "POST", "/v1/documents", body, header...)
			if got := a.code(t); got != string(c.want) {
				t.Errorf("code %s, want %s: %s", got, c.want, a.body)
			}
			if len(w.uploads) != 0 {
				t.Errorf("an upload was kept: %+v", w.uploads)
			}
		})
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

// trickle gives a byte a read, and lets a second pass before each.
type trickle struct{ w *world }

func (s trickle) Read(b []byte) (int, error) {
	s.w.now = s.w.now.Add(time.Second)
	return copy(b[:1], "x"), nil
}

func TestUploadTooSlow(t *testing.T) {
	w := newWorld(t)
	a := w.as("calpe_alice", "POST", "/v1/documents", trickle{w})
	if got := a.code(t); got != string(calpe.CodeSlowClient) || len(w.uploads) != 0 {
		t.Errorf("code %s with %d uploads, want %s and none", got, len(w.uploads), calpe.CodeSlowClient)
	}
}

func TestIntakeErrorsPassWithTheirCode(t *testing.T) {
	w := newWorld(t)
	w.uploadErr = fmt.Errorf("wrapped: %w", &calpe.Error{Code: calpe.CodeIntakeStopped, Message: "Stopped.", Err: errors.New("secret cause")})
	a := w.as("calpe_alice", "POST", "/v1/documents", strings.NewReader("deed"))
	if a.code(t) != string(calpe.CodeIntakeStopped) || a.status != 503 || a.header.Get("Retry-After") == "" {
		t.Errorf("status %d, Retry-After %q: %s", a.status, a.header.Get("Retry-After"), a.body)
	}
	if bytes.Contains(a.body, []byte("secret")) || !strings.Contains(w.logs.String(), "secret cause") {
		t.Error("the cause must be in the log, and only there")
	}
	for _, cause := range []error{io.ErrUnexpectedEOF, os.ErrDeadlineExceeded} { // of a connection to the database, not of the body
		w.uploadErr = &calpe.Error{Code: calpe.CodeUnavailable, Message: "Not now.", Err: fmt.Errorf("read agency: %w", cause)}
		if a := w.as("calpe_alice", "POST", "/v1/documents", strings.NewReader("deed")); a.code(t) != string(calpe.CodeUnavailable) {
			t.Errorf("an unavailable database (%v) became %s", cause, a.body)
		}
	}
	w.uploadErr = errors.New("disk /dev/sda1 is on fire")
	if a := w.as("calpe_alice", "POST", "/v1/documents", strings.NewReader("deed")); a.code(t) != "internal" || bytes.Contains(a.body, []byte("sda1")) {
		t.Errorf("an unknown error became %s", a.body)
	}
}

func TestTokens(t *testing.T) {
	w := newWorld(t)
	w.token("calpe_reader", "bob", "documents")
	w.token("calpe_gone", "carol", "documents")
	gone := w.tokens[api.HashToken("calpe_gone")]
	gone.Revoked = w.now
	w.tokens[gone.Hash] = gone
	for name, c := range map[string]struct {
		header []string
		want   calpe.Code
	}{
		"none":        {nil, calpe.CodeUnauthorized},
		"basic":       {[]string{"Authorization", "Basic calpe_alice"}, calpe.CodeUnauthorized},
		"unknown":     {[]string{"Authorization", "Bearer calpe_mallory"}, calpe.CodeUnauthorized},
		"no prefix":   {[]string{"Authorization", "Bearer alice"}, calpe.CodeUnauthorized},
		"endless":     {[]string{"Authorization", "Bearer calpe_" + strings.Repeat("x", 200)}, calpe.CodeUnauthorized},
		"revoked":     {[]string{"Authorization", "Bearer calpe_gone"}, calpe.CodeUnauthorized},
		"wrong scope": {[]string{"Authorization", "Bearer calpe_reader"}, calpe.CodeForbidden},
	} {
		a := w.do("POST", "/v1/commitments", strings.NewReader(`{}`), c.header...)
		if got := a.code(t); got != string(c.want) {
			t.Errorf("%s: code %s, want %s", name, got, c.want)
		}
		if c.want == calpe.CodeUnauthorized && a.header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: no WWW-Authenticate", name)
		}
	}
	w.down = errors.New("database is down")
	if got := w.as("calpe_alice", "POST", "/v1/commitments", strings.NewReader(`{}`)).code(t); got != string(calpe.CodeUnavailable) {
		t.Errorf("without a database: code %s", got)
	}
}

func TestDocumentIsItsOwners(t *testing.T) {
	w := newWorld(t)
	w.token("calpe_bob", "bob", "documents")
	a := w.as("calpe_alice", "POST", "/v1/documents", strings.NewReader("deed"))
	at := a.header.Get("Location")
	for _, path := range []string{at, at + "/receipt", at + "/content", "/v1/documents/nonsense"} {
		if got := w.as("calpe_bob", "GET", path, nil).code(t); got != string(calpe.CodeNotFound) {
			t.Errorf("GET %s by another owner: %s", path, got)
		}
	}
	if got := w.as("calpe_alice", "GET", at, nil); got.status != 200 || !bytes.Contains(got.body, []byte(`"state":"received"`)) {
		t.Errorf("GET %s: %d %s", at, got.status, got.body)
	}
}

func TestReceiptFollowsTheState(t *testing.T) {
	w := newWorld(t)
	at := w.as("calpe_alice", "POST", "/v1/documents", strings.NewReader("deed")).header.Get("Location")
	read := func() receipt.Receipt {
		t.Helper()
		a := w.as("calpe_alice", "GET", at+"/receipt", nil)
		r, err := receipt.Decode(a.body)
		if a.status != 200 || err != nil {
			t.Fatalf("receipt: %d %v %s", a.status, err, a.body)
		}
		return r
	}
	if r := read(); r.Acknowledgement == nil || r.Checkpoint != "" {
		t.Errorf("received: %+v", r)
	}
	w.seal()
	r := read()
	if r.Acknowledgement != nil || r.Checkpoint == "" {
		t.Errorf("checkpointed: %+v", r)
	}
	report := receipt.Verify(receipt.Input{Digest: calpe.Digest(sha256.Sum256([]byte("deed"))), Receipt: r, Identity: &w.identity})
	if report.InLog.Status != receipt.Holds {
		t.Errorf("the receipt doesn't verify: %+v", report.InLog)
	}
}

func TestContentRanges(t *testing.T) {
	w := newWorld(t)
	at := w.as("calpe_alice", "POST", "/v1/documents", strings.NewReader("0123456789"), "Content-Type", "text/html",
		"Content-Disposition", `attachment; filename="a.html"`).header.Get("Location") + "/content"
	const problem = "a problem"
	for spec, want := range map[string]struct {
		status int
		body   string
		rng    string
	}{
		"":                            {200, "0123456789", ""},
		"bytes=2-4":                   {206, "234", "bytes 2-4/10"},
		"bytes=7-":                    {206, "789", "bytes 7-9/10"},
		"bytes=-3":                    {206, "789", "bytes 7-9/10"},
		"bytes=-30":                   {206, "0123456789", "bytes 0-9/10"},
		"bytes=8-99":                  {206, "89", "bytes 8-9/10"},
		"bytes=10-":                   {416, problem, "bytes */10"},
		"bytes=4-2":                   {200, "0123456789", ""},
		"bytes=0-1,4-5":               {200, "0123456789", ""},
		"lines=1-2":                   {200, "0123456789", ""},
		"bytes=-0":                    {200, "0123456789", ""},
		"bytes=99999999999999999999-": {200, "0123456789", ""},
	} {
		a := w.as("calpe_alice", "GET", at, nil, "Range", spec)
		if want.body == problem {
			if got := a.code(t); got != string(calpe.CodeRange) {
				t.Errorf("Range %q: code %s", spec, got)
			}
			want.body = string(a.body)
		}
		if a.status != want.status || string(a.body) != want.body || a.header.Get("Content-Range") != want.rng {
			t.Errorf("Range %q: %d %q %q, want %+v", spec, a.status, a.body, a.header.Get("Content-Range"), want)
		}
		if want.status != 416 && !strings.HasPrefix(a.header.Get("Content-Disposition"), "attachment") {
			t.Errorf("Range %q: uploaded HTML isn't sent as an attachment", spec)
		}
	}
}

func TestCommitments(t *testing.T) {
	w := newWorld(t)
	c := calpe.Commitment{1, 2, 3}
	a := w.as("calpe_alice", "POST", "/v1/commitments", strings.NewReader(`{"commitment":"`+c.String()+`"}`))
	if a.status != 201 || w.entries[1].Commitment != c || a.header.Get("Location") != "/v1/entries/1" {
		t.Fatalf("%d %s", a.status, a.body)
	}
	for body, want := range map[string]calpe.Code{
		``:                                      calpe.CodeInvalidRequest,
		`{"commitment":"00"}`:                   calpe.CodeInvalidRequest,
		`{"commitment":5}`:                      calpe.CodeInvalidRequest,
		`{"digest":"` + c.String() + `"}`:       calpe.CodeInvalidRequest,
		`{"commitment":"` + c.String() + `"} x`: calpe.CodeInvalidRequest,
		`{"commitment":"` + calpe.VoidCommitment.String() + `"}`: calpe.CodeInvalidRequest,
		`{"x":"` + strings.Repeat("x", 5000) + `"}`:              calpe.CodeTooLarge,
	} {
		if got := w.as("calpe_alice", "POST", "/v1/commitments", strings.NewReader(body)).code(t); got != string(want) {
			t.Errorf("body %.40q: code %s, want %s", body, got, want)
		}
	}
}

func TestEntries(t *testing.T) {
	w := newWorld(t)
	w.add(calpe.Commitment{1})
	var e struct {
		Index      uint64
		Commitment calpe.Commitment
		State      calpe.State
		Checkpoint string
		Path       receipt.Path
	}
	get := func(path string) answer {
		a := w.do("GET", path, nil)
		e.Checkpoint, e.Path = "", nil
		if a.status == 200 {
			if err := json.Unmarshal(a.body, &e); err != nil {
				t.Fatal(err)
			}
		}
		return a
	}
	if get("/v1/entries/1"); e.State != calpe.Received || e.Checkpoint != "" {
		t.Errorf("without a checkpoint: %+v", e)
	}
	w.seal()
	w.add(calpe.Commitment{2})
	get("/v1/entries/1")
	cp, err := receipt.OpenCheckpoint([]byte(e.Checkpoint), w.identity)
	if err != nil || e.State != calpe.Checkpointed {
		t.Fatalf("%+v: %v", e, err)
	}
	b := w.entries[1].Bytes()
	if err := merkle.VerifyInclusion(1, cp.Size, merkle.LeafHash(b[:]), e.Path, cp.Root); err != nil {
		t.Error(err)
	}
	if a := get("/v1/entries/1?size=2"); a.status != 200 || e.Checkpoint == "" {
		t.Errorf("in the checkpoint of size 2: %d %s", a.status, a.body)
	}
	for path, want := range map[string]calpe.Code{
		"/v1/entries/3":                    calpe.CodeNotFound,
		"/v1/entries/01":                   calpe.CodeInvalidRequest,
		"/v1/entries/-1":                   calpe.CodeInvalidRequest,
		"/v1/entries/1?size=1":             calpe.CodeInvalidRequest,
		"/v1/entries/1?size=x":             calpe.CodeInvalidRequest,
		"/v1/entries/1?size=999":           calpe.CodeNotFound,
		"/v1/entries/99999999999999999999": calpe.CodeInvalidRequest,
	} {
		if got := w.do("GET", path, nil).code(t); got != string(want) {
			t.Errorf("GET %s: code %s, want %s", path, got, want)
		}
	}
}

// A database that was restored from an older copy knows its anchors from the
// chain, but has no row of their checkpoints.
func TestAnchorWithoutItsCheckpointRow(t *testing.T) {
	w := newWorld(t)
	w.add(calpe.Commitment{1})
	w.seal()
	w.anchor = &calpe.Anchor{Payload: calpe.Payload{Size: 2, Root: w.head.Root}, Height: 100}
	w.add(calpe.Commitment{2})
	w.seal() // the only row
	for _, path := range []string{"/v1/entries/1", "/v1/entries/1?size=2"} {
		var e struct {
			Checkpoint string
			Anchor     *receipt.Anchor
		}
		a := w.do("GET", path, nil)
		if err := json.Unmarshal(a.body, &e); err != nil || a.status != 200 {
			t.Fatalf("GET %s: %d %s", path, a.status, a.body)
		}
		cp, err := receipt.OpenCheckpoint([]byte(e.Checkpoint), w.identity)
		if err != nil || cp.Size != 2 || e.Anchor == nil || e.Anchor.Height != 100 {
			t.Errorf("GET %s: checkpoint of size %d, anchor %+v, %v", path, cp.Size, e.Anchor, err)
		}
	}
	w.anchor.Root[0]++
	if got := w.do("GET", "/v1/entries/1", nil).code(t); got != string(calpe.CodeUnavailable) {
		t.Errorf("an anchor of another root than the published checkpoint: code %s", got)
	}
	delete(w.published, 2)
	if got := w.do("GET", "/v1/entries/1", nil).code(t); got != string(calpe.CodeUnavailable) {
		t.Errorf("an anchor without a checkpoint: code %s", got)
	}
}

func TestPublicLog(t *testing.T) {
	w := newWorld(t)
	if got := w.do("GET", "/log/checkpoint", nil).code(t); got != string(calpe.CodeNotYet) {
		t.Errorf("checkpoint of an empty log: %s", got)
	}
	if got := w.do("GET", "/log/tile/0/000.p/1", nil).code(t); got != string(calpe.CodeNotFound) {
		t.Errorf("tile that no checkpoint covers: %s", got)
	}
	w.seal()
	if a := w.do("GET", "/log/checkpoint", nil); a.status != 200 || !bytes.Equal(a.body, w.head.Note) {
		t.Errorf("checkpoint: %d %q", a.status, a.body)
	}
	a := w.do("GET", "/log/tile/0/000.p/1", nil)
	if a.status != 200 || len(a.body) != 32 || !strings.Contains(a.header.Get("Cache-Control"), "immutable") {
		t.Errorf("tile: %d, %d bytes, %v", a.status, len(a.body), a.header)
	}
	for _, path := range []string{"/log/tile/0/000.p/2", "/log/tile/0/000", "/log/tile/0/abc", "/log/tile/../checkpoints/x", "/log/tile/entries/000.p/1"} {
		if got := w.do("GET", path, nil).code(t); got != string(calpe.CodeNotFound) {
			t.Errorf("GET %s: %s", path, got)
		}
	}
}

// The chain of anchors is published page by page, in its order.
func TestAnchorPages(t *testing.T) {
	w := newWorld(t)
	for _, path := range []string{"/log/anchors/x000/000", "/log/anchors/x000/001", "/log/anchors/000", "/log/anchors/x000/000/", "/log/anchors/x0/0", "/log/anchors/"} {
		if got := w.do("GET", path, nil).code(t); got != string(calpe.CodeNotFound) {
			t.Errorf("GET %s: %s", path, got)
		}
	}
	chain := batchtest.NewChain(t, 1)
	for i := range uint64(receipt.AnchorsPerPage + 3) {
		p := calpe.Payload{Size: i + 1}
		chain.Mine(batchtest.AnchorTx(p, 1000, calpe.Outpoint{Vout: uint32(i)}))
		w.anchors = append(w.anchors, chain.Anchor(chain.Tip(), 1, p))
	}
	for page, want := range map[string][]calpe.Anchor{
		"/log/anchors/x000/000": w.anchors[:receipt.AnchorsPerPage],
		"/log/anchors/x000/001": w.anchors[receipt.AnchorsPerPage:],
	} {
		a := w.do("GET", page, nil)
		got, err := receipt.DecodeAnchors(a.body)
		if a.status != 200 || err != nil || len(got) != len(want) || a.header.Get("Content-Type") != receipt.AnchorsMediaType || strings.Contains(a.header.Get("Cache-Control"), "immutable") {
			t.Fatalf("GET %s: %d, %d anchors, %v, %v", page, a.status, len(got), err, a.header)
		}
		for i, a := range want {
			if link, err := got[i].Link(); err != nil || link.TxID != a.TxID || *link.Payload != a.Payload {
				t.Errorf("GET %s: anchor %d is %+v, %v", page, i, link, err)
			}
		}
	}
	if got := w.do("GET", "/log/anchors/x000/002", nil).code(t); got != string(calpe.CodeNotFound) {
		t.Errorf("behind the last page: %s", got)
	}
}

// The breaks of the chain are published beside the pages.
func TestBreaks(t *testing.T) {
	w := newWorld(t)
	if got := w.do("GET", "/log/anchors/breaks", nil).code(t); got != string(calpe.CodeNotFound) {
		t.Errorf("without a break: %s", got)
	}
	chain := batchtest.NewChain(t, 1)
	chain.Mine(batchtest.AnchorTx(calpe.Payload{Size: 1}, 1000, calpe.Outpoint{}))
	signed, err := statement.Sign(batchtest.Key(t, "anybody"), statement.Break{Coin: calpe.Outpoint{Vout: 1}, Reason: "r", Time: time.Unix(1e9, 0)})
	if err != nil {
		t.Fatal(err)
	}
	w.breaks = []calpe.ChainBreak{{After: 3, Spend: chain.Anchor(1, 1, calpe.Payload{}), Statement: calpe.Statement{Index: 9, Body: signed.Bytes()}}}
	a := w.do("GET", "/log/anchors/breaks", nil)
	list, err := receipt.DecodeBreaks(a.body)
	if a.status != 200 || err != nil || len(list) != 1 || list[0].After != 3 || list[0].Index != 9 || list[0].Statement.Digest() != signed.Digest() ||
		a.header.Get("Content-Type") != receipt.AnchorsMediaType || strings.Contains(a.header.Get("Cache-Control"), "immutable") {
		t.Errorf("%d %s, %v, %v", a.status, a.body, err, a.header)
	}
}

func TestHealth(t *testing.T) {
	w := newWorld(t)
	if a := w.do("GET", "/readyz", nil); a.status != 200 {
		t.Errorf("readyz: %d %s", a.status, a.body)
	}
	w.down = errors.New("connection to 10.0.0.7 refused")
	a := w.do("GET", "/readyz", nil)
	if want := `{"status":"down","checks":{"postgres":"down","s3":"ok"}}` + "\n"; a.status != 503 || string(a.body) != want {
		t.Errorf("readyz: %d %s, want %s", a.status, a.body, want)
	}
	if a := w.do("GET", "/livez", nil); a.status != 200 {
		t.Errorf("livez: %d: it must not depend on anything", a.status)
	}
	if got := w.do("GET", "/v1/status", nil).code(t); got != string(calpe.CodeUnavailable) {
		t.Errorf("status without a database: %s", got)
	}
}

// What a dependency does at each start is no warning, unless it takes long or
// comes when it has worked.
func TestStartingIsNoWarning(t *testing.T) {
	w := newWorld(t)
	var log bytes.Buffer
	starting := fmt.Errorf("%w: comparing", api.ErrStarting)
	failure := starting
	w.config.Logger = slog.New(slog.NewTextHandler(&log, nil))
	w.config.Ready = []api.Dependency{{Name: "intake", Check: func(context.Context) error { return failure }}}
	start := w.now
	for _, step := range []struct {
		what  string
		after time.Duration
		err   error
		want  string
	}{
		{"at the start", 0, starting, "level=INFO msg=\"dependency is starting\""},
		{"broken at the start", 0, errors.New("halted"), "level=WARN msg=\"dependency is down\""},
		{"still at it", 59 * time.Second, starting, "level=INFO msg=\"dependency is starting\""},
		{"too long", time.Minute, starting, "level=WARN msg=\"dependency is down\""},
		{"again at the start", 0, starting, "level=INFO msg=\"dependency is starting\""},
		{"it works", 0, nil, ""},
		{"it had worked", time.Second, starting, "level=WARN msg=\"dependency is down\""},
	} {
		if step.what == "at the start" {
			w.serve()
		}
		log.Reset()
		w.now, failure = start.Add(step.after), step.err
		a := w.do("GET", "/readyz", nil)
		if want := map[bool]int{true: 200, false: 503}[step.err == nil]; a.status != want {
			t.Errorf("%s: %d, want %d", step.what, a.status, want)
		}
		if got := log.String(); !strings.Contains(got, step.want) || step.want == "" && got != "" {
			t.Errorf("%s: the log says %q, want %q", step.what, got, step.want)
		}
	}
}

func TestIdentityAndUnknownRoutes(t *testing.T) {
	w := newWorld(t)
	a := w.do("GET", "/v1/identity", nil)
	if id, err := receipt.ParseIdentity(a.body); err != nil || id.Hash() != w.identity.Hash() {
		t.Errorf("identity: %v %s", err, a.body)
	}
	if got := w.do("GET", "/nowhere", nil).code(t); got != string(calpe.CodeNotFound) {
		t.Errorf("unknown route: %s", got)
	}
	a = w.do("DELETE", "/v1/status", nil)
	if got := a.code(t); got != string(calpe.CodeMethodNotAllowed) || a.header.Get("Allow") != "GET, HEAD" {
		t.Errorf("DELETE: %s, Allow %q", got, a.header.Get("Allow"))
	}
	for _, h := range []string{"X-Content-Type-Options", "Content-Security-Policy", "Referrer-Policy"} {
		if a.header.Get(h) == "" {
			t.Errorf("no %s", h)
		}
	}
}

// panicking stands in for a defect in a dependency.
type panicking struct{ *world }

func (panicking) Watermarks(context.Context) (calpe.Watermarks, error) { panic("nil map") }

func TestPanicIsOneRequestsTrouble(t *testing.T) {
	w := newWorld(t)
	w.config.Watermarks = panicking{w}
	w.serve()
	a := w.do("GET", "/v1/status", nil)
	if a.code(t) != string(calpe.CodeInternal) || bytes.Contains(a.body, []byte("nil map")) || !strings.Contains(w.logs.String(), "nil map") {
		t.Errorf("%d %s", a.status, a.body)
	}
}

func TestNewRefusesIncompleteConfig(t *testing.T) {
	if _, err := api.New(api.Config{}); err == nil {
		t.Error("New took an empty Config")
	}
	w := newWorld(t)
	for name, spoil := range map[string]func(*api.Config){
		"an identity without keys": func(c *api.Config) { c.Identity = receipt.Identity{} },
		"no catalog":               func(c *api.Config) { c.Catalog = nil },
		"no documents at all":      func(c *api.Config) { c.MaxDocument = 0 },
	} {
		cfg := w.config
		spoil(&cfg)
		if _, err := api.New(cfg); err == nil {
			t.Errorf("New took %s", name)
		}
	}
}

// No secret of a request may be in a log line.
func TestLogHasNoSecrets(t *testing.T) {
	w := newWorld(t)
	w.as("calpe_mallory", "POST", "/v1/documents?token=hidden", strings.NewReader("deed"), "Idempotency-Key", "private")
	w.as("calpe_alice", "GET", "/v1/documents/4f8b5d3e-0000-4000-8000-000000000000", nil)
	for _, secret := range []string{"mallory", "hidden", "private", "4f8b5d3e"} {
		if strings.Contains(w.logs.String(), secret) {
			t.Errorf("the log holds %q:\n%s", secret, w.logs)
		}
	}
	if !strings.Contains(w.logs.String(), "/v1/documents/{id}") {
		t.Errorf("the log doesn't name the route:\n%s", w.logs)
	}
}

// docs/errors.md is what clients are written from.
func TestErrorsPage(t *testing.T) {
	page, err := os.ReadFile("../docs/errors.md")
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]int{}
	for _, row := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\| ([0-9]+) \\|").FindAllStringSubmatch(string(page), -1) {
		got[row[1]], _ = strconv.Atoi(row[2])
	}
	if diff := cmp.Diff(api.AnswerOf(), got); diff != "" {
		t.Errorf("docs/errors.md differs from the code (-code +page):\n%s", diff)
	}
}

func TestParseContentDigest(t *testing.T) {
	good := contentDigest("x")
	for header, want := range map[string]string{
		"":                       "none",
		"md5=:AAAA:":             "none",
		good:                     "found",
		"md5=:AAAA:, " + good:    "found",
		good + ";p=1":            "found",
		"sha-256=" + good[9:20]:  "error",
		"sha-256=AAAA":           "error",
		"sha-256=" + good[9:]:    "error",
		"sha-256=:AAAA:," + good: "error",
		"SHA-256" + good[7:]:     "none", // RFC 9651: keys are lower case
	} {
		d, err := api.ParseContentDigest([]string{header})
		got := "none"
		if err != nil {
			got = "error"
		} else if d != nil {
			got = "found"
		}
		if got != want {
			t.Errorf("%q: %s, want %s (%v)", header, got, want, err)
		}
	}
}

func TestTileEnd(t *testing.T) {
	for path, want := range map[string]uint64{
		"tile/0/000": 256, "tile/0/001.p/3": 259, "tile/1/000": 65536, "tile/1/000.p/2": 512, "tile/entries/002.p/1": 513,
	} {
		if got, err := api.TileEnd(path); err != nil || got != want {
			t.Errorf("TileEnd(%q) = %d, %v; want %d", path, got, err, want)
		}
	}
	for _, path := range []string{"tile/9/000", "tile/0/x999/x999/x999/x999/999", "tile/0/1", "checkpoint"} {
		if got, err := api.TileEnd(path); err == nil {
			t.Errorf("TileEnd(%q) = %d", path, got)
		}
	}
}

func FuzzReadForm(f *testing.F) {
	f.Add("--b\r\nContent-Disposition: form-data; name=\"document\"; filename=\"a\"\r\n\r\ndeed\r\n--b--\r\n")
	f.Add("--b\r\nContent-Disposition: form-data; name=\"certification\"\r\n\r\n{}\r\n--b--\r\n")
	f.Fuzz(func(t *testing.T, body string) {
		u, err := api.ReadForm(multipart.NewReader(strings.NewReader(body), "b"))
		if err == nil {
			_, err = io.Copy(io.Discard, u.Body)
		}
		if err != nil && calpe.ErrorCode(err) == calpe.CodeInternal {
			t.Errorf("a form became an internal error: %v", err)
		}
	})
}

func FuzzParseRange(f *testing.F) {
	f.Add("bytes=0-1", int64(10))
	f.Add("bytes=-5", int64(3))
	f.Fuzz(func(t *testing.T, header string, size int64) {
		if size < 1 {
			return
		}
		offset, length, partial := api.ParseRange(header, size)
		if !partial && (offset != 0 || length != size) || offset < 0 || length < 0 || offset < size && offset+length > size {
			t.Errorf("ParseRange(%q, %d) = %d, %d, %v", header, size, offset, length, partial)
		}
	})
}

func FuzzParseContentDigest(f *testing.F) {
	f.Add(contentDigest("x"))
	f.Fuzz(func(t *testing.T, header string) {
		if _, err := api.ParseContentDigest([]string{header}); err != nil && calpe.ErrorCode(err) != calpe.CodeInvalidRequest {
			t.Errorf("%q: %v", header, err)
		}
	})
}
