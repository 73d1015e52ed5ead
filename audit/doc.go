// Package audit follows a public log (C2SP tlog-tiles) as a stranger with nothing
// but its identity: it reads all that was published since the last time, checks
// every entry, every tile and every signature, and compares what the log says now
// with what it said then. It keeps a mirror, which has the layout of the log and
// can be served or audited in its place.
//
// What a receipt alone doesn't claim is found here: that the log has one history
// only (I3). Two checkpoints that contradict each other are signed by the log
// itself, and are kept as evidence.
//
// Whether a stranger who begins today sees the same history is answered by
// Bitcoin: from the first outpoint in the identity on, each anchor spends the
// change of the one before, and must hold the root of this very log. Another
// history would need another spend of the same coin.
//
// The package does no I/O of its own: where the log is read, and where the mirror
// is kept, is the caller's ([Log], [Mirror]).
package audit
