"""What an agent is asked to sign: a login by public key with one certificate, and nothing else.

PURE.  A signature of this key over anything but a login (a file, a commit, a
message of another protocol) would be good for something that nobody granted.
"""

from __future__ import annotations

from msgspec import Struct

from mezite.certs import keys
from mezite.certs.ssh import SUFFIX, Certificate
from mezite.certs.wire import Reader
from mezite.errors import CertificateRejected

RSA_SHA2_256 = 2
RSA_SHA2_512 = 4
"""Flags of a sign request (draft-ietf-sshm-ssh-agent, section 3.6.1)."""

MAX_SESSION_ID = 64
"""The session id is the hash of the first key exchange: 20 (SHA-1) to 64 bytes (SHA-512)."""
_MIN_SESSION_ID = 20
_USERAUTH_REQUEST = 50
_SERVICE = b"ssh-connection"
_PLAIN = b"publickey"
_HOSTBOUND = b"publickey-hostbound-v00@openssh.com"
_RSA = {RSA_SHA2_256: b"rsa-sha2-256", RSA_SHA2_512: b"rsa-sha2-512"}


class Login(Struct, frozen=True):
    """What a userauth request that is to be signed says."""

    user: str
    session_id: bytes
    host_key: bytes | None
    """Of the server, by the method that names it; a plain key's blob or a certificate's."""


def signature_algorithm(certificate: Certificate, flags: int) -> bytes:
    """The type of the signature that *flags* ask for.

    Raises :class:`CertificateRejected`: for RSA without a flag, which would
    mean SHA-1, with both, and for flags that nobody has defined.
    """
    if flags & ~(RSA_SHA2_256 | RSA_SHA2_512):
        raise _refused(f"unknown flags {flags:#x}")
    if certificate.key_type != keys.RSA:
        return certificate.key_type  # the flags are for RSA keys only
    if flags not in _RSA:
        raise _refused("an RSA signature needs one of the flags for SHA-2")
    return _RSA[flags]


def check_login(data: bytes, certificate: Certificate, algorithm: bytes) -> Login:
    """Returns the login, when *data* is what a client signs to log in with *certificate*.

    RFC 4252 section 7, and OpenSSH's PROTOCOL section 2.10 for the method that
    names the server's host key: session id, SSH_MSG_USERAUTH_REQUEST, user,
    service, method, TRUE, algorithm, key, nothing behind it.  Raises
    :class:`CertificateRejected` for anything else.

    Not checked: whose session it is (``binding.check_bound``).
    """
    reader = Reader(data, "login request")
    session_id = reader.string(MAX_SESSION_ID)
    if len(session_id) < _MIN_SESSION_ID:
        raise reader.malformed("the session id is too short")
    if reader.byte() != _USERAUTH_REQUEST:
        raise reader.malformed("it is no userauth request")
    user = reader.cstring()
    if reader.string(64) != _SERVICE:
        raise reader.malformed("it is for another service than ssh-connection")
    method = reader.string(64)
    if method not in (_PLAIN, _HOSTBOUND):
        raise reader.malformed("it is for another method than publickey")
    if reader.byte() != 1:
        raise reader.malformed("it is one that carries no signature")
    if reader.string(64) != algorithm + SUFFIX:
        raise reader.malformed("its algorithm is not that of the signature")
    if reader.string() != certificate.blob:
        raise reader.malformed("it is for another key")
    host_key = None
    if method == _HOSTBOUND:
        host_key = reader.string()
        Reader(host_key, "host key").string(64)
    reader.finish()
    return Login(user.decode("utf-8", "backslashreplace"), session_id, host_key)


def _refused(why: str) -> CertificateRejected:
    return CertificateRejected("malformed", f"refused signature: {why}")
