"""Times, names, options and the form of certificates; ``good`` is the node's outcome."""

from __future__ import annotations

from collections.abc import Iterator

from mezite.certs import keys, wire
from mezite.certs.ssh import SUFFIX
from tests.ssh.matrix.packing import CA, KEYS, LOGIN, NOW, PERMIT_PTY, SUBJECT, Case, certificate, texts

ME = LOGIN.encode()
LAST = 2**64 - 1
DAY = 86400


def times() -> Iterator[Case]:
    good = [
        (0, LAST), (0, LAST - 1), (0, 2**63), (0, 2**63 - 1), (0, 2**63 + 1), (1, LAST), (NOW - 7 * DAY,
        LAST),
        (NOW - 7 * DAY, NOW + 14 * DAY), (0, NOW + DAY), (NOW - 60, NOW + DAY), (NOW, LAST), (0, 2**32),
        (0, 2**32 + 1), (NOW - 1, NOW + 3600),
    ]
    bad = [
        (0, 0), (0, 1), (0, NOW - 5), (0, NOW - DAY), (NOW + DAY, LAST), (NOW + DAY, NOW + 2 * DAY), (2**63,
        LAST),
        (2**63, 2**63 + 1), (LAST, LAST), (LAST, 0), (NOW + DAY, NOW - DAY), (LAST - 1, LAST), (NOW - DAY,
        NOW - DAY),
        (2**32 - 1, LAST), (LAST, NOW + DAY), (2**63, 0),
    ]
    for is_good, pairs in ((True, good), (False, bad)):
        for after, before in pairs:
            yield Case(f"from {after} to {before}", is_good, certificate(after=after, before=before))


def principals() -> Iterator[Case]:
    other = [b"u%d" % number for number in range(256)]
    good: dict[str, tuple[bytes, ...]] = {
        "last of several": (b"a", b"b", ME),
        "first of several": (ME, b"a", b"b"),
        "with a wildcard beside": (b"*", ME),
        "twice": (ME, ME),
        "with an empty one": (b"", ME),
        "with one of 1000 bytes": (b"x" * 1000, ME),
        "with bytes that are no text": (b"\xff\xfe", ME),
        "with a line end in another one": (b"a\nb", ME),
        "256th of 256": (*other[:255], ME),
    }
    bad: dict[str, tuple[bytes, ...]] = {
        "none": (), "empty": (b"",), "wildcard": (b"*",), "question marks": (b"?" * len(ME),),
        "prefix": (ME[:-1],), "with more behind": (ME + b"x",), "with more in front": (b"x" + ME,),
        "capitals": (ME.upper(),), "space behind": (ME + b" ",), "space in front": (b" " + ME,),
        "list with commas": (ME + b",x",), "list with spaces": (ME + b" x",), "line end behind": (ME + b"\n",
        ),
        "negated": (b"!" + ME,), "wildcard behind": (ME[:1] + b"*",), "set": (b"[" + ME + b"]",),
        "others and a wildcard": (b"a", b"*", b"b"), "with a host": (ME + b"@127.0.0.1",),
        "quoted": (b'"' + ME + b'"',),
        "NUL and more behind": (ME + b"\0x",), "NUL in another one": (b"a\0b", ME),
        "257": (*other[:256], ME), "numeric user id": (b"0",), "escaped": (b"\\" + ME,),
        "with a byte order mark": (b"\xef\xbb\xbf" + ME,), "many others": tuple(other),
    }
    for is_good, table in ((True, good), (False, bad)):
        for name, names in table.items():
            yield Case(f"principals: {name}", is_good, certificate(principals=texts(*names)))
    yield Case("principals: NUL behind", False, certificate(principals=texts(ME + b"\0")), stricter="nul")
    raw = {
        "cut in the length": texts(ME) + b"\0\0", "cut in a name": texts(ME) + wire.u32(9) + b"abc",
        "no list": b"\xff", "length of all ones": b"\xff" * 4 + ME, "only a length": wire.u32(len(ME)),
    }
    for name, packed in raw.items():
        yield Case(f"principals: {name}", False, certificate(principals=packed))
    yield Case("another login", False, certificate(), login=b"nobody")
    yield Case("a login with a space", False, certificate(), login=ME + b" ")
    yield Case("an unknown login", False, certificate(), login=b"mezite-nobody-has-this-name")
    yield Case("an empty login", False, certificate(principals=texts(b"")), login=b"")
    yield Case("login with NUL", False, certificate(), login=ME + b"\0")
    yield Case("login with a host", False, certificate(), login=ME + b"@x")
    yield Case("login that is no text", False, certificate(principals=texts(b"\xff")), login=b"\xff")


def text(value: bytes) -> bytes:
    return wire.string(value)


FORCE, SOURCE = b"force-command", b"source-address"


def critical_options() -> Iterator[Case]:
    here = (SOURCE, text(b"127.0.0.1"))
    forced = (FORCE, text(b"true"))
    good = {
        "force-command": (forced,), "source-address": (here,), "both": (forced, here),
        "both, unsorted": (here, forced),
        "empty force-command": ((FORCE, text(b"")),),
        "force-command with a line end": ((FORCE, text(b"true\nfalse")),),
        "long force-command": ((FORCE, text(b"true " + b"x" * 20000)),),
    }
    bad = {
        "unknown": ((b"x@example.com", text(b"y")),), "unknown without data": ((b"x", b""),),
        "unknown beside known": (here, (b"x", b"")), "no name": ((b"", b""),),
        "permit-pty": (PERMIT_PTY,), "no-touch-required": ((b"no-touch-required", b""),),
        "Force-Command": ((b"Force-Command", text(b"true")),), "force-command and a space": ((FORCE + b" ",
        text(b"x")),),
        "force-command without data": ((FORCE, b""),), "force-command that is no string": ((FORCE, b"true"),),
        "force-command with a tail": ((FORCE, text(b"true") + b"\0"),),
        "force-command of two strings": ((FORCE, text(b"a") + text(b"b")),),
        "force-command with NUL": ((FORCE, text(b"a\0b")),),
        "force-command twice": (forced, forced), "two force-commands": (forced, (FORCE, text(b"false"))),
        "source-address twice": (here, here), "two source-addresses": (here, (SOURCE, text(b"10.0.0.0/8"))),
        "source-address without data": ((SOURCE, b""),),
        "source-address with a tail": ((SOURCE, text(b"127.0.0.1") + b"x"),),
        "name of ours": ((b"roles@mezite.com", text(b"x")),),
    }
    for is_good, table in ((True, good), (False, bad)):
        for name, options in table.items():
            yield Case(f"critical: {name}", is_good, certificate(critical=options))
    for name, options in {
        "NUL behind a name": ((FORCE + b"\0", text(b"true")),),
        "NUL behind a source-address": ((SOURCE, text(b"127.0.0.1\0")),),
        "NUL behind a force-command": ((FORCE, text(b"true\0")),),
    }.items():
        yield Case(f"critical: {name}", False, certificate(critical=options), stricter="nul")
    yield Case("critical: verify-required without a security key", False,
               certificate(critical=((b"verify-required", b""),)), stricter="verify-required")
    yield Case("critical: force-command that is no text", False, certificate(critical=((FORCE, text(b"\xff")),
               )),
               stricter="commands-that-are-no-text")
    raw = {
        "cut in a name": wire.u32(9) + b"abc", "name without data": texts(FORCE), "one byte": b"\0",
        "cut in the data": texts(FORCE) + wire.u32(99) + b"x",
    }
    for name, packed in raw.items():
        yield Case(f"critical: {name}", False, certificate(critical=packed))
        yield Case(f"extensions: {name}", False, certificate(extensions=packed))


ADDRESSES_GOOD = [
    "127.0.0.1", "127.0.0.1/32", "127.0.0.0/8", "0.0.0.0/0", "10.0.0.0/8,127.0.0.1", "127.0.0.1,10.0.0.0/8",
    "::1,127.0.0.1", "2001:db8::/32,127.0.0.0/8", "127.0.0.0/30", "126.0.0.0/7", "127.0.0.1,127.0.0.1",
    "fe80::/10,127.0.0.1", "FE80::/10,127.0.0.1", "::/0,127.0.0.0/16", "::ffff:10.0.0.1,127.0.0.1",
    "127.0.0.0/31,::/128", "127.0.0.0/08", "127.0.0.0/008", ",".join(["10.0.0.1"] * 60 + ["127.0.0.1"]),
    "1:2:3:4:5:6:7:8,127.0.0.1",
]
ADDRESSES_ELSEWHERE = [
    "127.0.0.2", "10.0.0.0/8", "127.0.0.2/31", "128.0.0.0/1", "::1", "::/0", "2001:db8::/32", "::127.0.0.1",
    "192.0.2.1,198.51.100.0/24", "127.0.0.2/32", "255.255.255.255", "::ffff:127.0.0.1",
    "::ffff:127.0.0.0/104",
    "::ffff:0:0/96",
]
ADDRESSES_BAD = [
    "", ",", "127.0.0.1,", ",127.0.0.1", "127.0.0.1,,127.0.0.1", "127.0.0.1 ", " 127.0.0.1",
    "127.0.0.1, 10.0.0.1",
    "127.0.0.1/8", "127.0.0.1/0", "127.0.0.1/33", "127.0.0.1/-1", "127.0.0.1/", "127.0.0.1/x", "/8",
    "127.0.0.0/8/8",
    "!10.0.0.0/8,127.0.0.1", "!127.0.0.1", "*", "127.*", "127.0.0.?", "localhost", "127.0.0.1:22", "[::1]",
    "127.0.0.0/255.0.0.0", "127.0.0.0/0.255.255.255", "127.0.0.1/255.255.255.255", "0.0.0.0/0.0.0.0",
    "127.0.0.256", "127.0.0.1.1", "127.0.0.1-127.0.0.9", "::1%lo,127.0.0.1", "fe80::1%eth0,127.0.0.1",
    ":::,127.0.0.1",
    "::1/129,127.0.0.1", "1:2:3:4:5:6:7:8:9,127.0.0.1", "127.0.0.1\n", "127.0.0.1\t", "+127.0.0.1",
    "127.0.0.1/ 8",
    "127.0.0.0/+8", "127.0.0.0/8 ", "127.0.0.1;10.0.0.1", "127.0.0.1,junk", "127.0.0.1,10.0.0.1/8",
    "127.0.0.1,*",
    "10.0.0.0/8,127.0.0.1,!127.0.0.1", "::ffff:127.0.0.1/97,127.0.0.1", "any", "127.0.0.1#x", "x" * 2000,
    "127.0.0.0/8e0", "127.0.0.0/" + "0" * 60 + "8", "0x7f.0.0.1", "١٢٧.0.0.1", "127.0.0.0/٨", "127.0.0.1\r",
    "0::127.0.0.1.1,127.0.0.1",
]
ADDRESSES_SHORT = ["127.1", "2130706433", "127.0.0.01", "0177.0.0.1", "127.0.1"]
"""Read by sshd as C reads numbers; a machine's address has one way to be written here."""


def addresses() -> Iterator[Case]:
    for good, stricter, values in (
        (True, "", ADDRESSES_GOOD), (False, "", ADDRESSES_ELSEWHERE), (False, "", ADDRESSES_BAD),
        (False, "odd-addresses", ADDRESSES_SHORT),
    ):
        for value in values:
            blob = certificate(critical=((SOURCE, text(value.encode())),))
            yield Case(f"source-address {value[:40]!r}", good, blob, stricter=stricter)


FLAGS = [b"permit-X11-forwarding", b"permit-agent-forwarding", b"permit-port-forwarding", b"permit-pty",
         b"permit-user-rc", b"no-touch-required"]


def extensions() -> Iterator[Case]:
    all_of_them = tuple((flag, b"") for flag in FLAGS)
    good = {
        "none": (), "all": all_of_them, "all in reverse": all_of_them[::-1], "all twice": all_of_them * 2,
        "unknown": ((b"x@example.com", b""),), "unknown with data": ((b"x@example.com", b"\0\1\2"),),
        "unknown twice": ((b"x", b""),) * 2, "no name": ((b"", b""),), "force-command": ((FORCE,
        text(b"false")),),
        "source-address": ((SOURCE, text(b"10.0.0.1")),), "200 unknown": tuple((b"x%d" % n,
        b"") for n in range(200)),
        "data of 30 kB": ((b"x", b"y" * 30000),), "verify-required": ((b"verify-required", b""),),
    }
    for name, options in good.items():
        yield Case(f"extensions: {name}", True, certificate(extensions=options))
    for flag in FLAGS:
        shown = flag.decode()
        yield Case(f"extensions: {shown} alone", True, certificate(extensions=((flag, b""),)))
        yield Case(f"extensions: all but {shown}", True,
                   certificate(extensions=tuple(one for one in all_of_them if one[0] != flag)))
        for data in (b"x", text(b""), text(b"yes"), b"\0"):
            yield Case(f"extensions: {shown} with {data!r}", False, certificate(extensions=((flag, data),)))
    yield Case("extensions: NUL in a name", False, certificate(extensions=((b"a\0b", b""),)))
    odd = {
        "roles twice": ((b"roles@mezite.com", text(b"a")),) * 2, "an empty role": ((b"roles@mezite.com",
        text(b"a,,b")),),
        "roles that are no string": ((b"roles@mezite.com", b"a"),),
        "a generation that is no number": ((b"generation@mezite.com", text(b"x")),),
    }
    for name, options in odd.items():
        yield Case(f"extensions: {name}", False, certificate(extensions=options), stricter="our-extensions")
    many = tuple((b"x%d" % n, b"") for n in range(3000))
    yield Case("extensions: 3000", False, certificate(extensions=many), stricter="many-options")


def form() -> Iterator[Case]:
    for number in (0, 2, 3, 257, 2**31, 2**32 - 1):
        yield Case(f"type {number}", False, certificate(type=wire.u32(number)))
    for serial in (0, 1, 2**63, LAST):
        yield Case(f"serial {serial}", True, certificate(serial=wire.u64(serial)))
    for nonce in (b"", b"x", b"x" * 2000):
        yield Case(f"nonce of {len(nonce)} bytes", True, certificate(nonce=wire.string(nonce)))
    for reserved in (b"x", b"x" * 1000, texts(b"a", b"b")):
        yield Case(f"reserved field of {len(reserved)} bytes", True,
                   certificate(reserved=wire.string(reserved)))
    key_ids = {
        "empty": b"", "of 60 kB": b"k" * 60000, "with line ends": b"a\nb\r\nc",
        "with escapes": b"\x1b[31mred\x07",
        "that is no text": b"\xff\xfe\xfa", "like a log line": b"x ID y (serial 1) CA ED25519 SHA256:z",
        "with formats": b"%s%n%x{}{0}",
    }
    for name, key_id in key_ids.items():
        yield Case(f"key id {name}", True, certificate(key_id=wire.string(key_id)))
    yield Case("key id with NUL", False, certificate(key_id=wire.string(b"a\0b")))
    yield Case("key id with NUL behind", False, certificate(key_id=wire.string(b"a\0")), stricter="nul")
    whole = certificate()
    for length in (0, 1, 3, 4, 20, 35, 36, 70, 100, 140, len(whole) // 2, len(whole) - 60, len(whole) - 1):
        yield Case(f"cut at {length}", False, whole[:length], algorithm=b"ssh-ed25519" + SUFFIX)
    yield Case("a byte behind", False, certificate(tail=b"\0"))
    yield Case("another certificate behind", False, certificate(tail=whole))
    for field in ("nonce", "key_id", "reserved"):
        yield Case(f"{field} longer than all the rest", False, certificate(**{field: wire.u32(2**31) + b"x"}))
    for at in range(0, len(whole), 17):
        changed = bytearray(whole)
        changed[at] ^= 0x20
        yield Case(f"bit changed at {at}", False, bytes(changed), algorithm=b"ssh-ed25519" + SUFFIX)
    names = [b"ssh-rsa-cert-v00@openssh.com", b"ssh-dss-cert-v01@openssh.com", b"ssh-ed25519", b"",
    b"x" * 200,
             b"ssh-ed25519-cert-v02@openssh.com", b"SSH-ED25519-cert-v01@openssh.com",
             b"ssh-ed25519-cert-v01",
             b"ecdsa-sha2-nistp256" + SUFFIX, b"ssh-rsa" + SUFFIX]
    for name in names:
        yield Case(f"blob of type {name[:40].decode()!r}", False, certificate(type_name=wire.string(name)),
                   algorithm=b"ssh-ed25519" + SUFFIX)
    yield Case("blob of a type with NUL", False,
               certificate(type_name=wire.string(b"ssh-ed25519" + SUFFIX + b"\0")),
               algorithm=b"ssh-ed25519" + SUFFIX, stricter="nul")
    for name in (b"rsa-sha2-256", b"rsa-sha2-512"):
        blob = certificate(KEYS["rsa"], type_name=wire.string(name + SUFFIX))
        yield Case(f"blob of type {name.decode()}", False, blob, KEYS["rsa"], name + SUFFIX,
                   stricter="rsa-sha2-as-a-type")


def requests() -> Iterator[Case]:
    """The request around the certificate, and its signature."""
    good = certificate()
    yield Case("a good one", True, good)
    yield Case("flag of 255", False, good, flag=b"\xff")
    yield Case("a tail behind the request", False, good, tail=b"\0")
    yield Case("another service", False, good, service=b"ssh-userauth")
    yield Case("no service", False, good, service=b"")
    yield Case("an unknown method", False, good, method=b"publickeys")
    yield Case("signed by another key", False, good, key=KEYS["p256"])
    yield Case("signed by the CA", False, good, key=CA)
    blobs = {name: certificate(key) for name, key in KEYS.items()}
    types = [wire.Reader(keys.public_blob(key)).string() for key in KEYS.values()]
    for name, blob in blobs.items():
        key = KEYS[name]
        fitting = keys.signature_algorithms(keys.key_type(keys.public_blob(key)))
        for algorithm in (*types, b"rsa-sha2-256", b"rsa-sha2-512", b"ssh-dss", b"sk-ssh-ed25519",
        b"ssh-nonsense"):
            if algorithm not in fitting:
                yield Case(f"{name} announced as {algorithm.decode()} certificate", False, blob, key,
                           algorithm + SUFFIX)
        for algorithm in (*fitting, b"", b"ssh-ed25519-cert-v01", blob[:20]):
            if algorithm:
                yield Case(f"{name} certificate announced as {algorithm!r}", False, blob, key, algorithm)
        announced = fitting[0] + SUFFIX
        for other in (*types, b"rsa-sha2-256", b"rsa-sha2-512", b"", announced):
            if other == fitting[0]:
                continue

            def renamed(data: bytes, key: object = key, other: bytes = other) -> bytes:
                reader = wire.Reader(keys.sign(key, data))  # type: ignore[arg-type]
                reader.string()
                return wire.string(other) + reader.rest()

            yield Case(f"{name}: signature named {other.decode()!r}", False, blob, key, announced, renamed)
        faults = {
            "with a tail": lambda data, key=key: keys.sign(key, data) + b"\0",
            "over other data": lambda data, key=key: keys.sign(key, data + b"x"),
            "without content": lambda data, fitting=fitting: texts(fitting[0], b""),
            "that is empty": lambda data: b"",
            "of zeros": lambda data, fitting=fitting: texts(fitting[0], bytes(64)),
            "cut short": lambda data, key=key: keys.sign(key, data)[:-1],
        }
        for fault, sign in faults.items():
            yield Case(f"{name}: signature {fault}", False, blob, key, announced, sign)
    yield Case("RSA signed with the other hash", False, blobs["rsa"], KEYS["rsa"], b"rsa-sha2-512" + SUFFIX,
               lambda data: keys.sign(KEYS["rsa"], data, b"rsa-sha2-256"))
    yield Case("signed for another session", False, good,
               sign=lambda data: keys.sign(SUBJECT, wire.string(b"x" * 32) + data[36:]))
    yield Case("signed as a question", False, good,
               sign=lambda data: keys.sign(SUBJECT, data.replace(b"publickey\1", b"publickey\0")))
