package fsck

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/intake"
	"github.com/calpe/calpe/storage/keyring"
)

// documentPage is how many documents are looked at together.
const documentPage = 200

// unlockedFor is how long a document may wait for its lock: the servers see to it
// within seconds.
const unlockedFor = time.Hour

// checkDocuments holds every row of a document against its entry, key and object
// (I1, I2, I10).
func (r *run) checkDocuments(ctx context.Context) error {
	if r.Keys == nil {
		r.unchecked("documents' keys: no keyring was given")
	}
	if r.state.After.Index == 0 && !r.Since.IsZero() {
		before, err := r.Checkpoints.CheckpointBefore(ctx, r.Since)
		if err != nil && !errors.Is(err, calpe.ErrNotFound) {
			return err
		}
		r.state.After.Index = before.Size
	}
	for {
		page, err := r.Documents.DocumentsFrom(ctx, r.state.After.Index, documentPage)
		if err != nil {
			return err
		}
		for len(page) > 0 && page[len(page)-1].Index >= r.next {
			page = page[:len(page)-1] // came since
		}
		if len(page) == 0 {
			return nil
		}
		if err := r.checkDocumentPage(ctx, page); err != nil {
			return err
		}
		r.state.After.Index = page[len(page)-1].Index + 1
		r.Progress("documents", r.state.After.Index, r.next)
		if err := r.save(false); err != nil {
			return err
		}
	}
}

func (r *run) checkDocumentPage(ctx context.Context, page []calpe.Document) error {
	ids := make([]calpe.DocumentID, len(page))
	for i, d := range page {
		ids[i] = d.ID
	}
	list, err := r.Documents.DocumentKeys(ctx, ids)
	if err != nil {
		return err
	}
	keys := make(map[calpe.DocumentID]calpe.WrappedKey, len(list))
	for _, k := range list {
		keys[k.Document] = k
	}
	found := make([][]Finding, len(page))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(r.Readers)
	for i, d := range page {
		g.Go(func() (err error) {
			wrapped, ok := keys[d.ID]
			found[i], err = r.checkDocument(ctx, d, wrapped, ok)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	for _, f := range found {
		r.found(f...)
	}
	r.state.count("documents", len(page))
	if n := r.deep.Swap(0); n > 0 {
		r.state.count("documents decrypted", int(n))
	}
	return nil
}

const (
	doObject  = "restore the object from the bucket's other versions or its backup: a document's bytes can't be computed again"
	doKey     = "restore the row of document_key from a backup; if the document was erased on purpose, its row tells no more than that"
	doKeyring = "give fsck and the servers the keyring.json that has this key; without it no document under it can be read again"
	doRow     = "restore the row from a backup of the database: find out who changed it"
)

// checkDocument looks at one document. What is wrong in its row, and what is
// wrong with its object, are two findings at most.
func (r *run) checkDocument(ctx context.Context, d calpe.Document, wrapped calpe.WrappedKey, hasKey bool) (found []Finding, err error) {
	thing := fmt.Sprintf("document %v (entry %d)", d.ID, d.Index)
	var digest *calpe.Digest
	var key keyring.DataKey
	switch {
	case !hasKey:
		found = append(found, Finding{Invariant: "I10", Thing: thing, Problem: "has no wrapped key: it was erased, or its key is lost", Do: doKey})
	case r.Keys != nil:
		opened, dataKey, err := intake.Unseal(r.Keys, d, wrapped)
		if err != nil {
			f := Finding{Invariant: "I10", Thing: thing, Problem: "its key or its row doesn't open: " + err.Error(), Do: doRow}
			if errors.Is(err, keyring.ErrUnknownKey) {
				f.Do = doKeyring
			}
			found = append(found, f)
			break
		}
		digest, key = &opened.Digest, dataKey
		f, err := r.checkOpened(ctx, d, opened, dataKey)
		if err != nil {
			return nil, err
		}
		if f != nil {
			f.Thing = thing
			found = append(found, *f)
		}
	}
	f, err := r.checkObject(ctx, d)
	if err == nil && f == nil && r.Deep && digest != nil {
		f, err = r.checkContent(ctx, d, key, *digest)
	}
	if f != nil {
		f.Thing = thing + ", object " + d.Object.Name
		found = append(found, *f)
	}
	return found, err
}

// checkOpened compares the personal fields with what commits to them (I2).
func (r *run) checkOpened(ctx context.Context, d calpe.Document, opened intake.Document, key keyring.DataKey) (*Finding, error) {
	entry, there, err := r.entry(ctx, d.Index)
	f := &Finding{Invariant: "I2", Do: doRow}
	switch {
	case err != nil || !there:
		return nil, err
	case entry.Commitment != calpe.Commit(opened.Digest, opened.Salt):
		f.Problem = "its entry doesn't commit to its digest and salt"
	case !bytes.Equal(d.DigestTag, intake.DigestTag(r.Keys, opened.Digest)):
		f.Problem = "its digest tag isn't that of its digest: it isn't found by it"
	case d.CodeHash != (calpe.Hash{}) && opened.Code.Hash() != d.CodeHash:
		f.Problem = "the hash of its code isn't that of its code: it isn't found by it"
	case d.Certification > 0:
		return r.checkCertification(ctx, d, key)
	default:
		return nil, nil
	}
	return f, nil
}

// entry reads an entry; false if the check of entries names it already.
func (r *run) entry(ctx context.Context, index uint64) (calpe.Entry, bool, error) {
	e, err := r.Entries.Entry(ctx, index)
	if errors.Is(err, calpe.ErrNotFound) {
		return e, false, nil
	}
	return e, err == nil && !r.state.altered(index), err
}

func (r *run) checkCertification(ctx context.Context, d calpe.Document, key keyring.DataKey) (*Finding, error) {
	f := &Finding{Invariant: "I2", Do: doRow}
	row, err := r.Documents.Certification(ctx, d.Certification)
	if errors.Is(err, calpe.ErrNotFound) {
		f.Problem = fmt.Sprintf("its certification, entry %d, has no row", d.Certification)
		return f, nil
	}
	if err != nil {
		return nil, err
	}
	entry, there, err := r.entry(ctx, d.Certification)
	if err != nil || !there {
		return nil, err
	}
	c, broken := intake.UnsealCertification(key, d.ID, row)
	if broken != nil {
		f.Invariant, f.Problem = "I10", fmt.Sprintf("its certification, entry %d, doesn't open: %v", d.Certification, broken)
		return f, nil
	}
	if entry.Commitment != calpe.Commit(c.Statement.Digest(), c.Salt) {
		f.Problem = fmt.Sprintf("its certification isn't what entry %d commits to", d.Certification)
		return f, nil
	}
	return nil, nil
}

// checkObject compares headers and first bytes with the row (I1, I10).
func (r *run) checkObject(ctx context.Context, d calpe.Document) (*Finding, error) {
	if err := r.limit.wait(ctx); err != nil {
		return nil, err
	}
	stored, err := r.Bucket.StoredDocument(ctx, d.Object)
	f := &Finding{Invariant: "I1", Do: doObject}
	if object, err := broken(err); object != nil {
		f.Problem = fmt.Sprintf("version %q is not there", d.Object.VersionID)
		return f, nil //nolint:nilerr // that it is missing is what was found
	} else if err != nil {
		return nil, err
	}
	now := r.Now()
	switch {
	case stored.Size != d.Object.Size:
		f.Problem = fmt.Sprintf("has %d bytes, its row says %d", stored.Size, d.Object.Size)
	case stored.Checksum != "" && stored.Checksum != d.Object.Checksum:
		f.Problem = "the server states another checksum than the row"
	case !stored.Encrypted:
		f.Invariant, f.Problem, f.Do = "I10", "doesn't begin as an encrypted document of its size", "find out who wrote it; if it is a plain document, remove it, and "+doObject
	case !d.RetainedAt.IsZero() && d.RetainUntil.After(now) && stored.LockedUntil.Before(d.RetainUntil):
		f.Problem = fmt.Sprintf("is not under Object Lock until %s, as its row says", d.RetainUntil.Format(time.RFC3339))
		f.Do = "find out who shortened or lifted the lock, and set it again for that version"
	case d.RetainedAt.IsZero() && d.Created.Before(now.Add(-unlockedFor)):
		f.Problem = "is not under Object Lock yet, and its row is older than an hour"
		f.Do = "see in the servers' log why documents aren't locked, or start a server"
	default:
		return nil, nil
	}
	return f, nil
}

// checkContent decrypts the document and compares its digest. What a request
// costs with --rate is a MiB.
func (r *run) checkContent(ctx context.Context, d calpe.Document, key keyring.DataKey, digest calpe.Digest) (*Finding, error) {
	f := &Finding{Invariant: "I1", Do: doObject}
	content, err := r.Bucket.OpenDocument(ctx, d.Object, key.Content(), 0, -1)
	if err == nil {
		defer content.Close()
		h := sha256.New()
		for err == nil {
			if err = r.limit.wait(ctx); err == nil {
				_, err = io.CopyN(h, content, 1<<20)
			}
		}
		if errors.Is(err, io.EOF) {
			if calpe.Digest(h.Sum(nil)) == digest {
				r.deep.Add(1)
				return nil, nil
			}
			f.Problem = "decrypts to other bytes than those of its digest"
			return f, nil
		}
	}
	object, err := broken(err)
	if err != nil {
		return nil, err
	}
	f.Problem = "doesn't decrypt: " + object.Error()
	return f, nil
}
