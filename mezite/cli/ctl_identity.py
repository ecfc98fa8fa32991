"""`mezctl identity`: what the daemon on this machine says."""

from __future__ import annotations

import click

from mezite.cli.asking import Asking, Group, pass_asking
from mezite.cli.identity_text import write_status


@click.group(cls=Group)
def identity() -> None:
    """The daemon on this machine (mezd identity).

    Without --socket it is this account's daemon: the one started last, or the
    one with the default destination.
    """


@identity.command("status")
@pass_asking
def status(asking: Asking) -> None:
    """What identity the daemon holds, and when it renews."""
    asking.show(asking.daemon().call("identity.status"), write_status)


@identity.command("renew")
@pass_asking
def renew(asking: Asking) -> None:
    """Renew now, and wait for the outcome."""
    asking.show(asking.daemon().call("identity.renew"), write_status)
