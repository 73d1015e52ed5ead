package anchor

import (
	"bytes"
	"context"
	"fmt"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/anchor/bitcoin"
)

// Previous finds the transactions that made our coins: an attempt among the
// attempts, anything else (the first coin, a deposit) in its block, which a pruned
// node must still have.
type Previous struct {
	Attempts AttemptStore
	Node     Explorer
}

// Transaction is the whole transaction that made the output, serialized without
// witness. If it isn't an attempt, the output must be unspent in the node's chain.
func (p Previous) Transaction(ctx context.Context, o calpe.Outpoint) ([]byte, error) {
	a, ok, err := p.Attempts.Attempt(ctx, o.TxID)
	if err != nil {
		return nil, fmt.Errorf("look for attempt %v: %w", o.TxID, err)
	}
	if ok {
		return a.Unsigned, nil
	}
	height, hash, err := blockOf(ctx, p.Node, o)
	if err != nil {
		return nil, err
	}
	block, err := p.Node.Block(ctx, hash)
	if err != nil {
		return nil, fmt.Errorf("read block %d: %w", height, err)
	}
	for i, txid := range bitcoin.TxIDs(block) {
		if txid != o.TxID {
			continue
		}
		var b bytes.Buffer
		if err := block.Transactions[i].SerializeNoWitness(&b); err != nil {
			return nil, fmt.Errorf("serialize transaction %v: %w", txid, err)
		}
		return b.Bytes(), nil
	}
	return nil, fmt.Errorf("%w: block %d doesn't hold %v", ErrChainMoved, height, o.TxID)
}
