"""The daemon as a service: real rules, real state files, a clock that the test moves."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_ssh_private_key
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import globalLogPublisher
from twisted.python.failure import Failure

from mezite.certs import verify
from mezite.errors import Reason, Refused, Unreachable, UntrustedServer
from mezite.identity.clocks import Clocks
from mezite.identity.control import methods
from mezite.identity.destination import Directory
from mezite.identity.events import Finish
from mezite.identity.logs import line
from mezite.identity.places import Outlets
from mezite.identity.records import Held
from mezite.identity.service import TICK, IdentityService
from mezite.identity.state import StateFile
from mezite.identity.states import Options
from tests.harness import Auth
from tests.identity.fakes import LOST_REPLY, LOST_REQUEST, FakeRemote, keys_of


class Running:
    """One process of the daemon on *path*; the clock goes on with the server's."""

    def __init__(self, auth: Auth, remote: FakeRemote, path: Path, **options: Any) -> None:
        self.auth = auth
        self.clock = Clock()
        self.state_file = StateFile(path)
        self.noted = 0
        self.service = IdentityService(
            reactor=self.clock,
            clocks=Clocks(self.clock.seconds, lambda: auth.now.timestamp(), lambda: 0.5),
            options=Options(server=remote.address, **options),
            durable=self.state_file.load(),
            state_file=self.state_file,
            outlets=Outlets({"default": [Directory(path)]}),
            where=str(path),
            remote=remote,
            published=self._note,
        )
        self.finished: list[Finish] = []
        self.service.ended.addCallback(self.finished.append)

    def _note(self, held: Held) -> None:
        self.noted += 1

    def start(self) -> Running:
        self.service.startService()
        return self

    def advance(self, seconds: float) -> None:
        steps = int(seconds / TICK.total_seconds())
        for _ in range(steps):
            self.auth.now += TICK
            self.clock.advance(TICK.total_seconds())

    def kill(self) -> None:
        """As by SIGKILL: nothing is told, the kernel frees the lock."""
        self.state_file.release()

    def stop(self) -> None:
        self.service.stopService()
        self.state_file.release()

    @property
    def generation(self) -> int:
        held = self.service.state.durable.held
        return held.generation if held else 0


@pytest.fixture
def remote(auth: Auth) -> FakeRemote:
    return FakeRemote(auth)


@pytest.fixture
def begin(auth: Auth, remote: FakeRemote, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    running: list[Running] = []

    def begin(**options: Any) -> Running:
        running.append(Running(auth, remote, tmp_path, **options))
        return running[-1].start()

    yield begin
    for one in running:
        one.state_file.release()


@pytest.fixture
def log() -> Iterator[list[str]]:
    lines: list[str] = []

    def observe(event: Any) -> None:
        text = line(event)
        if text and str(event.get("log_namespace")).startswith("mezite"):
            lines.append(text)

    globalLogPublisher.addObserver(observe)
    yield lines
    globalLogPublisher.removeObserver(observe)


def result_of(deferred: Deferred[Any]) -> Any:
    """Its result, an error as such, or ``None`` while there is neither."""
    found: list[Any] = []
    deferred.addBoth(found.append)
    if found and isinstance(found[0], Failure):
        return found[0].value
    return found[0] if found else None


def test_joins_and_renews_until_stopped(auth: Auth, begin: Callable[..., Running], tmp_path: Path) -> None:
    running = begin(token=auth.add_token(auth.add_bot()))
    assert running.generation == 1
    running.advance(1800)
    assert running.generation == 2
    assert (tmp_path / "ssh_key").exists()
    assert running.noted == 2
    running.stop()
    assert [Finish(0)] == running.finished
    assert running.clock.getDelayedCalls() == []


def test_one_shot_ends_by_itself(auth: Auth, begin: Callable[..., Running]) -> None:
    running = begin(token=auth.add_token(auth.add_bot()), one_shot=True)
    assert [Finish(0)] == running.finished
    assert running.clock.getDelayedCalls() == []


@pytest.mark.parametrize("fault", [LOST_REQUEST, LOST_REPLY])
def test_killed_while_asking_it_asks_for_the_same_keys_again(
    auth: Auth, begin: Callable[..., Running], remote: FakeRemote, fault: str
) -> None:
    first = begin(token=auth.add_token(auth.add_bot()))
    remote.holds_answers = True
    remote.faults.append(fault)
    first.advance(1800)
    assert len(remote.requests) == 2
    first.kill()
    remote.holds_answers = False
    second = begin(token=None)
    assert second.generation == 2
    assert keys_of(remote.requests[1]) == keys_of(remote.requests[2])


def test_killed_while_joining_it_joins_once(
    auth: Auth, begin: Callable[..., Running], remote: FakeRemote
) -> None:
    token = auth.add_token(auth.add_bot())
    remote.holds_answers = True
    begin(token=token).kill()
    remote.holds_answers = False
    second = begin(token=token)
    assert second.generation == 1
    assert keys_of(remote.requests[0]) == keys_of(remote.requests[1])
    assert auth.events("token_reused") == []


def test_a_copy_of_the_pending_state_asks_for_the_same_keys(
    auth: Auth, begin: Callable[..., Running], remote: FakeRemote, tmp_path: Path
) -> None:
    """A snapshot restored in the middle of a renewal is not taken for a thief."""
    first = begin(token=auth.add_token(auth.add_bot()))
    remote.holds_answers = True
    first.advance(1800)
    slots = {path: path.read_bytes() for path in (tmp_path / ".mezite").glob("state.*")}
    remote.holds_answers = False
    remote.release()
    assert first.generation == 2
    first.kill()
    for path, content in slots.items():
        path.write_bytes(content)
    second = begin()
    assert second.generation == 2
    assert auth.locks() == ()


def test_stopping_while_asking_leaves_nothing(
    auth: Auth, begin: Callable[..., Running], remote: FakeRemote
) -> None:
    remote.holds_answers = True
    running = begin(token=auth.add_token(auth.add_bot()))
    running.stop()
    assert [Finish(0)] == running.finished
    assert running.clock.getDelayedCalls() == []


def test_a_request_that_is_cut_has_ended_when_stopping_is_done(
    auth: Auth, begin: Callable[..., Running], remote: FakeRemote, log: list[str]
) -> None:
    """gRPC's ends a moment after it was cancelled; that is no fault to tell of."""
    ending: Deferred[Any] = Deferred()

    def ask(*args: Any) -> Deferred[Any]:
        asked: Deferred[Any] = Deferred(lambda asked: asked.callback(None))
        return asked.addCallback(lambda cancelled: ending)

    remote.ask = ask  # type: ignore[method-assign]
    running = begin(token=auth.add_token(auth.add_bot()))
    stopped = running.service.stopService()
    assert not stopped.called
    ending.errback(asyncio.CancelledError())
    assert stopped.called
    assert not any("broke" in one for one in log)
    assert running.generation == 0


def test_refusals_end_with_their_code(auth: Auth, begin: Callable[..., Running], remote: FakeRemote) -> None:
    remote.faults.append(Refused(Reason.TOKEN_ROTATED, "rotated"))
    running = begin(token=auth.add_token(auth.add_bot()))
    assert running.finished[0].exit_code == 3


def test_wrong_pin_ends(auth: Auth, begin: Callable[..., Running], remote: FakeRemote) -> None:
    remote.faults.append(UntrustedServer("not the pinned one"))
    running = begin(token=auth.add_token(auth.add_bot()))
    assert (running.finished[0].exit_code, running.finished[0].error.code) == (3, "untrusted_server")


def test_what_proves_the_server(auth: Auth, begin: Callable[..., Running], remote: FakeRemote) -> None:
    """The token's pin until it is redeemed, and the identity's own trust from then on."""
    token = auth.add_token(auth.add_bot())
    running = begin(token=token)
    running.advance(1800)
    join, renew = remote.known
    assert (None, token.pin) == (join.trust, join.pin)
    assert (running.service.state.durable.held.trust, None) == (renew.trust, renew.pin)


def test_a_broken_remote_is_logged_and_tried_again(
    auth: Auth, begin: Callable[..., Running], remote: FakeRemote, log: list[str]
) -> None:
    """A fault of our own counts as no answer."""
    ask = remote.ask
    remote.ask = lambda *args, **named: Deferred()  # type: ignore[method-assign]
    running = begin(token=auth.add_token(auth.add_bot()))
    running.service._asking.errback(ZeroDivisionError("our own fault"))
    remote.ask = ask  # type: ignore[method-assign]
    assert any("ZeroDivisionError" in one for one in log)
    running.advance(60)
    assert running.generation == 1


# --- the control socket --------------------------------------------------------------------


def ssh_key(directory: Path) -> bytes:
    """The public half of what is published there."""
    key = load_ssh_private_key((directory / "ssh_key").read_bytes(), None)
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)


@pytest.mark.parametrize("name", ["ssh_key", "sets", ".mezite"])
def test_files_that_somebody_removes_come_back_without_a_renewal(
    auth: Auth, begin: Callable[..., Running], remote: FakeRemote, tmp_path: Path, log: list[str], name: str
) -> None:
    running = begin(token=auth.add_token(auth.add_bot()))
    key = ssh_key(tmp_path)
    running.advance(60)
    asked = len(remote.requests)
    gone = tmp_path / name
    shutil.rmtree(gone) if gone.is_dir() else gone.unlink()
    running.advance(11)
    assert ssh_key(tmp_path) == key
    running.advance(60)
    where = tmp_path / name if name == ".mezite" else tmp_path
    assert sum(f"files were removed from {where}; writing them anew" in one for one in log) == 1
    assert len(remote.requests) == asked
    generation = running.generation
    running.stop()
    assert begin().generation == generation


def test_a_file_in_the_place_of_a_removed_one_is_told_and_left_alone(
    auth: Auth, begin: Callable[..., Running], tmp_path: Path
) -> None:
    """Seen where another file of the set is missing; readiness is red until it is moved away."""
    running = begin(token=auth.add_token(auth.add_bot()))
    (tmp_path / "ssh_key").unlink()
    (tmp_path / "known_hosts").unlink()
    (tmp_path / "known_hosts").write_text("mine\n")
    running.advance(11)
    assert "known_hosts is there already" in str(running.service.not_ready_reason())
    (tmp_path / "known_hosts").unlink()
    running.advance(600)
    assert running.service.not_ready_reason() is None
    assert (tmp_path / "ssh_key").is_file()
    running.stop()


def test_what_cannot_be_written_anew_is_told_once(
    auth: Auth, begin: Callable[..., Running], tmp_path: Path, log: list[str]
) -> None:
    running = begin(token=auth.add_token(auth.add_bot()))
    shutil.rmtree(tmp_path / ".mezite")
    (tmp_path / ".mezite").write_text("mine")
    running.advance(300)
    assert sum("files were removed from" in one for one in log) == 1
    assert (tmp_path / ".mezite").read_text() == "mine"
    (tmp_path / ".mezite").unlink()
    running.advance(11)
    assert not running.state_file.missing()
    running.stop()


def test_status_of_an_identity(auth: Auth, begin: Callable[..., Running], tmp_path: Path) -> None:
    running = begin(token=auth.add_token(auth.add_bot()))
    status = methods(running.service)["identity.status"](None, {})
    assert json.loads(json.dumps(status)) == status
    expected = {
        "state": "holding",
        "bot": "github-deploy",
        "generation": 1,
        "cluster": "example",
        "principals": ["deploy"],
        "roles": ["ci-deployer"],
        "valid_before": "2026-03-24T15:00:00Z",
        "seconds_left": 3600.0,
        "last_error": None,
        "clock_skew_seconds": 0.0,
        "clock_skew_give_or_take_seconds": 0.0,
        "destination": str(tmp_path),
        "published": True,
        "outputs": ["files"],
        "server": "auth.example.com:3025",
    }
    assert expected == {key: status[key] for key in expected}
    assert 0 < status["next_attempt_in_seconds"] < 1800


def test_status_without_identity_tells_the_trouble_and_the_way_out(
    auth: Auth, begin: Callable[..., Running], remote: FakeRemote
) -> None:
    remote.faults.append(Refused(Reason.LOCKED, "bot github-deploy is locked"))
    status = begin(token=auth.add_token(auth.add_bot())).service.status()
    assert (status["state"], status["bot"], status["generation"]) == ("waiting", None, None)
    assert (
        status["last_error"]["code"], status["last_error"]["message"]
    ) == ("locked", "bot github-deploy is locked")
    assert "unlocked" in status["last_error"]["remedy"]


def test_renew_answers_when_it_is_done(
    auth: Auth, begin: Callable[..., Running], remote: FakeRemote
) -> None:
    running = begin(token=auth.add_token(auth.add_bot()))
    remote.holds_answers = True
    renewing = methods(running.service)["identity.renew"](None, {})
    assert not renewing.called
    remote.release()
    assert result_of(renewing)["generation"] == 2


def test_renew_fails_as_the_renewal_does(
    auth: Auth, begin: Callable[..., Running], remote: FakeRemote
) -> None:
    running = begin(token=auth.add_token(auth.add_bot()))
    remote.faults.append(LOST_REQUEST)
    assert isinstance(result_of(running.service.renew()), Unreachable)
    remote.faults.append(Refused(Reason.GENERATION_MISMATCH, "two holders"))
    assert Reason.GENERATION_MISMATCH is result_of(running.service.renew()).reason
    assert isinstance(result_of(running.service.renew()), Unreachable)


def test_a_renewal_that_is_asked_for_is_answered_when_the_daemon_stops(
    auth: Auth, begin: Callable[..., Running], remote: FakeRemote
) -> None:
    running = begin(token=auth.add_token(auth.add_bot()))
    remote.holds_answers = True
    renewing = running.service.renew()
    running.stop()
    assert isinstance(result_of(renewing), Unreachable)


@pytest.mark.parametrize("method", ["identity.status", "identity.renew"])
def test_methods_take_no_parameters(auth: Auth, begin: Callable[..., Running], method: str) -> None:
    from mezite.errors import InvalidInput

    running = begin(token=auth.add_token(auth.add_bot()))
    with pytest.raises(InvalidInput):
        methods(running.service)[method](None, {"force": True})


# --- the log -------------------------------------------------------------------------------


def test_the_log_tells_a_person_and_no_secret(
    auth: Auth, begin: Callable[..., Running], remote: FakeRemote, log: list[str], tmp_path: Path
) -> None:
    token = auth.add_token(auth.add_bot())
    running = begin(token=token)
    remote.faults.append(LOST_REQUEST)
    running.advance(1800)
    text = "".join(log)
    instance = running.service.state.durable.held.instance_id
    for expected in (
        f"joined as bot github-deploy, instance {instance}, generation 1",
        "certificate for deploy valid until 2026-03-24T15:00:00Z (1h)",
        f"wrote ssh_key, ssh_key-cert.pub, known_hosts and ssh_config to {tmp_path}",
        "next renewal in ",
        "warning: nobody is there; next try in 1s",
        f"renewed bot github-deploy, instance {instance}, generation 2; ",
    ):
        assert expected in text
    assert token.secret not in text
    assert "PRIVATE" not in text
    assert all(one.count("\n") == 1 for one in log)


def test_a_refusal_in_the_log_names_its_code_and_the_way_out(
    auth: Auth, begin: Callable[..., Running], remote: FakeRemote, log: list[str]
) -> None:
    running = begin(token=auth.add_token(auth.add_bot()))
    remote.faults.append(Refused(Reason.LOCKED, "bot b is locked"))
    result_of(running.service.renew())
    assert any("bot b is locked" in one and "(locked)" in one and "unlocked" in one for one in log)




def test_no_certificate_is_remembered_once_published(
    begin: Callable[..., Running], auth: Auth
) -> None:
    """What makes the node quick would make a daemon grow with each renewal."""
    running = begin(token=auth.add_token(auth.add_bot()))
    assert running.generation == 1
    assert verify._verify_again.cache_info().currsize == 0
