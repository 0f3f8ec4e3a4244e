"""SQL of features."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.clock import instant_of_ms, timeframe_ms
from shared.database.bars import closes_and_volumes
from shared.database.engine import Insertion
from shared.database.filters import within
from shared.database.tables import bars, feature_sets, features
from shared.events.features import FeaturesComputed
from shared.events.ingest import Bar, BarsClosed
from shared.events.screener import PairsScreened
from shared.sleeves.pairs.features import Pair
from shared.sleeves.pairs.following import JoinedHistory, join_legs

COLUMNS = ("y", "x", "status", "close_y", "close_x", "feature_values")
"""Of the table, for each field of a row in its order."""


async def consumed_rosters(connection: AsyncConnection, most: int) -> list[PairsScreened]:
    """Return the newest rosters this service has consumed, by close."""
    rows = await connection.execute(
        text(
            """
            SELECT payload FROM event_log JOIN consumer_offset
              ON consumer_offset.topic = event_log.topic AND consumer = 'features'
            WHERE event_log.topic = 'pairs.screened' AND event_log.seq <= consumer_offset.seq
            ORDER BY event_log.seq DESC LIMIT :most
            """
        ),
        {"most": most},
    )
    rosters = [PairsScreened.from_bytes(row.payload.encode()) for row in rows]
    return sorted(rosters, key=lambda roster: roster.closes_at)


async def bars_at(
    connection: AsyncConnection, closed: BarsClosed, symbols: Collection[str]
) -> list[Bar]:
    """Return recorded bars of the same close that came in an earlier event."""
    rows = await connection.execute(
        select(bars.c.symbol, bars.c.open, bars.c.high, bars.c.low, bars.c.close, bars.c.volume)
        .where(bars.c.venue == closed.venue)
        .where(bars.c.timeframe == closed.timeframe)
        .where(bars.c.closes_at == closed.closes_at)
        .where(bars.c.symbol.in_(sorted(symbols)))
    )
    return [Bar(**row._mapping) for row in rows]


async def joined_histories(
    connection: AsyncConnection, closed: BarsClosed, pairs: Collection[Pair], n_bars: int
) -> dict[Pair, JoinedHistory]:
    """Return the last joined bars of pairs before a close, as many as exist up to `n_bars`.

    The span is read by time, which is how bars are kept, and doubled until every pair has
    enough bars in it or the record has no older ones.
    """
    first = (
        await connection.execute(
            select(func.min(bars.c.closes_at))
            .where(bars.c.venue == closed.venue)
            .where(bars.c.timeframe == closed.timeframe)
        )
    ).scalar_one_or_none()
    span_bars = n_bars
    while True:
        span_ms = span_bars * timeframe_ms(closed.timeframe)
        since = instant_of_ms(max(0, closed.closes_at_ms - span_ms))
        found = await closes_and_volumes(
            connection,
            closed.venue,
            closed.timeframe,
            {symbol for pair in pairs for symbol in pair},
            since,
            closed.closes_at,
        )
        joined = {pair: join_legs(found[pair[0]], found[pair[1]], n_bars)[1] for pair in pairs}
        shortest = min((len(history.close_y) for history in joined.values()), default=n_bars)
        if shortest >= n_bars or first is None or since <= first:
            return joined
        span_bars *= 2


def feature_rows(computed: FeaturesComputed, lineage: Mapping[str, str]) -> tuple[Insertion, ...]:
    """Return the rows that record the features of a close."""
    if not computed.y:
        return ()
    names = list(computed.feature_names)
    feature_set = hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]
    columns = dict(zip(COLUMNS, computed.columns.values(), strict=True))
    common = {
        "closes_at": computed.closes_at,
        "roster_closes_at": computed.roster_closes_at,
        "feature_set": feature_set,
        **lineage,
    }
    return (
        Insertion(feature_sets, {"feature_set": [feature_set], "names": [names]}),
        Insertion(features, columns, common=common),
    )


async def known_pairs(connection: AsyncConnection) -> list[Pair]:
    """Return every pair that has features, by name.

    It hops through the index from pair to pair, because the table has a row for every close.
    """
    rows = await connection.execute(
        text(
            """
            WITH RECURSIVE known AS (
                (SELECT y, x FROM features ORDER BY y, x LIMIT 1)
                UNION ALL
                SELECT following.y, following.x FROM known, LATERAL (
                    SELECT y, x FROM features WHERE (features.y, features.x) > (known.y, known.x)
                    ORDER BY y, x LIMIT 1
                ) AS following
            )
            SELECT y, x FROM known
            """
        )
    )
    return [(row.y, row.x) for row in rows]


async def find_features(
    connection: AsyncConnection,
    pair: Pair,
    *,
    since: datetime | None,
    until: datetime | None,
    limit: int,
) -> Sequence[Any]:
    """Return the features of a pair with their names, newest first."""
    rows = await connection.execute(
        select(features, feature_sets.c.names)
        .join(feature_sets, feature_sets.c.feature_set == features.c.feature_set)
        .where(features.c.y == pair[0], features.c.x == pair[1])
        .where(*within(features.c.closes_at, since, until))
        .order_by(features.c.closes_at.desc())
        .limit(limit)
    )
    return rows.all()
