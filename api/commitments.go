package api

import (
	"errors"
	"io"
	"mime"
	"net/http"
	"strconv"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/intake"
	"github.com/calpe/calpe/receipt/statement"
)

// The media types in which commitments can be sent.
const (
	typeJSON   = "application/json"
	typeNDJSON = "application/x-ndjson"
	typeBinary = "application/octet-stream"
)

const (
	maxSmallBody = 4 << 10 // a JSON request
	maxLine      = 512     // of NDJSON; one commitment takes 82 bytes
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

// postCommitments records one commitment as JSON, or a stream of them.
func (s *Server) postCommitments(w http.ResponseWriter, r *http.Request) error {
	owner, err := s.authenticate(r, ScopeCommitments)
	if err != nil {
		return err
	}
	key, err := idempotencyKey(r)
	if err != nil {
		return err
	}
	offset, err := readOffset(r)
	if err != nil {
		return err
	}
	if err := s.accounts.admit(owner, 1, calpe.HashSize); err != nil {
		return err
	}
	mediaType := typeJSON
	if header := r.Header.Get("Content-Type"); header != "" {
		mediaType, _, _ = mime.ParseMediaType(header)
	}
	switch mediaType {
	case typeJSON:
		return s.postCommitment(w, r, intake.Commitments{Owner: owner, IdempotencyKey: key, Offset: offset})
	case typeNDJSON, typeBinary:
		return s.postStream(w, r, stream{owner: owner, key: key, offset: offset, lines: mediaType == typeNDJSON})
	}
	return calpe.Errorf(calpe.CodeUnsupportedMedia, "Commitments are sent as %s, %s or %s.", typeJSON, typeNDJSON, typeBinary)
}

func (s *Server) postCommitment(w http.ResponseWriter, r *http.Request, c intake.Commitments) (err error) {
	if c.Offset != 0 {
		return calpe.Errorf(calpe.CodeInvalidRequest, "A single commitment has no offset.")
	}
	if c.Commitments, err = readOne(s.paced(w, r, maxSmallBody)); err != nil {
		return err
	}
	s.accounts.charge(c.Owner, 1, calpe.HashSize)
	recorded, err := s.cfg.Intake.Commit(r.Context(), c)
	if err != nil {
		return err
	}
	w.Header().Set("Location", entryAddress(recorded.First))
	return writeJSON(w, http.StatusCreated, commitmentAnswer{
		Index: recorded.First, Commitment: c.Commitments[0], State: calpe.Received, Acknowledgement: acknowledged(recorded.Acknowledgement),
	})
}

func entryAddress(index uint64) string { return "/v1/entries/" + strconv.FormatUint(index, 10) }

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
	return &calpe.Error{Code: calpe.CodeInvalidRequest, Message: "The body can't be read to its end; " + nothingKept + ".", Err: err}
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

func noCommitments() error {
	return calpe.Errorf(calpe.CodeInvalidRequest, "The body has no commitment.")
}
