#!/usr/bin/env python3
"""Runs the vectors beside this file through verify.py: prints what it gets wrong, exits 1 if there is any."""
import json, os, sys
sys.dont_write_bytecode = True  # leave nothing beside the vectors
from verify import *

def fails(check, *args):
    try:
        return check(*args) is False
    except Bad:
        return True

def run_vectors(directory):
    at, wrong, runs = lambda name: os.path.join(directory, name), [], 0
    table = lambda name: json.loads(load(at(name)))
    hashed = table("hashes.json")
    leaves = {e["index"]: e for e in hashed["entries"]}
    for e in hashed["entries"]:
        document, salt, index = bytes.fromhex(e["document"]), bytes.fromhex(e["salt"]), e["index"].to_bytes(8, "big")
        commitment = sha(sha(document), salt)
        want = (sha(document), commitment, index + commitment, sha(b"\0", index + commitment))
        runs, wrong = runs + 1, wrong + ([] if tuple(bytes.fromhex(e[k]) for k in ("digest", "commitment", "entry", "leaf")) == want else [index])
    for t in hashed["trees"]:
        for index, path in enumerate(t["paths"]):
            node = bytes.fromhex(leaves[index]["leaf"]) if index else sha(b"\0", bytes(8), identity(load(at("identity.json")))["hash"])
            good = tree_root(index, t["size"], node, hashes(path, 40)) == bytes.fromhex(t["root"])
            good = good and t["script"] == "6a28434c50%010x%s" % (t["size"], t["root"])
            runs, wrong = runs + 1, wrong + ([] if good else ["path %d of %d" % (index, t["size"])])
    for v in table("statements.json"):
        readable = not fails(lambda: statement(strict_json(v["statement"].encode(), 16384)))
        verifies = readable and signed_by(json.loads(v["statement"]), [vkey(v["key"])])
        good = (readable, verifies) == (v["readable"], v["verifies"]) and (not readable or sha(v["statement"].encode()).hex() == v["digest"])
        runs, wrong = runs + 1, wrong + ([] if good else [v["name"]])
    for v in table("notes.json"):
        i = identity(load(at(v["identity"] + ".json")))
        valid = not (fails(checkpoint, v["note"], i["checkpoint_keys"], i["origin"]) if v["kind"] == "checkpoint"
                     else fails(lambda: acknowledgement(v["note"], i["acknowledgement_keys"])[0] == i["hash"]))
        runs, wrong = runs + 1, wrong + ([] if valid == v["valid"] else [v["name"]])
    for v in table("headers.json"):
        try:
            _, network, enough = chain(load(at(v["file"])))
            fault = None if network == v["network"] and enough else "minimum-work"
        except AssertionError as e:
            fault = str(e)
        good = (fault is None) == ("fault" not in v) and (fault is None or v["fault"] == "minimum-work" or fault.startswith("block %d:" % v["height"]))
        runs, wrong = runs + 1, wrong + ([] if good else ["%s: %s" % (v["name"], fault)])
    for v in table("verifications.json"):
        headers = chain(load(at(v["headers"] + ".bin"))) if v["headers"] else None
        pinned = identity(load(at(v["identity"] + ".json"))) if v["identity"] else None
        got, _ = verdicts(bytes.fromhex(v["digest"]), load(at(v["receipt"])), headers, pinned, v["depth"])
        good = got == (v["existed"], v["in_log"], v["certified"])
        runs, wrong = runs + 1, wrong + ([] if good else ["%s: %s" % (v["name"], got)])
    print("%d vectors, %d wrong" % (runs, len(wrong)), *wrong, sep="\n")
    return 1 if wrong else 0

if __name__ == "__main__":
    sys.exit(run_vectors(os.path.dirname(os.path.abspath(__file__))))
