// Package merkle is the Merkle tree of the log: RFC 6962 hashing with SHA-256,
// kept in the tiles of https://c2sp.org/tlog-tiles. It appends, and it computes
// roots, inclusion proofs and consistency proofs, and verifies them.
//
// Everything here is a pure function or a value owned by its caller: no I/O, no
// goroutine, no clock. Whoever stores tiles passes a [TileSource]. Nothing is
// trusted: every size, index, path and tile that comes in is checked before
// work is done with it, and wrong input is an error, never a panic.
//
// Sizes and indices count entries. No log is larger than [calpe.MaxLogSize].
package merkle
