"""What the daemon tells a person: its status, and a way out of each trouble."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from twisted.logger import Logger

from mezite.certs import keys, ssh
from mezite.certs.wire import Reader
from mezite.core import template
from mezite.core.duration import format_duration
from mezite.errors import MeziteError, Reason, Refused, Unreachable, UntimelyServer, UntrustedServer
from mezite.identity.events import Moment, Skew
from mezite.identity.outputs import AGENT, AGENT_SOCKET, FILES
from mezite.identity.records import Held
from mezite.identity.states import Phase, State


def tell_damage(log: Logger, damaged: str) -> None:
    """That a copy of the state, *damaged* as it says, was passed over."""
    log.warn(
        "passed over a damaged copy of the state ({damaged}); going on from the other one",
        event="identity.state_damaged", damaged=damaged,
    )


_REMEDIES: dict[Reason, str] = {
    Reason.LOCKED: "an operator has locked it; it goes on by itself once unlocked",
    Reason.ROLE_GONE: "an operator has to restore the role; it goes on by itself then",
    Reason.ROLE_UNFIT: "an operator has to change the role; it goes on by itself then",
    Reason.NO_LOGINS: "an operator has to allow a login; it goes on by itself then",
    Reason.EXPIRED: "an operator runs `mezctl instances recover ID`, or give a new join token",
    Reason.GENERATION_MISMATCH: "this identity was used twice; find out by whom, then give a new join token",
    Reason.BOT_GONE: "the bot has been removed; give a join token of another one",
    Reason.BAD_PROOF: "the server cannot verify this identity; give a new join token",
    Reason.INSTANCE_UNKNOWN: "the server does not know this identity; give a new join token",
    Reason.INTERVAL_TOO_LONG: "choose a renewal interval shorter than the certificate's TTL",
    Reason.CLOCK_SKEW: "set this machine's clock right",
    Reason.SERVER_CLOCK: "set the server's clock right; it goes on by itself then",
    Reason.DATABASE_RESTORED: "an operator of the server runs `mezctl restore`; it goes on by itself then",
    Reason.TOO_OFTEN: "see what renews it in a loop (`identity renew`, one-shot runs); it goes on by itself",
}


def remedy(error: MeziteError) -> str:
    """What helps against *error*; empty where its own message says so."""
    if isinstance(error, Refused):
        return _REMEDIES.get(error.reason, "")
    if isinstance(error, UntimelyServer):
        return "set this machine's clock right (NTP), or that of the server"
    if isinstance(error, UntrustedServer):
        return "check the auth server's address, and the token, pin or CA file that is to prove it"
    if isinstance(error, Unreachable):
        return "it goes on trying by itself"
    return ""


def error_line(error: MeziteError) -> str:
    """*error* with its stable code, which refusals must show literally, and the way out."""
    helps = "" if isinstance(error, Unreachable) else remedy(error)
    text = f"{error}; {helps}" if helps else str(error)
    return f"{text} ({error.code})" if isinstance(error, Refused) else text


def status(
    state: State, *, destination: str, kinds: Sequence[str], server: str, now: Moment
) -> dict[str, Any]:
    """The daemon as JSON: no secret in it; facts of the identity are null where there is none."""
    held, trouble = state.durable.held, state.trouble
    next_due = state.retry_due if state.phase is Phase.WAITING else state.renew_due
    return {
        "state": state.phase.value,
        "bot": held and held.bot,
        "instance": held and held.instance_id,
        "generation": held and held.generation,
        "cluster": held and held.trust.cluster_name,
        "principals": list(held.principals) if held else [],
        "roles": list(held.roles) if held else [],
        "lineage_key": held and keys.fingerprint(held.keys.lineage.public),
        "valid_before": held and valid_until(held),
        "seconds_left": _seconds(state.expires.left(now)) if state.expires else None,
        "next_attempt_in_seconds": _seconds(next_due.left(now)) if next_due else None,
        "last_error": trouble and {
            "code": trouble.code, "message": str(trouble), "remedy": remedy(trouble)
        },
        **_skew(state),
        "destination": destination,
        "outputs": list(kinds),
        "server": server,
    }


def destinations(
    state: State, described: Sequence[Mapping[str, Any]], hook_failures: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Each output with what its own certificate says, as far as there is one."""
    held = state.durable.held
    certificates = {}
    if held is not None:
        pairs = zip(held.keys.ssh, held.certificates, strict=True)
        certificates = {key.output: ssh.parse_certificate(blob) for key, blob in pairs}
    told = []
    for one in described:
        certificate = certificates.get(one["name"])
        until = certificate and datetime.fromtimestamp(certificate.valid_before, UTC)
        told.append({
            **one,
            "principals": [name.decode() for name in certificate.principals] if certificate else [],
            "roles": _roles(certificate) if certificate else [],
            "valid_before": until and text_time(until),
            "hook_failure": hook_failures.get(one["name"]),
        })
    return told


def _roles(certificate: ssh.Certificate) -> list[str]:
    """Those it names; it is one that was looked at when it came."""
    data = dict(certificate.extensions).get(template.ROLES.encode())
    return Reader(data).string().decode().split(",") if data else []


def _skew(state: State) -> dict[str, Any]:
    """From the last answer of this run, or the one that gave the identity."""
    held = state.durable.held
    if state.skew is not None:
        ahead, give_or_take = state.skew.ahead, _seconds(state.skew.give_or_take)
    elif held is not None:
        ahead, give_or_take = held.skew, None
    else:
        return {"clock_skew_seconds": None, "clock_skew_give_or_take_seconds": None}
    return {"clock_skew_seconds": _seconds(ahead), "clock_skew_give_or_take_seconds": give_or_take}


def _seconds(duration: timedelta) -> float:
    return round(duration.total_seconds(), 1)


def skew_line(skew: Skew) -> str:
    """For the log, when the clock has become worth a warning."""
    direction = "behind" if skew.ahead > timedelta(0) else "ahead of"
    return (
        f"this machine's clock is {format_duration(_whole(abs(skew.ahead)))} {direction} the server's; "
        "renewals go on, but set it right (NTP)"
    )


def _whole(length: timedelta) -> timedelta:
    return timedelta(seconds=round(length.total_seconds()))


def text_time(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def facts(held: Held) -> dict[str, Any]:
    """Of the identity, as fields of its events."""
    return {
        "bot": held.bot,
        "instance": held.instance_id,
        "generation": held.generation,
        "principals": list(held.principals),
        "valid_before": valid_until(held),
    }


def joined_lines(held: Held, destination: str, kinds: Sequence[str]) -> tuple[tuple[str, str], ...]:
    """Each with the name of its event.  No *kinds*: it is held in memory, and nothing was written."""
    key = "ssh_key, " if FILES in kinds else ""
    served = f"serving the key as an ssh-agent at {destination}/{AGENT_SOCKET}"
    wrote = f"wrote {key}ssh_key-cert.pub, known_hosts and ssh_config to {destination}"
    return (
        ("identity.joined",
         f"joined as bot {held.bot}, instance {held.instance_id}, generation {held.generation}"),
        ("identity.certified",
         f"certificate for {', '.join(held.principals)} valid until {valid_until(held)} "
         f"({format_duration(held.ttl)})"),
        *((("identity.written", wrote),) if kinds else ()),
        *((("agent.serving", served),) if AGENT in kinds else ()),
    )


def renewed_line(held: Held) -> str:
    return (
        f"renewed bot {held.bot}, instance {held.instance_id}, generation {held.generation}; "
        f"certificate for {', '.join(held.principals)} valid until {valid_until(held)}"
    )


def held_line(held: Held, destination: str) -> str:
    return (
        f"going on with bot {held.bot}, instance {held.instance_id}, generation {held.generation} "
        f"from {destination}; certificate valid until {valid_until(held)}"
    )


def valid_until(held: Held) -> str:
    return text_time(datetime.fromtimestamp(held.valid_before_unix, UTC))
