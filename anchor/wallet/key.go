package wallet

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/btcsuite/btcd/address/v2"
	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/btcutil/v2"
	"github.com/btcsuite/btcd/chaincfg/v2"
	"github.com/btcsuite/btcd/txscript/v2"
	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/calpe/calpe"
)

// Key is the anchor key of one network. Its text and log forms hide it.
type Key struct {
	network calpe.Network
	created time.Time
	private *btcec.PrivateKey
	address *address.AddressWitnessPubKeyHash
	script  []byte
}

// keyFile is the file's content. The network is in it because a WIF and an
// address are the same on testnet3, testnet4 and signet.
type keyFile struct {
	Network calpe.Network `json:"network"`
	WIF     string        `json:"wif"`
	Created string        `json:"created"`
}

const keyFileMode = 0o600

// Create draws a key and writes it to a new file that only its owner can read.
// A file that is there already is an error, and stays as it is. When Create
// returns, the file is durable.
func Create(path string, network calpe.Network, now time.Time) (*Key, error) {
	private, err := btcec.NewPrivateKey()
	if err != nil {
		return nil, fmt.Errorf("draw anchor key: %w", err)
	}
	k, err := newKey(network, private, now.UTC().Truncate(time.Second))
	if err != nil {
		return nil, err
	}
	content, err := k.encode()
	if err != nil {
		return nil, err
	}
	if err := writeNew(path, content); err != nil {
		return nil, fmt.Errorf("write anchor key: %w", err)
	}
	return k, nil
}

// Load reads a key file. It refuses a file that others than its owner can read,
// a key of another network, and anything that isn't exactly what [Create]
// writes. No error quotes the file.
func Load(path string, network calpe.Network) (*Key, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("open anchor key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("open anchor key: %w", err)
	}
	if err := checkMode(info.Mode()); err != nil {
		return nil, fmt.Errorf("anchor key %s: %w", path, err)
	}
	const largest = 4096
	content, err := io.ReadAll(io.LimitReader(f, largest+1))
	if err != nil {
		return nil, fmt.Errorf("read anchor key: %w", err)
	}
	if len(content) > largest {
		return nil, fmt.Errorf("anchor key %s is larger than %d bytes", path, largest)
	}
	k, err := parse(content)
	if err != nil {
		return nil, fmt.Errorf("anchor key %s: %w", path, err)
	}
	if k.network != network {
		return nil, fmt.Errorf("anchor key %s is for %s, and this deployment is on %s", path, k.network, network)
	}
	return k, nil
}

// parse reads the content of a key file. Its errors never quote what they read.
func parse(content []byte) (*Key, error) {
	var file keyFile
	if err := json.Unmarshal(content, &file, json.RejectUnknownMembers(true)); err != nil {
		return nil, errors.New(`it is not {"network": …, "wif": …, "created": …}`)
	}
	if n, err := calpe.ParseNetwork(string(file.Network)); err != nil || n != file.Network {
		return nil, errors.New("its network is not one of mainnet, testnet3, testnet4, signet, regtest, simnet")
	}
	created, err := time.Parse(time.RFC3339, file.Created)
	if err != nil {
		return nil, errors.New("created is not a time like 2026-11-21T09:30:00Z")
	}
	params, err := networkParams(file.Network)
	if err != nil {
		return nil, err
	}
	wif, err := btcutil.DecodeWIF(file.WIF)
	switch {
	case err != nil:
		return nil, errors.New("wif is not a private key in wallet import format")
	case !wif.IsForNet(params):
		return nil, errors.New("wif is a private key of another kind of network")
	case !wif.CompressPubKey:
		return nil, errors.New("wif is for an uncompressed public key, which segwit doesn't allow")
	}
	return newKey(file.Network, wif.PrivKey, created)
}

func newKey(network calpe.Network, private *btcec.PrivateKey, created time.Time) (*Key, error) {
	params, err := networkParams(network)
	if err != nil {
		return nil, err
	}
	hash := address.Hash160(private.PubKey().SerializeCompressed())
	addr, err := address.NewAddressWitnessPubKeyHash(hash, params)
	if err != nil {
		return nil, fmt.Errorf("make address: %w", err)
	}
	script, err := txscript.PayToAddrScript(addr)
	if err != nil {
		return nil, fmt.Errorf("make output script: %w", err)
	}
	return &Key{network: network, created: created, private: private, address: addr, script: script}, nil
}

func (k *Key) encode() ([]byte, error) {
	params, err := networkParams(k.network)
	if err != nil {
		return nil, err
	}
	wif, err := btcutil.NewWIF(k.private, params, true)
	if err != nil {
		return nil, errors.New("encode anchor key")
	}
	content, err := json.Marshal(keyFile{Network: k.network, WIF: wif.String(), Created: k.created.Format(time.RFC3339)}, jsontext.Multiline(true))
	if err != nil {
		return nil, errors.New("encode anchor key")
	}
	return append(content, '\n'), nil
}

// Address is where deposits go, as people write it.
func (k *Key) Address() string { return k.address.EncodeAddress() }

// Script is the output script of the address: OP_0 and the 20-byte hash of the
// public key. The caller may keep it.
func (k *Key) Script() []byte { return append([]byte(nil), k.script...) }

// Network is the network that the key is for.
func (k *Key) Network() calpe.Network { return k.network }

// Created is when the key was made: no block before it can hold a deposit.
func (k *Key) Created() time.Time { return k.created }

// String hides the key.
func (k *Key) String() string { return "[anchor key of " + k.Address() + "]" }

// GoString hides the key.
func (k *Key) GoString() string { return k.String() }

// Format hides the key from every verb.
func (k *Key) Format(s fmt.State, _ rune) { _, _ = io.WriteString(s, k.String()) }

// LogValue implements [slog.LogValuer] and hides the key.
func (k *Key) LogValue() slog.Value { return slog.StringValue(k.String()) }

// MarshalText implements [encoding.TextMarshaler] and hides the key.
func (k *Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

func writeNew(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, keyFileMode)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		// Crash here: a part of a key file, which Load refuses and nobody has
		// paid anything to, because its address was never shown.
		return errors.Join(err, os.Remove(path))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

func networkParams(network calpe.Network) (*chaincfg.Params, error) {
	for _, p := range []*chaincfg.Params{
		&chaincfg.MainNetParams, &chaincfg.TestNet3Params, &chaincfg.TestNet4Params,
		&chaincfg.SigNetParams, &chaincfg.RegressionNetParams, &chaincfg.SimNetParams,
	} {
		// chaincfg calls each network as calpe.Network does.
		if p.Name == string(network) {
			return p, nil
		}
	}
	return nil, fmt.Errorf("unknown Bitcoin network %q", network)
}
