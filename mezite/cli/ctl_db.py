"""`mezctl db`: the database itself, while no server runs on it."""

from __future__ import annotations

import os
from pathlib import Path

import click

from mezite.cli.asking import Asking, Command, Group, pass_asking
from mezite.cli.output import details, hint, write_line
from mezite.cli.program import files

MOVED = ".moved"


@click.group(cls=Group)
def db() -> None:
    """The database itself, while no server runs on it."""


@db.command("migrate", cls=Command)
@click.option("--from", "source", type=click.Choice(["sqlite"]), required=True, help="What it is now.")
@click.option("--to", "target", type=click.Choice(["postgres"]), required=True, help="What it is to be.")
@click.option("--config", metavar="FILE",
              help="The server's configuration, with database.driver postgres already; default: "
                   "/etc/mezite/mezite.yaml.", shell_complete=files)
@click.option("--file", metavar="FILE", help="The SQLite file; default: mezite.db in the data_dir.",
              shell_complete=files)
@pass_asking
def migrate(asking: Asking, source: str, target: str, config: str | None, file: str | None) -> None:
    """Move everything from the SQLite file into an empty PostgreSQL database.

    Stop the server first.  All of it is moved, compared and committed at once, or
    nothing is.  Machines, tokens and CAs stay what they are: start the server on
    the new database, and they go on.  The file is kept under another name, so that
    no server starts on it again.
    """
    from mezite.config.database import POSTGRES
    from mezite.config.server import ServerConfig
    from mezite.errors import UsageError
    from mezite.lockfile import LockFile

    found = ServerConfig.load(Path(config) if config else None, os.environ, os.geteuid())
    if found.database.driver != POSTGRES:
        raise UsageError(f"{config or 'the configuration'}: database.driver is not postgres yet; "
                         "write the new database into it, see docs/storage.md")
    try:
        from mezite.storage.moving import move
    except ImportError as error:
        raise UsageError(f"this needs psycopg ({error}): pip install 'mezite[postgres]'") from None
    path = Path(file) if file else found.data_dir / "mezite.db"
    if not path.is_file():
        raise UsageError(f"{path} is no file; name the SQLite file with --file, or its data_dir")
    # A link's own directory is not the one that a server of the database has locked.
    path = path.resolve()
    lock = LockFile(path.parent / "lock", f"the data directory {path.parent}")
    try:
        moved = move(path, found.database.params)
        kept = _kept(path)
    finally:
        lock.release()
    asking.show({"tables": moved, "kept": str(kept)}, lambda answer: _write(moved, kept))


def _kept(path: Path) -> Path:
    """The file under its new name, with no log beside it: its last connection has been closed."""
    kept = path.with_name(path.name + MOVED)
    number = 1
    while kept.exists():
        number += 1
        kept = path.with_name(f"{path.name}{MOVED}{number}")
    path.rename(kept)
    return kept


def _write(moved: dict[str, int], kept: Path) -> None:
    write_line("Moved, and compared row by row:")
    details(dict(sorted(moved.items())), "  ")
    hint(f"The file is kept as {kept}. It holds the CAs' keys: destroy it once all is well.")
