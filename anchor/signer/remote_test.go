package signer_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/anchor/signer"
	"github.com/calpe/calpe/anchor/wallet"
)

// serve serves a signer to these users until the test ends.
func serve(t testing.TB, s signer.Signer, users ...uint32) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	server, err := signer.NewServer(signer.ServerConfig{Signer: s, Users: users, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatalf("make server: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("serve: %v", err)
			}
		case <-time.After(2 * time.Minute):
			t.Error("the server doesn't stop")
		}
	})
	return path
}

func self() uint32 { return uint32(os.Getuid()) }

func (w *world) client(s signer.Signer) *signer.Client {
	w.t.Helper()
	c, err := signer.NewClient(w.t.Context(), signer.ClientConfig{Signer: s, Network: calpe.Regtest, Transactions: w.known, Proofs: fakeLog{}})
	if err != nil {
		w.t.Fatalf("make client: %v", err)
	}
	return c
}

// The engine's side and the signer's, over a socket: what is signed is what was
// asked for, and every refusal keeps its kind.
func TestOverTheSocket(t *testing.T) {
	w := newWorld(t)
	remote := signer.NewRemote(serve(t, w.policy, self()))
	c := w.client(remote)
	if !bytes.Equal(c.Script(), w.keys.Current().Script()) || !c.Owns(c.Script()) || c.Owns(stranger(t)) {
		t.Error("the client has other keys than the signer")
	}
	coin := w.pay(c.Script(), 100_000)
	for _, size := range []uint64{3, 3, 9, 7, 10} {
		a := w.anchor(size, 400, coin)
		raw, err := c.Sign(t.Context(), a.Unsigned, a.Inputs)
		if err != nil {
			t.Fatalf("sign %d entries: %v", size, err)
		}
		coin = w.learn(parse(t, raw))
		if coin.Outpoint.TxID != a.TxID {
			t.Errorf("signed %v, asked for %v", coin.Outpoint.TxID, a.TxID)
		}
	}
	a := w.anchor(12, 400, coin)
	for name, row := range map[string]struct {
		change func(r *signer.Request)
		want   error
	}{
		"policy":  {func(r *signer.Request) { r.Unsigned = r.Unsigned[:30] }, wallet.ErrPolicy},
		"cap":     {func(r *signer.Request) { *r = w.request(w.anchor(12, 6_000, coin)) }, wallet.ErrCap},
		"history": {func(r *signer.Request) { r.Proof = nil }, signer.ErrHistory},
	} {
		r := w.request(a)
		row.change(&r)
		if raw, err := remote.Sign(t.Context(), r); !errors.Is(err, row.want) || raw != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	w.now = w.now.Add(-time.Hour)
	for range 3 {
		a := w.anchor(12, 4_000, coin)
		raw, err := c.Sign(t.Context(), a.Unsigned, a.Inputs)
		if err != nil && !errors.Is(err, signer.ErrBudget) {
			t.Errorf("budget: %v", err)
		}
		if err == nil {
			coin = w.learn(parse(t, raw))
		}
	}
	stranger := w.pay(c.Script(), 50_000)
	a = w.anchor(13, 4_000, stranger)
	if _, err := c.Sign(t.Context(), a.Unsigned, a.Inputs); !errors.Is(err, signer.ErrChain) {
		t.Errorf("another chain: %v", err)
	}
	a = w.anchor(13, 4_000, coin)
	if _, err := c.Sign(t.Context(), a.Unsigned, a.Inputs); !errors.Is(err, signer.ErrBudget) {
		t.Errorf("above the budget: %v", err)
	}
}

// The client learns of a rotation from a signer that was restarted.
func TestClientLearnsOfRotation(t *testing.T) {
	w := newWorld(t)
	first := w.keys.Current().Script()
	swap := &swapped{Signer: w.policy}
	c := w.client(swap)
	coin := w.pay(first, 100_000)
	a := w.anchor(3, 400, coin)
	if _, err := wallet.Rotate(w.keystore(), calpe.Regtest, lock, w.now); err != nil {
		t.Fatal(err)
	}
	w.restart()
	swap.Signer = w.policy
	if _, err := c.Sign(t.Context(), a.Unsigned, a.Inputs); err != nil {
		t.Fatalf("sign what was built before: %v", err)
	}
	if second := w.keys.Current().Script(); !bytes.Equal(c.Script(), second) || !c.Owns(first) || !c.Owns(second) {
		t.Error("the client didn't learn of the new key")
	}
}

type swapped struct{ signer.Signer }

// liar is a signer with answers of its own.
type liar struct {
	status signer.Status
	raw    []byte
}

func (l liar) Status(context.Context) (signer.Status, error)        { return l.status, nil }
func (l liar) Sign(context.Context, signer.Request) ([]byte, error) { return l.raw, nil }

// A signer isn't believed either.
func TestClientChecksSigner(t *testing.T) {
	w := newWorld(t)
	status, err := w.policy.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	coin := w.pay(w.keys.Current().Script(), 100_000)
	a, b := w.anchor(3, 400, coin), w.anchor(3, 500, coin)
	other, err := w.policy.Sign(t.Context(), w.request(b))
	if err != nil {
		t.Fatal(err)
	}
	right, err := w.policy.Sign(t.Context(), w.request(a))
	if err != nil {
		t.Fatal(err)
	}
	for name, raw := range map[string][]byte{"nothing": nil, "noise": {1, 2, 3}, "another transaction": other, "more": append(bytes.Clone(right), 0)} {
		if _, err := w.client(liar{status, raw}).Sign(t.Context(), a.Unsigned, a.Inputs); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	wrong := func(change func(*signer.Status)) signer.Status { s := status; change(&s); return s }
	for name, s := range map[string]signer.Status{
		"network":    wrong(func(s *signer.Status) { s.Network = calpe.Signet }),
		"no scripts": wrong(func(s *signer.Status) { s.Scripts = nil }),
		"a script":   wrong(func(s *signer.Status) { s.Scripts = [][]byte{{0x51}} }),
	} {
		cfg := signer.ClientConfig{Signer: liar{status: s}, Network: calpe.Regtest, Transactions: w.known, Proofs: fakeLog{}}
		if _, err := signer.NewClient(t.Context(), cfg); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
	if _, err := signer.NewClient(t.Context(), signer.ClientConfig{Signer: w.policy, Network: calpe.Regtest}); err == nil {
		t.Error("a client without transactions and proofs")
	}
}

// What the client can't collect is an error, and the signer isn't asked. What the
// signer did before its answer was lost is done once.
func TestClientFaults(t *testing.T) {
	w := newWorld(t)
	f := &faulty{Signer: w.policy}
	c := w.client(f)
	coin := w.pay(c.Script(), 100_000)
	a := w.anchor(3, 400, coin)
	lost := errors.New("the answer was lost")
	for _, apply := range []bool{false, true} {
		f.apply, f.err = apply, lost
		if _, err := c.Sign(t.Context(), a.Unsigned, a.Inputs); !errors.Is(err, lost) {
			t.Fatalf("applied %v: %v", apply, err)
		}
	}
	f.err = nil
	raw, err := c.Sign(t.Context(), a.Unsigned, a.Inputs)
	if err != nil {
		t.Fatalf("after lost answers: %v", err)
	}
	if s, _ := w.policy.Status(t.Context()); s.Spent > 400 {
		t.Errorf("counted more than once: %d sat", s.Spent)
	}
	next := w.anchor(5, 400, w.learn(parse(t, raw)))
	f.err = errors.New("it was asked")
	broken := errors.New("tiles are gone")
	noProof, err := signer.NewClient(t.Context(), signer.ClientConfig{Signer: f, Network: calpe.Regtest, Transactions: w.known, Proofs: fakeLog{broken}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := noProof.Sign(t.Context(), next.Unsigned, next.Inputs); !errors.Is(err, broken) {
		t.Errorf("without a proof: %v", err)
	}
	if _, err := c.Sign(t.Context(), next.Unsigned, []ledger.Input{{Outpoint: calpe.Outpoint{Vout: 9}}}); err == nil || errors.Is(err, f.err) {
		t.Errorf("without the previous transaction: %v", err)
	}
	for n := range next.Unsigned {
		if _, err := c.Sign(t.Context(), next.Unsigned[:n], next.Inputs); err == nil || errors.Is(err, f.err) {
			t.Fatalf("asked for %d bytes of it: %v", n, err)
		}
	}
}

// Who isn't allowed gets nothing, not even a status.
func TestOtherUserIsRefused(t *testing.T) {
	w := newWorld(t)
	remote := signer.NewRemote(serve(t, w.policy, self()+1))
	if _, err := remote.Status(t.Context()); err == nil {
		t.Error("another user got the status")
	}
	a := w.anchor(3, 400, w.pay(w.keys.Current().Script(), 100_000))
	if _, err := remote.Sign(t.Context(), w.request(a)); err == nil {
		t.Error("another user got a signature")
	}
	if s, _ := w.policy.Status(t.Context()); s.Size != 0 {
		t.Error("another user's request was judged")
	}
}

// exchange sends bytes, and reads what comes back.
func exchange(t testing.TB, socket string, content []byte) string {
	t.Helper()
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, _ = conn.Write(content)
	_ = conn.(*net.UnixConn).CloseWrite()
	out, _ := io.ReadAll(conn)
	return string(out)
}

func TestBadCalls(t *testing.T) {
	w := newWorld(t)
	socket := serve(t, w.policy, self())
	big := strings.Repeat("A", 8<<10)
	for name, content := range map[string]string{
		"nothing": "", "noise": "\x00\xff{", "not an object": "[]", "no method": "{}", "another method": `{"method":"export"}`,
		"sign without": `{"method":"sign"}`, "status with": `{"method":"status","sign":{"unsigned":"","previous":[],"proof":[]}}`,
		"unknown member": `{"method":"status","more":1}`, "twice": `{"method":"status","method":"sign"}`, "two": `{"method":"status"}{"method":"status"}`,
		"unsigned too long":     `{"method":"sign","sign":{"unsigned":"` + big + `","previous":[],"proof":[]}}`,
		"too many previous":     `{"method":"sign","sign":{"unsigned":"","previous":[` + strings.Repeat(`"",`, 20) + `""],"proof":[]}}`,
		"a previous too large":  `{"method":"sign","sign":{"unsigned":"","previous":["` + strings.Repeat("AAAA", 333_334) + `"],"proof":[]}}`,
		"too long a proof":      `{"method":"sign","sign":{"unsigned":"","previous":[],"proof":[` + strings.Repeat(`"`+calpe.Hash{}.String()+`",`, 96) + `"` + calpe.Hash{}.String() + `"]}}`,
		"a hash of half length": `{"method":"sign","sign":{"unsigned":"","previous":[],"proof":["00"]}}`,
		"larger than any call":  strings.Repeat(" ", 32<<20+1),
	} {
		if out := exchange(t, socket, []byte(content)); !strings.HasPrefix(out, `{"error":{"code":"failed"`) {
			t.Errorf("%s: answered %.200q", name, out)
		}
	}
	if out := exchange(t, socket, []byte(` {"method":"status"} `)); !strings.HasPrefix(out, `{"status":{"network":"regtest"`) {
		t.Errorf("a good call: answered %q", out)
	}
}

// Whoever connects and says nothing holds up neither others nor a shutdown.
func TestSilentConnections(t *testing.T) {
	w := newWorld(t)
	t.Run("served", func(t *testing.T) {
		socket := serve(t, w.policy, self())
		conn, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		w.t.Cleanup(func() { conn.Close() }) // long after the server has stopped
		if _, err := signer.NewRemote(socket).Status(t.Context()); err != nil {
			t.Errorf("beside a silent connection: %v", err)
		}
	})
}

func TestRemoteFaults(t *testing.T) {
	dir := t.TempDir()
	if _, err := signer.NewRemote(filepath.Join(dir, "none")).Status(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no socket: %v", err)
	}
	for name, out := range map[string]string{
		"nothing": "", "noise": "}", "both empty": "{}", "unknown member": `{"seed":"x"}`, "raw for status": `{"raw":"AA=="}`, "too long": strings.Repeat(" ", 65<<10),
		"an error that we don't know": `{"error":{"code":"new","text":"no"}}`,
	} {
		path := filepath.Join(t.TempDir(), "s")
		listener, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.ReadAll(conn)
			_, _ = io.WriteString(conn, out)
			conn.Close()
		})
		if s, err := signer.NewRemote(path).Status(t.Context()); err == nil {
			t.Errorf("%s: status %+v", name, s)
		}
		listener.Close()
		wg.Wait()
	}
	silent, err := net.Listen("unix", filepath.Join(dir, "silent"))
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := signer.NewRemote(filepath.Join(dir, "silent")).Status(ctx); err == nil {
		t.Error("a signer that says nothing gave a status")
	}
	if _, err := signer.NewServer(signer.ServerConfig{}); err == nil {
		t.Error("a server without a signer")
	}
}
