"""`mezd identity start`: the composition root of the daemon.

Whatever takes time to load (Twisted's reactor, gRPC, cryptography) is imported when the
settings have been read.
"""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mezite.cli import failures, streams
from mezite.cli.helping import Command
from mezite.cli.program import directories, files
from mezite.config import daemon, paths
from mezite.config.token import MAX_TOKEN_FILE
from mezite.errors import Conflict, MeziteError, StateFailure

if TYPE_CHECKING:
    from mezite.cli.mezd_outputs import OutputParts
    from mezite.core.request import TokenText
    from mezite.identity.records import Durable, Held

PROGRAM = "mezd"


@click.command(cls=Command)
@click.option("--config", metavar="FILE", shell_complete=files,
              help="YAML with the same keys as the flags below.")
@click.option("--auth-server", metavar="HOST[:PORT]",
              help="Address of the auth server, or of several with one database, separated by commas; port "
                   "3025 by default.")
@click.option("--join-token", "--token", metavar="TOKEN",
              help="One-time token from mezctl; `-` reads it from standard input.  Other users of this "
                   "machine can see a command line: prefer --join-token-file or MEZITE_JOIN_TOKEN.")
@click.option("--join-token-file", metavar="FILE", shell_complete=files,
              help="File that holds the join token.")
@click.option("--destination", metavar="DIR", shell_complete=directories,
              help="Directory where the identity's files are written; default: "
                   "/var/lib/mezite/identity/certs for root, else ~/.local/state/mezite/identity.")
@click.option("--renewal-interval", metavar="DURATION",
              help="How often to renew, such as 30m; shorter than the certificate's TTL.")
@click.option("--certificate-ttl", metavar="DURATION",
              help="How long a certificate lives, where the roles allow it.")
@click.option("--one-shot", is_flag=True, default=None, help="Join, or renew once, and exit.")
@click.option("--outputs", metavar="LIST",
              help="What to publish, separated by commas: files (the default), agent for an ssh-agent at "
                   "DIR/agent.sock.")
@click.option("--ca-pin", metavar="HEX", help="Pin of the server's CA, in place of the token's.")
@click.option("--ca-file", metavar="FILE", shell_complete=files,
              help="PEM file with the server's CA, in place of a pin; `system` for publicly trusted ones.")
@click.option("--control-socket", metavar="PATH", shell_complete=files,
              help="Unix socket for `mezctl --socket PATH identity …`.")
@click.option("--diag-addr", metavar="HOST:PORT",
              help="Where to serve /healthz and /readyz over HTTP, such as 127.0.0.1:3082; default: nowhere.")
@click.option("--log-format", metavar="FORMAT", help="Of what it tells: text (the default), json.")
def start(**flags: Any) -> None:
    """Join with a one-time token, write the identity, and renew it until stopped.

    Every flag can stand in the --config file, and in the environment as MEZITE_AUTH_SERVER and so on.

    Exit codes: 0 done, 1 failed and worth another try, 2 usage, 3 refused by the server or by the pin.
    """
    config = daemon.load(flags, os.environ, os.geteuid())
    try:
        sys.exit(_run(config))
    except MeziteError as error:
        sys.exit(_report(config, error))


def _run(config: daemon.DaemonConfig) -> int:
    """The composition root: the exit code, when it has ended."""
    if config.one_shot:
        # What is loaded from here on stays; to look for garbage among it takes a tenth of the start.
        gc.disable()
    from mezite.cli.mezd_outputs import OutputParts
    from mezite.identity.given import addresses_for, check_beginning, token_for
    from mezite.identity.state import StateFile

    parts = OutputParts(config)
    state_file = StateFile(config.destination)
    try:
        parts.hold()
        durable = state_file.load()
        token = token_for(config, durable, _line_of_stdin)
        addresses = addresses_for(config, durable)
        check_beginning(config, durable, token, state_file.damaged)
        return _serve(config, parts, state_file, durable, token, addresses)
    finally:
        parts.release()
        state_file.release()


def _line_of_stdin() -> str:
    return sys.stdin.buffer.readline(MAX_TOKEN_FILE).decode("ascii", "replace")


def _serve(
    config: daemon.DaemonConfig,
    parts: OutputParts,
    state_file: Any,
    durable: Durable,
    token: TokenText | None,
    addresses: tuple[tuple[str, int], ...],
) -> int:
    # gRPC's own log speaks to its authors; what matters comes as an error.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    import asyncio
    import time
    from datetime import timedelta

    from twisted.internet import asyncioreactor

    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    asyncioreactor.install(loop)
    from twisted.internet import reactor as installed
    from twisted.logger import Logger

    from mezite.cli.mezd_outputs import told_of
    from mezite.config.outputs import FIRST
    from mezite.identity.allocator import one_arena
    from mezite.identity.clocks import Clocks
    from mezite.identity.events import Finish
    from mezite.identity.given import options_for, remote_for
    from mezite.identity.logs import begin_logging
    from mezite.identity.report import tell_damage
    from mezite.identity.service import IdentityService
    from mezite.supervision import ServiceManager

    one_arena()
    reactor: Any = installed
    # Twisted's timers follow the wall clock: set back by an hour, it would stop them for an hour.
    reactor.seconds = time.monotonic
    if config.log_format == "json":
        from mezite import logs

        logs.take_python_logging()
        begin_logging(sys.stderr, logs.json_line)
    else:
        begin_logging(sys.stderr)
    if state_file.damaged:
        tell_damage(Logger("mezite.identity"), state_file.damaged)
    remote = remote_for(config, durable, addresses, loop)
    clocks = Clocks.of_system()
    for directory in parts.directories.values():
        switched = directory.switched_at_unix()
        if switched is not None:
            ago = timedelta(seconds=max(0.0, time.time() - switched))
            directory.note_switched_before(ago, clocks.moment().monotonic)
        directory.clean_up(clocks.moment().monotonic)
    outlets = parts.outlets(reactor, lambda: clocks.moment().monotonic)
    hooks = parts.hooks(loop, state_file.directory, as_events=config.log_format == "json")

    def published(held: Held) -> None:
        if FIRST in outlets.served:
            _note_last(config.destination)
        if hooks is not None:
            hooks.published(f"{held.instance_id}/{held.generation}", outlets.served, told_of(held))

    service = IdentityService(
        reactor=reactor,
        clocks=clocks,
        options=options_for(config, token, remote, parts.wanted()),
        durable=durable,
        state_file=state_file,
        outlets=outlets,
        described=parts.described(),
        where=str(config.destination),
        remote=remote,
        published=published,
        hook_failures=hooks.failures if hooks is not None else None,
        manager=None if config.one_shot else ServiceManager.from_environment(os.environ, os.getpid()),
    )
    services: list[Any] = [service]
    if not config.one_shot:
        if config.diag is not None:
            from mezite.daemon_metrics import collect
            from mezite.diagnostics import DiagnosticsService

            services.append(DiagnosticsService(
                reactor, *config.diag, service.not_ready_reason, lambda: collect(service)
            ))
        from mezite.identity.control import ControlService

        socket_path = config.control_socket or state_file.directory / "control.sock"
        services += [ControlService(reactor, socket_path, service), *parts.agents]
    finished: list[Finish] = []

    def end(finish: Finish) -> None:
        finished.append(finish)
        if reactor.running and not reactor._stopped:
            reactor.stop()

    def begin() -> None:
        for part in services:
            part.startService()

    service.ended.addCallback(end)
    _bind(services)
    for part in services:
        reactor.addSystemEventTrigger("before", "shutdown", part.stopService)
    if hooks is not None:
        reactor.addSystemEventTrigger("before", "shutdown", hooks.stop)
    reactor.callWhenRunning(begin)
    gc.enable()
    reactor.run()
    finish = finished[0] if finished else Finish(1)
    if finish.error is not None:
        _report(config, finish.error)
    return finish.exit_code


def _bind(services: list[Any]) -> None:
    """Each has what it needs, or none leaves anything behind."""
    begun: list[Any] = []
    try:
        for part in services:
            begun.append(part)
            part.privilegedStartService()
    except MeziteError as error:
        for part in reversed(begun[1:]):
            part.stopService()
        if isinstance(error, Conflict):
            # In a server's answer that would be a refusal; here it may be over at the next start.
            raise StateFailure(str(error)) from None
        raise


def _report(config: daemon.DaemonConfig, error: MeziteError) -> int:
    """Why it ends is told, as its log is; the exit code."""
    if config.log_format != "json":
        return failures.report(PROGRAM, error)
    from mezite import logs

    code = failures.exit_code(error)
    streams.say(logs.one_line(
        "critical", "identity.ended", __name__, failures.line(PROGRAM, error),
        {"code": error.code, "exit_code": code},
    ).rstrip("\n"))
    return code


def _note_last(destination: Path) -> None:
    """`msh` finds the identity published last; not being able to say so is no fault of the identity."""
    path = paths.last_identity(os.environ)
    line = os.fsencode(destination) + b"\n"
    try:
        if path.exists() and path.read_bytes() == line:
            return
        if os.geteuid() == 0 and _nearest(path).stat().st_uid != 0:
            # sudo with HOME kept: root's files in his home would shut its owner out of it.
            return
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = path.with_name(f".{path.name}.{os.getpid()}")
        new.write_bytes(line)
        new.replace(path)
    except (OSError, ValueError):
        pass


def _nearest(path: Path) -> Path:
    """The nearest of the directories above *path* that is there."""
    return next(one for one in path.parents if one.exists())
