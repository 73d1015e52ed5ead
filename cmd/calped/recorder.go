package main

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/batch"
	"github.com/calpe/calpe/intake"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/storage/postgres"
)

// commandPromise is the deadline in acknowledgements of what a command records.
const commandPromise = time.Hour

// withRecorder calls fn with a recorder that takes entries, beside those of the
// servers that run: for a command that does one thing and ends.
func (a *app) withRecorder(ctx context.Context, edit func(*intake.RecorderConfig), fn func(ctx context.Context, r *intake.Recorder) error) error {
	db, err := a.openDatabase(ctx)
	if err != nil {
		return err
	}
	defer db.Close()
	if err := db.CheckSettings(ctx, a.Database.AllowAsyncStandby); err != nil {
		return err
	}
	recorder, err := a.openRecorder(ctx, db, edit)
	if err != nil {
		return err
	}
	running, cancel := context.WithCancel(ctx)
	defer cancel()
	g, running := errgroup.WithContext(running)
	g.Go(func() error { return ignoreCancel(recorder.Run(running)) })
	g.Go(func() error {
		defer cancel()
		if err := recorder.Wait(running); err != nil {
			return err
		}
		if err := fn(running, recorder); err != nil {
			return err
		}
		return recorder.Stop(running)
	})
	return g.Wait()
}

func (a *app) openRecorder(ctx context.Context, db *postgres.DB, edit func(*intake.RecorderConfig)) (*intake.Recorder, error) {
	keys, err := a.loadSigningKeys()
	if err != nil {
		return nil, err
	}
	identity, err := a.loadIdentity(ctx, db, keys)
	if err != nil {
		return nil, err
	}
	objects, err := a.openObjects()
	if err != nil {
		return nil, err
	}
	published, err := batch.NewLog(batch.LogConfig{
		Objects: objects,
		Open:    func(note []byte) (calpe.Checkpoint, error) { return receipt.OpenCheckpoint(note, identity) },
	})
	if err != nil {
		return nil, err
	}
	config := a.recorderConfig(db, objects, published, identity, keys, commandPromise)
	edit(&config)
	return intake.NewRecorder(config)
}
