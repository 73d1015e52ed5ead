package audit_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/btcsuite/btcd/wire/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/audit"
	"github.com/calpe/calpe/batch/batchtest"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/headers"
)

// anchored is a log with a chain of anchors.
type anchored struct {
	t       *testing.T
	s       *server
	chain   *batchtest.Chain
	coin    calpe.Outpoint
	value   int64
	anchors []receipt.Anchor
}

const fee = 500

func newAnchored(t *testing.T) *anchored {
	t.Helper()
	l := newLog(t)
	a := &anchored{t: t, chain: batchtest.NewChain(t, 1), value: 1_000_000}
	first := batchtest.Coin(a.value)
	a.chain.Mine(first)
	a.coin = calpe.Outpoint{TxID: calpe.BlockHash(first.TxHash())}
	l.keys.Identity.FirstOutpoint = &a.coin
	first0 := a.coin
	l.keys.Identity.FirstOutpoint = &first0
	l.entries = []calpe.Entry{l.keys.Identity.Entry()}
	a.s = serve(l)
	return a
}

// grow adds a checkpoint of that size to the log.
func (a *anchored) grow(size uint64) calpe.Payload {
	a.t.Helper()
	a.s.log.grow(size, 1)
	return calpe.Payload{Size: size, Root: a.s.log.root}
}

// anchor mines an anchor of the payload, with further inputs if there are any.
func (a *anchored) anchor(p calpe.Payload, deposits ...calpe.Outpoint) {
	a.t.Helper()
	a.mine(batchtest.AnchorTx(p, a.value-fee, append([]calpe.Outpoint{a.coin}, deposits...)...))
}

// mine puts transactions into a block, the chain of coins goes on with each.
func (a *anchored) mine(txs ...*wire.MsgTx) {
	a.t.Helper()
	a.chain.Mine(txs...)
	for i, tx := range txs {
		a.anchors = append(a.anchors, *receipt.NewAnchor(a.s.log.keys.Identity, a.chain.Anchor(a.chain.Tip(), i+1, calpe.Payload{})))
		a.coin, a.value = calpe.Outpoint{TxID: calpe.BlockHash(tx.TxHash()), Vout: 1}, tx.TxOut[len(tx.TxOut)-1].Value
	}
}

// publish puts the anchors into the log as they are.
func (a *anchored) publish(anchors []receipt.Anchor) {
	a.t.Helper()
	maps.DeleteFunc(a.s.log.objects, func(path string, _ []byte) bool { return strings.HasPrefix(path, "anchors/") })
	page := uint64(0)
	for some := range slices.Chunk(anchors, receipt.AnchorsPerPage) {
		data, err := receipt.EncodeAnchors(some)
		if err != nil {
			a.t.Fatal(err)
		}
		a.s.log.objects[receipt.AnchorsPath(page)] = data
		page++
	}
}

func (a *anchored) headers(c *batchtest.Chain) *headers.Chain {
	a.t.Helper()
	params, err := headers.ParamsFor(calpe.Regtest)
	if err != nil {
		a.t.Fatal(err)
	}
	chain, err := headers.Read(bytes.NewReader(c.Headers()), params)
	if err != nil {
		a.t.Fatal(err)
	}
	return chain
}

func (a *anchored) run(cfg audit.Config) (audit.Report, error) {
	a.t.Helper()
	cfg.Log, cfg.Identity, cfg.Step, cfg.Readers = a.s, a.s.log.keys.Identity, step, 3
	auditor, err := audit.New(cfg)
	if err != nil {
		a.t.Fatal(err)
	}
	return auditor.Run(a.t.Context())
}

// expect audits with the headers of the whole chain.
func (a *anchored) expect(cfg audit.Config, status receipt.Status, reason audit.Reason) audit.Report {
	a.t.Helper()
	if cfg.Headers == nil {
		cfg.Headers = a.headers(a.chain)
	}
	r, err := a.run(cfg)
	if err != nil {
		a.t.Fatal(err)
	}
	if r.Status != status || r.Reason != reason {
		a.t.Fatalf("%s, %q: %s; want %s, %q", r.Status, r.Reason, r.Text, status, reason)
	}
	return r
}

// three is a log with three anchors, the last of which is three blocks deep, and
// with a few entries that none covers.
func three(t *testing.T) *anchored {
	t.Helper()
	a := newAnchored(t)
	for _, size := range []uint64{10, 700, 701} {
		a.anchor(a.grow(size))
		a.chain.Empty(2)
	}
	a.grow(720)
	a.publish(a.anchors)
	return a
}

// The answers of a node.
type fakeCoins struct {
	chain   *batchtest.Chain
	unspent calpe.Outpoint
	err     error
}

func (c fakeCoins) BlockHash(_ context.Context, height uint32) (calpe.BlockHash, error) {
	return calpe.BlockHash(c.chain.Blocks[height].BlockHash()), c.err
}

func (c fakeCoins) Unspent(_ context.Context, o calpe.Outpoint) (bool, error) {
	return o == c.unspent, c.err
}

func TestAnchorsHold(t *testing.T) {
	a := three(t)
	mirror := newDisk()
	for name, cfg := range map[string]audit.Config{
		"without a mirror": {}, "with a mirror": {Mirror: mirror}, "again": {Mirror: mirror},
		"without headers": {Mirror: newDisk()},
	} {
		t.Run(name, func(t *testing.T) {
			a.t = t
			if name != "without headers" {
				cfg.Headers = a.headers(a.chain)
			}
			cfg.Coins = fakeCoins{a.chain, a.coin, nil}
			r, err := a.run(cfg)
			if err != nil || r.Status != receipt.Holds {
				t.Fatalf("%+v, %v", r, err)
			}
			got := *r.Anchors
			if got.Newest == nil || (got.Final != nil) != got.Headers || got.Headers != (cfg.Headers != nil) {
				t.Fatalf("%+v", got)
			}
			if got.Final != nil && (got.Final.Size != 700 || got.Final.Depth != 6 || got.Final.Height != 5) {
				t.Errorf("final: %+v", got.Final)
			}
			if got.Newest.Size != 701 || got.Newest.Root == (calpe.Hash{}) || got.Newest.Height != 8 {
				t.Errorf("newest: %+v", got.Newest)
			}
			want := audit.Anchors{Count: 3, Newest: got.Newest, Final: got.Final, Unanchored: 19, Coin: a.coin, Headers: got.Headers, Fresh: true,
				Cost: audit.Cost{Anchors: 2, Fees: 2 * fee, Entries: 691}}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Error(diff)
			}
			var text strings.Builder
			if err := r.WriteText(&text); err != nil {
				t.Fatal(err)
			}
			for _, words := range []string{"anchors     3", "which is unspent", "unanchored  19 entries", "500 sat an anchor (1000 sat for 2 of them), 1447178 sat a million entries"} {
				if !strings.Contains(text.String(), words) {
					t.Errorf("the report lacks %q:\n%s", words, text.String())
				}
			}
			asJSON, err := json.Marshal(r)
			var back audit.Report
			if err != nil || json.Unmarshal(asJSON, &back) != nil || back.Anchors.Coin != a.coin {
				t.Errorf("as JSON: %s, %v", asJSON, err)
			}
		})
	}
	a.t = t
	if !bytes.Equal(mirror.now[receipt.AnchorsPath(0)], a.s.log.objects[receipt.AnchorsPath(0)]) {
		t.Error("the mirror has other anchors than the log")
	}
	// The mirror is as good as the log.
	a.s.log.objects = mirror.now
	a.expect(audit.Config{}, receipt.Holds, "")
}

// Several links in a block, several pages, deposits, and a mirror that is kept.
func TestManyAnchors(t *testing.T) {
	a, mirror := newAnchored(t), newDisk()
	const n = 2*receipt.AnchorsPerPage + 5
	for i := range uint64(n / 2) {
		p, q := a.grow(10+2*i), a.grow(11+2*i)
		first := batchtest.AnchorTx(p, a.value-fee, a.coin)
		id := calpe.BlockHash(first.TxHash())
		a.mine(first, batchtest.AnchorTx(q, a.value-2*fee, calpe.Outpoint{TxID: id, Vout: 1}, calpe.Outpoint{Vout: uint32(i)}))
		if i%7 == 0 {
			a.publish(a.anchors)
			a.expect(audit.Config{Mirror: mirror}, receipt.Holds, "")
		}
	}
	a.publish(a.anchors)
	clear(a.s.reads)
	r := a.expect(audit.Config{Mirror: mirror}, receipt.Holds, "")
	if r.Anchors.Count != n/2*2 || r.Anchors.Cost.Anchors != n/2-1 || r.Anchors.Cost.Fees != fee*(n/2-1) {
		t.Errorf("%+v", r.Anchors)
	}
	if n := a.s.reads[receipt.AnchorsPath(0)]; n != 0 {
		t.Errorf("a full page that is in the mirror was read %d times", n)
	}
	// A page of the mirror that was damaged is read again.
	mirror.now[receipt.AnchorsPath(0)] = append(bytes.Clone(mirror.now[receipt.AnchorsPath(0)][:2000]), '\n')
	a.expect(audit.Config{Mirror: mirror}, receipt.Holds, "")
	// As is one that a reorganisation has changed.
	mirror.now[receipt.AnchorsPath(0)] = mirror.now[receipt.AnchorsPath(1)]
	a.expect(audit.Config{Mirror: mirror}, receipt.Holds, "")
	if !bytes.Equal(mirror.now[receipt.AnchorsPath(0)], a.s.log.objects[receipt.AnchorsPath(0)]) {
		t.Error("the mirror keeps a page that doesn't hold")
	}
	// The last page is taken away.
	a.publish(a.anchors[:2*receipt.AnchorsPerPage])
	a.expect(audit.Config{Mirror: mirror}, receipt.Holds, "")
	if _, ok := mirror.now[receipt.AnchorsPath(2)]; ok {
		t.Error("the mirror keeps a page that the log has not")
	}
}

// Every fault in what is published is found, and named.
func TestAnchorFaults(t *testing.T) {
	for name, tc := range map[string]struct {
		spoil  func(a *anchored)
		status receipt.Status
		reason audit.Reason
	}{
		"gap":               {func(a *anchored) { a.publish(slices.Delete(a.anchors, 1, 2)) }, receipt.Refuted, audit.ReasonAnchorGap},
		"the first is gone": {func(a *anchored) { a.publish(a.anchors[1:]) }, receipt.Refuted, audit.ReasonAnchorGap},
		"swapped":           {func(a *anchored) { x := a.anchors; x[1], x[2] = x[2], x[1]; a.publish(x) }, receipt.Refuted, audit.ReasonAnchorOrder},
		"twice":             {func(a *anchored) { a.publish(append(a.anchors, a.anchors[1])) }, receipt.Refuted, audit.ReasonAnchorFork},
		"fork": {func(a *anchored) {
			a.coin = linkOf(a.anchors[0]).Next()
			a.anchor(a.grow(721))
			a.publish(a.anchors)
		}, receipt.Refuted, audit.ReasonAnchorFork},
		"wrong root": {func(a *anchored) {
			p := a.grow(730)
			p.Root[3] ^= 1
			a.anchor(p)
			a.publish(a.anchors)
		}, receipt.Refuted, audit.ReasonAnchorRoot},
		"wrong root of an earlier size": {func(a *anchored) {
			a.anchor(calpe.Payload{Size: 710, Root: a.s.log.root})
			a.publish(a.anchors)
		}, receipt.Refuted, audit.ReasonAnchorRoot},
		"wrong size": {func(a *anchored) {
			p := a.grow(730)
			p.Size--
			a.anchor(p)
			a.publish(a.anchors)
		}, receipt.Refuted, audit.ReasonAnchorRoot},
		"size beyond the log": {func(a *anchored) {
			p := a.grow(730)
			p.Size++
			a.anchor(p)
			a.publish(a.anchors)
		}, receipt.NotYet, audit.ReasonAnchorAhead},
		"shrinks": {func(a *anchored) {
			a.anchor(calpe.Payload{Size: 10, Root: linkOf(a.anchors[0]).Payload.Root})
			a.publish(a.anchors)
		}, receipt.Refuted, audit.ReasonAnchorShrank},
		"other network": {func(a *anchored) {
			params, err := headers.ParamsFor(calpe.Simnet)
			if err != nil {
				a.t.Fatal(err)
			}
			first, err := headers.Parse(params.Genesis[:])
			if err != nil {
				a.t.Fatal(err)
			}
			a.anchors[2].Network, a.anchors[2].Genesis = calpe.Simnet, calpe.BlockHash(first.Hash)
			a.publish(a.anchors)
		}, receipt.Refuted, audit.ReasonAnchorNetwork},
		"forged branch": {func(a *anchored) {
			a.anchors[1].Branch = slices.Clone(a.anchors[1].Branch)
			a.anchors[1].Branch[0][5] ^= 1
			a.publish(a.anchors)
		}, receipt.Refuted, audit.ReasonAnchorMalformed},
		"forged header": {func(a *anchored) {
			a.anchors[0].Header = bytes.Clone(a.anchors[0].Header)
			a.anchors[0].Header[79] ^= 1
			a.publish(a.anchors)
		}, receipt.Refuted, audit.ReasonAnchorBlock},
		"forged header near the tip": {func(a *anchored) {
			a.anchors[2].Header = bytes.Clone(a.anchors[2].Header)
			a.anchors[2].Header[79] ^= 1
			a.publish(a.anchors)
		}, receipt.NotYet, audit.ReasonAnchorReorg},
		"other height": {func(a *anchored) {
			a.anchors[1].Height--
			a.publish(a.anchors)
		}, receipt.Refuted, audit.ReasonAnchorBlock},
		"other position": {func(a *anchored) {
			a.anchors[1].Position += 2
			a.publish(a.anchors)
		}, receipt.Refuted, audit.ReasonAnchorMalformed},
		"other chain": {func(a *anchored) {
			a.chain = a.chain.Fork(1, 9)
			a.chain.Empty(12)
		}, receipt.Refuted, audit.ReasonAnchorBlock},
		"headers end": {func(a *anchored) { a.chain = a.chain.Fork(6, 1) }, receipt.NotYet, audit.ReasonHeadersEnd},
		"no payload": {func(a *anchored) {
			tx := batchtest.AnchorTx(a.grow(730), 1000, a.coin)
			tx.TxOut[0].PkScript = []byte{0x51}
			a.mine(tx)
			a.publish(a.anchors)
		}, receipt.Refuted, audit.ReasonForeignSpend},
		"no change": {func(a *anchored) {
			tx := batchtest.AnchorTx(a.grow(730), 1000, a.coin)
			tx.TxOut = tx.TxOut[:1]
			a.mine(tx)
			a.publish(a.anchors)
		}, receipt.Refuted, audit.ReasonForeignSpend},
		"a payload of value": {func(a *anchored) {
			tx := batchtest.AnchorTx(a.grow(730), 1000, a.coin)
			tx.TxOut[0].Value = 1
			a.mine(tx)
			a.publish(a.anchors)
		}, receipt.Refuted, audit.ReasonForeignSpend},
		"the coin is another input": {func(a *anchored) {
			a.mine(batchtest.AnchorTx(a.grow(730), 1000, calpe.Outpoint{Vout: 3}, a.coin))
			a.publish(a.anchors)
		}, receipt.Refuted, audit.ReasonForeignSpend},
		"impossible value": {func(a *anchored) {
			a.mine(batchtest.AnchorTx(a.grow(730), 1<<61, a.coin))
			a.publish(a.anchors)
		}, receipt.Refuted, audit.ReasonAnchorMalformed},
		"no page": {func(a *anchored) { a.s.log.objects[receipt.AnchorsPath(0)] = []byte("{}\n") }, receipt.Refuted, audit.ReasonAnchorMalformed},
		"cut page": {func(a *anchored) {
			page := a.s.log.objects[receipt.AnchorsPath(0)]
			a.s.log.objects[receipt.AnchorsPath(0)] = page[:len(page)-1]
		}, receipt.Refuted, audit.ReasonAnchorMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			a, mirror := three(t), newDisk()
			a.expect(audit.Config{Mirror: mirror}, receipt.Holds, "")
			before := mirror.now[receipt.AnchorsPath(0)]
			tc.spoil(a)
			a.expect(audit.Config{}, tc.status, tc.reason)
			a.expect(audit.Config{Mirror: mirror}, tc.status, tc.reason)
			if tc.status == receipt.Refuted && !bytes.Equal(before, mirror.now[receipt.AnchorsPath(0)]) {
				t.Error("what was refuted is in the mirror")
			}
		})
	}
}

func linkOf(a receipt.Anchor) receipt.Link {
	l, err := a.Link()
	if err != nil {
		panic(err)
	}
	return l
}

// A cache that has kept an older page is nothing to sound the alarm about.
func TestStaleAnchors(t *testing.T) {
	a := three(t)
	data, err := receipt.EncodeAnchors([]receipt.Anchor{a.anchors[1]})
	if err != nil {
		t.Fatal(err)
	}
	a.s.cached[receipt.AnchorsPath(0)] = data
	a.expect(audit.Config{}, receipt.Holds, "")
}

// What a node and its blocks say, beyond what is published.
func TestWithheldAnchors(t *testing.T) {
	a := three(t)
	fresh := func() fakeCoins { return fakeCoins{a.chain, a.coin, nil} }
	hidden := a.coin
	withheld := func() audit.Config {
		return audit.Config{Coins: fakeCoins{a.chain, calpe.Outpoint{}, nil}}
	}
	a.expect(audit.Config{Coins: fresh()}, receipt.Holds, "")
	a.expect(withheld(), receipt.NotYet, audit.ReasonAnchorWithheld)
	other := a.chain.Fork(3, 9)
	other.Empty(20)
	a.expect(audit.Config{Coins: fakeCoins{other, hidden, nil}}, receipt.NotYet, audit.ReasonNodeDisagrees)
	down := errors.New("down")
	if _, err := a.run(audit.Config{Headers: a.headers(a.chain), Coins: fakeCoins{a.chain, hidden, down}}); !errors.Is(err, down) {
		t.Errorf("a node that is down: %v", err)
	}

	// A scan has all anchors, and so knows what the first one cost.
	scan := func() *audit.Scan {
		return &audit.Scan{Anchors: slices.Clone(a.anchors), FirstValue: 1_000_000, Tip: uint32(a.chain.Tip())}
	}
	r := a.expect(audit.Config{Scan: scan(), Coins: fresh()}, receipt.Holds, "")
	if diff := cmp.Diff(audit.Cost{Anchors: 3, Fees: 3 * fee, Entries: 701}, r.Anchors.Cost); diff != "" || r.Anchors.Scanned != uint32(a.chain.Tip()) {
		t.Errorf("%+v\n%s", r.Anchors, diff)
	}
	// Published is a beginning: the rest is withheld, and agrees with the log.
	a.publish(a.anchors[:2])
	a.expect(audit.Config{Scan: scan()}, receipt.NotYet, audit.ReasonAnchorWithheld)
	a.publish(nil)
	a.expect(audit.Config{Scan: scan()}, receipt.NotYet, audit.ReasonAnchorWithheld)
	// Published is more than the blocks up to there hold: it came since.
	a.publish(a.anchors)
	short := scan()
	short.Anchors, short.Tip = short.Anchors[:2], a.anchors[2].Height-1
	a.expect(audit.Config{Scan: short}, receipt.Holds, "")
	// The same, and the blocks that should have it were looked into.
	short.Tip++
	a.expect(audit.Config{Scan: short}, receipt.Refuted, audit.ReasonAnchorFork)
	// Another one than in the blocks.
	another := scan()
	another.Anchors[1].Height++
	a.expect(audit.Config{Scan: another}, receipt.Refuted, audit.ReasonAnchorFork)

	// A hidden fork: an anchor that isn't shown has the root of another history.
	a.anchor(calpe.Payload{Size: 710, Root: calpe.Hash{1}})
	a.expect(audit.Config{Scan: scan()}, receipt.Refuted, audit.ReasonAnchorRoot)
	a.anchors = a.anchors[:3]

	// A thief.
	thief := scan()
	tx := batchtest.AnchorTx(calpe.Payload{Size: 1}, 5, hidden)
	tx.TxOut = tx.TxOut[1:]
	a.chain.Mine(tx)
	foreign := *receipt.NewAnchor(a.s.log.keys.Identity, a.chain.Anchor(a.chain.Tip(), 1, calpe.Payload{}))
	thief.Foreign, thief.Tip = &foreign, uint32(a.chain.Tip())
	r = a.expect(audit.Config{Scan: thief}, receipt.Refuted, audit.ReasonForeignSpend)
	if !strings.Contains(r.Text, calpe.BlockHash(tx.TxHash()).String()) {
		t.Errorf("the thief's transaction isn't named: %s", r.Text)
	}
}

func TestAnchorsOfOthers(t *testing.T) {
	a := three(t)
	params, err := headers.ParamsFor(calpe.Simnet)
	if err != nil {
		t.Fatal(err)
	}
	other, err := headers.Read(bytes.NewReader(params.Genesis[:]), params)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := audit.New(audit.Config{Log: a.s, Identity: a.s.log.keys.Identity, Headers: other}); err == nil || !strings.Contains(err.Error(), "simnet") {
		t.Errorf("headers of another network: %v", err)
	}
	// A log that calendars anchor has no chain of coins; whatever is there isn't read.
	a.s.log.objects[receipt.AnchorsPath(0)] = []byte("nothing of ours")
	a.s.log.keys.Identity.FirstOutpoint = nil
	l := newLog(t).grow(5, 1)
	l.objects[receipt.AnchorsPath(0)] = []byte("nothing of ours")
	if r := run(t, serve(l), nil); r.Status != receipt.Holds || r.Anchors != nil {
		t.Errorf("%+v", r)
	}
}

// Whatever stands where anchors should, a run ends with an answer, and nothing but
// the anchors that were made holds.
func FuzzAnchors(f *testing.F) {
	a := newAnchored(&testing.T{})
	for _, size := range []uint64{2, 3} {
		a.anchor(a.grow(size))
	}
	a.grow(5)
	a.publish(a.anchors)
	page := a.s.log.objects[receipt.AnchorsPath(0)]
	chain := a.headers(a.chain)
	f.Add(page)
	f.Add(page[:len(page)/2])
	f.Add([]byte("\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		a.t, a.s.log.t = t, t
		a.s.log.objects[receipt.AnchorsPath(0)] = data
		r, err := a.run(audit.Config{Headers: chain})
		if err != nil {
			t.Fatal(err)
		}
		if anchors, err := receipt.DecodeAnchors(data); err == nil && r.Status == receipt.Holds && !slices.EqualFunc(anchors, a.anchors[:len(anchors)], sameAnchor) {
			t.Fatalf("anchors that nobody made hold: %s", data)
		}
	})
}

func sameAnchor(a, b receipt.Anchor) bool { return cmp.Equal(a, b) }
