package faucet

import (
	"encoding/hex"
	"encoding/json"
	"log/slog"
	"net/url"
	"strings"
	"testing"

	"github.com/btcsuite/btcd/chainhash/v2"
	"github.com/btcsuite/btcd/wire/v2"
	"github.com/calpe/calpe/deploy/devstack/internal/bitcoin"
	"github.com/calpe/calpe/deploy/devstack/internal/tools/toolstest"
)

// node runs a real one whose miner is the faucet.
func node(t *testing.T, network string, blocks int64) *bitcoin.Server {
	t.Helper()
	binary, err := toolstest.Builder(t, "../..").Btcd(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	cfg := bitcoin.Config{Dir: t.TempDir(), Network: network, Blocks: blocks, Binary: binary, Log: slog.New(slog.DiscardHandler)}
	if cfg.Password, err = bitcoin.LoadPassword(cfg.Dir); err != nil {
		t.Fatal(err)
	}
	if cfg.MinerAddress, err = Address(cfg.Password, network); err != nil {
		t.Fatal(err)
	}
	s, err := bitcoin.Start(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	return s
}

func faucet(t *testing.T, s *bitcoin.Server) *Faucet {
	t.Helper()
	f, err := New(t.Context(), s.Info.URL)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// txout is what the node says of an unspent output of the best chain.
func txout(t *testing.T, s *bitcoin.Server, f Funding) (sats int64, script string) {
	t.Helper()
	var out *struct {
		Value        json.Number
		ScriptPubKey struct{ Hex string }
	}
	if err := s.RPC().Call(t.Context(), &out, "gettxout", f.TxID, f.Vout, false); err != nil {
		t.Fatal(err)
	}
	if out == nil {
		t.Fatalf("output %s:%d isn't in the chain", f.TxID, f.Vout)
	}
	btc, err := out.Value.Float64()
	if err != nil {
		t.Fatal(err)
	}
	return int64(btc*1e8 + 0.5), out.ScriptPubKey.Hex
}

func TestFund(t *testing.T) {
	s := node(t, "regtest", 120)
	f := faucet(t, s)
	for _, tt := range []struct {
		name, to, script string
		value            int64
	}{
		{"P2WPKH", "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080", "0014751e76e8199196d454941c45d1b3a323f1433bd6", 1_000_000},
		{"dust limit", "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080", "0014751e76e8199196d454941c45d1b3a323f1433bd6", 546},
		{"a whole coin and more", "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080", "0014751e76e8199196d454941c45d1b3a323f1433bd6", 12_345_678_901},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := f.Fund(t.Context(), tt.to, tt.value)
			if err != nil {
				t.Fatal(err)
			}
			if sats, script := txout(t, s, got); got.Value != tt.value || sats != tt.value || script != tt.script {
				t.Errorf("funding %+v: the chain has %d sat to %s", got, sats, script)
			}
		})
	}
}

// TestFundUsesItsChange pays more often than there are mature coins; each
// payment's change must be found again.
func TestFundUsesItsChange(t *testing.T) {
	s := node(t, "regtest", 101)
	f := faucet(t, s)
	for i := range 8 {
		if _, err := f.Fund(t.Context(), s.Info.MinerAddress, 1_000_000_000); err != nil {
			t.Fatalf("payment %d: %v", i, err)
		}
	}
}

// TestFundSimnet pays from the coins that the command line's number of blocks
// makes; segwit must be active for it.
func TestFundSimnet(t *testing.T) {
	s := node(t, "simnet", 420)
	got, err := faucet(t, s).Fund(t.Context(), s.Info.MinerAddress, 5_000)
	if err != nil {
		t.Fatal(err)
	}
	if sats, _ := txout(t, s, got); sats != 5_000 {
		t.Errorf("the chain has %d sat", sats)
	}
}

func TestFundRefuses(t *testing.T) {
	s := node(t, "regtest", 101)
	f := faucet(t, s)
	for _, tt := range []struct {
		name, to string
		value    int64
		want     string
	}{
		{"too much", s.Info.MinerAddress, 1_000_000_000_000, "too few to pay"},
		{"dust", s.Info.MinerAddress, 545, "545 satoshi"},
		{"negative", s.Info.MinerAddress, -1, "-1 satoshi"},
		{"more than there is", s.Info.MinerAddress, 21e14 + 1, "satoshi"},
		{"mainnet", "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4", 1000, "not of regtest"},
		{"no address", "hello", 1000, `address "hello"`},
		{"bad checksum", "bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt081", 1000, "gt081"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := f.Fund(t.Context(), tt.to, tt.value); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %+v, %v; want %q", got, err, tt.want)
			}
		})
	}
	if _, tip, err := s.RPC().Chain(t.Context()); err != nil || tip.Height != 101 {
		t.Errorf("height %d, %v: a refused payment mined a block", tip.Height, err)
	}
}

// TestImmature: block 1's reward can be in block 101, not before.
func TestImmature(t *testing.T) {
	s := node(t, "regtest", 99)
	f := faucet(t, s)
	if _, err := f.Fund(t.Context(), s.Info.MinerAddress, 1000); err == nil || !strings.Contains(err.Error(), "0 mature coins") {
		t.Errorf("err = %v, want that no coin is mature", err)
	}
	if _, err := s.RPC().Mine(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Fund(t.Context(), s.Info.MinerAddress, 1000); err != nil {
		t.Error(err)
	}
}

func TestNewRefuses(t *testing.T) {
	s := node(t, "regtest", 0)
	u, err := url.Parse(s.Info.URL)
	if err != nil {
		t.Fatal(err)
	}
	u.User = url.UserPassword("calpe", "sesame")
	for _, raw := range []string{"", u.String()} {
		if _, err := New(t.Context(), raw); err == nil || strings.Contains(err.Error(), "sesame") {
			t.Errorf("%v; want an error that doesn't show the password", err)
		}
	}
}

// TestKey pins the derivation: another one would lose the coins of every chain
// that is kept.
func TestKey(t *testing.T) {
	const want = "f37520d18b4dd448954f7591cac28e22af2b01dcd2ad6d9dc291d9455a7484b5"
	if got := hex.EncodeToString(Key("secret").Serialize()); got != want {
		t.Errorf("key = %s, want %s", got, want)
	}
	if a, b := Key("a").Serialize(), Key("b").Serialize(); string(a) == string(b) {
		t.Error("two passwords, one key")
	}
	for network, prefix := range map[string]string{"regtest": "bcrt1q", "simnet": "sb1q"} {
		if got, err := Address("secret", network); err != nil || !strings.HasPrefix(got, prefix) {
			t.Errorf("%s: %s, %v", network, got, err)
		}
	}
	if got, err := Address("secret", "mainnet"); err == nil {
		t.Errorf("an address on mainnet: %s", got)
	}
}

// TestSignNotOurs: the engine must refuse what the key doesn't open.
func TestSignNotOurs(t *testing.T) {
	params, err := Params("regtest")
	if err != nil {
		t.Fatal(err)
	}
	addr, err := keyAddress(Key("other"), params)
	if err != nil {
		t.Fatal(err)
	}
	f := &Faucet{key: Key("mine"), params: params, script: append([]byte{0x00, 0x14}, addr.ScriptAddress()...)}
	coins := []coin{{wire.OutPoint{Hash: chainhash.Hash{1}}, 10_000}}
	if _, err := f.sign(coins, wire.NewTxOut(1000, f.script)); err == nil || !strings.Contains(err.Error(), "check input 0") {
		t.Errorf("err = %v, want that the script engine refuses", err)
	}
}
