"""`mnt token`: who may use the REST routes of a fleet."""

from __future__ import annotations

import asyncio
import os
from datetime import timedelta
from typing import Any

from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncConnection

from cli.fleet.access import record_of
from cli.fleet.home import FleetHome
from shared.access import tokens
from shared.access.tokens import HOME_LABEL, Token
from shared.clock import utc_now
from shared.database.engine import transaction
from shared.database.tables import audit_log


async def create(home: FleetHome, label: str, scopes: list[str], days: int) -> dict[str, Any]:
    """Create a token and return it with its text, which is shown this once.

    Raises
    ------
    PermanentError
        If label, scopes or lifetime are not acceptable.
    """
    wanted = tokens.parse_scopes(scopes)
    async with record_of(home) as engine, transaction(engine) as connection:
        token, secret = await tokens.create(connection, label, wanted, timedelta(days=days))
        await _note(connection, f"create {label} {','.join(wanted)} {days} days")
    return {**_shown(token), "token": secret}


async def find_all(home: FleetHome) -> list[dict[str, Any]]:
    """Return every token there ever was, newest first, without their texts."""
    async with record_of(home) as engine, transaction(engine) as connection:
        return [_shown(token) for token in await tokens.find_all(connection)]


async def revoke(home: FleetHome, label: str) -> dict[str, Any]:
    """Revoke a token; services notice within seconds.

    Raises
    ------
    PermanentError
        If no token in use has the label.
    """
    async with record_of(home) as engine, transaction(engine) as connection:
        token = await tokens.revoke(connection, label)
        await _note(connection, f"revoke {label}")
    return _shown(token)


async def rotate(home: FleetHome) -> dict[str, Any]:
    """Replace the token of the home, in its file and in the record."""
    async with record_of(home) as engine, transaction(engine) as connection:
        secret = await asyncio.to_thread(home.renew_token)
        await tokens.enrol_home(connection, tokens.digest(secret))
        await _note(connection, f"rotate {HOME_LABEL}")
        token = await tokens.look_up(connection, tokens.digest(secret))
    assert token is not None  # noqa: S101 - it was recorded in this transaction
    return _shown(token)


async def _note(connection: AsyncConnection, words: str) -> None:
    """Write the command into the trail, in its own transaction."""
    await connection.execute(
        insert(audit_log).values(
            service="mnt",
            method="COMMAND",
            path=f"mnt token {words}",
            operator=f"uid {os.geteuid()}",
            client="",
            body="",
            request_sha256=tokens.digest(words),
            is_done=True,
            status=200,
            answered_at=text("now()"),
        )
    )


def _shown(token: Token) -> dict[str, Any]:
    state = "in force"
    if token.revoked_at is not None:
        state = "revoked"
    elif token.fault_at(utc_now()):
        state = "expired"
    return {
        "label": token.label,
        "scopes": list(token.scopes),
        "state": state,
        "created_at": token.created_at,
        "expires_at": token.expires_at,
        "revoked_at": token.revoked_at,
        "last_used_at": token.last_used_at,
    }
