// Package keyring holds the keys that protect documents at rest.
//
// Each document has a data key of its own ([DataKey]), which never touches a
// disk. What is stored is the data key wrapped by a key-encryption key of the
// [Ring] ([Wrapped]), in a table of its own (I10): destroying that row destroys
// the document, its name, its digest and its salt, wherever copies of them are.
//
// The ring is a small JSON file that the operator backs up apart from database
// and object storage. [Rotate] adds a key-encryption key and makes it the primary
// one; older keys stay, so what they wrapped stays readable, until
// [Ring.Rewrap] has moved it to the primary.
//
// All encryption is AES-256-GCM with random 96-bit nonces. NIST SP 800-38D
// limits one key to 2^32 such messages: rotate long before a ring has wrapped
// four thousand million data keys under one primary. Sub-keys are derived with
// HKDF-SHA256 (RFC 5869).
package keyring
