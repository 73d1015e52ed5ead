package signer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/btcsuite/btcd/wire/v2"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/ledger"
	"github.com/calpe/calpe/anchor/wallet"
)

// Transactions knows the transactions that made our coins. *anchor.Previous is one.
type Transactions interface {
	// Transaction is the whole transaction that made the output, serialized
	// without witness.
	Transaction(ctx context.Context, o calpe.Outpoint) ([]byte, error)
}

// Proofs proves that one log begins with another. *batch.Log is one.
type Proofs interface {
	ConsistencyProof(ctx context.Context, oldSize uint64, oldRoot calpe.Hash, cp calpe.Checkpoint) ([]calpe.Hash, error)
}

// ClientConfig of a [Client].
type ClientConfig struct {
	Signer       Signer
	Network      calpe.Network
	Transactions Transactions
	Proofs       Proofs
}

// Client is the signer as the engine sees it: it collects what a [Request] needs.
// It may be used concurrently.
type Client struct {
	cfg ClientConfig

	mu      sync.Mutex
	scripts [][]byte
}

// NewClient asks the signer which keys it has, and refuses one of another network.
func NewClient(ctx context.Context, cfg ClientConfig) (*Client, error) {
	if cfg.Signer == nil || cfg.Transactions == nil || cfg.Proofs == nil {
		return nil, errors.New("signer client lacks its signer, transactions or proofs")
	}
	c := &Client{cfg: cfg}
	_, err := c.status(ctx)
	return c, err
}

// status asks, and learns of a rotation.
func (c *Client) status(ctx context.Context) (Status, error) {
	s, err := c.cfg.Signer.Status(ctx)
	if err != nil {
		return Status{}, err
	}
	if s.Network != c.cfg.Network {
		return Status{}, fmt.Errorf("signer: its keys are for %s, and this deployment is on %s", s.Network, c.cfg.Network)
	}
	if len(s.Scripts) == 0 || slices.ContainsFunc(s.Scripts, func(script []byte) bool { return !wallet.IsScript(script) }) {
		return Status{}, errors.New("signer: it states no keys, or scripts of another form")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.scripts = s.Scripts
	return s, nil
}

// Script is the output script that deposits and change go to: that of the newest
// key that the signer has told of.
func (c *Client) Script() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.scripts[len(c.scripts)-1])
}

// Owns reports whether a key of the signer has that output script.
func (c *Client) Owns(script []byte) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.ContainsFunc(c.scripts, func(own []byte) bool { return bytes.Equal(own, script) })
}

// Sign has the signer sign a transaction that is serialized without witness and
// spends these outputs. What comes back is that transaction: a signer that answers
// with another one is an error.
func (c *Client) Sign(ctx context.Context, unsigned []byte, inputs []ledger.Input) ([]byte, error) {
	tx, err := wallet.ParseUnsigned(unsigned)
	if err != nil {
		return nil, err
	}
	r := Request{Unsigned: unsigned}
	for _, in := range inputs {
		previous, err := c.cfg.Transactions.Transaction(ctx, in.Outpoint)
		if err != nil {
			return nil, fmt.Errorf("find the transaction that made %v: %w", in.Outpoint, err)
		}
		r.Previous = append(r.Previous, previous)
	}
	if r.Proof, err = c.prove(ctx, tx); err != nil {
		return nil, err
	}
	raw, err := c.cfg.Signer.Sign(ctx, r)
	if err != nil {
		return nil, err
	}
	return raw, checkSame(raw, unsigned)
}

// prove gets the proof between what the signer signed last and what it is to sign.
func (c *Client) prove(ctx context.Context, tx *wire.MsgTx) ([]calpe.Hash, error) {
	if len(tx.TxOut) == 0 {
		return nil, fmt.Errorf("%w: it has no outputs", wallet.ErrPolicy)
	}
	p, err := calpe.ParsePayloadScript(tx.TxOut[0].PkScript)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", wallet.ErrPolicy, err)
	}
	signed, err := c.status(ctx)
	if err != nil {
		return nil, err
	}
	small, large := calpe.Payload{Size: signed.Size, Root: signed.Root}, p
	if small.Size > large.Size {
		small, large = large, small
	}
	if small.Size == 0 || small.Size == large.Size {
		return nil, nil
	}
	proof, err := c.cfg.Proofs.ConsistencyProof(ctx, small.Size, small.Root, calpe.Checkpoint{Size: large.Size, Root: large.Root})
	if err != nil {
		return nil, fmt.Errorf("prove to the signer that %d entries begin with %d: %w", large.Size, small.Size, err)
	}
	return proof, nil
}

func checkSame(raw, unsigned []byte) error {
	var tx wire.MsgTx
	r := bytes.NewReader(raw)
	if err := tx.Deserialize(r); err != nil || r.Len() != 0 {
		return errors.New("signer: it answered with what isn't a transaction")
	}
	var stripped bytes.Buffer
	if err := tx.SerializeNoWitness(&stripped); err != nil {
		return fmt.Errorf("serialize transaction: %w", err)
	}
	if !bytes.Equal(stripped.Bytes(), unsigned) {
		return errors.New("signer: it answered with another transaction than was asked for")
	}
	return nil
}
