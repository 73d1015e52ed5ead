// Package nodetest runs a Bitcoin node of a test's own, btcd or Bitcoin Core: a
// private chain that mines on demand, with a faucet.
package nodetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/btcsuite/btcd/address/v2"
	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/txscript/v2"
	"github.com/btcsuite/btcd/wire/v2"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/bitcoin"
	"github.com/calpe/calpe/internal/chainparams"
	"github.com/calpe/calpe/internal/porttest"
)

const (
	user     = "calpe"
	password = "a-password-of-the-test"
	patience = 2 * time.Minute
)

// Node is a running node. Its methods fail the test on any error.
type Node struct {
	*bitcoin.Client
	URL     string
	kind    Kind
	network calpe.Network
	tb      testing.TB
	dir     string
	key     *btcec.PrivateKey
	script  []byte // of the faucet, to which every block pays
	address string
	// elsewhere is an address that nobody has the key of.
	elsewhere string
	user      string
	// password of user.
	password string
	rpc      string
	p2p      string
	process  *process
	spent    uint32 // the faucet has spent the coinbases up to this height
	mined    uint64 // blocks that were made by hand
}

// Start starts a node that dies with the test, with enough blocks that the
// faucet has money and segwit is active.
func Start(tb testing.TB, kind Kind, network calpe.Network) *Node {
	tb.Helper()
	n := &Node{tb: tb, kind: kind, network: network, user: user, password: password, dir: tb.TempDir()}
	n.makeFaucet()
	n.startSomewhere()
	tb.Cleanup(func() { n.Stop() })
	blocks := 110
	if network == calpe.Simnet {
		blocks = 310 // segwit becomes active by the votes of 300 blocks
	}
	n.Generate(blocks)
	return n
}

// Attach gives the methods that mine and reorganise to a node that runs already:
// a btcd on regtest.
func Attach(tb testing.TB, client *bitcoin.Client, url, user, password string) *Node {
	tb.Helper()
	n := &Node{Client: client, URL: url, tb: tb, kind: Btcd, network: calpe.Regtest, user: user, password: password}
	n.makeFaucet()
	return n
}

// startSomewhere looks for free ports until the node has them: another process
// can be quicker.
func (n *Node) startSomewhere() {
	n.tb.Helper()
	const tries = 5
	for try := 1; ; try++ {
		n.rpc, n.p2p = porttest.Address(n.tb), porttest.Address(n.tb)
		n.URL = "http://" + n.rpc
		client, err := bitcoin.New(bitcoin.Config{URL: n.URL, User: user, Password: password, Timeout: patience})
		if err != nil {
			n.tb.Fatalf("make client: %v", err)
		}
		n.Client = client
		if err = n.start(); err == nil {
			n.tb.Cleanup(client.Close)
			return
		}
		client.Close()
		if try == tries {
			n.tb.Fatalf("start %s: %v", n.kind, err)
		}
	}
}

func (n *Node) makeFaucet() {
	n.tb.Helper()
	params, err := chainparams.For(n.network)
	if err != nil {
		n.tb.Fatalf("faucet: %v", err)
	}
	if n.key, err = btcec.NewPrivateKey(); err != nil {
		n.tb.Fatalf("faucet: %v", err)
	}
	addr, err := address.NewAddressWitnessPubKeyHash(address.Hash160(n.key.PubKey().SerializeCompressed()), params)
	if err != nil {
		n.tb.Fatalf("faucet: %v", err)
	}
	if n.script, err = txscript.PayToAddrScript(addr); err != nil {
		n.tb.Fatalf("faucet: %v", err)
	}
	n.address = addr.EncodeAddress()
	other, err := address.NewAddressWitnessPubKeyHash(address.Hash160(n.script), params)
	if err != nil {
		n.tb.Fatalf("faucet: %v", err)
	}
	n.elsewhere = other.EncodeAddress()
}

func (n *Node) start() error {
	if err := os.MkdirAll(n.data(), 0o700); err != nil {
		return err
	}
	logFile, err := os.OpenFile(filepath.Join(n.dir, "output"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer logFile.Close()
	// Stop ends it, not the test's context, which is over before the node's last answer is read.
	cmd := exec.CommandContext(context.WithoutCancel(n.tb.Context()), n.kind.binary(n.tb), n.arguments()...)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	if n.process, err = startProcess(cmd); err != nil {
		return err
	}
	return n.awaitAnswer()
}

func (n *Node) awaitAnswer() error {
	deadline := time.After(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := n.Height(context.Background())
		if err == nil {
			return nil
		}
		select {
		case <-deadline:
			n.kill()
			return fmt.Errorf("it doesn't answer: %w\n%s", err, n.output())
		case <-n.process.done:
			return fmt.Errorf("it ended: %w\n%s", n.process.err, n.output())
		case <-tick.C:
		}
	}
}

func (n *Node) output() string {
	out, err := os.ReadFile(filepath.Join(n.dir, "output"))
	if err != nil {
		return err.Error()
	}
	return string(out[max(0, len(out)-2000):])
}

// Through is a client that reaches the node by way of another address.
func (n *Node) Through(url string, timeout time.Duration) *bitcoin.Client {
	n.tb.Helper()
	client, err := bitcoin.New(bitcoin.Config{URL: url, User: n.user, Password: n.password, Timeout: timeout})
	if err != nil {
		n.tb.Fatalf("make client: %v", err)
	}
	n.tb.Cleanup(client.Close)
	return client
}

// Stop ends the node cleanly. Its mempool is lost.
func (n *Node) Stop() {
	n.tb.Helper()
	n.process.signal(syscall.SIGTERM)
	select {
	case <-n.process.done:
	case <-time.After(patience):
		n.kill()
	}
	n.Close()
}

func (n *Node) kill() {
	n.process.signal(syscall.SIGKILL)
	<-n.process.done
}

// Restart stops the node and starts it on what it has stored, at the same address.
func (n *Node) Restart() {
	n.tb.Helper()
	n.Stop()
	if err := n.start(); err != nil {
		n.tb.Fatalf("start %s again: %v", n.kind, err)
	}
}

// Wipe restarts the node without a chain.
func (n *Node) Wipe() {
	n.tb.Helper()
	n.Stop()
	if err := os.RemoveAll(n.data()); err != nil {
		n.tb.Fatalf("wipe: %v", err)
	}
	if err := n.start(); err != nil {
		n.tb.Fatalf("start %s again: %v", n.kind, err)
	}
	n.spent = 0
}

// Join connects the node with another one and waits until both have the chain
// with the most work.
func (n *Node) Join(other *Node) {
	n.tb.Helper()
	n.connect(other)
	n.await("nodes agree", func() bool { return n.tip() == other.tip() })
}

// Part cuts the connection that Join made.
func (n *Node) Part(other *Node) {
	n.tb.Helper()
	if err := n.disconnect(other); err != nil {
		n.tb.Fatalf("part: %v", err)
	}
	n.await("connection is cut", func() bool { return n.peers() == 0 && other.peers() == 0 })
}

// tip is asked for in one call: btcd takes blocks off one by one while it
// changes to another branch.
func (n *Node) tip() (hash calpe.BlockHash) {
	n.tb.Helper()
	n.Call(&hash, "getbestblockhash")
	return hash
}

func (n *Node) await(what string, holds func() bool) {
	n.tb.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-deadline:
			n.tb.Fatalf("%s: not within %v\n%s", what, patience, n.output())
		case <-tick.C:
		}
	}
}

// Call makes any call, for what the product's client hasn't.
func (n *Node) Call(result any, method string, params ...any) {
	n.tb.Helper()
	if err := n.call(result, method, params...); err != nil {
		n.tb.Fatalf("call %s: %v", method, err)
	}
}

func (n *Node) call(result any, method string, params ...any) error {
	if params == nil {
		params = []any{}
	}
	body, err := json.Marshal(map[string]any{"jsonrpc": "1.0", "id": 1, "method": method, "params": params})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, n.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.SetBasicAuth(n.user, n.password)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	var a struct {
		Result json.RawMessage
		Error  *struct{ Message string }
	}
	if err := json.Unmarshal(raw, &a); err != nil {
		return fmt.Errorf("%w: %.200s", err, raw)
	}
	if a.Error != nil {
		return errors.New(a.Error.Message)
	}
	return json.Unmarshal(a.Result, result)
}

// Generate mines blocks with what is in the mempool, and gives their hashes.
func (n *Node) Generate(count int) []calpe.BlockHash {
	n.tb.Helper()
	return n.generate(count)
}

// Invalidate takes a block and what follows it out of the best chain. Blocks
// that are generated from then on differ from it: Core would else make the same
// one again within a second, which is invalid.
func (n *Node) Invalidate(hash calpe.BlockHash) {
	n.tb.Helper()
	var none any
	n.Call(&none, "invalidateblock", hash)
	n.address, n.elsewhere = n.elsewhere, n.address
}

// Mempool lists the transactions that wait for a block.
func (n *Node) Mempool() []calpe.BlockHash {
	n.tb.Helper()
	var ids []calpe.BlockHash
	n.Call(&ids, "getrawmempool")
	return ids
}

// Fund pays satoshis to a script, in a block that it mines.
func (n *Node) Fund(script []byte, value int64) calpe.Outpoint {
	n.tb.Helper()
	raw, id := n.Pay(script, value)
	if answer, err := n.Send(context.Background(), raw); err != nil || !answer.Kind.Taken() {
		n.tb.Fatalf("fund: %+v, %v", answer, err)
	}
	n.Generate(1)
	return calpe.Outpoint{TxID: id, Vout: 0}
}

// Pay makes a signed transaction that pays satoshis to a script from the oldest
// unspent coinbase, the rest to the faucet, and doesn't send it.
func (n *Node) Pay(script []byte, value int64) (raw []byte, txid calpe.BlockHash) {
	n.tb.Helper()
	n.spent++
	hash, err := n.BlockHash(context.Background(), n.spent)
	if err != nil {
		n.tb.Fatalf("fund: %v", err)
	}
	block, err := n.Block(context.Background(), hash)
	if err != nil {
		n.tb.Fatalf("fund: %v", err)
	}
	coinbase := block.Transactions[0]
	prev := coinbase.TxOut[0]
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(wire.NewTxIn(&wire.OutPoint{Hash: coinbase.TxHash()}, nil, nil))
	tx.AddTxOut(wire.NewTxOut(value, script))
	tx.AddTxOut(wire.NewTxOut(prev.Value-value-2000, n.script))
	hashes := txscript.NewTxSigHashes(tx, txscript.NewCannedPrevOutputFetcher(prev.PkScript, prev.Value))
	tx.TxIn[0].Witness, err = txscript.WitnessSignature(tx, hashes, 0, prev.Value, prev.PkScript, txscript.SigHashAll, n.key, true)
	if err != nil {
		n.tb.Fatalf("fund: %v", err)
	}
	var b bytes.Buffer
	if err := tx.Serialize(&b); err != nil {
		n.tb.Fatalf("fund: %v", err)
	}
	return b.Bytes(), calpe.BlockHash(tx.TxHash())
}
