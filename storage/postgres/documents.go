package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/calpe/calpe"
)

// maxPage bounds every list that a caller pages through.
const maxPage = 1000

func checkLimit(limit int) error {
	if limit < 1 || limit > maxPage {
		return fmt.Errorf("limit of %d rows, want 1 to %d", limit, maxPage)
	}
	return nil
}

func queueDocument(b *pgx.Batch, first uint64, d *calpe.Document, k *calpe.WrappedKey) {
	var certification *uint64
	if d.Certification != 0 {
		index := first + d.Certification
		certification = &index
	}
	var codeHash []byte // null if there is none
	if d.CodeHash != (calpe.Hash{}) {
		codeHash = d.CodeHash[:]
	}
	b.Queue(`INSERT INTO document (id, index, owner, object, object_version, plain_size, object_size, part_size,
			object_checksum, sealed, digest_tag, certification_index, retain_until, created_at, code_hash)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)`,
		[16]byte(d.ID), first+d.Index, d.Owner, d.Object.Name, d.Object.VersionID, d.Object.PlainSize, d.Object.Size, d.Object.PartSize,
		d.Object.Checksum, d.Sealed, d.DigestTag, certification, d.RetainUntil, d.Created, codeHash)
	b.Queue(`INSERT INTO document_key (document_id, key_id, wrapped) VALUES ($1, $2, $3)`, [16]byte(d.ID), k.KeyID, k.Wrapped)
}

func queueCertification(b *pgx.Batch, first uint64, document calpe.DocumentID, c *calpe.Certification) {
	b.Queue(`INSERT INTO certification (index, document_id, agency, sealed) VALUES ($1, $2, $3, $4)`,
		first+c.Index, [16]byte(document), c.Agency, c.Sealed)
}

const documentColumns = `id, index, owner, object, object_version, plain_size, object_size, part_size,
	object_checksum, sealed, digest_tag, coalesce(certification_index, 0), retain_until, retained_at, created_at, code_hash`

func scanDocument(row pgx.Row) (d calpe.Document, err error) {
	var (
		id       [16]byte
		retained *time.Time
		codeHash []byte
	)
	err = row.Scan(&id, &d.Index, &d.Owner, &d.Object.Name, &d.Object.VersionID, &d.Object.PlainSize, &d.Object.Size, &d.Object.PartSize,
		&d.Object.Checksum, &d.Sealed, &d.DigestTag, &d.Certification, &d.RetainUntil, &retained, &d.Created, &codeHash)
	d.ID, d.RetainUntil, d.RetainedAt, d.Created = id, d.RetainUntil.UTC(), timeOf(retained), d.Created.UTC()
	copy(d.CodeHash[:], codeHash) // the schema keeps it at 32 bytes; nothing of a null
	return d, err
}

func collectDocument(row pgx.CollectableRow) (calpe.Document, error) { return scanDocument(row) }

// Document reads a document's row by its id; calpe.ErrNotFound if there is none.
func (db *DB) Document(ctx context.Context, id calpe.DocumentID) (calpe.Document, error) {
	d, err := scanDocument(db.on(ctx).QueryRow(ctx, `SELECT `+documentColumns+` FROM document WHERE id = $1`, [16]byte(id)))
	return d, translate("read document", err)
}

// DocumentAt reads a document's row by the index of its entry; calpe.ErrNotFound
// if the entry is not that of a document.
func (db *DB) DocumentAt(ctx context.Context, index uint64) (calpe.Document, error) {
	d, err := scanDocument(db.on(ctx).QueryRow(ctx, `SELECT `+documentColumns+` FROM document WHERE index = $1`, clampIndex(index)))
	return d, translate("read document", err)
}

// DocumentsOf lists an owner's documents with an index below before, the newest
// first, up to limit (1 to 1000). The next page is before the last one's index.
func (db *DB) DocumentsOf(ctx context.Context, owner string, before uint64, limit int) ([]calpe.Document, error) {
	const where = ` FROM document WHERE owner = $1 AND index < $2 ORDER BY index DESC LIMIT $3`
	return db.documents(ctx, "list documents of owner", limit, where, owner, clampIndex(before), limit)
}

// Unretained lists documents whose object has no retention yet, by id, from
// behind after (the zero id: from the first), up to limit (1 to 1000).
func (db *DB) Unretained(ctx context.Context, after calpe.DocumentID, limit int) ([]calpe.Document, error) {
	const where = ` FROM document WHERE retained_at IS NULL AND id > $1 ORDER BY id LIMIT $2`
	return db.documents(ctx, "list documents without retention", limit, where, [16]byte(after), limit)
}

func (db *DB) documents(ctx context.Context, what string, limit int, where string, args ...any) ([]calpe.Document, error) {
	if err := checkLimit(limit); err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	rows, err := db.on(ctx).Query(ctx, `SELECT `+documentColumns+where, args...)
	if err != nil {
		return nil, translate(what, err)
	}
	list, err := pgx.CollectRows(rows, collectDocument)
	return list, translate(what, err)
}

// MarkRetained records that object storage keeps the document's object until
// its RetainUntil. A second call changes nothing. calpe.ErrNotFound if there is
// no such document.
func (db *DB) MarkRetained(ctx context.Context, id calpe.DocumentID, at time.Time) error {
	const sql = `UPDATE document SET retained_at = coalesce(retained_at, $2) WHERE id = $1`
	return db.changeOne(ctx, "mark document as retained", sql, [16]byte(id), at)
}

// changeOne runs a statement that must change one row; calpe.ErrNotFound if it
// finds none.
func (db *DB) changeOne(ctx context.Context, what, sql string, args ...any) error {
	tag, err := db.on(ctx).Exec(ctx, sql, args...)
	if err == nil && tag.RowsAffected() != 1 {
		err = pgx.ErrNoRows
	}
	return translate(what, err)
}

// maxObjectNames is a page of an object listing.
const maxObjectNames = 10_000

// KnownObjects gives those of names (up to 10,000) that a document's row has. An
// object that is older than every upload may take, and isn't among them, is an
// orphan (I1).
func (db *DB) KnownObjects(ctx context.Context, names []string) ([]string, error) {
	if len(names) > maxObjectNames {
		return nil, fmt.Errorf("look for objects: %d names, more than %d", len(names), maxObjectNames)
	}
	rows, err := db.on(ctx).Query(ctx, `SELECT object FROM document WHERE object = ANY ($1::text[])`, names)
	if err != nil {
		return nil, translate("look for objects", err)
	}
	known, err := pgx.CollectRows(rows, pgx.RowTo[string])
	return known, translate("look for objects", err)
}

func scanKey(row pgx.CollectableRow) (k calpe.WrappedKey, err error) {
	var id [16]byte
	err = row.Scan(&id, &k.KeyID, &k.Wrapped)
	k.Document = id
	return k, err
}

// DocumentKey reads a document's wrapped key; calpe.ErrNotFound if the document
// was erased, or never was.
func (db *DB) DocumentKey(ctx context.Context, id calpe.DocumentID) (calpe.WrappedKey, error) {
	rows, err := db.on(ctx).Query(ctx, `SELECT document_id, key_id, wrapped FROM document_key WHERE document_id = $1`, [16]byte(id))
	if err != nil {
		return calpe.WrappedKey{}, translate("read document key", err)
	}
	k, err := pgx.CollectExactlyOneRow(rows, scanKey)
	return k, translate("read document key", err)
}

// KeysNotUnder lists keys that are wrapped with another key-encryption key than
// keyID, by document, from behind after, up to limit (1 to 1000): what a
// rotation still has to do.
func (db *DB) KeysNotUnder(ctx context.Context, keyID string, after calpe.DocumentID, limit int) ([]calpe.WrappedKey, error) {
	if err := checkLimit(limit); err != nil {
		return nil, fmt.Errorf("list document keys: %w", err)
	}
	rows, err := db.on(ctx).Query(ctx, `SELECT document_id, key_id, wrapped FROM document_key
		WHERE document_id > $1 AND key_id <> $2 ORDER BY document_id LIMIT $3`, [16]byte(after), keyID, limit)
	if err != nil {
		return nil, translate("list document keys", err)
	}
	keys, err := pgx.CollectRows(rows, scanKey)
	return keys, translate("list document keys", err)
}

// RewrapKey replaces old, exactly as it was read, with the same data key under
// another key-encryption key. calpe.ErrNotFound if the row is no longer old:
// another process has rewrapped it, or the document was erased meanwhile, which
// this must not undo.
func (db *DB) RewrapKey(ctx context.Context, old, rewrapped calpe.WrappedKey) error {
	if old.Document != rewrapped.Document {
		return fmt.Errorf("rewrap document key: keys of two documents, %s and %s", old.Document, rewrapped.Document)
	}
	const sql = `UPDATE document_key SET key_id = $4, wrapped = $5 WHERE document_id = $1 AND key_id = $2 AND wrapped = $3`
	return db.changeOne(ctx, "rewrap document key", sql,
		[16]byte(old.Document), old.KeyID, old.Wrapped, rewrapped.KeyID, rewrapped.Wrapped)
}

// DestroyKey deletes a document's wrapped key: from then on nothing that the
// service has can read the document or its personal fields (I10). The wrapped
// key stays in WAL and backups until those expire. A second call changes
// nothing.
func (db *DB) DestroyKey(ctx context.Context, id calpe.DocumentID) error {
	// Crash before the commit: the document is still readable, and the caller must
	// not have said otherwise. Crash after it: it is erased; a second call agrees.
	// A document that came in pieces may have left its key there too, for a moment.
	const sql = `WITH also AS (DELETE FROM partial_key WHERE partial_id = $1) DELETE FROM document_key WHERE document_id = $1`
	_, err := db.on(ctx).Exec(ctx, sql, [16]byte(id))
	return translate("destroy document key", err)
}

// Certification reads the row of a certification's entry; calpe.ErrNotFound if
// the entry is none.
func (db *DB) Certification(ctx context.Context, index uint64) (calpe.Certification, error) {
	var (
		c        calpe.Certification
		document [16]byte
	)
	err := db.on(ctx).QueryRow(ctx, `SELECT index, document_id, agency, sealed FROM certification WHERE index = $1`, clampIndex(index)).
		Scan(&c.Index, &document, &c.Agency, &c.Sealed)
	c.Document = document
	return c, translate("read certification", err)
}
