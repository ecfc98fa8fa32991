"""The daemon's control socket comes back: a probe that asks there shall not stay red for its sake."""

from __future__ import annotations

import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from twisted.internet.task import Clock
from twisted.logger import LogEvent, globalLogPublisher

from mezite.admin.protocol import LOOK_SECONDS
from mezite.identity.control import ControlService
from mezite.identity.service import IdentityService


class Reactor(Clock):
    """Timers that a test moves; whom it listens for."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[Any] = set()

    def addReader(self, reader: Any) -> None:
        self.readers.add(reader)

    def removeReader(self, reader: Any) -> None:
        self.readers.discard(reader)


@pytest.fixture
def events() -> Iterator[list[str]]:
    told: list[str] = []

    def note(event: LogEvent) -> None:
        told.append(str(event.get("event")))

    globalLogPublisher.addObserver(note)
    yield told
    globalLogPublisher.removeObserver(note)


def begun(path: Path) -> tuple[Reactor, ControlService]:
    reactor = Reactor()
    service = ControlService(reactor, path, cast(IdentityService, object()))
    service.privilegedStartService()
    service.startService()
    return reactor, service


def is_listening(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def leaves_nothing(reactor: Reactor, service: ControlService, path: Path) -> None:
    service.stopService()
    assert reactor.getDelayedCalls() == []
    assert reactor.readers == set()
    assert not path.exists()


@pytest.mark.parametrize("what", ["control.sock", "."], ids=["the socket", "its directory"])
def test_one_that_was_removed_is_made_anew(tmp_path: Path, what: str, events: list[str]) -> None:
    path = tmp_path / "run" / "control.sock"
    reactor, service = begun(path)
    gone = path.parent / what
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    reactor.advance(LOOK_SECONDS)
    assert is_listening(path)
    assert len(reactor.readers) == 1
    reactor.advance(LOOK_SECONDS)
    assert events == ["admin.listening", "admin.socket_remade"]
    leaves_nothing(reactor, service, path)


def test_one_that_could_not_be_had_is_tried_again_and_told_once(tmp_path: Path, events: list[str]) -> None:
    """As on a disk that was full when it began."""
    path = tmp_path / "missing" / "run" / "control.sock"
    reactor, service = begun(path)
    for _ in range(3):
        reactor.advance(LOOK_SECONDS)
    assert events.count("admin.unavailable") == 1
    (tmp_path / "missing").mkdir()
    reactor.advance(LOOK_SECONDS)
    assert is_listening(path)
    leaves_nothing(reactor, service, path)


def test_another_ones_socket_in_its_place_is_left_alone(tmp_path: Path, events: list[str]) -> None:
    path = tmp_path / "run" / "control.sock"
    reactor, service = begun(path)
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        inode = path.stat().st_ino
        for _ in range(2):
            reactor.advance(LOOK_SECONDS)
        assert events == ["admin.listening", "admin.unavailable"]
        service.stopService()
        assert path.stat().st_ino == inode
    assert reactor.getDelayedCalls() == []


def test_one_that_never_could_be_had_stops_as_well(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "run" / "control.sock"
    reactor, service = begun(path)
    leaves_nothing(reactor, service, path)
