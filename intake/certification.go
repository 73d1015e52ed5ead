package intake

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt/statement"
)

// certified is a certification whose signature has been verified. Whether it is
// about the document shows when the document is there.
type certified struct {
	signed statement.Signed
	body   statement.Certification
}

// checkCertification judges a certification before the body is read: nil if
// there is none.
func (s *Service) checkCertification(ctx context.Context, data []byte) (*certified, error) {
	if len(data) == 0 {
		return nil, nil
	}
	signed, err := statement.Parse(data)
	if err != nil {
		return nil, &calpe.Error{Code: calpe.CodeCertification, Message: "the certification can't be read: " + err.Error(), Err: err}
	}
	body, ok := signed.Body().(statement.Certification)
	if !ok {
		return nil, calpe.Errorf(calpe.CodeCertification, "the certification is a statement of another type, %s", signed.Body().Type())
	}
	agency, err := s.cfg.Agencies.Agency(ctx, body.Agency)
	if errors.Is(err, calpe.ErrNotFound) {
		return nil, calpe.Errorf(calpe.CodeCertification, "agency %q is not registered here", body.Agency)
	}
	if err != nil {
		return nil, unavailable(err)
	}
	if err := signed.Verify(agency.Key); err != nil {
		return nil, &calpe.Error{Code: calpe.CodeCertification, Message: "the certification is not signed by the registered key of agency " + agency.ID, Err: err}
	}
	return &certified{signed, body}, checkDates(body, s.cfg.Now())
}

// checkDates refuses what isn't issued yet or isn't valid any more. Dates have no
// time zone, so each counts as long as it is that day anywhere.
func checkDates(body statement.Certification, now time.Time) error {
	const dateForm = "2006-01-02"
	if latest := now.UTC().Add(14 * time.Hour).Format(dateForm); string(body.Issued) > latest {
		return calpe.Errorf(calpe.CodeCertification, "the certification is issued on %s, which is in the future", body.Issued)
	}
	if earliest := now.UTC().Add(-12 * time.Hour).Format(dateForm); body.ValidUntil != "" && string(body.ValidUntil) < earliest {
		return calpe.Errorf(calpe.CodeCertification, "the certification was valid until %s", body.ValidUntil)
	}
	return nil
}

// checkDigest refuses a certification of another document.
func (c *certified) checkDigest(digest calpe.Digest) error {
	if c != nil && c.body.Digest != digest {
		return calpe.Errorf(calpe.CodeCertification, "the certification is about the document with digest %v, this one has %v", c.body.Digest, digest)
	}
	return nil
}

// RegisterAgency signs and records that an agency may certify documents from
// this entry on. The log and the time are set here. An agency of that identifier
// that is registered already is [calpe.CodeInvalidRequest].
func (r *Recorder) RegisterAgency(ctx context.Context, body statement.Agency) (Recorded, error) {
	body.Log, body.Time = r.cfg.Log, r.cfg.Now().UTC().Truncate(time.Second)
	signed, err := statement.Sign(r.cfg.Statements, body)
	if err != nil {
		return Recorded{}, &calpe.Error{Code: calpe.CodeInvalidRequest, Message: "the agency can't be registered", Err: err}
	}
	submission := statementSubmission(signed)
	submission.Agency = &calpe.Agency{ID: body.Agency, Name: body.Name, Key: body.Key, Added: body.Time}
	return r.Record(ctx, submission)
}

// breakOwner owns the idempotency rows of break statements. No token can have that
// owner's name: it has a slash.
const breakOwner = "calpe/break"

// DeclareBreak signs and records a break of the chain of anchors. The log and the
// time are set here. For one foreign spend in one block there is one statement:
// when there is one already, its index is the answer, whatever body says else.
func (r *Recorder) DeclareBreak(ctx context.Context, body statement.Break) (Recorded, error) {
	body.Log, body.Time = r.cfg.Log, r.cfg.Now().UTC().Truncate(time.Second)
	signed, err := statement.Sign(r.cfg.Statements, body)
	if err != nil {
		return Recorded{}, &calpe.Error{Code: calpe.CodeInvalidRequest, Message: "the break can't be declared", Err: err}
	}
	tag := hashOf(fmt.Sprintf("%v %v %v", body.Coin, body.SpentBy, body.Block))
	submission := statementSubmission(signed)
	submission.Idempotency = &calpe.Idempotency{Owner: breakOwner, KeyHash: tag, RequestTag: tag[:]}
	return r.Record(ctx, submission)
}

func hashOf(text string) calpe.Hash { return sha256.Sum256([]byte(text)) }
