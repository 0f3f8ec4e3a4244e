"""The event log in Postgres: gapless streams and the cursors that read them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.errors import PermanentError
from shared.events.base import Event


@dataclass(frozen=True, slots=True)
class LogEntry:
    """One numbered event of a stream.

    Attributes
    ----------
    added_at_ms
        When it was added to its stream, of one that came from there.
    """

    topic: str
    seq: int
    payload: bytes
    added_at_ms: int | None = field(default=None, compare=False)


_APPEND = text(
    """
    WITH head AS (
        UPDATE stream_head SET seq = seq + 1 WHERE topic = :topic RETURNING seq
    )
    INSERT INTO event_log (topic, seq, closes_at, payload, payload_sha256, foreign_entry_id,
                           source_uri, transform_id)
    SELECT :topic, head.seq, :closes_at, :payload, :payload_sha256, :foreign_entry_id,
           :source_uri, :transform_id
    FROM head
    RETURNING seq
    """
)
_ADVANCE = text(
    """
    WITH moved AS (
        UPDATE consumer_offset SET seq = :seq
        WHERE consumer = :consumer AND topic = :topic AND seq = :seq - 1
          AND EXISTS (SELECT FROM event_log
                      WHERE topic = :topic AND seq = :seq AND payload_sha256 = :payload_sha256)
        RETURNING seq
    )
    SELECT moved.seq AS moved_to, stream_head.topic, stream_head.seq AS head
    FROM moved LEFT JOIN stream_head ON stream_head.topic = ANY(CAST(:beside AS text[]))
    """
)
_READ = text(
    """
    SELECT topic, seq, payload FROM event_log
    WHERE topic = :topic AND seq > :after ORDER BY seq LIMIT :most
    """
)


async def ensure_topics(connection: AsyncConnection, topics: Iterable[str]) -> None:
    """Create the head rows of streams that have none."""
    await connection.execute(
        text("INSERT INTO stream_head SELECT unnest(CAST(:topics AS text[])), 0 "
             "ON CONFLICT DO NOTHING"),
        {"topics": sorted(topics)},
    )  # fmt: skip


async def ensure_offsets(
    connection: AsyncConnection, consumer: str, topics: Iterable[str]
) -> dict[str, int]:
    """Create a consumer's missing cursors at the beginning and return all of them."""
    await connection.execute(
        text("INSERT INTO consumer_offset SELECT :consumer, unnest(CAST(:topics AS text[])), 0 "
             "ON CONFLICT DO NOTHING"),
        {"consumer": consumer, "topics": sorted(topics)},
    )  # fmt: skip
    rows = await connection.execute(
        text("SELECT topic, seq FROM consumer_offset WHERE consumer = :consumer"),
        {"consumer": consumer},
    )
    wanted = set(topics)
    return {row.topic: row.seq for row in rows if row.topic in wanted}


async def append(
    connection: AsyncConnection,
    topic: str,
    event: Event,
    *,
    source_uri: str,
    transform_id: str,
    foreign_entry_id: str | None = None,
) -> LogEntry:
    """Append an event; call it last in a transaction, for it serialises the writers.

    Raises
    ------
    PermanentError
        If the stream has no head row: `ensure_topics` was not called for it.
    """
    payload = event.to_bytes()
    result = await connection.execute(
        _APPEND,
        {
            "topic": topic,
            "closes_at": event.closes_at,
            "payload": payload.decode(),
            "payload_sha256": fingerprint(payload),
            "foreign_entry_id": foreign_entry_id,
            "source_uri": source_uri,
            "transform_id": transform_id,
        },
    )
    seq = result.scalar_one_or_none()
    if seq is None:
        raise PermanentError(f"stream {topic!r} is not known to the log; create its head first")
    return LogEntry(topic, seq, payload)


async def advance(
    connection: AsyncConnection, consumer: str, entry: LogEntry, beside: Iterable[str] = ()
) -> dict[str, int] | None:
    """Move a cursor over an entry: locks, deduplicates and fences in one statement.

    Parameters
    ----------
    connection, consumer, entry
        The transaction, whose cursor, and over what.
    beside
        Streams whose heads are asked for on the way.

    Returns
    -------
    dict of str to int or None
        The last number of each stream of `beside`; `None` when the entry was handled before,
        is not the next one, or is not in the log with exactly these bytes: nothing may be
        done on its account.
    """
    result = await connection.execute(
        _ADVANCE,
        {
            "consumer": consumer,
            "topic": entry.topic,
            "seq": entry.seq,
            "payload_sha256": fingerprint(entry.payload),
            "beside": list(beside),
        },
    )
    rows = result.all()
    return {row.topic: row.head for row in rows if row.topic is not None} if rows else None


async def read(
    connection: AsyncConnection, after: Mapping[str, int], most: int = 256
) -> Sequence[LogEntry]:
    """Return the next entries of several streams, in order within each."""
    entries: list[LogEntry] = []
    for topic, seq in after.items():
        rows = await connection.execute(_READ, {"topic": topic, "after": seq, "most": most})
        entries.extend(LogEntry(row.topic, row.seq, row.payload.encode()) for row in rows)
    return entries


async def heads(connection: AsyncConnection, topics: Iterable[str]) -> dict[str, int]:
    """Return the last number of each stream."""
    rows = await connection.execute(
        text("SELECT topic, seq FROM stream_head WHERE topic = ANY(CAST(:topics AS text[]))"),
        {"topics": sorted(topics)},
    )
    return {row.topic: row.seq for row in rows}


_IS_DRAINED = text(
    """
    SELECT NOT EXISTS (
        SELECT FROM consumer_offset JOIN stream_head USING (topic)
        WHERE consumer_offset.seq < stream_head.seq
    ) AND NOT EXISTS (
        SELECT FROM orders WHERE state IN ('initialised', 'submitted', 'unknown')
    )
    """
)


async def is_drained(connection: AsyncConnection) -> bool:
    """Whether every consumer has reached the head of its streams and no order is in flight."""
    return bool((await connection.execute(_IS_DRAINED)).scalar_one())


async def newest_consumed_close(
    connection: AsyncConnection, consumer: str, topic: str
) -> datetime | None:
    """Return the newest close that a consumer has handled of a stream, `None` before any."""
    found = await connection.execute(
        text(
            """
            SELECT max(closes_at) FROM event_log JOIN consumer_offset USING (topic)
            WHERE consumer = :consumer AND topic = :topic AND event_log.seq <= consumer_offset.seq
            """
        ),
        {"consumer": consumer, "topic": topic},
    )
    newest: datetime | None = found.scalar_one()
    return newest


def fingerprint(payload: bytes) -> bytes:
    """Return the digest by which a copy of an entry is recognised as the recorded one."""
    return hashlib.sha256(payload).digest()
