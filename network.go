package calpe

import "fmt"

// Network names a Bitcoin network. One deployment anchors in one network, for
// ever: the name and the hash of the genesis block are in its log identity.
type Network string

// The networks, with the names that btcd uses.
const (
	Mainnet  Network = "mainnet"
	Testnet3 Network = "testnet3"
	Testnet4 Network = "testnet4"
	Signet   Network = "signet"
	Regtest  Network = "regtest"
	Simnet   Network = "simnet"
)

// ParseNetwork accepts the names above, and Bitcoin Core's "main" and "test".
func ParseNetwork(name string) (Network, error) {
	switch n := Network(name); n {
	case Mainnet, Testnet3, Testnet4, Signet, Regtest, Simnet:
		return n, nil
	case "main":
		return Mainnet, nil
	case "test":
		return Testnet3, nil
	}
	return "", fmt.Errorf("unknown Bitcoin network %q", name)
}

// IsTest reports whether a block of the network proves nothing to anybody,
// because anyone can make one. Whoever shows such a proof must say so.
func (n Network) IsTest() bool { return n != Mainnet }
