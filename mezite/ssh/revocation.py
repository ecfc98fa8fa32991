"""Revocation lists in files, read again when they change (sshd's ``RevokedKeys``)."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from mezite.certs.krl import MAX_LIST, Revocations, parse_revocations
from mezite.errors import CertificateRejected, InvalidInput
from mezite.ssh.followed import FollowedFile

UNREADABLE = "revocations_unreadable"


class RevocationFiles:
    """KRLs and lists of public keys, as they lie on disk at the moment they are asked for.

    A file that is missing or has a fault in it makes every answer a refusal, as
    with sshd: nobody can say then who is revoked.
    """

    def __init__(self, paths: Sequence[Path]) -> None:
        effect = "nobody is let in until this is mended"
        self._files = [
            FollowedFile(path, parse_revocations, MAX_LIST, "revocation list", effect) for path in paths
        ]

    def __call__(self) -> Sequence[Revocations]:
        """What is revoked now.  Raises :class:`CertificateRejected` with
        :data:`UNREADABLE` where that cannot be known."""
        try:
            return [file.current() for file in self._files]
        except InvalidInput as error:
            raise CertificateRejected(UNREADABLE, str(error)) from None

    def look(self) -> None:
        """Reads all files, so that a fault is in the log at once."""
        for file in self._files:
            with contextlib.suppress(InvalidInput):
                file.current()
