"""Dead letters and the cursors of adoption, in Postgres."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.bus import log
from shared.bus.log import LogEntry
from shared.database.tables import adoption_cursor, dead_letter
from shared.errors import PermanentError
from shared.events.catalogue import topic_named


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A message that could not be handled, with the reason."""

    dead_letter_id: int
    topic: str
    consumer: str
    entry_id: str | None
    seq: int | None
    payload: bytes
    error: str
    attempts: int
    status: str
    recorded_at: datetime


async def adoption_cursors(connection: AsyncConnection, topics: Iterable[str]) -> dict[str, str]:
    """Return the last adopted entry id of each stream that has one."""
    rows = await connection.execute(
        select(adoption_cursor).where(adoption_cursor.c.topic.in_(sorted(topics)))
    )
    return {row.topic: row.entry_id for row in rows}


async def move_adoption_cursor(connection: AsyncConnection, topic: str, entry_id: str) -> None:
    """Note that an entry has been dealt with, in the transaction of its effect."""
    await connection.execute(
        text("INSERT INTO adoption_cursor VALUES (:topic, :entry_id) "
             "ON CONFLICT (topic) DO UPDATE SET entry_id = excluded.entry_id"),
        {"topic": topic, "entry_id": entry_id},
    )  # fmt: skip


async def record(
    connection: AsyncConnection,
    *,
    topic: str,
    consumer: str,
    entry_id: str | None,
    seq: int | None,
    payload: bytes,
    error: str,
    attempts: int,
    transform_id: str,
) -> int:
    """Record a dead letter and return its id."""
    origin = f"stream:{topic}/{entry_id}" if seq is None else f"log:{topic}/{seq}"
    result = await connection.execute(
        insert(dead_letter)
        .values(
            topic=topic,
            consumer=consumer,
            entry_id=entry_id,
            seq=seq,
            payload=payload,
            error=error,
            attempts=attempts,
            source_uri=origin,
            transform_id=transform_id,
        )
        .returning(dead_letter.c.dead_letter_id)
    )
    return int(result.scalar_one())


async def find(
    connection: AsyncConnection, *, dead_letter_id: int | None = None, status: str | None = None
) -> Sequence[DeadLetter]:
    """Return dead letters, oldest first."""
    query = select(dead_letter).order_by(dead_letter.c.dead_letter_id)
    if dead_letter_id is not None:
        query = query.where(dead_letter.c.dead_letter_id == dead_letter_id)
    if status is not None:
        query = query.where(dead_letter.c.status == status)
    rows = await connection.execute(query)
    return [
        DeadLetter(
            row.dead_letter_id,
            row.topic,
            row.consumer,
            row.entry_id,
            row.seq,
            row.payload,
            row.error,
            row.attempts,
            row.status,
            row.ingested_at,
        )
        for row in rows
    ]


async def requeue(
    connection: AsyncConnection, letter: DeadLetter, payload: bytes
) -> LogEntry | None:
    """Mark a letter replayed and, where it came from the log, append its event anew.

    Returns
    -------
    LogEntry or None
        The new log entry, to be published; `None` for a letter that a foreign client had
        added, whose payload goes back to its stream as a plain entry and is adopted there.

    Raises
    ------
    ContractError
        If the payload, corrected or not, is still not an event of the stream.
    PermanentError
        If the letter was replayed before.
    """
    event = topic_named(letter.topic).event.from_bytes(payload)
    marked = await connection.execute(
        update(dead_letter)
        .where(dead_letter.c.dead_letter_id == letter.dead_letter_id)
        .where(dead_letter.c.status == "open")
        .values(status="replayed", replayed_at=func.now())
    )
    if marked.rowcount != 1:
        raise PermanentError(
            f"dead letter {letter.dead_letter_id} was replayed already; "
            "publish the event again instead if it is needed twice"
        )
    if letter.seq is None:
        return None
    return await log.append(
        connection,
        letter.topic,
        event,
        source_uri=f"dead-letter:{letter.dead_letter_id}",
        transform_id="mnt dead replay",
    )
