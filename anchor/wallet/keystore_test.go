package wallet_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/anchor/wallet"
)

func TestCreateAndOpen(t *testing.T) {
	for _, network := range []calpe.Network{calpe.Mainnet, calpe.Testnet3, calpe.Testnet4, calpe.Signet, calpe.Regtest, calpe.Simnet} {
		path := filepath.Join(t.TempDir(), "wallet.age")
		s, err := wallet.Create(path, network, quick, now)
		if err != nil {
			t.Fatalf("%s: create: %v", network, err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: file has mode %v, %v", network, info.Mode(), err)
		}
		content, err := os.ReadFile(path)
		if err != nil || !bytes.HasPrefix(content, []byte(armor.Header)) || bytes.Contains(content, []byte("wif")) {
			t.Errorf("%s: file is %q, %v", network, content, err)
		}
		got, err := wallet.Open(path, network, quick)
		if err != nil {
			t.Fatalf("%s: open: %v", network, err)
		}
		k, was := got.Current(), s.Current()
		if k.Address() != was.Address() || !bytes.Equal(k.Script(), was.Script()) || got.Network() != network || !k.Created().Equal(now.Truncate(time.Second)) {
			t.Errorf("%s: opened %v, created %v", network, k, was)
		}
		if address, err := wallet.Address(network, k.Script()); err != nil || address != k.Address() {
			t.Errorf("%s: address of the script is %s, %v; want %s", network, address, err, k.Address())
		}
		if _, err := wallet.Create(path, network, quick, now); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: a second keystore over the first: %v", network, err)
		}
		if again, err := wallet.Open(path, network, quick); err != nil || again.Current().Address() != was.Address() {
			t.Errorf("%s: the first keystore is gone: %v", network, err)
		}
	}
	if _, err := wallet.Address(calpe.Regtest, []byte{0, 20}); err == nil {
		t.Error("a script of two bytes has an address")
	}
}

// The private keys 1 and 2: the address of the first is the example of BIP 173.
const (
	wifOfOne = "cMahea7zqjxrtgAbB7LSGbcQUr1uX1ojuat9jZodMN87JcbXMTcA"
	wifOfTwo = "cMahea7zqjxrtgAbB7LSGbcQUr1uX1ojuat9jZodMN87K7XCyj5v"
	oneKey   = `{"network":"testnet3","keys":[{"wif":"` + wifOfOne + `","created":"2026-11-21T09:30:00Z"}]}`
)

func TestKnownKey(t *testing.T) {
	s, err := wallet.Decode([]byte(oneKey), calpe.Testnet3)
	if err != nil || s.Current().Address() != "tb1qw508d6qejxtdg4y5r3zarvary0c5xw7kxpjzsx" {
		t.Fatalf("address of BIP 173: %v, %v", s, err)
	}
	const want = "wpkh(0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798)#"
	if d := s.Current().Descriptor(); !strings.HasPrefix(d, want) || len(d) != len(want)+8 {
		t.Errorf("descriptor is %s", d)
	}
}

// Rotation adds a key, makes it the current one, and keeps those before it.
func TestRotate(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wallet.age")
	first, err := wallet.Create(path, calpe.Regtest, quick, now)
	if err != nil {
		t.Fatal(err)
	}
	later := now.Add(time.Hour)
	rotated, err := wallet.Rotate(path, calpe.Regtest, quick, later)
	if err != nil {
		t.Fatalf("rotate: %v", err)
	}
	s, err := wallet.Open(path, calpe.Regtest, quick)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	keys := s.Keys()
	if len(keys) != 2 || keys[0].Address() != first.Current().Address() || s.Current().Address() != keys[1].Address() ||
		rotated.Current().Address() != keys[1].Address() || !keys[1].Created().Equal(later.Truncate(time.Second)) || !keys[0].Created().Equal(now.Truncate(time.Second)) {
		t.Fatalf("after a rotation the keys are %v", keys)
	}
	if got := s.Scripts(); len(got) != 2 || !bytes.Equal(got[0], keys[0].Script()) || !bytes.Equal(got[1], keys[1].Script()) {
		t.Errorf("scripts are %x", got)
	}
	if _, err := wallet.Rotate(path, calpe.Regtest, wallet.Lock{Passphrase: "another passphrase", WorkFactor: 1}, later); !errors.Is(err, wallet.ErrPassphrase) {
		t.Errorf("rotation with another passphrase: %v", err)
	}
	// A rotation that died before the rename is in the way, and says so.
	if err := os.WriteFile(path+".new", []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := wallet.Rotate(path, calpe.Regtest, quick, later); !errors.Is(err, fs.ErrExist) || !strings.Contains(err.Error(), ".new") {
		t.Errorf("rotation beside another: %v", err)
	}
	if s, err := wallet.Open(path, calpe.Regtest, quick); err != nil || len(s.Keys()) != 2 {
		t.Errorf("a refused rotation changed the keystore: %v", err)
	}
}

// Money of every key is spent; change goes to the coin's key or on to the
// current one, and never back.
func TestChangeAfterRotation(t *testing.T) {
	path := filepath.Join(t.TempDir(), "wallet.age")
	if _, err := wallet.Create(path, calpe.Regtest, quick, now); err != nil {
		t.Fatal(err)
	}
	var s *wallet.Keystore
	for range 2 {
		var err error
		if s, err = wallet.Rotate(path, calpe.Regtest, quick, now); err != nil {
			t.Fatal(err)
		}
	}
	keys := s.Keys()
	signer := newSigner(t, s, caps)
	if !bytes.Equal(signer.Script(), keys[2].Script()) || !signer.Owns(keys[0].Script()) || signer.Owns(newKey(t).Script()) {
		t.Error("the signer is not of the keystore")
	}
	for _, row := range []struct {
		coin, deposit, change int
		want                  error
	}{
		{0, 0, 0, nil}, {0, 2, 2, nil}, {1, 0, 2, nil}, {2, 0, 2, nil}, {2, 1, 2, nil},
		{0, 1, 1, wallet.ErrPolicy}, {2, 2, 0, wallet.ErrPolicy}, {2, 0, 1, wallet.ErrPolicy}, {1, 0, 0, wallet.ErrPolicy},
	} {
		b := build(keys[row.coin])
		b.Extra = []ledger.Input{input(keys[row.deposit], 9, 40_000)}
		b.Change = keys[row.change].Script()
		a, err := wallet.BuildAttempt(b)
		if err != nil {
			t.Fatal(err)
		}
		if raw, err := signer.Sign(t.Context(), a.Unsigned, a.Inputs); !errors.Is(err, row.want) || (raw == nil) != (row.want != nil) {
			t.Errorf("coin of key %d, deposit of key %d, change to key %d: %v, want %v", row.coin, row.deposit, row.change, err, row.want)
		}
	}
}

// seal encrypts anything as a keystore is.
func seal(t testing.TB, plain string) []byte {
	t.Helper()
	r, err := age.NewScryptRecipient(quick.Passphrase)
	if err != nil {
		t.Fatal(err)
	}
	r.SetWorkFactor(1)
	var out bytes.Buffer
	text := armor.NewWriter(&out)
	w, err := age.Encrypt(text, r)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Write([]byte(plain))
	if err := errors.Join(err, w.Close(), text.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func write(t *testing.T, content []byte, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "wallet.age")
	if err := os.WriteFile(path, content, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOpenRefuses(t *testing.T) {
	good := seal(t, oneKey)
	if _, err := wallet.Open(write(t, good, 0o600), calpe.Testnet3, quick); err != nil {
		t.Fatalf("what the rows spoil isn't good: %v", err)
	}
	damaged := bytes.Clone(good)
	damaged[len(damaged)-60] ^= 1
	for name, row := range map[string]struct {
		content []byte
		mode    os.FileMode
		network calpe.Network
		lock    wallet.Lock
		want    error
	}{
		"readable by the group": {good, 0o640, calpe.Testnet3, quick, errAny},
		"readable by others":    {good, 0o604, calpe.Testnet3, quick, errAny},
		"another network":       {good, 0o600, calpe.Signet, quick, errAny},
		"another passphrase":    {good, 0o600, calpe.Testnet3, wallet.Lock{Passphrase: "incorrect horse battery"}, wallet.ErrPassphrase},
		"no passphrase":         {good, 0o600, calpe.Testnet3, wallet.Lock{}, wallet.ErrPassphrase},
		"empty":                 {nil, 0o600, calpe.Testnet3, quick, errAny},
		"not encrypted":         {[]byte(oneKey), 0o600, calpe.Testnet3, quick, errAny},
		"damaged":               {damaged, 0o600, calpe.Testnet3, quick, errAny},
		"cut":                   {good[:len(good)-40], 0o600, calpe.Testnet3, quick, errAny},
		"something behind":      {append(bytes.Clone(good), "more"...), 0o600, calpe.Testnet3, quick, errAny},
		"too large":             {append(bytes.Clone(good), strings.Repeat(" ", 40_000)...), 0o600, calpe.Testnet3, quick, errAny},
	} {
		_, err := wallet.Open(write(t, row.content, row.mode), row.network, row.lock)
		if err == nil || row.want != errAny && !errors.Is(err, row.want) {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if strings.Contains(err.Error(), wifOfOne[:12]) || strings.Contains(err.Error(), quick.Passphrase) {
			t.Errorf("%s: a secret is in the error %v", name, err)
		}
	}
	if _, err := wallet.Open(filepath.Join(t.TempDir(), "none"), calpe.Regtest, quick); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no file: %v", err)
	}
	if _, err := wallet.Open(t.TempDir(), calpe.Regtest, quick); err == nil {
		t.Error("a folder was opened")
	}
	for name, lock := range map[string]wallet.Lock{
		"short": {Passphrase: "fifteen letters"}, "no work": {Passphrase: quick.Passphrase, WorkFactor: -1}, "endless work": {Passphrase: quick.Passphrase, WorkFactor: 21},
	} {
		path := filepath.Join(t.TempDir(), "wallet.age")
		if _, err := wallet.Create(path, calpe.Regtest, lock, now); err == nil {
			t.Errorf("%s: created", name)
		}
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: a refused keystore left a file: %v", name, err)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	entry := func(wif, created string) string { return `{"wif":"` + wif + `","created":"` + created + `"}` }
	const day = "2026-11-21T09:30:00Z"
	one, two := entry(wifOfOne, day), entry(wifOfTwo, day)
	file := func(network string, keys ...string) string {
		return `{"network":"` + network + `","keys":[` + strings.Join(keys, ",") + `]}`
	}
	if s, err := wallet.Decode([]byte(file("regtest", one, two)), calpe.Regtest); err != nil || len(s.Keys()) != 2 {
		t.Fatalf("what the rows spoil isn't good: %v", err)
	}
	for name, row := range map[string]struct {
		content string
		network calpe.Network
	}{
		"empty":                 {"", calpe.Regtest},
		"truncated":             {file("regtest", one)[:80], calpe.Regtest},
		"something behind":      {file("regtest", one) + "{}", calpe.Regtest},
		"unknown member":        {strings.Replace(file("regtest", one), `"wif"`, `"extra":1,"wif"`, 1), calpe.Regtest},
		"case-folded member":    {strings.Replace(file("regtest", one), `"wif"`, `"Wif"`, 1), calpe.Regtest},
		"duplicate member":      {strings.Replace(file("regtest", one), `"keys"`, `"network":"regtest","keys"`, 1), calpe.Regtest},
		"an alias":              {file("test", one), calpe.Testnet3},
		"mainnet with this key": {file("mainnet", one), calpe.Mainnet},
		"changed key":           {file("regtest", strings.Replace(one, "cMahea7", "cMahea8", 1)), calpe.Regtest},
		"uncompressed":          {file("regtest", entry("91avARGdfge8E4tZfYLoxeJ5sGBdNJQH4kvjJoQFacbgwmaKkrx", day)), calpe.Regtest},
		"no time":               {file("regtest", entry(wifOfOne, "today")), calpe.Regtest},
		"no keys":               {file("regtest"), calpe.Regtest},
		"a key twice":           {file("regtest", one, two, one), calpe.Regtest},
		"too many keys":         {file("regtest", strings.Split(strings.Repeat(one+" ", 65), " ")[:65]...), calpe.Regtest},
	} {
		_, err := wallet.Decode([]byte(row.content), row.network)
		if err == nil {
			t.Errorf("%s: decoded", name)
		} else if strings.Contains(err.Error(), wifOfOne[:12]) {
			t.Errorf("%s: the key is in the error %v", name, err)
		}
	}
}

func TestSecretsHideThemselves(t *testing.T) {
	s, err := wallet.Decode([]byte(oneKey), calpe.Testnet3)
	if err != nil {
		t.Fatal(err)
	}
	k := s.Current()
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("secrets", slog.Any("key", k), slog.Any("lock", quick))
	text, err := k.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	pass, err := quick.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	shown := []string{log.String(), string(text) + string(pass)}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%d", "%x"} {
		shown = append(shown, fmt.Sprintf(verb+verb, k, quick))
	}
	for _, s := range shown {
		if !strings.Contains(s, "anchor key of tb1q") || !strings.Contains(s, "[passphrase]") || strings.Contains(s, wifOfOne) ||
			strings.Contains(s, "0000000001") || strings.Contains(s, quick.Passphrase) {
			t.Errorf("shown as %s", s)
		}
	}
	if a, b := wallet.DrawPassphrase(), wallet.DrawPassphrase(); a == b || len(a) < wallet.MinPassphrase {
		t.Errorf("drew %q and %q", a, b)
	}
}

// FuzzDecode: any content gives keys or an error that doesn't quote it.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(strings.Replace(oneKey, "testnet3", "regtest", 1)))
	f.Add([]byte(`{"network":"regtest","keys":[{"wif":"","created":""}]}`))
	f.Add([]byte(`{`))
	f.Fuzz(func(t *testing.T, content []byte) {
		s, err := wallet.Decode(content, calpe.Regtest)
		if err == nil && len(s.Current().Script()) != 22 {
			t.Fatalf("key with a script of %d bytes", len(s.Current().Script()))
		}
		if err != nil && strings.Contains(err.Error(), wifOfOne[:12]) {
			t.Fatalf("the key is in the error %v", err)
		}
	})
}

// FuzzOpen: any file is refused or opens, and no error holds a secret.
func FuzzOpen(f *testing.F) {
	good := seal(f, oneKey)
	f.Add(good)
	f.Add(good[:len(good)/2])
	f.Add([]byte(armor.Header))
	path := filepath.Join(f.TempDir(), "wallet.age")
	f.Fuzz(func(t *testing.T, content []byte) {
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := wallet.Open(path, calpe.Testnet3, quick); err != nil && strings.Contains(err.Error(), quick.Passphrase) {
			t.Fatalf("the passphrase is in the error %v", err)
		}
	})
}
