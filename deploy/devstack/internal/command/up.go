package command

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/calpe/calpe/deploy/devstack/internal/dev"
	"github.com/calpe/calpe/deploy/devstack/internal/process"
)

type upCmd struct {
	programs
	State       string        `default:".calpe" placeholder:"DIR" help:"Folder in which everything is kept. Default: .calpe."`
	Listen      string        `default:"127.0.0.1:8420" env:"CALPE_LISTEN" placeholder:"HOST:PORT" help:"Address of the service. Default: 127.0.0.1:8420."`
	BlockEvery  time.Duration `default:"5s" placeholder:"TIME" help:"How often a block is mined. Default: 5s."`
	DatabaseURL string        `name:"database-url" env:"DATABASE_URL" placeholder:"URL" help:"A PostgreSQL that runs already, whose user may create databases."`
}

const shortestBlock = 100 * time.Millisecond

func (c *upCmd) Run(a *app) error {
	if err := c.resolve(); err != nil {
		return err
	}
	if c.BlockEvery < shortestBlock {
		return fmt.Errorf("up: --block-every must be at least %v", shortestBlock)
	}
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	ctx, stop := untilEnded()
	defer stop()
	err = dev.Up(ctx, dev.UpConfig{
		State: c.State, Calped: c.Calped, Calpe: c.Calpe, Near: here, Listen: c.Listen, BlockEvery: c.BlockEvery,
		DatabaseURL: c.DatabaseURL, PGBin: a.cli.PGBin, Cache: a.cache, Tools: a.tools, Out: a.cfg.Stdout, Log: a.log,
	})
	switch {
	case errors.Is(err, process.ErrLocked):
		return fmt.Errorf("up: a service runs on %s already: %w", c.State, err)
	case err != nil && ctx.Err() != nil:
		return errors.New("up: interrupted")
	case err != nil:
		return fmt.Errorf("up: %w", err)
	}
	return nil
}
