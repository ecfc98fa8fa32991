"""`mezctl bots`."""

from __future__ import annotations

from typing import Any

import click

from mezite.cli import output
from mezite.cli.asking import Asking, Group, listed, paged, pass_asking
from mezite.cli.names import names, several_names
from mezite.cli.output import hint, write_line, write_prose, write_remedy
from mezite.cli.tables import INSTANCES, TOKENS, of_one_bot, state, unlocking, write_locked, write_token
from mezite.cli.terminal import BAD

_COLUMNS = {
    "NAME": lambda bot: bot["name"],
    "ROLES": lambda bot: bot["roles"],
    "STATE": lambda bot: state("locked" if bot["locked"] else "active"),
    "TTL": lambda bot: bot["ttl"],
    "RENEWABLE FOR": lambda bot: bot["renewable_for"],
    "CREATED": lambda bot: output.When(bot["created_at"]),
}


@click.group(cls=Group)
def bots() -> None:
    """Bots: machine identities.

    A bot is a name for the roles that its machines get.  A machine becomes an
    instance of the bot with a one-time join token.
    """


@bots.command("add")
@click.option("--name", required=True, help="Name of the bot.")
@click.option("--roles", required=True, multiple=True, metavar="ROLE[,ROLE]", help="Its roles.",
              shell_complete=several_names("roles"))
@click.option("--token-ttl", metavar="DURATION", help="How long the join token is good; default 1h.")
@click.option("--uses", type=int, metavar="N", help="How many machines the token admits; default 1.")
@click.option("--ttl", metavar="DURATION", help="TTL of certificates where the machine asks for none; "
              "default 1h, at most 24h.")
@click.option("--renewable-for", metavar="DURATION", help="How long after its last renewal a machine may "
              "still renew; default 7d, at most 90d.")
@click.option("--max-lineage-age", metavar="DURATION", help="How long after its join a machine may renew; "
              "default: without end.")
@click.option("--source-address", multiple=True, metavar="CIDR[,CIDR]",
              help="Where certificates may be used from; default: anywhere.")
@pass_asking
def add(
    asking: Asking,
    name: str,
    roles: tuple[str, ...],
    token_ttl: str | None,
    uses: int | None,
    ttl: str | None,
    renewable_for: str | None,
    max_lineage_age: str | None,
    source_address: tuple[str, ...],
) -> None:
    """Create a bot and print its first join token.

    The token is shown this once; the server keeps only a hash of it.

    \b
    mezctl bots add --name=github-deploy --roles=ci-deployer --token-ttl=1h
    """
    answer = asking.call(
        "bots.add",
        name=name,
        roles=listed(roles),
        token_ttl=token_ttl,
        uses=uses,
        ttl=ttl,
        renewable_for=renewable_for,
        max_lineage_age=max_lineage_age,
        # Given, and empty (of a variable that is not set), it must not mean "anywhere".
        source_address=listed(source_address) if source_address else None,
    )
    asking.show(answer, _write_added)


def _write_added(answer: Any) -> None:
    bot = answer["bot"]
    write_line(f"Bot created: {bot['name']} (roles: {', '.join(bot['roles'])})")
    write_token(answer)


@bots.command("ls")
@paged
@pass_asking
def ls(asking: Asking, limit: int | None, after: str | None) -> None:
    """List all bots."""
    asking.show_list(
        "bots.ls", "bots", _COLUMNS, limit=limit, after=after,
        none="no bots yet; create one: mezctl bots add --name=NAME --roles=ROLE",
    )


@bots.command("show")
@click.argument("name", shell_complete=names("bots"))
@pass_asking
def show(asking: Asking, name: str) -> None:
    """Show a bot with its locks, tokens and instances."""
    asking.show(asking.call("bots.show", name=name)["bot"], _write_bot)


def _write_bot(bot: Any) -> None:
    output.details(
        {
            "Name": bot["name"],
            "Roles": bot["roles"],
            "State": state("locked" if bot["locked"] else "active"),
            "Created": bot["created_at"],
            "Certificate TTL": bot["ttl"] or "1h unless the machine asks",
            "Renewable for": bot["renewable_for"],
            "Lineage age": bot["max_lineage_age"] or "without end",
            "Source address": bot["source_address"] or "anywhere",
            "Id": bot["id"],
        }
    )
    for lock in bot["locks"]:
        write_prose(
            f"Locked by {lock['created_by']} at {lock['created_at']}: {lock['message'] or '-'}", mark=BAD
        )
        write_remedy(unlocking(lock))
    for noun, columns in (("instances", INSTANCES), ("tokens", TOKENS)):
        write_line()
        if not bot[noun]:
            write_line(f"No {noun}.")
            continue
        write_line(f"{noun.capitalize()}:")
        output.table(of_one_bot(columns), bot[noun], indent="  ")
        if bot[f"more_{noun}"]:
            write_line(f"  … and more: mezctl {noun} ls --bot {bot['name']}")


@bots.command("rotate-token")
@click.argument("name", shell_complete=names("bots"))
@click.option("--token-ttl", "--ttl", metavar="DURATION", help="How long the new token is good; default 1h.")
@pass_asking
def rotate_token(asking: Asking, name: str, token_ttl: str | None) -> None:
    """Print a new join token; the bot's old ones admit nobody any more.

    Machines that have joined already go on as before.
    """
    asking.show(asking.call("bots.rotate_token", name=name, token_ttl=token_ttl), write_token)


@bots.command("rm")
@click.argument("name", shell_complete=names("bots"))
@pass_asking
def rm(asking: Asking, name: str) -> None:
    """Remove a bot, its instances and its tokens.

    Its machines get no new certificate, and our nodes refuse those that are
    out at once.  A plain SSH server honours them until they end (at most 24
    hours).
    """
    asking.show(asking.call("bots.rm", name=name), _write_removed)


def _write_removed(answer: Any) -> None:
    count = answer["instances"]
    write_line(f"Bot removed: {answer['bot']['name']} ({count} instance{'s' if count != 1 else ''})")
    for lock in answer["name_locks"]:
        hint(
            f"the lock {lock['id']} on its name stays, and stops a new bot of that name; "
            f"to remove it: mezctl locks rm {lock['id']}"
        )


@bots.command("lock")
@click.argument("name", shell_complete=names("bots"))
@click.option("--reason", metavar="TEXT", help="Why; shown to whoever is refused, and in the audit log.")
@click.option("--ttl", metavar="DURATION", help="How long; default: until unlocked.")
@pass_asking
def lock(asking: Asking, name: str, reason: str | None, ttl: str | None) -> None:
    """Stop a bot: none of its machines joins, renews or logs in to our nodes.

    Plain SSH servers honour certificates that are out until they end.
    """
    asking.show(asking.call("bots.lock", name=name, reason=reason, ttl=ttl), write_locked)


@bots.command("unlock")
@click.argument("name", shell_complete=names("bots"))
@pass_asking
def unlock(asking: Asking, name: str) -> None:
    """Let a locked bot go on."""
    answer = asking.call("bots.unlock", name=name)
    asking.show(answer, lambda _: write_line(f"Bot unlocked: {name}"))
