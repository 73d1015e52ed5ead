package anchor_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/btcsuite/btcd/wire/v2"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/anchor/wallet"
	"github.com/calpe/calpe/merkle"
)

// firstStore is the store with the two writes that aren't the engine's, and a look
// at all attempts.
type firstStore interface {
	anchor.Store
	attemptLister
	RestartChain(ctx context.Context, b ledger.Break, r calpe.ChainBreak) error
	InsertFirstCoin(ctx context.Context, coin ledger.Coin, blocks []ledger.Block) error
}

// fakeLog is a log that only has sizes: all tests have one log, of which it is
// the beginning.
type fakeLog struct {
	mu         sync.Mutex
	size, next uint64
	fault      func(method string) error
}

func leafOf(index uint64) calpe.Hash {
	return merkle.LeafHash(binary.BigEndian.AppendUint64([]byte("entry"), index))
}

// roots are those of all sizes so far of the one log.
var roots struct {
	sync.Mutex
	full []calpe.Hash // roots of the full subtrees that the log so far consists of, largest first
	of   []calpe.Hash // of[n-1] is the root of n entries
}

func rootOf(size uint64) calpe.Hash {
	roots.Lock()
	defer roots.Unlock()
	for n := uint64(len(roots.of)); n < size; n++ {
		node := leafOf(n)
		for bit := n; bit&1 == 1; bit >>= 1 {
			last := len(roots.full) - 1
			node, roots.full = merkle.NodeHash(roots.full[last], node), roots.full[:last]
		}
		roots.full = append(roots.full, node)
		root := node
		for i := len(roots.full) - 2; i >= 0; i-- {
			root = merkle.NodeHash(roots.full[i], root)
		}
		roots.of = append(roots.of, root)
	}
	return roots.of[size-1]
}

func (l *fakeLog) CheckpointHead(context.Context) (calpe.Checkpoint, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fault != nil {
		if err := l.fault("head"); err != nil {
			return calpe.Checkpoint{}, err
		}
	}
	if l.size == 0 {
		return calpe.Checkpoint{}, calpe.ErrNotFound
	}
	return calpe.Checkpoint{Size: l.size, Root: rootOf(l.size)}, nil
}

func (l *fakeLog) NextIndex(context.Context) (uint64, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.fault != nil {
		if err := l.fault("next"); err != nil {
			return 0, err
		}
	}
	return l.next, nil
}

// grow adds entries and a checkpoint over all of them.
func (l *fakeLog) grow(n uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next += n
	l.size = l.next
}

// world is everything that an engine meets.
type world struct {
	t          *testing.T
	node       *fakeNode
	store      firstStore
	log        *fakeLog
	signer     *wallet.Signer
	caps       wallet.Caps
	now        time.Time
	epoch      uint64
	engine     *anchor.Engine
	halted     error
	target     int
	goal       time.Duration // of the engine's patience
	raise      ledger.FeeRate
	signs      anchor.Signer // instead of signer, where that isn't nil
	faults     *faultStore
	second     anchor.Witness
	logged     bytes.Buffer
	funds      int64
	minDeposit int64 // 0: the default

	reorganised func(depth uint32)

	firstCoin calpe.Outpoint
	funding   *wire.MsgTx // that makes it
	backup    *memStore   // an older copy of the store
	restarts  []restarted // what was published of restarts of the chain
}

const interval = time.Hour

func newWorld(t *testing.T, store firstStore) *world {
	t.Helper()
	w := emptyWorld(t, store)
	w.node.empty(3)
	w.begin(1_000_000)
	return w
}

func emptyWorld(t *testing.T, store firstStore) *world {
	t.Helper()
	// The private key 1.
	keys, err := wallet.Decode([]byte(`{"network":"regtest","keys":[{"wif":"cMahea7zqjxrtgAbB7LSGbcQUr1uX1ojuat9jZodMN87JcbXMTcA","created":"2026-11-21T09:30:00Z"}]}`), calpe.Regtest)
	if err != nil {
		t.Fatalf("decode keys: %v", err)
	}
	w := &world{
		t: t, node: newFakeNode(t), store: store, log: &fakeLog{}, epoch: 1,
		caps: wallet.Caps{FeeRate: 50 * ledger.SatPerVB, Fee: 5_000},
		now:  time.Date(2026, 11, 21, 9, 30, 0, 0, time.UTC),
		// No goal is missed unless a test says so.
		target: 25, goal: 10_000 * time.Hour,
	}
	if w.signer, err = wallet.New(wallet.Config{Keys: keys, Caps: w.caps}); err != nil {
		t.Fatalf("make signer: %v", err)
	}
	w.faults = &faultStore{Store: store}
	// I5: whatever reaches a node is stored before, signature and all.
	w.node.onSend = func(raw []byte) {
		var tx wire.MsgTx
		if err := tx.Deserialize(bytes.NewReader(raw)); err != nil {
			t.Fatalf("sent what isn't a transaction: %v", err)
		}
		a, ok, err := w.store.Attempt(context.Background(), calpe.BlockHash(tx.TxHash()))
		if err != nil || !ok || !bytes.Equal(a.Raw, raw) || a.State != ledger.Signed && a.State != ledger.Sent {
			t.Fatalf("sent %v, which is stored as %v (found: %v, error: %v)", tx.TxHash(), a.State, ok, err)
		}
	}
	w.restart()
	return w
}

// begin pays the first coin and begins the chain of coins with it.
func (w *world) begin(value int64) {
	w.t.Helper()
	w.node.pay(w.signer.Script(), value)
	w.funds = value
	d, err := anchor.FindDeposit(w.t.Context(), w.node, w.signer.Script(), 0, 1000)
	if err != nil {
		w.t.Fatalf("find deposit: %v", err)
	}
	w.firstCoin = d.Coin.Outpoint
	w.funding = w.node.byHash[d.Blocks[len(d.Blocks)-1].Hash].Transactions[1]
	if err := w.store.InsertFirstCoin(w.t.Context(), d.Coin, d.Blocks); err != nil {
		w.t.Fatalf("insert first coin: %v", err)
	}
}

// restart is a new process: nothing in memory is left.
func (w *world) restart() {
	w.t.Helper()
	var err error
	signer := anchor.Signer(w.signer)
	if w.signs != nil {
		signer = w.signs
	}
	w.engine, err = anchor.New(anchor.Config{
		Network: calpe.Regtest, Store: w.faults, Node: w.node, Second: w.second, Signer: signer, Log: w.log, Caps: w.caps,
		Fallback: 3 * ledger.SatPerVB, Interval: interval, Depth: 6, Resend: 10 * time.Minute,
		Target: w.target, Patience: w.goal, Raise: w.raise,
		Now: func() time.Time { return w.now }, StopIntake: func(reason error) { w.halted = reason },
		MinDeposit: w.minDeposit, Reorganised: w.reorganised,
		Logger: slog.New(slog.NewTextHandler(&w.logged, nil)),
	})
	if err != nil {
		w.t.Fatalf("make engine: %v", err)
	}
}

func (w *world) step() error {
	w.t.Helper()
	err := w.engine.Step(w.t.Context(), w.epoch)
	w.check()
	return err
}

func (w *world) mustStep() {
	w.t.Helper()
	if err := w.step(); err != nil {
		w.t.Fatalf("step: %v", err)
	}
}

func (w *world) stepWants(want error) {
	w.t.Helper()
	if err := w.step(); !errors.Is(err, want) {
		w.t.Fatalf("step gave error %v, want %v", err, want)
	}
}

func (w *world) snapshot() ledger.Snapshot {
	w.t.Helper()
	snap, err := w.store.Snapshot(context.Background())
	if err != nil {
		w.t.Fatalf("snapshot: %v", err)
	}
	return snap
}

// only is the single attempt of the live coin.
func (w *world) only() ledger.Attempt {
	w.t.Helper()
	snap := w.snapshot()
	if len(snap.Attempts) != 1 {
		w.t.Fatalf("the live coin has %d attempts, want 1", len(snap.Attempts))
	}
	return snap.Attempts[0]
}

func (w *world) state(txid calpe.BlockHash) ledger.AttemptState {
	w.t.Helper()
	a, ok, err := w.store.Attempt(context.Background(), txid)
	if err != nil || !ok {
		w.t.Fatalf("attempt %v: found %v, error %v", txid, ok, err)
	}
	return a.State
}

func (w *world) wantState(txid calpe.BlockHash, want ledger.AttemptState) {
	w.t.Helper()
	if got := w.state(txid); got != want {
		w.t.Fatalf("attempt %v is %s, want %s", txid, got, want)
	}
}

// journal is all of the tip journal, oldest first.
func (w *world) journal() []ledger.Block {
	w.t.Helper()
	blocks, err := w.store.Journal(context.Background(), 1<<31, 1<<20)
	if err != nil {
		w.t.Fatalf("journal: %v", err)
	}
	for i, j := 0, len(blocks)-1; i < j; i, j = i+1, j-1 {
		blocks[i], blocks[j] = blocks[j], blocks[i]
	}
	return blocks
}

// check compares the whole stored state with the blocks of the journal, and
// with itself. It runs after every step, whatever the step said.
func (w *world) check() {
	w.t.Helper()
	snap := w.snapshot()
	if snap.Tip == (ledger.Block{}) {
		return
	}
	journal := w.journal()
	coin, value := calpe.Outpoint{}, int64(0) // the coin that the blocks leave unspent
	deposits := map[calpe.Outpoint]int64{}    // and the deposits
	var anchored uint64
	var stolen bool
	for i, b := range journal {
		if i > 0 && (b.Prev() != journal[i-1].Hash || b.Height != journal[i-1].Height+1) {
			w.t.Fatalf("journal: block %d doesn't follow its predecessor", b.Height)
		}
		for _, tx := range w.node.byHash[b.Hash].Transactions[1:] {
			id := calpe.BlockHash(tx.TxHash())
			pays := len(tx.TxOut) == 2 && w.signer.Owns(tx.TxOut[1].PkScript)
			_, err := calpe.ParsePayloadScript(tx.TxOut[0].PkScript)
			ours := pays && err == nil && spendsCoin(&wire.MsgTx{TxIn: tx.TxIn[:1]}, coin)
			in := value // what the transaction spends of ours
			for o, v := range deposits {
				if spendsCoin(tx, o) {
					settled := slices.ContainsFunc(snap.Breaks, func(br ledger.Break) bool { return b.Height <= br.Tip })
					stolen = stolen || !ours && !settled
					in += v
					delete(deposits, o)
				}
			}
			if !ours {
				for vout, out := range tx.TxOut {
					if id != w.firstCoin.TxID && bytes.Equal(out.PkScript, w.signer.Script()) && out.Value >= w.caps.MinDeposit() {
						deposits[calpe.Outpoint{TxID: id, Vout: uint32(vout)}] = out.Value
					}
					if (calpe.Outpoint{TxID: id, Vout: uint32(vout)}) == coin { // of a restart, mined after the break
						value = out.Value
						delete(deposits, coin)
					}
				}
			}
			switch {
			case id == w.firstCoin.TxID:
				coin, value = calpe.Outpoint{TxID: id, Vout: 1}, tx.TxOut[1].Value // the first coin
			case spendsCoin(tx, coin) && ours:
				size := w.checkAnchor(b, tx, id, in)
				anchored = max(anchored, size)
				coin, value = calpe.Outpoint{TxID: id, Vout: 1}, tx.TxOut[1].Value
			case spendsCoin(tx, coin) && restart(snap, coin, id) != nil:
				coin = restart(snap, coin, id).First
				value = deposits[coin] // 0 if no block has made it yet
				delete(deposits, coin)
			case spendsCoin(tx, coin):
				if snap.Foreign == nil || snap.Foreign.Outpoint != coin || snap.Foreign.SpentBy != id {
					w.t.Fatalf("block %d holds a foreign spend of %v that isn't recorded", b.Height, coin)
				}
				coin = calpe.Outpoint{TxID: id, Vout: 1 << 20} // nothing is live behind it
			}
		}
	}
	live := calpe.Outpoint{}
	if snap.Live != nil {
		live = snap.Live.Outpoint
	}
	if value == 0 {
		coin = calpe.Outpoint{}
	}
	if snap.Foreign == nil && live != coin {
		w.t.Fatalf("live coin is %v, the blocks say %v", live, coin)
	}
	if snap.Live != nil && (snap.Foreign != nil && snap.Foreign.Kind == ledger.ChainCoin || snap.Live.Value != value) {
		w.t.Fatalf("live coin has %d sat, the blocks say %d; foreign: %v", snap.Live.Value, value, snap.Foreign)
	}
	if stolen && snap.Foreign == nil {
		w.t.Fatal("a foreign spend of a deposit isn't recorded")
	}
	spendable := w.checkDeposits(snap, deposits)
	if snap.Anchored != anchored {
		w.t.Fatalf("anchored size is %d, the blocks say %d", snap.Anchored, anchored)
	}
	w.checkAttempts(snap)
	for _, a := range snap.Attempts {
		possible := true
		for _, in := range a.Inputs[1:] {
			possible = possible && spendable[in.Outpoint]
		}
		if a.State.Unmined() != possible {
			w.t.Fatalf("attempt %v of the live coin is %s; its deposits are there: %v", a.TxID, a.State, possible)
		}
		if !possible {
			continue
		}
		if a.State != ledger.Created && len(a.Raw) == 0 {
			w.t.Fatalf("attempt %v is %s without a signature", a.TxID, a.State)
		}
	}
}

// restarted is what an operator's restart of the chain records.
type restarted struct {
	ledger.Break
	calpe.ChainBreak
}

// findBreak is what an operator's command finds.
func (w *world) findBreak() (anchor.Broken, error) {
	return anchor.FindBreak(w.t.Context(), anchor.BreakConfig{Store: w.store, Node: w.node, Depth: 6, Script: w.signer.Script(), Least: 20_000})
}

// restartChain does what an operator does after a foreign spend: notarize the
// statement, and record the break. What was published before is recorded again.
func (w *world) restartChain() error {
	w.t.Helper()
	foreign := w.snapshot().Foreign
	for _, r := range w.restarts {
		if foreign != nil && r.Coin == foreign.Outpoint && r.SpentBy == foreign.SpentBy {
			return w.store.RestartChain(w.t.Context(), r.Break, r.ChainBreak)
		}
	}
	b, err := w.findBreak()
	if err != nil {
		return err
	}
	w.log.mu.Lock()
	index := w.log.next
	w.log.next++ // no checkpoint covers it yet
	w.log.mu.Unlock()
	r := restarted{b.Break(index), calpe.ChainBreak{Spend: b.Spend, Statement: calpe.Statement{Index: index, Body: []byte("{}")}}}
	if err := w.store.RestartChain(w.t.Context(), r.Break, r.ChainBreak); err != nil {
		return err
	}
	w.restarts = append(w.restarts, r)
	return nil
}

// restarted is with which coin the chain goes on behind which.
func (w *world) restarted() map[calpe.Outpoint]calpe.Outpoint {
	all := map[calpe.Outpoint]calpe.Outpoint{}
	for _, r := range w.restarts {
		all[r.Coin] = r.First
	}
	return all
}

// settledHeight is that of the block with the last foreign spend behind which the
// chain was restarted; 0 if there is none.
func (w *world) settledHeight() int {
	if len(w.restarts) == 0 {
		return 0
	}
	return int(w.restarts[len(w.restarts)-1].Height)
}

// restart is the break that goes on from a coin that was spent by id.
func restart(snap ledger.Snapshot, coin calpe.Outpoint, id calpe.BlockHash) *ledger.Break {
	for _, b := range snap.Breaks {
		if b.Coin == coin && b.SpentBy == id {
			return &b
		}
	}
	return nil
}

// checkAttempts: of one coin each attempt that was signed outbids those before,
// covers no less, and is of a later block; none is above the caps or the day's
// budget as it was when it was made.
func (w *world) checkAttempts(snap ledger.Snapshot) {
	w.t.Helper()
	for i, a := range snap.Attempts {
		if i > 0 && (a.N != snap.Attempts[i-1].N+1 || a.Tip <= snap.Attempts[i-1].Tip && !a.Imported) {
			w.t.Fatalf("attempt %v is number %d at height %d, the one before was %d at %d", a.TxID, a.N, a.Tip, snap.Attempts[i-1].N, snap.Attempts[i-1].Tip)
		}
		if !a.Imported && (a.Fee > w.caps.Fee || a.Fee > w.caps.FeeRate.Fee(a.VSize)) {
			w.t.Fatalf("attempt %v pays %d sat for %d vB, above the caps", a.TxID, a.Fee, a.VSize)
		}
		for _, before := range snap.Attempts[:i] {
			// One with a deposit may have been void when the next was made.
			if a.Raw == nil || before.Raw == nil || a.Imported || len(before.Inputs) > 1 {
				continue
			}
			if a.Fee < before.Fee+int64(a.VSize) || a.Fee*int64(before.VSize) <= before.Fee*int64(a.VSize) || a.Size < before.Size {
				w.t.Fatalf("attempt %v pays %d sat for size %d, before it was %d sat for size %d", a.TxID, a.Fee, a.Size, before.Fee, before.Size)
			}
		}
		if a.Created.Equal(w.now) && a.Tip == snap.Tip.Height && i == len(snap.Attempts)-1 && w.caps.Day > 0 {
			spent, err := w.store.Spent(context.Background(), w.now.Add(-24*time.Hour), w.now.Add(24*time.Hour))
			if err != nil || spent+a.Fee > w.caps.Day {
				w.t.Fatalf("attempt %v of %d sat beside %d sat of the day, above its cap of %d (%v)", a.TxID, a.Fee, spent, w.caps.Day, err)
			}
		}
	}
}

// checkDeposits compares the live deposits with those of the blocks. The largest
// come first.
func (w *world) checkDeposits(snap ledger.Snapshot, want map[calpe.Outpoint]int64) map[calpe.Outpoint]bool {
	w.t.Helper()
	live, last := map[calpe.Outpoint]bool{}, int64(1<<62)
	for _, d := range snap.Deposits {
		if d.Value > last || d.Kind != ledger.DepositCoin {
			w.t.Fatalf("deposits are not sorted: %+v", snap.Deposits)
		}
		if last = d.Value; d.State == ledger.CoinVoid {
			continue
		}
		if live[d.Outpoint] = true; want[d.Outpoint] != d.Value {
			w.t.Fatalf("deposit %v of %d sat is live, the blocks say %v", d.Outpoint, d.Value, want)
		}
	}
	if len(live) != len(want) {
		w.t.Fatalf("%d deposits are live, the blocks say %v", len(live), want)
	}
	return live
}

func spendsCoin(tx *wire.MsgTx, coin calpe.Outpoint) bool {
	for _, in := range tx.TxIn {
		if calpe.BlockHash(in.PreviousOutPoint.Hash) == coin.TxID && in.PreviousOutPoint.Index == coin.Vout {
			return true
		}
	}
	return false
}

func (w *world) checkAnchor(b ledger.Block, tx *wire.MsgTx, id calpe.BlockHash, value int64) uint64 {
	w.t.Helper()
	a, ok, err := w.store.Attempt(context.Background(), id)
	if err != nil || !ok || !a.State.InBlock() || a.Height != b.Height {
		w.t.Fatalf("block %d holds %v, stored as %q at height %d (found: %v, error: %v)", b.Height, id, a.State, a.Height, ok, err)
	}
	if fee := value - tx.TxOut[1].Value; a.Fee != fee {
		w.t.Fatalf("recorded fee of %v is %d sat, the chain's is %d", id, a.Fee, fee)
	}
	if a.Root != rootOf(a.Size) {
		w.t.Fatalf("attempt %v has the root of another size", id)
	}
	if weight := weightOf(tx); (weight+3)/4 > a.VSize || a.VSize > 161+68*(len(tx.TxIn)-1) {
		w.t.Fatalf("attempt %v has %d weight units, stored are %d vB", id, weight, a.VSize)
	}
	return a.Size
}

// settle mines and steps until the whole log is in final anchors, and holds the
// promises against the chain.
func (w *world) settle() {
	w.t.Helper()
	for range 40 {
		if err := w.step(); err != nil && (errors.Is(err, ledger.ErrConflict) || errors.Is(err, calpe.ErrLostLeadership)) {
			w.restart()
		}
		snap := w.snapshot()
		if snap.Anchored == w.log.size && len(snap.Mined) == 0 {
			w.keepsPromises()
			return
		}
		w.node.mine()
		w.now = w.now.Add(10 * time.Minute)
	}
	told := w.logged.String()
	w.t.Fatalf("the log never became final; status %+v, attempts %+v; the engine's log ends with:\n%s",
		w.engine.Status(), w.snapshot().Attempts, told[max(0, len(told)-4000):])
}

// faultStore lets writes and reads fail: not applied, or applied without an answer.
type faultStore struct {
	anchor.Store
	fault func(method string) (apply bool, err error)
}

func (s *faultStore) do(method string, call func() error) error {
	if s.fault == nil {
		return call()
	}
	apply, fault := s.fault(method)
	if apply {
		if err := call(); err != nil {
			return err
		}
	}
	return fault
}

func (s *faultStore) CreateAttempt(ctx context.Context, epoch uint64, a ledger.Attempt) error {
	return s.do("create", func() error { return s.Store.CreateAttempt(ctx, epoch, a) })
}

func (s *faultStore) StoreSigned(ctx context.Context, epoch uint64, txid calpe.BlockHash, raw []byte) error {
	return s.do("signed", func() error { return s.Store.StoreSigned(ctx, epoch, txid, raw) })
}

func (s *faultStore) RecordAnswer(ctx context.Context, epoch uint64, txid calpe.BlockHash, answer ledger.Answer, at time.Time) error {
	return s.do("answer", func() error { return s.Store.RecordAnswer(ctx, epoch, txid, answer, at) })
}

func (s *faultStore) ConnectBlock(ctx context.Context, epoch uint64, b ledger.Block, events []ledger.Event) error {
	return s.do("connect", func() error { return s.Store.ConnectBlock(ctx, epoch, b, events) })
}

func (s *faultStore) Rewind(ctx context.Context, epoch uint64, tip, fork ledger.Block) error {
	return s.do("rewind", func() error { return s.Store.Rewind(ctx, epoch, tip, fork) })
}

func (s *faultStore) MarkFinal(ctx context.Context, epoch uint64, txid calpe.BlockHash) error {
	return s.do("final", func() error { return s.Store.MarkFinal(ctx, epoch, txid) })
}

func (s *faultStore) Attempt(ctx context.Context, txid calpe.BlockHash) (a ledger.Attempt, ok bool, err error) {
	err = s.do("attempt", func() error { a, ok, err = s.Store.Attempt(ctx, txid); return err })
	return a, ok, err
}

func (s *faultStore) Snapshot(ctx context.Context) (snap ledger.Snapshot, err error) {
	err = s.do("snapshot", func() error { snap, err = s.Store.Snapshot(ctx); return err })
	return snap, err
}

func (s *faultStore) Spent(ctx context.Context, from, to time.Time) (sum int64, err error) {
	err = s.do("spent", func() error { sum, err = s.Store.Spent(ctx, from, to); return err })
	return sum, err
}

func (s *faultStore) Journal(ctx context.Context, from uint32, limit int) (blocks []ledger.Block, err error) {
	err = s.do("journal", func() error { blocks, err = s.Store.Journal(ctx, from, limit); return err })
	return blocks, err
}
