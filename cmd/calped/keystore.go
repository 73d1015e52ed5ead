package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/wallet"
)

// drawnWork is scrypt's work factor under a passphrase that was drawn: nobody
// guesses 130 bits, so that the start needn't take a second and 256 MiB.
const drawnWork = 10

// lock is what opens the keystore: the passphrase of the setting, or of the
// systemd credential wallet-passphrase, or the one that "calped init" drew.
func (a *app) lock() (wallet.Lock, error) {
	passphrase, err := secret("wallet-passphrase", "", a.Wallet.PassphraseFile)
	if err != nil {
		return wallet.Lock{}, err
	}
	if passphrase != "" {
		return wallet.Lock{Passphrase: passphrase}, nil
	}
	if a.Wallet.PassphraseFile != "" {
		return wallet.Lock{}, fmt.Errorf("wallet passphrase: %s is empty", a.Wallet.PassphraseFile)
	}
	path := filepath.Join(a.Keys, passphraseFile)
	if err := ownerOnly(path); err != nil {
		return wallet.Lock{}, err
	}
	if passphrase, err = secret("wallet-passphrase", "", path); err != nil {
		return wallet.Lock{}, err
	}
	return wallet.Lock{Passphrase: passphrase, WorkFactor: drawnWork}, nil
}

// createWallet makes the keystore, and draws a passphrase beside it when none is
// given: fit for trials, and to be moved elsewhere before there is money in it.
//
// Crash here, between the two files: a passphrase that opens nothing yet; the
// next run encrypts the keystore with it.
func (a *app) createWallet(path string, network calpe.Network) error {
	lock, err := a.lock()
	if errors.Is(err, fs.ErrNotExist) && a.Wallet.PassphraseFile == "" {
		lock = wallet.Lock{Passphrase: wallet.DrawPassphrase(), WorkFactor: drawnWork}
		if err = writeSecret(filepath.Join(a.Keys, passphraseFile), lock.Passphrase); err == nil {
			fmt.Fprintf(a.stdout, "made     %s\n", filepath.Join(a.Keys, passphraseFile))
		}
	}
	if err != nil {
		return err
	}
	_, err = wallet.Create(path, network, lock, a.now())
	return err
}

func (a *app) loadWallet() (*wallet.Keystore, error) {
	network, err := a.network()
	if err != nil {
		return nil, err
	}
	path := filepath.Join(a.Keys, walletFile)
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("keystore: %w (\"calped init\" or \"calped wallet init\" makes it)", err)
	}
	lock, err := a.lock()
	if err != nil {
		return nil, err
	}
	return wallet.Open(path, network, lock)
}

type walletInit struct{}

// Run makes the keystore alone, where the anchor keys have a machine or a user
// of their own. One that is there stays, and is an error.
func (c *walletInit) Run(_ context.Context, a *app) error {
	network, err := a.network()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(a.Keys, 0o700); err != nil {
		return fmt.Errorf("make the folder of keys: %w", err)
	}
	path := filepath.Join(a.Keys, walletFile)
	if err := a.createWallet(path, network); err != nil {
		return err
	}
	keys, err := a.loadWallet()
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "made     %s\naddress  %s\n", path, keys.Current().Address())
	return nil
}

type walletRotate struct{}

// Run adds a key. Who has the keystore open already goes on with the former one.
func (c *walletRotate) Run(_ context.Context, a *app) error {
	network, err := a.network()
	if err != nil {
		return err
	}
	lock, err := a.lock()
	if err != nil {
		return err
	}
	keys, err := wallet.Rotate(filepath.Join(a.Keys, walletFile), network, lock, a.now())
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "new address  %s\nBack the keystore up, then restart the signer and every server. The next anchor's change goes to the new key;\n"+
		"the former keys stay in the keystore, and still sign what is paid to them.\n", keys.Current().Address())
	return nil
}

type walletExportWatch struct{}

// watchOnly is an element of what Bitcoin Core's importdescriptors takes.
type watchOnly struct {
	Descriptor string `json:"desc"`
	Timestamp  int64  `json:"timestamp"`
	Label      string `json:"label"`
}

// Run prints no secret: public keys alone.
func (c *walletExportWatch) Run(_ context.Context, a *app) error {
	keys, err := a.loadWallet()
	if err != nil {
		return err
	}
	var list []watchOnly
	for _, k := range keys.Keys() {
		list = append(list, watchOnly{Descriptor: k.Descriptor(), Timestamp: k.Created().Unix(), Label: "calpe " + k.Address()})
	}
	if err := json.MarshalWrite(a.stdout, list, jsontext.Multiline(true)); err != nil {
		return fmt.Errorf("print descriptors: %w", err)
	}
	fmt.Fprintln(a.stdout)
	return nil
}
