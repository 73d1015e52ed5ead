package integration

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/jackc/pgx/v5"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/internal/porttest"
	"github.com/calpe/calpe/receipt/statement"
)

const smallMaxSize = 20 << 20 // more than one part in object storage

// refusals is a server that is asked for what it must not do.
type refusals struct {
	*server
	conn   *pgx.Conn
	before footprint
}

// wants sends a request and compares the answer. Whatever it is, nothing may be
// left of the request.
func (r *refusals) wants(name string, status int, code calpe.Code, request *http.Request) {
	t := r.d.t
	t.Helper()
	got, _, p := r.d.problem(request)
	if got != status || p.Code != string(code) {
		t.Errorf("%s: %d %s (%s), want %d %s", name, got, p.Code, p.Detail, status, code)
	}
	r.leavesNothing(name)
}

func (r *refusals) leavesNothing(name string) {
	r.d.t.Helper()
	eventually(r.d.t, name+": nothing is left", func(context.Context) error {
		if diff := cmp.Diff(r.before, r.d.footprint(r.conn), cmp.AllowUnexported(footprint{})); diff != "" {
			return errors.New(diff)
		}
		return nil
	})
}

// post makes a request with the usual token. Headers come in pairs.
func (r *refusals) post(path string, body io.Reader, header ...string) *http.Request {
	r.d.t.Helper()
	request, err := http.NewRequestWithContext(r.d.t.Context(), http.MethodPost, r.url+path, body)
	if err != nil {
		r.d.t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+r.d.token)
	request.Header.Set("Content-Type", "application/octet-stream")
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	return request
}

// form makes a request with a form. A nil part isn't in it.
func (r *refusals) form(certification, document []byte) *http.Request {
	r.d.t.Helper()
	mediaType, body, err := form(certification, document)
	if err != nil {
		r.d.t.Fatal(err)
	}
	return r.post("/v1/documents", bytes.NewReader(body), "Content-Type", mediaType)
}

// TestBadRequests: whatever is wrong with a request is answered with a problem
// that has a code, and nothing of it is left in rows or objects.
func TestBadRequests(t *testing.T) {
	d := deploy(t)
	own := map[string]string{"CALPE_DOCUMENT_MAX_SIZE": fmt.Sprint(smallMaxSize)}
	s := d.serve(porttest.Address(t), own)
	s.awaitReady()
	taken := s.takes(newRequestOf(documentKind, 1, 1000))
	r := &refusals{server: s, conn: d.connect()}
	r.before = d.footprint(r.conn)
	r.bodies()
	r.forms()
	r.certifications()
	r.commitments()
	r.keysAndTokens(taken)
	s.exitsCleanly()
	own["CALPE_DOCUMENT_IDLE_TIME"] = "2s"
	r.server = d.serve(porttest.Address(t), own)
	r.awaitReady()
	r.connections()
	r.exitsCleanly()
}

func digestOf(text string) string {
	sum := sha256.Sum256([]byte(text))
	return "sha-256=:" + base64.StdEncoding.EncodeToString(sum[:]) + ":"
}

func (r *refusals) bodies() {
	r.d.t.Helper()
	const path = "/v1/documents"
	large := newRequestOf(documentKind, 2, smallMaxSize+10_000).content()
	text := strings.NewReader
	r.wants("wrong Content-Digest", 400, calpe.CodeDigestMismatch, r.post(path, text("deed"), "Content-Digest", digestOf("other")))
	r.wants("wrong Content-Digest of many parts", 400, calpe.CodeDigestMismatch,
		r.post(path, bytes.NewReader(large[:17<<20]), "Content-Digest", digestOf("other")))
	r.wants("Content-Digest that isn't one", 400, calpe.CodeInvalidRequest, r.post(path, text("deed"), "Content-Digest", "sha-256=deed"))
	r.wants("empty document", 400, calpe.CodeEmptyDocument, r.post(path, text("")))
	r.wants("oversized by its header", 413, calpe.CodeTooLarge, r.post(path, bytes.NewReader(make([]byte, 30<<20)), "Expect", "100-continue"))
	r.wants("oversized, which shows late", 413, calpe.CodeTooLarge, r.post(path, io.MultiReader(bytes.NewReader(large))))
	r.wants("another multipart type", 415, calpe.CodeUnsupportedMedia, r.post(path, text("x"), "Content-Type", "multipart/mixed; boundary=b"))
	r.wants("a name with control characters", 400, calpe.CodeInvalidRequest,
		r.post(path, text("deed"), "Content-Disposition", "attachment; filename*=UTF-8''a%0Ab"))
}

func (r *refusals) forms() {
	t := r.d.t
	t.Helper()
	mediaType, whole, err := form(nil, []byte("a deed"))
	if err != nil {
		t.Fatal(err)
	}
	boundary := strings.TrimPrefix(mediaType, "multipart/form-data; boundary=")
	raw := func(body string) *http.Request {
		return r.post("/v1/documents", strings.NewReader(body), "Content-Type", mediaType)
	}
	part := func(name, header, body string) string {
		return "--" + boundary + "\r\nContent-Disposition: form-data; name=\"" + name + "\"\r\n" + header + "\r\n" + body + "\r\n"
	}
	end := "--" + boundary + "--\r\n"
	for _, c := range []struct {
		name, body string
		code       calpe.Code
	}{
		{"form without its end", string(whole[:len(whole)-len(end)-2]), calpe.CodeInvalidRequest},
		{"form that ends in a header", string(whole[:len(boundary)+20]), calpe.CodeInvalidRequest},
		{"form without a document", part("certification", "", "{}") + end, calpe.CodeInvalidRequest},
		{"form with a part behind the document", part("document", "", "deed") + part("document", "", "deed") + end, calpe.CodeInvalidRequest},
		{"form with an unknown part", part("note", "", "x") + part("document", "", "deed") + end, calpe.CodeInvalidRequest},
		{"form with an empty document", part("document", "", "") + end, calpe.CodeEmptyDocument},
		{"wrong Content-Digest of the part", part("document", "Content-Digest: "+digestOf("x")+"\r\n", "deed") + end, calpe.CodeDigestMismatch},
		{"no form at all", "deed", calpe.CodeInvalidRequest},
	} {
		r.wants(c.name, 400, c.code, raw(c.body))
	}
}

func (r *refusals) certifications() {
	t := r.d.t
	t.Helper()
	document := []byte("certificate of birth")
	digest := calpe.Digest(sha256.Sum256(document))
	good := statement.Certification{Agency: testAgency, Digest: digest, DocumentType: "birth certificate", Subject: "1", Issued: "2026-11-01"}
	stranger, err := statement.GenerateKey(rand.Reader, testAgency)
	if err != nil {
		t.Fatal(err)
	}
	sign := func(key statement.Key, change func(*statement.Certification)) []byte {
		c := good
		change(&c)
		signed, err := statement.Sign(key, c)
		if err != nil {
			t.Fatal(err)
		}
		return signed.Bytes()
	}
	agency, err := statement.Sign(r.d.agency, statement.Agency{
		Log: r.d.identity.Hash(), Agency: testAgency, Name: "X", Key: stranger.Verifier(), Time: time.Now(),
	})
	if err != nil {
		t.Fatal(err)
	}
	valid := sign(r.d.agency, func(*statement.Certification) {})
	for _, c := range []struct {
		name          string
		certification []byte
	}{
		{"not JSON", []byte("I hereby certify")},
		{"JSON that is no statement", []byte(`{"type":"calpe/certification/v1"}`)},
		{"cut off", valid[:len(valid)-2]},
		{"changed after it was signed", bytes.Replace(valid, []byte("birth"), []byte("death"), 1)},
		{"signed with a stranger's key", sign(stranger, func(*statement.Certification) {})},
		{"of an agency that isn't registered", sign(r.d.agency, func(c *statement.Certification) { c.Agency = "nobody" })},
		{"of another document", sign(r.d.agency, func(c *statement.Certification) { c.Digest[0] ^= 1 })},
		{"issued in the future", sign(r.d.agency, func(c *statement.Certification) {
			c.Issued = statement.DateOf(time.Now().AddDate(0, 0, 3))
		})},
		{"not valid any more", sign(r.d.agency, func(c *statement.Certification) {
			c.Issued, c.ValidUntil = "2020-01-01", "2021-01-01"
		})},
		{"a statement of another type", agency.Bytes()},
	} {
		r.wants("certification "+c.name, 422, calpe.CodeCertification, r.form(c.certification, document))
	}
	r.wants("certification that is too large", 413, calpe.CodeTooLarge, r.form(bytes.Repeat([]byte(" "), 17<<10), document))
}

func (r *refusals) commitments() {
	r.d.t.Helper()
	good := newRequestOf(stampKind, 5, 0).commitment().String()
	for name, body := range map[string]string{
		"the void commitment":          `{"commitment":"` + calpe.VoidCommitment.String() + `"}`,
		"a short commitment":           `{"commitment":"` + good[:62] + `"}`,
		"upper case":                   `{"commitment":"` + strings.ToUpper(good) + `"}`,
		"an unknown member":            `{"commitment":"` + good + `","digest":"x"}`,
		"something behind":             `{"commitment":"` + good + `"} {}`,
		"no object":                    `"` + good + `"`,
		"nothing":                      ``,
		"an object that isn't closed":  `{"commitment":"` + good + `"`,
		"a list":                       `{"commitment":["` + good + `"]}`,
		"an object without commitment": `{}`,
	} {
		r.wants("commitment: "+name, 400, calpe.CodeInvalidRequest, r.post("/v1/commitments", strings.NewReader(body), "Content-Type", "application/json"))
	}
	r.wants("commitment: too large", 413, calpe.CodeTooLarge, r.post("/v1/commitments", strings.NewReader(strings.Repeat(" ", 5000)), "Content-Type", "application/json"))
	r.wants("commitments: no whole number", 400, calpe.CodeInvalidRequest, r.post("/v1/commitments", strings.NewReader(strings.Repeat(" ", 5000))))
}

func (r *refusals) keysAndTokens(own acknowledged) {
	d, text := r.d, strings.NewReader
	d.t.Helper()
	r.wants("Idempotency-Key with another body", 422, calpe.CodeIdempotencyMismatch,
		r.post("/v1/documents", text("another"), "Idempotency-Key", own.key))
	r.wants("Idempotency-Key with a space", 400, calpe.CodeInvalidRequest, r.post("/v1/documents", text("deed"), "Idempotency-Key", "a b"))
	r.wants("Idempotency-Key that is too long", 400, calpe.CodeInvalidRequest,
		r.post("/v1/documents", text("deed"), "Idempotency-Key", strings.Repeat("k", 256)))

	other := strings.TrimSpace(d.must("token", "create", "--owner", "somebody-else"))
	narrow := strings.TrimSpace(d.must("token", "create", "--owner", "citizen", "--scope", "commitments"))
	revoked := strings.TrimSpace(d.must("token", "create", "--owner", "citizen", "--label", "to be revoked"))
	for line := range strings.Lines(d.must("token", "list")) {
		if strings.Contains(line, "to be revoked") {
			d.must("token", "revoke", strings.Fields(line)[0])
		}
	}
	post := func(authorization string) *http.Request {
		return r.post("/v1/documents", text("deed"), "Authorization", authorization)
	}
	r.wants("no token", 401, calpe.CodeUnauthorized, post(""))
	r.wants("a token that isn't one", 401, calpe.CodeUnauthorized, post("Bearer secret"))
	r.wants("an unknown token", 401, calpe.CodeUnauthorized, post("Bearer "+d.token[:len(d.token)-3]+"AAA"))
	r.wants("a revoked token", 401, calpe.CodeUnauthorized, post("Bearer "+revoked))
	r.wants("another scheme", 401, calpe.CodeUnauthorized, post("Basic "+d.token))
	r.wants("a token without the scope", 403, calpe.CodeForbidden, post("Bearer "+narrow))
	get := func(path, token string) *http.Request {
		request := r.post(path, nil, "Authorization", "Bearer "+token)
		request.Method = http.MethodGet
		return request
	}
	for _, path := range []string{"", "/receipt", "/content"} {
		path = "/v1/documents/" + own.id + path
		r.wants("somebody else's "+path, 404, calpe.CodeNotFound, get(path, other))
		r.wants("without the scope "+path, 403, calpe.CodeForbidden, get(path, narrow))
	}
	r.wants("an unknown document", 404, calpe.CodeNotFound, get("/v1/documents/00000000-0000-4000-8000-000000000000", d.token))
	r.wants("a document id that isn't one", 404, calpe.CodeNotFound, get("/v1/documents/deed", d.token))
	r.wants("an unknown route", 404, calpe.CodeNotFound, get("/v2/documents", d.token))
	r.wants("an entry above the log", 404, calpe.CodeNotFound, get("/v1/entries/4000000", d.token))
	r.wants("an index that isn't one", 400, calpe.CodeInvalidRequest, get("/v1/entries/first", d.token))
	r.wants("another method", 405, calpe.CodeMethodNotAllowed, get("/v1/uploads", d.token))
	if status, _, err := d.get(d.t.Context(), r.url+"/v1/documents/"+own.id, d.token); status != http.StatusOK || err != nil {
		d.t.Errorf("the owner reads the document: %d %v", status, err)
	}
}

// connections that break off, or bring nothing for too long.
func (r *refusals) connections() {
	t := r.d.t
	t.Helper()
	const head = "POST /v1/documents HTTP/1.1\r\nHost: calpe\r\nContent-Type: application/octet-stream\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n"
	dial := func(length int, body []byte) *net.TCPConn {
		conn, err := new(net.Dialer).DialContext(t.Context(), "tcp", strings.TrimPrefix(r.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if _, err := fmt.Fprintf(conn, head, r.d.token, length); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(body); err != nil {
			t.Fatal(err)
		}
		return conn.(*net.TCPConn)
	}
	answered := func(name string, conn *net.TCPConn, status int, code calpe.Code) {
		t.Helper()
		if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		defer answer.Body.Close()
		var p problemAnswer
		if err := json.NewDecoder(answer.Body).Decode(&p); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if answer.StatusCode != status || p.Code != string(code) {
			t.Errorf("%s: %d %s, want %d %s", name, answer.StatusCode, p.Code, status, code)
		}
		r.leavesNothing(name)
	}

	cut := dial(1000, make([]byte, 500))
	if err := cut.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	answered("a body that ends too early", cut, 400, calpe.CodeInvalidRequest)
	answered("a client that says nothing more", dial(1000, make([]byte, 500)), 408, calpe.CodeSlowClient)
	answered("a client that says nothing more behind a whole part", dial(19<<20, make([]byte, 18<<20)), 408, calpe.CodeSlowClient)

	gone := dial(19<<20, make([]byte, 18<<20))
	if err := gone.Close(); err != nil {
		t.Fatal(err)
	}
	r.leavesNothing("a client that is gone")
}
