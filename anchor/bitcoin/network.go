package bitcoin

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/btcsuite/btcd/chaincfg/v2"

	"github.com/calpe/calpe"
	"github.com/calpe/calpe/internal/chainparams"
)

// CheckNetwork compares the node's genesis block and the name of its chain with
// the network. For signet, whose variants all share one genesis block (BIP 325),
// it compares the challenge too, or, of btcd, which doesn't state it, the magic
// bytes, which follow from the challenge. The error
// is [ErrWrongNetwork], or that of a call that failed.
func (c *Client) CheckNetwork(ctx context.Context, network calpe.Network) error {
	params, err := chainparams.For(network)
	if err != nil {
		return err
	}
	genesis, err := c.BlockHash(ctx, 0)
	if err != nil {
		return err
	}
	if want := calpe.BlockHash(*params.GenesisHash); genesis != want {
		return fmt.Errorf("%w: its genesis block is %v, that of %s is %v", ErrWrongNetwork, genesis, network, want)
	}
	var info struct {
		Chain           string `json:"chain"`
		SignetChallenge string `json:"signet_challenge"`
	}
	if err := c.call(ctx, smallAnswer, &info, "getblockchaininfo"); err != nil {
		return err
	}
	if chain, err := calpe.ParseNetwork(info.Chain); err != nil || chain != network {
		return fmt.Errorf("%w: it calls its chain %q, want %s", ErrWrongNetwork, clip(info.Chain), network)
	}
	if network != calpe.Signet {
		return nil
	}
	if info.SignetChallenge == "" {
		return c.checkMagic(ctx, uint32(params.Net))
	}
	if want := hex.EncodeToString(chaincfg.DefaultSignetChallenge); info.SignetChallenge != want {
		return fmt.Errorf("%w: its signet challenge is %.80s, want %s", ErrWrongNetwork, clip(info.SignetChallenge), want)
	}
	return nil
}

// checkMagic compares the bytes with which messages of the node's network begin.
func (c *Client) checkMagic(ctx context.Context, want uint32) error {
	var magic uint32
	err := c.call(ctx, smallAnswer, &magic, "getcurrentnet")
	if refusal, ok := errors.AsType[*RPCError](err); ok && refusal.Code == codeMethodNotFound {
		return nil // Bitcoin Core before 28: which signet it is on can't be asked
	}
	if err != nil {
		return err
	}
	if magic != want {
		return fmt.Errorf("%w: its network has the magic %08x, want %08x", ErrWrongNetwork, magic, want)
	}
	return nil
}
