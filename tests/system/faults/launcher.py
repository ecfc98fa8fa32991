"""Processes that begin as forks of one that has everything imported: dozens of daemons for the price of one.

Run as a program it is that process: a line of JSON in on standard input, one out.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
TIMEOUT = 60.0


class Launched:
    """A process of the launcher's; the like of :class:`tests.system.processes.Process`."""

    def __init__(self, launcher: Launcher, pid: int, log: Path) -> None:
        self._launcher = launcher
        self.pid = pid
        self.log = log
        self._code: int | None = None

    @property
    def code(self) -> int | None:
        if self._code is None:
            self._code = self._launcher.ask({"poll": self.pid})["code"]
        return self._code

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def send(self, number: int) -> None:
        # Asked through its parent: a process id that was reaped may be somebody else's.
        self._launcher.ask({"kill": self.pid, "signal": int(number)})

    def wait(self, timeout: float = TIMEOUT) -> int:
        deadline = time.monotonic() + timeout
        while self.code is None:
            if time.monotonic() > deadline:
                raise AssertionError(f"process {self.pid} is still running:\n{self.text()}")
            time.sleep(0.02)
        assert self._code is not None
        return self._code

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.send(number)
        return self.wait()

    def kill(self) -> None:
        self.stop(signal.SIGKILL)


class Launcher:
    """Forks programs; *library* is preloaded into them."""

    def __init__(self, library: Path | None, program: str = "mezd") -> None:
        env = {
            "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT),
            "PYTHONWARNINGS": "ignore", "GRPC_VERBOSITY": "NONE",
        }
        if library is not None:
            env["LD_PRELOAD"] = str(library)
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, __file__, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env,
        )
        self.ask({"ready": True})

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        assert line, "the launcher is gone"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def start(self, words: Sequence[str | Path], env: Mapping[str, str], log: Path) -> Launched:
        """*words* as the program's arguments."""
        answer = self.ask({"argv": [str(word) for word in words], "env": dict(env), "log": str(log)})
        return Launched(self, answer["pid"], log)

    def close(self) -> None:
        """All of its processes are gone."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(TIMEOUT)
        assert self._process.stdout is not None
        self._process.stdout.close()


# --- the process itself --------------------------------------------------------------------


def _main(program: str) -> None:
    _preload(program)
    running: set[int] = set()
    codes: dict[int, int] = {}
    try:
        for line in sys.stdin.buffer:
            answer = _answer(program, json.loads(line), running, codes)
            sys.stdout.buffer.write(json.dumps(answer).encode() + b"\n")
            sys.stdout.buffer.flush()
    finally:
        for pid in running:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        for pid in running:
            with contextlib.suppress(OSError):
                os.waitpid(pid, 0)


def _preload(program: str) -> None:
    """Modules only: no reactor, no loop and nothing of gRPC's may be made before the fork."""
    import mezite.cli.mezd_outputs
    import mezite.cli.mezd_start
    import mezite.identity.control
    import mezite.identity.destination
    import mezite.identity.remote
    import mezite.identity.service
    import mezite.identity.state

    if program == "twistd":
        import twisted.scripts.twistd  # noqa: F401

        import mezite.rpc.service
        import mezite.storage.sqlite  # noqa: F401
    assert "twisted.internet.reactor" not in sys.modules


def _answer(
    program: str, request: dict[str, Any], running: set[int], codes: dict[int, int]
) -> dict[str, Any]:
    if "argv" in request:
        pid = os.fork()
        if pid == 0:
            _become(program, request)
        running.add(pid)
        # The kernel gives numbers out again: this is not how an earlier process ended.
        codes.pop(pid, None)
        return {"pid": pid}
    if "poll" in request:
        _reap(request["poll"], running, codes)
        return {"code": codes.get(request["poll"])}
    if "kill" in request:
        _reap(request["kill"], running, codes)
        if request["kill"] in running:
            os.kill(request["kill"], request["signal"])
    return {}


def _reap(pid: int, running: set[int], codes: dict[int, int]) -> None:
    if pid in running:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            running.discard(pid)
            codes[pid] = os.waitstatus_to_exitcode(status)


def _become(program: str, request: dict[str, Any]) -> None:
    """Never returns."""
    code = 70
    try:
        # A launcher that is killed leaves nobody behind (prctl(2), PR_SET_PDEATHSIG).
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        os.setsid()
        log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.closerange(3, 64)
        os.environ.clear()
        os.environ.update(request["env"])
        sys.argv = [program, *request["argv"]]
        if program == "twistd":
            from twisted.scripts.twistd import run

            run()
        else:
            from mezite.cli.mezd import main

            main()
        code = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(end.code + "\n")
        code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    sys.path.pop(0)  # our own directory: its names are not the standard library's
    _main(sys.argv[1])
