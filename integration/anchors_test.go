package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/audit"
	"github.com/calpe/calpe/internal/porttest"
	"github.com/calpe/calpe/receipt"
)

// TestAnchorsAreAudited lets a stranger follow the chain of anchors with the
// built programs: from the service, the bucket, a mirror; with headers, a node, a
// scan. Then what is published is falsified in each way.
func TestAnchorsAreAudited(t *testing.T) {
	d := deploy(t)
	second := startNode(t, t.TempDir()) // of another chain
	s := d.serve(porttest.Address(t), nil)
	s.awaitReady()
	mining := d.node.keepMining(400 * time.Millisecond)
	for seed := range uint64(4) {
		first := s.stampMany(seed, 200)
		s.awaitFinal(first + 200)
	}
	mining()
	c := d.auditor()
	c.fetchHeaders()
	links, live := d.followCoins()
	if len(links) < 4 {
		t.Fatalf("only %d anchors", len(links))
	}

	depth := []string{"--depth", "3"}
	with := func(args ...string) []string { return slices.Concat(depth, args) }
	mirrored := c.audits(0, holds, "", with("--server", s.url, "--headers", "headers.bin", "--dir", "mirror")...)
	c.agrees(mirrored, links, live)
	bucket := d.publish()
	s.published(len(links))
	for _, place := range []string{"mirror", bucket, s.url + "/log/"} {
		c.agrees(c.audits(0, holds, "", with("--log", place, "--headers", "headers.bin")...), links, live)
	}
	password, _ := d.node.user.Password()
	node := []string{"--node", d.node.url.String(), "--rpc-user", d.node.user.Username(), "--rpc-password", password}
	scan := slices.Concat(node, []string{"--scan"})
	fresh := c.audits(0, holds, "", with(slices.Concat(node, []string{"--log", "mirror"})...)...)
	if c.agrees(fresh, links, live); !fresh.Anchors.Fresh {
		t.Errorf("the node wasn't asked: %+v", fresh.Anchors)
	}
	scanned := c.audits(0, holds, "", with(slices.Concat(scan, []string{"--log", "mirror"})...)...)
	var fees int64
	for _, l := range links {
		fees += l.fee
	}
	if cost := scanned.Anchors.Cost; cost.Fees != fees || cost.Anchors != uint64(len(links)) || cost.Entries != scanned.Anchors.Newest.Size {
		t.Errorf("the scan says that it cost %+v; the blocks say %d sat for %d anchors", cost, fees, len(links))
	}
	c.audits(0, holds, "", with(slices.Concat(scan, []string{"--log", "mirror", "--from-height", "1"})...)...)

	c.falsify(with, node, scan)
	c.otherChain(second, with)
	s.exitsCleanly()
}

// agrees compares a report with what the blocks say.
func (c *citizen) agrees(r audit.Report, links []spend, live calpe.Outpoint) {
	t := c.d.t
	t.Helper()
	last := links[len(links)-1]
	switch a := r.Anchors; {
	case a == nil || a.Newest == nil || a.Final == nil:
		t.Fatalf("%+v", a)
	case a.Count != uint64(len(links)) || a.Coin != live || !a.Headers:
		t.Errorf("the report says %d anchors up to %v; the blocks have %d up to %v", a.Count, a.Coin, len(links), live)
	case a.Newest.TxID != last.txid || a.Newest.Height != last.height || a.Newest.Size != last.payload.Size || a.Newest.Root != last.payload.Root:
		t.Errorf("the newest anchor is %+v, and %+v in the blocks", a.Newest, last)
	case a.Unanchored != r.Checkpoint.Size-last.payload.Size || a.Final.Depth < 3 || a.Cost.Anchors != uint64(len(links)-1):
		t.Errorf("%+v", a)
	}
}

// published waits until the bucket has all anchors.
func (s *server) published(n int) {
	s.d.t.Helper()
	eventually(s.d.t, "the bucket has all anchors", func(ctx context.Context) error {
		data, err := s.d.store().ReadLogObject(ctx, receipt.AnchorsPath(0), receipt.MaxAnchorsPage)
		if err != nil {
			return err
		}
		page, err := receipt.DecodeAnchors(data)
		if err == nil && len(page) < min(n, receipt.AnchorsPerPage) {
			err = fmt.Errorf("%d anchors, want %d", len(page), n)
		}
		return err
	})
}

// falsify changes the mirror's anchors.
func (c *citizen) falsify(with func(...string) []string, node, scan []string) {
	t := c.d.t
	t.Helper()
	file := filepath.Join("mirror", filepath.FromSlash(receipt.AnchorsPath(0)))
	right := c.read(file)
	lines := bytes.SplitAfter(bytes.TrimSuffix(right, []byte("\n")), []byte("\n"))
	lines[len(lines)-1] = append(lines[len(lines)-1], '\n')
	page := func(order ...int) []byte {
		var all []byte
		for _, i := range order {
			all = append(all, lines[i]...)
		}
		return all
	}
	audits := func(what string, code int, status receipt.Status, reason audit.Reason, wrong []byte, args ...string) {
		t.Helper()
		c.write(file, wrong)
		t.Log(what, c.audits(code, status, reason, with(append([]string{"--log", "mirror"}, args...)...)...).Text)
		c.write(file, right)
	}
	offline := []string{"--headers", "headers.bin"}
	all := make([]int, len(lines))
	for i := range all {
		all[i] = i
	}
	audits("gap:", 1, refuted, audit.ReasonAnchorGap, page(slices.Delete(slices.Clone(all), 1, 2)...), offline...)
	audits("order:", 1, refuted, audit.ReasonAnchorOrder, page(append([]int{0, 2, 1}, all[3:]...)...), offline...)
	audits("twice:", 1, refuted, audit.ReasonAnchorFork, page(append([]int{0, 1, 1}, all[2:]...)...), offline...)
	audits("malformed:", 1, refuted, audit.ReasonAnchorMalformed, right[:len(right)-2], offline...)
	position := bytes.Replace(right, []byte(`"position":1,`), []byte(`"position":0,`), 1)
	audits("the coinbase's place:", 1, refuted, audit.ReasonAnchorMalformed, position, offline...)

	withheld := page(all[:len(all)-1]...)
	audits("withheld, as far as files tell:", 0, holds, "", withheld, offline...)
	audits("withheld:", 3, receipt.NotYet, audit.ReasonAnchorWithheld, withheld, node...)
	audits("withheld:", 3, receipt.NotYet, audit.ReasonAnchorWithheld, withheld, scan...)
	headers := c.read("headers.bin")
	c.write("short.bin", headers[:int(c.lastHeight(right))*calpe.HeaderSize])
	audits("headers that end:", 3, receipt.NotYet, audit.ReasonHeadersEnd, right, "--headers", "short.bin")
}

// lastHeight is the height of a page's last anchor.
func (c *citizen) lastHeight(page []byte) uint32 {
	c.d.t.Helper()
	anchors, err := receipt.DecodeAnchors(page)
	if err != nil || len(anchors) == 0 {
		c.d.t.Fatalf("%d anchors: %v", len(anchors), err)
	}
	return anchors[len(anchors)-1].Height
}

// otherChain: the headers and the node are those of another branch of regtest.
func (c *citizen) otherChain(other *node, with func(...string) []string) {
	t := c.d.t
	t.Helper()
	if err := other.mine(t.Context(), 400); err != nil {
		t.Fatal(err)
	}
	password, _ := other.user.Password()
	node := []string{"--node", other.url.String(), "--rpc-user", other.user.Username(), "--rpc-password", password}
	c.audits(1, refuted, audit.ReasonAnchorBlock, with(append([]string{"--log", "mirror"}, node...)...)...)
	// The headers are right, and the node lies.
	r := c.audits(3, receipt.NotYet, audit.ReasonNodeDisagrees, with(append([]string{"--log", "mirror", "--headers", "headers.bin"}, node...)...)...)
	if !strings.Contains(r.Text, "the headers have") {
		t.Error(r.Text)
	}
}

// TestSecondNode starts a server whose second node is on another branch: anchors
// get into blocks, and none is final. Without it they become final. The first node
// isn't taken for a second one.
func TestSecondNode(t *testing.T) {
	d := deploy(t)
	other := startNode(t, t.TempDir())
	if err := other.mine(t.Context(), 400); err != nil {
		t.Fatal(err)
	}
	password, _ := other.user.Password()
	second := map[string]string{
		"CALPE_BITCOIN2_URL": other.url.String(), "CALPE_BITCOIN2_USER": other.user.Username(), "CALPE_BITCOIN2_PASSWORD": password,
		"CALPE_METRICS_LISTEN": "127.0.0.1:0",
	}
	if _, errs, code := d.calped(map[string]string{"CALPE_BITCOIN2_URL": d.node.url.String()}, "doctor"); code == 0 || !strings.Contains(errs, "same node") {
		t.Errorf("the same node twice: exit code %d: %s", code, errs)
	}
	address := porttest.Address(t)
	s := d.serve(address, second)
	s.awaitReady()
	mining := d.node.keepMining(400 * time.Millisecond)
	defer mining()
	size := s.stampMany(1, 50) + 50
	d.awaitSeries(s.metricsPage(), "the metrics say that the nodes disagree", func(m series) bool {
		return m["calpe_bitcoin_nodes_disagree"] == 1 && m[`calpe_bitcoin_up{node="second"}`] == 1 && m[`calpe_anchor_step_failing{cause="nodes-disagree"}`] == 1
	})
	eventually(t, "the log says that the nodes disagree", func(ctx context.Context) error {
		st, err := s.status(ctx)
		text, errLog := os.ReadFile(s.log)
		if err = errors.Join(err, errLog); err == nil && (st.Confirmed < size || bytes.Count(text, []byte(`"msg":"the two bitcoin nodes disagree: nothing becomes final"`)) != 1) {
			err = fmt.Errorf("%+v\n%s", st, tail(s.log, 40))
		}
		if err == nil && st.Final > 0 {
			t.Fatalf("%d entries are final, and the second node knows nothing of it", st.Final)
		}
		return err
	})
	s.exitsCleanly()
	s = d.serve(address, nil)
	s.awaitReady()
	s.awaitFinal(size)
	s.exitsCleanly()
}
