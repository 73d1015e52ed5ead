package signer_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/btcsuite/btcd/btcec/v2/ecdsa"
	"github.com/btcsuite/btcd/chainhash/v2"
	"github.com/btcsuite/btcd/wire/v2"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/anchor/signer"
	"github.com/calpe/calpe/anchor/wallet"
	"github.com/calpe/calpe/merkle"
)

// A chain of anchors, with deposits that join, a bump, and a restart between each.
func TestSignsAnchors(t *testing.T) {
	w := newWorld(t)
	script := w.keys.Current().Script()
	coin := w.sign(5, 400, w.pay(script, 100_000))
	w.restart()
	next := w.sign(5, 800, coin) // the log didn't grow
	w.restart()
	w.sign(9, 1_600, coin) // a bump
	w.restart()
	next = w.sign(13, 3_000, next, w.pay(script, 30_000), w.pay(script, 40_000))
	status, err := w.policy.Status(t.Context())
	if err != nil || status.Size != 13 || status.Root != rootOf(13) || status.Network != calpe.Regtest || len(status.Scripts) != 1 || !bytes.Equal(status.Scripts[0], script) {
		t.Errorf("status is %+v, %v", status, err)
	}
	// 400, the dearer of 800 and 1600, and 3000, less what the fee rate rounds.
	if status.Spent < 4_950 || status.Spent > 5_000 || status.Budget != caps.Day {
		t.Errorf("spent %d of %d", status.Spent, status.Budget)
	}
	if next.Value < 100_000+70_000-5_000 {
		t.Errorf("the coin has %d sat left", next.Value)
	}
}

func TestLowS(t *testing.T) {
	w := newWorld(t)
	for range 40 {
		a := w.anchor(3, 300, w.trust(w.pay(w.keys.Current().Script(), 100_000)))
		w.now = w.now.Add(2 * time.Hour)
		raw, err := w.policy.Sign(t.Context(), w.request(a))
		if err != nil {
			t.Fatal(err)
		}
		witness := parse(t, raw).TxIn[0].Witness
		sig, err := ecdsa.ParseDERSignature(witness[0][:len(witness[0])-1])
		if err != nil {
			t.Fatal(err)
		}
		if s := sig.S(); s.IsOverHalfOrder() {
			t.Fatal("S is high")
		}
	}
}

// hostile is a rule that a request breaks.
type hostile struct {
	change func(w *world, r *signer.Request)
	want   error
}

func onTx(change func(w *world, tx *wire.MsgTx)) func(*world, *signer.Request) {
	return func(w *world, r *signer.Request) {
		tx, err := wallet.ParseUnsigned(r.Unsigned)
		if err != nil {
			w.t.Fatal(err)
		}
		change(w, tx)
		r.Unsigned = unsigned(w.t, tx)
	}
}

func payload(size uint64, root calpe.Hash) func(*world, *wire.MsgTx) {
	return func(_ *world, tx *wire.MsgTx) { tx.TxOut[0].PkScript = calpe.Payload{Size: size, Root: root}.Script() }
}

func rules() map[string]hostile {
	forged := func(n uint64) calpe.Hash { return leavesRoot(n, 6) }
	return map[string]hostile{
		"nothing broken": {func(*world, *signer.Request) {}, nil},

		"no transaction":         {func(_ *world, r *signer.Request) { r.Unsigned = nil }, wallet.ErrPolicy},
		"a byte more":            {func(_ *world, r *signer.Request) { r.Unsigned = append(bytes.Clone(r.Unsigned), 0) }, wallet.ErrPolicy},
		"version":                {onTx(func(_ *world, tx *wire.MsgTx) { tx.Version = 3 }), wallet.ErrPolicy},
		"locktime":               {onTx(func(_ *world, tx *wire.MsgTx) { tx.LockTime = 1 }), wallet.ErrPolicy},
		"not replaceable":        {onTx(func(_ *world, tx *wire.MsgTx) { tx.TxIn[0].Sequence = 0xffffffff }), wallet.ErrPolicy},
		"another coin":           {onTx(func(_ *world, tx *wire.MsgTx) { tx.TxIn[0].PreviousOutPoint.Hash[3] ^= 1 }), wallet.ErrPolicy},
		"another output":         {onTx(func(_ *world, tx *wire.MsgTx) { tx.TxIn[0].PreviousOutPoint.Index = 0 }), wallet.ErrPolicy},
		"no such output":         {onTx(func(_ *world, tx *wire.MsgTx) { tx.TxIn[0].PreviousOutPoint.Index = 2 }), wallet.ErrPolicy},
		"the same input twice":   {twice, wallet.ErrPolicy},
		"somebody's input":       {somebodys, wallet.ErrPolicy},
		"no previous":            {func(_ *world, r *signer.Request) { r.Previous = nil }, wallet.ErrPolicy},
		"a previous too many":    {func(_ *world, r *signer.Request) { r.Previous = append(r.Previous, r.Previous[0]) }, wallet.ErrPolicy},
		"previous with a lie":    {lie, wallet.ErrPolicy},
		"previous unreadable":    {unreadable, wallet.ErrPolicy},
		"previous with more":     {trailing, wallet.ErrPolicy},
		"no payload":             {onTx(func(_ *world, tx *wire.MsgTx) { tx.TxOut = tx.TxOut[1:] }), wallet.ErrPolicy},
		"another tag":            {onTx(func(_ *world, tx *wire.MsgTx) { tx.TxOut[0].PkScript[2] = 'X' }), wallet.ErrPolicy},
		"burnt money":            {onTx(func(_ *world, tx *wire.MsgTx) { tx.TxOut[0].Value = 1; tx.TxOut[1].Value-- }), wallet.ErrPolicy},
		"an output more":         {onTx(func(w *world, tx *wire.MsgTx) { tx.AddTxOut(wire.NewTxOut(400, stranger(w.t))) }), wallet.ErrPolicy},
		"change to a stranger":   {onTx(func(w *world, tx *wire.MsgTx) { tx.TxOut[1].PkScript = stranger(w.t) }), wallet.ErrPolicy},
		"change of dust":         {onTx(func(_ *world, tx *wire.MsgTx) { tx.TxOut[1].Value = wallet.Dust - 1 }), wallet.ErrPolicy},
		"more out than in":       {onTx(func(_ *world, tx *wire.MsgTx) { tx.TxOut[1].Value += 10_000 }), wallet.ErrPolicy},
		"a fee below 1 sat/vB":   {onTx(func(_ *world, tx *wire.MsgTx) { tx.TxOut[1].Value += 240 }), wallet.ErrPolicy},
		"a fee above the cap":    {onTx(func(_ *world, tx *wire.MsgTx) { tx.TxOut[1].Value -= 4_800 }), wallet.ErrCap},
		"an empty log":           {onTx(payload(0, calpe.Hash{})), wallet.ErrPolicy},
		"another root":           {onTx(payload(10, calpe.Hash{1})), signer.ErrHistory},
		"a second history":       {fork(10, forged(10)), signer.ErrHistory},
		"the same size, another": {onTx(payload(8, forged(8))), signer.ErrHistory},
		"smaller, another":       {fork(7, forged(7)), signer.ErrHistory},
		"smaller, the same log":  {fork(7, rootOf(7)), nil},
		"smaller, no proof":      {onTx(payload(7, rootOf(7))), signer.ErrHistory},
		"no proof":               {func(_ *world, r *signer.Request) { r.Proof = nil }, signer.ErrHistory},
		"a proof cut":            {func(_ *world, r *signer.Request) { r.Proof = r.Proof[1:] }, signer.ErrHistory},
		"a proof of another":     {func(_ *world, r *signer.Request) { r.Proof = proof(7, 10, honest) }, signer.ErrHistory},
		"a proof with more":      {func(_ *world, r *signer.Request) { r.Proof = append(r.Proof, calpe.Hash{}) }, signer.ErrHistory},
	}
}

// Each rule broken alone: refused, for that reason, and nothing is remembered.
func TestHostileRequests(t *testing.T) {
	for name, row := range rules() {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			coin := w.sign(8, 400, w.pay(w.keys.Current().Script(), 100_000))
			r := w.request(w.anchor(10, 400, coin))
			row.change(w, &r)
			before, err := os.ReadFile(w.file())
			if err != nil {
				t.Fatal(err)
			}
			raw, err := w.policy.Sign(t.Context(), r)
			if !errors.Is(err, row.want) || (err == nil) != (raw != nil) {
				t.Fatalf("error %v, want %v", err, row.want)
			}
			after, err := os.ReadFile(w.file())
			if err != nil {
				t.Fatal(err)
			}
			if row.want != nil && !bytes.Equal(before, after) {
				t.Error("a refused request changed the state")
			}
		})
	}
}

func leavesRoot(n, other uint64) calpe.Hash { return merkle.Root(leaves(n, other)) }

func stranger(t testing.TB) []byte {
	t.Helper()
	s, err := wallet.Create(filepath.Join(t.TempDir(), "w"), calpe.Regtest, lock, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	return s.Current().Script()
}

func twice(w *world, r *signer.Request) {
	onTx(func(_ *world, tx *wire.MsgTx) { tx.AddTxIn(tx.TxIn[0]) })(w, r)
	r.Previous = append(r.Previous, r.Previous[0])
}

func somebodys(w *world, r *signer.Request) {
	in := w.pay(stranger(w.t), 10_000)
	onTx(func(_ *world, tx *wire.MsgTx) {
		tx.AddTxIn(&wire.TxIn{PreviousOutPoint: wire.OutPoint{Hash: [32]byte(in.Outpoint.TxID), Index: 1}, Sequence: 0xfffffffd})
	})(w, r)
	r.Previous = append(r.Previous, w.known[in.Outpoint.TxID])
}

// lie states less money in the coin than there is, to have the rest burnt.
func lie(w *world, r *signer.Request) {
	tx, err := wallet.ParseUnsigned(r.Previous[0])
	if err != nil {
		w.t.Fatal(err)
	}
	tx.TxOut[1].Value -= 50_000
	r.Previous = [][]byte{unsigned(w.t, tx)}
}

// spendBytes makes the coin the output of bytes that needn't be a transaction.
func spendBytes(w *world, r *signer.Request, previous []byte) {
	onTx(func(_ *world, tx *wire.MsgTx) { tx.TxIn[0].PreviousOutPoint.Hash = chainhash.DoubleHashH(previous) })(w, r)
	r.Previous = [][]byte{previous}
}

func unreadable(w *world, r *signer.Request) { spendBytes(w, r, r.Previous[0][:60]) }
func trailing(w *world, r *signer.Request)   { spendBytes(w, r, append(bytes.Clone(r.Previous[0]), 0)) }

// fork asks for a size with a root, and with the best proof that there is.
func fork(size uint64, root calpe.Hash) func(*world, *signer.Request) {
	return func(w *world, r *signer.Request) {
		onTx(payload(size, root))(w, r)
		r.Proof = proof(min(size, 8), max(size, 8), honest)
		if size > 8 {
			r.Proof = proof(8, size, 6)
		}
	}
}

// Replayed, a request gives the same bytes, and counts once.
func TestReplay(t *testing.T) {
	w := newWorld(t)
	r := w.request(w.anchor(4, 1_000, w.pay(w.keys.Current().Script(), 100_000)))
	first, err := w.policy.Sign(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	for range 30 {
		again, err := w.policy.Sign(t.Context(), r)
		if err != nil || !bytes.Equal(again, first) {
			t.Fatalf("replayed: %v", err)
		}
	}
	w.restart() // as if it had died before the signature left
	if again, err := w.policy.Sign(t.Context(), r); err != nil || !bytes.Equal(again, first) {
		t.Fatalf("replayed after a restart: %v", err)
	}
	if s, _ := w.policy.Status(t.Context()); s.Spent > 1_000 || s.Size != 4 {
		t.Errorf("after replays the status is %+v", s)
	}
	// Once the log has gone on, the old request lacks the proof that it needs now.
	w.sign(9, 500, w.trust(w.pay(w.keys.Current().Script(), 50_000)))
	if _, err := w.policy.Sign(t.Context(), r); !errors.Is(err, signer.ErrHistory) {
		t.Errorf("replayed after a larger size: %v", err)
	}
}

// The budget holds for any 24 hours, over restarts, and passes with time.
func TestBudget(t *testing.T) {
	w := newWorld(t)
	script := w.keys.Current().Script()
	start := w.now
	for i := range 3 { // 3 × 4000 of 12000, less rounding
		w.sign(uint64(3+i), 4_000, w.trust(w.pay(script, 100_000)))
		w.now = w.now.Add(time.Hour)
		w.restart()
	}
	refused := w.anchor(20, 1_000, w.trust(w.pay(script, 100_000)))
	tryIt := func(want error) {
		t.Helper()
		w.restart()
		if _, err := w.policy.Sign(t.Context(), w.request(refused)); !errors.Is(err, want) {
			t.Errorf("at %v: %v, want %v", w.now, err, want)
		}
	}
	tryIt(signer.ErrBudget)
	if s, _ := w.policy.Status(t.Context()); s.Size != 5 {
		t.Errorf("a refused anchor raised the size to %d", s.Size)
	}
	w.now = start.Add(-100 * 24 * time.Hour) // a clock that is set back frees nothing
	tryIt(signer.ErrBudget)
	w.now = start.Add(24*time.Hour - time.Second)
	tryIt(signer.ErrBudget)
	w.now = start.Add(24 * time.Hour)
	tryIt(nil)
}

// To the satoshi: the cap itself may be spent. Of a coin's anchors the dearest
// counts, in whichever order they come.
func TestBudgetIsExact(t *testing.T) {
	w := newWorld(t)
	script := w.keys.Current().Script()
	ask := func(coin ledger.Input, fee int64) error {
		t.Helper()
		r := w.request(w.anchor(3, 400, coin))
		onTx(func(_ *world, tx *wire.MsgTx) { tx.TxOut[1].Value = coin.Value - fee })(w, &r)
		_, err := w.policy.Sign(t.Context(), r)
		return err
	}
	wantSpent := func(want int64) {
		t.Helper()
		if s, _ := w.policy.Status(t.Context()); s.Spent != want {
			t.Errorf("spent %d sat, want %d", s.Spent, want)
		}
	}
	first, second, third := w.pay(script, 100_000), w.pay(script, 100_000), w.pay(script, 100_000)
	w.trust(first, second, third)
	for _, step := range []struct {
		coin  ledger.Input
		fee   int64
		want  error
		spent int64
	}{
		{first, 4_000, nil, 4_000}, {first, 1_000, nil, 4_000}, {first, 5_000, nil, 5_000}, {second, 5_000, nil, 10_000},
		{third, 2_001, signer.ErrBudget, 10_000}, {third, 2_000, nil, 12_000}, {third, 1_999, nil, 12_000}, {third, 2_001, signer.ErrBudget, 12_000},
	} {
		if err := ask(step.coin, step.fee); !errors.Is(err, step.want) {
			t.Errorf("%d sat: %v, want %v", step.fee, err, step.want)
		}
		wantSpent(step.spent)
	}
}

// A smaller size of the same log is signed, and the largest is what is remembered.
func TestSmallerSize(t *testing.T) {
	w := newWorld(t)
	script := w.keys.Current().Script()
	w.sign(9, 400, w.pay(script, 100_000))
	w.sign(4, 400, w.trust(w.pay(script, 100_000)))
	if s, _ := w.policy.Status(t.Context()); s.Size != 9 || s.Root != rootOf(9) {
		t.Errorf("the largest size is %d now", s.Size)
	}
}

// One chain of coins is signed: a deposit begins no other, nor does a payment that
// looks like an anchor, until an operator says so. Then the former one is given up.
func TestOneChain(t *testing.T) {
	w := newWorld(t)
	script := w.keys.Current().Script()
	first := w.pay(script, 100_000)
	coin := w.sign(5, 400, first)
	made := wire.NewMsgTx(2)
	made.AddTxIn(&wire.TxIn{PreviousOutPoint: wire.OutPoint{Index: 99}})
	made.AddTxOut(wire.NewTxOut(0, calpe.Payload{Size: 5, Root: rootOf(5)}.Script()))
	made.AddTxOut(wire.NewTxOut(100_000, script))
	other := w.pay(script, 100_000)
	refused := func(coins ...ledger.Input) {
		t.Helper()
		for i, c := range coins {
			if _, err := w.policy.Sign(t.Context(), w.request(w.anchor(9, 400, c))); !errors.Is(err, signer.ErrChain) || !strings.Contains(err.Error(), "signer restart-chain") {
				t.Errorf("coin %d: %v", i, err)
			}
		}
	}
	for range 2 {
		refused(other, w.learn(made))
		w.restart()
	}
	next := w.sign(9, 400, coin, other) // as a deposit it joins
	w.sign(9, 800, first)               // a reorganisation may bring the first coin back
	w.sign(9, 800, coin)

	if err := w.state.Save(w.state.State().Restarted(w.pay(script, 1).Outpoint)); err != nil {
		t.Fatal(err)
	}
	w.restart()
	refused(first, coin, next, other)
	again := w.pay(script, 100_000)
	if err := w.state.Save(w.state.State().Restarted(again.Outpoint)); err != nil {
		t.Fatal(err)
	}
	w.restart()
	coin = w.sign(9, 400, again)
	w.restart()
	coin = w.sign(13, 400, coin)
	refused(next)
	if s := w.state.State(); s.First != again.Outpoint || len(s.Signed) != 2 || s.Signed[1] != coin.Outpoint.TxID || s.Size != 13 {
		t.Errorf("the state is %+v", s)
	}
	// The memory is bounded.
	s := w.state.State()
	for i := range 720 {
		s.Signed = append([]calpe.BlockHash{{byte(i), byte(i >> 8), 1}}, s.Signed...)
	}
	s.Signed = s.Signed[2:]
	if err := w.state.Save(s); err != nil {
		t.Fatal(err)
	}
	w.restart()
	w.sign(13, 400, coin)
	if got := w.state.State().Signed; len(got) != 720 || got[719] == coin.Outpoint.TxID {
		t.Errorf("%d signed transactions are remembered", len(got))
	}
}

// With nothing signed there is nothing to prove.
func TestProofBeforeAnything(t *testing.T) {
	w := newWorld(t)
	r := w.request(w.anchor(9, 400, w.pay(w.keys.Current().Script(), 100_000)))
	r.Proof = proof(4, 9, honest)
	if _, err := w.policy.Sign(t.Context(), r); !errors.Is(err, signer.ErrHistory) {
		t.Errorf("a proof out of nowhere: %v", err)
	}
}

// Two at once are judged one after the other: of two histories one is signed, and
// the budget isn't spent twice.
func TestTwoAtOnce(t *testing.T) {
	w := newWorld(t)
	script := w.keys.Current().Script()
	coin := w.sign(5, 400, w.pay(script, 100_000))
	a := w.request(w.anchor(10, 400, coin))
	b := w.request(w.anchor(10, 500, coin))
	onTx(payload(10, leavesRoot(10, 7)))(w, &b)
	b.Proof = proof(5, 10, 7)
	var wg sync.WaitGroup
	errs := make([]error, 2)
	for i, r := range []signer.Request{a, b} {
		wg.Go(func() { _, errs[i] = w.policy.Sign(t.Context(), r) })
	}
	wg.Wait()
	if (errs[0] == nil) == (errs[1] == nil) || !errors.Is(errors.Join(errs...), signer.ErrHistory) {
		t.Errorf("of two histories at once: %v and %v", errs[0], errs[1])
	}

	var requests []signer.Request
	var coins []ledger.Input
	for range 6 {
		coins = append(coins, w.pay(script, 100_000))
		r := w.request(w.anchor(5, 4_000, coins[len(coins)-1]))
		r.Proof = nil
		requests = append(requests, r)
	}
	w = newWorldOf(t, w)
	w.trust(coins...)
	signed := make([]bool, len(requests))
	for i, r := range requests {
		wg.Go(func() { _, err := w.policy.Sign(t.Context(), r); signed[i] = err == nil })
	}
	wg.Wait()
	if n := len(slices.DeleteFunc(signed, func(ok bool) bool { return !ok })); n != 3 {
		t.Errorf("a budget for 3 anchors paid for %d", n)
	}
}

// newWorldOf has the keys of another, and a state in which nothing was signed.
func newWorldOf(t *testing.T, old *world) *world {
	t.Helper()
	if err := old.state.Close(); err != nil {
		t.Fatal(err)
	}
	if err := signer.CreateState(old.file(), old.fresh(), true); err != nil {
		t.Fatal(err)
	}
	old.state = nil
	old.restart()
	return old
}

// A lost state stops the signer; an older one is noticed at the next anchor. In
// both cases an operator says what was signed.
func TestStateLostOrOld(t *testing.T) {
	w := newWorld(t)
	coin := w.sign(5, 400, w.pay(w.keys.Current().Script(), 100_000))
	older, err := os.ReadFile(w.file())
	if err != nil {
		t.Fatal(err)
	}
	coin = w.sign(9, 400, coin)
	if err := w.state.Close(); err != nil {
		t.Fatal(err)
	}

	if err := os.Remove(w.file()); err != nil {
		t.Fatal(err)
	}
	address := w.keys.Current().Address()
	if _, err := signer.OpenState(w.file(), calpe.Regtest, address); !errors.Is(err, signer.ErrState) || !strings.Contains(err.Error(), "signer init") {
		t.Errorf("a lost state: %v", err)
	}
	if err := os.WriteFile(w.file(), older, 0o600); err != nil {
		t.Fatal(err)
	}
	w.state = nil
	w.restart()
	r := w.request(w.anchor(12, 400, coin))
	if _, err := w.policy.Sign(t.Context(), r); !errors.Is(err, signer.ErrState) {
		t.Errorf("an older state: %v", err)
	}
	// With a fork that the older state can't tell from the log, too.
	onTx(payload(12, leavesRoot(12, 7)))(w, &r)
	r.Proof = proof(5, 12, 7)
	if _, err := w.policy.Sign(t.Context(), r); !errors.Is(err, signer.ErrState) {
		t.Errorf("a second history on an older state: %v", err)
	}

	if err := w.state.Close(); err != nil {
		t.Fatal(err)
	}
	said := w.fresh()
	said.Size, said.Root = 9, rootOf(9)
	if err := signer.CreateState(w.file(), said, false); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a state over a state: %v", err)
	}
	if err := signer.CreateState(w.file(), said, true); err != nil {
		t.Fatal(err)
	}
	w.state = nil
	w.restart()
	w.sign(12, 400, coin)
}

// The same size with another root is in the chain: the state is of another log.
func TestStateOfAnotherHistory(t *testing.T) {
	w := newWorld(t)
	coin := w.sign(9, 400, w.pay(w.keys.Current().Script(), 100_000))
	said := w.fresh()
	said.Size, said.Root = 9, leavesRoot(9, 3)
	if err := w.state.Close(); err != nil {
		t.Fatal(err)
	}
	if err := signer.CreateState(w.file(), said, true); err != nil {
		t.Fatal(err)
	}
	w.state = nil
	w.restart()
	if _, err := w.policy.Sign(t.Context(), w.request(w.anchor(12, 400, coin))); !errors.Is(err, signer.ErrState) {
		t.Errorf("signed on the state of another history: %v", err)
	}
}

// Anybody can pay to the address with a transaction that looks like an anchor of
// any size. It is a deposit like others.
func TestDepositThatLooksLikeAnAnchor(t *testing.T) {
	w := newWorld(t)
	coin := w.sign(9, 400, w.pay(w.keys.Current().Script(), 100_000))
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(&wire.TxIn{PreviousOutPoint: wire.OutPoint{Index: 4711}})
	tx.AddTxOut(wire.NewTxOut(0, calpe.Payload{Size: calpe.MaxLogSize, Root: calpe.Hash{1}}.Script()))
	tx.AddTxOut(wire.NewTxOut(50_000, w.keys.Current().Script()))
	w.sign(12, 500, coin, w.learn(tx))
}

func TestStateRefused(t *testing.T) {
	w := newWorld(t)
	address := w.keys.Current().Address()
	if _, err := signer.OpenState(w.file(), calpe.Regtest, address); err == nil || !strings.Contains(err.Error(), "another signer") {
		t.Errorf("two signers on one state: %v", err)
	}
	if err := signer.CreateState(w.file(), w.fresh(), true); err == nil {
		t.Error("the state of a running signer was replaced")
	}
	w.sign(5, 400, w.pay(w.keys.Current().Script(), 100_000))
	good, err := os.ReadFile(w.file())
	if err != nil {
		t.Fatal(err)
	}
	if err := w.state.Close(); err != nil {
		t.Fatal(err)
	}
	edit := func(old, new string) []byte {
		out := strings.Replace(string(good), old, new, 1)
		if out == string(good) {
			t.Fatalf("state has no %q:\n%s", old, good)
		}
		return []byte(out)
	}
	for name, content := range map[string][]byte{
		"empty": nil, "cut": good[:len(good)/2], "of another network": edit(`"regtest"`, `"signet"`), "of another keystore": edit(address, "bcrt1q"),
		"unknown member": edit(`"size"`, `"more": 1, "size"`), "no root": edit(rootOf(5).String(), calpe.Hash{}.String()), "size too large": edit(`"size": 5`, `"size": 1099511627776`),
		"a negative fee": edit(`"sat": `, `"sat": -`), "open to others": good, "nobody's": edit(`"`+address+`"`, `""`), "too large": append(slices.Clone(good), bytes.Repeat([]byte(" "), 17<<20)...),
	} {
		if err := os.WriteFile(w.file(), content, 0o600); err != nil {
			t.Fatal(err)
		}
		if name == "open to others" {
			if err := os.Chmod(w.file(), 0o620); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := signer.OpenState(w.file(), calpe.Regtest, address); !errors.Is(err, signer.ErrState) {
			t.Errorf("%s: %v", name, err)
		}
		if err := os.Chmod(w.file(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(w.file(), good, 0o600); err != nil {
		t.Fatal(err)
	}
	w.state = nil
	w.restart()
}

// When the state can't be written, nothing is signed; and what couldn't be written
// counts nevertheless.
func TestStateNotWritten(t *testing.T) {
	w := newWorld(t)
	script := w.keys.Current().Script()
	first, second := w.pay(script, 100_000), w.pay(script, 100_000)
	w.trust(first, second)
	if err := os.Mkdir(w.file()+".new", 0o700); err != nil {
		t.Fatal(err)
	}
	r := w.request(w.anchor(5, 400, first))
	if raw, err := w.policy.Sign(t.Context(), r); err == nil || raw != nil {
		t.Fatalf("signed without a durable state: %v", err)
	}
	forged := w.anchor(5, 400, second)
	other := signer.Request{Unsigned: forged.Unsigned, Previous: [][]byte{w.known[forged.Inputs[0].Outpoint.TxID]}}
	onTx(payload(5, leavesRoot(5, 1)))(w, &other)
	if _, err := w.policy.Sign(t.Context(), other); !errors.Is(err, signer.ErrHistory) {
		t.Errorf("another root after a failed write: %v", err)
	}
	if err := os.Remove(w.file() + ".new"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.policy.Sign(t.Context(), r); err != nil {
		t.Errorf("after the disk was mended: %v", err)
	}
}

// In the engine's own process: the same rules, without a file; another server may
// have signed meanwhile.
func TestInProcess(t *testing.T) {
	w := newWorld(t)
	memory, err := signer.NewPolicy(signer.PolicyConfig{Keys: w.keys, Caps: caps, Now: func() time.Time { return w.now }})
	if err != nil {
		t.Fatal(err)
	}
	other := w.policy
	w.policy = memory
	coin := w.sign(5, 400, w.pay(w.keys.Current().Script(), 100_000))
	w.policy = other
	coin2 := w.pay(w.keys.Current().Script(), 100_000)
	coin2 = w.sign(30, 400, coin2)
	w.policy = memory
	w.sign(31, 400, coin2)
	bad := w.request(w.anchor(40, 400, coin))
	onTx(payload(40, calpe.Hash{9}))(w, &bad)
	if _, err := memory.Sign(t.Context(), bad); !errors.Is(err, signer.ErrHistory) {
		t.Errorf("a second history: %v", err)
	}
}

func TestPolicyConfig(t *testing.T) {
	w := newWorld(t)
	for name, cfg := range map[string]signer.PolicyConfig{
		"no keys":                {Caps: caps},
		"no caps":                {Keys: w.keys},
		"no cap for a day":       {Keys: w.keys, Caps: wallet.Caps{FeeRate: caps.FeeRate, Fee: caps.Fee}},
		"a cap below one anchor": {Keys: w.keys, Caps: wallet.Caps{FeeRate: ledger.SatPerVB, Fee: 10, Day: 10}},
	} {
		if _, err := signer.NewPolicy(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// The keys' rotation: the signer signs an anchor whose change goes to the new key,
// and from there on none that goes back.
func TestRotation(t *testing.T) {
	w := newWorld(t)
	first := w.keys.Current().Script()
	coin := w.sign(5, 400, w.pay(first, 100_000))
	stored := w.anchor(6, 500, coin) // built before the rotation, signed after it
	if _, err := wallet.Rotate(w.keystore(), calpe.Regtest, lock, w.now); err != nil {
		t.Fatal(err)
	}
	w.restart()
	second := w.keys.Current().Script()
	if _, err := w.policy.Sign(t.Context(), w.request(stored)); err != nil {
		t.Errorf("an anchor from before the rotation: %v", err)
	}
	coin = w.sign(8, 900, coin)
	if !bytes.Equal(coin.Script, second) || bytes.Equal(first, second) {
		t.Errorf("change went to %x, the new key has %x", coin.Script, second)
	}
	coin = w.sign(9, 400, coin, w.pay(first, 20_000))
	back := w.request(w.anchor(10, 400, coin))
	onTx(func(_ *world, tx *wire.MsgTx) { tx.TxOut[1].PkScript = first })(w, &back)
	if _, err := w.policy.Sign(t.Context(), back); !errors.Is(err, wallet.ErrPolicy) {
		t.Errorf("change back to the former key: %v", err)
	}
}

// FuzzSign: whatever is asked for, what is signed is an anchor within the caps.
func FuzzSign(f *testing.F) {
	w := newWorld(f)
	a := w.anchor(4, 400, w.pay(w.keys.Current().Script(), 100_000))
	r := w.request(a)
	f.Add(r.Unsigned, r.Previous[0])
	f.Add(r.Unsigned[:50], r.Previous[0][:50])
	f.Fuzz(func(t *testing.T, unsigned, previous []byte) {
		policy, err := signer.NewPolicy(signer.PolicyConfig{Keys: w.keys, Caps: caps})
		if err != nil {
			t.Fatal(err)
		}
		raw, err := policy.Sign(t.Context(), signer.Request{Unsigned: unsigned, Previous: [][]byte{previous}})
		if err != nil {
			return
		}
		in, out := parse(t, raw), parse(t, raw).TxOut
		spent, err := wallet.ParseUnsigned(previous)
		if err != nil || spent.TxHash() != in.TxIn[0].PreviousOutPoint.Hash {
			t.Fatalf("signed %x with another previous transaction", raw)
		}
		if fee := spent.TxOut[in.TxIn[0].PreviousOutPoint.Index].Value - out[1].Value; len(out) != 2 || fee > caps.Fee || !bytes.Equal(out[1].PkScript, w.keys.Current().Script()) {
			t.Fatalf("signed %x", raw)
		}
	})
}
