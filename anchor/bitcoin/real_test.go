package bitcoin_test

import (
	"errors"
	"testing"

	"github.com/btcsuite/btcd/txscript/v2"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/bitcoin"
	"github.com/calpe/calpe/anchor/bitcoin/nodetest"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/anchor/wallet"
)

// Every method against a real node.
func TestRealNode(t *testing.T) {
	for _, kind := range nodetest.Kinds() {
		t.Run(string(kind), func(t *testing.T) { realNode(t, kind) })
	}
}

func realNode(t *testing.T, kind nodetest.Kind) {
	t.Helper()
	n := nodetest.Start(t, kind, calpe.Regtest)
	ctx := t.Context()

	if err := n.CheckNetwork(ctx, calpe.Regtest); err != nil {
		t.Errorf("right network: %v", err)
	}
	for _, wrong := range []calpe.Network{calpe.Mainnet, calpe.Simnet, calpe.Testnet3, calpe.Testnet4, calpe.Signet} {
		if err := n.CheckNetwork(ctx, wrong); !errors.Is(err, bitcoin.ErrWrongNetwork) {
			t.Errorf("%s: %v", wrong, err)
		}
	}
	height, tip, err := n.BestBlock(ctx)
	if err != nil || height != 110 {
		t.Fatalf("best block is %d: %v", height, err)
	}
	for h := range height + 1 {
		hash, err := n.BlockHash(ctx, h)
		if err != nil {
			t.Fatalf("hash of block %d: %v", h, err)
		}
		if _, err := n.Header(ctx, hash); err != nil {
			t.Fatalf("header %d: %v", h, err)
		}
		if _, err := n.Block(ctx, hash); err != nil {
			t.Fatalf("block %d: %v", h, err)
		}
	}
	var refusal *bitcoin.RPCError
	if _, err := n.BlockHash(ctx, height+1); !errors.As(err, &refusal) {
		t.Errorf("hash above the tip: %v", err)
	}
	if _, err := n.Block(ctx, calpe.BlockHash{1}); !errors.As(err, &refusal) {
		t.Errorf("unknown block: %v", err)
	}
	if _, ok, err := n.FeeRate(ctx, 6); ok || err != nil {
		t.Errorf("a node that saw nothing has an estimate: %v, %v", ok, err)
	}

	good, id := n.Pay(p2wpkh(), 54_321)
	dust, _ := n.Pay(p2wpkh(), wallet.Dust-1)
	for name, row := range map[string]struct {
		raw  []byte
		want ledger.AnswerKind
	}{"good": {good, ledger.Accepted}, "dust": {dust, ledger.Policy}} {
		if a, err := n.TestAccept(ctx, row.raw); err != nil || a.Kind != row.want {
			t.Errorf("test accept of %s: %+v, %v", name, a, err)
		}
	}
	if a, err := n.Send(ctx, dust); err != nil || a.Kind != ledger.Policy {
		t.Errorf("send of dust: %+v, %v", a, err)
	}
	if _, ok, err := n.TxOut(ctx, calpe.Outpoint{TxID: id}); ok || err != nil {
		t.Errorf("an output in no block: %v, %v", ok, err)
	}
	again := ledger.AlreadyKnown
	if kind == nodetest.Core {
		again = ledger.Accepted // and it announces the transaction again
	}
	for i, want := range []ledger.AnswerKind{ledger.Accepted, again} {
		if a, err := n.Send(ctx, good); err != nil || a.Kind != want {
			t.Errorf("send %d: %+v, %v, want %s", i, a, err, want)
		}
	}
	n.Generate(1)
	if a, err := n.Send(ctx, good); err != nil || a.Kind != ledger.AlreadyMined {
		t.Errorf("send of a mined one: %+v, %v", a, err)
	}
	out, ok, err := n.TxOut(ctx, calpe.Outpoint{TxID: id})
	if err != nil || !ok || out.Value != 54_321 || out.Confirmations != 1 || out.BestBlock == tip || string(out.Script) != string(p2wpkh()) {
		t.Errorf("output: %+v, %v, %v", out, ok, err)
	}
	if _, _, err := n.TxOut(ctx, calpe.Outpoint{TxID: id, Vout: 9}); err != nil {
		t.Errorf("output that isn't there: %v", err)
	}

	// The block of a former branch can still be read.
	best, hash, err := n.BestBlock(ctx)
	if err != nil {
		t.Fatalf("best block: %v", err)
	}
	n.Invalidate(hash)
	if h, _, err := n.BestBlock(ctx); err != nil || h != best-1 {
		t.Errorf("height after a block was taken away: %d, %v", h, err)
	}
	if _, err := n.Block(ctx, hash); err != nil {
		t.Errorf("block of a former branch: %v", err)
	}

	wrong, err := bitcoin.New(bitcoin.Config{URL: n.URL, User: "calpe", Password: "wrong"})
	if err != nil {
		t.Fatalf("make client: %v", err)
	}
	if _, err := wrong.Height(ctx); !errors.Is(err, bitcoin.ErrUnauthorized) {
		t.Errorf("wrong password: %v", err)
	}
	n.Stop()
	if _, err := n.Height(ctx); !errors.Is(err, bitcoin.ErrUnavailable) {
		t.Errorf("a node that is down: %v", err)
	}
}

func p2wpkh() []byte { return append([]byte{txscript.OP_0, 20}, make([]byte, 20)...) }
