#!/usr/bin/env python3
"""Verifies a Calpe receipt. Written from docs/formats.md alone; needs nothing but Python 3.

    verify.py DOCUMENT RECEIPT [--headers FILE] [--identity FILE] [--depth N]

Headers of mainnet and regtest only. A demonstration that the page suffices: for daily use there is `calpe verify`."""
import argparse, base64, calendar, datetime, hashlib, json, re, sys, time
sys.dont_write_bytecode = True  # leave nothing beside the vectors
from ed25519 import verify as ed25519

class Bad(Exception):
    """The verdict, as "status reason"."""

def need(ok, reason="refuted malformed"):
    if not ok:
        raise Bad(reason)

def sha(*parts): return hashlib.sha256(b"".join(parts)).digest()
def sha256d(*parts): return sha(sha(*parts))

# --- Conventions ------------------------------------------------------------------------------------------------------
def unhex(text, size=None):
    need(isinstance(text, str) and re.fullmatch("([0-9a-f]{2})*", text) and size in (None, len(text) // 2))
    return bytes.fromhex(text)

def unbase64(text, size=None):
    need(isinstance(text, str))
    try:
        data = base64.b64decode(text, validate=True)
    except ValueError:
        raise Bad("refuted malformed")
    need(base64.b64encode(data).decode() == text and size in (None, len(data)))
    return data

def hashes(text, most):
    data = unbase64(text)
    need(len(data) % 32 == 0 and len(data) <= 32 * most)
    return [data[i:i + 32] for i in range(0, len(data), 32)]

def instant(text):
    need(isinstance(text, str) and re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", text, re.A) and text[:4] >= "1970")
    try:
        return calendar.timegm(datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").timetuple())
    except ValueError:
        raise Bad("refuted malformed")

def day(text):
    need(isinstance(text, str) and re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.A))
    try:
        return datetime.datetime.strptime(text, "%Y-%m-%d") and text
    except ValueError:
        raise Bad("refuted malformed")

def words(text, most):
    need(isinstance(text, str) and 1 <= len(text) <= most)
    need(not re.search("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]", text))

def whole(value, limit=2**53):
    need(type(value) is int and 0 <= value < limit)
    return value

def strict_json(data, limit):
    need(len(data) <= limit)
    def integer(text):
        need(len(text) <= 16 and text[0] != "-" and int(text) < 2**53)
        return int(text)
    def refuse(_): raise Bad("refuted malformed")
    def members(pairs):
        need(len(dict(pairs)) == len(pairs))
        return dict(pairs)
    def check(value, depth):
        need(depth <= 16 and value is not None and not isinstance(value, bool))
        if isinstance(value, (dict, list)):
            for item in (value.values() if isinstance(value, dict) else value):
                check(item, depth + 1)
        return value
    try:
        text = data.decode("utf-8")
        value = json.loads(text, parse_int=integer, parse_float=refuse, parse_constant=refuse, object_pairs_hook=members)
        canonical(value)  # a lone surrogate has no UTF-8
    except (ValueError, RecursionError):
        raise Bad("refuted malformed")
    return check(value, 0)

def canonical(value):  # all member names are ASCII, so the order of code points is that of RFC 8785
    return json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode("utf-8")

def shape(value, required, optional=""):
    need(isinstance(value, dict) and set(required.split()) <= set(value) <= set((required + " " + optional).split()))
    return value

def vkey(text, name=None):
    need(isinstance(text, str) and text.count("+") >= 2)
    parts = text.split("+", 2)
    key = unbase64(parts[2], 33)
    need(key[0] == 1 and parts[0] and not re.search(r"\s", parts[0]) and name in (None, parts[0]))
    need(parts[1] == sha(parts[0].encode(), b"\n", key)[:4].hex())
    return parts[0] + "+" + parts[1], key[1:]

# --- Notes, identity, statements --------------------------------------------------------------------------------------
def note(text, keys=None, reason=None):
    """The lines of a note's text; with keys, one of them must have signed it."""
    need(isinstance(text, str) and len(text.encode()) <= 32768 and not re.search("[\x00-\x09\x0b-\x1f]", text))
    body, blank, tail = text.rpartition("\n\n")
    need(blank and tail.endswith("\n") and tail.count("\n") <= 100)
    signed = False
    for line in tail[:-1].split("\n"):
        match = re.fullmatch("— ([^ +]+) ([^ ]+)", line)
        need(match)
        data = unbase64(match[2])
        need(len(data) >= 5)
        public = dict(keys or []).get(match[1] + "+" + data[:4].hex())
        if public is not None:
            need(ed25519(public, body.encode() + b"\n", data[4:]), reason)
            signed = True
    need(keys is None or signed, reason)
    return body.split("\n")

def decimal(text, limit):
    need(re.fullmatch("0|[1-9][0-9]{0,15}", text) and int(text) <= limit)
    return int(text)

MAX_LOG = 2**40 - 1
def origin_ok(text): return re.fullmatch("[a-z0-9./-]{1,200}", text) is not None

def checkpoint(text, keys=None, origin=None):
    lines = note(text, keys, "refuted checkpoint-signature")
    need(len(lines) == 3 and origin_ok(lines[0]))
    need(origin in (None, lines[0]), "refuted checkpoint-signature")
    return decimal(lines[1], MAX_LOG), unbase64(lines[2], 32)

def acknowledgement(text, keys=None):
    lines = note(text, keys, "refuted acknowledgement-signature")
    need(len(lines) == 7 and lines[0] == "calpe/acknowledgement/v1")
    log, first, count = unhex(lines[1], 32), decimal(lines[2], MAX_LOG), decimal(lines[3], MAX_LOG)
    need(count >= 1 and first + count <= MAX_LOG and instant(lines[5]) <= instant(lines[6]))
    return log, first, count, unbase64(lines[4], 32)

GENESIS = {"mainnet": "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f",
           "testnet3": "000000000933ea01ad0ee984209779baaec3ced90fa3f408719526f8d77f4943",
           "testnet4": "00000000da84f2bafbbc53dee25a72ae507ff4914b867c565be350b0da8bf043",
           "signet": "00000008819873e925422c1ff0f99f7cc9bbb232af63a077a480a3633bee1ef6",
           "regtest": "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206",
           "simnet": "683e86bd5c6d110d91b94b97137ba6bfe02dbbdb8e3dff722a669b5d69d77af6"}

def identity(data):
    v = shape(strict_json(data, 16384), "type origin network genesis first_outpoint checkpoint_keys acknowledgement_keys statement_keys")
    need(v["type"] == "calpe/identity/v1" and origin_ok(v["origin"]) and GENESIS.get(v["network"]) == v["genesis"])
    if v["first_outpoint"] != "calendars":
        txid, _, vout = v["first_outpoint"].partition(":")
        unhex(txid, 32), decimal(vout, 2**32 - 1)
    v["hash"], publics = sha(canonical(v)), []
    for member, suffix in (("checkpoint_keys", ""), ("acknowledgement_keys", "/acknowledgement"), ("statement_keys", "/statement")):
        v[member] = [vkey(key, v["origin"] + suffix) for key in v[member]]
        need(1 <= len(v[member]) <= 8 and len(dict(v[member])) == len(v[member]))
        publics += [public for _, public in v[member]]
    need(len(set(publics)) == len(publics))
    return v

def statement(signed, kind=None):
    """Checks the form; what a key must have signed comes back with the body."""
    shape(signed, "statement key signature")
    need(len(canonical(signed)) <= 16384 and isinstance(signed["key"], str) and re.fullmatch(r"[^+\s]+\+[0-9a-f]{8}", signed["key"]))
    body, signature = signed["statement"], unbase64(signed["signature"], 64)
    need(isinstance(body, dict) and kind in (None, body.get("type")))
    if body.get("type") == "calpe/agency/v1":
        shape(body, "type log agency name key time")
        unhex(body["log"], 32), words(body["name"], 200), instant(body["time"])
        body["public"] = vkey(body["key"], body["agency"])
    elif body.get("type") == "calpe/certification/v1":
        shape(body, "type agency digest document_type subject issued", "valid_until")
        unhex(body["digest"], 32), words(body["document_type"], 200), words(body["subject"], 200)
        need(day(body["issued"]) <= day(body.get("valid_until", body["issued"])))
    elif body.get("type") == "calpe/break/v1":
        shape(body, "type log coin spent_by block height first_outpoint reason time", "anchor size root")
        need(len({"anchor", "size", "root"} & set(body)) in (0, 3) and body["coin"] != body["first_outpoint"])
        [unhex(body.get(member, "00" * 32), 32) for member in ("log", "spent_by", "block", "anchor", "root")]
        for txid, _, vout in (body["coin"].partition(":"), body["first_outpoint"].partition(":")):
            unhex(txid, 32), decimal(vout, 2**32 - 1)
        need("00" * 32 not in (body.get("anchor"), body.get("root")))
        need(whole(body["height"]) < 1 << 32 and 1 <= whole(body.get("size", 1)) <= MAX_LOG)
        words(body["reason"], 1000), instant(body["time"])
    else:
        shape(body, "type log rolled_from rolled_to void_from void_to reason time")
        need(body["type"] == "calpe/recovery/v1")
        unhex(body["log"], 32), words(body["reason"], 1000), instant(body["time"])
        need(whole(body["rolled_from"]) <= whole(body["rolled_to"]) <= MAX_LOG and whole(body["void_from"]) <= whole(body["void_to"]) <= MAX_LOG)
    need("agency" not in body or re.fullmatch("[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?", body["agency"]))
    public = body.pop("public", None)
    return body, b"calpe/statement/v1\n" + canonical(body), signature, public

def signed_by(signed, keys):
    _, message, signature, _ = statement(signed)
    public = dict(keys).get(signed["key"])
    return public is not None and ed25519(public, message, signature)

# --- Trees and transactions -------------------------------------------------------------------------------------------
def leaf(index, digest, salt): return sha(b"\0", index.to_bytes(8, "big"), sha(digest, salt))

def tree_root(index, size, node, path):  # RFC 9162, 2.1.3.2
    fn, sn = index, size - 1
    for sibling in path:
        if sn == 0:
            return None
        if fn & 1 or fn == sn:
            node = sha(b"\1", sibling, node)
            while fn and not fn & 1:
                fn, sn = fn >> 1, sn >> 1
        else:
            node = sha(b"\1", node, sibling)
        fn, sn = fn >> 1, sn >> 1
    return node if sn == 0 else None

def block_root(node, position, branch):
    for sibling in branch:
        if position & 1 and node == sibling:
            return None
        node = sha256d(sibling, node) if position & 1 else sha256d(node, sibling)
        position >>= 1
    return node if position == 0 else None

def transaction(text):
    """Outpoints spent, and output scripts."""
    raw, at = unhex(text), 0
    need(len(raw) <= 100000 and len(raw) != 64)
    def take(n):
        nonlocal at
        need(at + n <= len(raw))
        at += n
        return raw[at - n:at]
    def count():
        n = take(1)[0]
        if n < 0xfd:
            return n
        width = {0xfd: 2, 0xfe: 4, 0xff: 8}[n]
        n = int.from_bytes(take(width), "little")
        need(n >= {2: 0xfd, 4: 2**16, 8: 2**32}[width])
        return n
    take(4)
    inputs = [(take(36), take(count()), take(4))[0] for _ in range(count())]
    scripts = [(take(8), take(count()))[1] for _ in range(count())]
    take(4)
    need(inputs and scripts and at == len(raw))
    return raw, inputs, scripts

def operations(data, message):
    """The message to which the operations of a timestamp lead."""
    at, count, tag = 0, 0, None
    need(len(data) <= 10000)
    while at < len(data):
        tag, at, count = data[at], at + 1, count + 1
        need(tag in (0x08, 0xf0, 0xf1) and count <= 255)
        if tag == 0x08:
            message = sha(message)
            continue
        n, shift = 0, 0
        while True:
            need(at < len(data) and shift < 63)
            n, shift, at, byte = n | (data[at] & 127) << shift, shift + 7, at + 1, data[at]
            if byte < 128:
                break
        need((byte or shift == 7) and 1 <= n <= 4096 and at + n <= len(data))
        argument, at = data[at:at + n], at + n
        message = message + argument if tag == 0xf0 else argument + message
        need(len(message) <= 4096)
    need(tag == 0x08)
    return message

# --- Headers ----------------------------------------------------------------------------------------------------------
MIN_WORK = 0x01128750f82f4c366153a3a030  # of mainnet

def chain(data):
    """The headers, their network and whether they have its minimum work."""
    headers = [data[i:i + 80] for i in range(0, len(data), 80)] or [b""]
    name = {g: n for n, g in GENESIS.items()}.get(sha256d(headers[0])[::-1].hex())
    limit, work, bits = (0xffff << 208 if name == "mainnet" else 0x7fffff << 232), 0, headers[0][72:76]
    when = lambda h: int.from_bytes(headers[h][68:72], "little")
    target = lambda b: int.from_bytes(b[:3], "little") << 8 * (b[3] - 3)
    assert name, "block 0: genesis"
    assert name in ("mainnet", "regtest") or len(headers) <= 2016, "rules of this network are not in this program"
    for height, header in enumerate(headers):
        if height % 2016 == 0 and height and name == "mainnet":
            span = min(max(when(height - 1) - when(height - 2016), 302400), 4838400)
            new = min(target(bits) * span // 1209600, limit)
            size = (new.bit_length() + 7) // 8 + (new.bit_length() % 8 == 0)
            bits = (new >> 8 * (size - 3)).to_bytes(3, "little") + bytes([size])
        assert len(header) == 80 and header[72:76] == bits, "block %d: difficulty" % height
        assert int.from_bytes(sha256d(header), "little") <= target(bits) <= limit, "block %d: work" % height
        assert height == 0 or header[4:36] == sha256d(headers[height - 1]), "block %d: link" % height
        last = sorted(when(h) for h in range(max(0, height - 11), height))
        assert height == 0 or when(height) > last[len(last) // 2], "block %d: time" % height
        work += 2**256 // (target(bits) + 1)
    return headers, name, name != "mainnet" or work >= MIN_WORK

# --- The receipt ------------------------------------------------------------------------------------------------------
def read(data):
    r = shape(strict_json(data, 2**20), "type log digest salt index", "acknowledgement checkpoint path certification anchor timestamp")
    need(r["type"] == "calpe/receipt/v1" and ("checkpoint" in r) == ("path" in r) != ("acknowledgement" in r))
    r["log"], r["digest"], r["salt"] = unhex(r["log"], 32), unhex(r["digest"], 32), unhex(r["salt"], 16)
    size, whole_log = MAX_LOG, whole(r["index"], MAX_LOG)
    if "checkpoint" in r:
        r["size"], r["root"] = checkpoint(r["checkpoint"])
        r["path"], size = hashes(r["path"], 40), r["size"]
        need(r["index"] < size)
    else:
        shape(r["acknowledgement"], "note path")
        r["group"] = acknowledgement(r["acknowledgement"]["note"])
        r["path"] = hashes(r["acknowledgement"]["path"], 40)
    if "certification" in r:
        c = shape(r["certification"], "statement salt index agency", "path")
        for part, kind in ((c, "calpe/certification/v1"), (shape(c["agency"], "statement salt index", "path"), "calpe/agency/v1")):
            need(("path" in part) == ("checkpoint" in r) and whole(part["index"]) < size)
            part["salt"], part["path"] = unhex(part["salt"], 16), hashes(part.get("path", ""), 40)
            part["body"], _, _, part["public"] = statement(part["statement"], kind)
    if "anchor" in r:
        a = shape(r["anchor"], "network genesis height header transaction position branch coinbase coinbase_branch")
        need("checkpoint" in r and GENESIS.get(a["network"]) == a["genesis"])
        whole(a["height"], 2**32), need(whole(a["position"], 2**32) >= 1)
        a["header"], a["branch"], a["coinbase_branch"] = unhex(a["header"], 80), hashes(a["branch"], 32), hashes(a["coinbase_branch"], 32)
        need(len(a["branch"]) == len(a["coinbase_branch"]))
        a["transaction"], a["coinbase"] = transaction(a["transaction"]), transaction(a["coinbase"])
    if "timestamp" in r:
        t = shape(r["timestamp"], "network genesis height operations")
        need("checkpoint" in r and "anchor" not in r and GENESIS.get(t["network"]) == t["genesis"])
        whole(t["height"], 2**32)
        t["merkle"] = operations(unbase64(t["operations"]), sha(b"CLP", r["size"].to_bytes(5, "big"), r["root"]))
    return r

def check_place(r, digest):
    need(r["digest"] == digest, "refuted other-document")
    if "checkpoint" in r:
        return need(tree_root(r["index"], r["size"], leaf(r["index"], digest, r["salt"]), r["path"]) == r["root"], "refuted not-in-tree")
    log, first, count, root = r["group"]
    need(log == r["log"], "refuted other-log")
    need(first <= r["index"] < first + count, "refuted not-acknowledged")
    need(tree_root(r["index"] - first, count, leaf(r["index"], digest, r["salt"]), r["path"]) == root, "refuted not-acknowledged")

def existed(r, digest, headers, depth):
    check_place(r, digest)
    need("checkpoint" in r, "not-yet no-checkpoint")
    need("anchor" in r or "timestamp" in r, "not-yet no-anchor")
    if "timestamp" in r:
        return in_chain(r["timestamp"], headers, depth, lambda header: header[36:68] == r["timestamp"]["merkle"])
    a, root = r["anchor"], r["anchor"]["header"][36:68]
    need(a["transaction"][2][0] == b"\x6a\x28CLP" + r["size"].to_bytes(5, "big") + r["root"], "refuted other-payload")
    need(block_root(sha256d(a["transaction"][0]), a["position"], a["branch"]) == root, "refuted transaction-not-in-block")
    need(a["coinbase"][1] == [bytes(32) + b"\xff" * 4], "refuted no-coinbase")
    need(block_root(sha256d(a["coinbase"][0]), 0, a["coinbase_branch"]) == root, "refuted coinbase-not-in-block")
    in_chain(a, headers, depth, lambda header: header == a["header"])

def in_chain(a, headers, depth, is_ours):
    need(headers is not None, "not-asked no-headers")
    chain_headers, network, enough = headers
    need(a["network"] == network, "refuted other-network")
    need(enough, "not-yet too-little-work")
    need(a["height"] < len(chain_headers), "not-yet headers-end")
    need(is_ours(chain_headers[a["height"]]), "refuted not-in-chain")
    need(len(chain_headers) - a["height"] >= depth, "not-yet not-deep")

def in_log(r, digest, pinned):
    need(pinned is not None, "not-asked no-identity")
    need(pinned["hash"] == r["log"], "refuted other-log")
    check_place(r, digest)
    if "checkpoint" not in r:
        acknowledgement(r["acknowledgement"]["note"], pinned["acknowledgement_keys"])
        raise Bad("not-yet no-checkpoint")
    checkpoint(r["checkpoint"], pinned["checkpoint_keys"], pinned["origin"])
    a = r.get("anchor", r.get("timestamp", pinned))
    need((a["network"], a["genesis"]) == (pinned["network"], pinned["genesis"]), "refuted other-network")

def certified(r, digest, pinned):
    need("certification" in r, "not-asked no-certification")
    c, agency = r["certification"], r["certification"]["agency"]
    need(r["digest"] == digest, "refuted other-document")
    need(c["body"]["digest"] == digest.hex(), "refuted certifies-other-document")
    need(agency["body"]["log"] == r["log"].hex(), "refuted other-log")
    need(agency["body"]["agency"] == c["body"]["agency"], "refuted other-agency")
    need(c["index"] > agency["index"], "refuted certification-order")
    need(signed_by(c["statement"], [agency["public"]]), "refuted certification-signature")
    for part, reason in ((agency, "refuted agency-not-in-tree"), (c, "refuted certification-not-in-tree")):
        node = leaf(part["index"], sha(canonical(part["statement"])), part["salt"])
        need("checkpoint" not in r or tree_root(part["index"], r["size"], node, part["path"]) == r["root"], reason)
    in_log(r, digest, pinned)
    need(signed_by(agency["statement"], pinned["statement_keys"]), "refuted agency-signature")

def verdicts(digest, data, headers, pinned, depth):
    def verdict(check, *args):
        try:
            check(*args)
            return "holds"
        except Bad as bad:
            return str(bad)
    try:
        r = read(data)
    except Bad as bad:
        return (str(bad),) * 3, None
    return (verdict(existed, r, digest, headers, depth), verdict(in_log, r, digest, pinned), verdict(certified, r, digest, pinned)), r

# --- Command line -----------------------------------------------------------------------------------------------------
def load(path):
    with open(path, "rb") as f:
        return f.read()

def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("document", "receipt", "--headers", "--identity"):
        parser.add_argument(name)
    parser.add_argument("--depth", type=int, default=6)
    args = parser.parse_args()
    headers = chain(load(args.headers)) if args.headers else None
    pinned = identity(load(args.identity)) if args.identity else None
    got, r = verdicts(sha(load(args.document)), load(args.receipt), headers, pinned, args.depth)
    for question, answer in zip(("existed", "in the log", "certified"), got):
        print("%-10s  %s" % (question, answer))
    if got[0] == "holds":
        a = r.get("anchor", r.get("timestamp"))
        when = int.from_bytes(headers[0][a["height"]][68:72], "little")
        print("before      %s, give or take two hours" % time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(when)))
        if a["network"] != "mainnet":
            print("TEST NETWORK %s: no evidential value" % a["network"])
    return 1 if any(a.startswith("refuted") for a in got) else 3 if any(a.startswith("not-yet") for a in got) else 0

if __name__ == "__main__":
    sys.exit(main())
