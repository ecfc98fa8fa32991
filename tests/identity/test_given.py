"""What a person gave, at a start with an identity and without one."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from twisted.logger import LogEvent, globalLogPublisher

from mezite.config.daemon import from_keywords
from mezite.errors import MeziteError
from mezite.identity.given import remote_for
from mezite.identity.records import Durable
from tests.identity.making import durable


@pytest.mark.parametrize("content", [None, b"", b"no PEM"])
def test_a_ca_file_that_is_gone_does_no_harm_where_there_is_an_identity(
    tmp_path: Path, content: bytes | None
) -> None:
    """Its own trust came with it: no reason to end with 2 at a restart, which the unit does not repeat."""
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    config = from_keywords({"destination": str(tmp_path), "ca_file": str(path)})
    told: list[LogEvent] = []
    loop = asyncio.new_event_loop()
    globalLogPublisher.addObserver(told.append)
    try:
        remote = remote_for(config, durable(), (("a", 1), ("b", 2)), loop)
        assert remote.address == "a:1,b:2"
        (event,) = [one for one in told if one.get("event") == "ca.unreadable"]
        assert str(path) in event["why"]
        with pytest.raises(MeziteError, match=r"ca\.pem"):
            remote_for(config, Durable(), (("a", 1),), loop)
    finally:
        globalLogPublisher.removeObserver(told.append)
        loop.close()
