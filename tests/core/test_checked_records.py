"""Records that check what they are made of."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from msgspec.structs import replace

from mezite.core.model import Bot
from mezite.core.template import USER, CertificateTemplate
from mezite.errors import InvalidInput

BOT = Bot("0b1f", "ci", ("deployer",), datetime(2026, 3, 24, tzinfo=UTC))
TEMPLATE = CertificateTemplate(USER, 1, "bot-ci", ("deploy",), 0, 1, (), ())


@pytest.mark.parametrize(
    ("field", "value"),
    [("name", "../ci"), ("roles", ()), ("ttl", timedelta(days=2)), ("renewable_for", timedelta()),
     ("source_address", ("192.0.2.1/24",))],
)
def test_a_bot_that_is_changed_is_checked_as_a_new_one(field: str, value: object) -> None:
    """msgspec's replace runs no ``__post_init__`` before version 0.21."""
    with pytest.raises(InvalidInput):
        replace(BOT, **{field: value})


def test_a_certificate_that_is_changed_has_principals_still() -> None:
    with pytest.raises(ValueError, match="without principals"):
        replace(TEMPLATE, principals=())
