"""What a certificate will say, before anything is signed.

Names and layouts: draft-miller-ssh-cert and OpenSSH's PROTOCOL.certkeys.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from msgspec import Struct

from mezite.core.model import Bot

if TYPE_CHECKING:
    from mezite.core.rbac import Granted

CLOCK_ALLOWANCE = timedelta(seconds=60)
"""User certificates start this long ago, for verifiers with a slow clock."""
_SECOND = timedelta(seconds=1)
_CLOCK_ALLOWANCE_S = CLOCK_ALLOWANCE // _SECOND
HOST_BACKDATE = timedelta(hours=24)
"""Host certificates start this long ago, for clients with a slow clock."""

BOT = "bot@mezite.com"
ROLES = "roles@mezite.com"
INSTANCE = "instance@mezite.com"
GENERATION = "generation@mezite.com"
LINEAGE_KEY = "lineage-key@mezite.com"
PERMIT_PTY = "permit-pty"
PERMIT_PORT_FORWARDING = "permit-port-forwarding"
FORCE_COMMAND = "force-command"
SOURCE_ADDRESS = "source-address"

USER = 1
HOST = 2


class CertificateTemplate(Struct, frozen=True):
    """The fields of an OpenSSH certificate besides nonce, keys and signature.

    ``valid_after`` and ``valid_before`` are seconds since the epoch (unsigned
    64 bit).  Options map a name to its text, or to ``None`` for a flag without
    data; the encoder sorts them.
    """

    type: int
    serial: int
    key_id: str
    principals: tuple[str, ...]
    valid_after: int
    valid_before: int
    critical_options: tuple[tuple[str, str | None], ...] = ()
    extensions: tuple[tuple[str, str | None], ...] = ()

    def __post_init__(self) -> None:
        if not self.principals:
            raise ValueError("a certificate without principals is never made")


def user_certificate(
    granted: Granted,
    bot: Bot,
    *,
    instance: str,
    generation: int,
    lineage_key: str,
    serial: int,
    now: datetime,
) -> CertificateTemplate:
    """The user certificate of *bot*'s *instance* at *generation*.

    It names the instance, the generation and the lineage key's fingerprint, so
    that it can prove them later, whatever became of the database.
    """
    extensions: list[tuple[str, str | None]] = [
        (BOT, bot.name),
        (ROLES, ",".join(granted.roles)),
        (INSTANCE, instance),
        (GENERATION, str(generation)),
        (LINEAGE_KEY, lineage_key),
        (PERMIT_PTY, None),
    ]
    if granted.port_forwarding:
        extensions.append((PERMIT_PORT_FORWARDING, None))
    critical: tuple[tuple[str, str | None], ...] = ()
    if bot.source_address:
        critical = ((SOURCE_ADDRESS, ",".join(bot.source_address)),)
    start = int(now.timestamp())
    return CertificateTemplate(
        type=USER,
        serial=serial,
        key_id=f"{bot.name}/{instance}/{generation}",
        principals=granted.logins,
        valid_after=start - _CLOCK_ALLOWANCE_S,
        valid_before=start + granted.ttl // _SECOND,
        critical_options=critical,
        extensions=tuple(extensions),
    )


def host_certificate(
    key_id: str, host_names: Sequence[str], *, serial: int, now: datetime, ttl: timedelta
) -> CertificateTemplate:
    """The host certificate that *key_id* names, good for *host_names* only.

    In small letters, too: ssh looks for what its user has typed in those
    (sshconnect.c, ``ssh_login``), and the case of principals matters to it.
    """
    start = int(now.timestamp())
    return CertificateTemplate(
        type=HOST,
        serial=serial,
        key_id=key_id,
        principals=tuple(dict.fromkeys((*host_names, *(name.lower() for name in host_names)))),
        valid_after=start - int(HOST_BACKDATE.total_seconds()),
        valid_before=start + int(ttl.total_seconds()),
    )
