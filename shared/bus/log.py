"""The event log in Postgres: gapless streams and the cursors that read them."""

from __future__ import annotations

import asyncio
import functools
import hashlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import asyncpg
from sqlalchemy import Table, TextClause, text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.clock import monotonic_seconds
from shared.database.engine import Insertion, InsertionShape, compose, run_at_once, write_parts
from shared.errors import FatalError, PermanentError, StoreError
from shared.events.base import Event
from shared.events.catalogue import TOPICS, topic_named

_ROWS_WITHIN_SECONDS = 5.0


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


_MOVED = """
    moved AS (
        UPDATE consumer_offset SET seq = seq + 1
        WHERE consumer = :cursor_consumer AND topic = :cursor_topic AND seq + 1 = :cursor_seq
          AND EXISTS (SELECT FROM event_log WHERE topic = :cursor_topic AND seq = :cursor_seq
                      AND payload_sha256 = :cursor_sha256)
          AND NOT EXISTS (
              SELECT FROM stream_head
              JOIN unnest(CAST(:beside_topic AS text[]), CAST(:beside_seq AS bigint[]))
                AS beside (topic, seq) ON beside.topic = stream_head.topic
              WHERE stream_head.seq > beside.seq)
          AND {condition}
        RETURNING seq
    )
"""
_FENCED = """
    fence AS (SELECT FROM {table} WHERE {columns} FOR SHARE)
"""
_LOGGED = """
    head{n} AS (
        UPDATE stream_head SET seq = seq + 1
        WHERE topic = CAST(:event{n}_topic AS text) AND {condition}
        RETURNING seq
    ), logged{n} AS (
        INSERT INTO event_log (topic, seq, closes_at, payload, payload_sha256, foreign_entry_id,
                               source_uri, transform_id)
        SELECT CAST(:event{n}_topic AS text), head{n}.seq,
               CAST(:event{n}_closes_at AS timestamptz), CAST(:event{n}_payload AS text),
               CAST(:event{n}_sha256 AS bytea), CAST(:foreign_entry_id AS text),
               CAST(:source_uri AS text), CAST(:transform_id AS text)
        FROM head{n}
        RETURNING seq
    )
"""
_ADVANCE = text(
    f"WITH {_MOVED.format(condition='true')} "  # noqa: S608 - a fragment of ours
    "SELECT moved.seq AS moved_to, stream_head.topic, stream_head.seq AS head "
    "FROM moved LEFT JOIN stream_head ON stream_head.topic = ANY(CAST(:asked_for AS text[]))"
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


@dataclass(frozen=True, slots=True)
class Fence:
    """A row without which nothing may be written; it stays as it is until all is.

    Attributes
    ----------
    table, columns
        Where it is, and what it must have there.
    refuse
        Raises what is to be told when there is no such row.
    """

    table: Table
    columns: Mapping[str, Any]
    refuse: Callable[[AsyncConnection], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Advance:
    """The move of a consumer's cursor over an entry.

    Attributes
    ----------
    consumer, entry
        Whose cursor, and over what.
    beside
        Last numbers at hand of other streams; one that has gone on stops the move.
    """

    consumer: str
    entry: LogEntry
    beside: Mapping[str, int]


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
        As `append_with`.
    """
    [entry] = await append_with(
        connection,
        (),
        [(topic, event)],
        source_uri=source_uri,
        transform_id=transform_id,
        foreign_entry_id=foreign_entry_id,
    )
    return entry


async def append_with(
    connection: AsyncConnection,
    writes: Iterable[Insertion],
    outgoing: Sequence[tuple[str, Event]],
    *,
    source_uri: str,
    transform_id: str,
    foreign_entry_id: str | None,
    fence: Fence | None = None,
) -> list[LogEntry]:
    """Write rows and append the events they go with, in one statement.

    Parameters
    ----------
    connection
        The transaction.
    writes, outgoing
        The rows, and the events with the stream of each, no two of one stream.
    source_uri, transform_id, foreign_entry_id
        Lineage of the events, and the entry they were adopted from, if any.
    fence
        What must hold, if anything.

    Raises
    ------
    PermanentError
        If a stream has no head row: `ensure_topics` was not called for it.
    FatalError
        If the fence does not hold; nothing may be committed.
    """
    shapes, parameters = compose(writes)
    entries, given = _given(outgoing, source_uri, transform_id, foreign_entry_id)
    if not (shapes or entries or fence):
        return []
    statement = _settlement(
        shapes, _fence_shape(fence), len(entries), is_at_once=False, is_advance=False
    )
    result = await connection.execute(statement, parameters | given | _fenced(fence))
    row = result.one()._mapping
    if fence is not None and row["permitted"] is None:
        await fence.refuse(connection)
        raise FatalError(f"nothing is written without {dict(fence.columns)} in {fence.table.name}")
    return _numbered(entries, row)


async def settle_at_once(
    driver: asyncpg.Connection,
    advance: Advance | None,
    writes: Iterable[Insertion],
    outgoing: Sequence[tuple[str, Event]],
    *,
    source_uri: str,
    transform_id: str,
    fence: Fence | None = None,
) -> list[LogEntry] | None:
    """Move a cursor, write the rows of its event's effect and append the events that follow.

    All of it is one statement, which needs no transaction around it: either it all happens or,
    where the cursor cannot move or the fence does not hold, nothing.

    Parameters
    ----------
    driver
        Of a session outside any transaction.
    advance, writes, outgoing
        The cursor's move, if there is one, the rows, and the events that follow with the stream
        of each, no two of one stream.
    source_uri, transform_id
        Lineage of the events.
    fence
        What must hold, if anything.

    Returns
    -------
    list of LogEntry or None
        What was appended, `None` where nothing was done: the fence does not hold, an event that
        follows has no stream, or the cursor cannot move. It does not move over an entry that was
        handled before, is not the next one, is not in the log with exactly these bytes or is
        overtaken.
    """
    shapes, parameters = compose(writes)
    entries, given = _given(outgoing, source_uri, transform_id, None)
    statement = _settlement(
        shapes,
        _fence_shape(fence),
        len(entries),
        is_at_once=True,
        is_advance=advance is not None,
    )
    moves = {} if advance is None else _move(advance)
    row = await run_at_once(driver, statement, parameters | moves | given | _fenced(fence))
    return None if row["permitted"] is None else _numbered(entries, row)


@functools.cache
def _settlement(
    shapes: tuple[InsertionShape, ...],
    fence: _FenceShape | None,
    n_events: int,
    *,
    is_at_once: bool,
    is_advance: bool,
) -> TextClause:
    """Return the statement that does everything or, where it may not, nothing."""
    events = range(n_events)
    conditions = []
    parts = []
    if fence is not None:
        table, names = fence
        columns = " AND ".join(f"{name} = :fence_{name}" for name in names)
        parts.append(_FENCED.format(table=table, columns=columns))
        conditions.append("EXISTS (SELECT FROM fence)")
    if is_at_once:
        # Without the head of its stream an event would be lost, and the cursor gone over its cause.
        conditions += [
            f"EXISTS (SELECT FROM stream_head WHERE topic = CAST(:event{n}_topic AS text))"
            for n in events
        ]
    permission = _MOVED if is_advance else "moved AS (SELECT 1 AS seq WHERE {condition})"
    parts.append(permission.format(condition=" AND ".join(conditions) or "true"))
    permitted = "EXISTS (SELECT FROM moved)"
    parts += write_parts(shapes, permitted)
    parts += [_LOGGED.format(n=n, condition=permitted) for n in events]
    told = [f"(SELECT seq FROM logged{n}) AS seq{n}" for n in events]  # noqa: S608 - a number
    told.append("(SELECT seq FROM moved) AS permitted")
    return text(f"WITH {', '.join(parts)} SELECT {', '.join(told)}")


_FenceShape = tuple[str, tuple[str, ...]]
"""What of a fence its statement depends on: the table, and the names of the columns."""


def _fence_shape(fence: Fence | None) -> _FenceShape | None:
    return None if fence is None else (fence.table.name, tuple(fence.columns))


def _fenced(fence: Fence | None) -> dict[str, Any]:
    """Return the parameters that ask for a fence."""
    columns = {} if fence is None else fence.columns
    return {f"fence_{name}": value for name, value in columns.items()}


def _move(advance: Advance) -> dict[str, Any]:
    """Return the parameters that move a cursor."""
    return {
        "cursor_consumer": advance.consumer,
        "cursor_topic": advance.entry.topic,
        "cursor_seq": advance.entry.seq,
        "cursor_sha256": fingerprint(advance.entry.payload),
        "beside_topic": list(advance.beside),
        "beside_seq": list(advance.beside.values()),
    }


def _given(
    outgoing: Sequence[tuple[str, Event]],
    source_uri: str,
    transform_id: str,
    foreign_entry_id: str | None,
) -> tuple[list[LogEntry], dict[str, Any]]:
    """Return events as entries without their numbers, and the parameters that append them."""
    entries: list[LogEntry] = []
    parameters: dict[str, Any] = {}
    for n, (topic, event) in enumerate(outgoing):
        payload = event.to_bytes()
        entries.append(LogEntry(topic, 0, payload))
        parameters |= {
            f"event{n}_topic": topic,
            f"event{n}_closes_at": event.closes_at,
            f"event{n}_payload": payload.decode(),
            f"event{n}_sha256": fingerprint(payload),
        }
    if entries:
        parameters |= {
            "foreign_entry_id": foreign_entry_id,
            "source_uri": source_uri,
            "transform_id": transform_id,
        }
    return entries, parameters


def _numbered(entries: Iterable[LogEntry], numbers: Any) -> list[LogEntry]:
    numbered = []
    for n, entry in enumerate(entries):
        seq = numbers[f"seq{n}"]
        if seq is None:
            raise PermanentError(
                f"stream {entry.topic!r} is not known to the log; create its head first"
            )
        numbered.append(replace(entry, seq=seq))
    return numbered


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
    move = _move(Advance(consumer, entry, {}))
    result = await connection.execute(_ADVANCE, {**move, "asked_for": list(beside)})
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


_OWNERS = ", ".join(f"('{topic.publisher}', '{topic.name}')" for topic in TOPICS.values())
_IS_DRAINED = text(
    f"""
    SELECT NOT EXISTS (
        SELECT FROM consumer_offset JOIN stream_head USING (topic)
        WHERE consumer_offset.seq < stream_head.seq
          AND (CAST(:with_rows AS boolean) OR (consumer, topic) NOT IN ({_OWNERS}))
    ) AND NOT EXISTS (
        SELECT FROM orders WHERE state IN ('initialised', 'submitted', 'unknown')
    )
    """  # noqa: S608 - names of our streams
)
_ARE_ROWS_RECORDED = text(
    """
    SELECT NOT EXISTS (
        SELECT FROM consumer_offset JOIN event_log USING (topic)
        WHERE consumer = :owner AND topic = :topic
          AND event_log.seq > consumer_offset.seq AND closes_at <= :up_to
    )
    """
)


async def is_drained(connection: AsyncConnection, *, with_rows: bool = False) -> bool:
    """Whether every consumer has reached the head of its streams and no order is in flight.

    Parameters
    ----------
    connection
        The transaction.
    with_rows
        Whether the rows that repeat events must be recorded as well: what a close brings about
        does not wait for them.
    """
    return bool((await connection.execute(_IS_DRAINED, {"with_rows": with_rows})).scalar_one())


async def wait_for_rows(connection: AsyncConnection, topic: str, up_to: datetime) -> None:
    """Wait until the rows that repeat a stream's events up to a close are recorded.

    Raises
    ------
    StoreError
        If they are not within five seconds.
    """
    owner = topic_named(topic).publisher
    asked = {"owner": owner, "topic": topic, "up_to": up_to}
    deadline = monotonic_seconds() + _ROWS_WITHIN_SECONDS
    while not (await connection.execute(_ARE_ROWS_RECORDED, asked)).scalar_one():
        if monotonic_seconds() > deadline:
            raise StoreError(
                f"{owner} has not recorded the rows of {topic} up to {up_to.isoformat()}: see that "
                "it runs"
            )
        await asyncio.sleep(0.005)


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
