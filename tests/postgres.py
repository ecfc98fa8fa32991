"""A PostgreSQL of the tests' own: its own data directory, never root's, gone with the test run."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg

from tests.system.processes import TIMEOUT, die_with_parent, free_port, wait_for

USER, PASSWORD, NAME = "mezite", "not/a secret: 'tests' only", "mezite"
ACCOUNT = "postgres"
"""Whom a server is started as by root, which it refuses to run as."""
_PROGRAMS = ("initdb", "postgres", "pg_basebackup", "pg_dump", "pg_restore")
_SETTINGS = {
    # Killed are processes here, never machines: what the kernel has is safe.
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "100",
    "shared_buffers": "32MB",
    "wal_level": "replica",
    "max_wal_senders": "4",
    "logging_collector": "off",
    "log_min_messages": "warning",
    "listen_addresses": "127.0.0.1",
}
_DURABLE = {**_SETTINGS, "fsync": "on", "full_page_writes": "on", "shared_buffers": "256MB",
            "max_wal_size": "4GB"}
"""As one would run it, for measurements."""


def binaries() -> Path | None:
    """Where initdb and postgres are; ``None`` where there are none."""
    found = shutil.which("pg_basebackup")
    places = [Path(found).resolve().parent] if found else []
    places += sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: path.parent.name)[::-1]
    return next((place for place in places if all((place / name).exists() for name in _PROGRAMS)), None)


MISSING = "needs PostgreSQL (Debian: postgresql): the database of several servers is NOT tested"


def _unprivileged() -> pwd.struct_passwd:
    try:
        return pwd.getpwnam(ACCOUNT)
    except KeyError:
        return pwd.getpwnam("nobody")


class Postgres:
    """One server; ``params`` are what Mezite is told of it."""

    def __init__(
        self, folder: Path | None = None, *, copy_of: Postgres | None = None, is_durable: bool = False
    ) -> None:
        found = binaries()
        assert found is not None, MISSING
        self._bin = found
        self._account = _unprivileged() if os.geteuid() == 0 else None
        self.root = folder or Path(tempfile.mkdtemp(prefix="mezpg", dir="/tmp"))
        self.data = self.root / "data"
        self.log = self.root / "log"
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._made = 0
        self._settings = _DURABLE if is_durable else _SETTINGS
        if self._account is not None:
            os.chown(self.root, self._account.pw_uid, self._account.pw_gid)
        if copy_of is None:
            self._initialise()
        else:
            self._copy(copy_of)

    # --- making -------------------------------------------------------------------------------

    def _initialise(self) -> None:
        self.tool("initdb", "-D", self.data, "-U", ACCOUNT, "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8",
                  "--no-sync", "--no-instructions")
        with (self.data / "postgresql.conf").open("a") as file:
            file.writelines(f"{key} = '{value}'\n" for key, value in self._settings.items())
        (self.data / "pg_hba.conf").write_text(
            "local all all trust\nlocal replication all trust\nhost all all 127.0.0.1/32 scram-sha-256\n"
        )
        self.start()
        with self.superuser() as connection:
            secret = PASSWORD.replace("'", "''")
            connection.execute(f"create role {USER} login password '{secret}'")
            self.create_database(NAME)

    def _copy(self, primary: Postgres) -> None:
        """A standby of *primary*, which replicates by streaming."""
        self.tool("pg_basebackup", "-D", self.data, "-h", primary.root, "-p", primary.port, "-U", ACCOUNT,
                  "-R", "--checkpoint=fast", "--no-sync")
        self.start()

    def create_database(self, name: str) -> None:
        with self.superuser() as connection:
            connection.execute(f"create database {name} owner {USER} template template0 encoding 'UTF8'")

    def tool(self, name: str, *words: str | Path | int, stdin: bytes = b"") -> str:
        """What a program of PostgreSQL's prints; it must succeed."""
        done = subprocess.run(
            [str(self._bin / name), *map(str, words)], preexec_fn=self._drop, capture_output=True,
            input=stdin, timeout=120, check=False, cwd="/", env=self._env(),
        )
        assert done.returncode == 0, (name, words, done.stderr.decode(errors="replace"))
        return done.stdout.decode(errors="replace")

    def _env(self) -> Mapping[str, str]:
        return {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", "HOME": str(self.root)}

    def _drop(self) -> None:
        # The death signal last: a change of account clears it (prctl(2)).
        if self._account is not None:
            os.setgroups([])
            os.setgid(self._account.pw_gid)
            os.setuid(self._account.pw_uid)
        die_with_parent()

    # --- running ------------------------------------------------------------------------------

    def start(self) -> None:
        """It answers; tried again while what a killed one has left is still going away."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            self._spawn()
            if self._is_up(deadline):
                return
            assert time.monotonic() < deadline, self.log.read_text(errors="replace")[-2000:]
            time.sleep(0.1)

    def _spawn(self) -> None:
        with self.log.open("ab") as log:
            words = [self._bin / "postgres", "-D", self.data, "-k", self.root, "-p", self.port]
            self._process = subprocess.Popen(
                list(map(str, words)), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                preexec_fn=self._drop, cwd="/", env=self._env(),
            )

    def _is_up(self, deadline: float) -> bool:
        assert self._process is not None
        while self._process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(psycopg.Error), self.superuser(connect_timeout=2):
                return True
            time.sleep(0.05)
        return False

    def stop(self, number: int = signal.SIGINT) -> None:
        """SIGINT ends connections (fast), SIGQUIT asks for a recovery (immediate), SIGKILL is a crash."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(TIMEOUT)

    def restart(self, number: int = signal.SIGINT) -> None:
        self.stop(number)
        self.start()

    def promote(self) -> None:
        """A standby becomes a primary."""
        with self.superuser() as connection:
            connection.execute("select pg_promote(true, 30)")

    def close(self) -> None:
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.root, ignore_errors=True)

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    # --- using --------------------------------------------------------------------------------

    @property
    def params(self) -> dict[str, str]:
        return self.params_of(NAME)

    def params_of(self, database: str) -> dict[str, str]:
        address = {"host": "127.0.0.1", "port": str(self.port)}
        return {**address, "user": USER, "password": PASSWORD, "dbname": database}

    @property
    def local_params(self) -> dict[str, str]:
        """By the socket, without a password, whose proof takes both sides milliseconds of work."""
        return {"host": str(self.root), "port": str(self.port), "user": USER, "dbname": NAME}

    @property
    def config(self) -> dict[str, Any]:
        """``database:`` in the server's configuration."""
        return {
            "driver": "postgres", "host": "127.0.0.1", "port": self.port, "user": USER, "password": PASSWORD,
            "name": NAME,
        }

    @contextlib.contextmanager
    def new_database(self) -> Iterator[dict[str, Any]]:
        """The configuration of an empty one, which is gone afterwards."""
        self._made += 1
        name = f"mezite{self._made}"
        self.create_database(name)
        yield {**self.config, "name": name}
        with self.superuser() as connection:
            connection.execute(f"drop database {name} with (force)")

    @contextlib.contextmanager
    def superuser(self, database: str = ACCOUNT, **more: Any) -> Iterator[psycopg.Connection[Any]]:
        """By the socket, without a password."""
        with psycopg.connect(
            host=str(self.root), port=self.port, user=ACCOUNT, dbname=database, autocommit=True, **more
        ) as connection:
            yield connection

    def empty(self, database: str = NAME) -> None:
        """No row of any test is left."""
        with self.superuser(database) as connection:
            names = [row[0] for row in connection.execute(
                "select tablename from pg_tables where schemaname = 'public' "
                "and tablename not in ('schema_migrations', 'counters')"
            )]
            if names:
                connection.execute(f"truncate {', '.join(names)} restart identity")
                connection.execute("update counters set next = 1")

    def wait_synchronous(self, names: Sequence[str] = ("*",)) -> None:
        """Every commit waits for a standby from now on."""
        with self.superuser() as connection:
            connection.execute(f"alter system set synchronous_standby_names = '{','.join(names)}'")
            connection.execute("select pg_reload_conf()")
        wait_for(self._has_synchronous, "synchronous standby")

    def _has_synchronous(self) -> bool:
        with self.superuser() as connection:
            return bool(connection.execute(
                "select 1 from pg_stat_replication where sync_state = 'sync'"
            ).fetchone())
