"""SQL of the screener."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.clock import ms_of_instant
from shared.database.engine import insert_rows
from shared.database.tables import bars, instruments, roster, screens
from shared.events.ingest import Bar, BarsClosed
from shared.events.screener import PairsScreened, RosterPair
from shared.sleeves.pairs.screener import ScreenedClose

CLOSES_A_FETCH = 100
"""Closes of the window that are read from the database at a time."""


async def window_before(
    connection: AsyncConnection, venue: str, timeframe: str, before: datetime, n_closes: int
) -> AsyncIterator[BarsClosed]:
    """Yield the last closes of a venue before an instant, oldest first.

    They come a few at a time: a year of a thousand symbols would not fit into memory as rows.
    """
    rows = await connection.stream(
        text(
            """
            WITH instants AS (
                SELECT DISTINCT closes_at FROM bars
                WHERE venue = :venue AND timeframe = :timeframe AND closes_at < :before
                ORDER BY closes_at DESC LIMIT :n_closes
            )
            SELECT closes_at, array_agg(symbol ORDER BY symbol) AS symbols,
                   array_agg(open ORDER BY symbol) AS open,
                   array_agg(high ORDER BY symbol) AS high,
                   array_agg(low ORDER BY symbol) AS low,
                   array_agg(close ORDER BY symbol) AS close,
                   array_agg(volume ORDER BY symbol) AS volume
            FROM bars JOIN instants USING (closes_at)
            WHERE venue = :venue AND timeframe = :timeframe
            GROUP BY closes_at ORDER BY closes_at
            """
        ),
        {"venue": venue, "timeframe": timeframe, "before": before, "n_closes": n_closes},
        execution_options={"yield_per": CLOSES_A_FETCH},
    )
    async for row in rows:
        values = zip(row.symbols, row.open, row.high, row.low, row.close, row.volume, strict=True)
        yield BarsClosed(
            closes_at=row.closes_at,
            venue=venue,
            timeframe=timeframe,
            bars=tuple(
                Bar(symbol=symbol, open=o, high=h, low=low, close=c, volume=v)
                for symbol, o, h, low, c, v in values
            ),
        )


async def tradable_symbols(connection: AsyncConnection, venue: str) -> frozenset[str]:
    """Return the symbols that have an instrument: bars of the trade timeframe exist."""
    rows = await connection.execute(
        select(instruments.c.symbol).where(instruments.c.venue == venue)
    )
    return frozenset(rows.scalars())


async def last_roster(
    connection: AsyncConnection, timeframe: str
) -> tuple[list[RosterPair], int | None]:
    """Return the roster of the last screen and its close."""
    last = (
        await connection.execute(
            select(func.max(screens.c.closes_at)).where(screens.c.timeframe == timeframe)
        )
    ).scalar_one_or_none()
    if last is None:
        return [], None
    names = list(RosterPair.model_fields)
    rows = await connection.execute(
        select(*(roster.c[name] for name in names))
        .where(roster.c.closes_at == last)
        .order_by(roster.c.y, roster.c.x)
    )
    return [RosterPair(**row._mapping) for row in rows], ms_of_instant(last)


async def last_bars_at(connection: AsyncConnection, venue: str, timeframe: str) -> datetime | None:
    """Return the newest close of a venue that has bars."""
    newest = (
        select(bars.c.closes_at)
        .where(bars.c.venue == venue, bars.c.timeframe == timeframe)
        .order_by(bars.c.closes_at.desc())
        .limit(1)
    )
    last: datetime | None = (await connection.execute(newest)).scalar_one_or_none()
    return last


async def find_screen(
    connection: AsyncConnection, timeframe: str, closes_at: datetime | None
) -> Any | None:
    """Return the last screen, or the last one at or before a close."""
    query = select(screens).where(screens.c.timeframe == timeframe)
    if closes_at is not None:
        query = query.where(screens.c.closes_at <= closes_at)
    newest = query.order_by(screens.c.closes_at.desc()).limit(1)
    return (await connection.execute(newest)).one_or_none()


async def find_roster(
    connection: AsyncConnection, closes_at: datetime, *, status: str | None, limit: int
) -> list[RosterPair]:
    """Return the roster after a screen: active pairs first, then by p-value."""
    query = (
        select(*(roster.c[name] for name in RosterPair.model_fields))
        .where(roster.c.closes_at == closes_at)
        .order_by(roster.c.status != "active", roster.c.p_value, roster.c.y, roster.c.x)
        .limit(limit)
    )
    if status is not None:
        query = query.where(roster.c.status == status)
    return [RosterPair(**row._mapping) for row in await connection.execute(query)]


async def roster_counts(connection: AsyncConnection, closes_at: datetime) -> dict[str, int]:
    """Return how many pairs of a roster have which status."""
    rows = await connection.execute(
        select(roster.c.status, func.count())
        .where(roster.c.closes_at == closes_at)
        .group_by(roster.c.status)
    )
    return {row[0]: row[1] for row in rows}


async def insert_screen(
    connection: AsyncConnection, screened: ScreenedClose, lineage: Mapping[str, str]
) -> None:
    """Record a screen and the roster after it."""
    event = screened.event
    row = {
        "timeframe": event.timeframe,
        "closes_at": event.closes_at,
        "method": event.method,
        "level": event.level,
        "n_symbols": event.n_symbols,
        "n_tests": event.n_tests,
        "n_accepted": event.n_accepted,
        "excluded": screened.excluded,
        "symbols_by_bars": {str(n): count for n, count in screened.symbols_by_bars.items()},
        "summary": event.summary,
        **lineage,
    }
    await insert_rows(connection, screens, [row])
    await insert_roster(connection, event, lineage)


async def insert_roster(
    connection: AsyncConnection, event: PairsScreened, lineage: Mapping[str, str]
) -> None:
    """Record the roster of an event."""
    rows = [{"closes_at": event.closes_at, **pair.model_dump(), **lineage} for pair in event.pairs]
    await insert_rows(connection, roster, rows)
