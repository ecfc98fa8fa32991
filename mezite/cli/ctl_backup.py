"""`mezctl backup`."""

from __future__ import annotations

import os
from typing import Any

import click

from mezite.cli.asking import Asking, Command, pass_asking
from mezite.cli.output import details, hint, write_line
from mezite.cli.program import files


@click.command("backup", cls=Command)
@click.argument("file", metavar="FILE", shell_complete=files)
@pass_asking
def backup(asking: Asking, file: str) -> None:
    """Copy the database to a new FILE on the server's host, while the server runs.

    The server writes it, readable by its own account only.  A backup holds
    the CAs' private keys, encrypted where a passphrase is set, and the hashes
    of all tokens.  To go back to it: put it in the place of mezite.db while
    the server is stopped, leave mezite.mark, and then: mezctl restore
    """
    path = os.path.abspath(file)  # noqa: PTH100  # pathlib takes its time to import
    asking.show(asking.call("backup", path=path), _write)


def _write(answer: Any) -> None:
    counts = answer["counts"]
    write_line(f"Backup written: {answer['path']}")
    details(
        {
            "Size": f"{answer['bytes']} bytes",
            "Cluster": f"{answer['cluster_name']} ({answer['cluster_uuid']})",
            "Up to": f"{answer['newest_event_at']} (audit event {answer['newest_event']})",
            "CA keys": "encrypted" if answer["ca_keys_encrypted"] else "NOT encrypted",
            **{noun.capitalize(): counts[noun] for noun in ("roles", "bots", "instances", "tokens", "locks")},
        }
    )
    if not answer["ca_keys_encrypted"]:
        hint("Whoever reads this file is the CA: keep it as you keep root's keys.")
