package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor"
	"github.com/calpe/calpe/batch"
	"github.com/calpe/calpe/intake"
	"github.com/calpe/calpe/internal/commitpoint"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/statement"
	"github.com/calpe/calpe/storage/postgres"
	"github.com/calpe/calpe/storage/s3"
)

type logRestartChain struct {
	Reason    string `required:"" help:"What happened, for everybody who ever audits the log: up to 1000 characters. It can't be changed or taken back."`
	Coin      string `help:"Deposit with which the chain goes on, txid:vout. Without it, the largest to the newest anchor key." placeholder:"TXID:VOUT"`
	Anchoring `embed:"" prefix:"anchor-" envprefix:"CALPE_ANCHOR_"`
}

// restarter is what the command works with.
type restarter struct {
	app      *app
	db       *postgres.DB
	objects  *s3.Store
	identity receipt.Identity
	find     anchor.BreakConfig
	reason   string
}

// Run declares the break, publishes it, and records it: in this order, so that
// nobody ever uses a coin that the log and its readers know nothing of. It may be
// stopped anywhere and run again: what is declared stays, and is what is recorded.
// Servers may run meanwhile; the engine makes nothing while the coin is foreign.
func (c *logRestartChain) Run(ctx context.Context, a *app) error {
	r := &restarter{app: a, reason: c.Reason}
	closeAll, err := r.open(ctx, c)
	if err != nil {
		return err
	}
	defer closeAll()
	broken, err := anchor.FindSpend(ctx, r.find)
	if errors.Is(err, anchor.ErrNotBroken) {
		return r.notBroken(ctx, err)
	}
	if err != nil {
		return err
	}
	declared, found, err := r.declared(ctx, broken)
	if err == nil && !found {
		declared, err = r.declare(ctx)
	}
	if err != nil {
		return err
	}
	// Crash here: the statement is an entry, which names the coin. The next run finds
	// it in the database, and goes on with it.
	commitpoint.Reached(commitpoint.BreakDeclared)
	if err := batch.PublishBreak(ctx, r.objects, declared); err != nil {
		return err
	}
	// Crash here: everybody can see the break, and nothing has come of it. The next
	// run finds it there; so does one with an older copy of the database.
	commitpoint.Reached(commitpoint.BreakPublished)
	if err := r.record(ctx, broken, declared); err != nil {
		return err
	}
	// Crash here: the coin is of the chain, and the engine goes on from it by itself
	// once a checkpoint covers the statement.
	commitpoint.Reached(commitpoint.ChainRestarted)
	return r.print(declared)
}

func (r *restarter) open(ctx context.Context, c *logRestartChain) (closeAll func(), err error) {
	if r.find.Script, _, err = r.app.anchorScript(ctx); err != nil {
		return nil, err
	}
	r.find.Depth, r.find.Least = c.Depth, leastFirstCoin
	if c.Coin != "" {
		if r.find.First, err = calpe.ParseOutpoint(c.Coin); err != nil {
			return nil, err
		}
	}
	keys, err := r.app.loadSigningKeys()
	if err != nil {
		return nil, err
	}
	if r.objects, err = r.app.openObjects(); err != nil {
		return nil, err
	}
	node, err := r.app.openNode()
	if err != nil {
		return nil, err
	}
	second, err := r.app.openSecondNode()
	if err != nil {
		node.Close()
		return nil, err
	}
	r.find.Node = node
	if r.db, err = r.app.openDatabase(ctx); err != nil {
		node.Close()
		return nil, err
	}
	closeAll = func() { r.db.Close(); node.Close() }
	r.find.Store = r.db.Anchors()
	if r.identity, err = r.app.loadIdentity(ctx, r.db, keys); err == nil {
		err = node.CheckNetwork(ctx, r.identity.Network)
	}
	if second != nil {
		r.find.Second = second
		if err == nil {
			err = second.CheckNetwork(ctx, r.identity.Network)
		}
	}
	if err != nil {
		closeAll()
		return nil, err
	}
	return closeAll, nil
}

// notBroken tells of a restart that is done: the command may be run again.
func (r *restarter) notBroken(ctx context.Context, reason error) error {
	all, err := r.db.Anchors().Restarts(ctx)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return reason
	}
	last := all[len(all)-1]
	fmt.Fprintf(r.app.stdout, "the chain was broken at %v and restarted with %v by entry %d; it isn't broken now\n", last.Coin, last.First, last.Statement)
	return nil
}

// declared finds the statement of a break that was declared by an earlier run: in
// what is published, or in the database.
func (r *restarter) declared(ctx context.Context, b anchor.Broken) (receipt.Break, bool, error) {
	list, err := batch.PublishedBreaks(ctx, r.objects)
	if err != nil {
		return receipt.Break{}, false, err
	}
	rows, err := r.db.Statements(ctx, statement.TypeBreak)
	if err != nil {
		return receipt.Break{}, false, err
	}
	for _, row := range rows {
		made, err := r.published(ctx, b, row)
		if err != nil {
			return receipt.Break{}, false, err
		}
		list = append(list, made)
	}
	for _, x := range list {
		body := x.Body()
		if body.Coin != b.Coin.Outpoint {
			continue
		}
		if body.SpentBy != b.Spend.TxID || body.Block != b.Spend.Block {
			return x, false, fmt.Errorf("entry %d declares that %v was spent by %v in block %v, and now it is %v in %v: the chain was reorganised since, deeper than what is final; "+
				"two restarts of one coin would be a fork. The log can go on in a successor only", x.Index, body.Coin, body.SpentBy, body.Block, b.Spend.TxID, b.Spend.Block)
		}
		return x, true, nil
	}
	return receipt.Break{}, false, nil
}

// published is a statement's row as it is published.
func (r *restarter) published(ctx context.Context, b anchor.Broken, row calpe.Statement) (receipt.Break, error) {
	after, err := r.db.Anchors().CountBefore(ctx, b.Spend.Height, b.Spend.Position)
	if err != nil {
		return receipt.Break{}, err
	}
	return batch.NewBreak(r.identity, calpe.ChainBreak{After: after, Spend: b.Spend, Statement: row})
}

// declare makes the statement an entry of the log.
func (r *restarter) declare(ctx context.Context) (declared receipt.Break, err error) {
	b, err := anchor.FindBreak(ctx, r.find)
	if errors.Is(err, anchor.ErrNoDeposit) {
		_, address, errAddress := r.app.anchorScript(ctx)
		if errAddress != nil {
			return declared, errAddress
		}
		return declared, fmt.Errorf("%w: pay at least %d sat to %s, wait until a running server has seen that payment %d blocks deep, and run this again",
			err, leastFirstCoin, address, r.find.Depth)
	}
	if err != nil {
		return declared, err
	}
	// What auditors couldn't read isn't declared.
	if _, err := receipt.NewAnchor(r.identity, b.Spend).Link(); err != nil {
		return declared, fmt.Errorf("the spend of %v can't be published: %w", b.Coin.Outpoint, err)
	}
	body := statement.Break{
		Coin: b.Coin.Outpoint, SpentBy: b.Spend.TxID, Block: b.Spend.Block, Height: b.Spend.Height,
		Anchor: b.Last.TxID, Size: b.Last.Size, Root: b.Last.Root, First: b.First.Outpoint, Reason: r.reason,
	}
	err = r.app.withRecorder(ctx, func(*intake.RecorderConfig) {}, func(ctx context.Context, recorder *intake.Recorder) error {
		recorded, err := recorder.DeclareBreak(ctx, body)
		if err != nil {
			return err
		}
		row, err := r.db.Statement(ctx, recorded.First)
		if err != nil {
			return fmt.Errorf("read the statement, entry %d: %w", recorded.First, err)
		}
		declared, err = r.published(ctx, b, row)
		return err
	})
	return declared, err
}

// record makes the coin that the statement names one of the chain.
func (r *restarter) record(ctx context.Context, b anchor.Broken, declared receipt.Break) error {
	b.First.Outpoint = declared.Body().First
	err := r.db.Anchors().RestartChain(ctx, b.Break(declared.Index), calpe.ChainBreak{
		After: declared.After, Spend: b.Spend,
		Statement: calpe.Statement{Index: declared.Index, Type: statement.TypeBreak, Body: declared.Statement.Bytes(), Salt: declared.Salt},
	})
	if err != nil {
		return fmt.Errorf("entry %d declares that the chain goes on with %v, which couldn't be recorded; when the server has followed the chain, run this again: %w",
			declared.Index, declared.Body().First, err)
	}
	return nil
}

func (r *restarter) print(declared receipt.Break) error {
	b := declared.Body()
	fmt.Fprintf(r.app.stdout, "broken     %v\nspent by   %v, block %d\nstatement  entry %d\ngoes on    %v\n", b.Coin, b.SpentBy, b.Height, declared.Index, b.First)
	if r.app.Signer.Socket != "" {
		fmt.Fprintf(r.app.stdout, "The signer signs nothing with that coin until it is told to: stop it, look whether all of this is so, and run, as its user:\n"+
			"  calped signer restart-chain --coin %v\n", b.First)
	}
	return nil
}
