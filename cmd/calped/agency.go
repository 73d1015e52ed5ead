package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/batch"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/statement"
)

type agencyCommand struct {
	Add  agencyAdd  `cmd:"" help:"Register an agency and its key, as a notarized statement."`
	List agencyList `cmd:"" help:"List the agencies."`
}

type agencyAdd struct {
	ID   string `required:"" help:"Identifier: a-z, 0-9 and inner hyphens, up to 64."`
	Name string `required:"" help:"The agency's name for people."`
	Key  string `required:"" help:"The agency's verifier key, as \"calpe keygen\" prints it. Compare it with the agency in person."`
}

// agencyPromise is the deadline in the acknowledgement of a registration.
const agencyPromise = time.Hour

// Run records the statement as any server would, beside those that run.
func (c *agencyAdd) Run(ctx context.Context, a *app) error {
	keys, err := a.loadSigningKeys()
	if err != nil {
		return err
	}
	db, err := a.openDatabase(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	if err := db.CheckSettings(ctx, a.Database.AllowAsyncStandby); err != nil {
		return err
	}
	identity, err := a.loadIdentity(ctx, db, keys)
	if err != nil {
		return err
	}
	objects, err := a.openObjects()
	if err != nil {
		return err
	}
	published, err := batch.NewLog(batch.LogConfig{
		Objects: objects,
		Open:    func(note []byte) (calpe.Checkpoint, error) { return receipt.OpenCheckpoint(note, identity) },
	})
	if err != nil {
		return err
	}
	recorder, err := a.newRecorder(db, objects, published, identity, keys, agencyPromise)
	if err != nil {
		return err
	}
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	g, running := errgroup.WithContext(running)
	g.Go(func() error { return ignoreCancel(recorder.Run(running)) })
	g.Go(func() error {
		defer cancel()
		if err := recorder.Wait(running); err != nil {
			return err
		}
		recorded, err := recorder.RegisterAgency(running, statement.Agency{Agency: c.ID, Name: c.Name, Key: c.Key})
		if err != nil {
			return err
		}
		fmt.Fprintf(a.stdout, "%s is registered as entry %d\n", c.ID, recorded.First)
		return recorder.Stop(running)
	})
	return g.Wait()
}

type agencyList struct{}

func (c *agencyList) Run(ctx context.Context, a *app) error {
	db, err := a.openDatabase(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	agencies, err := db.Agencies(ctx)
	if err != nil {
		return err
	}
	for _, g := range agencies {
		fmt.Fprintf(a.stdout, "%s\t%s\tentry %d\t%s\t%s\n", g.ID, g.Key, g.Statement, g.Added.UTC().Format(time.RFC3339), g.Name)
	}
	return nil
}
