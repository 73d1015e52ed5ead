package main

import (
	"bytes"
	"context"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/btcsuite/btcd/wire/v2"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/batch/batchtest"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/headers"
	"github.com/calpe/calpe/receipt/statement"
)

// blockNode is an archival node in memory.
type blockNode struct {
	chain  *batchtest.Chain
	read   map[uint32]int
	pruned int // up to that height
	fault  error
	before func(height uint32)
}

func (n *blockNode) Height(context.Context) (uint32, error) { return uint32(n.chain.Tip()), n.fault }

func (n *blockNode) BlockHash(_ context.Context, height uint32) (calpe.BlockHash, error) {
	if n.before != nil {
		n.before(height)
	}
	if int(height) > n.chain.Tip() {
		return calpe.BlockHash{}, errNode
	}
	return calpe.BlockHash(n.chain.Blocks[height].BlockHash()), n.fault
}

func (n *blockNode) Header(context.Context, calpe.BlockHash) ([calpe.HeaderSize]byte, error) {
	return [calpe.HeaderSize]byte{}, errNode
}

func (n *blockNode) Block(_ context.Context, hash calpe.BlockHash) (*wire.MsgBlock, error) {
	for height, b := range n.chain.Blocks {
		if calpe.BlockHash(b.BlockHash()) == hash && height > n.pruned {
			n.read[uint32(height)]++
			return b, nil
		}
	}
	return nil, errNode
}

// scanWorld is a chain with a first coin in block 4, and two anchors in block 6
// and one in block 8.
type scanWorld struct {
	t     *testing.T
	node  *blockNode
	s     scanner
	chain *batchtest.Chain
	coin  calpe.Outpoint
}

func newScanWorld(t *testing.T) *scanWorld {
	t.Helper()
	w := &scanWorld{t: t, chain: batchtest.NewChain(t, 1)}
	first := batchtest.Coin(5000)
	w.coin = calpe.Outpoint{TxID: calpe.BlockHash(first.TxHash())}
	identity := batchtest.NewLog(t, "log.example/scan").Identity
	start := w.coin
	identity.FirstOutpoint = &start
	w.chain.Empty(3)
	w.chain.Mine(first)
	w.chain.Empty(1)
	w.chain.Mine(w.anchor(1, 4000), w.anchor(2, 3000))
	w.chain.Empty(1)
	w.chain.Mine(batchtest.Coin(1), w.anchor(7, 2000, calpe.Outpoint{Vout: 9}))
	w.chain.Empty(2)
	w.node = &blockNode{chain: w.chain, read: map[uint32]int{}, pruned: -1}
	w.s = scanner{node: w.node, identity: identity, below: math.MaxUint32, progress: func(int, int) {}}
	return w
}

// anchor spends the coin, and makes the next.
func (w *scanWorld) anchor(size uint64, change int64, deposits ...calpe.Outpoint) *wire.MsgTx {
	tx := batchtest.AnchorTx(calpe.Payload{Size: size}, change, append([]calpe.Outpoint{w.coin}, deposits...)...)
	w.coin = calpe.Outpoint{TxID: calpe.BlockHash(tx.TxHash()), Vout: 1}
	return tx
}

func (w *scanWorld) headers() *headers.Chain {
	w.t.Helper()
	params, err := headers.ParamsFor(calpe.Regtest)
	if err != nil {
		w.t.Fatal(err)
	}
	chain, err := headers.Read(bytes.NewReader(w.chain.Headers()), params)
	if err != nil {
		w.t.Fatal(err)
	}
	return chain
}

func TestScan(t *testing.T) {
	from := func(height uint32) *uint32 { return &height }
	for name, tc := range map[string]struct {
		from   *uint32
		below  uint32
		lowest uint32 // block that is read
	}{
		"nothing is known":         {nil, math.MaxUint32, 4},
		"the first anchor's block": {nil, 6, 4},
		"the coin's block":         {from(4), math.MaxUint32, 4},
		"a block before it":        {from(0), math.MaxUint32, 0},
	} {
		t.Run(name, func(t *testing.T) {
			w := newScanWorld(t)
			w.s.from, w.s.below, w.s.headers = tc.from, tc.below, w.headers()
			got, err := w.s.run(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if got.FirstValue != 5000 || got.Foreign != nil || got.Tip != 10 || len(got.Anchors) != 3 {
				t.Fatalf("%+v", got)
			}
			for i, want := range []struct {
				height, position uint32
				size             uint64
			}{{6, 1, 1}, {6, 2, 2}, {8, 2, 7}} {
				a := got.Anchors[i]
				if link, err := a.Link(); err != nil || a.Height != want.height || a.Position != want.position || link.Payload.Size != want.size {
					t.Errorf("anchor %d: %+v, %v", i, link, err)
				}
			}
			for height := range tc.lowest {
				if w.node.read[height] > 0 {
					t.Errorf("block %d was read", height)
				}
			}
		})
	}
}

// A transaction that is no anchor ends the chain.
func TestScanForeignSpend(t *testing.T) {
	for name, thief := range map[string]func(w *scanWorld) *wire.MsgTx{
		"no payload": func(w *scanWorld) *wire.MsgTx {
			tx := w.anchor(9, 1000)
			tx.TxOut[0].PkScript = []byte{0x6a}
			return tx
		},
		"another input before the coin": func(w *scanWorld) *wire.MsgTx {
			return batchtest.AnchorTx(calpe.Payload{Size: 9}, 1000, calpe.Outpoint{Vout: 4}, w.coin)
		},
		"no change": func(w *scanWorld) *wire.MsgTx {
			tx := w.anchor(9, 1000)
			tx.TxOut = tx.TxOut[:1]
			return tx
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newScanWorld(t)
			tx := thief(w)
			w.chain.Mine(tx)
			w.chain.Mine(batchtest.AnchorTx(calpe.Payload{Size: 10}, 500, calpe.Outpoint{TxID: calpe.BlockHash(tx.TxHash()), Vout: 1}))
			got, err := w.s.run(t.Context())
			if err != nil || len(got.Anchors) != 3 || got.Foreign == nil {
				t.Fatalf("%+v, %v", got, err)
			}
			if link, err := got.Foreign.Link(); err != nil || link.TxID != calpe.BlockHash(tx.TxHash()) || got.Foreign.Height != 11 {
				t.Errorf("%+v, %v", link, err)
			}
		})
	}
}

// A published break says where the chain goes on: the spend of the coin that it names
// must be the one that it names.
func TestScanGoesOnBehindBreak(t *testing.T) {
	for name, tc := range map[string]struct {
		edit    func(b *statement.Break)
		anchors int
		breaks  int
	}{
		"as declared": {func(*statement.Break) {}, 4, 1},
		// To the scan that transaction is an anchor of some history then.
		"another coin":               {func(b *statement.Break) { b.Coin.Vout = 9 }, 4, 0},
		"another spend":              {func(b *statement.Break) { b.SpentBy[1] ^= 1 }, 4, 0},
		"another coin to go on with": {func(b *statement.Break) { b.First.Vout = 9 }, 3, 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := newScanWorld(t)
			broken := w.coin
			theft := w.anchor(9, 1000) // with the form of an anchor
			deposit := batchtest.Coin(7000)
			w.chain.Mine(theft)
			w.chain.Mine(deposit)
			w.coin = calpe.Outpoint{TxID: calpe.BlockHash(deposit.TxHash())}
			body := statement.Break{Coin: broken, SpentBy: calpe.BlockHash(theft.TxHash()), First: w.coin, Reason: "r", Time: time.Unix(1e9, 0)}
			tc.edit(&body)
			signed, err := statement.Sign(batchtest.Key(t, "anybody"), body)
			if err != nil {
				t.Fatal(err)
			}
			w.s.breaks = []receipt.Break{{Statement: signed}}
			w.chain.Mine(w.anchor(10, 6000))
			got, err := w.s.run(t.Context())
			if err != nil || len(got.Anchors) != tc.anchors || len(got.Breaks) != tc.breaks || got.Foreign != nil || got.Tip != 13 {
				t.Fatalf("%d anchors, %+v, %v", len(got.Anchors), got.Foreign, err)
			}
			if tc.breaks > 0 && (got.Breaks[0].After != 3 || got.Breaks[0].Spend.Height != 11) {
				t.Errorf("%+v", got.Breaks)
			}
		})
	}
}

func TestScanFails(t *testing.T) {
	high := uint32(5)
	for name, tc := range map[string]struct {
		spoil func(w *scanWorld)
		text  string
	}{
		"the node is down":      {func(w *scanWorld) { w.node.fault = errNode }, errNode.Error()},
		"from too high":         {func(w *scanWorld) { w.s.from = &high }, "--from-height is too high"},
		"a lie about the first": {func(w *scanWorld) { w.s.below = 2 }, "give --from-height"},
		"another chain than the headers": {func(w *scanWorld) {
			w.s.headers = w.headers()
			w.node.chain = w.chain.Fork(7, 2)
			w.node.chain.Empty(5)
		}, "the headers have"},
		"reorganised meanwhile": {func(w *scanWorld) {
			w.s.below = 6
			w.node.before = func(height uint32) {
				if height == 7 {
					w.node.chain = w.chain.Fork(5, 2)
					w.node.chain.Empty(9)
				}
			}
		}, "reorganised"},
		"a pruned node": {func(w *scanWorld) { w.node.pruned = 5 }, "of which a pruned node has only the newest"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newScanWorld(t)
			tc.spoil(w)
			if got, err := w.s.run(t.Context()); err == nil || !strings.Contains(err.Error(), tc.text) {
				t.Errorf("%+v, %v; want %q", got, err, tc.text)
			}
		})
	}
}

// The options of anchors that don't go together, and files that don't fit.
func TestAuditAnchorUsage(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.publish("log", 3, 1)
	h.expect(exitUsage, []string{"audit", "--log", h.path("log"), "--node", "http://127.0.0.1:1", "--scan"}, "anchored by calendars")
	h.s.id.FirstOutpoint = &calpe.Outpoint{Vout: 1}
	h.write("identity.json", h.s.id.Canonical())
	h.publish("log", 3, 1)
	log := []string{"audit", "--log", h.path("log")}
	h.write("chain.bin", newChain(t).file())
	for _, tc := range []struct {
		args []string
		text string
	}{
		{[]string{"--scan"}, "--node URL"},
		{[]string{"--from-height", "5"}, "goes with --scan"},
		{[]string{"--depth", "0"}, "--depth is at least 1"},
		{[]string{"--headers", h.path("missing")}, "no such file"},
		{[]string{"--headers", h.path("log/checkpoint")}, "not a file of block headers"},
		{[]string{"--node", "http://127.0.0.1:1"}, "not available"},
	} {
		h.expect(exitUsage, append(log, tc.args...), tc.text)
	}
	h.expect(exitOK, append(log, "--headers", h.path("chain.bin")), "anchors     0", "3 entries")
	h.put("log", receipt.AnchorsPath(0), []byte("?\n"))
	h.expect(exitRefuted, log, "Answer: REFUTED", "page of anchors")
	bad := newNode(t, newChain(t))
	bad.name = "signet"
	h.expect(exitUsage, append(append(log, bad.flags()...), "--headers", h.path("chain.bin")), "another network")
}
