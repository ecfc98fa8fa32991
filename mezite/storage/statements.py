"""What an adapter gives a transaction: statements that run, and serial numbers."""

from __future__ import annotations

from typing import Any, Protocol

from mezite.errors import StorageFailure
from mezite.storage import sql
from mezite.storage.rows import Row


class Statements(Protocol):
    """What runs a statement in the open transaction: an adapter's one duty.

    Raises nothing but ``StorageFailure``.
    """

    def select(self, statement: str, values: Row = (), /) -> list[Any]:
        """Every row that the statement finds."""
        ...

    def change(self, statement: str, values: Row = (), /) -> int:
        """How many rows the statement changed."""
        ...


class Serials:
    """Serial numbers, reserved from the database a block at a time.

    ``limit`` is the end of the block as the database has it.  Whoever rolls a
    reservation back puts the old ``limit`` back too, but never ``next``: a
    number given out once is not given out again, even by a use case that was
    then undone.  What is left of a block when the process ends is a gap.
    """

    BLOCK = 100

    def __init__(self) -> None:
        self.next = 1
        self.limit = 1

    def take(self, statements: Statements) -> int:
        if self.next >= self.limit:
            statements.change(sql.RESERVE_SERIALS, (self.BLOCK, self.next, self.next))
            ((self.limit,),) = statements.select(sql.NEXT_SERIAL)
            self.next = self.limit - self.BLOCK
        serial = self.next
        self.next += 1
        return serial

    def raise_to(self, statements: Statements, least: int) -> None:
        """What is left below *least* of the block is a gap."""
        statements.change(sql.RAISE_SERIALS, (least, least))
        if self.next < least:
            self.next = self.limit = least


class Ended:
    """Stands in for the statements of a transaction that is over."""

    def select(self, statement: str, values: Row = (), /) -> list[Any]:
        raise StorageFailure("this transaction has ended; a use case keeps nothing of it")

    def change(self, statement: str, values: Row = (), /) -> int:
        raise StorageFailure("this transaction has ended; a use case keeps nothing of it")
