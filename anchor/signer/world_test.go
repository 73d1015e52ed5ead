package signer_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/btcsuite/btcd/wire/v2"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/anchor/signer"
	"github.com/calpe/calpe/anchor/wallet"
	"github.com/calpe/calpe/merkle"
)

// leaves is a log of n entries; other is the first entry from which it differs
// from the log that everybody else has.
func leaves(n, other uint64) []calpe.Hash {
	out := make([]calpe.Hash, n)
	for i := range out {
		b := binary.BigEndian.AppendUint64(nil, uint64(i))
		if uint64(i) >= other {
			b = append(b, "fork"...)
		}
		out[i] = merkle.LeafHash(b)
	}
	return out
}

const honest = 1 << 40

func rootOf(n uint64) calpe.Hash { return merkle.Root(leaves(n, honest)) }

// proof is PROOF(m, D[n]) by its definition in RFC 6962, section 2.1.2.
func proof(m, n, other uint64) []calpe.Hash {
	if m == 0 || m == n {
		return nil
	}
	return subProof(int(m), leaves(n, other), true)
}

func subProof(m int, d []calpe.Hash, whole bool) []calpe.Hash {
	if m == len(d) {
		if whole {
			return nil
		}
		return []calpe.Hash{merkle.Root(d)}
	}
	k := 1
	for k*2 < len(d) {
		k *= 2
	}
	if m <= k {
		return append(subProof(m, d[:k], whole), merkle.Root(d[k:]))
	}
	return append(subProof(m-k, d[k:], false), merkle.Root(d[:k]))
}

// fakeLog proves what the honest log holds.
type fakeLog struct{ err error }

func (l fakeLog) ConsistencyProof(_ context.Context, oldSize uint64, oldRoot calpe.Hash, cp calpe.Checkpoint) ([]calpe.Hash, error) {
	if l.err != nil {
		return nil, l.err
	}
	p := proof(oldSize, cp.Size, honest)
	return p, merkle.VerifyConsistency(oldSize, cp.Size, oldRoot, cp.Root, p)
}

// transactions are those that made coins.
type transactions map[calpe.BlockHash][]byte

func (t transactions) Transaction(_ context.Context, o calpe.Outpoint) ([]byte, error) {
	raw, ok := t[o.TxID]
	if !ok {
		return nil, errors.New("no such transaction")
	}
	return raw, nil
}

// world is a signer with its files, and the chain of coins that it signs.
type world struct {
	t      testing.TB
	dir    string
	keys   *wallet.Keystore
	policy *signer.Policy
	state  *signer.StateFile
	now    time.Time
	known  transactions
	paid   uint32
}

var (
	lock = wallet.Lock{Passphrase: "a passphrase for tests", WorkFactor: 1}
	caps = wallet.Caps{FeeRate: 50 * ledger.SatPerVB, Fee: 5_000, Day: 12_000}
)

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), now: time.Date(2026, 11, 21, 9, 30, 0, 0, time.UTC), known: transactions{}}
	keys, err := wallet.Create(w.keystore(), calpe.Regtest, lock, w.now)
	if err != nil {
		t.Fatalf("create keystore: %v", err)
	}
	w.keys = keys
	if err := signer.CreateState(w.file(), w.fresh(), false); err != nil {
		t.Fatalf("create state: %v", err)
	}
	w.restart()
	t.Cleanup(func() { w.state.Close() })
	return w
}

func (w *world) keystore() string { return filepath.Join(w.dir, "wallet.age") }
func (w *world) file() string     { return filepath.Join(w.dir, "signer.json") }

func (w *world) fresh() signer.State {
	return signer.State{Network: calpe.Regtest, Address: w.keys.Keys()[0].Address()}
}

// restart is a new process: what isn't in files is gone.
func (w *world) restart() {
	w.t.Helper()
	if w.state != nil {
		if err := w.state.Close(); err != nil {
			w.t.Fatalf("close state: %v", err)
		}
	}
	var err error
	if w.keys, err = wallet.Open(w.keystore(), calpe.Regtest, lock); err != nil {
		w.t.Fatalf("open keystore: %v", err)
	}
	if w.state, err = signer.OpenState(w.file(), calpe.Regtest, w.keys.Keys()[0].Address()); err != nil {
		w.t.Fatalf("open state: %v", err)
	}
	w.policy, err = signer.NewPolicy(signer.PolicyConfig{
		Keys: w.keys, Caps: caps, State: w.state, Now: func() time.Time { return w.now },
	})
	if err != nil {
		w.t.Fatalf("make policy: %v", err)
	}
}

// pay makes a deposit.
func (w *world) pay(script []byte, value int64) ledger.Input {
	w.paid++
	tx := wire.NewMsgTx(1)
	tx.AddTxIn(&wire.TxIn{PreviousOutPoint: wire.OutPoint{Index: w.paid}})
	tx.AddTxOut(wire.NewTxOut(77, []byte{0x51}))
	tx.AddTxOut(wire.NewTxOut(value, script))
	return w.learn(tx)
}

// trust lets coins be of the chain, as if anchors that were signed had made them.
func (w *world) trust(coins ...ledger.Input) ledger.Input {
	w.t.Helper()
	s := w.state.State()
	for _, c := range coins {
		if s.First == (calpe.Outpoint{}) {
			s.First = c.Outpoint
		}
		s.Signed = append(s.Signed, c.Outpoint.TxID)
	}
	if err := w.state.Save(s); err != nil {
		w.t.Fatalf("save state: %v", err)
	}
	w.restart()
	return coins[0]
}

// learn keeps a transaction, and gives its output 1.
func (w *world) learn(tx *wire.MsgTx) ledger.Input {
	id := calpe.BlockHash(tx.TxHash())
	w.known[id] = unsigned(w.t, tx)
	out := tx.TxOut[1]
	return ledger.Input{Outpoint: calpe.Outpoint{TxID: id, Vout: 1}, Output: ledger.Output{Value: out.Value, Script: out.PkScript}}
}

func unsigned(t testing.TB, tx *wire.MsgTx) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := tx.SerializeNoWitness(&b); err != nil {
		t.Fatalf("serialize: %v", err)
	}
	return b.Bytes()
}

func parse(t testing.TB, raw []byte) *wire.MsgTx {
	t.Helper()
	var tx wire.MsgTx
	if err := tx.Deserialize(bytes.NewReader(raw)); err != nil {
		t.Fatalf("parse transaction: %v", err)
	}
	return &tx
}

// anchor builds an attempt of that size of the honest log.
func (w *world) anchor(size uint64, fee int64, coins ...ledger.Input) ledger.Attempt {
	w.t.Helper()
	rate := ledger.FeeRate(fee * 1000 / int64(wallet.VSize(len(coins))))
	a, err := wallet.BuildAttempt(wallet.Build{
		Coin: coins[0], Extra: coins[1:], Change: w.keys.Current().Script(), Payload: calpe.Payload{Size: size, Root: rootOf(size)},
		FeeRate: rate, Caps: wallet.Caps{FeeRate: 100 * ledger.SatPerVB, Fee: 10_000},
	})
	if err != nil {
		w.t.Fatalf("build: %v", err)
	}
	return a
}

// request is what an honest client asks for a.
func (w *world) request(a ledger.Attempt) signer.Request {
	w.t.Helper()
	r := signer.Request{Unsigned: a.Unsigned}
	for _, in := range a.Inputs {
		r.Previous = append(r.Previous, w.known[in.Outpoint.TxID])
	}
	status, err := w.policy.Status(w.t.Context())
	if err != nil {
		w.t.Fatalf("status: %v", err)
	}
	r.Proof = proof(min(status.Size, a.Size), max(status.Size, a.Size), honest)
	return r
}

// sign signs an honest anchor of that size, and gives the next coin.
func (w *world) sign(size uint64, fee int64, coins ...ledger.Input) ledger.Input {
	w.t.Helper()
	a := w.anchor(size, fee, coins...)
	raw, err := w.policy.Sign(w.t.Context(), w.request(a))
	if err != nil {
		w.t.Fatalf("sign %d entries: %v", size, err)
	}
	return w.learn(parse(w.t, raw))
}

// faulty is a signer that fails both ways.
type faulty struct {
	signer.Signer
	mu    sync.Mutex
	apply bool
	err   error
}

func (f *faulty) Sign(ctx context.Context, r signer.Request) ([]byte, error) {
	f.mu.Lock()
	apply, fault := f.apply, f.err
	f.mu.Unlock()
	if fault != nil && !apply {
		return nil, fault
	}
	raw, err := f.Signer.Sign(ctx, r)
	if fault != nil {
		return nil, fmt.Errorf("after %w: %w", err, fault)
	}
	return raw, err
}
