package api

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/intake"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/statement"
)

// The media types in which commitments can be sent.
const (
	typeJSON   = "application/json"
	typeNDJSON = "application/x-ndjson"
	typeBinary = "application/octet-stream"
)

// Limits on commitments. A request holds up to calpe.MaxGroup of them.
const (
	maxSmallBody  = 4 << 10              // a JSON request
	maxLine       = 512                  // of NDJSON; one commitment takes 82 bytes
	maxLines      = calpe.MaxGroup * 128 // bytes of an NDJSON request
	maxPacked     = calpe.MaxGroup * calpe.HashSize
	maxBulkAtOnce = 16 // each holds some 12 MiB until it is answered
)

// commitmentRequest is one commitment as JSON. The pointer tells a missing
// member from one of zeros.
type commitmentRequest struct {
	Commitment *calpe.Commitment `json:"commitment"`
}

type commitmentAnswer struct {
	Index           uint64                 `json:"index"`
	Commitment      calpe.Commitment       `json:"commitment"`
	State           calpe.State            `json:"state"`
	Acknowledgement *acknowledgementAnswer `json:"acknowledgement"`
}

// bulkAnswer is what all commitments of a request have in common.
type bulkAnswer struct {
	First           uint64     `json:"first"`
	Count           int        `json:"count"`
	Acknowledgement bulkSigned `json:"acknowledgement"`
}

type bulkSigned struct {
	Note string `json:"note"`
	// Path of the only commitment, whose group holds others' too. The paths of
	// several follow from the request: their group is theirs alone.
	Path *receipt.Path `json:"path,omitempty"`
}

// lineAnswer is what each commitment of an NDJSON request gets.
type lineAnswer struct {
	Index uint64       `json:"index"`
	Path  receipt.Path `json:"path"`
}

// postCommitments records one commitment as JSON, or many as NDJSON or packed.
// Either all are recorded, with indices in a row, or none.
func (s *Server) postCommitments(w http.ResponseWriter, r *http.Request) error {
	owner, err := s.authenticate(r, ScopeCommitments)
	if err != nil {
		return err
	}
	key, err := idempotencyKey(r)
	if err != nil {
		return err
	}
	mediaType := typeJSON
	if header := r.Header.Get("Content-Type"); header != "" {
		mediaType, _, _ = mime.ParseMediaType(header)
	}
	if mediaType != typeJSON {
		select {
		case s.bulk <- struct{}{}:
			defer func() { <-s.bulk }()
		default:
			return calpe.Errorf(calpe.CodeTooManyRequests, "%d requests with many commitments are being read already.", maxBulkAtOnce)
		}
	}
	commitments, err := s.readCommitments(w, r, mediaType)
	if err != nil {
		return err
	}
	recorded, err := s.cfg.Intake.Commit(r.Context(), intake.Commitments{Commitments: commitments, Owner: owner, IdempotencyKey: key})
	if err != nil {
		return err
	}
	w.Header().Set("Location", "/v1/entries/"+strconv.FormatUint(recorded.First, 10))
	return s.answerCommitments(w, mediaType, commitments, recorded)
}

func (s *Server) readCommitments(w http.ResponseWriter, r *http.Request, mediaType string) ([]calpe.Commitment, error) {
	switch mediaType {
	case typeJSON:
		return readOne(s.paced(w, r, maxSmallBody))
	case typeNDJSON:
		return readLines(s.paced(w, r, maxLines))
	case typeBinary:
		return readPacked(s.paced(w, r, maxPacked))
	}
	return nil, calpe.Errorf(calpe.CodeUnsupportedMedia, "Commitments are sent as %s, %s or %s.", typeJSON, typeNDJSON, typeBinary)
}

func readOne(body io.Reader) ([]calpe.Commitment, error) {
	data, err := io.ReadAll(body)
	if err != nil {
		return nil, bodyError(err)
	}
	c, err := parseCommitment(data)
	if err != nil {
		return nil, calpe.Errorf(calpe.CodeInvalidRequest, "Send {\"commitment\": \"…\"} with 64 lower-case hexadecimal digits: %v.", err)
	}
	return []calpe.Commitment{c}, nil
}

// bodyError is an error of a body that is read whole: whatever has no code is a
// connection that broke.
func bodyError(err error) error {
	if coded := clientError(err); calpe.ErrorCode(coded) != calpe.CodeInternal {
		return coded
	}
	return &calpe.Error{Code: calpe.CodeInvalidRequest, Message: "The body can't be read to its end; nothing was kept.", Err: err}
}

func parseCommitment(data []byte) (calpe.Commitment, error) {
	var request commitmentRequest
	if err := statement.Decode(data, &request); err != nil {
		return calpe.Commitment{}, err
	}
	if request.Commitment == nil || request.Commitment.IsVoid() {
		return calpe.Commitment{}, errVoid
	}
	return *request.Commitment, nil
}

var errVoid = errors.New("nobody may submit nothing, or the void commitment of zeros")

// readLines reads NDJSON: an object a line, and no other line.
func readLines(body io.Reader) ([]calpe.Commitment, error) {
	lines := bufio.NewScanner(body)
	lines.Buffer(make([]byte, 0, maxLine), maxLine)
	var commitments []calpe.Commitment
	for lines.Scan() {
		if len(commitments) == calpe.MaxGroup {
			return nil, tooManyCommitments()
		}
		c, err := parseCommitment(lines.Bytes())
		if err != nil {
			return nil, calpe.Errorf(calpe.CodeInvalidRequest, "Line %d must be {\"commitment\": \"…\"} with 64 lower-case hexadecimal digits: %v.", len(commitments)+1, err)
		}
		commitments = append(commitments, c)
	}
	switch err := lines.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return nil, calpe.Errorf(calpe.CodeTooLarge, "Line %d is longer than %d bytes.", len(commitments)+1, maxLine)
	case err != nil:
		return nil, bodyError(err)
	case len(commitments) == 0:
		return nil, noCommitments()
	}
	return commitments, nil
}

// readPacked reads commitments of 32 bytes, one behind the other.
func readPacked(body io.Reader) ([]calpe.Commitment, error) {
	data, err := io.ReadAll(body)
	if err != nil {
		return nil, bodyError(err)
	}
	if len(data) == 0 {
		return nil, noCommitments()
	}
	if len(data)%calpe.HashSize != 0 {
		return nil, calpe.Errorf(calpe.CodeInvalidRequest, "%d bytes are no whole number of commitments of %d bytes each.", len(data), calpe.HashSize)
	}
	commitments := make([]calpe.Commitment, len(data)/calpe.HashSize)
	for i := range commitments {
		commitments[i] = calpe.Commitment(data[i*calpe.HashSize:])
		if commitments[i].IsVoid() {
			return nil, calpe.Errorf(calpe.CodeInvalidRequest, "Commitment %d, from 0: %v.", i, errVoid)
		}
	}
	return commitments, nil
}

func noCommitments() error {
	return calpe.Errorf(calpe.CodeInvalidRequest, "The body has no commitment.")
}

func tooManyCommitments() error {
	return calpe.Errorf(calpe.CodeTooLarge, "A request may have up to %d commitments.", calpe.MaxGroup)
}

// answerCommitments answers in the manner of the request.
func (s *Server) answerCommitments(w http.ResponseWriter, mediaType string, commitments []calpe.Commitment, recorded intake.Recorded) error {
	ack := recorded.Acknowledgement
	if mediaType == typeJSON {
		return writeJSON(w, http.StatusCreated, commitmentAnswer{
			Index: recorded.First, Commitment: commitments[0], State: calpe.Received, Acknowledgement: acknowledged(ack),
		})
	}
	answer := bulkAnswer{First: recorded.First, Count: len(commitments), Acknowledgement: bulkSigned{Note: string(ack.Note)}}
	paths, err := pathsOf(commitments, recorded)
	if err != nil {
		return err
	}
	if mediaType == typeBinary {
		if len(commitments) == 1 {
			answer.Acknowledgement.Path = (*receipt.Path)(&ack.Path)
		}
		return writeJSON(w, http.StatusCreated, answer)
	}
	return s.writeLines(w, answer, paths)
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

// writeLines answers a request of NDJSON: a line for all, then one for each.
func (s *Server) writeLines(w http.ResponseWriter, answer bulkAnswer, paths func(i int) ([]calpe.Hash, error)) error {
	var body bytes.Buffer
	lines := json.NewEncoder(&body)
	if err := lines.Encode(answer); err != nil {
		return err
	}
	for i := range answer.Count {
		path, err := paths(i)
		if err != nil {
			return err
		}
		if err := lines.Encode(lineAnswer{answer.First + uint64(i), receipt.Path(path)}); err != nil {
			return err
		}
	}
	w.Header().Set("Content-Type", typeNDJSON)
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(http.StatusCreated)
	// The status is out: a client that is gone asks again with its Idempotency-Key.
	_, _ = body.WriteTo(s.pacedAnswer(w))
	return nil
}
