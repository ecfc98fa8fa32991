"""`mezite.client.join` in a plain script, against a server of its own process."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mezite.client
from mezite.core.request import TokenText
from mezite.errors import Refused, UsageError


@pytest.fixture
def server() -> Iterator[dict[str, Any]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.rpc.service_process"], cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE, text=True,
    )
    assert process.stdout is not None
    with process.stdout:
        yield json.loads(process.stdout.readline())
        process.terminate()
        process.wait(30)


def test_joins_renews_and_tells_logging(
    server: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One loop after another in one process, and in none of them anything of Twisted's is running."""
    address = f"127.0.0.1:{server['port']}"
    with caplog.at_level(logging.INFO, "mezite"):
        first = mezite.client.join(tmp_path, auth_server=address, join_token=server["token"])
    second = mezite.client.join(tmp_path)
    assert (first.instance, 1, 2) == (second.instance, first.generation, second.generation)
    assert f"joined as bot {first.bot}, instance {first.instance}, generation 1" in caplog.text
    assert server["token"] not in caplog.text
    assert "PRIVATE" not in caplog.text
    in_memory = mezite.client.join(auth_server=address, join_token=server["token"])
    assert in_memory.instance != first.instance
    mezite.client.leave(tmp_path)
    with pytest.raises(UsageError, match="there is no identity in"):
        mezite.client.leave(tmp_path)
    third = mezite.client.join(tmp_path, auth_server=address, join_token=server["token"])
    assert (third.generation, third.instance != first.instance) == (1, True)
    strange = TokenText.from_random(bytes(22), TokenText.from_text(server["token"]).pin)
    with pytest.raises(Refused) as refused:
        mezite.client.join(auth_server=address, join_token=strange.to_text())
    assert refused.value.code == "token_unknown"
