package dev

import (
	"context"
	"log/slog"
	"time"

	"github.com/calpe/calpe/deploy/devstack/internal/bitcoin"
)

const (
	// settled are the blocks on a transaction from which nobody waits for more.
	settled = 6
	// idleTicks is how much slower blocks come while nobody waits for one. On simnet
	// the difficulty grows fourfold every 2016 blocks that come fast, and after some
	// ten of these a processor can't find a block in time any more.
	idleTicks = 12
)

// miner makes blocks: one every time while a transaction waits for one, or for
// confirmations, and else a few.
type miner struct {
	node  *bitcoin.Client
	every time.Duration
	log   *slog.Logger

	quiet int // blocks since the last one with a transaction
	idle  int // ticks since the last block
}

// run mines until ctx ends.
func (m *miner) run(ctx context.Context) {
	tick := time.NewTicker(m.every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if err := m.step(ctx); err != nil && ctx.Err() == nil {
			m.log.WarnContext(ctx, "can't mine a block", "error", err)
		}
	}
}

func (m *miner) step(ctx context.Context) error {
	var pool []string
	if err := m.node.Call(ctx, &pool, "getrawmempool"); err != nil {
		return err
	}
	m.idle++
	if len(pool) == 0 && m.quiet >= settled && m.idle < idleTicks {
		return nil
	}
	m.idle = 0
	hashes, err := m.node.Mine(ctx, 1)
	if err != nil {
		return err
	}
	mined, err := m.node.Block(ctx, hashes[0])
	if err != nil {
		return err
	}
	m.quiet++
	if len(mined.Transactions) > 1 {
		m.quiet = 1
	}
	return nil
}
