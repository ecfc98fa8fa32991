"""A login by certificate: what the client presents, and a checker for it that knows CAs only."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import datetime

from msgspec import Struct
from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.credentials import ICredentials
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from zope.interface import implementer

from mezite.certs import keys
from mezite.certs.krl import Revocations
from mezite.certs.ssh import Certificate, parse_certificate
from mezite.certs.verify import check_user_certificate, subject_key
from mezite.core.audit import plain
from mezite.core.model import Identity
from mezite.discreet import Discreet
from mezite.errors import CertificateRejected


class ICertificateLogin(ICredentials):
    """A login by certificate, as :class:`CertificateLogin`."""


class TooMany(UnauthorizedLogin):
    """The login is right, but who it is has too much open here already.  The text is for him."""


@implementer(ICertificateLogin)
class CertificateLogin(Discreet, frozen=True):
    """What a client presents for a login (RFC 4252 §7)."""

    hidden = ("blob", "signature", "signed")

    login: str
    blob: bytes
    signature_type: bytes
    """The plain signature type that the announced algorithm stands for."""
    address: str | None
    signature: bytes | None = None
    """``None``: the client only asks whether this certificate would do."""
    signed: bytes = b""

    def verify_signature(self, cert: Certificate) -> None:
        """Returns when the client holds the key of *cert*, or has not been asked to prove it.

        Raises :class:`CertificateRejected`.
        """
        if self.signature is not None:
            keys.verify_with(subject_key(cert), self.signature, self.signed, algorithm=self.signature_type)


class Certified(Struct, frozen=True):
    """An avatar's id: this identity may log in under this name."""

    login: str
    identity: Identity


@implementer(ICredentialsChecker)
class CertificateChecker:
    """Lets in whoever holds a certificate that names the login, by one of the *trusted* CAs.

    *trusted* gives CA key blobs (``keys.parse_public_line``), and is asked at
    every login; so are the lists of *revoked* certificates, which may raise
    :class:`CertificateRejected` (``mezite.ssh.revocation``).  Force-command,
    permissions and validity are in the identity: whoever makes the avatar must heed them.
    """

    credentialInterfaces = (ICertificateLogin,)
    _log = Logger()

    def __init__(
        self,
        trusted: Callable[[], Collection[bytes]],
        clock: Callable[[], datetime],
        revoked: Callable[[], Iterable[Revocations]] = tuple,
    ) -> None:
        self._trusted = trusted
        self._clock = clock
        self._revoked = revoked

    def requestAvatarId(  # type: ignore[override]  # an id is whatever the realm takes
        self, credentials: CertificateLogin
    ) -> Deferred[Certified]:
        return Deferred.fromCoroutine(self.check(credentials))

    async def check(self, login: CertificateLogin) -> Certified:
        """Who this is.  Raises ``UnauthorizedLogin`` with the reason's stable code."""
        try:
            cert = parse_certificate(login.blob)
            identity = check_user_certificate(
                cert,
                trusted=self._trusted(),
                now_unix=int(self._clock().timestamp()),
                login=login.login,
                address=login.address,
                revoked=self._revoked(),
            )
            login.verify_signature(cert)
        except CertificateRejected as error:
            self._log.info(
                "{address}: login {login} refused: {code}: {why}", event="node.login_refused",
                address=login.address,
                login=plain(login.login, 64),
                code=error.code,
                why=plain(str(error), 300),
            )
            raise UnauthorizedLogin(error.code) from None
        return Certified(login.login, identity)
