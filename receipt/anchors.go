package receipt

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt/headers"
	"github.com/calpe/calpe/receipt/statement"
	"github.com/go-json-experiment/json"
)

const (
	// AnchorsPerPage is how many anchors a full page of the published chain of
	// anchors has.
	AnchorsPerPage = 32
	// MaxAnchorsPage is the largest page in bytes: more than that many anchors with
	// transactions and coinbases of the largest size take.
	MaxAnchorsPage = 16 << 20
)

// AnchorsMediaType is the media type of a page: lines of JSON.
const AnchorsMediaType = "application/x-ndjson"

// AnchorsPath is where the log publishes the anchors with the numbers from
// page*[AnchorsPerPage] on: "anchors/x000/000" and so on. Page is below a million.
func AnchorsPath(page uint64) string {
	return fmt.Sprintf("anchors/x%03d/%03d", page/1000, page%1000)
}

// ParseAnchorsPath is the inverse of [AnchorsPath] and accepts nothing else.
func ParseAnchorsPath(path string) (page uint64, err error) {
	var high, low uint64
	if _, err := fmt.Sscanf(path, "anchors/x%03d/%03d", &high, &low); err != nil || high > 999 || low > 999 || AnchorsPath(high*1000+low) != path {
		return 0, fmt.Errorf("%.80q is not the path of a page of anchors", path)
	}
	return high*1000 + low, nil
}

// EncodeAnchors writes a page: a line of JSON for each anchor, in the order of
// the chain of coins. The same anchors give the same bytes.
func EncodeAnchors(page []Anchor) ([]byte, error) {
	var b bytes.Buffer
	for i, a := range page {
		line, err := json.Marshal(a)
		if err != nil {
			return nil, fmt.Errorf("encode anchor %d of the page: %w", i, err)
		}
		b.Write(line)
		b.WriteByte('\n')
	}
	if _, err := DecodeAnchors(b.Bytes()); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// DecodeAnchors reads a page, and checks each member of each anchor by itself.
// What the anchors prove is another question: see [Anchor.Link].
func DecodeAnchors(data []byte) ([]Anchor, error) {
	if len(data) > MaxAnchorsPage {
		return nil, fmt.Errorf("page of anchors has %d bytes, more than %d", len(data), MaxAnchorsPage)
	}
	if len(data) > 0 && data[len(data)-1] != '\n' {
		return nil, errors.New("page of anchors doesn't end with a newline: it was cut off")
	}
	var page []Anchor
	for line := range bytes.Lines(data) {
		if len(page) == AnchorsPerPage {
			return nil, fmt.Errorf("page of anchors has more than %d lines", AnchorsPerPage)
		}
		var a Anchor
		err := statement.Decode(line, &a)
		if err == nil {
			_, _, err = a.parse()
		}
		if err != nil {
			return nil, fmt.Errorf("page of anchors, line %d: %w", len(page)+1, err)
		}
		page = append(page, a)
	}
	return page, nil
}

// Link is an anchor as a link of the chain of coins.
type Link struct {
	TxID   calpe.BlockHash
	Inputs []calpe.Outpoint // of the transaction; an anchor spends the coin with the first
	// Payload is what output 0 carries; nil if it carries none, or has a value:
	// then the transaction is no anchor.
	Payload *calpe.Payload
	Outputs []int64 // satoshis of each output; the next coin is output 1
}

// Next is the coin that the anchor makes: its change.
func (l Link) Next() calpe.Outpoint { return calpe.Outpoint{TxID: l.TxID, Vout: 1} }

// maxMoney is how many satoshis there can be.
const maxMoney = 21_000_000 * 100_000_000

// Link reads the transaction, and checks that the header's block holds it. That
// the block is in the chain is for [Anchor.InChain] to say.
func (a *Anchor) Link() (Link, error) {
	tx, coinbase, err := a.parse()
	if err != nil {
		return Link{}, err
	}
	if bad := a.checkBlock(tx, coinbase); bad != nil {
		return Link{}, errors.New(bad.Text)
	}
	l := Link{TxID: tx.id, Inputs: tx.inputs}
	for i, value := range tx.values {
		if value > maxMoney {
			return Link{}, fmt.Errorf("output %d of the transaction %s has a value that no output can have", i, tx.id)
		}
		l.Outputs = append(l.Outputs, int64(value))
	}
	if p, err := calpe.ParsePayloadScript(tx.scripts[0]); err == nil && tx.values[0] == 0 && p.Size > 0 {
		l.Payload = &p
	}
	return l, nil
}

// Block is the hash of the block that the header is of.
func (a *Anchor) Block() calpe.BlockHash { return doubleHash(a.Header) }

// InChain answers whether the anchor's block stands in the chain, depth blocks
// deep. The block is nil unless it stands there at all. [Anchor.Link] must have
// accepted the anchor.
func (a *Anchor) InChain(chain *headers.Chain, depth int) (Verdict, *Block) {
	return a.inChain(doubleHash(a.Transaction), chain, depth)
}
