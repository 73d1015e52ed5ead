package api_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/api"
)

// walk sends requests of every operation of openapi.json, and holds each answer
// against what is described.
type walk struct {
	t    *testing.T
	w    *findWorld
	d    *openAPI
	rng  *rand.Rand
	good map[string][]string       // by the name of a parameter: values that the deployment has
	seen map[string]map[string]int // by operation and status
	sent int
	stop func()
}

// hidden stands in every cause of a failure, and may be in no answer.
const hidden = "dial tcp 10.0.0.7:5432: connection refused"

// attempt is one request.
type attempt struct {
	path, method string // in openapi.json
	op           *apiOperation
	target       string // as on the request line
	header       http.Header
	body         io.Reader
	doubt        []string // what of it isn't as it must be, or may not be
	wrong        string   // a parameter of the path or the query that doesn't fit its schema
}

func (a attempt) String() string {
	return fmt.Sprintf("%s %.200q %v (in doubt: %q)", a.method, a.target, a.header, a.doubt)
}

// TestAPIWalk walks every operation with valid and invalid input: parameters,
// headers, bodies and tokens from the schemas, near them and far from them. No
// answer may be a 500, or one that isn't described, and a request that is as
// described must succeed. All of it follows from the seed.
func TestAPIWalk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // the bubble's clock makes streams of half an hour short
		k := newWalk(t)
		k.start(func(*api.Config) {})
		k.each(180)
		k.whileDown(60)
		k.whileRefusing(12)
		k.whileCrowded(8)
		k.whileEmpty(8)
		k.otherMethods()
		k.stop()
		k.wantAllSeen()
		t.Logf("%d requests", k.sent)
	})
}

// newWalk makes a deployment that has something in every state.
func newWalk(t *testing.T) *walk {
	w := newFindWorld(t)
	k := &walk{
		t: t, w: w, d: readOpenAPI(t, w.world), rng: rand.New(rand.NewPCG(3, 141)), good: map[string][]string{},
		seen: map[string]map[string]int{}, stop: func() {},
	}
	w.token("calpe_documents", "alice", "documents")
	w.token("calpe_commitments", "alice", "commitments")
	w.token("calpe_bob", "bob", "documents", "commitments")
	digest := sha256.Sum256([]byte("deed 0"))
	for i, height := range []uint32{100, 101, 0, 0} {
		w.keep(fmt.Sprint("deed ", i), calpe.FindCode{}, "registry")
		at := w.upload(fmt.Sprint("deed ", i), fmt.Sprintf("deed %d.pdf", i))
		k.good["id"] = append(k.good["id"], at[len("/v1/documents/"):])
		if i < 3 {
			w.seal()
		}
		if height > 0 {
			k.good["txid"] = append(k.good["txid"], w.mine(height, height == 100).TxID.String())
		}
	}
	w.keep("with a code", testCode, "")
	for index := range w.head.Size {
		k.good["index"] = append(k.good["index"], strconv.FormatUint(index, 10))
	}
	maps.Copy(k.good, map[string][]string{
		"size": {strconv.FormatUint(w.head.Size, 10)}, "path": {"0/000.p/1"}, "page": {"x000/000"}, "code": {testCode.String(), strings.ToLower(testCode.String())},
		"digest": {fmt.Sprintf("%x", digest)}, "state": {"received", "checkpointed", "broadcast", "confirmed", "final"}, "limit": {"1", "2", "100"},
		"If-None-Match": {"*", `"00"`, `W/"00", "11"`}, "Last-Event-ID": {"final", "received", "x"},
		"Range": {"bytes=0-999", "bytes=1-1", "bytes=-2", "bytes=2-"}, "If-Range": {`"` + fmt.Sprintf("%x", digest) + `"`, `"other"`},
		"Idempotency-Key": {"one", "two", "three"}, "offset": {"0"},
	})
	return k
}

// start makes the server anew, with a configuration that was edited, and lets it
// follow the log.
func (k *walk) start(edit func(*api.Config)) {
	k.stop()
	cfg := k.w.config
	cfg.Finder, cfg.FindPerMinute, cfg.FindTotal = k.w, 1e6, 1e6
	edit(&cfg)
	server, err := api.New(cfg)
	if err != nil {
		k.t.Fatal(err)
	}
	k.w.server = server
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- server.Run(ctx) }()
	k.stop = func() {
		cancel()
		if err := <-done; err != nil {
			k.t.Error(err)
		}
	}
}

// operations are those of the description, always in the same order; only the
// named ones if there are names.
func (k *walk) operations(ids ...string) (list []attempt) {
	for _, path := range slices.Sorted(maps.Keys(k.d.Paths)) {
		all := k.d.Paths[path].operations()
		for _, method := range slices.Sorted(maps.Keys(all)) {
			if op := all[method]; len(ids) == 0 || slices.Contains(ids, op.OperationID) {
				list = append(list, attempt{path: path, method: method, op: op})
			}
		}
	}
	return list
}

// each sends n requests of each operation: a third as described, a third wrong in
// one place, the rest anyhow.
func (k *walk) each(n int, ids ...string) {
	k.t.Helper()
	for _, o := range k.operations(ids...) {
		for i := range n {
			k.send(k.attempt(o, i%3))
		}
	}
}

// eachWhile sends n requests of each operation that are as described, while
// something keeps them from success.
func (k *walk) eachWhile(reason string, n int, ids ...string) {
	k.t.Helper()
	for _, o := range k.operations(ids...) {
		for i := range n {
			k.w.breakReads(k.w.down, i%8)
			a := k.attempt(o, 0)
			a.doubt = append(a.doubt, reason)
			k.send(a)
		}
	}
	k.w.breakReads(k.w.down, 0)
}

// whileDown lets reads fail, each time from another one on.
func (k *walk) whileDown(n int) {
	k.t.Helper()
	k.w.breakReads(errors.New(hidden), 0)
	k.eachWhile("the database is down", n)
	k.w.breakReads(nil, 0)
}

// whileRefusing lets the intake refuse, in every way that it has.
func (k *walk) whileRefusing(n int) {
	k.t.Helper()
	refuse := func(id string, codes ...calpe.Code) {
		k.t.Helper()
		for _, code := range codes {
			k.w.uploadErr = &calpe.Error{Code: code, Message: "Refused.", Err: errors.New(hidden)}
			k.w.commitErr = k.w.uploadErr
			k.eachWhile("the intake refuses", n, id)
		}
		k.w.uploadErr, k.w.commitErr = nil, nil
	}
	always := []calpe.Code{calpe.CodeUnavailable, calpe.CodeIntakeStopped, calpe.CodeTooManyRequests, calpe.CodeIdempotencyMismatch, calpe.CodeSlowClient, calpe.CodeTooLarge}
	refuse("submitCommitments", always...)
	refuse("getUpload", calpe.CodeUnavailable, calpe.CodeIdempotencyMismatch)
	refuse("uploadDocument", append(always, calpe.CodeCertification)...)
	refuse("beginUpload", calpe.CodeUnavailable, calpe.CodeIntakeStopped, calpe.CodeTooManyRequests, calpe.CodeCertification)
	refuse("continueUpload", append(always, calpe.CodeCertification, calpe.CodeLocked)...)
	refuse("abandonUpload", calpe.CodeLocked)
}

// whileCrowded asks for more than the limits allow.
func (k *walk) whileCrowded(n int) {
	k.t.Helper()
	k.start(func(cfg *api.Config) { cfg.FindPerMinute, cfg.FindTotal, cfg.Streams.Most = 1, 1, 1 })
	k.eachWhile("the limits are low", n, "findDocument", "followEntry")
	ctx, leave := context.WithCancel(context.Background())
	received := k.good["id"][3]
	r := httptest.NewRequestWithContext(ctx, "GET", "/v1/documents/"+received+"/events", nil)
	r.Header.Set("Authorization", "Bearer calpe_alice")
	left := make(chan struct{})
	go func() {
		defer close(left)
		k.w.server.ServeHTTP(httptest.NewRecorder(), r)
	}()
	synctest.Wait() // the only place is taken
	k.eachWhile("another stream is open", n, "followDocument")
	leave()
	<-left
	k.start(func(*api.Config) {})
}

// whileEmpty asks a log that has no checkpoint and no anchor yet.
func (k *walk) whileEmpty(n int) {
	k.t.Helper()
	full := k.w
	k.w = newFindWorld(k.t)
	k.start(func(*api.Config) {})
	k.eachWhile("the log is empty", n)
	k.w = full
	k.start(func(*api.Config) {})
}

// otherMethods finds none that isn't described.
func (k *walk) otherMethods() {
	k.t.Helper()
	for _, o := range k.operations() {
		a := k.attempt(o, 0)
		path, _, _ := strings.Cut(a.target, "?")
		for _, method := range []string{"PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "POST", "GET", "NONSENSE"} {
			if k.d.Paths[o.path].operations()[method] != nil {
				continue
			}
			got := k.w.do(method, path, nil, "Authorization", "Bearer calpe_alice")
			k.sent++
			if got.code(k.t) != string(calpe.CodeMethodNotAllowed) || !strings.Contains(got.header.Get("Allow"), o.method) {
				k.t.Errorf("%s %s: %d, Allow %q", method, path, got.status, got.header.Get("Allow"))
			}
		}
	}
}

// wantAllSeen demands that the walk was everywhere: every answer that is
// described came at least once, but the one that must never come.
func (k *walk) wantAllSeen() {
	k.t.Helper()
	for _, o := range k.operations() {
		for status := range o.op.Responses {
			if k.seen[o.op.OperationID][status] == 0 && status != "500" {
				k.t.Errorf("%s never answered with %s: %v", o.op.OperationID, status, k.seen[o.op.OperationID])
			}
		}
	}
}

// attempt makes a request. Of the kind 0 all is as described; of 1 one thing
// isn't; of 2 each may not be.
func (k *walk) attempt(o attempt, kind int) attempt {
	o.header = http.Header{}
	parts := []func(a *attempt, bad bool){k.query, k.token, k.content, k.headers}
	if strings.Contains(o.path, "{") {
		parts = append(parts, k.path)
	} else {
		o.target = o.path
	}
	one := k.rng.IntN(len(parts))
	// The path comes first, as the rest is put behind it.
	order := slices.Backward(parts)
	for i, part := range order {
		part(&o, kind == 1 && i == one || kind == 2 && k.rng.IntN(2) == 0)
	}
	if o.method == http.MethodGet && k.rng.IntN(8) == 0 {
		o.method = http.MethodHead
	}
	return o
}

func (k *walk) path(a *attempt, bad bool) {
	a.target = a.path
	for _, p := range a.op.Parameters {
		if p.In != "path" {
			continue
		}
		value := k.value(p)
		if p.Name == "upload" { // one that no request has ended
			value = strings.TrimPrefix(k.newUpload(), "/v1/uploads/")
		}
		if bad {
			value = k.doubtful(a, p, value)
		}
		escaped := url.PathEscape(value)
		if (p.Name == "path" || p.Name == "page") && k.rng.IntN(2) == 0 || !bad {
			escaped = strings.ReplaceAll(escaped, "%2F", "/")
		}
		a.target = strings.ReplaceAll(a.target, "{"+p.Name+"}", escaped)
	}
}

func (k *walk) query(a *attempt, bad bool) {
	values := url.Values{}
	var names []*apiParameter
	for _, p := range a.op.Parameters {
		if p.In == "query" {
			names = append(names, p)
		}
	}
	if a.op.OperationID == "findDocument" { // exactly one of them
		names = slices.Delete(slices.Clone(names), k.rng.IntN(2), 2)[:1]
		names[0] = a.op.Parameters[k.rng.IntN(2)]
	}
	for _, p := range names {
		if a.op.OperationID != "findDocument" && k.rng.IntN(2) == 0 {
			continue
		}
		value := k.value(p)
		if bad && k.rng.IntN(2) == 0 {
			value = k.doubtful(a, p, value)
		}
		values.Add(p.Name, value)
	}
	query := values.Encode()
	if bad {
		a.doubt = append(a.doubt, "query")
		query += k.pick("", "&limit=1&limit=2", "&nonsense=1", "&%zz", "&a;b", "&&&", "&"+url.QueryEscape(k.junk()))
	}
	if query != "" {
		a.target += "?" + query
	}
}

func (k *walk) token(a *attempt, bad bool) {
	scope := a.op.scope()
	token := k.pick("Bearer calpe_alice", "bearer calpe_alice", "Bearer calpe_"+scope)
	if scope == "" { // then it doesn't matter
		token = k.pick("", "", token, "Basic "+k.junkHeader())
	} else if bad {
		a.doubt = append(a.doubt, "token")
		other := map[string]string{"documents": "calpe_commitments", "commitments": "calpe_documents"}[scope]
		token = k.pick("", "Bearer", "Bearer "+other, "Bearer calpe_nobody", "Basic calpe_alice", "Bearer calpe_bob", k.junkHeader(), "Bearer "+k.junkHeader(), "Bearer calpe_"+k.junkHeader())
	}
	if token != "" {
		a.header.Set("Authorization", token)
	}
}

func (k *walk) headers(a *attempt, bad bool) {
	for _, p := range a.op.Parameters {
		if p.In != "header" || !p.Required && k.rng.IntN(2) == 0 || a.header.Get(p.Name) != "" {
			continue
		}
		value := k.value(p)
		switch {
		case p.Name == "Idempotency-Key": // else it would belong to another request
			value = fmt.Sprint("key-", k.sent)
			if bad {
				value = k.doubtful(a, p, k.value(p))
			}
		case p.Name == "Content-Digest" && !bad: // content sets it
			continue
		case bad:
			value = k.doubtful(a, p, value)
		}
		a.header.Set(p.Name, asHeader(value))
		if bad && k.rng.IntN(4) == 0 {
			a.header.Add(p.Name, k.junkHeader())
		}
	}
	if _, negotiated := a.op.Responses["406"]; negotiated {
		a.header.Set("Accept", k.pick(slices.Sorted(maps.Keys(a.op.Responses["200"].Content))...))
		if bad {
			a.doubt = append(a.doubt, "Accept")
			a.header.Set("Accept", k.pick("", "text/html", "*/*;q=0", "application/*;q=0.2, text/*", "application/json;q=x", k.junkHeader()))
		}
	}
}

// value of a parameter that the deployment has, or else its example.
func (k *walk) value(p *apiParameter) string {
	if p.Name == "cursor" || k.good[p.Name] == nil {
		return fmt.Sprint(p.Example)
	}
	return k.pick(k.good[p.Name]...)
}

// doubtful is a value that fits the schema but may stand for nothing, or that
// doesn't fit.
func (k *walk) doubtful(a *attempt, p *apiParameter, value string) string {
	a.doubt = append(a.doubt, p.Name)
	value = k.other(p, value)
	if p.In != "header" && value != "" && !k.fits(p, value) { // an empty one is none
		a.wrong = p.Name
	}
	return value
}

// fits tells whether a parameter has a value of its schema.
func (k *walk) fits(p *apiParameter, value string) bool {
	if p.Schema.Type != "integer" {
		return k.d.check(p.Schema, value) == nil
	}
	n, err := strconv.ParseInt(value, 10, 64)
	return err == nil && strconv.FormatInt(n, 10) == value && k.d.check(p.Schema, float64(n)) == nil
}

func (k *walk) other(p *apiParameter, value string) string {
	if p.Schema.Type == "integer" && k.rng.IntN(3) == 0 {
		return k.pick(fmt.Sprint(int64(*p.Schema.Minimum)-1), fmt.Sprint(int64(*p.Schema.Maximum)+1))
	}
	if p.Name == "Range" && k.rng.IntN(2) == 0 { // the only one whose limit the schema can't know
		return "bytes=999999-"
	}
	switch k.rng.IntN(4) {
	case 0:
		if generated, ok := k.generate(p.Schema).(string); ok {
			return generated
		}
		return fmt.Sprint(k.generate(p.Schema))
	case 1:
		return k.mutate(value)
	}
	return k.junk()
}

func (k *walk) pick(from ...string) string { return from[k.rng.IntN(len(from))] }

// junk is what somebody may send instead of anything.
func (k *walk) junk() string {
	random := make([]byte, k.rng.IntN(40))
	for i := range random {
		random[i] = byte(k.rng.Uint32())
	}
	return k.pick("", "0", "-1", "007", "1.5", "1e9", "0x10", "1099511627776", "18446744073709551616", "true", "null", "[]", "{}", "*", "../../etc/passwd",
		"..", ".", " ", "x", "é\u202e\U0001f512", "%00", "'; DROP TABLE entries; --", strings.Repeat("A", 300), strings.Repeat("9", 5000),
		strings.Repeat("0", 64), strings.Repeat("F", 64), "00000000-0000-0000-0000-000000000000", string(random), string(random))
}

func (k *walk) junkHeader() string { return asHeader(k.junk()) }

// asHeader leaves out what an HTTP server refuses in a header before it asks anybody.
func asHeader(value string) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return -1
		}
		return r
	}, value))
}

// mutate changes, adds or takes away a byte.
func (k *walk) mutate(value string) string {
	if value == "" {
		return "x"
	}
	i, b := k.rng.IntN(len(value)), string([]byte{byte(k.rng.Uint32())})
	return k.pick(value[:i]+b+value[i+1:], value[:i]+b+value[i:], value[:i]+value[i+1:], value[:i], value+value, strings.ToUpper(value))
}

// send sends the request, and checks the answer.
func (k *walk) send(a attempt) {
	k.t.Helper()
	target, err := url.ParseRequestURI(a.target)
	if err != nil {
		return // a server of net/http refuses it before it asks anybody
	}
	r := httptest.NewRequest(a.method, "/", a.body)
	r.URL, r.RequestURI, r.Header = target, a.target, a.header
	if _, sized := a.body.(*bytes.Reader); !sized {
		r.ContentLength = -1
	}
	rec := httptest.NewRecorder()
	k.w.server.ServeHTTP(rec, r)
	k.sent++
	got := answer{rec.Code, rec.Header(), rec.Body.Bytes()}
	status := strconv.Itoa(got.status)
	if k.seen[a.op.OperationID] == nil {
		k.seen[a.op.OperationID] = map[string]int{}
	}
	k.seen[a.op.OperationID][status]++
	if err := k.check(a, got); err != nil {
		k.t.Errorf("%v\n\tanswered %s %v: %v\n\t%.300s", a, status, got.header, err, got.body)
	}
	waits := got.status == http.StatusConflict && a.header.Get("Accept") == typeOTS // as described, for who asks too early
	if a.wrong != "" && got.status < 400 {
		k.t.Errorf("%v\n\twas answered %s, though %s doesn't fit its schema", a, status, a.wrong)
	}
	if len(a.doubt) == 0 && got.status >= 400 && !waits {
		k.t.Errorf("%v\n\tis as described, and was answered %s: %s", a, status, got.body)
	}
}

// check holds an answer against the description of its operation.
func (k *walk) check(a attempt, got answer) error {
	described := a.op.Responses[strconv.Itoa(got.status)]
	switch {
	case got.status == http.StatusInternalServerError:
		return errors.New("that must never be")
	case described == nil:
		return errors.New("that status isn't described")
	case bytes.Contains(got.body, []byte(hidden)):
		return errors.New("the client is told the cause")
	}
	if err := k.checkHeaders(described, got.header); err != nil {
		return err
	}
	return k.checkBody(a, described, got)
}

// mayBeAnywhere are headers that say nothing of one operation.
var mayBeAnywhere = []string{"Content-Type", "Content-Length", "Cache-Control", "Vary", "Accept-Ranges", "X-Content-Type-Options", "Content-Security-Policy",
	"Referrer-Policy", "X-Accel-Buffering", "Connection", "Tus-Resumable"}

func (k *walk) checkHeaders(described *apiResponse, header http.Header) error {
	for name, h := range described.Headers {
		if h.Required && header.Get(name) == "" {
			return fmt.Errorf("no %s", name)
		}
	}
	for name, values := range header {
		h := described.Headers[name]
		for d, other := range described.Headers {
			if http.CanonicalHeaderKey(d) == name {
				h = other
			}
		}
		if h == nil {
			if !slices.Contains(mayBeAnywhere, name) {
				return fmt.Errorf("header %s isn't described", name)
			}
			continue
		}
		var value any = values[0]
		if n, err := strconv.ParseFloat(values[0], 64); err == nil && h.Schema.Type == "integer" {
			value = n
		}
		if err := k.d.check(h.Schema, value); err != nil || len(values) > 1 {
			return fmt.Errorf("header %s %q: %w", name, values, err)
		}
	}
	return nil
}

func (k *walk) checkBody(a attempt, described *apiResponse, got answer) error {
	contentType := got.header.Get("Content-Type")
	if len(described.Content) == 0 {
		return want(contentType == "" && len(got.body) == 0, "a body that isn't described")
	}
	m, ok := described.Content[contentType]
	if !ok {
		if m, ok = described.Content["*/*"]; !ok {
			return fmt.Errorf("media type %q isn't described", contentType)
		}
	}
	if a.method == http.MethodHead {
		return nil // a recorder may have what a server leaves out
	}
	switch contentType {
	case "application/problem+json":
		return k.checkProblem(described, m, got)
	case "application/x-ndjson":
		if strings.HasPrefix(a.path, "/log/anchors/") {
			return k.checkAnchorLines(got.body)
		}
		return k.checkLines(got.body)
	case "text/event-stream":
		return k.checkEvents(got.body)
	case "application/json":
		return k.checkJSON(m.Schema, got.body)
	}
	return nil
}

func (k *walk) checkJSON(s *apiSchema, text []byte) error {
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		return err
	}
	return k.d.check(s, v)
}

func (k *walk) checkProblem(described *apiResponse, m apiMedia, got answer) error {
	if err := k.checkJSON(m.Schema, got.body); err != nil {
		return err
	}
	var p struct{ Type, Title, Code string }
	if err := json.Unmarshal(got.body, &p); err != nil {
		return err
	}
	switch {
	case !slices.Contains(codesIn(described.Description), p.Code):
		return fmt.Errorf("code %s isn't described", p.Code)
	case api.AnswerOf()[p.Code] != got.status || p.Type != "urn:calpe:error:"+p.Code || p.Title != api.TitleOf(p.Code):
		return fmt.Errorf("type, title or status isn't that of code %s", p.Code)
	}
	return nil
}

func (k *walk) named(schema string) *apiSchema {
	return &apiSchema{Ref: "#/components/schemas/" + schema}
}

func (k *walk) checkLines(text []byte) error {
	var last []byte
	for line := range bytes.Lines(text) {
		if err := k.checkJSON(k.named("StreamLine"), line); err != nil {
			return fmt.Errorf("line %.200s: %w", line, err)
		}
		last = line
	}
	if k.checkJSON(k.named("RecordedEnd"), last) == nil {
		return nil
	}
	return k.checkJSON(k.named("StreamError"), last)
}

func (k *walk) checkAnchorLines(text []byte) error {
	n := 0
	for line := range bytes.Lines(text) {
		n++
		if err := k.checkJSON(k.named("Anchor"), line); err != nil {
			return fmt.Errorf("line %d: %w", n, err)
		}
	}
	return want(n > 0, "no line")
}

func (k *walk) checkEvents(text []byte) error {
	n := 0
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), ": ")
		switch name {
		case "data":
			n++
			if err := k.checkJSON(k.named("StateEvent"), []byte(value)); err != nil {
				return err
			}
		case "event", "id", "": // the last one is a comment, or the end of an event
		default:
			return fmt.Errorf("line %q of an event stream", line)
		}
	}
	return want(n == 1 && bytes.HasSuffix(text, []byte("\n\n")), "%d events of a state that didn't change", n)
}

// content chooses a body, if the operation has one.
func (k *walk) content(a *attempt, bad bool) {
	a.body = bytes.NewReader(nil)
	switch a.op.OperationID {
	case "uploadDocument":
		k.document(a, bad)
	case "submitCommitments":
		k.commitments(a, bad)
	case "continueUpload":
		k.piece(a, bad)
	}
}

func (k *walk) setBody(a *attempt, mediaType string, body []byte) {
	a.body = bytes.NewReader(body)
	if mediaType != "" {
		a.header.Set("Content-Type", mediaType)
	}
}

func (k *walk) document(a *attempt, bad bool) {
	text := fmt.Sprint("deed ", k.sent)
	parts := []part{formPart("document", "deed.pdf", text, "Content-Type", "application/pdf", "Content-Digest", contentDigest(text))}
	if k.rng.IntN(2) == 0 {
		parts = slices.Insert(parts, 0, formPart("certification", "", "{}"))
	}
	if bad {
		a.doubt = append(a.doubt, "body")
		k.badDocument(a, text, parts)
		return
	}
	if k.rng.IntN(2) == 0 {
		body, mediaType := form(k.t, parts...)
		k.setBody(a, mediaType, body)
		return
	}
	k.setBody(a, k.pick("", "application/pdf", "text/html; charset=utf-8", "application/octet-stream", "application/json", "nonsense"), []byte(text))
	if k.rng.IntN(2) == 0 {
		a.header.Set(k.pick("Content-Digest", "Repr-Digest"), contentDigest(text))
	}
}

func (k *walk) badDocument(a *attempt, text string, parts []part) {
	switch k.rng.IntN(10) {
	case 0:
		k.setBody(a, "application/pdf", nil)
	case 1:
		k.setBody(a, "application/pdf", []byte(text))
		a.header.Set("Content-Digest", k.pick(contentDigest("other"), "sha-256=:AAAA:", k.junkHeader()))
	case 2:
		k.setBody(a, k.pick("multipart/form-data", "multipart/form-data; boundary=x", "multipart/mixed; boundary=x", "multipart/", k.junkHeader()), []byte(k.junk()))
	case 3:
		body, mediaType := form(k.t, append(parts, formPart(k.pick("document", "certification", "x", ""), "", k.junk()))...)
		k.setBody(a, mediaType, body)
	case 4:
		body, mediaType := form(k.t, parts...)
		k.setBody(a, mediaType, []byte(k.mutate(string(body))))
	case 5:
		body, mediaType := form(k.t, slices.Insert(parts, 0, formPart(k.pick("certification", "nonsense"), "", strings.Repeat(" ", k.rng.IntN(20<<10))))...)
		k.setBody(a, mediaType, body)
	case 6:
		if k.setBody(a, "", make([]byte, 1<<20+1)); k.rng.IntN(2) == 0 {
			a.body = io.MultiReader(bytes.NewReader(make([]byte, 2<<20))) // of a length that isn't said
		}
	case 7:
		a.body = io.MultiReader(strings.NewReader(text), failing{os.ErrDeadlineExceeded})
	case 8:
		a.body = io.MultiReader(strings.NewReader(text), failing{io.ErrUnexpectedEOF})
	case 9:
		k.setBody(a, "multipart/mixed; boundary=x", []byte(text))
	}
}

func (k *walk) commitments(a *attempt, bad bool) {
	mediaType := k.pick(slices.Sorted(maps.Keys(a.op.RequestBody.Content))...)
	schema := a.op.RequestBody.Content["application/json"].Schema
	var body []byte
	switch mediaType {
	case "application/json":
		body = k.json(schema, bad)
		mediaType = k.pick(mediaType, mediaType+"; charset=utf-8", "")
	case "application/x-ndjson":
		for range 1 + k.rng.IntN(5) {
			body = append(append(body, k.json(schema, bad && k.rng.IntN(2) == 0)...), '\n')
		}
	default:
		for range 32 * (1 + k.rng.IntN(5)) {
			body = append(body, byte(1+k.rng.IntN(255)))
		}
	}
	k.setBody(a, mediaType, body)
	if bad {
		a.doubt = append(a.doubt, "body")
		k.badCommitments(a, body)
	}
}

func (k *walk) badCommitments(a *attempt, body []byte) {
	switch k.rng.IntN(9) {
	case 0, 1, 2: // what json made is bad, or the next is
		return
	case 3:
		k.setBody(a, k.pick("text/plain", "application/xml", "multipart/form-data; boundary=x", "application/json+x", "nonsense", k.junkHeader()), body)
	case 4:
		k.setBody(a, "", []byte(k.mutate(string(body))))
	case 5:
		k.setBody(a, "", []byte(k.junk()))
	case 6:
		if k.rng.IntN(4) == 0 { // large bodies take their time
			k.setBody(a, "", bytes.Repeat([]byte{1}, 32*calpe.MaxGroup+32))
		} else {
			k.setBody(a, "", bytes.Repeat([]byte(" "), 5000))
		}
	case 7:
		a.body = io.MultiReader(bytes.NewReader(body), failing{os.ErrDeadlineExceeded})
	case 8:
		k.setBody(a, "", make([]byte, 64))
	}
}

// json is a value of the schema, or one that was spoiled.
func (k *walk) json(s *apiSchema, bad bool) []byte {
	v := k.generate(s)
	if bad {
		v = k.spoil(v)
	}
	text, err := json.Marshal(v)
	if err != nil {
		k.t.Fatal(err)
	}
	if bad && k.rng.IntN(3) == 0 {
		return []byte(k.mutate(string(text)))
	}
	return text
}

// spoil gives a value of another type, or an object with one member less, more or
// wrong.
func (k *walk) spoil(v any) any {
	object, ok := v.(map[string]any)
	if !ok || k.rng.IntN(4) == 0 {
		return []any{nil, true, 1.5, -1, "x", []any{v}, map[string]any{}, map[string]any{"": v}}[k.rng.IntN(8)]
	}
	names := slices.Sorted(maps.Keys(object))
	name := names[k.rng.IntN(len(names))]
	switch k.rng.IntN(3) {
	case 0:
		delete(object, name)
	case 1:
		object[k.pick("nonsense", strings.ToUpper(name), " "+name)] = object[name]
	default:
		object[name] = []any{nil, k.spoil(object[name]), k.junkHeader()}[k.rng.IntN(3)]
	}
	return object
}
