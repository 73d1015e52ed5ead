package batchtest

import (
	"crypto/sha256"
	"testing"

	"github.com/btcsuite/btcd/chaincfg/v2"
	"github.com/calpe/calpe"
	"github.com/calpe/calpe/receipt"
	"github.com/calpe/calpe/receipt/statement"
)

// Log is a log's identity with its keys, which are the same in every run.
type Log struct {
	Identity    receipt.Identity
	Checkpoint  statement.Key
	Acknowledge statement.Key
	Statement   statement.Key
}

// NewLog makes the identity of the log of that origin.
func NewLog(tb testing.TB, origin string) Log {
	tb.Helper()
	l := Log{
		Checkpoint:  Key(tb, origin),
		Acknowledge: Key(tb, receipt.AcknowledgementKeyName(origin)),
		Statement:   Key(tb, receipt.StatementKeyName(origin)),
	}
	l.Identity = receipt.Identity{
		Origin: origin, Network: calpe.Regtest, Genesis: calpe.BlockHash(*chaincfg.RegressionNetParams.GenesisHash),
		CheckpointKeys:      []string{l.Checkpoint.Verifier()},
		AcknowledgementKeys: []string{l.Acknowledge.Verifier()},
		StatementKeys:       []string{l.Statement.Verifier()},
	}
	if err := l.Identity.Validate(); err != nil {
		tb.Fatal(err)
	}
	return l
}

// Key is the key of that name, the same in every run.
func Key(tb testing.TB, name string) statement.Key {
	tb.Helper()
	key, err := statement.GenerateKey(&stream{seed: sha256.Sum256([]byte(name))}, name)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

// stream is a source of bytes that follow from a seed.
type stream struct{ seed [32]byte }

func (s *stream) Read(p []byte) (int, error) {
	s.seed = sha256.Sum256(s.seed[:])
	return copy(p, s.seed[:]), nil
}

// Sign signs a checkpoint.
func (l Log) Sign(size uint64, root calpe.Hash) ([]byte, error) {
	return receipt.SignCheckpoint(l.Checkpoint, l.Identity.Origin, size, root)
}

// Open verifies a checkpoint.
func (l Log) Open(note []byte) (calpe.Checkpoint, error) {
	return receipt.OpenCheckpoint(note, l.Identity)
}

// Commitment is a commitment that follows from a number.
func Commitment(n uint64) calpe.Commitment {
	return calpe.Commit(calpe.Digest{1, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, calpe.Salt{})
}
