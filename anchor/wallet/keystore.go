package wallet

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"filippo.io/age"
	"filippo.io/age/armor"
	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcutil/v2"
	"github.com/go-json-experiment/json"

	"github.com/calpe/calpe"
)

// ErrPassphrase: the keystore was encrypted with another passphrase.
var ErrPassphrase = errors.New("the passphrase doesn't open the keystore")

const (
	// MaxKeys bounds the keys of a keystore: one rotation a year for a lifetime.
	MaxKeys = 64
	// MinPassphrase is the shortest passphrase, in bytes, that a keystore is
	// encrypted with.
	MinPassphrase = 16

	keystoreMode = 0o600
	// largestKeystore is above MaxKeys keys with age's overhead and armor.
	largestKeystore = 32 << 10
	// defaultWork is age's own: about a second, and 256 MiB, for each guess.
	defaultWork = 18
	maxWork     = 20
)

// Lock is what a keystore is encrypted with. Its text and log forms hide it.
type Lock struct {
	Passphrase string
	// WorkFactor is the binary logarithm of scrypt's N for what is written, 1 to
	// 20; what is read says its own. [18] A passphrase that was drawn ([DrawPassphrase])
	// needs none of it.
	WorkFactor int
}

// String hides the passphrase.
func (Lock) String() string { return "[passphrase]" }

// GoString hides the passphrase.
func (l Lock) GoString() string { return l.String() }

// Format hides the passphrase from every verb.
func (l Lock) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, l.String()) }

// LogValue implements [slog.LogValuer] and hides the passphrase.
func (l Lock) LogValue() slog.Value { return slog.StringValue(l.String()) }

// MarshalText implements [encoding.TextMarshaler] and hides the passphrase.
func (l Lock) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// DrawPassphrase draws a passphrase of 130 bits.
func DrawPassphrase() string { return rand.Text() }

// Keystore holds the anchor keys of one network, oldest first. The newest is the
// current one: deposits and change go to it. The ones before it sign what is
// still theirs. A Keystore doesn't change.
type Keystore struct {
	network calpe.Network
	keys    []*Key
}

// keystoreFile is what is encrypted. The network is in it because a WIF and an
// address are the same on testnet3, testnet4 and signet.
type keystoreFile struct {
	Network calpe.Network `json:"network"`
	Keys    []keyEntry    `json:"keys"`
}

type keyEntry struct {
	WIF     string `json:"wif"`
	Created string `json:"created"`
}

// Create draws a key and writes a new keystore that only its owner can read. A
// file that is there already is an error, and stays as it is. When Create
// returns, the file is durable.
func Create(path string, network calpe.Network, lock Lock, now time.Time) (*Keystore, error) {
	k, err := drawKey(network, now)
	if err != nil {
		return nil, err
	}
	s := &Keystore{network: network, keys: []*Key{k}}
	content, err := s.encrypt(lock)
	if err != nil {
		return nil, err
	}
	if err := writeNew(path, content); err != nil {
		return nil, fmt.Errorf("write keystore: %w", err)
	}
	return s, nil
}

// Rotate adds a key to a keystore, and makes it the current one. When Rotate
// returns without an error, the file with it is durable; with one, the file may
// hold the key or not, and nobody was told its address.
func Rotate(path string, network calpe.Network, lock Lock, now time.Time) (*Keystore, error) {
	s, err := Open(path, network, lock)
	if err != nil {
		return nil, err
	}
	if len(s.keys) >= MaxKeys {
		return nil, fmt.Errorf("keystore %s has %d keys, and can't have more", path, len(s.keys))
	}
	k, err := drawKey(network, now)
	if err != nil {
		return nil, err
	}
	next := &Keystore{network: network, keys: append(s.keys[:len(s.keys):len(s.keys)], k)}
	content, err := next.encrypt(lock)
	if err != nil {
		return nil, err
	}
	// O_EXCL: of two rotations at once one is refused, so that no key is lost.
	fresh := path + ".new"
	if err := writeNew(fresh, content); err != nil {
		return nil, fmt.Errorf("write rotated keystore (remove %s if no other rotation is at work): %w", fresh, err)
	}
	// Crash here: the keystore is as it was; the new file is in the way of the
	// next rotation, and holds a key whose address nobody knows.
	if err := os.Rename(fresh, path); err != nil {
		return nil, fmt.Errorf("replace keystore: %w", err)
	}
	return next, syncFolder(path)
}

// Open reads a keystore. It refuses a file that others than its owner can read,
// one of another network, and anything that isn't exactly what [Create] or
// [Rotate] writes; the error is [ErrPassphrase] when it doesn't open. No error
// quotes what is encrypted.
func Open(path string, network calpe.Network, lock Lock) (*Keystore, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open keystore: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open keystore: %w", err)
	}
	if err := checkMode(info.Mode()); err != nil {
		return nil, fmt.Errorf("keystore %s: %w", path, err)
	}
	content, err := io.ReadAll(io.LimitReader(f, largestKeystore+1))
	if err != nil {
		return nil, fmt.Errorf("read keystore: %w", err)
	}
	plain, err := decrypt(content, lock)
	if err != nil {
		return nil, fmt.Errorf("keystore %s: %w", path, err)
	}
	s, err := Decode(plain, network)
	if err != nil {
		return nil, fmt.Errorf("keystore %s: %w", path, err)
	}
	return s, nil
}

// Decode reads what is encrypted in a keystore: JSON with the network and, for
// each key, its private key in wallet import format and its birthday. Its errors
// never quote what it reads.
func Decode(content []byte, network calpe.Network) (*Keystore, error) {
	var file keystoreFile
	if err := json.Unmarshal(content, &file, json.RejectUnknownMembers(true)); err != nil {
		return nil, errors.New(`it is not {"network": …, "keys": [{"wif": …, "created": …}]}`)
	}
	if n, err := calpe.ParseNetwork(string(file.Network)); err != nil || n != file.Network {
		return nil, errors.New("its network is not one of mainnet, testnet3, testnet4, signet, regtest, simnet")
	}
	if file.Network != network {
		return nil, fmt.Errorf("it is for %s, and this deployment is on %s", file.Network, network)
	}
	if len(file.Keys) < 1 || len(file.Keys) > MaxKeys {
		return nil, fmt.Errorf("it holds %d keys, and has 1 to %d", len(file.Keys), MaxKeys)
	}
	s := &Keystore{network: network}
	for i, entry := range file.Keys {
		k, err := parseKey(network, entry)
		if err != nil {
			return nil, fmt.Errorf("key %d: %w", i, err)
		}
		if _, twice := s.key(k.script); twice {
			return nil, fmt.Errorf("key %d is there twice", i)
		}
		s.keys = append(s.keys, k)
	}
	return s, nil
}

func parseKey(network calpe.Network, entry keyEntry) (*Key, error) {
	created, err := time.Parse(time.RFC3339, entry.Created)
	if err != nil {
		return nil, errors.New("created is not a time like 2026-11-21T09:30:00Z")
	}
	params, err := networkParams(network)
	if err != nil {
		return nil, err
	}
	wif, err := btcutil.DecodeWIF(entry.WIF)
	switch {
	case err != nil:
		return nil, errors.New("wif is not a private key in wallet import format")
	case !wif.IsForNet(params):
		return nil, errors.New("wif is a private key of another kind of network")
	case !wif.CompressPubKey:
		return nil, errors.New("wif is for an uncompressed public key, which segwit doesn't allow")
	}
	return newKey(network, wif.PrivKey, created)
}

func drawKey(network calpe.Network, now time.Time) (*Key, error) {
	private, err := btcec.NewPrivateKey()
	if err != nil {
		return nil, fmt.Errorf("draw anchor key: %w", err)
	}
	return newKey(network, private, now.UTC().Truncate(time.Second))
}

// encrypt is the keystore as its file has it: age with a passphrase, armored, so
// that it can be printed.
func (s *Keystore) encrypt(lock Lock) ([]byte, error) {
	if len(lock.Passphrase) < MinPassphrase {
		return nil, fmt.Errorf("the keystore's passphrase has %d bytes, and needs at least %d", len(lock.Passphrase), MinPassphrase)
	}
	if lock.WorkFactor == 0 {
		lock.WorkFactor = defaultWork
	}
	if lock.WorkFactor < 1 || lock.WorkFactor > maxWork {
		return nil, fmt.Errorf("work factor %d of the keystore is not from 1 to %d", lock.WorkFactor, maxWork)
	}
	plain, err := s.encode()
	if err != nil {
		return nil, err
	}
	recipient, err := age.NewScryptRecipient(lock.Passphrase)
	if err != nil {
		return nil, errors.New("the keystore's passphrase can't be used")
	}
	recipient.SetWorkFactor(lock.WorkFactor)
	var out bytes.Buffer
	text := armor.NewWriter(&out)
	w, err := age.Encrypt(text, recipient)
	if err != nil {
		return nil, fmt.Errorf("encrypt keystore: %w", err)
	}
	_, err = w.Write(plain)
	if err = errors.Join(err, w.Close(), text.Close()); err != nil {
		return nil, fmt.Errorf("encrypt keystore: %w", err)
	}
	return out.Bytes(), nil
}

func (s *Keystore) encode() ([]byte, error) {
	params, err := networkParams(s.network)
	if err != nil {
		return nil, err
	}
	file := keystoreFile{Network: s.network}
	for _, k := range s.keys {
		wif, err := btcutil.NewWIF(k.private, params, true)
		if err != nil {
			return nil, errors.New("encode anchor key")
		}
		file.Keys = append(file.Keys, keyEntry{WIF: wif.String(), Created: k.created.Format(time.RFC3339)})
	}
	content, err := json.Marshal(file)
	if err != nil {
		return nil, errors.New("encode keystore")
	}
	return content, nil
}

func decrypt(content []byte, lock Lock) ([]byte, error) {
	if len(content) > largestKeystore {
		return nil, fmt.Errorf("it is larger than %d bytes", largestKeystore)
	}
	if lock.Passphrase == "" {
		return nil, fmt.Errorf("%w: none was given", ErrPassphrase)
	}
	identity, err := age.NewScryptIdentity(lock.Passphrase)
	if err != nil {
		return nil, errors.New("its passphrase can't be used")
	}
	identity.SetMaxWorkFactor(maxWork)
	r, err := age.Decrypt(armor.NewReader(bytes.NewReader(content)), identity)
	if _, mismatch := errors.AsType[*age.NoIdentityMatchError](err); mismatch {
		return nil, ErrPassphrase
	}
	if err != nil {
		return nil, errors.New("it is not an age file, armored and encrypted with a passphrase")
	}
	plain, err := io.ReadAll(io.LimitReader(r, largestKeystore))
	if err != nil {
		return nil, errors.New("it was damaged: the age file doesn't decrypt to its end")
	}
	return plain, nil
}

// Network is the network that the keys are for.
func (s *Keystore) Network() calpe.Network { return s.network }

// Current is the newest key.
func (s *Keystore) Current() *Key { return s.keys[len(s.keys)-1] }

// Keys lists the keys, oldest first.
func (s *Keystore) Keys() []*Key { return append([]*Key(nil), s.keys...) }

// Scripts lists the output scripts of the keys, oldest first. The caller may
// keep them.
func (s *Keystore) Scripts() [][]byte {
	scripts := make([][]byte, len(s.keys))
	for i, k := range s.keys {
		scripts[i] = k.Script()
	}
	return scripts
}

// key is the key of an output script.
func (s *Keystore) key(script []byte) (*Key, bool) {
	for _, k := range s.keys {
		if bytes.Equal(k.script, script) {
			return k, true
		}
	}
	return nil, false
}

func writeNew(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, keystoreMode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		// Crash here: a part of a keystore, which Open refuses and nobody has
		// paid anything to, because its address was never shown.
		return errors.Join(err, os.Remove(path))
	}
	return syncFolder(path)
}

func syncFolder(path string) error {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
