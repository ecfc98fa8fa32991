"""Our service is what Twisted takes for one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred
from zope.interface.verify import verifyClass, verifyObject

from mezite.admin.protocol import SocketService
from mezite.identity.service import IdentityService
from mezite.parts import Service


class Told(Service):
    def __init__(self, log: list[str], word: str, stopped: Deferred[None] | None = None) -> None:
        self._log, self._word, self._stopped = log, word, stopped

    def privilegedStartService(self) -> None:
        super().privilegedStartService()
        self._log.append(f"{self._word} bound")

    def startService(self) -> None:
        super().startService()
        self._log.append(f"{self._word} started")

    def stopService(self) -> Deferred[None] | None:
        super().stopService()
        self._log.append(f"{self._word} stopped")
        return self._stopped


@pytest.mark.parametrize("kind", [Service, SocketService, IdentityService])
def test_it_has_all_that_the_interface_asks_for(kind: type) -> None:
    # Said nowhere in the package: that would load what it avoids.
    assert verifyClass(IService, kind, tentative=True)


def test_an_object_has_the_interface_s_attributes_too() -> None:
    assert verifyObject(IService, Service(), tentative=True)


def test_a_multi_service_starts_and_stops_it_and_waits_for_it() -> None:
    log: list[str] = []
    stopped: Deferred[None] = Deferred()
    parent = MultiService()
    first, second = Told(log, "first", stopped), Told(log, "second")
    first.setName("first")
    first.setServiceParent(parent)
    second.setServiceParent(parent)
    assert parent.getServiceNamed("first") is first
    with pytest.raises(RuntimeError):
        first.setName("other")
    parent.privilegedStartService()
    parent.startService()
    assert (first.running, second.running) == (True, True)
    ended: list[object] = []
    parent.stopService().addCallback(ended.append)
    assert (first.running, second.running, ended) == (False, False, [])
    stopped.callback(None)
    assert len(ended) == 1
    assert log == ["first bound", "second bound", "first started", "second started", "second stopped",
                   "first stopped"]


def test_who_is_taken_by_another_is_given_up_and_stopped() -> None:
    log: list[str] = []
    one, other, part = MultiService(), MultiService(), Told(log, "it")
    one.startService()
    part.setServiceParent(one)
    assert log == ["it bound", "it started"]
    part.setServiceParent(other)
    assert (list(one), list(other), part.running) == ([], [part], False)
    assert log[-1] == "it stopped"
    part.disownServiceParent()
    assert (list(other), part.parent) == ([], None)


def test_a_daemon_loads_neither_plugins_nor_zip_files() -> None:
    program = (
        "import sys\n"
        "import mezite.cli.mezd_outputs, mezite.cli.mezd_start, mezite.identity.control\n"
        "import mezite.identity.given, mezite.identity.service\n"
        "print(*sorted({'twisted.application', 'twisted.plugin', 'zipfile'} & set(sys.modules)))"
    )
    words, root = [sys.executable, "-c", program], Path(__file__).parents[1]
    assert subprocess.run(words, cwd=root, capture_output=True, check=True).stdout.split() == []
