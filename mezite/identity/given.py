"""What a person gave, as the service wants it: in mezd's settings, or in a program's own."""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mezite.config.daemon import DaemonConfig, split_address
from mezite.core.audit import plain
from mezite.core.model import host_port
from mezite.core.request import TokenText
from mezite.errors import MeziteError, StateFailure, UsageError
from mezite.identity.records import Durable, Held, Wanted
from mezite.identity.state import Keeps
from mezite.identity.states import Options

if TYPE_CHECKING:
    from twisted.logger import Logger

    from mezite.identity.remote import Remote
    from mezite.rpc.client import ServerTrust

MAX_CA_FILE = 1024 * 1024


def token_for(
    config: DaemonConfig, durable: Durable, read_stdin: Callable[[], str]
) -> TokenText | None:
    """The join token; one that is gone does no harm where it has been redeemed."""
    if config.token is None:
        return None
    if durable.held is None:
        return config.token.read(read_stdin)
    return config.token.read_if_any(read_stdin, _tell_unreadable)


def _tell_unreadable(why: str) -> None:
    _log().warn("{why}; going on with the identity that is there", event="token.unreadable", why=why)


def _log() -> Logger:
    from twisted.logger import Logger  # takes time to load, and is seldom needed here

    return Logger("mezite.identity")


def check_beginning(config: DaemonConfig, durable: Durable, token: TokenText | None, damaged: str) -> None:
    """Returns where there is something to begin with: an identity, or a token.

    *damaged* is what was wrong with a slot that was passed over.
    """
    if durable.held is not None or token is not None:
        return
    if damaged:
        raise StateFailure(
            f"the newest state of this identity is damaged ({damaged}), and the one before it "
            f"is from before the join; give the {config.called('join-token')} that it joined with once more"
        )
    raise UsageError(
        f"there is no identity in {config.destination} yet; give the {config.called('join-token')} that "
        "`mezctl bots add` printed"
    )


def addresses_for(config: DaemonConfig, durable: Durable) -> tuple[tuple[str, int], ...]:
    """The servers that were given, or else those that the identity came from."""
    if config.auth_servers:
        return config.auth_servers
    if not durable.server:
        raise UsageError(f"no auth server is known; give {config.called('auth-server')}")
    return tuple(map(split_address, durable.server.split(",")))


def given_trust(config: DaemonConfig) -> ServerTrust | None:
    """Trust in the CA that was named, in place of a pin."""
    from mezite.rpc.client import ServerTrust  # gRPC takes time to load, and what is wrong is told before

    if config.ca_system:
        return ServerTrust.of_system()
    if config.ca_file is None:
        return None
    try:
        with config.ca_file.open("rb") as file:
            return ServerTrust.from_pem(file.read(MAX_CA_FILE), str(config.ca_file))
    except OSError as error:
        raise UsageError(
            f"{config.called('ca-file')}: {config.ca_file}: {error.strerror}; name a readable file"
        ) from None


def end_identity(config: DaemonConfig, durable: Durable, state: Keeps) -> Coroutine[Any, Any, Held]:
    """The identity of *durable* ends at its server (:func:`mezite.identity.leaving.leave`).

    Nothing is removed here.  Raises :class:`UsageError` at once where there is
    none, or no server to ask.
    """
    from mezite.identity.leaving import leave
    from mezite.rpc.client import ServerTrust

    if durable.held is None:
        raise no_identity(config)
    servers = [host_port(host, port) for host, port in addresses_for(config, durable)]
    given, known = given_trust(config), ServerTrust.from_der(durable.held.trust.server_cas)
    return leave(durable, state, servers, [one for one in (given, known) if one is not None])


def no_identity(config: DaemonConfig) -> UsageError:
    """There is none to end."""
    return UsageError(f"there is no identity in {config.destination}; name the directory where it is")


def remote_for(
    config: DaemonConfig,
    durable: Durable,
    addresses: tuple[tuple[str, int], ...],
    loop: asyncio.AbstractEventLoop,
) -> Remote:
    """The one server, or the several on one database, at *addresses*.

    An identity brings its own trust: a CA file that is gone does no harm where there is one.
    """
    from mezite.identity.remote import GrpcRemote

    try:
        ca = given_trust(config)
    except MeziteError as error:
        if durable.held is None:
            raise
        ca = None
        _log().warn(
            "{why}; going on with the CA that came with the identity", event="ca.unreadable", why=str(error)
        )
    remotes = [GrpcRemote(loop, *address, ca=ca, ca_pin=config.ca_pin) for address in addresses]
    if len(remotes) == 1:
        return remotes[0]
    from mezite.identity.several import SeveralRemotes

    return SeveralRemotes(remotes, random.shuffle, time.monotonic)


def options_for(
    config: DaemonConfig, token: TokenText | None, remote: Remote, outputs: tuple[Wanted, ...]
) -> Options:
    return Options(
        token=token,
        one_shot=config.one_shot,
        ttl=config.certificate_ttl,
        interval=config.renewal_interval,
        server=remote.address,
        # Linux takes any bytes for a name, protobuf only UTF-8 for a text.
        host=plain(socket.gethostname(), 128),
        boot_id=_boot_id(),
        outputs=outputs,
    )


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
