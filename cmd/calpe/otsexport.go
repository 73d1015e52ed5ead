package main

import (
	"cmp"
	"errors"
	"fmt"
	"strings"

	"github.com/calpe/calpe/anchor/calendar"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/ots"
)

type otsExportCommand struct {
	Output   string `short:"o" help:"The file to write; it must not exist. Default: FILE.ots for FILE.receipt.json." placeholder:"FILE"`
	Calendar string `help:"Address of the service's calendar, for a receipt that isn't anchored yet." placeholder:"URL"`
	Receipt  string `arg:"" help:"The receipt."`
}

func (otsExportCommand) Help() string {
	return `Any OpenTimestamps client can verify what is written, against its own Bitcoin node. It shows that the document existed before a block; whose log it is in and who certified it is in the receipt alone, so keep that too. It contacts nobody.

A receipt that isn't anchored yet has nothing to show: bring it up to date with "calpe receipt" first. Or, if the service runs a calendar, name that: the file is then pending there.`
}

func (c *otsExportCommand) Run(a *app) error {
	out := cmp.Or(c.Output, strings.TrimSuffix(c.Receipt, ".receipt.json")+".ots")
	if err := refuseExisting(out); err != nil {
		return err
	}
	if c.Calendar != "" {
		if _, err := ots.PendingAt(c.Calendar); err != nil {
			return fmt.Errorf("--calendar: %w", err)
		}
		if _, err := calendar.ParseURL(c.Calendar); err != nil {
			return fmt.Errorf("--calendar: %w", err)
		}
	}
	r, err := readReceipt(c.Receipt)
	if err != nil {
		return err
	}
	f, err := exported(r, c.Calendar)
	if err != nil {
		return fmt.Errorf("%s: %w", shown(c.Receipt), err)
	}
	if err := createOTS(out, f); err != nil {
		return err
	}
	if network, _, ok := r.Place(); ok && network.IsTest() {
		a.notice("%s: its block is of the test network %s, which has no evidential value; the .ots file can't say so, and looks like one of mainnet", shown(c.Receipt), network)
	}
	_, err = fmt.Fprintf(a.Stdout, "%s: %s\n", shown(out), standing(f))
	return err
}

func exported(r receipt.Receipt, calendar string) (ots.DetachedFile, error) {
	if v := receipt.Verify(receipt.Input{Digest: r.Digest, Receipt: r}).Existed; v.Status == receipt.Refuted {
		return ots.DetachedFile{}, fmt.Errorf("%w: %s", errRefuted, v.Text)
	}
	f, err := ots.FromReceipt(r, calendar)
	if errors.Is(err, ots.ErrNotAnchored) {
		return ots.DetachedFile{}, fmt.Errorf("%w: it isn't anchored: bring it up to date with \"calpe receipt\", or name the service's calendar with --calendar", errNotYet)
	}
	return f, err
}
