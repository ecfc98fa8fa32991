"""What holds for every storage's pages, and for many threads at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mezite.core.model import LockKind
from mezite.storage.interface import MAX_PAGE, Storage, Transaction
from tests.storage.making import (
    NOW,
    make_bot,
    make_instance,
    make_lock,
    make_role,
    make_step,
    make_token,
    read,
    with_bot,
    write,
)

# --- pages ----------------------------------------------------------------------------------

PAGED: dict[str, tuple[Callable[[Transaction, str], Any], Callable[..., Any], Callable[[Any], str]]] = {
    "roles": (
        lambda tx, key: tx.put_role(make_role(key)),
        lambda tx, **page: tx.list_roles(**page),
        lambda role: str(role.name),
    ),
    "bots": (
        lambda tx, key: tx.add_bot(make_bot(key, roles=("a", "b"))),
        lambda tx, **page: tx.list_bots(**page),
        lambda bot: str(bot.name),
    ),
    "tokens": (
        lambda tx, key: tx.add_token(make_token(key, bot_id="bot-9owner")),
        lambda tx, **page: tx.list_tokens(**page),
        lambda token: str(token.id),
    ),
    "tokens of a bot": (
        lambda tx, key: tx.add_token(make_token(key, bot_id="bot-9owner")),
        lambda tx, **page: tx.list_tokens("bot-9owner", **page),
        lambda token: str(token.id),
    ),
    "instances": (
        lambda tx, key: tx.add_instance(make_instance(key, bot_id="bot-9owner")),
        lambda tx, **page: tx.list_instances(**page),
        lambda instance: str(instance.id),
    ),
    "instances of a bot": (
        lambda tx, key: tx.add_instance(make_instance(key, bot_id="bot-9owner")),
        lambda tx, **page: tx.list_instances("bot-9owner", **page),
        lambda instance: str(instance.id),
    ),
    "locks": (
        lambda tx, key: tx.add_lock(make_lock(key, LockKind.BOT, "ci")),
        lambda tx, **page: tx.list_locks(**page),
        lambda lock: str(lock.id),
    ),
}


class Undo(Exception):
    """Ends an example without a trace."""


@pytest.mark.parametrize("what", sorted(PAGED))
@given(
    keys=st.sets(st.from_regex(r"[A-Za-z][A-Za-z0-9._-]{0,3}", fullmatch=True), max_size=25),
    limit=st.integers(1, 12),
)
@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_pages_together_are_the_whole_in_order(
    storage: Storage, what: str, keys: set[str], limit: int
) -> None:
    """Following ``next`` shows every record once, in the order of its key."""
    add, page_of, key_of = PAGED[what]
    pages: list[Any] = []

    def walk(tx: Transaction) -> None:
        if what != "bots":
            tx.add_bot(make_bot("9owner"))
        for key in keys:
            add(tx, key)
        after = ""
        while True:
            page = page_of(tx, after=after, limit=limit)
            pages.append(page)
            if page.next is None:
                raise Undo
            after = page.next

    assert isinstance(storage.write(walk).exception(30), Undo)
    assert [key_of(item) for page in pages for item in page.items] == sorted(keys)
    assert all(len(page.items) == limit for page in pages[:-1])
    assert [page.next for page in pages[:-1]] == [key_of(page.items[-1]) for page in pages[:-1]]


@pytest.mark.parametrize(("limit", "expected"), [(-5, 1), (0, 1), (MAX_PAGE * 9, MAX_PAGE)])
def test_a_limit_out_of_bounds_is_brought_to_them(storage: Storage, limit: int, expected: int) -> None:
    """No caller gets more than ``MAX_PAGE`` records at once."""
    keys = [f"r{number:05}" for number in range(MAX_PAGE + 2)]
    write(storage, lambda tx: [tx.add_lock(make_lock(key, LockKind.BOT, key)) for key in keys])
    page = read(storage, lambda tx: tx.list_locks(limit=limit))
    assert [lock.id for lock in page.items] == keys[:expected]


# --- races ----------------------------------------------------------------------------------


def race(storage: Storage, runners: int, use_case: Callable[[Transaction, int], bool]) -> list[int]:
    """The numbers of those of *runners* threads whose use case returned true."""
    start = threading.Barrier(runners)
    won: list[int] = []

    def run(number: int) -> None:
        start.wait(30)
        if write(storage, lambda tx: use_case(tx, number)):
            won.append(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(runners)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return won


@pytest.mark.parametrize("uses", [1, 5])
def test_a_token_admits_no_more_than_its_uses(storage: Storage, uses: int) -> None:
    """Of 64 at once, exactly as many as it has uses win."""
    write(storage, lambda tx: (tx.add_bot(make_bot()), tx.add_token(make_token(uses=uses))))
    assert len(race(storage, 64, lambda tx, _: tx.use_token("tok-1", NOW))) == uses
    assert read(storage, lambda tx: tx.token("tok-1")).used == uses


def test_one_of_many_steps_wins(storage: Storage) -> None:
    """Of 64 steps from one generation exactly one is made, and its key is stored."""
    write(storage, with_bot)
    won = race(storage, 64, lambda tx, n: tx.step(make_step(make_instance(), f"SHA256:{n}")))
    assert len(won) == 1
    found = read(storage, lambda tx: tx.instance("inst-1"))
    assert (found.generation, found.lineage_key) == (2, f"SHA256:{won[0]}")
