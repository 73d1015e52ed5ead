package main

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/btcsuite/btcd/chainhash/v2"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt/headers"
)

// syncAll runs calpe headers with several nodes.
func (h *harness) syncAll(nodes ...*fakeNode) []string {
	args := []string{"headers", h.path("chain.bin"), "--network", "regtest"}
	for _, n := range nodes {
		args = append(args, "--node", n.address())
	}
	return args
}

// address has user and password in it.
func (n *fakeNode) address() string { return strings.Replace(n.url, "://", "://rpc:geheim@", 1) }

// fork is a copy of the chain that parts from it behind a height, and has so many
// blocks of its own.
func (c *testChain) fork(height, blocks int, seed byte) *testChain {
	other := c.clone()
	other.raw = other.raw[:height+1]
	other.mine(blocks, seed)
	return other
}

func TestHeadersOfSeveralNodes(t *testing.T) {
	t.Parallel()
	base := newChain(t)
	base.mine(30, 0)
	at := func(height int) *testChain { return base.fork(height, 0, 0) }
	for _, tc := range []struct {
		name   string
		chains []*testChain
		want   *testChain
	}{
		{"the same", []*testChain{base, base, base}, base},
		{"one is behind", []*testChain{base, at(10), at(29)}, base},
		{"one is ahead", []*testChain{at(10), base, at(3)}, base},
		{"one is at the genesis block", []*testChain{at(0), base}, base},
		{"two blocks at once", []*testChain{base, base.fork(29, 1, 7)}, base},
		{"a longer branch that is new", []*testChain{base, base.fork(27, 5, 7)}, base.fork(27, 5, 7)},
		{"the longer branch first", []*testChain{base.fork(27, 5, 7), base}, base.fork(27, 5, 7)},
		{"three tips", []*testChain{base.fork(29, 1, 8), base.fork(28, 3, 7), base}, base.fork(28, 3, 7)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			var nodes []*fakeNode
			for _, c := range tc.chains {
				nodes = append(nodes, newNode(t, c.clone()))
			}
			h.expect(exitOK, h.syncAll(nodes...), fmt.Sprintf("up to block %d", tc.want.tip()))
			h.same(tc.want)
			h.expect(exitOK, h.syncAll(nodes...), fmt.Sprintf("up to block %d", tc.want.tip()))
			h.same(tc.want)
		})
	}
}

// Nodes that disagree deeper than that are told apart by their blocks, and
// nothing of it is written, whoever has more work.
func TestHeadersOfNodesThatDisagree(t *testing.T) {
	t.Parallel()
	base := newChain(t)
	base.mine(30, 0)
	other := base.fork(20, 15, 7)
	hash := func(c *testChain, height int) string { return chainhash.DoubleHashH(c.raw[height]).String() }
	for name, chains := range map[string][]*testChain{
		"two":                    {base, other},
		"the other way round":    {other, base},
		"the third":              {base, base, other},
		"one that is behind":     {base.fork(10, 0, 0), base, other},
		"just too deep":          {base, base.fork(26, 4, 7)},
		"another from the start": {base, base.fork(0, 40, 9)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			var nodes []*fakeNode
			for _, c := range chains {
				nodes = append(nodes, newNode(t, c.clone()))
			}
			last := chains[len(chains)-1]
			first := 0
			for before := chains[len(chains)-2]; bytes.Equal(before.raw[first], last.raw[first]); {
				first++
			}
			texts := []string{"the nodes disagree", fmt.Sprintf("block %d ", first), hash(last, first), hash(chains[len(chains)-2], first)}
			h.expect(exitUsage, h.syncAll(nodes...), texts...)
			if h.exists("chain.bin") && len(h.read("chain.bin")) > 80*21 {
				t.Errorf("%d headers were written", len(h.read("chain.bin"))/80)
			}
		})
	}
	// A file is a witness, too: what one of the nodes contradicts isn't written over it.
	h := newHarness(t)
	h.expect(exitOK, h.syncAll(newNode(t, base.clone())))
	h.expect(exitUsage, h.syncAll(newNode(t, base.clone()), newNode(t, other.clone())), "the nodes disagree")
	h.same(base)
}

func TestHeadersWhenOneNodeFails(t *testing.T) {
	t.Parallel()
	base := newChain(t)
	base.mine(30, 0)
	good, bad := newNode(t, base), newNode(t, base.clone())
	for name, spoil := range map[string]func() string{
		"down":            func() string { return "http://rpc:geheim@127.0.0.1:1" },
		"another network": func() string { bad.name = "signet"; return bad.address() },
		"another password": func() string {
			return strings.Replace(good.address(), "geheim", "falsch", 1)
		},
		"twice":         good.address,
		"no address":    func() string { return "ftp://rpc:geheim@node" },
		"no address %%": func() string { return "http://rpc:geheim@%%" },
	} {
		h := newHarness(t)
		r := h.run(append(h.syncAll(good), "--node", spoil())...)
		if r.code != exitUsage || !strings.Contains(r.err, "node") || h.exists("chain.bin") {
			t.Errorf("%s: exit code %d: %s", name, r.code, r.err)
		}
	}
	lying := newNode(t, base.fork(30, 5, 0))
	lying.chain.raw[33] = base.raw[3]
	h := newHarness(t)
	h.expect(exitUsage, h.syncAll(good, lying), "height 33", strings.TrimPrefix(lying.url, "http://"))
	if h.exists("chain.bin") && len(h.read("chain.bin")) > 80 {
		t.Error("a chain was written that a node has spoiled")
	}
}

// What is saved in the course of a long sync is what all nodes agree on.
func TestFollowSavesWhatAllHave(t *testing.T) {
	t.Parallel()
	base := newChain(t)
	base.mine(3*fetchBatch, 0)
	other := base.fork(fetchBatch+500, fetchBatch, 7)
	start, err := genesisChain(must(headers.ParamsFor(calpe.Regtest)))
	if err != nil {
		t.Fatal(err)
	}
	var saved []int
	s := syncer{progress: func(int, int) {}, every: 1, save: func(c *headers.Chain) error {
		tip, _ := c.Tip()
		saved = append(saved, tip)
		return nil
	}}
	peers := []peer{{newSliceNode(base), "a"}, {newSliceNode(other), "b"}}
	got, err := follow(t.Context(), peers, start, s)
	if err == nil || !strings.Contains(err.Error(), fmt.Sprintf("block %d ", fetchBatch+501)) {
		t.Errorf("got %v", err)
	}
	if tip, _ := got.Tip(); len(saved) != 1 || saved[0] != fetchBatch || tip != fetchBatch {
		t.Errorf("saved up to %v, returned up to %d", saved, tip)
	}
	s.save = func(*headers.Chain) error { return errNode }
	if _, err := follow(t.Context(), peers, start, s); !errors.Is(err, errNode) || strings.Contains(err.Error(), "node a") {
		t.Errorf("an error of saving: %v", err)
	}
}

func TestPinsAndMinimumWork(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	file, path := h.final("a.txt", "hello")
	chain := h.s.chain
	n := newNode(t, chain)
	tip := chain.tip()
	pin := func(height int, raw []byte) string {
		return fmt.Sprintf("--pin=%d:%s", height, chainhash.DoubleHashH(raw))
	}
	right, high := pin(tip-1, chain.raw[tip-1]), pin(tip+5, chain.raw[1])
	wrong := pin(tip-1, chain.raw[tip-2])
	enough, more := fmt.Sprintf("--min-work=%x", 2*(tip+1)), fmt.Sprintf("--min-work=0x%x", 2*(tip+1)+1)
	for _, tc := range []struct {
		args          []string
		fetch, verify int
		text          string
	}{
		{[]string{right, pin(0, chain.raw[0]), enough}, exitOK, exitOK, ""},
		{[]string{right, wrong}, exitUsage, exitUsage, "pinned"},
		{[]string{high}, exitNotYet, exitUsage, "before the block that is pinned"},
		{[]string{more}, exitNotYet, exitUsage, "--min-work"},
		{[]string{"--pin=5"}, exitUsage, exitUsage, "HEIGHT:HASH"},
		{[]string{"--pin=-1:" + strings.Repeat("0", 64)}, exitUsage, exitUsage, "HEIGHT:HASH"},
		{[]string{"--pin=1:" + strings.Repeat("g", 64)}, exitUsage, exitUsage, "HEIGHT:HASH"},
		{[]string{"--min-work=many"}, exitUsage, exitUsage, "hexadecimal"},
		{[]string{"--min-work=-1"}, exitUsage, exitUsage, "hexadecimal"},
		{[]string{"--min-work=1" + strings.Repeat("0", 65)}, exitUsage, exitUsage, "hexadecimal"},
	} {
		h.expect(tc.fetch, append(h.sync(n), tc.args...), tc.text)
		h.expect(tc.verify, append([]string{"verify", file, path, "--headers", h.headers()}, tc.args...), tc.text)
		h.expect(tc.verify, append(append([]string{"verify", file, path}, n.flags()...), tc.args...), tc.text)
	}
	h.env["CALPE_PIN"] = strings.TrimPrefix(wrong, "--pin=")
	h.expect(exitUsage, []string{"verify", file, path, "--headers", h.headers()}, "pinned")

	// A file that another chain got into isn't followed.
	other := newChain(t)
	other.mine(tip+3, 9)
	h = newHarness(t)
	h.expect(exitUsage, append(h.sync(newNode(t, other)), right), `breaks rule "pin"`)
	h.write("chain.bin", other.file())
	h.expect(exitUsage, append(h.sync(n), right), "move it away")
}
