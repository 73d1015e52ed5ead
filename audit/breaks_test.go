package audit_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/btcsuite/btcd/wire/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/audit"
	"github.com/calpe/calpe/batch/batchtest"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/headers"
	"github.com/calpe/calpe/receipt/statement"
)

// theft mines a transaction that spends the coin and isn't an anchor, and gives
// its evidence.
func (a *anchored) theft(edit func(tx *wire.MsgTx)) receipt.Anchor {
	a.t.Helper()
	tx := batchtest.AnchorTx(calpe.Payload{Size: 1}, 700, a.coin)
	tx.TxOut = tx.TxOut[1:]
	edit(tx)
	a.chain.Mine(tx)
	return *receipt.NewAnchor(a.s.log.keys.Identity, a.chain.Anchor(a.chain.Tip(), 1, calpe.Payload{}))
}

var declared = time.Date(2026, 11, 21, 9, 30, 0, 0, time.UTC)

func nothing(*wire.MsgTx) {}

// deposit mines a coin to go on with.
func (a *anchored) deposit(value int64) calpe.Outpoint {
	a.t.Helper()
	tx := batchtest.Coin(value)
	tx.LockTime = uint32(a.chain.Tip())
	a.chain.Mine(tx)
	return calpe.Outpoint{TxID: calpe.BlockHash(tx.TxHash())}
}

// says is the statement of the break, as an honest operator makes it.
func (a *anchored) says(spend receipt.Anchor, first calpe.Outpoint) statement.Break {
	a.t.Helper()
	body := statement.Break{Log: a.s.log.keys.Identity.Hash(), Coin: a.coin, SpentBy: linkOf(spend).TxID, Block: spend.Block(), Height: spend.Height,
		First: first, Reason: "Somebody took it.", Time: declared}
	if n := len(a.anchors); n > 0 && linkOf(a.anchors[n-1]).TxID == a.coin.TxID {
		l := linkOf(a.anchors[n-1])
		body.Anchor, body.Size, body.Root = l.TxID, l.Payload.Size, l.Payload.Root
	}
	return body
}

// notarize makes a statement the log's next entry, and gives it as it is published.
func (a *anchored) notarize(spend receipt.Anchor, body statement.Break) receipt.Break {
	a.t.Helper()
	signed, err := statement.Sign(a.s.log.keys.Statement, body)
	if err != nil {
		a.t.Fatal(err)
	}
	b := receipt.Break{After: uint64(len(a.anchors)), Spend: spend, Statement: signed, Salt: calpe.Salt{5}, Index: uint64(len(a.s.log.entries))}
	a.s.log.entries = append(a.s.log.entries, calpe.Entry{Index: b.Index, Commitment: calpe.Commit(signed.Digest(), b.Salt)})
	return b
}

// publishBreaks puts them into the log as they are.
func (a *anchored) publishBreaks(list ...receipt.Break) {
	a.t.Helper()
	data, err := receipt.EncodeBreaks(list)
	if err != nil {
		a.t.Fatal(err)
	}
	a.s.log.objects[receipt.BreaksPath] = data
}

// restarted is a log with three anchors, a break, and two anchors behind it.
func restarted(t *testing.T) (*anchored, receipt.Break) {
	t.Helper()
	a := three(t)
	spend := a.theft(nothing)
	first := a.deposit(900_000)
	a.chain.Empty(6)
	b := a.notarize(spend, a.says(spend, first))
	a.coin, a.value = first, 900_000
	a.anchor(a.grow(730))
	a.anchor(a.grow(740))
	a.chain.Empty(6)
	a.publish(a.anchors)
	a.publishBreaks(b)
	return a, b
}

func TestBreakHolds(t *testing.T) {
	a, b := restarted(t)
	mirror := newDisk()
	for name, cfg := range map[string]audit.Config{
		"without a mirror": {}, "with a mirror": {Mirror: mirror}, "again": {Mirror: mirror},
		"a node":  {Coins: fakeCoins{a.chain, a.coin, nil}},
		"a scan":  {Scan: a.scanned(b)},
		"another": {Scan: a.scanned(b), Mirror: newDisk()},
	} {
		a.t = t
		r := a.expect(cfg, receipt.Holds, audit.ReasonChainBroken)
		body := b.Body()
		want := audit.Broken{After: 3, Size: 701, Coin: body.Coin, SpentBy: body.SpentBy, Height: body.Height, Statement: b.Index, First: body.First,
			Reason: "Somebody took it.", Time: declared}
		if diff := cmp.Diff([]audit.Broken{want}, r.Anchors.Breaks); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		if r.Anchors.Count != 5 || r.Anchors.Coin != a.coin || r.Anchors.Final == nil || r.Anchors.Final.Size != 740 {
			t.Errorf("%s: %+v", name, r.Anchors)
		}
		var text strings.Builder
		if err := r.WriteText(&text); err != nil {
			t.Fatal(err)
		}
		for _, words := range []string{"Answer: HOLDS, WITH A BREAK", "BREAK       behind 3 anchors", body.SpentBy.String(), body.First.String(), `"Somebody took it."`,
			"was BROKEN", "follows from Bitcoin alone only for the first 701 entries", "could have anchored another history"} {
			if !strings.Contains(text.String(), words) {
				t.Errorf("%s: the report lacks %q:\n%s", name, words, text.String())
			}
		}
		asJSON, err := json.Marshal(r)
		var back audit.Report
		if err != nil || json.Unmarshal(asJSON, &back) != nil || len(back.Anchors.Breaks) != 1 || back.Anchors.Breaks[0] != want {
			t.Errorf("%s: as JSON: %s, %v", name, asJSON, err)
		}
	}
	if !bytes.Equal(mirror.now[receipt.BreaksPath], a.s.log.objects[receipt.BreaksPath]) {
		t.Error("the mirror has other breaks than the log")
	}
	a.s.log.objects = mirror.now // and is as good as the log
	a.expect(audit.Config{}, receipt.Holds, audit.ReasonChainBroken)
}

// scanned is what an archival node's blocks say.
func (a *anchored) scanned(breaks ...receipt.Break) *audit.Scan {
	s := &audit.Scan{Anchors: slices.Clone(a.anchors), FirstValue: 1_000_000, Tip: uint32(a.chain.Tip())}
	for _, b := range breaks {
		s.Breaks = append(s.Breaks, audit.ScannedBreak{After: int(b.After), Spend: b.Spend})
	}
	return s
}

// No anchor stands behind the break yet.
func TestBreakAtTheEnd(t *testing.T) {
	a := three(t)
	spend := a.theft(nothing)
	first := a.deposit(900_000)
	b := a.notarize(spend, a.says(spend, first))
	a.publishBreaks(b)
	a.expect(audit.Config{}, receipt.NotYet, audit.ReasonAnchorAhead) // no checkpoint covers the statement
	a.grow(730)
	r := a.expect(audit.Config{Coins: fakeCoins{a.chain, first, nil}}, receipt.Holds, audit.ReasonChainBroken)
	if r.Anchors.Coin != first || r.Anchors.Count != 3 || !r.Anchors.Fresh {
		t.Errorf("%+v", r.Anchors)
	}
	a.expect(audit.Config{Coins: fakeCoins{a.chain, a.coin, nil}}, receipt.NotYet, audit.ReasonAnchorWithheld)
	scan := a.scanned(b)
	a.expect(audit.Config{Scan: scan}, receipt.Holds, audit.ReasonChainBroken)
	scan.Tip, scan.Breaks = spend.Height-1, nil
	a.expect(audit.Config{Scan: scan}, receipt.Holds, "") // the break came since
}

// Several breaks: one before any anchor, and one of a coin that no anchor made.
func TestSeveralBreaks(t *testing.T) {
	a := newAnchored(t)
	var breaks []receipt.Break
	a.grow(3)
	for i := range int64(3) {
		spend := a.theft(func(tx *wire.MsgTx) {
			if i == 1 { // it carries a root, of whatever
				tx.TxOut = slices.Insert(tx.TxOut, 0, wire.NewTxOut(0, calpe.Payload{Size: 9, Root: calpe.Hash{9}}.Script()))
				tx.TxIn = append([]*wire.TxIn{wire.NewTxIn(&wire.OutPoint{Index: 5}, nil, nil)}, tx.TxIn...)
			}
		})
		first := a.deposit(800_000 + i)
		breaks = append(breaks, a.notarize(spend, a.says(spend, first)))
		a.coin, a.value = first, 800_000+i
		if i == 1 {
			a.anchor(a.grow(20))
		}
	}
	a.grow(30)
	a.publish(a.anchors)
	a.publishBreaks(breaks...)
	r := a.expect(audit.Config{}, receipt.Holds, audit.ReasonChainBroken)
	if n := r.Anchors.Breaks; len(n) != 3 || n[0].Carries != nil || n[1].Carries == nil || n[1].Carries.Size != 9 || n[0].Size != 0 || n[2].Size != 20 ||
		!strings.Contains(r.Text, "2 times before") || !strings.Contains(r.Text, "first 0 entries") || !strings.Contains(n[1].String(), "of 9 entries") {
		t.Errorf("%s: %+v", r.Text, n)
	}
	a.expect(audit.Config{Scan: a.scanned(breaks...)}, receipt.Holds, audit.ReasonChainBroken)
	// The later one before the earlier.
	a.publishBreaks(breaks[1], breaks[0], breaks[2])
	a.expect(audit.Config{}, receipt.Refuted, audit.ReasonBreakStatement)
}

// Every fault of a break is found, and named.
func TestBreakFaults(t *testing.T) {
	// again restarts the log with a statement that isn't so.
	again := func(edit func(a *anchored, body *statement.Break, b *receipt.Break)) func(*anchored, receipt.Break) {
		return func(a *anchored, _ receipt.Break) {
			fresh := three(a.t)
			spend := fresh.theft(nothing)
			first := fresh.deposit(900_000)
			body := fresh.says(spend, first)
			edit(fresh, &body, nil)
			b := fresh.notarize(spend, body)
			edit(fresh, nil, &b)
			fresh.coin, fresh.value = first, 900_000
			fresh.anchor(fresh.grow(730))
			fresh.chain.Empty(6)
			fresh.publish(fresh.anchors)
			fresh.publishBreaks(b)
			*a = *fresh
		}
	}
	body := func(edit func(a *anchored, body *statement.Break)) func(*anchored, receipt.Break) {
		return again(func(a *anchored, body *statement.Break, _ *receipt.Break) {
			if body != nil {
				edit(a, body)
			}
		})
	}
	record := func(edit func(a *anchored, b *receipt.Break)) func(*anchored, receipt.Break) {
		return again(func(a *anchored, _ *statement.Break, b *receipt.Break) {
			if b != nil {
				edit(a, b)
			}
		})
	}
	for name, tc := range map[string]struct {
		spoil  func(a *anchored, b receipt.Break)
		status receipt.Status
		reason audit.Reason
	}{
		"nothing":               {body(func(*anchored, *statement.Break) {}), receipt.Holds, audit.ReasonChainBroken},
		"no statement":          {func(a *anchored, _ receipt.Break) { delete(a.s.log.objects, receipt.BreaksPath) }, receipt.Refuted, audit.ReasonAnchorGap},
		"no file":               {func(a *anchored, _ receipt.Break) { a.s.log.objects[receipt.BreaksPath] = []byte("{}\n") }, receipt.Refuted, audit.ReasonAnchorMalformed},
		"of another log":        {body(func(_ *anchored, b *statement.Break) { b.Log[0] ^= 1 }), receipt.Refuted, audit.ReasonBreakStatement},
		"of another coin":       {body(func(_ *anchored, b *statement.Break) { b.Coin.TxID[0] ^= 1 }), receipt.Refuted, audit.ReasonBreakStatement},
		"of an earlier coin":    {body(func(a *anchored, b *statement.Break) { b.Coin = linkOf(a.anchors[0]).Next() }), receipt.Refuted, audit.ReasonAnchorFork},
		"by another spender":    {body(func(_ *anchored, b *statement.Break) { b.SpentBy[0] ^= 1 }), receipt.Refuted, audit.ReasonBreakStatement},
		"in another block":      {body(func(_ *anchored, b *statement.Break) { b.Block[0] ^= 1 }), receipt.Refuted, audit.ReasonBreakStatement},
		"at another height":     {body(func(_ *anchored, b *statement.Break) { b.Height++ }), receipt.Refuted, audit.ReasonBreakStatement},
		"behind another anchor": {body(func(_ *anchored, b *statement.Break) { b.Anchor[0] ^= 1 }), receipt.Refuted, audit.ReasonBreakStatement},
		"behind another size":   {body(func(_ *anchored, b *statement.Break) { b.Size++ }), receipt.Refuted, audit.ReasonBreakStatement},
		"behind another root":   {body(func(_ *anchored, b *statement.Break) { b.Root[0] ^= 1 }), receipt.Refuted, audit.ReasonBreakStatement},
		"behind no anchor": {body(func(_ *anchored, b *statement.Break) {
			b.Anchor, b.Size, b.Root = calpe.BlockHash{}, 0, calpe.Hash{}
		}), receipt.Refuted, audit.ReasonBreakStatement},
		"goes on with another coin":  {body(func(_ *anchored, b *statement.Break) { b.First.Vout = 3 }), receipt.Refuted, audit.ReasonAnchorGap},
		"goes on with a former coin": {body(func(a *anchored, b *statement.Break) { b.First = *a.s.log.keys.Identity.FirstOutpoint }), receipt.Refuted, audit.ReasonAnchorFork},
		"another salt":               {record(func(_ *anchored, b *receipt.Break) { b.Salt[0] ^= 1 }), receipt.Refuted, audit.ReasonBreakStatement},
		"another index":              {record(func(_ *anchored, b *receipt.Break) { b.Index-- }), receipt.Refuted, audit.ReasonBreakStatement},
		"an index beyond the log":    {record(func(_ *anchored, b *receipt.Break) { b.Index = 5000 }), receipt.NotYet, audit.ReasonAnchorAhead},
		"too early":                  {record(func(_ *anchored, b *receipt.Break) { b.After-- }), receipt.Refuted, audit.ReasonBreakStatement},
		"too late":                   {record(func(_ *anchored, b *receipt.Break) { b.After++ }), receipt.Refuted, audit.ReasonAnchorGap},
		"behind more than there is":  {func(a *anchored, b receipt.Break) { b.After = 9; a.publish(a.anchors[:3]); a.publishBreaks(b) }, receipt.Refuted, audit.ReasonAnchorOrder},
		"another network": {record(func(a *anchored, b *receipt.Break) {
			params, err := headers.ParamsFor(calpe.Simnet)
			if err != nil {
				a.t.Fatal(err)
			}
			first, err := headers.Parse(params.Genesis[:])
			if err != nil {
				a.t.Fatal(err)
			}
			b.Spend.Network, b.Spend.Genesis = calpe.Simnet, calpe.BlockHash(first.Hash)
		}), receipt.Refuted, audit.ReasonAnchorNetwork},
		"a forged branch": {record(func(_ *anchored, b *receipt.Break) {
			b.Spend.Branch = slices.Clone(b.Spend.Branch)
			b.Spend.Branch[0][3] ^= 1
		}), receipt.Refuted, audit.ReasonAnchorMalformed},
		"another spend":                {record(func(a *anchored, b *receipt.Break) { b.Spend = a.anchors[2] }), receipt.Refuted, audit.ReasonBreakStatement},
		"another height in the record": {record(func(_ *anchored, b *receipt.Break) { b.Spend.Height-- }), receipt.Refuted, audit.ReasonBreakStatement},
		"a block that isn't in the chain": {func(a *anchored, _ receipt.Break) {
			a.chain = a.chain.Fork(a.chain.Tip()-9, 9)
			a.chain.Empty(20)
		}, receipt.Refuted, audit.ReasonAnchorBlock},
		"signed by another key": {record(func(a *anchored, b *receipt.Break) {
			var err error
			if b.Statement, err = statement.Sign(batchtest.Key(a.t, "ministry"), b.Body()); err != nil {
				a.t.Fatal(err)
			}
		}), receipt.Refuted, audit.ReasonBreakStatement},
		"signed by the checkpoint key": {record(func(a *anchored, b *receipt.Break) {
			var err error
			if b.Statement, err = statement.Sign(a.s.log.keys.Checkpoint, b.Body()); err != nil {
				a.t.Fatal(err)
			}
		}), receipt.Refuted, audit.ReasonBreakStatement},
		"published, and in no entry": {record(func(a *anchored, b *receipt.Break) {
			a.s.log.entries[b.Index].Commitment[0] ^= 1
		}), receipt.Refuted, audit.ReasonBreakStatement},
		"notarized after it was used": {func(a *anchored, b receipt.Break) {
			fresh := three(a.t)
			spend := fresh.theft(nothing)
			said, coin := fresh.says(spend, fresh.deposit(900_000)), fresh.coin
			fresh.coin, fresh.value = said.First, 900_000
			fresh.anchor(fresh.grow(730))
			late := fresh.notarize(spend, said)
			late.After, fresh.coin = 3, coin
			fresh.grow(740)
			fresh.chain.Empty(6)
			fresh.publish(fresh.anchors)
			fresh.publishBreaks(late)
			*a = *fresh
		}, receipt.Refuted, audit.ReasonBreakStatement},
		"two restarts from one break": {func(a *anchored, b receipt.Break) {
			second := a.notarize(b.Spend, b.Body())
			second.After = b.After
			a.grow(750)
			a.publishBreaks(b, second)
		}, receipt.Refuted, audit.ReasonAnchorFork},
		"two restarts, the second later": {func(a *anchored, b receipt.Break) {
			second := a.notarize(b.Spend, b.Body())
			a.grow(750)
			a.publishBreaks(b, second)
		}, receipt.Refuted, audit.ReasonAnchorFork},
		"both chains go on": {func(a *anchored, b receipt.Break) {
			tx := batchtest.AnchorTx(a.grow(750), 500, b.Body().Coin)
			a.chain.Mine(tx)
			a.anchors = append(a.anchors, *receipt.NewAnchor(a.s.log.keys.Identity, a.chain.Anchor(a.chain.Tip(), 1, calpe.Payload{})))
			a.publish(a.anchors)
			a.publishBreaks(b)
		}, receipt.Refuted, audit.ReasonAnchorFork},
		"it takes entries back": {func(a *anchored, b receipt.Break) {
			a.anchor(calpe.Payload{Size: 10, Root: linkOf(a.anchors[0]).Payload.Root})
			a.publish(a.anchors)
			a.publishBreaks(b)
		}, receipt.Refuted, audit.ReasonAnchorShrank},
	} {
		t.Run(name, func(t *testing.T) {
			a, b := restarted(t)
			tc.spoil(a, b)
			a.t = t
			r := a.expect(audit.Config{}, tc.status, tc.reason)
			if strings.HasPrefix(name, "notarized") && !strings.Contains(r.Text, "after it was used") {
				t.Error(r.Text)
			}
		})
	}
}

// What an archival node's blocks say differs from what is published.
func TestScanOfBreaks(t *testing.T) {
	a, b := restarted(t)
	other := b
	other.Spend.Height++
	for name, scan := range map[string]*audit.Scan{
		"it found no such spend":    a.scanned(),
		"it found another place":    a.scanned(other),
		"it found it further ahead": a.scanned(receipt.Break{After: 2, Spend: b.Spend}),
	} {
		if r := a.expect(audit.Config{Scan: scan}, receipt.Refuted, audit.ReasonAnchorFork); !strings.Contains(r.Text, "node's blocks") {
			t.Errorf("%s: %s", name, r.Text)
		}
	}
	// A foreign spend of the new coin, which nothing declares.
	thief := a.scanned(b)
	spend := a.theft(nothing)
	thief.Foreign, thief.Tip = &spend, uint32(a.chain.Tip())
	a.expect(audit.Config{Scan: thief}, receipt.Refuted, audit.ReasonForeignSpend)
}

// Whatever stands where breaks should, a run ends with an answer, and only what was
// made holds.
func FuzzBreaks(f *testing.F) {
	a, b := restarted(&testing.T{})
	good := a.s.log.objects[receipt.BreaksPath]
	chain := a.headers(a.chain)
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte("\n"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, data []byte) {
		a.t, a.s.log.t = t, t
		a.s.log.objects[receipt.BreaksPath] = data
		r, err := a.run(audit.Config{Headers: chain})
		if err != nil {
			t.Fatal(err)
		}
		if r.Status == receipt.Holds {
			list, err := receipt.DecodeBreaks(data)
			if err != nil || len(list) != 1 || list[0].Statement.Digest() != b.Statement.Digest() || !sameAnchor(list[0].Spend, b.Spend) {
				t.Fatalf("breaks that nobody made hold: %s", data)
			}
		}
	})
}
