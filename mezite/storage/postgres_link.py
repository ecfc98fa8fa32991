"""One connection to PostgreSQL: made, used and given up, each failure told in one line.

What fails is one of four things, and only the storage knows what follows:

- :class:`Clash`: another transaction came in between, or a statement took too long;
  nothing is done, try again;
- :class:`Broken`: the connection is gone, or the server takes no writes any more
  (a primary that became a standby); nothing is done, try again on a new connection;
- :class:`Away`: no connection can be had; everybody who waits would wait in vain;
- :class:`Unknown`: it went while committing.  Nobody may guess: whoever asked is
  told so, and asks again.

Any other ``StorageFailure`` is for good: a value that does not fit, a full disk.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

import psycopg
from psycopg import errors as pg
from psycopg.pq import TransactionStatus

from mezite.errors import StorageFailure
from mezite.storage.policy import PolicyCache
from mezite.storage.postgres_watch import Wires, watched
from mezite.storage.rows import Row

CONNECT_TIMEOUT_S = 3
"""For each of several hosts."""
LOCK_TIMEOUT_MS = 800
"""Below PostgreSQL's own ``deadlock_timeout``: whoever waits longer lets go of all
he holds, and tries again alone."""
STATEMENT_TIMEOUT_MS = 10_000
PATIENCE_S = 15.0
"""How long an answer is waited for: beyond what the server itself allows for any."""
IDLE_TIMEOUT_MS = 5_000
"""A transaction that nobody goes on with is ended by the server, and its locks with it."""

_SESSION = f"""set statement_timeout = {STATEMENT_TIMEOUT_MS};
set lock_timeout = {LOCK_TIMEOUT_MS};
set idle_in_transaction_session_timeout = {IDLE_TIMEOUT_MS};
set client_encoding = 'utf8'"""
_CAREFUL = ("on", "remote_apply")
"""Settings of ``synchronous_commit`` that wait for every disk that is to be waited for."""

_log = logging.getLogger(__name__)


class Clash(StorageFailure):
    """Serialization failure, deadlock, a lock not had or a statement not ended in time:
    nothing was done, and it may be another's fault."""


class Broken(StorageFailure):
    """The connection went before the commit: nothing was done."""


class Away(StorageFailure):
    """No connection can be had."""


class Unknown(StorageFailure):
    """The connection went while committing: what was asked is done, or it is not."""


@cache
def translated(statement: str) -> str:
    """A statement of ``sql`` with PostgreSQL's placeholders: none of them holds a
    question mark or a per cent sign otherwise."""
    return statement.replace("?", "%s")


class Server:
    """Where the database is: *params* are libpq's own names and values.

    *connection_class* stands in for psycopg's own in tests that inject failures.
    """

    def __init__(
        self, params: Mapping[str, str],
        connection_class: type[psycopg.Connection[Any]] = psycopg.Connection,
    ) -> None:
        self._params = dict(params)
        self.wires = Wires()
        """Of the connections made here."""
        self._class = watched(connection_class, self.wires)
        self.name = described(params)

    def connect(self) -> psycopg.Connection[Any]:
        """A connection to a server that takes writes, the first such of several hosts;
        raises :class:`Away`."""
        try:
            connection = self._class.connect(**{**_DEFAULTS, **self._params}, autocommit=True)
        except (psycopg.Error, UnicodeError) as error:
            raise Away(f"{self.name} cannot be reached: {_cause(error)}") from None
        try:
            connection.watch()
            connection.execute(_SESSION)
            found = connection.execute("show synchronous_commit").fetchone()
            if found is not None and found[0] not in _CAREFUL:
                # A commit that is told and then lost lets an old certificate renew.
                connection.execute("set synchronous_commit = on")
        except (psycopg.Error, OSError) as error:
            connection.close()
            raise Away(f"{self.name} cannot be used: {_cause(error)}") from None
        return connection


_DEFAULTS: Mapping[str, Any] = {
    "application_name": "mezite-auth",
    "connect_timeout": CONNECT_TIMEOUT_S,
    "target_session_attrs": "read-write",
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}


def described(params: Mapping[str, str]) -> str:
    """Database, hosts and account for a message; the password is in none."""
    hosts = params.get("host", "").split(",")
    ports = params.get("port", "").split(",")
    if len(ports) < len(hosts):
        ports = [ports[0]] * len(hosts)
    pairs = zip(hosts, ports, strict=False)
    where = ", ".join(f"{host or 'the local socket'}:{port or '5432'}" for host, port in pairs)
    named = (("database", "dbname"), ("user", "user"))
    more = [f"{what} {params[key]}" for what, key in named if key in params]
    return ", ".join([f"PostgreSQL at {where}", *more])


def _cause(error: BaseException) -> str:
    """What libpq says, on one line; it never says a password."""
    text = " ".join(str(error).split())
    for noise in ("connection failed: ", "connection to server ", "Multiple connection attempts failed. "):
        text = text.replace(noise, "")
    state = getattr(error, "sqlstate", None) or ""
    if "password authentication failed" in text or "no password supplied" in text:
        return f"{text}; check database.user and database.password (or password_file, PGPASSFILE)"
    if "too many clients" in text or "remaining connection slots" in text or state == "53300":
        return f"{text}; raise max_connections there, or stop what uses it up"
    if "does not exist" in text and "database" in text:
        return f"{text}; create it: createdb --encoding=UTF8 --owner=USER NAME"
    if "read-only" in text or "recovery" in text:
        return f"{text}; it is a standby, name the primary too (database.host may be a list)"
    return text


class Link:
    """One thread's connection: opened when needed, given up after a failure."""

    def __init__(self, server: Server, begin: str, connection: psycopg.Connection[Any] | None = None) -> None:
        self._server = server
        self._begin = begin
        self._connection = connection
        self._failed: StorageFailure | None = None
        self._refused: StorageFailure | None = None
        self._warned = ""
        self.policy = PolicyCache()
        self.newest_event = 0
        """The number of the newest event that the open transaction added."""
        if connection is not None:
            self._heed_warnings(connection)

    def _heed_warnings(self, connection: psycopg.Connection[Any]) -> None:
        """A standby that a commit waited for in vain is told of in a warning only."""
        def heed(diagnostic: Any) -> None:
            if diagnostic.severity_nonlocalized == "WARNING":
                self._warned = diagnostic.message_primary or "a warning"

        connection.add_notice_handler(heed)

    def begin(self) -> None:
        """A transaction is open; raises :class:`Away`, or :class:`Broken` for a
        connection that has gone since it was used last."""
        self._failed = self._refused = None
        self.newest_event = 0
        if self._connection is None:
            self._connection = self._server.connect()
            self._heed_warnings(self._connection)
        self.run(self._begin)

    def run(self, statement: str) -> None:
        """A statement without values, or several."""
        assert self._connection is not None
        try:
            self._connection.execute(statement, prepare=False)
        except Exception as error:
            raise self._told(error) from error

    def select(self, statement: str, values: Row = (), /) -> list[Any]:
        assert self._connection is not None
        try:
            return self._connection.execute(translated(statement), values).fetchall()
        except Exception as error:
            raise self._told(error) from error

    def change(self, statement: str, values: Row = (), /) -> int:
        assert self._connection is not None
        try:
            return self._connection.execute(translated(statement), values).rowcount
        except Exception as error:
            raise self._told(error) from error

    def commit(self) -> None:
        """Raises :class:`Unknown` when nobody can say whether it is committed, and
        another ``StorageFailure`` when it is not."""
        assert self._connection is not None
        self._warned = ""
        try:
            ended = self._connection.execute("commit", prepare=False).statusmessage
        except Exception as error:
            # Told to a session that stood idle: before COMMIT was read.
            if self._is_gone() and not isinstance(error, pg.IdleInTransactionSessionTimeout):
                lost = f"the connection was lost while committing ({_cause(error)})"
                raise Unknown(f"{self._server.name}: {lost}; {_UNKNOWN}") from error
            raise self._told(error) from error
        if ended != "COMMIT":
            raise StorageFailure(f"{self._server.name}: the database ended a transaction by itself")
        if self._warned:
            raise Unknown(f"{self._server.name}: committed here only ({self._warned}); {_UNKNOWN}")

    def check(self) -> None:
        """The transaction can go on; raises what a use case has hidden."""
        if self._failed is not None:
            raise self._failed

    def refusal(self) -> StorageFailure | None:
        """Why a use case that returned is undone nevertheless: it passed over a
        statement that failed."""
        assert self._connection is not None
        is_failed = self._connection.info.transaction_status == TransactionStatus.INERROR
        return self._refused if is_failed else None

    def give_up(self) -> None:
        """Nothing of the open transaction remains."""
        self.policy.forget()
        connection = self._connection
        if connection is None:
            return
        if not self._is_gone():
            try:
                connection.execute("rollback", prepare=False)
            except psycopg.Error as error:
                # Gone, and the transaction with it, is as good.
                if not self._is_gone():
                    _log.warning("%s: rollback failed: %s", self._server.name, _cause(error),
                                 extra={"event": "database.rollback_failed"})
                self.close()
        if self._is_gone() or isinstance(self._failed, Broken):
            self.close()

    def close(self) -> None:
        # The next one may lead to a promoted standby, whose counts may have been there before.
        self.policy.forget()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _is_gone(self) -> bool:
        return self._connection is None or self._connection.closed

    def _told(self, error: Exception) -> StorageFailure:
        """*error* as what it means; unless only the statement's values are at fault,
        no use case of the batch goes on."""
        name = self._server.name
        if self._is_gone() or isinstance(error, _GOING):
            self._failed = self._failed or Broken(f"{name}: the connection was lost: {_cause(error)}")
            return self._failed
        if isinstance(error, pg.SerializationFailure | pg.DeadlockDetected | pg.LockNotAvailable):
            told = f"{name}: others write the same ({_cause(error)}); ask again"
            self._failed = self._failed or Clash(told)
            return self._failed
        if isinstance(error, pg.QueryCanceled):  # by statement_timeout, or by an administrator
            told = f"{name}: the database takes too long ({_cause(error)}); ask again"
            self._failed = self._failed or Clash(told)
            return self._failed
        if isinstance(error, _UNFIT):
            way_out = "give the account back the rights of its owner, or restore it with all servers stopped"
            told = f"{name} cannot be used: {_cause(error)}; {way_out}"
            self._failed = self._failed or StorageFailure(told)
            return self._failed
        if isinstance(error, pg.ReadOnlySqlTransaction):
            self._failed = self._failed or Broken(f"{name} takes no writes: {_cause(error)}")
            return self._failed
        if isinstance(error, pg.InFailedSqlTransaction) and self._refused is not None:
            return self._refused
        if isinstance(error, _VALUES) or not isinstance(error, psycopg.Error | MemoryError):
            self._refused = StorageFailure(f"{name}: the database refuses a value: {_cause(error)}")
            return self._refused
        if self._failed is None:
            self._failed = StorageFailure(f"{name}: the database fails: {_cause(error)}")
        return self._failed


_VALUES = (
    psycopg.IntegrityError, psycopg.DataError, psycopg.ProgrammingError, psycopg.InterfaceError,
    psycopg.NotSupportedError,
)
_UNFIT = (pg.InsufficientPrivilege, pg.UndefinedTable, pg.UndefinedColumn, pg.InvalidSchemaName)
"""The database is not the one that was opened; no statement of ours is at fault."""
_GOING = (
    pg.AdminShutdown, pg.CrashShutdown, pg.CannotConnectNow, pg.IdleInTransactionSessionTimeout,
)
"""After which the server closes the connection, though that may not have been seen yet."""
_UNKNOWN = "whether it was done is not known, ask again"
