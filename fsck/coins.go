package fsck

import (
	"context"
	"fmt"
	"slices"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
)

const coinPage = 100

// checkCoins holds coins, attempts and sightings against each other (I5, I6), coin
// by coin: what is said of one is read at one point in time.
func (r *run) checkCoins(ctx context.Context) error {
	first := 0
	var err error
	if r.restarts, err = r.Anchors.Restarts(ctx); err != nil {
		return err
	}
	for {
		after := r.state.After.Coin
		page, err := r.Anchors.CoinsAfter(ctx, after, coinPage)
		if err != nil {
			return err
		}
		read := func(ctx context.Context) ([]Finding, error) {
			coins, err := r.Anchors.CoinsAfter(ctx, after, coinPage)
			if err == nil {
				r.restarts, err = r.Anchors.Restarts(ctx)
			}
			return r.judgeCoins(coins), err
		}
		if found := r.judgeCoins(page); len(found) > 0 {
			r.later = append(r.later, check{"coins", func(ctx context.Context) ([]Finding, error) {
				again, err := read(ctx)
				return both(found, again), err
			}})
		}
		for _, c := range page {
			if c.Kind == ledger.ChainCoin && c.MadeBy == (calpe.BlockHash{}) {
				first++
			}
			r.state.count("attempts", len(c.Attempts))
			r.state.After.Coin = c.Outpoint
		}
		r.state.count("coins", len(page))
		if len(page) < coinPage {
			break
		}
	}
	if first == 0 && r.Identity.FirstOutpoint != nil {
		r.found(Finding{Invariant: "I8", Thing: "coin " + r.Identity.FirstOutpoint.String(), Problem: "the first coin of the log's identity has no row", Do: doRow})
	}
	return nil
}

// begins: the chain of coins began with it, or goes on with it behind a break.
func (r *run) begins(o calpe.Outpoint) bool {
	first := r.Identity.FirstOutpoint
	return first != nil && *first == o || slices.ContainsFunc(r.restarts, func(b ledger.Break) bool { return b.First == o })
}

func (r *run) judgeCoins(page []ledger.CoinRecord) (found []Finding) {
	for i := range page {
		found = append(found, r.judgeCoin(&page[i])...)
	}
	return found
}

const doAnchor = "restore the row from a backup of the database: find out who changed it; with an older copy of the database the engine finds again what is in blocks"

func (r *run) judgeCoin(c *ledger.CoinRecord) (found []Finding) {
	want := expectedCoin(c)
	f := Finding{Invariant: "I6", Thing: "coin " + c.Outpoint.String(), Do: doAnchor}
	switch {
	case c.Kind == ledger.ChainCoin && c.MadeBy == (calpe.BlockHash{}) && !r.begins(c.Outpoint):
		f.Problem = "is made by no attempt, and isn't the first one of the log's identity, or of a restart"
	case c.Maker != nil && c.Value != c.Maker.Change:
		f.Problem = fmt.Sprintf("has %d sat, and the attempt that makes it says %d", c.Value, c.Maker.Change)
	case c.State == ledger.CoinSpent && c.Spender == nil:
		f.Invariant, f.Problem = "I5", fmt.Sprintf("was spent by the attempt %v, which has no row", c.SpentBy)
	case c.State != want.State:
		f.Problem = fmt.Sprintf("is %s in its row, and %s by the blocks that hold its attempts", c.State, want.State)
	case c.Height != want.Height:
		f.Problem = fmt.Sprintf("was made in block %d by its row, and in block %d by its attempt", c.Height, want.Height)
	case c.SpentBy != want.SpentBy || c.SpentHeight != want.SpentHeight:
		f.Problem = fmt.Sprintf("was spent by %v in block %d by its row, and by %v in block %d by its attempts", c.SpentBy, c.SpentHeight, want.SpentBy, want.SpentHeight)
	}
	if f.Problem != "" {
		found = append(found, f)
	}
	for i := range c.Attempts {
		a := &c.Attempts[i]
		if a.N != i+1 {
			found = append(found, Finding{Invariant: "I5", Thing: "coin " + c.Outpoint.String(),
				Problem: fmt.Sprintf("its attempt %d has no row, and there is one with the number %d", i+1, a.N), Do: doAnchor})
			return found
		}
	}
	for i := range c.Attempts {
		found = append(found, r.judgeAttempt(&c.Attempts[i], want)...)
	}
	return found
}

// expectedCoin is what the row of a coin says if it follows from the sightings.
// What only a block can tell, of deposits and foreign spends, is taken from the row.
func expectedCoin(c *ledger.CoinRecord) ledger.Coin {
	want := c.Coin
	if c.Maker != nil {
		made := c.Maker.Current()
		if made == nil {
			want.State, want.Height, want.SpentBy, want.SpentHeight = ledger.CoinVoid, 0, calpe.BlockHash{}, 0
			return want
		}
		want.Height = made.Height
		if want.State == ledger.CoinVoid {
			want.State = ledger.CoinLive
		}
	}
	if want.State == ledger.CoinVoid {
		return want
	}
	spender := c.Spender
	if c.Kind == ledger.ChainCoin {
		spender = nil
		for i := range c.Attempts {
			if c.Attempts[i].Current() != nil {
				spender = &c.Attempts[i]
			}
		}
	}
	switch {
	case spender != nil && spender.Current() != nil:
		want.State, want.SpentBy, want.SpentHeight = ledger.CoinSpent, spender.TxID, spender.Current().Height
	case want.State == ledger.CoinForeign && spender == nil:
	default:
		want.State, want.SpentBy, want.SpentHeight = ledger.CoinLive, calpe.BlockHash{}, 0
	}
	return want
}
