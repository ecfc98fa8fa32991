"""`mezctl certs`: what a certificate says.  Asks nobody."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from mezite.cli import output
from mezite.cli.asking import Asking, Group, pass_asking
from mezite.cli.identity_text import length
from mezite.cli.program import contents, files, named
from mezite.cli.terminal import BAD, GOOD, Marked
from mezite.errors import CertificateRejected, InvalidInput, UsageError

_CERTIFICATE = "ssh_key-cert.pub"
MAX_FILE = 512 * 1024
_FOREVER = 2**64 - 1
_WANTED = "name a file that ends with -cert.pub, or the directory of an identity"
_WANTED_CAS = "name a file of CAs' public keys, as made by: mezctl ca export --type=user"
_OURS = ("bot", "roles", "instance", "generation", "lineage-key")


@click.group(cls=Group)
def certs() -> None:
    """Certificates: what they say."""


@certs.command("inspect")
@click.argument("file", shell_complete=files)
@click.option("--ca", metavar="FILE", help="Public keys of CAs; exit code 3 if none of them has signed it.",
              shell_complete=files)
@pass_asking
def inspect(asking: Asking, file: str, ca: str | None) -> None:
    """Show what an OpenSSH certificate says.

    FILE is a -cert.pub file, the directory of an identity, or - for standard input.
    """
    try:
        found = facts(_read(file, _WANTED), datetime.now(UTC))
    except InvalidInput as error:
        raise UsageError(f"{named(file)}: {error}; {_WANTED}") from None
    trusted = _cas(ca) if ca is not None else None
    if trusted is not None:
        found["trusted"] = found["signature_holds"] and found["ca_key"] in trusted
    asking.show(found, _write)
    if trusted is not None and not found["trusted"]:
        sys.exit(3)


def _read(file: str, wanted: str) -> str:
    if os.path.isdir(file):  # noqa: PTH112  # a Path's raises where one may not look
        file = str(Path(file) / _CERTIFICATE)
    return contents(file, MAX_FILE, wanted).decode("ascii", "replace")


def _cas(file: str) -> set[str]:
    from mezite.certs import keys

    found = _read(file, _WANTED_CAS).splitlines()
    lines = [line for line in found if line.strip() and not line.startswith("#")]
    # As `mezctl ca export --type=host` prints them, too.
    texts = [line.split(" * ", 1)[1] if line.startswith("@cert-authority ") else line for line in lines]
    try:
        return {keys.fingerprint(keys.parse_public_line(text)) for text in texts}
    except InvalidInput as error:
        raise UsageError(f"{named(file)}: {error}; {_WANTED_CAS}") from None


def facts(text: str, now: datetime) -> dict[str, Any]:
    """What the certificate in *text* says, and how that stands at *now*.

    Raises :class:`InvalidInput` for a text that holds none.  The signature is
    looked at; whether its CA is to be trusted is another question.
    """
    from mezite.certs import keys, ssh
    from mezite.certs.wire import Reader

    line = next((one for one in text.splitlines() if one.strip()), "")
    if "PRIVATE KEY" in line:
        raise InvalidInput("that is a private key, not a certificate")
    try:
        certificate = ssh.parse_certificate_line(line)
    except (CertificateRejected, InvalidInput) as error:
        if _is_public_key(line):
            raise InvalidInput("that is a public key, not a certificate") from None
        raise InvalidInput(f"not a certificate that can be read ({error})") from None
    try:
        keys.verify(certificate.ca_blob, certificate.signature, certificate.signed_part)
        holds = True
    except CertificateRejected:
        holds = False
    extensions = {name.decode("utf-8", "backslashreplace"): data for name, data in certificate.extensions}

    def ours(name: str) -> str | None:
        data = extensions.get(f"{name}@mezite.com")
        try:
            return Reader(data).string().decode("utf-8", "backslashreplace") if data else None
        except CertificateRejected:
            return None

    roles = ours("roles")
    return {
        "type": {1: "user", 2: "host"}[certificate.type],
        "key": f"{certificate.key_type.decode()} {keys.fingerprint(certificate.subject_blob)}",
        "key_id": certificate.key_id.decode("utf-8", "backslashreplace"),
        "serial": certificate.serial,
        "ca_key": keys.fingerprint(certificate.ca_blob),
        "signature_holds": holds,
        "principals": [name.decode("utf-8", "backslashreplace") for name in certificate.principals],
        "valid_after": _time(certificate.valid_after),
        "valid_before": _time(certificate.valid_before),
        "state": _state(certificate.valid_after, certificate.valid_before, now),
        "bot": ours("bot"),
        "instance": ours("instance"),
        "generation": ours("generation"),
        "roles": roles.split(",") if roles else [],
        "lineage_key": ours("lineage-key"),
        "critical_options": {
            name.decode("utf-8", "backslashreplace"): _option(data)
            for name, data in certificate.critical_options
        },
        "extensions": sorted(set(extensions) - {f"{name}@mezite.com" for name in _OURS}),
    }


def _is_public_key(line: str) -> bool:
    from mezite.certs import keys

    try:
        return bool(keys.parse_public_line(line))
    except InvalidInput:
        return False


def _option(data: bytes) -> str:
    from mezite.certs.wire import Reader

    try:
        return Reader(data).string().decode("utf-8", "backslashreplace") if data else ""
    except CertificateRejected:
        return data.hex()


def _time(unix: int) -> str | None:
    """``None`` for what no calendar holds: always, for ever."""
    return None if unix in (0, _FOREVER) else output.utc(unix)


def _state(after: int, before: int, now: datetime) -> str:
    unix = now.timestamp()
    if unix < after:
        return f"not valid yet, for {length(after - unix)} more"
    if unix >= before:
        return f"ended {length(unix - before)} ago"
    if before == _FOREVER:
        return "valid for ever"
    return f"valid, {length(before - unix)} left"


def _mark(state: str) -> str | None:
    return None if state.startswith("valid") else BAD


def _write(found: Any) -> None:
    told: dict[str, object] = {
        "State": Marked(found["state"], _mark(found["state"])),
        "Valid": f"{found['valid_after'] or 'always'} until {found['valid_before'] or 'for ever'}",
        "Type": f"{found['type']} certificate, serial {found['serial']}",
        "Logins" if found["type"] == "user" else "Hosts": found["principals"],
        "Key id": found["key_id"],
        "Key": found["key"],
        "Signed by": found["ca_key"] if found["signature_holds"] else Marked(
            found["ca_key"] + "; THE SIGNATURE DOES NOT HOLD", BAD
        ),
    }
    if "trusted" in found:
        told["Trusted"] = Marked(found["trusted"], GOOD if found["trusted"] else BAD)
    if found["bot"]:
        told["Bot"] = f"{found['bot']} (roles: {', '.join(found['roles']) or '-'})"
        told["Instance"] = f"{found['instance']}, generation {found['generation']}"
        told["Lineage key"] = found["lineage_key"]
    told["Options"] = found["critical_options"]
    told["Permits"] = found["extensions"]
    output.details(told)
