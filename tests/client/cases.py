"""What a program does with an identity, once for asyncio and once for Twisted.

``python -m tests.client.cases asyncio`` (or ``twisted``) prints one JSON object,
case → outcome, for test_identity.  The cases await nothing but what the library
gives them, so they run as the framework's own coroutines; the server is a real
one, on the same loop.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from msgspec.structs import replace

FACE = sys.argv[1]
loop = asyncio.new_event_loop()
asyncio.set_event_loop(loop)
if FACE == "twisted":
    from twisted.internet import asyncioreactor

    asyncioreactor.install(loop)

from twisted.internet.defer import Deferred  # noqa: E402  # after the reactor is chosen

from mezite.certs import keys, verify  # noqa: E402
from mezite.core.model import Bot, LockKind  # noqa: E402
from mezite.core.request import JoinRequest, TokenText  # noqa: E402
from mezite.errors import MeziteError  # noqa: E402
from mezite.identity.state import DIRECTORY, peek  # noqa: E402
from mezite.rpc import messages  # noqa: E402
from mezite.rpc.leaf import IssuedLeaf  # noqa: E402
from tests.harness import Auth  # noqa: E402
from tests.rpc.serving import Servicer, serving  # noqa: E402

if FACE == "twisted":
    from mezite.client import tx as face
else:
    from mezite.client import aio as face  # type: ignore[no-redef]

SOON = timedelta(milliseconds=300)
GENEROUS = timedelta(seconds=60)


class World:
    """One server, one bot, and a directory for its machine."""

    def __init__(self, port: int, auth: Auth, bot: Bot, servicer: Servicer, root: Path) -> None:
        self.port, self.auth, self.bot, self.servicer = port, auth, bot, servicer
        self.directory = root / "identity"
        self.renewals: list[Any] = []

    def token(self) -> str:
        return self.auth.add_token(self.bot).to_text()

    def identity(self, join_token: str | None = None, directory: Path | None = None, **more: Any) -> Any:
        more.setdefault("on_renewal", self.renewals.append)
        if join_token is not None:
            more["join_token"] = join_token
        return face.Identity(directory or self.directory, auth_server=f"127.0.0.1:{self.port}", **more)

    def join(self, directory: Path | None, **more: Any) -> Awaitable[Any]:
        return face.join(directory, auth_server=f"127.0.0.1:{self.port}", **more)

    async def passing(self) -> None:
        """The loop turns, whoever's coroutine this is."""
        await (Deferred.fromFuture(asyncio.ensure_future(asyncio.sleep(0.01)))
               if FACE == "twisted" else asyncio.sleep(0.01))

    def joins_asked(self) -> list[JoinRequest]:
        return [messages.join_request_from(body) for body in self.servicer.bodies]


Case = Callable[[World], Awaitable[object]]
cases: dict[str, Case] = {}


def case(function: Case) -> Case:
    cases[function.__name__] = function
    return function


async def error_of(awaitable: Awaitable[object]) -> list[str]:
    try:
        await awaitable
    except MeziteError as error:
        return [error.code, str(error)]
    return ["no error", ""]


async def cancel(waiting: Any) -> str:
    """The name of what the cancelled one ends with."""
    waiting.cancel()
    try:
        await waiting
    except BaseException as error:
        return type(error).__name__
    raise AssertionError("it was cancelled, and ended well")


@case
async def joins_and_gives_a_credential_that_is_good(world: World) -> object:
    async with world.identity(world.token()) as identity:
        one = identity.current
        certificate = one.parsed()
        cas = world.auth.context.trust()
        who = verify.check_user_certificate(
            certificate, trusted=cas.user_cas, now_unix=int(time.time()), login="deploy", address="192.0.2.7"
        )
        keys.verify(certificate.subject_blob, one.sign(b"a login"), b"a login")
        assert one.ssh_key.startswith(b"-----BEGIN OPENSSH PRIVATE KEY-----\n")
        assert one.known_hosts.startswith(b"@cert-authority * ssh-ed25519 ")
        assert one.host_cas == cas.host_cas
        assert keys.public_blob(one.private_key) == certificate.subject_blob
        assert identity.not_ready_reason() is None
        assert identity.status()["generation"] == 1
        return [one.generation, list(one.principals), one.instance == who.instance]


@case
async def the_lineage_key_is_in_the_state_and_nowhere_else(world: World) -> object:
    async with world.identity(world.token()) as identity:
        durable = peek(world.directory)
        assert durable is not None
        assert durable.held is not None
        lineage = durable.held.keys.lineage
        shown = [getattr(identity.current, name) for name in identity.current.__slots__]
        assert keys.public_blob(identity.current.private_key) != lineage.public
        assert not any(isinstance(one, bytes) and lineage.private_pem in one for one in shown)
        assert "PRIVATE" not in repr(identity.current)
        return sorted(path.name for path in world.directory.iterdir())


@case
async def a_renewal_brings_another_key_and_is_told(world: World) -> object:
    async with world.identity(world.token()) as identity:
        before = identity.current
        after = await identity.renew()
        assert after is identity.current
        await identity.renew()
        assert before.certificate_blob != after.certificate_blob
        assert keys.public_blob(before.private_key) != keys.public_blob(after.private_key)
    return [one.generation for one in world.renewals]


@case
async def it_renews_by_itself(world: World) -> object:
    identity = world.identity(world.token(), renewal_interval="1s", on_renewal=None)
    renewed = identity._framework()[1].create_future()

    def on_renewal(credential: Any) -> None:
        world.renewals.append(credential)
        if len(world.renewals) == 2:
            identity._futures.resolve(renewed, None)

    identity._on_renewal = on_renewal
    async with identity:
        await renewed
    return [one.generation for one in world.renewals]


@case
async def the_next_start_needs_no_token_and_no_server(world: World) -> object:
    async with world.identity(world.token()) as identity:
        before = identity.current
    asked = len(world.servicer.bodies)
    async with face.Identity(world.directory) as identity:
        assert identity.current == replace(
            before, private_key=identity.current.private_key, ssh_key=identity.current.ssh_key
        )
    return len(world.servicer.bodies) - asked


@case
async def a_join_whose_answer_is_lost_is_asked_for_again_with_the_same_keys(world: World) -> object:
    token = world.token()
    world.servicer.mode = "lose"
    found = await error_of(world.identity(token).start(SOON))
    world.servicer.mode = ""
    async with world.identity(token) as identity:
        assert len({join.lineage_key for join in world.joins_asked()}) == 1
        assert world.auth.locks() == ()
        return [found[0], identity.current.generation]


@case
async def a_token_that_is_not_known_ends_at_once(world: World) -> object:
    strange = TokenText.from_random(bytes(range(22)), world.auth.context.authorities().server_pin)
    first = await error_of(world.identity(strange.to_text()).start(None))
    # The lock is free again, and nothing was spent.
    async with world.identity(world.token()) as identity:
        return [first[0], identity.current.generation]


@case
async def a_server_of_another_pin_is_told_nothing(world: World) -> object:
    token = TokenText.from_random(bytes(range(22)), "0" * 32)
    found = await error_of(world.identity(token.to_text()).start(None))
    return [found[0], len(world.servicer.bodies)]


@case
async def nobody_is_there(world: World) -> object:
    identity = face.Identity(world.directory, auth_server="127.0.0.1:1", join_token=world.token())
    return await error_of(identity.start(SOON))


@case
async def a_server_that_is_silent(world: World) -> object:
    world.servicer.mode = "hang"
    return await error_of(world.identity(world.token()).start(SOON))


@case
async def a_cancelled_start_leaves_nothing(world: World) -> object:
    world.servicer.mode = "hang"
    token = world.token()
    starting = world.identity(token).start()
    if FACE == "asyncio":
        starting = asyncio.ensure_future(starting)
        await asyncio.sleep(0)
    cancelled = await cancel(starting)
    world.servicer.mode = ""
    async with world.identity(token) as identity:
        return [cancelled, identity.current.generation]


@case
async def a_lock_is_told_while_the_certificate_lasts(world: World) -> object:
    async with world.identity(world.token()) as identity:
        world.auth.lock(LockKind.BOT, "github-deploy")
        refused = await error_of(identity.renew())
        assert refused[0] in identity.not_ready_reason()
        return [refused[0], identity.current.generation]


@case
async def a_copied_state_is_proven_and_ends_both(world: World) -> object:
    """Whoever comes second is asked to prove the old key, does, and hears that it is over."""
    thief = world.directory.with_name("copy")
    async with world.identity(world.token()) as identity:
        shutil.copytree(world.directory / DIRECTORY, thief / DIRECTORY)
        (thief).chmod(0o700)
        async with world.identity(directory=thief) as other:
            await other.renew()
            ending = identity.ended()
            refused = await error_of(identity.renew())
            over = await error_of(ending)
            again = await error_of(identity.ended())
            # What is out is good until it ends, or until a node hears of the lock.
            assert identity.current.generation == 1
            assert "generation_mismatch" in identity.not_ready_reason()
            locked = await error_of(other.renew())
    return [refused[0], over[0], again[0], locked[0], len(world.auth.locks())]


@case
async def two_programs_cannot_hold_one_directory(world: World) -> object:
    async with world.identity(world.token()):
        return await error_of(world.identity(world.token()).start())


@case
async def what_a_callback_raises_harms_nobody(world: World) -> object:
    def fail(credential: object) -> None:
        raise ZeroDivisionError("the program's own fault")

    async with world.identity(world.token(), on_renewal=fail) as identity:
        await identity.renew()
        return (await identity.renew()).generation


@case
async def without_a_token_there_is_nothing_to_begin_with(world: World) -> object:
    return await error_of(world.identity().start())


@case
async def without_a_server_there_is_nobody_to_ask(world: World) -> object:
    return await error_of(face.Identity(world.directory, join_token=world.token()).start())


@case
async def a_file_of_a_ca_that_is_not_there(world: World) -> object:
    return await error_of(world.identity(world.token(), ca_file=world.directory / "ca.pem").start())


@case
async def no_error_names_an_option_of_the_command_line(world: World) -> object:
    """Whatever stands in the way, and wherever it is told."""
    strange = TokenText.from_random(bytes(range(22)), "0" * 32).to_text()
    nobody = face.Identity(world.directory, auth_server="127.0.0.1:1", join_token=strange)
    told = [await error_of(nobody.start(SOON)), nobody.status(), nobody.not_ready_reason()]
    for server in ("nobody.invalid:1", f"127.0.0.1:{world.port}"):
        other = face.Identity(world.directory, auth_server=server, join_token=strange)
        told += [await error_of(other.start(SOON)), other.status()]
    async with world.identity(world.token()) as identity:
        world.auth.lock(LockKind.BOT, "github-deploy")
        told += [await error_of(identity.renew()), identity.status(), identity.not_ready_reason()]
    return [len(told), "--" in json.dumps(told)]


@case
async def a_stopped_identity_says_so(world: World) -> object:
    identity = world.identity(world.token())
    await identity.start()
    await identity.stop()
    await identity.stop()
    await identity.ended()
    assert identity.not_ready_reason() == "the identity is not running"
    try:
        return identity.current
    except MeziteError as error:
        return [error.code, str(error)]


@case
async def two_who_stop_it_both_wait_for_its_end(world: World) -> object:
    identity = world.identity(world.token())
    await identity.start()
    world.servicer.mode = "hang"
    renewing, stopping = identity.renew(), identity.stop()
    if FACE == "asyncio":
        renewing, stopping = asyncio.ensure_future(renewing), asyncio.ensure_future(stopping)
        await asyncio.sleep(0)
    await identity.stop()
    released = not identity._state._lock.descriptor >= 0
    await stopping
    return [released, (await error_of(renewing))[0]]


@case
async def it_leaves_and_nothing_is_left(world: World) -> object:
    async with world.identity(world.token()) as identity:
        instance, ending = identity.current.instance, identity.ended()
        await identity.leave()
        await ending
        gone = [await error_of(identity.renew()), await error_of(identity.leave())]
    assert world.auth.instance(instance).removed_at is not None
    files = sorted(path.name for path in world.directory.rglob("*"))
    # The directory is free, and as good as new.
    assert (await error_of(face.Identity(world.directory).start()))[0] == "usage"
    async with world.identity(world.token()) as identity:
        return [[code for code, _ in gone], files, identity.current.generation]


@case
async def one_that_is_stopped_leaves_by_its_directory(world: World) -> object:
    async with world.identity(world.token()) as identity:
        instance = identity.current.instance
        await identity.renew()
        held = await error_of(face.leave(world.directory))
    nobody = await error_of(face.leave(world.directory, auth_server="127.0.0.1:1"))
    assert world.auth.instance(instance).removed_at is None
    await face.leave(world.directory)
    assert world.auth.instance(instance).removed_at is not None
    assert peek(world.directory) is None
    return [held[0], nobody[0], (await error_of(face.leave(world.directory)))[0]]


@case
async def it_leaves_after_a_renewal_whose_answer_was_lost(world: World) -> object:
    """Only the newest generation can: it is asked for once more, with the same keys."""
    async with world.identity(world.token()) as identity:
        instance = identity.current.instance
        world.servicer.mode = "lose"
        renewing = identity.renew()
        if FACE == "asyncio":
            renewing = asyncio.ensure_future(renewing)
        while world.auth.instance(instance).generation == 1:
            await world.passing()
        world.servicer.mode = ""
        await identity.leave()
        lost = await error_of(renewing)
    (left,) = world.auth.events("instance.left")
    return [lost[0], left.event.fields["generation"]]


@case
async def it_cannot_leave_while_its_server_is_away(world: World) -> object:
    """It is stopped, and can be left later."""
    async with world.identity(world.token()):
        pass
    identity = face.Identity(world.directory, auth_server="127.0.0.1:1")
    await identity.start()
    found = await error_of(identity.leave())
    async with face.Identity(world.directory) as again:
        return [found[0], again.current.generation]


@case
async def a_cancelled_leave_leaves_no_lock(world: World) -> object:
    async with world.identity(world.token()) as identity:
        world.servicer.mode = "hang"
        leaving = identity.leave()
        if FACE == "asyncio":
            leaving = asyncio.ensure_future(leaving)
        while len(world.servicer.bodies) == 1:
            await world.passing()
        cancelled = await cancel(leaving)
        world.servicer.mode = ""
        await face.leave(world.directory)
    return [cancelled, len(world.auth.events("instance.left"))]


@case
async def one_of_two_holders_does_not_leave_in_silence(world: World) -> object:
    thief = world.directory.with_name("copy")
    async with world.identity(world.token()) as identity:
        shutil.copytree(world.directory / DIRECTORY, thief / DIRECTORY)
        thief.chmod(0o700)
        async with world.identity(directory=thief) as other:
            await other.renew()
            found = await error_of(identity.leave())
    assert peek(world.directory) is not None
    return found


@case
async def once_in_memory(world: World) -> object:
    one = await world.join(None, join_token=world.token(), certificate_ttl=timedelta(minutes=5))
    left = one.valid_before - datetime.now(UTC)
    return [one.generation, left < timedelta(minutes=6), world.directory.exists()]


@case
async def once_in_a_directory_it_joins_and_then_renews(world: World) -> object:
    first = await world.join(world.directory, join_token=world.token())
    second = await world.join(world.directory)
    return [first.generation, second.generation]


@case
async def once_refused(world: World) -> object:
    world.auth.lock(LockKind.BOT, "github-deploy")
    return await error_of(world.join(None, join_token=world.token()))


class Losing(Servicer):
    """In the mode ``lose`` it does what is asked, and its answer never comes."""

    async def _answer(self, body: bytes, context: Any, use_case: Any) -> Any:
        if self.mode == "lose":
            self.bodies.append(body)
            use_case()
            await asyncio.Event().wait()
        return await super()._answer(body, context, use_case)


async def outcome(function: Case, root: Path) -> object:
    auth = Auth()
    auth.now = datetime.now(UTC)
    leaf = IssuedLeaf(lambda: auth.loaded, ("127.0.0.1",), lambda: auth.now, auth.random)
    servicer = Losing(auth)
    before = asyncio.all_tasks()
    async with serving(servicer, leaf.current()) as port:
        world = World(port, auth, auth.add_bot(), servicer, root)
        if FACE == "twisted":
            found = await Deferred.fromCoroutine(function(world)).asFuture(loop)  # type: ignore[arg-type]
        else:
            found = await function(world)
    auth.close()
    # Those of gRPC's server are the test's own, and may be a turn from their end.
    left = [str(task) for task in asyncio.all_tasks() - before if "mezite" in str(task)
            and not task.get_name().startswith(("rpc_task", "HandleExceptions"))]
    return found if not left else ["left behind", left]


async def everything() -> dict[str, object]:
    found: dict[str, object] = {}
    for name, function in cases.items():
        with tempfile.TemporaryDirectory() as root:
            try:
                found[name] = await asyncio.wait_for(outcome(function, Path(root)), GENEROUS.total_seconds())
            except Exception as error:
                found[name] = ["bug", repr(error)]
    return found


def main() -> None:
    if FACE == "asyncio":
        found = loop.run_until_complete(everything())
        assert "twisted.internet.reactor" not in sys.modules, "it runs without one"
    else:
        from twisted.internet import reactor

        results: list[dict[str, object]] = []

        def begin() -> None:
            asking = Deferred.fromFuture(asyncio.ensure_future(everything(), loop=loop))
            asking.addCallback(results.append)
            asking.addErrback(lambda failure: sys.stderr.write(failure.getTraceback()))
            asking.addBoth(lambda _: reactor.stop())

        reactor.callWhenRunning(begin)
        reactor.run()
        (found,) = results
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
