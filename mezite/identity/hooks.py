"""Programs that are run after a renewal: at least once for each, never two at once, never for ever.

What has run well is noted in the sealed state's directory, so that a daemon
which ends between publishing and the hook runs it when it starts again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path

from msgspec import Struct
from twisted.logger import Logger

from mezite.identity.hook_output import HookOutput

RETRIES = (timedelta(seconds=5), timedelta(seconds=30), timedelta(minutes=2))
"""After these a program that goes on failing waits for the next renewal."""
STOP_SECONDS = 5
"""What a program that is told to end is given."""


class Hook(Struct, frozen=True):
    """What is run for one output: *commands*, one after the other, each for *timeout* at most."""

    output: str
    commands: tuple[tuple[str, ...], ...]
    timeout: timedelta
    environment: Mapping[str, str]


class HookFailed(Exception):
    """What failed and how, for the log."""


class Hooks:
    """Runs hooks on *loop*; *directory* keeps the notes of what has run.

    What they write is told as events where *as_events* says so, else it goes to standard error as it is.
    """

    _log = Logger()

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        hooks: Sequence[Hook],
        directory: Path,
        *,
        retries: Sequence[timedelta] = RETRIES,
        as_events: bool = False,
    ) -> None:
        self._loop = loop
        self._hooks = tuple(hooks)
        self._directory = directory
        self._retries = tuple(retries)
        self._as_events = as_events
        self._wanted: dict[str, tuple[str, Mapping[str, str]]] = {}
        """Output → the newest renewal, by its name, and what its programs are told."""
        self._running: dict[str, asyncio.Task[None]] = {}
        self.failures: dict[str, str] = {}
        """Output → what failed last, where its last run has failed."""

    def published(self, renewal: str, outputs: Sequence[str], environment: Mapping[str, str]) -> None:
        """*renewal* (a name for it) is in place at *outputs*; does nothing where it has been run for it."""
        for hook in self._hooks:
            if hook.output not in outputs or self._wanted.get(hook.output, ("", {}))[0] == renewal:
                continue
            if hook.output not in self._wanted and self._noted(hook.output) == renewal:
                self._wanted[hook.output] = (renewal, environment)
                continue
            self._wanted[hook.output] = (renewal, environment)
            task = self._running.get(hook.output)
            if task is None or task.done():
                self._running[hook.output] = self._loop.create_task(self._run(hook))

    async def _run(self, hook: Hook) -> None:
        """Until the newest renewal has been run for, or its tries are over."""
        done = ""
        while (renewal := self._wanted[hook.output][0]) != done:
            await self._run_for(hook, renewal)
            done = renewal

    async def _run_for(self, hook: Hook, renewal: str) -> None:
        for delay in (*self._retries, None):
            try:
                for command in hook.commands:
                    await self._run_command(hook, command, self._wanted[hook.output][1])
            except HookFailed as failed:
                self.failures[hook.output] = str(failed)
                then = f"next try in {delay.total_seconds():g} s" if delay else "not before the next renewal"
                self._log.warn(
                    "on_renew of output {output}: {why}; {then}", event="hook.failed",
                    output=hook.output, why=str(failed), then=then,
                )
                if delay is None:
                    return
                await asyncio.sleep(delay.total_seconds())
                if self._wanted[hook.output][0] != renewal:
                    return
            else:
                self.failures.pop(hook.output, None)
                self._note(hook.output, renewal)
                return

    async def _run_command(self, hook: Hook, command: Sequence[str], environment: Mapping[str, str]) -> None:
        if not self._as_events:
            await self._run_writing_to(2, hook, command, environment)
            return
        with HookOutput(self._loop, hook.output) as output:
            await self._run_writing_to(output.descriptor, hook, command, environment)

    async def _run_writing_to(
        self, descriptor: int, hook: Hook, command: Sequence[str], environment: Mapping[str, str]
    ) -> None:
        try:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=descriptor, stderr=descriptor,
                start_new_session=True, env={**environment, **hook.environment},
            )
        except (OSError, ValueError) as error:
            raise HookFailed(f"{command[0]}: cannot be run: {error}") from None
        try:
            async with asyncio.timeout(hook.timeout.total_seconds()):
                code = await process.wait()
        except TimeoutError:
            await _end(process)
            raise HookFailed(f"{command[0]}: ended after {hook.timeout.total_seconds():g} s") from None
        except asyncio.CancelledError:
            _signal(process, signal.SIGTERM)
            raise
        if code != 0:
            how = f"exit code {code}" if code > 0 else f"signal {-code}"
            raise HookFailed(f"{command[0]}: {how}")

    def stop(self) -> None:
        """Programs that run are told to end; none is begun any more."""
        for task in self._running.values():
            task.cancel()
        self._running.clear()

    # --- what has run ----------------------------------------------------------------------

    def _note_path(self, output: str) -> Path:
        return self._directory / f"on-renew.{output}"

    def _noted(self, output: str) -> str:
        try:
            return self._note_path(output).read_text().strip()
        except (OSError, UnicodeDecodeError):
            return ""

    def _note(self, output: str, renewal: str) -> None:
        """A courtesy to the next start: on a full disk the hook runs once more then."""
        with contextlib.suppress(OSError):
            new = self._directory / f".on-renew.{output}.new"
            new.write_text(renewal + "\n")
            new.replace(self._note_path(output))


async def _end(process: asyncio.subprocess.Process) -> None:
    """It and what it has started are gone: asked first, then killed."""
    _signal(process, signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_SECONDS):
            await process.wait()
    except TimeoutError:
        pass
    _signal(process, signal.SIGKILL)
    await process.wait()


def _signal(process: asyncio.subprocess.Process, number: int) -> None:
    """To its whole group: it leads a session of its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)
