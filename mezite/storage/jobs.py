"""A use case that waits for its transaction, and whoever waits for its outcome."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from mezite.storage.interface import Transaction


class Job:
    __slots__ = ("future", "is_reading", "use_case")

    def __init__(self, use_case: Callable[[Transaction], Any], is_reading: bool) -> None:
        self.future: Future[Any] = Future()
        self.use_case = use_case
        self.is_reading = is_reading

    def start(self) -> bool:
        """Whether it is still wanted; then it is not cancelled any more."""
        return self.future.set_running_or_notify_cancel()

    def settle(self, result: Any, error: BaseException | None) -> None:
        """The future is resolved, if it is not yet."""
        if self.future.done():
            return
        if error is None:
            self.future.set_result(result)
        else:
            self.future.set_exception(error)
