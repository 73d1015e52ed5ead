package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor"
	"github.com/calpe/calpe/anchor/bitcoin"
	"github.com/calpe/calpe/intake"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/storage/postgres"
)

type logCommand struct {
	Create logCreate `cmd:"" help:"Create the log: fix its identity for ever, and make that entry 0."`
	Show   logShow   `cmd:"" help:"Print the log's identity, to be published and pinned by verifiers."`
	// RestartChain is a command of its own for the same reason: what it says stays in the log.
	RestartChain logRestartChain `cmd:"" help:"After somebody else has spent the live coin: declare the break in the log, and let the chain of anchors go on from a deposit."`
	// RestoreFence is a command of its own, and no setting of serve: it is said once.
	RestoreFence logRestoreFence `cmd:"" help:"Bring back the fence, if it was deleted in object storage."`
	RaiseFence   logRaiseFence   `cmd:"" help:"After both database and object storage were restored from older states: say how far indices may have been acknowledged."`
}

type logCreate struct {
	Coin          string `help:"First coin of the chain of anchors, txid:vout. Without it the newest blocks are searched for a deposit." placeholder:"TXID:VOUT"`
	SearchBlocks  uint32 `help:"How many blocks to search back for a deposit." default:"1000"`
	CreateBuckets bool   `help:"Create the two buckets as well, if they aren't there."`
}

// Run fixes the identity. It may be stopped anywhere and run again: what is
// there is kept, and must be the same.
func (c *logCreate) Run(ctx context.Context, a *app) error {
	keys, err := a.loadSigningKeys()
	if err != nil {
		return err
	}
	db, err := a.openDatabase(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	if d, err := db.Deployment(ctx); err == nil {
		fmt.Fprintf(a.stdout, "the log was created %s\n", d.Created.UTC().Format(time.RFC3339))
		return printIdentity(a, d)
	} else if !errors.Is(err, calpe.ErrNotFound) {
		return err
	}
	if err := c.prepareObjects(ctx, a); err != nil {
		return err
	}
	network, err := a.network()
	if err != nil {
		return err
	}
	identity := receipt.Identity{
		Origin: keys.checkpoint.Name(), Network: network,
		CheckpointKeys:      []string{keys.checkpoint.Verifier()},
		AcknowledgementKeys: []string{keys.acknowledgement.Verifier()},
		StatementKeys:       []string{keys.statement.Verifier()},
	}
	if !a.byCoins() {
		return c.createWithoutCoins(ctx, a, db, identity)
	}
	deposit, genesis, err := c.findCoin(ctx, a)
	if err != nil {
		return err
	}
	identity.Genesis, identity.FirstOutpoint = genesis, &deposit.Coin.Outpoint
	if err := identity.Validate(); err != nil {
		return err
	}
	return c.create(ctx, a, db, identity, deposit)
}

// createWithoutCoins is for a log that calendars anchor: it needs no node.
func (c *logCreate) createWithoutCoins(ctx context.Context, a *app, db *postgres.DB, identity receipt.Identity) (err error) {
	if c.Coin != "" {
		return errors.New("--coin is given, and CALPE_ANCHOR is calendars: such a log has no coins")
	}
	if identity.Genesis, err = receipt.GenesisOf(identity.Network); err != nil {
		return err
	}
	if err := identity.Validate(); err != nil {
		return err
	}
	return c.createLog(ctx, a, db, identity)
}

func (c *logCreate) prepareObjects(ctx context.Context, a *app) error {
	objects, err := a.openObjects()
	if err != nil {
		return err
	}
	if c.CreateBuckets {
		if err := objects.CreateBuckets(ctx); err != nil {
			return err
		}
	}
	return objects.SelfTest(ctx)
}

// findCoin looks for the first coin in the node's chain.
func (c *logCreate) findCoin(ctx context.Context, a *app) (anchor.Deposit, calpe.BlockHash, error) {
	network, err := a.network()
	if err != nil {
		return anchor.Deposit{}, calpe.BlockHash{}, err
	}
	script, address, err := a.anchorScript(ctx)
	if err != nil {
		return anchor.Deposit{}, calpe.BlockHash{}, err
	}
	node, err := a.openNode()
	if err != nil {
		return anchor.Deposit{}, calpe.BlockHash{}, err
	}
	defer node.Close()
	if err := node.CheckNetwork(ctx, network); err != nil {
		return anchor.Deposit{}, calpe.BlockHash{}, err
	}
	genesis, err := node.BlockHash(ctx, 0)
	if err != nil {
		return anchor.Deposit{}, calpe.BlockHash{}, err
	}
	deposit, err := c.deposit(ctx, node, script)
	if errors.Is(err, anchor.ErrNoDeposit) {
		return anchor.Deposit{}, calpe.BlockHash{}, fmt.Errorf(
			"%w: pay at least %d sat to %s, wait until that is in a block, and run this again", err, leastFirstCoin, address)
	}
	return deposit, genesis, err
}

// leastFirstCoin is what the default caps need for the first anchor and its change.
const leastFirstCoin = 50_000

func (c *logCreate) deposit(ctx context.Context, node *bitcoin.Client, script []byte) (anchor.Deposit, error) {
	if c.Coin != "" {
		outpoint, err := calpe.ParseOutpoint(c.Coin)
		if err != nil {
			return anchor.Deposit{}, err
		}
		return anchor.LocateDeposit(ctx, node, script, outpoint)
	}
	tip, _, err := node.BestBlock(ctx)
	if err != nil {
		return anchor.Deposit{}, err
	}
	from := uint32(0)
	if tip > c.SearchBlocks {
		from = tip - c.SearchBlocks
	}
	return anchor.FindDeposit(ctx, node, script, from, leastFirstCoin)
}

// create writes the first coin, then the deployment with entry 0.
//
// Crash here, between the two: there is a coin and no log. The next run finds
// the same coin (it is unspent, and the first) or is refused by the store.
func (c *logCreate) create(ctx context.Context, a *app, db *postgres.DB, identity receipt.Identity, deposit anchor.Deposit) error {
	if err := db.Anchors().InsertFirstCoin(ctx, deposit.Coin, deposit.Blocks); err != nil {
		return err
	}
	return c.createLog(ctx, a, db, identity)
}

// createLog writes the deployment with entry 0.
func (c *logCreate) createLog(ctx context.Context, a *app, db *postgres.DB, identity receipt.Identity) error {
	instance, err := db.Instance(ctx)
	if err != nil {
		return err
	}
	now := a.now().UTC().Truncate(time.Second)
	group := calpe.Group{
		Time: now, Deadline: now.Add(time.Hour), Limit: 1, Instance: instance,
		Submissions: []calpe.Submission{{Commitments: []calpe.Commitment{identity.Entry().Commitment}}},
	}
	rand.Read(group.ID[:])
	deployment := calpe.Deployment{Identity: identity.Canonical(), Network: identity.Network, Created: now}
	if _, err := db.CreateDeployment(ctx, deployment, group); err != nil {
		return err
	}
	return printIdentity(a, deployment)
}

func printIdentity(a *app, d calpe.Deployment) error {
	identity, err := receipt.ParseIdentity(d.Identity)
	if err != nil {
		return err
	}
	coin := "none: it is anchored by calendars"
	if identity.FirstOutpoint != nil {
		coin = identity.FirstOutpoint.String()
	}
	fmt.Fprintf(a.stdout, "log       %s\nnetwork   %s\nidentity  %s\ncoin      %s\n",
		identity.Origin, identity.Network, identity.Hash(), coin)
	return nil
}

type logShow struct{}

// Run prints the canonical JSON and nothing else: the file that verifiers pin.
func (c *logShow) Run(ctx context.Context, a *app) error {
	db, err := a.openDatabase(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	d, err := db.Deployment(ctx)
	if err != nil {
		return fmt.Errorf("read the log's identity: %w", err)
	}
	fmt.Fprintf(a.stdout, "%s\n", d.Identity)
	return nil
}

type logRestoreFence struct {
	Create bool `help:"If none of its versions is left, make a new one, and so say that no index was promised beyond the entries of the database."`
}

// Run undoes the deletion. Without a version to go back to it makes a fence only
// if the operator says so, which can't be checked: if the database is an older
// copy as well, indices that it lacks are given out again.
func (c *logRestoreFence) Run(ctx context.Context, a *app) error {
	objects, err := a.openObjects()
	if err != nil {
		return err
	}
	if _, _, err := objects.ReadFence(ctx); err == nil {
		return errors.New("the fence is there: nothing was done")
	} else if !errors.Is(err, calpe.ErrNotFound) {
		return err
	}
	found, err := objects.UndeleteFence(ctx)
	switch {
	case err != nil:
		return err
	case found:
		fmt.Fprintln(a.stdout, "the fence had been deleted, and is back as it was; start the servers again")
		return nil
	case !c.Create:
		return errors.New("no version of the fence is left in the documents bucket; if that is the right one, and the database surely the newest, --create makes a new one")
	}
	edit := func(c *intake.RecorderConfig) { c.CreateFence = true }
	return a.withRecorder(ctx, edit, func(_ context.Context, r *intake.Recorder) error {
		status := r.Status()
		fmt.Fprintf(a.stdout, "the log has %d entries, and a new fence at %d; start the servers again\n", status.Next, status.Limit)
		return nil
	})
}

type logRaiseFence struct {
	To uint64 `required:"" help:"Index that no acknowledgement can have reached. What lies between is filled with void entries." placeholder:"INDEX"`
}

// Run is for before the first server is started on what was restored.
func (c *logRaiseFence) Run(ctx context.Context, a *app) error {
	objects, err := a.openObjects()
	if err != nil {
		return err
	}
	db, err := a.openDatabase(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	d, err := db.Deployment(ctx)
	if err != nil {
		return fmt.Errorf("read the log's identity: %w", err)
	}
	identity, err := receipt.ParseIdentity(d.Identity)
	if err != nil {
		return err
	}
	was, err := intake.RaiseFence(ctx, objects, identity.Hash(), c.To)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "the fence was at %d and is at %d; start the servers\n", was, c.To)
	return nil
}
