"""What is secret does not get into errors, logs or the texts of records."""

from __future__ import annotations

import pytest

from mezite.auth import admin_tokens
from mezite.auth.context import Operator
from mezite.errors import NotFound
from tests.harness import Auth, Machine

ANN = Operator(1000, "ann")


@pytest.mark.parametrize("parts", [3, 4, 5, 6])
def test_an_operator_who_pastes_a_token_does_not_publish_it(auth: Auth, parts: int) -> None:
    """Whole, cut short, or with something behind it: the id is enough, the rest is told nobody."""
    token = auth.add_token(auth.add_bot())
    pasted = "-".join([*token.to_text().split("-"), "x"][:parts])
    gone = auth.write(lambda tx: admin_tokens.remove_token(auth.context, tx, ANN, pasted))
    assert gone.id == token.id
    with pytest.raises(NotFound) as told:
        auth.write(lambda tx: admin_tokens.remove_token(auth.context, tx, ANN, pasted))
    assert token.id in str(told.value)
    assert token.secret not in str(told.value)


def test_a_signed_request_does_not_show_the_token_in_it(auth: Auth) -> None:
    token = auth.add_token(auth.add_bot())
    request, signed = Machine(auth).join_request(token)
    assert token.secret.encode() in signed.body
    assert token.secret not in repr(signed)
    assert token.secret not in repr(request)
