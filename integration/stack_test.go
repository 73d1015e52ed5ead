package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/calpe/calpe/anchor/bitcoin"
	"github.com/calpe/calpe/receipt/headers"
)

// database is a PostgreSQL server of one's own with the settings of production:
// a commit survives a crash.
type database struct {
	t     testing.TB
	dir   string
	port  string
	quick bool // without these settings
	proc  *process
	info  struct {
		PID      int    `json:"pid"`
		URL      string `json:"url"`
		Binaries string `json:"binaries"`
	}
}

func startDatabase(t testing.TB, dir string) *database {
	t.Helper()
	d := &database{t: t, dir: filepath.Join(dir, "postgres"), port: "0"}
	d.start()
	u, err := url.Parse(d.info.URL)
	if err != nil {
		t.Fatal(err)
	}
	d.port = u.Port()
	return d
}

func (d *database) start() {
	d.t.Helper()
	argv := []string{setting(d.t, "CALPE_TEST_DEVSTACK"), "postgres", "--dir", d.dir, "--port", d.port}
	if !d.quick {
		argv = append(argv, "--durable")
	}
	d.proc = launch(d.t, "postgres", d.dir+".log", os.Environ(), &d.info, argv...)
}

// kill ends all processes of the server at once.
func (d *database) kill() {
	d.t.Helper()
	if err := killFamily(d.t.Context(), d.info.PID); err != nil {
		d.t.Fatal(err)
	}
	if err := d.proc.ended(d.t.Context()); err != nil {
		d.t.Fatal(err)
	}
}

// stop shuts the server down in order.
func (d *database) stop() {
	d.t.Helper()
	if _, err := d.proc.stop(d.t.Context()); err != nil {
		d.t.Fatal(err)
	}
}

// copyTo makes a copy of the data of a server that is stopped.
func (d *database) copyTo(name string) {
	d.t.Helper()
	copyTree(d.t, filepath.Join(d.dir, "data"), filepath.Join(d.dir, name))
}

// putBack replaces the data of a server that is stopped by an older copy.
func (d *database) putBack(name string) {
	d.t.Helper()
	data := filepath.Join(d.dir, "data")
	if err := os.RemoveAll(data); err != nil {
		d.t.Fatal(err)
	}
	copyTree(d.t, filepath.Join(d.dir, name), data)
}

func copyTree(t testing.TB, from, to string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("copy %s: %v\n%s", from, err, out)
	}
}

// node is a btcd of one's own on regtest.
type node struct {
	t      testing.TB
	proc   *process
	url    *url.URL // without user and password
	user   *url.Userinfo
	client *bitcoin.Client
	info   struct {
		PID int    `json:"pid"`
		URL string `json:"url"`
	}
}

func startNode(t testing.TB, dir string) *node {
	t.Helper()
	n := &node{t: t}
	n.proc = launch(t, "btcd", filepath.Join(dir, "bitcoin.log"), os.Environ(), &n.info,
		setting(t, "CALPE_TEST_DEVSTACK"), "bitcoin", "--dir", filepath.Join(dir, "bitcoin"))
	u, err := url.Parse(n.info.URL)
	if err != nil {
		t.Fatal(err)
	}
	n.user = u.User
	n.url = &url.URL{Scheme: u.Scheme, Host: u.Host}
	password, _ := n.user.Password()
	n.client, err = bitcoin.New(bitcoin.Config{URL: n.url.String(), User: n.user.Username(), Password: password})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.client.Close)
	return n
}

// mine adds blocks to the chain.
func (n *node) mine(ctx context.Context, blocks int) error {
	body, err := json.Marshal(map[string]any{"jsonrpc": "1.0", "id": 1, "method": "generate", "params": []int{blocks}})
	if err != nil {
		return err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, n.info.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(io.LimitReader(answer.Body, 1<<20))
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("generate: status %d: %.200s", answer.StatusCode, text)
	}
	return nil
}

// keepMining adds a block now and then until the test, or the function that it
// gives, ends it.
func (n *node) keepMining(every time.Duration) (stop func()) {
	ctx, cancel := context.WithCancel(n.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(every)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			// A node that is busy may refuse a call.
			err := poll(ctx, patience, func(ctx context.Context) error { return n.mine(ctx, 1) })
			if err != nil && ctx.Err() == nil {
				n.t.Errorf("mine: %v", err)
				return
			}
		}
	}()
	return func() { cancel(); <-done }
}

// fund pays satoshis to an address; they are in a block when it returns.
func (n *node) fund(address string, satoshis int64) {
	n.t.Helper()
	cmd := exec.CommandContext(n.t.Context(), setting(n.t, "CALPE_TEST_DEVSTACK"), "fund", "--rpc", n.info.URL, address, strconv.FormatInt(satoshis, 10))
	if out, err := cmd.CombinedOutput(); err != nil {
		n.t.Fatalf("fund: %v\n%s", err, out)
	}
}

// headers are those of the node's whole chain, verified as a stranger would.
func (n *node) headers() *headers.Chain {
	n.t.Helper()
	ctx := n.t.Context()
	tip, _, err := n.client.BestBlock(ctx)
	if err != nil {
		n.t.Fatal(err)
	}
	var raw bytes.Buffer
	for height := uint32(0); height <= tip; height++ {
		hash, err := n.client.BlockHash(ctx, height)
		if err != nil {
			n.t.Fatal(err)
		}
		header, err := n.client.Header(ctx, hash)
		if err != nil {
			n.t.Fatal(err)
		}
		raw.Write(header[:])
	}
	params, err := headers.ParamsFor("regtest")
	if err != nil {
		n.t.Fatal(err)
	}
	chain, err := headers.Read(&raw, params)
	if err != nil {
		n.t.Fatalf("headers of the node: %v", err)
	}
	return chain
}
