package fsck

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"

	"golang.org/x/sync/errgroup"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/anchor/wallet"
	"github.com/calpe/calpe/batch"
	"github.com/calpe/calpe/receipt"
)

// stated is what is said of the root of one size.
type stated struct {
	row      *calpe.Checkpoint // of the table
	copied   bool              // object storage has a copy
	copy     []byte            // read; nil: see copyErr
	copyErr  error
	attempts []ledger.Attempt
	proofs   []ledger.Proof
}

// grow appends the leaves up to, and not including, to, and compares the root of
// each size that somebody said something of (I3).
func (r *run) grow(ctx context.Context, leaves []calpe.Hash, to uint64) (found []Finding, err error) {
	from := r.tree.Size()
	sizes, err := r.statedRoots(ctx, from, to)
	if err != nil {
		return nil, err
	}
	for _, size := range slices.Sorted(maps.Keys(sizes)) {
		if err := r.tree.Append(leaves[r.tree.Size()-from : size-from]); err != nil {
			return nil, err
		}
		found = append(found, r.judgeRoot(size, r.tree.Root(), sizes[size])...)
	}
	return found, r.tree.Append(leaves[r.tree.Size()-from:])
}

// statedRoots collects rows, copies and attempts of sizes above from, up to to.
func (r *run) statedRoots(ctx context.Context, from, to uint64) (map[uint64]*stated, error) {
	sizes := map[uint64]*stated{}
	at := func(size uint64) *stated {
		sizes[size] = cmp.Or(sizes[size], &stated{})
		return sizes[size]
	}
	const page = 1000
	for next := from + 1; next <= to; {
		rows, err := r.Checkpoints.CheckpointsFrom(ctx, next, page)
		if err != nil {
			return nil, err
		}
		for _, row := range rows {
			if row.Size <= min(to, max(r.head.Size, from)) { // what came since isn't looked for yet
				at(row.Size).row = &row
			}
		}
		if len(rows) < page {
			break
		}
		next = rows[len(rows)-1].Size + 1
	}
	if err := r.listCopies(ctx, from, to, at); err != nil {
		return nil, err
	}
	size, txid := from, calpe.BlockHash(bytes.Repeat([]byte{0xff}, calpe.HashSize))
	for {
		attempts, err := r.Anchors.AttemptsOfSize(ctx, size, txid, page)
		if err != nil {
			return nil, err
		}
		for _, a := range attempts {
			if a.Size <= to {
				at(a.Size).attempts = append(at(a.Size).attempts, a)
			}
		}
		if len(attempts) < page || attempts[page-1].Size > to {
			break
		}
		size, txid = attempts[page-1].Size, attempts[page-1].TxID
	}
	if err := r.listProofs(ctx, from, to, at); err != nil {
		return nil, err
	}
	return sizes, r.readCopies(ctx, sizes)
}

func (r *run) listProofs(ctx context.Context, from, to uint64, at func(uint64) *stated) error {
	const page = 1000
	for after := (ledger.ProofID{Size: from + 1}); ; {
		proofs, err := r.Proofs.ProofsAfter(ctx, after, page)
		if err != nil {
			return err
		}
		for _, p := range proofs {
			if p.Size <= to {
				at(p.Size).proofs = append(at(p.Size).proofs, p)
			}
		}
		if len(proofs) < page || proofs[page-1].Size > to {
			return nil
		}
		after = proofs[page-1].ID()
	}
}

func (r *run) listCopies(ctx context.Context, from, to uint64, at func(uint64) *stated) error {
	return r.log.ListCheckpoints(ctx, from, func(path string) bool {
		size, err := batch.ParseCheckpointPath(path)
		if err != nil {
			return true // the listing of the bucket names it
		}
		if size <= to {
			at(size).copied = true
		}
		return size < to
	})
}

func (r *run) readCopies(ctx context.Context, sizes map[uint64]*stated) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(r.Readers)
	objects := limited{r.Objects, r.limit}
	for size, s := range sizes {
		if s.copied {
			g.Go(func() (err error) {
				s.copy, err = objects.ReadLogObject(ctx, batch.CheckpointPath(size), maxNote)
				s.copyErr, err = broken(err)
				return err
			})
		}
	}
	return g.Wait()
}

// maxNote bounds a checkpoint note (docs/formats.md).
const maxNote = 32 << 10

// judgeRoot compares what is said of a size with the root of the entries.
func (r *run) judgeRoot(size uint64, root calpe.Hash, s *stated) (found []Finding) {
	if s.row != nil {
		found = append(found, r.judgeRow(*s.row, root)...)
		r.state.count("checkpoints", 1)
	}
	if s.row != nil || s.copied {
		found = append(found, r.judgeCopy(size, root, s, len(found) > 0)...)
	}
	for _, p := range s.proofs {
		r.state.count("proofs by calendars", 1)
		if p.Root != root && !r.forked {
			found = append(found, Finding{Invariant: "I3", Thing: fmt.Sprintf("proof of size %d by %s", p.Size, p.Calendar),
				Problem: fmt.Sprintf("is for the root %v, and that of the entries is %v", p.Root, root), Do: doAnchor})
		}
	}
	for _, a := range s.attempts {
		tx, err := wallet.ParseUnsigned(a.Unsigned)
		if err != nil || len(tx.TxOut) == 0 {
			continue // the check of attempts names it
		}
		p, err := calpe.ParsePayloadScript(tx.TxOut[0].PkScript)
		if err == nil && p.Size == size && p.Root != root && !r.forked {
			found = append(found, Finding{Invariant: "I3", Thing: "attempt " + a.TxID.String(),
				Problem: fmt.Sprintf("carries the root %v of the first %d entries, and theirs is %v", p.Root, size, root), Do: forkedDo})
		}
	}
	return found
}

const forkedDo = "stop the servers: what was signed and what is stored are two histories; find out which rows or tiles were changed, and by whom"

func (r *run) judgeRow(row calpe.Checkpoint, root calpe.Hash) []Finding {
	f := Finding{Invariant: "I3", Thing: fmt.Sprintf("checkpoint of size %d", row.Size), Do: restoreRows}
	note, err := receipt.OpenCheckpoint(row.Note, r.Identity)
	switch {
	case err != nil:
		f.Problem = "its note doesn't open: " + err.Error()
	case note.Size != row.Size || note.Root != row.Root:
		f.Problem = fmt.Sprintf("its row has the root %v, and its signed note says %v of %d entries", row.Root, note.Root, note.Size)
	case row.Root != root && !r.forked:
		r.forked = true
		f.Problem, f.Do = fmt.Sprintf("its root is %v, and that of its entries is %v; later roots aren't compared", row.Root, root), forkedDo
	default:
		return nil
	}
	return []Finding{f}
}

// judgeCopy compares the copy in object storage. A copy without a row is one of a
// database that was replaced by an older one: it must be of the same history.
func (r *run) judgeCopy(size uint64, root calpe.Hash, s *stated, rowIsBroken bool) []Finding {
	f := Finding{Invariant: "I4", Thing: batch.CheckpointPath(size), Do: "run fsck with --repair: it follows from its row"}
	if s.row != nil && !rowIsBroken {
		f.Mend = MendCheckpoint
	} else {
		f.Do = "find out who changed it; a later checkpoint covers the same entries"
	}
	switch {
	case !s.copied:
		f.Problem = "is not there"
	case s.copyErr != nil:
		f.Problem = "is damaged: " + s.copyErr.Error()
	case s.row != nil && bytes.Equal(s.copy, s.row.Note):
		return nil
	default:
		copied, err := receipt.OpenCheckpoint(s.copy, r.Identity)
		switch {
		case err != nil || copied.Size != size:
			f.Problem = "is not the signed checkpoint of that size"
		case copied.Root != root && !r.forked:
			f.Invariant, f.Mend, f.Do = "I3", "", forkedDo
			f.Problem = fmt.Sprintf("is signed for the root %v, and that of the entries is %v", copied.Root, root)
		default:
			return nil
		}
	}
	return []Finding{f}
}
