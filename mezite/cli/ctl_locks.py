"""`mezctl locks`."""

from __future__ import annotations

import click

from mezite.cli.asking import Asking, Group, paged, pass_asking
from mezite.cli.names import names
from mezite.cli.output import When, write_line
from mezite.cli.tables import write_locked
from mezite.errors import UsageError

_KINDS = ("bot", "instance", "role", "login", "node")

COLUMNS = {
    "ID": lambda lock: lock["id"],
    "TARGET": lambda lock: f"{lock['kind']}/{lock['target']}",
    "REASON": lambda lock: lock["reason"],
    "BY": lambda lock: lock["created_by"],
    "CREATED": lambda lock: When(lock["created_at"]),
    "EXPIRES": lambda lock: When(lock["expires_at"]),
    "MESSAGE": lambda lock: lock["message"],
}


@click.group(cls=Group)
def locks() -> None:
    """Locks: what is locked neither joins nor renews nor logs in to our nodes.

    They hold at once, and end live sessions on our nodes.  A plain SSH server
    honours a certificate that is out until it ends (at most 24 hours).
    """


@locks.command("add")
@click.option("--bot", metavar="NAME", help="All machines of a bot.", shell_complete=names("bots"))
@click.option("--instance", metavar="ID", help="One machine.", shell_complete=names("instances"))
@click.option("--role", metavar="NAME", help="Every bot that has a role.", shell_complete=names("roles"))
@click.option("--login", metavar="NAME", help="An OS login, for everybody.")
@click.option("--node", metavar="NAME", help="A node, for everybody.", shell_complete=names("nodes"))
@click.option("--reason", metavar="TEXT", help="Why; shown to whoever is refused, and in the audit log.")
@click.option("--ttl", metavar="DURATION", help="How long; default: until removed.")
@pass_asking
def add(asking: Asking, reason: str | None, ttl: str | None, **targets: str | None) -> None:
    """Lock one thing."""
    chosen = [(kind, targets[kind]) for kind in _KINDS if targets[kind] is not None]
    if len(chosen) != 1:
        raise UsageError("name one thing to lock: --bot, --instance, --role, --login or --node")
    kind, target = chosen[0]
    answer = asking.call("locks.add", kind=kind, target=target, reason=reason, ttl=ttl)
    asking.show(answer, write_locked)


@locks.command("ls")
@click.option("--all", "ended", is_flag=True, help="Those that have ended, too.")
@paged
@pass_asking
def ls(asking: Asking, ended: bool, limit: int | None, after: str | None) -> None:
    """List the locks that hold."""
    asking.show_list(
        "locks.ls", "locks", COLUMNS, ended=ended or None, limit=limit, after=after, none="nothing is locked"
    )


@locks.command("rm")
@click.argument("lock_id", metavar="ID", shell_complete=names("locks"))
@pass_asking
def rm(asking: Asking, lock_id: str) -> None:
    """Remove a lock.

    The final lock of a fork goes with `instances unlock --keep-key` or
    `instances rm` only.
    """
    answer = asking.call("locks.rm", id=lock_id)
    asking.show(
        answer, lambda done: write_line(f"Lock removed: {done['lock']['kind']} {done['lock']['target']}")
    )
