package ots

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"strings"
	"testing"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/headers"
)

// The only transaction of Bitcoin's first block, which is the document here: its
// SHA-256, hashed again, is that block's Merkle root.
const genesisCoinbase = "01000000010000000000000000000000000000000000000000000000000000000000000000ffffffff4d04ffff001d0104455468652054696d" +
	"65732030332f4a616e2f32303039204368616e63656c6c6f72206f6e206272696e6b206f66207365636f6e64206261696c6f757420666f72206261" +
	"6e6b73ffffffff0100f2052a01000000434104678afdb0fe5548271967f1a67130b7105cd6a828e03909a67962e0ea1f61deb649f6bc3f4cef38c4" +
	"f35504e51ec112de5c384df7ba0b8d578a4c702b6bf11d5fac00000000"

// TestMainnet verifies what everybody can.
func TestMainnet(t *testing.T) {
	digest := sha256.Sum256(mustHex(t, genesisCoinbase))
	f, err := NewDetachedFile(SHA256, mustMake(t, string(digest[:]), []Op{{Tag: SHA256}}, BitcoinBlock(0)))
	if err != nil {
		t.Fatal(err)
	}
	in := Input{File: f, Digest: digest[:], Headers: chainOf(t, "headers-mainnet", false), Depth: 1}
	r := Verify(in)
	if b := r.Block; r.Existed.Status != receipt.Holds || b == nil || b.Network != calpe.Mainnet || b.Test || b.Height != 0 ||
		b.Time.Unix() != 1231006505 || b.Hash.String() != "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f" {
		t.Errorf("%+v %+v", r.Existed, b)
	}
	if want := "before 2009-01-03 18:15:05 UTC, give or take two hours: in block 0 of mainnet"; !strings.HasPrefix(r.Existed.Text, want) ||
		strings.Contains(r.Existed.Text, "evidential") {
		t.Errorf("%q", r.Existed.Text)
	}
	in.Headers = chainOf(t, "headers-mainnet", true)
	if got := Verify(in); got.Existed.Status != receipt.NotYet || got.Existed.Reason != receipt.ReasonTooLittleWork || got.Block != nil {
		t.Errorf("without the work of the world's chain: %+v", got.Existed)
	}
	in.Headers, in.Depth = chainOf(t, "headers-mainnet", false), 0
	if got := Verify(in); got.Existed.Reason != receipt.ReasonNotDeep || got.Results[0].Block.Asked != receipt.DefaultDepth {
		t.Errorf("one block deep: %+v", got.Existed)
	}
	// Regtest's first block has the same transaction, and another time.
	in.Headers, in.Depth = chainOf(t, "headers", false), 1
	if got := Verify(in); got.Existed.Status != receipt.Holds || !got.Block.Test || !strings.Contains(got.Existed.Text, "no evidential value") {
		t.Errorf("in regtest: %+v", got.Existed)
	}
}

// rootAt is the Merkle root of a block. A file about that as its digest needs no
// operations.
func rootAt(t *testing.T, c *headers.Chain, height int) string {
	t.Helper()
	h, ok := c.At(height)
	if !ok {
		t.Fatal("no such block")
	}
	return string(h.MerkleRoot[:])
}

func TestVerify(t *testing.T) {
	chain := chainOf(t, "headers", false)
	five := rootAt(t, chain, 5)
	about := func(digest, body string) DetachedFile {
		return mustParse(t, []byte(magic+"\x01\x08"+digest+body))
	}
	const huge = "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"
	for name, c := range map[string]struct {
		file  DetachedFile
		chain *headers.Chain
		depth int
		want  []string // of all together, then of each
		text  string
	}{
		"holds":             {about(five, block(5)), chain, 0, []string{"holds", "holds"}, "in block 5 of regtest"},
		"just deep":         {about(five, block(5)), chain, 8, []string{"holds", "holds"}, "8 deep"},
		"not deep":          {about(five, block(5)), chain, 9, []string{"not-yet not-deep", "not-yet not-deep"}, "8 of the 9 blocks deep"},
		"negative depth":    {about(five, block(5)), chain, -1, []string{"holds", "holds"}, ""},
		"another block":     {about(five, block(4)), chain, 0, []string{"refuted not-in-chain", "refuted not-in-chain"}, "block 4 of regtest has"},
		"above the tip":     {about(five, block(13)), chain, 0, []string{"not-yet headers-end", "not-yet headers-end"}, "end at block 12, before block 13"},
		"far above the tip": {about(five, attested(bitcoinNotary, huge)), chain, 0, []string{"not-yet headers-end", "not-yet headers-end"}, "18446744073709551615"},
		"no headers":        {about(five, block(5)), nil, 0, []string{"not-asked no-headers", "not-asked no-headers"}, "of block 5"},
		"33 bytes":          {about(five, "\xf0\x01x"+block(5)), chain, 0, []string{"refuted not-in-chain", "refuted not-in-chain"}, "33 bytes"},
		"20 bytes, no headers": {
			about(five, "\x02"+block(5)), nil, 0, []string{"refuted not-in-chain", "refuted not-in-chain"}, "20 bytes"},
		"reversed":  {about(five, "\xf2"+block(5)), chain, 0, []string{"refuted not-in-chain", "refuted not-in-chain"}, ""},
		"and back":  {about(five, "\xf2\xf2"+block(5)), chain, 0, []string{"holds", "holds"}, ""},
		"pending":   {about(five, pendingAt("https://a")), chain, 0, []string{"not-yet pending", "not-yet pending"}, "https://a"},
		"Litecoin":  {about(five, attested(litecoinNotary, "\x05")), chain, 0, []string{"not-asked other-notary", "not-asked other-notary"}, "Litecoin block 5"},
		"unknown":   {about(five, attested("\x1b[2J....", "\x1b[2J")), chain, 0, []string{"not-asked other-notary", "not-asked other-notary"}, "1b5b324a2e2e2e2e, 4 bytes"},
		"one holds": {about(five, "\xff"+block(4)+"\xff"+block(5)+"\xff"+block(13)+pendingAt("a")), chain, 0, []string{"holds", "refuted not-in-chain", "holds", "not-yet headers-end", "not-yet pending"}, "block 5"},
		"none does": {about(five, "\xff"+block(13)+"\xff"+block(4)+pendingAt("a")), chain, 0,
			[]string{"refuted not-in-chain", "refuted not-in-chain", "not-yet headers-end", "not-yet pending"}, ""},
		"not yet rather than not asked": {about(five, "\xff"+attested(litecoinNotary, "\x05")+pendingAt("a")), chain, 0,
			[]string{"not-yet pending", "not-asked other-notary", "not-yet pending"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			r := Verify(Input{File: c.file, Digest: c.file.Digest(), Headers: c.chain, Depth: c.depth})
			all := []receipt.Verdict{r.Existed}
			for _, result := range r.Results {
				all = append(all, result.Verdict)
			}
			var got []string
			for _, v := range all {
				got = append(got, strings.TrimSpace(string(v.Status)+" "+string(v.Reason)))
			}
			if strings.Join(got, ", ") != strings.Join(c.want, ", ") {
				t.Errorf("%q, want %q", got, c.want)
			}
			if !strings.Contains(r.Existed.Text, c.text) || (r.Block != nil) != (r.Existed.Status == receipt.Holds) {
				t.Errorf("%+v, block %+v", r.Existed, r.Block)
			}
		})
	}
}

// The block with the lowest height counts, wherever in the file it is.
func TestLowestBlock(t *testing.T) {
	ops := []Op{{Append, "a"}, {Tag: SHA256}}
	other := []Op{{Tag: SHA256}}
	for _, low := range [][]Op{ops, other} {
		high := ops
		if &low[0] == &ops[0] {
			high = other
		}
		p, err := headers.ParamsFor(calpe.Regtest)
		if err != nil {
			t.Fatal(err)
		}
		raw := bytes.Clone(p.Genesis[:])
		for i, way := range [][]Op{low, high} {
			message := []byte(zeroDigest)
			for _, op := range way {
				message = applied(t, op, message)
			}
			raw = append(raw, mineHeader(raw[len(raw)-80:], uint32(i+1), calpe.BlockHash(message))...)
		}
		ts := mustMerge(t, mustMake(t, zeroDigest, low, BitcoinBlock(1)), mustMake(t, zeroDigest, high, BitcoinBlock(2)))
		f, err := NewDetachedFile(SHA256, ts)
		if err != nil {
			t.Fatal(err)
		}
		r := Verify(Input{File: f, Digest: []byte(zeroDigest), Headers: readChain(t, raw, p), Depth: 1})
		if r.Existed.Status != receipt.Holds || r.Block.Height != 1 || r.Results[0].Status != receipt.Holds || r.Results[1].Status != receipt.Holds {
			t.Errorf("%+v", r)
		}
	}
}

func TestVerifyRefuses(t *testing.T) {
	chain := chainOf(t, "headers", false)
	digest := rootAt(t, chain, 5)
	f := mustParse(t, []byte(magic+"\x01\x08"+digest+block(5)))
	for name, c := range map[string]struct {
		in     Input
		reason receipt.Reason
	}{
		"another document":  {Input{File: f, Digest: []byte(zeroDigest), Headers: chain}, receipt.ReasonOtherDocument},
		"no document":       {Input{File: f, Headers: chain}, receipt.ReasonOtherDocument},
		"part of a digest":  {Input{File: f, Digest: []byte(digest[:31]), Headers: chain}, receipt.ReasonOtherDocument},
		"no file":           {Input{Digest: []byte(digest), Headers: chain}, receipt.ReasonMalformed},
		"nothing":           {Input{}, receipt.ReasonMalformed},
		"more than digests": {Input{File: f, Digest: []byte(digest + "x"), Headers: chain}, receipt.ReasonOtherDocument},
	} {
		r := Verify(c.in)
		if r.Existed.Status != receipt.Refuted || r.Existed.Reason != c.reason || r.Block != nil || r.Results != nil {
			t.Errorf("%s: %+v", name, r)
		}
	}
	if got := Check(Timestamp{}, chain, 0); got != nil {
		t.Errorf("nothing: %+v", got)
	}
}

func TestReportJSON(t *testing.T) {
	chain := chainOf(t, "headers", false)
	digest := rootAt(t, chain, 5)
	f := mustParse(t, []byte(magic+"\x01\x08"+digest+"\xff"+block(5)+pendingAt("https://a")))
	data, err := json.Marshal(Verify(Input{File: f, Digest: []byte(digest), Headers: chain}))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`{"existed":{"status":"holds","text":"before `, `"block":{"network":"regtest","height":5,"hash":"`,
		`"depth":8,"asked":6,"tip":12,"test":true}`, `"attestations":[{"attestation":"Bitcoin block 5","status":"holds","text":"`,
		`{"attestation":"pending at https://a","status":"not-yet","reason":"pending","text":"The calendar https://a`} {
		if !strings.Contains(string(data), want) {
			t.Errorf("no %s in\n%s", want, data)
		}
	}
}

func TestReportText(t *testing.T) {
	chain := chainOf(t, "headers", false)
	digest := rootAt(t, chain, 5)
	for name, c := range map[string]struct {
		body string
		want []string
	}{
		"one":         {block(5), []string{"Existed     HOLDS      before ", "\nTEST NETWORK regtest: no evidential value."}},
		"several":     {"\xff" + block(4) + "\xff" + block(5) + pendingAt("https://a"), []string{"Existed     HOLDS  ", "\n  REFUTED    Bitcoin block 4: It leads", "\n  HOLDS      Bitcoin block 5\nTEST"}},
		"two pending": {"\xff" + pendingAt("https://a") + pendingAt("https://b"), []string{"Existed     NOT YET    The calendar https://a", "\n  NOT YET    pending at https://a\n  NOT YET    pending at https://b: The calendar"}},
		"upgraded":    {"\xff" + block(5) + pendingAt("https://a"), []string{"Existed     HOLDS  ", "deep. A block of a test network has no evidential value.\nTEST"}},
		"pending":     {pendingAt("https://a"), []string{"Existed     NOT YET    The calendar https://a had taken it"}},
	} {
		f := mustParse(t, []byte(magic+"\x01\x08"+digest+c.body))
		var b strings.Builder
		if err := Verify(Input{File: f, Digest: []byte(digest), Headers: chain}).WriteText(&b); err != nil {
			t.Fatal(err)
		}
		for _, want := range c.want {
			if !strings.Contains(b.String(), want) {
				t.Errorf("%s: no %q in\n%s", name, want, b.String())
			}
		}
		if (name == "one" || name == "upgraded") && strings.Count(b.String(), "\n") != 2 || name == "pending" && strings.Contains(b.String(), "TEST") {
			t.Errorf("%s: %s", name, b.String())
		}
	}
	_, err := Parse([]byte("PK"))
	if r := Malformed(err); r.Existed.Status != receipt.Refuted || r.Existed.Reason != receipt.ReasonMalformed || !strings.Contains(r.Existed.Text, "not an OpenTimestamps file") {
		t.Errorf("%+v", r)
	}
}

func TestIsFile(t *testing.T) {
	for data, want := range map[string]bool{"": false, "{}": false, magic: true, magic + "x": true, magic[:30]: false, "x" + magic: false} {
		if got := IsFile([]byte(data)); got != want {
			t.Errorf("%q: %v", data, got)
		}
	}
}
