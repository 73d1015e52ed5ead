package dev

import (
	"bytes"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/btcsuite/btcd/wire/v2"
	"github.com/calpe/calpe/deploy/devstack/internal/bitcoin"
	"github.com/google/go-cmp/cmp"
)

func TestProgram(t *testing.T) {
	p := Program{Path: "/bin/sh", Dir: t.TempDir(), Env: []string{"CALPE_X=1"}}
	t.Setenv("CALPE_Y", "2")
	got, err := p.Run(t.Context(), "-c", "echo out $CALPE_X$CALPE_Y; echo err >&2; exit 3")
	if want := (Result{Code: 3, Stdout: "out 1\n", Stderr: "err\n"}); err != nil || got != want {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	_, err = p.Do(t.Context(), "-c", "echo why >&2; exit 3")
	if err == nil || err.Error() != "sh: exit code 3: why" {
		t.Errorf("err = %v", err)
	}
	if _, err := p.Run(t.Context(), "-c", "kill -9 $$"); err == nil {
		t.Error("a signal is no error")
	}
	if _, err := (Program{Path: "/none", Dir: "/"}).Run(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no such program: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := p.Run(ctx, "-c", "exec sleep 60"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("err = %v, want the deadline", err)
	}
}

func TestProgramName(t *testing.T) {
	p := Program{Path: "/x/calped"}
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"log", "create", "--create-buckets"}, "calped log create"},
		{[]string{"upload", "a.txt"}, "calped upload"},
		{nil, "calped"},
		{[]string{"--help"}, "calped"},
	} {
		if got := p.name(tt.args); got != tt.want {
			t.Errorf("%q: %q", tt.args, got)
		}
	}
}

func TestField(t *testing.T) {
	const text = "log       a.example/log\nidentity  00ff\ncoin two words\n"
	for name, want := range map[string]string{"log": "a.example/log", "identity": "00ff", "coin": "", "none": ""} {
		if got := field(text, name); got != want {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func TestState(t *testing.T) {
	dir := t.TempDir()
	if s, err := loadState(dir); err != nil || s != (state{}) {
		t.Errorf("new folder: %+v, %v", s, err)
	}
	var want state
	want.Ports.S3, want.Database, want.FirstBlock = 7, "d", &block{Height: 421, Hash: "h"}
	if err := want.save(dir); err != nil {
		t.Fatal(err)
	}
	got, err := loadState(dir)
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if err := os.WriteFile(statePath(dir), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadState(dir); err == nil || !strings.Contains(err.Error(), statePath(dir)) {
		t.Errorf("broken file: %v", err)
	}
}

func TestFollower(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	var out strings.Builder
	f := follower{path: path, at: 2, to: &out}
	f.copy() // no file yet
	file, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for _, text := range []string{"abc", "", "def\n"} {
		if _, err := file.WriteString(text); err != nil {
			t.Fatal(err)
		}
		f.copy()
	}
	if out.String() != "cdef\n" {
		t.Errorf("copied %q", out.String())
	}
}

// TestShell lets a shell read what is written for it.
func TestShell(t *testing.T) {
	script := shell("what", "A=it's; $HOME `x` \"y\"", "B=a=b")
	got, err := Program{Path: "/bin/sh", Dir: t.TempDir()}.Do(t.Context(), "-c", script+`printf '%s|%s' "$A" "$B"`)
	if want := "it's; $HOME `x` \"y\"|a=b"; err != nil || got != want {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
}

func TestRelative(t *testing.T) {
	for _, tt := range []struct{ from, path, want string }{
		{"/a", "/a/bin/calpe", "bin/calpe"},
		{"/a", "/b/calpe", "/b/calpe"},
		{"/a/b", "/a/c", "/a/c"},
		{"", "/a/c", "/a/c"},
	} {
		if got := relative(tt.from, tt.path); got != tt.want {
			t.Errorf("%q from %q: %q", tt.path, tt.from, got)
		}
	}
}

func TestFreePortIsKept(t *testing.T) {
	if got := free(0); got != 0 {
		t.Errorf("none wanted: %d", got)
	}
	if got := free(70000); got != 0 {
		t.Errorf("no such port: %d", got)
	}
	if got := port("http://u:p@127.0.0.1:8420"); got != 8420 {
		t.Errorf("port %d", got)
	}
	if got := port("http://127.0.0.1"); got != 0 {
		t.Errorf("port %d of a URL without one", got)
	}
}

// chain is a node that has what a miner asks for.
type chain struct {
	waiting int // transactions in the mempool
	blocks  []*wire.MsgBlock
}

func (c *chain) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	var call struct{ Method string }
	if err := json.NewDecoder(r.Body).Decode(&call); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	var result any
	switch call.Method {
	case "getrawmempool":
		result = make([]string, c.waiting)
	case "generate":
		block := wire.NewMsgBlock(&wire.BlockHeader{Nonce: uint32(len(c.blocks))})
		for range 1 + c.waiting {
			tx := wire.NewMsgTx(2)
			tx.AddTxIn(&wire.TxIn{})
			block.AddTransaction(tx)
		}
		c.waiting, c.blocks = 0, append(c.blocks, block)
		result = []string{block.BlockHash().String()}
	case "getblock":
		var raw bytes.Buffer
		c.blocks[len(c.blocks)-1].Serialize(&raw)
		result = hex.EncodeToString(raw.Bytes())
	}
	json.NewEncoder(w).Encode(map[string]any{"result": result})
}

// TestMiner counts the blocks that come in a number of steps.
func TestMiner(t *testing.T) {
	c := &chain{}
	server := httptest.NewServer(c)
	defer server.Close()
	node, err := bitcoin.NewClient(strings.Replace(server.URL, "//", "//u:p@", 1))
	if err != nil {
		t.Fatal(err)
	}
	m := miner{node: node}
	for _, tt := range []struct {
		what           string
		waiting, steps int
		want           int
	}{
		{"at the start, when a transaction may be in the last blocks", 0, settled, settled},
		{"idle", 0, 2 * idleTicks, 2},
		{"a transaction waits, and then for confirmations", 1, 2 * settled, settled},
		{"idle again", 0, idleTicks - settled, 1},
	} {
		before := len(c.blocks)
		c.waiting = tt.waiting
		for range tt.steps {
			if err := m.step(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if got := len(c.blocks) - before; got != tt.want {
			t.Errorf("%s: %d blocks in %d steps, want %d", tt.what, got, tt.steps, tt.want)
		}
	}
	server.Close()
	if err := m.step(t.Context()); err == nil {
		t.Error("no error of a node that is away")
	}
}

func TestPortIsKept(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	former := l.Addr().(*net.TCPAddr).Port
	if got, err := firstFree(former, usualCalendar); err != nil || got == 0 || got == former {
		t.Errorf("taken: %d, %v; want another", got, err)
	}
	l.Close()
	if got, err := firstFree(former, usualCalendar); err != nil || got != former {
		t.Errorf("free: %d, %v; want %d", got, err, former)
	}
	if got, err := firstFree(0, usualCalendar); err != nil || got == 0 {
		t.Errorf("first start: %d, %v", got, err)
	}
}
