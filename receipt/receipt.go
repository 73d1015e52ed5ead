package receipt

import (
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt/statement"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

const (
	// ReceiptType is the member "type" of a receipt.
	ReceiptType = "calpe/receipt/v1"
	// MaxSize is the largest receipt in bytes, as it is written.
	MaxSize = 1 << 20

	maxPath   = 40 // log2 of the largest log
	maxBranch = 32 // log2 of the largest position
)

// Receipt is the evidence for one document (docs/formats.md, "Receipt"). The
// JSON tags are the format: [Receipt.Encode] and [Decode] are its only writer
// and reader. That a receipt can be read says nothing of what it proves: see
// [Verify].
type Receipt struct {
	Type   string       `json:"type"` // [ReceiptType]
	Log    calpe.Hash   `json:"log"`  // hash of the log's identity
	Digest calpe.Digest `json:"digest"`
	Salt   calpe.Salt   `json:"salt"`
	Index  uint64       `json:"index"`

	// A promise as long as there is no checkpoint, then never again.
	Acknowledgement *Promise `json:"acknowledgement,omitzero"`

	// The text of the checkpoint note, and the entry's inclusion proof in its tree:
	// both or neither. A tree of one entry has the empty proof, which isn't nil.
	Checkpoint string `json:"checkpoint,omitzero"`
	Path       Path   `json:"path,omitzero"`

	Certification *Certification `json:"certification,omitzero"` // nil if there is none
	Anchor        *Anchor        `json:"anchor,omitzero"`        // only with Checkpoint
	Timestamp     *Timestamp     `json:"timestamp,omitzero"`     // only with Checkpoint, and not beside Anchor
}

// Promise is an acknowledgement with the path of the entry in its group.
type Promise struct {
	Note string `json:"note"`
	Path Path   `json:"path"`
}

// Certification is an agency's statement about the document, as an entry of the
// same log.
type Certification struct {
	Statement statement.Signed `json:"statement"` // a [statement.Certification]
	Salt      calpe.Salt       `json:"salt"`
	Index     uint64           `json:"index"`
	Path      Path             `json:"path,omitzero"` // in the checkpoint's tree, with it or not at all
	Agency    Registration     `json:"agency"`
}

// Registration is the operator's statement that registered the agency's key, as
// an entry of the same log.
type Registration struct {
	Statement statement.Signed `json:"statement"` // a [statement.Agency]
	Salt      calpe.Salt       `json:"salt"`
	Index     uint64           `json:"index"`
	Path      Path             `json:"path,omitzero"`
}

// Anchor leads from the checkpoint to a block: the same as [calpe.Anchor], with
// the name of the network, without what follows from the rest.
type Anchor struct {
	Network        calpe.Network   `json:"network"`
	Genesis        calpe.BlockHash `json:"genesis"`
	Height         uint32          `json:"height"`
	Header         Hex             `json:"header"`      // 80 bytes
	Transaction    Hex             `json:"transaction"` // without witness
	Position       uint32          `json:"position"`
	Branch         Branch          `json:"branch"`
	Coinbase       Hex             `json:"coinbase"` // without witness
	CoinbaseBranch Branch          `json:"coinbase_branch"`
}

// Place is the network and the height at which the anchor or the timestamp says
// that its block stands; false if there is neither.
func (r Receipt) Place() (network calpe.Network, height uint32, ok bool) {
	switch {
	case r.Anchor != nil:
		return r.Anchor.Network, r.Anchor.Height, true
	case r.Timestamp != nil:
		return r.Timestamp.Network, r.Timestamp.Height, true
	}
	return "", 0, false
}

// Path is an inclusion proof. Its text form is the base64 of the hashes, one
// after another.
type Path []calpe.Hash

// Branch is a path in a block's tree. Its text form is the base64 of the
// hashes, one after another, in internal byte order.
type Branch []calpe.BlockHash

// Hex are bytes whose text form is lower-case hexadecimal.
type Hex []byte

// MarshalText implements [encoding.TextMarshaler].
func (p Path) MarshalText() ([]byte, error) { return encodeHashes(p), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]; the result isn't nil.
func (p *Path) UnmarshalText(text []byte) (err error) {
	*p, err = decodeHashes[calpe.Hash](text, maxPath)
	return err
}

// MarshalText implements [encoding.TextMarshaler].
func (b Branch) MarshalText() ([]byte, error) { return encodeHashes(b), nil }

// UnmarshalText implements [encoding.TextUnmarshaler]; the result isn't nil.
func (b *Branch) UnmarshalText(text []byte) (err error) {
	*b, err = decodeHashes[calpe.BlockHash](text, maxBranch)
	return err
}

// MarshalText implements [encoding.TextMarshaler].
func (h Hex) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, h), nil }

// UnmarshalText implements [encoding.TextUnmarshaler].
func (h *Hex) UnmarshalText(text []byte) error {
	b, err := hex.AppendDecode(nil, text)
	if err != nil {
		return err
	}
	*h = b
	return nil // upper case is refused by statement.Decode: it isn't what MarshalText writes
}

func encodeHashes[H calpe.Hash | calpe.BlockHash](hashes []H) []byte {
	raw := make([]byte, 0, len(hashes)*calpe.HashSize)
	for _, h := range hashes {
		b := [calpe.HashSize]byte(h)
		raw = append(raw, b[:]...)
	}
	return base64.StdEncoding.AppendEncode(nil, raw)
}

func decodeHashes[H calpe.Hash | calpe.BlockHash](text []byte, limit int) ([]H, error) {
	if len(text) > base64.StdEncoding.EncodedLen(limit*calpe.HashSize) {
		return nil, fmt.Errorf("more than %d hashes", limit)
	}
	raw, err := base64.StdEncoding.Strict().AppendDecode(nil, text)
	if err != nil {
		return nil, err
	}
	if len(raw)%calpe.HashSize != 0 {
		return nil, fmt.Errorf("%d bytes are not hashes of %d bytes", len(raw), calpe.HashSize)
	}
	hashes := make([]H, len(raw)/calpe.HashSize)
	for i := range hashes {
		hashes[i] = H([calpe.HashSize]byte(raw[i*calpe.HashSize:]))
	}
	return hashes, nil
}

// Encode writes the receipt for people to look at and for [Decode] to read:
// indented JSON, members always in the order of the format, a newline at the
// end. The same receipt gives the same bytes.
func (r Receipt) Encode() ([]byte, error) {
	data, err := json.Marshal(r, jsontext.WithIndent("  "))
	if err != nil {
		return nil, fmt.Errorf("encode receipt: %w", err)
	}
	data = append(data, '\n')
	if _, err := Decode(data); err != nil {
		return nil, fmt.Errorf("encode receipt: %w", err)
	}
	return data, nil
}

// Decode reads a receipt, however it is spaced. Beyond JSON it checks all that
// the format demands of each member by itself and of which go together; the
// error names the place.
func Decode(data []byte) (Receipt, error) {
	if len(data) > MaxSize {
		return Receipt{}, fmt.Errorf("receipt has %d bytes, more than %d", len(data), MaxSize)
	}
	var r Receipt
	if err := statement.Decode(data, &r); err != nil {
		return Receipt{}, fmt.Errorf("receipt: %w", err)
	}
	if err := r.Validate(); err != nil {
		return Receipt{}, err
	}
	return r, nil
}

// Validate checks the members as [Decode] does.
func (r Receipt) Validate() error {
	_, err := r.parse()
	return err
}

// parsed is a receipt that has been validated, with what its members hold.
type parsed struct {
	Receipt
	promise    *Acknowledgement // nil with a checkpoint
	origin     string           // of the checkpoint
	checkpoint *calpe.Checkpoint
	tx         transaction
	coinbase   transaction
	merkleRoot calpe.BlockHash // to which the timestamp leads

	certification statement.Certification
	agency        statement.Agency
}

func (r Receipt) parse() (*parsed, error) {
	p := &parsed{Receipt: r}
	for _, step := range []func() error{p.parseHead, p.parseTree, p.parseCertification, p.parseAnchor, p.parseTimestamp} {
		if err := step(); err != nil {
			return nil, fmt.Errorf("receipt: %w", err)
		}
	}
	return p, nil
}

func (p *parsed) parseHead() error {
	if p.Type != ReceiptType {
		return fmt.Errorf("type is %.64q, want %q", p.Type, ReceiptType)
	}
	return checkIndex(p.Index)
}

func checkIndex(index uint64) error {
	if index >= calpe.MaxLogSize {
		return fmt.Errorf("index %d is above the largest log, %d entries", index, uint64(calpe.MaxLogSize))
	}
	return nil
}

// parseTree reads the promise or the checkpoint, of which there is one.
func (p *parsed) parseTree() error {
	if p.Acknowledgement != nil {
		return p.parsePromise()
	}
	if p.Checkpoint == "" {
		return errors.New("neither acknowledgement nor checkpoint is there")
	}
	if p.Path == nil {
		return errors.New("path is missing, though there is a checkpoint")
	}
	if err := checkPath(p.Path); err != nil {
		return fmt.Errorf("path: %w", err)
	}
	origin, c, err := ReadCheckpoint([]byte(p.Checkpoint))
	if err != nil {
		return fmt.Errorf("checkpoint: %w", err)
	}
	if p.Index >= c.Size {
		return fmt.Errorf("index %d is not below the checkpoint's size %d", p.Index, c.Size)
	}
	p.origin, p.checkpoint = origin, &c
	return nil
}

func (p *parsed) parsePromise() error {
	if p.Checkpoint != "" || p.Path != nil {
		return errors.New("acknowledgement stands beside checkpoint or path")
	}
	if p.Acknowledgement.Path == nil {
		return errors.New("acknowledgement: path is missing")
	}
	if err := checkPath(p.Acknowledgement.Path); err != nil {
		return fmt.Errorf("acknowledgement: path: %w", err)
	}
	a, err := ReadAcknowledgement([]byte(p.Acknowledgement.Note))
	if err != nil {
		return fmt.Errorf("acknowledgement: %w", err)
	}
	p.promise = &a
	return nil
}

func checkPath(path Path) error {
	if len(path) > maxPath {
		return fmt.Errorf("has %d hashes, more than %d", len(path), maxPath)
	}
	return nil
}

func (p *parsed) parseCertification() error {
	c := p.Certification
	if c == nil {
		return nil
	}
	var ok bool
	if p.certification, ok = c.Statement.Body().(statement.Certification); !ok {
		return fmt.Errorf("certification: statement is not a %s", statement.TypeCertification)
	}
	if p.agency, ok = c.Agency.Statement.Body().(statement.Agency); !ok {
		return fmt.Errorf("certification: agency: statement is not a %s", statement.TypeAgency)
	}
	if err := p.checkEntry(c.Index, c.Path); err != nil {
		return fmt.Errorf("certification: %w", err)
	}
	if err := p.checkEntry(c.Agency.Index, c.Agency.Path); err != nil {
		return fmt.Errorf("certification: agency: %w", err)
	}
	return nil
}

// checkEntry checks the index and the path of an entry beside the document's.
func (p *parsed) checkEntry(index uint64, path Path) error {
	if err := checkIndex(index); err != nil {
		return err
	}
	if (path != nil) != (p.checkpoint != nil) {
		return errors.New("path and checkpoint are not both there or both absent")
	}
	if p.checkpoint != nil && index >= p.checkpoint.Size {
		return fmt.Errorf("index %d is not below the checkpoint's size %d", index, p.checkpoint.Size)
	}
	return checkPath(path)
}

func (p *parsed) parseAnchor() (err error) {
	a := p.Anchor
	if a == nil {
		return nil
	}
	if p.checkpoint == nil {
		return errors.New("anchor is there without a checkpoint")
	}
	if p.tx, p.coinbase, err = a.parse(); err != nil {
		return fmt.Errorf("anchor: %w", err)
	}
	return nil
}

func (a *Anchor) parse() (tx, coinbase transaction, err error) {
	if err := a.validate(); err != nil {
		return tx, coinbase, err
	}
	if tx, err = parseTransaction(a.Transaction); err != nil {
		return tx, coinbase, err
	}
	if coinbase, err = parseTransaction(a.Coinbase); err != nil {
		return tx, coinbase, fmt.Errorf("coinbase: %w", err)
	}
	return tx, coinbase, nil
}

func (a *Anchor) validate() error {
	if err := checkNetwork(a.Network, a.Genesis); err != nil {
		return err
	}
	if len(a.Header) != calpe.HeaderSize {
		return fmt.Errorf("header has %d bytes, want %d", len(a.Header), calpe.HeaderSize)
	}
	if a.Position < 1 {
		return errors.New("position is 0, which is the coinbase's")
	}
	if len(a.Branch) > maxBranch {
		return fmt.Errorf("branch has %d hashes, more than %d", len(a.Branch), maxBranch)
	}
	if len(a.Branch) != len(a.CoinbaseBranch) {
		return fmt.Errorf("branch has %d hashes and coinbase_branch %d: transactions of a block are equally deep",
			len(a.Branch), len(a.CoinbaseBranch))
	}
	return nil
}
