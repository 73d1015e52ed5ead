// Package fsck holds the stores of a deployment against each other, entry by
// entry: PostgreSQL, object storage, the published log and the chain. It names
// each thing that is broken after the invariant of docs/design that it breaks.
//
// It only reads, beside running servers too: what grows while it runs isn't a
// finding, and what looks wrong for a moment is looked at a second time. Memory
// doesn't grow with the log. With [Config.Repair] it writes again what follows
// from what is there: tiles and bundles from entries, copies of checkpoints and
// pages of anchors from their rows. It signs nothing, deletes nothing, and writes
// nothing to the database.
package fsck
