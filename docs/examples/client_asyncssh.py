"""A small deploy service on asyncio: runs a command on a node again and again, by an identity of its own.

    export MEZITE_JOIN_TOKEN=tok-bot-…      # for the first start only
    python client_asyncssh.py auth.example.com:3025 /var/lib/deploy deploy@web-server-01 3022 uptime

Its logins go on through every renewal; needs `pip install mezite asyncssh`.
"""

import argparse
import asyncio
import logging
import os
import sys

import asyncssh

from mezite.client.aio import Identity
from mezite.errors import MeziteError


async def main(options: argparse.Namespace) -> None:
    login, _, host = options.where.rpartition("@")
    async with Identity(
        options.directory,
        auth_server=options.auth_server,
        join_token=os.environ.get("MEZITE_JOIN_TOKEN"),
        renewal_interval=options.renewal_interval,
    ) as identity:
        for number in range(options.times):
            if number:
                await asyncio.sleep(options.every)
            credential = identity.current  # the newest: take it anew for each login
            async with asyncssh.connect(
                host, options.port, username=login, **credential.for_asyncssh()
            ) as connection:
                done = await connection.run(options.command, check=True)
            print(f"generation {credential.generation}:", done.stdout, end="", flush=True)


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
    logging.basicConfig(level=logging.WARNING)  # INFO shows each renewal
    try:
        asyncio.run(main(parser.parse_args()))
    except MeziteError as error:
        sys.exit(f"{error} ({error.code})")
    except KeyboardInterrupt:
        sys.exit(130)
    except asyncssh.Error as error:
        sys.exit(f"{type(error).__name__}: {error}")
