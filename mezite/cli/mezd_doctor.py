"""`mezd identity doctor`: looks at everything that an identity depends on, and says what to do."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from mezite.cli import failures, output
from mezite.cli.helping import Command
from mezite.cli.program import FORMATS, directories, files
from mezite.config import daemon
from mezite.core.model import host_port
from mezite.errors import MeziteError, Unreachable

if TYPE_CHECKING:
    from mezite.identity.doctor import Finding
    from mezite.identity.records import Held
    from mezite.rpc.client import ServerTrust


@click.command(cls=Command)
@click.option("--config", metavar="FILE", shell_complete=files, help="As with start.")
@click.option("--destination", metavar="DIR", shell_complete=directories, help="As with start.")
@click.option("--auth-server", metavar="HOST[:PORT]", help="Default: those that the identity came from.")
@click.option("--ca-pin", metavar="HEX", help="As with start, where there is no identity yet.")
@click.option("--ca-file", metavar="FILE", shell_complete=files, help="As with start.")
@click.option("--node", metavar="NODE", help="Log in to this node, too, and run `true` there.")
@click.option("--login", metavar="LOGIN", help="The account on NODE; default: the certificate's first login.")
@click.option("--format", "format_", type=click.Choice(FORMATS), default="text",
              help="text is the default.")
def doctor(node: str | None, login: str | None, format_: str, **flags: Any) -> None:
    """Say what is wrong, and what to do.

    Looks at the directory, the state, the files, the agent, the daemon, the server with its pin and
    clock, and this machine's ssh.  Changes nothing, and may be run beside the daemon.

    Exit codes: 0 nothing is wrong, 1 something is, 2 usage.
    """
    for name in (node, login):
        if name is not None and (not name or name.startswith("-")):
            raise click.UsageError(f"{name!r} is no node or login; give --node=NAME and --login=ACCOUNT")
    findings = _findings(daemon.load(flags, os.environ, os.geteuid()), node, login)
    if format_ == "text":
        _write(findings)
    else:
        output.write({"findings": [
            {"check": one.check, "level": one.level, "text": one.text, "remedy": one.remedy}
            for one in findings
        ]}, format_)
    bad = any(one.level == "PROBLEM" for one in findings)
    sys.exit(failures.FAILED if bad else failures.DONE)


def _write(findings: list[Finding]) -> None:
    width = max(len(one.check) for one in findings)
    for one in findings:
        output.write_finding(one.level, one.check.ljust(width), one.text, one.remedy)


def _findings(config: daemon.DaemonConfig, node: str | None, login: str | None) -> list[Finding]:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from datetime import UTC, datetime

    from msgspec.structs import replace

    from mezite.identity import doctor as look

    where = config.destination
    found = list(look.check_place(where))
    if look.is_out_of_reach(where):
        return found
    held, of_state = look.check_state(where)
    found += of_state
    if held is not None:
        found += look.check_certificate(held, datetime.now(UTC))
        outputs = config.all_outputs()
        for one in outputs:
            of_one = [*look.check_files(one.destination, held), *look.check_agent(one.destination, held)]
            found += of_one if len(outputs) == 1 else [
                replace(each, text=f"{one.name}: {each.text}") for each in of_one
            ]
    found.append(_daemon(config))
    found += _server(config, held)
    found += look.check_client(where)
    if node is not None and held is not None:
        account = login or held.principals[0]
        found.append(look.check_login(where, held, node, account))
    return found


def _daemon(config: daemon.DaemonConfig) -> Finding:
    from mezite.admin import client
    from mezite.cli.identity_text import facts
    from mezite.identity.doctor import BAD, GOOD, NOTE, Finding, is_renewing

    path = config.control_socket or config.destination / ".mezite/control.sock"
    try:
        status = client.connect([str(path)], remedy="").call("identity.status")
    except MeziteError:
        if is_renewing(config.destination):
            return Finding("daemon", BAD, f"none answers at {path}, and the last renewal was not finished",
                           "go on with it, and see what it says: mezd identity start --one-shot "
                           f"--destination={config.destination}")
        return Finding("daemon", NOTE, f"none answers at {path}",
                       "start it: mezd identity start; a one-shot identity needs none")
    if status["ready"]:
        return Finding("daemon", GOOD, f"ready, generation {status['generation']}")
    told = facts(status)
    text = f"{told['State']}: {told['Last error']}" if status.get("last_error") else told["State"]
    return Finding("daemon", BAD, text.removeprefix("NOT READY: "), told.get("What to do", ""))


def _server(config: daemon.DaemonConfig, held: Held | None) -> list[Finding]:
    """Reach, pin and clock, of each server."""
    import asyncio

    from mezite.identity.doctor import NOTE, Finding, finding_of
    from mezite.identity.given import given_trust
    from mezite.identity.state import peek
    from mezite.rpc.client import ServerTrust

    servers = config.auth_servers
    if not servers:
        durable = peek(config.destination) if held is not None else None
        if durable is None or not durable.server:
            return [Finding("server", NOTE, "no auth server is known", "give --auth-server")]
        servers = tuple(map(daemon.split_address, durable.server.split(",")))
    found: list[Finding] = []

    async def ask_all() -> None:
        try:
            given = given_trust(config)
            known = ServerTrust.from_der(held.trust.server_cas) if held is not None else None
            for address in servers:
                found.extend(await _ask(address, given or known, config.ca_pin, held))
        except MeziteError as error:
            found.append(finding_of("server", error, "check --ca-file"))

    asyncio.run(ask_all())
    return found


def _reach(error: Unreachable) -> str:
    if "no address is known" in str(error):
        return "is the name spelled right, and does this machine's DNS know it?"
    return "see how it is on its host: mezctl status; and does the network let this machine reach it?"


async def _ask(
    address: tuple[str, int], trust: ServerTrust | None, pin: str | None, held: Held | None
) -> list[Finding]:
    import time
    from datetime import UTC, datetime, timedelta

    from mezite.identity.doctor import BAD, GOOD, Finding, check_clock, finding_of
    from mezite.identity.report import remedy
    from mezite.rpc.client import AuthClient, ServerTrust, pinned_ca

    host, port = address
    where = host_port(host, port)
    try:
        if trust is None and pin is not None:
            trust = ServerTrust.from_cas([await pinned_ca(host, port, pin, timedelta(seconds=10))])
        if trust is None:
            return [Finding("server", BAD, f"{where}: nothing is known that could prove it",
                            "give --ca-pin (the last part of a join token) or --ca-file")]
        begun = time.monotonic()
        async with AuthClient(where, trust) as client:
            cluster = await client.get_cluster()
        took = timedelta(seconds=time.monotonic() - begun)
    except MeziteError as error:
        helps = _reach(error) if isinstance(error, Unreachable) else remedy(error)
        return [finding_of("server", error, helps)]
    if held is not None and cluster.uuid != held.trust.cluster_uuid:
        text = f"{where} is of another cluster, {cluster.name}"
        return [Finding("server", BAD, text, "check --auth-server")]
    middle = datetime.now(UTC) - took / 2
    text = f"{where} is proven, cluster {cluster.name}, {took.total_seconds() * 1000:.0f} ms"
    return [Finding("server", GOOD, text), check_clock(cluster.server_time - middle, took / 2)]
