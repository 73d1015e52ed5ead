// Package headers verifies a chain of Bitcoin block headers without anybody's
// help: it reads the raw headers of one network from a file, 80 bytes each,
// beginning at the genesis block, and checks every rule of consensus that
// headers alone can show. It is what lets a receipt be checked in thirty years
// with a file and no service, and so it is pure and total (I9): any bytes in,
// a chain or an error that names the height and the rule out. Nothing here
// opens a file or a connection.
//
// Checked for each header: it links to the one before; its nBits are what the
// difficulty rules of the network demand, including retargets, the
// minimum-difficulty rule of testnet3 and testnet4, and BIP94; its hash meets
// them; its time is later than the median of the last eleven (BIP113); its
// version is one that was still allowed (BIP34, BIP66, BIP65); and it is the
// pinned block where one is pinned.
//
// Not checked: whether a time lies in the future, which needs a clock and which
// nodes check when a block arrives; the signatures of signet (BIP325), which are
// not in the header; and the transactions, which are not there either. So a
// chain is worth what its work is worth, and on a test network that is nothing
// (calpe.Network.IsTest).
//
// Hashes are held in the order in which SHA-256 gives them. Bitcoin shows them,
// and chainhash.Hash's String and NewHashFromStr write and read them, as hex
// digits of the bytes reversed.
package headers
