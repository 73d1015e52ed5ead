package fsck

import (
	"context"
	"errors"
	"fmt"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt/statement"
)

const recordPage = 1000

// checkRecords looks at what stands beside entries: statements, agencies,
// certifications, and what repeated requests get (I2).
func (r *run) checkRecords(ctx context.Context) error {
	for _, part := range []func(context.Context) (done bool, err error){
		r.checkStatements, r.checkCertifications, r.checkIdempotency, r.checkAgencies,
	}[min(r.state.After.Part, 4):] {
		for done := false; !done; {
			var err error
			if done, err = part(ctx); err != nil {
				return err
			}
			if err := r.save(false); err != nil {
				return err
			}
		}
		r.state.After = cursor{Part: r.state.After.Part + 1}
	}
	return nil
}

// checkStatements looks at a page: each is what its entry commits to.
func (r *run) checkStatements(ctx context.Context) (done bool, err error) {
	page, err := r.Records.StatementsFrom(ctx, r.state.After.Index, recordPage)
	if err != nil {
		return false, err
	}
	for _, s := range page {
		if s.Index >= r.next {
			return true, nil // came since
		}
		entry, there, err := r.entry(ctx, s.Index)
		if err != nil {
			return false, err
		}
		signed, parseErr := statement.Parse(s.Body)
		if f := (Finding{Invariant: "I2", Thing: fmt.Sprintf("statement of entry %d", s.Index), Do: doRow}); parseErr != nil {
			f.Problem = "can't be read: " + parseErr.Error()
			r.found(f)
		} else if there && entry.Commitment != calpe.Commit(signed.Digest(), s.Salt) {
			f.Problem = "is not what its entry commits to"
			r.found(f)
		}
		r.state.After.Index = s.Index + 1
	}
	r.state.count("statements", len(page))
	return len(page) < recordPage, nil
}

// checkCertifications looks at a page: each is named by its document, whose check
// opens it.
func (r *run) checkCertifications(ctx context.Context) (done bool, err error) {
	page, err := r.Records.CertificationsFrom(ctx, r.state.After.Index, recordPage)
	if err != nil {
		return false, err
	}
	for _, c := range page {
		if c.Index >= r.next {
			return true, nil // came since
		}
		d, err := r.Records.Document(ctx, c.Document)
		if err != nil && !errors.Is(err, calpe.ErrNotFound) {
			return false, err
		}
		if err != nil || d.Certification != c.Index {
			r.found(Finding{Invariant: "I2", Thing: fmt.Sprintf("certification of entry %d", c.Index),
				Problem: fmt.Sprintf("document %v doesn't name it", c.Document), Do: doRow})
		}
		r.state.After.Index = c.Index + 1
	}
	r.state.count("certifications", len(page))
	return len(page) < recordPage, nil
}

// checkIdempotency looks at a page: what a request was given is in the log, and its
// document is one of these entries.
func (r *run) checkIdempotency(ctx context.Context) (done bool, err error) {
	page, err := r.Records.IdempotencyAfter(ctx, r.state.After.Name, r.state.After.Key, recordPage)
	if err != nil {
		return false, err
	}
	next, err := r.Entries.NextIndex(ctx) // of now: these rows are in no order of time
	if err != nil {
		return false, err
	}
	for _, i := range page {
		f := Finding{Invariant: "I2", Thing: fmt.Sprintf("idempotency key with the hash %v", i.KeyHash), Do: doRow}
		if i.First+i.Count > max(next, r.sealed) {
			f.Problem = fmt.Sprintf("stands for %s, and the log has %d", span(i.First, i.First+i.Count), next)
			r.found(f)
		} else if i.Document != (calpe.DocumentID{}) {
			d, err := r.Records.Document(ctx, i.Document)
			if err != nil && !errors.Is(err, calpe.ErrNotFound) {
				return false, err
			}
			if err != nil || d.Index < i.First || d.Index >= i.First+i.Count {
				f.Problem = fmt.Sprintf("stands for %s and document %v, which isn't one of them", span(i.First, i.First+i.Count), i.Document)
				r.found(f)
			}
		}
		r.state.After.Name, r.state.After.Key = i.Owner, i.KeyHash
	}
	r.state.count("idempotency keys", len(page))
	return len(page) < recordPage, nil
}

// checkAgencies: each is what its statement registers.
func (r *run) checkAgencies(ctx context.Context) (done bool, err error) {
	agencies, err := r.Records.Agencies(ctx)
	if err != nil {
		return false, err
	}
	for _, a := range agencies {
		f := Finding{Invariant: "I2", Thing: "agency " + a.ID, Do: doRow}
		page, err := r.Records.StatementsFrom(ctx, a.Statement, 1)
		if err != nil {
			return false, err
		}
		if len(page) == 0 || page[0].Index != a.Statement {
			f.Problem = fmt.Sprintf("the statement that registers it, entry %d, has no row", a.Statement)
			r.found(f)
			continue
		}
		signed, err := statement.Parse(page[0].Body)
		if err != nil {
			continue // named above
		}
		body, ok := signed.Body().(statement.Agency)
		if !ok || body.Agency != a.ID || body.Key != a.Key || body.Name != a.Name {
			f.Problem = fmt.Sprintf("its row says otherwise than the statement that registers it, entry %d", a.Statement)
			r.found(f)
		} else if err := r.Identity.VerifyStatement(signed); err != nil {
			f.Problem = fmt.Sprintf("the statement that registers it, entry %d: %v", a.Statement, err)
			r.found(f)
		}
	}
	r.state.count("agencies", len(agencies))
	return true, nil
}
