"""What operators do with join tokens."""

from __future__ import annotations

from datetime import datetime, timedelta

from msgspec import Struct

from mezite.auth.admin import note
from mezite.auth.context import Context, Operator
from mezite.auth.older import require_current
from mezite.core.audit import EventType
from mezite.core.duration import format_duration
from mezite.core.model import Bot, JoinToken
from mezite.core.request import TokenText, secret_hash
from mezite.discreet import Discreet
from mezite.errors import InvalidInput, NotFound
from mezite.storage.interface import Page, Transaction

DEFAULT_TOKEN_TTL = timedelta(hours=1)
MAX_TOKEN_TTL = timedelta(days=90)
MAX_USES = 100_000


class NewToken(Discreet, frozen=True):
    """A token that has just been made: the only time that its text is known."""

    hidden = ("text",)

    token: JoinToken
    bot: Bot
    text: str


class TokenView(Struct, frozen=True):
    token: JoinToken
    bot_name: str
    """Empty when the bot has been removed."""
    state: str


def find_bot(tx: Transaction, name: str) -> Bot:
    bot = tx.bot(name)
    if bot is None:
        raise NotFound(f"there is no bot {name!r}; mezctl bots ls shows them all")
    return bot


def make_token(
    context: Context, tx: Transaction, operator: Operator, bot: Bot, *, ttl: timedelta, uses: int,
    event: EventType = EventType.TOKEN_CREATED, replaced: int | None = None,
) -> NewToken:
    """A token that admits machines as *bot*, and its audit event.

    :class:`Conflict` while joins are refused, as the database is an older copy."""
    require_current(tx)
    if not timedelta(seconds=1) <= ttl <= MAX_TOKEN_TTL:
        raise InvalidInput(
            f"{format_duration(ttl)} is out of bounds; a join token lives 1s to "
            f"{format_duration(MAX_TOKEN_TTL)}",
            "token_ttl",
        )
    if not 1 <= uses <= MAX_USES:
        raise InvalidInput(f"{uses} is out of bounds; a join token has 1 to {MAX_USES} uses", "uses")
    text = TokenText.from_random(context.random(22), context.authorities().server_pin)
    now = context.clock()
    token = JoinToken(
        id=text.id,
        bot_id=bot.id,
        secret_hash=secret_hash(text.secret),
        uses=uses,
        created_at=now,
        expires_at=now + ttl,
    )
    tx.add_token(token)
    fields: dict[str, str | int] = {"bot": bot.name, "uses": uses, "ttl": format_duration(ttl)}
    if replaced is not None:
        fields["replaced"] = replaced
    note(context, tx, operator, event, "token", token.id, fields=fields)
    return NewToken(token, bot, text.to_text())


def create_token(
    context: Context, tx: Transaction, operator: Operator, bot_name: str, *,
    ttl: timedelta = DEFAULT_TOKEN_TTL, uses: int = 1,
) -> NewToken:
    """One more token for the bot; those it has stay good."""
    return make_token(context, tx, operator, find_bot(tx, bot_name), ttl=ttl, uses=uses)


def rotate_token(
    context: Context, tx: Transaction, operator: Operator, bot_name: str, *,
    ttl: timedelta = DEFAULT_TOKEN_TTL,
) -> tuple[NewToken, int]:
    """A new token for the bot, none of its old ones admits anybody any more;
    and how many of those had uses left.  Machines that have joined go on."""
    bot = find_bot(tx, bot_name)
    replaced = tx.revoke_tokens(bot.id, context.clock())
    new = make_token(
        context, tx, operator, bot, ttl=ttl, uses=1, event=EventType.TOKEN_ROTATED, replaced=replaced
    )
    return new, replaced


def list_tokens(
    context: Context, tx: Transaction, bot_name: str | None, after: str, limit: int
) -> Page[TokenView]:
    """In every state; *bot_name* must exist where it is given."""
    bot_id = None if bot_name is None else find_bot(tx, bot_name).id
    now = context.clock()
    names: dict[str, str] = {}
    page = tx.list_tokens(bot_id, after, limit)
    for token in page.items:
        if token.bot_id not in names:
            bot = tx.bot_by_id(token.bot_id)
            names[token.bot_id] = bot.name if bot else ""
    views = tuple(_view(token, names[token.bot_id], now) for token in page.items)
    return Page(views, page.next)


def _view(token: JoinToken, bot_name: str, now: datetime) -> TokenView:
    return TokenView(token, bot_name, token.state(now))


def remove_token(context: Context, tx: Transaction, operator: Operator, token_id: str) -> JoinToken:
    """The token admits nobody any more.  Machines that joined by it go on, except
    one that has never got the answer to its join: it needs a new token."""
    # More than the id, secret and all, is neither needed here nor to be shown.
    token_id = "-".join(token_id.split("-")[:3])
    token = tx.token(token_id)
    if token is None:
        raise NotFound(f"there is no token {token_id!r}; mezctl tokens ls shows them all")
    tx.delete_token(token_id)
    note(context, tx, operator, EventType.TOKEN_DELETED, "token", token_id,
         fields={"uses": token.uses, "used": token.used})
    return token
