package anchor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/bitcoin"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/anchor/wallet"
	"github.com/calpe/calpe/internal/chainparams"
	"github.com/calpe/calpe/internal/commitpoint"

	"github.com/btcsuite/btcd/wire/v2"
)

// AttemptStore keeps attempts. Each method is one transaction, durable when it
// returns. A write with an epoch is refused with [calpe.ErrLostLeadership] when
// another engine leads, race-free; a write that doesn't find the rows in the
// state it needs is refused with [ledger.ErrConflict]. Either way nothing was
// applied. Any other error leaves open whether it was.
type AttemptStore interface {
	// CreateAttempt stores an unsigned attempt of the live coin.
	CreateAttempt(ctx context.Context, epoch uint64, a ledger.Attempt) error
	// StoreSigned moves an attempt from created to signed (I5).
	StoreSigned(ctx context.Context, epoch uint64, txid calpe.BlockHash, raw []byte) error
	// RecordAnswer keeps what the node said to a signed or sent attempt, and
	// moves it to sent if the node has taken it.
	RecordAnswer(ctx context.Context, epoch uint64, txid calpe.BlockHash, answer ledger.Answer, at time.Time) error
	// Attempt looks an attempt up. The second result is false if there is none.
	Attempt(ctx context.Context, txid calpe.BlockHash) (ledger.Attempt, bool, error)
}

// ChainStore keeps the tip journal and what blocks did to coins. Its methods
// promise what those of [AttemptStore] do.
type ChainStore interface {
	// Snapshot reads all that a step needs, at one point in time.
	Snapshot(ctx context.Context) (ledger.Snapshot, error)
	// ConnectBlock appends a block to the journal, of which it must be the
	// successor, and applies its events in their order, all or nothing.
	ConnectBlock(ctx context.Context, epoch uint64, b ledger.Block, events []ledger.Event) error
	// Rewind takes the journal back from its tip to a former block of it, and
	// undoes what the blocks above did to coins and attempts.
	Rewind(ctx context.Context, epoch uint64, tip, fork ledger.Block) error
	// MarkFinal moves an attempt from mined to final.
	MarkFinal(ctx context.Context, epoch uint64, txid calpe.BlockHash) error
}

// Journal reads the tip journal.
type Journal interface {
	// Journal lists up to limit blocks from that height downwards.
	Journal(ctx context.Context, from uint32, limit int) ([]ledger.Block, error)
}

// Budget knows what anchors cost.
type Budget interface {
	// Spent is the sum in satoshis of what coins other than the live one cost, of
	// which an attempt was created or last sent within those times: the fee of the
	// final attempt if there is one, else the highest of those that are signed,
	// because each of them may still be the one that stays in a block.
	Spent(ctx context.Context, from, to time.Time) (int64, error)
}

// Store is everything that the engine keeps. storage/postgres has it.
type Store interface {
	AttemptStore
	ChainStore
	Journal
	Budget
}

// Chain is a node's view of the best chain. Hashes and blocks are checked as far
// as package bitcoin says.
type Chain interface {
	CheckNetwork(ctx context.Context, network calpe.Network) error
	BestBlock(ctx context.Context) (height uint32, hash calpe.BlockHash, err error)
	BlockHash(ctx context.Context, height uint32) (calpe.BlockHash, error)
	Block(ctx context.Context, hash calpe.BlockHash) (*wire.MsgBlock, error)
}

// Witness is a second node, which has to agree before an anchor is final. It is
// asked for little, so that it may be a pruned one that many share.
type Witness interface {
	CheckNetwork(ctx context.Context, network calpe.Network) error
	BestBlock(ctx context.Context) (height uint32, hash calpe.BlockHash, err error)
	BlockHash(ctx context.Context, height uint32) (calpe.BlockHash, error)
}

// Outputs is a node's view of unspent outputs of the best chain.
type Outputs interface {
	Header(ctx context.Context, hash calpe.BlockHash) ([calpe.HeaderSize]byte, error)
	TxOut(ctx context.Context, o calpe.Outpoint) (bitcoin.TxOut, bool, error)
}

// Relay takes transactions, and knows what they cost.
type Relay interface {
	Send(ctx context.Context, raw []byte) (ledger.Answer, error)
	FeeRate(ctx context.Context, blocks int) (ledger.FeeRate, bool, error)
}

// Node is a Bitcoin node. *bitcoin.Client is one.
type Node interface {
	Chain
	Outputs
	Relay
}

// Signer signs attempts. *signer.Client is one.
type Signer interface {
	// Script is the output script that deposits and change go to. After a
	// rotation of keys it is the new key's, and coins may still have an older one.
	Script() []byte
	// Owns reports whether a key of the signer has that output script.
	Owns(script []byte) bool
	// Sign signs the transaction that is serialized without witness in unsigned,
	// and spends these outputs. It may be asked for the same again.
	Sign(ctx context.Context, unsigned []byte, inputs []ledger.Input) (raw []byte, err error)
}

// Log is what is to be anchored. *postgres.DB is one.
type Log interface {
	// CheckpointHead is the newest checkpoint, or [calpe.ErrNotFound].
	CheckpointHead(ctx context.Context) (calpe.Checkpoint, error)
	// NextIndex is the number of entries in the log.
	NextIndex(ctx context.Context) (uint64, error)
}

// What a step can report, beside errors of the store and the node. All are for
// errors.Is; none of them ends [Engine.Run].
var (
	// ErrNoCoin: there is no coin to spend: the chain of coins was never begun,
	// or its first coin is in no block at the moment.
	ErrNoCoin = errors.New("there is no anchor coin to spend")
	// ErrNodeBehind: the node knows less of the chain than was followed, and
	// nothing with as much work that contradicts it. Nothing is done until it
	// has caught up; it isn't a reorganisation.
	ErrNodeBehind = errors.New("bitcoin node is behind")
	// ErrChainMoved: the node's chain changed while it was being read.
	ErrChainMoved = errors.New("the node's chain changed while it was read")
	// ErrUnknownChain: the node's chain holds none of the blocks in the journal.
	ErrUnknownChain = errors.New("the node's chain has nothing in common with the one that was followed")
	// ErrForeignSpend: somebody else has spent the coin. Nothing is created any
	// more; an operator must find out whether the key was stolen.
	ErrForeignSpend = errors.New("the anchor coin was spent by a transaction that isn't ours")
	// ErrBreakUndone: the chain of coins was restarted behind a foreign spend, and
	// the node's chain has another block in the place of the one with that spend.
	// Its former coin may be live again, and the new one has been used: the engine
	// follows nothing and makes nothing until the node is back on that branch.
	ErrBreakUndone = errors.New("a reorganisation has taken a foreign spend back behind which the chain of coins was restarted")
	// ErrAheadOfLog: a block holds an anchor of more entries than the log has:
	// this database has gone back in time. Intake must stop (I2).
	ErrAheadOfLog = errors.New("an anchored size is above the log's head")
	// ErrUnsigned: the signer didn't sign an attempt. It is kept; what was signed
	// before is sent again.
	ErrUnsigned = errors.New("the anchor attempt is not signed")
	// ErrNodesDisagree: the second node has another block at an anchor's height:
	// one of the two is cut off from the network, or lies. Nothing becomes final.
	ErrNodesDisagree = errors.New("the two bitcoin nodes disagree")
	// ErrRefused: the node refuses the attempt for a reason that waiting doesn't
	// cure. It is kept and sent again.
	ErrRefused = errors.New("bitcoin node refuses the attempt")
)

// Config of an [Engine]. Zero values take the default in brackets.
type Config struct {
	Network  calpe.Network
	Store    Store
	Node     Node
	Second   Witness // must have the same block before an anchor is final; nil: there is none
	Signer   Signer
	Log      Log
	Caps     wallet.Caps    // [20 sat/vB, 20,000 sat, and 100,000 sat a day]
	Fallback ledger.FeeRate // used when the node has no estimate [2 sat/vB]
	// The goal: an anchor should be mined within that many blocks (2 to 25), and
	// within that time. When it is missed, each new block brings an attempt with a
	// higher fee, until one is mined or a cap is reached.
	Target   int            // [6]
	Patience time.Duration  // [2 hours]
	Raise    ledger.FeeRate // least difference between two attempts: nodes' incremental relay fee [1 sat/vB, the least]
	Interval time.Duration  // least time between two anchors [1 hour]
	Depth    uint32         // confirmations from which an anchor is final [6]
	// MinDeposit is the smallest payment to the anchor script, in satoshis, that is
	// noticed: the address is public, and dust costs more than it is worth. By
	// default it is [wallet.Caps.MinDeposit].
	MinDeposit int64
	LowFunds   int64         // fewer anchors left, at the present rate, are an alarm [100]
	Resend     time.Duration // an unmined attempt is sent again at each block and this often [10 minutes]
	Poll       time.Duration // [5 seconds]
	StepTime   time.Duration // longest time of one step; what it doesn't finish, the next one does [10 minutes]
	Wake       <-chan struct{}
	Now        func() time.Time
	Logger     *slog.Logger
	// StopIntake is called with an error that is [ErrAheadOfLog], in every step in
	// which that holds. Nothing may be recorded from then on until the database has
	// been compared with what is published and anchored. It must not block.
	StopIntake func(reason error)
	// Reorganised, if set, is told how many blocks each reorganisation took from the
	// journal, when that is stored. It must not block.
	Reorganised func(depth uint32)
}

// Engine anchors one log. Run and Step must not be called concurrently; Status
// may be called at any time.
type Engine struct {
	cfg Config
	// sentAt is the tip at which the unmined attempt was last handed over. Only
	// Step uses it. It is lost with the process on purpose: a restart resends.
	sentAt calpe.BlockHash
	// offeredAt is the tip at which it was decided that the coin gets no other
	// attempt before the next block, and limit why. Only Step uses them.
	offeredAt calpe.BlockHash
	limit     Limit
	// funds is what was last said of the funds in the log, failing the causes that
	// were last said to make steps fail, and stuck whether an anchor was said to be.
	// Only Step uses them.
	funds   wallet.FundsState
	failing string
	stuck   bool

	mu     sync.Mutex
	status Status
}

// Status is how the engine stood at the end of its last step.
type Status struct {
	Time  time.Time    // of that end; zero before the first
	Tip   ledger.Block // newest block followed
	Coin  *ledger.Coin // that the next attempt spends; nil if there is none
	Funds wallet.Funds // at the rate of the newest attempt
	Limit Limit        // that holds the fee of the anchor that waits
	Err   error        // of the step; nil if all was well
}

// New checks the configuration and makes an engine. It contacts nothing.
func New(cfg Config) (*Engine, error) {
	cfg.Caps.FeeRate = cmp.Or(cfg.Caps.FeeRate, 20*ledger.SatPerVB)
	cfg.Caps.Fee = cmp.Or(cfg.Caps.Fee, 20_000)
	cfg.Caps.Day = cmp.Or(cfg.Caps.Day, 100_000)
	cfg.Fallback = cmp.Or(cfg.Fallback, 2*ledger.SatPerVB)
	cfg.Target = cmp.Or(cfg.Target, 6)
	cfg.Patience = cmp.Or(cfg.Patience, 2*time.Hour)
	cfg.Raise = max(cfg.Raise, ledger.SatPerVB)
	cfg.Interval = cmp.Or(cfg.Interval, time.Hour)
	cfg.Depth = cmp.Or(cfg.Depth, 6)
	cfg.Resend = cmp.Or(cfg.Resend, 10*time.Minute)
	cfg.Poll = cmp.Or(cfg.Poll, 5*time.Second)
	cfg.StepTime = cmp.Or(cfg.StepTime, 10*time.Minute)
	cfg.LowFunds = cmp.Or(cfg.LowFunds, 100)
	cfg.Logger = cmp.Or(cfg.Logger, slog.New(slog.DiscardHandler))
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.StopIntake == nil {
		return nil, errors.New("anchor engine has no StopIntake: an anchored size above the head must stop intake")
	}
	if cfg.Store == nil || cfg.Node == nil || cfg.Signer == nil || cfg.Log == nil {
		return nil, errors.New("anchor engine lacks its store, node, signer or log")
	}
	if _, err := chainparams.For(cfg.Network); err != nil {
		return nil, err
	}
	if err := cfg.Caps.Validate(); err != nil {
		return nil, err
	}
	if cfg.Target < 2 || cfg.Target > 25 {
		return nil, fmt.Errorf("target of %d blocks is not from 2 to 25", cfg.Target)
	}
	if cfg.MinDeposit = cmp.Or(cfg.MinDeposit, cfg.Caps.MinDeposit()); cfg.MinDeposit < wallet.Dust {
		return nil, fmt.Errorf("smallest deposit of %d sat is below the %d sat that nodes relay", cfg.MinDeposit, wallet.Dust)
	}
	return &Engine{cfg: cfg}, nil
}

// Run makes a step at once, whenever it is woken, and every few seconds, until
// the context ends or the engine may not go on: then the error is
// [calpe.ErrLostLeadership] or [ledger.ErrConflict], and a new Run starts from
// the database. Every other failure is left to the next step.
// When the context ends, the error is nil.
func (e *Engine) Run(ctx context.Context, epoch uint64) error {
	ticker := time.NewTicker(e.cfg.Poll)
	defer ticker.Stop()
	for {
		err := e.boundedStep(ctx, epoch)
		if ctx.Err() != nil {
			return nil
		}
		if isFatal(err) {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-e.cfg.Wake:
		}
	}
}

func (e *Engine) boundedStep(ctx context.Context, epoch uint64) error {
	ctx, cancel := context.WithTimeout(ctx, e.cfg.StepTime)
	defer cancel()
	return e.Step(ctx, epoch)
}

// isFatal: the rows aren't ours any more, or not what we take them for.
func isFatal(err error) bool {
	return errors.Is(err, calpe.ErrLostLeadership) || errors.Is(err, ledger.ErrConflict)
}

// Status is how the engine stood after its last step.
func (e *Engine) Status() Status {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.status
}

// Step is one round: follow the chain, then act. It may be stopped anywhere,
// by its context or by a crash, and the next one goes on from what is stored. The
// log tells when steps begin to fail, for what causes, and when they succeed again.
func (e *Engine) Step(ctx context.Context, epoch uint64) error {
	snap, err := e.step(ctx, epoch)
	e.tell(ctx, snap, err)
	e.mu.Lock()
	defer e.mu.Unlock()
	e.status.Time, e.status.Err, e.status.Limit = e.cfg.Now(), err, e.limit
	if snap.Tip != (ledger.Block{}) {
		e.status.Tip, e.status.Coin, e.status.Funds = snap.Tip, snap.Live, e.reckon(ctx, snap)
	}
	return err
}

func (e *Engine) step(ctx context.Context, epoch uint64) (ledger.Snapshot, error) {
	// At every step, because the node behind an address can become another one.
	if err := e.cfg.Node.CheckNetwork(ctx, e.cfg.Network); err != nil {
		return ledger.Snapshot{}, fmt.Errorf("check node: %w", err)
	}
	snap, err := e.cfg.Store.Snapshot(ctx)
	if err != nil {
		return ledger.Snapshot{}, fmt.Errorf("read anchor state: %w", err)
	}
	if snap.Tip == (ledger.Block{}) {
		return snap, fmt.Errorf("%w: the chain of coins was not begun", ErrNoCoin)
	}
	if err := e.follow(ctx, epoch, snap); err != nil {
		return snap, err
	}
	if snap, err = e.cfg.Store.Snapshot(ctx); err != nil {
		return ledger.Snapshot{}, fmt.Errorf("read anchor state: %w", err)
	}
	// A second node that is down or disagrees is no reason to stop anchoring.
	held, err := e.finalize(ctx, epoch, snap)
	if err != nil {
		return snap, err
	}
	if err := e.checkLog(ctx, snap); err != nil {
		return snap, errors.Join(held, err)
	}
	return snap, errors.Join(held, e.act(ctx, epoch, snap))
}

// finalize makes final what is deep enough. held is why the second node keeps it
// from doing so.
func (e *Engine) finalize(ctx context.Context, epoch uint64, snap ledger.Snapshot) (held, err error) {
	for _, a := range snap.Mined {
		depth := snap.Tip.Height - a.Height + 1
		if depth < e.cfg.Depth {
			continue
		}
		if err := e.askWitness(ctx, a.Height); err != nil {
			return fmt.Errorf("anchor %v isn't made final: %w", a.TxID, err), nil
		}
		if err := e.cfg.Store.MarkFinal(ctx, epoch, a.TxID); err != nil {
			return nil, fmt.Errorf("make anchor %v final: %w", a.TxID, err)
		}
		// Crash here: the anchor is final; other mined ones become so in the next step.
		commitpoint.Reached(commitpoint.AnchorFinal)
		e.cfg.Logger.InfoContext(ctx, "anchor is final", slog.Any("txid", a.TxID),
			slog.Uint64("size", a.Size), slog.Uint64("height", uint64(a.Height)))
	}
	return nil, nil
}

// checkLog stops intake when Bitcoin holds an anchor of more entries than the
// log has: indices below the anchored size were given out by a database that
// this one is an older copy of (I2).
func (e *Engine) checkLog(ctx context.Context, snap ledger.Snapshot) error {
	next, err := e.cfg.Log.NextIndex(ctx)
	if err != nil {
		return fmt.Errorf("read the log's head: %w", err)
	}
	if snap.Anchored <= next {
		return nil
	}
	err = fmt.Errorf("%w: a block holds an anchor of %d entries, and the log has %d", ErrAheadOfLog, snap.Anchored, next)
	e.cfg.StopIntake(err)
	return err
}
