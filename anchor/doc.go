// Package anchor writes the log's root into Bitcoin: a chain of coins, each
// spent by an attempt that carries the newest root and whose change is the next
// coin.
//
// The engine's memory is the store, and its truth is the chain. Every step
// starts from the rows and the node's blocks alone (I8): it follows the best
// chain block by block, records what the blocks do to the coins, and only then
// creates, signs and sends. An attempt is stored before it is signed, the
// signature before it is sent (I5), so that a crash anywhere leaves nothing
// that the next step doesn't finish, and nothing is ever paid twice: two
// attempts of one coin spend the same output. What a mempool says is never
// taken for truth.
//
// The state table, as data, is in package ledger.
package anchor
