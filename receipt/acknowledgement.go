package receipt

import (
	"errors"
	"fmt"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt/statement"
	"golang.org/x/mod/sumdb/note"
)

// AcknowledgementType is the first line of an acknowledgement.
const AcknowledgementType = "calpe/acknowledgement/v1"

// Acknowledgement is a promise (I7): the entries First to First+Count-1, which
// are those of one commit group, are in the log, and a checkpoint will cover
// them by the deadline (docs/formats.md, "Acknowledgement").
type Acknowledgement struct {
	Log      calpe.Hash // hash of the log's identity
	First    uint64
	Count    uint64
	Root     calpe.Hash // RFC 6962 root of just these entries, the first as leaf 0
	Time     time.Time  // to the second
	Deadline time.Time  // to the second
}

func (a Acknowledgement) validate() error {
	if a.Count < 1 || a.First > calpe.MaxLogSize || a.Count > calpe.MaxLogSize-a.First {
		return fmt.Errorf("%d entries from index %d are not a range of a log", a.Count, a.First)
	}
	if err := statement.CheckTime(a.Time); err != nil {
		return err
	}
	if err := statement.CheckTime(a.Deadline); err != nil {
		return fmt.Errorf("deadline: %w", err)
	}
	if a.Deadline.Before(a.Time) {
		return errors.New("deadline is before the time")
	}
	return nil
}

// SignAcknowledgement writes the signed note. Times lose what is below a second.
// The signer is an acknowledgement key, and never a checkpoint key. Call it only
// for entries that are durable.
func SignAcknowledgement(signer note.Signer, a Acknowledgement) ([]byte, error) {
	if err := a.validate(); err != nil {
		return nil, fmt.Errorf("sign acknowledgement: %w", err)
	}
	text := fmt.Sprintf("%s\n%s\n%d\n%d\n%s\n%s\n%s\n", AcknowledgementType, a.Log, a.First, a.Count,
		encodeRoot(a.Root), statement.FormatTime(a.Time), statement.FormatTime(a.Deadline))
	msg, err := note.Sign(&note.Note{Text: text}, signer)
	if err != nil {
		return nil, fmt.Errorf("sign acknowledgement: %w", err)
	}
	return msg, nil
}

// OpenAcknowledgement reads an acknowledgement and verifies that an
// acknowledgement key of the identity signed it and that it is about this log.
// An error with [ErrSignature] in its chain says that it is somebody else's.
func OpenAcknowledgement(msg []byte, id Identity) (Acknowledgement, error) {
	keys, err := id.AcknowledgementVerifiers()
	if err != nil {
		return Acknowledgement{}, fmt.Errorf("open acknowledgement: %w", err)
	}
	text, err := openNote(msg, keys)
	if err != nil {
		return Acknowledgement{}, fmt.Errorf("open acknowledgement: %w", err)
	}
	a, err := parseAcknowledgement(text)
	if err != nil {
		return Acknowledgement{}, fmt.Errorf("open acknowledgement: %w", err)
	}
	if a.Log != id.Hash() {
		return Acknowledgement{}, fmt.Errorf("open acknowledgement: it is about the log %s, not %s", a.Log, id.Hash())
	}
	return a, nil
}

// ReadAcknowledgement is [OpenAcknowledgement] without a key: what the note
// says, though nobody knows who said it.
func ReadAcknowledgement(msg []byte) (Acknowledgement, error) {
	text, err := readNote(msg)
	if err != nil {
		return Acknowledgement{}, fmt.Errorf("read acknowledgement: %w", err)
	}
	a, err := parseAcknowledgement(text)
	if err != nil {
		return Acknowledgement{}, fmt.Errorf("read acknowledgement: %w", err)
	}
	return a, nil
}

func parseAcknowledgement(text string) (a Acknowledgement, err error) {
	lines, err := noteLines(text, 7)
	if err != nil {
		return Acknowledgement{}, err
	}
	if lines[0] != AcknowledgementType {
		return Acknowledgement{}, fmt.Errorf("first line is %.64q, want %q", lines[0], AcknowledgementType)
	}
	if a.Log, err = calpe.ParseHash(lines[1]); err != nil {
		return Acknowledgement{}, fmt.Errorf("log: %w", err)
	}
	if a.First, err = parseDecimal("first index", lines[2], calpe.MaxLogSize); err != nil {
		return Acknowledgement{}, err
	}
	if a.Count, err = parseDecimal("count", lines[3], calpe.MaxLogSize); err != nil {
		return Acknowledgement{}, err
	}
	if a.Root, err = parseRoot("group root", lines[4]); err != nil {
		return Acknowledgement{}, err
	}
	if a.Time, err = statement.ParseTime(lines[5]); err != nil {
		return Acknowledgement{}, err
	}
	if a.Deadline, err = statement.ParseTime(lines[6]); err != nil {
		return Acknowledgement{}, fmt.Errorf("deadline: %w", err)
	}
	return a, a.validate()
}

// Verify checks that the path leads from the entry to the group root: the entry
// is one that the acknowledgement promises. An error with
// [merkle.ErrRootMismatch] in its chain says that it is another entry.
func (a Acknowledgement) Verify(entry calpe.Entry, path []calpe.Hash) error {
	if entry.Index < a.First || entry.Index-a.First >= a.Count {
		return fmt.Errorf("entry %d is not among the %d acknowledged from %d on", entry.Index, a.Count, a.First)
	}
	b := entry.Bytes()
	if err := merkle.VerifyInclusion(entry.Index-a.First, a.Count, merkle.LeafHash(b[:]), path, a.Root); err != nil {
		return fmt.Errorf("entry %d in the acknowledged group: %w", entry.Index, err)
	}
	return nil
}

// VerifyAcknowledged checks that note is an acknowledgement of the log and
// promises the entry: [OpenAcknowledgement] and [Acknowledgement.Verify] in one.
func VerifyAcknowledged(entry calpe.Entry, msg []byte, path []calpe.Hash, id Identity) (Acknowledgement, error) {
	a, err := OpenAcknowledgement(msg, id)
	if err != nil {
		return Acknowledgement{}, err
	}
	return a, a.Verify(entry, path)
}
