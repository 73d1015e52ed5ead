package demo

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/calpe/calpe/deploy/devstack/internal/dev"
)

// setUp is what an operator does, once.
func (d *demo) setUp(ctx context.Context) error {
	d.p.act("The service is set up", "What its operator does, once, with calped.")
	if err := os.MkdirAll(d.docs, 0o700); err != nil {
		return fmt.Errorf("make folder: %w", err)
	}
	var address string
	for _, s := range []struct {
		name string
		run  func(context.Context) (string, error)
	}{
		{"schema", func(ctx context.Context) (_ string, err error) {
			if d.ours, err = d.deploy(ctx, "calpe", "demo.calpe.example/log"); err != nil {
				return "", err
			}
			return d.ours.Migrate(ctx)
		}},
		{"keys", func(ctx context.Context) (_ string, err error) {
			address, err = d.ours.Init(ctx)
			return "for encryption and for signatures, and a wallet: " + address, err
		}},
		{"money", func(ctx context.Context) (string, error) {
			paid, err := d.ours.Fund(ctx, address, funding)
			return fmt.Sprintf("%d satoshi, in transaction %s", paid.Value, paid.TxID), err
		}},
		{"log", func(ctx context.Context) (_ string, err error) {
			d.ours.log, err = d.ours.CreateLog(ctx)
			return fmt.Sprintf("%s with the identity %s\nand that identity is entry 0", d.ours.log.Origin, d.ours.log.Hash), err
		}},
		{"agency", d.addAgency},
		{"server", func(ctx context.Context) (string, error) {
			err := d.serve(ctx, &d.ours)
			return "ready at " + d.ours.url(), err
		}},
		{"somebody else", d.setUpOther},
		{"first anchor", d.firstAnchor},
	} {
		if err := d.step(ctx, s.name, stepTimeout, s.run); err != nil {
			return err
		}
	}
	return nil
}

func (p *party) url() string {
	if p.Server == nil {
		return ""
	}
	return p.URL
}

func (d *demo) keyFile() string { return filepath.Join(d.cfg.Dir, agencyID+".key") }

// addAgency: the agency makes its key itself, and only the public half leaves it.
func (d *demo) addAgency(ctx context.Context) (string, error) {
	agency := dev.Program{Path: d.cfg.Calpe, Dir: d.docs}
	key, err := agency.Do(ctx, "keygen", agencyID, "-o", d.keyFile())
	if err != nil {
		return "", err
	}
	said, err := d.ours.AddAgency(ctx, agencyID, agencyName, strings.TrimSpace(key))
	return fmt.Sprintf("%s: %s", agencyName, said), err
}

// setUpOther does all of it again for another deployment: its receipts must not
// pass for ours.
func (d *demo) setUpOther(ctx context.Context) (_ string, err error) {
	if d.other, err = d.deploy(ctx, "other", "notary.elsewhere.example/log"); err != nil {
		return "", err
	}
	if _, err := d.other.Migrate(ctx); err != nil {
		return "", err
	}
	address, err := d.other.Init(ctx)
	if err != nil {
		return "", err
	}
	if _, err := d.other.Fund(ctx, address, funding); err != nil {
		return "", err
	}
	if d.other.log, err = d.other.CreateLog(ctx); err != nil {
		return "", err
	}
	if err := d.serve(ctx, &d.other); err != nil {
		return "", err
	}
	return fmt.Sprintf("runs a Calpe too, %s, with keys of their own", d.other.log.Origin), nil
}

// firstAnchor brings both identities into a block: the chain of coins begins.
func (d *demo) firstAnchor(ctx context.Context) (string, error) {
	for _, p := range []*party{&d.ours, &d.other} {
		if _, err := p.await(ctx, 0, "broadcast", nil); err != nil {
			return "", err
		}
	}
	if _, err := d.node.Mine(ctx, 1); err != nil {
		return "", err
	}
	e, err := d.ours.await(ctx, 0, "confirmed", nil)
	if err != nil {
		return "", err
	}
	if _, err := d.other.await(ctx, 0, "confirmed", nil); err != nil {
		return "", err
	}
	txid, _, err := e.anchored()
	return fmt.Sprintf("entry 0 is in Bitcoin block %d, transaction %s", e.Anchor.Height, txid), err
}
