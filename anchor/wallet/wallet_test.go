package wallet_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/btcsuite/btcd/address/v2"
	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcec/v2/ecdsa"
	"github.com/btcsuite/btcd/txscript/v2"
	"github.com/btcsuite/btcd/wire/v2"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/anchor/wallet"
)

var now = time.Date(2026, 11, 21, 9, 30, 0, 5, time.UTC)

// quick is a lock whose scrypt costs nothing.
var quick = wallet.Lock{Passphrase: "correct horse battery staple", WorkFactor: 1}

func newKeys(t testing.TB) *wallet.Keystore {
	t.Helper()
	s, err := wallet.Create(filepath.Join(t.TempDir(), "wallet.age"), calpe.Regtest, quick, now)
	if err != nil {
		t.Fatalf("create keystore: %v", err)
	}
	return s
}

func newKey(t testing.TB) *wallet.Key {
	t.Helper()
	return newKeys(t).Current()
}

var caps = wallet.Caps{FeeRate: 100 * ledger.SatPerVB, Fee: 10_000}

func input(k *wallet.Key, n byte, value int64) ledger.Input {
	return ledger.Input{Outpoint: calpe.Outpoint{TxID: calpe.BlockHash{n, 0xaa}, Vout: uint32(n)}, Output: ledger.Output{Value: value, Script: k.Script()}}
}

func build(k *wallet.Key) wallet.Build {
	return wallet.Build{Coin: input(k, 1, 1_000_000), Payload: calpe.Payload{Size: 77, Root: calpe.Hash{5}}, FeeRate: 2500, Caps: caps}
}

func newSigner(t testing.TB, k *wallet.Keystore, c wallet.Caps) *wallet.Signer {
	t.Helper()
	s, err := wallet.New(wallet.Config{Keys: k, Caps: c})
	if err != nil {
		t.Fatalf("make signer: %v", err)
	}
	return s
}

func parse(t testing.TB, raw []byte) *wire.MsgTx {
	t.Helper()
	var tx wire.MsgTx
	if err := tx.Deserialize(bytes.NewReader(raw)); err != nil {
		t.Fatalf("parse transaction: %v", err)
	}
	return &tx
}

func vsizeOf(tx *wire.MsgTx) int { return (3*tx.SerializeSizeStripped() + tx.SerializeSize() + 3) / 4 }

// The shape of an attempt, for one input and for many, signed: within its
// stated size, with the id that was known before, and low S throughout.
func TestBuildAndSign(t *testing.T) {
	for _, n := range []int{1, 2, 3, 7, wallet.MaxInputs} {
		for range 1 + 5/n {
			keys := newKeys(t)
			k := keys.Current()
			b := build(k)
			for i := 1; i < n; i++ {
				b.Extra = append(b.Extra, input(k, byte(i+1), rand.Int64N(1e9)+1))
			}
			a, err := wallet.BuildAttempt(b)
			if err != nil {
				t.Fatalf("build with %d inputs: %v", n, err)
			}
			raw, err := newSigner(t, keys, caps).Sign(t.Context(), a.Unsigned, a.Inputs)
			if err != nil {
				t.Fatalf("sign %d inputs: %v", n, err)
			}
			checkShape(t, parse(t, raw), a, k, n)
		}
	}
}

func checkShape(t *testing.T, tx *wire.MsgTx, a ledger.Attempt, k *wallet.Key, inputs int) {
	t.Helper()
	if calpe.BlockHash(tx.TxHash()) != a.TxID {
		t.Errorf("signed transaction has id %v, known before was %v", tx.TxHash(), a.TxID)
	}
	size := vsizeOf(tx)
	if size > a.VSize || size < a.VSize-inputs || a.VSize != wallet.VSize(inputs) || inputs == 1 && a.VSize > 161 {
		t.Errorf("%d inputs: %d vB, stated are %d", inputs, size, a.VSize)
	}
	if tx.Version != 2 || tx.LockTime != 0 || len(tx.TxIn) != inputs || len(tx.TxOut) != 2 {
		t.Errorf("version %d, locktime %d, %d inputs, %d outputs", tx.Version, tx.LockTime, len(tx.TxIn), len(tx.TxOut))
	}
	var in int64
	for i, txin := range tx.TxIn {
		in += a.Inputs[i].Value
		sig, err := ecdsa.ParseDERSignature(txin.Witness[0][:len(txin.Witness[0])-1])
		if err != nil || txin.Sequence != 0xfffffffd {
			t.Fatalf("input %d: sequence %#x, %v", i, txin.Sequence, err)
		}
		if s := sig.S(); s.IsOverHalfOrder() {
			t.Errorf("input %d: S is high", i)
		}
	}
	if !bytes.Equal(tx.TxOut[0].PkScript, a.Payload.Script()) || tx.TxOut[0].Value != 0 {
		t.Errorf("output 0 is %+v", tx.TxOut[0])
	}
	if !bytes.Equal(tx.TxOut[1].PkScript, k.Script()) || tx.TxOut[1].Value != a.Change || in-a.Change != a.Fee || a.Fee != ledger.FeeRate(2500).Fee(a.VSize) {
		t.Errorf("output 1 is %+v; %d in, fee %d", tx.TxOut[1], in, a.Fee)
	}
}

func TestBuildRefuses(t *testing.T) {
	k := newKey(t)
	reserve := caps.Reserve()
	if reserve != 294+10_000 {
		t.Fatalf("reserve is %d", reserve)
	}
	fee := ledger.FeeRate(2500).Fee(161)
	for name, row := range map[string]struct {
		change func(*wallet.Build)
		want   error
	}{
		"fine":                        {func(*wallet.Build) {}, nil},
		"just enough":                 {func(b *wallet.Build) { b.Coin.Value = reserve + fee }, nil},
		"one satoshi short":           {func(b *wallet.Build) { b.Coin.Value = reserve + fee - 1 }, wallet.ErrOutOfFunds},
		"a deposit helps":             {func(b *wallet.Build) { b.Coin.Value = 300; b.Extra = []ledger.Input{input(k, 9, reserve+1000)} }, nil},
		"at the rate cap":             {func(b *wallet.Build) { b.FeeRate = 62_000 }, nil},
		"above the fee cap":           {func(b *wallet.Build) { b.FeeRate = 63_000 }, wallet.ErrCap},
		"above the rate cap":          {func(b *wallet.Build) { b.Caps.Fee = 1e6; b.FeeRate = 100_001 }, wallet.ErrCap},
		"below 1 sat/vB":              {func(b *wallet.Build) { b.FeeRate = 999 }, errAny},
		"caps of nothing":             {func(b *wallet.Build) { b.Caps = wallet.Caps{} }, errAny},
		"caps below one anchor":       {func(b *wallet.Build) { b.Caps.Fee = 160 }, errAny},
		"empty log":                   {func(b *wallet.Build) { b.Payload.Size = 0 }, errAny},
		"log too large":               {func(b *wallet.Build) { b.Payload.Size = calpe.MaxLogSize + 1 }, errAny},
		"an input twice":              {func(b *wallet.Build) { b.Extra = []ledger.Input{b.Coin} }, errAny},
		"an input of another form":    {func(b *wallet.Build) { b.Extra = []ledger.Input{input(k, 9, 1000)}; b.Extra[0].Script[0] = 1 }, errAny},
		"change of another form":      {func(b *wallet.Build) { b.Change = []byte{0, 20} }, errAny},
		"change to another key":       {func(b *wallet.Build) { b.Change = newKey(t).Script() }, nil},
		"an input of nothing":         {func(b *wallet.Build) { b.Extra = []ledger.Input{input(k, 9, 0)} }, errAny},
		"an input of too much":        {func(b *wallet.Build) { b.Extra = []ledger.Input{input(k, 9, 21e14+1)} }, errAny},
		"more inputs than are bounds": {func(b *wallet.Build) { b.Extra = make([]ledger.Input, wallet.MaxInputs) }, errAny},
	} {
		b := build(k)
		row.change(&b)
		_, err := wallet.BuildAttempt(b)
		if row.want == errAny && err == nil || row.want != errAny && !errors.Is(err, row.want) {
			t.Errorf("%s: error %v, want %v", name, err, row.want)
		}
	}
}

var errAny = errors.New("any error")

// The signer has caps of its own, and signs nothing but attempts.
func TestSignerPolicy(t *testing.T) {
	keys := newKeys(t)
	k := keys.Current()
	other := newKey(t)
	for name, row := range map[string]struct {
		change func(tx *wire.MsgTx, in []ledger.Input) []ledger.Input
		want   error
	}{
		"fine":             {func(_ *wire.MsgTx, in []ledger.Input) []ledger.Input { return in }, nil},
		"version":          {on(func(tx *wire.MsgTx) { tx.Version = 3 }), wallet.ErrPolicy},
		"locktime":         {on(func(tx *wire.MsgTx) { tx.LockTime = 1 }), wallet.ErrPolicy},
		"not replaceable":  {on(func(tx *wire.MsgTx) { tx.TxIn[0].Sequence = 0xffffffff }), wallet.ErrPolicy},
		"signature script": {on(func(tx *wire.MsgTx) { tx.TxIn[0].SignatureScript = []byte{0} }), wallet.ErrPolicy},
		"another coin":     {on(func(tx *wire.MsgTx) { tx.TxIn[0].PreviousOutPoint.Index++ }), wallet.ErrPolicy},
		"an input more":    {on(func(tx *wire.MsgTx) { tx.AddTxIn(tx.TxIn[0]) }), wallet.ErrPolicy},
		"the same input twice": {func(tx *wire.MsgTx, in []ledger.Input) []ledger.Input {
			tx.AddTxIn(tx.TxIn[0])
			return append(in, in[0])
		}, wallet.ErrPolicy},
		"no input":          {func(tx *wire.MsgTx, _ []ledger.Input) []ledger.Input { tx.TxIn = nil; return nil }, wallet.ErrPolicy},
		"an output more":    {on(func(tx *wire.MsgTx) { tx.AddTxOut(wire.NewTxOut(500, other.Script())) }), wallet.ErrPolicy},
		"no payload":        {on(func(tx *wire.MsgTx) { tx.TxOut[0].PkScript[2] = 'X' }), wallet.ErrPolicy},
		"burning money":     {on(func(tx *wire.MsgTx) { tx.TxOut[0].Value = 1 }), wallet.ErrPolicy},
		"paying somebody":   {on(func(tx *wire.MsgTx) { tx.TxOut[1].PkScript = other.Script() }), wallet.ErrPolicy},
		"outputs swapped":   {on(func(tx *wire.MsgTx) { slices.Reverse(tx.TxOut) }), wallet.ErrPolicy},
		"dust":              {on(func(tx *wire.MsgTx) { tx.TxOut[1].Value = wallet.Dust - 1 }), wallet.ErrPolicy},
		"more out than in":  {on(func(tx *wire.MsgTx) { tx.TxOut[1].Value = 1_000_001 }), wallet.ErrPolicy},
		"no fee":            {on(func(tx *wire.MsgTx) { tx.TxOut[1].Value = 1_000_000 }), wallet.ErrPolicy},
		"at the fee cap":    {on(func(tx *wire.MsgTx) { tx.TxOut[1].Value = 1_000_000 - 10_000 }), nil},
		"above the fee cap": {on(func(tx *wire.MsgTx) { tx.TxOut[1].Value = 1_000_000 - 10_001 }), wallet.ErrCap},
		"somebody's input":  {func(_ *wire.MsgTx, in []ledger.Input) []ledger.Input { in[0].Script = other.Script(); return in }, wallet.ErrPolicy},
		"impossible value":  {func(_ *wire.MsgTx, in []ledger.Input) []ledger.Input { in[0].Value = -1; return in }, wallet.ErrPolicy},
	} {
		a, err := wallet.BuildAttempt(build(k))
		if err != nil {
			t.Fatal(err)
		}
		tx := unsignedTx(t, a.Unsigned)
		inputs := row.change(tx, slices.Clone(a.Inputs))
		var b bytes.Buffer
		if err := tx.SerializeNoWitness(&b); err != nil {
			t.Fatal(err)
		}
		if raw, err := newSigner(t, keys, caps).Sign(t.Context(), b.Bytes(), inputs); !errors.Is(err, row.want) || (err == nil) != (raw != nil) {
			t.Errorf("%s: error %v, want %v", name, err, row.want)
		}
	}
}

func on(change func(tx *wire.MsgTx)) func(*wire.MsgTx, []ledger.Input) []ledger.Input {
	return func(tx *wire.MsgTx, in []ledger.Input) []ledger.Input { change(tx); return in }
}

func unsignedTx(t testing.TB, unsigned []byte) *wire.MsgTx {
	t.Helper()
	var tx wire.MsgTx
	if err := tx.DeserializeNoWitness(bytes.NewReader(unsigned)); err != nil {
		t.Fatal(err)
	}
	return &tx
}

func TestSignerRateCap(t *testing.T) {
	keys := newKeys(t)
	k := keys.Current()
	a, err := wallet.BuildAttempt(build(k))
	if err != nil {
		t.Fatal(err)
	}
	low := newSigner(t, keys, wallet.Caps{FeeRate: 2490, Fee: 10_000})
	if _, err := low.Sign(t.Context(), a.Unsigned, a.Inputs); !errors.Is(err, wallet.ErrCap) {
		t.Errorf("above the signer's rate: %v", err)
	}
}

func TestSignIsRepeatable(t *testing.T) {
	keys := newKeys(t)
	k := keys.Current()
	a, err := wallet.BuildAttempt(build(k))
	if err != nil {
		t.Fatal(err)
	}
	s := newSigner(t, keys, caps)
	first, err := s.Sign(t.Context(), a.Unsigned, a.Inputs)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := s.Sign(t.Context(), a.Unsigned, a.Inputs); err != nil || !bytes.Equal(first, again) {
		t.Errorf("the same call gave other bytes: %v", err)
	}
	for n := range a.Unsigned {
		if raw, err := s.Sign(t.Context(), a.Unsigned[:n], a.Inputs); err == nil {
			t.Fatalf("signed %d bytes of it: %x", n, raw)
		}
	}
	if _, err := s.Sign(t.Context(), append(slices.Clone(a.Unsigned), 0), a.Inputs); !errors.Is(err, wallet.ErrPolicy) {
		t.Errorf("a byte more: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Sign(ctx, a.Unsigned, a.Inputs); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// A signature covers the value of the input (BIP 143): an engine that lies
// about it gets a signature that no node takes.
func TestSignatureCoversValue(t *testing.T) {
	keys := newKeys(t)
	k := keys.Current()
	a, err := wallet.BuildAttempt(build(k))
	if err != nil {
		t.Fatal(err)
	}
	lie := slices.Clone(a.Inputs)
	lie[0].Value -= 100
	raw, err := newSigner(t, keys, caps).Sign(t.Context(), a.Unsigned, lie)
	if err != nil {
		t.Fatalf("sign: %v", err)
	}
	tx := parse(t, raw)
	prev := txscript.NewCannedPrevOutputFetcher(k.Script(), a.Inputs[0].Value)
	vm, err := txscript.NewEngine(k.Script(), tx, 0, txscript.StandardVerifyFlags, nil, txscript.NewTxSigHashes(tx, prev), a.Inputs[0].Value, prev)
	if err != nil {
		t.Fatal(err)
	}
	if err := vm.Execute(); err == nil {
		t.Error("the signature holds for another value")
	}
}

// The P2WPKH example of BIP 143 goes through the same library calls as Sign.
func TestBIP143Vector(t *testing.T) {
	const (
		unsigned = "0100000002fff7f7881a8099afa6940d42d1e7f6362bec38171ea3edf433541db4e4ad969f0000000000eeffffffef51e1b804cc89d182d279655c3aa89e815b1b309fe287d9b2b55d57b90ec68a0100000000ffffffff02202cb206000000001976a9148280b37df378db99f66f85c95a783a76ac7a6d5988ac9093510d000000001976a9143bde42dbee7e4dbe6a21b2d50ce2f0167faa815988ac11000000"
		private  = "619c335025c7f4012e556c2a58b2506e30b8511b53ade95ea316fd8c3286feb9"
		want     = "304402203609e17b84f6a7d30c80bfa610b5b4542f32a8a0d5447a12fb1366d7f01cc44a0220573a954c4518331561406f90300e8f3358f51928d43c212a8caed02de67eebee01"
	)
	key, pub := btcec.PrivKeyFromBytes(unhex(t, private))
	tx := unsignedTx(t, unhex(t, unsigned))
	script := append([]byte{txscript.OP_0, 20}, address.Hash160(pub.SerializeCompressed())...)
	prev := txscript.NewCannedPrevOutputFetcher(script, 600_000_000)
	witness, err := txscript.WitnessSignature(tx, txscript.NewTxSigHashes(tx, prev), 1, 600_000_000, script, txscript.SigHashAll, key, true)
	if err != nil || !bytes.Equal(witness[0], unhex(t, want)) {
		t.Errorf("signature %x (%v), want %s", witness[0], err, want)
	}
}

func unhex(t *testing.T, text string) []byte {
	t.Helper()
	b, err := hex.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestAnchorsLeft(t *testing.T) {
	reserve := caps.Reserve()
	for _, row := range []struct {
		value int64
		rate  ledger.FeeRate
		want  int64
	}{
		{0, 1000, 0}, {reserve, 1000, 0}, {reserve + 160, 1000, 0}, {reserve + 161, 1000, 1}, {reserve + 1610, 1000, 10},
		{reserve + 100_000, 1_000_000, 10}, {reserve + 5, 0, 0},
	} {
		if got := caps.AnchorsLeft(row.value, row.rate); got != row.want {
			t.Errorf("%d sat at %v: %d anchors, want %d", row.value, row.rate, got, row.want)
		}
	}
}

func TestNewSigner(t *testing.T) {
	if _, err := wallet.New(wallet.Config{Caps: caps}); err == nil {
		t.Error("a signer without a key")
	}
	if _, err := wallet.New(wallet.Config{Keys: newKeys(t)}); err == nil {
		t.Error("a signer without caps")
	}
}

// FuzzSign: whatever is asked for, what is signed is an attempt within the caps.
func FuzzSign(f *testing.F) {
	keys := newKeys(f)
	k := keys.Current()
	s := newSigner(f, keys, caps)
	a, err := wallet.BuildAttempt(build(k))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(a.Unsigned)
	f.Add(a.Unsigned[:50])
	f.Fuzz(func(t *testing.T, unsigned []byte) {
		raw, err := s.Sign(t.Context(), unsigned, a.Inputs)
		if err != nil {
			return
		}
		tx := parse(t, raw)
		if len(tx.TxOut) != 2 || !bytes.Equal(tx.TxOut[1].PkScript, k.Script()) || a.Inputs[0].Value-tx.TxOut[1].Value > caps.Fee {
			t.Fatalf("signed %x", raw)
		}
	})
}
