"""Identities for an agent, and what clients ask it to sign."""

from __future__ import annotations

from functools import cache

from mezite.agent.identities import AgentIdentity
from mezite.certs import keys, ssh, wire
from mezite.core.template import USER, CertificateTemplate

SESSION = bytes(range(32))
_HOST = keys.generate_ca_key()
HOST_KEY = keys.public_blob(_HOST)


@cache
def ca() -> keys.PrivateKey:
    return keys.generate_ca_key()


def identity(serial: int = 1, kind: str = "ecdsa") -> AgentIdentity:
    """The same one for the same arguments."""
    return _made(serial, kind)


@cache
def _made(serial: int, kind: str) -> AgentIdentity:
    key = keys.generate_rsa_key() if kind == "rsa" else keys.generate_key()
    template = CertificateTemplate(
        type=USER, serial=serial, key_id=f"b1/i/{serial}", principals=("deploy",), valid_after=0,
        valid_before=2**40,
    )
    blob = ssh.build_certificate(template, keys.public_blob(key), ca(), b"n" * 32)
    return AgentIdentity(ssh.parse_certificate(blob), key, f"b1/i/{serial}")


def login_request(
    held: AgentIdentity,
    *,
    session: bytes = SESSION,
    number: int = 50,
    user: bytes = b"deploy",
    service: bytes = b"ssh-connection",
    method: bytes = b"publickey",
    signed: int = 1,
    algorithm: bytes | None = None,
    blob: bytes | None = None,
    host_key: bytes | None = None,
    rest: bytes = b"",
) -> bytes:
    """What ssh signs to log in, with parts of it as a test wants them."""
    bound = b"" if host_key is None else wire.string(host_key)
    return b"".join(
        (
            wire.string(session), bytes([number]), wire.string(user), wire.string(service),
            wire.string(method), bytes([signed]),
            wire.string(held.certificate.type_name if algorithm is None else algorithm),
            wire.string(held.certificate.blob if blob is None else blob), bound, rest,
        )
    )


def sign_request(blob: bytes, data: bytes, flags: int = 0) -> bytes:
    """A whole message of the agent protocol."""
    return message(13, wire.string(blob) + wire.string(data) + wire.u32(flags))


def session_bind(
    *, session: bytes = SESSION, host: keys.PrivateKey = _HOST, host_key: bytes | None = None,
    signed: bytes | None = None, forwarding: int = 0, rest: bytes = b"",
) -> bytes:
    """A whole message, as ssh sends it when it has connected to the agent."""
    signature = keys.sign(host, session if signed is None else signed)
    blob = keys.public_blob(host) if host_key is None else host_key
    said = b"".join(map(wire.string, (b"session-bind@openssh.com", blob, session, signature)))
    return message(27, said + bytes([forwarding]) + rest)


def message(number: int, content: bytes = b"") -> bytes:
    return wire.u32(len(content) + 1) + bytes([number]) + content
