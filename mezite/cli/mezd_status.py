"""`mezd identity status`: how the running daemon is."""

from __future__ import annotations

import os
import sys

import click

from mezite.cli import failures
from mezite.cli.asking import Asking
from mezite.cli.helping import Command
from mezite.cli.identity_text import write_status
from mezite.cli.program import FORMATS, directories, files


@click.command(cls=Command)
@click.option("--destination", metavar="DIR", shell_complete=directories,
              help="As with start; default: the one written last.")
@click.option("--control-socket", metavar="PATH", shell_complete=files, help="As with start.")
@click.option("--format", "format_", type=click.Choice(FORMATS), default="text",
              help="text is the default.")
def status(destination: str | None, control_socket: str | None, format_: str) -> None:
    """Say how the running daemon is.

    What it holds, how long that lasts, when it renews, and what troubles it.

    Exit codes: 0 ready, 1 not ready or no daemon.
    """
    where = destination or os.environ.get("MEZITE_DESTINATION")
    socket_path = control_socket or os.environ.get("MEZITE_CONTROL_SOCKET")
    asking = Asking(
        socket_path or (f"{where}/.mezite/control.sock" if where else None), format_,
        daemon_remedy="start the daemon with: mezd identity start, or name its --destination DIR or "
        "--control-socket PATH; what is wrong says: mezd identity doctor",
    )
    answer = asking.daemon().call("identity.status")
    asking.show(answer, write_status)
    sys.exit(failures.DONE if answer["ready"] else failures.FAILED)
