"""The parameters of a request, strictly read."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from mezite.admin.params import Params
from mezite.errors import InvalidInput


def read(value: Any, how: Callable[[Params], Any]) -> Any:
    return how(Params({"it": value}, "it"))


GOOD: list[tuple[Any, Callable[[Params], Any], Any]] = [
    ("x", lambda params: params.text("it"), "x"),
    (None, lambda params: params.optional_text("it"), None),
    (["a", "b"], lambda params: params.texts("it"), ("a", "b")),
    (None, lambda params: params.texts("it"), ()),
    (3, lambda params: params.integer("it", 1, least=1, most=3), 3),
    (None, lambda params: params.integer("it", 1, least=1, most=3), 1),
    (True, lambda params: params.boolean("it"), True),
    (None, lambda params: params.boolean("it"), False),
    ("1h30m", lambda params: params.duration("it"), timedelta(minutes=90)),
    (None, lambda params: params.duration("it"), None),
    ("a", lambda params: params.choice("it", ["a", "b"]), "a"),
    ({"any": [1]}, lambda params: params.document("it"), {"any": [1]}),
]


@pytest.mark.parametrize(("value", "how", "expected"), GOOD)
def test_what_has_its_form_is_read(value: Any, how: Callable[[Params], Any], expected: Any) -> None:
    assert read(value, how) == expected


BAD: list[tuple[Any, Callable[[Params], Any]]] = [
    (None, lambda params: params.text("it")),
    ("", lambda params: params.text("it")),
    (3, lambda params: params.text("it")),
    ("x\0", lambda params: params.text("it")),
    ("x" * 4097, lambda params: params.text("it")),
    ("a", lambda params: params.texts("it")),
    ([1], lambda params: params.texts("it")),
    ([""], lambda params: params.texts("it")),
    (["a"] * 1001, lambda params: params.texts("it")),
    (0, lambda params: params.integer("it", 1, least=1, most=3)),
    (4, lambda params: params.integer("it", 1, least=1, most=3)),
    (True, lambda params: params.integer("it", 1, least=1, most=3)),
    ("1", lambda params: params.integer("it", 1, least=1, most=3)),
    (2.0, lambda params: params.integer("it", 1, least=1, most=3)),
    (1, lambda params: params.boolean("it")),
    ("2026-03-24T14:00:00", lambda params: params.moment("it")),
    ("0001-01-01T00:00:00+05:00", lambda params: params.moment("it")),
    ("9999-12-31T23:59:59-12:00", lambda params: params.moment("it")),
    (3600, lambda params: params.duration("it")),
    ("1x", lambda params: params.duration("it")),
    ("0s", lambda params: params.duration("it")),
    ("c", lambda params: params.choice("it", ["a", "b"])),
    (None, lambda params: params.choice("it", ["a", "b"])),
    (None, lambda params: params.document("it")),
]


@pytest.mark.parametrize(("value", "how"), BAD)
def test_what_has_another_form_is_told_with_its_name(value: Any, how: Callable[[Params], Any]) -> None:
    with pytest.raises(InvalidInput, match=r"^it: ") as caught:
        read(value, how)
    assert caught.value.path == "it"


def test_an_unknown_parameter_is_told_with_the_nearest() -> None:
    with pytest.raises(InvalidInput, match=r"^token-ttl: unknown parameter; did you mean token_ttl\?$"):
        Params({"token-ttl": "1h"}, "name", "token_ttl")
    with pytest.raises(InvalidInput, match=r"^zzz: unknown parameter; known: none$"):
        Params({"zzz": 1})
