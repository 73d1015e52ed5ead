package receipt

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt/statement"
)

// ErrEvidence is in the chain of every error of [Issue]: the parts don't make a
// receipt that verifies. Trying again with the same parts doesn't help.
var ErrEvidence = errors.New("the evidence does not hold")

// Evidence is what the service has for one document.
type Evidence struct {
	Identity Identity
	Digest   calpe.Digest
	Salt     calpe.Salt
	Index    uint64

	// The acknowledgement note and the path in its group. Used only if Checkpoint
	// is nil.
	Acknowledgement     []byte
	AcknowledgementPath []calpe.Hash

	// The checkpoint note, and the inclusion proof in its tree. With an anchor it
	// is the checkpoint of the anchor's size, not the newest one.
	Checkpoint []byte
	Path       []calpe.Hash

	Certification *CertificationEvidence // nil if there is none
	Anchor        *calpe.Anchor          // nil if there is none yet
	Timestamp     *calpe.Timestamp       // nil if there is none yet, or if there is an anchor
}

// CertificationEvidence is the certification of a document and the registration
// of the agency, each an entry of the log. Paths are in the checkpoint's tree,
// and not used without one.
type CertificationEvidence struct {
	Statement statement.Signed
	Salt      calpe.Salt
	Index     uint64
	Path      []calpe.Hash

	Agency      statement.Signed
	AgencySalt  calpe.Salt
	AgencyIndex uint64
	AgencyPath  []calpe.Hash
}

// Issue assembles a receipt and verifies it as a stranger would who has pinned
// the identity, except for what takes a chain of headers: whether the anchor's
// block is in the best chain is for the caller to know. A receipt that doesn't
// verify is never given out.
func Issue(e Evidence) (Receipt, error) {
	r := Receipt{Type: ReceiptType, Log: e.Identity.Hash(), Digest: e.Digest, Salt: e.Salt, Index: e.Index}
	if e.Checkpoint != nil {
		r.Checkpoint, r.Path = string(e.Checkpoint), present(e.Path)
	} else {
		r.Acknowledgement = &Promise{Note: string(e.Acknowledgement), Path: present(e.AcknowledgementPath)}
	}
	if c := e.Certification; c != nil {
		r.Certification = &Certification{Statement: c.Statement, Salt: c.Salt, Index: c.Index,
			Agency: Registration{Statement: c.Agency, Salt: c.AgencySalt, Index: c.AgencyIndex}}
		if e.Checkpoint != nil {
			r.Certification.Path, r.Certification.Agency.Path = present(c.Path), present(c.AgencyPath)
		}
	}
	if e.Anchor != nil {
		r.Anchor = NewAnchor(e.Identity, *e.Anchor)
	}
	if e.Timestamp != nil {
		r.Timestamp = NewTimestamp(e.Identity, *e.Timestamp)
	}
	if err := checkIssued(r, e); err != nil {
		return Receipt{}, err
	}
	return r, nil
}

// NewAnchor is a as a receipt of that log shows it, and a copy of it. It checks
// nothing.
func NewAnchor(id Identity, a calpe.Anchor) *Anchor {
	return &Anchor{Network: id.Network, Genesis: id.Genesis, Height: a.Height, Header: bytes.Clone(a.Header[:]),
		Transaction: bytes.Clone(a.Tx), Position: a.Position, Branch: slices.Clone(a.Branch),
		Coinbase: bytes.Clone(a.Coinbase), CoinbaseBranch: slices.Clone(a.CoinbaseBranch)}
}

// present makes an empty path one that is written.
func present(path []calpe.Hash) Path { return append(Path{}, path...) }

// checkIssued demands the best that Verify can say about what is there.
func checkIssued(r Receipt, e Evidence) error {
	if err := e.Identity.Validate(); err != nil {
		return fmt.Errorf("issue receipt: %w: %w", ErrEvidence, err)
	}
	if a := e.Anchor; a != nil {
		if doubleHash(a.Tx) != a.TxID || doubleHash(a.Header[:]) != a.Block {
			return fmt.Errorf("issue receipt: %w: transaction or header of the anchor is not that of its id", ErrEvidence)
		}
	}
	report := Verify(Input{Digest: e.Digest, Receipt: r, Identity: &e.Identity})
	for _, v := range []Verdict{report.Existed, report.InLog, report.Certified} {
		if v.Status == Refuted {
			// Not the sentence, which may show a digest: this error ends in a log (I10).
			return fmt.Errorf("issue receipt for entry %d: %w: %s", e.Index, ErrEvidence, v.Reason)
		}
	}
	if _, err := r.Encode(); err != nil {
		return fmt.Errorf("issue receipt for entry %d: %w: %w", e.Index, ErrEvidence, err)
	}
	return nil
}
