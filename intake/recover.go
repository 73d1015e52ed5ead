package intake

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/internal/commitpoint"
	"github.com/calpe/calpe/merkle"
	"github.com/calpe/calpe/receipt/statement"
)

// RecoveryStore is the database for recovery.
type RecoveryStore interface {
	// WithIntakeLock runs fn while no group can be committed by anybody else.
	// Calls with the context that fn gets use the connection that holds the lock.
	WithIntakeLock(ctx context.Context, fn func(ctx context.Context) error) error
	// AppendRolledForward appends entries taken back from the published log,
	// durably. First must be the next index.
	AppendRolledForward(ctx context.Context, first uint64, commitments []calpe.Commitment) error
	// AppendVoid appends void entries up to, and not including, upTo, durably.
	AppendVoid(ctx context.Context, upTo uint64) error
	// ReadEntries calls fn with runs of the entries from up to, and not
	// including, to, in order and without a gap.
	ReadEntries(ctx context.Context, from, to uint64, fn func(first uint64, commitments []calpe.Commitment) error) error
}

// CheckpointHead is the newest checkpoint row; [calpe.ErrNotFound] if there is none.
type CheckpointHead interface {
	CheckpointHead(ctx context.Context) (calpe.Checkpoint, error)
}

// Published is the log in object storage, as package batch reads it.
type Published interface {
	// Newest is the newest signed checkpoint with more than above entries;
	// [calpe.ErrNotFound] if there is none. Its signature has been verified.
	Newest(ctx context.Context, above uint64) (calpe.Checkpoint, error)
	// Edge loads the right edge of a checkpoint's tree. [merkle.ErrRootMismatch]:
	// the tiles aren't those of the checkpoint.
	Edge(ctx context.Context, cp calpe.Checkpoint) (*merkle.Builder, error)
	// ReadEntries reads the published entries of the log of size entries.
	ReadEntries(ctx context.Context, from, to, size uint64, fn func(first uint64, commitments []calpe.Commitment) error) error
}

// recoveryOwner owns the idempotency rows of recovery statements. No token can
// have it: owners of tokens have no slash.
const recoveryOwner = "calpe/recovery"

// join opens the gate once database and fence are known to agree. It is the one
// way to open it: at the start, and after every doubt. Running it again after a
// crash at any point comes to the same end.
func (g *gate) join(ctx context.Context) error {
	unlock, err := g.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	instance, err := g.cfg.Groups.Instance(ctx)
	if err != nil {
		return fmt.Errorf("database instance: %w", err)
	}
	// Other servers may be recording, so the order matters: the log as it was is
	// below the fence as it is now.
	next, err := g.cfg.Groups.NextIndex(ctx)
	if err != nil {
		return fmt.Errorf("next index: %w", err)
	}
	fence, etag, err := g.read(ctx)
	if errors.Is(err, calpe.ErrNotFound) {
		fence, etag, err = g.create(ctx, instance, next)
	}
	if err != nil {
		return err
	}
	back, err := g.wentBack(ctx, fence, next)
	if err != nil {
		return err
	}
	if fence.Instance.Equal(instance) && len(fence.Claims) == 0 && !back {
		g.open(fence, etag, next)
		return nil
	}
	err = g.cfg.Recovery.WithIntakeLock(ctx, func(ctx context.Context) error {
		fence, etag, next, err = g.recover(ctx)
		return err
	})
	if err != nil {
		return fmt.Errorf("recover: %w", err)
	}
	g.open(fence, etag, next)
	return nil
}

// create makes the fence of a log that has nothing but the entry it was created
// with. A log with more entries has had a fence: that it is missing means that
// nobody knows what was promised, unless the operator says so.
func (g *gate) create(ctx context.Context, instance calpe.Instance, next uint64) (Fence, string, error) {
	if next > 1 && !g.cfg.CreateFence {
		return Fence{}, "", fmt.Errorf("%w, and the log has %d entries: is this the right bucket?", ErrNoFence, next)
	}
	g.log.InfoContext(ctx, "creating the fence", slog.Uint64("entries", next))
	return g.swap(ctx, Fence{Log: g.cfg.Log, Limit: min(next+minStep, calpe.MaxLogSize), Instance: instance}, "")
}

// wentBack reports whether a database with next entries lacks what it once had,
// by what is signed and published or was seen by this process. On the fence's
// own instance that takes a machine set back with all its memory; or next has
// been overtaken since by another server, which shows under the intake lock.
func (g *gate) wentBack(ctx context.Context, fence Fence, next uint64) (back bool, err error) {
	if next > fence.Limit {
		return false, fmt.Errorf("%w: %d entries, limit %d", ErrFenceBack, next, fence.Limit)
	}
	anchored, err := g.anchored(ctx)
	if err != nil {
		return false, err
	}
	size := next
	newest, err := g.cfg.Published.Newest(ctx, next)
	switch {
	case err == nil:
		size = newest.Size
	case !errors.Is(err, calpe.ErrNotFound):
		return false, err
	}
	if anchored > size {
		return false, fmt.Errorf("%w: %d are anchored, %d can be restored", ErrAheadOfLog, anchored, size)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return next < max(size, g.seen), nil
}

// anchored is the largest size of the log that is known to be in Bitcoin.
func (g *gate) anchored(ctx context.Context) (uint64, error) {
	if g.cfg.Anchored == nil {
		return 0, nil
	}
	size, err := g.cfg.Anchored(ctx)
	if err != nil {
		return 0, fmt.Errorf("anchored size: %w", err)
	}
	return size, nil
}

// trustworthy is nil if the database may be promised on.
func (g *gate) trustworthy(ctx context.Context) error {
	if g.cfg.Trustworthy == nil {
		return nil
	}
	if err := g.cfg.Trustworthy(ctx); err != nil {
		return fmt.Errorf("the database is not one to promise on: %w", err)
	}
	return nil
}

// recover brings the log up to the fence and gives the fence the instance that
// the database is now. It runs under the intake lock, on the connection that
// holds it. Another server may have done all of it meanwhile.
func (g *gate) recover(ctx context.Context) (fence Fence, etag string, next uint64, err error) {
	instance, err := g.cfg.Groups.Instance(ctx)
	if err != nil {
		return Fence{}, "", 0, fmt.Errorf("database instance: %w", err)
	}
	if next, err = g.cfg.Groups.NextIndex(ctx); err != nil {
		return Fence{}, "", 0, fmt.Errorf("next index: %w", err)
	}
	if fence, etag, err = g.read(ctx); err != nil {
		return Fence{}, "", 0, err
	}
	back, err := g.wentBack(ctx, fence, next)
	if err != nil {
		return Fence{}, "", 0, err
	}
	if back || !fence.Instance.Equal(instance) {
		g.log.WarnContext(ctx, "the database is another instance than the one that made the last promises: recovering",
			slog.Any("promised by", fence.Instance), slog.Any("now", instance), slog.Uint64("entries", next), slog.Uint64("limit", fence.Limit), slog.Bool("went back", back))
		if err := g.trustworthy(ctx); err != nil {
			return Fence{}, "", 0, err
		}
		if err := g.restore(ctx, fence, next); err != nil {
			return Fence{}, "", 0, err
		}
		if fence, etag, err = g.move(ctx, fence, etag, instance); err != nil {
			return Fence{}, "", 0, err
		}
	}
	if fence, etag, err = g.declare(ctx, fence, etag); err != nil {
		return Fence{}, "", 0, err
	}
	if next, err = g.cfg.Groups.NextIndex(ctx); err != nil {
		return Fence{}, "", 0, fmt.Errorf("next index: %w", err)
	}
	return fence, etag, next, nil
}

// restore makes the log reach exactly to the fence's limit: from the published
// log as far as that goes, then with void entries.
func (g *gate) restore(ctx context.Context, fence Fence, next uint64) error {
	head, err := g.head(ctx, next)
	if err != nil {
		return err
	}
	signed, err := g.cfg.Published.Newest(ctx, head.Size)
	if errors.Is(err, calpe.ErrNotFound) {
		signed, err = head, nil
	}
	if err != nil {
		return err
	}
	if signed.Size > fence.Limit {
		return fmt.Errorf("%w: a checkpoint over %d entries was signed, limit %d", ErrFenceBack, signed.Size, fence.Limit)
	}
	if err := g.agree(ctx, head, signed, next); err != nil {
		return err
	}
	if next < signed.Size {
		if err := g.rollForward(ctx, next, signed); err != nil {
			return err
		}
		if err := g.agree(ctx, head, signed, signed.Size); err != nil { // what was read twice was the same
			return err
		}
	}
	// Crash inside: fewer void entries than needed. The next run adds the rest,
	// as the fence still names the old instance.
	if err := g.cfg.Recovery.AppendVoid(ctx, fence.Limit); err != nil {
		return fmt.Errorf("append void entries up to %d: %w", fence.Limit, err)
	}
	return nil
}

// head is the newest checkpoint row, or the empty log.
func (g *gate) head(ctx context.Context, next uint64) (calpe.Checkpoint, error) {
	head, err := g.cfg.Checkpoints.CheckpointHead(ctx)
	switch {
	case errors.Is(err, calpe.ErrNotFound):
		return calpe.Checkpoint{Root: merkle.EmptyRoot()}, nil
	case err != nil:
		return calpe.Checkpoint{}, fmt.Errorf("read newest checkpoint: %w", err)
	case head.Size > next:
		return calpe.Checkpoint{}, fmt.Errorf("%w: the newest checkpoint row has %d entries, the database only %d", ErrForked, head.Size, next)
	}
	return head, nil
}

// agree checks that the entries of the database below next, and the published
// ones from there, give the root of the signed checkpoint.
func (g *gate) agree(ctx context.Context, head, signed calpe.Checkpoint, next uint64) error {
	if _, err := g.edge(ctx, signed); err != nil {
		return err
	}
	tree, err := g.edge(ctx, head)
	if err != nil {
		return err
	}
	add := func(first uint64, run []calpe.Commitment) error {
		return tree.Append(leafHashes(first, run))
	}
	middle := min(next, signed.Size)
	if err := g.cfg.Recovery.ReadEntries(ctx, head.Size, middle, add); err != nil {
		return fmt.Errorf("read entries %d to %d: %w", head.Size, middle, err)
	}
	if err := g.cfg.Published.ReadEntries(ctx, middle, signed.Size, signed.Size, add); err != nil {
		return fmt.Errorf("read published entries %d to %d: %w", middle, signed.Size, err)
	}
	if tree.Root() != signed.Root {
		return fmt.Errorf("%w: the root of the first %d entries is %v, in a signed checkpoint it is %v", ErrForked, signed.Size, tree.Root(), signed.Root)
	}
	return nil
}

func (g *gate) edge(ctx context.Context, cp calpe.Checkpoint) (*merkle.Builder, error) {
	tree, err := g.cfg.Published.Edge(ctx, cp)
	if errors.Is(err, merkle.ErrRootMismatch) {
		return nil, fmt.Errorf("%w: tiles and the checkpoint of size %d: %w", ErrForked, cp.Size, err)
	}
	if err != nil {
		return nil, fmt.Errorf("load the log's edge: %w", err)
	}
	return tree, nil
}

// rollForward appends the published entries that the database lacks.
func (g *gate) rollForward(ctx context.Context, next uint64, signed calpe.Checkpoint) error {
	g.log.WarnContext(ctx, "rolling the database forward from the published log", slog.Uint64("from", next), slog.Uint64("to", signed.Size))
	err := g.cfg.Published.ReadEntries(ctx, next, signed.Size, signed.Size, func(first uint64, run []calpe.Commitment) error {
		// Crash inside: the database has come closer. The next run goes on from there.
		for part := range slices.Chunk(run, calpe.MaxGroup) {
			if err := g.cfg.Recovery.AppendRolledForward(ctx, first, part); err != nil {
				return err
			}
			first += uint64(len(part))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("roll forward from %d to %d: %w", next, signed.Size, err)
	}
	return nil
}

// move gives the fence the new instance, and a limit with room above what was
// filled. What has to be declared goes into it in the same write, so that no
// server can take up recording without declaring it first.
func (g *gate) move(ctx context.Context, fence Fence, etag string, instance calpe.Instance) (Fence, string, error) {
	claims, err := g.claims(ctx, fence.Limit)
	if err != nil {
		return Fence{}, "", err
	}
	want := Fence{
		Log: fence.Log, Limit: min(fence.Limit+minStep, calpe.MaxLogSize), Instance: instance,
		Epoch: fence.Epoch + 1, Claims: claims,
	}
	now, etag, err := g.swap(ctx, want, etag)
	if err != nil {
		return Fence{}, "", err
	}
	if now.Epoch != want.Epoch || !now.Instance.Equal(instance) {
		// A server that is still on the old instance has raised the limit: start over.
		return Fence{}, "", fmt.Errorf("the fence was raised to %d by another server meanwhile", now.Limit)
	}
	// Crash here: the fence has the new instance and the claims. Whoever reads it
	// next, this server or another, declares them before it records anything.
	commitpoint.Reached(commitpoint.RecoveryFenced)
	return now, etag, nil
}

// claims are the runs of recovery's own entries at the end of the log, the
// oldest first. They are read back from the rows, so they are the same whether
// one run of recovery wrote them or several that crashed. Void entries that came
// back from the published log are declared again: the statement that declared
// them first may be among what the database has lost.
func (g *gate) claims(ctx context.Context, end uint64) ([]Claim, error) {
	var claims []Claim // the newest first
	for at := end; at > 0; {
		record, err := g.cfg.Groups.GroupOf(ctx, at-1)
		if err != nil {
			return nil, fmt.Errorf("group of entry %d: %w", at-1, err)
		}
		if record.Origin == calpe.OriginIntake {
			break
		}
		for i, c := range slices.Backward(record.Commitments) {
			claims = prepend(claims, record.First+uint64(i), c.IsVoid())
		}
		at = record.First
	}
	if len(claims) > maxClaims {
		g.log.ErrorContext(ctx, "there are more void ranges than one recovery declares; the oldest were declared before",
			slog.Int("ranges", len(claims)), slog.Int("declared", maxClaims))
		claims = claims[:maxClaims]
	}
	slices.Reverse(claims)
	return claims, nil
}

// prepend adds the entry before the first of the claims, which are newest first.
// In each claim the void entries follow those rolled forward.
func prepend(claims []Claim, index uint64, void bool) []Claim {
	last := len(claims) - 1
	switch {
	case last < 0 || void && claims[last].RolledFrom < claims[last].RolledTo:
		c := Claim{RolledFrom: index, RolledTo: index + 1, VoidFrom: index + 1, VoidTo: index + 1}
		if void {
			c.RolledTo, c.VoidFrom = index, index
		}
		return append(claims, c)
	case void:
		claims[last].RolledFrom, claims[last].RolledTo, claims[last].VoidFrom = index, index, index
	default:
		claims[last].RolledFrom = index
	}
	return claims
}

// declare makes an entry of every claim, then strikes them from the fence.
func (g *gate) declare(ctx context.Context, fence Fence, etag string) (Fence, string, error) {
	for _, claim := range fence.Claims {
		if err := g.record(ctx, fence, claim); err != nil {
			return Fence{}, "", fmt.Errorf("declare recovery up to %d: %w", fence.Limit, err)
		}
		// Crash here: the statement is an entry, and the claim is still in the
		// fence. The next run finds it by its idempotency row.
		commitpoint.Reached(commitpoint.RecoveryClaimed)
	}
	for len(fence.Claims) > 0 {
		want := fence
		want.Claims = nil
		now, nowTag, err := g.swap(ctx, want, etag)
		if err != nil {
			return Fence{}, "", err
		}
		if now.Epoch != fence.Epoch {
			return Fence{}, "", errors.New("another server has recovered meanwhile")
		}
		fence, etag = now, nowTag
	}
	return fence, etag, nil
}

const recoveryReason = "The database server was restarted, has failed over, or was restored from a copy, and from outside these can't be told apart. " +
	"The entries rolled forward were taken back from the published log. The void entries stand where indices may have been handed out and lost: " +
	"whoever holds an acknowledgement for one of them should submit the document again."

// record makes an entry of one claim, exactly once as far as the database
// remembers: its idempotency key is the claim itself.
func (g *gate) record(ctx context.Context, fence Fence, claim Claim) error {
	now := g.cfg.Now().UTC().Truncate(time.Second)
	signed, err := statement.Sign(g.cfg.Statements, statement.Recovery{
		Log: g.cfg.Log, RolledFrom: claim.RolledFrom, RolledTo: claim.RolledTo,
		VoidFrom: claim.VoidFrom, VoidTo: claim.VoidTo, Reason: recoveryReason, Time: now,
	})
	if err != nil {
		return err
	}
	key, err := json.Marshal(claim)
	if err != nil {
		return err
	}
	tag := sha256.Sum256(append([]byte("calpe recovery "), key...))
	submission := statementSubmission(signed)
	submission.Idempotency = &calpe.Idempotency{Owner: recoveryOwner, KeyHash: sha256.Sum256(key), RequestTag: tag[:]}
	group := calpe.Group{
		ID: newGroupID(), Time: now, Deadline: now.Add(g.cfg.Promise), Limit: fence.Limit, Instance: fence.Instance,
		Submissions: []calpe.Submission{submission},
	}
	result, err := g.cfg.Groups.CommitGroup(ctx, group)
	if err != nil {
		return err
	}
	g.log.WarnContext(ctx, "recovery declared", slog.Uint64("index", result.Submissions[0].First),
		slog.Uint64("rolled from", claim.RolledFrom), slog.Uint64("rolled to", claim.RolledTo), slog.Uint64("void from", claim.VoidFrom), slog.Uint64("void to", claim.VoidTo))
	return nil
}

// statementSubmission is the submission that notarizes a public statement.
func statementSubmission(signed statement.Signed) calpe.Submission {
	salt := newSalt()
	return calpe.Submission{
		Commitments: []calpe.Commitment{calpe.Commit(signed.Digest(), salt)},
		Statement:   &calpe.Statement{Type: signed.Body().Type(), Body: signed.Bytes(), Salt: salt},
	}
}

func newSalt() (salt calpe.Salt) {
	rand.Read(salt[:]) // never fails: see crypto/rand
	return salt
}

func newGroupID() (id calpe.GroupID) {
	rand.Read(id[:])
	return id
}
