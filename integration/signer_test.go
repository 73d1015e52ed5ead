package integration

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/calpe/calpe/anchor/signer"
	"github.com/calpe/calpe/internal/porttest"
)

// TestSignerKilled runs the policy signer as a process of its own, and kills it
// again and again while the log is anchored; once the anchor key is changed in
// between. The server's folder of keys has no anchor key at any time.
func TestSignerKilled(t *testing.T) {
	const kills = 6
	d := prepare(t)
	home := filepath.Join(d.dir, "signer")
	socket := filepath.Join(home, "socket")
	own := map[string]string{
		"CALPE_KEYS": home, "CALPE_SIGNER_STATE": filepath.Join(home, "state.json"), "CALPE_SIGNER_SOCKET": socket,
		"CALPE_ANCHOR_MAX_DAY": "1000000",
	}
	asSigner := func(args ...string) string {
		t.Helper()
		out, errs, code := d.calped(own, args...)
		if code != 0 {
			t.Fatalf("calped %v: exit code %d\n%s", args, code, errs)
		}
		return out
	}
	asSigner("wallet", "init")
	asSigner("signer", "init")
	starts := 0
	start := func() *process {
		t.Helper()
		starts++
		p, err := tryLaunch(t.Context(), "signer", filepath.Join(d.dir, fmt.Sprintf("signer-%d.log", starts)), d.environ(own), nil, d.bin.calped, "signer", "serve")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.kill)
		eventually(t, "signer answers", func(ctx context.Context) error {
			_, err := signer.NewRemote(socket).Status(ctx)
			return err
		})
		return p
	}
	running := start()
	d.env["CALPE_SIGNER_SOCKET"], d.env["CALPE_ANCHOR_MAX_DAY"] = socket, "1000000"
	d.create()
	first := strings.TrimSpace(d.must("wallet", "address"))
	defer d.node.keepMining(600 * time.Millisecond)()
	address := porttest.Address(t)
	s := d.serve(address, nil)
	s.awaitReady()
	l := d.load(clients(), s.url)
	for i := range kills {
		l.awaitMore(20)
		running.kill()
		l.awaitMore(20) // documents are taken without a signer
		if i == kills/2 {
			asSigner("wallet", "rotate")
		}
		running = start()
		if i == kills/2 { // as the operator is told to
			s.exitsCleanly()
			s = d.serve(address, nil)
			s.awaitReady()
		}
	}
	l.awaitMore(20)
	l.stop()
	v := s.check(l.all(), nil)
	status, err := signer.NewRemote(socket).Status(t.Context())
	if err != nil || status.Size < l.highest() || len(status.Scripts) != 2 || status.Spent <= 0 {
		t.Errorf("the signer's status is %+v, %v", status, err)
	}
	if second := strings.TrimSpace(d.must("wallet", "address")); second == first {
		t.Error("deposits go to the former key")
	}
	if _, err := os.Stat(filepath.Join(d.env["CALPE_KEYS"], "wallet.age")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the server's folder has an anchor key: %v", err)
	}
	t.Logf("%d kills of the signer, %d acknowledged, %d anchors, %d sat in fees", kills, l.count(), v.anchors, status.Spent)
	s.exitsCleanly()
}
