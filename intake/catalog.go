package intake

import (
	"context"
	"errors"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/storage/keyring"
)

// DocumentRows lists rows of documents. *postgres.DB is one.
type DocumentRows interface {
	// ListDocuments lists an owner's documents that aren't erased, the newest
	// first: with an index from indices[0] to below indices[1], created from
	// created[0] to before created[1] (zero: no bound), certified by that agency
	// (empty: any or none).
	ListDocuments(ctx context.Context, owner, agency string, indices [2]uint64, created [2]time.Time, limit int) ([]calpe.Document, error)
	// DocumentKeys gives the wrapped keys of those that aren't erased, in any order.
	DocumentKeys(ctx context.Context, ids []calpe.DocumentID) ([]calpe.WrappedKey, error)
	// Certifiers gives the agency of each certification, by its index.
	Certifiers(ctx context.Context, indices []uint64) (map[uint64]string, error)
}

// Opener unwraps data keys. *keyring.Ring is one.
type Opener interface {
	Unwrap(documentID string, wrapped keyring.Wrapped) (keyring.DataKey, error)
}

// Catalog lists documents with their personal fields open. Safe for concurrent
// use.
type Catalog struct {
	rows DocumentRows
	keys Opener
}

// NewCatalog makes a Catalog.
func NewCatalog(rows DocumentRows, keys Opener) (*Catalog, error) {
	if rows == nil || keys == nil {
		return nil, errors.New("catalog: rows and keys must be set")
	}
	return &Catalog{rows, keys}, nil
}

// MaxListed is the longest list that [Catalog.List] gives. Each document costs
// one unwrapping of a key.
const MaxListed = 100

// Query says which documents to list.
type Query struct {
	Owner string
	// Agency that certified them; empty: any, or none.
	Agency string
	// Indices from the first to below the second.
	Indices [2]uint64
	// Created from the first to before the second; a zero time is no bound.
	Created [2]time.Time
	Limit   int // 1 to MaxListed
}

// Listed is a document in a list: what its row says and its sealed fields,
// without the certification itself.
type Listed struct {
	Document
	CertifiedBy string // agency; empty if none
}

// List gives the documents that match, the newest first. If there are more, they
// are below the index next, else next is 0. Erased documents aren't listed. One
// that can't be opened fails the list: a list that leaves documents out in
// silence would be taken for all there is.
func (c *Catalog) List(ctx context.Context, q Query) (list []Listed, next uint64, err error) {
	if q.Owner == "" || q.Limit < 1 || q.Limit > MaxListed {
		return nil, 0, calpe.Errorf(calpe.CodeInternal, "a list needs an owner and a limit of 1 to %d", MaxListed)
	}
	rows, err := c.rows.ListDocuments(ctx, q.Owner, q.Agency, q.Indices, q.Created, q.Limit+1)
	if err != nil {
		return nil, 0, unavailable(err)
	}
	if len(rows) > q.Limit {
		rows = rows[:q.Limit]
		next = rows[q.Limit-1].Index
	}
	if len(rows) == 0 {
		return nil, 0, nil
	}
	list, err = c.open(ctx, rows)
	return list, next, err
}

// open unseals the rows.
func (c *Catalog) open(ctx context.Context, rows []calpe.Document) ([]Listed, error) {
	wrapped, agencies, err := c.beside(ctx, rows)
	if err != nil {
		return nil, err
	}
	list := make([]Listed, 0, len(rows))
	for _, row := range rows {
		key, ok := wrapped[row.ID]
		if !ok {
			continue // erased since the rows were read
		}
		d, err := c.unseal(row, key)
		if err != nil {
			return nil, damaged(row.ID, err)
		}
		list = append(list, Listed{d, agencies[row.Certification]})
	}
	return list, nil
}

// beside reads what stands beside the rows of documents: keys, and who certified.
func (c *Catalog) beside(ctx context.Context, rows []calpe.Document) (map[calpe.DocumentID]calpe.WrappedKey, map[uint64]string, error) {
	ids := make([]calpe.DocumentID, len(rows))
	var certifications []uint64
	for i, row := range rows {
		ids[i] = row.ID
		if row.Certification > 0 {
			certifications = append(certifications, row.Certification)
		}
	}
	keys, err := c.rows.DocumentKeys(ctx, ids)
	if err != nil {
		return nil, nil, unavailable(err)
	}
	wrapped := make(map[calpe.DocumentID]calpe.WrappedKey, len(keys))
	for _, k := range keys {
		wrapped[k.Document] = k
	}
	if len(certifications) == 0 {
		return wrapped, nil, nil
	}
	agencies, err := c.rows.Certifiers(ctx, certifications)
	if err != nil {
		return nil, nil, unavailable(err)
	}
	return wrapped, agencies, nil
}

func (c *Catalog) unseal(row calpe.Document, wrapped calpe.WrappedKey) (Document, error) {
	d, _, err := Unseal(c.keys, row, wrapped)
	return d, err
}

// Unseal opens the personal fields in the row of a document, without its
// certification, and gives the data key, too. The error doesn't repeat any of it
// (I10).
func Unseal(keys Opener, row calpe.Document, wrapped calpe.WrappedKey) (Document, keyring.DataKey, error) {
	key, err := keys.Unwrap(row.ID.String(), keyring.Wrapped{KeyID: wrapped.KeyID, Bytes: wrapped.Wrapped})
	if err != nil {
		return Document{}, keyring.DataKey{}, err
	}
	var fields sealedDocument
	if err := open(key, row.ID.String(), row.Sealed, &fields); err != nil {
		return Document{}, keyring.DataKey{}, err
	}
	return Document{
		ID: row.ID, Index: row.Index, Owner: row.Owner, Name: fields.Name, MediaType: fields.MediaType, Digest: fields.Digest,
		Salt: fields.Salt, Code: fields.Code, Size: row.Object.PlainSize, Created: row.Created, RetainUntil: row.RetainUntil,
	}, key, nil
}
