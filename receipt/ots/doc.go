// Package ots is the OpenTimestamps codec: it reads, writes, merges, upgrades
// and verifies .ots files of any calendar, and writes a receipt, or an entry's
// way to a block, as what every OpenTimestamps client understands.
//
// A timestamp is a tree: a message, operations that each make another message
// of it, and attestations that say of a message that it was there at some time.
// A Bitcoin attestation says that the message is the Merkle root of the block at
// a height. There is no published specification; what is read and written here
// is what the reference, python-opentimestamps, reads and writes. Its files are
// written again byte for byte.
//
// The format has no tag for test networks. A file from one has the same Bitcoin
// attestations as one of mainnet, and is only refuted by the headers of mainnet;
// with the headers of a test network, a report says that it has no evidential
// value.
//
// Everything here is a pure function of its arguments, without network, files or
// clock, safe for concurrent use, and total (I9). Values never change. Memory
// stays within about a hundred times [MaxSize], whatever the input.
package ots
