"""Every exception of Mezite, and every reason for which the server refuses.

One root, :class:`MeziteError`; each error has a stable ``code`` and a message
of one line, written for the person who will read it.  Each edge (gRPC, admin
socket, command line) has one table that maps these errors to its own terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum


class ReasonClass(Enum):
    """What a refused machine can do about it (docs/protocol.md, "Reasons")."""

    RETRY = "retry"
    """It may pass: hold on to the identity and ask again, slowly."""

    REJOIN = "rejoin"
    """This lineage is over or cannot go on by itself: a new token is needed."""

    STOP = "stop"
    """Asking again is pointless until a person changes something."""


class Reason(Enum):
    """Why the server refuses: a stable code, and the class it belongs to.

    The code travels in every refusal, appears literally in error lines and in
    audit rows, and never changes its meaning.
    """

    # Join: the proof of admission.
    TOKEN_UNKNOWN = "token_unknown", ReasonClass.STOP
    TOKEN_EXPIRED = "token_expired", ReasonClass.STOP
    TOKEN_USED = "token_used", ReasonClass.STOP
    TOKEN_ROTATED = "token_rotated", ReasonClass.STOP
    # Renew: the lineage.
    PROVE = "prove", ReasonClass.RETRY
    BAD_PROOF = "bad_proof", ReasonClass.REJOIN
    INSTANCE_UNKNOWN = "instance_unknown", ReasonClass.REJOIN
    GENERATION_MISMATCH = "generation_mismatch", ReasonClass.REJOIN
    EXPIRED = "expired", ReasonClass.REJOIN
    # Policy, for both.
    LOCKED = "locked", ReasonClass.RETRY
    BOT_GONE = "bot_gone", ReasonClass.STOP
    ROLE_GONE = "role_gone", ReasonClass.RETRY
    ROLE_UNFIT = "role_unfit", ReasonClass.RETRY
    NO_LOGINS = "no_logins", ReasonClass.RETRY
    INTERVAL_TOO_LONG = "interval_too_long", ReasonClass.STOP
    # The request and the server themselves.
    INVALID_REQUEST = "invalid_request", ReasonClass.STOP
    CLOCK_SKEW = "clock_skew", ReasonClass.RETRY
    SERVER_CLOCK = "server_clock", ReasonClass.RETRY
    DATABASE_RESTORED = "database_restored", ReasonClass.RETRY
    TOO_OFTEN = "too_often", ReasonClass.RETRY
    UNAVAILABLE = "unavailable", ReasonClass.RETRY

    def __init__(self, code: str, reason_class: ReasonClass) -> None:
        self.code = code
        self.reason_class = reason_class

    @classmethod
    def from_code(cls, code: str) -> Reason:
        """The reason with this code; ``KeyError`` when there is none."""
        return _REASONS[code]


_REASONS = {reason.code: reason for reason in Reason}


class MeziteError(Exception):
    """The root: ``str(error)`` is one line that names the thing and the way out."""

    code = "error"


class UsageError(MeziteError):
    """A flag, a configuration key or a file that a person wrote is wrong."""

    code = "usage"


class InvalidInput(MeziteError):
    """A value from outside does not have the form it must have.

    ``path`` names the place inside a document (``spec.allow.logins``), and is
    empty where there is none.
    """

    code = "invalid"

    def __init__(self, message: str, path: str = "") -> None:
        super().__init__(f"{path}: {message}" if path else message)
        self.path = path


class NotFound(MeziteError):
    """The bot, role, token, instance or lock that was named does not exist."""

    code = "not_found"


class Conflict(MeziteError):
    """What was asked contradicts what is there (a name taken, a role in use)."""

    code = "conflict"


class PermissionDenied(MeziteError):
    """The caller is known and may not do this."""

    code = "permission_denied"


class Refused(MeziteError):
    """The server refuses a join or a renewal.

    ``nonce`` is set with :attr:`Reason.PROVE` only: sign the same request
    again over it.  ``server_time_unix_ms`` is the server's clock, 0 when the
    answer did not carry it.  ``retry_after_ms`` is when a server that has too much
    to do wants to be asked again, 0 where it does not say.
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        nonce: bytes = b"",
        server_time_unix_ms: int = 0,
        retry_after_ms: int = 0,
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.nonce = nonce
        self.server_time_unix_ms = server_time_unix_ms
        self.retry_after_ms = retry_after_ms

    @property
    def code(self) -> str:  # type: ignore[override]  # per instance here
        return self.reason.code


class Unreachable(MeziteError):
    """No answer came: the outcome of what was asked is unknown."""

    code = "unreachable"


class NoAnswer(Unreachable):
    """The answer did not come in time: the server may have too much to do."""


class UntrustedServer(MeziteError):
    """The server's certificate is not the one that the pin or CA file names."""

    code = "untrusted_server"


class UntimelyServer(UntrustedServer):
    """It is one, but not valid now, by this machine's clock: set right, it may be."""


class CertificateRejected(MeziteError):
    """A certificate is malformed, or is not good for what it is presented for.

    ``code`` is per instance: the stable code that goes into the audit log.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.rejection = code

    @property
    def code(self) -> str:  # type: ignore[override]  # per instance here
        return self.rejection


class StorageFailure(MeziteError):
    """The database cannot be used: missing rights, corrupt, full, too new."""

    code = "storage"


class StateFailure(MeziteError):
    """The daemon's state directory cannot be used, and what to do about it."""

    code = "state"


def did_you_mean(name: str, known: Sequence[str], listed: str, also: Sequence[str] = ()) -> str:
    """How a line about a *name* that is not *known* goes on: the nearest one, or all, as *listed*.
    Those that are *also* good may be the nearest."""
    # Needed for mistakes alone.
    from difflib import get_close_matches

    near = get_close_matches(name, [*known, *also], n=1)
    return f"did you mean {near[0]}?" if near else f"{listed}: {', '.join(known) or 'none'}"
