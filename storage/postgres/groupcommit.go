package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/calpe/calpe"
)

// groupCommit is a group on its way into the log. It outlives an attempt: what
// one attempt learns (which submissions are known) the next one leaves out.
type groupCommit struct {
	group    calpe.Group
	empty    bool // the log must be empty: this is entry 0
	also     func(*pgx.Batch)
	known    []*calpe.Idempotency // by submission: the earlier use of its key
	sameAs   []int                // by submission: the earlier one of the group with its key; else itself
	fresh    []int                // the submissions to be written, in order
	relative []uint64             // by submission: its first entry, relative to the group's
	result   calpe.GroupResult
}

func newGroupCommit(g calpe.Group) *groupCommit {
	return &groupCommit{
		group:    g,
		known:    make([]*calpe.Idempotency, len(g.Submissions)),
		sameAs:   make([]int, len(g.Submissions)),
		relative: make([]uint64, len(g.Submissions)),
	}
}

// check holds the group against the rules that don't depend on the log.
func (c *groupCommit) check() error {
	g := &c.group
	switch {
	case g.ID == calpe.GroupID{}:
		return errors.New("the group has no id")
	case g.Instance.IsZero():
		return errors.New("the group doesn't say for which instance of the database it is")
	case !wholeSeconds(g.Time) || !wholeSeconds(g.Deadline) || !g.Deadline.After(g.Time):
		return fmt.Errorf("time %s and deadline %s must be whole seconds, one after the other", g.Time, g.Deadline)
	case len(g.Submissions) == 0:
		return errors.New("the group has no submission")
	}
	total := 0
	for i, s := range g.Submissions {
		if err := s.Check(); err != nil {
			return fmt.Errorf("submission %d: %w", i, err)
		}
		total += len(s.Commitments)
	}
	if total > calpe.MaxGroup {
		return fmt.Errorf("the group has %d entries, more than %d", total, calpe.MaxGroup)
	}
	return nil
}

func wholeSeconds(t time.Time) bool { return !t.IsZero() && t.Nanosecond() == 0 }

// ownerKey identifies an Idempotency-Key.
type ownerKey struct {
	owner string
	hash  calpe.Hash
}

func keyOf(i *calpe.Idempotency) ownerKey { return ownerKey{i.Owner, i.KeyHash} }

// markRepeated finds the submissions that use the key of an earlier one.
func (c *groupCommit) markRepeated() {
	seen := make(map[ownerKey]int)
	for i, s := range c.group.Submissions {
		c.sameAs[i] = i
		if s.Idempotency == nil {
			continue
		}
		if first, ok := seen[keyOf(s.Idempotency)]; ok {
			c.sameAs[i] = first
		} else {
			seen[keyOf(s.Idempotency)] = i
		}
	}
}

// arrange lays out what is to be written: neither known nor repeated.
func (c *groupCommit) arrange() {
	c.fresh = c.fresh[:0]
	c.result = calpe.GroupResult{}
	for i, s := range c.group.Submissions {
		if c.known[i] != nil || c.sameAs[i] != i {
			continue
		}
		c.fresh = append(c.fresh, i)
		c.relative[i] = uint64(len(c.result.Commitments))
		c.result.Commitments = append(c.result.Commitments, s.Commitments...)
	}
	c.result.Count = uint64(len(c.result.Commitments))
}

// finish says for each submission where it is.
func (c *groupCommit) finish() calpe.GroupResult {
	c.result.Submissions = make([]calpe.SubmissionResult, len(c.group.Submissions))
	for i := range c.group.Submissions {
		first := c.sameAs[i]
		existing := c.known[first]
		if existing == nil && first != i {
			existing = c.idempotency(first)
		}
		r := calpe.SubmissionResult{First: c.result.First + c.relative[first], Existing: existing}
		if existing != nil {
			r.First = existing.First
		}
		c.result.Submissions[i] = r
	}
	return c.result
}

// idempotency is the row of submission i, complete.
func (c *groupCommit) idempotency(i int) *calpe.Idempotency {
	s := &c.group.Submissions[i]
	row := *s.Idempotency
	row.First, row.Count = c.result.First+c.relative[i], uint64(len(s.Commitments))
	row.Document = calpe.DocumentID{}
	if s.Document != nil {
		row.Document = s.Document.ID
	}
	return &row
}

// write does everything but COMMIT. One round trip for commitments alone, two
// if rows go with them.
func (c *groupCommit) write(ctx context.Context, conn *pgx.Conn) error {
	if err := c.insertGroup(ctx, conn); err != nil {
		return err
	}
	rows := c.rows()
	if rows.Len() == 0 {
		return nil
	}
	return translate("insert rows of the group", conn.SendBatch(ctx, rows).Close())
}

const (
	// The lock comes in a statement before, so that the snapshot of this one has
	// every group that was committed under it. The last row is read by the primary
	// key; no head row is updated, which would slow down under an open snapshot.
	insertGroupSQL = `
		INSERT INTO entry_group (first, count, commitments, group_id, origin, time, deadline)
		SELECT next.first, $1::int, $2::bytea, $3::uuid, 'intake', $4::timestamptz, $5::timestamptz
		FROM (SELECT coalesce((SELECT first + count FROM entry_group ORDER BY first DESC LIMIT 1), 0) AS first) next
		WHERE next.first + $1::int <= $6::bigint AND (next.first = 0) = $7::boolean
		RETURNING first`

	knownKeysSQL = `
		SELECT i.owner, i.key_hash, i.request_tag, i.first_index, i.count, i.document_id
		FROM unnest($1::text[], $2::bytea[]) AS k (owner, key_hash) JOIN idempotency i USING (owner, key_hash)`
)

// insertGroup begins the transaction, takes the lock, looks for known keys, and
// inserts the group's row as if there were none. errKnownKeys if there are.
func (c *groupCommit) insertGroup(ctx context.Context, conn *pgx.Conn) (err error) {
	b := new(pgx.Batch)
	b.Queue("begin isolation level read committed")
	b.Queue("SELECT pg_advisory_xact_lock($1)", intakeLock)
	if owners, hashes := c.keys(); len(owners) > 0 {
		b.Queue(knownKeysSQL, owners, hashes).Query(c.scanKnown)
	}
	limit := min(c.group.Limit, calpe.MaxLogSize)
	b.Queue(insertGroupSQL, len(c.result.Commitments), pack(c.result.Commitments), [16]byte(c.group.ID),
		c.group.Time, c.group.Deadline, limit, c.empty).QueryRow(func(row pgx.Row) error {
		return row.Scan(&c.result.First)
	})
	err = conn.SendBatch(ctx, b).Close()
	for _, i := range c.fresh {
		if c.known[i] != nil {
			return errKnownKeys
		}
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return c.whyNoRow(ctx, conn)
	}
	return translate("insert group", err)
}

// whyNoRow tells the conditions of insertGroupSQL apart.
func (c *groupCommit) whyNoRow(ctx context.Context, conn *pgx.Conn) error {
	var next uint64
	err := conn.QueryRow(ctx, `SELECT coalesce(max(first + count), 0) FROM
		(SELECT first, count FROM entry_group ORDER BY first DESC LIMIT 1) last`).Scan(&next)
	switch {
	case err != nil:
		return translate("read next index", err)
	case c.empty && next > 0:
		return fmt.Errorf("%w: the log has %d entries", calpe.ErrExists, next)
	case !c.empty && next == 0:
		return fmt.Errorf("%w: entry 0, the log's identity, is missing: the log was not created", calpe.ErrNotDense)
	}
	return fmt.Errorf("%w: next index %d, %d entries, limit %d", calpe.ErrFence, next, c.result.Count, c.group.Limit)
}

// keys lists the Idempotency-Keys of the submissions to be written.
func (c *groupCommit) keys() (owners []string, hashes [][]byte) {
	for _, i := range c.fresh {
		if k := c.group.Submissions[i].Idempotency; k != nil {
			owners = append(owners, k.Owner)
			hashes = append(hashes, k.KeyHash[:])
		}
	}
	return owners, hashes
}

// scanKnown marks the submissions whose keys are in the table.
func (c *groupCommit) scanKnown(rows pgx.Rows) error {
	known := make(map[ownerKey]*calpe.Idempotency)
	for rows.Next() {
		row, err := scanIdempotency(rows)
		if err != nil {
			return err
		}
		known[keyOf(&row)] = &row
	}
	for _, i := range c.fresh {
		if k := c.group.Submissions[i].Idempotency; k != nil {
			c.known[i] = known[keyOf(k)]
		}
	}
	return rows.Err()
}

func scanIdempotency(row pgx.Row) (i calpe.Idempotency, err error) {
	var (
		hash     []byte
		document *[16]byte
	)
	if err := row.Scan(&i.Owner, &hash, &i.RequestTag, &i.First, &i.Count, &document); err != nil {
		return calpe.Idempotency{}, err
	}
	if document != nil {
		i.Document = *document
	}
	i.KeyHash, err = hash32(hash)
	return i, err
}

// hash32 copies a column that the schema keeps at 32 bytes.
func hash32(b []byte) (h calpe.Hash, err error) {
	if len(b) != len(h) {
		return h, fmt.Errorf("hash of %d bytes, want %d", len(b), len(h))
	}
	copy(h[:], b)
	return h, nil
}

// Idempotency is what an owner's Idempotency-Key was used for; calpe.ErrNotFound
// if it wasn't. What it finds is durable and on the synchronous standbys, so it
// may be answered. A race with a commit is settled by [DB.CommitGroup].
func (db *DB) Idempotency(ctx context.Context, owner string, keyHash calpe.Hash) (calpe.Idempotency, error) {
	row := db.on(ctx).QueryRow(ctx, knownKeysSQL, []string{owner}, [][]byte{keyHash[:]})
	i, err := scanIdempotency(row)
	if err != nil {
		return calpe.Idempotency{}, translate("read idempotency key", err)
	}
	return i, db.barrier(ctx, "read idempotency key")
}

// rows queues what goes with the group's entries.
func (c *groupCommit) rows() *pgx.Batch {
	b := new(pgx.Batch)
	if c.also != nil {
		c.also(b)
	}
	for _, i := range c.fresh {
		s := &c.group.Submissions[i]
		first := c.result.First + c.relative[i]
		if s.Document != nil {
			queueDocument(b, first, s.Document, s.Key)
		}
		if s.Certification != nil {
			queueCertification(b, first, s.Document.ID, s.Certification)
		}
		if s.Statement != nil {
			queueStatement(b, first, s.Statement)
		}
		if s.Agency != nil {
			queueAgency(b, first+s.Statement.Index, s.Agency)
		}
		if s.Idempotency != nil {
			queueIdempotency(b, c.idempotency(i), c.group.Time)
		}
	}
	return b
}

func queueIdempotency(b *pgx.Batch, i *calpe.Idempotency, at time.Time) {
	var document *[16]byte
	if !i.Document.IsZero() {
		id := [16]byte(i.Document)
		document = &id
	}
	b.Queue(`INSERT INTO idempotency (owner, key_hash, request_tag, first_index, count, document_id, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7)`, i.Owner, i.KeyHash[:], i.RequestTag, i.First, i.Count, document, at)
}
