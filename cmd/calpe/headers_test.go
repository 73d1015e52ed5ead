package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt/headers"
)

// sync runs calpe headers for the node's network.
func (h *harness) sync(n *fakeNode) []string {
	return append([]string{"headers", h.path("chain.bin"), "--network", "regtest"}, n.flags()...)
}

// same demands that the file holds the chain.
func (h *harness) same(c *testChain) {
	h.t.Helper()
	if !bytes.Equal(h.read("chain.bin"), c.file()) {
		h.t.Errorf("file has %d headers, the chain %d, and they differ", len(h.read("chain.bin"))/80, len(c.raw))
	}
}

func TestHeadersFollowTheNode(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	n := newNode(t, newChain(t))
	h.expect(exitOK, h.sync(n), "regtest up to block 0")
	h.same(n.chain)

	n.chain.mine(30, 0)
	h.expect(exitOK, h.sync(n), "regtest up to block 30")
	h.same(n.chain)

	calls := n.asked()
	h.expect(exitOK, h.sync(n), "regtest up to block 30")
	if n.asked()-calls > 5 {
		t.Errorf("%d calls when there is nothing new", n.asked()-calls)
	}

	// A reorganisation replaces the tail.
	n.change(func() { n.chain = n.chain.fork(20, 15, 7) })
	h.expect(exitOK, h.sync(n), "regtest up to block 35")
	h.same(n.chain)

	// One from the genesis block on, and longer.
	n.change(func() { n.chain = n.chain.fork(0, 50, 8) })
	h.expect(exitOK, h.sync(n), "regtest up to block 50")
	h.same(n.chain)
	if got := h.files(); got != "chain.bin" {
		t.Errorf("folder holds %q", got)
	}
}

// A node with another chain of less work changes nothing.
func TestHeadersKeepTheChainWithMoreWork(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	n := newNode(t, newChain(t))
	n.chain.mine(30, 0)
	h.expect(exitOK, h.sync(n))
	kept := n.chain.clone()
	for _, blocks := range []int{0, 10, 30} {
		n.change(func() { n.chain = n.chain.fork(0, blocks, 7) })
		if blocks > 0 {
			h.expect(exitUsage, h.sync(n), "less work", "move the file away")
		} else {
			h.expect(exitOK, h.sync(n), "up to block 30") // the node is behind, but contradicts nothing
		}
		h.same(kept)
	}
}

// The node changes branches in the middle of a sync.
func TestHeadersCrossedByReorganisation(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	n := newNode(t, newChain(t))
	n.chain.mine(40, 0)
	other := n.chain.fork(9, 45, 7)
	n.before = func(method string, height int) {
		if method == "getblockhash" && height == 25 {
			n.chain, n.before = other, nil
		}
	}
	h.expect(exitOK, h.sync(n), "up to block 54")
	h.same(other)
}

// Nothing that a node says is written unchecked.
func TestHeadersFromALyingNode(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		spoil func(n *fakeNode)
		text  string
	}{
		"a header with too little work": {func(n *fakeNode) {
			n.chain.raw[5] = bytes.Clone(n.chain.raw[5])
			for n.chain.raw[5][76] = 0; ; n.chain.raw[5][76]++ {
				if p, err := headers.Parse(n.chain.raw[5]); err == nil && p.Hash[31] >= 0x80 {
					return
				}
			}
		}, "height 5"},
		"a chain that doesn't link": {func(n *fakeNode) {
			other := newChain(t)
			other.mine(5, 7)
			n.chain.raw[5] = other.raw[5]
		}, "link"},
		"another network's genesis": {func(n *fakeNode) { n.chain.raw[0] = make([]byte, 80) }, "another network"},
		"another network's name":    {func(n *fakeNode) { n.name = "signet" }, "another network"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			n := newNode(t, newChain(t))
			n.chain.mine(10, 0)
			tc.spoil(n)
			r := h.run(h.sync(n)...)
			if r.code != exitUsage || !strings.Contains(r.err, tc.text) {
				t.Errorf("exit code %d: %s", r.code, r.err)
			}
			if h.exists("chain.bin") && !bytes.Equal(h.read("chain.bin"), n.chain.raw[0]) {
				t.Errorf("%d headers were written", len(h.read("chain.bin"))/80)
			}
		})
	}
}

func TestHeadersUsage(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	n := newNode(t, newChain(t))
	n.chain.mine(10, 0)
	file := h.path("chain.bin")
	h.expect(exitUsage, []string{"headers", file}, "--node URL")
	h.expect(exitUsage, append(h.sync(n), "--network", "moonnet"), "moonnet")
	h.expect(exitUsage, append([]string{"headers", file}, n.flags()...), "another network") // mainnet by default
	for name, data := range map[string][]byte{"empty": {}, "other bytes": make([]byte, 160), "cut": n.chain.file()[:100]} {
		h.write("chain.bin", data)
		h.expect(exitUsage, h.sync(n), "move it away")
		if !bytes.Equal(h.read("chain.bin"), data) {
			t.Errorf("%s: the file was changed", name)
		}
	}
	h.expect(exitUsage, append([]string{"headers", h.path("none/chain.bin"), "--network", "regtest"}, n.flags()...), "none/chain.bin")
}

// An interrupted sync keeps what it has, and the next one goes on from there.
func TestHeadersInterrupted(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	n := newNode(t, newChain(t))
	n.chain.mine(fetchBatch+50, 0)
	ctx, cancel := context.WithCancel(t.Context())
	n.before = func(method string, height int) {
		if method == "getblockhash" && height > fetchBatch+10 {
			cancel()
		}
	}
	r := h.runContext(ctx, h.sync(n)...)
	if r.code != exitUsage || !strings.Contains(r.err, "interrupted") {
		t.Fatalf("exit code %d: %s", r.code, r.err)
	}
	if got := len(h.read("chain.bin")) / 80; got != fetchBatch+1 {
		t.Errorf("%d headers were kept, want %d", got, fetchBatch+1)
	}
	n.change(func() { n.before = nil })
	calls := n.asked()
	h.expect(exitOK, h.sync(n))
	h.same(n.chain)
	if n.asked()-calls > 120 {
		t.Errorf("%d calls for the remaining 50 headers", n.asked()-calls)
	}
}

// A mainnet file with too little work is written, and said to prove nothing yet.
func TestHeadersOfASyncingNode(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	p, err := headers.ParamsFor(calpe.Mainnet)
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t, &testChain{t, [][]byte{p.Genesis[:]}})
	n.name = "main"
	h.expect(exitNotYet, append([]string{"headers", h.path("chain.bin")}, n.flags()...), "still syncing")
	h.same(n.chain)
}

// A branch longer than one batch replaces a tail longer than one batch.
func TestSyncReplacesALongTail(t *testing.T) {
	t.Parallel()
	old := newChain(t)
	old.mine(fetchBatch+500, 0)
	chain := parseChain(t, old)
	now := old.fork(2, fetchBatch+600, 7)
	got, err := syncer{node: newSliceNode(now), progress: func(int, int) {}}.run(t.Context(), chain)
	if err != nil {
		t.Fatal(err)
	}
	height, hash := got.Tip()
	want, _ := parseChain(t, now).At(now.tip())
	if height != now.tip() || hash != want.Hash {
		t.Errorf("tip is %d %s", height, hash)
	}
}

// A long sync is saved as it goes; if that fails, it ends.
func TestSyncSavesAsItGoes(t *testing.T) {
	t.Parallel()
	c := newChain(t)
	c.mine(3*fetchBatch+10, 0)
	start, err := genesisChain(must(headers.ParamsFor(calpe.Regtest)))
	if err != nil {
		t.Fatal(err)
	}
	var saved []int
	s := syncer{node: newSliceNode(c), progress: func(int, int) {}, every: 2 * fetchBatch,
		save: func(c *headers.Chain) error { h, _ := c.Tip(); saved = append(saved, h); return nil }}
	if _, err := s.run(t.Context(), start); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]int{2 * fetchBatch}, saved); diff != "" {
		t.Error(diff)
	}
	s.save = func(*headers.Chain) error { return errNode }
	if got, err := s.run(t.Context(), start); !errors.Is(err, errNode) {
		t.Errorf("got %v and %v", got, err)
	}
}

func parseChain(t testing.TB, c *testChain) *headers.Chain {
	t.Helper()
	p, err := headers.ParamsFor(calpe.Regtest)
	if err != nil {
		t.Fatal(err)
	}
	chain, err := headers.Read(bytes.NewReader(c.file()), p)
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

// failingNode answers until a height.
type failingNode struct {
	sliceNode
	until uint32
}

var errNode = errors.New("the node is gone")

func (n failingNode) BlockHash(ctx context.Context, height uint32) (calpe.BlockHash, error) {
	if height > n.until {
		return calpe.BlockHash{}, errNode
	}
	return n.sliceNode.BlockHash(ctx, height)
}

// What was fetched before an error isn't lost; an error of saving is one.
func TestSyncReturnsWhatItHas(t *testing.T) {
	t.Parallel()
	c := newChain(t)
	c.mine(fetchBatch+100, 0)
	start, err := genesisChain(must(headers.ParamsFor(calpe.Regtest)))
	if err != nil {
		t.Fatal(err)
	}
	s := syncer{node: failingNode{newSliceNode(c), fetchBatch + 50}, progress: func(int, int) {}}
	got, err := s.run(t.Context(), start)
	if height, _ := got.Tip(); !errors.Is(err, errNode) || height != fetchBatch {
		t.Errorf("got %d headers and %v", height, err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestEveryNetworkIsFoundByItsGenesisBlock(t *testing.T) {
	t.Parallel()
	var found []calpe.Network
	for _, n := range networks() {
		first, err := headers.Parse(ptr(must(headers.ParamsFor(n)).Genesis)[:])
		if err != nil {
			t.Fatal(err)
		}
		p, err := paramsOf(calpe.BlockHash(first.Hash))
		if err != nil {
			t.Fatal(err)
		}
		found = append(found, p.Network)
	}
	if diff := cmp.Diff(networks(), found); diff != "" {
		t.Error(diff)
	}
	if _, err := paramsOf(calpe.BlockHash{1}); err == nil {
		t.Error("an unknown genesis block has a network")
	}
}

func ptr[T any](v T) *T { return &v }

// The same with a real node: btcd, by the local stack's launcher.
func TestHeadersFromBtcd(t *testing.T) {
	t.Parallel()
	launcher := os.Getenv("CALPE_TEST_DEVSTACK")
	if launcher == "" {
		t.Fatal("CALPE_TEST_DEVSTACK is not set: run the tests with \"make test\"")
	}
	h := newHarness(t)
	cmd := exec.CommandContext(t.Context(), launcher, "bitcoin", "--dir", h.path("btcd"), "--blocks", "25")
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait() // it ends by the signal
	})
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		t.Fatal(err)
	}
	var node struct {
		URL    string `json:"url"`
		Height int    `json:"height"`
	}
	if err := json.Unmarshal(line, &node); err != nil {
		t.Fatal(err)
	}
	h.expect(exitOK, []string{"headers", h.path("chain.bin"), "--network", "regtest", "--node", node.URL}, "up to block 25")
	chain, err := readHeaders(h.path("chain.bin"))
	if err != nil {
		t.Fatal(err)
	}
	if tip, _ := chain.Tip(); tip != node.Height || tip != 25 {
		t.Errorf("file ends at %d, the node at %d", tip, node.Height)
	}
	// Beside nodes that have the same chain, or another one.
	same := newChain(t)
	for raw := h.read("chain.bin")[calpe.HeaderSize:]; len(raw) > 0; raw = raw[calpe.HeaderSize:] {
		same.raw = append(same.raw, raw[:calpe.HeaderSize])
	}
	longer := same.fork(25, 3, 7)
	h.expect(exitOK, append(h.syncAll(newNode(t, same), newNode(t, longer)), "--node", node.URL), "up to block 28")
	h.expect(exitUsage, append(h.syncAll(newNode(t, same.fork(12, 20, 7))), "--node", node.URL), "the nodes disagree: block 13 is ")
	h.same(longer)
	// Of our own service's chain it knows nothing.
	file, path := h.final("a.txt", "hello")
	h.expect(exitRefuted, []string{"verify", file, path, "--node", node.URL}, "reorganised away")
}
