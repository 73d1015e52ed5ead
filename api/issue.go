package api

import (
	"context"
	"errors"
	"fmt"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/intake"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/statement"
)

// Entries reads the log as the database has it.
type Entries interface {
	// Entry gives the entry with that index, or [calpe.ErrNotFound].
	Entry(ctx context.Context, index uint64) (calpe.Entry, error)
	// Statement gives the public statement that is that entry, or [calpe.ErrNotFound].
	Statement(ctx context.Context, index uint64) (calpe.Statement, error)
	// CheckpointHead is the newest checkpoint, or [calpe.ErrNotFound].
	CheckpointHead(ctx context.Context) (calpe.Checkpoint, error)
	// CheckpointAt is the checkpoint of exactly that size, or [calpe.ErrNotFound].
	CheckpointAt(ctx context.Context, size uint64) (calpe.Checkpoint, error)
}

// Anchors reads what the anchoring engine has found out.
type Anchors interface {
	// AnchorFor gives the anchor that proves the entry best: the earliest final
	// one that covers it, else the earliest confirmed; [calpe.ErrNotFound] if
	// none does.
	AnchorFor(ctx context.Context, index uint64) (calpe.Anchor, error)
	// AnchorOfSize gives the anchor of exactly that size, or [calpe.ErrNotFound].
	AnchorOfSize(ctx context.Context, size uint64) (calpe.Anchor, error)
	// ByTxID gives the anchor with that transaction id, or [calpe.ErrNotFound].
	ByTxID(ctx context.Context, txid calpe.BlockHash) (calpe.Anchor, error)
	// Before lists up to limit anchors, the newest first, from before that
	// position in the block at that height.
	Before(ctx context.Context, height, position uint32, limit int) ([]calpe.Anchor, error)
	// Chain lists up to limit anchors in the order of the chain of coins, from the
	// one with the number first on.
	Chain(ctx context.Context, first uint64, limit int) ([]calpe.Anchor, error)
	// Breaks lists the breaks of that chain, in its order.
	Breaks(ctx context.Context) ([]calpe.ChainBreak, error)
}

// Timestamps reads what calendars have proved.
type Timestamps interface {
	// TimestampFor gives the timestamp that proves the entry best: the earliest
	// final one that covers it, else the earliest that leads to a block;
	// [calpe.ErrNotFound] if none does.
	TimestampFor(ctx context.Context, index uint64) (calpe.Timestamp, error)
	// TimestampOfSize gives the timestamp of exactly that size, or [calpe.ErrNotFound].
	TimestampOfSize(ctx context.Context, size uint64) (calpe.Timestamp, error)
}

// Proofs reads the published log.
type Proofs interface {
	// Checkpoint is the published checkpoint of exactly that size, its signature
	// verified, or [calpe.ErrNotFound].
	Checkpoint(ctx context.Context, size uint64) (calpe.Checkpoint, error)
	// Proof is the path of the entry in the checkpoint's tree, verified before
	// it is returned.
	Proof(ctx context.Context, entry calpe.Entry, cp calpe.Checkpoint) ([]calpe.Hash, error)
}

// Acknowledgements gives again what was signed for an entry.
type Acknowledgements interface {
	AcknowledgementOf(ctx context.Context, index uint64) (intake.Acknowledgement, error)
}

// Watermarks says how far the log has come.
type Watermarks interface {
	Watermarks(ctx context.Context) (calpe.Watermarks, error)
}

// issuer puts evidence together from what the stages have stored. It keeps
// nothing itself: a receipt is computed whenever it is asked for.
type issuer struct {
	entries  Entries
	anchors  Anchors
	stamps   Timestamps // nil: there are none
	proofs   Proofs
	acks     Acknowledgements
	agencies Agencies
	identity receipt.Identity
}

// Agencies knows who may certify.
type Agencies interface {
	// Agency gives a registered agency, or [calpe.ErrNotFound].
	Agency(ctx context.Context, id string) (calpe.Agency, error)
}

// receipt issues the receipt of a document for the state that holds now. All of
// its proofs are in one tree: that of the document's last entry.
func (i issuer) receipt(ctx context.Context, d intake.Document) (receipt.Receipt, error) {
	last := d.Index
	if d.Certification != nil {
		last = max(last, d.Certification.Index) // registered before it, the agency has a lower index
	}
	t, err := i.treeFor(ctx, last)
	if err != nil {
		return receipt.Receipt{}, err
	}
	e := receipt.Evidence{Identity: i.identity, Digest: d.Digest, Salt: d.Salt, Index: d.Index, Anchor: t.anchor, Timestamp: t.timestamp}
	if t.checkpoint == nil {
		ack, err := i.acks.AcknowledgementOf(ctx, d.Index)
		if err != nil {
			return receipt.Receipt{}, err
		}
		e.Acknowledgement, e.AcknowledgementPath = ack.Note, ack.Path
	} else {
		e.Checkpoint = t.checkpoint.Note
		entry := calpe.Entry{Index: d.Index, Commitment: calpe.Commit(d.Digest, d.Salt)}
		if e.Path, err = i.path(ctx, entry, t); err != nil {
			return receipt.Receipt{}, err
		}
	}
	if d.Certification != nil {
		if e.Certification, err = i.certification(ctx, *d.Certification, t); err != nil {
			return receipt.Receipt{}, err
		}
	}
	r, err := receipt.Issue(e)
	if err != nil {
		return receipt.Receipt{}, fmt.Errorf("issue receipt of document %s: %w", d.ID, err)
	}
	return r, nil
}

// certification is the evidence for the certification and for the registration
// of the agency, in the tree t.
func (i issuer) certification(ctx context.Context, c intake.Certification, t tree) (*receipt.CertificationEvidence, error) {
	agency, err := i.agencies.Agency(ctx, c.Agency)
	if err != nil {
		return nil, unavailable("The agency's registration can't be read at the moment.", err)
	}
	row, err := i.entries.Statement(ctx, agency.Statement)
	if err != nil {
		return nil, unavailable("The agency's registration can't be read at the moment.", err)
	}
	registration, err := statement.Parse(row.Body)
	if err != nil {
		return nil, fmt.Errorf("registration of agency %s: %w", c.Agency, err)
	}
	e := &receipt.CertificationEvidence{
		Statement: c.Statement, Salt: c.Salt, Index: c.Index,
		Agency: registration, AgencySalt: row.Salt, AgencyIndex: row.Index,
	}
	own := calpe.Entry{Index: c.Index, Commitment: calpe.Commit(c.Statement.Digest(), c.Salt)}
	if e.Path, err = i.path(ctx, own, t); err != nil {
		return nil, err
	}
	registered := calpe.Entry{Index: row.Index, Commitment: calpe.Commit(registration.Digest(), row.Salt)}
	e.AgencyPath, err = i.path(ctx, registered, t)
	return e, err
}

// tree is the tree in which something is proved: a checkpoint, and the anchor or
// the timestamp that carries it if there is one.
type tree struct {
	checkpoint *calpe.Checkpoint
	anchor     *calpe.Anchor
	timestamp  *calpe.Timestamp // not beside anchor
}

// treeFor chooses the tree for the evidence of an entry and everything below it.
// Both fields are nil while no checkpoint covers it.
func (i issuer) treeFor(ctx context.Context, index uint64) (tree, error) {
	anchor, stamp, err := i.best(ctx, index)
	if err != nil {
		return tree{}, err
	}
	if anchor != nil || stamp != nil {
		return i.anchoredTree(ctx, anchor, stamp)
	}
	head, err := i.entries.CheckpointHead(ctx)
	if errors.Is(err, calpe.ErrNotFound) || err == nil && head.Size <= index {
		return tree{}, nil
	}
	if err != nil {
		return tree{}, unavailable("The newest checkpoint can't be read at the moment.", err)
	}
	return tree{checkpoint: &head}, nil
}

// best is the anchor or the timestamp that proves an entry best, or neither: what
// is final, and of two alike the anchor.
func (i issuer) best(ctx context.Context, index uint64) (*calpe.Anchor, *calpe.Timestamp, error) {
	anchor, err := optional(i.anchors.AnchorFor(ctx, index))
	if err != nil || anchor != nil && anchor.Final || i.stamps == nil {
		return anchor, nil, err
	}
	stamp, err := optional(i.stamps.TimestampFor(ctx, index))
	if err != nil || stamp == nil || anchor != nil && !stamp.Final {
		return anchor, nil, err
	}
	return nil, stamp, nil
}

// ofSize is the anchor or the timestamp of exactly that size, or neither.
func (i issuer) ofSize(ctx context.Context, size uint64) (*calpe.Anchor, *calpe.Timestamp, error) {
	anchor, err := optional(i.anchors.AnchorOfSize(ctx, size))
	if err != nil || anchor != nil || i.stamps == nil {
		return anchor, nil, err
	}
	stamp, err := optional(i.stamps.TimestampOfSize(ctx, size))
	return nil, stamp, err
}

// optional is nil for what isn't found.
func optional[T any](v T, err error) (*T, error) {
	if errors.Is(err, calpe.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, unavailable("The anchors can't be read at the moment.", err)
	}
	return &v, nil
}

// anchoredTree is the tree of an anchor or a timestamp. A database that was restored from an
// older copy has found its anchors again in the chain, but not the rows of their
// checkpoints: these are still published.
func (i issuer) anchoredTree(ctx context.Context, anchor *calpe.Anchor, stamp *calpe.Timestamp) (tree, error) {
	var payload calpe.Payload
	if anchor != nil {
		payload = anchor.Payload
	} else {
		payload = stamp.Payload
	}
	cp, err := i.entries.CheckpointAt(ctx, payload.Size)
	if errors.Is(err, calpe.ErrNotFound) {
		cp, err = i.proofs.Checkpoint(ctx, payload.Size)
	}
	if err == nil && cp.Root != payload.Root {
		err = fmt.Errorf("the checkpoint of size %d has root %v, its anchor %v", cp.Size, cp.Root, payload.Root)
	}
	if err != nil {
		return tree{}, unavailable("The checkpoint of an anchor can't be read at the moment.", err)
	}
	return tree{&cp, anchor, stamp}, nil
}

// treeOf is the tree of exactly that size.
func (i issuer) treeOf(ctx context.Context, size uint64) (tree, error) {
	anchor, stamp, err := i.ofSize(ctx, size)
	if err != nil {
		return tree{}, err
	}
	if anchor != nil || stamp != nil {
		return i.anchoredTree(ctx, anchor, stamp)
	}
	cp, err := i.entries.CheckpointAt(ctx, size)
	if errors.Is(err, calpe.ErrNotFound) {
		return tree{}, calpe.Errorf(calpe.CodeNotFound, "There is no checkpoint of size %d.", size)
	}
	if err != nil {
		return tree{}, unavailable("The checkpoint can't be read at the moment.", err)
	}
	return tree{checkpoint: &cp}, nil
}

// path is the inclusion proof of the entry in t; nil while t has no checkpoint.
func (i issuer) path(ctx context.Context, entry calpe.Entry, t tree) ([]calpe.Hash, error) {
	if t.checkpoint == nil {
		return nil, nil
	}
	path, err := i.proofs.Proof(ctx, entry, *t.checkpoint)
	if err != nil {
		return nil, proofError(err)
	}
	return path, nil
}

func proofError(err error) error {
	if calpe.ErrorCode(err) != calpe.CodeInternal {
		return err
	}
	return unavailable("The proof can't be made at the moment.", err)
}
