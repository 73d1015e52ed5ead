package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/statement"
	"github.com/calpe/calpe/storage/keyring"
)

// The files in the folder of keys. Each is readable by its owner alone.
const (
	keyringFile         = "keyring.json"
	checkpointFile      = "checkpoint.key"
	acknowledgementFile = "acknowledgement.key"
	statementFile       = "statement.key"
	walletFile          = "wallet.age"
	passphraseFile      = "wallet.passphrase"
)

type initCommand struct {
	Origin string `required:"" help:"The log's name for ever, a URL without scheme that you control, such as notary.gov.example/log."`
}

// Run makes every key that isn't there yet, and touches none that is.
func (c *initCommand) Run(ctx context.Context, a *app) error {
	network, err := a.network()
	if err != nil {
		return err
	}
	if err := receipt.CheckOrigin(c.Origin); err != nil {
		return err
	}
	if err := c.sameOrigin(a.Keys); err != nil {
		return err
	}
	if err := os.MkdirAll(a.Keys, 0o700); err != nil {
		return fmt.Errorf("make the folder of keys: %w", err)
	}
	type newKey struct {
		file string
		make func(path string) error
	}
	missing := []newKey{
		{keyringFile, func(path string) error { return keyring.Create(path, a.now()) }},
		{checkpointFile, func(path string) error { return createKey(path, c.Origin) }},
		{acknowledgementFile, func(path string) error { return createKey(path, receipt.AcknowledgementKeyName(c.Origin)) }},
		{statementFile, func(path string) error { return createKey(path, receipt.StatementKeyName(c.Origin)) }},
	}
	if a.Signer.Socket == "" { // else the anchor keys are the signer's
		missing = append(missing, newKey{walletFile, func(path string) error { return a.createWallet(path, network) }})
	}
	for _, k := range missing {
		path := filepath.Join(a.Keys, k.file)
		if _, err := os.Stat(path); err == nil {
			fmt.Fprintf(a.stdout, "kept     %s\n", path)
			continue
		} else if !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("look for %s: %w", path, err)
		}
		if err := k.make(path); err != nil {
			return fmt.Errorf("make %s: %w", path, err)
		}
		fmt.Fprintf(a.stdout, "made     %s\n", path)
	}
	_, address, err := a.anchorScript(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "\nBack this folder up now, off this machine: without keyring.json no document can ever be read again.\n"+
		"Then pay the first coin to\n\n    %s\n\nand, when it is in a block, run \"calped log create\".\n", address)
	return nil
}

// sameOrigin refuses to add to the keys of another log: a key has the log's
// name in it.
func (c *initCommand) sameOrigin(folder string) error {
	path := filepath.Join(folder, checkpointFile)
	text, err := secret(checkpointFile, "", path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	key, err := statement.ParseKey(text)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if key.Name() != c.Origin {
		return fmt.Errorf("the keys in %s are of the log %s: give that as --origin, or another folder as --keys", folder, key.Name())
	}
	return nil
}

// createKey writes a new signing key, durable when it returns.
func createKey(path, name string) error {
	key, err := statement.GenerateKey(rand.Reader, name)
	if err != nil {
		return err
	}
	return writeSecret(path, key.Secret())
}

// writeSecret writes a line to a new file that only its owner can read, durable
// when it returns. O_EXCL: a key that exists is never overwritten, whoever runs
// at the same time.
func writeSecret(path, line string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteString(line + "\n")
	err = errors.Join(err, f.Sync(), f.Close())
	if err != nil {
		return errors.Join(err, os.Remove(path))
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// signingKeys are the three keys that sign in the log's name.
type signingKeys struct {
	checkpoint, acknowledgement, statement statement.Key
}

func (a *app) loadSigningKeys() (signingKeys, error) {
	var keys signingKeys
	for _, k := range []struct {
		file string
		into *statement.Key
	}{
		{checkpointFile, &keys.checkpoint}, {acknowledgementFile, &keys.acknowledgement}, {statementFile, &keys.statement},
	} {
		path := filepath.Join(a.Keys, k.file)
		if err := ownerOnly(path); err != nil {
			return signingKeys{}, err
		}
		text, err := secret(k.file, "", path)
		if err != nil {
			return signingKeys{}, err
		}
		if *k.into, err = statement.ParseKey(text); err != nil {
			return signingKeys{}, fmt.Errorf("read %s: %w", path, err)
		}
	}
	return keys, nil
}

// ownerOnly refuses a private key that others could have read.
func ownerOnly(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("private key: %w (\"calped init\" makes the keys)", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return fmt.Errorf("private key %s has mode %04o: others may read it; run \"chmod 600\" on it, and think of who may have", path, mode)
	}
	return nil
}

func (a *app) loadKeyring() (*keyring.Ring, error) {
	return keyring.Load(filepath.Join(a.Keys, keyringFile))
}
