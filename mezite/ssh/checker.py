"""Credentials in, an admitted identity out; every refusal goes to the audit log."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from twisted.cred.checkers import ICredentialsChecker
from twisted.cred.error import UnauthorizedLogin
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger
from zope.interface import implementer

from mezite.certs import keys
from mezite.certs.krl import Revocations
from mezite.certs.ssh import Certificate, parse_certificate
from mezite.certs.verify import is_vouched_for
from mezite.core.audit import AuditEvent, EventType, plain
from mezite.errors import CertificateRejected
from mezite.ssh.login import CertificateLogin, ICertificateLogin, TooMany
from mezite.ssh.policy import Access, Admitted, NodeRules, Policy, Rejected, decide
from mezite.ssh.revocation import UNREADABLE
from mezite.ssh.sampling import Sample

_STRANGERS = frozenset({"malformed", "unsupported_key", "untrusted_ca", "unavailable", UNREADABLE})
"""Refusals that anybody on the network can cause."""
STRANGERS_PER_MINUTE = 20
LINES_PER_MINUTE = 20
"""In the log, of all strangers together and of each certificate."""
MAX_CASES = 1000
"""Different refusals of known certificates that are recorded in a minute."""
MAX_CASES_OF_ONE = 20
""" … of one certificate: by other logins, or from other addresses."""

TOO_MANY = "too many connections and commands of this identity are open at this node"


@implementer(ICredentialsChecker)
class NodeChecker:
    """Decides logins by the policy as it stands at that moment, and fails closed."""

    credentialInterfaces = (ICertificateLogin,)
    _log = Logger()

    def __init__(
        self,
        rules: NodeRules,
        access: Access,
        clock: Callable[[], datetime],
        account_problem: Callable[[str], str | None],
        revocations: Callable[[], Sequence[Revocations]] = tuple,
    ) -> None:
        self._rules = rules
        self._access = access
        self._clock = clock
        self._account_problem = account_problem
        self._revocations = revocations
        self.more_cas: Callable[[], tuple[bytes, ...]] = tuple
        """Key blobs of CAs that are trusted besides, now."""
        self.table: Callable[[str], bytes] = lambda login: b""
        """A login's table of principals, where the node has such."""
        self.has_room: Callable[[Admitted], bool] = lambda admitted: True
        """Whether this identity may have one more connection."""
        self._window_start: datetime | None = None
        self._strangers = 0
        self._seen: dict[tuple[bytes, int], set[tuple[object, ...]]] = {}
        """What was recorded in this minute of each certificate, by CA and serial number."""
        self._unlogged = 0
        self._lines = Sample(LINES_PER_MINUTE, lambda: clock().timestamp())

    def requestAvatarId(  # type: ignore[override]  # an id is whatever the realm takes
        self, credentials: CertificateLogin
    ) -> Deferred[Admitted]:
        """Fires with the outcome for a signed login, or fails with ``UnauthorizedLogin``."""
        return Deferred.fromCoroutine(self.check(credentials))

    async def check(self, login: CertificateLogin) -> Admitted:
        """The outcome for *login*; without a signature, the one that a right
        signature would have.  Raises ``UnauthorizedLogin``, after the audit; :class:`TooMany`
        to a holder of the key for whom there is no room."""
        try:
            cert = parse_certificate(login.blob)
        except CertificateRejected as error:
            raise self._refuse(login, Rejected(error.code, str(error)), None) from None
        try:
            policy: Policy = await self._access.policy()
        except CancelledError:
            raise  # the connection is gone
        except Exception:
            self._log.failure("no policy, so nobody is let in", event="node.policy_unreadable")
            raise self._refuse(
                login, Rejected("unavailable", "the policy cannot be read"), cert
            ) from None
        try:
            revoked = self._revocations()
        except CertificateRejected as error:
            raise self._refuse(login, Rejected(error.code, str(error)), cert) from None
        outcome = decide(
            cert,
            policy,
            self._rules.with_cas(self.more_cas()),
            login=login.login,
            address=login.address,
            now=self._clock(),
            revoked=revoked,
            table=self.table(login.login),
        )
        if isinstance(outcome, Admitted):
            problem = self._account_problem(login.login)
            if problem is not None:
                outcome = Rejected("account", problem, outcome.identity)
        if isinstance(outcome, Rejected):
            raise self._refuse(login, outcome, cert)
        try:
            login.verify_signature(cert)
        except CertificateRejected as error:
            raise self._refuse(login, Rejected(error.code, str(error), outcome.identity), cert) from None
        if login.signature is not None and not self.has_room(outcome):
            self._refuse(login, Rejected("too_many", TOO_MANY, outcome.identity), cert)
            raise TooMany(TOO_MANY)
        return outcome

    def refuse_without_certificate(self, login: str, address: str | None, tried: Sequence[str]) -> None:
        """A connection has ended in which nothing but *tried* was shown: recorded as a stranger's."""
        nobody = CertificateLogin(login, b"", b"", address, None, b"")
        why = f"tried without a certificate: {', '.join(tried)}"
        self._refuse(nobody, Rejected("no_certificate", why), None)

    # --- refusals --------------------------------------------------------------------------

    def _refuse(
        self, login: CertificateLogin, why: Rejected, cert: Certificate | None
    ) -> UnauthorizedLogin:
        """The error to raise, recorded.

        Key id and the like are named even where the CA is unknown: they are
        what the peer *says*, and the fingerprint of the CA stands beside them.
        """
        now = self._clock()
        is_strange = cert is None or why.code in _STRANGERS
        # Most checks come before that of the CA's signature.
        is_forged = not is_strange and cert is not None and not is_vouched_for(cert)
        known = None if is_strange or is_forged else cert
        if self._lines.is_told(None if known is None else (known.ca_blob, known.serial)):
            self._log.info(
                "{address}: login {login} refused: {code}: {why}{more}", event="node.login_refused",
                address=login.address,
                login=plain(login.login, 64),
                code=why.code,
                why=plain(why.message, 300),
                more=self._lines.left_out(),
            )
        if self._is_recorded(login, why, known, now):
            fields: dict[str, str | int] = {"login": plain(login.login, 64), "node": self._rules.node_name}
            if cert is not None:
                fields |= {
                    "serial": cert.serial,
                    "key_id": plain(cert.key_id),
                    "ca": keys.fingerprint(cert.ca_blob),
                }
            if is_forged:
                fields["forged"] = "yes"
            if self._unlogged:
                fields["unrecorded_before"] = self._unlogged
                self._unlogged = 0
            self._access.audit(
                AuditEvent(
                    type=EventType.AUTHZ_DENIED,
                    at=now,
                    actor=actor(why.identity.bot if why.identity else "", fields.get("key_id", "")),
                    resource_type="node",
                    resource_name=self._rules.node_name,
                    client_ip=login.address or "",
                    success=False,
                    reason=why.code,
                    message=plain(why.message),
                    fields=fields,
                )
            )
        return UnauthorizedLogin(why.code)

    def _is_recorded(
        self, login: CertificateLogin, why: Rejected, cert: Certificate | None, now: datetime
    ) -> bool:
        """Rows for strangers (without a *cert* that a trusted CA has signed) are few a
        minute, and so are those of one certificate; the next row tells how many were left out.

        A certificate is no secret and a probe proves nothing, so that anybody
        who has seen one could fill the log with it.
        """
        if self._window_start is None or not 0 <= (now - self._window_start).total_seconds() < 60:
            self._window_start, self._strangers = now, 0
            self._seen.clear()
        if cert is None:
            self._strangers += 1
            recorded = self._strangers <= STRANGERS_PER_MINUTE
        else:
            cases = self._seen.setdefault((cert.ca_blob, cert.serial), set())
            case = (why.code, login.login, login.address)
            is_new = case not in cases and len(cases) < MAX_CASES_OF_ONE
            recorded = is_new and sum(map(len, self._seen.values())) < MAX_CASES
            if recorded:
                cases.add(case)
        self._unlogged += not recorded
        return recorded


def actor(bot: str, key_id: str | int) -> str:
    """Who an event is about: the proven bot, else the key id that the peer shows."""
    return f"bot/{bot}" if bot else f"certificate/{plain(str(key_id), 128)}"
