"""Columns and lines that several commands show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mezite.cli.output import Cell, When, write_line
from mezite.cli.terminal import BAD, SOON, Marked

_STATES = {"locked": BAD, "forked": BAD, "expired": BAD, "recoverable": SOON}


def state(word: str) -> Marked:
    """A record's state: red where it stops its bearer, yellow where that is about to change."""
    return Marked(word, _STATES.get(word))


TOKENS = {
    "ID": lambda token: token["id"],
    "BOT": lambda token: token["bot"],
    "STATE": lambda token: state(token["state"]),
    "USED": lambda token: f"{token['used']}/{token['uses']}",
    "CREATED": lambda token: When(token["created_at"]),
    "EXPIRES": lambda token: When(token["expires_at"]),
}

INSTANCES = {
    "ID": lambda instance: instance["id"],
    "BOT": lambda instance: instance["bot"],
    "STATE": lambda instance: state(instance["state"]),
    "GENERATION": lambda instance: instance["generation"],
    "RENEWED": lambda instance: When(instance["renewed_at"]),
    "ADDRESS": lambda instance: instance["address"],
    "HOST": lambda instance: instance["host"],
}


def of_one_bot(columns: Mapping[str, Cell]) -> dict[str, Cell]:
    """Without the bot's name, which stands above already."""
    return {name: cell for name, cell in columns.items() if name != "BOT"}


def write_token(answer: Any) -> None:
    """A join token on a line of its own, and how a machine uses it."""
    write_line(f"Join token: {answer['join_token']} (expires: {answer['token']['expires_at']})")
    write_line()
    write_line("Use this token with mezd identity:")
    write_line(
        f"  mezd identity start --auth-server={answer['auth_server']} --join-token={answer['join_token']}"
    )


def write_locked(answer: Any) -> None:
    held = answer["lock"]
    until = f" until {held['expires_at']}" if held["expires_at"] else ""
    write_line(f"{held['kind'].capitalize()} locked: {held['target']}{until} (lock {held['id']})")


def unlocking(lock: Any) -> str:
    """What ends a lock, and what to do before."""
    if lock["reason"] == "generation_mismatch":
        return f"find the copy, give the machine a new token, then: mezctl instances rm {lock['target']}"
    return f"to let it go on: mezctl locks rm {lock['id']}"


def asked_line(event: Any) -> str:
    """Of somebody who presented an old generation and did not prove it."""
    seen = event["fields"]
    return (
        f"{event['timestamp']} prove_asked: generation {seen['presented_generation']} was presented by "
        f"{seen['presented_key']} from {seen['presented_address']} "
        f"({seen['presented_host'] or 'unnamed host'}), and not proven: "
        f"a message that came late, or a copy ({seen['looks_like']})"
    )
