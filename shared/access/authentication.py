"""Tells who sends a request.

The home's token is compared with its file, so that it opens a route also while the record
does not answer; every other token is looked up in the record, and remembered for a moment.
"""

from __future__ import annotations

import asyncio
import hmac
from dataclasses import dataclass
from pathlib import Path

from fastapi import HTTPException
from prometheus_client import Counter
from sqlalchemy.ext.asyncio import AsyncEngine

from shared.access import tokens
from shared.access.lock_out import LockOut
from shared.access.tokens import HOME_LABEL, SCOPES, Scope, Token
from shared.clock import monotonic_seconds, utc_now
from shared.database.engine import transaction
from shared.errors import StoreError

REMEMBERED_SECONDS = 5.0
"""How long a revocation may take to be noticed."""
_MOST_REMEMBERED = 256
_MOST_CHARACTERS = 1_000

REFUSED = Counter("mnt_access_refusals_total", "Requests refused at the door", ["reason"])


@dataclass(frozen=True, slots=True)
class Principal:
    """Who sends a request.

    Attributes
    ----------
    label
        Of the token; decisions are recorded under it.
    """

    label: str
    scopes: tuple[str, ...]


class Authenticator:
    """Knows tokens.

    Parameters
    ----------
    token_file
        Of the home's token, if there is one.
    engine
        Of the record.
    """

    def __init__(self, token_file: Path | None, engine: AsyncEngine) -> None:
        self._token_file = token_file
        self._engine = engine
        self._lock_out = LockOut()
        self._remembered: dict[bytes, tuple[float, Token]] = {}

    async def authorise(
        self, token: str | None, scope: Scope, address: str, *, reduces_risk: bool = False
    ) -> Principal:
        """Return who bears a token that allows what a route needs.

        Parameters
        ----------
        token
            As it was sent, if one was.
        scope
            That the route needs.
        address
            Of the client, whose wrong tokens are counted.
        reduces_risk
            The route can only reduce risk: a right token opens it also during a lock-out,
            for anybody on the machine could otherwise keep a person from halting.

        Raises
        ------
        HTTPException
            401 without a token that is known and in force, 403 without the scope, 429 with
            `Retry-After` while the address is locked out.
        StoreError
            If the record does not answer and the token is not the home's.
        """
        locked_for = self._lock_out.seconds_left(address, monotonic_seconds())
        if locked_for and not reduces_risk:
            raise _locked_out(locked_for)
        if token is None:
            raise _unauthorised("missing", "send 'Authorization: Bearer <token>'")
        found = await self._find(token)
        if found is None:
            self._lock_out.note_failure(address, monotonic_seconds())
            raise (
                _locked_out(locked_for)
                if locked_for
                else _unauthorised(
                    "unknown", "the token is not known here: send 'Authorization: Bearer <token>'"
                )
            )
        if fault := found.fault_at(utc_now()):
            renewal = "rotate" if found.label == HOME_LABEL else "create"
            raise _unauthorised(
                "out of force",
                f"{fault}: make another with `mnt token {renewal}`, then"
                " send 'Authorization: Bearer <token>'",
            )
        if scope not in found.scopes:
            REFUSED.labels("scope").inc()
            raise HTTPException(
                403,
                f"the token {found.label!r} allows {', '.join(found.scopes)}, and this route needs "
                f"{scope}: make one with `mnt token create LABEL --scope {scope}`",
            )
        return Principal(found.label, found.scopes)

    async def _find(self, token: str) -> Token | None:
        """Return the token with this text, as the record has it."""
        if len(token) > _MOST_CHARACTERS:
            return None
        sha256 = tokens.digest(token)
        remembered = self._remembered.get(sha256)
        if remembered is not None and monotonic_seconds() < remembered[0]:
            return remembered[1]
        is_home = await self._is_home(sha256)
        try:
            async with transaction(self._engine) as connection:
                found = await tokens.look_up(connection, sha256)
                if found is None and is_home:
                    await tokens.enrol_home(connection, sha256)
                    found = await tokens.look_up(connection, sha256)
        except StoreError as error:
            if is_home:
                return remembered[1] if remembered is not None else _home_unrecorded()
            raise StoreError(
                f"the token cannot be looked up ({error}): ask again, or use the token of the "
                "fleet's home, which is known without the record"
            ) from error
        if found is not None:
            if len(self._remembered) >= _MOST_REMEMBERED:
                self._remembered.clear()
            self._remembered[sha256] = (monotonic_seconds() + REMEMBERED_SECONDS, found)
        return found

    async def _is_home(self, sha256: bytes) -> bool:
        """Compare with the file as it is now: a new token counts without a restart."""
        if self._token_file is None:
            return False
        try:
            text = await asyncio.to_thread(self._token_file.read_text)
        except OSError:
            return False  # being replaced, or taken away to close this door
        return bool(text.strip()) and hmac.compare_digest(sha256, tokens.digest(text.strip()))


def _home_unrecorded() -> Token:
    now = utc_now()
    return Token(0, HOME_LABEL, SCOPES, now, now + tokens.HOME_LIFETIME, None, None)


def _unauthorised(reason: str, message: str) -> HTTPException:
    REFUSED.labels(reason).inc()
    return HTTPException(
        401,
        f"{message}; the fleet's own token is in its home, secrets/token",
        headers={"WWW-Authenticate": "Bearer"},
    )


def _locked_out(seconds: int) -> HTTPException:
    REFUSED.labels("locked out").inc()
    return HTTPException(
        429,
        f"too many wrong tokens came from this address: wait {seconds} s",
        headers={"Retry-After": str(seconds)},
    )
