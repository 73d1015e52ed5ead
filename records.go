package calpe

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// This file holds what passes between a stage and the database: the rows of the
// log and what stands beside it. No rule of the log is here.

// MaxGroup is the largest number of entries that one commit group may hold.
// It bounds a row, and the memory of whoever reads one, to 2 MiB.
const MaxGroup = 1 << 16

// What a store answers when it can't do what was asked. Each says what the
// caller may do next; compare with [errors.Is].
var (
	// ErrNotFound: there is no such row.
	ErrNotFound = errors.New("not found")
	// ErrExists: a row with that name or index is there already, and nothing was written.
	ErrExists = errors.New("already exists")
	// ErrFence: the group would reach above its limit. Nothing was written; raise the fence, then try again.
	ErrFence = errors.New("the log has reached the fence")
	// ErrOtherInstance: the database is not the instance that the group was made for. Nothing was written;
	// compare the log with the fence before anything is promised again.
	ErrOtherInstance = errors.New("the database is another instance")
	// ErrNotCommitted: nothing was written and nothing of it can still be written later. Trying again is safe.
	ErrNotCommitted = errors.New("not committed")
	// ErrUnknownOutcome: it can't be told whether the group is in the log, or whether it will stay there.
	// Acknowledge nothing of it and delete nothing that it names; ask for the group later.
	ErrUnknownOutcome = errors.New("the outcome of the commit is unknown")
	// ErrLostLeadership: another process leads, or may lead by now. Nothing was written; stop, and lead anew.
	ErrLostLeadership = errors.New("leadership is lost")
	// ErrNotDense: an index that must be in the log isn't (I2). No retry helps.
	ErrNotDense = errors.New("the log has a gap")
	// ErrDamaged: what was read is not what was stored. No retry helps; look at the storage.
	ErrDamaged = errors.New("not what was stored")
	// ErrCheckpointOrder: a checkpoint that isn't larger than the newest, or larger than the log (I3). Nothing was written.
	ErrCheckpointOrder = errors.New("checkpoint out of order")
)

// GroupID names one commit group. 16 random bytes, drawn anew for each group
// and kept over its retries: they tell, after a COMMIT without an answer,
// whether the group that stands at an index is this one.
type GroupID [16]byte

// String is 32 lower-case hexadecimal digits.
func (id GroupID) String() string { return fmt.Sprintf("%x", id[:]) }

// DocumentID names a document in the API and in URLs. 16 random bytes, shown as
// a UUID (RFC 9562, version 4); it says nothing about the document.
type DocumentID [16]byte

// String is the UUID's text form, lower case: 8-4-4-4-12 hexadecimal digits.
func (id DocumentID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}

// IsZero reports whether id is unset.
func (id DocumentID) IsZero() bool { return id == DocumentID{} }

// MarshalText implements [encoding.TextMarshaler] with [DocumentID.String].
func (id DocumentID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler], see [ParseDocumentID].
func (id *DocumentID) UnmarshalText(text []byte) (err error) {
	*id, err = ParseDocumentID(string(text))
	return err
}

// ParseDocumentID reads the form that [DocumentID.String] writes, and no other
// spelling of a UUID.
func ParseDocumentID(text string) (id DocumentID, err error) {
	if len(text) != 36 || text[8] != '-' || text[13] != '-' || text[18] != '-' || text[23] != '-' {
		return DocumentID{}, fmt.Errorf("document id of %d characters is not of the form 8-4-4-4-12", len(text))
	}
	if err := parseHex("document id", id[:], strings.ReplaceAll(text, "-", "")); err != nil {
		return DocumentID{}, err
	}
	return id, nil
}

// Instance says which running database server made a promise. A server that
// was restarted, that took over, or whose data were restored is another
// instance, and may lack what the former had committed; as long as the instance
// is the same, nothing committed can have gone.
type Instance struct {
	SystemIdentifier string    // of the cluster's data, drawn by initdb; decimal
	Timeline         uint32    // a new one begins at each promotion and at each point-in-time restore
	Started          time.Time // start of the postmaster, UTC to the microsecond
}

const instanceTime = "2006-01-02T15:04:05.000000Z"

// String is "system identifier/timeline/start": what the fence holds.
func (i Instance) String() string {
	return i.SystemIdentifier + "/" + strconv.FormatUint(uint64(i.Timeline), 10) + "/" + i.Started.UTC().Format(instanceTime)
}

// Equal reports whether i and o are one running server.
func (i Instance) Equal(o Instance) bool { return i.String() == o.String() }

// IsZero reports whether i is unset.
func (i Instance) IsZero() bool { return i == Instance{} }

// MarshalText implements [encoding.TextMarshaler] with [Instance.String].
func (i Instance) MarshalText() ([]byte, error) { return []byte(i.String()), nil }

// UnmarshalText implements [encoding.TextUnmarshaler], see [ParseInstance].
func (i *Instance) UnmarshalText(text []byte) (err error) {
	*i, err = ParseInstance(string(text))
	return err
}

// ParseInstance reads exactly what [Instance.String] writes.
func ParseInstance(text string) (Instance, error) {
	parts := strings.Split(text, "/")
	if len(parts) != 3 {
		return Instance{}, fmt.Errorf("database instance %q is not system/timeline/start", text)
	}
	timeline, err := strconv.ParseUint(parts[1], 10, 32)
	if err != nil {
		return Instance{}, fmt.Errorf("database instance: timeline %q is not a number", parts[1])
	}
	if _, err := strconv.ParseUint(parts[0], 10, 64); err != nil {
		return Instance{}, fmt.Errorf("database instance: system identifier %q is not a number", parts[0])
	}
	started, err := time.Parse(instanceTime, parts[2])
	if err != nil {
		return Instance{}, fmt.Errorf("database instance: start: %w", err)
	}
	i := Instance{SystemIdentifier: parts[0], Timeline: uint32(timeline), Started: started}
	if i.String() != text {
		return Instance{}, fmt.Errorf("database instance %q is not in its only spelling", text)
	}
	return i, nil
}

// Group is what one commit adds to the log: the submissions that were waiting,
// in their order. Their entries get dense indices from the log's next one (I2).
type Group struct {
	ID       GroupID
	Time     time.Time // in the acknowledgement; whole seconds
	Deadline time.Time // by which a checkpoint must hold the group; whole seconds, after Time
	// Limit is the fence: indices are handed out below it only.
	Limit uint64
	// Instance is the database on which the fence was last compared with the
	// log. The group is committed on it, or not at all.
	Instance    Instance
	Submissions []Submission
}

// Submission is one request's part of a group: 1 to [MaxGroup] commitments that
// get indices in a row, and the rows that go with them in the same commit.
//
// Every index in those rows is relative to the submission's first entry; what
// is read from the store has the index in the log.
type Submission struct {
	// Owner is whose request it is, so that those who wait are served in turn. No
	// row has it. Empty: the service's own.
	Owner         string
	Commitments   []Commitment
	Idempotency   *Idempotency   // nil: a repeated request makes a second entry
	Document      *Document      // with Key
	Key           *WrappedKey    // of Document
	Certification *Certification // of Document
	Statement     *Statement
	Agency        *Agency // that Statement registers
}

// Check reports what a store would refuse in s whatever else is in the group, so
// that one wrong submission is turned away before it can fail its whole group.
func (s Submission) Check() error {
	n := uint64(len(s.Commitments))
	if n == 0 || n > MaxGroup {
		return fmt.Errorf("submission has %d commitments, want 1 to %d", n, MaxGroup)
	}
	for i, c := range s.Commitments {
		if c.IsVoid() {
			return fmt.Errorf("commitment %d is the void commitment", i)
		}
	}
	if (s.Document == nil) != (s.Key == nil) {
		return errors.New("a document comes with its wrapped key, and a key with its document")
	}
	if s.Certification != nil && s.Document == nil {
		return errors.New("a certification comes with its document")
	}
	if s.Agency != nil && s.Statement == nil {
		return errors.New("an agency comes with the statement that registers it")
	}
	return s.checkRows(n)
}

func (s Submission) checkRows(n uint64) error {
	if d := s.Document; d != nil {
		if err := d.check(n); err != nil {
			return fmt.Errorf("document: %w", err)
		}
		if err := s.Key.check(); err != nil {
			return fmt.Errorf("wrapped key: %w", err)
		}
	}
	if c := s.Certification; c != nil {
		if c.Index >= n || c.Index != s.Document.Certification {
			return fmt.Errorf("certification: relative index %d of %d, the document says %d", c.Index, n, s.Document.Certification)
		}
		if err := errors.Join(checkText("agency", c.Agency, 1, 64), checkSealed(c.Sealed)); err != nil {
			return fmt.Errorf("certification: %w", err)
		}
	}
	if t := s.Statement; t != nil {
		if t.Index >= n || len(t.Body) < 2 || len(t.Body) > maxStatement {
			return fmt.Errorf("statement: relative index %d of %d, body of %d bytes, want 2 to %d", t.Index, n, len(t.Body), maxStatement)
		}
		if err := checkText("type", t.Type, 1, 100); err != nil {
			return fmt.Errorf("statement: %w", err)
		}
	}
	if i := s.Idempotency; i != nil {
		if err := errors.Join(checkText("owner", i.Owner, 1, 255), checkTag("request tag", i.RequestTag)); err != nil {
			return fmt.Errorf("idempotency: %w", err)
		}
	}
	return nil
}

const (
	maxSealed    = 1 << 16
	maxStatement = 16384
)

// checkText: text that a database can hold, of least to most bytes.
func checkText(what, text string, least, most int) error {
	if len(text) < least || len(text) > most {
		return fmt.Errorf("%s of %d bytes, want %d to %d", what, len(text), least, most)
	}
	if !utf8.ValidString(text) || strings.ContainsRune(text, 0) {
		return fmt.Errorf("%s is not UTF-8 text without zero bytes", what)
	}
	return nil
}

func checkSealed(sealed []byte) error {
	if len(sealed) < 1 || len(sealed) > maxSealed {
		return fmt.Errorf("%d sealed bytes, want 1 to %d", len(sealed), maxSealed)
	}
	return nil
}

func checkTag(what string, tag []byte) error {
	if len(tag) < 16 || len(tag) > 64 {
		return fmt.Errorf("%s of %d bytes, want 16 to 64", what, len(tag))
	}
	return nil
}

// Idempotency says which request an owner's Idempotency-Key stood for, and what
// that request was given. A caller sets Owner, KeyHash and RequestTag.
type Idempotency struct {
	Owner   string
	KeyHash Hash // SHA-256 of the header's value
	// RequestTag is a keyed fingerprint of the request, so that the row tells
	// nobody what was uploaded: 16 to 64 bytes.
	RequestTag []byte
	First      uint64 // set by the store
	Count      uint64 // set by the store
	Document   DocumentID
}

// GroupResult is what became of a [Group].
type GroupResult struct {
	// First, Count and Commitments are the group as the log holds it, without
	// the submissions that are Existing. Count 0: there was nothing new.
	First       uint64
	Count       uint64
	Commitments []Commitment
	Submissions []SubmissionResult // in the order of Group.Submissions
}

// SubmissionResult is what became of a [Submission].
type SubmissionResult struct {
	First uint64 // its first index, also when Existing
	// Existing is the earlier use of the submission's Idempotency-Key. Then
	// nothing of the submission was written. Whether it was the same request is
	// for the caller to see, by RequestTag.
	Existing *Idempotency
}

// Origin says how a group of entries came into the log.
type Origin string

// The origins.
const (
	OriginIntake        Origin = "intake"         // submitted; acknowledged, or free to be
	OriginRolledForward Origin = "rolled-forward" // taken back from tiles after a restore
	OriginVoid          Origin = "void"           // fills indices that may have been promised and lost
)

// GroupRecord is a commit group as the log holds it. What was acknowledged
// follows from it alone.
type GroupRecord struct {
	ID          GroupID
	First       uint64
	Commitments []Commitment
	Origin      Origin
	Time        time.Time
	Deadline    time.Time // zero unless Origin is [OriginIntake]
}

// Document is the row of a document that the service keeps. All that is
// personal is in Sealed, under the document's key (I10).
type Document struct {
	ID     DocumentID
	Index  uint64
	Owner  string
	Object Object
	// Sealed holds name, media type, digest, salt and the like, under the document's key.
	Sealed []byte
	// DigestTag is a keyed hash of the digest: 16 to 64 bytes.
	DigestTag []byte
	// CodeHash is [FindCode.Hash] of the document's code; zero: it has none, as it
	// is from before there were codes.
	CodeHash Hash
	// Certification is the index of the certification's entry. 0: none, as entry
	// 0 is the log's identity.
	Certification uint64
	RetainUntil   time.Time // until when object storage must refuse to delete it
	RetainedAt    time.Time // when that was set; zero: not yet. Ignored in a Submission
	Created       time.Time
}

// check holds d, whose indices are relative to n entries, against the bounds of its row.
func (d Document) check(n uint64) error {
	if d.ID.IsZero() {
		return errors.New("no id")
	}
	if d.Index >= n || d.Certification >= n || (d.Certification != 0 && d.Certification <= d.Index) {
		return fmt.Errorf("relative index %d, certification %d, of %d entries", d.Index, d.Certification, n)
	}
	if d.RetainUntil.IsZero() || d.Created.IsZero() {
		return errors.New("no time of retention or of creation")
	}
	return errors.Join(checkText("owner", d.Owner, 1, 255), checkSealed(d.Sealed), checkTag("digest tag", d.DigestTag), d.Object.check())
}

// Found is what anybody may know of a document who has its digest or its code:
// that it is in the log, and where, when, and certified by whom. Nothing that is
// the owner's.
type Found struct {
	Index    uint64
	Received time.Time // when it was uploaded
	Agency   string    // that certified it; empty: none
}

// Object is where and how a document lies in object storage. It was durable
// there before its row existed (I1).
type Object struct {
	Name      string
	VersionID string
	PlainSize int64  // bytes of the document
	Size      int64  // bytes of the encrypted object
	PartSize  int64  // bytes of each part but the last; a single PUT has one part
	Checksum  string // as the server states it: plain SHA-256, or composite, base64
}

// PartsPlace is where the parts of an object go that isn't complete yet.
type PartsPlace struct {
	Object string // name of the object that they will be
	Upload string // of S3, which it gave when the object was begun
}

// Part is a part of such an object that is durable.
type Part struct {
	ETag string // as the server answered
	Sum  Hash   // SHA-256 of the part as it is stored
}

// Partial is a document that comes in pieces: what of it is durable, and where.
type Partial struct {
	ID       DocumentID // also of the document that it becomes
	Owner    string
	Size     int64 // bytes of the whole document
	Place    PartsPlace
	KeyID    string     // of the key-encryption key; empty: the document is recorded, and has the key
	Wrapped  []byte     // data key
	Sealed   []byte     // what the client said of the document, under its key (I10)
	Received int64      // bytes of the document that are durable, in parts and tail
	Tail     string     // object that holds the beginning of the next part; empty: none is needed
	State    []byte     // the running hash behind the last full part, under the document's key
	Parts    []Part     // all that are durable, in their order
	Document DocumentID // that was recorded; zero: none yet
	Created  time.Time
	Expires  time.Time
}

// Lease says who is adding to a [Partial]: 16 random bytes, drawn anew for each request.
type Lease [16]byte

// Progress is what one step adds to a [Partial].
type Progress struct {
	Received int64
	Tail     string
	State    []byte
	Parts    []Part // behind those that it has
}

// StoredObject is what object storage says of a document's object.
type StoredObject struct {
	Size        int64
	Checksum    string    // SHA-256, plain or composite; empty: the server keeps none
	LockedUntil time.Time // by Object Lock; zero: it isn't
	Encrypted   bool      // it begins as an encrypted document of its size does
}

func (o Object) check() error {
	if o.PlainSize < 1 || o.Size < 1 || o.PartSize < 1 {
		return fmt.Errorf("object: sizes %d, %d, %d, want at least 1 byte each", o.PlainSize, o.Size, o.PartSize)
	}
	return errors.Join(checkText("object name", o.Name, 1, 1024), checkText("object version", o.VersionID, 0, 1024),
		checkText("object checksum", o.Checksum, 1, 255))
}

// WrappedKey is a document's data key under a key-encryption key of the
// keyring. It lives in a table of its own: once its row is destroyed nobody can
// read the document or its sealed fields any more (I10).
type WrappedKey struct {
	Document DocumentID // set by the store
	KeyID    string     // which key-encryption key
	Wrapped  []byte
}

func (k WrappedKey) check() error {
	if len(k.Wrapped) < 16 || len(k.Wrapped) > 1024 {
		return fmt.Errorf("%d bytes, want 16 to 1024", len(k.Wrapped))
	}
	return checkText("key id", k.KeyID, 1, 255)
}

// Certification is the row of a certification's entry.
type Certification struct {
	Index    uint64
	Document DocumentID // set by the store
	Agency   string
	Sealed   []byte // signed statement and salt, under the document's key
}

// Statement is the row of a public statement's entry, such as the registration
// of an agency. Its commitment is over the digest of Body and Salt.
type Statement struct {
	Index uint64
	Type  string
	Body  []byte // canonical JSON of the signed statement
	Salt  Salt
}

// ChainBreak is a place at which the chain of anchors was broken by a transaction
// that isn't the log's, with the statement by which it goes on.
type ChainBreak struct {
	After     uint64 // anchors before it
	Spend     Anchor // that transaction in its block; it needn't carry a payload
	Statement Statement
}

// Agency may certify documents from the entry of its statement on.
type Agency struct {
	ID        string
	Name      string
	Key       string // verifier key, in the form of docs/formats.md
	Statement uint64 // index of the statement that registers it
	Added     time.Time
}

// TokenID names an API token in lists and when it is revoked. It opens nothing.
type TokenID = DocumentID

// Token is the row of an API token. The token itself, 256 random bits, is shown
// once and kept nowhere.
type Token struct {
	ID      TokenID
	Owner   string // whose documents it reaches
	Label   string // for people
	Hash    Hash   // SHA-256 of the token
	Scopes  []string
	Created time.Time
	Revoked time.Time // zero: valid
}

// Deployment is the one row that says whose log a database holds.
type Deployment struct {
	Identity []byte // canonical JSON of the log identity; entry 0 commits to its SHA-256
	Network  Network
	Created  time.Time
}

// Timestamp is a [Payload] that somebody else's OpenTimestamps calendar has led
// to a block: an anchor without a transaction of ours. Until Final, a
// reorganisation can take it back.
type Timestamp struct {
	Payload
	Calendar string // address of the calendar that was asked
	// Operations lead from SHA-256 of the payload to the Merkle root of the block
	// (docs/formats.md, "Receipt").
	Operations []byte
	Height     uint32 // of the block
	// The block at that height, and its header, whose Merkle root was compared. Both
	// are zero as long as no header of that height was known: then it is the
	// calendar's word alone.
	Block  BlockHash
	Header [HeaderSize]byte
	Final  bool
}

// Checked reports whether the block's header was known, and holds.
func (t Timestamp) Checked() bool { return t.Block != BlockHash{} }
