package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/calpe/calpe/deploy/devstack/internal/dev"
)

// receiptOf is the name that calpe gives a receipt.
func receiptOf(name string) string { return name + ".receipt.json" }

// submit brings documents in: one certified, a big one, a tiny one, and one of
// which the service sees nothing but a salted hash.
func (d *demo) submit(ctx context.Context) error {
	d.p.act("Documents come in", "With calpe, the citizen's tool. The service encrypts what it keeps.")
	err := d.step(ctx, "documents", stepTimeout, func(context.Context) (string, error) {
		return fmt.Sprintf("%s, %s (%s), %s", birthCertificate, surveyScan, sizeText(d.cfg.BigSize), shortNote),
			writeDocuments(d.docs, d.cfg.BigSize)
	})
	if err != nil {
		return err
	}
	err = d.step(ctx, "certify", stepTimeout, func(ctx context.Context) (string, error) {
		agency := dev.Program{Path: d.cfg.Calpe, Dir: d.docs}
		_, err := agency.Do(ctx, "certify", birthCertificate, "--agency", agencyID, "--key", d.keyFile(),
			"--type", "certificate of birth", "--subject", "register of births 1990-0042", "--issued", "2026-03-01")
		return fmt.Sprintf("%s, signed by %s on a machine of its own", birthCertificate, agencyID), err
	})
	if err != nil {
		return err
	}
	for _, s := range []struct {
		name, file string
		from       *party
		args       []string
	}{
		{"upload", birthCertificate, &d.ours, []string{"upload", birthCertificate, "--certification", birthCertificate + ".certification.json"}},
		{"upload", surveyScan, &d.ours, []string{"upload", surveyScan}},
		{"upload", shortNote, &d.ours, []string{"upload", shortNote}},
		{"hash only", privateContract, &d.ours, []string{"stamp", privateContract}},
		{"somebody else", elsewhereNote, &d.other, []string{"upload", elsewhereNote}},
	} {
		err := d.step(ctx, s.name, uploadTimeout, func(ctx context.Context) (string, error) {
			return d.notarize(ctx, s.from, s.file, s.args)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// notarize runs calpe, which checks the acknowledgement and fails if it doesn't
// hold, and reads the receipt that it leaves.
func (d *demo) notarize(ctx context.Context, from *party, name string, args []string) (string, error) {
	if _, err := from.user.Do(ctx, args...); err != nil {
		return "", err
	}
	e, err := readEvidence(filepath.Join(d.docs, receiptOf(name)))
	if err != nil {
		return "", err
	}
	place := fmt.Sprintf("%s is entry %d", name, e.Index)
	if c := e.Certification; c != nil {
		place += fmt.Sprintf(", its certification entry %d", c.Index)
	}
	if args[0] == "stamp" {
		place += ", and never left the citizen's machine"
	}
	if from == &d.other {
		place += " of their log"
	}
	if made, deadline, ok := e.promise(); ok {
		return fmt.Sprintf("%s\nacknowledged: signed for at %s, in a checkpoint by %s", place, clock(made), clock(deadline)), nil
	}
	return place + "\nacknowledged, and in a checkpoint already", nil
}

// clock is the time of day in a time of RFC 3339.
func clock(text string) string {
	if _, rest, ok := strings.Cut(text, "T"); ok {
		return rest
	}
	return text
}

// target is an entry that has to become final.
type target struct {
	*party
	index uint64
}

// targets are the last entries of both logs: whatever is before them is
// covered by what covers them.
func (d *demo) targets() (ours, other target, err error) {
	e, err := readEvidence(filepath.Join(d.docs, receiptOf(privateContract)))
	if err != nil {
		return ours, other, err
	}
	f, err := readEvidence(filepath.Join(d.docs, receiptOf(elsewhereNote)))
	return target{&d.ours, e.Index}, target{&d.other, f.Index}, err
}

// anchor follows the log into Bitcoin; the demo is the miner.
func (d *demo) anchor(ctx context.Context) error {
	d.p.act("The log goes into Bitcoin", "40 bytes in one transaction stand for all entries, be it seven or seven million. The demo is the miner.")
	ours, other, err := d.targets()
	if err != nil {
		return err
	}
	var txid string
	err = d.step(ctx, "checkpoint", stepTimeout, func(ctx context.Context) (string, error) {
		if _, err := other.await(ctx, other.index, "checkpointed", nil); err != nil {
			return "", err
		}
		e, err := ours.await(ctx, ours.index, "checkpointed", nil)
		if err != nil {
			return "", err
		}
		size, root, err := e.tree()
		d.checkpoint = fmt.Sprintf("%d entries, root %s", size, root)
		return d.checkpoint, err
	})
	if err != nil {
		return err
	}
	err = d.step(ctx, "transaction", stepTimeout, func(ctx context.Context) (detail string, err error) {
		txid, detail, err = d.broadcast(ctx, ours, other)
		return detail, err
	})
	if err != nil {
		return err
	}
	err = d.step(ctx, "block", stepTimeout, func(ctx context.Context) (string, error) { return d.mined(ctx, txid, ours, other) })
	if err != nil {
		return err
	}
	err = d.step(ctx, "final", stepTimeout, func(ctx context.Context) (string, error) {
		if _, err := d.node.Mine(ctx, depth-1); err != nil {
			return "", err
		}
		_, err1 := ours.await(ctx, ours.index, "final", nil)
		_, err2 := other.await(ctx, other.index, "final", nil)
		return fmt.Sprintf("%d more blocks stand on it: %d confirmations", depth-1, depth), errors.Join(err1, err2)
	})
	if err != nil {
		return err
	}
	return d.step(ctx, "receipts", stepTimeout, d.updateReceipts)
}

// broadcast waits for the transactions that cover both targets, and finds ours
// in the node's mempool.
func (d *demo) broadcast(ctx context.Context, ours, other target) (txid, detail string, err error) {
	for _, t := range []target{other, ours} {
		if _, err := t.await(ctx, t.index, "broadcast", d.clearWay(t)); err != nil {
			return "", "", err
		}
	}
	w, err := ours.watermarks(ctx)
	if err != nil {
		return "", "", err
	}
	e, err := ours.entryIn(ctx, ours.index, w.Broadcast)
	if err != nil {
		return "", "", err
	}
	_, root, err := e.tree()
	if err != nil {
		return "", "", err
	}
	txid, payload, err := announced(ctx, d.node, root)
	if err != nil {
		return "", "", err
	}
	return txid, fmt.Sprintf("%s\nits OP_RETURN: \"CLP\" %s, size %s, root %s", txid, payload[:6], payload[6:16], payload[16:]), nil
}

// clearWay mines a block when an anchor that doesn't reach the target waits for
// one: the next is only made when that is mined.
func (d *demo) clearWay(t target) func(context.Context) error {
	var mined uint64
	return func(ctx context.Context) error {
		w, err := t.watermarks(ctx)
		if err != nil || w.Broadcast > t.index || w.Broadcast == w.Confirmed || w.Broadcast == mined {
			return nil //nolint:nilerr // asked again soon
		}
		mined = w.Broadcast
		_, err = d.node.Mine(ctx, 1)
		return err
	}
}

// mined mines a block and demands that it holds the transaction.
func (d *demo) mined(ctx context.Context, txid string, ours, other target) (string, error) {
	blocks, err := d.node.Mine(ctx, 1)
	if err != nil {
		return "", err
	}
	e, err := ours.await(ctx, ours.index, "confirmed", nil)
	if err != nil {
		return "", err
	}
	if _, err := other.await(ctx, other.index, "confirmed", nil); err != nil {
		return "", err
	}
	got, block, err := e.anchored()
	if err != nil {
		return "", err
	}
	if got != txid || block != blocks[0] {
		return "", fmt.Errorf("the service says that transaction %s in block %s is the anchor; it should be %s in %s", got, block, txid, blocks[0])
	}
	d.block = fmt.Sprintf("transaction %s in block %d", txid, e.Anchor.Height)
	return fmt.Sprintf("height %d, hash %s", e.Anchor.Height, block), nil
}

// updateReceipts gets the proofs into the receipts, from the public part of the
// services.
func (d *demo) updateReceipts(ctx context.Context) (string, error) {
	var lines []string
	for _, r := range []struct {
		from *party
		name string
	}{
		{&d.ours, birthCertificate}, {&d.ours, surveyScan}, {&d.ours, shortNote}, {&d.ours, privateContract}, {&d.other, elsewhereNote},
	} {
		if _, err := r.from.user.Do(ctx, "receipt", receiptOf(r.name), "--wait", "final", "--timeout", "30s"); err != nil {
			return "", err
		}
		st, err := os.Stat(filepath.Join(d.docs, receiptOf(r.name)))
		if err != nil {
			return "", err
		}
		e, err := readEvidence(filepath.Join(d.docs, receiptOf(r.name)))
		if err != nil {
			return "", err
		}
		if e.Anchor == nil {
			return "", fmt.Errorf("the receipt of %s has no anchor", r.name)
		}
		lines = append(lines, fmt.Sprintf("%-35s %s, block %d", receiptOf(r.name), sizeText(st.Size()), e.Anchor.Height))
		if r.from == &d.ours {
			d.sizes = append(d.sizes, sizeText(st.Size()))
		}
	}
	return strings.Join(lines, "\n"), nil
}

// switchOff keeps the block headers, and ends every server.
func (d *demo) switchOff(ctx context.Context) error {
	d.p.act("Everything is switched off", "What stays is a folder with documents and receipts, and two public files.")
	err := d.step(ctx, "headers", stepTimeout, func(ctx context.Context) (string, error) {
		user := dev.Program{Path: d.cfg.Calpe, Dir: d.docs, Env: []string{"CALPE_NODE=" + d.stack.Bitcoin.URL}}
		said, err := user.Do(ctx, "headers", "--network", "regtest", "headers.bin")
		return strings.TrimSpace(said), err
	})
	if err != nil {
		return err
	}
	err = d.step(ctx, "identity", stepTimeout, func(context.Context) (string, error) {
		text, err := os.ReadFile(d.ours.IdentityFile())
		if err != nil {
			return "", err
		}
		return "identity.json: whose log it is, as the operator published it", os.WriteFile(filepath.Join(d.docs, "identity.json"), text, 0o600)
	})
	if err != nil {
		return err
	}
	d.failures = nil // from here on servers may end
	return d.step(ctx, "off", stepTimeout, func(ctx context.Context) (string, error) {
		hosts := []string{host(d.ours.URL), host(d.other.URL), host(d.stack.S3.URL), host(d.stack.Bitcoin.URL)}
		which := "both Calpe servers, S3 and Bitcoin"
		if d.cfg.DatabaseURL == "" {
			hosts = append(hosts, host(d.stack.DatabaseURL))
			which = "both Calpe servers, PostgreSQL, S3 and Bitcoin"
		}
		d.stop(context.WithoutCancel(ctx))
		return which + ": nobody listens on their ports any more", silent(ctx, hosts)
	})
}

// silent demands that nobody listens.
func silent(ctx context.Context, hosts []string) error {
	for _, h := range hosts {
		var dialer net.Dialer
		conn, err := dialer.DialContext(ctx, "tcp", h)
		if err == nil {
			conn.Close()
			return fmt.Errorf("somebody still listens on %s", h)
		}
	}
	return nil
}
