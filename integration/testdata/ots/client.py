"""Drives the Python OpenTimestamps library, as the reference client does:
  stamp CALENDAR FILE      writes FILE.ots
  upgrade CALENDAR FILE    completes FILE.ots; exit code 3 if it can't yet
  verify HEADERS FILE      prints height and time of the earliest block; 1 if it doesn't hold
"""
import hashlib
import os
import sys

from bitcoin.core import CBlockHeader
from opentimestamps.calendar import CommitmentNotFoundError, RemoteCalendar, UrlWhitelist
from opentimestamps.core.notary import BitcoinBlockHeaderAttestation, PendingAttestation
from opentimestamps.core.op import OpAppend, OpSHA256
from opentimestamps.core.serialize import BytesDeserializationContext, BytesSerializationContext
from opentimestamps.core.timestamp import DetachedTimestampFile, make_merkle_tree

TIMEOUT = 30


def read(path):
    with open(path, 'rb') as f:
        return f.read()


def proof(path):
    return DetachedTimestampFile.deserialize(BytesDeserializationContext(read(path + '.ots')))


def write(path, detached):
    ctx = BytesSerializationContext()
    detached.serialize(ctx)
    with open(path + '.ots', 'wb') as f:
        f.write(ctx.getbytes())


def attested(stamp):
    """The first nodes from the root that have attestations: deeper ones the client doesn't look at."""
    if stamp.attestations:
        yield stamp
    else:
        for following in stamp.ops.values():
            yield from attested(following)


def complete(stamp):
    return any(isinstance(a, BitcoinBlockHeaderAttestation) for _, a in stamp.all_attestations())


def stamp(calendar, path):
    with open(path, 'rb') as f:
        detached = DetachedTimestampFile.from_fd(OpSHA256(), f)
    salted = detached.timestamp.ops.add(OpAppend(os.urandom(16))).ops.add(OpSHA256())
    tip = make_merkle_tree([salted])
    tip.merge(RemoteCalendar(calendar).submit(tip.msg, timeout=TIMEOUT))
    write(path, detached)


def upgrade(calendar, path):
    detached = proof(path)
    allowed = UrlWhitelist([calendar])
    for node in list(attested(detached.timestamp)):
        for attestation in [a for a in node.attestations if isinstance(a, PendingAttestation)]:
            if attestation.uri not in allowed:
                continue
            try:
                node.merge(RemoteCalendar(attestation.uri).get_timestamp(node.msg, timeout=TIMEOUT))
            except CommitmentNotFoundError as err:
                print(err.reason)
    if not complete(detached.timestamp):
        return 3
    write(path, detached)
    return 0


def verify(headers, path):
    detached = proof(path)
    if hashlib.sha256(read(path)).digest() != detached.file_digest:
        raise Exception('the file is another one')
    chain = read(headers)
    blocks = []
    for message, attestation in detached.timestamp.all_attestations():
        if isinstance(attestation, BitcoinBlockHeaderAttestation):
            header = CBlockHeader.deserialize(chain[80 * attestation.height:][:80])
            blocks.append((attestation.height, attestation.verify_against_blockheader(message, header)))
    print(*min(blocks))


if __name__ == '__main__':
    sys.exit({'stamp': stamp, 'upgrade': upgrade, 'verify': verify}[sys.argv[1]](*sys.argv[2:]))
