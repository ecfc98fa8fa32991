"""The daemon's join token: where it comes from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from mezite.core.request import TokenText
from mezite.discreet import Discreet
from mezite.errors import InvalidInput, UsageError

STDIN = "-"
MAX_TOKEN_FILE = 4096


class TokenSource(Discreet, frozen=True):
    """Where the join token is to come from: the text itself, a file, or standard input (``-``)."""

    hidden = ("text",)

    text: str | None = None
    file: Path | None = None
    name: str = "--join-token"
    """How the person gave it, for error lines."""

    def read(self, read_stdin: Callable[[], str]) -> TokenText:
        """Raises :class:`UsageError`, which never shows the secret part."""
        try:
            return self._parsed(self._fetch(read_stdin))
        except OSError as error:
            raise UsageError(self._unreadable(error)) from None

    def read_if_any(
        self, read_stdin: Callable[[], str], tell: Callable[[str], object] = str
    ) -> TokenText | None:
        """The same where an identity is held already: the token may be gone by now, and to *tell*
        of one that cannot be read is enough."""
        try:
            text = self._fetch(read_stdin)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            tell(self._unreadable(error))
            return None
        return self._parsed(text) if text.strip() else None

    def _fetch(self, read_stdin: Callable[[], str]) -> str:
        if self.text == STDIN:
            return read_stdin()
        if self.file is None:
            return self.text or ""
        with self.file.open("rb") as file:
            return file.read(MAX_TOKEN_FILE).decode("ascii", "replace")

    def _parsed(self, text: str) -> TokenText:
        if not text.strip():
            raise UsageError(f"{self.name}: the join token is empty; is the secret set that it comes from?")
        try:
            return TokenText.from_text(text)
        except InvalidInput as error:
            raise UsageError(f"{self.name}: {error}") from None

    def _unreadable(self, error: OSError) -> str:
        where = self.file or "standard input"
        return f"{self.name}: {where}: {error.strerror}; name a readable file with the join token"
