// Package calpe holds the words and the rules of the Calpe notarization
// service: what an entry, a commitment, a checkpoint payload, an anchor and a
// document are, byte for byte, and the closed set of error codes.
//
// It does no I/O, starts no goroutine, declares no interface and imports only
// the standard library, so that every other package, and every program of
// somebody else, can share one definition of each thing. docs/formats.md is the
// same text for readers who write a verifier in another language; tests hold
// the two together.
package calpe
