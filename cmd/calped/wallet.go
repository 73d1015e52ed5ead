package main

import (
	"context"
	"fmt"
)

type walletCommand struct {
	Init        walletInit        `cmd:"" help:"Make the keystore alone, on the machine or for the user that signs. \"calped init\" makes it with all other keys."`
	Address     walletAddress     `cmd:"" help:"Print the address to which coins for anchors are paid."`
	Balance     walletBalance     `cmd:"" help:"Print the live coin and how many anchors it pays for."`
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
	snapshot, err := db.Anchors().Snapshot(ctx)
	if err != nil {
		return err
	}
	if snapshot.Live == nil {
		return fmt.Errorf("no coin is live as of block %d; run \"calped doctor\"", snapshot.Tip.Height)
	}
	coin := snapshot.Live
	fmt.Fprintf(a.stdout, "coin     %s\nvalue    %d sat\nanchors  %d left at %s, %d at the cap\nas of    block %d\n",
		coin.Outpoint, coin.Value, caps.AnchorsLeft(coin.Value, rate), rate, caps.AnchorsLeft(coin.Value, caps.FeeRate), snapshot.Tip.Height)
	return nil
}
