"""`mezctl status`, `nodes` and `ca`."""

from __future__ import annotations

from typing import Any

import click

from mezite.cli import output
from mezite.cli.asking import Asking, Command, Group, paged, pass_asking
from mezite.cli.output import hint, write_line
from mezite.cli.tables import asked_line

# --- status --------------------------------------------------------------------------------


@click.command("status", cls=Command)
@click.option(
    "--accept-clock", is_flag=True,
    help="Say that the server's clock is right as it stands, after a jump for which it refuses everybody.",
)
@pass_asking
def status(asking: Asking, accept_clock: bool) -> None:
    """The cluster at a glance, and what in it wants your eye."""
    if accept_clock:
        asking.call("clock.accept")
    asking.show(asking.call("status"), _write_status)


_NOUNS = ("roles", "bots", "instances", "tokens", "events")


def _write_status(answer: Any) -> None:
    counts = answer["counts"]
    output.details(
        {
            "Cluster": f"{answer['cluster_name']} ({answer['cluster_uuid']})",
            "Version": answer["version"],
            "Address": answer["public_addr"],
            "Server time": answer["server_time"],
            "Clock": answer["clock_fault"] or "good",
            "CA keys": "encrypted" if answer["ca_keys_encrypted"] else "not encrypted",
            **{noun.capitalize(): counts[noun] for noun in _NOUNS},
            "Active locks": answer["active_locks"],
        }
    )
    write_line()
    output.table(
        {
            "CA": lambda ca: ca["type"],
            "STATE": lambda ca: ca["state"],
            "FINGERPRINT": lambda ca: ca["fingerprint"],
            "CREATED": lambda ca: ca["created_at"],
        },
        answer["authorities"],
    )
    if answer["refusals"]:
        write_line()
        write_line("Refusals since the server started:")
        output.details(dict(sorted(answer["refusals"].items())), indent="  ")
    _write_alarms(answer)


def _write_alarms(answer: Any) -> None:
    forked = [lock for lock in answer["locks"] if lock["reason"] == "generation_mismatch"]
    ahead, older = answer["ahead"], answer["older_copy"]
    asked = answer["prove_asked"]
    if not (answer["clock_fault"] or forked or answer["reused_tokens"] or ahead or older or asked):
        return
    write_line()
    write_line("Look at this:")
    if answer["clock_fault"] is not None:
        write_line(
            f"  {answer['clock_fault']}: joins and renewals are refused; set the clock, or if it is right: "
            "mezctl status --accept-clock"
        )
    if older is not None:
        write_line(f"  {older['message']}; it voids the tokens and shows what is missing")
    if ahead is not None:
        write_line(
            f"  the database is older than its machines ({len(ahead['instances'])} ahead, the last one at "
            f"{ahead['last_at']}); if it was put back from a copy: mezctl restore"
        )
    for lock in forked:
        write_line(f"  instance {lock['target']} is locked for good (generation_mismatch): {lock['message']}")
    for event in asked:
        write_line(f"  instance {event['resource_name']}: {asked_line(event)}")
    for event in answer["reused_tokens"]:
        made = event["fields"].get("instance", "")
        write_line(
            f"  {event['timestamp']} token_reused: {event['message']} from {event['client_ip']}; instance "
            f"{made} had joined by it, if that was a stranger: mezctl instances lock {made}"
        )


# --- nodes ---------------------------------------------------------------------------------


@click.group(cls=Group)
def nodes() -> None:
    """SSH nodes that the cluster knows."""


@nodes.command("ls")
@paged
@pass_asking
def nodes_ls(asking: Asking, limit: int | None, after: str | None) -> None:
    """List all nodes."""
    columns = {
        "NAME": lambda node: node["name"],
        "ADDRESS": lambda node: node["address"],
        "LABELS": lambda node: node["labels"],
    }
    asking.show_list(
        "nodes.ls", "nodes", columns, limit=limit, after=after,
        none="no nodes; the server's own one starts with ssh.enabled: true in its configuration",
    )


# --- ca ------------------------------------------------------------------------------------


@click.group(cls=Group)
def ca() -> None:
    """Certificate authorities: what SSH servers and clients trust."""


@ca.command("export")
@click.option(
    "--type", "kind", type=click.Choice(["user", "host", "server"]), required=True,
    help="user: for sshd's TrustedUserCAKeys; host: lines for known_hosts; server: PEM, for mezd --ca-file.",
)
@pass_asking
def export(asking: Asking, kind: str) -> None:
    """Print the public keys of the authorities that are trusted now.

    \b
    mezctl ca export --type=user > /etc/ssh/mezite_user_ca.pub
    echo 'TrustedUserCAKeys /etc/ssh/mezite_user_ca.pub' >> /etc/ssh/sshd_config
    """
    asking.show(asking.call("ca.export", type=kind), _write_keys)


def _write_keys(answer: Any) -> None:
    for key in answer["keys"]:
        for line in key["text"].splitlines():
            write_line(line)


@ca.command("rotate", cls=Command)
@click.option(
    "--type", "kind", type=click.Choice(["user", "host", "server"]), required=True, help="Which authority."
)
@click.option(
    "--stage", type=click.Choice(["announce", "switch", "retire"]),
    help="Refuse unless this is the next step; default: take whichever is next.",
)
@click.option(
    "--grace-period", metavar="DURATION", default="72h", show_default=True,
    help="The least time since the step before, in which every machine should have renewed.",
)
@click.option("--now", is_flag=True, help="Take the step without waiting for that.")
@pass_asking
def rotate(asking: Asking, kind: str, stage: str | None, grace_period: str, now: bool) -> None:
    """Put a new authority in place of an old one: run it three times, with time between.

    \b
    1. announce  a new one is made and published; the old one signs
    2. switch    the new one signs; the old one is trusted still
    3. retire    the old one is trusted no longer

    Machines hear of each step when they renew, the server's own node at once, and a stock
    sshd when you export the user CAs again: after steps 1 and 3.
    """
    wanted = {"type": kind, "stage": stage, "grace_period": grace_period, "now": now}
    asking.show(asking.call("ca.rotate", **wanted), _write_rotated)


_DONE = {
    "announce": "A new {type} CA is published and signs nothing yet: {fingerprint}",
    "switch": "The new {type} CA signs from now on: {fingerprint}",
    "retire": "The old {type} CA is trusted no longer: {fingerprint}",
}


def _write_rotated(answer: Any) -> None:
    write_line(_DONE[answer["stage"]].format(**answer))
    if answer["type"] == "user" and answer["stage"] != "switch":
        hint("for each stock sshd: mezctl ca export --type=user > its TrustedUserCAKeys file")
    if answer["type"] == "server" and answer["stage"] == "switch":
        hint("join tokens made before prove the old one: make new ones (mezctl bots rotate-token)")
    if answer["next_stage"]:
        hint(f"next, after {answer['not_before']}: mezctl ca rotate --type={answer['type']} "
             f"({answer['next_stage']})")
