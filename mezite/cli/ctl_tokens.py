"""`mezctl tokens`."""

from __future__ import annotations

import click

from mezite.cli.asking import Asking, Group, paged, pass_asking
from mezite.cli.names import names
from mezite.cli.output import write_line
from mezite.cli.tables import TOKENS, write_token


@click.group(cls=Group)
def tokens() -> None:
    """Join tokens: each admits one machine as a bot, once.

    The first one comes with the bot; lists show the public part only.
    """


@tokens.command("create")
@click.option("--bot", required=True, help="Name of the bot.", shell_complete=names("bots"))
@click.option("--uses", type=int, metavar="N", help="How many machines it admits; default 1.")
@click.option("--ttl", "--token-ttl", metavar="DURATION", help="How long it is good; default 1h.")
@pass_asking
def create(asking: Asking, bot: str, uses: int | None, ttl: str | None) -> None:
    """Print one more join token for a bot; the others stay good."""
    asking.show(asking.call("tokens.create", bot=bot, uses=uses, ttl=ttl), write_token)


@tokens.command("ls")
@click.option("--bot", help="Only those of this bot.", shell_complete=names("bots"))
@paged
@pass_asking
def ls(asking: Asking, bot: str | None, limit: int | None, after: str | None) -> None:
    """List all join tokens, spent ones too."""
    asking.show_list(
        "tokens.ls", "tokens", TOKENS, bot=bot, limit=limit, after=after,
        none="no tokens; create one: mezctl tokens create --bot=NAME",
    )


@tokens.command("rm")
@click.argument("token_id", metavar="ID", shell_complete=names("tokens"))
@pass_asking
def rm(asking: Asking, token_id: str) -> None:
    """Delete a token; machines that joined by it go on."""
    answer = asking.call("tokens.rm", id=token_id)
    asking.show(
        answer, lambda gone: write_line(f"Token removed: {gone['id']} (used {gone['used']}/{gone['uses']})")
    )
