#!/usr/bin/python3
"""The reference's opinion, for which Debian's python3-opentimestamps is needed.

    peer.py make DIR COUNT    write random files into DIR, each with its listing
    peer.py mutate DIR COUNT FILE...
                              write changed copies of files into DIR, named ok-* or
                              bad-* as the reference reads them or doesn't; those it
                              reads have a listing
    peer.py list FILE...      print the listings; fail if the reference doesn't
                              read a file, or would write it in another way

A listing has a line for each attestation, in the order of the file: the message
in hexadecimal, and what package ots prints of the attestation.
"""
import os
import random
import sys
import warnings

from opentimestamps.core import notary, op
from opentimestamps.core.serialize import BytesDeserializationContext, BytesSerializationContext
from opentimestamps.core.timestamp import DetachedTimestampFile, Timestamp

warnings.simplefilter("ignore")
HASHES = [op.OpSHA256, op.OpSHA256, op.OpSHA256, op.OpSHA1, op.OpRIPEMD160, op.OpKECCAK256]


def read(data):
    return DetachedTimestampFile.deserialize(BytesDeserializationContext(data))


def write(file):
    ctx = BytesSerializationContext()
    file.serialize(ctx)
    return ctx.getbytes()


def show(a):
    if isinstance(a, notary.PendingAttestation):
        return "pending at " + a.uri
    if isinstance(a, notary.UnknownAttestation):
        return "unknown notary %s, %d bytes" % (a.TAG.hex(), len(a.payload))
    return "%s block %d" % (a.__class__.__name__.replace("BlockHeaderAttestation", ""), a.height)


def lines(stamp):
    for a in sorted(stamp.attestations):
        yield "%s %s\n" % (stamp.msg.hex(), show(a))
    for _, following in sorted(stamp.ops.items(), key=lambda item: item[0]):
        yield from lines(following)


def listing(file):
    return "".join(lines(file.timestamp))


def attestation(rnd):
    kind = rnd.randrange(8)
    if kind < 3:
        return notary.BitcoinBlockHeaderAttestation(rnd.choice([0, 127, 128, 300, 16384, 358391, 2**32 + 5]))
    if kind < 5:
        return notary.PendingAttestation("https://%s.example/" % ("x" * rnd.choice([1, 2, 40, 200])))
    if kind == 5:
        return notary.LitecoinBlockHeaderAttestation(rnd.choice([5, 127, 128, 300, 16384]))
    return notary.UnknownAttestation(bytes([rnd.randrange(256)]) * 8, rnd.randbytes(rnd.choice([0, 1, 127, 128, 1000])))


def operation(rnd, message):
    kind = rnd.randrange(8)
    room = 4096 - len(message)
    if kind < 4 and room > 200:
        return rnd.choice([op.OpAppend, op.OpPrepend])(rnd.randbytes(rnd.choice([1, 2, 32, 127, 128])))
    if kind == 4 and 0 < len(message) <= 512:
        return op.OpHexlify()
    if kind == 5:
        return op.OpReverse()
    return rnd.choice(HASHES)()


def grow(rnd, stamp, depth):
    forks = rnd.choice([1, 1, 1, 1, 1, 2, 3])
    for _ in range(rnd.choice([0, 0, 0, 1, 3])):
        stamp.attestations.add(attestation(rnd))
    for _ in range(forks if depth else 0):
        grow(rnd, stamp.ops.add(operation(rnd, stamp.msg)), depth - 1)
    if not stamp.attestations and not stamp.ops:
        stamp.attestations.add(attestation(rnd))


def make(folder, count):
    for i in range(count):
        rnd = random.Random(i)
        hashed_by = rnd.choice(HASHES)()
        stamp = Timestamp(rnd.randbytes(hashed_by.DIGEST_LENGTH))
        grow(rnd, stamp, rnd.randrange(8))
        save(folder, "random-%02d" % i, DetachedTimestampFile(hashed_by, stamp))


def save(folder, name, file, data=None):
    with open(os.path.join(folder, name + ".ots"), "wb") as f:
        f.write(data or write(file))
    if file:
        with open(os.path.join(folder, name + ".txt"), "w") as f:
            f.write(listing(file))


def mutate(folder, count, names):
    rnd = random.Random(1)
    originals = [open(name, "rb").read() for name in names]
    for i in range(count):
        data = bytearray(rnd.choice(originals))
        for _ in range(rnd.randrange(1, 4)):
            at = rnd.randrange(31, len(data))
            kind = rnd.randrange(5)
            if kind == 0:
                data[at] ^= 1 << rnd.randrange(8)
            elif kind == 1:
                data[at] = rnd.choice([0x00, 0x02, 0x03, 0x08, 0x67, 0x80, 0xf0, 0xf1, 0xf2, 0xf3, 0xff])
            elif kind == 2:
                del data[at:at + rnd.randrange(1, 40)]
            elif kind == 3:
                data[at:at] = data[at:at + rnd.randrange(1, 40)]
            else:
                data[at:at] = bytes([rnd.choice([0x08, 0xf2, 0xf3, 0xff, 0x00])])
            if len(data) < 33:
                break
        try:
            file = read(bytes(data))
        except Exception:
            file = None
        save(folder, "%s-%05d" % ("ok" if file else "bad", i), file, bytes(data))


def main(command, *args):
    if command == "make":
        make(args[0], int(args[1]))
    elif command == "mutate":
        mutate(args[0], int(args[1]), args[2:])
    elif command == "list":
        for name in args:
            data = open(name, "rb").read()
            file = read(data)
            if write(file) != data:
                sys.exit(name + ": the reference would write it in another way")
            sys.stdout.write(listing(file))


if __name__ == "__main__":
    main(*sys.argv[1:])
