// Package wallet holds the anchor key and builds the transactions that it
// signs: one P2WPKH key, whose output is the coin, and transactions of a single
// shape: input 0 the coin, further inputs deposits, output 0 the payload, output
// 1 the change to the same key, which is the next coin.
//
// The signer refuses every other shape and every fee above its caps, whoever
// asks. The builder knows the same caps, so that a refusal is a bug.
package wallet
