// Package stack starts the servers that Calpe needs, all together.
package stack

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"

	"github.com/calpe/calpe/deploy/devstack/internal/bitcoin"
	"github.com/calpe/calpe/deploy/devstack/internal/faucet"
	"github.com/calpe/calpe/deploy/devstack/internal/postgres"
	"github.com/calpe/calpe/deploy/devstack/internal/s3"
	"github.com/calpe/calpe/deploy/devstack/internal/tools"
)

// Config says what to start.
type Config struct {
	Dir         string // everything the servers keep
	DatabaseURL string // a PostgreSQL that runs already; empty is to start one
	Postgres    postgres.Config
	S3          s3.Config
	Bitcoin     *bitcoin.Config // nil is to start no node
	Tools       *tools.Builder
	Log         *slog.Logger
}

// Server is one started server.
type Server interface {
	Done() <-chan struct{}
	Failure() error
	Stop()
}

// Stack is a set of started servers.
type Stack struct {
	DatabaseURL string
	S3          s3.Info
	Bitcoin     *bitcoin.Info // nil if no node was asked for
	Btcd        string        // path of the btcd program

	mu      sync.Mutex
	servers []Server // guarded by mu while Start runs
}

// Start builds what is to be built and starts the servers side by side; their
// folders are Dir/postgres, Dir/s3 and Dir/bitcoin. It returns when all answer.
// If one fails, those that started are stopped. ctx bounds the start only.
func Start(ctx context.Context, cfg Config) (*Stack, error) {
	s := &Stack{}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	parts := []func(context.Context, Config) error{s.startPostgres, s.startS3, s.startBitcoin}
	results := make(chan error, len(parts))
	for _, part := range parts {
		go func() {
			err := part(ctx, cfg)
			if err != nil {
				cancel()
			}
			results <- err
		}()
	}
	var errs []error
	for range parts {
		errs = append(errs, <-results)
	}
	if err := cause(errs); err != nil {
		s.Stop()
		return nil, err
	}
	return s, nil
}

// cause joins the errors, without those that only follow from the first one.
func cause(errs []error) error {
	var own []error
	for _, err := range errs {
		if err != nil && !errors.Is(err, context.Canceled) {
			own = append(own, err)
		}
	}
	if len(own) == 0 {
		own = errs
	}
	return errors.Join(own...)
}

func (s *Stack) add(server Server) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.servers = append(s.servers, server)
}

func (s *Stack) startPostgres(ctx context.Context, cfg Config) error {
	if cfg.DatabaseURL != "" {
		if err := postgres.CheckCreator(ctx, cfg.DatabaseURL); err != nil {
			return fmt.Errorf("DATABASE_URL: %w", err)
		}
		s.DatabaseURL = cfg.DatabaseURL
		return nil
	}
	c := cfg.Postgres
	c.Dir, c.Log = filepath.Join(cfg.Dir, "postgres"), cfg.Log
	server, err := postgres.Start(ctx, c)
	if err != nil {
		return err
	}
	s.add(server)
	s.DatabaseURL = server.Info.URL
	return nil
}

func (s *Stack) startS3(ctx context.Context, cfg Config) (err error) {
	c := cfg.S3
	c.Dir = filepath.Join(cfg.Dir, "s3")
	if c.Binary, err = cfg.Tools.Versitygw(ctx); err != nil {
		return err
	}
	server, err := s3.Start(ctx, c)
	if err != nil {
		return err
	}
	s.add(server)
	s.S3 = server.Info
	return nil
}

func (s *Stack) startBitcoin(ctx context.Context, cfg Config) (err error) {
	if s.Btcd, err = cfg.Tools.Btcd(ctx); err != nil || cfg.Bitcoin == nil {
		return err
	}
	c := *cfg.Bitcoin
	c.Dir, c.Binary, c.Log = filepath.Join(cfg.Dir, "bitcoin"), s.Btcd, cfg.Log
	server, err := StartBitcoin(ctx, c)
	if err != nil {
		return err
	}
	s.add(server)
	s.Bitcoin = &server.Info
	return nil
}

// StartBitcoin starts a node whose miner is the faucet, unless c names another
// miner's address.
func StartBitcoin(ctx context.Context, c bitcoin.Config) (_ *bitcoin.Server, err error) {
	if c.Password, err = bitcoin.LoadPassword(c.Dir); err != nil {
		return nil, err
	}
	if c.MinerAddress == "" {
		if c.MinerAddress, err = faucet.Address(c.Password, c.Network); err != nil {
			return nil, err
		}
	}
	return bitcoin.Start(ctx, c)
}

// Failures reports the servers that have ended by themselves.
func (s *Stack) Failures() error {
	var errs []error
	for _, server := range s.servers {
		select {
		case <-server.Done():
			errs = append(errs, server.Failure())
		default:
		}
	}
	return errors.Join(errs...)
}

// Stop stops all servers, side by side, and returns when they are gone.
func (s *Stack) Stop() {
	var all sync.WaitGroup
	for _, server := range s.servers {
		all.Go(server.Stop)
	}
	all.Wait()
}

// TestEnvironment is environ with the variables by which Calpe's tests find the
// servers. devstack is the path of this program.
func (s *Stack) TestEnvironment(environ []string, devstack string) []string {
	var env []string
	for _, v := range environ {
		// What an outer stack set doesn't count; the path of a Bitcoin Core is the user's.
		if !strings.HasPrefix(v, "CALPE_TEST_") || strings.HasPrefix(v, "CALPE_TEST_BITCOIND=") {
			env = append(env, v)
		}
	}
	env = append(env,
		"CALPE_TEST_DATABASE_URL="+s.DatabaseURL,
		"CALPE_TEST_S3_ENDPOINT="+s.S3.URL,
		"CALPE_TEST_S3_ACCESS_KEY="+s.S3.AccessKey,
		"CALPE_TEST_S3_SECRET_KEY="+s.S3.SecretKey,
		"CALPE_TEST_BTCD="+s.Btcd,
		"CALPE_TEST_DEVSTACK="+devstack,
	)
	if s.Bitcoin != nil {
		env = append(env, "CALPE_TEST_BITCOIN_URL="+s.Bitcoin.URL)
	}
	return env
}
