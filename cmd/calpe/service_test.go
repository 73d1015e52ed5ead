package main

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"mime"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/statement"
)

const (
	testOrigin = "log.calpe.example"
	testToken  = "calpe_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
)

// fakeService is a Calpe service in memory, with a real log: real signatures,
// real proofs, real regtest blocks. It keeps the contract, and can break it once
// at a time.
type fakeService struct {
	t     testing.TB
	url   string
	id    receipt.Identity
	chain *testChain

	checkpointKey, ackKey, statementKey statement.Key

	mu      sync.Mutex
	entries []calpe.Entry
	groups  []receipt.Acknowledgement
	notes   map[uint64][]byte // checkpoint notes by size
	newest  uint64            // size of the newest checkpoint
	anchors map[uint64]*receipt.Anchor
	docs    map[string]*fakeDocument
	answers map[string]fakeAnswer // by Idempotency-Key
	agency  *fakeAgency
	pieces  map[string]*fakePieces // by the id of their upload

	faults   []fault
	requests []fakeRequest
}

type fakeDocument struct {
	name, mediaType string
	size            int64
	digest          calpe.Digest
	salt            calpe.Salt
	index           uint64
	certification   *statement.Signed
	certSalt        calpe.Salt
	code            calpe.FindCode
}

type fakeAgency struct {
	key    statement.Key
	signed statement.Signed
	salt   calpe.Salt
	index  uint64
}

type fakeAnswer struct {
	fingerprint string
	index       uint64
	document    string
}

type fakeRequest struct {
	method, path string
	header       http.Header
	body         []byte
}

// fault breaks the next request whose path has the prefix.
type fault struct {
	prefix string
	serve  func(s *fakeService, w http.ResponseWriter, r *http.Request)
}

func newKey(t testing.TB, name string) statement.Key {
	t.Helper()
	k, err := statement.GenerateKey(rand.Reader, name)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newService(t testing.TB) *fakeService {
	t.Helper()
	s := &fakeService{t: t, chain: newChain(t), notes: map[uint64][]byte{}, anchors: map[uint64]*receipt.Anchor{},
		docs: map[string]*fakeDocument{}, answers: map[string]fakeAnswer{},
		checkpointKey: newKey(t, testOrigin), ackKey: newKey(t, receipt.AcknowledgementKeyName(testOrigin)),
		statementKey: newKey(t, receipt.StatementKeyName(testOrigin))}
	s.id = receipt.Identity{Origin: testOrigin, Network: calpe.Regtest, Genesis: s.chain.genesis(),
		CheckpointKeys: []string{s.checkpointKey.Verifier()}, AcknowledgementKeys: []string{s.ackKey.Verifier()},
		StatementKeys: []string{s.statementKey.Verifier()}}
	if err := s.id.Validate(); err != nil {
		t.Fatal(err)
	}
	s.record(calpe.Commitment(s.id.Hash()))
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	s.url = server.URL
	return s
}

// record appends a commit group and gives its first index.
func (s *fakeService) record(commitments ...calpe.Commitment) uint64 {
	first := uint64(len(s.entries))
	for i, c := range commitments {
		s.entries = append(s.entries, calpe.Entry{Index: first + uint64(i), Commitment: c})
	}
	now := time.Date(2026, 11, 21, 9, 30, 0, 0, time.UTC)
	s.groups = append(s.groups, receipt.Acknowledgement{Log: s.id.Hash(), First: first, Count: uint64(len(commitments)),
		Root: merkle.Root(s.leaves(first, uint64(len(s.entries)))), Time: now, Deadline: now.Add(time.Hour)})
	return first
}

func (s *fakeService) leaves(from, to uint64) []calpe.Hash {
	var leaves []calpe.Hash
	for _, e := range s.entries[from:to] {
		b := e.Bytes()
		leaves = append(leaves, merkle.LeafHash(b[:]))
	}
	return leaves
}

// register makes an agency.
func (s *fakeService) register(name string) statement.Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := newKey(s.t, name)
	signed, err := statement.Sign(s.statementKey, statement.Agency{Log: s.id.Hash(), Agency: name, Name: "Town of " + name,
		Key: key.Verifier(), Time: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)})
	if err != nil {
		s.t.Fatal(err)
	}
	salt := *newSalt()
	s.agency = &fakeAgency{key, signed, salt, s.record(calpe.Commit(signed.Digest(), salt))}
	return key
}

// checkpoint seals all entries.
func (s *fakeService) checkpoint() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seal()
}

func (s *fakeService) seal() calpe.Payload {
	size := uint64(len(s.entries))
	root := merkle.Root(s.leaves(0, size))
	note, err := receipt.SignCheckpoint(s.checkpointKey, testOrigin, size, root)
	if err != nil {
		s.t.Fatal(err)
	}
	s.notes[size], s.newest = note, size
	return calpe.Payload{Size: size, Root: root}
}

// anchor seals all entries and mines the block that holds their root.
func (s *fakeService) anchor() {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.seal()
	s.anchors[p.Size] = s.chain.anchor(p)
}

func (s *fakeService) mine(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.chain.mine(n, 0)
}

// advance is one step of what a service does with time.
func (s *fakeService) advance() {
	s.mu.Lock()
	newest, next := s.newest, uint64(len(s.entries))
	_, anchored := s.anchors[newest]
	s.mu.Unlock()
	switch {
	case newest < next:
		s.checkpoint()
	case !anchored:
		s.anchor()
	default:
		s.mine(1)
	}
}

func (s *fakeService) state(index uint64) calpe.State {
	marks := calpe.Watermarks{Next: uint64(len(s.entries)), Checkpointed: s.newest}
	for size, a := range s.anchors {
		marks.Broadcast, marks.Confirmed = max(marks.Broadcast, size), max(marks.Confirmed, size)
		if s.chain.tip()-int(a.Height)+1 >= 6 {
			marks.Final = max(marks.Final, size)
		}
	}
	state, _ := marks.State(index)
	return state
}

// tree is the size of the tree that proves an entry best: the earliest anchored
// one, else that of the newest checkpoint; 0 if there is none.
func (s *fakeService) tree(index uint64) uint64 {
	best := uint64(0)
	for size := range s.anchors {
		if size > index && (best == 0 || size < best) {
			best = size
		}
	}
	if best == 0 && s.newest > index {
		best = s.newest
	}
	return best
}

func (s *fakeService) path(index, size uint64) receipt.Path {
	path, err := merkle.InclusionPath(s.leaves(0, size), index)
	if err != nil {
		s.t.Errorf("path of %d in %d: %v", index, size, err)
	}
	return append(receipt.Path{}, path...)
}

func (s *fakeService) promise(index uint64) *receipt.Promise {
	for _, g := range s.groups {
		if index >= g.First && index < g.First+g.Count {
			note, err := receipt.SignAcknowledgement(s.ackKey, g)
			if err != nil {
				s.t.Fatal(err)
			}
			path, err := merkle.InclusionPath(s.leaves(g.First, g.First+g.Count), index-g.First)
			if err != nil {
				s.t.Fatal(err)
			}
			return &receipt.Promise{Note: string(note), Path: append(receipt.Path{}, path...)}
		}
	}
	s.t.Fatalf("no group holds %d", index)
	return nil
}

// fail puts faults before the next requests of that path.
func (s *fakeService) fail(prefix string, faults ...func(*fakeService, http.ResponseWriter, *http.Request)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range faults {
		s.faults = append(s.faults, fault{prefix, f})
	}
}

// heal takes back the faults that no request has met yet.
func (s *fakeService) heal() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

func (s *fakeService) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	var broken func(*fakeService, http.ResponseWriter, *http.Request)
	for i, f := range s.faults {
		if strings.HasPrefix(r.URL.Path, f.prefix) {
			broken, s.faults = f.serve, append(s.faults[:i:i], s.faults[i+1:]...)
			break
		}
	}
	s.mu.Unlock()
	if broken != nil {
		broken(s, w, r)
		return
	}
	s.serve(w, r)
}

// serve answers as a service does.
func (s *fakeService) serve(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		refuse(w, http.StatusBadRequest, calpe.CodeInvalidRequest, "The body broke off.")
		return
	}
	s.requests = append(s.requests, fakeRequest{r.Method, r.URL.Path, r.Header.Clone(), body})
	path, _ := strings.CutPrefix(r.URL.Path, "/v1/")
	private := strings.HasPrefix(path, "documents") || strings.HasPrefix(path, "uploads") || path == "commitments"
	if private && r.Header.Get("Authorization") != "Bearer "+testToken {
		refuse(w, http.StatusUnauthorized, calpe.CodeUnauthorized, "Send a valid token.")
		return
	}
	if !private && r.Header.Get("Authorization") != "" && strings.HasPrefix(path, "entries") && r.Method != http.MethodGet {
		refuse(w, http.StatusMethodNotAllowed, calpe.CodeMethodNotAllowed, "")
		return
	}
	switch parts := strings.Split(path, "/"); {
	case parts[0] == "uploads":
		s.upload(w, r, strings.TrimPrefix(path, "uploads"), body)
	case path == "identity":
		_, _ = w.Write(s.id.Canonical())
	case path == "find":
		s.getFind(w, r)
	case path == "documents" && r.Method == http.MethodPost:
		s.postDocument(w, r, body)
	case path == "commitments" && (r.Method == http.MethodGet || r.Header.Get("Content-Type") == "application/octet-stream"):
		s.streamCommitments(w, r, body, math.MaxInt)
	case path == "commitments" && r.Method == http.MethodPost:
		s.postCommitment(w, r, body)
	case parts[0] == "documents" && len(parts) == 3 && parts[2] == "receipt":
		s.getReceipt(w, parts[1])
	case parts[0] == "entries" && len(parts) == 2:
		s.getEntry(w, r, parts[1])
	default:
		refuse(w, http.StatusNotFound, calpe.CodeNotFound, "There is nothing at this address.")
	}
}

func refuse(w http.ResponseWriter, status int, code calpe.Code, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"type": "urn:calpe:error:" + string(code), "title": "Title of " + string(code),
		"status": status, "detail": detail, "code": code})
}

func answerJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}

// before finds the answer that the key has had already. The second result is
// false if it was for another request; that has been answered then.
func (s *fakeService) before(w http.ResponseWriter, r *http.Request, fingerprint string) (fakeAnswer, bool) {
	a, ok := s.answers[r.Header.Get("Idempotency-Key")]
	if ok && a.fingerprint != fingerprint {
		refuse(w, http.StatusUnprocessableEntity, calpe.CodeIdempotencyMismatch, "")
		return a, false
	}
	return a, true
}

func (s *fakeService) postDocument(w http.ResponseWriter, r *http.Request, body []byte) {
	doc, problem := parseForm(r, body)
	if problem != nil {
		refuse(w, http.StatusBadRequest, problem.Code, problem.Message)
		return
	}
	if doc.certification != nil && !s.certifies(*doc.certification, doc.digest) {
		refuse(w, http.StatusUnprocessableEntity, calpe.CodeCertification, "The agency \"elsewhere\" is not registered.")
		return
	}
	fingerprint := doc.digest.String()
	if doc.certification != nil {
		fingerprint += doc.certification.Digest().String()
	}
	a, ok := s.before(w, r, fingerprint)
	if !ok {
		return
	}
	s.answerDocument(w, http.StatusCreated, s.recordDocument(doc, a, r.Header.Get("Idempotency-Key"), fingerprint))
}

// recordDocument records it, unless that is the answer of an earlier request.
func (s *fakeService) recordDocument(doc *fakeDocument, a fakeAnswer, key, fingerprint string) fakeAnswer {
	if a.document == "" {
		doc.salt, doc.certSalt = *newSalt(), *newSalt()
		commitments := []calpe.Commitment{calpe.Commit(doc.digest, doc.salt)}
		if doc.certification != nil {
			commitments = append(commitments, calpe.Commit(doc.certification.Digest(), doc.certSalt))
		}
		doc.index = s.record(commitments...)
		var id calpe.DocumentID
		_, _ = rand.Read(id[:])
		id[6], id[8] = id[6]&0x0f|0x40, id[8]&0x3f|0x80
		var random [18]byte
		_, _ = rand.Read(random[:])
		doc.code = calpe.NewFindCode(random)
		a = fakeAnswer{fingerprint, doc.index, id.String()}
		s.docs[a.document] = doc
		if key != "" {
			s.answers[key] = a
		}
	}
	return a
}

func (s *fakeService) answerDocument(w http.ResponseWriter, status int, a fakeAnswer) {
	answerJSON(w, status, s.describeDocument(a))
}

func (s *fakeService) describeDocument(a fakeAnswer) map[string]any {
	doc := s.docs[a.document]
	return map[string]any{"id": a.document, "index": a.index, "state": s.state(a.index), "name": doc.name,
		"media_type": doc.mediaType, "size": doc.size, "digest": doc.digest, "created": "2026-11-21T09:30:00Z", "code": doc.code, "acknowledgement": s.promise(a.index)}
}

func (s *fakeService) certifies(c statement.Signed, digest calpe.Digest) bool {
	body, ok := c.Body().(statement.Certification)
	return ok && s.agency != nil && body.Digest == digest && c.Verify(s.agency.key.Verifier()) == nil
}

// parseForm reads the form that the API takes: an optional certification, then the
// document, and nothing behind it.
func parseForm(r *http.Request, body []byte) (*fakeDocument, *calpe.Error) {
	bad := func(text string) *calpe.Error { return calpe.Errorf(calpe.CodeInvalidRequest, "%s", text) }
	mediaType, params, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mediaType != "multipart/form-data" {
		return nil, bad("not a form")
	}
	doc := &fakeDocument{}
	form := multipart.NewReader(bytes.NewReader(body), params["boundary"])
	for {
		part, err := form.NextRawPart()
		if err != nil {
			return nil, bad("no document")
		}
		data, err := io.ReadAll(part)
		if err != nil {
			return nil, bad("broken form")
		}
		if part.FormName() == "certification" && doc.certification == nil {
			signed, err := statement.Parse(data)
			if err != nil {
				return nil, bad("broken certification")
			}
			doc.certification = &signed
			continue
		}
		if part.FormName() != "document" {
			return nil, bad("unknown part")
		}
		sum := sha256.Sum256(data)
		if part.Header.Get("Content-Digest") != "sha-256=:"+base64.StdEncoding.EncodeToString(sum[:])+":" {
			return nil, calpe.Errorf(calpe.CodeDigestMismatch, "The document has the digest %x.", sum)
		}
		if len(data) == 0 {
			return nil, calpe.Errorf(calpe.CodeEmptyDocument, "")
		}
		if _, err := form.NextRawPart(); !errors.Is(err, io.EOF) {
			return nil, bad("something behind the document")
		}
		doc.name, doc.mediaType, doc.size, doc.digest = part.FileName(), part.Header.Get("Content-Type"), int64(len(data)), sum
		return doc, nil
	}
}

func (s *fakeService) postCommitment(w http.ResponseWriter, r *http.Request, body []byte) {
	var request struct {
		Commitment calpe.Commitment `json:"commitment"`
	}
	if err := json.Unmarshal(body, &request); err != nil || request.Commitment.IsVoid() {
		refuse(w, http.StatusBadRequest, calpe.CodeInvalidRequest, "")
		return
	}
	a, ok := s.before(w, r, request.Commitment.String())
	if !ok {
		return
	}
	if a.fingerprint == "" {
		a = fakeAnswer{fingerprint: request.Commitment.String(), index: s.record(request.Commitment)}
		s.answers[r.Header.Get("Idempotency-Key")] = a
	}
	answerJSON(w, http.StatusCreated, map[string]any{"index": a.index, "commitment": request.Commitment, "state": calpe.Received,
		"acknowledgement": s.promise(a.index)})
}

// fakeGroup is how many commitments of a stream the fake makes one group: clients
// go by what they are told.
const fakeGroup = 4

// streamCommitments records a stream's groups and answers with the first few of
// them, or tells which are recorded.
func (s *fakeService) streamCommitments(w http.ResponseWriter, r *http.Request, body []byte, most int) {
	key := r.Header.Get("Idempotency-Key")
	offset, err := strconv.ParseUint(r.URL.Query().Get("offset"), 10, 40)
	if key == "" || err != nil || offset%fakeGroup != 0 || len(body)%calpe.HashSize != 0 {
		refuse(w, http.StatusBadRequest, calpe.CodeInvalidRequest, "")
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	lines := json.NewEncoder(w)
	for n := 0; ; n++ {
		at := key + " " + strconv.FormatUint(offset, 10)
		a, known := s.answers[at]
		if r.Method == http.MethodPost && len(body) > 0 {
			var group []calpe.Commitment
			for len(body) > 0 && len(group) < fakeGroup {
				group, body = append(group, calpe.Commitment(body)), body[calpe.HashSize:]
			}
			fingerprint := fmt.Sprint(group)
			if known && a.fingerprint != fingerprint {
				refuse(w, http.StatusUnprocessableEntity, calpe.CodeIdempotencyMismatch, "")
				return
			}
			if !known {
				a = fakeAnswer{fingerprint: fingerprint, index: s.record(group...)}
				s.answers[at] = a
			}
		} else if r.Method == http.MethodPost || !known {
			_ = lines.Encode(map[string]any{"recorded": offset})
			return
		}
		promise := s.promise(a.index)
		count := uint64(strings.Count(a.fingerprint, " ") + 1)
		answer := map[string]any{"note": promise.Note}
		if count == 1 {
			answer["path"] = promise.Path
		}
		if n == most {
			return // recorded, and not told
		}
		_ = lines.Encode(map[string]any{"offset": offset, "first": a.index, "count": count, "acknowledgement": answer})
		offset += count
	}
}

func (s *fakeService) getReceipt(w http.ResponseWriter, id string) {
	doc, ok := s.docs[id]
	if !ok {
		refuse(w, http.StatusNotFound, calpe.CodeNotFound, "There is no such document.")
		return
	}
	last := doc.index
	if doc.certification != nil {
		last++
	}
	size := s.tree(last)
	r := receipt.Receipt{Type: receipt.ReceiptType, Log: s.id.Hash(), Digest: doc.digest, Salt: doc.salt, Index: doc.index}
	if doc.certification != nil {
		r.Certification = &receipt.Certification{Statement: *doc.certification, Salt: doc.certSalt, Index: last,
			Agency: receipt.Registration{Statement: s.agency.signed, Salt: s.agency.salt, Index: s.agency.index}}
	}
	if size == 0 {
		r.Acknowledgement = s.promise(doc.index)
	} else {
		r.Checkpoint, r.Path, r.Anchor = string(s.notes[size]), s.path(doc.index, size), s.anchors[size]
		if c := r.Certification; c != nil {
			c.Path, c.Agency.Path = s.path(c.Index, size), s.path(c.Agency.Index, size)
		}
	}
	data, err := r.Encode()
	if err != nil {
		s.t.Errorf("encode receipt: %v", err)
	}
	_, _ = w.Write(data)
}

func (s *fakeService) getEntry(w http.ResponseWriter, r *http.Request, text string) {
	index, err := strconv.ParseUint(text, 10, 40)
	if err != nil || index >= uint64(len(s.entries)) {
		refuse(w, http.StatusNotFound, calpe.CodeNotFound, "The log has no such entry.")
		return
	}
	size := s.tree(index)
	if text := r.URL.Query().Get("size"); text != "" {
		size, err = strconv.ParseUint(text, 10, 40)
		if err != nil || size <= index || s.notes[size] == nil {
			refuse(w, http.StatusNotFound, calpe.CodeNotFound, "There is no checkpoint of that size.")
			return
		}
	}
	answer := map[string]any{"index": index, "commitment": s.entries[index].Commitment, "state": s.state(index)}
	if size > 0 {
		answer["checkpoint"], answer["path"] = string(s.notes[size]), s.path(index, size)
		if a := s.anchors[size]; a != nil {
			answer["anchor"] = a
		}
	}
	answerJSON(w, http.StatusOK, answer)
}

// The ways in which a request can go wrong.

// refusing answers without doing anything.
func refusing(status int, code calpe.Code, header ...string) func(*fakeService, http.ResponseWriter, *http.Request) {
	return func(_ *fakeService, w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		refuse(w, status, code, "Detail of "+string(code)+".")
	}
}

// cutBefore drops the connection, and the request was not applied.
func cutBefore(_ *fakeService, _ http.ResponseWriter, _ *http.Request) { panic(http.ErrAbortHandler) }

// cutAfter applies the request and drops the connection instead of an answer.
func cutAfter(s *fakeService, _ http.ResponseWriter, r *http.Request) {
	s.serve(httptest.NewRecorder(), r)
	panic(http.ErrAbortHandler)
}

// failAfter applies the request and answers with an error.
func failAfter(s *fakeService, w http.ResponseWriter, r *http.Request) {
	s.serve(httptest.NewRecorder(), r)
	refuse(w, http.StatusInternalServerError, calpe.CodeInternal, "")
}

// truncating applies the request, and the answer ends in its middle.
func truncating(s *fakeService, w http.ResponseWriter, r *http.Request) {
	rec := httptest.NewRecorder()
	s.serve(rec, r)
	w.Header().Set("Content-Length", strconv.Itoa(rec.Body.Len()))
	w.WriteHeader(rec.Code)
	_, _ = w.Write(rec.Body.Bytes()[:rec.Body.Len()/2])
	panic(http.ErrAbortHandler)
}

// altering applies the request and changes the answer.
func altering(change func(body []byte) []byte) func(*fakeService, http.ResponseWriter, *http.Request) {
	return func(s *fakeService, w http.ResponseWriter, r *http.Request) {
		rec := httptest.NewRecorder()
		s.serve(rec, r)
		maps.Copy(w.Header(), rec.Header())
		w.WriteHeader(rec.Code)
		_, _ = w.Write(change(rec.Body.Bytes()))
	}
}

// alteringJSON changes the answer as a JSON object.
func alteringJSON(t testing.TB, change func(m map[string]any)) func(*fakeService, http.ResponseWriter, *http.Request) {
	return altering(func(body []byte) []byte {
		m := map[string]any{}
		if err := json.Unmarshal(body, &m); err != nil {
			t.Errorf("alter answer: %v", err)
		}
		change(m)
		data, err := json.Marshal(m)
		if err != nil {
			t.Errorf("alter answer: %v", err)
		}
		return data
	})
}
