// Package s3 is all object storage of Calpe, over any S3-compatible server that
// passes [Store.SelfTest].
//
// Two buckets. The documents bucket is private, versioned and has Object Lock:
// it holds the encrypted documents, and the fence that tells a database which
// went back in time. The log bucket holds the public log: tiles and checkpoints.
//
// What every method promises, unless it says otherwise:
//
//   - A write has been acknowledged by the server, with a SHA-256 that the server
//     checked (X-Amz-Checksum-Sha256), when the method returns nil. How durable
//     that is, is the server's promise; the self-test can't see it.
//   - Methods may be called concurrently, also from several processes.
//   - Transient failures (no connection, time-out, HTTP 408, 429, 500, 502, 503,
//     504) are tried again, a bounded number of times with growing pauses. Each
//     attempt has a time-out of its own, on top of the caller's context.
//   - An error may mean "failed, but applied": the server did it and the answer was
//     lost. Each method says what that means for its caller.
//
// Documents are encrypted by this package before they leave the process, in the
// DARE 2.0 format (github.com/minio/sio): chunks of 64 KiB, each sealed with
// AES-256-GCM under the document's own key, bound to its position and marked if
// it is the last. So any range can be read and authenticated without what is
// before it, and a chunk that was changed, moved or cut off is an error. Server-side
// encryption isn't used: some servers accept its headers and ignore them.
package s3
