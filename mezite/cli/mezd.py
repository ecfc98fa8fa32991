"""`mezd`: the machine's daemon.

A command's module comes in when the command is asked for.
"""

from __future__ import annotations

import click

import mezite
from mezite.cli.helping import LazyGroup
from mezite.cli.program import LazyProgram

_COMMANDS = {
    "completion": (
        "mezite.cli.completion_command", "Print what makes SHELL complete commands, options and names."
    ),
}
_OF_IDENTITY = {
    "start": (
        "mezite.cli.mezd_start", "Join with a one-time token, write the identity, and renew it until stopped."
    ),
    "status": ("mezite.cli.mezd_status", "Say how the running daemon is."),
    "doctor": ("mezite.cli.mezd_doctor", "Say what is wrong, and what to do."),
    "leave": ("mezite.cli.mezd_leave", "End this identity, here and on the server."),
}


@click.group(
    name="mezd",
    cls=LazyProgram,
    lazy=_COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(mezite.__version__, prog_name="mezd")
def main() -> None:
    """Machine identity for SSH: joins, holds a short-lived certificate, and keeps renewing it."""


@main.group(cls=LazyGroup, lazy=_OF_IDENTITY)
def identity() -> None:
    """The identity of this machine."""
