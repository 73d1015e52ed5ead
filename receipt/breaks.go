package receipt

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt/statement"
	"github.com/go-json-experiment/json"
)

const (
	// BreaksPath is where the log publishes the breaks of its chain of anchors,
	// beside the anchors.
	BreaksPath = "anchors/breaks"
	// MaxBreaks is how many breaks are published at most.
	MaxBreaks = 64
	// MaxBreaksSize is the largest file of breaks in bytes: above what that many
	// with the largest transactions take.
	MaxBreaksSize = 48 << 20
)

// Break is a place at which the chain of anchors ends with a transaction that
// isn't ours, and goes on from the coin that a statement names.
type Break struct {
	// After is how many anchors stand before it.
	After uint64 `json:"after"`
	// Spend is the transaction that spent the coin, and that a block holds it, with
	// the members of an anchor. It needn't have an anchor's form.
	Spend Anchor `json:"spend"`
	// Statement is the signed statement, a [statement.Break], and what its entry in
	// the log is made of.
	Statement statement.Signed `json:"statement"`
	Salt      calpe.Salt       `json:"salt"`
	Index     uint64           `json:"index"`
}

// Body is what the statement says. It is the zero value if the statement is of
// another type, which [DecodeBreaks] doesn't let pass.
func (b Break) Body() statement.Break {
	body, _ := b.Statement.Body().(statement.Break)
	return body
}

// Leaf is the statement's leaf in the log.
func (b Break) Leaf() calpe.Hash {
	entry := calpe.Entry{Index: b.Index, Commitment: calpe.Commit(b.Statement.Digest(), b.Salt)}.Bytes()
	return merkle.LeafHash(entry[:])
}

// EncodeBreaks writes the published file: a line of JSON for each break, in the
// order of the chain. The same breaks give the same bytes.
func EncodeBreaks(list []Break) ([]byte, error) {
	var b bytes.Buffer
	for i, item := range list {
		line, err := json.Marshal(item)
		if err != nil {
			return nil, fmt.Errorf("encode break %d: %w", i, err)
		}
		b.Write(line)
		b.WriteByte('\n')
	}
	if _, err := DecodeBreaks(b.Bytes()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// DecodeBreaks reads the published file, and checks each member by itself. What
// the breaks prove is another question.
func DecodeBreaks(data []byte) ([]Break, error) {
	if len(data) > MaxBreaksSize {
		return nil, fmt.Errorf("the file of breaks has %d bytes, more than %d", len(data), MaxBreaksSize)
	}
	if len(data) > 0 && data[len(data)-1] != '\n' {
		return nil, errors.New("the file of breaks doesn't end with a newline: it was cut off")
	}
	var list []Break
	for line := range bytes.Lines(data) {
		if len(list) == MaxBreaks {
			return nil, fmt.Errorf("there are more than %d breaks", MaxBreaks)
		}
		var b Break
		err := statement.Decode(line, &b)
		if err == nil {
			err = b.check()
		}
		if err != nil {
			return nil, fmt.Errorf("break, line %d: %w", len(list)+1, err)
		}
		list = append(list, b)
	}
	return list, nil
}

func (b Break) check() error {
	if _, _, err := b.Spend.parse(); err != nil {
		return err
	}
	if body := b.Statement.Body(); body == nil || body.Type() != statement.TypeBreak {
		return fmt.Errorf("the statement isn't a %s", statement.TypeBreak)
	}
	if b.Index >= calpe.MaxLogSize {
		return fmt.Errorf("index %d is above the largest log", b.Index)
	}
	return nil
}
