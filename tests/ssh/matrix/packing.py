"""Certificates and login requests in which every field can be wrong, rightly signed all the same."""

from __future__ import annotations

import getpass
import hashlib
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from mezite.certs import keys, wire
from mezite.certs.ssh import SUFFIX

LOGIN = getpass.getuser()
NOW = int(time.time())

KEYS: dict[str, Any] = {
    "ed25519": keys.generate_ca_key(),
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "p521": ec.generate_private_key(ec.SECP521R1()),
    "rsa": rsa.generate_private_key(65537, 2048),
}
CAS: dict[str, Any] = {
    "ed25519": keys.generate_ca_key(),
    "p256": ec.generate_private_key(ec.SECP256R1()),
    "p384": ec.generate_private_key(ec.SECP384R1()),
    "p521": ec.generate_private_key(ec.SECP521R1()),
    "rsa": rsa.generate_private_key(65537, 2048),
}
"""All of these are trusted by both servers."""
SUBJECT, CA = KEYS["ed25519"], CAS["ed25519"]
FOREIGN = keys.generate_ca_key()

Option = tuple[bytes, bytes]
PERMIT_PTY: Option = (b"permit-pty", b"")


def texts(*names: bytes) -> bytes:
    return b"".join(map(wire.string, names))


def packed_options(options: Iterable[Option]) -> bytes:
    return b"".join(wire.string(name) + wire.string(data) for name, data in options)


def sha1_signature(key: rsa.RSAPrivateKey, data: bytes) -> bytes:
    signature = key.sign(data, padding.PKCS1v15(), hashes.SHA1())
    return wire.string(b"ssh-rsa") + wire.string(signature)


def certificate(
    subject: Any = SUBJECT,
    ca: Any = CA,
    *,
    principals: bytes | None = None,
    critical: Iterable[Option] | bytes = (),
    extensions: Iterable[Option] | bytes = (PERMIT_PTY,),
    after: int = NOW - 600,
    before: int = NOW + 7200,
    sign: Callable[[bytes], bytes] | None = None,
    subject_fields: bytes | None = None,
    **fields: bytes,
) -> bytes:
    """A certificate's blob.  *sign* makes the CA's signature from what it covers;
    *fields* replace whole fields in their wire form: type_name, nonce, subject,
    serial, type, key_id, reserved, authority, tail; *subject_fields* are the key's."""
    blob = keys.public_blob(subject)
    reader = wire.Reader(blob)
    kind = reader.string()
    packed = {
        "type_name": wire.string(kind + SUFFIX),
        "nonce": wire.string(b"n" * 32),
        "subject": reader.rest() if subject_fields is None else subject_fields,
        "serial": wire.u64(7),
        "type": wire.u32(1),
        "key_id": wire.string(b"matrix"),
        "principals": wire.string(texts(LOGIN.encode()) if principals is None else principals),
        "after": wire.u64(after),
        "before": wire.u64(before),
        "critical": wire.string(critical if isinstance(critical, bytes) else packed_options(critical)),
        "extensions": wire.string(
            extensions if isinstance(extensions, bytes) else packed_options(extensions)
        ),
        "reserved": wire.string(b""),
        "authority": wire.string(keys.public_blob(ca)),
    }
    assert fields.keys() <= {*packed, "tail"}
    body = b"".join({**packed, **{name: fields[name] for name in fields if name != "tail"}}.values())
    signature = keys.sign(ca, body) if sign is None else sign(body)
    return body + wire.string(signature) + fields.get("tail", b"")


def security_key_certificate() -> tuple[bytes, Callable[[bytes], bytes]]:
    """A certificate for a (simulated) security key, and how it signs: PROTOCOL.u2f."""
    kind, application = b"sk-ssh-ed25519", b"ssh:"
    raw = wire.Reader(keys.public_blob(SUBJECT))
    raw.string()
    blob = certificate(
        type_name=wire.string(kind + SUFFIX), subject_fields=raw.rest() + wire.string(application),
    )

    def sign(data: bytes) -> bytes:
        flags, counter = b"\x01", wire.u32(1)
        message = hashlib.sha256(application).digest() + flags + counter + hashlib.sha256(data).digest()
        return (
            wire.string(kind + b"@openssh.com") + wire.string(SUBJECT.sign(message)) + flags + counter
        )

    return blob, sign


Signing = Callable[[bytes], bytes]


@dataclass(frozen=True)
class Case:
    """One login, and what becomes of it."""

    name: str
    good: bool
    """Whether the node lets it in."""
    blob: bytes
    key: Any = SUBJECT
    algorithm: bytes = b""
    """Announced in the request; by default what fits the blob."""
    sign: Signing | None = None
    """Makes the signature over the request; by default the key does."""
    login: bytes = LOGIN.encode()
    stricter: str = ""
    """Why the node refuses what sshd may accept: a name in docs/conch-certificates.md."""
    service: bytes = b"ssh-connection"
    method: bytes = b"publickey"
    tail: bytes = b""
    flag: bytes = b"\1"

    @property
    def named(self) -> bytes:
        if self.algorithm:
            return self.algorithm
        kind = wire.Reader(self.blob).string()
        return kind.replace(b"ssh-rsa", b"rsa-sha2-512")

    def head(self) -> bytes:
        return texts(self.login, self.service, self.method)

    def probe(self) -> bytes:
        return self.head() + b"\0" + texts(self.named, self.blob)

    def request(self, session: bytes) -> bytes:
        signed = wire.string(session) + b"\x32" + self.head() + b"\1" + texts(self.named, self.blob)
        if self.sign is not None:
            signature = self.sign(signed)
        else:
            wanted = b"rsa-sha2-256" if self.named.startswith(b"rsa-sha2-256") else b"rsa-sha2-512"
            signature = keys.sign(self.key, signed, wanted)
        return self.head() + self.flag + texts(self.named, self.blob, signature) + self.tail
