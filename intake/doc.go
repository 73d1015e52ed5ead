// Package intake takes documents and commitments in: it stores, records and
// acknowledges them, and knows nothing of HTTP.
//
// A [Recorder] gives entries their indices. It collects the submissions that are
// waiting and commits them as one group: one row, one COMMIT, one signature, and
// then one answer to each caller. Several server processes do this at once.
//
// # The promise
//
// An acknowledged index is a promise (I2): it never gets another commitment,
// also if the database fails over or an older copy of it is put back. Nothing
// that lives in the database can keep such a promise, so the Recorder keeps a
// fence in object storage: a small object, replaced only by comparing and
// swapping, that holds a limit and a database instance (cluster, timeline, start
// of the server). It means:
//
//	every index that was ever handed out is below the limit, and
//	every index at or above the limit's last rise was handed out by this instance.
//
// Indices are handed out only below the limit, and only on the fence's instance;
// the database checks both in the transaction that records a group. A running
// server doesn't go back in time, so as long as the instance is the same nothing
// can have been lost. A server that was restarted, that took over, or whose data
// were restored is another instance, and from outside these can't be told apart.
// Then intake stops and rejoins, under the lock that all commits take:
//
//   - entries of the newest signed checkpoint that the database lacks are rolled
//     forward from the published log;
//   - indices from there to the limit are filled with void entries, since each
//     may have been acknowledged by what is gone;
//   - the fence gets the new instance and a higher limit;
//   - what was rolled forward or voided is declared in a signed statement, which
//     is itself an entry.
//
// A clean restart costs the void entries as well: up to two steps of the fence,
// 34 bytes each in the database. To spare them would take a note of "nothing was
// lost" that only a clean shutdown writes, and a restored copy that contains
// such a note would be believed. docs/design/0001-fence.md has the argument, and
// what the fence doesn't protect from.
//
// # The path of a document
//
// A [Service] streams the body into object storage, encrypted under a data key of
// its own, and only then records it (I1). Name, digest, salt and certification
// are sealed under the same key (I10). Whatever fails on the way leaves nothing
// that anybody can find: objects without a row are removed at once if possible,
// and by a [Sweeper] later. A [Retainer] locks the objects of recorded documents.
package intake
