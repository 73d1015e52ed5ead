// Package receipt is the evidence: the log's identity, its signed checkpoints
// and acknowledgements, and the receipt that leads from a document to a block of
// Bitcoin; how each is written, and how each is verified (docs/formats.md).
//
// Everything here is a pure function of its arguments, without network,
// database, files or clock, safe for concurrent use, and total (I9): any bytes
// in, an answer or an error out. What it writes it reads again first, by the
// same rules as a stranger's.
package receipt
