"""Who signs SSH certificates: the seam between the rules and the CA keys."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from mezite.certs import keys, ssh
from mezite.core.template import HOST, USER, CertificateTemplate


class Signer(Protocol):
    """Signs with the current User CA and Host CA."""

    @property
    def user_ca_blobs(self) -> tuple[bytes, ...]:
        """Public keys of every trusted User CA, the one that signs first."""

    @property
    def host_ca_blobs(self) -> tuple[bytes, ...]:
        """Public keys of every trusted Host CA, the one that signs first."""

    def sign_user(self, template: CertificateTemplate, subject_blob: bytes) -> bytes:
        """The blob of the signed user certificate of *template* for the key *subject_blob*."""

    def sign_host(self, template: CertificateTemplate, subject_blob: bytes) -> bytes:
        """The blob of the signed host certificate of *template* for the key *subject_blob*."""


class InProcessSigner:
    """Signs with keys held in this process.

    *random* gives as many random bytes as it is asked for.  The public keys of
    CAs that are trusted besides (a rotation) come as blobs.
    """

    def __init__(
        self,
        user_ca_key: keys.PrivateKey,
        host_ca_key: keys.PrivateKey,
        random: Callable[[int], bytes],
        *,
        other_user_cas: Sequence[bytes] = (),
        other_host_cas: Sequence[bytes] = (),
    ) -> None:
        self._user_ca_key = user_ca_key
        self._host_ca_key = host_ca_key
        self._random = random
        self._user_ca_blobs = (keys.public_blob(user_ca_key), *other_user_cas)
        self._host_ca_blobs = (keys.public_blob(host_ca_key), *other_host_cas)

    @property
    def user_ca_blobs(self) -> tuple[bytes, ...]:
        return self._user_ca_blobs

    @property
    def host_ca_blobs(self) -> tuple[bytes, ...]:
        return self._host_ca_blobs

    def sign_user(self, template: CertificateTemplate, subject_blob: bytes) -> bytes:
        if template.type != USER:
            raise ValueError("the User CA signs user certificates only")
        return self._sign(template, subject_blob, self._user_ca_key, self._user_ca_blobs[0])

    def sign_host(self, template: CertificateTemplate, subject_blob: bytes) -> bytes:
        if template.type != HOST:
            raise ValueError("the Host CA signs host certificates only")
        return self._sign(template, subject_blob, self._host_ca_key, self._host_ca_blobs[0])

    def _sign(
        self, template: CertificateTemplate, subject_blob: bytes, ca_key: keys.PrivateKey, ca_blob: bytes
    ) -> bytes:
        nonce = self._random(ssh.NONCE_LENGTH)
        return ssh.build_certificate(template, subject_blob, ca_key, nonce, ca_blob=ca_blob)
