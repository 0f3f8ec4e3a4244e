"""Reading recorded bars, for the services that look back on them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_CLOSES = text(
    """
    SELECT symbol, closes_at, close, volume FROM bars
    WHERE venue = :venue AND timeframe = :timeframe
      AND closes_at >= :since AND closes_at < :before AND symbol = ANY(:symbols)
    ORDER BY closes_at
    """
)


async def closes_and_volumes(
    connection: AsyncConnection,
    venue: str,
    timeframe: str,
    symbols: Collection[str],
    since: datetime,
    before: datetime,
) -> dict[str, dict[datetime, tuple[float, float]]]:
    """Return close and volume of every bar of symbols in [since, before), in order of time."""
    rows = await connection.execute(
        _CLOSES,
        {
            "venue": venue,
            "timeframe": timeframe,
            "since": since,
            "before": before,
            "symbols": sorted(symbols),
        },
    )
    found: dict[str, dict[datetime, tuple[float, float]]] = defaultdict(dict)
    for symbol, closes_at, close, volume in rows:
        found[symbol][closes_at] = (close, volume)
    return found
