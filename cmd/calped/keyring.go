package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/storage/keyring"
)

type keyringCommand struct {
	Rotate keyringRotate `cmd:"" help:"Add a key-encryption key and use it from now on. Restart the servers afterwards."`
	Rewrap keyringRewrap `cmd:"" help:"Wrap every data key under the primary key-encryption key anew."`
}

type keyringRotate struct{}

func (c *keyringRotate) Run(_ context.Context, a *app) error {
	path := filepath.Join(a.Keys, keyringFile)
	if err := keyring.Rotate(path, a.now()); err != nil {
		return err
	}
	ring, err := keyring.Load(path)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "primary key is now %s; back %s up, restart the servers, then run \"calped keyring rewrap\"\n", ring.Primary(), path)
	return nil
}

type keyringRewrap struct{}

// rewrapPage is how many keys are read at once.
const rewrapPage = 500

// Run goes through all keys by document id. Stopped anywhere, it has done a part
// of the work; the next run does the rest. Servers go on meanwhile: a replaced
// row opens the same data key.
func (c *keyringRewrap) Run(ctx context.Context, a *app) error {
	ring, err := a.loadKeyring()
	if err != nil {
		return err
	}
	db, err := a.openDatabase(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	var last calpe.DocumentID
	done := 0
	for {
		keys, err := db.KeysNotUnder(ctx, ring.Primary(), last, rewrapPage)
		if err != nil {
			return err
		}
		if len(keys) == 0 {
			fmt.Fprintf(a.stdout, "%d data keys are under %s now\n", done, ring.Primary())
			return nil
		}
		for _, old := range keys {
			last = old.Document
			w, _, err := ring.Rewrap(old.Document.String(), keyring.Wrapped{KeyID: old.KeyID, Bytes: old.Wrapped})
			if err != nil {
				return fmt.Errorf("rewrap the key of document %s: %w", old.Document, err)
			}
			err = db.RewrapKey(ctx, old, calpe.WrappedKey{Document: old.Document, KeyID: w.KeyID, Wrapped: w.Bytes})
			if err != nil && !errors.Is(err, calpe.ErrNotFound) { // erased meanwhile
				return err
			}
			done++
		}
	}
}
