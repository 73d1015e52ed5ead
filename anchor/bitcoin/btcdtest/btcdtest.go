// Package btcdtest runs a btcd of a test's own: a private chain that mines on
// demand, with a faucet.
package btcdtest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
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
)

// Variable names the environment variable with the path of a btcd binary.
const Variable = "CALPE_TEST_BTCD"

const (
	user     = "calpe"
	password = "a-password-of-the-test"
	patience = 30 * time.Second
)

// Node is a running btcd. Its methods fail the test on any error.
type Node struct {
	*bitcoin.Client
	URL     string
	network calpe.Network
	tb      testing.TB
	dir     string
	key     *btcec.PrivateKey
	script  []byte // of the faucet, to which every block pays
	address string
	p2p     string
	process *process
	spent   uint32 // the faucet has spent the coinbases up to this height
}

// Start starts a node that dies with the test, with enough blocks that the
// faucet has money and segwit is active. Regtest is quick, and loses its chain
// at each start; simnet keeps it on a clean stop.
func Start(tb testing.TB, network calpe.Network) *Node {
	tb.Helper()
	if os.Getenv(Variable) == "" {
		tb.Fatalf("%s is not set: run `make test`, which builds a btcd for the tests", Variable)
	}
	n := &Node{tb: tb, network: network, dir: tb.TempDir()}
	n.makeFaucet()
	var listen string
	listen, n.p2p = freeAddress(tb), freeAddress(tb)
	n.URL = "http://" + listen
	client, err := bitcoin.New(bitcoin.Config{URL: n.URL, User: user, Password: password, Timeout: patience})
	if err != nil {
		tb.Fatalf("make client: %v", err)
	}
	n.Client = client
	tb.Cleanup(client.Close)
	n.start()
	tb.Cleanup(func() { n.Stop() })
	blocks := 110
	if network == calpe.Simnet {
		blocks = 310 // segwit becomes active by the votes of 300 blocks
	}
	n.Generate(blocks)
	return n
}

func (n *Node) makeFaucet() {
	n.tb.Helper()
	params, err := bitcoin.Params(n.network)
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
}

func freeAddress(tb testing.TB) string {
	tb.Helper()
	l, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("find a free port: %v", err)
	}
	defer func() { _ = l.Close() }()
	return l.Addr().String()
}

func (n *Node) start() {
	n.tb.Helper()
	logFile, err := os.OpenFile(filepath.Join(n.dir, "output"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		n.tb.Fatalf("start btcd: %v", err)
	}
	defer logFile.Close()
	// Stop ends it, not the test's context, which is over before the node's last answer is read.
	cmd := exec.CommandContext(context.WithoutCancel(n.tb.Context()), os.Getenv(Variable),
		"--"+string(n.network), "--rejectnonstd", "--notls", "--nodnsseed", "--trickleinterval=100ms",
		"--listen="+n.p2p, "--rpclisten="+n.URL[len("http://"):], "--rpcuser="+user, "--rpcpass="+password,
		"--datadir="+filepath.Join(n.dir, "data"), "--logdir="+filepath.Join(n.dir, "log"),
		"--configfile="+filepath.Join(n.dir, "none.conf"), "--miningaddr="+n.address)
	cmd.Stdout, cmd.Stderr = logFile, logFile
	if n.process, err = startProcess(cmd); err != nil {
		n.tb.Fatalf("start btcd: %v", err)
	}
	n.awaitAnswer()
}

func (n *Node) awaitAnswer() {
	n.tb.Helper()
	deadline := time.After(patience)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		_, err := n.Height(context.Background())
		if err == nil {
			return
		}
		select {
		case <-deadline:
			n.tb.Fatalf("btcd doesn't answer: %v\n%s", err, n.output())
		case <-n.process.done:
			n.tb.Fatalf("btcd ended: %v\n%s", n.process.err, n.output())
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

// Stop ends the node cleanly. Its mempool is lost.
func (n *Node) Stop() {
	n.tb.Helper()
	n.process.signal(syscall.SIGTERM)
	select {
	case <-n.process.done:
	case <-time.After(patience):
		n.process.signal(syscall.SIGKILL)
		<-n.process.done
	}
	n.Close()
}

// Restart stops the node and starts it on what it has stored.
func (n *Node) Restart() {
	n.tb.Helper()
	n.Stop()
	n.start()
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
	req.SetBasicAuth(user, password)
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
	var hashes []calpe.BlockHash
	n.Call(&hashes, "generate", count)
	return hashes
}

// Invalidate takes a block and what follows it out of the best chain.
func (n *Node) Invalidate(hash calpe.BlockHash) {
	n.tb.Helper()
	var none any
	n.Call(&none, "invalidateblock", hash)
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
