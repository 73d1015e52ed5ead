// Package signer is the policy under which the anchor keys sign, the state that
// the policy needs, and the way to a signer in another process.
//
// What a signature can do is spend the coins. [Policy] therefore signs nothing
// but anchors: a transaction whose inputs are all ours, which carries one root
// of one growing log, whose change comes back to us, and whose fee is within caps
// for one anchor and for a day. Whoever takes over the engine can burn capped
// fees, and neither steal the coins nor make Bitcoin hold two histories of the log.
//
// A [Policy] believes nothing that it is told and can check. It takes the values
// of inputs from the transactions that made them, since a signature (BIP 143)
// covers the value of its own input only, and engines could lie about the others.
// It takes consistency of roots from a proof. What it has to remember, it has made
// durable before a signature leaves.
//
// [Client] is the engine's side: it collects what a request needs. Between the two
// is nothing, in one process, or [Remote] and [Server], over a Unix socket.
package signer
