// Package batch turns entries into the published log: hash tiles and entry
// bundles in object storage, and checkpoints that sign for them.
//
// A [Sealer] is the one writer, under leadership. A [Log] is a reader: proofs,
// the right edge, the entries behind a checkpoint; it is what receipts, audits
// and recovery read.
//
// The order in which things become durable is the whole point (I3, I4):
//
//	entry bundles and tiles -> checkpoint signed -> its copy -> its row
//
// The row in the database is the log's head, and what is served. The copy under
// [CheckpointPath] is immutable and is written before the row, so that a
// checkpoint which somebody may have seen is never lost with a database: after a
// restore, intake rolls the database forward to the newest copy. Every step can
// be done again after a crash and gives the same bytes, as entries never change
// (I2) and Ed25519 signatures are deterministic.
package batch
