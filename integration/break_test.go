package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"
	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcutil/v2"
	"github.com/btcsuite/btcd/chainhash/v2"
	"github.com/btcsuite/btcd/txscript/v2"
	"github.com/btcsuite/btcd/wire/v2"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/anchor/signer"
	"github.com/calpe/calpe/audit"
	"github.com/calpe/calpe/internal/commitpoint"
	"github.com/calpe/calpe/internal/porttest"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/statement"
)

// TestChainIsRestarted steals the anchor key and the coin. The operator makes a new
// key and restarts the chain, with a command that dies at each of its commit points;
// the signer takes the new coin from its own operator only. Receipts from before and
// behind verify as ever, audits from all sources go over the break and say so, and what
// is published of it is falsified.
func TestChainIsRestarted(t *testing.T) {
	d := prepare(t)
	sg := d.signer()
	d.create()
	address := porttest.Address(t)
	s := d.serve(address, nil)
	s.awaitReady()
	mining := d.node.keepMining(400 * time.Millisecond)
	c := &citizen{d: d, dir: t.TempDir(), env: map[string]string{"CALPE_SERVER": s.url, "CALPE_TOKEN": d.token, "CALPE_IDENTITY": "identity.json"}}
	c.write("identity.json", d.identity.Canonical())
	c.write("before.txt", []byte("from before\n"))
	c.exits(0, "upload", "--wait", "final", "--timeout", patience.String(), "before.txt")
	if out, errs, code := d.calped(nil, "log", "restart-chain", "--reason", "none"); code == 0 || !strings.Contains(errs, "isn't broken") {
		t.Errorf("a chain that is whole was restarted: %s%s", out, errs)
	}
	s.exitsCleanly()
	mining()
	if err := d.node.mine(t.Context(), 3); err != nil { // what was sent is in blocks
		t.Fatal(err)
	}
	links, coin := d.followCoins()
	d.steal(sg.key(), coin)

	s = d.serve(address, nil)
	s.awaitReady()
	s.logs("spent by a transaction that isn't ours")
	restart := []string{"log", "restart-chain", "--reason", "The anchor key was stolen on the night of 21 November."}
	if _, errs, code := d.calped(nil, restart...); code == 0 || !strings.Contains(errs, "not deep enough yet") {
		t.Errorf("restarted behind a spend that isn't deep: %s", errs)
	}
	mining = d.node.keepMining(400 * time.Millisecond)
	s.stampMany(7, 50) // the log goes on
	// A new key; signer and server are restarted, as the operator is told to.
	sg.stop()
	sg.must("wallet", "rotate")
	sg.start()
	s.exitsCleanly()
	s = d.serve(address, nil)
	s.awaitReady()
	deposits := strings.TrimSpace(d.must("wallet", "address"))
	eventually(t, "the operator is told to pay", func(context.Context) error {
		_, errs, code := d.calped(nil, restart...)
		if code == 0 || !strings.Contains(errs, "pay at least 50000 sat to "+deposits) {
			return fmt.Errorf("exit code %d: %s", code, errs)
		}
		return nil
	})
	d.node.fund(deposits, 10_000_000)
	first := d.restarts(restart)

	// The signer signs nothing for it until its own operator says so.
	s.logs(signer.ErrChain.Error())
	if _, unspent, err := d.node.client.TxOut(t.Context(), first); err != nil || !unspent {
		t.Fatalf("the new coin was spent without a word of the signer's operator (%v)", err)
	}
	if _, errs, code := d.calped(sg.env, "signer", "restart-chain", "--coin", first.String()); code == 0 || !strings.Contains(errs, "another") {
		t.Errorf("a signer that runs was told: exit code %d, %s", code, errs)
	}
	sg.stop()
	sg.must("signer", "restart-chain", "--coin", first.String())
	sg.start()

	c.env["CALPE_SERVER"] = s.url
	c.write("behind.txt", []byte("from behind\n"))
	c.exits(0, "upload", "--wait", "final", "--timeout", patience.String(), "behind.txt")
	s.stampMany(8, 50)
	c.exits(0, "receipt", "--wait", "final", "--timeout", patience.String(), "before.txt.receipt.json")
	mining()
	c.fetchHeaders()
	for _, name := range []string{"before.txt", "behind.txt"} {
		c.reports(0, [3]receipt.Status{holds, holds, notAsked}, receipt.ReasonNoCertification, name, name+".receipt.json")
	}
	c.auditsBreak(s, links, coin, first)
	s.exitsCleanly()
	if out, errs, code := d.calped(nil, "fsck"); code != 0 {
		t.Errorf("fsck: exit code %d\n%s%s", code, out, errs)
	}
}

// restarts runs the command, dying at each commit point, and gives the new coin.
func (d *deployment) restarts(command []string) calpe.Outpoint {
	t := d.t
	t.Helper()
	eventually(t, "the deposit is deep", func(context.Context) error {
		_, errs, code := d.calped(map[string]string{"CALPE_CRASH_AT": string(commitpoint.BreakDeclared)}, command...)
		if code != -1 {
			return fmt.Errorf("exit code %d: %s", code, errs)
		}
		return nil
	})
	for _, p := range []commitpoint.Point{commitpoint.BreakPublished, commitpoint.ChainRestarted} {
		if _, errs, code := d.calped(map[string]string{"CALPE_CRASH_AT": string(p)}, command...); code != -1 {
			t.Fatalf("at %s: exit code %d: %s", p, code, errs)
		}
	}
	if out := d.must(command...); !strings.Contains(out, "it isn't broken now") {
		t.Errorf("once more: %s", out)
	}
	all, err := d.rows().Statements(t.Context(), statement.TypeBreak)
	if err != nil || len(all) != 1 {
		t.Fatalf("%d break statements after four runs, %v", len(all), err)
	}
	signed, err := statement.Parse(all[0].Body)
	if err != nil {
		t.Fatal(err)
	}
	return signed.Body().(statement.Break).First
}

// logs waits until the server has logged a text.
func (s *server) logs(text string) {
	s.d.t.Helper()
	eventually(s.d.t, "the server logs "+text, func(context.Context) error {
		content, err := os.ReadFile(s.log)
		if err == nil && !bytes.Contains(content, []byte(text)) {
			err = errors.New(tail(s.log, 5))
		}
		return err
	})
}

// steal spends a coin with the key, away from the log.
func (d *deployment) steal(key *btcec.PrivateKey, coin calpe.Outpoint) {
	t := d.t
	t.Helper()
	out, unspent, err := d.node.client.TxOut(t.Context(), coin)
	if err != nil || !unspent {
		t.Fatalf("the coin %v: %v, %v", coin, unspent, err)
	}
	tx := wire.NewMsgTx(2)
	tx.AddTxIn(wire.NewTxIn(&wire.OutPoint{Hash: chainhash.Hash(coin.TxID), Index: coin.Vout}, nil, nil))
	script := bytes.Clone(out.Script)
	script[5] ^= 1 // the thief's
	tx.AddTxOut(wire.NewTxOut(out.Value-2_000, script))
	hashes := txscript.NewTxSigHashes(tx, txscript.NewCannedPrevOutputFetcher(out.Script, out.Value))
	if tx.TxIn[0].Witness, err = txscript.WitnessSignature(tx, hashes, 0, out.Value, out.Script, txscript.SigHashAll, key, true); err != nil {
		t.Fatal(err)
	}
	var raw bytes.Buffer
	if err := tx.Serialize(&raw); err != nil {
		t.Fatal(err)
	}
	answer, err := d.node.client.Send(t.Context(), raw.Bytes())
	if err != nil || answer.Kind != ledger.Accepted {
		t.Fatalf("the theft: %+v, %v", answer, err)
	}
	if err := d.node.mine(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
}

// auditsBreak audits the log from everywhere, and then falsified.
func (c *citizen) auditsBreak(s *server, before []spend, coin, first calpe.Outpoint) {
	t := c.d.t
	t.Helper()
	const broken = audit.ReasonChainBroken
	password, _ := c.d.node.user.Password()
	node := []string{"--node", c.d.node.url.String(), "--rpc-user", c.d.node.user.Username(), "--rpc-password", password}
	scan := slices.Concat(node, []string{"--scan"})
	offline := []string{"--headers", "headers.bin"}
	with := func(args ...string) []string { return slices.Concat([]string{"--depth", "3"}, args) }
	bucket := c.d.publish()
	eventually(t, "the bucket has what the service has", func(ctx context.Context) error {
		for _, path := range []string{receipt.AnchorsPath(0), receipt.BreaksPath} {
			there, err := c.d.store().ReadLogObject(ctx, path, receipt.MaxAnchorsPage)
			if err != nil {
				return err
			}
			if _, want, err := c.d.get(ctx, s.url+"/log/"+path, ""); err != nil || !bytes.Equal(there, want) {
				return fmt.Errorf("%s differs: %w", path, err)
			}
		}
		return nil
	})
	for name, args := range map[string][]string{
		"the service":  slices.Concat([]string{"--server", s.url, "--dir", "mirror"}, offline),
		"the bucket":   slices.Concat([]string{"--log", bucket}, offline),
		"with a node":  slices.Concat([]string{"--log", bucket}, node),
		"with a scan":  slices.Concat([]string{"--log", bucket}, scan),
		"once more":    slices.Concat([]string{"--server", s.url, "--dir", "mirror"}, offline),
		"without help": {"--log", bucket},
	} {
		r := c.audits(0, holds, broken, with(args...)...)
		if a := r.Anchors; a == nil || len(a.Breaks) != 1 || a.Breaks[0].Coin != coin || a.Breaks[0].First != first || a.Breaks[0].After != uint64(len(before)) ||
			a.Breaks[0].Size != before[len(before)-1].payload.Size || !strings.Contains(r.Text, "was BROKEN") || !strings.Contains(r.Text, "stolen on the night") {
			t.Errorf("%s: %s: %+v", name, r.Text, r.Anchors)
		}
	}
	if out := c.exits(0, append([]string{"audit", "--log", "mirror"}, with(offline...)...)...); !strings.Contains(out, "Answer: HOLDS, WITH A BREAK") {
		t.Error(out)
	}

	file := filepath.Join("mirror", filepath.FromSlash(receipt.BreaksPath))
	right := c.read(file)
	audits := func(what string, code int, status receipt.Status, reason audit.Reason, wrong []byte, args ...string) {
		t.Helper()
		c.write(file, wrong)
		t.Log(what, c.audits(code, status, reason, with(append([]string{"--log", "mirror"}, args...)...)...).Text)
		c.write(file, right)
	}
	list, err := receipt.DecodeBreaks(right)
	if err != nil {
		t.Fatal(err)
	}
	spoilt := func(edit func(b *receipt.Break, body *statement.Break)) []byte {
		t.Helper()
		b, body := list[0], list[0].Body()
		edit(&b, &body)
		signed := c.resigned(body)
		if body != list[0].Body() {
			b.Statement = signed
		}
		data, err := receipt.EncodeBreaks([]receipt.Break{b})
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	gap := audit.ReasonAnchorGap // as a scan sees it: a foreign spend, and behind it anchors of something else
	coinReason := audit.ReasonBreakStatement
	for _, args := range [][]string{offline, scan} {
		audits("no statement:", 1, refuted, gap, nil, args...)
		audits("another coin:", 1, refuted, coinReason, spoilt(func(_ *receipt.Break, x *statement.Break) { x.Coin.Vout++ }), args...)
		audits("never notarized:", 1, refuted, audit.ReasonBreakStatement, spoilt(func(_ *receipt.Break, x *statement.Break) { x.Reason = "another" }), args...)
		audits("another index:", 1, refuted, audit.ReasonBreakStatement, spoilt(func(b *receipt.Break, _ *statement.Break) { b.Index++ }), args...)
		audits("twice:", 1, refuted, audit.ReasonAnchorFork, slices.Concat(right, right), args...)
		gap, coinReason = audit.ReasonAnchorFork, audit.ReasonAnchorFork
	}
	audits("damaged:", 1, refuted, audit.ReasonAnchorMalformed, right[:len(right)-2], offline...)
}

// resigned is a statement that the log's own key signs, and that is in no entry.
func (c *citizen) resigned(body statement.Break) statement.Signed {
	t := c.d.t
	t.Helper()
	text, err := os.ReadFile(filepath.Join(c.d.env["CALPE_KEYS"], "statement.key"))
	if err != nil {
		t.Fatal(err)
	}
	key, err := statement.ParseKey(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatal(err)
	}
	signed, err := statement.Sign(key, body)
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

// policySigner is the signer as a process of its own.
type policySigner struct {
	d       *deployment
	env     map[string]string
	home    string
	running *process
	starts  int
}

// signer starts one, and lets the deployment use it.
func (d *deployment) signer() *policySigner {
	d.t.Helper()
	home := filepath.Join(d.dir, "signer")
	socket := filepath.Join(home, "socket")
	sg := &policySigner{d: d, home: home, env: map[string]string{
		"CALPE_KEYS": home, "CALPE_SIGNER_STATE": filepath.Join(home, "state.json"), "CALPE_SIGNER_SOCKET": socket, "CALPE_ANCHOR_MAX_DAY": "1000000",
	}}
	sg.must("wallet", "init")
	sg.must("signer", "init")
	sg.start()
	d.env["CALPE_SIGNER_SOCKET"], d.env["CALPE_ANCHOR_MAX_DAY"] = socket, "1000000"
	return sg
}

func (sg *policySigner) must(args ...string) {
	sg.d.t.Helper()
	if _, errs, code := sg.d.calped(sg.env, args...); code != 0 {
		sg.d.t.Fatalf("calped %v: exit code %d\n%s", args, code, errs)
	}
}

func (sg *policySigner) start() {
	t := sg.d.t
	t.Helper()
	sg.starts++
	p, err := tryLaunch(t.Context(), "signer", filepath.Join(sg.d.dir, fmt.Sprintf("policy-%d.log", sg.starts)), sg.d.environ(sg.env), nil, sg.d.bin.calped, "signer", "serve")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	sg.running = p
	eventually(t, "signer answers", func(ctx context.Context) error {
		_, err := signer.NewRemote(sg.env["CALPE_SIGNER_SOCKET"]).Status(ctx)
		return err
	})
}

func (sg *policySigner) stop() { sg.running.kill() }

// key is the first anchor key, as a thief has it who has the folder.
func (sg *policySigner) key() *btcec.PrivateKey {
	t := sg.d.t
	t.Helper()
	passphrase, err := os.ReadFile(filepath.Join(sg.home, "wallet.passphrase"))
	if err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(filepath.Join(sg.home, "wallet.age"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	identity, err := age.NewScryptIdentity(strings.TrimSpace(string(passphrase)))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := age.Decrypt(armor.NewReader(file), identity)
	if err != nil {
		t.Fatal(err)
	}
	var store struct {
		Keys []struct {
			WIF string `json:"wif"`
		} `json:"keys"`
	}
	if err := json.NewDecoder(plain).Decode(&store); err != nil {
		t.Fatal(err)
	}
	wif, err := btcutil.DecodeWIF(store.Keys[0].WIF)
	if err != nil {
		t.Fatal(err)
	}
	return wif.PrivKey
}
