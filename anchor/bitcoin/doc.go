// Package bitcoin talks to one Bitcoin node, btcd or Bitcoin Core, by JSON-RPC
// over HTTP. It uses only what both offer without a node wallet and without an
// index, so that a pruned node is enough.
//
// It is a client of its own because btcd's rpcclient takes no context, retries
// on its own for 22 seconds, and keeps a stale cookie for half a minute. Here
// every call has a context and a time-out, every answer a maximum size, and the
// only call made twice is one whose cookie was refused.
//
// What a node says of its chain is checked as far as that is possible from one
// answer: a block has the hash that was asked for, meets its own difficulty,
// and its transactions give its Merkle root.
package bitcoin
