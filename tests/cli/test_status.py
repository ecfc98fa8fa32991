"""`mezctl status`: each reason is explained, and each of its commands exists."""

from __future__ import annotations

import re
from datetime import timedelta

import click
import pytest

from mezite.auth import rotation
from mezite.auth.admin import CaType
from mezite.auth.context import Operator
from mezite.cli.ctl_status import REMEDIES
from mezite.cli.mezctl import mezctl
from mezite.core.audit import EventType
from mezite.errors import Reason
from tests.cli.conftest import Terminal


def test_every_reason_is_explained() -> None:
    assert set(Reason) == set(REMEDIES)


@pytest.mark.parametrize("reason", list(Reason), ids=lambda reason: reason.code)
def test_a_command_that_is_named_is_one(reason: Reason) -> None:
    """Its words lead to a command, and its options are that command's."""
    for named in re.findall(r"mezctl ([a-z].*)", REMEDIES[reason]):
        command: click.Command = mezctl
        for word in named.split():
            if isinstance(command, click.Group):
                found = command.get_command(click.Context(command), word)
                assert found is not None, named
                command = found
            elif word.startswith("--"):
                name, _, value = word.partition("=")
                assert any(name in option.opts for option in command.params), named
                if name == "--type" and command.name == "ls":
                    assert value in {event.event_name for event in EventType}
        assert not isinstance(command, click.Group), named


def test_a_rotation_under_way_and_its_next_step(terminal: Terminal) -> None:
    context = terminal.auth.context
    terminal.auth.write(lambda tx: rotation.rotate(
        context, tx, Operator(0, "root"), CaType.USER, grace=timedelta(0), passphrase=None
    ))
    told = terminal.told("status")
    assert "The user CA is being rotated: announce was done at 2026-03-24T14:00:00Z.\n" in told
    assert "    -> when every machine has renewed: mezctl ca rotate --type=user (switch)\n" in told
