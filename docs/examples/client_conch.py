"""A small deploy service on Twisted: runs a command on a node again and again, by an identity of its own.

    export MEZITE_JOIN_TOKEN=tok-bot-…      # for the first start only
    python client_conch.py auth.example.com:3025 /var/lib/deploy deploy@web-server-01 3022 uptime

Conch logs in with the certificate, and talks to no host without one by the Host CA.
"""

from twisted.internet import asyncioreactor

asyncioreactor.install()  # gRPC needs it; before anything imports the reactor

import argparse
import os
import sys

from twisted.conch.endpoints import SSHCommandClientEndpoint
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint
from twisted.internet.error import ConnectionDone, ProcessTerminated
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater, react

from mezite.client import conch
from mezite.client.tx import Identity
from mezite.errors import MeziteError


class Output(Protocol):
    """What a command writes, until it ends."""

    def connectionMade(self):
        self.text, self.ended = b"", Deferred()

    def dataReceived(self, data):
        self.text += data

    def connectionLost(self, reason):
        if reason.check(ConnectionDone):
            self.ended.callback(None)
        else:
            self.ended.errback(reason)  # ProcessTerminated, with its exit code


async def run(connection, command):
    endpoint = SSHCommandClientEndpoint.existingConnection(connection, command.encode())
    output = await endpoint.connect(Factory.forProtocol(Output))
    await output.ended
    return output.text.decode()


async def deploy(reactor, options):
    login, _, host = options.where.rpartition("@")
    async with Identity(
        options.directory,
        auth_server=options.auth_server,
        join_token=os.environ.get("MEZITE_JOIN_TOKEN"),
        renewal_interval=options.renewal_interval,
    ) as identity:
        for number in range(options.times):
            if number:
                await deferLater(reactor, options.every)
            credential = identity.current  # the newest: take it anew for each login
            connection = await conch.connect(
                reactor, HostnameEndpoint(reactor, host, options.port), credential, login=login, host=host
            )
            text = await run(connection, options.command)
            connection.transport.loseConnection()
            print(f"generation {credential.generation}:", text, end="", flush=True)


async def main(reactor, options):
    try:
        await deploy(reactor, options)
    except MeziteError as error:
        sys.exit(f"{error} ({error.code})")
    except ProcessTerminated as error:
        sys.exit(f"{options.command}: exit code {error.exitCode}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("auth_server")
    parser.add_argument("directory")
    parser.add_argument("where", metavar="login@host")
    parser.add_argument("port", type=int)
    parser.add_argument("command")
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--every", type=float, default=10, metavar="SECONDS")
    parser.add_argument("--renewal-interval", metavar="DURATION")
    react(main, [parser.parse_args()])
