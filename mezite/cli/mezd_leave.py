"""`mezd identity leave`: the identity's end, from its own side."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import click

from mezite.cli.helping import Command
from mezite.cli.program import directories, files
from mezite.config import daemon


@click.command(cls=Command)
@click.option("--config", metavar="FILE", shell_complete=files, help="As with start.")
@click.option("--destination", metavar="DIR", shell_complete=directories, help="As with start.")
@click.option("--auth-server", metavar="HOST[:PORT]", help="Default: those that the identity came from.")
@click.option("--ca-file", metavar="FILE", shell_complete=files, help="As with start.")
def leave(**flags: Any) -> None:
    """End this identity, here and on the server.

    The last step of a job that has joined for itself.  The daemon must have been stopped.
    Certificates that are out are refused by Mezite's own nodes at once, by a plain sshd when they end.

    Exit codes: 0 it is over, 1 failed and worth another try, 2 there is none, 3 refused by the server.
    """
    config = daemon.load(flags, os.environ, os.geteuid())
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from mezite.cli.mezd_outputs import OutputParts
    from mezite.identity.given import end_identity, no_identity
    from mezite.identity.state import StateFile, is_there

    if not is_there(config.destination):
        raise no_identity(config)
    parts, state_file = OutputParts(config), StateFile(config.destination)
    try:
        parts.hold()
        held = asyncio.run(end_identity(config, state_file.load(), state_file))
        for directory in parts.directories.values():
            directory.erase()
        state_file.erase()
        click.echo(f"left: bot {held.bot}, instance {held.instance_id}, generation {held.generation}")
    finally:
        parts.release()
        state_file.release()
