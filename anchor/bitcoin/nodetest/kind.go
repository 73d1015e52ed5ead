package nodetest

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/calpe/calpe"
)

// Kind is an implementation of a Bitcoin node.
type Kind string

// The kinds.
const (
	Btcd Kind = "btcd"
	Core Kind = "core" // Bitcoin Core, or what is made from it
)

// Variables name the environment variables with the paths of the binaries.
const (
	BtcdVariable = "CALPE_TEST_BTCD"
	CoreVariable = "CALPE_TEST_BITCOIND"
)

// Kinds lists the nodes that tests run on: btcd, which "make test" builds, and
// Bitcoin Core where the variable names one.
func Kinds() []Kind {
	if os.Getenv(CoreVariable) != "" {
		return []Kind{Btcd, Core}
	}
	return []Kind{Btcd}
}

// Lasting is a network whose chain outlives a restart of the node: btcd wipes
// that of regtest, and Core has no simnet.
func (k Kind) Lasting() calpe.Network {
	if k == Btcd {
		return calpe.Simnet
	}
	return calpe.Regtest
}

func (k Kind) binary(tb testing.TB) string {
	tb.Helper()
	name := BtcdVariable
	if k == Core {
		name = CoreVariable
	}
	path := os.Getenv(name)
	if path == "" {
		tb.Fatalf("%s is not set: run `make test`, which builds a btcd for the tests", name)
	}
	return path
}

// arguments of the command line. Both kinds refuse what isn't standard, as they
// do on mainnet, and neither keeps its mempool over a restart.
func (n *Node) arguments() []string {
	if n.kind == Btcd {
		return []string{
			"--" + string(n.network), "--rejectnonstd", "--notls", "--nodnsseed", "--trickleinterval=100ms",
			"--listen=" + n.p2p, "--rpclisten=" + n.rpc, "--rpcuser=" + user, "--rpcpass=" + password,
			"--datadir=" + n.data(), "--logdir=" + filepath.Join(n.dir, "log"),
			"--configfile=" + filepath.Join(n.dir, "none.conf"), "--miningaddr=" + n.address,
		}
	}
	return []string{
		"-chain=" + string(n.network), "-datadir=" + n.data(), "-printtoconsole=1", "-debuglogfile=0",
		"-bind=" + n.p2p, "-rpcbind=" + n.rpc, "-rpcallowip=127.0.0.1", "-rpcuser=" + user, "-rpcpassword=" + password,
		"-listenonion=0", "-discover=0", "-dnsseed=0", "-fixedseeds=0", "-natpmp=0", "-disablewallet", "-persistmempool=0",
		"-dbcache=16", "-maxconnections=8", "-par=1", "-rpcthreads=4", "-fallbackfee=0.00002",
	}
}

func (n *Node) data() string { return filepath.Join(n.dir, "data") }

// generate mines blocks with what is in the mempool.
func (n *Node) generate(count int) (hashes []calpe.BlockHash) {
	n.tb.Helper()
	if n.kind == Btcd {
		n.Call(&hashes, "generate", count)
		return hashes
	}
	n.Call(&hashes, "generatetoaddress", count, n.address)
	return hashes
}

// connect and disconnect are of the connection that this node makes to another.
// It is made once: btcd makes a permanent one again five seconds after it was
// removed.
func (n *Node) connect(other *Node) {
	n.tb.Helper()
	var none any
	n.Call(&none, "addnode", other.p2p, "onetry")
}

func (n *Node) disconnect(other *Node) error {
	var none any
	if n.kind == Btcd {
		return n.call(&none, "node", "disconnect", other.p2p)
	}
	return n.call(&none, "disconnectnode", other.p2p)
}

// peers is how many nodes this one is connected to.
func (n *Node) peers() int {
	n.tb.Helper()
	var count int
	n.Call(&count, "getconnectioncount")
	return count
}
