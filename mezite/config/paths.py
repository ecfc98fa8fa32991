"""Where things lie by default.  Standard library only: `mezctl` starts with this."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mezite.errors import UsageError

SERVER_CONFIG = Path("/etc/mezite/mezite.yaml")


def _home(environ: Mapping[str, str]) -> Path:
    home = environ.get("HOME")
    if home:
        return Path(home)
    try:
        return Path.home()
    except RuntimeError:
        # An account that no passwd knows, as in a container: its home is where Docker has it.
        return Path("/")


def expanded(text: str) -> Path:
    """The path *text*, where ``~`` is the home directory, and ``~name`` that of another account.

    Few shells expand it behind an equals sign, and nothing does in YAML.  Raises :class:`UsageError`.
    """
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise UsageError(
            f"{text!r}: no home directory is known for that account; write the whole path"
        ) from None


def data_dir(environ: Mapping[str, str], uid: int) -> Path:
    """The server's data directory."""
    if uid == 0:
        return Path("/var/lib/mezite")
    base = environ.get("XDG_DATA_HOME") or str(_home(environ) / ".local/share")
    return Path(base) / "mezite"


def admin_sockets(environ: Mapping[str, str], uid: int) -> tuple[Path, ...]:
    """Where the operator socket may be, the first one first."""
    return Path("/run/mezite/admin.sock"), data_dir(environ, uid) / "admin.sock"


def identity_dir(environ: Mapping[str, str], uid: int) -> Path:
    """The daemon's destination."""
    if uid == 0:
        return Path("/var/lib/mezite/identity/certs")
    return _state_home(environ) / "mezite/identity"


def last_identity(environ: Mapping[str, str]) -> Path:
    """The file in which the daemon notes its last destination, for `msh`."""
    return _state_home(environ) / "mezite/last-identity"


def _state_home(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("XDG_STATE_HOME") or str(_home(environ) / ".local/state"))
