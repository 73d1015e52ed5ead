package statement

import (
	"errors"
	"fmt"
	"time"

	"github.com/calpe/calpe"
)

// The types of statement. What has to say something else is another type.
const (
	TypeAgency        = "calpe/agency/v1"
	TypeCertification = "calpe/certification/v1"
	TypeRecovery      = "calpe/recovery/v1"
	TypeBreak         = "calpe/break/v1"
)

// Body is what a statement says: an [Agency], a [Certification], a [Recovery] or a
// [Break].
// The set is closed.
type Body interface {
	// Type is the name of the form.
	Type() string
	// Validate checks every member, and names the one that is wrong.
	Validate() error

	wire() any // the same as JSON
}

// Agency registers the key of an agency: from its entry on, statements by this
// key count as that agency's. It is signed by a statement key of the log.
type Agency struct {
	Log    calpe.Hash // hash of the log's identity
	Agency string     // identifier, see [CheckAgencyID]
	Name   string     // for people, 1 to 200 characters
	Key    string     // vkey, named as Agency
	Time   time.Time  // to the second
}

// Certification says that an agency certified a document. It is signed by the
// agency's key.
type Certification struct {
	Agency       string       // identifier
	Digest       calpe.Digest // of the document
	DocumentType string       // what the agency calls such a document, 1 to 200 characters
	Subject      string       // its reference of whom or what it is about, 1 to 200 characters
	Issued       Date
	ValidUntil   Date // not before Issued; empty if it doesn't end
}

// Recovery declares what a restart, failover or restore of the database may
// have cost. It is signed by a statement key of the log. Both ranges are
// half-open; an empty one has equal ends.
type Recovery struct {
	Log                  calpe.Hash // hash of the log's identity
	RolledFrom, RolledTo uint64     // taken back from the tiles of a signed checkpoint
	VoidFrom, VoidTo     uint64     // void: an acknowledgement for one of them can't be honoured
	Reason               string     // for people, 1 to 1000 characters
	Time                 time.Time  // to the second
}

// Break declares that somebody else has spent the live coin of the chain of
// anchors, and names the coin with which the chain goes on. It is signed by a
// statement key of the log. Which of two histories is the log's no longer follows
// from Bitcoin alone at such a place: whoever spent the coin could have anchored
// another one with it.
type Break struct {
	Log     calpe.Hash      // hash of the log's identity
	Coin    calpe.Outpoint  // the coin that was to be spent by the next anchor
	SpentBy calpe.BlockHash // the transaction that spends it instead
	Block   calpe.BlockHash // which holds that transaction
	Height  uint32          // of the block
	// Anchor is the last anchor before: the transaction whose change is Coin, with
	// the size and root that it carries. All three are zero if there was none yet:
	// then Coin is the first outpoint of the identity, or of an earlier statement.
	Anchor calpe.BlockHash
	Size   uint64
	Root   calpe.Hash
	First  calpe.Outpoint // the coin that the next anchor spends
	Reason string         // for people, 1 to 1000 characters
	Time   time.Time      // to the second
}

// Type is [TypeAgency].
func (Agency) Type() string { return TypeAgency }

// Type is [TypeCertification].
func (Certification) Type() string { return TypeCertification }

// Type is [TypeRecovery].
func (Recovery) Type() string { return TypeRecovery }

// Type is [TypeBreak].
func (Break) Type() string { return TypeBreak }

// Validate implements [Body].
func (a Agency) Validate() error {
	if err := CheckAgencyID(a.Agency); err != nil {
		return fmt.Errorf("agency: %w", err)
	}
	if err := checkText(a.Name, 200); err != nil {
		return fmt.Errorf("name %w", err)
	}
	v, err := ParseVerifierKey(a.Key)
	if err != nil {
		return fmt.Errorf("key: %w", err)
	}
	if v.Name() != a.Agency {
		return fmt.Errorf("key is named %q, want the agency's identifier %q", v.Name(), a.Agency)
	}
	if err := CheckTime(a.Time); err != nil {
		return fmt.Errorf("time: %w", err)
	}
	return nil
}

// Validate implements [Body].
func (c Certification) Validate() error {
	if err := CheckAgencyID(c.Agency); err != nil {
		return fmt.Errorf("agency: %w", err)
	}
	if err := checkText(c.DocumentType, 200); err != nil {
		return fmt.Errorf("document_type %w", err)
	}
	if err := checkText(c.Subject, 200); err != nil {
		return fmt.Errorf("subject %w", err)
	}
	if _, err := ParseDate(string(c.Issued)); err != nil {
		return fmt.Errorf("issued: %w", err)
	}
	if c.ValidUntil == "" {
		return nil
	}
	if _, err := ParseDate(string(c.ValidUntil)); err != nil {
		return fmt.Errorf("valid_until: %w", err)
	}
	if c.ValidUntil < c.Issued {
		return fmt.Errorf("valid_until %s is before issued %s", c.ValidUntil, c.Issued)
	}
	return nil
}

// Validate implements [Body].
func (r Recovery) Validate() error {
	if r.RolledFrom > r.RolledTo || r.RolledTo > calpe.MaxLogSize {
		return fmt.Errorf("rolled_from %d and rolled_to %d are not a range of a log", r.RolledFrom, r.RolledTo)
	}
	if r.VoidFrom > r.VoidTo || r.VoidTo > calpe.MaxLogSize {
		return fmt.Errorf("void_from %d and void_to %d are not a range of a log", r.VoidFrom, r.VoidTo)
	}
	if err := checkText(r.Reason, 1000); err != nil {
		return fmt.Errorf("reason %w", err)
	}
	if err := CheckTime(r.Time); err != nil {
		return fmt.Errorf("time: %w", err)
	}
	return nil
}

// Validate implements [Body].
func (b Break) Validate() error {
	none := b.Anchor == calpe.BlockHash{}
	switch {
	case b.Coin == b.First:
		return fmt.Errorf("first_outpoint %v is the coin that was spent", b.First)
	case none != (b.Size == 0) || none != (b.Root == calpe.Hash{}):
		return errors.New("anchor, size and root go together")
	case b.Size > calpe.MaxLogSize:
		return fmt.Errorf("size %d is not that of a log", b.Size)
	}
	if err := checkText(b.Reason, 1000); err != nil {
		return fmt.Errorf("reason %w", err)
	}
	if err := CheckTime(b.Time); err != nil {
		return fmt.Errorf("time: %w", err)
	}
	return nil
}

// The same as JSON: what canonical JSON is made of.
type (
	agencyJSON struct {
		Type   string     `json:"type"`
		Log    calpe.Hash `json:"log"`
		Agency string     `json:"agency"`
		Name   string     `json:"name"`
		Key    string     `json:"key"`
		Time   wireTime   `json:"time"`
	}
	certificationJSON struct {
		Type         string       `json:"type"`
		Agency       string       `json:"agency"`
		Digest       calpe.Digest `json:"digest"`
		DocumentType string       `json:"document_type"`
		Subject      string       `json:"subject"`
		Issued       Date         `json:"issued"`
		ValidUntil   Date         `json:"valid_until,omitzero"`
	}
	recoveryJSON struct {
		Type       string     `json:"type"`
		Log        calpe.Hash `json:"log"`
		RolledFrom uint64     `json:"rolled_from"`
		RolledTo   uint64     `json:"rolled_to"`
		VoidFrom   uint64     `json:"void_from"`
		VoidTo     uint64     `json:"void_to"`
		Reason     string     `json:"reason"`
		Time       wireTime   `json:"time"`
	}
	breakJSON struct {
		Type    string          `json:"type"`
		Log     calpe.Hash      `json:"log"`
		Coin    calpe.Outpoint  `json:"coin"`
		SpentBy calpe.BlockHash `json:"spent_by"`
		Block   calpe.BlockHash `json:"block"`
		Height  uint32          `json:"height"`
		Anchor  calpe.BlockHash `json:"anchor,omitzero"`
		Size    uint64          `json:"size,omitzero"`
		Root    calpe.Hash      `json:"root,omitzero"`
		First   calpe.Outpoint  `json:"first_outpoint"`
		Reason  string          `json:"reason"`
		Time    wireTime        `json:"time"`
	}
)

func (a Agency) wire() any {
	return agencyJSON{TypeAgency, a.Log, a.Agency, a.Name, a.Key, wireTime(a.Time)}
}

func (c Certification) wire() any {
	return certificationJSON{TypeCertification, c.Agency, c.Digest, c.DocumentType, c.Subject, c.Issued, c.ValidUntil}
}

func (r Recovery) wire() any {
	return recoveryJSON{TypeRecovery, r.Log, r.RolledFrom, r.RolledTo, r.VoidFrom, r.VoidTo, r.Reason, wireTime(r.Time)}
}

func (b Break) wire() any {
	return breakJSON{TypeBreak, b.Log, b.Coin, b.SpentBy, b.Block, b.Height, b.Anchor, b.Size, b.Root, b.First, b.Reason, wireTime(b.Time)}
}

// parseBody reads the member "statement" of a signed statement, by its type.
func parseBody(typ string, data []byte) (Body, error) {
	var b Body
	switch typ {
	case TypeAgency:
		var w agencyJSON
		if err := Decode(data, &w); err != nil {
			return nil, err
		}
		b = Agency{w.Log, w.Agency, w.Name, w.Key, time.Time(w.Time)}
	case TypeCertification:
		var w certificationJSON
		if err := Decode(data, &w); err != nil {
			return nil, err
		}
		b = Certification{w.Agency, w.Digest, w.DocumentType, w.Subject, w.Issued, w.ValidUntil}
	case TypeRecovery:
		var w recoveryJSON
		if err := Decode(data, &w); err != nil {
			return nil, err
		}
		b = Recovery{w.Log, w.RolledFrom, w.RolledTo, w.VoidFrom, w.VoidTo, w.Reason, time.Time(w.Time)}
	case TypeBreak:
		var w breakJSON
		if err := Decode(data, &w); err != nil {
			return nil, err
		}
		b = Break{w.Log, w.Coin, w.SpentBy, w.Block, w.Height, w.Anchor, w.Size, w.Root, w.First, w.Reason, time.Time(w.Time)}
	case "":
		return nil, errors.New("has no type")
	default:
		return nil, fmt.Errorf("unknown type %.64q", typ)
	}
	return b, b.Validate()
}
