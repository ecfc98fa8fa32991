"""Host keys as the key exchange uses them: plain, and with their certificates."""

from __future__ import annotations

from collections.abc import Iterable

from mezite.certs import keys
from mezite.certs.ssh import SUFFIX


class HostKey:
    """One host key algorithm: what is shown, and how it signs.

    Conch asks for ``blob`` and ``sign`` only.  A certificate's signature carries
    the plain key's type name (PROTOCOL.certkeys), and RSA's that of the hash.
    """

    def __init__(self, private: keys.PrivateKey, blob: bytes, signature_type: bytes) -> None:
        self._private = private
        self._blob = blob
        self._signature_type = signature_type

    def blob(self) -> bytes:
        return self._blob

    def sign(self, data: bytes, signatureType: bytes | None = None) -> bytes:
        return keys.sign(self._private, data, self._signature_type)


HostKeys = dict[bytes, HostKey]
"""By the names that the key exchange offers, in the order of preference."""


def host_keys(held: Iterable[tuple[keys.PrivateKey, bytes]]) -> HostKeys:
    """The algorithms that *held* keys can serve; the bytes are a key's certificate, or empty.

    Certificates first, then the plain keys, which stay on offer for clients
    that know no host certificates.  RSA signs with SHA-2 only.
    """
    certified: HostKeys = {}
    plain: HostKeys = {}
    for private, certificate in held:
        blob = keys.public_blob(private)
        for name in keys.signature_algorithms(keys.key_type(blob)):
            plain[name] = HostKey(private, blob, name)
            if certificate:
                certified[name + SUFFIX] = HostKey(private, certificate, name)
    return certified | plain
