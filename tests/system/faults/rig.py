"""A cluster whose server and machines run under the preloaded library, and what must hold of them."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from cryptography.hazmat.primitives.serialization import load_ssh_private_key

from mezite.admin.client import Client, connect
from mezite.certs import keys
from mezite.certs.ssh import parse_certificate_line
from mezite.errors import MeziteError
from mezite.identity.records import Durable
from mezite.identity.state import SLOTS, parse_slot
from tests.system.faults.launcher import Launched, Launcher
from tests.system.faults.shim import VARIABLE, Faults
from tests.system.processes import Cluster, wait_for

T = TypeVar("T")
WHOLE = os.environ.get("MEZITE_SWEEP") == "all"
"""Whether every point of a sweep is run; else a part that a developer can wait for."""


def swept(points: Sequence[T], every: int = 3) -> list[T]:
    """*points*, or every so manieth of them."""
    return list(points) if WHOLE else list(points[::every])


ROLE = {
    "kind": "role",
    "metadata": {"name": "ci-deployer"},
    "spec": {
        "options": {"max_session_ttl": "1h"},
        "allow": {"node_labels": {"env": "*"}, "logins": ["deploy"]},
    },
}


class Launchers:
    """What any number of sites start their processes with; *library* is the shim, or ``None``."""

    def __init__(self, library: Path | None) -> None:
        self.servers = Launcher(library, "twistd")
        self.daemons = Launcher(library, "mezd")

    def close(self) -> None:
        self.daemons.close()
        self.servers.close()


@dataclass(kw_only=True)
class Site(Cluster):
    """A :class:`Cluster` whose processes begin as forks."""

    launchers: Launchers
    machines: dict[str, Machine] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.faults = Faults(self.root / "server.faults")
        self._admin: Client | None = None
        self._calling = threading.RLock()

    # --- the server ---------------------------------------------------------------------------

    def start(self, *, wait: bool = True) -> Launched:  # type: ignore[override]
        words: list[str | Path] = ["-n", "--pidfile=", "mezite-auth", "--config", self.config]
        env = {**self.env, VARIABLE: str(self.faults.path)}
        self.server = self.launchers.servers.start(words, env, self.root / "server.log")  # type: ignore[assignment]
        if wait:
            wait_for(self.is_serving, "server")
        return self.server  # type: ignore[return-value]

    def is_serving(self) -> bool:
        assert self.server is not None
        assert self.server.code is None, self.server.text()[-3000:]
        try:
            self.call("status")
        except MeziteError:
            return False
        return self._listens(self.port)

    def call(self, method: str, **params: Any) -> Any:
        """What an operator asks, over the server's socket."""
        with self._calling:
            if self._admin is None:
                self._admin = connect([self.data / "admin.sock"], remedy="", timeout=90)
            try:
                return self._admin.call(method, params)
            except MeziteError as error:
                if error.code == "unreachable":
                    self.hang_up()
                raise

    def hang_up(self) -> None:
        if self._admin is not None:
            self._admin.close()
            self._admin = None

    def close(self) -> None:
        self.hang_up()
        for machine in self.machines.values():
            if machine.daemon is not None:
                machine.daemon.kill()
            machine.faults.close()
        if self.server is not None:
            self.server.kill()
        super().close()
        self.faults.close()

    # --- operators ----------------------------------------------------------------------------

    def add_role(self, name: str = "ci-deployer", **changes: Any) -> None:
        document = {**ROLE, "metadata": {"name": name}}
        document["spec"] = {**ROLE["spec"], **changes}  # type: ignore[dict-item]
        self.call("roles.put", document=document)

    def token(self, bot: str) -> str:
        """A join token of *bot*, which is made if need be."""
        try:
            return str(self.call("bots.add", name=bot, roles=["ci-deployer"])["join_token"])
        except MeziteError as error:
            if error.code != "conflict":
                raise
        return str(self.call("tokens.create", bot=bot)["join_token"])

    def instances(self, bot: str) -> list[dict[str, Any]]:
        return list(self.call("instances.ls", bot=bot, limit=100)["instances"])

    def locks(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        after = None
        while True:
            params: dict[str, Any] = {} if after is None else {"after": after}
            page = self.call("locks.ls", limit=500, **params)
            found += page["locks"]
            after = page["next"]
            if after is None:
                return found

    # --- machines -----------------------------------------------------------------------------

    def machine(self, name: str = "machine") -> Machine:  # type: ignore[override]
        """One with a bot and a token of its own."""
        made = Machine(self, name)
        self.machines[name] = made
        return made


class Machine:
    """A machine: its destination, its daemon under the shim, and what is found on its disk."""

    def __init__(self, site: Site, name: str, *, home: Path | None = None) -> None:
        self.site = site
        self.name = name
        self.home = home or site.root / name
        self.home.mkdir(exist_ok=True)
        self.destination = self.home / "certs"
        self.faults = Faults(self.home / "faults")
        self.token = ""
        self.daemon: Launched | None = None

    def watch(self) -> None:
        """What is done to the destination counts from now on."""
        self.faults.watch(self.destination)

    def start(self, *words: str, port: int | None = None) -> Launched:
        """The daemon, with the machine's token; made where there is none."""
        self.token = self.token or self.site.token(self.name)
        return self.start_with(f"--join-token={self.token}", *words, port=port)

    def start_with(self, *words: str, port: int | None = None) -> Launched:
        env = {
            "PATH": os.environ["PATH"], "HOME": str(self.home), "LANG": "C.UTF-8",
            "PYTHONWARNINGS": "ignore", VARIABLE: str(self.faults.path),
        }
        argv = [
            "identity", "start", f"--auth-server=127.0.0.1:{port or self.site.port}",
            f"--destination={self.destination}", *words,
        ]
        self.daemon = self.site.launchers.daemons.start(argv, env, self.home / "mezd.log")
        return self.daemon

    def once(self, *words: str, port: int | None = None) -> int:
        """The exit code of a one-shot run."""
        return self.start("--one-shot", *words, port=port).wait()

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.daemon is not None
        return self.daemon.stop(number)

    def log(self) -> str:
        path = self.home / "mezd.log"
        return path.read_text(errors="replace") if path.exists() else ""

    # --- what its disk says -------------------------------------------------------------------

    def durable(self) -> Durable:
        """The newest whole state; an empty one where there is none."""
        found: list[tuple[int, Durable]] = []
        for name in SLOTS:
            path = self.destination / ".mezite" / name
            # Torn, or not there yet: the other one counts.
            with contextlib.suppress(Exception):
                found.append(parse_slot(path.read_bytes(), path))
        return max(found, key=lambda slot: slot[0], default=(0, Durable()))[1]

    @property
    def generation(self) -> int:
        held = self.durable().held
        return held.generation if held else 0

    @property
    def instance(self) -> str:
        held = self.durable().held
        return held.instance_id if held else ""

    def published_generation(self) -> int:
        try:
            line = (self.destination / "ssh_key-cert.pub").read_text()
        except FileNotFoundError:
            return 0
        return int(line.split()[2].rsplit("/", 1)[1])

    def check_outputs(self) -> None:
        """Whatever set a reader finds, by the names or through ssh_config, its key and certificate fit."""
        for directory in self.published_sets():
            key = load_ssh_private_key((directory / "ssh_key").read_bytes(), None)
            certificate = parse_certificate_line((directory / "ssh_key-cert.pub").read_text())
            assert certificate.subject_blob == keys.public_blob(key), directory  # type: ignore[arg-type]

    def published_sets(self) -> Iterator[Path]:
        if (self.destination / "ssh_config").exists():
            text = (self.destination / "ssh_config").read_text()
            (named,) = {line.split(None, 1)[1].strip('"') for line in text.splitlines()
                        if line.split()[:1] == ["IdentityFile"]}
            yield Path(named).parent
        if (self.destination / "current").exists() and (self.destination / "ssh_key").exists():
            yield self.destination / "current"

    def check_alone(self) -> None:
        """One instance came from the machine's token, it is the one on the disk, and it is not locked."""
        (instance,) = self.site.instances(self.name)
        assert instance["id"] == self.instance
        assert not [lock for lock in self.site.locks() if lock["target"] == self.instance]
        tokens = self.site.call("tokens.ls", bot=self.name)["tokens"]
        assert [token["used"] for token in tokens] == [1]

    def has_valid_certificate(self) -> bool:
        """What is published is valid now."""
        held = self.durable().held
        return held is not None and held.valid_before_unix > datetime.now(UTC).timestamp()
