"""To which SSH session a connection to the agent belongs: OpenSSH's `session-bind`.

PURE.  ssh says it on each connection before it asks for anything, and before it lets a
forwarded one through (OpenSSH's PROTOCOL.agent, section 1; ssh-agent.c).  So whoever is
at the other end of a forwarded connection cannot pass for the machine itself.
"""

from __future__ import annotations

from msgspec import Struct

from mezite.agent.userauth import MAX_SESSION_ID, Login
from mezite.certs import keys
from mezite.certs.ssh import CERTIFICATE_TYPES, parse_certificate
from mezite.certs.wire import Reader
from mezite.errors import CertificateRejected

SESSION_BIND = b"session-bind@openssh.com"


class Binding(Struct, frozen=True):
    """What one `session-bind` says; nothing of it is verified yet."""

    host_key: bytes
    """Of the server that the session is with, a plain key's blob or a certificate's."""
    session_id: bytes
    signature: bytes
    """By the host key over the session id, from the first key exchange."""
    is_forwarding: bool
    """What follows comes from that server, or through it."""


def read_binding(content: bytes) -> Binding:
    """*content* is what follows the extension's name; :class:`CertificateRejected` when it is malformed."""
    reader = Reader(content, "session-bind")
    found = Binding(reader.string(), reader.string(MAX_SESSION_ID), reader.string(), reader.boolean())
    reader.finish()
    return found


def check_binding(binding: Binding) -> None:
    """Returns when the host key has signed the session's id, in a way that we know."""
    blob = binding.host_key
    if Reader(blob, "host key").string(64) in CERTIFICATE_TYPES:
        blob = parse_certificate(blob).subject_blob
    keys.verify(blob, binding.signature, binding.session_id)


def check_bound(login: Login, binding: Binding) -> None:
    """Returns when *login* is one to the server, and in the session, of *binding*."""
    if login.session_id != binding.session_id:
        raise CertificateRejected("malformed", "a login in another session than this connection is bound to")
    if login.host_key is not None and login.host_key != binding.host_key:
        raise CertificateRejected("malformed", "a login to another server than this connection is bound to")
