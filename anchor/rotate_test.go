package anchor_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor"
	"github.com/calpe/calpe/anchor/bitcoin/nodetest"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/anchor/signer"
	"github.com/calpe/calpe/anchor/wallet"
	"github.com/calpe/calpe/merkle"
)

// proofs proves consistency in the one log that all tests have.
type proofs struct{}

func (proofs) ConsistencyProof(_ context.Context, oldSize uint64, oldRoot calpe.Hash, cp calpe.Checkpoint) ([]calpe.Hash, error) {
	leaves := make([]calpe.Hash, cp.Size)
	for i := range leaves {
		leaves[i] = leafOf(uint64(i))
	}
	proof := subProof(int(oldSize), leaves, true)
	return proof, merkle.VerifyConsistency(oldSize, cp.Size, oldRoot, cp.Root, proof)
}

// subProof is SUBPROOF of RFC 6962, section 2.1.2.
func subProof(m int, d []calpe.Hash, whole bool) []calpe.Hash {
	if m == len(d) {
		if whole {
			return nil
		}
		return []calpe.Hash{merkle.Root(d)}
	}
	k := 1
	for 2*k < len(d) {
		k *= 2
	}
	if m <= k {
		return append(subProof(m, d[:k], whole), merkle.Root(d[k:]))
	}
	return append(subProof(m-k, d[k:], false), merkle.Root(d[:k]))
}

// The private keys 1 and 2.
const (
	keyOne = `{"wif":"cMahea7zqjxrtgAbB7LSGbcQUr1uX1ojuat9jZodMN87JcbXMTcA","created":"2026-11-21T09:30:00Z"}`
	keyTwo = `{"wif":"cMahea7zqjxrtgAbB7LSGbcQUr1uX1ojuat9jZodMN87K7XCyj5v","created":"2027-11-21T09:30:00Z"}`
)

// policed lets the world's engines sign by a policy, with these keys, as a server
// does that has started with them.
func (w *world) policed(keys string) {
	w.t.Helper()
	store, err := wallet.Decode([]byte(`{"network":"regtest","keys":[`+keys+`]}`), calpe.Regtest)
	if err != nil {
		w.t.Fatalf("decode keys: %v", err)
	}
	caps := w.caps
	caps.Day = 1_000_000
	if w.signer, err = wallet.New(wallet.Config{Keys: store, Caps: caps}); err != nil {
		w.t.Fatalf("make signer: %v", err)
	}
	policy, err := signer.NewPolicy(signer.PolicyConfig{Keys: store, Caps: caps, Now: func() time.Time { return w.now }, Logger: slog.New(slog.NewTextHandler(&w.logged, nil))})
	if err != nil {
		w.t.Fatalf("make policy: %v", err)
	}
	w.signs, err = signer.NewClient(w.t.Context(), signer.ClientConfig{
		Signer: policy, Network: calpe.Regtest, Proofs: proofs{}, Transactions: anchor.Previous{Attempts: w.store, Node: w.node},
	})
	if err != nil {
		w.t.Fatalf("make signer client: %v", err)
	}
	w.restart()
}

// anchorNow grows the log and makes the anchor for it, up to the mempool.
func (w *world) anchorNow() ledger.Attempt {
	w.t.Helper()
	w.log.grow(1)
	w.now = w.now.Add(interval)
	w.mustStep()
	return w.only()
}

// The key is changed while an anchor is on its way. The chain of coins goes on:
// from the former key to the new one, back by a reorganisation, and forward again.
func TestRotation(t *testing.T) {
	w := newWorld(t, newMemStore())
	w.policed(keyOne)
	first := w.signer.Script()
	sent := w.anchorNow()

	w.policed(keyOne + "," + keyTwo)
	second := w.signer.Script()
	if bytes.Equal(first, second) {
		t.Fatal("the rotation gave the same key")
	}
	w.node.mine()
	w.mustStep()
	w.wantState(sent.TxID, ledger.Mined)
	if live := w.snapshot().Live; !bytes.Equal(live.Script, first) {
		t.Fatalf("the coin from before the rotation has the script %x", live.Script)
	}

	moving := w.anchorNow() // spends the former key's coin, and pays the new key
	w.node.mine()
	w.mustStep()
	if live := w.snapshot().Live; live.Outpoint.TxID != moving.TxID || !bytes.Equal(live.Script, second) {
		t.Fatalf("the coin after the rotation is %v with the script %x", live.Outpoint, live.Script)
	}
	onNew := w.anchorNow()

	// Both anchors' blocks go: the former key's coin is live again, and is needed.
	w.node.cut(2, true)
	w.node.empty(3)
	w.mustStep()
	w.wantState(onNew.TxID, ledger.Void)
	w.wantState(sent.TxID, ledger.Sent)
	w.settle()
	w.wantState(sent.TxID, ledger.Final)
	if live := w.snapshot().Live; !bytes.Equal(live.Script, second) {
		t.Fatalf("after the reorganisation the coin has the script %x", live.Script)
	}
	last := w.anchorNow()
	w.settle()
	w.wantState(last.TxID, ledger.Final)
}

// A server that has not been restarted since the rotation takes over: it knows its
// fellow's anchor as ours, and creates none that leads back to the former key.
func TestRotationUnknownToAServer(t *testing.T) {
	w := newWorld(t, newMemStore())
	w.policed(keyOne)
	stale := w.signs
	w.policed(keyOne + "," + keyTwo)
	second := w.signer.Script()
	moving := w.anchorNow()
	fresh := w.signs
	w.signs = stale
	w.restart()
	w.node.mine()
	w.mustStep()
	w.wantState(moving.TxID, ledger.Mined)
	if snap := w.snapshot(); snap.Foreign != nil || !bytes.Equal(snap.Live.Script, second) {
		t.Fatalf("foreign spend %v, live coin %+v", snap.Foreign, snap.Live)
	}
	w.log.grow(1)
	w.now = w.now.Add(interval)
	if err := w.step(); !errors.Is(err, wallet.ErrPolicy) {
		t.Fatalf("an anchor by a server without the key: %v", err)
	}
	w.signs = fresh
	w.restart()
	w.node.mine()
	w.now = w.now.Add(interval)
	w.settle()
	if live := w.snapshot().Live; !bytes.Equal(live.Script, second) {
		t.Fatalf("the coin went back to the script %x", live.Script)
	}
}

// An older database, after the rotation: its anchors are in the chain, and are
// imported and not fought.
func TestRotationUnknownToDatabase(t *testing.T) {
	w := newWorld(t, newMemStore())
	w.policed(keyOne + "," + keyTwo)
	moving := w.anchorNow()
	tx := w.node.pool()[moving.TxID]
	w2 := newWorld(t, newMemStore())
	w2.policed(keyOne + "," + keyTwo)
	w2.log.grow(1)
	w2.node.mine(tx)
	w2.mustStep()
	a, ok, err := w2.store.Attempt(t.Context(), moving.TxID)
	if err != nil || !ok || !a.Imported || a.State != ledger.Mined {
		t.Fatalf("attempt is %+v (found: %v): %v", a.State, ok, err)
	}
	w2.anchorNow() // its coin was made by an imported attempt
	w2.settle()
}

// The randomised life with the policy: it refuses nothing that the engine asks for.
func TestRandomLifeUnderPolicy(t *testing.T) {
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	w := newWorld(t, newMemStore())
	w.policed(keyOne + "," + keyTwo)
	randomLife(t, w, rand.New(rand.NewPCG(seed, 0)), 400)
	if !bytes.Contains(w.logged.Bytes(), []byte("signed an anchor")) || bytes.Contains(w.logged.Bytes(), []byte("refused to sign")) {
		t.Fatalf("the policy signed nothing, or refused the engine:\n%s", w.logged.String())
	}
}

func TestPrevious(t *testing.T) {
	w := newWorld(t, newMemStore())
	w.policed(keyOne)
	previous := anchor.Previous{Attempts: w.store, Node: w.node}
	first := w.snapshot().Live.Outpoint
	raw, err := previous.Transaction(t.Context(), first)
	if err != nil || len(raw) == 0 {
		t.Fatalf("transaction of the first coin: %v", err)
	}
	a := w.anchorNow()
	got, err := previous.Transaction(t.Context(), calpe.Outpoint{TxID: a.TxID, Vout: 1})
	if err != nil || !bytes.Equal(got, a.Unsigned) {
		t.Errorf("transaction of an attempt: %x, %v", got, err)
	}
	if _, err := previous.Transaction(t.Context(), calpe.Outpoint{TxID: calpe.BlockHash{7}}); !errors.Is(err, anchor.ErrNoDeposit) {
		t.Errorf("an unknown transaction: %v", err)
	}
	for _, method := range []string{"txout", "block", "best"} {
		w.node.fault = func(called string) (bool, error) {
			if called == method {
				return false, errFault
			}
			return true, nil
		}
		if _, err := previous.Transaction(t.Context(), first); !errors.Is(err, errFault) {
			t.Errorf("%s fails: %v", method, err)
		}
	}
	w.node.fault = nil
	w.faults.fault = func(string) (bool, error) { return false, errFault }
	if _, err := (anchor.Previous{Attempts: w.faults, Node: w.node}).Transaction(t.Context(), first); !errors.Is(err, errFault) {
		t.Errorf("the store fails: %v", err)
	}
}

// serveSigner serves a policy on a socket until the test ends, and gives a function
// that restarts it, with the keys and the state in its files.
func serveSigner(t *testing.T, network calpe.Network, keystore, state string, lock wallet.Lock, caps wallet.Caps) (socket string, restart func()) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "s")
	stop := func() {}
	restart = func() {
		t.Helper()
		stop()
		keys, err := wallet.Open(keystore, network, lock)
		if err != nil {
			t.Fatalf("open keystore: %v", err)
		}
		file, err := signer.OpenState(state, network, keys.Keys()[0].Address())
		if err != nil {
			t.Fatalf("open state: %v", err)
		}
		policy, err := signer.NewPolicy(signer.PolicyConfig{Keys: keys, Caps: caps, State: file})
		if err != nil {
			t.Fatalf("make policy: %v", err)
		}
		server, err := signer.NewServer(signer.ServerConfig{Signer: policy, Users: []uint32{uint32(os.Getuid())}})
		if err != nil {
			t.Fatalf("make server: %v", err)
		}
		listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
		if err != nil {
			t.Fatalf("listen: %v", err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- server.Serve(ctx, listener) }()
		stop = func() {
			cancel()
			if err := errors.Join(<-done, file.Close()); err != nil {
				t.Errorf("signer: %v", err)
			}
		}
	}
	restart()
	t.Cleanup(func() { stop() })
	return socket, restart
}

// On a real node and a real database, with the signer behind its socket: anchors,
// a signer that is restarted, and a rotation by an anchor.
func TestRealRotation(t *testing.T) { forEachNode(t, realRotation) }

func realRotation(t *testing.T, kind nodetest.Kind) {
	t.Helper()
	w := newRealWorld(t, kind, calpe.Regtest)
	caps := w.caps
	caps.Day = 100_000
	state := filepath.Join(t.TempDir(), "state.json")
	if err := signer.CreateState(state, signer.State{Network: calpe.Regtest, Address: w.keys.Current().Address()}, false); err != nil {
		t.Fatal(err)
	}
	socket, restart := serveSigner(t, calpe.Regtest, w.keystore, state, w.lock, caps)
	client, err := signer.NewClient(t.Context(), signer.ClientConfig{
		Signer: signer.NewRemote(socket), Network: calpe.Regtest, Proofs: proofs{}, Transactions: anchor.Previous{Attempts: w.store, Node: w.node},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.signs = client
	w.restart()
	anchored := func(size uint64) ledger.Attempt {
		t.Helper()
		w.log.grow(size - w.log.size)
		w.now = w.now.Add(interval)
		w.step()
		a := w.newest()
		w.node.Generate(1)
		w.step()
		if got := w.attempt(a.TxID); got.State != ledger.Mined || got.Size != size {
			t.Fatalf("anchor of %d entries is %s of %d", size, got.State, got.Size)
		}
		return a
	}
	first := client.Script()
	anchored(3)
	restart()
	anchored(10)
	if _, err := wallet.Rotate(w.keystore, calpe.Regtest, w.lock, w.now); err != nil {
		t.Fatal(err)
	}
	restart()
	if client, err = signer.NewClient(t.Context(), signer.ClientConfig{
		Signer: signer.NewRemote(socket), Network: calpe.Regtest, Proofs: proofs{}, Transactions: anchor.Previous{Attempts: w.store, Node: w.node},
	}); err != nil {
		t.Fatal(err)
	}
	w.signs = client
	w.restart()
	moving := anchored(17)
	snap, err := w.store.Snapshot(t.Context())
	if err != nil || bytes.Equal(client.Script(), first) || !bytes.Equal(snap.Live.Script, client.Script()) || snap.Live.Outpoint.TxID != moving.TxID {
		t.Fatalf("after the rotation the coin is %+v: %v", snap.Live, err)
	}
	w.reorganise(1)
	w.step()
	anchored(18)
	w.node.Generate(6)
	w.step()
	if last, err := w.store.AnchorFor(t.Context(), 17); err != nil || !last.Final || last.Size != 18 {
		t.Fatalf("last anchor: %+v, %v", last, err)
	}
	status, err := signer.NewRemote(socket).Status(t.Context())
	if err != nil || status.Size != 18 || len(status.Scripts) != 2 || status.Spent == 0 {
		t.Errorf("status %+v, %v", status, err)
	}
}
