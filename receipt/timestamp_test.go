package receipt

import (
	"bytes"
	"crypto/sha256"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
)

// calendarBlock is the block at anchorHeight of another chain: its second
// transaction is that of a calendar, to which the digest of the payload leads.
func (w *world) calendarBlock() (txs [][]byte, timestamp calpe.Timestamp) {
	payload := w.anchor.Bytes()
	digest := sha256.Sum256(payload[:])
	nonce, sibling := sha256.Sum256([]byte("nonce of a calendar")), sha256.Sum256([]byte("sibling in a calendar's tree"))
	list := []Operation{{Tag: OpAppend, Arg: nonce[:16]}, {Tag: OpSHA256},
		{Tag: OpPrepend, Arg: []byte("time")}, {Tag: OpAppend, Arg: nonce[16:24]}, {Tag: OpSHA256},
		{Tag: OpPrepend, Arg: sibling[:]}, {Tag: OpSHA256}}
	message := digest[:]
	for _, op := range list {
		message = applied(op, message)
	}
	script := append([]byte{0x6a, 0x20}, message...)
	tx := rawTx(calpe.Outpoint{TxID: doubleHash([]byte("a calendar's coin"))}, testOutput{900, payToNobody("calendar")}, testOutput{0, script})
	txs = [][]byte{coinbaseTx(anchorHeight), tx}
	before, behind, _ := bytes.Cut(tx, message)
	coinbase := doubleHash(txs[0])
	list = append(list, Operation{OpPrepend, before}, Operation{OpAppend, behind}, Operation{Tag: OpSHA256}, Operation{Tag: OpSHA256},
		Operation{OpPrepend, coinbase[:]}, Operation{Tag: OpSHA256}, Operation{Tag: OpSHA256})
	operations, err := NewOperations(list)
	if err != nil {
		w.tb.Fatal(err)
	}
	return txs, calpe.Timestamp{Payload: w.anchor.Payload, Calendar: "https://calendar.example", Operations: operations, Height: anchorHeight}
}

// applied is an operation's result, without the code under test.
func applied(op Operation, message []byte) []byte {
	switch op.Tag {
	case OpAppend:
		return slices.Concat(message, op.Arg)
	case OpPrepend:
		return slices.Concat(op.Arg, message)
	}
	digest := sha256.Sum256(message)
	return digest[:]
}

// calendarHeaders are the headers of the chain with that block.
func (w *world) calendarHeaders() []byte {
	txs, _ := w.calendarBlock()
	raw := bytes.Clone(w.raw[:anchorHeight*80])
	raw = append(raw, mineHeader(raw, anchorHeight, txRoot(txs))...)
	for height := anchorHeight + 1; height <= tipHeight; height++ {
		raw = append(raw, mineHeader(raw, height, txRoot([][]byte{coinbaseTx(height)}))...)
	}
	return raw
}

// timestamped is the receipt of an anchored entry, by a calendar.
func (w *world) timestamped(index int) Receipt {
	w.tb.Helper()
	e := w.evidence(index)
	_, timestamp := w.calendarBlock()
	e.Anchor, e.Timestamp = nil, &timestamp
	r, err := Issue(e)
	if err != nil {
		w.tb.Fatal(err)
	}
	return r
}

// timestampedInput is a verifier that has everything.
func (w *world) timestampedInput(index int) Input {
	in := w.input(w.timestamped(index))
	in.Headers = readChain(w.tb, w.calendarHeaders())
	return in
}

// timestampCases are receipts with a timestamp by a calendar: each state, and
// each way to tamper with them.
func (w *world) timestampCases() []verification {
	row := func(name string, want answers, edit func(v *verification, r *Receipt)) verification {
		return w.verification("timestamped"+name, entryPlain, want, func(v *verification, r *Receipt) {
			*r, v.Headers = w.timestamped(entryPlain), "headers-calendar"
			if edit != nil {
				edit(v, r)
			}
		})
	}
	existed := func(answer string) answers { return answers{answer, ok, noCert} }
	operations := func(name string, edit func(list []Operation) []Operation) verification {
		return row(name, existed("refuted not-in-chain"), func(_ *verification, r *Receipt) {
			list, err := r.Timestamp.Operations.List()
			if err != nil {
				w.tb.Fatal(err)
			}
			if r.Timestamp.Operations, err = NewOperations(edit(list)); err != nil {
				w.tb.Fatal(err)
			}
		})
	}
	malformed := func(name string, edit func(r *Receipt)) verification {
		return row("-malformed-"+name, all("refuted malformed"), func(_ *verification, r *Receipt) { edit(r) })
	}
	raw := func(name string, edit func(o Operations) Operations) verification {
		return malformed(name, func(r *Receipt) { r.Timestamp.Operations = edit(bytes.Clone(r.Timestamp.Operations)) })
	}
	certified := w.verification("timestamped-certified", entryDocument, all(ok), func(v *verification, r *Receipt) {
		*r, v.Headers = w.timestamped(entryDocument), "headers-calendar"
	})
	long := func(n int) Operation { return Operation{OpAppend, make([]byte, n)} }
	rows := []verification{
		certified,
		row("", existed(ok), nil),
		row("-unpinned", answers{ok, "not-asked no-identity", noCert}, func(v *verification, _ *Receipt) { v.Identity = "" }),
		row("-no-headers", existed("not-asked no-headers"), func(v *verification, _ *Receipt) { v.Headers = "" }),
		row("-not-deep", existed("not-yet not-deep"), func(v *verification, _ *Receipt) { v.Depth = 9 }),
		row("-just-deep", existed(ok), func(v *verification, _ *Receipt) { v.Depth = 8 }),
		row("-headers-end", existed("not-yet headers-end"), func(v *verification, _ *Receipt) { v.Headers = "headers-end" }),
		row("-reorganised-away", existed("refuted not-in-chain"), func(v *verification, _ *Receipt) { v.Headers = "headers" }),
		row("-headers-of-another-network", existed("refuted other-network"), func(v *verification, _ *Receipt) { v.Headers = "headers-simnet" }),
		row("-in-another-network", answers{"refuted other-network", "refuted other-network", noCert}, func(_ *verification, r *Receipt) {
			r.Timestamp.Network, r.Timestamp.Genesis = calpe.Simnet, doubleHash(genesis(w.tb, calpe.Simnet))
		}),
		row("-too-little-work", answers{"not-yet too-little-work", "refuted other-network", noCert}, func(v *verification, r *Receipt) {
			r.Timestamp.Network, r.Timestamp.Genesis = calpe.Mainnet, doubleHash(genesis(w.tb, calpe.Mainnet))
			v.Headers = "headers-mainnet"
		}),
		row("-changed-height", existed("refuted not-in-chain"), func(_ *verification, r *Receipt) { r.Timestamp.Height++ }),
		row("-changed-document", answers{"refuted other-document", "refuted other-document", noCert}, func(v *verification, _ *Receipt) { v.Digest[0] ^= 1 }),
		row("-changed-path", answers{"refuted not-in-tree", "refuted not-in-tree", noCert}, func(_ *verification, r *Receipt) { r.Path[0][7] ^= 0x10 }),
		row("-size-same-depth", answers{"refuted not-in-chain", "refuted checkpoint-signature", noCert},
			func(_ *verification, r *Receipt) { r.Checkpoint = strings.Replace(r.Checkpoint, "\n7\n", "\n8\n", 1) }),
		row("-other-deployment", answers{ok, "refuted other-log", noCert}, func(v *verification, _ *Receipt) { v.Identity = "identity-other" }),
		operations("-changed-argument", func(list []Operation) []Operation { list[0].Arg[3] ^= 1; return list }),
		operations("-operation-left-out", func(list []Operation) []Operation { return list[1:] }),
		operations("-operation-twice", func(list []Operation) []Operation { return append(list, list[len(list)-1]) }),
		operations("-append-for-prepend", func(list []Operation) []Operation { list[2].Tag = OpAppend; return list }),
		operations("-most-operations", func([]Operation) []Operation { return slices.Repeat([]Operation{{Tag: OpSHA256}}, MaxOperations) }),
		malformed("beside-anchor", func(r *Receipt) { r.Anchor = w.issue(entryPlain).Anchor }),
		malformed("without-checkpoint", func(r *Receipt) { r.Acknowledgement, r.Checkpoint, r.Path = w.issuedPromise(), "", nil }),
		malformed("network-unknown", func(r *Receipt) { r.Timestamp.Network = "test" }),
		malformed("genesis-of-another-network", func(r *Receipt) { r.Timestamp.Genesis = doubleHash(genesis(w.tb, calpe.Simnet)) }),
		raw("no-operations", func(Operations) Operations { return Operations{} }),
		raw("unknown-operation", func(o Operations) Operations { return append(Operations{0x02}, o...) }),
		raw("ends-in-append", func(o Operations) Operations { return append(o, OpAppend, 1, 0) }),
		raw("long-spelling-of-a-length", func(o Operations) Operations { return append(Operations{OpAppend, 0x81, 0, 0}, o...) }),
		raw("empty-argument", func(o Operations) Operations { return append(Operations{OpAppend, 0}, o...) }),
		raw("cut-in-an-argument", func(o Operations) Operations { return append(o, OpAppend, 5, 1, OpSHA256) }),
		raw("argument-too-long", func(Operations) Operations {
			return slices.Concat(Operations{OpAppend, 0x81, 0x20}, make(Operations, 4097), Operations{OpSHA256})
		}),
		raw("message-too-long", func(Operations) Operations {
			o, err := NewOperations([]Operation{long(4096), {Tag: OpSHA256}})
			if err != nil {
				w.tb.Fatal(err)
			}
			return o
		}),
		raw("too-many-operations", func(Operations) Operations { return bytes.Repeat(Operations{OpSHA256}, MaxOperations+1) }),
		raw("too-many-bytes", func(Operations) Operations {
			o := Operations{}
			for range 3 {
				o = slices.Concat(o, Operations{OpPrepend, 0x80, 0x1f}, make(Operations, 3968), Operations{OpSHA256})
			}
			return o
		}),
	}
	return append(rows, w.timestampTexts(rows[1])...)
}

// timestampTexts change the text of a timestamped receipt.
func (w *world) timestampTexts(v verification) (rows []verification) {
	text := v.Receipt
	v.Want = all("refuted malformed")
	for _, edit := range [][3]string{
		{"unknown-member", `"operations":`, `"header": "", "operations":`},
		{"duplicate-member", `"operations":`, `"operations": "CA==", "operations":`},
		{"null", `"timestamp": {`, `"timestamp": null, "x": {`},
		{"missing-height", `"height": 5,`, ``},
		{"height-above-32-bits", `"height": 5`, `"height": 4294967301`},
		{"operations-as-number", `"operations": "`, `"operations": 8, "x": "`},
		{"operations-with-line-break", `"operations": "`, `"operations": "\n`},
		{"case-folded", `"timestamp":`, `"Timestamp":`},
	} {
		if !strings.Contains(text, edit[1]) {
			w.tb.Fatalf("%s: the receipt has no %q", edit[0], edit[1])
		}
		v.Name, v.Receipt = "timestamped-text-"+edit[0], strings.Replace(text, edit[1], edit[2], 1)
		rows = append(rows, v)
	}
	return rows
}

// TestTimestampNamesTheBlock: the report says in which block, and that no
// transaction is known.
func TestTimestampNamesTheBlock(t *testing.T) {
	t.Parallel()
	w := newWorld(t, testOrigin)
	in := w.timestampedInput(entryPlain)
	header, _ := in.Headers.At(anchorHeight)
	want := &Block{Network: calpe.Regtest, Height: anchorHeight, Hash: calpe.BlockHash(header.Hash), Time: testTime,
		Depth: tipHeight - anchorHeight + 1, Asked: DefaultDepth, Tip: tipHeight, Test: true}
	report := Verify(in)
	if diff := cmp.Diff(want, report.Block); diff != "" {
		t.Errorf("block (-want +got):\n%s", diff)
	}
	if data, err := report.MarshalJSON(); err != nil || strings.Contains(string(data), "txid") {
		t.Errorf("report is %s, %v", data, err)
	}
}

// FuzzOperations: operations have one spelling, and lead to one root.
func FuzzOperations(f *testing.F) {
	w := newWorld(f, testOrigin)
	_, timestamp := w.calendarBlock()
	f.Add(timestamp.Operations)
	f.Add([]byte{OpSHA256})
	f.Add([]byte{OpAppend, 1, 7, OpSHA256})
	f.Fuzz(func(t *testing.T, data []byte) {
		list, err := Operations(data).List()
		if err != nil {
			return
		}
		if again, err := NewOperations(list); err != nil || !bytes.Equal(again, data) {
			t.Fatalf("%x is written again as %x, %v", data, again, err)
		}
		digest := timestamp.Payload.Bytes()
		sum := sha256.Sum256(digest[:])
		want := sum[:]
		for _, op := range list {
			if want = applied(op, want); len(want) > maxMessage {
				return
			}
		}
		if got, err := Operations(data).Root(timestamp.Payload); err != nil || !bytes.Equal(got[:], want) {
			t.Errorf("root is %x, %v, want %x", got[:], err, want)
		}
	})
}
