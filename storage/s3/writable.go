package s3

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"log/slog"
	"time"
)

const (
	// ProbeEvery is for how long [Store.Writable] believes that documents can be
	// stored, and ProbeAgain for how long that they can't.
	ProbeEvery = 30 * time.Second
	ProbeAgain = 5 * time.Second
	// probeStays is for how long nothing more is tried when a probe can't be removed.
	probeStays = time.Hour
	// probeSize is more than what a full disk may still have room for within a block.
	probeSize = 64 << 10
)

// writeProbe remembers the last try to write. Whoever has the turn may use the rest.
type writeProbe struct {
	turn  chan struct{} // holds one token
	until time.Time     // the verdict is believed until then
	err   error
}

func newWriteProbe() *writeProbe {
	p := &writeProbe{turn: make(chan struct{}, 1)}
	p.turn <- struct{}{}
	return p
}

// Writable returns nil if the documents bucket takes objects, and else why not: a
// server whose disk is full, or whose credentials may only read, still answers
// reads. It writes 64 KiB under "control/probe/" and removes them again, unless the
// last try was less than [ProbeEvery] ago, or [ProbeAgain] if that failed, or an
// hour if the probe couldn't be removed. It is safe for concurrent use: of many
// callers one tries, and the others have its answer.
func (s *Store) Writable(ctx context.Context) error {
	select {
	case <-s.probe.turn:
		defer func() { s.probe.turn <- struct{}{} }()
	case <-ctx.Done():
		return fmt.Errorf("write a probe: %w", context.Cause(ctx))
	}
	now := s.cfg.Now()
	if now.Before(s.probe.until) {
		return s.probe.err
	}
	believe, err := s.tryWriting(ctx)
	if err != nil && ctx.Err() != nil {
		return err // the caller's patience says nothing of the server
	}
	s.probe.err, s.probe.until = err, now.Add(believe)
	return err
}

// tryWriting gives for how long to believe what it found.
func (s *Store) tryWriting(ctx context.Context) (believe time.Duration, err error) {
	data := make([]byte, probeSize) // random, or a server could compress it
	rand.Read(data)
	name := probePrefix + "write-" + hex.EncodeToString(data[:16])
	info, err := s.put(ctx, s.cfg.DocumentsBucket, name, data, sha256.Sum256(data), putOptions{contentType: contentTypeBytes})
	// Crash here, or a failure that was applied: a later self-test removes the probe.
	if err != nil {
		return ProbeAgain, describe("write", s.cfg.DocumentsBucket, name, err)
	}
	if err := s.removeVersion(ctx, s.cfg.DocumentsBucket, name, info.VersionID); err != nil {
		s.cfg.Logger.WarnContext(ctx, "could not remove the probe of writing", slog.Any("error", err))
		return probeStays, nil
	}
	return ProbeEvery, nil
}
