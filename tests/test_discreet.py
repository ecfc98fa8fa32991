"""What a record prints of itself."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator

import pytest
from msgspec import Struct, structs

import mezite
from mezite.core.request import Signed, TokenText
from mezite.discreet import Discreet

_SECRET = re.compile(r"secret|passphrase|private|_pem$|nonce_key|^ssh_key$")
_ONLY_WITH_AN_EXTRA = ("mezite.storage.postgres", "mezite.database")


def records() -> Iterator[type[Struct]]:
    """Every record of the package."""
    for found in pkgutil.walk_packages(mezite.__path__, "mezite."):
        if not found.name.startswith(_ONLY_WITH_AN_EXTRA) and not found.name.endswith("_pb2_grpc"):
            importlib.import_module(found.name)
    pending: list[type[Struct]] = [Struct]
    while pending:
        for below in pending.pop().__subclasses__():
            pending.append(below)
            if below.__module__.startswith("mezite."):
                yield below


def test_no_record_shows_a_field_with_the_name_of_a_secret() -> None:
    found = set(records())
    assert len(found) > 150
    shown = {
        f"{record.__qualname__}.{name}"
        for record in found
        for name in record.__struct_fields__
        if _SECRET.search(name) and name not in getattr(record, "hidden", ())
    }
    assert shown == set()


def test_what_is_hidden_is_a_field() -> None:
    """A field that has been renamed would be shown."""
    for record in records():
        if issubclass(record, Discreet):
            assert set(record.hidden) <= set(record.__struct_fields__), record


def test_a_secret_is_not_printed() -> None:
    token = TokenText("tok-bot-0123456789ab", "5" * 32, "a" * 32)
    assert repr(token) == str(token) == f"TokenText(id='tok-bot-0123456789ab', pin='{'a' * 32}')"
    # What rich, a frequent guest of tracebacks, asks for.
    assert token.__rich_repr__() == [("id", token.id), ("pin", token.pin)]


def test_a_discreet_record_compares_hashes_and_copies_like_any_other() -> None:
    one, same, other = Signed(b"1", b"s"), Signed(b"1", b"s"), Signed(b"2", b"s")
    assert one == same != other
    assert hash(one) == hash(same)
    assert structs.replace(one, body=b"2") == other
    with pytest.raises(AttributeError):
        one.body = b"3"  # type: ignore[misc]  # that is the test
