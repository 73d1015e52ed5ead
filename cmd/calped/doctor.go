package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/batch"
	"github.com/calpe/calpe/intake"
	"github.com/calpe/calpe/storage/keyring"
)

type doctorCommand struct {
	serveCommand `embed:""`
}

// Run does the checks of serve, all of them, and says what each found.
func (c *doctorCommand) Run(ctx context.Context, a *app) error {
	s, err := c.open(ctx, a)
	if err != nil {
		return err
	}
	defer s.close()
	failed := 0
	say := func(what string, err error) {
		if err == nil {
			fmt.Fprintf(a.stdout, "ok      %s\n", what)
			return
		}
		failed++
		fmt.Fprintf(a.stdout, "FAILED  %s\n        %s\n", what, strings.ReplaceAll(err.Error(), "\n", "\n        "))
	}
	say("PostgreSQL keeps what it has committed", s.checkDatabase(ctx))
	for _, f := range s.objects.Examine(ctx) {
		say(fmt.Sprintf("bucket %s: %s", f.Bucket, f.Promise), f.Err)
	}
	if s.node != nil {
		say("the Bitcoin nodes are on the log's network", s.checkNodes(ctx))
	}
	if s.calendars != nil {
		say(fmt.Sprintf("what calendars say is compared with headers: %s", s.comparedWith), s.checkStamping(ctx))
	}
	say("the log in object storage is the database's", s.checkLog(ctx))
	say("the fence is not behind the log", s.checkFence(ctx))
	say("the newest documents have their objects and keys", s.checkDocuments(ctx))
	if failed > 0 {
		return fmt.Errorf("%d checks failed", failed)
	}
	fmt.Fprintln(a.stdout, "all checks passed")
	return nil
}

// check refuses to serve on servers that can't keep Calpe's promises, or whose
// stores disagree. Each error is a sentence that says what to do. The fence isn't
// among them: intake looks at it all the time, and without intake the rest serves.
func (s *service) check(ctx context.Context) error {
	for _, check := range []func(context.Context) error{
		s.checkDatabase, s.objects.SelfTest, s.checkNodes, s.checkStamping, s.checkLog, s.checkDocuments,
	} {
		if err := check(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (s *service) checkDatabase(ctx context.Context) error {
	return s.db.CheckSettings(ctx, s.app.Database.AllowAsyncStandby)
}

func (s *service) checkNodes(ctx context.Context) error {
	if s.node == nil { // calendars anchor the log
		return nil
	}
	if err := s.checkNode(ctx, s.node); err != nil {
		return err
	}
	if s.second != nil {
		if err := s.checkNode(ctx, s.second); err != nil {
			return fmt.Errorf("second Bitcoin node: %w", err)
		}
	}
	return nil
}

// checkLog compares the checkpoints of database and object storage.
func (s *service) checkLog(ctx context.Context) error {
	err := s.sealer.CheckStores(ctx)
	if errors.Is(err, batch.ErrBehind) { // an older database: intake rolls it forward before it takes anything
		s.log.WarnContext(ctx, "the database is behind the published log; intake will recover it", slog.Any("error", err))
		return nil
	}
	return err
}

// checkFence finds a fence that halts intake as soon as it looks at it: one that
// is missing, or of an older state of object storage.
func (s *service) checkFence(ctx context.Context) error {
	// The servers may be running: the log as it was is below the fence as it is now.
	next, err := s.db.NextIndex(ctx)
	if err != nil {
		return err
	}
	data, _, err := s.objects.ReadFence(ctx)
	if errors.Is(err, calpe.ErrNotFound) {
		if next > 1 {
			return fmt.Errorf("%w, and the log has %d entries: is this the right bucket?", intake.ErrNoFence, next)
		}
		return nil // the first server makes it
	}
	if err != nil {
		return err
	}
	fence, err := intake.ParseFence(data)
	if err != nil {
		return err
	}
	if next > fence.Limit {
		return fmt.Errorf("%w: %d entries, limit %d: put the newest state of object storage back", intake.ErrFenceBack, next, fence.Limit)
	}
	return nil
}

// checkedDocuments is how many of the newest documents are looked at. Object
// storage or a keyring that went back in time lacks the newest; what is missing
// among the others is for a full comparison to find.
const checkedDocuments = 10

// checkDocuments finds object storage, or a keyring, that is older than the database (I1).
func (s *service) checkDocuments(ctx context.Context) error {
	documents, err := s.db.NewestDocuments(ctx, checkedDocuments)
	if err != nil {
		return err
	}
	ids := make([]calpe.DocumentID, len(documents))
	for i, d := range documents {
		ids[i] = d.ID
		if err := s.checkObject(ctx, d); err != nil {
			return err
		}
	}
	keys, err := s.db.DocumentKeys(ctx, ids)
	if err != nil {
		return err
	}
	for _, k := range keys {
		if _, err := s.keyring.Unwrap(k.Document.String(), keyring.Wrapped{KeyID: k.KeyID, Bytes: k.Wrapped}); err != nil {
			return fmt.Errorf("keyring.json isn't the newest, or another service's: put the newest back: %w", err)
		}
	}
	return nil
}

func (s *service) checkObject(ctx context.Context, d calpe.Document) error {
	err := s.objects.StatDocument(ctx, d.Object)
	switch {
	case !errors.Is(err, calpe.ErrNotFound):
		return err
	case s.app.S3.AllowMissing:
		s.log.ErrorContext(ctx, "the object of a document is missing, as was allowed", slog.Uint64("index", d.Index), slog.String("object", d.Object.Name))
		return nil
	}
	return fmt.Errorf("object storage is behind the database: the object of the document with index %d, received %s, isn't there: "+
		"put the newest state of object storage back, or accept with CALPE_S3_ALLOW_MISSING that such documents are lost: %w",
		d.Index, d.Created.Format("2006-01-02 15:04:05 MST"), err)
}
