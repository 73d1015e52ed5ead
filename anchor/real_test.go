package anchor_test

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor"
	"github.com/calpe/calpe/anchor/bitcoin/nodetest"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/anchor/wallet"
	"github.com/calpe/calpe/storage/postgres"
)

// realWorld is an engine on a real node and a real database.
type realWorld struct {
	t     *testing.T
	node  *nodetest.Node
	store *postgres.Anchors
	log   *fakeLog
	keys  *wallet.Keystore
	lock  wallet.Lock
	// keystore is the file of keys.
	keystore string
	signs    anchor.Signer // instead of one with keys, where that isn't nil
	signer   anchor.Signer // of the engine
	through  anchor.Node   // what the engine talks to, where that isn't the node itself
	caps     wallet.Caps
	engine   *anchor.Engine
	now      time.Time
	net      calpe.Network
	second   anchor.Witness

	firstCoin calpe.Outpoint
	deposit   anchor.Deposit // that it was found as
}

// forEachNode runs a test on every kind of node that is there.
func forEachNode(t *testing.T, test func(t *testing.T, kind nodetest.Kind)) {
	for _, kind := range nodetest.Kinds() {
		t.Run(string(kind), func(t *testing.T) { test(t, kind) })
	}
}

func newRealWorld(t *testing.T, kind nodetest.Kind, network calpe.Network) *realWorld {
	t.Helper()
	return fundedRealWorld(t, kind, network, wallet.Caps{FeeRate: 20 * ledger.SatPerVB, Fee: 5_000}, 1_000_000)
}

func fundedRealWorld(t *testing.T, kind nodetest.Kind, network calpe.Network, caps wallet.Caps, value int64) *realWorld {
	t.Helper()
	w := emptyRealWorld(t, kind, network, caps)
	w.begin(value)
	return w
}

// emptyRealWorld has no coin yet.
func emptyRealWorld(t *testing.T, kind nodetest.Kind, network calpe.Network, caps wallet.Caps) *realWorld {
	t.Helper()
	w := &realWorld{t: t, node: nodetest.Start(t, kind, network), log: &fakeLog{}, net: network, caps: caps, now: time.Now()}
	w.lock, w.keystore = wallet.Lock{Passphrase: wallet.DrawPassphrase(), WorkFactor: 1}, t.TempDir()+"/wallet.age"
	w.store, _ = pgStore(t)
	var err error
	if w.keys, err = wallet.Create(w.keystore, network, w.lock, time.Unix(1, 0)); err != nil {
		t.Fatalf("create key: %v", err)
	}
	return w
}

// begin pays the first coin, begins the chain of coins with it, and starts an engine.
func (w *realWorld) begin(value int64) {
	t := w.t
	t.Helper()
	from, _, err := w.node.BestBlock(t.Context())
	if err != nil {
		t.Fatalf("best block: %v", err)
	}
	w.firstCoin = w.node.Fund(w.keys.Current().Script(), value)
	d, err := anchor.FindDeposit(t.Context(), w.node, w.keys.Current().Script(), from, value)
	if err != nil || d.Coin.Outpoint != w.firstCoin {
		t.Fatalf("found deposit %v (%v), want %v", d.Coin.Outpoint, err, w.firstCoin)
	}
	located, err := anchor.LocateDeposit(t.Context(), w.node, w.keys.Current().Script(), w.firstCoin)
	if err != nil || located.Coin.Outpoint != w.firstCoin || located.Coin.Height != d.Coin.Height {
		t.Fatalf("located deposit %+v: %v", located.Coin, err)
	}
	if err := w.store.InsertFirstCoin(t.Context(), d.Coin, d.Blocks); err != nil {
		t.Fatalf("insert first coin: %v", err)
	}
	w.deposit = d
	w.restart()
}

func (w *realWorld) restart() {
	w.t.Helper()
	own, err := wallet.New(wallet.Config{Keys: w.keys, Caps: w.caps})
	if err != nil {
		w.t.Fatalf("make signer: %v", err)
	}
	w.signer = anchor.Signer(own)
	if w.signs != nil {
		w.signer = w.signs
	}
	node := w.through
	if node == nil {
		node = w.node
	}
	if w.engine, err = anchor.New(anchor.Config{
		Network: w.net, Store: w.store, Node: node, Second: w.second, Signer: w.signer, Log: w.log, Caps: w.caps,
		Interval: interval, Now: func() time.Time { return w.now },
		StopIntake: func(reason error) { w.t.Errorf("intake was stopped: %v", reason) },
	}); err != nil {
		w.t.Fatalf("make engine: %v", err)
	}
}

// settle mines and steps until the whole log is in final anchors, and holds the
// promises against the chain.
func (w *realWorld) settle() {
	w.t.Helper()
	for range 40 {
		w.step()
		snap, err := w.store.Snapshot(w.t.Context())
		if err != nil {
			w.t.Fatalf("snapshot: %v", err)
		}
		if snap.Anchored == w.log.size && len(snap.Mined) == 0 {
			w.keepsPromises()
			return
		}
		w.node.Generate(1)
		w.now = w.now.Add(10 * time.Minute)
	}
	w.t.Fatalf("the log never became final; status %+v", w.engine.Status())
}

func (w *realWorld) step() {
	w.t.Helper()
	if err := w.engine.Step(w.t.Context(), 1); err != nil {
		w.t.Fatalf("step: %v", err)
	}
}

func (w *realWorld) attempt(txid calpe.BlockHash) ledger.Attempt {
	w.t.Helper()
	a, ok, err := w.store.Attempt(context.Background(), txid)
	if err != nil || !ok {
		w.t.Fatalf("attempt %v: found %v, %v", txid, ok, err)
	}
	return a
}

func (w *realWorld) newest() ledger.Attempt {
	w.t.Helper()
	all, err := w.store.Attempts(context.Background(), 1)
	if err != nil || len(all) != 1 {
		w.t.Fatalf("newest attempt of %d: %v", len(all), err)
	}
	return all[0]
}

// reorganise takes the newest blocks away and mines a longer branch. A node puts
// the transactions of the former branch back into its mempool, so the first
// block of the new one holds them again.
func (w *realWorld) reorganise(depth int) {
	w.t.Helper()
	height, _, err := w.node.BestBlock(w.t.Context())
	if err != nil {
		w.t.Fatalf("best block: %v", err)
	}
	hash, err := w.node.BlockHash(w.t.Context(), height-uint32(depth)+1)
	if err != nil {
		w.t.Fatalf("block hash: %v", err)
	}
	w.node.Invalidate(hash)
	w.node.Generate(depth + 1)
}

// The whole life of anchors on a real node and a real database: sent, mined,
// reorganised into another block, final; then the next one.
func TestRealLife(t *testing.T) { forEachNode(t, realLife) }

func realLife(t *testing.T, kind nodetest.Kind) {
	t.Helper()
	w := newRealWorld(t, kind, calpe.Regtest)
	w.log.grow(3)
	w.step()
	a := w.newest()
	if a.State != ledger.Sent || !slices.Contains(w.node.Mempool(), a.TxID) {
		t.Fatalf("attempt is %s, the mempool has %v", a.State, w.node.Mempool())
	}
	w.node.Generate(1)
	w.step()
	first := w.attempt(a.TxID)
	evidence, err := w.store.AnchorFor(t.Context(), 2)
	if err != nil || first.State != ledger.Mined || evidence.Depth != 1 || evidence.Final {
		t.Fatalf("after a block: %s, %+v, %v", first.State, evidence, err)
	}
	checkEvidence(t, evidence)
	block, err := w.node.Block(t.Context(), evidence.Block)
	if err != nil {
		t.Fatalf("block: %v", err)
	}
	tx := block.Transactions[evidence.Position]
	if vsize := (3*tx.SerializeSizeStripped() + tx.SerializeSize() + 3) / 4; vsize > 161 {
		t.Errorf("one input and a payload of 40 bytes take %d vB", vsize)
	}

	w.reorganise(1)
	w.step()
	again, err := w.store.AnchorFor(t.Context(), 2)
	if err != nil || again.Block == evidence.Block || again.TxID != evidence.TxID || again.Depth != 2 {
		t.Fatalf("after a reorganisation: %+v, %v", again, err)
	}
	checkEvidence(t, again)
	w.node.Generate(4)
	w.step()
	if again, err = w.store.AnchorFor(t.Context(), 2); err != nil || !again.Final || again.Depth != 6 {
		t.Fatalf("six deep: %+v, %v", again, err)
	}

	w.log.grow(1)
	w.now = w.now.Add(interval)
	w.step()
	if b := w.newest(); b.State != ledger.Sent || b.Coin.TxID != a.TxID {
		t.Fatalf("second attempt: %+v", b)
	}
	w.node.Generate(6)
	w.step()
	if last, err := w.store.AnchorFor(t.Context(), 3); err != nil || !last.Final || last.Size != 4 {
		t.Fatalf("second anchor: %+v, %v", last, err)
	}
}

// The coin runs dry; two deposits heal it, in one attempt; a reorganisation takes
// deposits and anchor away, and they come back.
func TestRealDeposits(t *testing.T) { forEachNode(t, realDeposits) }

func realDeposits(t *testing.T, kind nodetest.Kind) {
	t.Helper()
	caps := wallet.Caps{FeeRate: ledger.SatPerVB, Fee: 20_000} // whatever btcd estimates
	w := fundedRealWorld(t, kind, calpe.Regtest, caps, caps.Reserve()+161+10)
	w.log.grow(1)
	w.step()
	w.node.Generate(1)
	w.log.grow(1)
	w.now = w.now.Add(interval)
	for range 2 {
		if err := w.engine.Step(t.Context(), 1); !errors.Is(err, wallet.ErrOutOfFunds) {
			t.Fatalf("step with an empty coin: %v", err)
		}
	}
	w.node.Fund(w.keys.Current().Script(), caps.MinDeposit()-1) // dust
	if err := w.engine.Step(t.Context(), 1); !errors.Is(err, wallet.ErrOutOfFunds) {
		t.Fatalf("step after dust: %v", err)
	}
	small := w.node.Fund(w.keys.Current().Script(), caps.MinDeposit())
	large := w.node.Fund(w.keys.Current().Script(), 2*caps.MinDeposit())
	w.step()
	a := w.newest()
	if got := spent(a); len(got) != 3 || got[1] != large || got[2] != small || !slices.Contains(w.node.Mempool(), a.TxID) {
		t.Fatalf("attempt %v spends %v", a.TxID, got)
	}
	w.node.Generate(1)
	w.step()
	if got := w.attempt(a.TxID); got.State != ledger.Mined {
		t.Fatalf("attempt is %s", got.State)
	}
	w.reorganise(3) // anchor and deposits
	w.step()
	w.node.Generate(6)
	w.step()
	if got := w.attempt(a.TxID); got.State != ledger.Final {
		t.Fatalf("attempt is %s", got.State)
	}
	all, err := w.store.Movements(t.Context())
	if err != nil || len(all) != 5 {
		t.Fatalf("%d movements: %v", len(all), err)
	}
	var sum int64
	for _, m := range all {
		sum += m.Amount
	}
	if s := w.engine.Status(); sum != a.Change || s.Funds.Value != sum || s.Funds.State(1) != wallet.FundsAmple {
		t.Fatalf("movements come to %d sat, the coin has %d; %+v", sum, a.Change, s.Funds)
	}
}

// A clean restart of the node loses its mempool, and the attempt is sent again, by
// the same engine after a while, or by a new one at once. While the node is
// down, steps fail and nothing is lost.
func TestRealNodeRestart(t *testing.T) { forEachNode(t, realNodeRestart) }

func realNodeRestart(t *testing.T, kind nodetest.Kind) {
	t.Helper()
	w := newRealWorld(t, kind, kind.Lasting())
	w.log.grow(3)
	w.step()
	a := w.newest()
	w.node.Stop()
	if err := w.engine.Step(t.Context(), 1); err == nil {
		t.Fatal("a step without a node is no error")
	}
	w.node.Restart()
	if pool := w.node.Mempool(); len(pool) != 0 {
		t.Fatalf("the node kept its mempool: %v", pool)
	}
	w.now = w.now.Add(11 * time.Minute)
	w.step()
	if !slices.Contains(w.node.Mempool(), a.TxID) {
		t.Fatal("the attempt was not sent again")
	}
	w.node.Restart()
	w.restart()
	w.step()
	if !slices.Contains(w.node.Mempool(), a.TxID) {
		t.Fatal("the attempt was not sent again by a new engine")
	}
	w.node.Generate(6)
	w.step()
	if got := w.attempt(a.TxID); got.State != ledger.Final {
		t.Fatalf("attempt is %s", got.State)
	}
}

// A node whose data are gone begins anew: another chain with the same genesis
// block. It isn't a reorganisation, and what is stored stays.
func TestRealChainWiped(t *testing.T) { forEachNode(t, realChainWiped) }

func realChainWiped(t *testing.T, kind nodetest.Kind) {
	t.Helper()
	w := newRealWorld(t, kind, calpe.Regtest)
	w.log.grow(3)
	w.step()
	a := w.newest()
	w.node.Generate(1)
	w.step()
	w.node.Wipe()
	if err := w.engine.Step(t.Context(), 1); !errors.Is(err, anchor.ErrNodeBehind) && !errors.Is(err, anchor.ErrUnknownChain) {
		t.Fatalf("step on a wiped chain: %v", err)
	}
	w.node.Generate(30)
	if err := w.engine.Step(t.Context(), 1); !errors.Is(err, anchor.ErrNodeBehind) && !errors.Is(err, anchor.ErrUnknownChain) {
		t.Fatalf("step on a short other chain: %v", err)
	}
	w.node.Generate(120)
	if err := w.engine.Step(t.Context(), 1); !errors.Is(err, anchor.ErrUnknownChain) {
		t.Fatalf("step on a long other chain: %v", err)
	}
	if got := w.attempt(a.TxID); got.State != ledger.Mined {
		t.Fatalf("attempt is %s", got.State)
	}
}
