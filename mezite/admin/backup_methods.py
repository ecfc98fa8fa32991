"""`backup` on the operator socket: a copy of the database in a file of the server's host."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from mezite.admin.auth_methods import Method, Run
from mezite.admin.caller import Caller
from mezite.admin.params import Params
from mezite.admin.records import Object, when
from mezite.auth.backup import Contents, contents, note_backup
from mezite.auth.context import Context, Operator, Transaction
from mezite.errors import InvalidInput, PermissionDenied, StorageFailure

BACKUPS = "backups"
"""The directory in the data directory where every operator may have copies put."""


class BackUp(Protocol):
    def __call__(self, target: Path, look: Callable[[Transaction], Contents]) -> Contents: ...


def backup_methods(context: Context, run: Run, back_up: BackUp, data_dir: Path) -> dict[str, Method]:
    """*back_up* copies the database to a new file, from any thread."""

    async def backup(caller: Caller, values: Mapping[str, Any]) -> Object:
        target = _target(caller, Params(values, "path").text("path"), data_dir)

        def copy(tx: Transaction) -> Contents:
            # In a reading thread of the storage; on a connection of its own.
            return back_up(target, contents)

        made = await run(copy, write=False)
        operator = Operator(caller.uid, caller.name)
        await run(lambda tx: note_backup(context, tx, operator, str(target), made), write=True)
        return {
            "path": str(target),
            "bytes": target.stat().st_size,
            "cluster_name": made.cluster_name,
            "cluster_uuid": made.cluster_uuid,
            "counts": dict(made.counts),
            "newest_event": made.newest_event,
            "newest_event_at": None if made.newest_event_at is None else when(made.newest_event_at),
            "ca_keys_encrypted": made.encrypted,
        }

    return {"backup": backup}


def _target(caller: Caller, text: str, data_dir: Path) -> Path:
    """Where the copy goes.  The server writes it, with its own rights: members of the
    group, who may have fewer, only have it put among the server's own files."""
    target = Path(text)
    if not target.is_absolute() or target.name in ("", "..") or "\0" in text:
        raise InvalidInput("expected the absolute path of a file", "path")
    own = data_dir / BACKUPS
    if target.parent == own:
        try:
            own.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise StorageFailure(f"{own} cannot be made: {error.strerror}; make it yourself") from error
    elif caller.uid not in (0, os.geteuid()):
        raise PermissionDenied(f"only root and the server's account may have backups put outside of {own}")
    return target
