package main

import (
	"context"
	"fmt"

	"github.com/calpe/calpe/migrations"
)

type migrateCommand struct {
	Status bool `help:"Only say which version the schema has."`
}

// Run applies what is missing; running it again, or twice at once, is harmless.
func (c *migrateCommand) Run(ctx context.Context, a *app) error {
	url, err := a.Database.url()
	if err != nil {
		return err
	}
	if !c.Status {
		if err := migrations.Up(ctx, url, a.log); err != nil {
			return err
		}
	}
	version, err := migrations.Version(ctx, url)
	if err != nil {
		return err
	}
	pending, err := migrations.Pending(ctx, url)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "schema version %d, %d to come\n", version, pending)
	return nil
}
