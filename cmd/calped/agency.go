package main

import (
	"context"
	"fmt"
	"time"

	"github.com/calpe/calpe/intake"
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

// Run records the statement as any server would, beside those that run.
func (c *agencyAdd) Run(ctx context.Context, a *app) error {
	return a.withRecorder(ctx, func(*intake.RecorderConfig) {}, func(ctx context.Context, r *intake.Recorder) error {
		recorded, err := r.RegisterAgency(ctx, statement.Agency{Agency: c.ID, Name: c.Name, Key: c.Key})
		if err != nil {
			return err
		}
		fmt.Fprintf(a.stdout, "%s is registered as entry %d\n", c.ID, recorded.First)
		return nil
	})
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
