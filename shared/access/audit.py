"""The trail of requests that change state, and the answers of those that bear a key.

A row is written before anything is done, marked in the transaction of what is done, and
completed with the answer. So a repeat of a request with an idempotency key is recognised
whatever happened to the first one: an answer is given again, what was not done is done, and
what was done without its answer being known is never done twice.
"""

from __future__ import annotations

import hashlib
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import structlog
from fastapi import HTTPException
from sqlalchemy import select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from shared.database.engine import transaction
from shared.database.tables import audit_log
from shared.errors import StoreError
from shared.redaction import redact

_MOST_CHARACTERS = 4_000
_SERVER_ERROR = 500
_STATE = "audited"

logger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that changes state.

    Attributes
    ----------
    client
        Address it came from.
    key
        Of the header `Idempotency-Key`, if it has one.
    """

    service: str
    method: str
    path: str
    operator: str
    client: str
    body: bytes
    key: str | None

    @property
    def fingerprint(self) -> bytes:
        """What makes a request the same request."""
        head = f"{self.method} {self.path}\n".encode(errors="backslashreplace")
        return hashlib.sha256(head + self.body).digest()


class RecordedAnswerError(Exception):
    """The request was answered before: the answer of then is the answer."""

    def __init__(self, status: int, answer: str) -> None:
        super().__init__(f"answered before with {status}")
        self.status = status
        self.answer = answer


_current: ContextVar[int | None] = ContextVar("audited_request", default=None)


class AuditTrail:
    """Writes the trail of one service.

    Parameters
    ----------
    engine
        Of the record.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._running: set[int] = set()

    async def begin(self, asked: Asked) -> int:
        """Record a request before anything is done about it, and return its number.

        Raises
        ------
        HTTPException
            409 where the request with this key is being done, or was done without its answer
            being known; 422 where the key was used for another request.
        RecordedAnswerError
            With the answer that the request was given.
        StoreError
            If the record does not answer; nothing may be done then.
        """
        async with transaction(self._engine) as connection:
            inserted = await connection.execute(
                insert(audit_log)
                .values(
                    service=asked.service,
                    method=asked.method,
                    path=_text(asked.path),
                    operator=asked.operator,
                    client=asked.client,
                    body=_text(asked.body.decode(errors="backslashreplace")),
                    request_sha256=asked.fingerprint,
                    idempotency_key=asked.key,
                )
                .on_conflict_do_nothing()
                .returning(audit_log.c.request_id)
            )
            request_id: int | None = inserted.scalar_one_or_none()
            if request_id is None:
                request_id = await self._begin_again(connection, asked)
        self._running.add(request_id)
        _current.set(request_id)
        return request_id

    async def _begin_again(self, connection: AsyncConnection, asked: Asked) -> int:
        row = (
            await connection.execute(
                select(audit_log)
                .where(
                    audit_log.c.service == asked.service,
                    audit_log.c.operator == asked.operator,
                    audit_log.c.idempotency_key == asked.key,
                )
                .with_for_update()
            )
        ).one()
        if bytes(row.request_sha256) != asked.fingerprint:
            raise HTTPException(
                422,
                f"Idempotency-Key {asked.key!r} was used for another request, {row.method} "
                f"{row.path} on {row.asked_at:%Y-%m-%d %H:%M} UTC: use a new key",
            )
        if row.request_id in self._running:
            raise HTTPException(
                409, f"the request with Idempotency-Key {asked.key!r} is being done: ask again"
            )
        if row.status is not None and row.status < _SERVER_ERROR:
            raise RecordedAnswerError(row.status, row.answer)
        if row.is_done:
            raise HTTPException(
                409,
                f"the request with Idempotency-Key {asked.key!r} was done, but its answer was "
                "lost: look at what it changed, and use a new key for anything further",
            )
        await connection.execute(
            update(audit_log)
            .where(audit_log.c.request_id == row.request_id)
            .values(attempts=audit_log.c.attempts + 1, status=None, answered_at=None)
        )
        return int(row.request_id)

    async def finish(self, request_id: int, status: int, answer: bytes) -> None:
        """Record what was answered; where that fails, the answer is given all the same."""
        try:
            async with transaction(self._engine) as connection:
                await connection.execute(
                    text(
                        "UPDATE audit_log SET status = :status, answered_at = now(), answer = "
                        "CASE WHEN idempotency_key IS NOT NULL THEN :answer END "
                        "WHERE request_id = :request_id"
                    ),
                    {
                        "status": status,
                        "answer": answer.decode(errors="backslashreplace").replace("\0", "\\x00"),
                        "request_id": request_id,
                    },
                )
        except StoreError as error:
            logger.warning("answer not recorded", request_id=request_id, error=str(error))
        finally:
            self._running.discard(request_id)


async def mark_done(connection: AsyncConnection) -> None:
    """Note, in the transaction of its effect, that the request being served was done."""
    request_id = _current.get()
    if request_id is not None:
        await connection.execute(
            text("UPDATE audit_log SET is_done = true WHERE request_id = :request_id"),
            {"request_id": request_id},
        )


class AuditMiddleware:
    """Completes the trail with the answer before the client gets it.

    Parameters
    ----------
    app
        The application.
    trail
        Of the service.
    """

    def __init__(self, app: ASGIApp, trail: AuditTrail) -> None:
        self._app = app
        self._trail = trail

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request; of one that was begun in the trail, hold the answer back for it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state: dict[str, Any] = scope.setdefault("state", {})
        held: list[Message] = []
        is_recorded = False

        async def hold(message: Message) -> None:
            nonlocal is_recorded
            if _STATE not in state:
                await send(message)
                return
            held.append(message)
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                answer = b"".join(part.get("body", b"") for part in held)
                await self._trail.finish(state[_STATE], held[0]["status"], answer)
                is_recorded = True
                for part in held:
                    await send(part)

        try:
            await self._app(scope, receive, hold)
        finally:
            if _STATE in state and not is_recorded:
                await self._trail.finish(state[_STATE], _SERVER_ERROR, b"")


def note(state: Any, request_id: int) -> None:
    """Tell the middleware which row of the trail a request has."""
    setattr(state, _STATE, request_id)


def _text(given: str) -> str:
    """Return a text that Postgres takes, short and without secrets."""
    return redact(given[:_MOST_CHARACTERS].replace("\0", "\\x00"))
