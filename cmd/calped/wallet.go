package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/anchor/wallet"
	"github.com/calpe/calpe/storage/postgres"
)

type walletCommand struct {
	Init        walletInit        `cmd:"" help:"Make the keystore alone, on the machine or for the user that signs. \"calped init\" makes it with all other keys."`
	Address     walletAddress     `cmd:"" help:"Print the address to which coins for anchors are paid."`
	Balance     walletBalance     `cmd:"" help:"Print the live coin, the deposits, and how many anchors they pay for."`
	Ledger      walletLedger      `cmd:"" help:"Print what came in and what each anchor cost, for those who keep accounts."`
	Rotate      walletRotate      `cmd:"" help:"Add a key to the keystore; the next anchor's change goes to it."`
	ExportWatch walletExportWatch `cmd:"" help:"Print the public keys as descriptors that Bitcoin Core's importdescriptors takes, to watch the coins from elsewhere."`
}

type walletAddress struct{}

func (c *walletAddress) Run(ctx context.Context, a *app) error {
	_, address, err := a.anchorScript(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintln(a.stdout, address)
	return nil
}

type walletBalance struct {
	Anchoring `embed:"" prefix:"anchor-" envprefix:"CALPE_ANCHOR_"`
}

// Run tells what the database knows; the engine keeps that in step with the chain.
func (c *walletBalance) Run(ctx context.Context, a *app) error {
	caps, rate, err := c.caps()
	if err != nil {
		return err
	}
	db, err := a.openDatabase(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	f, err := readFunds(ctx, db, caps, rate)
	if err != nil {
		return err
	}
	tip, err := db.Anchors().Journal(ctx, math.MaxUint32, 1)
	if err != nil {
		return err
	}
	if f.coin == nil || len(tip) == 0 {
		return errors.New("no coin is live: the log isn't created, or its coin is in no block; run \"calped doctor\"")
	}
	fmt.Fprintf(a.stdout, "coin     %s\nvalue    %d sat\n", f.coin.Outpoint, f.coin.Value)
	for _, d := range f.deposits {
		fmt.Fprintf(a.stdout, "deposit  %s, %d sat\n", d.Outpoint, d.Value)
	}
	fmt.Fprintf(a.stdout, "funds    %s, %d sat\nanchors  %d left at %s, %d at the cap\nas of    block %d\n",
		f.State(c.LowFunds), f.Value, f.Left, f.Rate, f.LeftAtCap, tip[0].Height)
	return nil
}

// funds is what the database knows of the money.
type funds struct {
	wallet.Funds
	coin        *ledger.Coin // nil: none is live
	deposits    []ledger.Coin
	lastAttempt time.Time // zero: there is none
}

// readFunds reckons at the rate of the newest attempt, or at the fallback before
// the first one.
func readFunds(ctx context.Context, db *postgres.DB, caps wallet.Caps, fallback ledger.FeeRate) (f funds, err error) {
	coin, err := db.Anchors().LiveCoin(ctx)
	switch {
	case err == nil:
		f.coin = &coin
	case !errors.Is(err, calpe.ErrNotFound): // without a coin no anchor is left
		return funds{}, err
	}
	if f.deposits, err = db.Anchors().Deposits(ctx); err != nil {
		return funds{}, err
	}
	newest, err := db.Anchors().Attempts(ctx, 1)
	if err != nil {
		return funds{}, err
	}
	rate := fallback
	if len(newest) > 0 {
		f.lastAttempt, rate = newest[0].Created, cmp.Or(newest[0].FeeRate(), fallback)
	}
	f.Funds = caps.Funds(f.coin, f.deposits, rate)
	return f, nil
}
