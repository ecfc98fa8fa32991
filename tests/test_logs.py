"""The log as JSON: one object a line, with a name that docs/logs.md has."""

from __future__ import annotations

import ast
import io
import json
import logging
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import Logger, LogPublisher
from twisted.python.failure import Failure

import mezite
from mezite import logs
from mezite.core.audit import EventType

PACKAGE = Path(mezite.__file__).parent
DOC = Path(__file__).parents[1] / "docs" / "logs.md"
LEVELS = {"debug", "info", "warn", "warning", "error", "critical", "failure", "exception", "emit"}
LOGGERS = {"_log", "_told", "log", "Logger"}
COMPUTED = {
    # Where the name is not a literal in the call: which ones it takes.
    "rpc/auth_api.py": {one.event_name for one in EventType if one.event_name in
                        ("join.refused", "renew.refused", "leave.refused")},
    "identity/service.py": {"identity.joined", "identity.certified", "identity.written", "agent.serving",
                            "identity.renewed"},
    "workers.py": set(),  # what a worker has named
    "cli/mezd_start.py": {"identity.ended"},  # written without a logger
    "logs.py": {logs.LIBRARY},
}


def log_calls(tree: ast.AST) -> Iterator[ast.Call]:
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        whose = node.func.value
        if isinstance(whose, ast.Call):
            whose = whose.func
        name = whose.attr if isinstance(whose, ast.Attribute) else getattr(whose, "id", "")
        if node.func.attr in LEVELS and name in LOGGERS:
            yield node


def name_of(call: ast.Call) -> ast.expr | None:
    """What is given as ``event=``, or as logging's ``extra={"event": …}``."""
    given = {word.arg: word.value for word in call.keywords}
    extra = given.get("extra")
    if isinstance(extra, ast.Dict):
        return extra.values[0]
    return given.get("event")


def names_in_code() -> set[str]:
    found: set[str] = set().union(*COMPUTED.values())
    for path in sorted(PACKAGE.rglob("*.py")):
        where = str(path.relative_to(PACKAGE))
        for call in log_calls(ast.parse(path.read_text())):
            name = name_of(call)
            assert name is not None, f"{where}:{call.lineno} tells something without a name"
            if isinstance(name, ast.Constant):
                found.add(name.value)
            else:
                assert where in COMPUTED, f"{where}:{call.lineno} computes a name"
    return found


def test_every_event_is_in_the_documentation_and_nothing_else_is() -> None:
    rows = [line.split("|")[1] for line in DOC.read_text().split("## Both programs")[1].splitlines()
            if line.startswith("| `")]
    documented = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert len(documented) == len(set(documented))
    assert set(documented) == names_in_code()


def test_names_that_are_computed_are_in_the_code() -> None:
    text = "".join(path.read_text() for path in PACKAGE.rglob("*.py"))
    for name in set().union(*COMPUTED.values()) - {logs.LIBRARY}:
        assert f'"{name}"' in text or name.endswith(".refused")


@pytest.fixture
def told() -> Callable[..., list[dict[str, Any]]]:
    """Runs something with a logger, and gives the lines of the log."""

    def run(do: Callable[[Logger], object], level: str = "debug") -> list[dict[str, Any]]:
        file = io.StringIO()
        publisher = LogPublisher(logs.observer(level, "json", file))
        do(Logger("mezite.here", observer=publisher))
        return [json.loads(line) for line in file.getvalue().splitlines()]

    return run


def test_a_line_has_name_time_level_message_and_fields(told: Callable[..., list[dict[str, Any]]]) -> None:
    (line,) = told(lambda log: log.warn("{who} left\nat {n}", event="one.left", who="é\x00", n=3))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}\+00:00", line.pop("time"))
    assert line == {
        "level": "warn", "event": "one.left", "source": "mezite.here", "message": "é\x00 left\nat 3",
        "fields": {"who": "é\x00", "n": 3},
    }


def test_what_json_cannot_hold_is_shown_as_text(told: Callable[..., list[dict[str, Any]]]) -> None:
    (line,) = told(lambda log: log.info("{path}", event="one.path", path=Path("/x"), error=ValueError("y")))
    assert line["fields"] == {"path": "/x", "error": "y"}


def test_fields_of_libraries_are_left_out(told: Callable[..., list[dict[str, Any]]]) -> None:
    """Nobody knows what is in them."""
    (line,) = told(lambda log: log.info("said {thing}", thing="this", other="secret"))
    assert (line["event"], line["message"], line.get("fields")) == ("library", "said this", None)


def test_a_traceback_is_a_part_of_its_own(told: Callable[..., list[dict[str, Any]]]) -> None:
    def fail(log: Logger) -> None:
        try:
            raise ValueError("broken")
        except ValueError:
            log.failure("it broke", Failure(), event="one.broke")

    (line,) = told(fail)
    assert (line["level"], line["message"], line["event"]) == ("critical", "it broke", "one.broke")
    assert "ValueError: broken" in line["traceback"]


def test_levels_below_the_chosen_one_are_left_out(told: Callable[..., list[dict[str, Any]]]) -> None:
    def tell(log: Logger) -> None:
        log.info("no", event="one.info")
        log.error("yes", event="one.error")

    assert [line["event"] for line in told(tell, level="warn")] == ["one.error"]


def test_pythons_own_logging_is_told_as_well(caplog: pytest.LogCaptureFixture) -> None:
    """The storage does not know Twisted."""
    from twisted.logger import globalLogPublisher

    file = io.StringIO()
    observer = logs.observer("info", "json", file)
    globalLogPublisher.addObserver(observer)
    before = list(logging.getLogger().handlers)
    try:
        logs.take_python_logging()
        logs.take_python_logging()
        log = logging.getLogger("mezite.storage.here")
        log.warning("%s: odd", "/db", extra={"event": "database.odd"})
        try:
            raise OSError("full")
        except OSError:
            log.exception("failed", extra={"event": "database.failed"})
        logging.getLogger("asyncio").error("theirs")
    finally:
        globalLogPublisher.removeObserver(observer)
        logging.getLogger().handlers[:] = before
    first, second, third = (json.loads(line) for line in file.getvalue().splitlines())
    assert (first["event"], first["level"], first["message"]) == ("database.odd", "warn", "/db: odd")
    assert (second["event"], second["level"]) == ("database.failed", "error")
    assert "OSError: full" in second["traceback"]
    assert (third["event"], third["source"]) == ("library", "asyncio")
