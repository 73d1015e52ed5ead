package receipt

import (
	"bytes"
	"fmt"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt/headers"
)

// DefaultDepth is how many blocks must stand from the anchor's block to the tip,
// itself included, before a reorganisation is no longer reckoned with.
const DefaultDepth = 6

// Input is what a verifier has.
type Input struct {
	Digest   calpe.Digest   // of the document
	Receipt  Receipt        // as [Decode] gave it
	Headers  *headers.Chain // a verified chain; nil if there is none
	Identity *Identity      // the pinned log; nil if there is none
	Depth    int            // blocks that are asked for; 0 means [DefaultDepth]
}

// Verify answers the three questions of docs/formats.md, "Verification". It
// never fails, panics or contacts anybody (I9): what can't be read is refuted,
// and what can't be answered says what is missing.
func Verify(in Input) Report {
	p, err := in.Receipt.parse()
	if err != nil {
		return Malformed(err)
	}
	if in.Depth <= 0 {
		in.Depth = DefaultDepth
	}
	v := verifier{parsed: p, in: in, report: Report{Digest: in.Digest, Log: p.Log, Index: p.Index}}
	v.report.Existed = v.existed()
	v.report.InLog = v.inLog()
	v.report.Certified = v.certified()
	return v.report
}

type verifier struct {
	*parsed
	in     Input
	report Report
}

func refuted(reason Reason, format string, args ...any) Verdict {
	return Verdict{Refuted, reason, fmt.Sprintf(format, args...)}
}

// firstRefuted is the first of the checks that refutes, or nil.
func firstRefuted(checks ...func() *Verdict) *Verdict {
	for _, check := range checks {
		if v := check(); v != nil {
			return v
		}
	}
	return nil
}

func refute(reason Reason, format string, args ...any) *Verdict {
	v := refuted(reason, format, args...)
	return &v
}

// existed answers: was the document there before the block's time?
func (v *verifier) existed() Verdict {
	if bad := firstRefuted(v.checkDocument, v.checkPlace, v.checkAnchor); bad != nil {
		return *bad
	}
	switch {
	case v.checkpoint == nil:
		return Verdict{NotYet, ReasonNoCheckpoint, "The log has recorded the document, but no checkpoint covers it yet."}
	case v.Anchor == nil && v.Timestamp == nil:
		return Verdict{NotYet, ReasonNoAnchor, "A checkpoint covers the document, but no Bitcoin block holds it yet."}
	case v.in.Headers == nil && v.Anchor == nil:
		return Verdict{NotAsked, ReasonNoHeaders, fmt.Sprintf("The receipt leads to the Merkle root %s of block %d, but no chain of headers was given to find it in.", v.merkleRoot, v.Timestamp.Height)}
	case v.in.Headers == nil:
		return Verdict{NotAsked, ReasonNoHeaders, "The receipt leads to a block header, but no chain of headers was given to find it in."}
	}
	return v.inChain(v.in.Headers)
}

// checkDocument: the receipt is about this document.
func (v *verifier) checkDocument() *Verdict {
	if v.in.Digest != v.Digest {
		return refute(ReasonOtherDocument, "The receipt is about another document: its digest is %s, the document's is %s.", v.Digest, v.in.Digest)
	}
	return nil
}

// checkPlace: the entry is where the receipt says, in the checkpoint's tree or
// in the acknowledged group.
func (v *verifier) checkPlace() *Verdict {
	entry := calpe.Entry{Index: v.Index, Commitment: calpe.Commit(v.Digest, v.Salt)}
	if v.promise != nil {
		if v.promise.Log != v.Log {
			return refute(ReasonOtherLog, "The acknowledgement is about the log %s, the receipt about %s.", v.promise.Log, v.Log)
		}
		if err := v.promise.Verify(entry, v.Acknowledgement.Path); err != nil {
			return refute(ReasonNotAcknowledged, "The acknowledgement doesn't cover this entry: %v.", err)
		}
		return nil
	}
	return v.checkInTree(ReasonNotInTree, "document", entry, v.Path)
}

func (v *verifier) checkInTree(reason Reason, what string, entry calpe.Entry, path Path) *Verdict {
	b := entry.Bytes()
	err := merkle.VerifyInclusion(entry.Index, v.checkpoint.Size, merkle.LeafHash(b[:]), path, v.checkpoint.Root)
	if err != nil {
		return refute(reason, "The %s is not entry %d of the checkpoint's log: %v.", what, entry.Index, err)
	}
	return nil
}

// checkAnchor: the transaction carries the checkpoint, and the header's block
// holds the transaction.
func (v *verifier) checkAnchor() *Verdict {
	if v.Anchor == nil {
		return nil
	}
	payload := calpe.Payload{Size: v.checkpoint.Size, Root: v.checkpoint.Root}
	if !bytes.Equal(v.tx.scripts[0], payload.Script()) {
		return refute(ReasonOtherPayload, "Output 0 of the transaction %s doesn't carry the checkpoint's size and root.", v.tx.id)
	}
	return v.Anchor.checkBlock(v.tx, v.coinbase)
}

// checkBlock: the header's block holds the transaction. The coinbase proves the
// depth of the branch (BIP 54).
func (a *Anchor) checkBlock(tx, coinbase transaction) *Verdict {
	header, err := headers.Parse(a.Header)
	if err != nil {
		return refute(ReasonMalformed, "The header can't be read: %v.", err)
	}
	root := calpe.BlockHash(header.MerkleRoot)
	if err := checkBranch(tx.id, a.Position, a.Branch, root); err != nil {
		return refute(ReasonTransactionNotInBlock, "The transaction %s is not in the block %s: %v.", tx.id, header.Hash, err)
	}
	if !coinbase.isCoinbase() {
		return refute(ReasonNoCoinbase, "The transaction %s is not the first one of a block.", coinbase.id)
	}
	if err := checkBranch(coinbase.id, 0, a.CoinbaseBranch, root); err != nil {
		return refute(ReasonCoinbaseNotInBlock, "The coinbase transaction %s is not in the block %s: %v.", coinbase.id, header.Hash, err)
	}
	return nil
}

func checkBranch(id calpe.BlockHash, position uint32, branch Branch, want calpe.BlockHash) error {
	got, err := branchRoot(id, position, branch)
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("its branch leads to the root %s, the header has %s", got, want)
	}
	return nil
}

// inChain answers the last part of existed: the header, or the Merkle root,
// stands in the chain, deep enough.
func (v *verifier) inChain(chain *headers.Chain) (verdict Verdict) {
	if v.Anchor != nil {
		verdict, v.report.Block = v.Anchor.inChain(v.tx.id, chain, v.in.Depth)
	} else {
		verdict, v.report.Block = v.Timestamp.inChain(v.merkleRoot, chain, v.in.Depth)
	}
	return verdict
}

// inChain answers whether the header stands in the chain, depth blocks deep. The
// block is nil unless it stands there at all.
func (a *Anchor) inChain(txid calpe.BlockHash, chain *headers.Chain, depth int) (Verdict, *Block) {
	p := place{a.Network, a.Genesis, a.Height}
	header, bad := p.find(chain)
	if bad != nil {
		return *bad, nil
	}
	if !bytes.Equal(header.Raw[:], a.Header) {
		return refuted(ReasonNotInChain, "Block %d of the chain is %s, not the anchor's block: it never was in this chain, or was reorganised away.", a.Height, header.Hash), nil
	}
	return p.block(header, txid, chain, depth)
}

// place is where an anchor or a timestamp says that its block stands.
type place struct {
	network calpe.Network
	genesis calpe.BlockHash
	height  uint32
}

// find gives the header that stands there in the chain, or the verdict if that
// can't be said.
func (p place) find(chain *headers.Chain) (headers.Header, *Verdict) {
	first, _ := chain.At(0) // a chain has at least its genesis block
	tip, _ := chain.Tip()
	if p.network != chain.Network() || p.genesis != calpe.BlockHash(first.Hash) {
		return headers.Header{}, refute(ReasonOtherNetwork, "The anchor is in %s with genesis block %s, the headers are of %s with %s.",
			p.network, p.genesis, chain.Network(), first.Hash)
	}
	if !chain.EnoughWork() {
		return headers.Header{}, &Verdict{NotYet, ReasonTooLittleWork, "The chain of headers has less work than the network had when this program was made: it is incomplete, or not the chain that the world knows."}
	}
	header, ok := chain.At(int(p.height))
	if !ok {
		return headers.Header{}, &Verdict{NotYet, ReasonHeadersEnd, fmt.Sprintf("The headers end at block %d, before the anchor's block %d: fetch newer ones.", tip, p.height)}
	}
	return header, nil
}

// block answers whether the header that stands there is deep enough. The txid is
// zero if none is known.
func (p place) block(header headers.Header, txid calpe.BlockHash, chain *headers.Chain, depth int) (Verdict, *Block) {
	tip, _ := chain.Tip()
	b := &Block{Network: p.network, Height: p.height, Hash: calpe.BlockHash(header.Hash), TxID: txid,
		Time: header.Time, Depth: tip - int(p.height) + 1, Asked: depth, Tip: tip, Test: p.network.IsTest()}
	if b.Depth < b.Asked {
		return Verdict{NotYet, ReasonNotDeep, fmt.Sprintf("It is in block %d of %s, %s, where %d are asked for: wait, or fetch newer headers.",
			b.Height, b.Network, blocksDeep(b.Depth), b.Asked)}, b
	}
	return Verdict{Status: Holds, Text: fmt.Sprintf("before %s, give or take two hours: in block %d of %s (%s), %s.",
		b.Time.UTC().Format(time.DateTime+" MST"), b.Height, b.Network, b.Hash, blocksDeep(b.Depth)) + evidentialValue(b)}, b
}

func blocksDeep(n int) string {
	if n == 1 {
		return "1 block deep"
	}
	return fmt.Sprintf("%d blocks deep", n)
}

func evidentialValue(b *Block) string {
	if b.Test {
		return " A block of a test network has no evidential value."
	}
	return ""
}

// inLog answers: is the entry in the log of the pinned identity?
func (v *verifier) inLog() Verdict {
	id := v.in.Identity
	if id == nil {
		return Verdict{NotAsked, ReasonNoIdentity, "No log identity was pinned: existence only, issuer unknown."}
	}
	if hash := id.Hash(); v.Log != hash {
		return refuted(ReasonOtherLog, "The receipt is from the log %s, the pinned identity (%s) is %s.", v.Log, id.Origin, hash)
	}
	if bad := firstRefuted(v.checkDocument, v.checkPlace, v.checkSigned, v.checkNetwork); bad != nil {
		return *bad
	}
	if v.promise != nil {
		v.report.Promise = &Promised{Time: v.promise.Time, Deadline: v.promise.Deadline}
		return Verdict{NotYet, ReasonNoCheckpoint, fmt.Sprintf("%s has signed that the entry %d is recorded, and promises a checkpoint by %s.",
			id.Origin, v.Index, v.promise.Deadline.UTC().Format(time.DateTime+" MST"))}
	}
	v.report.Origin = id.Origin
	return Verdict{Status: Holds, Text: fmt.Sprintf("of %s, as entry %d.", id.Origin, v.Index)}
}

// checkSigned: the pinned log signed the promise or the checkpoint.
func (v *verifier) checkSigned() *Verdict {
	if v.promise != nil {
		if _, err := OpenAcknowledgement([]byte(v.Acknowledgement.Note), *v.in.Identity); err != nil {
			return refute(ReasonAcknowledgementSignature, "The acknowledgement is not one of %s: %v.", v.in.Identity.Origin, err)
		}
		return nil
	}
	if _, err := OpenCheckpoint([]byte(v.Checkpoint), *v.in.Identity); err != nil {
		return refute(ReasonCheckpointSignature, "The checkpoint is not one of %s: %v.", v.in.Identity.Origin, err)
	}
	return nil
}

// checkNetwork: the anchor or timestamp is in the network of the pinned log.
func (v *verifier) checkNetwork() *Verdict {
	id := v.in.Identity
	network, genesis := id.Network, id.Genesis
	if a := v.Anchor; a != nil {
		network, genesis = a.Network, a.Genesis
	} else if t := v.Timestamp; t != nil {
		network, genesis = t.Network, t.Genesis
	}
	if network == id.Network && genesis == id.Genesis {
		return nil
	}
	return refute(ReasonOtherNetwork, "The anchor is in %s with genesis block %s, %s anchors in %s with %s.",
		network, genesis, id.Origin, id.Network, id.Genesis)
}

// certified answers: did an agency of that log certify the document?
func (v *verifier) certified() Verdict {
	if v.Certification == nil {
		return Verdict{NotAsked, ReasonNoCertification, "The receipt carries no certification."}
	}
	if bad := firstRefuted(v.checkDocument, v.checkCertification, v.checkCertificationPlace); bad != nil {
		return *bad
	}
	if log := v.report.InLog; log.Status != Holds {
		return Verdict{log.Status, log.Reason, "An agency counts only within a log that is known: " + log.Text}
	}
	if err := v.in.Identity.VerifyStatement(v.Certification.Agency.Statement); err != nil {
		return refuted(ReasonAgencySignature, "%s didn't register the agency %q: %v.", v.in.Identity.Origin, v.agency.Agency, err)
	}
	c := &Certified{v.agency.Agency, v.agency.Name, v.certification.DocumentType, v.certification.Subject,
		v.certification.Issued, v.certification.ValidUntil}
	v.report.Certification = c
	return Verdict{Status: Holds, Text: c.sentence()}
}

func (c *Certified) sentence() string {
	text := fmt.Sprintf("by %s (%s): %s, reference %s, issued %s", c.Name, c.Agency, c.DocumentType, c.Subject, c.Issued)
	if c.ValidUntil != "" {
		text += fmt.Sprintf(", valid until %s", c.ValidUntil)
	}
	return text + ". Whether it was withdrawn since is not in a receipt."
}

// checkCertification: the statements fit the document, the log and each other.
func (v *verifier) checkCertification() *Verdict {
	c := v.Certification
	switch {
	case v.certification.Digest != v.Digest:
		return refute(ReasonCertifiesOther, "The certification is of another document, with the digest %s.", v.certification.Digest)
	case v.agency.Log != v.Log:
		return refute(ReasonOtherLog, "The agency %q was registered in the log %s, the receipt is from %s.", v.agency.Agency, v.agency.Log, v.Log)
	case v.agency.Agency != v.certification.Agency:
		return refute(ReasonOtherAgency, "The certification is by the agency %q, the registration of %q.", v.certification.Agency, v.agency.Agency)
	case c.Index <= c.Agency.Index:
		return refute(ReasonCertificationOrder, "The certification is entry %d, before the agency's registration as entry %d.", c.Index, c.Agency.Index)
	}
	if err := c.Statement.Verify(v.agency.Key); err != nil {
		return refute(ReasonCertificationSignature, "The certification is not by the registered key of %q: %v.", v.agency.Agency, err)
	}
	return nil
}

// checkCertificationPlace: both statements are entries of the tree.
func (v *verifier) checkCertificationPlace() *Verdict {
	if v.checkpoint == nil {
		return nil
	}
	c := v.Certification
	entry := calpe.Entry{Index: c.Agency.Index, Commitment: calpe.Commit(c.Agency.Statement.Digest(), c.Agency.Salt)}
	if bad := v.checkInTree(ReasonAgencyNotInTree, "agency's registration", entry, c.Agency.Path); bad != nil {
		return bad
	}
	entry = calpe.Entry{Index: c.Index, Commitment: calpe.Commit(c.Statement.Digest(), c.Salt)}
	return v.checkInTree(ReasonCertificationNotInTree, "certification", entry, c.Path)
}
