"""Imports point inward: the table of docs/architecture.md, enforced.

Every import statement of the package counts, those inside functions too.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import mezite

PACKAGE = Path(mezite.__file__).parent
ROOT = PACKAGE.parent

EVERYBODYS = ("mezite.discreet", "mezite.errors", "mezite.parts", "mezite.__version__")

# Which of our own packages a package may import besides itself and those; longest name first decides.
MAY_IMPORT: dict[str, tuple[str, ...]] = {
    "mezite.discreet": (),
    "mezite.errors": (),
    "mezite.database": ("mezite.config.database", "mezite.core", "mezite.storage"),
    "mezite.lockfile": (),
    "mezite.parts": (),
    "mezite.logs": (),
    "mezite.diagnostics": (),
    "mezite.places": ("mezite.certs", "mezite.lockfile"),
    "mezite.reloading": (),
    "mezite.stopping": (),
    "mezite.supervision": (),
    "mezite.threads": (),
    "mezite.upkeep": ("mezite.auth", "mezite.core", "mezite.storage.interface", "mezite.threads"),
    "mezite.config": ("mezite.core",),
    "mezite.core": (),
    "mezite.certs": ("mezite.core",),
    "mezite.storage": ("mezite.core", "mezite.lockfile"),
    "mezite.auth": ("mezite.core", "mezite.certs", "mezite.storage.interface"),
    "mezite.proto": (),
    "mezite.rpc.client": ("mezite.core", "mezite.certs", "mezite.proto", "mezite.rpc.messages",
                          "mezite.rpc.status", "mezite.rpc.first_contact"),
    "mezite.rpc.first_contact": ("mezite.core", "mezite.certs"),
    "mezite.rpc.messages": ("mezite.core", "mezite.proto"),
    "mezite.rpc.status": ("mezite.core", "mezite.proto"),
    "mezite.rpc": ("mezite.metering", "mezite.auth", "mezite.certs", "mezite.core", "mezite.threads",
                   "mezite.proto"),
    "mezite.ssh": ("mezite.auth", "mezite.certs", "mezite.core", "mezite.threads"),
    "mezite.agent": ("mezite.core", "mezite.certs", "mezite.admin.socketfile", "mezite.admin.listener",
                     "mezite.admin.caller"),
    "mezite.admin.client": (),
    "mezite.admin": ("mezite.auth", "mezite.certs", "mezite.core", "mezite.threads"),
    "mezite.identity": ("mezite.core", "mezite.certs", "mezite.rpc.client", "mezite.admin.protocol",
                        "mezite.agent", "mezite.lockfile", "mezite.metering", "mezite.supervision"),
    "mezite.identity.given": ("mezite.config.daemon", "mezite.core", "mezite.identity", "mezite.rpc.client"),
    "mezite.client.conch": ("mezite.certs", "mezite.client.credential", "mezite.ssh.client"),
    "mezite.client": ("mezite.config.daemon", "mezite.core", "mezite.certs", "mezite.identity"),
    "mezite.cli.mezd_start": ("mezite.config", "mezite.cli", "mezite.core", "mezite.daemon_metrics",
                              "mezite.diagnostics", "mezite.identity", "mezite.logs", "mezite.supervision"),
    "mezite.cli.mezd_leave": ("mezite.config", "mezite.cli", "mezite.identity"),
    "mezite.cli.ctl_certs": ("mezite.certs", "mezite.cli"),
    "mezite.cli.mezd_doctor": ("mezite.config", "mezite.cli", "mezite.core", "mezite.identity",
                               "mezite.rpc.client", "mezite.admin.client"),
    "mezite.cli.mezd_outputs": ("mezite.config", "mezite.identity", "mezite.agent", "mezite.lockfile"),
    "mezite.cli.ctl_db": ("mezite.config", "mezite.cli", "mezite.lockfile", "mezite.storage.moving"),
    "mezite.cli": ("mezite.config", "mezite.cli", "mezite.admin.client", "mezite.core"),
    "mezite.core_services": ("mezite.auth", "mezite.config.server", "mezite.core", "mezite.database",
                             "mezite.threads"),
    "mezite.internal_node": ("mezite.admin.listener", "mezite.auth", "mezite.config.server",
                             "mezite.core_services", "mezite.places", "mezite.ssh"),
    "mezite.metering": (),
    "mezite.metrics": ("mezite.metering",),
    "mezite.daemon_metrics": ("mezite.identity.service", "mezite.metrics"),
    "mezite.server_metrics": ("mezite.auth", "mezite.core", "mezite.core_services", "mezite.metering",
                              "mezite.metrics"),
    "mezite.workers": ("mezite.metering", "mezite.storage.interface"),
    "mezite.worker": ("mezite.config.server", "mezite.logs", "mezite.stopping", "mezite.tap",
                      "mezite.storage.interface", "mezite.tap_options", "mezite.workers"),
    "mezite.tap_options": ("mezite.config.server", "mezite.core", "mezite.logs", "mezite.reloading",
                           "mezite.stopping"),
    "mezite.tap": ("mezite.admin", "mezite.auth", "mezite.config", "mezite.core", "mezite.core_services",
                   "mezite.diagnostics", "mezite.internal_node", "mezite.logs",
                   "mezite.metering", "mezite.places", "mezite.reloading", "mezite.rpc",
                   "mezite.server_metrics", "mezite.storage.interface", "mezite.stopping",
                   "mezite.supervision", "mezite.tap_options", "mezite.upkeep", "mezite.workers"),
}

# Top-level names that a package may never import.
NEVER: dict[str, tuple[str, ...]] = {
    "mezite.core": ("twisted", "grpc", "sqlite3", "os", "time", "random", "socket", "threading", "asyncio",
                    "subprocess", "pathlib"),
    "mezite.certs": ("twisted", "grpc", "sqlite3", "os", "time", "random", "socket", "threading", "pathlib"),
    "mezite.storage": ("twisted", "grpc", "cryptography"),
    "mezite.auth": ("twisted", "grpc", "sqlite3", "os", "time", "random", "socket", "threading", "asyncio"),
    "mezite.admin.client": ("twisted", "grpc", "cryptography", "yaml"),
    "mezite.cli.mezctl": ("twisted", "grpc", "cryptography"),
    "mezite.cli.mezd": ("twisted", "grpc", "cryptography"),
    "mezite.cli.msh": ("twisted", "grpc", "cryptography", "yaml"),
    "mezite.identity.machine": ("twisted", "grpc", "os", "time", "random", "socket", "asyncio"),
}

ONLY_USERS = {"txaio": ("mezite.threads", "mezite.client.aio", "mezite.client.tx")}


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if "_pb2" not in name:
            yield name, path


def imports(path: Path) -> set[str]:
    """Full names of what the file imports, type-checking imports excepted."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def rule(table: dict[str, tuple[str, ...]], module: str) -> tuple[str, tuple[str, ...]]:
    """The entry with the longest name that *module* lies under."""
    names = [name for name in table if module == name or module.startswith(name + ".")]
    best = max(names, key=len, default="")
    return best, table.get(best, ())


def under(name: str, package: str) -> bool:
    return name == package or name.startswith(package + ".")


@pytest.mark.parametrize(("module", "path"), list(modules()), ids=lambda value: str(value).rpartition("/")[2])
def test_imports_point_inward(module: str, path: Path) -> None:
    """A package imports only what the table grants it."""
    if module == "mezite":
        assert not {name for name in imports(path) if name != "__future__.annotations"}
        return
    home, granted = rule(MAY_IMPORT, module)
    assert home, f"{module} has no line in the table"
    _, never = rule(NEVER, module)
    for name in imports(path):
        if under(name, "mezite"):
            allowed = name == "mezite" or any(
                under(name, one) for one in (home, *EVERYBODYS, *granted)
            )
            assert allowed, f"{module} imports {name}"
        top = name.partition(".")[0]
        assert top not in never, f"{module} imports {top}"
        assert module in ONLY_USERS.get(top, (module,)), f"{module} imports {top}"


def test_the_table_speaks_of_modules_that_exist() -> None:
    """A renamed module cannot slip out of its rule."""
    names = {name for name, _ in modules()} | {"mezite.proto"}
    granted = {one for grants in MAY_IMPORT.values() for one in grants}
    users = [user for of_one in ONLY_USERS.values() for user in of_one]
    missing = {name for name in (*MAY_IMPORT, *NEVER, *granted, *users) if name not in names}
    assert missing == set()


def test_nothing_imports_the_composition_root() -> None:
    importers = {
        module for module, path in modules() if any(under(name, "mezite.tap") for name in imports(path))
    }
    assert importers == {"mezite.worker"}, "a program of its own, as twistd's plugin is"
