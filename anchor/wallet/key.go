package wallet

import (
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/btcsuite/btcd/address/v2"
	"github.com/btcsuite/btcd/btcec/v2"
	"github.com/btcsuite/btcd/chaincfg/v2"
	"github.com/btcsuite/btcd/txscript/v2"

	"github.com/calpe/calpe"
)

// Key is one anchor key of one network. Its text and log forms hide it.
type Key struct {
	network calpe.Network
	created time.Time
	private *btcec.PrivateKey
	address *address.AddressWitnessPubKeyHash
	script  []byte
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

// IsScript reports whether the script is of the form that every key of ours has:
// pay to witness public key hash (BIP 141), OP_0 and a push of 20 bytes.
func IsScript(script []byte) bool { return txscript.IsPayToWitnessPubKeyHash(script) }

// Address is the address of an output script of the form of [IsScript], as
// people write it.
func Address(network calpe.Network, script []byte) (string, error) {
	params, err := networkParams(network)
	if err != nil {
		return "", err
	}
	if !IsScript(script) {
		return "", fmt.Errorf("a script of %d bytes is not pay to witness public key hash", len(script))
	}
	addr, err := address.NewAddressWitnessPubKeyHash(script[2:], params)
	if err != nil {
		return "", fmt.Errorf("make address: %w", err)
	}
	return addr.EncodeAddress(), nil
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
