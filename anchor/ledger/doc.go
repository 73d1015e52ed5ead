// Package ledger is the vocabulary of anchoring: coins, attempts, the states
// they go through, the table of edges between those states, and what a node can
// answer to a transaction.
//
// It has types and pure functions only. It stands apart from package anchor so
// that the two sides of the engine can share it without knowing each other: the
// store that keeps the rows (storage/postgres) and the node adapter
// (anchor/bitcoin) import these words, never the stage that acts on them.
package ledger
