"""Host certificates for servers that are not ours, such as a stock sshd: it proves itself by
the Host CA, which every machine's known_hosts trusts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from msgspec import Struct

from mezite.auth.admin import note
from mezite.auth.context import Context, Operator, Transaction
from mezite.certs import keys, ssh
from mezite.core.audit import EventType, plain
from mezite.core.duration import format_duration
from mezite.core.model import check_host_name
from mezite.core.template import host_certificate
from mezite.errors import InvalidInput

DEFAULT_TTL = timedelta(days=30)
MAX_TTL = timedelta(days=366)
MAX_NAMES = 100


class SignedHost(Struct, frozen=True):
    """A host certificate, and what it says."""

    text: str
    """The line of a -cert.pub file."""
    key: str
    """Fingerprint of the host key."""
    ca_key: str
    serial: int
    names: tuple[str, ...]
    not_after: datetime


def sign_host(
    context: Context,
    tx: Transaction,
    operator: Operator,
    public_key: str,
    names: Sequence[str],
    ttl: timedelta | None = None,
) -> SignedHost:
    """A host certificate for the key of the line *public_key*, good for *names*: host names or
    addresses, exact ones, as a wildcard would let one host pass for others.

    Whether the key is that host's, the operator vouches for.  No lock and no role
    reaches the certificate: it ends after *ttl*, or with its CA.  Raises :class:`InvalidInput`.
    """
    try:
        blob = keys.parse_public_line(public_key)
    except InvalidInput as error:
        raise InvalidInput(str(error), "public_key") from None
    if not names:
        raise InvalidInput("names no host; a certificate without a name is good for none", "principals")
    if len(names) > MAX_NAMES:
        raise InvalidInput(f"at most {MAX_NAMES} names in one certificate", "principals")
    names = tuple(dict.fromkeys(check_host_name(name, "principals") for name in names))
    ttl = ttl or DEFAULT_TTL
    if ttl > MAX_TTL:
        raise InvalidInput(f"at most {format_duration(MAX_TTL)}; sign again before it ends", "ttl")
    now, signer = context.clock(), context.authorities().signer
    template = host_certificate(f"host/{names[0]}", names, serial=tx.next_serial(), now=now, ttl=ttl)
    signed = SignedHost(
        text=ssh.certificate_line(signer.sign_host(template, blob), names[0]),
        key=keys.fingerprint(blob),
        ca_key=keys.fingerprint(signer.host_ca_blobs[0]),
        serial=template.serial,
        names=names,
        not_after=now + ttl,
    )
    note(
        context, tx, operator, EventType.HOST_CERT_ISSUED, "host", names[0],
        fields={
            "names": plain(",".join(names)), "key": signed.key, "ca_key": signed.ca_key,
            "serial": signed.serial, "ttl_s": int(ttl.total_seconds()),
        },
    )
    return signed
