"""`mezctl instances`."""

from __future__ import annotations

from typing import Any

import click

from mezite.cli import output
from mezite.cli.asking import Asking, Group, paged, pass_asking
from mezite.cli.names import names
from mezite.cli.output import hint, write_line, write_prose, write_remedy
from mezite.cli.tables import INSTANCES, asked_line, state, unlocking, write_locked
from mezite.cli.terminal import BAD, SOON


@click.group(cls=Group)
def instances() -> None:
    """Instances: the machines that have joined.

    \b
    States:
      active       it renews
      locked       an operator has locked it or its bot
      forked       two holders of its identity have renewed: it is locked for good
      expired      it has not renewed for longer than its bot allows
      recoverable  expired, and may renew once more (instances recover)
    """


@instances.command("ls")
@click.option("--bot", help="Only those of this bot.", shell_complete=names("bots"))
@paged
@pass_asking
def ls(asking: Asking, bot: str | None, limit: int | None, after: str | None) -> None:
    """List all instances."""
    asking.show_list(
        "instances.ls", "instances", INSTANCES, bot=bot, limit=limit, after=after,
        none="no instances; a machine joins with: mezd identity start",
    )


@instances.command("show")
@click.argument("instance_id", metavar="ID", shell_complete=names("instances"))
@pass_asking
def show(asking: Asking, instance_id: str) -> None:
    """Show an instance, its keys' fingerprints and its locks."""
    asking.show(asking.call("instances.show", id=instance_id)["instance"], _write_instance)


def _write_instance(instance: Any) -> None:
    output.details(
        {
            "Id": instance["id"],
            "Bot": instance["bot"],
            "State": state(instance["state"]),
            "Generation": instance["generation"],
            "Lineage key": instance["lineage_key"],
            "Previous key": instance["previous_key"],
            "Joined": instance["joined_at"],
            "Join token": instance["token"],
            "Renewed": instance["renewed_at"],
            "Certificate ends": instance["valid_until"],
            "Address": instance["address"],
            "Host (unproven)": instance["host"],
            "Boot (unproven)": instance["boot_id"],
        }
    )
    for lock in instance["locks"]:
        write_prose(
            f"Locked ({lock['reason']}) on {lock['kind']} {lock['target']} by {lock['created_by']} "
            f"at {lock['created_at']}: {lock['message'] or '-'}",
            mark=BAD,
        )
        write_remedy(unlocking(lock))
    if instance["prove_asked"] is not None:
        write_prose(asked_line(instance["prove_asked"]), mark=SOON)
        write_remedy(f"if that is not its own machine: mezctl instances lock {instance['id']}")


@instances.command("lock")
@click.argument("instance_id", metavar="ID", shell_complete=names("instances"))
@click.option("--reason", metavar="TEXT", help="Why; shown to whoever is refused, and in the audit log.")
@click.option("--ttl", metavar="DURATION", help="How long; default: until unlocked.")
@pass_asking
def lock(asking: Asking, instance_id: str, reason: str | None, ttl: str | None) -> None:
    """Stop one machine: it neither renews nor logs in to our nodes."""
    asking.show(asking.call("instances.lock", id=instance_id, reason=reason, ttl=ttl), write_locked)


@instances.command("unlock")
@click.argument("instance_id", metavar="ID", shell_complete=names("instances"))
@click.option(
    "--keep-key", metavar="FINGERPRINT",
    help="After a fork: the lineage key (SHA256:…) whose holder goes on.",
)
@pass_asking
def unlock(asking: Asking, instance_id: str, keep_key: str | None) -> None:
    """Let a locked instance go on.

    An instance with two holders (state `forked`) is locked for good: the safe
    way is a new token for the machine and `instances rm` here.  Only if you
    know which of the two is honest, --keep-key lets that one go on; `instances
    show` has the fingerprints, and the lock's message tells who showed which.
    """
    asking.show(asking.call("instances.unlock", id=instance_id, keep_key=keep_key), _write_unlocked)


def _write_unlocked(answer: Any) -> None:
    write_line(f"Instance unlocked: {answer['locks'][0]['target']}")
    if answer["risk"]:
        hint(f"Mind: {answer['risk']}")


@instances.command("recover")
@click.argument("instance_id", metavar="ID", shell_complete=names("instances"))
@pass_asking
def recover(asking: Asking, instance_id: str) -> None:
    """Let an expired instance renew once more; then it goes on as usual.

    Nothing is to be done on the machine: its daemon holds on, and renews within
    minutes.  Past its bot's lineage age this is one certificate at a time.
    """
    answer = asking.call("instances.recover", id=instance_id)
    asking.show(
        answer["instance"], lambda done: write_line(f"Instance recoverable: {done['id']} (bot {done['bot']})")
    )


@instances.command("rm")
@click.argument("instance_id", metavar="ID", shell_complete=names("instances"))
@pass_asking
def rm(asking: Asking, instance_id: str) -> None:
    """Remove an instance; its machine needs a new token.

    Our nodes refuse the certificates that are out at once.  A plain SSH
    server honours them until they end (at most 24 hours).
    """
    asking.show(asking.call("instances.rm", id=instance_id), _write_removed)


def _write_removed(answer: Any) -> None:
    write_line(f"Instance removed: {answer['id']}")
