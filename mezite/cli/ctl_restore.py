"""`mezctl restore`."""

from __future__ import annotations

from typing import Any

import click

from mezite.cli.asking import Asking, Command, pass_asking
from mezite.cli.output import hint, write_line


@click.command("restore", cls=Command)
@click.option(
    "--since", metavar="TIME",
    help="When the backup was made, as in 2026-03-24T14:00:00Z; default: when the database was written "
    "last before the server started on it.",
)
@pass_asking
def restore(asking: Asking, since: str | None) -> None:
    """Say that the server's database was put back from a backup.

    Every join token in it is voided, since it may have been used after the
    backup; serials start anew above all that were issued; and what may be
    missing is listed.  To do it twice does no harm.
    """
    asking.show(asking.call("restore", since=since), _write)


def _write(answer: Any) -> None:
    bots = f" (bots: {', '.join(answer['bots'])})" if answer["bots"] else ""
    write_line(f"Join tokens voided: {answer['voided_tokens']}{bots}")
    write_line(f"Serials from now on: {answer['first_serial']} and above")
    write_line()
    if answer["since"] is None:
        write_line(f"Missing is what was done before {answer['until']} and after the backup was made:")
    else:
        write_line(f"Missing is what was done from {answer['since']} to {answer['until']}:")
    write_line("  machines that joined      refused with instance_unknown; each needs a new token")
    for one in answer["unknown_instances"]:
        write_line(f"    {one['instance']} at {one['address']}, {one['at']}")
    write_line("  machines that renewed     adopted when they come, nothing to do; so far: "
               f"{answer['adopted_instances']}")
    write_line("  locks, also final ones    set them again: mezctl locks add; here are: mezctl locks ls")
    write_line("  removals                  of bots, instances, roles and tokens: remove them again")
    write_line("  bots, roles and tokens    make them again, then: mezctl bots rotate-token NAME")
    write_line("  audit events              only what has left this machine is left of them")
    hint("If the server was restarted since the database was put back, give the backup's time: --since.")
