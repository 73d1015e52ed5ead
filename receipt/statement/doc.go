// Package statement is what the operator of a log and the agencies say, signed
// and in one spelling, so that it can be notarized like a document:
// the registration of an agency, the certification of a document, the
// declaration of a recovery (docs/formats.md, "Statement").
//
// It also holds what all signed formats of Calpe share: Ed25519 keys in the
// signed-note form of C2SP, and strict JSON with its canonical form (RFC 8785).
//
// Everything here is a pure function of its arguments, safe for concurrent use,
// and total: any bytes in, a value or an error that names the place out (I9).
package statement
