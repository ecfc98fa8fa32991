"""`mezctl status`: how the server is, and what to do where it is not well."""

from __future__ import annotations

from typing import Any

import click

from mezite.cli import output
from mezite.cli.asking import Asking, Command, pass_asking
from mezite.cli.output import write_line, write_prose
from mezite.cli.tables import asked_line, unlocking
from mezite.cli.terminal import BAD, GOOD, HEADING, SOON, Marked
from mezite.errors import Reason

_NOUNS = ("roles", "bots", "instances", "tokens", "events")

REMEDIES: dict[Reason, str] = {
    Reason.TOKEN_UNKNOWN: "a token of another cluster, or removed; a new one: mezctl bots rotate-token NAME",
    Reason.TOKEN_EXPIRED: "nobody joined in time; a new one: mezctl bots rotate-token NAME",
    Reason.TOKEN_USED: "somebody had joined by it already; who: mezctl audit ls --type=token_reused",
    Reason.TOKEN_ROTATED: "an old token; give out the new one, or: mezctl bots rotate-token NAME",
    Reason.PROVE: "an old generation was presented; by whom: mezctl audit ls --type=renew.prove_asked",
    Reason.BAD_PROOF: "another cluster's machine, or a forger: mezctl audit ls --type=renew.refused",
    Reason.INSTANCE_UNKNOWN: "its instance was removed; let it join anew: mezctl bots rotate-token NAME",
    Reason.GENERATION_MISMATCH: "an identity with two holders; which: mezctl locks ls",
    Reason.EXPIRED: "off for too long; let it back: mezctl instances recover ID",
    Reason.LOCKED: "by an operator; by whom and why: mezctl locks ls",
    Reason.BOT_GONE: "its bot was removed; make another one: mezctl bots add",
    Reason.ROLE_GONE: "a role of its bot is missing: mezctl roles create --from-file=FILE",
    Reason.ROLE_UNFIT: "its roles do not go together: mezctl roles get NAME",
    Reason.NO_LOGINS: "its roles allow no login: mezctl roles get NAME",
    Reason.INTERVAL_TOO_LONG: "its --renewal-interval is not shorter than its certificates' TTL",
    Reason.INVALID_REQUEST: "it speaks another protocol; update mezd there",
    Reason.CLOCK_SKEW: "its clock is off by more than a day; set it there",
    Reason.SERVER_CLOCK: "this server's clock jumped; see State above",
    Reason.DATABASE_RESTORED: "the database was put back from a copy: mezctl restore",
    Reason.TOO_OFTEN: "a machine renews in a loop; which: mezctl audit ls --type=renew.refused",
    Reason.UNAVAILABLE: "too much to do, or no database; the server's log says which",
}
"""Refused for → what that means to the operator of the server, and the next command."""


@click.command("status", cls=Command)
@click.option(
    "--accept-clock", is_flag=True,
    help="Say that the server's clock is right as it stands, after a jump for which it refuses everybody.",
)
@pass_asking
def status(asking: Asking, accept_clock: bool) -> None:
    """How the server is, and what in it wants your eye.

    Its database, clock and authorities, whom it has refused and why, and what
    to do about each.
    """
    if accept_clock:
        asking.call("clock.accept")
    asking.show(asking.call("status"), _write)


def _write(answer: Any) -> None:
    output.details(_facts(answer))
    write_line()
    _write_authorities(answer)
    if answer["refusals"]:
        write_line()
        write_line("Refusals since the server started:", HEADING)
        _write_refusals(answer["refusals"])
    alarms = list(_alarms(answer))
    if alarms:
        write_line()
        write_line("Look at this:", HEADING)
    for text, remedy in alarms:
        write_prose(text, "  ", BAD)
        if remedy:
            output.write_remedy(remedy)


def _facts(answer: Any) -> dict[str, object]:
    counts, database = answer["counts"], answer["database"]
    workers = f", {answer['workers']} workers" if answer["workers"] > 1 else ""
    is_fine = answer["ready"]
    fault = answer["clock_fault"]
    return {
        "State": Marked("ready" if is_fine else f"NOT READY: {answer['not_ready_reason']}",
                        GOOD if is_fine else BAD),
        "Cluster": f"{answer['cluster_name']} ({answer['cluster_uuid']})",
        "Version": f"{answer['version']}, since {answer['started_at']}{workers}",
        "Address": answer["public_addr"],
        "Server time": answer["server_time"],
        "Clock": Marked(fault, BAD) if fault else "good",
        "Database": f"{database['driver']}, {database['where']}",
        "CA keys": "encrypted" if answer["ca_keys_encrypted"] else Marked(
            "not encrypted: whoever copies the database is the CA", SOON
        ),
        **{noun.capitalize(): counts[noun] for noun in _NOUNS},
        "Active locks": answer["active_locks"],
    }


def _write_authorities(answer: Any) -> None:
    output.table(
        {
            "CA": lambda ca: ca["type"],
            "STATE": lambda ca: ca["state"],
            "FINGERPRINT": lambda ca: ca["fingerprint"],
            "CREATED": lambda ca: output.When(ca["created_at"]),
        },
        answer["authorities"],
    )
    for one in answer["rotations"]:
        told = f"The {one['type']} CA is being rotated: {one['stage']} was done at {one['at']}."
        write_prose(told, mark=SOON)
        output.write_remedy(
            f"when every machine has renewed: mezctl ca rotate --type={one['type']} ({one['next_stage']})"
        )


def _write_refusals(refusals: dict[str, int]) -> None:
    told = {reason.code: remedy for reason, remedy in REMEDIES.items()}
    output.table(
        {
            "REASON": lambda one: one["reason"],
            "TIMES": lambda one: one["times"],
            "WHAT IT MEANS": lambda one: told.get(one["reason"]),
        },
        [{"reason": reason, "times": times} for reason, times in sorted(refusals.items())],
        indent="  ",
    )


def _alarms(answer: Any) -> list[tuple[str, str]]:
    """What wants an eye, and the next command."""
    alarms: list[tuple[str, str]] = []
    if answer["clock_fault"] is not None:
        alarms.append((
            f"{answer['clock_fault']}: joins and renewals are refused",
            "set the clock, or if it is right: mezctl status --accept-clock",
        ))
    if answer["older_copy"] is not None:
        alarms.append((answer["older_copy"]["message"],
                       "voids the tokens, and shows what is missing: mezctl restore"))
    if answer["ahead"] is not None:
        alarms.append((
            f"the database is older than its machines ({len(answer['ahead']['instances'])} ahead, "
            f"the last one at {answer['ahead']['last_at']})",
            "if it was put back from a copy: mezctl restore",
        ))
    for lock in answer["locks"]:
        if lock["reason"] == "generation_mismatch":
            alarms.append((
                f"instance {lock['target']} is locked for good (generation_mismatch): {lock['message']}",
                unlocking(lock),
            ))
    for event in answer["prove_asked"]:
        name = event["resource_name"]
        alarms.append((f"instance {name}: {asked_line(event)}",
                       f"if that is not its own machine: mezctl instances lock {name}"))
    for event in answer["reused_tokens"]:
        made = event["fields"].get("instance", "")
        alarms.append((
            f"{event['timestamp']} token_reused: {event['message']} from {event['client_ip']}; "
            f"instance {made} had joined by it",
            f"if that was a stranger: mezctl instances lock {made}",
        ))
    if not answer["ready"] and not alarms:
        alarms.append((f"machines cannot join or renew: {answer['not_ready_reason']}",
                       "the server's log says more: journalctl -u mezite-auth"))
    return alarms
