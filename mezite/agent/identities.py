"""What the agent holds: the identity of now, and for a while those before it."""

from __future__ import annotations

from datetime import timedelta

from mezite.certs import keys
from mezite.certs.ssh import Certificate, parse_certificate
from mezite.discreet import Discreet

GRACE = timedelta(minutes=2)
"""So long after its replacement a certificate that was listed can still be signed for: a
login that began before a renewal ends well, and sshd gives a login no longer than that."""
MAX_KEPT = 256
"""Replaced identities, whatever their age: more than two a second for all of the grace time."""


class AgentIdentity(Discreet, frozen=True):
    """A certificate, its key, and what lists call it."""

    hidden = ("key",)

    certificate: Certificate
    key: keys.PrivateKey
    comment: str

    @classmethod
    def from_parts(cls, certificate: bytes, private_pem: bytes, comment: str) -> AgentIdentity:
        """Raises as :func:`parse_certificate` and :func:`keys.private_from_pem` do."""
        return cls(parse_certificate(certificate), keys.private_from_pem(private_pem, None), comment)


class Identities:
    """At most one is listed; those it has replaced can be signed for during :data:`GRACE`.

    Times are monotonic.
    """

    def __init__(self) -> None:
        self.listed: AgentIdentity | None = None
        self._replaced: dict[bytes, tuple[AgentIdentity, timedelta]] = {}

    def offer(self, identity: AgentIdentity, now: timedelta) -> bool:
        """*identity* is the one that is listed; False when it was already."""
        before = self.listed
        if before is not None:
            if before.certificate.blob == identity.certificate.blob:
                return False
            self._replaced[before.certificate.blob] = (before, now)
        self._replaced.pop(identity.certificate.blob, None)
        self.listed = identity
        self.tidy(now)
        return True

    def find(self, blob: bytes, now: timedelta) -> AgentIdentity | None:
        """The identity with this certificate, if it can be signed for."""
        if self.listed is not None and self.listed.certificate.blob == blob:
            return self.listed
        found = self._replaced.get(blob)
        return found[0] if found is not None and now - found[1] < GRACE else None

    def tidy(self, now: timedelta) -> None:
        """Identities replaced more than :data:`GRACE` before *now* are forgotten."""
        kept = [(blob, one) for blob, one in self._replaced.items() if now - one[1] < GRACE]
        self._replaced = dict(kept[-MAX_KEPT:])

    def forget(self) -> None:
        self.listed = None
        self._replaced.clear()
