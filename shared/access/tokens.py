"""Tokens of people and programs: what they may do and until when. Only their hashes are kept.

The token of a fleet's home is one of them. It is the only one whose text is in a file, which
makes it known to services although nobody has created it; it enters the record when it is
first used.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.database.tables import api_tokens
from shared.errors import PermanentError

Scope = Literal["read", "control", "trade"]
"""`read` looks. `control` runs the fleet and reduces risk: pause, train, halt. `trade` decides
what is traded: promote, limits, flatten, the end of a halt. None contains another."""

SCOPES: tuple[Scope, ...] = get_args(Scope)
HOME_LABEL = "home"
HOME_LIFETIME = timedelta(days=365)
MOST_DAYS = 3_650
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,59}")


@dataclass(frozen=True, slots=True)
class Token:
    """What is recorded of a token.

    Attributes
    ----------
    label
        Who bears it: the name that decisions are recorded under.
    last_used_at
        To the minute.
    """

    token_id: int
    label: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime
    revoked_at: datetime | None
    last_used_at: datetime | None

    def fault_at(self, now: datetime) -> str | None:
        """Return why the token is good for nothing at an instant, `None` where it is good."""
        if self.revoked_at is not None:
            return f"the token {self.label!r} was revoked on {self.revoked_at:%Y-%m-%d %H:%M} UTC"
        if now >= self.expires_at:
            return f"the token {self.label!r} expired on {self.expires_at:%Y-%m-%d %H:%M} UTC"
        return None


def new_token() -> str:
    """Return a new token with 256 random bits."""
    return f"mnt_{secrets.token_urlsafe(32)}"


def digest(token: str) -> bytes:
    """Return what a token is recorded as; of 256 random bits no slower hash is needed."""
    return hashlib.sha256(token.encode(errors="surrogatepass")).digest()


def parse_scopes(names: Iterable[str]) -> tuple[Scope, ...]:
    """Return scopes by their names, in their order.

    Raises
    ------
    PermanentError
        If there is none or an unknown one.
    """
    given = set(names)
    if not given or not given <= set(SCOPES):
        raise PermanentError(f"scopes {sorted(given)}: choose some of {', '.join(SCOPES)}")
    return tuple(scope for scope in SCOPES if scope in given)


async def create(
    connection: AsyncConnection, label: str, scopes: Sequence[Scope], lifetime: timedelta
) -> tuple[Token, str]:
    """Record a new token and return it with its text, which nobody can ever see again.

    Raises
    ------
    PermanentError
        If the label is no label or taken, or the lifetime out of bounds.
    """
    if not _LABEL.fullmatch(label) or label == HOME_LABEL:
        raise PermanentError(
            f"label {label!r}: use up to 60 letters, digits and . _ @ -, beginning with a letter "
            f"or digit; {HOME_LABEL!r} is the token of the fleet's own folder"
        )
    if not timedelta(0) < lifetime <= timedelta(days=MOST_DAYS):
        raise PermanentError(f"a lifetime of {lifetime}: give 1 to {MOST_DAYS} days")
    secret = new_token()
    created = await connection.execute(
        insert(api_tokens)
        .values(
            sha256=digest(secret),
            label=label,
            scopes=list(scopes),
            expires_at=text("now() + :lifetime").bindparams(lifetime=lifetime),
        )
        .on_conflict_do_nothing()
        .returning(api_tokens)
    )
    row = created.one_or_none()
    if row is None:
        raise PermanentError(
            f"a token {label!r} is in use: choose another label, or revoke it first with "
            f"mnt token revoke {label}"
        )
    return _token(row), secret


async def find_all(connection: AsyncConnection) -> list[Token]:
    """Return every token there ever was, newest first."""
    rows = await connection.execute(select(api_tokens).order_by(api_tokens.c.token_id.desc()))
    return [_token(row) for row in rows]


async def revoke(connection: AsyncConnection, label: str) -> Token:
    """Make a token good for nothing, for good.

    Raises
    ------
    PermanentError
        If no token in use has the label.
    """
    revoked = await connection.execute(
        api_tokens.update()
        .where(api_tokens.c.label == label, api_tokens.c.revoked_at.is_(None))
        .values(revoked_at=text("now()"))
        .returning(api_tokens)
    )
    row = revoked.one_or_none()
    if row is None:
        raise PermanentError(f"no token in use has the label {label!r}: see mnt token list")
    return _token(row)


async def look_up(connection: AsyncConnection, sha256: bytes) -> Token | None:
    """Return the token with a hash, and note to the minute that it was used."""
    await connection.execute(
        text(
            "UPDATE api_tokens SET last_used_at = now() WHERE sha256 = :sha256 "
            "AND (last_used_at IS NULL OR last_used_at < now() - interval '1 minute')"
        ),
        {"sha256": sha256},
    )
    found = await connection.execute(select(api_tokens).where(api_tokens.c.sha256 == sha256))
    row = found.one_or_none()
    return None if row is None else _token(row)


async def enrol_home(connection: AsyncConnection, sha256: bytes) -> None:
    """Record the token of the fleet's home in place of the one before it."""
    await connection.execute(
        text(
            "UPDATE api_tokens SET revoked_at = now() "
            "WHERE label = :label AND revoked_at IS NULL AND sha256 <> :sha256"
        ),
        {"label": HOME_LABEL, "sha256": sha256},
    )
    await connection.execute(
        insert(api_tokens)
        .values(
            sha256=sha256,
            label=HOME_LABEL,
            scopes=list(SCOPES),
            expires_at=text("now() + :lifetime").bindparams(lifetime=HOME_LIFETIME),
        )
        .on_conflict_do_nothing()
    )


def _token(row: Any) -> Token:
    return Token(
        row.token_id,
        row.label,
        tuple(row.scopes),
        row.created_at,
        row.expires_at,
        row.revoked_at,
        row.last_used_at,
    )
