package api

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/intake"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt"
)

// StreamGroup is how many commitments of a stream make one commit group; the last
// one has what is left. It is fixed, so that the same request always comes to the
// same groups, and a repeated one finds each.
const StreamGroup = 8192

// stream is a request with many commitments.
type stream struct {
	owner, key string
	offset     uint64 // of the upload's commitments, how many come before this request's
	lines      bool   // NDJSON; else packed
}

// groupLine is the answer for a group.
type groupLine struct {
	Offset          uint64      `json:"offset"` // of the upload's commitments, how many come before
	First           uint64      `json:"first"`
	Count           uint64      `json:"count"`
	Acknowledgement groupSigned `json:"acknowledgement"`
}

type groupSigned struct {
	Note string `json:"note"`
	// Path of the only commitment, whose group holds others' too. The paths of
	// several follow from the request: their group is theirs alone.
	Path *receipt.Path `json:"path,omitempty"`
}

func lineOf(offset uint64, recorded intake.Recorded) groupLine {
	line := groupLine{offset, recorded.First, recorded.Count, groupSigned{Note: string(recorded.Acknowledgement.Note)}}
	if recorded.Count == 1 {
		line.Acknowledgement.Path = (*receipt.Path)(&recorded.Acknowledgement.Path)
	}
	return line
}

// pathLine is what each commitment of an NDJSON request gets, behind its group.
type pathLine struct {
	Index uint64       `json:"index"`
	Path  receipt.Path `json:"path"`
}

// endLine is the last line, if all went well: how many of the upload's
// commitments are recorded.
type endLine struct {
	Recorded uint64 `json:"recorded"`
}

// errorLine is the last line, if it didn't.
type errorLine struct {
	Error      problem `json:"error"`
	Offset     uint64  `json:"offset"` // where to go on
	RetryAfter int     `json:"retry_after,omitempty"`
}

// readOffset reads where in the upload the request begins.
func readOffset(r *http.Request) (uint64, error) {
	query := r.URL.Query()
	if err := known(query, "offset"); err != nil {
		return 0, err
	}
	text, given := query.Get("offset"), query.Has("offset")
	if !given {
		return 0, nil
	}
	offset, err := plainNumber(text)
	if err != nil || offset%StreamGroup != 0 {
		return 0, calpe.Errorf(calpe.CodeInvalidRequest, "offset must be a number of commitments at which a group begins: a multiple of %d.", StreamGroup)
	}
	return offset, nil
}

// postStream records commitments as they come, in groups that are recorded whole
// or not at all, and answers each group as soon as it is durable. Memory doesn't
// depend on the request's length: of the three stages (read, commit, answer) each
// waits for the next.
//
// An error before the first group is answered is the answer's status; a later one
// is its last line. What was answered stays.
func (s *Server) postStream(w http.ResponseWriter, r *http.Request, u stream) error {
	leave, err := s.enter(u.owner)
	if err != nil {
		return err
	}
	defer leave()
	if err := s.continues(r.Context(), u, w.Header()); err != nil {
		return err
	}
	control := http.NewResponseController(w)
	// Without it net/http reads the whole body before it sends anything (HTTP/2
	// needs none of it, and a test's recorder has none).
	if err := control.EnableFullDuplex(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if r.ProtoMajor == 1 {
		// With full duplex net/http doesn't see to it that a body which isn't read to
		// its end is not taken for the next request.
		w.Header().Set("Connection", "close")
	}
	// A read that fails ends the request's own context, and its client may still
	// wait for the answer.
	ctx, cancel := context.WithCancel(context.WithoutCancel(r.Context()))
	defer cancel()
	a := &streamAnswer{s: s, w: w, r: r, stream: u, status: http.StatusCreated}
	groups := make(chan *streamGroup, groupsAhead)
	var answering sync.WaitGroup
	answering.Go(func() {
		err = a.answer(groups)
		cancel()
		if err != nil || a.failed { // don't wait for a client that waits for the answer
			_ = control.SetReadDeadline(s.cfg.Now())
		}
	})
	s.readGroups(ctx, u, newGroupReader(s.paced(w, r, math.MaxInt64-1), u.lines), groups)
	answering.Wait()
	if err != nil || a.failed {
		// To close a connection with bytes unread would take the answer from the
		// client: net/http reads on for a while.
		_ = control.SetReadDeadline(s.cfg.Now().Add(lingerTime))
	}
	return err
}

// groupsAhead is how many groups of a stream may be on their way to the database
// behind the one that is answered next: enough for it never to wait.
const groupsAhead = 3

// lingerTime is how long a client that was refused may go on sending.
const lingerTime = 2 * time.Second

// enter takes a place for a request with many commitments.
func (s *Server) enter(owner string) (leave func(), err error) {
	done, err := s.accounts.begin(owner)
	if err != nil {
		return nil, err
	}
	select {
	case s.uploads <- struct{}{}:
		return func() { <-s.uploads; done() }, nil
	default:
		done()
		return nil, calpe.Errorf(calpe.CodeTooManyRequests, "%d requests with many commitments are being read already.", s.cfg.Uploads)
	}
}

// continues checks that what comes before the request's offset is recorded.
func (s *Server) continues(ctx context.Context, u stream, header http.Header) error {
	if u.offset == 0 {
		return nil
	}
	if u.key == "" {
		return calpe.Errorf(calpe.CodeInvalidRequest, "Only an upload with an Idempotency-Key can be gone on with at an offset.")
	}
	before, err := s.cfg.Intake.Committed(ctx, u.owner, u.key, u.offset-StreamGroup)
	if calpe.ErrorCode(err) == calpe.CodeNotFound || err == nil && before.Count != StreamGroup {
		return calpe.Errorf(calpe.CodeInvalidRequest, "Of this upload less is recorded than offset says; a GET with its Idempotency-Key tells how much.")
	}
	header.Set("Location", entryAddress(before.First)) // if nothing more comes
	return err
}

// streamGroup is a group on its way through the stages.
type streamGroup struct {
	offset      uint64
	commitments []calpe.Commitment
	done        chan committed // capacity 1
}

type committed struct {
	recorded intake.Recorded
	err      error
}

// readGroups sends on what it reads, and what became of it or why there is no
// more, and closes groups when there is nothing to come.
func (s *Server) readGroups(ctx context.Context, u stream, reader *groupReader, groups chan<- *streamGroup) {
	var committing sync.WaitGroup
	defer committing.Wait()
	defer close(groups)
	for offset := u.offset; ctx.Err() == nil; {
		commitments, end := reader.next()
		g := &streamGroup{offset: offset, commitments: commitments, done: make(chan committed, 1)}
		err := end
		if errors.Is(end, io.EOF) {
			err = nil
		}
		if err == nil && len(commitments) > 0 {
			err = s.pace(ctx, u.owner, commitments)
		}
		if err == nil && len(commitments) == 0 {
			return
		}
		select {
		case groups <- g:
		case <-ctx.Done():
			return
		}
		if err != nil {
			g.done <- committed{err: err}
			return
		}
		committing.Go(func() {
			recorded, err := s.cfg.Intake.Commit(ctx, intake.Commitments{Commitments: g.commitments, Owner: u.owner, IdempotencyKey: u.key, Offset: g.offset})
			g.done <- committed{recorded, err}
		})
		if end != nil {
			return
		}
		offset += uint64(len(commitments))
	}
}

// longestPause is how long a stream waits for its account's limit. Above it the
// client is told to come back.
const longestPause = 30 * time.Second

// pace waits until the owner may have the group recorded.
func (s *Server) pace(ctx context.Context, owner string, commitments []calpe.Commitment) error {
	entries, bytes := int64(len(commitments)), int64(len(commitments)*calpe.HashSize)
	for {
		err := s.accounts.admit(owner, entries, bytes)
		later, ok := errors.AsType[*laterError](err)
		if err == nil {
			s.accounts.charge(owner, entries, bytes)
			return nil
		}
		if !ok || later.after > longestPause {
			return err
		}
		timer := time.NewTimer(later.after)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
}

// streamAnswer writes the answer of a stream. It is used by one goroutine.
type streamAnswer struct {
	s *Server
	w http.ResponseWriter
	r *http.Request
	stream
	status int  // if all goes well
	begun  bool // it is out
	failed bool // the last line is an error
	lines  *bufio.Writer
}

// answer answers the groups in their order. Its error is one that the client can
// still be told by the status.
func (a *streamAnswer) answer(groups <-chan *streamGroup) error {
	next := a.offset
	for g := range groups {
		c := <-g.done
		if c.err == nil {
			c.err = a.group(g, c.recorded)
		}
		// Crash here, or a client that has gone: the group is recorded. The same
		// request with the same key gets this answer again.
		if c.err != nil {
			return a.fail(next, c.err)
		}
		next += uint64(len(g.commitments))
	}
	if next == 0 {
		return noCommitments()
	}
	a.begin()
	return a.fail(next, a.write(endLine{next}))
}

// errGone: the client takes no answer, or is gone.
var errGone = errors.New("the client doesn't take the answer")

// fail ends the answer with an error, if there is one, and gives back what the
// client can still be told by the status.
func (a *streamAnswer) fail(next uint64, err error) error {
	if err == nil || !a.begun {
		return err
	}
	a.failed = true
	if errors.Is(err, errGone) {
		return nil
	}
	p, retryAfter := a.s.problemOf(a.r, err)
	_ = a.write(errorLine{p, next, retryAfter}) // who is gone can't be told anything more
	return nil
}

// begin sends the header, once.
func (a *streamAnswer) begin() {
	if a.begun {
		return
	}
	a.begun = true
	a.lines = bufio.NewWriterSize(a.s.pacedAnswer(a.w), pacedChunk)
	h := a.w.Header()
	h.Set("Content-Type", typeNDJSON)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // a proxy must pass each line on at once
	a.w.WriteHeader(a.status)
}

// write sends a line, and what was written before it.
func (a *streamAnswer) write(line any) error {
	if err := json.NewEncoder(a.lines).Encode(line); err != nil {
		return err
	}
	return a.flush()
}

func (a *streamAnswer) flush() error {
	if err := a.lines.Flush(); err != nil {
		return errors.Join(errGone, err)
	}
	if err := http.NewResponseController(a.w).Flush(); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return errors.Join(errGone, err)
	}
	return nil
}

// group sends the lines of a group.
func (a *streamAnswer) group(g *streamGroup, recorded intake.Recorded) error {
	var paths func(i int) ([]calpe.Hash, error)
	if a.stream.lines {
		var err error
		if paths, err = pathsOf(g.commitments, recorded); err != nil {
			return err
		}
	}
	if !a.begun {
		a.w.Header().Set("Location", entryAddress(recorded.First))
	}
	a.begin()
	lines := json.NewEncoder(a.lines)
	if err := lines.Encode(lineOf(g.offset, recorded)); err != nil {
		return errors.Join(errGone, err)
	}
	for i := range g.commitments {
		if paths == nil {
			break
		}
		path, err := paths(i)
		if err != nil {
			return err
		}
		if err := lines.Encode(pathLine{recorded.First + uint64(i), receipt.Path(path)}); err != nil {
			return errors.Join(errGone, err)
		}
	}
	return a.flush()
}

// pathsOf gives the path of each commitment in its group. It never gives one
// that doesn't lead to the root which was signed.
func pathsOf(commitments []calpe.Commitment, recorded intake.Recorded) (func(i int) ([]calpe.Hash, error), error) {
	if len(commitments) == 1 {
		return func(int) ([]calpe.Hash, error) { return recorded.Acknowledgement.Path, nil }, nil
	}
	leaves := make([]calpe.Hash, len(commitments))
	for i, c := range commitments {
		entry := calpe.Entry{Index: recorded.First + uint64(i), Commitment: c}.Bytes()
		leaves[i] = merkle.LeafHash(entry[:])
	}
	tree := merkle.NewTree(leaves)
	signed, err := receipt.ReadAcknowledgement(recorded.Acknowledgement.Note)
	if err != nil {
		return nil, err
	}
	if signed.First != recorded.First || signed.Root != tree.Root() {
		return nil, errors.New("the acknowledgement isn't that of the request's own group")
	}
	return func(i int) ([]calpe.Hash, error) { return tree.InclusionPath(uint64(i)) }, nil
}

// groupReader reads the commitments of a stream.
type groupReader struct {
	body  *pacedBody
	lines *bufio.Scanner // of NDJSON; nil: packed
	buf   []byte         // of packed
	read  int            // commitments so far
}

func newGroupReader(body *pacedBody, lines bool) *groupReader {
	g := &groupReader{body: body}
	if !lines {
		g.buf = make([]byte, StreamGroup*calpe.HashSize)
		return g
	}
	g.lines = bufio.NewScanner(bufio.NewReaderSize(body, 32<<10))
	g.lines.Buffer(make([]byte, 0, maxLine), maxLine)
	return g
}

// next reads a group. The error io.EOF comes with the last one, which may be
// empty; with any other error nothing of the group may be recorded.
func (g *groupReader) next() (commitments []calpe.Commitment, err error) {
	g.body.nextPart()
	if g.lines == nil {
		commitments, err = g.packed()
	} else {
		commitments, err = g.fromLines()
	}
	g.read += len(commitments)
	if e, ok := errors.AsType[*calpe.Error](err); ok {
		err = &calpe.Error{Code: e.Code, Message: strings.Replace(e.Message, nothingKept, "nothing of this group was recorded", 1), Err: err}
	}
	return commitments, err
}

// packed reads commitments of 32 bytes, one behind the other.
func (g *groupReader) packed() ([]calpe.Commitment, error) {
	n, err := io.ReadFull(g.body, g.buf)
	ended := errors.Is(g.body.err, io.EOF)
	if err != nil && !ended {
		return nil, bodyError(err)
	}
	if left := n % calpe.HashSize; left != 0 {
		return nil, calpe.Errorf(calpe.CodeInvalidRequest, "Behind %d commitments of %d bytes there are %d bytes more; "+nothingKept+".",
			g.read+n/calpe.HashSize, calpe.HashSize, left)
	}
	commitments := make([]calpe.Commitment, n/calpe.HashSize)
	for i := range commitments {
		commitments[i] = calpe.Commitment(g.buf[i*calpe.HashSize:])
		if commitments[i].IsVoid() {
			return nil, calpe.Errorf(calpe.CodeInvalidRequest, "Commitment %d of the request, from 0: %v; "+nothingKept+".", g.read+i, errVoid)
		}
	}
	if err != nil {
		err = io.EOF
	}
	return commitments, err
}

// fromLines reads NDJSON: an object a line, and no other line.
func (g *groupReader) fromLines() (commitments []calpe.Commitment, err error) {
	for len(commitments) < StreamGroup {
		line := g.read + len(commitments) + 1
		if !g.lines.Scan() {
			switch err := g.lines.Err(); {
			case errors.Is(err, bufio.ErrTooLong):
				return nil, calpe.Errorf(calpe.CodeTooLarge, "Line %d is longer than %d bytes; "+nothingKept+".", line, maxLine)
			case err != nil:
				return nil, bodyError(err)
			}
			return commitments, io.EOF
		}
		c, err := parseLine(g.lines.Bytes())
		if err != nil {
			return nil, calpe.Errorf(calpe.CodeInvalidRequest,
				"Line %d must be {\"commitment\": \"…\"} with 64 lower-case hexadecimal digits: %v; "+nothingKept+".", line, err)
		}
		commitments = append(commitments, c)
	}
	return commitments, nil
}

// parseLine is parseCommitment, with a short way for the usual spelling.
func parseLine(line []byte) (calpe.Commitment, error) {
	const head, tail = `{"commitment":"`, `"}`
	if len(line) != len(head)+2*calpe.HashSize+len(tail) || string(line[:len(head)]) != head || string(line[len(line)-len(tail):]) != tail {
		return parseCommitment(line)
	}
	c, err := calpe.ParseCommitment(string(line[len(head) : len(line)-len(tail)]))
	if err == nil && c.IsVoid() {
		err = errVoid
	}
	return c, err
}

// getCommitments tells which groups of an upload are recorded, with the answers
// that those were given.
func (s *Server) getCommitments(w http.ResponseWriter, r *http.Request) error {
	owner, err := s.authenticate(r, ScopeCommitments)
	if err != nil {
		return err
	}
	key, err := idempotencyKey(r)
	if err != nil {
		return err
	}
	if key == "" {
		return calpe.Errorf(calpe.CodeInvalidRequest, "Say of which upload: send its Idempotency-Key.")
	}
	offset, err := readOffset(r)
	if err != nil {
		return err
	}
	a := &streamAnswer{s: s, w: w, r: r, status: http.StatusOK}
	for {
		recorded, err := s.cfg.Intake.Committed(r.Context(), owner, key, offset)
		switch {
		case calpe.ErrorCode(err) == calpe.CodeNotFound:
			a.begin()
			return a.fail(offset, a.write(endLine{offset}))
		case err == nil:
			a.begin()
			err = a.write(lineOf(offset, recorded))
		}
		if err != nil {
			return a.fail(offset, err)
		}
		if offset += recorded.Count; recorded.Count != StreamGroup {
			return a.fail(offset, a.write(endLine{offset}))
		}
	}
}
