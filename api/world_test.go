package api_test

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"net/textproto"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/api"
	"github.com/calpe/calpe/intake"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/statement"
)

// world is a small deployment in memory. It keeps the contracts of the
// interfaces that the server consumes: a document belongs to its owner, an entry
// exists below the head, a proof verifies.
type world struct {
	t          *testing.T
	now        time.Time
	identity   receipt.Identity
	keys       map[string]statement.Key
	entries    []calpe.Entry
	documents  map[calpe.DocumentID]intake.Document
	contents   map[calpe.DocumentID][]byte
	tokens     map[calpe.Hash]calpe.Token
	keyed      map[string]used   // Idempotency-Keys, with their owner
	groups     map[uint64]uint64 // first index of the group of each entry that isn't alone
	uploads    []intake.Upload
	uploadErr  error
	commitErr  error
	onCommit   func(intake.Commitments) error // before a group is recorded
	committing sync.Mutex                     // the groups of a stream come from several goroutines
	head       calpe.Checkpoint
	published  map[uint64]calpe.Checkpoint
	anchor     *calpe.Anchor // the best one
	anchors    []calpe.Anchor
	breaks     []calpe.ChainBreak
	down       error      // of every read, if set
	spare      int        // reads that work before the first that is down
	fault      sync.Mutex // guards down and spare where several read
	logs       *bytes.Buffer
	config     api.Config
	server     *api.Server

	mu    sync.Mutex
	marks calpe.Watermarks // what isn't counted from entries, head and anchors
	looks int              // how often the watermarks were read
}

// used is the request that an Idempotency-Key stands for.
type used struct {
	tag          string
	first, count uint64
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{
		t: t, now: time.Date(2026, 11, 21, 9, 30, 0, 0, time.UTC), logs: new(bytes.Buffer),
		keys: map[string]statement.Key{}, documents: map[calpe.DocumentID]intake.Document{},
		contents: map[calpe.DocumentID][]byte{}, tokens: map[calpe.Hash]calpe.Token{},
		published: map[uint64]calpe.Checkpoint{}, keyed: map[string]used{}, groups: map[uint64]uint64{},
	}
	const origin = "test.calpe.example/log"
	genesis, err := calpe.ParseBlockHash("0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206")
	if err != nil {
		t.Fatal(err)
	}
	w.identity = receipt.Identity{Origin: origin, Network: calpe.Regtest, Genesis: genesis}
	for name, into := range map[string]*[]string{
		origin: &w.identity.CheckpointKeys, receipt.AcknowledgementKeyName(origin): &w.identity.AcknowledgementKeys,
		receipt.StatementKeyName(origin): &w.identity.StatementKeys,
	} {
		key, err := statement.GenerateKey(zeros{byte(len(name))}, name)
		if err != nil {
			t.Fatal(err)
		}
		w.keys[name], *into = key, []string{key.Verifier()}
	}
	w.entries = []calpe.Entry{w.identity.Entry()}
	w.config = api.Config{
		Intake: w, Partials: partials{w, map[calpe.DocumentID]*partial{}}, Catalog: w, Tokens: w, Entries: w, Anchors: w, Proofs: w, Acknowledgements: w, Agencies: w, Watermarks: w,
		Treasury: w, Objects: w, Identity: w.identity, MaxDocument: 1 << 20, Now: func() time.Time { return w.now },
		Logger:   slog.New(slog.NewTextHandler(w.logs, nil)),
		Schedule: api.Schedule{Seal: 10 * time.Second, Anchor: time.Hour, Target: 6, Depth: 6},
		Ready: []api.Dependency{
			{Name: "postgres", Check: func(context.Context) error { return w.down }},
			{Name: "s3", Check: func(context.Context) error { return nil }},
		},
	}
	w.serve()
	w.token("calpe_alice", "alice", "documents", "commitments")
	return w
}

// serve makes the server anew, after a change of its configuration.
func (w *world) serve() {
	w.t.Helper()
	server, err := api.New(w.config)
	if err != nil {
		w.t.Fatal(err)
	}
	w.server = server
}

// zeros is a bad source of randomness, which is what a test wants.
type zeros struct{ b byte }

func (z zeros) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = z.b
	}
	return len(b), nil
}

func (w *world) token(token, owner string, scopes ...string) {
	w.tokens[api.HashToken(token)] = calpe.Token{Owner: owner, Hash: api.HashToken(token), Scopes: scopes}
}

func (w *world) add(c calpe.Commitment) uint64 {
	index := uint64(len(w.entries))
	w.entries = append(w.entries, calpe.Entry{Index: index, Commitment: c})
	return index
}

func (w *world) leaves() []calpe.Hash { return leafHashes(w.entries) }

func leafHashes(entries []calpe.Entry) []calpe.Hash {
	leaves := make([]calpe.Hash, len(entries))
	for i, e := range entries {
		b := e.Bytes()
		leaves[i] = merkle.LeafHash(b[:])
	}
	return leaves
}

// seal makes a checkpoint of everything.
func (w *world) seal() {
	root := merkle.Root(w.leaves())
	size := uint64(len(w.entries))
	note, err := receipt.SignCheckpoint(w.keys[w.identity.Origin], w.identity.Origin, size, root)
	if err != nil {
		w.t.Fatal(err)
	}
	w.head = calpe.Checkpoint{Size: size, Root: root, Note: note, Time: w.now}
	w.published[size] = w.head
}

// failure is the error of a read from the database or from object storage.
func (w *world) failure() error {
	w.fault.Lock()
	defer w.fault.Unlock()
	if w.down != nil && w.spare > 0 {
		w.spare--
		return nil
	}
	return w.down
}

// breakReads sets the error of every read behind the next few, also while others read.
func (w *world) breakReads(err error, spare int) {
	w.fault.Lock()
	defer w.fault.Unlock()
	w.down, w.spare = err, spare
}

// unavailable is what the intake makes of it.
func (w *world) unavailable() error {
	if err := w.failure(); err != nil {
		return &calpe.Error{Code: calpe.CodeUnavailable, Message: "Not now.", Err: err}
	}
	return nil
}

func documentID(index uint64) (id calpe.DocumentID) {
	binary.BigEndian.PutUint64(id[8:], index)
	return id
}

func (w *world) Upload(_ context.Context, u intake.Upload) (intake.Uploaded, error) {
	body, err := io.ReadAll(u.Body)
	if err != nil {
		return intake.Uploaded{}, fmt.Errorf("read document: %w", err)
	}
	if w.uploadErr != nil {
		return intake.Uploaded{}, w.uploadErr
	}
	digest := calpe.Digest(sha256.Sum256(body))
	switch {
	case len(body) == 0:
		return intake.Uploaded{}, calpe.Errorf(calpe.CodeEmptyDocument, "The document has no bytes.")
	case int64(len(body)) > w.config.MaxDocument:
		return intake.Uploaded{}, calpe.Errorf(calpe.CodeTooLarge, "The document is too large.")
	case u.ExpectedDigest != nil && *u.ExpectedDigest != digest:
		return intake.Uploaded{}, calpe.Errorf(calpe.CodeDigestMismatch, "The digest differs.")
	}
	index, existing, err := w.keyedIndex(u.Owner, u.IdempotencyKey, digest.String())
	if err != nil {
		return intake.Uploaded{}, err
	}
	if !existing {
		w.uploads = append(w.uploads, u)
		w.add(calpe.Commit(digest, calpe.Salt{7}))
		w.contents[documentID(index)] = body
		w.documents[documentID(index)] = intake.Document{
			ID: documentID(index), Index: index, Owner: u.Owner, Name: u.Name, MediaType: u.MediaType,
			Digest: digest, Salt: calpe.Salt{7}, Size: int64(len(body)), Created: w.now,
		}
	}
	ack, err := w.AcknowledgementOf(context.Background(), index)
	return intake.Uploaded{Document: w.documents[documentID(index)], Acknowledgement: ack, Existing: existing}, err
}

// keyedIndex is the index that a request gets, or has got before with its key.
func (w *world) keyedIndex(owner, key, tag string) (index uint64, existing bool, err error) {
	index = uint64(len(w.entries))
	if key == "" {
		return index, false, nil
	}
	earlier, ok := w.keyed[owner+" "+key]
	if ok && earlier.tag != tag {
		return 0, false, calpe.Errorf(calpe.CodeIdempotencyMismatch, "The key was used before.")
	}
	if ok {
		return earlier.first, true, nil
	}
	w.keyed[owner+" "+key] = used{tag, index, 1}
	return index, false, nil
}

// tagOf tells lists of commitments apart.
func tagOf(commitments []calpe.Commitment) string {
	h := sha256.New()
	for _, c := range commitments {
		h.Write(c[:])
	}
	return string(h.Sum(nil))
}

// keyAt names the group at an offset of the upload with that key.
func keyAt(key string, offset uint64) string {
	if key == "" || offset == 0 {
		return key
	}
	return fmt.Sprint(key, " ", offset)
}

func (w *world) Committed(_ context.Context, owner, key string, offset uint64) (intake.Recorded, error) {
	w.committing.Lock()
	defer w.committing.Unlock()
	if err := cmp.Or(w.commitErr, w.unavailable()); err != nil {
		return intake.Recorded{}, err
	}
	earlier, ok := w.keyed[owner+" "+keyAt(key, offset)]
	if !ok {
		return intake.Recorded{}, calpe.Errorf(calpe.CodeNotFound, "Nothing is recorded there.")
	}
	if _, isDocument := w.documents[documentID(earlier.first)]; isDocument {
		return intake.Recorded{}, calpe.Errorf(calpe.CodeIdempotencyMismatch, "The key was used for a document.")
	}
	ack, err := w.AcknowledgementOf(context.Background(), earlier.first)
	return intake.Recorded{First: earlier.first, Count: earlier.count, Existing: true, Acknowledgement: ack}, err
}

func (w *world) Commit(ctx context.Context, c intake.Commitments) (intake.Recorded, error) {
	if w.onCommit != nil {
		if err := w.onCommit(c); err != nil {
			return intake.Recorded{}, err
		}
	}
	w.committing.Lock()
	defer w.committing.Unlock()
	if err := ctx.Err(); err != nil {
		return intake.Recorded{}, &calpe.Error{Code: calpe.CodeUnavailable, Message: "Not known.", Err: err}
	}
	if w.commitErr != nil {
		return intake.Recorded{}, w.commitErr
	}
	if n := len(c.Commitments); n == 0 || n > calpe.MaxGroup || slices.ContainsFunc(c.Commitments, calpe.Commitment.IsVoid) {
		return intake.Recorded{}, errors.New("the API let a request through that the intake refuses")
	}
	key := keyAt(c.IdempotencyKey, c.Offset)
	first, existing, err := w.keyedIndex(c.Owner, key, tagOf(c.Commitments))
	if err != nil {
		return intake.Recorded{}, err
	}
	count := uint64(len(c.Commitments))
	if !existing {
		if key != "" {
			w.keyed[c.Owner+" "+key] = used{tagOf(c.Commitments), first, count}
		}
		for _, commitment := range c.Commitments {
			w.groups[w.add(commitment)] = first
		}
	}
	ack, err := w.AcknowledgementOf(context.Background(), first)
	return intake.Recorded{First: first, Count: count, Existing: existing, Acknowledgement: ack}, err
}

func (w *world) List(_ context.Context, q intake.Query) (list []intake.Listed, next uint64, err error) {
	for _, d := range w.documents {
		certifiedBy := ""
		if d.Certification != nil {
			certifiedBy = d.Certification.Agency
		}
		if d.Owner == q.Owner && d.Index >= q.Indices[0] && d.Index < q.Indices[1] && (q.Agency == "" || q.Agency == certifiedBy) &&
			!d.Created.Before(q.Created[0]) && (q.Created[1].IsZero() || d.Created.Before(q.Created[1])) {
			list = append(list, intake.Listed{Document: d, CertifiedBy: certifiedBy})
		}
	}
	slices.SortFunc(list, func(a, b intake.Listed) int { return cmp.Compare(b.Index, a.Index) })
	if len(list) > q.Limit {
		list = list[:q.Limit]
		next = list[q.Limit-1].Index
	}
	return list, next, w.unavailable()
}

func (w *world) Document(_ context.Context, id calpe.DocumentID, owner string) (intake.Document, error) {
	d, ok := w.documents[id]
	if !ok || d.Owner != owner {
		return intake.Document{}, calpe.Errorf(calpe.CodeNotFound, "There is no such document.")
	}
	return d, w.unavailable()
}

func (w *world) Content(_ context.Context, id calpe.DocumentID, _ string, offset, length int64) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(w.contents[id][offset : offset+length])), w.unavailable()
}

func (w *world) TokenByHash(_ context.Context, hash calpe.Hash) (calpe.Token, error) {
	if err := w.failure(); err != nil {
		return calpe.Token{}, err
	}
	t, ok := w.tokens[hash]
	if !ok {
		return calpe.Token{}, calpe.ErrNotFound
	}
	return t, nil
}

func (w *world) Entry(_ context.Context, index uint64) (calpe.Entry, error) {
	if err := w.failure(); err != nil {
		return calpe.Entry{}, err
	}
	if index >= uint64(len(w.entries)) {
		return calpe.Entry{}, calpe.ErrNotFound
	}
	return w.entries[index], nil
}

func (w *world) Statement(context.Context, uint64) (calpe.Statement, error) {
	return calpe.Statement{}, calpe.ErrNotFound
}

func (w *world) CheckpointHead(context.Context) (calpe.Checkpoint, error) {
	if err := w.failure(); err != nil {
		return calpe.Checkpoint{}, err
	}
	if w.head.Size == 0 {
		return calpe.Checkpoint{}, calpe.ErrNotFound
	}
	return w.head, nil
}

func (w *world) CheckpointAt(_ context.Context, size uint64) (calpe.Checkpoint, error) {
	if err := w.failure(); err != nil {
		return calpe.Checkpoint{}, err
	}
	if size != w.head.Size {
		return calpe.Checkpoint{}, calpe.ErrNotFound
	}
	return w.head, nil
}

func (w *world) Checkpoint(_ context.Context, size uint64) (calpe.Checkpoint, error) {
	if err := w.failure(); err != nil {
		return calpe.Checkpoint{}, err
	}
	cp, ok := w.published[size]
	if !ok {
		return calpe.Checkpoint{}, calpe.ErrNotFound
	}
	return cp, nil
}

func (w *world) AnchorFor(_ context.Context, index uint64) (calpe.Anchor, error) {
	if err := w.failure(); err != nil {
		return calpe.Anchor{}, err
	}
	if w.anchor == nil || index >= w.anchor.Size {
		return calpe.Anchor{}, calpe.ErrNotFound
	}
	return *w.anchor, nil
}

func (w *world) AnchorOfSize(_ context.Context, size uint64) (calpe.Anchor, error) {
	if err := w.failure(); err != nil {
		return calpe.Anchor{}, err
	}
	if w.anchor == nil || size != w.anchor.Size {
		return calpe.Anchor{}, calpe.ErrNotFound
	}
	return *w.anchor, nil
}

func (w *world) Agency(context.Context, string) (calpe.Agency, error) {
	return calpe.Agency{}, calpe.ErrNotFound
}

func (w *world) Proof(_ context.Context, e calpe.Entry, cp calpe.Checkpoint) ([]calpe.Hash, error) {
	if err := w.failure(); err != nil {
		return nil, err
	}
	return merkle.InclusionPath(leafHashes(w.entries[:cp.Size]), e.Index)
}

func (w *world) AcknowledgementOf(_ context.Context, index uint64) (intake.Acknowledgement, error) {
	if err := w.unavailable(); err != nil {
		return intake.Acknowledgement{}, err
	}
	first, end := index, index+1
	if group, ok := w.groups[index]; ok {
		for first, end = group, group; w.groups[end] == group && end < uint64(len(w.entries)); {
			end++
		}
	}
	leaves := leafHashes(w.entries[first:end])
	path, err := merkle.InclusionPath(leaves, index-first)
	if err != nil {
		return intake.Acknowledgement{}, err
	}
	ack := receipt.Acknowledgement{
		Log: w.identity.Hash(), First: first, Count: end - first, Root: merkle.Root(leaves), Time: w.now, Deadline: w.now.Add(time.Hour),
	}
	note, err := receipt.SignAcknowledgement(w.keys[receipt.AcknowledgementKeyName(w.identity.Origin)], ack)
	return intake.Acknowledgement{Note: note, Path: path, First: first, Count: end - first}, err
}

func (w *world) Watermarks(context.Context) (calpe.Watermarks, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.looks++
	m := w.marks
	m.Next, m.Checkpointed = uint64(len(w.entries)), w.head.Size
	return m, w.failure()
}

func (w *world) Outlook(context.Context) (api.Outlook, error) {
	o := api.Outlook{Funds: api.FundsLow, AnchorsLeft: 42, AnchorsNow: 420, FeeRate: 2500}
	if len(w.anchors) > 0 {
		o.LastAttempt = w.now.Add(-20 * time.Minute)
	}
	return o, w.failure()
}

func (w *world) Before(_ context.Context, height, position uint32, limit int) (list []calpe.Anchor, err error) {
	for _, a := range slices.Backward(w.anchors) {
		if len(list) < limit && (a.Height < height || a.Height == height && a.Position < position) {
			list = append(list, a)
		}
	}
	return list, w.failure()
}

func (w *world) Chain(_ context.Context, first uint64, limit int) ([]calpe.Anchor, error) {
	rest := w.anchors[min(first, uint64(len(w.anchors))):]
	return rest[:min(limit, len(rest))], w.failure()
}

func (w *world) Breaks(context.Context) ([]calpe.ChainBreak, error) { return w.breaks, w.failure() }

func (w *world) ByTxID(_ context.Context, txid calpe.BlockHash) (calpe.Anchor, error) {
	for _, a := range w.anchors {
		if a.TxID == txid {
			return a, w.failure()
		}
	}
	return calpe.Anchor{}, cmp.Or(w.failure(), calpe.ErrNotFound)
}

func doubleHash(b []byte) calpe.BlockHash {
	once := sha256.Sum256(b)
	return sha256.Sum256(once[:])
}

// transaction makes one with an input and an output.
func transaction(spends calpe.Outpoint, input, output []byte) []byte {
	tx := append([]byte{2, 0, 0, 0, 1}, spends.TxID[:]...)
	tx = binary.LittleEndian.AppendUint32(tx, spends.Vout)
	tx = append(append(tx, byte(len(input))), input...)
	tx = append(tx, 0xfd, 0xff, 0xff, 0xff, 1, 0, 0, 0, 0, 0, 0, 0, 0, byte(len(output)))
	return append(append(tx, output...), 0, 0, 0, 0)
}

// mine puts an anchor of the newest checkpoint into a block: its coinbase, and
// the anchor.
func (w *world) mine(height uint32, final bool) calpe.Anchor {
	w.t.Helper()
	payload := calpe.Payload{Size: w.head.Size, Root: w.head.Root}
	coinbase := transaction(calpe.Outpoint{Vout: math.MaxUint32}, []byte{1, byte(height), 0, 0}, []byte{0x51})
	tx := transaction(calpe.Outpoint{TxID: calpe.BlockHash{byte(height)}}, nil, payload.Script())
	ids := [2]calpe.BlockHash{doubleHash(coinbase), doubleHash(tx)}
	root := doubleHash(slices.Concat(ids[0][:], ids[1][:]))
	a := calpe.Anchor{
		Payload: payload, Tx: tx, TxID: ids[1], Height: height, Position: 1, Branch: []calpe.BlockHash{ids[0]},
		Coinbase: coinbase, CoinbaseBranch: []calpe.BlockHash{ids[1]}, Depth: 2, Final: final,
	}
	copy(a.Header[36:], root[:])
	binary.LittleEndian.PutUint32(a.Header[68:], uint32(w.now.Unix()))
	a.Block = doubleHash(a.Header[:])
	w.anchors, w.anchor = append(w.anchors, a), &a
	w.mu.Lock()
	defer w.mu.Unlock()
	w.marks.Broadcast, w.marks.Confirmed = a.Size, a.Size
	if final {
		w.marks.Final = a.Size
	}
	return a
}

func (w *world) ReadLogObject(_ context.Context, path string, _ int64) ([]byte, error) {
	if err := w.failure(); err != nil {
		return nil, err
	}
	if path != "tile/0/000.p/1" {
		return nil, calpe.ErrNotFound
	}
	leaf := w.leaves()[0]
	return leaf[:], nil
}

type answer struct {
	status int
	header http.Header
	body   []byte
}

func (a answer) code(t *testing.T) string {
	t.Helper()
	if got := a.header.Get("Content-Type"); got != "application/problem+json" {
		t.Fatalf("status %d with Content-Type %q, want a problem: %s", a.status, got, a.body)
	}
	var p struct {
		Type, Title, Code string
		Status            int
	}
	if err := json.Unmarshal(a.body, &p); err != nil {
		t.Fatal(err)
	}
	if p.Status != a.status || p.Type != "urn:calpe:error:"+p.Code || p.Title == "" {
		t.Errorf("problem %s doesn't fit status %d", a.body, a.status)
	}
	return p.Code
}

func (w *world) do(method, path string, body io.Reader, header ...string) answer {
	w.t.Helper()
	r := httptest.NewRequest(method, path, body)
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	rec := httptest.NewRecorder()
	w.server.ServeHTTP(rec, r)
	return answer{rec.Code, rec.Header(), rec.Body.Bytes()}
}

func (w *world) as(token, method, path string, body io.Reader, header ...string) answer {
	w.t.Helper()
	return w.do(method, path, body, append(header, "Authorization", "Bearer "+token)...)
}

type part struct {
	header textproto.MIMEHeader
	body   string
}

func formPart(name, file, body string, header ...string) part {
	disposition := fmt.Sprintf("form-data; name=%q", name)
	if file != "" {
		disposition += fmt.Sprintf("; filename=%q", file)
	}
	h := textproto.MIMEHeader{"Content-Disposition": {disposition}}
	for i := 0; i < len(header); i += 2 {
		h.Set(header[i], header[i+1])
	}
	return part{h, body}
}

func form(t *testing.T, parts ...part) (body []byte, contentType string) {
	t.Helper()
	var b bytes.Buffer
	m := multipart.NewWriter(&b)
	for _, p := range parts {
		w, err := m.CreatePart(p.header)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(w, p.body)
	}
	m.Close()
	return b.Bytes(), m.FormDataContentType()
}

func contentDigest(body string) string {
	d := sha256.Sum256([]byte(body))
	return "sha-256=:" + base64.StdEncoding.EncodeToString(d[:]) + ":"
}
