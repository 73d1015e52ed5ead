// Package chainparams is the one place where a network of Calpe gets btcd's
// parameters.
package chainparams

import (
	"fmt"

	"github.com/btcsuite/btcd/chaincfg/v2"

	"github.com/calpe/calpe"
)

// For gives the parameters of a network, which are not to be changed. The error
// is for a name that isn't one of [calpe.Network]'s.
func For(network calpe.Network) (*chaincfg.Params, error) {
	switch network {
	case calpe.Mainnet:
		return &chaincfg.MainNetParams, nil
	case calpe.Testnet3:
		return &chaincfg.TestNet3Params, nil
	case calpe.Testnet4:
		return &chaincfg.TestNet4Params, nil
	case calpe.Signet:
		return &chaincfg.SigNetParams, nil
	case calpe.Regtest:
		return &chaincfg.RegressionNetParams, nil
	case calpe.Simnet:
		return &chaincfg.SimNetParams, nil
	}
	return nil, fmt.Errorf("unknown Bitcoin network %q", network)
}
