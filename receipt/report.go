package receipt

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt/statement"
)

// Status is the answer to one question.
type Status string

// The answers.
const (
	Holds    Status = "holds"
	Refuted  Status = "refuted"
	NotYet   Status = "not-yet"   // nothing speaks against it; ask again later, or with more headers
	NotAsked Status = "not-asked" // something that the question needs was not given
)

// Reason is a stable, machine-readable name of why a verdict isn't "holds". The
// set is closed; docs/formats.md lists each with its meaning.
type Reason string

// The reasons.
const (
	// Refuted.
	ReasonMalformed                Reason = "malformed"
	ReasonOtherDocument            Reason = "other-document"
	ReasonNotAcknowledged          Reason = "not-acknowledged"
	ReasonNotInTree                Reason = "not-in-tree"
	ReasonOtherPayload             Reason = "other-payload"
	ReasonTransactionNotInBlock    Reason = "transaction-not-in-block"
	ReasonNoCoinbase               Reason = "no-coinbase"
	ReasonCoinbaseNotInBlock       Reason = "coinbase-not-in-block"
	ReasonOtherNetwork             Reason = "other-network"
	ReasonNotInChain               Reason = "not-in-chain"
	ReasonOtherLog                 Reason = "other-log"
	ReasonCheckpointSignature      Reason = "checkpoint-signature"
	ReasonAcknowledgementSignature Reason = "acknowledgement-signature"
	ReasonCertifiesOther           Reason = "certifies-other-document"
	ReasonOtherAgency              Reason = "other-agency"
	ReasonCertificationSignature   Reason = "certification-signature"
	ReasonCertificationOrder       Reason = "certification-order"
	ReasonCertificationNotInTree   Reason = "certification-not-in-tree"
	ReasonAgencyNotInTree          Reason = "agency-not-in-tree"
	ReasonAgencySignature          Reason = "agency-signature"

	// Not yet.
	ReasonNoCheckpoint  Reason = "no-checkpoint"
	ReasonNoAnchor      Reason = "no-anchor"
	ReasonTooLittleWork Reason = "too-little-work"
	ReasonHeadersEnd    Reason = "headers-end"
	ReasonNotDeep       Reason = "not-deep"

	// Not asked.
	ReasonNoHeaders       Reason = "no-headers"
	ReasonNoIdentity      Reason = "no-identity"
	ReasonNoCertification Reason = "no-certification"
)

// Verdict is the answer to one question, with the reason as a word and, always,
// a sentence for people.
type Verdict struct {
	Status Status `json:"status"`
	Reason Reason `json:"reason,omitempty"` // empty if it holds
	Text   string `json:"text"`
}

// Report is what a receipt proves and what it doesn't. What stands beside the
// verdicts is there as far as the verdicts bear it out.
type Report struct {
	Existed   Verdict // before Time, by Bitcoin
	InLog     Verdict // of the pinned identity
	Certified Verdict // by an agency of that log

	Digest calpe.Digest // of the document that was asked about
	Log    calpe.Hash   // hash of the log's identity, as the receipt names it
	Index  uint64
	Origin string // name of the pinned log, if InLog holds

	Block         *Block    // the anchor's block, if it stands in the chain of headers
	Promise       *Promised // while there is no checkpoint, if the pinned log signed it
	Certification *Certified
}

// Block is the block that fixes the time.
type Block struct {
	Network calpe.Network   `json:"network"`
	Height  uint32          `json:"height"`
	Hash    calpe.BlockHash `json:"hash"`
	TxID    calpe.BlockHash `json:"txid,omitzero"` // of the anchor; a timestamp names none
	// Time is the header's: good to about two hours, for a miner may set it after the
	// median of the last 11 blocks and up to two hours ahead.
	Time  time.Time `json:"time"`
	Depth int       `json:"depth"` // blocks from it to the tip, itself included
	Asked int       `json:"asked"` // depth that was asked for
	Tip   int       `json:"tip"`   // height of the last header
	Test  bool      `json:"test"`  // of a test network: no evidential value
}

// Promised is what the log signed for before there was a checkpoint.
type Promised struct {
	Time     time.Time `json:"time"`
	Deadline time.Time `json:"deadline"`
}

// Certified is what the agency said, if Report.Certified holds. Whether it has
// been withdrawn by today is not what a receipt can say.
type Certified struct {
	Agency       string         `json:"agency"`
	Name         string         `json:"name"`
	DocumentType string         `json:"document_type"`
	Subject      string         `json:"subject"`
	Issued       statement.Date `json:"issued"`
	ValidUntil   statement.Date `json:"valid_until,omitempty"`
}

// Outcome is all three verdicts in one: refuted if one is, else not yet if one
// is, else holds if one does; not asked if nothing was.
func (r Report) Outcome() Status {
	all := []Verdict{r.Existed, r.InLog, r.Certified}
	for _, s := range []Status{Refuted, NotYet, Holds} {
		for _, v := range all {
			if v.Status == s {
				return s
			}
		}
	}
	return NotAsked
}

// TestNetwork reports whether the block is one that anybody can make.
func (r Report) TestNetwork() bool { return r.Block != nil && r.Block.Test }

// MarshalJSON implements [json.Marshaler]: the machine-readable report.
// Members are only ever added.
func (r Report) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Type          string       `json:"type"`
		Outcome       Status       `json:"outcome"`
		Existed       Verdict      `json:"existed"`
		InLog         Verdict      `json:"in_log"`
		Certified     Verdict      `json:"certified"`
		Digest        calpe.Digest `json:"digest"`
		Log           calpe.Hash   `json:"log"`
		Index         uint64       `json:"index"`
		Origin        string       `json:"origin,omitempty"`
		Block         *Block       `json:"block,omitempty"`
		Promise       *Promised    `json:"promise,omitempty"`
		Certification *Certified   `json:"certification,omitempty"`
	}{"calpe/report/v1", r.Outcome(), r.Existed, r.InLog, r.Certified, r.Digest, r.Log, r.Index,
		r.Origin, r.Block, r.Promise, r.Certification})
}

// WriteText writes the report in plain words, a line for each verdict. What
// refutes several of them is told once.
func (r Report) WriteText(w io.Writer) error {
	var b strings.Builder
	told := ""
	for _, v := range []struct {
		question string
		verdict  Verdict
	}{{"Existed", r.Existed}, {"In the log", r.InLog}, {"Certified", r.Certified}} {
		answer, text := strings.ToUpper(strings.ReplaceAll(string(v.verdict.Status), "-", " ")), v.verdict.Text
		if v.verdict.Status == Refuted && text == told {
			text = "For the same reason."
		} else {
			told = text
		}
		fmt.Fprintf(&b, "%-10s  %-9s  %s\n", v.question, answer, text)
	}
	if r.TestNetwork() {
		fmt.Fprintf(&b, "TEST NETWORK %s: no evidential value. Anybody can make such a block.\n", r.Block.Network)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// Malformed is the report on what [Decode] refuses: refuted, whatever was asked.
func Malformed(err error) Report {
	v := Verdict{Refuted, ReasonMalformed, fmt.Sprintf("This is not a receipt that can be read: %v.", err)}
	return Report{Existed: v, InLog: v, Certified: v}
}
